//! Two processes beside each other: the one before an upgrade ends its requests while the next one admits others.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use super::*;

#[test]
fn what_the_old_process_still_counts_is_counted_by_the_new_one() {
    let root = tempfile::tempdir().unwrap();
    let old = QuotaStore::open(root.path(), now()).unwrap();
    keep(&old, "key_a", &of("tokens_per_day", 1));
    let new = QuotaStore::open(root.path(), now()).unwrap();
    let counters = Counters::default();
    new.restore(Scope::Key, "key_a", &counters);
    assert!(new.poll_others(now()).unwrap().is_empty());

    keep(&old, "key_a", &of("tokens_per_day", 2));
    keep(&old, "key_b", &of("tokens_per_day", 3));
    old.journal.turn_over();
    old.journal.turn_over();
    keep(&old, "key_a", &of("tokens_per_day", 4));
    keep(&new, "key_a", &of("tokens_per_day", 100));
    assert!(!compact(&old, now()) && !compact(&new, now()), "another has yet to read it");
    let news = new.poll_others(now()).unwrap();
    assert_eq!(news, [(Scope::Key, "key_a".to_owned()), (Scope::Key, "key_b".to_owned())]);
    new.restore(Scope::Key, "key_a", &counters);
    assert_eq!(held(Scope::Key, "key_a", &counters, now()).into_values().collect::<Vec<_>>(), [7]);
    assert_eq!(restored(&new, "key_b"), 3);
    assert_eq!(restored(&old, "key_a"), 100, "the old one counts what the new one does");

    keep(&old, "key_a", &of("tokens_per_day", 8));
    kill(old);
    assert!(compact(&new, now()), "the new one takes over what the old one left");
    assert_eq!(processes(root.path()), 1);
    let news = new.poll_others(now()).unwrap();
    assert_eq!(news, [(Scope::Key, "key_a".to_owned())], "what was read meanwhile is told, too");
    new.restore(Scope::Key, "key_a", &counters);
    assert_eq!(held(Scope::Key, "key_a", &counters, now()).into_values().collect::<Vec<_>>(), [15]);
    kill(new);
    assert_eq!(restored(&QuotaStore::open(root.path(), now()).unwrap(), "key_a"), 115);
}

#[test]
fn an_old_process_that_has_nothing_to_leave_is_no_trouble() {
    let root = tempfile::tempdir().unwrap();
    let old = QuotaStore::open(root.path(), now()).unwrap();
    let new = QuotaStore::open(root.path(), now()).unwrap();
    assert!(!compact(&new, now()));
    drop(old);
    assert!(new.poll_others(now()).unwrap().is_empty());
    assert!(compact(&new, now()));
}

/// Accounts as the gateway has them.
#[derive(Default)]
struct Accounts(RwLock<HashMap<String, Arc<Counters>>>);

impl Accounts {
    fn of(&self, store: &QuotaStore, id: &str) -> Arc<Counters> {
        if let Some(known) = self.0.read().get(id) {
            return known.clone();
        }
        let mut all = self.0.write();
        let opened = || {
            let counters = Counters::default();
            store.restore(Scope::Key, id, &counters);
            Arc::new(counters)
        };
        all.entry(id.to_owned()).or_insert_with(opened).clone()
    }

    fn poll(&self, store: &QuotaStore) {
        for (scope, id) in store.poll_others(now()).unwrap() {
            let known = self.0.read().get(&id).cloned();
            if let Some(counters) = known {
                store.restore(scope, &id, &counters);
            }
        }
    }

    fn sweep(&self, store: &QuotaStore) {
        self.0.write().retain(|id, counters| {
            let is_in_use = Arc::strong_count(counters) > 1;
            if !is_in_use {
                store.forget(Scope::Key, id, counters, now());
            }
            is_in_use
        });
    }
}

/// Requests open accounts while they are swept, and while another process' are read.
#[test]
fn at_any_interleaving_nothing_is_lost_or_counted_twice() {
    let root = tempfile::tempdir().unwrap();
    let old = QuotaStore::open(root.path(), now()).unwrap();
    let new = QuotaStore::open(root.path(), now()).unwrap();
    let (accounts, ids) = (Accounts::default(), ["a", "b", "c", "d"]);
    let request = |store: &QuotaStore, accounts: Option<&Accounts>, number: usize| {
        let (id, used) = (ids[number % ids.len()], of("tokens_per_day", 1));
        if let Some(accounts) = accounts {
            accounts.of(store, id).restore(None, used.name, used.slot, used.amount);
        }
        keep(store, id, &used);
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..4000).for_each(|number| request(&new, Some(&accounts), number)));
        }
        scope.spawn(|| (0..8000).for_each(|number| request(&old, None, number)));
        scope.spawn(|| (0..2000).for_each(|_| accounts.poll(&new)));
        scope.spawn(|| (0..2000).for_each(|_| accounts.sweep(&new)));
    });
    accounts.poll(&new);
    let sum = |id: &str| held(Scope::Key, id, &accounts.of(&new, id), now()).into_values().sum::<u64>();
    assert_eq!(ids.map(sum), [4000; 4]);
    drop((old, new));
    let store = QuotaStore::open(root.path(), now()).unwrap();
    assert_eq!(ids.map(|id| restored(&store, id)), [4000; 4]);
}
