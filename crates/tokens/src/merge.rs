//! A word's tokens: of all neighbours that make a token, the pair with the lowest rank becomes one, until no two do.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::vocabulary::rank;

/// In a word this short, the pair is looked for among all, in bytes: that is faster than to keep them in order.
const SHORT: usize = 64;

/// What counting takes, to be used for one word after another.
#[derive(Default)]
pub(crate) struct Merge {
    parts: Vec<Part>,
    links: Vec<Link>,
    pairs: BinaryHeap<Reverse<Pair>>,
}

/// A part of a short word, to the start of the next.
struct Part {
    start: usize,
    /// The rank of what it makes with the next, or the greatest number.
    pair: u32,
}

/// The neighbours of the part that begins at a byte.
#[derive(Clone, Copy)]
struct Link {
    before: usize,
    /// Where the next part begins; 0 where no part begins at this byte any more.
    after: usize,
}

/// Two parts that make a token. They are compared by its rank, and equal ones from the left.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    start: usize,
    end: usize,
}

const NONE: u32 = u32::MAX;

impl Merge {
    /// How many tokens a word is.
    pub(crate) fn count(&mut self, word: &[u8]) -> u64 {
        match word.len() {
            0 => 0,
            1 => 1,
            _ if rank(word).is_some() => 1,
            2..=SHORT => self.count_short(word),
            _ => self.count_long(word),
        }
    }

    fn count_short(&mut self, word: &[u8]) -> u64 {
        let of = |start: usize, end: usize| word.get(start..end).and_then(rank).unwrap_or(NONE);
        let parts = &mut self.parts;
        parts.clear();
        parts.extend((0..word.len()).map(|start| Part { start, pair: of(start, start + 2) }));
        while let Some((at, _)) =
            parts.iter().enumerate().filter(|(_, part)| part.pair != NONE).min_by_key(|(_, part)| part.pair)
        {
            parts.remove(at + 1);
            let start = |at: usize| parts.get(at).map(|part| part.start);
            // The last part makes nothing: where its pair would end, there is nothing.
            let end_of_pair = |at: usize| start(at + 1).map(|_| start(at + 2).unwrap_or(word.len()));
            let renewed = [at.checked_sub(1), Some(at)].map(|at| {
                let at = at?;
                Some((at, end_of_pair(at).map_or(NONE, |end| of(start(at).unwrap_or(end), end))))
            });
            for (at, pair) in renewed.into_iter().flatten() {
                if let Some(part) = parts.get_mut(at) {
                    part.pair = pair;
                }
            }
        }
        parts.len() as u64
    }

    fn count_long(&mut self, word: &[u8]) -> u64 {
        let length = word.len();
        self.links.clear();
        self.links.extend((0..=length).map(|at| Link { before: at.saturating_sub(1), after: at + 1 }));
        self.pairs.clear();
        let pair = |start: usize, end: usize| {
            let rank = word.get(start..end).and_then(rank)?;
            Some(Reverse(Pair { rank, start, end }))
        };
        self.pairs.extend((0..length).filter_map(|start| pair(start, start + 2)));
        let mut count = length as u64;
        while let Some(Reverse(Pair { start, end, .. })) = self.pairs.pop() {
            let middle = self.after(start);
            if middle == 0 || middle >= length || self.after(middle) != end {
                // One of the two has become part of another since.
                continue;
            }
            count -= 1;
            self.link(start, |link| link.after = end);
            self.link(middle, |link| link.after = 0);
            self.link(end, |link| link.before = start);
            if start > 0 {
                self.pairs.extend(pair(self.before(start), end));
            }
            if end < length {
                self.pairs.extend(pair(start, self.after(end)));
            }
        }
        count
    }

    fn after(&self, at: usize) -> usize {
        self.links.get(at).map_or(0, |link| link.after)
    }

    fn before(&self, at: usize) -> usize {
        self.links.get(at).map_or(0, |link| link.before)
    }

    fn link(&mut self, at: usize, change: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.get_mut(at) {
            change(link);
        }
    }
}
