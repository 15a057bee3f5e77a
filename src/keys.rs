//! From a secret's hash to its key. Answers of the source are kept in a cache and asked for again before they grow old.
//! Every look-up knows when it began: what changed meanwhile is asked for again, so that an answer from before a change
//! is never believed after it.

mod changes;
pub(crate) mod circuit;
pub mod http;
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
    wallet::{BalanceUpdate, WalletAllowances},
};
use moka::sync::Cache;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;

pub use self::{changes::Change, http::HttpSource, known::Key, yaml::YamlSource};
use self::{
    changes::{Changes, Epoch},
    known::{Term, Trust},
};
use crate::{
    keys::revocation::RevocationRegistry,
    limits::account::Accounts,
    observe::metrics::{Lookup, Metrics, Outcome},
};

/// Where keys come from.
#[async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// The key that has `hash` as its secret's or as a retiring secret's. `known` is the tag of what is known of it.
    ///
    /// # Errors
    /// When the source cannot answer, which never means that there is no such key.
    async fn look_up(&self, hash: &KeyHash, known: Option<&EntityTag>) -> Result<Answer, SourceError>;

    /// Whether the source has ever answered.
    fn has_answered(&self) -> bool;

    /// Whether there is a key with `hash`, where the source holds all of them in memory; `None`: it is to be asked.
    fn holds(&self, hash: &KeyHash) -> Option<bool> {
        let _ = hash;
        None
    }
}

/// What a source says of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is this key's.
    Key(Found),
    /// What is known of it still holds, so long.
    Same(Option<Duration>),
    /// It is no key's.
    Unknown,
}

/// A key as its source has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub record: Arc<KeyRecord>,
    /// By which the source knows this version of it.
    pub tag: Option<EntityTag>,
    /// How long it may be believed, if the source says so.
    pub believed_for: Option<Duration>,
    /// What it says of the key's wallet.
    pub word: Option<BalanceUpdate>,
}

/// The value of an `ETag` (RFC 9110, section 8.8.3), as it was sent.
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
    /// It cannot be known at the moment.
    #[error(transparent)]
    Unavailable(#[from] SourceError),
}

/// Finds keys, and remembers them.
pub struct Resolver {
    source: Arc<dyn KeySource>,
    known: Cache<KeyHash, Arc<Key>>,
    /// In which generation it was so.
    unknown: Cache<KeyHash, u32>,
    changes: Mutex<Changes>,
    /// Counts the changes of all keys at once.
    generation: AtomicU32,
    /// What was asked before this moment is to be asked again.
    doubted_before: AtomicU64,
    questions: Mutex<HashMap<KeyHash, watch::Receiver<Option<Resolved>>>>,
    terms: KeyCache,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
    runs: Arc<RevocationRegistry>,
    purses: Arc<WalletAllowances>,
}

/// What became of a look-up.
pub type Resolved = Result<Arc<Key>, ResolveError>;

/// How many unknown secrets are remembered: enough to spare the source a client's retries,
/// and too few for a flood to be felt in memory.
const UNKNOWN_CAPACITY: u64 = 100_000;

/// How long a request waits for the source although what is known of its key could still be used.
const PATIENCE: Duration = Duration::from_millis(100);

impl Resolver {
    /// A resolver over `source`. A key that turns out to be at its end ends its `runs`.
    #[must_use]
    pub fn new(
        source: Arc<dyn KeySource>,
        terms: &KeyCache,
        accounts: Arc<Accounts>,
        metrics: Arc<Metrics>,
        runs: Arc<RevocationRegistry>,
    ) -> Self {
        Self {
            source,
            known: Cache::builder().max_capacity(terms.capacity).build(),
            unknown: Cache::builder().max_capacity(UNKNOWN_CAPACITY).time_to_live(terms.unknown_ttl).build(),
            changes: Mutex::default(),
            generation: AtomicU32::new(0),
            doubted_before: AtomicU64::new(0),
            questions: Mutex::default(),
            terms: terms.clone(),
            accounts,
            metrics,
            runs,
            purses: Arc::default(),
        }
    }

    /// The key whose secret has `hash`.
    ///
    /// # Errors
    /// When there is no such key, or the source cannot answer.
    pub async fn resolve(self: &Arc<Self>, hash: KeyHash, now: MonotonicTime) -> Resolved {
        self.resolve_known(hash, self.known(&hash), now).await
    }

    /// The same, where it was looked up already that the key is `known`.
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
            if self.is_known_to_be_unknown(&hash) {
                self.metrics.looked_up(Lookup::Unknown);
                return Err(ResolveError::Unknown);
            }
            self.metrics.looked_up(Lookup::Miss);
            return Box::pin(self.answer(hash, None, now)).await;
        };
        match self.trust(&key, now) {
            Trust::Fresh => {}
            Trust::Due => drop(self.ask(hash, Some(key.clone()), now)),
            // In a box, so that the requests of cached keys do not carry its size.
            trust => return Box::pin(self.check(hash, key, trust, now)).await,
        }
        self.metrics.looked_up(Lookup::Hit);
        Ok(key)
    }

    /// Whether no change is known since `key` was found. Where one is, it is to be asked for again.
    #[must_use]
    pub fn vouches_for(&self, key: &Key) -> bool {
        key.generation() == self.generation.load(Ordering::Acquire) && !key.is_revised()
    }

    /// Looks after the running requests of a key that changed while one of them began.
    pub fn look_after(self: &Arc<Self>, key: &Key) {
        tokio::spawn(self.clone().recheck(vec![*key.hash()], None));
    }

    /// What was found lately for the secret with `hash`: its sender is no stranger. It is not to be used as it is.
    #[must_use]
    pub fn known(&self, hash: &KeyHash) -> Option<Arc<Key>> {
        self.known.get(hash)
    }

    /// Whether the secret with `hash` is a key's, as far as that is known without a look-up.
    #[must_use]
    pub fn is_a_keys(&self, hash: &KeyHash) -> Option<bool> {
        self.source.holds(hash).or_else(|| self.is_known_to_be_unknown(hash).then_some(false))
    }

    /// What the keys that were met have used.
    #[must_use]
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// The wallets of the keys that were met.
    #[must_use]
    pub fn purses(&self) -> &Arc<WalletAllowances> {
        &self.purses
    }

    /// The running requests that end with their keys.
    #[must_use]
    pub fn runs(&self) -> &Arc<RevocationRegistry> {
        &self.runs
    }

    /// Asks the source for a secret that nobody has, until it answers for the first time.
    pub async fn wait_for_source(&self) {
        let mut failures = 0;
        while let Err(fault) = self.source.look_up(&KeyHash::of(b""), None).await {
            if failures % 32 == 0 {
                tracing::warn!("{fault}; not ready until it does");
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

    /// A key changed, or all did; we were told at `received`. From now on nothing is believed of it that was asked for
    /// before, and its running requests are looked after.
    pub fn changed(self: &Arc<Self>, change: Change, received: MonotonicTime) {
        let concerned = self.void(&change);
        let runs = match change {
            Change::All => self.runs.hashes(|_, _| true),
            Change::Key { id, hash } => self.runs.hashes(|of, by| id.as_ref() == Some(of) || hash.as_ref() == Some(by)),
        };
        if runs.is_empty() {
            // Whoever comes now is refused, or asks.
            concerned.then(|| self.metrics.revocation_took(MonotonicTime::now().saturating_since(received)));
            return;
        }
        tokio::spawn(self.clone().recheck(runs, Some(received)));
    }

    /// We may have missed changes: all that is known is asked for again when it is used next, and meanwhile goes on.
    pub fn doubt_all(self: &Arc<Self>, now: MonotonicTime) {
        self.doubted_before.fetch_max(now.as_nanos(), Ordering::AcqRel);
        self.unknown.invalidate_all();
        tokio::spawn(self.clone().recheck(self.runs.hashes(|_, _| true), None));
    }

    /// Lets go of what is too old to be used. The cache could do so by itself, for 64 bytes a key.
    pub fn tidy(&self, now: MonotonicTime) {
        for (hash, key) in &self.known {
            if key.is_over(now) {
                self.known.invalidate(&*hash);
            }
        }
        self.known.run_pending_tasks();
        self.unknown.run_pending_tasks();
    }

    /// Marks what is known as from before a change. Says whether anything was.
    fn void(&self, change: &Change) -> bool {
        // Whoever answers under this lock from now on knows of the change.
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
            // It may have been made, or have a new secret that was tried before.
            None => self.unknown.invalidate_all(),
        }
        account.is_some() || was_known
    }

    /// Asks for the keys of running requests, of which those end that may not go on.
    async fn recheck(self: Arc<Self>, hashes: Vec<KeyHash>, received: Option<MonotonicTime>) {
        let now = MonotonicTime::now();
        let questions: Vec<_> = hashes.into_iter().map(|hash| self.ask(hash, self.known.get(&hash), now)).collect();
        for mut question in questions {
            let answered = question.wait_for(Option::is_some).await.is_ok_and(|answer| is_answer(answer.as_ref()));
            if let Some(received) = received.filter(|_| answered) {
                self.metrics.revocation_took(MonotonicTime::now().saturating_since(received));
            }
        }
    }

    fn is_known_to_be_unknown(&self, hash: &KeyHash) -> bool {
        self.unknown.get(hash).is_some_and(|generation| generation == self.generation.load(Ordering::Acquire))
    }

    fn trust(&self, key: &Key, now: MonotonicTime) -> Trust {
        if key.generation() != self.generation.load(Ordering::Acquire) {
            return key.trust_after_change(now);
        }
        key.trust(now, MonotonicTime::from_nanos(self.doubted_before.load(Ordering::Acquire)))
    }

    /// Asks for a key of which something is known that is no longer to be taken as it is.
    async fn check(self: &Arc<Self>, hash: KeyHash, key: Arc<Key>, trust: Trust, now: MonotonicTime) -> Resolved {
        let stale = || {
            self.metrics.looked_up(Lookup::Stale);
            Ok(key.clone())
        };
        if trust != Trust::None && key.is_resting(now) {
            return stale();
        }
        let answer = self.answer(hash, Some(key.clone()), now);
        let answer = match trust {
            Trust::Old => match tokio::time::timeout(PATIENCE, answer).await {
                Ok(answer) => answer,
                Err(_) => return stale(),
            },
            _ => answer.await,
        };
        match answer {
            Err(ResolveError::Unavailable(_)) if trust != Trust::None => stale(),
            answer => {
                self.metrics.looked_up(Lookup::Miss);
                answer
            }
        }
    }

    async fn answer(self: &Arc<Self>, hash: KeyHash, known: Option<Arc<Key>>, now: MonotonicTime) -> Resolved {
        let mut question = self.ask(hash, known, now);
        let lost = || ResolveError::Unavailable(SourceError("the look-up broke off; the log says why".to_owned()));
        let answer = question.wait_for(Option::is_some).await.map_err(|_| lost())?;
        answer.clone().unwrap_or_else(|| Err(lost()))
    }

    /// Puts a question to the source, once for all who want to know the same.
    fn ask(
        self: &Arc<Self>,
        hash: KeyHash,
        known: Option<Arc<Key>>,
        now: MonotonicTime,
    ) -> watch::Receiver<Option<Resolved>> {
        let mut questions = self.questions.lock();
        if let Some(question) = questions.get(&hash) {
            return question.clone();
        }
        if known.is_none()
            && let Some(key) = self.known.get(&hash).filter(|key| self.trust(key, now) == Trust::Fresh)
        {
            // It was answered between the look into the cache and this one.
            return watch::channel(Some(Ok(key))).1;
        }
        let (told, question) = watch::channel(None);
        questions.insert(hash, question.clone());
        drop(questions);
        let this = self.clone();
        tokio::spawn(async move {
            let asking = Asking { resolver: &this, hash };
            let answer = asking.until_certain(known, now).await;
            // Gone from the list first: whoever comes later asks anew.
            drop(asking);
            told.send_replace(Some(answer));
        });
        question
    }
}

fn is_answer(answer: Option<&Resolved>) -> bool {
    matches!(answer, Some(Ok(_) | Err(ResolveError::Unknown)))
}

/// A question that is put. It leaves the list of questions however it ends.
struct Asking<'resolver> {
    resolver: &'resolver Resolver,
    hash: KeyHash,
}

impl Asking<'_> {
    /// Asks again as long as the key changed while the source answered.
    async fn until_certain(&self, mut known: Option<Arc<Key>>, now: MonotonicTime) -> Resolved {
        loop {
            let start = self.resolver.changes.lock().now();
            let answer = self.put(known.as_deref().and_then(Key::tag)).await;
            match self.take_in(start, answer, known.as_deref(), now) {
                Some(resolved) => return resolved,
                None => known = None,
            }
        }
    }

    async fn put(&self, known: Option<&EntityTag>) -> Result<Answer, SourceError> {
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

    /// Remembers an answer to a question that was put at `start`; `None`: it may be from before a change.
    fn take_in(
        &self,
        start: Epoch,
        answer: Result<Answer, SourceError>,
        known: Option<&Key>,
        now: MonotonicTime,
    ) -> Option<Resolved> {
        let found = match answer {
            Ok(Answer::Unknown) => return self.take_in_unknown(start, known),
            Ok(Answer::Key(found)) => found,
            Ok(Answer::Same(believed_for)) => {
                let Some(known) = known else { return Some(failed(None, same_as_what(), now)) };
                Found { record: known.record.clone(), tag: known.tag().cloned(), believed_for, word: None }
            }
            Err(fault) => return Some(failed(known, fault, now)),
        };
        let (resolver, mut record) = (self.resolver, found.record);
        if let Some(record) = Arc::get_mut(&mut record) {
            resolver.accounts.share_names(record);
        }
        let account = resolver.accounts.of(&record);
        // Whoever tells of a change holds this lock: none is missed between the look for it and the insertion.
        let changes = resolver.changes.lock();
        if changes.affect(start, Some(&record.id), &self.hash) {
            return None;
        }
        let purse = record.wallet.as_ref().map(|wallet| resolver.purses.of(wallet));
        if let (Some(purse), Some(word)) = (&purse, &found.word) {
            purse.hear(word, now);
        }
        let term = Term::new(found.tag, &self.hash, now, found.believed_for, &resolver.terms);
        let generation = resolver.generation.load(Ordering::Acquire);
        let key = Arc::new(Key::new(record, account, purse, self.hash, generation, term));
        resolver.known.insert(self.hash, key.clone());
        resolver.unknown.invalidate(&self.hash);
        drop(changes);
        resolver.runs.extend(&self.hash, key.end());
        if let Some(bar) = key.bar(Timestamp::now()) {
            resolver.runs.bar(&self.hash, bar);
        }
        Some(Ok(key))
    }

    fn take_in_unknown(&self, start: Epoch, known: Option<&Key>) -> Option<Resolved> {
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
        resolver.runs.bar(&self.hash, KeyDenial::Unknown);
        Some(Err(ResolveError::Unknown))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.resolver.questions.lock().remove(&self.hash);
    }
}

fn failed(known: Option<&Key>, fault: SourceError, now: MonotonicTime) -> Resolved {
    if let Some(known) = known {
        known.rest(now);
    }
    Err(ResolveError::Unavailable(fault))
}

/// Of a source that says "as before" to one that asked for the first time.
fn same_as_what() -> SourceError {
    SourceError("it answered 304 though nothing was known before".to_owned())
}

#[cfg(test)]
mod tests;
