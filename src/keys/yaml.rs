//! Keys from a YAML file. `reload` reads and checks the file as a whole; this source has its keys by hash, and they are
//! replaced in one step.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use keymeter_core::key::{KeyHash, KeyId, KeyRecord};

use super::{Answer, EntityTag, Found, KeySource, SourceError};

/// The keys of a file.
pub struct YamlSource {
    keys: ArcSwap<Keys>,
}

#[derive(Default)]
struct Keys {
    by_hash: HashMap<KeyHash, Arc<KeyRecord>>,
    ids: std::collections::HashSet<KeyId>,
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

impl KeyChanges {
    fn between(old: &Keys, new: &Keys) -> Self {
        let records = new.by_hash.iter().filter(|(hash, record)| record.hash == **hash);
        let (mut added, mut changed) = (0, 0);
        for (hash, record) in records {
            if !old.ids.contains(&record.id) {
                added += 1;
            } else if old.by_hash.get(hash) != Some(record) {
                changed += 1;
            }
        }
        Self { added, removed: old.ids.len() + added - new.ids.len(), changed }
    }
}

impl YamlSource {
    /// A source of the keys in `records`.
    #[must_use]
    pub fn new(records: Vec<KeyRecord>) -> Self {
        Self { keys: ArcSwap::from_pointee(records.into()) }
    }

    /// Replaces the keys by those in `records`, and says what is other than before. Caches of keys must be invalidated
    /// afterwards.
    pub fn replace(&self, records: Vec<KeyRecord>) -> KeyChanges {
        let new = Arc::new(records.into());
        let old = self.keys.swap(Arc::clone(&new));
        KeyChanges::between(&old, &new)
    }

    /// Whether there is a key of that id.
    #[must_use]
    pub fn has(&self, id: &KeyId) -> bool {
        self.keys.load().ids.contains(id)
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.load().ids.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<KeyRecord>> for Keys {
    fn from(records: Vec<KeyRecord>) -> Self {
        let mut keys = Self::default();
        for record in records {
            let record = Arc::new(record);
            keys.ids.insert(record.id.clone());
            for hash in record.retiring.iter().map(|retiring| retiring.hash).chain([record.hash]) {
                keys.by_hash.insert(hash, record.clone());
            }
        }
        keys
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
