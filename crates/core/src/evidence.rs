//! What requests prove of an upstream, where it can be learned from its answers only: that it takes one thing where it
//! refused another. Requests are of clients, who can make an upstream refuse what it would have taken (by a picture that
//! cannot be fetched the first time). So what one key's requests prove decides for that key alone; what two keys' do, for
//! everybody. It is forgotten after 10 minutes, and then has to be proved anew.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

use crate::{clock::MonotonicTime, key::KeyId};

/// How long something is taken for proved.
pub const LASTS: Duration = Duration::from_mins(10);

/// What was proved of one thing.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Until when it holds for every key.
    for_all_until: MonotonicTime,
    /// One a key.
    proofs: Vec<Proof>,
}

#[derive(Debug)]
struct Proof {
    key: KeyId,
    times: u32,
    until: MonotonicTime,
}

/// Two keys decide, so that more proofs come only from requests that ran meanwhile.
const MOST_PROOFS: usize = 8;

impl Evidence {
    /// A request of `key` proved it.
    pub fn prove(&mut self, key: &KeyId, now: MonotonicTime) {
        let until = now + LASTS;
        self.proofs.retain(|proof| proof.until > now);
        let has_room = self.proofs.len() < MOST_PROOFS;
        match self.proofs.iter_mut().find(|proof| proof.key == *key) {
            Some(proof) => (proof.times, proof.until) = (proof.times.saturating_add(1), until),
            None if has_room => self.proofs.push(Proof { key: key.clone(), times: 1, until }),
            None => {}
        }
        if self.proofs.len() > 1 {
            self.for_all_until = until;
        }
    }

    /// Whether it holds for the requests of `key`: proved by so many of them, or by those of two keys.
    #[must_use]
    pub fn holds_for(&self, key: &KeyId, times: u32, now: MonotonicTime) -> bool {
        let is_enough = |proof: &Proof| proof.key == *key && proof.times >= times && proof.until > now;
        self.for_all_until > now || self.proofs.iter().any(is_enough)
    }

    /// A request proved the contrary.
    pub fn disprove(&mut self) {
        *self = Self::default();
    }

    /// The key that alone proved it; `None` where there are more or none.
    fn only_key(&self, now: MonotonicTime) -> Option<&Proof> {
        let mut proofs = self.proofs.iter().filter(|proof| proof.until > now);
        proofs.next().filter(|_| proofs.next().is_none() && self.for_all_until <= now)
    }

    fn is_over(&self, now: MonotonicTime) -> bool {
        self.for_all_until <= now && self.proofs.iter().all(|proof| proof.until <= now)
    }
}

/// The same, shared by threads. Asking takes no lock as long as nothing was ever proved.
#[derive(Debug, Default)]
pub struct SharedEvidence {
    is_any: AtomicBool,
    evidence: Mutex<Evidence>,
}

impl SharedEvidence {
    /// See [`Evidence::prove`]. Says whether it holds for that key from now on, and did not before.
    pub fn prove(&self, key: &KeyId, times: u32, now: MonotonicTime) -> bool {
        let mut evidence = self.evidence.lock();
        let before = evidence.holds_for(key, times, now);
        evidence.prove(key, now);
        self.is_any.store(true, Ordering::Relaxed);
        !before && evidence.holds_for(key, times, now)
    }

    /// See [`Evidence::holds_for`].
    #[must_use]
    pub fn holds_for(&self, key: &KeyId, times: u32, now: MonotonicTime) -> bool {
        self.is_any.load(Ordering::Relaxed) && self.evidence.lock().holds_for(key, times, now)
    }

    /// See [`Evidence::disprove`].
    pub fn disprove(&self) {
        if self.is_any.load(Ordering::Relaxed) {
            let mut evidence = self.evidence.lock();
            evidence.disprove();
            self.is_any.store(false, Ordering::Relaxed);
        }
    }
}

/// The same of each model, by its name. Names come from requests: so there are at most 256 of at most 128 bytes each, and
/// 16 that one key alone put there. Of what is beyond, nothing is remembered.
#[derive(Debug, Default)]
pub struct EvidenceOfModels {
    is_any: AtomicBool,
    models: RwLock<HashMap<Box<str>, Evidence>>,
}

const MOST_MODELS: usize = 256;
const MOST_OF_ONE_KEY: usize = 16;
const LONGEST_NAME: usize = 128;

impl EvidenceOfModels {
    /// A request of `key` proved it of `model`. See [`Evidence::prove`].
    pub fn prove(&self, model: &str, key: &KeyId, now: MonotonicTime) {
        if model.len() > LONGEST_NAME {
            return;
        }
        let mut models = self.models.write();
        if !models.contains_key(model) {
            models.retain(|_, evidence| !evidence.is_over(now));
            make_room(&mut models, key, now);
            if models.len() >= MOST_MODELS {
                return;
            }
        }
        models.entry(model.into()).or_default().prove(key, now);
        self.is_any.store(true, Ordering::Relaxed);
    }

    /// Whether it holds of `model` for the requests of `key`. One proof of that key's own is enough.
    #[must_use]
    pub fn holds_for(&self, model: &str, key: &KeyId, now: MonotonicTime) -> bool {
        let holds = || self.models.read().get(model).is_some_and(|evidence| evidence.holds_for(key, 1, now));
        self.is_any.load(Ordering::Relaxed) && holds()
    }

    /// A request proved the contrary of `model`.
    pub fn disprove(&self, model: &str) {
        if self.is_any.load(Ordering::Relaxed) {
            let mut models = self.models.write();
            models.remove(model);
            self.is_any.store(!models.is_empty(), Ordering::Relaxed);
        }
    }
}

/// Forgets the oldest of what `key` alone proved, if that is as much as it may prove.
fn make_room(models: &mut HashMap<Box<str>, Evidence>, key: &KeyId, now: MonotonicTime) {
    let own = || {
        models.iter().filter_map(|(model, evidence)| {
            let proof = evidence.only_key(now).filter(|proof| proof.key == *key)?;
            Some((proof.until, model))
        })
    };
    if own().count() < MOST_OF_ONE_KEY {
        return;
    }
    let oldest = own().min().map(|(_, model)| model.clone());
    if let Some(oldest) = oldest {
        models.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: MonotonicTime = MonotonicTime::from_nanos(1);
    const SECOND: Duration = Duration::from_secs(1);
    /// Not yet ten minutes.
    const ALMOST: Duration = Duration::from_secs(599);

    fn key(number: usize) -> KeyId {
        format!("key_{number}").parse().unwrap()
    }

    #[test]
    fn one_keys_requests_decide_for_that_key_alone() {
        let mut evidence = Evidence::default();
        evidence.prove(&key(1), START);
        assert!(evidence.holds_for(&key(1), 1, START));
        assert!(!evidence.holds_for(&key(1), 2, START), "where two are asked for, one is not enough");
        for _ in 0..1000 {
            evidence.prove(&key(1), START);
        }
        assert!(evidence.holds_for(&key(1), 2, START));
        assert!(!evidence.holds_for(&key(2), 1, START), "however many there are");
    }

    #[test]
    fn two_keys_decide_for_everybody_for_ten_minutes() {
        let mut evidence = Evidence::default();
        evidence.prove(&key(1), START);
        let later = START + ALMOST;
        evidence.prove(&key(2), later);
        assert!(evidence.holds_for(&key(3), 2, later));
        assert!(evidence.holds_for(&key(3), 2, later + ALMOST));
        assert!(!evidence.holds_for(&key(3), 2, later + LASTS), "then it is tried again");
        assert!(!evidence.holds_for(&key(1), 1, later + LASTS));
        evidence.prove(&key(1), later + LASTS);
        assert!(!evidence.holds_for(&key(3), 2, later + LASTS), "and takes two again");
    }

    #[test]
    fn proofs_that_lie_further_apart_do_not_add_up() {
        let mut evidence = Evidence::default();
        for round in 0..9 {
            let now = START + LASTS * round;
            evidence.prove(&key(1), now);
            assert!(!evidence.holds_for(&key(1), 2, now), "{round}");
        }
        evidence.prove(&key(2), START + LASTS * 9);
        assert!(!evidence.holds_for(&key(3), 2, START + LASTS * 9));
    }

    #[test]
    fn the_contrary_ends_it() {
        let evidence = SharedEvidence::default();
        evidence.disprove();
        assert!(!evidence.prove(&key(1), 2, START));
        assert!(evidence.prove(&key(2), 2, START), "it is new that it holds");
        assert!(!evidence.prove(&key(2), 2, START));
        assert!(evidence.holds_for(&key(3), 2, START));
        evidence.disprove();
        assert!(!evidence.holds_for(&key(3), 2, START) && !evidence.holds_for(&key(2), 1, START));
    }

    #[test]
    fn models_are_told_apart() {
        let evidence = EvidenceOfModels::default();
        evidence.prove("m", &key(1), START);
        assert!(evidence.holds_for("m", &key(1), START));
        assert!(!evidence.holds_for("m", &key(2), START));
        assert!(!evidence.holds_for("n", &key(1), START));
        evidence.prove("m", &key(2), START);
        assert!(evidence.holds_for("m", &key(3), START));
        evidence.disprove("n");
        assert!(evidence.holds_for("m", &key(3), START));
        evidence.disprove("m");
        assert!(!evidence.holds_for("m", &key(3), START));
    }

    #[test]
    fn no_key_takes_the_room_of_others() {
        let evidence = EvidenceOfModels::default();
        evidence.prove("theirs", &key(2), START);
        for number in 0..1000 {
            evidence.prove(&number.to_string(), &key(1), START + SECOND / 1000 * number);
        }
        let now = START + SECOND;
        assert_eq!(evidence.models.read().len(), 1 + MOST_OF_ONE_KEY);
        assert!(evidence.holds_for("theirs", &key(2), now));
        assert!(evidence.holds_for("999", &key(1), now) && !evidence.holds_for("0", &key(1), now), "the oldest goes");
        evidence.prove(&"a".repeat(LONGEST_NAME + 1), &key(3), now);
        for number in 10..100 {
            for name in 0..16 {
                evidence.prove(&format!("{number} {name}"), &key(number), now);
            }
        }
        assert_eq!(evidence.models.read().len(), MOST_MODELS);
        evidence.prove("new", &key(3), START + SECOND * 2000);
        assert_eq!(evidence.models.read().len(), 1, "what is over makes room");
    }

    proptest! {
        /// Whatever one key's requests prove, and whenever, nothing holds for another.
        #[test]
        fn no_key_decides_for_another(
            steps in prop::collection::vec((0..1200_u32, prop::option::of(Just(()))), 0..60),
            times in 1..3_u32,
        ) {
            let (mut evidence, mut now) = (Evidence::default(), START);
            for (seconds, proof) in steps {
                now = now + SECOND * seconds;
                match proof {
                    Some(()) => evidence.prove(&key(1), now),
                    None => evidence.disprove(),
                }
                prop_assert!(!evidence.holds_for(&key(2), times, now));
            }
        }

        /// What holds was proved within the last ten minutes, and not disproved since.
        #[test]
        fn what_holds_was_proved_lately(steps in prop::collection::vec((0..400_u32, 0..4_usize, 0..9_u8), 0..60)) {
            let (mut evidence, mut now, mut proofs) = (Evidence::default(), START, Vec::new());
            for (seconds, number, what) in steps {
                now = now + SECOND * seconds;
                if what == 0 {
                    evidence.disprove();
                    proofs.clear();
                } else {
                    evidence.prove(&key(number), now);
                    proofs.push((number, now));
                }
                let lately = proofs.iter().filter(|(_, at)| *at + LASTS > now);
                prop_assert!(!evidence.holds_for(&key(9), 2, now) || lately.clone().count() > 0);
                let last: std::collections::HashSet<_> = lately.map(|(number, _)| *number).collect();
                prop_assert!(last.len() < 2 || evidence.holds_for(&key(9), 2, now), "two keys did");
            }
        }
    }
}
