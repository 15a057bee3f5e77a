//! A circuit breaker for a source. After some failures in a row the source is asked by one probe at a time, after pauses
//! that grow up to a bound. One answer closes the circuit again.

use std::time::Duration;

use keymeter_core::{clock::MonotonicTime, key::KeyHash};

/// The state of the circuit breaker.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    failures: u32,
    /// Whose look-up failed first of those in a row, and whether any other's did: a look-up that fails for one secret may be
    /// about that secret, and its holder may ask as often as he likes.
    first: Option<KeyHash>,
    others_fail: bool,
    /// Until then no request asks; then one probe does.
    closed_until: Option<MonotonicTime>,
}

/// Failures in a row that open the circuit.
const PATIENCE: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// With jitter at most 2.5 s: so a source that comes back is noticed within 5 s, its time-out included.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Circuit {
    /// Admits a request to the source. While the source fails it admits one probe, which has `probe_time` to succeed.
    pub(super) fn admits(&mut self, now: MonotonicTime, probe_time: Duration) -> bool {
        match self.closed_until {
            None => true,
            Some(end) if now < end => false,
            Some(_) => {
                self.closed_until = Some(now + probe_time);
                true
            }
        }
    }

    /// Records an answer.
    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// Records that the look-up of `hash` failed. `seed` spreads the pauses of several gateways.
    pub(super) fn failed(&mut self, hash: &KeyHash, now: MonotonicTime, seed: u64) {
        self.failures = self.failures.saturating_add(1);
        self.others_fail |= self.first.get_or_insert(*hash) != hash;
        if self.failures >= PATIENCE && self.others_fail {
            self.closed_until = Some(now + pause(self.failures - PATIENCE, seed));
        }
    }
}

/// The pause after so many failures beyond the first ones: doubled each time up to a bound, and up to a quarter longer.
pub(crate) fn pause(failures: u32, seed: u64) -> Duration {
    let base = FIRST_PAUSE.saturating_mul(1 << failures.min(8)).min(LONGEST_PAUSE);
    base + base.mul_f64(fraction(seed) / 4.0)
}

/// A fraction below 1 that differs for every seed (the finalizer of `SplitMix64`).
pub(super) fn fraction(seed: u64) -> f64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let high = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(0);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Duration = Duration::from_secs(2);

    fn failing(failures: u32, at: MonotonicTime) -> Circuit {
        let mut circuit = Circuit::default();
        (0..failures).for_each(|number| circuit.failed(&hash(number), at, u64::from(number)));
        circuit
    }

    fn hash(number: u32) -> KeyHash {
        KeyHash::digest(&number.to_be_bytes())
    }

    #[test]
    fn a_look_up_that_fails_for_one_secret_says_nothing_of_others() {
        let now = MonotonicTime::from_nanos(0);
        let mut circuit = Circuit::default();
        (0..1000).for_each(|seed| circuit.failed(&hash(1), now, seed));
        assert!(circuit.admits(now, PROBE), "however often it is tried");
        circuit.failed(&hash(2), now, 7);
        assert!(!circuit.admits(now, PROBE));
        circuit.answered();
        (0..1000).for_each(|seed| circuit.failed(&hash(2), now, seed));
        assert!(circuit.admits(now, PROBE), "an answer ends what failed in a row");
    }

    #[test]
    fn a_few_failures_are_chance_and_more_are_not() {
        let now = MonotonicTime::from_nanos(0);
        assert!(failing(PATIENCE - 1, now).admits(now, PROBE));
        let mut circuit = failing(PATIENCE, now);
        assert!(!circuit.admits(now, PROBE));
        circuit.answered();
        assert!(circuit.admits(now, PROBE));
    }

    #[test]
    fn one_probe_is_let_through_and_an_answer_opens_it_for_all() {
        let now = MonotonicTime::from_nanos(0);
        let mut circuit = failing(PATIENCE, now);
        let later = now + Duration::from_millis(320);
        assert!(circuit.admits(later, PROBE));
        assert!(!circuit.admits(later, PROBE), "one is under way");
        assert!(circuit.admits(later + PROBE, PROBE), "a probe that was lost is replaced");
        circuit.answered();
        assert!(circuit.admits(later, PROBE) && circuit.admits(later, PROBE));
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_differ() {
        for seed in 0..1000 {
            assert!((FIRST_PAUSE..FIRST_PAUSE * 5 / 4).contains(&pause(0, seed)));
            assert!((LONGEST_PAUSE..LONGEST_PAUSE * 5 / 4).contains(&pause(u32::MAX, seed)));
            assert!((0.0..1.0).contains(&fraction(seed)));
        }
        assert_ne!(pause(3, 1), pause(3, 2));
    }
}
