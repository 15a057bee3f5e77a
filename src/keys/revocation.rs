//! The registry of running requests, by which the revocation of a key reaches them. The task of a request polls its entry,
//! and is woken when the key is revoked.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use jiff::Timestamp;
use keymeter_core::key::{KeyDenial, KeyHash, KeyId};
use parking_lot::Mutex;

/// The running requests of a process that end when their keys are revoked.
#[derive(Default)]
pub struct RevocationRegistry {
    /// The entries, by the hash of the secret of their requests.
    shards: [Mutex<HashMap<KeyHash, Vec<Arc<RevocationEntry>>>>; SHARDS],
}

const SHARDS: usize = 16;

/// The entry of a running request.
pub struct RevocationEntry {
    id: KeyId,
    hash: KeyHash,
    /// When its key or its secret expires, and why it may not be used then.
    end: Mutex<Option<(Timestamp, KeyDenial)>>,
    denial: OnceLock<KeyDenial>,
    waker: Mutex<Option<Waker>>,
}

/// Keeps a request in the registry while it lives.
pub struct RevocationGuard {
    registry: Arc<RevocationRegistry>,
    entry: Arc<RevocationEntry>,
}

impl RevocationRegistry {
    /// Registers a request of the key with `id`, which was found by the secret with `hash` and may be used until `end`.
    #[must_use]
    pub fn register(
        self: &Arc<Self>,
        id: &KeyId,
        hash: KeyHash,
        end: Option<(Timestamp, KeyDenial)>,
    ) -> RevocationGuard {
        let entry = RevocationEntry {
            id: id.clone(),
            hash,
            end: Mutex::new(end),
            denial: OnceLock::new(),
            waker: Mutex::default(),
        };
        let entry = Arc::new(entry);
        self.shard(&hash).lock().entry(hash).or_default().push(entry.clone());
        RevocationGuard { registry: self.clone(), entry }
    }

    /// Revokes every request of the secret with `hash`.
    pub fn revoke(&self, hash: &KeyHash, denial: KeyDenial) {
        self.each_of(hash, |entry| entry.revoke(denial));
    }

    /// Sets until when the requests of the secret with `hash` may run.
    pub fn set_end(&self, hash: &KeyHash, end: Option<(Timestamp, KeyDenial)>) {
        self.each_of(hash, |entry| *entry.end.lock() = end);
    }

    /// Revokes the requests whose keys have expired.
    pub fn revoke_expired(&self, now: Timestamp) {
        self.each(|entry| {
            let over = entry.end.lock().filter(|(end, _)| *end <= now);
            if let Some((_, denial)) = over {
                entry.revoke(denial);
            }
        });
    }

    /// The secrets of the running requests that `of` selects, each once.
    #[must_use]
    pub fn hashes(&self, of: impl Fn(&KeyId, &KeyHash) -> bool) -> Vec<KeyHash> {
        let mut hashes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let concerned =
                shard.iter().filter(|(hash, entries)| entries.first().is_some_and(|entry| of(&entry.id, hash)));
            hashes.extend(concerned.map(|(hash, _)| *hash));
        }
        hashes
    }

    fn each(&self, mut look: impl FnMut(&RevocationEntry)) {
        for shard in &self.shards {
            shard.lock().values().flatten().for_each(|entry| look(entry));
        }
    }

    fn each_of(&self, hash: &KeyHash, look: impl FnMut(&Arc<RevocationEntry>)) {
        self.shard(hash).lock().get(hash).into_iter().flatten().for_each(look);
    }

    fn shard(&self, hash: &KeyHash) -> &Mutex<HashMap<KeyHash, Vec<Arc<RevocationEntry>>>> {
        #[expect(clippy::indexing_slicing, reason = "the remainder is below the length")]
        &self.shards[usize::from(hash.first_byte()) % SHARDS]
    }
}

impl RevocationEntry {
    /// Why the request is revoked, if it is.
    #[must_use]
    pub fn denial(&self) -> Option<KeyDenial> {
        self.denial.get().copied()
    }

    /// Ready when the request is revoked.
    pub fn poll_revoked(&self, context: &Context<'_>) -> Poll<KeyDenial> {
        let mut waker = self.waker.lock();
        if let Some(denial) = self.denial() {
            return Poll::Ready(denial);
        }
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    fn revoke(&self, denial: KeyDenial) {
        if self.denial.set(denial).is_ok() {
            // Set before the lock is taken, so that a task that polls after this sees it.
            let waker = self.waker.lock().take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl RevocationGuard {
    /// The entry of the request.
    #[must_use]
    pub fn entry(&self) -> &Arc<RevocationEntry> {
        &self.entry
    }
}

impl Drop for RevocationGuard {
    fn drop(&mut self) {
        let mut shard = self.registry.shard(&self.entry.hash).lock();
        if let Entry::Occupied(mut entries) = shard.entry(self.entry.hash) {
            entries.get_mut().retain(|entry| !Arc::ptr_eq(entry, &self.entry));
            if entries.get().is_empty() {
                entries.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(registry: &Arc<RevocationRegistry>, secret: &str, end: Option<Timestamp>) -> RevocationGuard {
        let end = end.map(|end| (end, KeyDenial::Expired));
        registry.register(&format!("key_{secret}").parse().unwrap(), KeyHash::digest(secret.as_bytes()), end)
    }

    #[test]
    fn a_bar_reaches_those_of_its_secret_and_wakes_them_once() {
        let registry = Arc::new(RevocationRegistry::default());
        let (a, also_a, b) = (enter(&registry, "a", None), enter(&registry, "a", None), enter(&registry, "b", None));
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let context = Context::from_waker(&waker);
        assert!([&a, &also_a, &b].iter().all(|running| running.entry().poll_revoked(&context).is_pending()));
        registry.revoke(&KeyHash::digest(b"a"), KeyDenial::Disabled);
        registry.revoke(&KeyHash::digest(b"a"), KeyDenial::Unknown);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert_eq!(a.entry().poll_revoked(&context), Poll::Ready(KeyDenial::Disabled), "the first reason stays");
        assert_eq!((also_a.entry().denial(), b.entry().denial()), (Some(KeyDenial::Disabled), None));
    }

    #[test]
    fn a_key_that_expires_ends_its_requests_and_one_that_is_extended_does_not() {
        let registry = Arc::new(RevocationRegistry::default());
        let end: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let (a, b) = (enter(&registry, "a", Some(end)), enter(&registry, "b", Some(end)));
        registry.set_end(&KeyHash::digest(b"b"), None);
        registry.revoke_expired(end - jiff::SignedDuration::from_millis(1));
        assert_eq!(a.entry().denial(), None);
        registry.revoke_expired(end);
        assert_eq!((a.entry().denial(), b.entry().denial()), (Some(KeyDenial::Expired), None));
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let registry = Arc::new(RevocationRegistry::default());
        let running: Vec<_> = (0..50).map(|_| enter(&registry, "a", None)).collect();
        assert_eq!(registry.hashes(|_, _| true), [KeyHash::digest(b"a")]);
        assert!(registry.hashes(|id, _| id.as_str() == "key_b").is_empty());
        drop(running);
        assert!(registry.hashes(|_, _| true).is_empty());
    }
}
