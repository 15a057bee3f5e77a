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
use crate::limit::ModelLimits;

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

/// Lets another of Shuttle's threads run before the lock is taken, and while another has it. Nothing else switches threads,
/// so this tries every order in which the locked parts can follow each other; locks that wait for each other never come to an
/// end, which Shuttle reports.
pub(in crate::limit::counters) fn interleaved(state: &Mutex<State>) -> MutexGuard<'_, State> {
    if !IN_SHUTTLE.get() {
        return state.lock();
    }
    loop {
        shuttle::thread::yield_now();
        if let Some(state) = state.try_lock() {
            return state;
        }
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
                0 => drop(reservation.settle(Amounts::tokens(4), at(1))),
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
                Some(reservation) => drop(reservation.settle(Amounts::tokens(4), at(1))),
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
        let Ok(place) = Place::take(Scopes::of_key(counters.clone()), &at_once(all.concurrent_requests)) else {
            return;
        };
        assert!(holding.fetch_add(1, Ordering::Relaxed) < most, "more hold a place than may");
        // Together they are too many tokens.
        let left = match (number, place.reserve(&all_of(all), Amounts::tokens([5, 10, 15][number]), at(0))) {
            (0, Ok(reservation)) => Some(reservation.cancel()),
            (1, Ok(reservation)) => {
                holding.fetch_sub(1, Ordering::Relaxed);
                return drop(reservation.settle(Amounts::tokens(4), at(1)));
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

/// Requests of two keys of one team, whose owners differ: every order of them takes and gives back in each scope, no two wait
/// for each other, and the team's limit holds for both together.
#[test]
fn requests_of_several_scopes_wait_for_each_other_in_no_order() {
    let race = || {
        let [team, owner, first, second] = std::array::from_fn(|_| Arc::new(Counters::default()));
        let all = Arc::new(RequestLimits {
            scopes: Scopes {
                team: Some(limits(limit(2), limit(20), limit(2)).into()),
                owner: Some(limits(Limit::Unlimited, limit(20), limit(1)).into()),
                key: limits(limit(2), limit(20), limit(2)).into(),
            },
            models: [ModelLimits { models: Glob::new("m*"), limits: limits(limit(1), limit(10), limit(1)).into() }]
                .into(),
            mode: LimitMode::Enforce,
        });
        let running = Arc::new(AtomicU64::new(0));
        let (whole, shared) = ((team.clone(), owner.clone(), first.clone(), second.clone()), running.clone());
        in_threads(3, move |number| {
            let key = if number == 0 { &first } else { &second };
            let scopes = Scopes { team: Some(team.clone()), owner: Some(owner.clone()), key: key.clone() };
            let Ok(place) = Place::take(scopes, &all) else { return };
            assert_eq!(shared.fetch_add(1, Ordering::Relaxed), 0, "the owner may run one");
            let ended = place.reserve(&all, Amounts::tokens(10), at(0));
            shared.fetch_sub(1, Ordering::Relaxed);
            match (number, ended) {
                (0, Ok(reservation)) => drop(reservation.settle(Amounts::tokens(4), at(1))),
                (1, Ok(reservation)) => drop(reservation.cancel()),
                (_, ended) => drop(ended),
            }
        });
        let (team, owner, first, second) = whole;
        let (requests, tokens, running) = used(&team, at(1));
        assert!(requests <= 2 && tokens <= 20 && running == 0, "{requests} {tokens} {running}");
        let together = [&first, &second].map(|key| used(key, at(1)));
        assert_eq!(together[0].0 + together[1].0, requests, "what one has taken the other has, too");
        assert_eq!(together[0].1 + together[1].1, tokens);
        for counters in [&team, &owner, &first, &second] {
            assert!(counters.is_idle(at(60_100)));
        }
    };
    IN_SHUTTLE.set(true);
    shuttle::check_random(race, 500);
    IN_SHUTTLE.set(false);
}
