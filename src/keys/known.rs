//! A cached key and its freshness. A million of them may be in memory, so rare fields are boxed, and spans of time are short
//! numbers.

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
    limit::Scopes,
    money::WalletAllowance,
};

use super::{
    EntityTag,
    circuit::{fraction, pause},
};
use crate::limits::account::{Account, Holder, OtherAccounts, ScopeAccount};

/// A key as a request uses it.
pub struct Key {
    /// Its record from the source.
    pub record: Arc<KeyRecord>,
    /// What it has used.
    pub account: Arc<Account>,
    /// What its team and its owner have, where they have limits.
    others: Option<Box<OtherAccounts>>,
    /// The wallet that its requests are charged to.
    pub wallet: Option<Arc<WalletAllowance>>,
    /// The hash of the secret that it was found by, if that is a retiring one.
    found_by: Option<Box<KeyHash>>,
    /// The generation of all keys and the revision of this one when it was found.
    generation: u32,
    revision: u32,
    term: Term,
}

impl Key {
    pub(super) fn new(
        record: Arc<KeyRecord>,
        (account, others): (Arc<Account>, Option<Box<OtherAccounts>>),
        wallet: Option<Arc<WalletAllowance>>,
        hash: KeyHash,
        generation: u32,
        term: Term,
    ) -> Self {
        let (found_by, revision) = ((record.hash != hash).then(|| Box::new(hash)), account.revision());
        Self { record, account, others, wallet, found_by, generation, revision, term }
    }

    /// The account of its team, if that has limits.
    #[must_use]
    pub fn team(&self) -> Option<&Arc<ScopeAccount>> {
        self.others.as_ref()?.team.as_ref()
    }

    /// The account of its owner, if that has limits.
    #[must_use]
    pub fn owner(&self) -> Option<&Arc<ScopeAccount>> {
        self.others.as_ref()?.owner.as_ref()
    }

    /// The accounts that its requests are counted in.
    #[must_use]
    pub fn accounts(&self) -> Scopes<Holder> {
        Scopes {
            team: self.team().cloned().map(Holder::Scope),
            owner: self.owner().cloned().map(Holder::Scope),
            key: Holder::Key(self.account.clone()),
        }
    }

    /// The ids that its requests are counted under.
    #[must_use]
    pub fn ids(&self) -> Scopes<&str> {
        Scopes {
            team: self.team().map(|team| &*team.id),
            owner: self.owner().map(|owner| &*owner.id),
            key: self.record.id.as_str(),
        }
    }

    /// Why the key may not be used at `now` with the secret that it was found by; `None` if it may.
    #[must_use]
    pub fn denial(&self, now: Timestamp) -> Option<KeyDenial> {
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

    /// When the key, or the secret that it was found by, expires, and why it may not be used then.
    #[must_use]
    pub fn end(&self) -> Option<(Timestamp, KeyDenial)> {
        let of_secret = self.secret_expires().map(|end| (end, KeyDenial::Unknown));
        let of_key = self.record.expires_at.map(|end| (end, KeyDenial::Expired));
        of_secret.into_iter().chain(of_key).min_by_key(|(end, _)| *end)
    }

    /// When the secret that it was found by expires, if it is retiring.
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

    /// The freshness at `now`. Changes before `stale_before` may have been missed.
    pub(super) fn freshness(&self, now: MonotonicTime, stale_before: MonotonicTime) -> Freshness {
        let term = &self.term;
        if self.is_unusable(now) {
            Freshness::Unusable
        } else if term.fresh_ms == 0 {
            Freshness::Doubtful
        } else if now >= term.after(term.fresh_ms) || term.asked < stale_before {
            Freshness::Stale
        } else if now >= term.after(term.due_ms) && !self.is_paused(now) {
            Freshness::Due
        } else {
            Freshness::Fresh
        }
    }

    /// The freshness after a change of all keys.
    pub(super) fn freshness_after_change(&self, now: MonotonicTime) -> Freshness {
        if self.is_unusable(now) { Freshness::Unusable } else { Freshness::Doubtful }
    }

    /// Whether look-ups pause because the source failed.
    pub(super) fn is_paused(&self, now: MonotonicTime) -> bool {
        now.as_nanos() < self.term.paused_until.load(Ordering::Relaxed)
    }

    /// Pauses look-ups after a failure of the source. The pause grows with each failure.
    pub(super) fn pause(&self, now: MonotonicTime) {
        let failures = self.term.failures.fetch_add(1, Ordering::Relaxed);
        let end = now + pause(failures, now.as_nanos() ^ (std::ptr::from_ref(self).addr() as u64));
        self.term.paused_until.store(end.as_nanos(), Ordering::Relaxed);
    }

    /// Whether the record is too old to be used at all.
    pub(super) fn is_expired(&self, now: MonotonicTime) -> bool {
        now >= self.term.after(self.term.stale_ms)
    }

    fn is_unusable(&self, now: MonotonicTime) -> bool {
        self.is_revised() || self.is_expired(now)
    }
}

/// The term of a record: when the source was asked, and how long the record is fresh, in milliseconds since then.
pub(super) struct Term {
    tag: Option<Box<EntityTag>>,
    asked: MonotonicTime,
    /// From then on it is renewed in advance.
    due_ms: u32,
    fresh_ms: u32,
    stale_ms: u32,
    failures: AtomicU32,
    /// Until then a source that failed is not asked again.
    paused_until: AtomicU64,
}

impl Term {
    /// The term of an answer to a look-up of `now`, which is valid for `believed_for`, and no longer than `terms` say.
    pub(super) fn new(
        tag: Option<EntityTag>,
        hash: &KeyHash,
        now: MonotonicTime,
        believed_for: Option<Duration>,
        terms: &KeyCache,
    ) -> Self {
        let life = believed_for.unwrap_or(terms.ttl).min(terms.ttl);
        // Records that came together are not renewed together, but between 3/4 and 7/8 of their life.
        let due = life * 3 / 4 + life.mul_f64(fraction(now.as_nanos() ^ u64::from(hash.first_byte())) / 8.0);
        Self {
            tag: tag.map(Box::new),
            asked: now,
            due_ms: millis(due),
            fresh_ms: millis(life),
            stale_ms: millis(life.saturating_add(terms.stale_for)),
            failures: AtomicU32::new(0),
            paused_until: AtomicU64::new(0),
        }
    }

    fn after(&self, millis: u32) -> MonotonicTime {
        self.asked + Duration::from_millis(millis.into())
    }
}

/// Whole milliseconds, rounded up; 49 days at most.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

/// How a cached record may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It may be used.
    Fresh,
    /// It may be used, and is to be renewed.
    Due,
    /// It may be used unless the source answers within a moment.
    Stale,
    /// It may be used only if the source cannot answer.
    Doubtful,
    /// It may not be used.
    Unusable,
}
