//! What is learned of each model, by its name, in bounded memory.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use super::{key_tag::KeyTag, voices::Learned};

/// What is learned of each model, by its name. Names come from requests: so there are at most 1,024 of at most 128 bytes each,
/// of which one key brings 64. For a new one the name is forgotten that was longest unused.
#[derive(Debug, Default)]
pub struct LearnedModels {
    named: RwLock<HashMap<Box<str>, Named>>,
    /// What the table says of names of which nothing was learned, since to look it up takes long.
    unlearned: RwLock<HashMap<Box<str>, Arc<Learned>>>,
    /// Counts what is learned.
    time: AtomicU64,
}

#[derive(Debug)]
struct Named {
    learned: Arc<Learned>,
    /// Whose request brought the name.
    by: KeyTag,
    used: AtomicU64,
}

const MOST_NAMES: usize = 1024;
const MOST_NAMES_OF_A_KEY: usize = 64;
const LONGEST_NAME: usize = 128;

impl LearnedModels {
    /// What is known of `model`, to be read: a name that is new takes no other's place.
    #[must_use]
    pub fn known(&self, model: &str) -> Arc<Learned> {
        if let Some(named) = self.named.read().get(model) {
            return Arc::clone(&named.learned);
        }
        let known = self.unlearned.read().get(model).cloned();
        known.unwrap_or_else(|| self.look_up(model))
    }

    fn look_up(&self, model: &str) -> Arc<Learned> {
        let mut unlearned = self.unlearned.write();
        if unlearned.len() >= MOST_NAMES {
            // They are looked up again as they come.
            unlearned.clear();
        }
        let of_table = || Arc::new(Learned::new(model));
        Arc::clone(unlearned.entry(model.into()).or_insert_with(of_table))
    }

    /// What is learned of `model`, to be added to by a key's request: it is remembered if it is new. None, if its name is too
    /// long to be.
    #[must_use]
    pub fn of(&self, model: &str, key: KeyTag) -> Option<Arc<Learned>> {
        let now = self.time.fetch_add(1, Ordering::Relaxed);
        if let Some(named) = self.named.read().get(model) {
            named.used.store(now, Ordering::Relaxed);
            return Some(Arc::clone(&named.learned));
        }
        (model.len() <= LONGEST_NAME).then(|| self.remember(model, key, now))
    }

    fn remember(&self, model: &str, key: KeyTag, now: u64) -> Arc<Learned> {
        let mut named = self.named.write();
        // Another thread may have been here between the two locks.
        if let Some(known) = named.get(model) {
            return Arc::clone(&known.learned);
        }
        let of_the_key = named.values().filter(|named| named.by == key).count();
        if of_the_key >= MOST_NAMES_OF_A_KEY {
            forget_oldest(&mut named, |named| named.by == key);
        } else if named.len() >= MOST_NAMES {
            forget_oldest(&mut named, |_| true);
        }
        let learned = Arc::new(Learned::new(model));
        let entry = Named { learned: Arc::clone(&learned), by: key, used: AtomicU64::new(now) };
        named.insert(model.into(), entry);
        drop(self.unlearned.write().remove(model));
        learned
    }
}

/// Forgets the name that was longest unused of those that may be.
fn forget_oldest(named: &mut HashMap<Box<str>, Named>, may_be: impl Fn(&Named) -> bool) {
    let those = named.iter().filter(|(_, named)| may_be(named));
    let oldest = those.min_by_key(|(_, named)| named.used.load(Ordering::Relaxed)).map(|(name, _)| name.clone());
    oldest.and_then(|name| named.remove(&name));
}

#[cfg(test)]
mod tests {
    use super::{super::figures::Figures, *};

    fn models_of(keys: impl IntoIterator<Item = (&'static str, usize)>) -> LearnedModels {
        let models = LearnedModels::default();
        for (key, count) in keys {
            (0..count).for_each(|number| drop(models.of(&format!("{key}-{number}"), KeyTag::from_text(key))));
        }
        models
    }

    fn count(models: &LearnedModels, key: &str) -> usize {
        models.named.read().values().filter(|named| named.by == KeyTag::from_text(key)).count()
    }

    #[test]
    fn a_key_brings_a_bounded_number_of_names_and_displaces_its_own() {
        let models = models_of([("ada", 1), ("eve", 5000)]);
        assert_eq!((count(&models, "ada"), count(&models, "eve")), (1, 64));
        assert!(models.named.read().contains_key("eve-4999") && !models.named.read().contains_key("eve-0"));
    }

    #[test]
    fn of_many_keys_names_the_longest_unused_is_forgotten() {
        let models = LearnedModels::default();
        for number in 0..3000 {
            let _ = models.of(&number.to_string(), KeyTag::from_text(&(number / 8).to_string()));
            let _ = models.of("0", KeyTag::from_text("somebody"));
        }
        let named = models.named.read();
        assert_eq!(named.len(), MOST_NAMES);
        assert!(named.contains_key("0") && named.contains_key("2999") && !named.contains_key("1"));
    }

    #[test]
    fn what_the_table_says_of_names_is_kept_within_bounds() {
        let models = LearnedModels::default();
        let key = KeyTag::from_text("ada");
        for number in 0..5000 {
            let name = format!("claude-opus-4-8-{number}");
            assert_eq!(models.known(&name).figures(key), Figures::of("claude-opus-4-8"));
            assert!(models.unlearned.read().len() <= MOST_NAMES);
        }
    }

    #[test]
    fn asking_learns_no_name_and_nor_does_one_that_is_too_long() {
        let models = LearnedModels::default();
        let key = KeyTag::from_text("ada");
        assert_eq!(models.known("claude-sonnet-4-5").figures(key), Figures::of("claude-sonnet-4-5"));
        assert!(models.of(&"a".repeat(129), key).is_none());
        assert!(models.named.read().is_empty());
    }

    #[test]
    fn threads_that_meet_a_new_model_learn_together() {
        let models = LearnedModels::default();
        let entries: Vec<Arc<Learned>> = std::thread::scope(|scope| {
            let of_new = || models.of("new", KeyTag::from_text("ada")).unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(of_new)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(entries.windows(2).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
    }
}
