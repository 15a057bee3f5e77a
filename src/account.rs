//! What a key has used. It belongs to the key's id and lives apart from the cache of records,
//! so that neither an eviction, nor a reload, nor a new secret sets a counter back.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};

use crate::{
    key::{KeyId, KeyRecord},
    limit::{Counters, Moment},
    metrics::{KeyMetrics, Metrics},
};

/// One key's counters and series.
pub struct Account {
    /// Held to its limits.
    pub counters: Arc<Counters>,
    /// Shown to Prometheus.
    pub metrics: Arc<KeyMetrics>,
    revision: AtomicU64,
    gone: AtomicBool,
    deleted_since: Mutex<Option<Moment>>,
}

impl Account {
    /// How often the key is known to have changed. What is said of it holds for one revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// The key changed.
    pub fn revise(&self) {
        self.revision.fetch_add(1, Ordering::AcqRel);
    }

    /// The source does not know the key any more.
    pub fn is_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether the source knew the key when it was asked last.
    #[must_use]
    pub fn exists(&self) -> bool {
        !self.gone.load(Ordering::Acquire)
    }
}

/// The accounts of all keys that were used lately.
pub struct Accounts {
    metrics: Arc<Metrics>,
    /// What the keys share that have no series of their own, once there is one.
    others: OnceLock<Arc<KeyMetrics>>,
    by_id: RwLock<HashMap<KeyId, Arc<Account>>>,
}

/// How long a deleted key's series can still be scraped.
pub const SERIES_OF_DELETED_KEYS: std::time::Duration = std::time::Duration::from_secs(600);

impl Accounts {
    /// No accounts yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, others: OnceLock::new(), by_id: RwLock::default() }
    }

    /// The account of the key in `record`, opened if it is new.
    #[must_use]
    pub fn of(&self, record: &KeyRecord) -> Arc<Account> {
        let account = self.known(&record.id).unwrap_or_else(|| self.opened(&record.id));
        account.gone.store(false, Ordering::Release);
        account.metrics.describe(&record.name, record.team.as_deref());
        account
    }

    /// The account of the key with this id, if it was ever used.
    #[must_use]
    pub fn known(&self, id: &KeyId) -> Option<Arc<Account>> {
        self.by_id.read().get(id).cloned()
    }

    /// Closes the accounts of keys for which `exists` has said no for ten minutes and that
    /// nothing uses any more.
    pub fn sweep(&self, exists: impl Fn(&KeyId, &Account) -> bool, now: Moment) {
        self.by_id.write().retain(|id, account| {
            let mut deleted_since = account.deleted_since.lock();
            if exists(id, account) {
                *deleted_since = None;
                return true;
            }
            let since = *deleted_since.get_or_insert(now);
            let gone = now.saturating_since(since) >= SERIES_OF_DELETED_KEYS;
            // Whoever holds the account may still count on it: it is closed when they are done.
            let unused = Arc::strong_count(account) == 1 && account.counters.is_idle(now);
            !(gone && unused)
        });
    }

    fn opened(&self, id: &KeyId) -> Arc<Account> {
        let mut by_id = self.by_id.write();
        by_id.entry(id.clone()).or_insert_with(|| Arc::new(self.account(id))).clone()
    }

    fn account(&self, id: &KeyId) -> Account {
        let others = || self.others.get_or_init(|| Arc::new(KeyMetrics::of_others(&self.metrics))).clone();
        Account {
            counters: Arc::default(),
            metrics: KeyMetrics::of(&self.metrics, id).map_or_else(others, Arc::new),
            revision: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            deleted_since: Mutex::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::key::{KeyHash, KeyState, OwnLimits};

    fn record(id: &str) -> KeyRecord {
        KeyRecord {
            id: id.parse().unwrap(),
            name: "some key".parse().unwrap(),
            hash: KeyHash::of(id.as_bytes()),
            state: KeyState::Active,
            owner: None,
            team: None,
            models: None,
            limits: OwnLimits::default(),
            expires_at: None,
            retiring: Vec::new(),
        }
    }

    #[test]
    fn a_deleted_keys_series_go_after_ten_minutes_and_not_before() {
        let metrics = Arc::new(Metrics::new(10).unwrap());
        let accounts = Accounts::new(metrics.clone());
        drop(accounts.of(&record("key_a")));
        let start = Moment::from_nanos(0);
        accounts.sweep(|_, _| false, start);
        accounts.sweep(|_, _| false, start + Duration::from_secs(599));
        assert!(metrics.encode().unwrap().contains("key_a"));
        accounts.sweep(|_, _| false, start + SERIES_OF_DELETED_KEYS);
        assert!(!metrics.encode().unwrap().contains("key_a"));
    }

    #[test]
    fn a_key_that_comes_back_starts_its_ten_minutes_anew() {
        let accounts = Accounts::new(Arc::new(Metrics::new(10).unwrap()));
        let first = accounts.of(&record("key_a"));
        let counters = first.counters.clone();
        drop(first);
        let start = Moment::from_nanos(0);
        accounts.sweep(|_, _| false, start);
        accounts.sweep(|_, _| true, start + Duration::from_secs(300));
        accounts.sweep(|_, _| false, start + Duration::from_secs(601));
        assert!(Arc::ptr_eq(&accounts.of(&record("key_a")).counters, &counters));
    }

    #[test]
    fn over_the_cap_keys_share_their_series() {
        let metrics = Arc::new(Metrics::new(1).unwrap());
        let accounts = Accounts::new(metrics.clone());
        for id in ["key_a", "key_b", "key_c"] {
            accounts.of(&record(id)).metrics.model("qwen3").answered(200);
        }
        let text = metrics.encode().unwrap();
        assert!(text.contains(r#"keymeter_requests_total{key_id="key_a",model="qwen3",status="200"} 1"#));
        assert!(text.contains(r#"keymeter_requests_total{key_id="other",model="qwen3",status="200"} 2"#));
        assert!(!text.contains("key_b"));
    }
}
