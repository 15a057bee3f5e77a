//! How many attempts beyond the first there may be, so that a sick fleet is not asked twice for everything.

use std::time::Duration;

use keymeter_core::clock::MonotonicTime;

/// Attempts beyond the first at one upstream: a few, and a part of what there is to do.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    begun: Window,
    retried: Window,
}

/// So many are always allowed within the window,
const ALWAYS: u64 = 10;
/// and one more for so many requests.
const ONE_FOR: u64 = 5;

impl RetryBudget {
    /// A request begins.
    pub fn begin(&mut self, now: MonotonicTime) {
        self.begun.add(now);
    }

    /// Takes one attempt more, if there may be one while so many requests run.
    pub fn take(&mut self, running: u64, now: MonotonicTime) -> bool {
        let is_left = self.is_left(running, now);
        if is_left {
            self.retried.add(now);
        }
        is_left
    }

    /// Whether there may be one attempt more while so many requests run.
    pub fn is_left(&self, running: u64, now: MonotonicTime) -> bool {
        // Most that run have begun within the window: the larger number is of nearly all.
        let requests = self.begun.sum(now).max(running);
        self.retried.sum(now) < ALWAYS + requests / ONE_FOR
    }
}

/// What happened in the last ten seconds, counted by the second.
#[derive(Debug, Default)]
pub(super) struct Window {
    counts: [u64; SECONDS],
    /// The second of the newest count.
    newest: u64,
}

const SECONDS: usize = 10;
const LENGTH: u64 = SECONDS as u64;

impl Window {
    /// It happens.
    pub fn add(&mut self, now: MonotonicTime) {
        let second = second(now);
        // What lies between happened more than a window ago.
        for passed in self.newest.saturating_add(1).max(second.saturating_sub(LENGTH))..=second {
            if let Some(count) = self.counts.get_mut(place(passed)) {
                *count = 0;
            }
        }
        self.newest = self.newest.max(second);
        if let Some(count) = self.counts.get_mut(place(second)) {
            *count += 1;
        }
    }

    /// How often it happened.
    pub fn sum(&self, now: MonotonicTime) -> u64 {
        let second = second(now);
        let oldest = second.saturating_sub(LENGTH - 1).max(self.newest.saturating_sub(LENGTH - 1));
        (oldest..=self.newest).filter_map(|second| self.counts.get(place(second))).sum()
    }

    /// How long the window is.
    pub const LENGTH: Duration = Duration::from_secs(LENGTH);
}

fn second(now: MonotonicTime) -> u64 {
    now.as_nanos() / 1_000_000_000
}

fn place(second: u64) -> usize {
    usize::try_from(second % LENGTH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_few_are_always_allowed_and_a_fifth_of_what_there_is_to_do() {
        let mut budget = RetryBudget::default();
        assert_eq!((0..50).filter(|_| budget.take(0, at(100))).count(), 10);
        assert!(!budget.take(4, at(100)) && budget.take(5, at(100)) && !budget.take(5, at(100)));
        (0..100).for_each(|_| budget.begin(at(103)));
        assert_eq!((0..50).filter(|_| budget.take(0, at(103))).count(), 19);
        assert!(!budget.is_left(0, at(109)), "what was retried at 100 counts on");
        assert_eq!((0..50).filter(|_| budget.take(0, at(113))).count(), 10, "and all is forgotten");
    }

    proptest! {
        #[test]
        fn a_window_has_the_last_ten_seconds(steps in prop::collection::vec(0_u64..15, 0..200)) {
            let (mut window, mut all, mut now) = (Window::default(), VecDeque::new(), 5);
            for step in steps {
                now += step;
                window.add(at(now));
                all.push_back(now);
                for later in [now, now + 1, now + 9, now + 10, now + 30] {
                    let expected = all.iter().filter(|second| **second + 10 > later).count() as u64;
                    prop_assert_eq!(window.sum(at(later)), expected, "{} of {:?}", later, all);
                }
            }
        }
    }
}
