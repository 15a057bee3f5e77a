//! The scripts against a real server: in every sequence of events, and under many gateways at once.

mod scopes;

#[path = "../../../tests/support/redis.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod redis_server;

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use keymeter_core::{
    key::KeyId,
    limit::{
        Limit, LimitKind, LimitStatus, Limits, MOST_TOKENS, SPAN,
        counters::reference::{Check, Subject as Compared, any_limits, any_step, calendar, repetitions},
    },
};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use self::redis_server::Redis;
use super::{
    link::ServerConnection,
    settlements::{Ending, Settlement},
    subject::Subject,
    *,
};
use crate::observe::metrics::Metrics;

fn terms(url: &str, rest: &str) -> config::Shared {
    let text = format!(
        "{{upstreams: [{{name: a, url: 'http://127.0.0.1:1'}}], keys: {{yaml: {{path: none}}}},
        limits: {{shared: {{url: '{url}', timeout: 5s{rest}}}}}}}"
    );
    config::parse(&text, Path::new("keymeter.yaml"), &|_| None).unwrap().limits.shared.unwrap()
}

fn series() -> SharedSeries {
    Metrics::new(1).unwrap().shared().unwrap()
}

fn key(number: u64) -> KeyId {
    format!("key_{number}").parse().unwrap()
}

/// A limit of 0 stands for none.
pub(super) fn limits(requests: u64, tokens: u64, places: u64) -> Limits {
    let limit = |number| Limit::at(number).unwrap_or(Limit::Unlimited);
    Limits {
        requests_per_minute: limit(requests),
        tokens_per_minute: limit(tokens),
        concurrent_requests: limit(places),
    }
}

/// A gateway whose time, and whose server's time, is the test's.
struct Gateway {
    shared: Arc<SharedLimits>,
    clock: Arc<AtomicU64>,
    connection: ServerConnection,
    now: MonotonicTime,
}

impl Gateway {
    async fn connect(redis: &Redis, clock: &Arc<AtomicU64>, rest: &str) -> Self {
        let terms = terms(&redis.url(), rest);
        let shared = Arc::new(
            SharedLimits::with_clock(terms, series(), Arc::new(KeptQuotas::nowhere()), &Clock::Set(clock.clone()))
                .unwrap(),
        );
        let connection = shared.link.connect_if_needed().await.unwrap();
        shared.health.mark_reachable();
        Self { shared, clock: clock.clone(), connection, now: MonotonicTime::default() }
    }

    /// It is `now`, and the gateway has said what it runs ever since.
    async fn at(&mut self, now: MonotonicTime) {
        // A server's clock does not begin at 0.
        self.clock.store(1_000_000 + now.as_nanos() / 1000, Ordering::SeqCst);
        self.now = now;
        self.shared.renew(&mut self.connection, now).await.unwrap();
    }

    async fn reserve(&self, key: &KeyId, limits: &Limits, tokens: u64) -> Result<Ticket, Declined> {
        ask(&self.shared, key, limits, tokens, self.now).await
    }

    async fn send_settlements(&mut self) {
        self.shared.send_settlements(&mut self.connection).await.unwrap();
    }

    async fn status(&self, key: &KeyId, limits: &Limits) -> LimitStatus {
        let names = Scopes::of_key(key.as_str());
        self.shared.fetch_status(&names, &counted(limits), calendar(self.now)).await.unwrap().0
    }
}

/// Limits of a key alone. Of what is not limited nobody asks, so that is limited to as much as nobody can use.
fn counted(limits: &Limits) -> RequestLimits {
    if limits.are_unlimited() { self::limits(u64::MAX, u64::MAX, u64::MAX).into() } else { (*limits).into() }
}

/// Asks for a key alone.
async fn ask(
    shared: &Arc<SharedLimits>,
    key: &KeyId,
    limits: &Limits,
    tokens: u64,
    now: MonotonicTime,
) -> Result<Ticket, Declined> {
    let names = Scopes::of_key(key.as_str());
    shared.reserve(&names, &counted(limits), Amounts::tokens(tokens), calendar(now)).await
}

fn subject(key: &KeyId) -> Subject {
    Subject::from(&*format!("key/{key}"))
}

impl Ticket {
    /// Ends a request without quotas.
    fn used(self, tokens: u64) {
        self.settle(Amounts::tokens(tokens), &[], calendar(MonotonicTime::default()));
    }
}

#[allow(clippy::needless_pass_by_value, reason = "an answer is looked at once")]
fn refused(answer: Result<Ticket, Declined>) -> Refusal {
    match answer {
        Err(Declined::Refused(refusal)) => refusal,
        Err(Declined::Unreachable) => panic!("the server is there"),
        Ok(_) => panic!("it is admitted"),
    }
}

fn at(millis: u64) -> MonotonicTime {
    MonotonicTime::from_nanos(millis * 1_000_000)
}

/// Counters on a server, as one gateway sees them.
struct OnServer {
    runtime: Arc<Runtime>,
    gateway: Gateway,
    key: KeyId,
}

impl OnServer {
    fn ended(&mut self, end: impl FnOnce(), now: MonotonicTime) {
        self.runtime.clone().block_on(async {
            self.gateway.at(now).await;
            end();
            self.gateway.send_settlements().await;
        });
    }
}

impl Compared for OnServer {
    type Held = Ticket;

    const TICK: Duration = Duration::from_micros(1);

    fn reserve(&mut self, limits: &Limits, tokens: u64, now: MonotonicTime) -> Result<Ticket, Refusal> {
        self.runtime.clone().block_on(async {
            self.gateway.at(now).await;
            self.gateway.reserve(&self.key, limits, tokens).await.map_err(|declined| refused(Err(declined)))
        })
    }

    fn tokens(held: &Ticket) -> u64 {
        held.tokens()
    }

    fn settle(&mut self, held: Ticket, used: u64, now: MonotonicTime) {
        self.ended(|| held.used(used), now);
    }

    fn cancel(&mut self, held: Ticket, now: MonotonicTime) {
        self.ended(|| held.cancel(), now);
    }

    fn drop(&mut self, held: Ticket, now: MonotonicTime) {
        self.ended(|| drop(held), now);
    }

    fn standing(&mut self, limits: &Limits, now: MonotonicTime) -> LimitStatus {
        self.runtime.clone().block_on(async {
            self.gateway.at(now).await;
            self.gateway.status(&self.key, limits).await
        })
    }
}

#[test]
fn the_server_agrees_with_a_plain_list() {
    let (redis, runtime) = (Redis::start(), Arc::new(Runtime::new().unwrap()));
    let numbers = AtomicU64::new(0);
    let config = ProptestConfig::with_cases(u32::try_from(2 * repetitions()).unwrap());
    proptest!(config, |(limits in any_limits(), steps in prop::collection::vec(any_step(), 1..80))| {
        let mut gateway = runtime.block_on(Gateway::connect(&redis, &Arc::default(), ""));
        let key = key(numbers.fetch_add(1, Ordering::Relaxed));
        // A server remembers when it looked at a key that it knows.
        runtime.block_on(async {
            gateway.at(MonotonicTime::default()).await;
            gateway.reserve(&key, &Limits::UNLIMITED, 0).await.unwrap().cancel();
            gateway.send_settlements().await;
        });
        let subject = Check::new(OnServer { runtime: runtime.clone(), gateway, key }, limits).run(&steps);
        assert!(subject.gateway.shared.permits.by_subject().is_empty() && subject.gateway.shared.settlements.is_empty());
    });
}

/// Gateways that share one server and one clock.
async fn gateways(redis: &Redis, number: usize, rest: &str) -> Vec<Gateway> {
    let clock = Arc::default();
    let mut gateways = Vec::new();
    for _ in 0..number {
        let mut gateway = Gateway::connect(redis, &clock, rest).await;
        gateway.at(at(0)).await;
        gateways.push(gateway);
    }
    gateways
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_200_requests_at_once_through_4_gateways_exactly_10_are_admitted() {
    let redis = Redis::start();
    let each = [limits(10, 0, 0), limits(0, 70, 0), limits(0, 0, 10)];
    for (repetition, limits) in (0..repetitions() / 5).zip(each.into_iter().cycle()) {
        let (gateways, key) = (gateways(&redis, 4, "").await, key(repetition));
        let mut attempts = tokio::task::JoinSet::new();
        for number in 0..200 {
            let (shared, key) = (gateways[number % 4].shared.clone(), key.clone());
            attempts.spawn(async move { ask(&shared, &key, &limits, 7, at(0)).await });
        }
        let admitted: Vec<_> = attempts.join_all().await.into_iter().filter_map(Result::ok).collect();
        assert_eq!(admitted.len(), 10, "{limits:?}");
        let status = gateways[0].status(&key, &limits).await;
        assert_eq!((status.requests.used, status.tokens.used, status.running), (10, 70, 10));
    }
}

#[tokio::test]
async fn the_places_of_a_silent_gateway_are_free_and_its_tokens_are_not() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(0, 100, 2));
    let mut gateways = gateways(&redis, 2, "").await;
    let [silent, other] = &mut gateways[..] else { unreachable!() };
    let held = [silent.reserve(&key, &limits, 30).await.unwrap(), silent.reserve(&key, &limits, 30).await.unwrap()];
    other.at(at(9_999)).await;
    assert_eq!(refused(other.reserve(&key, &limits, 10).await).over, LimitKind::Concurrency);
    other.at(at(10_000)).await;
    let theirs = other.reserve(&key, &limits, 10).await.unwrap();
    let status = other.status(&key, &limits).await;
    assert_eq!((status.tokens.used, status.running), (70, 1));

    // It was only slow: it takes its places again, one of them over the limit.
    silent.at(at(10_500)).await;
    assert_eq!(other.status(&key, &limits).await.running, 3);
    assert_eq!(silent.shared.series.excess_taken(), 1);
    for ticket in held {
        ticket.used(5);
    }
    silent.send_settlements().await;
    theirs.used(10);
    other.send_settlements().await;
    let status = other.status(&key, &limits).await;
    assert_eq!((status.tokens.used, status.running), (20, 0), "what was not used is given back");
}

#[tokio::test]
async fn a_gateway_that_says_what_it_runs_keeps_its_places() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(0, 0, 1));
    let mut gateways = gateways(&redis, 2, "").await;
    let [first, other] = &mut gateways[..] else { unreachable!() };
    let held = first.reserve(&key, &limits, 1).await.unwrap();
    for second in 1..30 {
        first.at(at(second * 5_000)).await;
        other.at(at(second * 5_000)).await;
        assert_eq!(refused(other.reserve(&key, &limits, 1).await).over, LimitKind::Concurrency);
    }
    drop(held);
    first.send_settlements().await;
    assert!(other.reserve(&key, &limits, 1).await.is_ok());
    assert_eq!(first.shared.series.excess_taken(), 0);
}

#[tokio::test]
async fn what_is_said_twice_counts_once() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(0, 100, 5));
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    for (used, counted) in [(20, 20), (45, 65)] {
        gateway.reserve(&key, &limits, 30).await.unwrap().used(used);
        let batches = gateway.shared.settlements.unsent_batches(100, 100);
        for _ in 0..3 {
            gateway.send_settlements().await;
            // As if the answer had been lost.
            batches.iter().flat_map(|batch| &batch.settlements).for_each(|settlement| {
                gateway.shared.settlements.push(&subject(&key), settlement.clone());
            });
        }
        gateway.send_settlements().await;
        assert_eq!(gateway.status(&key, &limits).await.tokens.used, counted);
    }
}

#[tokio::test]
async fn a_request_that_does_not_wait_for_the_answer_takes_nothing() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(2, 100, 1));
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    for _ in 0..20 {
        let shared = gateway.shared.clone();
        // The question is sent, and its answer never read.
        let asked = ask(&shared, &key, &limits, 50, at(0));
        tokio::select! {
            biased;
            answer = asked => drop(answer.unwrap()),
            () = tokio::task::yield_now() => {}
        }
        gateway.send_settlements().await;
        let status = gateway.status(&key, &limits).await;
        if status.requests.used == 0 {
            assert_eq!((status.tokens.used, status.running), (0, 0));
        }
    }
    let status = gateway.status(&key, &limits).await;
    assert_eq!((status.requests.used, status.tokens.used, status.running), (0, 0, 0));
}

#[tokio::test]
async fn a_place_that_is_free_here_is_free_for_the_next_request_here() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(0, 0, 1));
    let gateway = gateways(&redis, 1, "").await.remove(0);
    for _ in 0..200 {
        // Nobody hands anything in: each admission takes along what ended before it.
        gateway.reserve(&key, &limits, 1).await.unwrap().used(1);
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_lets_nothing_go_and_keeps_nothing_longer() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(1, 0, 0));
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    gateway.at(at(100)).await;
    drop(gateway.reserve(&key, &limits, 0).await.unwrap());
    gateway.at(at(50)).await;
    assert_eq!(refused(gateway.reserve(&key, &limits, 0).await).retry_after, SPAN);
    gateway.at(at(60_099)).await;
    refused(gateway.reserve(&key, &limits, 0).await);
    gateway.at(at(60_100)).await;
    assert!(gateway.reserve(&key, &limits, 0).await.is_ok());
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_sent_them_again() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(3, 0, 0));
    let gateway = gateways(&redis, 1, "").await.remove(0);
    for _ in 0..3 {
        redis.ask(&["SCRIPT", "FLUSH"]);
        assert!(gateway.reserve(&key, &limits, 1).await.is_ok());
    }
    refused(gateway.reserve(&key, &limits, 1).await);
}

#[tokio::test]
async fn numbers_are_exact_however_large() {
    let (redis, key, large) = (Redis::start(), key(0), 9_007_199_254_740_991_u64 / 4096);
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    let of = |tokens| limits(0, tokens, 0);
    gateway.reserve(&key, &of(u64::MAX), u64::MAX).await.unwrap().used(7);
    gateway.reserve(&key, &of(large), 11).await.unwrap().used(MOST_TOKENS + 5);
    gateway.send_settlements().await;
    assert_eq!(gateway.status(&key, &of(large)).await.tokens.used, 7 + MOST_TOKENS);
    assert_eq!(refused(gateway.reserve(&key, &of(MOST_TOKENS), 1).await).used, 7 + MOST_TOKENS);
}

#[tokio::test]
async fn nothing_of_a_silent_key_is_kept() {
    let (redis, limits) = (Redis::start(), limits(3, 50, 2));
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    for number in 0..50 {
        gateway.reserve(&key(number), &limits, 1).await.unwrap().used(9);
    }
    gateway.send_settlements().await;
    for number in 0..50 {
        for name in subject(&key(number)).data() {
            let left: i64 = redis.ask(&["PTTL", &name]).trim_start_matches(':').parse().unwrap();
            assert!(left == -2 || (1..=70_000).contains(&left), "{name} stays for {left} ms");
        }
    }
}

/// Admits as many requests of a busy key as it can, through two gateways that take parts of its minute in advance.
#[tokio::test]
async fn what_is_taken_in_advance_overruns_nothing() {
    let redis = Redis::start();
    let limits = limits(100, 10_000, 40);
    for round in 0..repetitions() / 10 {
        let (mut gateways, key) = (gateways(&redis, 2, ", lease: 10%").await, key(round));
        let (mut admitted, mut leased) = (Vec::new(), 0_u32);
        let mut random = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for step in 0..2_500_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (moment, which) = (at(step * 50), usize::from(random >> 63 == 1));
            for gateway in &mut gateways {
                gateway.at(moment).await;
                gateway.shared.return_leases(|lease| lease.is_expired(moment), moment);
                gateway.send_settlements().await;
            }
            let gateway = &gateways[which];
            for _ in 0..random >> 61 & 3 {
                if let Ok(ticket) = gateway.reserve(&key, &limits, 90 + (random >> 50) % 20).await {
                    leased += u32::from(ticket.name.split('.').count() == 3);
                    admitted.push((moment, ticket.tokens()));
                    ticket.used(90);
                }
            }
        }
        assert!(leased > 50, "{leased} of {} were admitted without asking", admitted.len());
        for (index, (first, _)) in admitted.iter().enumerate() {
            let span = admitted[index..].iter().take_while(|(moment, _)| moment.saturating_since(*first) < SPAN);
            let (requests, tokens) = span.fold((0, 0), |(requests, tokens), _| (requests + 1, tokens + 90));
            assert!(requests <= 100 && tokens <= 10_000, "{requests} requests, {tokens} tokens");
        }
        // It refuses no more than what the other gateway holds, and for no longer than a second.
        assert!(admitted.len() >= 270, "{} of the 300 that may be were admitted in 125 s", admitted.len());
    }
}

#[tokio::test]
async fn what_was_taken_in_advance_comes_back() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(100, 10_000, 40));
    let mut gateways = gateways(&redis, 2, ", lease: 10%").await;
    let [first, other] = &mut gateways[..] else { unreachable!() };
    for _ in 0..2 {
        first.reserve(&key, &limits, 10).await.unwrap().used(10);
    }
    first.send_settlements().await;
    let status = other.status(&key, &limits).await;
    assert_eq!((status.requests.used, status.tokens.used, status.running), (12, 120, 4));
    assert_eq!(
        first.shared.status(&Scopes::of_key(key.as_str()), &limits.into(), calendar(at(0))).unwrap().requests.used,
        2,
        "its own is no use"
    );

    let held = first.reserve(&key, &limits, 10).await.unwrap();
    assert_eq!(held.name.split('.').count(), 3, "the third asks nobody");
    first.at(at(1000)).await;
    first.shared.return_leases(|lease| lease.is_expired(at(1000)), at(1000));
    first.send_settlements().await;
    let status = other.status(&key, &limits).await;
    assert_eq!((status.requests.used, status.tokens.used, status.running), (3, 30, 1));
    held.used(4);
    first.send_settlements().await;
    let status = other.status(&key, &limits).await;
    assert_eq!((status.requests.used, status.tokens.used, status.running), (3, 24, 0));
}

#[tokio::test]
async fn its_own_stock_is_no_reason_to_refuse_a_request() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(0, 100, 0));
    let gateway = gateways(&redis, 1, ", lease: 50%").await.remove(0);
    for _ in 0..2 {
        gateway.reserve(&key, &limits, 10).await.unwrap().used(10);
    }
    // 50 are leased, which is too little for it; 80 are free.
    assert!(gateway.reserve(&key, &limits, 80).await.is_ok());
    refused(gateway.reserve(&key, &limits, 1).await);
}

#[tokio::test]
async fn what_was_used_is_owed_though_the_place_was_given_to_another_meanwhile() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(0, 1000, 2));
    let mut gateways = gateways(&redis, 2, "").await;
    let [cut_off, other] = &mut gateways[..] else { unreachable!() };
    cut_off.reserve(&key, &limits, 5).await.unwrap().used(80);
    // It was sent, and nobody knows whether it was heard.
    cut_off
        .shared
        .settlements
        .unsent_batches(9, 9)
        .iter()
        .for_each(|batch| cut_off.shared.settlements.mark_sent(batch));
    other.at(at(30_000)).await;
    drop(other.reserve(&key, &limits, 1).await.unwrap());
    other.send_settlements().await;
    cut_off.at(at(30_000)).await;
    cut_off.shared.settlements.mark_all_lost();
    cut_off.send_settlements().await;
    assert_eq!(other.status(&key, &limits).await.tokens.used, 81);
}

#[tokio::test]
async fn nothing_is_left_of_gateways_that_are_gone() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(10_000, 0, 0));
    let clock = Arc::default();
    let mut sizes = Vec::new();
    for crash in 0..8 {
        let mut gateway = Gateway::connect(&redis, &clock, ", lease: 1%").await;
        let now = at(crash * 40_000);
        gateway.at(now).await;
        for _ in 0..100 {
            // A gateway that is killed says nothing of what it runs.
            std::mem::forget(gateway.reserve(&key, &limits, 1).await.unwrap());
        }
        let [windows, _, running, _] = subject(&key).data();
        let size =
            |command, name: &str| -> u64 { redis.ask(&[command, name]).trim_start_matches(':').parse().unwrap() };
        sizes.push(size("HLEN", &windows) + size("ZCARD", &running));
    }
    assert!(sizes.iter().all(|size| *size < 1200), "{sizes:?}");
    assert!(sizes[7] < sizes[3] + 100, "it does not grow for ever: {sizes:?}");
}

#[tokio::test]
async fn a_clock_that_is_set_back_frees_no_place() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(0, 0, 2));
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    gateway.at(at(40_000)).await;
    let _held = [gateway.reserve(&key, &limits, 1).await.unwrap(), gateway.reserve(&key, &limits, 1).await.unwrap()];
    for step in 0..12 {
        // Half a minute back, and on from there.
        gateway.at(at(10_000 + step * 2_000)).await;
        assert_eq!(refused(gateway.reserve(&key, &limits, 1).await).over, LimitKind::Concurrency, "{step}");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_by_hours_starts_a_key_anew() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(1, 0, 3));
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    gateway.at(at(7_200_000)).await;
    let before = gateway.reserve(&key, &limits, 1).await.unwrap();
    gateway.at(at(0)).await;
    let after = gateway.reserve(&key, &limits, 1).await.unwrap();
    gateway.at(at(100)).await;
    refused(gateway.reserve(&key, &limits, 1).await);
    assert_eq!(gateway.status(&key, &limits).await.running, 2, "what runs is known again");
    drop((before, after));
    gateway.send_settlements().await;
    assert_eq!(gateway.status(&key, &limits).await.running, 0);
}

#[tokio::test]
async fn a_request_that_comes_after_its_cancellation_takes_nothing() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(5, 100, 5));
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    // The connection broke, and the cancellation went by another one, and faster.
    let next = format!("{}.{}", gateway.shared.gateway, gateway.shared.numbers.load(Ordering::Relaxed));
    let cancelled = Settlement::unknown(next.into(), Ending::Cancelled, false);
    for _ in 0..2 {
        gateway.shared.settlements.push(&subject(&key), cancelled.clone());
        gateway.send_settlements().await;
    }
    refused(gateway.reserve(&key, &limits, 50).await);
    let status = gateway.status(&key, &limits).await;
    assert_eq!((status.requests.used, status.tokens.used, status.running), (0, 0, 0));
    assert!(gateway.reserve(&key, &limits, 50).await.is_ok(), "its next one has another name");
}

#[tokio::test]
async fn a_question_that_is_asked_twice_is_answered_as_before() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(100, 1000, 40));
    let mut gateway = gateways(&redis, 1, ", lease: 10%").await.remove(0);
    drop(gateway.reserve(&key, &limits, 10).await.unwrap());
    // As a client does that follows a key to another server of a cluster.
    let number = gateway.shared.numbers.load(Ordering::Relaxed);
    std::mem::forget(gateway.reserve(&key, &limits, 10).await.unwrap());
    gateway.send_settlements().await;
    let before = gateway.status(&key, &limits).await;
    gateway.shared.snapshots.take_expired(|_| true, at(0));
    gateway.shared.numbers.store(number, Ordering::Relaxed);
    let again = gateway.reserve(&key, &limits, 10).await.unwrap();
    assert_eq!(gateway.status(&key, &limits).await.requests.used, before.requests.used);
    drop(again);
    gateway.shared.return_leases(|_| true, at(0));
    gateway.send_settlements().await;
    assert_eq!(gateway.status(&key, &limits).await.running, 0, "also the lease's places come back");
}

#[tokio::test]
async fn a_server_that_lost_a_part_of_a_key_starts_it_anew() {
    let (redis, key, limits) = (Redis::start(), key(0), limits(2, 0, 0));
    let mut gateway = gateways(&redis, 1, "").await.remove(0);
    for lost in subject(&key).data() {
        drop(gateway.reserve(&key, &limits, 1).await);
        drop(gateway.reserve(&key, &limits, 1).await);
        refused(gateway.reserve(&key, &limits, 1).await);
        redis.ask(&["DEL", &lost]);
        gateway.send_settlements().await;
        gateway.at(gateway.now + Duration::from_secs(61)).await;
        assert!(gateway.reserve(&key, &limits, 1).await.is_ok(), "without {lost}");
        gateway.at(gateway.now + Duration::from_secs(61)).await;
        assert_eq!(gateway.status(&key, &limits).await.requests.used, 0, "without {lost}");
    }
}
