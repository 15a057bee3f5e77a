//! What is used of the quotas of keys, teams and owners that no request has come for yet.

use std::hash::{BuildHasher, RandomState};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::arena::Arena;

/// In parts, so that a request waits for few others, and not for a million names that are tidied up.
pub struct Dormant {
    hasher: RandomState,
    parts: Vec<Mutex<Arena>>,
}

const PARTS: u64 = 64;

impl Dormant {
    /// Nothing.
    pub fn new() -> Self {
        let hasher = RandomState::new();
        Self { parts: (0..PARTS).map(|_| Mutex::new(Arena::new(hasher.clone()))).collect(), hasher }
    }

    /// Adds what was used by a name, apart from what counts no longer at `now`.
    pub fn add(&self, name: &[u8], uses: &[u8], now: Timestamp) {
        let hash = self.hasher.hash_one(name);
        if let Some(part) = self.part(hash) {
            part.lock().add(hash, name, uses, now);
        }
    }

    /// Takes out what was used by a name: whoever asks first gets it.
    pub fn take(&self, name: &[u8]) -> Vec<u8> {
        let hash = self.hasher.hash_one(name);
        self.part(hash).map(|part| part.lock().take(hash, name)).unwrap_or_default()
    }

    /// Each name with what was used by it.
    pub fn each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        for part in &self.parts {
            part.lock().sorted().into_iter().for_each(|(name, uses)| visit(name, uses));
        }
    }

    /// Lets go of what counts no longer at `now`.
    pub fn sweep(&self, now: Timestamp) {
        self.parts.iter().for_each(|part| part.lock().sweep(now));
    }

    fn part(&self, hash: u64) -> Option<&Mutex<Arena>> {
        // The lowest bits say where in a part.
        let number = hash >> (u64::BITS - PARTS.trailing_zeros());
        self.parts.get(usize::try_from(number).ok()?)
    }
}
