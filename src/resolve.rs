//! From a secret's hash to its key. Answers of the source are kept in a cache; every answer
//! bears the generation in which it was asked for, and a change of the keys begins a new
//! generation, so that what was asked before a change is never believed after it.

mod yaml;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use jiff::Timestamp;
use moka::future::Cache;

pub use self::yaml::YamlSource;
use crate::{
    account::{Account, Accounts},
    config::KeyCache,
    key::{KeyHash, KeyRecord},
    metrics::{Lookup, Metrics, Outcome},
};

/// Where keys come from.
#[async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// The key that has `hash` as its secret's or as a retiring secret's; `None`: there is no such key.
    ///
    /// # Errors
    /// When the source cannot answer, which never means that there is no such key.
    async fn look_up(&self, hash: &KeyHash) -> Result<Option<Arc<KeyRecord>>, SourceFault>;
}

/// Why a source did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFault(pub String);

impl fmt::Display for SourceFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the key source did not answer: {}", self.0)
    }
}

impl std::error::Error for SourceFault {}

/// A key as a request meets it.
pub struct Key {
    /// What its source says.
    pub record: Arc<KeyRecord>,
    /// What it used.
    pub account: Arc<Account>,
    /// When the secret it was found by stops working, if that one is retiring.
    secret_expires: Option<Timestamp>,
}

impl Key {
    /// Whether the secret by which the key was found still works.
    #[must_use]
    pub fn secret_works(&self, now: Timestamp) -> bool {
        self.secret_expires.is_none_or(|end| now <= end)
    }
}

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveFault {
    /// No key has this secret.
    Unknown,
    /// It cannot be known at the moment.
    Unavailable(SourceFault),
}

/// Finds keys, and remembers them.
pub struct Resolver {
    source: Arc<dyn KeySource>,
    known: Cache<KeyHash, Arc<Entry<Arc<Key>>>>,
    unknown: Cache<KeyHash, Arc<Entry<()>>>,
    generation: AtomicU64,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
}

/// An answer, and the generation in which the question was put.
struct Entry<T> {
    generation: u64,
    answer: T,
}

/// How many unknown secrets are remembered: enough to spare the source a client's retries,
/// and too few for a flood to be felt in memory.
const UNKNOWN_CAPACITY: u64 = 100_000;

impl Resolver {
    /// A resolver over `source`.
    #[must_use]
    pub fn new(source: Arc<dyn KeySource>, cache: &KeyCache, accounts: Arc<Accounts>, metrics: Arc<Metrics>) -> Self {
        Self {
            source,
            known: Cache::builder().max_capacity(cache.capacity).time_to_live(cache.ttl).build(),
            unknown: Cache::builder().max_capacity(UNKNOWN_CAPACITY).time_to_live(cache.unknown_ttl).build(),
            generation: AtomicU64::new(0),
            accounts,
            metrics,
        }
    }

    /// The key whose secret has `hash`.
    ///
    /// # Errors
    /// When there is no such key, or the source cannot answer.
    pub async fn resolve(&self, hash: KeyHash) -> Result<Arc<Key>, ResolveFault> {
        match self.known.get(&hash).await {
            Some(entry) if self.is_current(&entry) => {
                self.metrics.looked_up(Lookup::Hit);
                return Ok(entry.answer.clone());
            }
            Some(_) => {
                self.metrics.looked_up(Lookup::Stale);
                self.known.invalidate(&hash).await;
            }
            None => {}
        }
        if self.is_known_to_be_unknown(&hash).await {
            self.metrics.looked_up(Lookup::Unknown);
            return Err(ResolveFault::Unknown);
        }
        self.metrics.looked_up(Lookup::Miss);
        // In a box, so that the requests of cached keys do not carry its size.
        Box::pin(self.ask(hash)).await
    }

    /// Whether the secret with `hash` was found lately, so that its sender is no stranger.
    #[must_use]
    pub fn is_known(&self, hash: &KeyHash) -> bool {
        self.known.contains_key(hash)
    }

    /// Begins a new generation: from now on nothing is believed that was asked for before.
    pub fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Lets go of what has run out. The cache does so by itself while it is used, and not while it rests.
    pub async fn tidy(&self) {
        self.known.run_pending_tasks().await;
        self.unknown.run_pending_tasks().await;
    }

    async fn is_known_to_be_unknown(&self, hash: &KeyHash) -> bool {
        self.unknown.get(hash).await.is_some_and(|entry| self.is_current(&entry))
    }

    fn is_current<T>(&self, entry: &Entry<T>) -> bool {
        entry.generation == self.generation.load(Ordering::Acquire)
    }

    /// Asks the source, once for all who want to know the same, and again as long as the keys
    /// changed while it answered.
    async fn ask(&self, hash: KeyHash) -> Result<Arc<Key>, ResolveFault> {
        loop {
            let asked = self.known.try_get_with(hash, self.question(hash)).await;
            match asked {
                Ok(entry) if self.is_current(&entry) => return Ok(entry.answer.clone()),
                Ok(_) => self.known.invalidate(&hash).await,
                Err(fault) if self.is_current(&fault) => return Err(fault.answer.clone()),
                Err(_) => {}
            }
        }
    }

    /// One question. Whoever joins it later gets the generation in which it was put, with a fault as well.
    async fn question(&self, hash: KeyHash) -> Result<Arc<Entry<Arc<Key>>>, Entry<ResolveFault>> {
        let generation = self.generation.load(Ordering::Acquire);
        let start = Instant::now();
        let answer = self.source.look_up(&hash).await;
        let outcome = match &answer {
            Ok(Some(_)) => Outcome::Found,
            Ok(None) => Outcome::Unknown,
            Err(_) => Outcome::Failed,
        };
        self.metrics.source_asked(outcome, start.elapsed());
        match answer {
            Ok(Some(record)) => Ok(Arc::new(Entry { generation, answer: Arc::new(self.key(hash, record)) })),
            Ok(None) => {
                self.unknown.insert(hash, Arc::new(Entry { generation, answer: () })).await;
                Err(Entry { generation, answer: ResolveFault::Unknown })
            }
            Err(fault) => Err(Entry { generation, answer: ResolveFault::Unavailable(fault) }),
        }
    }

    fn key(&self, hash: KeyHash, record: Arc<KeyRecord>) -> Key {
        let retiring = record.retiring.iter().find(|retiring| record.hash != hash && retiring.hash == hash);
        let secret_expires = retiring.map(|retiring| retiring.not_after);
        Key { account: self.accounts.of(&record), secret_expires, record }
    }
}

#[cfg(test)]
mod tests;
