//! Which replica made an answer: a request that goes on from one by its id is understood there only.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;

/// The makers of the last answers, by a hash of each answer's id.
#[derive(Debug, Default)]
pub(super) struct Makers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    makers: HashMap<u64, Arc<str>>,
    /// In the order in which they were made.
    order: VecDeque<u64>,
}

/// So many answers are remembered.
const MOST: usize = 100_000;

impl Makers {
    /// `replica` made the answer.
    pub fn remember(&self, answer: u64, replica: &Arc<str>) {
        let mut known = self.0.lock();
        if known.makers.insert(answer, replica.clone()).is_none() {
            known.order.push_back(answer);
        }
        if known.order.len() > MOST
            && let Some(oldest) = known.order.pop_front()
        {
            known.makers.remove(&oldest);
        }
    }

    /// Who made the answer.
    pub fn maker(&self, answer: u64) -> Option<Arc<str>> {
        self.0.lock().makers.get(&answer).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answers_are_remembered() {
        let (makers, name) = (Makers::default(), Arc::from("a"));
        (0..MOST as u64 + 5).for_each(|answer| makers.remember(answer, &name));
        makers.remember(MOST as u64, &name);
        assert!(makers.maker(4).is_none() && makers.maker(5).is_some());
        assert_eq!(makers.0.lock().order.len(), MOST);
    }
}
