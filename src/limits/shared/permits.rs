//! The permits of the requests that run in this gateway, by key. They are renewed on the server.

use std::{collections::HashMap, sync::Arc};

use keymeter_core::{key::KeyId, limit::Limit};
use parking_lot::Mutex;

/// The permits of running requests.
#[derive(Default)]
pub(super) struct Permits {
    by_key: Mutex<HashMap<KeyId, OfKey>>,
}

struct OfKey {
    /// How many may run at once.
    limit: Limit,
    /// Each request's name, and whether the server may know it.
    names: HashMap<Arc<str>, bool>,
}

/// The running requests of one key.
pub(super) struct RunningRequests {
    pub key: KeyId,
    pub limit: Limit,
    pub names: Vec<Arc<str>>,
}

impl Permits {
    /// Adds a request that runs. `is_known`: the server admitted it.
    pub(super) fn add(&self, key: &KeyId, name: Arc<str>, limit: Limit, is_known: bool) {
        let mut by_key = self.by_key.lock();
        match by_key.get_mut(key) {
            Some(of_key) => {
                of_key.limit = limit;
                of_key.names.insert(name, is_known);
            }
            None => drop(by_key.insert(key.clone(), OfKey { limit, names: [(name, is_known)].into() })),
        }
    }

    /// Removes a request that has ended. Returns whether the server may know it.
    pub(super) fn remove(&self, key: &KeyId, name: &str) -> bool {
        let mut by_key = self.by_key.lock();
        let Some(of_key) = by_key.get_mut(key) else { return false };
        let is_known = of_key.names.remove(name).unwrap_or(false);
        if of_key.names.is_empty() {
            by_key.remove(key);
        }
        is_known
    }

    /// Whether a request still runs.
    pub(super) fn contains(&self, key: &KeyId, name: &str) -> bool {
        self.by_key.lock().get(key).is_some_and(|of_key| of_key.names.contains_key(name))
    }

    /// All running requests. They count as known to the server from then on.
    pub(super) fn by_key(&self) -> Vec<RunningRequests> {
        let mut by_key = self.by_key.lock();
        let running = |(key, of_key): (&KeyId, &mut OfKey)| {
            of_key.names.values_mut().for_each(|is_known| *is_known = true);
            RunningRequests { key: key.clone(), limit: of_key.limit, names: of_key.names.keys().cloned().collect() }
        };
        by_key.iter_mut().map(running).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stated_may_be_known_and_what_ended_is_forgotten() {
        let (permits, key): (Permits, KeyId) = (Permits::default(), "key_a".parse().unwrap());
        permits.add(&key, "g.1".into(), Limit::Unlimited, true);
        permits.add(&key, "g.2".into(), Limit::at(5).unwrap(), false);
        permits.add(&key, "g.3".into(), Limit::at(5).unwrap(), false);
        assert!(!permits.remove(&key, "g.2") && permits.remove(&key, "g.1"));
        let running = permits.by_key();
        assert_eq!((running.len(), running[0].names.len(), running[0].limit), (1, 1, Limit::at(5).unwrap()));
        assert!(permits.remove(&key, "g.3"));
        assert!(!permits.remove(&key, "g.3") && permits.by_key().is_empty());
    }
}
