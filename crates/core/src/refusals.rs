//! Refusals of known keys, summed up by key, reason and scope in bounded memory: what a gateway tells of them beside its usage
//! records. No text in them is a client's.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{key::KeyId, limit::Scope, rejection::Refused};

/// What a gateway has refused since it last told of it.
#[derive(Debug, Default)]
pub struct RefusalSums {
    sums: HashMap<(KeyId, Refused, Scope), (u64, Timestamp)>,
    /// Reports that were made.
    reports: u64,
}

/// Sums that are kept at most, of all keys: further ones are not told of until a report has made room.
const MOST: usize = 10_000;

/// Sums in a report at most.
pub const MOST_IN_A_REPORT: usize = 1000;

/// Some of the sums, as they are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusalReport {
    /// Which report of its gateway it is, from 1: by which it counts once, however often it is sent.
    pub number: u64,
    /// Each of another key, reason or scope.
    pub sums: Vec<RefusalSum>,
}

/// How often a key was refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusalSum {
    /// The key.
    pub key_id: String,
    /// A word of [`Refused`], or of a later version of it.
    pub reason: String,
    /// Whose limit it was: a word of [`Scope`].
    pub scope: String,
    /// Requests.
    pub count: u64,
    /// When the last of them came.
    pub last_at: Timestamp,
}

impl RefusalSums {
    /// Notes that a request of a key was refused.
    pub fn note(&mut self, key: &KeyId, reason: Refused, scope: Scope, now: Timestamp) {
        let place = (key.clone(), reason, scope);
        if self.sums.len() >= MOST && !self.sums.contains_key(&place) {
            return;
        }
        let (count, last) = self.sums.entry(place).or_insert((0, now));
        *count = count.saturating_add(1);
        *last = now.max(*last);
    }

    /// The next report, of what was noted and is in none yet; `None`: there is nothing to tell.
    pub fn take(&mut self) -> Option<RefusalReport> {
        if self.sums.is_empty() {
            return None;
        }
        let some: Vec<_> = self.sums.keys().take(MOST_IN_A_REPORT).cloned().collect();
        let sums = some.into_iter().filter_map(|place| {
            let (count, last_at) = self.sums.remove(&place)?;
            let (key, reason, scope) = place;
            let [reason, scope] = [reason.as_str(), scope.as_str()].map(str::to_owned);
            Some(RefusalSum { key_id: key.to_string(), reason, scope, count, last_at })
        });
        let sums = sums.collect();
        self.reports += 1;
        Some(RefusalReport { number: self.reports, sums })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn refusals_are_summed_up_by_key_reason_and_scope() {
        let mut sums = RefusalSums::default();
        assert_eq!(sums.take(), None);
        let key: KeyId = "key_a".parse().unwrap();
        for second in [3, 1, 2] {
            sums.note(&key, Refused::Requests, Scope::Team, at(second));
        }
        let report = sums.take().unwrap();
        let told = RefusalSum {
            key_id: "key_a".into(),
            reason: "requests_per_minute".into(),
            scope: "team".into(),
            count: 3,
            last_at: at(3),
        };
        assert_eq!(report, RefusalReport { number: 1, sums: vec![told] });
        assert_eq!(sums.take(), None, "what was told is told once");
        sums.note(&key, Refused::Requests, Scope::Team, at(4));
        let second = sums.take().unwrap();
        assert_eq!((second.number, second.sums[0].count), (2, 1));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<RefusalReport>(&json).unwrap(), report);
    }

    #[test]
    fn no_number_of_keys_takes_more_than_so_much_memory() {
        let mut sums = RefusalSums::default();
        for number in 0..MOST + 500 {
            sums.note(&format!("key_{number}").parse().unwrap(), Refused::Disabled, Scope::Key, at(1));
        }
        // Of those that are known each further one counts.
        sums.note(&"key_0".parse().unwrap(), Refused::Disabled, Scope::Key, at(2));
        let reports: Vec<_> = std::iter::from_fn(|| sums.take()).collect();
        assert_eq!(reports.len(), MOST / MOST_IN_A_REPORT);
        assert!(reports.iter().all(|report| report.sums.len() <= MOST_IN_A_REPORT));
        let count: u64 = reports.iter().flat_map(|report| &report.sums).map(|sum| sum.count).sum();
        assert_eq!(count, u64::try_from(MOST).unwrap() + 1);
    }
}
