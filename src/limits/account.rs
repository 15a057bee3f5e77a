//! Accounts: what each key has used. An account belongs to the key's id and lives apart from the cache of records, so that
//! neither an eviction, nor a reload, nor a new secret resets a counter.

use std::{
    collections::{HashMap, HashSet},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use keymeter_core::{
    clock::MonotonicTime,
    key::{KeyId, KeyRecord},
    learned::KeyTag,
    limit::Counters,
};
use parking_lot::RwLock;

use crate::observe::metrics::{KeyMetrics, Metrics};

/// One key's counters and series.
pub struct Account {
    /// Who it is where models are learned.
    pub tag: KeyTag,
    /// The counters for its limits.
    pub counters: Counters,
    /// Its series for Prometheus.
    pub metrics: Arc<KeyMetrics>,
    /// The bytes of its requests' bodies that are buffered.
    pub buffered: AtomicU64,
    revision: AtomicU32,
    gone: AtomicBool,
    /// The moment of its deletion in nanoseconds, plus one; 0 while it exists.
    deleted_since: AtomicU64,
}

/// An account that a reservation keeps alive.
pub struct Holder(pub Arc<Account>);

impl Deref for Holder {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.0.counters
    }
}

impl Account {
    /// The number of known changes of the key. A record is valid for one revision.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.revision.load(Ordering::Acquire)
    }

    /// Counts a change of the key.
    pub fn revise(&self) {
        self.revision.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that the source no longer knows the key.
    pub fn mark_deleted(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Since when the key is deleted, which is `now` the first time.
    fn deleted_since(&self, now: MonotonicTime) -> MonotonicTime {
        let first = self.deleted_since.compare_exchange(0, now.as_nanos() + 1, Ordering::Relaxed, Ordering::Relaxed);
        first.map_or_else(|since| MonotonicTime::from_nanos(since - 1), |_| now)
    }

    /// Whether the source knew the key in its last answer.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.gone.load(Ordering::Acquire)
    }
}

/// The accounts of all keys that were used recently.
pub struct Accounts {
    metrics: Arc<Metrics>,
    by_id: RwLock<HashMap<KeyId, Arc<Account>>>,
    /// The names of owners and teams, which have many keys each.
    names: RwLock<HashSet<Arc<str>>>,
}

/// How long a deleted key's series can still be scraped.
pub const SERIES_OF_DELETED_KEYS: std::time::Duration = std::time::Duration::from_mins(10);

impl Accounts {
    /// No accounts yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, by_id: RwLock::default(), names: RwLock::default() }
    }

    /// The account of the key in `record`, opened if it is new.
    #[must_use]
    pub fn of(&self, record: &KeyRecord) -> Arc<Account> {
        let account = self.known(&record.id).unwrap_or_else(|| self.opened(&record.id));
        account.gone.store(false, Ordering::Release);
        account.metrics.describe(&record.name, record.team.as_ref());
        account
    }

    /// Makes `record` share the memory of its id, owner and team with known records.
    pub fn share_names(&self, record: &mut KeyRecord) {
        if let Some((id, _)) = self.by_id.read().get_key_value(&record.id) {
            record.id = id.clone();
        }
        for name in [&mut record.owner, &mut record.team, &mut record.wallet].into_iter().flatten() {
            let known = self.names.read().get(name).cloned();
            match known {
                Some(known) => *name = known,
                None => drop(self.names.write().insert(name.clone())),
            }
        }
    }

    /// The account of the key with this id, if it was ever used.
    #[must_use]
    pub fn known(&self, id: &KeyId) -> Option<Arc<Account>> {
        self.by_id.read().get(id).cloned()
    }

    /// Closes the accounts of keys that have not existed for ten minutes and are no longer in use.
    pub fn sweep(&self, exists: impl Fn(&KeyId, &Account) -> bool, now: MonotonicTime) {
        self.by_id.write().retain(|id, account| {
            if exists(id, account) {
                account.deleted_since.store(0, Ordering::Relaxed);
                return true;
            }
            let since = account.deleted_since(now);
            let gone = now.saturating_since(since) >= SERIES_OF_DELETED_KEYS;
            // A request that holds the account may still count on it.
            let unused = Arc::strong_count(account) == 1 && account.counters.is_idle(now);
            !(gone && unused)
        });
        self.names.write().retain(|name| Arc::strong_count(name) > 1);
    }

    fn opened(&self, id: &KeyId) -> Arc<Account> {
        let mut by_id = self.by_id.write();
        by_id.entry(id.clone()).or_insert_with(|| Arc::new(self.account(id))).clone()
    }

    fn account(&self, id: &KeyId) -> Account {
        Account {
            tag: KeyTag::of(id),
            counters: Counters::default(),
            metrics: self.metrics.keys().of(id),
            buffered: AtomicU64::new(0),
            revision: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            deleted_since: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keys::fixture;

    fn record(id: &str) -> KeyRecord {
        fixture::record(id, id)
    }

    #[test]
    fn a_deleted_keys_series_go_after_ten_minutes_and_not_before() {
        let metrics = Arc::new(Metrics::new(10).unwrap());
        let accounts = Accounts::new(metrics.clone());
        drop(accounts.of(&record("key_a")));
        let start = MonotonicTime::from_nanos(0);
        accounts.sweep(|_, _| false, start);
        accounts.sweep(|_, _| false, start + Duration::from_secs(599));
        assert!(metrics.encode().unwrap().contains("\"key_a\""));
        accounts.sweep(|_, _| false, start + SERIES_OF_DELETED_KEYS);
        assert!(!metrics.encode().unwrap().contains("\"key_a\""));
    }

    #[test]
    fn a_key_that_comes_back_starts_its_ten_minutes_anew() {
        let accounts = Accounts::new(Arc::new(Metrics::new(10).unwrap()));
        let first = accounts.of(&record("key_a"));
        first.revise();
        drop(first);
        let start = MonotonicTime::from_nanos(0);
        accounts.sweep(|_, _| false, start);
        accounts.sweep(|_, _| true, start + Duration::from_mins(5));
        accounts.sweep(|_, _| false, start + Duration::from_secs(601));
        assert_eq!(accounts.of(&record("key_a")).revision(), 1, "it is the same account");
    }

    #[test]
    fn keys_of_one_team_share_its_name_in_memory() {
        let accounts = Accounts::new(Arc::new(Metrics::new(10).unwrap()));
        let of_team = |id| {
            let mut record = KeyRecord { team: Some("research".into()), ..record(id) };
            accounts.share_names(&mut record);
            drop(accounts.of(&record));
            record
        };
        let (first, second, again) = (of_team("key_a"), of_team("key_b"), of_team("key_a"));
        assert!(Arc::ptr_eq(first.team.as_ref().unwrap(), second.team.as_ref().unwrap()));
        assert!(std::ptr::eq(first.id.as_str(), again.id.as_str()), "and a key that is met again its id");
        assert_eq!((second.id.as_str(), second.team.as_deref()), ("key_b", Some("research")));
    }

    #[test]
    fn over_the_cap_keys_share_their_series() {
        let metrics = Arc::new(Metrics::new(1).unwrap());
        let accounts = Accounts::new(metrics.clone());
        for id in ["key_a", "key_b", "key_c"] {
            accounts.of(&record(id)).metrics.model(&"qwen3".into()).answered(200);
        }
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"keymeter_requests_total{key_id="key_a",model="qwen3",status="200"} 1"#));
        assert!(text.contains(r#"keymeter_requests_total{key_id="other",model="qwen3",status="200"} 2"#));
        assert!(!text.contains("key_b"));
    }
}
