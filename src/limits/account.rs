//! Accounts: what each key, team and owner has used. An account belongs to an id and lives apart from the cache of records, so
//! that neither an eviction, nor a reload, nor a new secret, nor a key that changes its team resets a counter.

use std::{
    collections::{HashMap, HashSet},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use keymeter_core::{
    clock::{MonotonicTime, Now},
    key::{KeyId, KeyRecord},
    learned::KeyTag,
    limit::{Counters, Scope, ScopeLimits},
};
use parking_lot::RwLock;

use super::{kept::KeptQuotas, store::StoreError};
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

/// The counters of a team or of an owner, of all keys together, and what they may use.
pub struct ScopeAccount {
    /// Of which team or owner.
    pub id: Arc<str>,
    /// The counters for its limits.
    pub counters: Counters,
    limits: ArcSwap<ScopeLimits>,
}

impl ScopeAccount {
    /// What it may use, as the record that was fetched last says.
    #[must_use]
    pub fn limits(&self) -> ScopeLimits {
        ScopeLimits::clone(&self.limits.load())
    }
}

/// An account that a reservation keeps alive.
#[derive(Clone)]
pub enum Holder {
    /// A key's.
    Key(Arc<Account>),
    /// A team's or an owner's.
    Scope(Arc<ScopeAccount>),
}

impl Deref for Holder {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        match self {
            Self::Key(account) => &account.counters,
            Self::Scope(account) => &account.counters,
        }
    }
}

impl Holder {
    /// Whether both are of one account.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(this), Self::Key(other)) => Arc::ptr_eq(this, other),
            (Self::Scope(this), Self::Scope(other)) => Arc::ptr_eq(this, other),
            _ => false,
        }
    }

    /// The id of the team or the owner, if it is one.
    #[must_use]
    pub fn scope_id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Key(_) => None,
            Self::Scope(account) => Some(&account.id),
        }
    }
}

/// The accounts of a key's team and owner, where they have limits.
#[derive(Default)]
pub struct OtherAccounts {
    /// Its team's.
    pub team: Option<Arc<ScopeAccount>>,
    /// Its owner's.
    pub owner: Option<Arc<ScopeAccount>>,
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
    teams: RwLock<HashMap<Arc<str>, Arc<ScopeAccount>>>,
    owners: RwLock<HashMap<Arc<str>, Arc<ScopeAccount>>>,
    /// Where quotas are kept.
    kept: Arc<KeptQuotas>,
    /// The names of owners and teams, which have many keys each.
    names: RwLock<HashSet<Arc<str>>>,
}

/// How long a deleted key's series can still be scraped.
pub const SERIES_OF_DELETED_KEYS: std::time::Duration = std::time::Duration::from_mins(10);

impl Accounts {
    /// No accounts yet, whose quotas are kept nowhere.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self::with_kept(metrics, Arc::new(KeptQuotas::nowhere()))
    }

    /// No accounts yet. What they used of their quotas before is in `kept`.
    #[must_use]
    pub fn with_kept(metrics: Arc<Metrics>, kept: Arc<KeptQuotas>) -> Self {
        Self {
            metrics,
            kept,
            by_id: RwLock::default(),
            teams: RwLock::default(),
            owners: RwLock::default(),
            names: RwLock::default(),
        }
    }

    /// The account of the key in `record`, opened if it is new.
    #[must_use]
    pub fn of(&self, record: &KeyRecord) -> Arc<Account> {
        let account = self.known(&record.id).unwrap_or_else(|| self.opened(&record.id));
        account.gone.store(false, Ordering::Release);
        account.metrics.describe(&record.name, record.team.as_ref());
        account
    }

    /// The accounts of the team and the owner in `record`, if they have limits, which are from now on those of this record.
    #[must_use]
    pub fn others(&self, record: &KeyRecord) -> Option<Box<OtherAccounts>> {
        let (team, owner) =
            record.terms.as_ref().map_or((None, None), |terms| (terms.team.as_ref(), terms.owner.as_ref()));
        let team = self.account_of(Scope::Team, record.team.as_ref(), team);
        let owner = self.account_of(Scope::Owner, record.owner.as_ref(), owner);
        (team.is_some() || owner.is_some()).then(|| Box::new(OtherAccounts { team, owner }))
    }

    /// The accounts of all teams, or else of all owners, that have limits.
    #[must_use]
    pub fn of_scope(&self, scope: Scope) -> Vec<Arc<ScopeAccount>> {
        self.of_others(scope).read().values().cloned().collect()
    }

    /// Where quotas are kept.
    #[must_use]
    pub fn kept(&self) -> &Arc<KeptQuotas> {
        &self.kept
    }

    /// Takes over what the store has of everybody who has an account: after it was opened late.
    pub fn restore_all(&self) {
        let Some(store) = self.kept.opened() else { return };
        self.by_id.read().iter().for_each(|(id, account)| store.restore(Scope::Key, id.as_str(), &account.counters));
        for scope in [Scope::Team, Scope::Owner] {
            self.of_others(scope).read().iter().for_each(|(id, account)| store.restore(scope, id, &account.counters));
        }
    }

    /// Takes over what another process has used of quotas, where there are accounts for it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn restore_others(&self, now: Now) -> Result<(), StoreError> {
        let Some(store) = self.kept.opened() else { return Ok(()) };
        for (scope, id) in store.poll_others(now.date)? {
            match scope {
                Scope::Team | Scope::Owner => {
                    if let Some(account) = self.of_others(scope).read().get(id.as_str()) {
                        store.restore(scope, &id, &account.counters);
                    }
                }
                Scope::Key | Scope::Model => {
                    if let Some(account) = id.parse().ok().and_then(|id| self.known(&id)) {
                        store.restore(Scope::Key, &id, &account.counters);
                    }
                }
            }
        }
        Ok(())
    }

    fn of_others(&self, scope: Scope) -> &RwLock<HashMap<Arc<str>, Arc<ScopeAccount>>> {
        if scope == Scope::Team { &self.teams } else { &self.owners }
    }

    /// The account of a team or an owner, opened if it is new. One that has no limits any more keeps what it counts.
    fn account_of(
        &self,
        scope: Scope,
        id: Option<&Arc<str>>,
        limits: Option<&Arc<ScopeLimits>>,
    ) -> Option<Arc<ScopeAccount>> {
        let (id, accounts) = (id?, self.of_others(scope));
        let known = accounts.read().get(id).cloned();
        let Some(limits) = limits else {
            known.inspect(|account| account.limits.store(Arc::new(ScopeLimits::unlimited())));
            return None;
        };
        let account = known.unwrap_or_else(|| {
            let mut accounts = accounts.write();
            let open = || Arc::new(self.scope_account(scope, id, limits));
            accounts.entry(id.clone()).or_insert_with(open).clone()
        });
        if **account.limits.load() != **limits {
            account.limits.store(limits.clone());
        }
        Some(account)
    }

    fn scope_account(&self, scope: Scope, id: &Arc<str>, limits: &Arc<ScopeLimits>) -> ScopeAccount {
        let counters = self.counters(scope, id);
        ScopeAccount { id: id.clone(), counters, limits: ArcSwap::new(limits.clone()) }
    }

    /// The counters of a scope, with what is kept of its quotas.
    fn counters(&self, scope: Scope, id: &str) -> Counters {
        let counters = Counters::default();
        if let Some(store) = self.kept.opened() {
            store.restore(scope, id, &counters);
        }
        counters
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
    pub fn sweep(&self, exists: impl Fn(&KeyId, &Account) -> bool, now: Now) {
        self.by_id.write().retain(|id, account| {
            if exists(id, account) {
                account.deleted_since.store(0, Ordering::Relaxed);
                return true;
            }
            let since = account.deleted_since(now.moment);
            let gone = now.moment.saturating_since(since) >= SERIES_OF_DELETED_KEYS;
            // A request that holds the account may still count on it.
            let unused = gone && Arc::strong_count(account) == 1;
            !(unused && self.closes(Scope::Key, id.as_str(), &account.counters, now))
        });
        for scope in [Scope::Team, Scope::Owner] {
            self.of_others(scope).write().retain(|id, account| {
                let unused = Arc::strong_count(account) == 1;
                !(unused && self.closes(scope, id, &account.counters, now))
            });
        }
        self.names.write().retain(|name| Arc::strong_count(name) > 1);
    }

    /// Whether counters may go. What still counts of their quotas stays in the store, if there is one.
    fn closes(&self, scope: Scope, id: &str, counters: &Counters, now: Now) -> bool {
        match self.kept.opened() {
            Some(store) if counters.is_idle_but_for_quotas(now) => {
                store.forget(scope, id, counters, now.date);
                true
            }
            _ => counters.is_idle(now),
        }
    }

    fn opened(&self, id: &KeyId) -> Arc<Account> {
        let mut by_id = self.by_id.write();
        by_id.entry(id.clone()).or_insert_with(|| Arc::new(self.account(id))).clone()
    }

    fn account(&self, id: &KeyId) -> Account {
        Account {
            tag: KeyTag::of(id),
            counters: self.counters(Scope::Key, id.as_str()),
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

    use keymeter_core::{key::Terms, limit::Limits};

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
        let start = |later: Duration| Now {
            moment: MonotonicTime::from_nanos(0) + later,
            date: jiff::Timestamp::UNIX_EPOCH + later,
        };
        accounts.sweep(|_, _| false, start(Duration::ZERO));
        accounts.sweep(|_, _| false, start(Duration::from_secs(599)));
        assert!(metrics.encode().unwrap().contains("\"key_a\""));
        accounts.sweep(|_, _| false, start(SERIES_OF_DELETED_KEYS));
        assert!(!metrics.encode().unwrap().contains("\"key_a\""));
    }

    #[test]
    fn a_key_that_comes_back_starts_its_ten_minutes_anew() {
        let accounts = Accounts::new(Arc::new(Metrics::new(10).unwrap()));
        let first = accounts.of(&record("key_a"));
        first.revise();
        drop(first);
        let start = |later: Duration| Now {
            moment: MonotonicTime::from_nanos(0) + later,
            date: jiff::Timestamp::UNIX_EPOCH + later,
        };
        accounts.sweep(|_, _| false, start(Duration::ZERO));
        accounts.sweep(|_, _| true, start(Duration::from_mins(5)));
        accounts.sweep(|_, _| false, start(Duration::from_secs(601)));
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
    fn the_record_that_was_fetched_last_says_what_a_team_may_use() {
        let accounts = Accounts::new(Arc::new(Metrics::new(10).unwrap()));
        let of_team = |id: &str, limits: Option<u64>| {
            let limits = limits.map(|number| {
                let requests_per_minute = keymeter_core::limit::Limit::at(number).unwrap();
                Arc::new(ScopeLimits::from(Limits { requests_per_minute, ..Limits::UNLIMITED }))
            });
            let terms = limits.map(|team| Box::new(Terms { team: Some(team), ..Terms::default() }));
            accounts.others(&KeyRecord { team: Some("research".into()), terms, ..record(id) })
        };
        let first = of_team("key_a", Some(5)).unwrap().team.unwrap();
        let second = of_team("key_b", Some(7)).unwrap().team.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.limits().minute.requests_per_minute.number(), Some(7));
        assert!(of_team("key_c", None).is_none());
        assert!(first.limits().are_unlimited(), "a record without limits says that there are none");
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
