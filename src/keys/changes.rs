//! The recent changes of keys, numbered. The answer of a look-up that began before a change of its key must not be used after
//! it.

use std::collections::VecDeque;

use keymeter_core::key::{KeyHash, KeyId};

/// A change of one key or of every key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A change of the key with this id, this secret, or both.
    Key {
        /// The key's id.
        id: Option<KeyId>,
        /// The hash of its secret, former or new ones included.
        hash: Option<KeyHash>,
    },
    /// A change of every key.
    All,
}

/// The last changes, numbered.
#[derive(Debug, Default)]
pub(super) struct Changes {
    recent: VecDeque<Change>,
    /// The number of the next change.
    next: u64,
}

/// A point between two changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

/// How many changes are kept. A look-up that began before the oldest of them is repeated.
const RECENT: usize = 4096;

impl Changes {
    /// The current epoch.
    pub(super) fn now(&self) -> Epoch {
        Epoch(self.next)
    }

    /// Adds a change.
    pub(super) fn push(&mut self, change: Change) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(change);
        self.next += 1;
    }

    /// Whether the key with `hash`, and `id` if it has one, may have changed since `start`.
    pub(super) fn affect(&self, start: Epoch, id: Option<&KeyId>, hash: &KeyHash) -> bool {
        let since = self.next.saturating_sub(start.0);
        match usize::try_from(since) {
            Ok(since) if since <= self.recent.len() => {
                self.recent.iter().rev().take(since).any(|change| may_concern(change, id, hash))
            }
            _ => true,
        }
    }
}

fn may_concern(change: &Change, id: Option<&KeyId>, hash: &KeyHash) -> bool {
    match change {
        Change::All => true,
        Change::Key { id: None, hash: None } => false,
        Change::Key { hash: Some(changed), .. } if changed == hash => true,
        Change::Key { id: Some(changed), .. } if id == Some(changed) => true,
        // The key may be new, with only its id stated.
        Change::Key { hash: None, .. } => id.is_none(),
        Change::Key { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: Option<&str>, secret: Option<&str>) -> Change {
        let hash = secret.map(|secret| KeyHash::digest(secret.as_bytes()));
        Change::Key { id: id.map(|id| id.parse().unwrap()), hash }
    }

    #[test]
    fn a_change_concerns_who_has_its_id_or_its_hash() {
        let (a, b): (KeyId, KeyId) = ("key_a".parse().unwrap(), "key_b".parse().unwrap());
        let hash = KeyHash::digest(b"a");
        for (change, of_a, of_b, of_unknown) in [
            (Change::All, true, true, true),
            (key(Some("key_a"), None), true, false, true),
            (key(Some("key_c"), Some("a")), true, true, true),
            (key(Some("key_a"), Some("c")), true, false, false),
            (key(None, Some("c")), false, false, false),
        ] {
            let mut changes = Changes::default();
            let start = changes.now();
            assert!(!changes.affect(start, Some(&a), &hash));
            changes.push(change.clone());
            let affects = [Some(&a), Some(&b), None].map(|id| changes.affect(start, id, &hash));
            assert_eq!(affects, [of_a, of_b, of_unknown], "{change:?}");
            assert!(!changes.affect(changes.now(), Some(&a), &hash), "it is over");
        }
    }

    #[test]
    fn what_began_before_all_that_is_remembered_may_have_changed() {
        let mut changes = Changes::default();
        let start = changes.now();
        for _ in 0..=RECENT {
            changes.push(key(Some("key_b"), Some("b")));
        }
        assert!(changes.affect(start, Some(&"key_a".parse().unwrap()), &KeyHash::digest(b"a")));
        assert_eq!(changes.recent.len(), RECENT);
    }
}
