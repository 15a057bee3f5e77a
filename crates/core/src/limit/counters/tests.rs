//! The counters, case by case.

mod places;
mod races;
mod scopes;

use std::thread;

use proptest::prelude::*;

pub(super) use races::interleaved;

use super::{
    reference::{Check, any_limits, any_step, calendar, repetitions},
    *,
};
use crate::limit::{Limits, window::SPAN};

fn at(millis: u64) -> Now {
    calendar(MonotonicTime::from_nanos(millis * 1_000_000))
}

fn limit(number: u64) -> Limit {
    Limit::at(number).unwrap()
}

fn limits(requests: Limit, tokens: Limit, concurrent: Limit) -> Limits {
    Limits { requests_per_minute: requests, tokens_per_minute: tokens, concurrent_requests: concurrent }
}

/// So many requests at once, and else whatever comes.
fn at_once(concurrent: Limit) -> RequestLimits {
    limits(Limit::Unlimited, Limit::Unlimited, concurrent).into()
}

/// These limits, of a key alone.
fn all_of(limits: Limits) -> Arc<RequestLimits> {
    Arc::new(limits.into())
}

const UNLIMITED: Limits = Limits {
    requests_per_minute: Limit::Unlimited,
    tokens_per_minute: Limit::Unlimited,
    concurrent_requests: Limit::Unlimited,
};

fn tokens_only(number: u64) -> Limits {
    Limits { tokens_per_minute: limit(number), ..UNLIMITED }
}

fn requests_only(number: u64) -> Limits {
    Limits { requests_per_minute: limit(number), ..UNLIMITED }
}

fn used(counters: &Counters, now: Now) -> (u64, u64, u64) {
    let standing = counters.standing(&UNLIMITED, now);
    (standing.requests.used, standing.tokens.used, standing.running)
}

#[test]
fn unused_reservation_is_given_back() {
    let counters = Arc::new(Counters::default());
    let reservation = counters.reserve(&tokens_only(100), 80, at(0)).unwrap();
    assert_eq!(counters.reserve(&tokens_only(100), 21, at(1)).unwrap_err().over, LimitKind::Tokens);
    reservation.settle(Amounts::tokens(30), at(2));
    assert_eq!(used(&counters, at(2)), (1, 30, 0));
    assert!(counters.reserve(&tokens_only(100), 70, at(3)).is_ok());
}

#[test]
fn a_reservation_leaves_after_a_span_though_it_runs() {
    let counters = Arc::new(Counters::default());
    let reservation = counters.reserve(&tokens_only(100), 100, at(0)).unwrap();
    assert_eq!(used(&counters, at(59_999)), (1, 100, 1));
    assert_eq!(used(&counters, at(60_000)), (0, 0, 1));
    reservation.settle(Amounts::tokens(0), at(60_001));
    assert_eq!(used(&counters, at(60_001)), (0, 0, 0), "what has left is not given back");
}

#[test]
fn overuse_counts_from_the_end_and_is_owed() {
    let counters = Arc::new(Counters::default());
    counters.reserve(&tokens_only(100), 10, at(0)).unwrap().settle(Amounts::tokens(250), at(30_000));
    let refusal = counters.reserve(&tokens_only(100), 1, at(60_000)).unwrap_err();
    assert_eq!((refusal.used, refusal.retry_after), (240, Duration::from_secs(30)));
    assert!(counters.reserve(&tokens_only(100), 1, at(90_000)).is_ok());
}

#[test]
fn a_request_larger_than_the_limit_is_cut_to_it() {
    let counters = Arc::new(Counters::default());
    let reservation = counters.reserve(&tokens_only(100), u64::MAX, at(0)).unwrap();
    assert_eq!(reservation.tokens(), 100);
    reservation.settle(Amounts::tokens(130), at(1));
    assert_eq!(used(&counters, at(1)).1, 130);
}

#[test]
fn a_request_without_tokens_passes_a_full_token_window() {
    let counters = Arc::new(Counters::default());
    counters.reserve(&tokens_only(100), 100, at(0)).unwrap().settle(Amounts::tokens(900), at(1));
    assert!(counters.reserve(&tokens_only(100), 0, at(2)).is_ok());
    assert_eq!(used(&counters, at(2)), (2, 900, 0));
}

#[test]
fn a_refused_request_takes_nothing() {
    for limits in [requests_only(1), tokens_only(5), limits(Limit::Unlimited, Limit::Unlimited, limit(1))] {
        let counters = Arc::new(Counters::default());
        let _running = counters.reserve(&limits, 5, at(0)).unwrap();
        for _ in 0..10 {
            assert!(counters.reserve(&limits, 5, at(1)).is_err());
        }
        assert_eq!(used(&counters, at(1)), (1, 5, 1), "{limits:?}");
    }
}

#[test]
fn a_cancelled_request_has_taken_nothing() {
    let counters = Arc::new(Counters::default());
    drop(counters.reserve(&requests_only(1), 5, at(0)).unwrap().cancel());
    assert_eq!(used(&counters, at(0)), (0, 0, 0));
    assert!(counters.is_idle(at(0)));
    assert!(counters.reserve(&requests_only(1), 5, at(1)).is_ok());
}

#[test]
fn a_dropped_reservation_frees_its_place_and_stays_counted() {
    let counters = Arc::new(Counters::default());
    drop(counters.reserve(&UNLIMITED, 5, at(0)).unwrap());
    assert_eq!(used(&counters, at(59_999)), (1, 5, 0));
    assert!(counters.is_idle(at(60_000)));
}

#[test]
fn a_panic_frees_the_place() {
    let counters = Arc::new(Counters::default());
    let one = limits(Limit::Unlimited, Limit::Unlimited, limit(1));
    let task = thread::spawn({
        let counters = Arc::clone(&counters);
        move || {
            let _running = counters.reserve(&one, 5, at(0)).unwrap();
            std::panic::resume_unwind(Box::new("a task that fails"));
        }
    });
    assert!(task.join().is_err());
    assert!(counters.reserve(&one, 5, at(1)).is_ok());
}

#[test]
fn the_longest_wait_is_named() {
    let both = limits(limit(1), limit(10), Limit::Unlimited);
    let counters = Arc::new(Counters::default());
    counters.reserve(&both, 4, at(0)).unwrap().settle(Amounts::tokens(10), at(20_000));
    let refusal = counters.reserve(&both, 5, at(30_000)).unwrap_err();
    let (retry_after, reset) = (Duration::from_secs(50), Duration::from_secs(50));
    assert_eq!(
        refusal,
        Refusal { over: LimitKind::Tokens, scope: Scope::Key, models: None, limit: 10, used: 10, retry_after, reset }
    );
    let refusal = counters.reserve(&both, 4, at(30_000)).unwrap_err();
    assert_eq!((refusal.over, refusal.retry_after), (LimitKind::Requests, Duration::from_secs(30)), "of equal waits");
    let refusal = counters.reserve(&both, 0, at(30_000)).unwrap_err();
    assert_eq!((refusal.over, refusal.retry_after), (LimitKind::Requests, Duration::from_secs(30)));
}

#[test]
fn no_wait_is_promised_while_too_many_run() {
    let all = limits(limit(1), limit(10), limit(1));
    let counters = Arc::new(Counters::default());
    let _running = counters.reserve(&all, 10, at(0)).unwrap();
    let refusal = counters.reserve(&all, 10, at(1)).unwrap_err();
    assert_eq!((refusal.over, refusal.limit, refusal.used), (LimitKind::Concurrency, 1, 1));
    assert_eq!(refusal.retry_after, Duration::from_secs(1));
}

#[test]
fn limits_set_later_hold_for_what_came_before() {
    let counters = Arc::new(Counters::default());
    let _running: Vec<Reservation> = (0..5).map(|_| counters.reserve(&UNLIMITED, 10, at(0)).unwrap()).collect();
    assert_eq!(counters.reserve(&requests_only(5), 1, at(1)).unwrap_err().used, 5);
    assert_eq!(counters.reserve(&tokens_only(20), 1, at(1)).unwrap_err().used, 50);
    let refusal = counters.reserve(&limits(Limit::Unlimited, Limit::Unlimited, limit(2)), 1, at(1)).unwrap_err();
    assert_eq!((refusal.over, refusal.used), (LimitKind::Concurrency, 5));
    assert!(counters.reserve(&limits(limit(6), limit(60), limit(6)), 10, at(1)).is_ok());
}

#[test]
fn a_clock_that_steps_back_lets_nothing_go() {
    let counters = Arc::new(Counters::default());
    drop(counters.reserve(&requests_only(1), 0, at(100)).unwrap());
    assert_eq!(counters.reserve(&requests_only(1), 0, at(50)).unwrap_err().retry_after, SPAN);
    assert!(counters.reserve(&requests_only(1), 0, at(60_099)).is_err());
    assert!(counters.reserve(&requests_only(1), 0, at(60_100)).is_ok());
}

#[test]
fn the_standing_says_what_is_left() {
    let ten = limits(limit(10), limit(100), limit(5));
    let counters = Arc::new(Counters::default());
    let _running = counters.reserve(&ten, 30, at(0)).unwrap();
    drop(counters.reserve(&ten, 0, at(10_000)).unwrap());
    let standing = counters.standing(&ten, at(20_000));
    assert_eq!((standing.requests.remaining(), standing.requests.reset), (Some(8), Duration::from_secs(50)));
    assert_eq!((standing.tokens.remaining(), standing.tokens.reset), (Some(70), Duration::from_secs(40)));
    assert_eq!(standing.running, 1);
    assert_eq!(counters.standing(&tokens_only(20), at(20_000)).tokens.remaining(), Some(0), "never below zero");
    assert_eq!(counters.standing(&UNLIMITED, at(20_000)).requests.remaining(), None);
}

#[test]
fn huge_numbers_change_nothing() {
    let counters = Arc::new(Counters::default());
    let reservation = counters.reserve(&UNLIMITED, u64::MAX, at(0)).unwrap();
    reservation.settle(Amounts::tokens(u64::MAX), at(1));
    counters.reserve(&UNLIMITED, u64::MAX, at(2)).unwrap().settle(Amounts::tokens(3), at(3));
    assert_eq!(used(&counters, at(3)).1, MOST_TOKENS + 3);
    assert!(counters.is_idle(at(60_100)));
}

#[test]
fn an_idle_key_is_small() {
    assert!(size_of::<Counters>() + 2 * size_of::<usize>() < 200, "{}", size_of::<Counters>());
}

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Counters>();
    shared_between_threads::<Reservation>();
};

#[test]
fn no_key_is_refused_for_anothers_traffic() {
    let own = limits(limit(1), limit(10), limit(1));
    let keys: Vec<Arc<Counters>> = (0..100_000).map(|_| Arc::default()).collect();
    for (now, key) in keys.iter().enumerate() {
        let reservation = key.reserve(&own, 10, at(now as u64 / 10)).unwrap();
        reservation.settle(Amounts::tokens(10), at(now as u64 / 10));
    }
    assert!(keys.iter().all(|key| key.reserve(&own, 1, at(10_000)).is_err()), "each is held to its own");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(u32::try_from(20 * repetitions()).unwrap_or(u32::MAX)))]

    #[test]
    fn the_counters_agree_with_a_plain_list(
        limits in any_limits(),
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let counters = Check::new(Arc::<Counters>::default(), limits).run(&steps);
        assert_eq!(Arc::strong_count(&counters), 1);
    }
}
