use proptest::prelude::*;

use super::*;

const START: MonotonicTime = MonotonicTime::from_nanos(1);
const CHECKS: CheckRules = CheckRules { down_after: 3, up_after: 2 };
const EJECTION: EjectionRules = EjectionRules { after: 5, lasts: Duration::from_secs(30) };
const RULES: Rules = Rules { checks: Some(CHECKS), ejection: Some(EJECTION) };
const ADA: u64 = 1;
const BOB: u64 = 2;

fn at(seconds: u64) -> MonotonicTime {
    START + Duration::from_secs(seconds)
}

fn new() -> Condition {
    Condition::new(RULES, false)
}

/// Requests of two keys in turn fail; what the last one changes.
fn fail(condition: &mut Condition, times: u64, now: MonotonicTime) -> Option<Change> {
    (0..times)
        .map(|number| condition.request_failed(Cause::Key(number % 2), "no answer", Others::Available, now))
        .last()
        .flatten()
}

/// Ejects at a second, and says for how many.
fn ejected_at(condition: &mut Condition, second: u64) -> u64 {
    let Some(Change::Ejected { until }) = fail(condition, 5, at(second)) else { panic!("not ejected") };
    until.saturating_since(at(second)).as_secs()
}

fn readmit(condition: &mut Condition, second: u64) {
    let probe = condition.begin_probe(at(second)).unwrap();
    assert_eq!(condition.probe_succeeded(probe, at(second)), Some(Change::Readmitted));
}

#[test]
fn failed_checks_in_a_row_take_it_down_and_passed_ones_bring_it_up() {
    let mut condition = new();
    assert_eq!((condition.availability(START), condition.reason(START)), (Availability::Up, None));
    assert_eq!([condition.check_failed("a"), condition.check_failed("b")], [None, None]);
    assert_eq!(condition.check_passed(START), None);
    assert_eq!([condition.check_failed("a"), condition.check_failed("b")], [None, None], "counted anew");
    assert_eq!(condition.check_failed("connection refused"), Some(Change::WentDown));
    assert_eq!(condition.availability(START), Availability::Down);
    assert_eq!(condition.reason(START), Some("connection refused"));
    assert_eq!([condition.check_passed(START), condition.check_failed("c")], [None, None]);
    assert_eq!(condition.reason(START), Some("c"));
    assert_eq!([condition.check_passed(START), condition.check_passed(START)], [None, Some(Change::CameUp)]);
    assert_eq!((condition.availability(START), condition.reason(START)), (Availability::Up, None));
}

#[test]
fn without_checks_it_is_never_down_nor_waits_for_its_models() {
    let mut condition = Condition::new(Rules::default(), true);
    assert_eq!(condition.availability(START), Availability::Up);
    for _ in 0..10 {
        assert_eq!([condition.check_failed("a"), condition.check_found_it_loading("b")], [None, None]);
    }
    assert_eq!(fail(&mut condition, 100, START), None);
    assert_eq!(condition.availability(START), Availability::Up);
}

#[test]
fn one_that_must_load_shows_its_models_in_one_check() {
    let mut condition = Condition::new(RULES, true);
    assert_eq!(condition.availability(START), Availability::Loading);
    assert_eq!(condition.reason(START), Some("it has not listed its models yet"));
    assert_eq!(condition.check_found_it_loading("it lists no model"), None);
    assert_eq!(condition.reason(START), Some("it lists no model"));
    assert_eq!(condition.check_passed(START), Some(Change::CameUp));
    assert_eq!(condition.availability(START), Availability::Up);
}

#[test]
fn one_that_loads_and_does_not_answer_is_down() {
    let mut condition = Condition::new(RULES, true);
    assert_eq!([condition.check_failed("a"), condition.check_failed("a")], [None, None]);
    assert_eq!(condition.check_found_it_loading("it lists no model"), None, "which is an answer");
    assert_eq!([condition.check_failed("a"), condition.check_failed("a")], [None, None]);
    assert_eq!(condition.check_failed("a"), Some(Change::WentDown));
    assert_eq!(condition.check_found_it_loading("it lists no model"), Some(Change::IsLoading));
    assert_eq!(condition.availability(START), Availability::Loading);
}

#[test]
fn one_that_lost_its_models_gets_nothing_after_several_checks() {
    let mut condition = new();
    assert_eq!([condition.check_found_it_loading("a"), condition.check_failed("a")], [None, None]);
    assert_eq!(condition.check_found_it_loading("a"), Some(Change::IsLoading));
    assert_eq!(condition.check_passed(START), Some(Change::CameUp));
}

#[test]
fn five_failures_in_a_row_of_two_keys_eject_it() {
    let mut condition = new();
    assert_eq!(fail(&mut condition, 4, START), None);
    condition.request_succeeded(START);
    assert_eq!(fail(&mut condition, 4, START), None, "counted anew");
    assert_eq!(fail(&mut condition, 1, START), Some(Change::Ejected { until: at(30) }));
    assert_eq!(condition.availability(START), Availability::Ejected { until: at(30) });
    assert_eq!(condition.reason(START), Some("5 requests in a row failed, the last: no answer"));
    assert_eq!(fail(&mut condition, 100, at(1)), None, "those that ran already");
    assert_eq!(condition.availability(at(1)), Availability::Ejected { until: at(30) });
    condition.request_succeeded(at(1));
    assert_eq!(condition.availability(at(29)), Availability::Ejected { until: at(30) });
    assert_eq!(condition.availability(at(30)), Availability::Probe);
}

#[test]
fn one_key_alone_ejects_nothing() {
    let mut condition = new();
    let mut failed = |key| condition.request_failed(Cause::Key(key), "no answer", Others::Available, START);
    assert!((0..1000).all(|_| failed(ADA).is_none()));
    assert!(failed(BOB).is_some());
}

#[test]
fn whoever_asks_a_replica_that_is_gone_makes_it_known() {
    let mut condition = new();
    let failed =
        |condition: &mut Condition, cause| condition.request_failed(cause, "no answer", Others::Available, START);
    assert!((0..4).all(|_| failed(&mut condition, Cause::Replica).is_none()));
    assert_eq!(failed(&mut condition, Cause::Replica), Some(Change::Ejected { until: at(30) }));
    let mut condition = new();
    assert!((0..1000).all(|_| failed(&mut condition, Cause::Key(ADA)).is_none()));
    assert!(failed(&mut condition, Cause::Replica).is_some());
}

#[test]
fn the_last_one_is_neither_ejected_nor_paused() {
    let mut condition = new();
    assert!((0..100).all(|key| condition.request_failed(Cause::Key(key), "no answer", Others::None, START).is_none()));
    assert_eq!(condition.pause(Duration::from_secs(9), "429", Others::None, START), None);
    assert_eq!(condition.availability(START), Availability::Up);
    assert!(fail(&mut condition, 1, START).is_some(), "but it is as soon as there is another");
    let probe = condition.begin_probe(at(30)).unwrap();
    assert_eq!(condition.probe_failed(probe, "no answer", Others::None, at(30)), None);
    assert_eq!(condition.availability(at(30)), Availability::Up, "nor kept out");
    assert_eq!(fail(&mut condition, 1, at(31)), Some(Change::Ejected { until: at(91) }));
}

#[test]
fn one_request_decides_after_an_ejection() {
    let mut condition = new();
    ejected_at(&mut condition, 0);
    assert!(condition.begin_probe(at(29)).is_none());
    let probe = condition.begin_probe(at(30)).unwrap();
    assert!(condition.begin_probe(at(30)).is_none(), "there is one");
    assert_eq!((condition.availability(at(99)), Availability::Probing.name()), (Availability::Probing, "ejected"));
    condition.probe_unused(probe);
    assert_eq!(condition.availability(at(99)), Availability::Probe, "nobody knows");
    let probe = condition.begin_probe(at(99)).unwrap();
    let again = condition.probe_failed(probe, "no answer", Others::Available, at(100));
    assert_eq!(again, Some(Change::Ejected { until: at(160) }));
    readmit(&mut condition, 160);
    assert_eq!(condition.availability(at(160)), Availability::Up);
    assert_eq!(fail(&mut condition, 4, at(161)), None, "counted anew");
}

#[test]
fn each_further_ejection_lasts_twice_as_long_up_to_ten_times() {
    let mut condition = new();
    let lengths: Vec<u64> = (0..7)
        .map(|round| {
            let lasts = ejected_at(&mut condition, 1000 * round);
            readmit(&mut condition, 1000 * round + 999);
            lasts
        })
        .collect();
    assert_eq!(lengths, [30, 60, 120, 240, 300, 300, 300]);
    condition.request_succeeded(at(6999 + 299));
    assert_eq!(ejected_at(&mut condition, 7300), 300);
    readmit(&mut condition, 8000);
    condition.request_succeeded(at(8300));
    assert_eq!(ejected_at(&mut condition, 8301), 30, "well for as long as the last one lasted");
}

#[test]
fn checks_that_come_up_again_end_an_ejection() {
    let mut condition = new();
    ejected_at(&mut condition, 0);
    assert_eq!(condition.check_passed(at(1)), None);
    assert_eq!(condition.availability(at(1)).name(), "ejected", "it was never down");
    while condition.check_failed("refused").is_none() {}
    assert_eq!((condition.availability(at(2)), condition.reason(at(2))), (Availability::Down, Some("refused")));
    assert!(condition.begin_probe(at(40)).is_none());
    assert_eq!([condition.check_passed(at(3)), condition.check_passed(at(4))], [None, Some(Change::CameUp)]);
    assert_eq!(condition.availability(at(4)), Availability::Up);
}

#[test]
fn a_probe_of_the_past_decides_nothing() {
    let mut condition = new();
    ejected_at(&mut condition, 0);
    let old = condition.begin_probe(at(30)).unwrap();
    condition.set_rules(Rules { ejection: None, ..RULES });
    condition.set_rules(RULES);
    ejected_at(&mut condition, 40);
    assert_eq!(condition.availability(at(50)), Availability::Ejected { until: at(70) });
    let new = condition.begin_probe(at(70)).unwrap();
    assert_eq!(condition.probe_failed(old, "no answer", Others::Available, at(70)), None);
    assert_eq!(condition.availability(at(70)), Availability::Probing);
    assert_eq!(condition.probe_succeeded(new, at(71)), Some(Change::Readmitted));
}

#[test]
fn of_several_pauses_the_one_that_ends_last_holds() {
    let mut condition = new();
    let mut pause = |seconds, why| condition.pause(Duration::from_secs(seconds), why, Others::Available, START);
    assert_eq!(pause(0, "429"), None);
    assert_eq!(pause(5, "429"), Some(Change::Paused { until: at(5) }));
    assert_eq!([pause(9, "503"), pause(1, "502")], [None, None]);
    assert_eq!(
        (condition.availability(at(8)), condition.reason(at(8))),
        (Availability::Paused { until: at(9) }, Some("503"))
    );
    assert_eq!((condition.availability(at(9)), condition.reason(at(9))), (Availability::Up, None));
    condition.pause(Duration::MAX, "503", Others::Available, at(10));
    assert_eq!(condition.availability(at(10)).until(), Some(at(70)));
}

#[test]
fn a_pause_holds_back_the_probe_too() {
    let mut condition = new();
    ejected_at(&mut condition, 0);
    condition.pause(Duration::from_secs(50), "429", Others::Available, START);
    assert_eq!(condition.availability(at(29)).name(), "ejected");
    assert_eq!(condition.availability(at(30)), Availability::Paused { until: at(50) });
    assert!(condition.begin_probe(at(30)).is_none());
    assert!(condition.begin_probe(at(50)).is_some());
}

#[test]
fn the_operators_word_holds_before_all() {
    let mut condition = new();
    condition.set_drained(true);
    ejected_at(&mut condition, 0);
    assert_eq!((condition.availability(START), condition.reason(START)), (Availability::Draining, None));
    assert!(condition.is_drained() && condition.begin_probe(at(30)).is_none());
    condition.set_drained(false);
    assert_eq!(condition.availability(at(30)), Availability::Probe);
}

#[test]
fn no_rule_leaves_nothing_behind() {
    let mut condition = new();
    ejected_at(&mut condition, 0);
    while condition.check_failed("refused").is_none() {}
    condition.set_rules(RULES);
    assert_eq!(condition.availability(START), Availability::Down);
    condition.set_rules(Rules { checks: None, ..RULES });
    assert_eq!(condition.availability(START).name(), "ejected");
    condition.set_rules(Rules::default());
    assert_eq!(condition.availability(START), Availability::Up);
}

#[test]
fn reasons_are_short() {
    let mut condition = Condition::new(RULES, true);
    condition.check_failed(&"ü".repeat(1000));
    assert_eq!(condition.reason(START).unwrap(), "ü".repeat(200));
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Passed,
    Failed,
    FoundLoading,
    RequestSucceeded,
    RequestFailed(Cause),
    BeginProbe,
    ProbeSucceeded,
    ProbeFailed,
    ProbeUnused,
    Pause(u64),
    Drain(bool),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Passed),
        4 => Just(Event::Failed),
        1 => Just(Event::FoundLoading),
        1 => Just(Event::RequestSucceeded),
        16 => (0_u64..3).prop_map(|key| Event::RequestFailed(Cause::Key(key))),
        2 => Just(Event::RequestFailed(Cause::Replica)),
        4 => Just(Event::BeginProbe),
        1 => Just(Event::ProbeSucceeded),
        2 => Just(Event::ProbeFailed),
        1 => Just(Event::ProbeUnused),
        1 => (0_u64..100).prop_map(Event::Pause),
        1 => any::<bool>().prop_map(Event::Drain),
    ]
}

/// What changes, by an event at `now`; the probes under way are in `probes`, and those that are old too.
fn tell(
    condition: &mut Condition,
    event: Event,
    probes: &mut Vec<Probe>,
    others: Others,
    now: MonotonicTime,
) -> Option<Change> {
    match event {
        Event::Passed => condition.check_passed(now),
        Event::Failed => condition.check_failed("refused"),
        Event::FoundLoading => condition.check_found_it_loading("no model"),
        Event::RequestSucceeded => {
            condition.request_succeeded(now);
            None
        }
        Event::RequestFailed(cause) => condition.request_failed(cause, "no answer", others, now),
        Event::BeginProbe => {
            probes.extend(condition.begin_probe(now));
            None
        }
        Event::ProbeSucceeded => probes.pop().and_then(|probe| condition.probe_succeeded(probe, now)),
        Event::ProbeFailed => probes.pop().and_then(|probe| condition.probe_failed(probe, "no answer", others, now)),
        Event::ProbeUnused => {
            probes.drain(..).for_each(|probe| condition.probe_unused(probe));
            None
        }
        Event::Pause(seconds) => condition.pause(Duration::from_secs(seconds), "429", others, now),
        Event::Drain(is_drained) => {
            condition.set_drained(is_drained);
            None
        }
    }
}

proptest! {
    #[test]
    fn nothing_leaves_it_stuck(
        must_load in any::<bool>(),
        events in prop::collection::vec((any_event(), 0_u64..40, prop::bool::weighted(0.8)), 0..120),
    ) {
        let (mut condition, mut probes, mut second) = (Condition::new(RULES, must_load), Vec::new(), 0);
        for (event, later, is_other) in events {
            second += later;
            let others = if is_other { Others::Available } else { Others::None };
            let before = condition.availability(at(second));
            let change = tell(&mut condition, event, &mut probes, others, at(second));
            let after = condition.availability(at(second));
            if let Some(Change::Ejected { until } | Change::Paused { until }) = change {
                prop_assert!(is_other, "the last one is left in");
                prop_assert!(until <= at(second + 300) && until >= at(second));
            }
            if matches!((before, after), (Availability::Probing, Availability::Probing)) {
                prop_assert!(!probes.is_empty(), "somebody decides");
            }
        }
        tell(&mut condition, Event::ProbeUnused, &mut probes, Others::Available, at(second));
        second += 301;
        (0..2).for_each(|_| _ = condition.check_passed(at(second)));
        if condition.availability(at(second)) == Availability::Probe {
            readmit(&mut condition, second);
        }
        let expected = if condition.is_drained() { Availability::Draining } else { Availability::Up };
        prop_assert_eq!(condition.availability(at(second)), expected);
        prop_assert_eq!(condition.reason(at(second)), None);
    }

    #[test]
    fn one_key_and_its_pauses_never_eject(events in prop::collection::vec((any_event(), 0_u64..40), 0..120)) {
        let (mut condition, mut probes, mut second) = (new(), Vec::new(), 0);
        for (event, later) in events {
            second += later;
            let event = if let Event::RequestFailed(_) = event { Event::RequestFailed(Cause::Key(ADA)) } else { event };
            tell(&mut condition, event, &mut probes, Others::Available, at(second));
            prop_assert_ne!(condition.availability(at(second)).name(), "ejected");
        }
    }
}
