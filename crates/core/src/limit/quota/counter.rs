//! What is used of one quota. A counter of the calendar knows when its span ends, and begins anew once that is over; it never
//! goes back to a span before. One of a length keeps 60 steps and the one that begins, so that what was counted stays for the
//! whole length, and for at most a sixtieth of it longer.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;

use super::{Quota, QuotaName, QuotaSpan, SlidingLength};

/// Where an amount is counted: the end of its span in seconds since 1970, or the number of its step. It is the same in every
/// process.
pub type Slot = i64;

/// What is used of one quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaCounter {
    /// Of which.
    pub name: QuotaName,
    used: u64,
    counted: Counted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Counted {
    /// In the span that ends then.
    Until(Slot),
    /// In steps, of which this is the number of the first that is kept.
    Steps { first: Slot, steps: VecDeque<u64> },
}

/// What is counted stays for so many steps beside the one that begins.
const STEPS: i64 = 60;

impl QuotaCounter {
    /// A counter of which nothing is used.
    #[must_use]
    pub fn new(name: QuotaName) -> Self {
        let counted = match name.span {
            QuotaSpan::Length(_) => Counted::Steps { first: 0, steps: VecDeque::new() },
            QuotaSpan::Day | QuotaSpan::Week | QuotaSpan::Month => Counted::Until(Slot::MIN),
        };
        Self { name, used: 0, counted }
    }

    /// Brings the counter to `now`: a span that is over is left behind, and what came too long ago. A clock that is set back
    /// by less than a span changes nothing.
    pub fn roll(&mut self, quota: &Quota, now: Timestamp) {
        match (&mut self.counted, self.name.span) {
            (Counted::Steps { first, steps }, QuotaSpan::Length(length)) => {
                let present = length.step_of(now);
                let last = *first + i64::try_from(steps.len()).unwrap_or(i64::MAX) - 1;
                if last > present.saturating_add(STEPS) {
                    // The clock was set back by more than is kept: what is kept means nothing.
                    *self = Self::new(self.name);
                    return;
                }
                let mut gone = 0_u64;
                while *first + STEPS < present
                    && let Some(step) = steps.pop_front()
                {
                    gone = gone.saturating_add(step);
                    *first += 1;
                }
                self.used = self.used.saturating_sub(gone);
                if steps.iter().all(|step| *step == 0) {
                    steps.clear();
                    steps.shrink_to_fit();
                }
            }
            (Counted::Until(end), span) => {
                let second = now.as_second();
                if second < *end {
                    if *end - second > span.longest() {
                        // The clock was far ahead, and has been set right.
                        *end = end_of(quota, now);
                    }
                } else {
                    *end = end_of(quota, now);
                    self.used = 0;
                }
            }
            (Counted::Steps { .. }, _) => {}
        }
    }

    /// Counts `amount` at `now`, to which the counter was brought. Says where.
    pub fn add(&mut self, now: Timestamp, amount: u64) -> Slot {
        match (&mut self.counted, self.name.span) {
            (Counted::Steps { first, steps }, QuotaSpan::Length(length)) => {
                let present = length.step_of(now);
                if steps.is_empty() {
                    *first = present;
                }
                // After a clock was set back a little, it counts with what came last.
                let last = *first + i64::try_from(steps.len()).unwrap_or(i64::MAX) - 1;
                let slot = present.max(last);
                if amount > 0 {
                    grow(steps, *first, slot);
                    add_to(steps, *first, slot, amount);
                    self.used = self.used.saturating_add(amount);
                }
                slot
            }
            (Counted::Until(end), _) => {
                self.used = self.used.saturating_add(amount);
                *end
            }
            (Counted::Steps { .. }, _) => 0,
        }
    }

    /// Takes back `amount` of what was counted in `slot`, as far as that still counts.
    pub fn give_back(&mut self, slot: Slot, amount: u64) {
        match &mut self.counted {
            Counted::Steps { first, steps } => {
                let index = usize::try_from(slot.saturating_sub(*first)).ok();
                if let Some(step) = index.and_then(|index| steps.get_mut(index)) {
                    let amount = amount.min(*step);
                    *step -= amount;
                    self.used = self.used.saturating_sub(amount);
                }
            }
            Counted::Until(end) if *end == slot => self.used = self.used.saturating_sub(amount),
            Counted::Until(_) => {}
        }
    }

    /// Counts what another process counted in `slot`. A later span of the calendar takes the place of the one before.
    pub fn restore(&mut self, slot: Slot, amount: u64) {
        match &mut self.counted {
            Counted::Steps { first, steps } => {
                while *first < slot.saturating_sub(STEPS)
                    && let Some(step) = steps.pop_front()
                {
                    self.used = self.used.saturating_sub(step);
                    *first += 1;
                }
                if steps.is_empty() {
                    *first = slot;
                }
                let last = *first + i64::try_from(steps.len()).unwrap_or(i64::MAX) - 1;
                if slot < last - STEPS {
                    // So much later was counted that this counts no longer.
                    return;
                }
                while slot < *first {
                    steps.push_front(0);
                    *first -= 1;
                }
                grow(steps, *first, slot);
                add_to(steps, *first, slot, amount);
                self.used = self.used.saturating_add(amount);
            }
            Counted::Until(end) if *end == slot => self.used = self.used.saturating_add(amount),
            Counted::Until(end) if *end < slot => (*end, self.used) = (slot, amount),
            Counted::Until(_) => {}
        }
    }

    /// What is used, with what was used elsewhere before.
    #[must_use]
    pub fn used(&self, quota: &Quota, now: Timestamp) -> u64 {
        self.used.saturating_add(quota.carried(now))
    }

    /// How long until so much of what is used counts no longer.
    #[must_use]
    pub fn wait_for(&self, amount: u64, quota: &Quota, now: Timestamp) -> Duration {
        let mut leaving = self.leaving(quota, now);
        leaving.sort_unstable();
        let mut left = 0_u64;
        let enough = leaving.iter().find(|(_, amount_then)| {
            left = left.saturating_add(*amount_then);
            left >= amount
        });
        enough.map_or(Duration::ZERO, |(at, _)| until(now, *at))
    }

    /// How long until nothing counts any more.
    #[must_use]
    pub fn reset(&self, quota: &Quota, now: Timestamp) -> Duration {
        self.leaving(quota, now).into_iter().map(|(at, _)| until(now, at)).max().unwrap_or_default()
    }

    /// What counts, where: as [`Self::restore`] takes it.
    pub fn counted(&self) -> impl Iterator<Item = (Slot, u64)> + '_ {
        let (calendar, (first, steps)) = match &self.counted {
            Counted::Until(end) => (Some((*end, self.used)), (0, None)),
            Counted::Steps { first, steps } => (None, (*first, Some(steps))),
        };
        let steps = steps.into_iter().flatten().zip(first..).map(|(amount, slot)| (slot, *amount));
        calendar.into_iter().chain(steps).filter(|(_, amount)| *amount > 0)
    }

    /// Whether nothing counts at `now`, whatever its quota is.
    #[must_use]
    pub fn is_idle(&self, now: Timestamp) -> bool {
        self.counted().all(|(slot, _)| self.name.span.leaves(slot) <= now)
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        match &self.counted {
            Counted::Until(_) => 0,
            Counted::Steps { steps, .. } => steps.capacity() * size_of::<u64>(),
        }
    }

    /// When which parts of what counts do so no longer.
    fn leaving(&self, quota: &Quota, now: Timestamp) -> Vec<(Timestamp, u64)> {
        let counted = self.counted().map(|(slot, amount)| (self.name.span.leaves(slot), amount));
        let carried = quota.carried.filter(|carried| now < carried.until && carried.amount > 0);
        counted.chain(carried.map(|carried| (carried.until, carried.amount))).collect()
    }
}

impl QuotaSpan {
    /// When what is counted in `slot` counts no longer.
    #[must_use]
    pub fn leaves(self, slot: Slot) -> Timestamp {
        let at = match self {
            Self::Length(length) => {
                let micros = slot.saturating_add(STEPS + 1).saturating_mul(length.step());
                Timestamp::from_microsecond(micros)
            }
            Self::Day | Self::Week | Self::Month => Timestamp::from_second(slot),
        };
        at.unwrap_or(if slot < 0 { Timestamp::MIN } else { Timestamp::MAX })
    }
}

impl SlidingLength {
    /// The length of a step, in microseconds.
    pub(super) fn step(self) -> i64 {
        (i64::from(self.0) * 1_000_000 + STEPS - 1) / STEPS
    }

    fn step_of(self, now: Timestamp) -> Slot {
        now.as_microsecond().div_euclid(self.step())
    }
}

fn end_of(quota: &Quota, now: Timestamp) -> Slot {
    quota.name.span.end_after(now, &quota.zone)
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

/// Makes room for the step of this number, without ever doubling it for nothing: there are 61 at most.
fn grow(steps: &mut VecDeque<u64>, first: Slot, slot: Slot) {
    let wanted = usize::try_from(slot - first + 1).unwrap_or_default();
    if wanted > steps.len() {
        steps.reserve_exact(wanted.next_multiple_of(8).saturating_sub(steps.len()));
        steps.resize(wanted, 0);
    }
}

fn add_to(steps: &mut VecDeque<u64>, first: Slot, slot: Slot, amount: u64) {
    if let Some(step) = usize::try_from(slot - first).ok().and_then(|index| steps.get_mut(index)) {
        *step = step.saturating_add(amount);
    }
}
