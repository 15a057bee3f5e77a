//! The requests that are running, so that the end of a key reaches them: whoever carries one looks now and then whether
//! its key may still be used, and is woken when it may not.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, OnceLock},
    task::{Context, Poll, Waker},
};

use jiff::Timestamp;
use keymeter_core::key::{KeyDenial, KeyHash, KeyId};
use parking_lot::Mutex;

/// The running requests of a process that end with their keys.
#[derive(Default)]
pub struct RevocationRegistry {
    /// By the hash of the secret that let them in.
    shards: [Mutex<HashMap<KeyHash, Vec<Arc<RevocationEntry>>>>; SHARDS],
}

const SHARDS: usize = 16;

/// A request that is running.
pub struct RevocationEntry {
    id: KeyId,
    hash: KeyHash,
    /// When its key or its secret stops working, and why it may not be used then.
    end: Mutex<Option<(Timestamp, KeyDenial)>>,
    bar: OnceLock<KeyDenial>,
    waker: Mutex<Option<Waker>>,
}

/// A request is running as long as this lives.
pub struct RevocationGuard {
    runs: Arc<RevocationRegistry>,
    run: Arc<RevocationEntry>,
}

impl RevocationRegistry {
    /// A request runs with the key of `id`, which was found by the secret with `hash` and may be used until `end`.
    #[must_use]
    pub fn enter(self: &Arc<Self>, id: &KeyId, hash: KeyHash, end: Option<(Timestamp, KeyDenial)>) -> RevocationGuard {
        let run = RevocationEntry {
            id: id.clone(),
            hash,
            end: Mutex::new(end),
            bar: OnceLock::new(),
            waker: Mutex::default(),
        };
        let run = Arc::new(run);
        self.shard(&hash).lock().entry(hash).or_default().push(run.clone());
        RevocationGuard { runs: self.clone(), run }
    }

    /// Ends every request that was let in by the secret with `hash`.
    pub fn bar(&self, hash: &KeyHash, bar: KeyDenial) {
        self.each_of(hash, |run| run.bar(bar));
    }

    /// The key that is found by the secret with `hash` may be used until `end`.
    pub fn extend(&self, hash: &KeyHash, end: Option<(Timestamp, KeyDenial)>) {
        self.each_of(hash, |run| *run.end.lock() = end);
    }

    /// Ends what has expired.
    pub fn expire(&self, now: Timestamp) {
        self.each(|run| {
            let over = run.end.lock().filter(|(end, _)| *end <= now);
            if let Some((_, bar)) = over {
                run.bar(bar);
            }
        });
    }

    /// The secrets by which the running requests of some keys were let in, each once.
    #[must_use]
    pub fn hashes(&self, of: impl Fn(&KeyId, &KeyHash) -> bool) -> Vec<KeyHash> {
        let mut hashes = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let concerned = shard.iter().filter(|(hash, runs)| runs.first().is_some_and(|run| of(&run.id, hash)));
            hashes.extend(concerned.map(|(hash, _)| *hash));
        }
        hashes
    }

    fn each(&self, mut look: impl FnMut(&RevocationEntry)) {
        for shard in &self.shards {
            shard.lock().values().flatten().for_each(|run| look(run));
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
    /// Why the request is to end, if it is.
    #[must_use]
    pub fn barred(&self) -> Option<KeyDenial> {
        self.bar.get().copied()
    }

    /// The same, for one who waits for it.
    pub fn poll_barred(&self, context: &Context<'_>) -> Poll<KeyDenial> {
        let mut waker = self.waker.lock();
        if let Some(bar) = self.barred() {
            return Poll::Ready(bar);
        }
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    fn bar(&self, bar: KeyDenial) {
        if self.bar.set(bar).is_ok() {
            // Set before the lock is taken: whoever looks after this sees it.
            let waker = self.waker.lock().take();
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl RevocationGuard {
    /// What is running.
    #[must_use]
    pub fn run(&self) -> &Arc<RevocationEntry> {
        &self.run
    }
}

impl Drop for RevocationGuard {
    fn drop(&mut self) {
        let mut shard = self.runs.shard(&self.run.hash).lock();
        if let Entry::Occupied(mut runs) = shard.entry(self.run.hash) {
            runs.get_mut().retain(|run| !Arc::ptr_eq(run, &self.run));
            if runs.get().is_empty() {
                runs.remove();
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

    fn enter(runs: &Arc<RevocationRegistry>, secret: &str, end: Option<Timestamp>) -> RevocationGuard {
        let end = end.map(|end| (end, KeyDenial::Expired));
        runs.enter(&format!("key_{secret}").parse().unwrap(), KeyHash::digest(secret.as_bytes()), end)
    }

    #[test]
    fn a_bar_reaches_those_of_its_secret_and_wakes_them_once() {
        let runs = Arc::new(RevocationRegistry::default());
        let (a, also_a, b) = (enter(&runs, "a", None), enter(&runs, "a", None), enter(&runs, "b", None));
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let context = Context::from_waker(&waker);
        assert!([&a, &also_a, &b].iter().all(|running| running.run().poll_barred(&context).is_pending()));
        runs.bar(&KeyHash::digest(b"a"), KeyDenial::Disabled);
        runs.bar(&KeyHash::digest(b"a"), KeyDenial::Unknown);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert_eq!(a.run().poll_barred(&context), Poll::Ready(KeyDenial::Disabled), "the first reason stays");
        assert_eq!((also_a.run().barred(), b.run().barred()), (Some(KeyDenial::Disabled), None));
    }

    #[test]
    fn a_key_that_expires_ends_its_requests_and_one_that_is_extended_does_not() {
        let runs = Arc::new(RevocationRegistry::default());
        let end: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let (a, b) = (enter(&runs, "a", Some(end)), enter(&runs, "b", Some(end)));
        runs.extend(&KeyHash::digest(b"b"), None);
        runs.expire(end - jiff::SignedDuration::from_millis(1));
        assert_eq!(a.run().barred(), None);
        runs.expire(end);
        assert_eq!((a.run().barred(), b.run().barred()), (Some(KeyDenial::Expired), None));
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let runs = Arc::new(RevocationRegistry::default());
        let running: Vec<_> = (0..50).map(|_| enter(&runs, "a", None)).collect();
        assert_eq!(runs.hashes(|_, _| true), [KeyHash::digest(b"a")]);
        assert!(runs.hashes(|id, _| id.as_str() == "key_b").is_empty());
        drop(running);
        assert!(runs.hashes(|_, _| true).is_empty());
    }
}
