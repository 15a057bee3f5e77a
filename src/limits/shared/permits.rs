//! The permits of the requests that run in this gateway, by subject. They are renewed on the server.

use std::{collections::HashMap, sync::Arc};

use keymeter_core::limit::Limit;
use parking_lot::Mutex;

use super::subject::Subject;

/// The permits of running requests.
#[derive(Default)]
pub(super) struct Permits {
    by_subject: Mutex<HashMap<Subject, OfSubject>>,
}

struct OfSubject {
    /// How many may run at once.
    limit: Limit,
    /// Each request's name, and whether the server may know it.
    names: HashMap<Arc<str>, bool>,
}

/// The running requests of one subject.
pub(super) struct RunningRequests {
    pub subject: Subject,
    pub limit: Limit,
    pub names: Vec<Arc<str>>,
}

impl Permits {
    /// Adds a request that runs. `is_known`: the server admitted it.
    pub(super) fn add(&self, subject: &Subject, name: Arc<str>, limit: Limit, is_known: bool) {
        let mut by_subject = self.by_subject.lock();
        match by_subject.get_mut(subject) {
            Some(of_subject) => {
                of_subject.limit = limit;
                of_subject.names.insert(name, is_known);
            }
            None => drop(by_subject.insert(subject.clone(), OfSubject { limit, names: [(name, is_known)].into() })),
        }
    }

    /// Removes a request that has ended. Returns whether the server may know it.
    pub(super) fn remove(&self, subject: &Subject, name: &str) -> bool {
        let mut by_subject = self.by_subject.lock();
        let Some(of_subject) = by_subject.get_mut(subject) else { return false };
        let is_known = of_subject.names.remove(name).unwrap_or(false);
        if of_subject.names.is_empty() {
            by_subject.remove(subject);
        }
        is_known
    }

    /// Whether a request still runs.
    pub(super) fn contains(&self, subject: &Subject, name: &str) -> bool {
        self.by_subject.lock().get(subject).is_some_and(|of_subject| of_subject.names.contains_key(name))
    }

    /// All running requests. They count as known to the server from then on.
    pub(super) fn by_subject(&self) -> Vec<RunningRequests> {
        let mut by_subject = self.by_subject.lock();
        let running = |(subject, of_subject): (&Subject, &mut OfSubject)| {
            of_subject.names.values_mut().for_each(|is_known| *is_known = true);
            RunningRequests {
                subject: subject.clone(),
                limit: of_subject.limit,
                names: of_subject.names.keys().cloned().collect(),
            }
        };
        by_subject.iter_mut().map(running).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stated_may_be_known_and_what_ended_is_forgotten() {
        let (permits, key) = (Permits::default(), Subject::from("key/key_a"));
        permits.add(&key, "g.1".into(), Limit::Unlimited, true);
        permits.add(&key, "g.2".into(), Limit::at(5).unwrap(), false);
        permits.add(&key, "g.3".into(), Limit::at(5).unwrap(), false);
        assert!(!permits.remove(&key, "g.2") && permits.remove(&key, "g.1"));
        let running = permits.by_subject();
        assert_eq!((running.len(), running[0].names.len(), running[0].limit), (1, 1, Limit::at(5).unwrap()));
        assert!(permits.remove(&key, "g.3"));
        assert!(!permits.remove(&key, "g.3") && permits.by_subject().is_empty());
    }
}
