//! Places that are taken before it is known what a request asks for, as its body is still to come.

use proptest::prelude::*;

use super::*;

fn concurrency(number: u64) -> Limits {
    limits(Limit::Unlimited, Limit::Unlimited, limit(number))
}

#[test]
fn a_place_is_all_that_is_taken_before_the_admission() {
    let counters = Arc::new(Counters::default());
    let place = Place::take(Scopes::of_key(counters.clone()), &at_once(limit(1))).unwrap();
    assert_eq!(used(&counters, at(0)), (0, 0, 1));
    let refusal = Place::take(Scopes::of_key(counters.clone()), &at_once(limit(1))).unwrap_err();
    assert_eq!((refusal.over, refusal.limit, refusal.used), (LimitKind::Concurrency, 1, 1));
    assert_eq!(refusal.retry_after, Duration::from_secs(1));
    let reservation = place.reserve(&all_of(concurrency(1)), Amounts::tokens(7), at(0)).unwrap();
    assert_eq!(used(&counters, at(0)), (1, 7, 1));
    reservation.settle(Amounts::tokens(7), at(0));
    assert_eq!(used(&counters, at(0)), (1, 7, 0));
}

#[test]
fn a_refusal_leaves_the_place_and_a_request_that_asks_for_less_may_follow_on_it() {
    let counters = Arc::new(Counters::default());
    let place = Place::take(Scopes::of_key(counters.clone()), &at_once(limit(1))).unwrap();
    let both = limits(limit(10), limit(10), limit(1));
    counters.reserve(&tokens_only(10), 4, at(0)).unwrap().settle(Amounts::tokens(4), at(0));
    // Cut to the limit it is 10, of which 6 are left.
    let (place, refusal) = place.reserve(&all_of(both), Amounts::tokens(11), at(1)).unwrap_err();
    assert_eq!((refusal.over, refusal.used), (LimitKind::Tokens, 4));
    assert_eq!(used(&counters, at(1)), (1, 4, 1), "nothing else is taken");
    let place = place.reserve(&all_of(both), Amounts::tokens(6), at(2)).unwrap().cancel();
    assert_eq!(used(&counters, at(2)), (1, 4, 1), "what is cancelled keeps its place");
    drop(place);
    assert_eq!(used(&counters, at(2)), (1, 4, 0));
}

#[test]
fn a_limit_that_was_lowered_meanwhile_holds() {
    let counters = Arc::new(Counters::default());
    let mut places: Vec<_> =
        (0..3).map(|_| Place::take(Scopes::of_key(counters.clone()), &at_once(limit(3))).unwrap()).collect();
    let (place, refusal) =
        places.pop().unwrap().reserve(&all_of(concurrency(2)), Amounts::tokens(0), at(0)).unwrap_err();
    assert_eq!((refusal.over, refusal.limit, refusal.used), (LimitKind::Concurrency, 2, 2));
    drop(place);
    assert!(places.pop().unwrap().reserve(&all_of(concurrency(2)), Amounts::tokens(0), at(0)).is_ok());
}

/// What becomes of a request, and when.
#[derive(Clone, Debug)]
enum Step {
    Arrive,
    Reserve { which: prop::sample::Index, tokens: u64 },
    Leave { which: prop::sample::Index },
    End { which: prop::sample::Index, ending: u8 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    prop_oneof![
        4 => Just(Step::Arrive),
        4 => (which(), 0_u64..60).prop_map(|(which, tokens)| Step::Reserve { which, tokens }),
        1 => which().prop_map(|which| Step::Leave { which }),
        3 => (which(), 0_u8..3).prop_map(|(which, ending)| Step::End { which, ending }),
    ]
}

/// Takes one of `all`, if there is any.
fn taken<T>(all: &mut Vec<T>, which: prop::sample::Index) -> Option<T> {
    (!all.is_empty()).then(|| all.swap_remove(which.index(all.len())))
}

proptest! {
    /// In any order of arrivals, admissions, refusals and ends, as many places are taken as there are requests that wait
    /// or run, never more than may, and the minute has what was admitted and not cancelled.
    #[test]
    fn what_is_taken_is_what_waits_and_runs(steps in prop::collection::vec(any_step(), 1..120), most in 1_u64..5) {
        let counters = Arc::new(Counters::default());
        let all = limits(limit(8), limit(100), limit(most));
        let (mut waiting, mut running) = (Vec::new(), Vec::new());
        let (mut requests, mut tokens) = (0, 0);
        for step in &steps {
            match step {
                Step::Arrive => match Place::take(Scopes::of_key(counters.clone()), &at_once(limit(most))) {
                    Ok(place) => waiting.push(place),
                    Err(refusal) => {
                        prop_assert_eq!((refusal.over, refusal.used), (LimitKind::Concurrency, most));
                        prop_assert_eq!((waiting.len() + running.len()) as u64, most);
                    }
                },
                Step::Reserve { which, tokens: asked } => {
                    let Some(place) = taken(&mut waiting, *which) else { continue };
                    let fits = requests < 8 && (*asked == 0 || tokens + asked <= 100);
                    match place.reserve(&all_of(all), Amounts::tokens(*asked), at(0)) {
                        Ok(reservation) => {
                            prop_assert!(fits);
                            (requests, tokens) = (requests + 1, tokens + asked);
                            running.push(reservation);
                        }
                        Err((place, refusal)) => {
                            prop_assert!(!fits && refusal.over != LimitKind::Concurrency);
                            waiting.push(place);
                        }
                    }
                }
                Step::Leave { which } => drop(taken(&mut waiting, *which)),
                Step::End { which, ending } => {
                    let Some(reservation) = taken(&mut running, *which) else { continue };
                    let reserved = reservation.tokens();
                    match ending {
                        0 => drop(reservation),
                        1 => {
                            (requests, tokens) = (requests - 1, tokens - reserved);
                            waiting.push(reservation.cancel());
                        }
                        _ => {
                            tokens -= reserved / 2;
                            reservation.settle(Amounts::tokens(reserved - reserved / 2), at(0));
                        }
                    }
                }
            }
            let expected = (requests, tokens, (waiting.len() + running.len()) as u64);
            prop_assert_eq!(used(&counters, at(0)), expected, "after {:?}", step);
        }
        drop((waiting, running));
        prop_assert_eq!(used(&counters, at(0)), (requests, tokens, 0));
    }
}
