//! The order in which requests wait while every replica is full. An upstream's pool keeps one queue behind a lock, pushes
//! the requests that find no room, and pops one whenever a place among the running ones becomes free.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use crate::clock::MonotonicTime;

/// Requests that wait, each as a `T` by which it is woken. The lowest priority number goes first. Among equal ones, keys
/// take turns (start-time fair queuing): each key has a tag that says how much it was served, and the key with the lowest
/// tag goes next; of equal tags, the request that came first. A key that begins to wait starts level with the least served
/// key that waits, or above it if it was just served more than that. So a key that comes anew passes by whatever the
/// others have waiting, except for one request of each.
///
/// Every operation takes logarithmic time, and what has left takes no memory.
///
/// Moments passed in may be slightly out of order between threads: time never steps back here.
#[derive(Debug)]
pub struct FairQueue<T> {
    waiting: BTreeMap<Place, Waiter<T>>,
    /// One for each priority of which requests wait.
    levels: BTreeMap<i8, Level>,
    arrivals: u64,
    /// The latest moment seen.
    latest: MonotonicTime,
}

/// Where a request waits, to take it out again. A queue never gives the same place to another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

#[derive(Debug)]
struct Waiter<T> {
    priority: i8,
    key: u64,
    cost: u64,
    since: MonotonicTime,
    item: T,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), levels: BTreeMap::new(), arrivals: 0, latest: MonotonicTime::default() }
    }
}

impl<T> FairQueue<T> {
    /// A queue in which nothing waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a request of `key` wait. Its cost is what its key is taken to have been served by it: 1 for each where
    /// requests count alike, and at least 1.
    pub fn push(&mut self, key: u64, priority: i8, cost: u64, now: MonotonicTime, item: T) -> Place {
        self.latest = self.latest.max(now);
        let place = Place(self.arrivals);
        self.arrivals += 1;
        self.waiting.insert(place, Waiter { priority, key, cost, since: self.latest, item });
        self.levels.entry(priority).or_default().join(key, place);
        place
    }

    /// Takes the request whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        self.serve(self.first_place()?)
    }

    /// Takes the request that waits at this place, before those whose turn comes first: they cannot be served yet. Its key
    /// counts as served.
    pub fn serve(&mut self, place: Place) -> Option<T> {
        let waiter = self.waiting.remove(&place)?;
        self.leave(&waiter, place, waiter.cost.max(1));
        Some(waiter.item)
    }

    /// Takes a request out of turn, as when its client has left; `None` where it does not wait any more. It counts as if it
    /// had never waited: its key's next request takes over its turn, and those after that move up.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let waiter = self.waiting.remove(&place)?;
        self.leave(&waiter, place, 0);
        Some(waiter.item)
    }

    /// Takes all requests, in the order in which they came.
    pub fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.levels.clear();
        mem::take(&mut self.waiting).into_values().map(|waiter| waiter.item)
    }

    /// The request whose turn it is.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        Some(&self.waiting.get(&self.first_place()?)?.item)
    }

    /// The requests in the order in which they would be served if each but the first were passed by: a key's later ones stand
    /// with its first.
    pub fn in_turn(&self) -> impl Iterator<Item = (Place, &T)> {
        let places = self.levels.values().flat_map(Level::in_turn);
        places.filter_map(|place| Some((*place, &self.waiting.get(place)?.item)))
    }

    /// Since when the request waits that came before all others.
    #[must_use]
    pub fn oldest(&self) -> Option<MonotonicTime> {
        Some(self.waiting.first_key_value()?.1.since)
    }

    /// How many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn first_place(&self) -> Option<Place> {
        let (_, level) = self.levels.first_key_value()?;
        Some(level.heads.first()?.place)
    }

    /// Takes `waiter` out of its level, its key having been served so much by that. Where nothing of a level waits, nobody
    /// is behind anybody, and it is forgotten who was served.
    fn leave(&mut self, waiter: &Waiter<T>, place: Place, served: u64) {
        if let Some(level) = self.levels.get_mut(&waiter.priority) {
            level.leave(waiter.key, place, served);
            if level.heads.is_empty() {
                self.levels.remove(&waiter.priority);
            }
        }
    }
}

/// How much a key was served, beside others. It cannot overflow: that takes 2^64 requests of the highest cost.
type Tag = u128;

/// Keys that are remembered for what they were served, although nothing of theirs waits.
const MOST_REMEMBERED: usize = 1024;

/// What waits with one priority.
#[derive(Debug, Default)]
struct Level {
    /// Where a key begins that comes now: at the lowest tag that waits, or above it where too many had to be remembered.
    virtual_time: Tag,
    /// The next request of each key that has any waiting.
    heads: BTreeSet<Head>,
    keys: BTreeMap<u64, Share>,
    /// The keys that have nothing waiting, and were served more than one that begins now. If they were forgotten, they
    /// could begin anew after each request, and pass by a key that has many waiting for ever.
    remembered: BTreeSet<(Tag, u64)>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    tag: Tag,
    place: Place,
    key: u64,
}

/// One key's part.
#[derive(Debug)]
struct Share {
    /// The start tag of its next request, which is the finish tag of the last that was served. Requests behind the next one
    /// have no tag yet, so that nothing is to be mended when one is removed.
    tag: Tag,
    waiting: BTreeSet<Place>,
}

impl Level {
    fn join(&mut self, key: u64, place: Place) {
        let begin = self.virtual_time;
        let share = self.keys.entry(key).or_insert_with(|| Share { tag: begin, waiting: BTreeSet::new() });
        if share.waiting.is_empty() {
            self.remembered.remove(&(share.tag, key));
            self.heads.insert(Head { tag: share.tag, place, key });
        }
        share.waiting.insert(place);
    }

    fn in_turn(&self) -> impl Iterator<Item = &Place> {
        self.heads.iter().filter_map(|head| self.keys.get(&head.key)).flat_map(|share| &share.waiting)
    }

    fn leave(&mut self, key: u64, place: Place, served: u64) {
        let Some(share) = self.keys.get_mut(&key) else { return };
        if let Some(&head) = share.waiting.first() {
            self.heads.remove(&Head { tag: share.tag, place: head, key });
        }
        share.waiting.remove(&place);
        share.tag += Tag::from(served);
        match share.waiting.first() {
            Some(&head) => self.heads.insert(Head { tag: share.tag, place: head, key }),
            None => self.remembered.insert((share.tag, key)),
        };
        self.advance();
    }

    /// Brings the virtual time to the lowest tag that waits, and forgets the keys that are not above it.
    ///
    /// It goes on above that if too many keys are remembered, which takes as many keys that send a first request while
    /// another key's second one waits. Those that come later then start behind that one.
    fn advance(&mut self) {
        let lowest = self.heads.first().map_or(0, |head| head.tag);
        self.virtual_time = self.virtual_time.max(lowest);
        while let Some(&(tag, key)) = self.remembered.first() {
            if tag > self.virtual_time && self.remembered.len() <= MOST_REMEMBERED {
                break;
            }
            self.virtual_time = self.virtual_time.max(tag);
            self.remembered.pop_first();
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
