//! Resolves a secret's hash to its key. Answers of the source are cached, and renewed before they are stale. Every look-up
//! knows when it began: if the key changed meanwhile, it is repeated, so that an answer from before a change is never used
//! after it.

mod changes;
pub(crate) mod circuit;
#[cfg(test)]
pub(crate) mod fixture;
pub mod http;
pub mod jwt;
mod known;
pub mod push;
pub mod revocation;
pub mod service;
mod yaml;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use keymeter_config::KeyCache;
use keymeter_core::{
    clock::MonotonicTime,
    key::{KeyDenial, KeyHash, KeyRecord},
    money::{BalanceUpdate, WalletAllowances},
};
use moka::sync::Cache;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;

pub use self::{
    changes::Change,
    http::HttpSource,
    known::Key,
    yaml::{KeyChanges, Replacement, YamlSource},
};
use self::{
    changes::{Changes, Epoch},
    known::{Freshness, Term},
};
use crate::{
    keys::revocation::RevocationRegistry,
    limits::account::Accounts,
    observe::metrics::{Lookup, Metrics, Outcome},
};

/// A source of keys.
#[async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// Looks up the key whose secret, or retiring secret, has `hash`. `known` is the tag of the known record.
    ///
    /// # Errors
    /// When the source cannot answer. This never means that there is no such key.
    async fn look_up(&self, hash: &KeyHash, known: Option<&EntityTag>) -> Result<Answer, SourceError>;

    /// Whether the source has ever answered.
    fn has_answered(&self) -> bool;

    /// Whether there is a key with `hash`, if the source has all keys in memory; `None` if it must be asked.
    fn holds(&self, hash: &KeyHash) -> Option<bool> {
        let _ = hash;
        None
    }
}

/// The answer of a source to a look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The secret is this key's.
    Key(Found),
    /// The known record is still valid, for this long.
    Same(Option<Duration>),
    /// The secret is no key's.
    Unknown,
}

/// A key as its source knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The key's record.
    pub record: Arc<KeyRecord>,
    /// The tag of this version of the record.
    pub tag: Option<EntityTag>,
    /// How long the record is valid, if the source says so.
    pub believed_for: Option<Duration>,
    /// The balance of the key's wallet, if the source states it.
    pub balance: Option<BalanceUpdate>,
}

/// The value of an `ETag` header (RFC 9110, section 8.8.3), as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTag(pub ::http::HeaderValue);

/// Why a source did not answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the key source did not answer: {0}")]
pub struct SourceError(pub String);

/// Why there is no key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ResolveError {
    /// No key has this secret.
    #[error("no key has this secret")]
    Unknown,
    /// The source cannot answer at the moment.
    #[error(transparent)]
    Unavailable(#[from] SourceError),
}

/// Finds keys, and caches them.
pub struct Resolver {
    source: Arc<dyn KeySource>,
    known: Cache<KeyHash, Arc<Key>>,
    /// Unknown secrets, with the generation in which they were unknown.
    unknown: Cache<KeyHash, u32>,
    changes: Mutex<Changes>,
    /// Counts the changes of all keys at once.
    generation: AtomicU32,
    /// Answers from before this moment are stale.
    stale_before: AtomicU64,
    look_ups: Mutex<HashMap<KeyHash, watch::Receiver<Option<Resolved>>>>,
    terms: KeyCache,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
    revocations: Arc<RevocationRegistry>,
    wallets: Arc<WalletAllowances>,
}

/// The outcome of a look-up.
pub type Resolved = Result<Arc<Key>, ResolveError>;

/// How many unknown secrets are cached: enough to spare the source a client's retries, and too few for a flood to fill the
/// memory.
const UNKNOWN_CAPACITY: u64 = 100_000;

/// How long a request waits for the source although a stale record could be used.
const PATIENCE: Duration = Duration::from_millis(100);

impl Resolver {
    /// A resolver of `source`. A key that is revoked ends its running requests by `revocations`.
    #[must_use]
    pub fn new(
        source: Arc<dyn KeySource>,
        terms: &KeyCache,
        accounts: Arc<Accounts>,
        metrics: Arc<Metrics>,
        revocations: Arc<RevocationRegistry>,
    ) -> Self {
        Self {
            source,
            known: Cache::builder().max_capacity(terms.capacity).build(),
            unknown: Cache::builder().max_capacity(UNKNOWN_CAPACITY).time_to_live(terms.unknown_ttl).build(),
            changes: Mutex::default(),
            generation: AtomicU32::new(0),
            stale_before: AtomicU64::new(0),
            look_ups: Mutex::default(),
            terms: terms.clone(),
            accounts,
            metrics,
            revocations,
            wallets: Arc::default(),
        }
    }

    /// The key whose secret has `hash`.
    ///
    /// # Errors
    /// When there is no such key, or the source cannot answer.
    pub async fn resolve(self: &Arc<Self>, hash: KeyHash, now: MonotonicTime) -> Resolved {
        self.resolve_known(hash, self.known(&hash), now).await
    }

    /// The key whose secret has `hash`, where `known` is what [`Resolver::known`] gave for it.
    ///
    /// # Errors
    /// As those of `resolve`.
    pub async fn resolve_known(
        self: &Arc<Self>,
        hash: KeyHash,
        known: Option<Arc<Key>>,
        now: MonotonicTime,
    ) -> Resolved {
        let Some(key) = known else {
            if self.is_known_unknown(&hash) {
                self.metrics.looked_up(Lookup::Unknown);
                return Err(ResolveError::Unknown);
            }
            self.metrics.looked_up(Lookup::Miss);
            return Box::pin(self.answer(hash, None, now)).await;
        };
        match self.freshness(&key, now) {
            Freshness::Fresh => {}
            Freshness::Due => drop(self.ask(hash, Some(key.clone()), now)),
            // Boxed, so that the futures of cached keys stay small.
            freshness => return Box::pin(self.check(hash, key, freshness, now)).await,
        }
        self.metrics.looked_up(Lookup::Hit);
        Ok(key)
    }

    /// Whether no change is known since `key` was found. If one is, the key must be resolved again.
    #[must_use]
    pub fn is_current(&self, key: &Key) -> bool {
        key.generation() == self.generation.load(Ordering::Acquire) && !key.is_revised()
    }

    /// Looks `key` up again, and ends its running requests if it is revoked. For a key that changed while a request began.
    pub fn recheck(self: &Arc<Self>, key: &Key) {
        tokio::spawn(self.clone().recheck_hashes(vec![*key.hash()], None));
    }

    /// The cached key of the secret with `hash`. It may be stale: pass it to [`Resolver::resolve_known`].
    #[must_use]
    pub fn known(&self, hash: &KeyHash) -> Option<Arc<Key>> {
        self.known.get(hash)
    }

    /// Whether the secret with `hash` is a key's, if that is known without a look-up.
    #[must_use]
    pub fn is_known_key(&self, hash: &KeyHash) -> Option<bool> {
        self.source.holds(hash).or_else(|| self.is_known_unknown(hash).then_some(false))
    }

    /// The accounts of keys.
    #[must_use]
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// The wallets of keys.
    #[must_use]
    pub fn wallets(&self) -> &Arc<WalletAllowances> {
        &self.wallets
    }

    /// The running requests that end when their keys are revoked.
    #[must_use]
    pub fn revocations(&self) -> &Arc<RevocationRegistry> {
        &self.revocations
    }

    /// Looks up a secret that no key has, until the source answers for the first time.
    pub async fn wait_for_source(&self) {
        let mut failures = 0;
        while let Err(error) = self.source.look_up(&KeyHash::digest(b""), None).await {
            if failures % 32 == 0 {
                tracing::warn!("{error}; the gateway is not ready until it does");
            }
            tokio::time::sleep(circuit::pause(failures, MonotonicTime::now().as_nanos())).await;
            failures = failures.saturating_add(1);
        }
    }

    /// Whether the source has ever answered.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.source.has_answered()
    }

    /// Applies a change of one key or of all, whose notice came at `received`. Answers from before it are no longer used, and
    /// running requests of the key end if it is revoked.
    pub fn changed(self: &Arc<Self>, change: Change, received: MonotonicTime) {
        let concerned = self.mark_changed(&change);
        let hashes = match change {
            Change::All => self.revocations.hashes(|_, _| true),
            Change::Key { id, hash } => {
                self.revocations.hashes(|of, by| id.as_ref() == Some(of) || hash.as_ref() == Some(by))
            }
        };
        if hashes.is_empty() {
            // Requests that come from now on are refused, or look the key up.
            concerned.then(|| self.metrics.revocation_took(MonotonicTime::now().saturating_since(received)));
            return;
        }
        tokio::spawn(self.clone().recheck_hashes(hashes, Some(received)));
    }

    /// Marks all cached keys as stale, since changes may have been missed. They are looked up again when they are used next.
    pub fn mark_all_stale(self: &Arc<Self>, now: MonotonicTime) {
        self.stale_before.fetch_max(now.as_nanos(), Ordering::AcqRel);
        self.unknown.invalidate_all();
        tokio::spawn(self.clone().recheck_hashes(self.revocations.hashes(|_, _| true), None));
    }

    /// Evicts keys that are too old to be used. The cache could do so by itself, for 64 bytes a key.
    pub fn evict_expired(&self, now: MonotonicTime) {
        for (hash, key) in &self.known {
            if key.is_expired(now) {
                self.known.invalidate(&*hash);
            }
        }
        self.known.run_pending_tasks();
        self.unknown.run_pending_tasks();
    }

    /// Marks cached answers as from before a change. Returns whether there were any.
    fn mark_changed(&self, change: &Change) -> bool {
        // Answers that are cached under this lock from now on are checked against the change.
        let mut changes = self.changes.lock();
        changes.push(change.clone());
        let Change::Key { id, hash } = change else {
            self.generation.fetch_add(1, Ordering::AcqRel);
            return true;
        };
        let account = id.as_ref().and_then(|id| self.accounts.known(id));
        if let Some(account) = &account {
            account.revise();
        }
        let was_known = hash.is_some_and(|hash| self.known.contains_key(&hash));
        match hash {
            Some(hash) => {
                self.known.invalidate(hash);
                self.unknown.invalidate(hash);
            }
            // The key may be new, or have a new secret that was tried before.
            None => self.unknown.invalidate_all(),
        }
        account.is_some() || was_known
    }

    /// Looks up the keys of running requests, which ends those whose key is revoked.
    async fn recheck_hashes(self: Arc<Self>, hashes: Vec<KeyHash>, received: Option<MonotonicTime>) {
        let now = MonotonicTime::now();
        let look_ups: Vec<_> = hashes.into_iter().map(|hash| self.ask(hash, self.known.get(&hash), now)).collect();
        for mut look_up in look_ups {
            let answered = look_up.wait_for(Option::is_some).await.is_ok_and(|answer| is_answer(answer.as_ref()));
            if let Some(received) = received.filter(|_| answered) {
                self.metrics.revocation_took(MonotonicTime::now().saturating_since(received));
            }
        }
    }

    fn is_known_unknown(&self, hash: &KeyHash) -> bool {
        self.unknown.get(hash).is_some_and(|generation| generation == self.generation.load(Ordering::Acquire))
    }

    fn freshness(&self, key: &Key, now: MonotonicTime) -> Freshness {
        if key.generation() != self.generation.load(Ordering::Acquire) {
            return key.freshness_after_change(now);
        }
        key.freshness(now, MonotonicTime::from_nanos(self.stale_before.load(Ordering::Acquire)))
    }

    /// Looks up a cached key that is not fresh.
    async fn check(
        self: &Arc<Self>,
        hash: KeyHash,
        key: Arc<Key>,
        freshness: Freshness,
        now: MonotonicTime,
    ) -> Resolved {
        let stale = || {
            self.metrics.looked_up(Lookup::Stale);
            Ok(key.clone())
        };
        if freshness != Freshness::Unusable && key.is_paused(now) {
            return stale();
        }
        let answer = self.answer(hash, Some(key.clone()), now);
        let answer = match freshness {
            Freshness::Stale => match tokio::time::timeout(PATIENCE, answer).await {
                Ok(answer) => answer,
                Err(_) => return stale(),
            },
            _ => answer.await,
        };
        match answer {
            Err(ResolveError::Unavailable(_)) if freshness != Freshness::Unusable => stale(),
            answer => {
                self.metrics.looked_up(Lookup::Miss);
                answer
            }
        }
    }

    async fn answer(self: &Arc<Self>, hash: KeyHash, known: Option<Arc<Key>>, now: MonotonicTime) -> Resolved {
        let mut look_up = self.ask(hash, known, now);
        let lost = || ResolveError::Unavailable(SourceError("the look-up was aborted; the log says why".to_owned()));
        let answer = look_up.wait_for(Option::is_some).await.map_err(|_| lost())?;
        answer.clone().unwrap_or_else(|| Err(lost()))
    }

    /// Looks a key up, once for all requests that need it.
    fn ask(
        self: &Arc<Self>,
        hash: KeyHash,
        known: Option<Arc<Key>>,
        now: MonotonicTime,
    ) -> watch::Receiver<Option<Resolved>> {
        let mut look_ups = self.look_ups.lock();
        if let Some(look_up) = look_ups.get(&hash) {
            return look_up.clone();
        }
        if known.is_none()
            && let Some(key) = self.known.get(&hash).filter(|key| self.freshness(key, now) == Freshness::Fresh)
        {
            // It was answered since the cache was read.
            return watch::channel(Some(Ok(key))).1;
        }
        let (told, look_up) = watch::channel(None);
        look_ups.insert(hash, look_up.clone());
        drop(look_ups);
        let this = self.clone();
        tokio::spawn(async move {
            let look_up = LookUp { resolver: &this, hash };
            let answer = look_up.until_current(known, now).await;
            // It leaves the list first, so that later requests look the key up anew.
            drop(look_up);
            told.send_replace(Some(answer));
        });
        look_up
    }
}

fn is_answer(answer: Option<&Resolved>) -> bool {
    matches!(answer, Some(Ok(_) | Err(ResolveError::Unknown)))
}

/// A look-up that is under way. Dropping it removes it from the list of look-ups.
struct LookUp<'resolver> {
    resolver: &'resolver Resolver,
    hash: KeyHash,
}

impl LookUp<'_> {
    /// Repeats the look-up while the key changes during it.
    async fn until_current(&self, mut known: Option<Arc<Key>>, now: MonotonicTime) -> Resolved {
        loop {
            let start = self.resolver.changes.lock().now();
            let answer = self.query(known.as_deref().and_then(Key::tag)).await;
            match self.remember(start, answer, known.as_deref(), now) {
                Some(resolved) => return resolved,
                None => known = None,
            }
        }
    }

    async fn query(&self, known: Option<&EntityTag>) -> Result<Answer, SourceError> {
        let start = Instant::now();
        let answer = self.resolver.source.look_up(&self.hash, known).await;
        let outcome = match &answer {
            Ok(Answer::Key(_) | Answer::Same(_)) => Outcome::Found,
            Ok(Answer::Unknown) => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        self.resolver.metrics.source_asked(outcome, start.elapsed());
        answer
    }

    /// Caches the answer of a look-up that began at `start`; `None` if it may be from before a change.
    fn remember(
        &self,
        start: Epoch,
        answer: Result<Answer, SourceError>,
        known: Option<&Key>,
        now: MonotonicTime,
    ) -> Option<Resolved> {
        let found = match answer {
            Ok(Answer::Unknown) => return self.remember_unknown(start, known),
            Ok(Answer::Key(found)) => found,
            Ok(Answer::Same(believed_for)) => {
                let Some(known) = known else { return Some(failed(None, unexpected_not_modified(), now)) };
                Found { record: known.record.clone(), tag: known.tag().cloned(), believed_for, balance: None }
            }
            Err(error) => return Some(failed(known, error, now)),
        };
        let (resolver, mut record) = (self.resolver, found.record);
        if let Some(record) = Arc::get_mut(&mut record) {
            resolver.accounts.share_names(record);
        }
        let account = resolver.accounts.of(&record);
        // Changes are marked under this lock, so none is missed between the check and the insertion.
        let changes = resolver.changes.lock();
        if changes.affect(start, Some(&record.id), &self.hash) {
            return None;
        }
        let wallet = record.wallet.as_ref().map(|wallet| resolver.wallets.of(wallet));
        if let (Some(wallet), Some(balance)) = (&wallet, &found.balance) {
            wallet.update(balance, now);
        }
        let term = Term::new(found.tag, &self.hash, now, found.believed_for, &resolver.terms);
        let generation = resolver.generation.load(Ordering::Acquire);
        let others = resolver.accounts.others(&record);
        let key = Arc::new(Key::new(record, (account, others), wallet, self.hash, generation, term));
        resolver.known.insert(self.hash, key.clone());
        resolver.unknown.invalidate(&self.hash);
        drop(changes);
        resolver.revocations.set_end(&self.hash, key.end());
        if let Some(denial) = key.denial(Timestamp::now()) {
            resolver.revocations.revoke(&self.hash, denial);
        }
        Some(Ok(key))
    }

    fn remember_unknown(&self, start: Epoch, known: Option<&Key>) -> Option<Resolved> {
        let resolver = self.resolver;
        let changes = resolver.changes.lock();
        let id = known.map(|key| &key.record.id);
        if changes.affect(start, id, &self.hash) {
            return None;
        }
        resolver.unknown.insert(self.hash, resolver.generation.load(Ordering::Acquire));
        resolver.known.invalidate(&self.hash);
        drop(changes);
        if let Some(known) = known {
            known.account.mark_deleted();
        }
        resolver.revocations.revoke(&self.hash, KeyDenial::Unknown);
        Some(Err(ResolveError::Unknown))
    }
}

impl Drop for LookUp<'_> {
    fn drop(&mut self) {
        self.resolver.look_ups.lock().remove(&self.hash);
    }
}

fn failed(known: Option<&Key>, error: SourceError, now: MonotonicTime) -> Resolved {
    if let Some(known) = known {
        known.pause(now);
    }
    Err(ResolveError::Unavailable(error))
}

/// The error of a source that answers 304 to a first look-up.
fn unexpected_not_modified() -> SourceError {
    SourceError("it answered 304 although no record was known".to_owned())
}

#[cfg(test)]
mod tests;
