//! The exact sliding window: how much was counted in the last 60 seconds. What came within
//! 100 ms of each other is kept together, which bounds the memory and never lets go early.

use std::{collections::VecDeque, time::Duration};

use crate::clock::MonotonicTime;

/// How long what is counted stays counted; up to 100 ms longer where it is kept together with
/// what came after it.
pub const SPAN: Duration = Duration::from_mins(1);

/// How far apart things may be and yet be kept together.
const SLOT: Duration = Duration::from_millis(100);

/// What was counted lately of one thing. Its owner sees to it that time never steps back, and
/// calls `roll` before anything else.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Oldest first; at most 601, as each begins more than 100 ms after the one before.
    slots: VecDeque<Slot>,
    /// The sum over the slots.
    used: u64,
}

/// What came between `first` and `last`, which are at most 100 ms apart.
#[derive(Debug)]
struct Slot {
    first: MonotonicTime,
    last: MonotonicTime,
    amount: u64,
}

impl Slot {
    /// All of it leaves when the last of it may, so nothing leaves early.
    fn leaves(&self) -> MonotonicTime {
        self.last + SPAN
    }

    fn takes(&self, now: MonotonicTime) -> bool {
        now <= self.first + SLOT
    }
}

impl Window {
    /// What counts at present.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Lets go of what came more than a span ago, and of memory that is no longer needed.
    pub(super) fn roll(&mut self, now: MonotonicTime) {
        while let Some(slot) = self.slots.front().filter(|slot| slot.leaves() <= now) {
            self.used = self.used.saturating_sub(slot.amount);
            self.slots.pop_front();
        }
        if self.slots.is_empty() {
            *self = Self::default();
        } else if self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }

    /// Counts `amount` from `now` on.
    pub(super) fn add(&mut self, now: MonotonicTime, amount: u64) {
        if amount == 0 {
            return;
        }
        self.used = self.used.saturating_add(amount);
        match self.slots.back_mut() {
            Some(slot) if slot.takes(now) => {
                slot.last = now;
                slot.amount = slot.amount.saturating_add(amount);
            }
            _ => self.slots.push_back(Slot { first: now, last: now, amount }),
        }
    }

    /// Takes back `amount` of what was added at the moment `added`, if that still counts. Its
    /// slot, if it is still there, is the last that began by then: later slots began later, and
    /// no slot outlives a later one.
    pub(super) fn give_back(&mut self, added: MonotonicTime, amount: u64) {
        let begun = self.slots.partition_point(|slot| slot.first <= added);
        if let Some(slot) = begun.checked_sub(1).and_then(|index| self.slots.get_mut(index)) {
            let amount = amount.min(slot.amount);
            slot.amount -= amount;
            self.used = self.used.saturating_sub(amount);
        }
    }

    /// How long until `amount` of what counts now no longer does.
    pub(super) fn wait_for(&self, amount: u64, now: MonotonicTime) -> Duration {
        let mut left = 0_u64;
        let enough = self.slots.iter().find(|slot| {
            left = left.saturating_add(slot.amount);
            left >= amount
        });
        enough.map_or(Duration::ZERO, |slot| slot.leaves().saturating_since(now))
    }

    /// How long until nothing counts any more.
    pub(super) fn reset(&self, now: MonotonicTime) -> Duration {
        let last = self.slots.iter().rev().find(|slot| slot.amount > 0);
        last.map_or(Duration::ZERO, |slot| slot.leaves().saturating_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn what_is_counted_leaves_after_exactly_a_span() {
        let mut window = Window::default();
        window.add(at(5), 7);
        window.roll(MonotonicTime::from_nanos(60_005_000_000 - 1));
        assert_eq!(window.used(), 7);
        window.roll(at(60_005));
        assert_eq!(window.used(), 0);
    }

    #[test]
    fn what_is_kept_together_leaves_with_its_last() {
        let mut window = Window::default();
        window.add(at(0), 1);
        window.add(at(100), 1);
        window.roll(at(60_099));
        assert_eq!(window.used(), 2);
        window.roll(at(60_100));
        assert_eq!(window.used(), 0);
    }

    #[test]
    fn what_is_further_apart_leaves_apart() {
        let mut window = Window::default();
        window.add(at(0), 1);
        window.add(at(101), 2);
        window.roll(at(60_000));
        assert_eq!(window.used(), 2);
    }

    #[test]
    fn no_traffic_makes_more_than_601_slots() {
        let mut window = Window::default();
        let mut now = MonotonicTime::default();
        for _ in 0..5_000 {
            window.roll(now);
            window.add(now, 1);
            assert!(window.slots.len() <= 601);
            now = now + SLOT + Duration::from_nanos(1);
        }
        assert!(window.slots.len() >= 599, "the test reaches the bound");
        for _ in 0..100_000 {
            window.roll(now);
            window.add(now, 1);
            now = now + Duration::from_micros(10);
        }
        assert!(window.slots.len() <= 601);
    }

    #[test]
    fn memory_is_freed_as_traffic_ceases() {
        let mut window = Window::default();
        for step in 0..600 {
            window.add(at(step * 101), 1);
        }
        window.add(at(119_000), 1);
        assert!(window.slots.capacity() >= 601);
        window.roll(at(121_000));
        assert!(window.slots.capacity() <= 16, "{}", window.slots.capacity());
        window.roll(at(200_000));
        assert_eq!(window.slots.capacity(), 0);
    }

    #[test]
    fn a_slot_that_has_left_takes_nothing_back() {
        let mut window = Window::default();
        window.add(at(0), 5);
        window.add(at(30_000), 5);
        window.roll(at(60_000));
        window.give_back(at(0), 5);
        assert_eq!(window.used(), 5);
        window.give_back(at(30_000), 5);
        assert_eq!(window.used(), 0);
        assert_eq!(window.reset(at(60_000)), Duration::ZERO, "nothing counts, so there is nothing to wait for");
    }

    #[test]
    fn giving_back_never_goes_below_zero() {
        let mut window = Window::default();
        window.add(at(0), 5);
        window.give_back(at(0), u64::MAX);
        assert_eq!(window.used(), 0);
    }

    #[test]
    fn huge_amounts_saturate() {
        let mut window = Window::default();
        window.add(at(0), u64::MAX);
        window.add(at(1), u64::MAX);
        assert_eq!(window.used(), u64::MAX);
        window.roll(at(60_001));
        assert_eq!(window.used(), 0);
    }

    #[test]
    fn the_present_moves_on() {
        let before = MonotonicTime::now();
        assert!(MonotonicTime::now() >= before);
        assert_eq!(MonotonicTime::from_nanos(u64::MAX) + SPAN, MonotonicTime::from_nanos(u64::MAX));
        assert_eq!(before.saturating_since(before + SPAN), Duration::ZERO);
    }
}
