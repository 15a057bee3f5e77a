//! Which server made an answer: a request that goes on from one by its id is understood there only.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, VecDeque},
};

use parking_lot::Mutex;

use super::replica::ServerId;

/// The makers of the last answers, by a hash of each answer's id. Where there are too many, the key that has the most forgets
/// its oldest one, so that no key makes another forget what that made last.
#[derive(Debug, Default)]
pub(super) struct Makers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    makers: HashMap<u64, ServerId>,
    keys: HashMap<u64, Answers>,
    /// The keys by how many answers of theirs are remembered; of equal ones, the key with the oldest is last.
    shares: BTreeSet<Share>,
    made: u64,
}

/// One key's answers, in the order in which they were made, each with its number among all.
type Answers = VecDeque<(u64, u64)>;

/// How many answers of a key are remembered, the number of the first, and the key.
type Share = (usize, Reverse<u64>, u64);

/// So many answers are remembered.
const MOST: usize = 100_000;

impl Makers {
    /// `server` made the answer, for this key.
    pub fn remember(&self, key: u64, answer: u64, server: ServerId) {
        let mut known = self.0.lock();
        if known.makers.insert(answer, server).is_some() {
            return;
        }
        known.add(key, answer);
        if known.makers.len() > MOST {
            known.forget_one();
        }
    }

    /// Who made the answer.
    pub fn maker(&self, answer: u64) -> Option<ServerId> {
        self.0.lock().makers.get(&answer).copied()
    }
}

impl Known {
    fn add(&mut self, key: u64, answer: u64) {
        self.made += 1;
        let made = (self.made, answer);
        self.change(key, |answers| answers.push_back(made));
    }

    /// Forgets the oldest answer of the key that has the most.
    fn forget_one(&mut self) {
        let Some(&(.., key)) = self.shares.last() else { return };
        if let Some((_, answer)) = self.change(key, VecDeque::pop_front) {
            self.makers.remove(&answer);
        }
    }

    /// Changes a key's answers, and its share with them.
    fn change<T>(&mut self, key: u64, change: impl FnOnce(&mut Answers) -> T) -> T {
        let answers = self.keys.entry(key).or_default();
        if let Some(share) = share(key, answers) {
            self.shares.remove(&share);
        }
        let changed = change(answers);
        match share(key, answers) {
            Some(share) => _ = self.shares.insert(share),
            None => _ = self.keys.remove(&key),
        }
        changed
    }
}

fn share(key: u64, answers: &Answers) -> Option<Share> {
    Some((answers.len(), Reverse(answers.front()?.0), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answers_are_remembered() {
        let (makers, server) = (Makers::default(), ServerId::of_test(7));
        (0..MOST as u64 + 5).for_each(|answer| makers.remember(1, answer, server));
        makers.remember(1, MOST as u64, server);
        assert!(makers.maker(4).is_none() && makers.maker(5).is_some());
        assert_eq!(makers.0.lock().makers.len(), MOST);
    }

    #[test]
    fn one_key_makes_no_other_forget() {
        let (makers, server) = (Makers::default(), ServerId::of_test(7));
        let answers = |key: u64, count: u64| (0..count).map(move |number| (key << 32) | number);
        answers(1, 10).for_each(|answer| makers.remember(1, answer, server));
        answers(2, 3 * MOST as u64).for_each(|answer| makers.remember(2, answer, server));
        assert!(answers(1, 10).all(|answer| makers.maker(answer).is_some()));
        assert!(makers.maker(answers(2, 3 * MOST as u64).next_back().unwrap()).is_some());
    }

    #[test]
    fn what_is_kept_is_bounded_and_of_keys_with_one_answer_each_it_is_the_last() {
        let (makers, server) = (Makers::default(), ServerId::of_test(7));
        (0..MOST as u64 + 5).rev().for_each(|key| makers.remember(key, key, server));
        let kept = |answer| makers.maker(answer).is_some();
        assert!((0..MOST as u64).all(kept) && !(MOST as u64..MOST as u64 + 5).any(kept));
        let known = makers.0.lock();
        assert_eq!((known.makers.len(), known.keys.len(), known.shares.len()), (MOST, MOST, MOST));
    }
}
