//! The counters in every order of threads, and under many at once.

use std::{
    cell::Cell,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use parking_lot::Mutex;

use super::*;

#[test]
fn of_200_requests_at_once_exactly_10_are_admitted() {
    let unlimited = Limit::Unlimited;
    let each = [
        limits(limit(10), unlimited, unlimited),
        limits(unlimited, limit(70), unlimited),
        limits(unlimited, unlimited, limit(10)),
    ];
    for (repetition, limits) in (0..repetitions()).zip(each.iter().cycle()) {
        let (counters, start, admitted) = (Arc::new(Counters::default()), Barrier::new(200), AtomicU64::new(0));
        let together = Barrier::new(200);
        thread::scope(|scope| {
            for _ in 0..200 {
                scope.spawn(|| {
                    start.wait();
                    let reservation = counters.reserve(limits, 7, at(repetition));
                    admitted.fetch_add(u64::from(reservation.is_ok()), Ordering::Relaxed);
                    together.wait();
                });
            }
        });
        assert_eq!(admitted.into_inner(), 10, "{limits:?}");
        assert_eq!(used(&counters, at(repetition)), (10, 70, 0));
    }
}

thread_local! {
    static IN_SHUTTLE: Cell<bool> = const { Cell::new(false) };
}

/// Lets another of Shuttle's threads run before the lock is taken. Nothing switches threads while
/// it is held, so this tries every order in which the locked parts can follow each other.
pub(in crate::limit::counters) fn interleave() {
    if IN_SHUTTLE.get() {
        shuttle::thread::yield_now();
    }
}

/// Runs `race` in every order of its threads.
fn in_every_order(race: impl Fn() + Send + Sync + 'static) {
    IN_SHUTTLE.set(true);
    shuttle::check_dfs(race, None);
    IN_SHUTTLE.set(false);
}

fn in_threads(threads: usize, body: impl Fn(usize) + Send + Sync + 'static) {
    let body = Arc::new(body);
    let spawn = |number| {
        shuttle::thread::spawn({
            let body = Arc::clone(&body);
            move || body(number)
        })
    };
    let threads: Vec<_> = (0..threads).map(spawn).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn no_order_of_threads_overruns_a_limit() {
    static ORDERS: AtomicU64 = AtomicU64::new(0);
    in_every_order(|| {
        ORDERS.fetch_add(1, Ordering::Relaxed);
        let (counters, running) = (Arc::new(Counters::default()), Arc::new(AtomicU64::new(0)));
        let race = (Arc::clone(&counters), Arc::clone(&running));
        in_threads(3, move |number| {
            let (counters, running) = &race;
            let all = limits(limit(2), limit(20), limit(2));
            let Ok(reservation) = counters.reserve(&all, 10, at(0)) else { return };
            assert!(running.fetch_add(1, Ordering::Relaxed) < 2, "more run than may");
            match number {
                0 => reservation.settle(4, at(1)),
                1 => drop(reservation),
                _ => drop(reservation.cancel()),
            }
            running.fetch_sub(1, Ordering::Relaxed);
        });
        let (requests, tokens, running) = used(&counters, at(1));
        assert!(requests <= 2 && tokens <= 14, "{requests} {tokens}");
        assert_eq!(running, 0, "every place is free again");
        assert!(counters.is_idle(at(60_100)));
    });
    assert!(ORDERS.load(Ordering::Relaxed) > 100, "there are many orders");
}

#[test]
fn settling_and_reserving_at_once_stay_within_the_limit() {
    in_every_order(|| {
        let counters = Arc::new(Counters::default());
        let first = Mutex::new(counters.reserve(&tokens_only(10), 10, at(0)).ok());
        let race = Arc::clone(&counters);
        in_threads(3, move |number| {
            let first = if number == 0 { first.lock().take() } else { None };
            match first {
                Some(reservation) => reservation.settle(4, at(1)),
                None => drop(race.reserve(&tokens_only(10), 6, at(1))),
            }
        });
        let (requests, tokens, running) = used(&counters, at(1));
        assert!((requests, tokens) == (1, 4) || (requests, tokens) == (2, 10), "{requests} {tokens}");
        assert_eq!(running, 0);
    });
}

/// Requests that take their places before it is known what they ask for: whatever becomes of each, no more have a place at
/// once than may, who is refused takes nothing of the minute, and all places are free in the end.
fn places_are_taken_and_given_back(threads: usize, most: u64) {
    let (counters, holding) = (Arc::new(Counters::default()), Arc::new(AtomicU64::new(0)));
    let race = (Arc::clone(&counters), Arc::clone(&holding));
    in_threads(threads, move |number| {
        let (counters, holding) = &race;
        let all = limits(limit(2), limit(20), limit(most));
        let Ok(place) = Place::take(counters.clone(), all.concurrent_requests) else { return };
        assert!(holding.fetch_add(1, Ordering::Relaxed) < most, "more hold a place than may");
        // Together they are too many tokens.
        let left = match (number, place.reserve(&all, [5, 10, 15][number], at(0))) {
            (0, Ok(reservation)) => Some(reservation.cancel()),
            (1, Ok(reservation)) => {
                holding.fetch_sub(1, Ordering::Relaxed);
                return reservation.settle(4, at(1));
            }
            (_, Ok(reservation)) => {
                holding.fetch_sub(1, Ordering::Relaxed);
                return drop(reservation);
            }
            (_, Err((place, refusal))) => {
                assert_ne!(refusal.over, LimitKind::Concurrency, "it had its place");
                Some(place)
            }
        };
        holding.fetch_sub(1, Ordering::Relaxed);
        drop(left);
    });
    let (requests, tokens, running) = used(&counters, at(1));
    assert!([(0, 0), (1, 4), (1, 15), (2, 19)].contains(&(requests, tokens)), "{requests} {tokens}");
    assert_eq!(running, 0, "every place is free again");
    assert!(counters.is_idle(at(60_100)));
}

#[test]
fn places_are_given_back_in_every_order() {
    in_every_order(|| places_are_taken_and_given_back(2, 1));
    in_every_order(|| places_are_taken_and_given_back(2, 2));
}

#[test]
fn places_of_many_are_given_back_in_any_order() {
    IN_SHUTTLE.set(true);
    for most in 1..=3 {
        shuttle::check_random(move || places_are_taken_and_given_back(3, most), 2000);
    }
    IN_SHUTTLE.set(false);
}
