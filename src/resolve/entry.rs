//! What is known of a key, and how far it is to be believed.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
use std::time::Duration;

use super::{
    EntityTag, Key,
    circuit::{fraction, pause},
};
use crate::{config::KeyCache, limit::Moment};

/// What the source said of a key, and when.
pub(super) struct Entry {
    pub(super) key: Arc<Key>,
    pub(super) tag: Option<EntityTag>,
    asked: Moment,
    /// From then on it is asked for in advance.
    due: Moment,
    fresh_until: Moment,
    stale_until: Moment,
    failures: AtomicU32,
    /// Until then a source that failed is not asked for it again.
    resting_until: AtomicU64,
}

/// How far an entry is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// As it is.
    Fresh,
    /// As it is; it is time to ask for it again.
    Due,
    /// Unless the source says otherwise within a moment.
    Old,
    /// Only if the source cannot answer.
    Doubtful,
    /// Not at all.
    None,
}

impl Entry {
    /// The answer to a question of `now`, that may be believed `believed_for`, and as long as `terms` say at most.
    pub(super) fn new(
        key: Arc<Key>,
        tag: Option<EntityTag>,
        now: Moment,
        believed_for: Option<Duration>,
        terms: &KeyCache,
    ) -> Self {
        let life = believed_for.unwrap_or(terms.ttl).min(terms.ttl);
        // Not all that came together is asked for together: between 3/4 and 7/8 of its life.
        let due_after = life * 3 / 4 + life.mul_f64(fraction(seed(&key, now)) / 8.0);
        let fresh_until = now + life;
        Self {
            key,
            tag,
            asked: now,
            due: now + due_after,
            fresh_until,
            stale_until: fresh_until + terms.stale_for,
            failures: AtomicU32::new(0),
            resting_until: AtomicU64::new(0),
        }
    }

    /// How far it is believed at `now`, where changes before `doubted_before` may have been missed.
    pub(super) fn trust(&self, now: Moment, doubted_before: Moment) -> Trust {
        if self.is_void(now) {
            Trust::None
        } else if self.fresh_until == self.asked {
            Trust::Doubtful
        } else if now >= self.fresh_until || self.asked < doubted_before {
            Trust::Old
        } else if now >= self.due && !self.is_resting(now) {
            Trust::Due
        } else {
            Trust::Fresh
        }
    }

    /// The same where all keys have changed since.
    pub(super) fn trust_after_change(&self, now: Moment) -> Trust {
        if self.is_void(now) { Trust::None } else { Trust::Doubtful }
    }

    /// Whether the source failed to answer a moment ago.
    pub(super) fn is_resting(&self, now: Moment) -> bool {
        now.as_nanos() < self.resting_until.load(Ordering::Relaxed)
    }

    /// The source failed to answer; it is asked again after a pause that grows.
    pub(super) fn rest(&self, now: Moment) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let end = now + pause(failures, seed(&self.key, now));
        self.resting_until.store(end.as_nanos(), Ordering::Relaxed);
    }

    fn is_void(&self, now: Moment) -> bool {
        self.key.revision != self.key.account.revision() || now >= self.stale_until
    }
}

fn seed(key: &Arc<Key>, now: Moment) -> u64 {
    now.as_nanos() ^ (Arc::as_ptr(key).addr() as u64)
}
