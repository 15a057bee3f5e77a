//! What this gateway runs, by key: so that the server can be told that it goes on.

use std::{collections::HashMap, sync::Arc};

use keymeter_core::{key::KeyId, limit::Limit};
use parking_lot::Mutex;

/// The requests that run.
#[derive(Default)]
pub(super) struct Permits {
    by_key: Mutex<HashMap<KeyId, OfKey>>,
}

struct OfKey {
    /// How many may run, as it was known last.
    limit: Limit,
    /// Each request's name, and whether the server may know of it.
    names: HashMap<Arc<str>, bool>,
}

/// What is to be said of one key.
pub(super) struct Statement {
    pub key: KeyId,
    pub limit: Limit,
    pub names: Vec<Arc<str>>,
}

impl Permits {
    /// A request runs. `is_known`: the server admitted it.
    pub(super) fn enter(&self, key: &KeyId, name: Arc<str>, limit: Limit, is_known: bool) {
        let mut by_key = self.by_key.lock();
        match by_key.get_mut(key) {
            Some(of_key) => {
                of_key.limit = limit;
                of_key.names.insert(name, is_known);
            }
            None => drop(by_key.insert(key.clone(), OfKey { limit, names: [(name, is_known)].into() })),
        }
    }

    /// It has ended. Says whether the server may know that it ran.
    pub(super) fn leave(&self, key: &KeyId, name: &str) -> bool {
        let mut by_key = self.by_key.lock();
        let Some(of_key) = by_key.get_mut(key) else { return false };
        let is_known = of_key.names.remove(name).unwrap_or(false);
        if of_key.names.is_empty() {
            by_key.remove(key);
        }
        is_known
    }

    /// Whether it still runs.
    pub(super) fn has(&self, key: &KeyId, name: &str) -> bool {
        self.by_key.lock().get(key).is_some_and(|of_key| of_key.names.contains_key(name))
    }

    /// All that runs. It counts as known to the server from here on.
    pub(super) fn state(&self) -> Vec<Statement> {
        let mut by_key = self.by_key.lock();
        let state = |(key, of_key): (&KeyId, &mut OfKey)| {
            of_key.names.values_mut().for_each(|is_known| *is_known = true);
            Statement { key: key.clone(), limit: of_key.limit, names: of_key.names.keys().cloned().collect() }
        };
        by_key.iter_mut().map(state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stated_may_be_known_and_what_ended_is_forgotten() {
        let (places, key): (Permits, KeyId) = (Permits::default(), "key_a".parse().unwrap());
        places.enter(&key, "g.1".into(), Limit::Unlimited, true);
        places.enter(&key, "g.2".into(), Limit::at(5).unwrap(), false);
        places.enter(&key, "g.3".into(), Limit::at(5).unwrap(), false);
        assert!(!places.leave(&key, "g.2") && places.leave(&key, "g.1"));
        let state = places.state();
        assert_eq!((state.len(), state[0].names.len(), state[0].limit), (1, 1, Limit::at(5).unwrap()));
        assert!(places.leave(&key, "g.3"));
        assert!(!places.leave(&key, "g.3") && places.state().is_empty());
    }
}
