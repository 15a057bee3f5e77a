//! Keys from a YAML file. `reload` reads and checks the file as a whole; this source has its keys by hash, and they are
//! replaced in one step.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use keymeter_core::key::{KeyHash, KeyId, KeyRecord};

use super::{Answer, Change, EntityTag, Found, KeySource, SourceError};

/// The keys of a file.
pub struct YamlSource {
    keys: ArcSwap<Keys>,
}

#[derive(Default)]
struct Keys {
    by_hash: HashMap<KeyHash, Arc<KeyRecord>>,
    by_id: HashMap<KeyId, Arc<KeyRecord>>,
}

/// How many keys are other than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyChanges {
    /// Keys that there were not.
    pub added: usize,
    /// Keys that there are no more.
    pub removed: usize,
    /// Keys of which something is other.
    pub changed: usize,
}

/// Keys that are to replace those of a source.
pub struct Replacement {
    keys: Arc<Keys>,
    counts: KeyChanges,
    changes: Vec<Change>,
}

/// Where more is other than this, all keys are looked up again as they are used, which costs less than to mark each.
const MOST_CHANGES: usize = 1000;

impl YamlSource {
    /// A source of the keys in `records`.
    #[must_use]
    pub fn new(records: Vec<KeyRecord>) -> Self {
        Self { keys: ArcSwap::from_pointee(Keys::new(records, Arc::new)) }
    }

    /// Makes ready that the keys in `records` replace those that there are, which takes its time where there are many. Those that
    /// are as before stay what they are.
    #[must_use]
    pub fn prepare(&self, records: Vec<KeyRecord>) -> Replacement {
        let old = self.keys.load();
        let (mut counts, mut changes) = (KeyChanges::default(), Vec::new());
        let keys = Keys::new(records, |record| match old.by_id.get(&record.id) {
            Some(known) if **known == record => Arc::clone(known),
            known => {
                *(if known.is_some() { &mut counts.changed } else { &mut counts.added }) += 1;
                for concerned in known.map(|known| &**known).into_iter().chain([&record]) {
                    note(&mut changes, concerned);
                }
                Arc::new(record)
            }
        });
        let removed = old.by_id.values().filter(|record| !keys.by_id.contains_key(&record.id));
        for record in removed {
            counts.removed += 1;
            note(&mut changes, record);
        }
        if changes.len() > MOST_CHANGES {
            changes = vec![Change::All];
        }
        Replacement { keys: Arc::new(keys), counts, changes }
    }

    /// Replaces the keys, and says what is other than before. Each of the changes must be made known to the caches of keys
    /// afterwards.
    pub fn replace(&self, Replacement { keys, counts, changes }: Replacement) -> (KeyChanges, Vec<Change>) {
        self.keys.store(keys);
        (counts, changes)
    }

    /// Whether there is a key of that id.
    #[must_use]
    pub fn has(&self, id: &KeyId) -> bool {
        self.keys.load().by_id.contains_key(id)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.load().by_id.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Keys {
    /// The keys in `records`, each as `kept` has it.
    fn new(records: Vec<KeyRecord>, mut kept: impl FnMut(KeyRecord) -> Arc<KeyRecord>) -> Self {
        let mut keys =
            Self { by_hash: HashMap::with_capacity(records.len()), by_id: HashMap::with_capacity(records.len()) };
        for record in records {
            let record = kept(record);
            keys.by_id.insert(record.id.clone(), record.clone());
            for hash in hashes(&record) {
                keys.by_hash.insert(hash, record.clone());
            }
        }
        keys
    }
}

/// Those of a key's secrets.
fn hashes(record: &KeyRecord) -> impl Iterator<Item = KeyHash> {
    record.retiring.iter().map(|retiring| retiring.hash).chain([record.hash])
}

/// Notes that a key is other than before, by each of its secrets; no more than tell that there is too much of it.
fn note(changes: &mut Vec<Change>, record: &KeyRecord) {
    if changes.len() <= MOST_CHANGES {
        let of = |hash| Change::Key { id: Some(record.id.clone()), hash: Some(hash) };
        changes.extend(hashes(record).map(of));
    }
}

#[async_trait]
impl KeySource for YamlSource {
    async fn look_up(&self, hash: &KeyHash, _: Option<&EntityTag>) -> Result<Answer, SourceError> {
        let record = self.keys.load().by_hash.get(hash).cloned();
        Ok(record.map_or(Answer::Unknown, |record| {
            Answer::Key(Found { record, tag: None, believed_for: None, balance: None })
        }))
    }

    /// The file is read before any request is served.
    fn has_answered(&self) -> bool {
        true
    }

    fn holds(&self, hash: &KeyHash) -> Option<bool> {
        Some(self.keys.load().by_hash.contains_key(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::fixture::record;

    fn named(changes: &[Change]) -> Vec<(&str, KeyHash)> {
        let name = |change: &'_ Change| match change {
            Change::Key { id: Some(id), hash: Some(hash) } => (id.as_str().to_owned().leak() as &str, *hash),
            other => panic!("{other:?}"),
        };
        changes.iter().map(name).collect()
    }

    #[test]
    fn what_is_other_is_told_key_by_key_and_what_is_not_stays() {
        let source = YamlSource::new(vec![record("key_a", "a"), record("key_b", "b"), record("key_c", "c")]);
        let before = Arc::clone(&source.keys.load().by_id[&"key_a".parse::<KeyId>().unwrap()]);
        let records = vec![record("key_a", "a"), record("key_b", "other"), record("key_d", "d")];
        let (counts, changes) = source.replace(source.prepare(records));
        assert_eq!(counts, KeyChanges { added: 1, removed: 1, changed: 1 });
        let hash = |secret: &str| KeyHash::digest(secret.as_bytes());
        let expected = [("key_b", hash("b")), ("key_b", hash("other")), ("key_d", hash("d")), ("key_c", hash("c"))];
        assert_eq!(named(&changes), expected);
        assert!(Arc::ptr_eq(&before, &source.keys.load().by_id[&before.id]), "its record is the same");
        assert_eq!(
            (source.len(), source.holds(&hash("b")), source.holds(&hash("other"))),
            (3, Some(false), Some(true))
        );
        let same = source.prepare(vec![record("key_a", "a"), record("key_b", "other"), record("key_d", "d")]);
        assert_eq!(source.replace(same), (KeyChanges::default(), Vec::new()));
    }

    #[test]
    fn where_much_is_other_all_are() {
        let keys = |secret: &str| {
            let key = |number: usize| record(&format!("key_{number}"), &format!("{secret}{number}"));
            (0..MOST_CHANGES).map(key).collect::<Vec<_>>()
        };
        let source = YamlSource::new(keys("a"));
        let (counts, changes) = source.replace(source.prepare(keys("b")));
        assert_eq!((counts.changed, changes), (MOST_CHANGES, vec![Change::All]));
    }
}
