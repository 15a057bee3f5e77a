//! How many requests run at an upstream, and how long a typical one of them is.

use std::sync::atomic::{AtomicU64, Ordering};

/// The requests that run at an upstream, on all its replicas together.
///
/// It is one number, so that what it says is of one moment: how many there are, and below that the sum of the logarithms of
/// their lengths.
#[derive(Debug, Default)]
pub(super) struct Running(AtomicU64);

/// One request. The logarithms of some 60 million fit below.
const ONE: u64 = 1 << 40;

impl Running {
    /// A request begins that is planned to take so many tokens.
    pub fn begin(&self, tokens: u64) {
        self.0.fetch_add(ONE + logarithm(tokens), Ordering::Relaxed);
    }

    /// Such a request ends.
    pub fn end(&self, tokens: u64) {
        self.0.fetch_sub(ONE + logarithm(tokens), Ordering::Relaxed);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / ONE
    }

    /// How many tokens a typical one is planned to take: the geometric mean, which one very long request hardly moves. 0 where
    /// there is none.
    pub fn typical(&self) -> u64 {
        let both = self.0.load(Ordering::Relaxed);
        (both % ONE).checked_div(both / ONE).map_or(0, power)
    }
}

/// The binary logarithm in 256ths, straight between powers of two; 0 counts as 1.
fn logarithm(number: u64) -> u64 {
    let number = number.max(1);
    let whole = number.ilog2();
    // The eight bits that follow the first.
    let part = ((number << (63 - whole)) << 1) >> 56;
    u64::from(whole) * 256 + part
}

/// The number that has this logarithm, or a little less.
fn power(logarithm: u64) -> u64 {
    let (whole, part) = (logarithm / 256, 256 + logarithm % 256);
    if whole < 8 { part >> (8 - whole) } else { part << (whole - 8) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_power_undoes_a_logarithm(number in any::<u64>()) {
            let back = power(logarithm(number));
            prop_assert!(back <= number.max(1) && back >= number / 256 * 255, "{number}: {back}");
        }

        #[test]
        fn those_that_end_leave_nothing(all in prop::collection::vec(any::<u64>(), 1..50)) {
            let running = Running::default();
            for tokens in &all {
                running.begin(*tokens);
            }
            prop_assert_eq!(running.count(), all.len() as u64);
            let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
            prop_assert!(power(logarithm(*least)) <= running.typical() && running.typical() <= (*most).max(1));
            for tokens in &all {
                running.end(*tokens);
            }
            prop_assert_eq!((running.count(), running.typical()), (0, 0));
        }
    }

    #[test]
    fn one_long_request_is_not_typical() {
        let running = Running::default();
        running.begin(50_000);
        (0..9).for_each(|_| running.begin(500));
        assert!((750..850).contains(&running.typical()), "{}", running.typical());
    }
}
