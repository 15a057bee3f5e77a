//! Quotas against the calendar, and their counters against a plain list.

use jiff::civil::date;
use proptest::prelude::*;

use super::*;

fn zone(name: &str) -> Zone {
    name.parse().unwrap()
}

fn of(name: &str, zone: Zone) -> Quota {
    Quota { name: name.parse().unwrap(), amount: 1000.try_into().unwrap(), zone, carried: None }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn names_are_read_back_as_they_are_written() {
    for name in [
        "tokens_per_day",
        "output_tokens_per_week",
        "usd_per_month",
        "requests_per_5h",
        "usd_per_90m",
        "tokens_per_31d",
        "tokens_per_61s",
    ] {
        assert_eq!(name.parse::<QuotaName>().unwrap().to_string(), name);
    }
    for wrong in [
        "tokens_per_fortnight",
        "tokens_per_59s",
        "tokens_per_32d",
        "tokens_per_5",
        "tokens_per_h",
        "coins_per_day",
        "tokens",
    ] {
        assert!(wrong.parse::<QuotaName>().is_err(), "{wrong}");
    }
    assert_eq!("60m".parse::<QuotaSpan>().unwrap().to_string(), "1h");
}

#[test]
fn amounts_are_whole_or_money() {
    assert_eq!(QuotaUnit::Usd.amount("12.50").unwrap().get(), 12_500_000_000);
    assert_eq!(QuotaUnit::Tokens.amount("5_000_000").unwrap().get(), 5_000_000);
    assert_eq!(QuotaUnit::Tokens.amount("0"), Err(QuotaError::Zero));
    for (unit, wrong) in
        [(QuotaUnit::Usd, "-1"), (QuotaUnit::Usd, "$1"), (QuotaUnit::Requests, "1.5"), (QuotaUnit::Tokens, "_1")]
    {
        assert_eq!(unit.amount(wrong), Err(QuotaError::Amount), "{wrong}");
    }
    assert_eq!(QuotaUnit::Usd.written(12_500_000_000), "12.5");
}

#[test]
fn a_scope_has_one_quota_of_a_name() {
    let day = || of("tokens_per_day", Zone::UTC);
    assert_eq!(Quotas::new(vec![day(), day()]), Err(QuotaError::Twice(day().name)));
    let hours = (1..=17).map(|hours| of(&format!("tokens_per_{hours}h"), Zone::UTC)).collect();
    assert_eq!(Quotas::new(hours), Err(QuotaError::TooMany));
    assert!(Quotas::new(Vec::new()).unwrap().is_empty());
}

#[test]
fn a_zone_is_one_of_the_database() {
    assert_eq!((zone("Europe/Berlin").name(), Zone::default().name()), ("Europe/Berlin", "UTC"));
    assert_eq!(zone("UTC"), Zone::UTC);
    for none in ["Europe/Atlantis", "Etc/Unknown", "", "../etc/passwd"] {
        assert_eq!(none.parse::<Zone>(), Err(QuotaError::Zone), "{none}");
    }
}

#[test]
fn a_quota_is_written_on_one_line() {
    let quota: Quota = "usd=12.50/month@Europe/Berlin".parse().unwrap();
    assert_eq!((quota.name.to_string().as_str(), quota.amount.get()), ("usd_per_month", 12_500_000_000));
    assert_eq!((quota.zone.name(), quota.carried), ("Europe/Berlin", None));
    for (line, plain) in [
        ("usd=12.50/month@Europe/Berlin", "usd=12.5/month@Europe/Berlin"),
        ("tokens=50_000_000/day", "tokens=50000000/day"),
        ("requests=1000/300m", "requests=1000/5h"),
        ("output_tokens=1/week@UTC", "output_tokens=1/week"),
        (
            "usd=100/month@Europe/Berlin,carried=12.50,until=2027-01-01",
            "usd=100/month@Europe/Berlin,carried=12.5,until=2027-01-01T00:00:00Z",
        ),
        (
            "requests=9/5h, until=2027-01-01T01:00:00.5+01:00, carried=0",
            "requests=9/5h,carried=0,until=2027-01-01T00:00:00.5Z",
        ),
    ] {
        assert_eq!(line.parse::<Quota>().unwrap().to_string(), plain);
    }
    for (wrong, why) in [
        ("", QuotaError::Form),
        ("tokens", QuotaError::Form),
        ("tokens=5", QuotaError::Form),
        ("tokens_per_day=5", QuotaError::Form),
        ("coins=5/day", QuotaError::Unit),
        ("tokens=/day", QuotaError::Amount),
        ("tokens=1.5/day", QuotaError::Amount),
        ("tokens=0/day", QuotaError::Zero),
        ("usd=0.00/day", QuotaError::Zero),
        ("tokens=5/", QuotaError::Span),
        ("tokens=5/fortnight", QuotaError::Span),
        ("tokens=5/day@", QuotaError::Zone),
        ("tokens=5/day@Europe/Atlantis", QuotaError::Zone),
        ("tokens=5/5h@UTC", QuotaError::ZoneOfLength),
        ("tokens=5/day,", QuotaError::Form),
        ("tokens=5/day,5", QuotaError::Form),
        ("tokens=5/day,used=5,until=2027-01-01", QuotaError::Form),
        ("tokens=5/day,carried=1,carried=2", QuotaError::Form),
        ("tokens=5/day,carried=1,until=2027-01-01,until=2027-01-01", QuotaError::Form),
        ("tokens=5/day,carried=1", QuotaError::NoUntil),
        ("tokens=5/day,until=2027-01-01", QuotaError::NoCarried),
        ("tokens=5/day,carried=1.5,until=2027-01-01", QuotaError::Carried),
        ("usd=5/day,carried=-1,until=2027-01-01", QuotaError::Carried),
        ("usd=5/day,carried=,until=2027-01-01", QuotaError::Carried),
        ("tokens=5/day,carried=1,until=tomorrow", QuotaError::Until),
        ("tokens=5/day,carried=1,until=2027-01-01T00:00:00", QuotaError::Until),
    ] {
        assert_eq!(wrong.parse::<Quota>(), Err(why), "{wrong}");
    }
}

#[test]
fn spans_end_at_local_midnight() {
    let ends = |name: &str, place: &str, now: &str| {
        let quota = of(name, zone(place));
        quota.name.span.calendar_end(at(now), &quota.zone).unwrap()
    };
    assert_eq!(ends("usd_per_day", "UTC", "2026-11-30T20:00:00Z"), at("2026-12-01T00:00:00Z"));
    assert_eq!(ends("usd_per_day", "UTC", "2026-12-01T00:00:00Z"), at("2026-12-02T00:00:00Z"));
    assert_eq!(ends("usd_per_week", "UTC", "2026-11-30T20:00:00Z"), at("2026-12-07T00:00:00Z"), "a Monday's week");
    assert_eq!(ends("usd_per_week", "UTC", "2026-11-29T20:00:00Z"), at("2026-11-30T00:00:00Z"));
    assert_eq!(ends("usd_per_month", "Europe/Berlin", "2026-03-10T00:00:00Z"), at("2026-03-31T22:00:00Z"));
    assert_eq!(ends("usd_per_month", "Europe/Berlin", "2026-10-10T00:00:00Z"), at("2026-10-31T23:00:00Z"));
    assert_eq!(ends("usd_per_month", "UTC", "2028-02-10T00:00:00Z"), at("2028-03-01T00:00:00Z"), "a leap year's");
    // Days of 23 and of 25 hours.
    assert_eq!(ends("usd_per_day", "Europe/Berlin", "2026-03-28T23:00:00Z"), at("2026-03-29T22:00:00Z"));
    assert_eq!(ends("usd_per_day", "Europe/Berlin", "2026-10-24T22:00:00Z"), at("2026-10-25T23:00:00Z"));
    // A midnight that is left out, and one that comes twice.
    assert_eq!(ends("usd_per_day", "America/Sao_Paulo", "2018-11-03T12:00:00Z"), at("2018-11-04T03:00:00Z"));
    assert_eq!(ends("usd_per_day", "America/Sao_Paulo", "2018-02-17T12:00:00Z"), at("2018-02-18T03:00:00Z"));
    assert_eq!(ends("usd_per_day", "America/Sao_Paulo", "2018-02-18T02:30:00Z"), at("2018-02-18T03:00:00Z"));
    for span in ["usd_per_day", "usd_per_month"] {
        let end = at("2026-11-01T05:00:00Z");
        assert_eq!(ends(span, "America/Havana", "2026-11-01T03:30:00Z"), end);
        assert_eq!(ends(span, "America/Havana", "2026-11-01T04:30:00Z"), end, "it is 00:30, and will be once more");
    }
    assert_eq!(ends("usd_per_week", "America/Havana", "2026-11-01T04:30:00Z"), at("2026-11-02T05:00:00Z"));
}

#[test]
fn a_span_that_is_over_is_never_gone_back_to() {
    let quota = of("tokens_per_day", Zone::UTC);
    let mut counter = QuotaCounter::new(quota.name);
    let mut step = |now: &str, amount| {
        counter.roll(&quota, at(now));
        counter.add(at(now), amount);
        counter.used(&quota, at(now))
    };
    assert_eq!(step("2026-11-30T23:59:59Z", 5), 5);
    assert_eq!(step("2026-12-01T00:00:00Z", 1), 1);
    assert_eq!(step("2026-11-30T23:59:58Z", 1), 2, "a clock is set back by seconds");
    assert_eq!(step("2026-12-01T00:00:00Z", 1), 3, "and the day does not begin again");
    assert_eq!(step("2026-12-02T00:00:00Z", 1), 1);
    assert_eq!(step("2027-06-01T00:00:00Z", 1), 1, "a clock that is far ahead");
    assert_eq!(step("2026-12-02T01:00:00Z", 1), 2, "and is set right again");
    assert_eq!(step("2026-12-03T00:00:00Z", 1), 1, "holds no later day up");
}

#[test]
fn another_zone_begins_no_span_anew() {
    let (utc, berlin) = (of("tokens_per_day", Zone::UTC), of("tokens_per_day", zone("Europe/Berlin")));
    let mut counter = QuotaCounter::new(utc.name);
    counter.roll(&utc, at("2026-11-30T12:00:00Z"));
    counter.add(at("2026-11-30T12:00:00Z"), 7);
    counter.roll(&berlin, at("2026-11-30T23:30:00Z"));
    assert_eq!(counter.used(&berlin, at("2026-11-30T23:30:00Z")), 7, "the span that has begun ends first");
    counter.roll(&berlin, at("2026-12-01T00:00:00Z"));
    assert_eq!(counter.used(&berlin, at("2026-12-01T00:00:00Z")), 0);
    assert_eq!(counter.counted().next(), None);
}

#[test]
fn what_was_used_elsewhere_counts_until_its_end() {
    let carried = Carried { amount: 400, until: at("2026-11-30T15:00:00Z") };
    let quota = Quota { carried: Some(carried), ..of("tokens_per_day", Zone::UTC) };
    let mut counter = QuotaCounter::new(quota.name);
    let noon = at("2026-11-30T12:00:00Z");
    counter.roll(&quota, noon);
    counter.add(noon, 600);
    assert_eq!(counter.used(&quota, noon), 1000);
    assert_eq!(counter.wait_for(400, &quota, noon), Duration::from_hours(3));
    assert_eq!(counter.wait_for(401, &quota, noon), Duration::from_hours(12));
    assert_eq!(counter.used(&quota, carried.until), 600);
}

#[test]
fn a_sliding_counter_takes_at_most_600_bytes() {
    let quota = of("tokens_per_5h", Zone::UTC);
    let mut counter = QuotaCounter::new(quota.name);
    for minute in 0..2000 {
        let now = Timestamp::from_second(minute * 60).unwrap();
        counter.roll(&quota, now);
        counter.add(now, 1);
        assert!(size_of::<QuotaCounter>() + counter.kept_bytes() <= 600, "{}", counter.kept_bytes());
    }
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "America/Havana",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Africa/Cairo",
];

fn any_quota() -> impl Strategy<Value = Quota> {
    let span = prop_oneof![
        Just("day".to_owned()),
        Just("week".to_owned()),
        Just("month".to_owned()),
        (60_u32..2_678_400).prop_map(|seconds| format!("{seconds}s")),
    ];
    (span, prop::sample::select(&ZONES[..])).prop_map(|(span, place)| of(&format!("tokens_per_{span}"), zone(place)))
}

/// What happens to a quota.
#[derive(Clone, Debug)]
enum Step {
    Add(u64),
    GiveBack(prop::sample::Index),
    Wait(i64),
    /// The clock is set back by some seconds.
    Back(i64),
    /// Another process goes on from what was kept.
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..100).prop_map(Step::Add),
        1 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
        2 => (0_i64..100).prop_map(Step::Wait),
        2 => (0_i64..100_000).prop_map(Step::Wait),
        1 => (0_i64..3_000_000).prop_map(Step::Wait),
        1 => (0_i64..20).prop_map(Step::Back),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn every_moment_is_in_one_span_that_ends_at_a_midnight(
        second in 0_i64..4_000_000_000, place in prop::sample::select(&ZONES[..]), unit in prop::sample::select(&["day", "week", "month"][..]),
    ) {
        let (now, zone, span) = (Timestamp::from_second(second).unwrap(), zone(place), unit.parse::<QuotaSpan>().unwrap());
        let end = span.calendar_end(now, &zone).unwrap();
        prop_assert!(end > now);
        let last = Timestamp::from_second(end.as_second() - 1).unwrap();
        prop_assert_eq!(span.calendar_end(last, &zone).unwrap(), end, "its last second is in it");
        let next = span.calendar_end(end, &zone).unwrap();
        prop_assert!(next > end);
        let local = end.to_zoned(zone.0.clone());
        prop_assert!(local.hour() == 0 || local.hour() == 1 && local.date() > date(1970, 1, 1), "{local}");
        match span {
            QuotaSpan::Week => prop_assert_eq!(local.weekday(), jiff::civil::Weekday::Monday),
            QuotaSpan::Month => prop_assert_eq!(local.day(), 1),
            _ => {}
        }
    }

    /// Over any steps of time, restarts among them, what is used is what a list says.
    #[test]
    fn a_counter_agrees_with_a_plain_list(quota in any_quota(), steps in prop::collection::vec(any_step(), 1..80)) {
        let mut counter = QuotaCounter::new(quota.name);
        let (mut now, mut latest) = (1_790_000_000_i64, 1_790_000_000_i64);
        let mut list: Vec<(i64, Slot, u64)> = Vec::new();
        let mut anew = Vec::new();
        for step in steps {
            match step {
                Step::Wait(seconds) => now += seconds,
                // Not by so much that a clock was far ahead.
                Step::Back(seconds) => now = now.max(latest - 10) - seconds.min(10),
                _ => {}
            }
            latest = latest.max(now);
            let date = Timestamp::from_second(now).unwrap();
            counter.roll(&quota, date);
            match step {
                Step::Add(amount) => list.push((latest, counter.add(date, amount), amount)),
                Step::GiveBack(which) if !list.is_empty() => {
                    let (_, slot, amount) = list.swap_remove(which.index(list.len()));
                    counter.give_back(slot, amount);
                }
                Step::Restart => {
                    let mut restored = QuotaCounter::new(quota.name);
                    let mut kept: Vec<_> = counter.counted().collect();
                    kept.reverse();
                    for (slot, amount) in kept {
                        restored.restore(slot, amount);
                    }
                    restored.roll(&quota, date);
                    prop_assert_eq!(restored.used(&quota, date), counter.used(&quota, date));
                    counter = restored;
                    counter.roll(&quota, date);
                }
                _ => {}
            }
            let used = counter.used(&quota, date);
            let since = |from: i64| list.iter().filter(|(at, ..)| *at > from).map(|(.., amount)| amount).sum::<u64>();
            match quota.name.span {
                QuotaSpan::Length(length) => {
                    let length = i64::from(length.seconds());
                    let (least, most) = (since(latest - length), since(latest - length - length / 60 - 12));
                    prop_assert!((least..=most).contains(&used), "{least} <= {used} <= {most}");
                }
                span => {
                    let end = span.calendar_end(Timestamp::from_second(latest).unwrap(), &quota.zone).unwrap().as_second();
                    let expected: u64 = list.iter().filter(|(_, slot, _)| *slot == end).map(|(.., amount)| amount).sum();
                    prop_assert_eq!(used, expected);
                    if anew.last() != Some(&end) {
                        prop_assert!(!anew.contains(&end), "a span began twice");
                        anew.push(end);
                    }
                }
            }
        }
    }

    /// What is told is exactly enough: a microsecond earlier is too early.
    #[test]
    fn waiting_what_is_told_is_enough(
        quota in any_quota(), adds in prop::collection::vec((0_i64..100_000, 1_u64..500), 1..30), amount in 1_u64..=1000,
    ) {
        let mut counter = QuotaCounter::new(quota.name);
        let mut now = 1_790_000_000_i64;
        for (after, amount) in adds {
            now += after;
            let date = Timestamp::from_second(now).unwrap();
            counter.roll(&quota, date);
            counter.add(date, amount);
        }
        let date = Timestamp::from_second(now).unwrap();
        let excess = (counter.used(&quota, date) + amount).saturating_sub(1000);
        if excess == 0 {
            return Ok(());
        }
        let wait = counter.wait_for(excess, &quota, date);
        prop_assert!(wait <= counter.reset(&quota, date));
        let fits_at = |wait: Duration| {
            let (mut counter, then) = (counter.clone(), date + wait);
            counter.roll(&quota, then);
            counter.used(&quota, then) + amount <= 1000
        };
        prop_assert!(fits_at(wait));
        prop_assert!(!fits_at(wait.saturating_sub(Duration::from_micros(1))));
    }

    #[test]
    fn a_line_reads_back_as_it_is_written(
        unit in prop::sample::select(&QuotaUnit::ALL[..]),
        span in prop_oneof![
            prop::sample::select(vec![QuotaSpan::Day, QuotaSpan::Week, QuotaSpan::Month]),
            (60..=31 * DAY).prop_map(|seconds| QuotaSpan::Length(SlidingLength(seconds))),
        ],
        amount in 1..=i64::MAX.unsigned_abs(),
        place in prop::sample::select(&ZONES[..]),
        carried in prop::option::of((0..=i64::MAX.unsigned_abs(), -60_000_000_000..=250_000_000_000_i64, 0..1_000_000_000)),
    ) {
        let zone = (!matches!(span, QuotaSpan::Length(_))).then(|| zone(place));
        let quota = Quota::new(QuotaName { unit, span }, amount.try_into().unwrap(), zone).unwrap();
        let carried = carried.map(|(amount, second, nanosecond)| {
            Carried { amount, until: Timestamp::new(second, nanosecond).unwrap() }
        });
        let quota = Quota { carried, ..quota };
        prop_assert_eq!(quota.to_string().parse(), Ok(quota));
    }

    #[test]
    fn any_text_is_a_quota_or_none(text in "\\PC{0,20}", number in "[0-9_.-]{0,25}") {
        let _ = (text.parse::<QuotaName>(), text.parse::<QuotaSpan>(), text.parse::<Zone>(), text.parse::<Quota>());
        for unit in QuotaUnit::ALL {
            let _ = (unit.amount(&text), unit.amount(&number));
        }
    }
}
