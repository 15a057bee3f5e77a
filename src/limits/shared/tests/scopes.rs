//! Several scopes and quotas on the server.

use jiff::Timestamp;
use keymeter_core::{
    glob::Glob,
    limit::{
        Carried, LimitLine, LimitMode, LimitName, ModelLimits, QuotaUse, Reservation, Scope, ScopeLimits, Slot,
        counters::reference::scopes::{
            SubjectOfScopes, any_limits_of_scopes, any_request, check_scopes, date, quota, with_quotas,
        },
    },
};

use super::*;

/// What of a team, an owner and two keys is on a server, as one gateway sees it.
struct OnServer {
    runtime: Arc<Runtime>,
    gateway: Gateway,
    number: u64,
}

impl OnServer {
    fn with<T>(&self, key: usize, then: impl FnOnce(&Scopes<&str>) -> T) -> T {
        let (team, owner) = (format!("team {}", self.number), format!("owner {}", self.number));
        let key = format!("key_{}_{key}", self.number);
        then(&Scopes { team: Some(&*team), owner: Some(&*owner), key: &*key })
    }

    fn ended(&mut self, end: impl FnOnce(), now: Now) {
        self.runtime.clone().block_on(async {
            self.gateway.at(now.moment).await;
            end();
            self.gateway.send_settlements().await;
        });
    }
}

impl SubjectOfScopes for OnServer {
    type Held = Ticket;

    fn reserve(
        &mut self,
        key: usize,
        limits: &Arc<RequestLimits>,
        amounts: Amounts,
        now: Now,
    ) -> Result<Ticket, Refusal> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.gateway.at(now.moment));
        let asked = self.with(key, |names| runtime.block_on(self.gateway.shared.reserve(names, limits, amounts, now)));
        asked.map_err(|declined| refused(Err(declined)))
    }

    fn settle(&mut self, held: Ticket, used: Amounts, now: Now) {
        self.ended(|| held.settle(used, &[], now), now);
    }

    fn drop(&mut self, held: Ticket, now: Now) {
        self.ended(|| drop(held), now);
    }

    fn lines(&mut self, key: usize, limits: &RequestLimits, now: Now) -> Vec<LimitLine> {
        let runtime = self.runtime.clone();
        runtime.block_on(self.gateway.at(now.moment));
        self.with(key, |names| runtime.block_on(self.gateway.shared.fetch_status(names, limits, now))).unwrap().1
    }
}

#[test]
fn any_set_of_scopes_on_the_server_agrees_with_a_plain_list() {
    let (redis, runtime) = (Redis::start(), Arc::new(Runtime::new().unwrap()));
    let numbers = AtomicU64::new(0);
    let config = ProptestConfig::with_cases(u32::try_from(repetitions()).unwrap());
    proptest!(config, |(limits in any_limits_of_scopes(), requests in prop::collection::vec(any_request(), 1..60))| {
        let gateway = runtime.block_on(Gateway::connect(&redis, &Arc::default(), ""));
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let mut counters = OnServer { runtime: runtime.clone(), gateway, number };
        check_scopes(&mut counters, &Arc::new(limits), &requests);
    });
}

fn key_with(quotas: Vec<keymeter_core::limit::Quota>) -> RequestLimits {
    with_quotas(Limits::UNLIMITED, quotas).into()
}

const KEY: Scopes<&str> = Scopes::of_key("key_a");

/// A gateway at `second`, by whose server's clock it is a second later.
async fn gateway_at(redis: &Redis, second: i64) -> Gateway {
    let mut gateway = Gateway::connect(redis, &Arc::default(), "").await;
    gateway.at(date(second).moment).await;
    gateway
}

impl Gateway {
    async fn take(&self, limits: &RequestLimits, tokens: u64) -> Result<Ticket, Declined> {
        let date = Timestamp::UNIX_EPOCH + Duration::from_nanos(self.now.as_nanos());
        self.shared.reserve(&KEY, limits, Amounts::tokens(tokens), Now { moment: self.now, date }).await
    }

    async fn used(&self, limits: &RequestLimits) -> Vec<u64> {
        let date = Timestamp::UNIX_EPOCH + Duration::from_nanos(self.now.as_nanos());
        let (_, lines) = self.shared.fetch_status(&KEY, limits, Now { moment: self.now, date }).await.unwrap();
        lines.iter().map(|line| line.used).collect()
    }
}

const DAY: i64 = 24 * 3600;

#[tokio::test]
async fn a_refusal_of_any_scope_touches_none() {
    let redis = Redis::start();
    let gateway = gateway_at(&redis, 0).await;
    let roomy = || with_quotas(limits(10, 100, 10), vec![quota("tokens_per_day", 1000), quota("tokens_per_1h", 1000)]);
    let tight = [
        with_quotas(limits(10, 100, 10), vec![quota("tokens_per_day", 10), quota("tokens_per_1h", 1000)]),
        with_quotas(limits(10, 100, 10), vec![quota("tokens_per_day", 1000), quota("tokens_per_1h", 10)]),
        with_quotas(limits(10, 10, 10), vec![quota("tokens_per_day", 1000)]),
        with_quotas(limits(1, 100, 10), vec![quota("tokens_per_day", 1000)]),
        with_quotas(limits(10, 100, 1), vec![quota("tokens_per_day", 1000)]),
    ];
    for (number, tight) in tight.into_iter().enumerate() {
        for scope in Scope::ALL {
            let of = |this| if scope == this { tight.clone() } else { roomy() };
            let model = ModelLimits { models: Glob::new("m"), limits: of(Scope::Model) };
            let all = RequestLimits {
                scopes: Scopes { team: Some(of(Scope::Team)), owner: Some(of(Scope::Owner)), key: of(Scope::Key) },
                models: [model].into(),
                mode: LimitMode::Enforce,
            };
            let name = format!("{number}_{}", scope.as_str());
            let names = Scopes { team: Some(&*name), owner: Some(&*name), key: &*name };
            let lines = async || gateway.shared.fetch_status(&names, &all, date(0)).await.unwrap().1;
            let before = lines().await;
            let first = gateway.shared.reserve(&names, &all, Amounts::tokens(6), date(0)).await.unwrap();
            let after = lines().await;
            assert_eq!(after.iter().map(|line| line.used).max(), Some(6));
            let refusal = refused(gateway.shared.reserve(&names, &all, Amounts::tokens(6), date(0)).await);
            assert_eq!(refusal.scope, scope, "{refusal:?}");
            assert_eq!(lines().await, after, "{refusal:?}");
            first.cancel();
            let mut connection = gateway.connection.clone();
            gateway.shared.send_settlements(&mut connection).await.unwrap();
            let used = |lines: &[LimitLine]| lines.iter().map(|line| line.used).collect::<Vec<_>>();
            assert_eq!(used(&lines().await), used(&before));
        }
    }
}

#[tokio::test]
async fn what_would_be_refused_is_told_where_limits_only_count() {
    let redis = Redis::start();
    let gateway = gateway_at(&redis, 0).await;
    let all = with_quotas(limits(0, 0, 1), vec![quota("requests_per_day", 1)]);
    let all = RequestLimits::from(all).observed();
    let first = gateway.take(&all, 1).await.unwrap();
    let second = gateway.take(&all, 1).await.unwrap();
    assert!(first.observed().is_none());
    assert_eq!(second.observed().unwrap().over, LimitKind::Concurrency);
    assert_eq!(gateway.used(&all).await, [2, 2], "and all of them count");
}

#[tokio::test]
async fn what_a_quota_reserved_is_settled() {
    let redis = Redis::start();
    let mut gateway = gateway_at(&redis, 100).await;
    let all = key_with(vec![
        quota("tokens_per_day", 1000),
        quota("tokens_per_1h", 1000),
        quota("requests_per_day", 9),
        quota("usd_per_month", 10_000),
        quota("output_tokens_per_week", 900),
    ]);
    let planned = Amounts { tokens: 100, output_tokens: 80, nano_usd: 300 };
    let less = gateway.shared.reserve(&KEY, &all, planned, date(100)).await.unwrap();
    assert_eq!(gateway.used(&all).await, [100, 100, 1, 300, 80]);
    less.settle(Amounts { tokens: 60, output_tokens: 30, nano_usd: 200 }, &[], date(100));
    gateway.send_settlements().await;
    assert_eq!(gateway.used(&all).await, [60, 60, 1, 200, 30]);

    let more = gateway.shared.reserve(&KEY, &all, planned, date(100)).await.unwrap();
    gateway.at(date(1000).moment).await;
    more.settle(Amounts { tokens: 150, output_tokens: 90, nano_usd: 310 }, &[], date(1000));
    gateway.send_settlements().await;
    assert_eq!(gateway.used(&all).await, [210, 210, 2, 510, 120]);

    gateway.take(&all, 5).await.unwrap().cancel();
    drop(gateway.take(&all, 7).await.unwrap());
    gateway.send_settlements().await;
    assert_eq!(gateway.used(&all).await, [217, 217, 3, 510, 120], "what is dropped stays");

    // What was taken at 100 s has left, and what was used beyond it came at 1000 s.
    gateway.at(date(3600 + 120).moment).await;
    assert_eq!(gateway.used(&all).await, [217, 57, 3, 510, 120]);
    gateway.at(date(DAY).moment).await;
    assert_eq!(gateway.used(&all).await, [0, 0, 0, 510, 120]);
}

#[tokio::test]
async fn who_waits_for_as_long_as_told_is_admitted_and_not_before() {
    let redis = Redis::start();
    for (name, at) in
        [("tokens_per_day", 5000), ("tokens_per_5m", 5000), ("tokens_per_31d", 5000), ("tokens_per_week", 5000)]
    {
        let (all, mut gateway) = (key_with(vec![quota(name, 100)]), gateway_at(&redis, at).await);
        redis.ask(&["FLUSHALL"]);
        for tokens in [30, 30, 40] {
            drop(gateway.take(&all, tokens).await.unwrap());
            gateway.at(gateway.now + Duration::from_secs(20)).await;
        }
        let refusal = refused(gateway.take(&all, 50).await);
        assert_eq!((refusal.limit, refusal.used), (100, 100), "{name}");
        let start = gateway.now;
        gateway.at(start + refusal.retry_after.saturating_sub(Duration::from_micros(1))).await;
        refused(gateway.take(&all, 50).await);
        gateway.at(start + refusal.retry_after).await;
        assert!(gateway.take(&all, 50).await.is_ok(), "{name}: {refusal:?}");
    }
}

#[tokio::test]
async fn what_was_used_elsewhere_counts_until_its_end() {
    let redis = Redis::start();
    let mut gateway = gateway_at(&redis, 100).await;
    let carried = Carried { amount: 60, until: Timestamp::from_second(5000).unwrap() };
    let quota = keymeter_core::limit::Quota { carried: Some(carried), ..quota("tokens_per_day", 100) };
    let all = key_with(vec![quota]);
    drop(gateway.take(&all, 40).await.unwrap());
    let refusal = refused(gateway.take(&all, 10).await);
    assert_eq!((refusal.used, refusal.retry_after), (100, Duration::from_secs(5000 - 101)));
    gateway.at(date(4999).moment).await;
    assert!(gateway.take(&all, 60).await.is_ok(), "by the server's clock it is over");
}

#[tokio::test]
async fn a_span_begins_once_and_is_never_gone_back_from() {
    let redis = Redis::start();
    let mut gateway = gateway_at(&redis, DAY - 100).await;
    let all = key_with(vec![quota("tokens_per_day", 100)]);
    drop(gateway.take(&all, 60).await.unwrap());
    gateway.at(date(DAY + 5).moment).await;
    drop(gateway.take(&all, 70).await.unwrap());
    // A minute back, to the day before.
    gateway.at(date(DAY - 30).moment).await;
    assert_eq!(refused(gateway.take(&all, 60).await).used, 70);
    gateway.at(date(DAY + 6).moment).await;
    assert_eq!(refused(gateway.take(&all, 60).await).used, 70);
}

#[tokio::test]
async fn the_calendar_is_the_servers() {
    let redis = Redis::start();
    let mut gateway = gateway_at(&redis, 40 * DAY).await;
    let all = key_with(vec![quota("tokens_per_day", 100), quota("tokens_per_month", 1000)]);
    // The gateway's clock is days behind, and later days ahead.
    for (round, ours) in [10 * DAY, 40 * DAY - 2, 400 * DAY].into_iter().enumerate() {
        let now = Now { moment: gateway.now, date: date(ours).date };
        drop(gateway.shared.reserve(&KEY, &all, Amounts::tokens(10), now).await.unwrap());
        assert_eq!(gateway.used(&all).await, [10 * (round as u64 + 1); 2]);
    }
    gateway.at(date(41 * DAY).moment).await;
    let now = Now { moment: gateway.now, date: date(401 * DAY).date };
    drop(gateway.shared.reserve(&KEY, &all, Amounts::tokens(10), now).await.unwrap());
    assert_eq!(gateway.used(&all).await, [10, 40]);
}

#[tokio::test]
async fn money_is_exact_however_much() {
    let redis = Redis::start();
    let gateway = gateway_at(&redis, 100).await;
    for (amount, dollars) in [(7_u64, 12_500_000_001_u64), (1_024_000, 9_200_000_000_000_000_000)] {
        let all = key_with(vec![quota("usd_per_month", dollars)]);
        redis.ask(&["FLUSHALL"]);
        let take = async |nano_usd| {
            let amounts = Amounts { nano_usd, ..Amounts::default() };
            gateway.shared.reserve(&KEY, &all, amounts, date(100)).await
        };
        let most = dollars / amount * amount;
        drop(take(most - 2 * amount).await.unwrap());
        drop(take(amount).await.unwrap());
        assert_eq!(gateway.used(&all).await, [most - amount]);
        drop(take(amount).await.unwrap());
        assert_eq!(refused(take(dollars - most + amount).await).used, most);
    }
}

#[tokio::test]
async fn what_ran_in_a_gateway_that_is_gone_counts_nothing() {
    let redis = Redis::start();
    let mut gateways = gateways(&redis, 2, "").await;
    let [gone, other] = &mut gateways[..] else { unreachable!() };
    let all = key_with(vec![quota("tokens_per_day", 100), quota("tokens_per_1h", 100)]);
    gone.take(&all, 30).await.unwrap().settle(Amounts::tokens(20), &[], date(0));
    gone.send_settlements().await;
    std::mem::forget(gone.take(&all, 50).await.unwrap());
    other.at(at(250_000)).await;
    assert_eq!(refused(other.take(&all, 50).await).used, 70, "it may come back");
    other.at(at(310_000)).await;
    drop(other.take(&all, 1).await);
    assert_eq!(other.used(&all).await, [21, 21]);
}

#[tokio::test]
async fn of_a_gateway_that_comes_back_all_is_counted_once() {
    let redis = Redis::start();
    let mut gateways = gateways(&redis, 2, "").await;
    let [cut_off, other] = &mut gateways[..] else { unreachable!() };
    let all = key_with(vec![quota("tokens_per_day", 100), quota("tokens_per_1h", 100)]);
    let [ended, running] = [cut_off.take(&all, 30).await.unwrap(), cut_off.take(&all, 30).await.unwrap()];
    ended.settle(Amounts::tokens(25), &[], date(0));
    other.at(at(310_000)).await;
    drop(other.take(&all, 1).await.unwrap());
    assert_eq!(other.used(&all).await, [1, 1], "it was given up");
    cut_off.at(at(320_000)).await;
    for _ in 0..2 {
        let batches = cut_off.shared.settlements.unsent_batches(100, 100);
        cut_off.send_settlements().await;
        // As if the answer had been lost.
        for batch in batches {
            batch
                .settlements
                .iter()
                .for_each(|settlement| cut_off.shared.settlements.push(&batch.subject, settlement.clone()));
        }
    }
    cut_off.send_settlements().await;
    assert_eq!(other.used(&all).await, [26, 26]);
    running.settle(Amounts::tokens(40), &[], date(320));
    cut_off.send_settlements().await;
    assert_eq!(other.used(&all).await, [66, 66]);
}

#[tokio::test]
async fn a_cancelled_request_takes_nothing_of_quotas_however_late_it_comes() {
    let redis = Redis::start();
    let mut gateway = gateway_at(&redis, 100).await;
    let all = key_with(vec![quota("tokens_per_day", 100), quota("requests_per_1h", 100)]);
    for _ in 0..20 {
        // The question is sent, and its answer never read.
        tokio::select! {
            biased;
            answer = gateway.take(&all, 50) => drop(answer.unwrap()),
            () = tokio::task::yield_now() => {}
        }
        gateway.send_settlements().await;
    }
    assert_eq!(gateway.used(&all).await, [0, 0]);
}

/// What a request came to in the quotas of its key here.
fn uses(name: &str, slot: Slot, amount: u64) -> Vec<QuotaUse> {
    vec![QuotaUse { scope: Scope::Key, models: None, name: name.parse().unwrap(), slot, amount }]
}

#[tokio::test]
async fn what_was_used_without_the_server_is_said_to_it_once() {
    let redis = Redis::start();
    let mut gateway = gateway_at(&redis, 100).await;
    let all = key_with(vec![quota("tokens_per_day", 100), quota("tokens_per_1h", 100)]);
    drop(gateway.take(&all, 5).await.unwrap());
    for (name, slot) in [("tokens_per_day", DAY), ("tokens_per_1h", 1), ("tokens_per_day", DAY)] {
        let ticket = gateway.shared.admit_locally(&KEY, &all);
        ticket.settle(Amounts::tokens(10), &uses(name, slot, 10), date(100));
    }
    for _ in 0..3 {
        let batches = gateway.shared.settlements.unsent_batches(100, 100);
        gateway.send_settlements().await;
        for batch in batches {
            batch
                .settlements
                .iter()
                .for_each(|settlement| gateway.shared.settlements.push(&batch.subject, settlement.clone()));
        }
    }
    gateway.send_settlements().await;
    assert_eq!(gateway.used(&all).await, [25, 15]);
}

#[tokio::test]
async fn without_the_server_a_gateway_has_its_part_of_what_was_left() {
    let redis = Redis::start();
    let mut gateways = gateways(&redis, 2, "").await;
    let [first, other] = &mut gateways[..] else { unreachable!() };
    let all = Arc::new(key_with(vec![quota("tokens_per_day", 1000), quota("tokens_per_1h", 400)]));
    let counters = Scopes::of_key(Arc::<keymeter_core::limit::Counters>::default());
    let here = |limits: &Arc<RequestLimits>, tokens| {
        Reservation::take(counters.clone(), limits, Amounts::tokens(tokens), date(100))
    };
    // Of all 1000, and 400, this gateway used 100 and the other 60.
    drop(other.take(&all, 60).await.unwrap());
    drop((first.take(&all, 100).await.unwrap(), here(&Arc::new(all.observed()), 100).unwrap()));
    for gateway in [&*first, &*other] {
        gateway.shared.health.record_gateways(2, gateway.now);
        gateway.shared.health.mark_unreachable();
    }
    let share = || Arc::new(first.shared.local_share(&KEY, &counters, &all, date(100)).unwrap());
    let refusal = here(&share(), 121).unwrap_err();
    assert_eq!(
        (refusal.over, refusal.limit, refusal.used),
        (LimitKind::Quota("tokens_per_1h".parse().unwrap()), 400, 280)
    );
    drop(here(&share(), 120).unwrap());
    assert!(here(&share(), 1).is_err(), "half of the 240 that were left");
    let unknown = key_with(vec![quota("tokens_per_week", 1000)]);
    let share = Arc::new(first.shared.local_share(&KEY, &counters, &unknown, date(100)).unwrap());
    assert!(here(&share, 501).is_err() && here(&share, 500).is_ok(), "half of the whole");
}

#[tokio::test]
async fn quotas_are_kept_for_as_long_as_they_count() {
    let redis = Redis::start();
    let mut gateway = gateway_at(&redis, 100).await;
    for (name, least) in [("tokens_per_day", DAY - 101), ("tokens_per_5h", 5 * 3600)] {
        let all = key_with(vec![quota(name, 1000)]);
        redis.ask(&["FLUSHALL"]);
        gateway.take(&all, 10).await.unwrap().settle(Amounts::tokens(5), &[], date(100));
        gateway.send_settlements().await;
        let [windows, slots, _, quotas] = Subject::from("key/key_a").data();
        let left = |name: &str| -> i64 { redis.ask(&["PTTL", name]).trim_start_matches(':').parse().unwrap() };
        assert!(left(&windows) <= 70_000 && left(&slots) <= 70_000);
        let kept = left(&quotas) / 1000;
        assert!((least - 1..least + 2 * 3600).contains(&kept), "{name} is kept for {kept} s");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_200_requests_of_50_keys_through_4_gateways_exactly_10_of_their_team_are_admitted() {
    let redis = Redis::start();
    let each = [
        ScopeLimits::from(limits(10, 0, 0)),
        limits(0, 0, 10).into(),
        with_quotas(Limits::UNLIMITED, vec![quota("tokens_per_day", 70), quota("requests_per_5h", 100)]),
        with_quotas(Limits::UNLIMITED, vec![quota("requests_per_5m", 10)]),
    ];
    for (number, team) in each.into_iter().enumerate() {
        let gateways = gateways(&redis, 4, "").await;
        let of_key = with_quotas(limits(100, 10_000, 100), vec![quota("tokens_per_day", 10_000)]);
        let scopes = Scopes { team: Some(team), owner: None, key: of_key };
        let all = Arc::new(RequestLimits { scopes, models: Box::default(), mode: LimitMode::Enforce });
        let mut attempts = tokio::task::JoinSet::new();
        for request in 0..200 {
            let (shared, all) = (gateways[request % 4].shared.clone(), all.clone());
            attempts.spawn(async move {
                let (team, key) = (format!("team_{number}"), format!("key_{number}_{}", request % 50));
                let names = Scopes { team: Some(&*team), owner: None, key: &*key };
                shared.reserve(&names, &all, Amounts::tokens(7), date(0)).await
            });
        }
        let admitted: Vec<_> = attempts.join_all().await.into_iter().filter_map(Result::ok).collect();
        assert_eq!(admitted.len(), 10, "{all:?}");
        let mut counted = 0;
        for key in 0..50 {
            let (team, key) = (format!("team_{number}"), format!("key_{number}_{key}"));
            let names = Scopes { team: Some(&*team), owner: None, key: &*key };
            let (_, lines) = gateways[0].shared.fetch_status(&names, &all, date(0)).await.unwrap();
            let own = lines.iter().filter(|line| line.scope == Scope::Key);
            counted += own.filter(|line| line.name == LimitName::RequestsPerMinute).map(|line| line.used).sum::<u64>();
        }
        assert_eq!(counted, 10, "what is refused takes nothing of its key");
    }
}
