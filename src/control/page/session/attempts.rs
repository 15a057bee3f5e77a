//! Wrong tokens are few: from one address so many a minute, and then none is looked at.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Wrong tokens that an address may send in a minute.
const MOST: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// Addresses that are kept; more than so many in a minute share one count.
const ADDRESSES: usize = 10_000;

/// Wrong tokens of late, by the address that they came from.
#[derive(Default)]
pub struct Attempts(Mutex<HashMap<String, Failed>>);

struct Failed {
    since: Instant,
    count: u32,
}

impl Attempts {
    /// How long `address` has to wait, if it has to.
    pub fn wait(&self, address: &str, now: Instant) -> Option<Duration> {
        let all = self.0.lock();
        let failed = all.get(place(&all, address))?;
        let left = MINUTE.checked_sub(now.duration_since(failed.since)).filter(|left| !left.is_zero())?;
        (failed.count >= MOST).then_some(left)
    }

    /// Notes a wrong token.
    pub fn note(&self, address: &str, now: Instant) {
        let mut all = self.0.lock();
        if all.len() >= ADDRESSES {
            all.retain(|_, failed| now.duration_since(failed.since) < MINUTE);
        }
        let place = place(&all, address).to_owned();
        let failed = all.entry(place).or_insert(Failed { since: now, count: 0 });
        if now.duration_since(failed.since) >= MINUTE {
            *failed = Failed { since: now, count: 0 };
        }
        failed.count = failed.count.saturating_add(1);
    }
}

/// Under which an address is counted: itself, or all together where there are too many.
fn place<'a>(all: &HashMap<String, Failed>, address: &'a str) -> &'a str {
    if all.len() < ADDRESSES || all.contains_key(address) { address } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_guesses_waits_and_others_do_not() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for _ in 0..MOST {
            assert_eq!(attempts.wait("a", start), None);
            attempts.note("a", start);
        }
        assert_eq!(attempts.wait("a", start), Some(MINUTE));
        assert_eq!(attempts.wait("b", start), None);
        assert_eq!(attempts.wait("a", start + MINUTE), None);
        attempts.note("a", start + MINUTE);
        assert_eq!(attempts.wait("a", start + MINUTE), None);
    }

    #[test]
    fn addresses_beyond_what_is_kept_share_one_count() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for number in 0..ADDRESSES + 20 {
            attempts.note(&number.to_string(), start);
        }
        assert!(attempts.0.lock().len() <= ADDRESSES + 1);
        assert_eq!(attempts.wait("new", start), Some(MINUTE));
        attempts.note("new", start + MINUTE);
        assert_eq!(attempts.0.lock().len(), 1);
    }
}
