//! What is known of a key, and how far it is to be believed. A million of them are in memory, so what is rarely there
//! is kept apart and spans of time are short numbers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
use std::time::Duration;

use jiff::Timestamp;
use keymeter_config::KeyCache;
use keymeter_core::{
    clock::MonotonicTime,
    key::{KeyDenial, KeyHash, KeyRecord, KeyState},
    money::WalletAllowance,
};

use super::{
    EntityTag,
    circuit::{fraction, pause},
};
use crate::limits::account::Account;

/// A key as a request meets it.
pub struct Key {
    /// What its source says.
    pub record: Arc<KeyRecord>,
    /// What it used.
    pub account: Arc<Account>,
    /// What its requests are charged to.
    pub purse: Option<Arc<WalletAllowance>>,
    /// The secret that it was found by, where that is a retiring one.
    found_by: Option<Box<KeyHash>>,
    /// Of all keys, and of this one: after a change they are others.
    generation: u32,
    revision: u32,
    term: Term,
}

impl Key {
    pub(super) fn new(
        record: Arc<KeyRecord>,
        account: Arc<Account>,
        purse: Option<Arc<WalletAllowance>>,
        hash: KeyHash,
        generation: u32,
        term: Term,
    ) -> Self {
        let (found_by, revision) = ((record.hash != hash).then(|| Box::new(hash)), account.revision());
        Self { record, account, purse, found_by, generation, revision, term }
    }

    /// Why the key may not be used at `now` by the secret that it was found by; `None`: it may.
    #[must_use]
    pub fn bar(&self, now: Timestamp) -> Option<KeyDenial> {
        if self.secret_expires().is_some_and(|end| now > end) {
            return Some(KeyDenial::Unknown);
        }
        match self.record.state {
            KeyState::Disabled => Some(KeyDenial::Disabled),
            KeyState::Archived => Some(KeyDenial::Archived),
            KeyState::NoBalance => Some(KeyDenial::NoBalance),
            KeyState::Active => self.record.expires_at.filter(|end| now >= *end).map(|_| KeyDenial::Expired),
        }
    }

    /// When the key, or the secret that it was found by, stops working, and why it may not be used then.
    #[must_use]
    pub fn end(&self) -> Option<(Timestamp, KeyDenial)> {
        let of_secret = self.secret_expires().map(|end| (end, KeyDenial::Unknown));
        let of_key = self.record.expires_at.map(|end| (end, KeyDenial::Expired));
        of_secret.into_iter().chain(of_key).min_by_key(|(end, _)| *end)
    }

    /// When the secret that it was found by stops working, if it is retiring.
    fn secret_expires(&self) -> Option<Timestamp> {
        let found_by = self.found_by.as_deref()?;
        self.record.retiring.iter().find(|retiring| retiring.hash == *found_by).map(|retiring| retiring.not_after)
    }

    /// The hash of the secret that it was found by.
    #[must_use]
    pub fn hash(&self) -> &KeyHash {
        self.found_by.as_deref().unwrap_or(&self.record.hash)
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether the key changed since it was found.
    pub(super) fn is_revised(&self) -> bool {
        self.revision != self.account.revision()
    }

    pub(super) fn tag(&self) -> Option<&EntityTag> {
        self.term.tag.as_deref()
    }

    /// How far it is believed at `now`, where changes before `doubted_before` may have been missed.
    pub(super) fn trust(&self, now: MonotonicTime, doubted_before: MonotonicTime) -> Trust {
        let term = &self.term;
        if self.is_void(now) {
            Trust::None
        } else if term.fresh_ms == 0 {
            Trust::Doubtful
        } else if now >= term.after(term.fresh_ms) || term.asked < doubted_before {
            Trust::Old
        } else if now >= term.after(term.due_ms) && !self.is_resting(now) {
            Trust::Due
        } else {
            Trust::Fresh
        }
    }

    /// The same where all keys have changed since.
    pub(super) fn trust_after_change(&self, now: MonotonicTime) -> Trust {
        if self.is_void(now) { Trust::None } else { Trust::Doubtful }
    }

    /// Whether the source failed to answer a moment ago.
    pub(super) fn is_resting(&self, now: MonotonicTime) -> bool {
        now.as_nanos() < self.term.resting_until.load(Ordering::Relaxed)
    }

    /// The source failed to answer; it is asked again after a pause that grows.
    pub(super) fn rest(&self, now: MonotonicTime) {
        let failures = self.term.failures.fetch_add(1, Ordering::Relaxed);
        let end = now + pause(failures, now.as_nanos() ^ (std::ptr::from_ref(self).addr() as u64));
        self.term.resting_until.store(end.as_nanos(), Ordering::Relaxed);
    }

    /// Whether it is too old to be used at all.
    pub(super) fn is_over(&self, now: MonotonicTime) -> bool {
        now >= self.term.after(self.term.stale_ms)
    }

    fn is_void(&self, now: MonotonicTime) -> bool {
        self.is_revised() || self.is_over(now)
    }
}

/// When the source said what is known, and how long that holds: in milliseconds since then.
pub(super) struct Term {
    tag: Option<Box<EntityTag>>,
    asked: MonotonicTime,
    /// From then on it is asked for in advance.
    due_ms: u32,
    fresh_ms: u32,
    stale_ms: u32,
    failures: AtomicU32,
    /// Until then a source that failed is not asked for it again.
    resting_until: AtomicU64,
}

impl Term {
    /// Of the answer to a question of `now`, that may be believed `believed_for`, and as long as `terms` say at most.
    pub(super) fn new(
        tag: Option<EntityTag>,
        hash: &KeyHash,
        now: MonotonicTime,
        believed_for: Option<Duration>,
        terms: &KeyCache,
    ) -> Self {
        let life = believed_for.unwrap_or(terms.ttl).min(terms.ttl);
        // Not all that came together is asked for together: between 3/4 and 7/8 of its life.
        let due = life * 3 / 4 + life.mul_f64(fraction(now.as_nanos() ^ u64::from(hash.first_byte())) / 8.0);
        Self {
            tag: tag.map(Box::new),
            asked: now,
            due_ms: millis(due),
            fresh_ms: millis(life),
            stale_ms: millis(life.saturating_add(terms.stale_for)),
            failures: AtomicU32::new(0),
            resting_until: AtomicU64::new(0),
        }
    }

    fn after(&self, millis: u32) -> MonotonicTime {
        self.asked + Duration::from_millis(millis.into())
    }
}

/// Whole milliseconds, rounded up; 49 days at most, after which a record may well be asked for again.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// How far what is known is believed.
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
