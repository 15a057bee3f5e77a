use std::time::Duration;

use proptest::prelude::*;

use super::*;

const START: MonotonicTime = MonotonicTime::from_nanos(1);
const ADA: u64 = 1;
const BOB: u64 = 2;
const EVE: u64 = 3;

/// Requests at equal priority and of cost 1, each known by its key.
fn waits(queue: &mut FairQueue<u64>, key: u64) -> Place {
    queue.push(key, 0, 1, START, key)
}

fn all_wait(queue: &mut FairQueue<u64>, key: u64, count: usize) -> Vec<Place> {
    all_wait_at(queue, key, 1, count)
}

/// Requests of such a cost.
fn all_wait_at(queue: &mut FairQueue<u64>, key: u64, cost: u64, count: usize) -> Vec<Place> {
    (0..count).map(|_| queue.push(key, 0, cost, START, key)).collect()
}

fn order(queue: &mut FairQueue<u64>) -> Vec<u64> {
    std::iter::from_fn(|| queue.pop()).collect()
}

fn holds_nothing<T>(queue: &FairQueue<T>) -> bool {
    queue.waiting.is_empty() && queue.levels.is_empty()
}

#[test]
fn one_keys_requests_go_as_they_came() {
    let mut queue = FairQueue::new();
    for number in 0..5 {
        queue.push(ADA, 0, 1, START, number);
    }
    assert_eq!((queue.len(), queue.first()), (5, Some(&0)));
    assert_eq!(order(&mut queue), [0, 1, 2, 3, 4]);
    assert!(queue.is_empty() && queue.first().is_none() && queue.oldest().is_none());
    assert!(holds_nothing(&queue));
}

#[test]
fn a_thousand_of_one_key_do_not_hold_up_anothers_one() {
    for served in [0, 1, 500] {
        let mut queue = FairQueue::new();
        all_wait(&mut queue, ADA, 1000);
        (0..served).for_each(|_| assert!(queue.pop().is_some()));
        waits(&mut queue, BOB);
        assert!(order(&mut queue).iter().position(|key| *key == BOB).unwrap() <= 1, "after {served}");
    }
}

#[test]
fn with_four_running_at_most_four_go_before_it() {
    let mut queue = FairQueue::new();
    all_wait(&mut queue, ADA, 1000);
    (0..4).for_each(|_| assert!(queue.pop().is_some()));
    waits(&mut queue, BOB);
    let next: Vec<u64> = (0..4).filter_map(|_| queue.pop()).collect();
    assert!(next.contains(&BOB), "when the four that ran have ended: {next:?}");
}

#[test]
fn a_key_that_sends_again_only_when_served_does_not_starve_one_that_has_many_waiting() {
    let mut queue = FairQueue::new();
    all_wait(&mut queue, ADA, 100);
    waits(&mut queue, BOB);
    waits(&mut queue, EVE);
    let mut served = [0; 4];
    for _ in 0..90 {
        let key = queue.pop().unwrap();
        served[usize::try_from(key).unwrap()] += 1;
        waits(&mut queue, key);
    }
    assert_eq!(served, [0, 30, 30, 30]);
}

#[test]
fn a_dear_request_lets_its_keys_next_one_wait_longer() {
    let mut queue = FairQueue::new();
    all_wait_at(&mut queue, ADA, 3, 2);
    all_wait_at(&mut queue, BOB, 1, 4);
    assert_eq!(order(&mut queue), [ADA, BOB, BOB, BOB, ADA, BOB]);
    all_wait_at(&mut queue, ADA, 0, 2);
    waits(&mut queue, BOB);
    assert_eq!(order(&mut queue), [ADA, BOB, ADA], "and one of no cost counts as one");
    all_wait_at(&mut queue, ADA, u64::MAX, 3);
    waits(&mut queue, BOB);
    assert_eq!(order(&mut queue), [ADA, BOB, ADA, ADA]);
}

#[test]
fn a_lower_priority_number_goes_first() {
    let mut queue = FairQueue::new();
    for priority in [0, 100, -100, 5, 0, i8::MIN, i8::MAX] {
        queue.push(ADA, priority, 1, START, priority);
    }
    let order: Vec<i8> = std::iter::from_fn(|| queue.pop()).collect();
    assert_eq!(order, [i8::MIN, -100, 0, 0, 5, 100, i8::MAX]);
}

#[test]
fn what_leaves_out_of_turn_counts_as_if_it_had_never_waited() {
    let mut queue = FairQueue::new();
    let places = all_wait(&mut queue, ADA, 10);
    all_wait(&mut queue, BOB, 3);
    for place in &places[..8] {
        assert_eq!(queue.remove(*place), Some(ADA));
        assert_eq!(queue.remove(*place), None);
    }
    assert_eq!(order(&mut queue), [ADA, BOB, ADA, BOB, BOB]);
    assert_eq!(queue.remove(places[9]), None, "nor what was served");
    assert!(holds_nothing(&queue));
}

#[test]
fn one_that_cannot_be_served_yet_is_passed_by_and_keeps_its_turn() {
    let mut queue = FairQueue::new();
    for item in [1, 2] {
        queue.push(ADA, 0, 1, START, item);
    }
    queue.push(BOB, 0, 1, START, 3);
    queue.push(EVE, -1, 1, START, 4);
    let in_turn: Vec<_> = queue.in_turn().map(|(_, item)| *item).collect();
    assert_eq!(in_turn, [4, 1, 2, 3]);
    let place = queue.in_turn().nth(2).unwrap().0;
    assert_eq!((queue.serve(place), queue.serve(place)), (Some(2), None));
    assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(4), Some(3), Some(1)], "its key was served once");
    assert!(holds_nothing(&queue));
}

#[test]
fn leaving_and_coming_again_gains_nothing() {
    let mut queue = FairQueue::new();
    all_wait(&mut queue, ADA, 5);
    all_wait(&mut queue, BOB, 2);
    assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(ADA), Some(BOB), Some(ADA)]);
    let place = waits(&mut queue, EVE);
    queue.remove(place);
    waits(&mut queue, EVE);
    assert_eq!(order(&mut queue), [BOB, EVE, ADA, ADA, ADA]);
}

#[test]
fn all_can_be_taken_at_once() {
    let mut queue = FairQueue::new();
    let place = queue.push(ADA, 5, 1, START, 1);
    queue.push(BOB, -5, 1, START, 2);
    assert_eq!(queue.take_all().collect::<Vec<_>>(), [1, 2]);
    assert!(holds_nothing(&queue));
    assert_ne!(queue.push(ADA, 5, 1, START, 3), place, "a place is never another's");
}

#[test]
fn time_never_steps_back() {
    let mut queue = FairQueue::new();
    let later = START + Duration::from_secs(1);
    let place = queue.push(ADA, 0, 1, later, ());
    queue.push(ADA, 0, 1, START, ());
    queue.remove(place);
    assert_eq!(queue.oldest(), Some(later));
}

#[test]
fn a_crowd_of_new_keys_neither_fills_the_memory_nor_holds_up_a_second_request_for_ever() {
    let mut queue = FairQueue::new();
    all_wait(&mut queue, ADA, 3);
    waits(&mut queue, 10);
    let mut served_before = Vec::new();
    for (number, key) in (11..20_000).enumerate() {
        // There is always one before the one that is served next.
        waits(&mut queue, key);
        if queue.pop() == Some(ADA) {
            served_before.push(number);
        }
        let level = &queue.levels[&0];
        assert!(level.remembered.len() <= MOST_REMEMBERED && level.keys.len() <= MOST_REMEMBERED + queue.len());
    }
    assert_eq!(served_before.len(), 3);
    assert!(*served_before.last().unwrap() < 3 * MOST_REMEMBERED, "{served_before:?}");
}

#[test]
fn a_million_that_come_and_go_leave_nothing() {
    let mut queue = FairQueue::new();
    let mut left = queue.push(0, 0, 1, START, 0);
    for number in 0..1_000_000_u64 {
        let place = queue.push(number % 5000, i8::try_from(number % 3).unwrap(), 1, START, number);
        // Of four, one leaves out of turn and three are served.
        match number % 4 {
            0 => left = place,
            1 => _ = queue.remove(left),
            _ => {
                queue.pop();
                if queue.len() > 100 {
                    queue.pop();
                }
            }
        }
        if number % 1000 == 0 {
            let kept: usize = queue.levels.values().map(|level| level.keys.len() + level.remembered.len()).sum();
            assert!(queue.len() < 1000 && kept <= queue.len() + 3 * 2 * MOST_REMEMBERED, "{kept}");
        }
    }
    while queue.pop().is_some() {}
    assert!(holds_nothing(&queue));
}

/// The same order by the plainest means: every key's tag is kept as long as anything waits, and all is looked through.
#[derive(Default)]
struct Model {
    waiting: Vec<(u64, i8, u64, u64, MonotonicTime)>,
    tags: BTreeMap<(i8, u64), Tag>,
    arrivals: u64,
    latest: MonotonicTime,
}

impl Model {
    fn push(&mut self, key: u64, priority: i8, cost: u64, now: MonotonicTime) -> u64 {
        let has_waiting = self.waiting.iter().any(|waiter| (waiter.0, waiter.1) == (key, priority));
        let of_level = self.waiting.iter().filter(|waiter| waiter.1 == priority);
        let lowest = of_level.map(|waiter| self.tags[&(priority, waiter.0)]).min().unwrap_or(0);
        let tag = self.tags.entry((priority, key)).or_insert(0);
        if !has_waiting {
            *tag = (*tag).max(lowest);
        }
        self.latest = self.latest.max(now);
        self.waiting.push((key, priority, cost, self.arrivals, self.latest));
        self.arrivals += 1;
        self.arrivals - 1
    }

    fn pop(&mut self) -> Option<u64> {
        let rank =
            |waiter: &&(u64, i8, u64, u64, MonotonicTime)| (waiter.1, self.tags[&(waiter.1, waiter.0)], waiter.3);
        let arrival = self.waiting.iter().min_by_key(rank)?.3;
        self.serve(arrival)
    }

    fn serve(&mut self, arrival: u64) -> Option<u64> {
        let (key, priority, cost, ..) = *self.waiting.iter().find(|waiter| waiter.3 == arrival)?;
        *self.tags.get_mut(&(priority, key)).unwrap() += Tag::from(cost.max(1));
        self.remove(arrival)
    }

    fn remove(&mut self, arrival: u64) -> Option<u64> {
        let at = self.waiting.iter().position(|waiter| waiter.3 == arrival)?;
        let (_, priority, ..) = self.waiting.remove(at);
        if !self.waiting.iter().any(|waiter| waiter.1 == priority) {
            self.tags.retain(|(other, _), _| *other != priority);
        }
        Some(arrival)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u64, i8, u64, u64),
    Pop,
    Remove(usize),
    Serve(usize),
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let push = (0_u64..6, -1_i8..2, 0_u64..4, 0_u64..100);
    let push = push.prop_map(|(key, priority, cost, now)| Step::Push(key, priority, cost, now));
    prop::collection::vec(
        prop_oneof![4 => push, 3 => Just(Step::Pop), 1 => (0_usize..100).prop_map(Step::Remove), 1 => (0_usize..100).prop_map(Step::Serve)],
        0..200,
    )
}

proptest! {
    #[test]
    fn the_order_is_the_models_and_nothing_is_lost_or_served_twice(steps in any_steps()) {
        let (mut queue, mut model, mut places) = (FairQueue::new(), Model::default(), Vec::new());
        for step in steps {
            match step {
                Step::Push(key, priority, cost, now) => {
                    let now = MonotonicTime::from_nanos(now);
                    let arrival = model.push(key, priority, cost, now);
                    places.push((queue.push(key, priority, cost, now, arrival), arrival));
                }
                Step::Pop => {
                    let first = queue.first().copied();
                    let popped = queue.pop();
                    prop_assert_eq!(popped, model.pop());
                    prop_assert_eq!(popped, first);
                }
                Step::Remove(at) => if let Some((place, arrival)) = places.get(at) {
                    prop_assert_eq!(queue.remove(*place), model.remove(*arrival));
                },
                Step::Serve(at) => if let Some((place, arrival)) = places.get(at) {
                    prop_assert_eq!(queue.serve(*place), model.serve(*arrival));
                },
            }
            prop_assert_eq!(queue.len(), model.waiting.len());
            let in_turn: Vec<u64> = queue.in_turn().map(|(_, arrival)| *arrival).collect();
            prop_assert_eq!(in_turn.first(), queue.first());
            prop_assert_eq!(in_turn.into_iter().collect::<BTreeSet<_>>().len(), queue.len());
            prop_assert_eq!(queue.oldest(), model.waiting.iter().map(|waiter| waiter.4).min());
        }
        while let Some(popped) = queue.pop() {
            prop_assert_eq!(Some(popped), model.pop());
        }
        prop_assert!(model.waiting.is_empty() && holds_nothing(&queue));
    }

    #[test]
    fn keys_that_always_wait_are_served_alike(depths in prop::collection::vec(1_usize..20, 2..6)) {
        let mut queue = FairQueue::new();
        for (key, depth) in (0_u64..).zip(&depths) {
            all_wait(&mut queue, key, *depth);
        }
        let mut served = vec![0_u32; depths.len()];
        for _ in 0..200 {
            let key = queue.pop().unwrap();
            served[usize::try_from(key).unwrap()] += 1;
            waits(&mut queue, key);
            prop_assert!(served.iter().max().unwrap() - served.iter().min().unwrap() <= 1, "{served:?}");
        }
    }

    #[test]
    fn one_that_comes_anew_waits_for_at_most_one_of_each_other_key(steps in any_steps()) {
        let mut queue = FairQueue::new();
        for step in steps {
            match step {
                Step::Push(key, _, cost, _) => _ = queue.push(key, 0, cost, START, key),
                Step::Pop | Step::Remove(_) | Step::Serve(_) => _ = queue.pop(),
            }
        }
        waits(&mut queue, 99);
        let before: Vec<u64> = std::iter::from_fn(|| queue.pop()).take_while(|key| *key != 99).collect();
        prop_assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), before.len(), "{:?}", before);
    }
}
