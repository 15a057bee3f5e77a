//! How much is going on: the requests that are in flight, so that a stopping process knows
//! when it is empty, and the bodies that are held, so that they never outgrow the memory set
//! aside for them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use crate::limits::account::Account;

/// The process's requests.
#[derive(Default)]
pub struct InFlight {
    present: AtomicUsize,
    draining: AtomicBool,
    body_bytes: AtomicU64,
}

impl InFlight {
    /// Counts a request until the value is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> InFlightGuard {
        self.present.fetch_add(1, Ordering::AcqRel);
        InFlightGuard(self.clone())
    }

    /// How many requests are in flight.
    #[must_use]
    pub fn present(&self) -> usize {
        self.present.load(Ordering::Acquire)
    }

    /// From now on new requests are turned away.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether new requests are turned away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Bytes of all bodies that are held.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Acquire)
    }

    /// Where the body of a request of `account`'s key is counted, of `max` bytes for all bodies together. Nothing is taken
    /// yet: what a request announces costs it nothing, and gives it nothing.
    #[must_use]
    pub fn body_room(self: &Arc<Self>, account: Arc<Account>, max: u64) -> BodyRoom {
        BodyRoom { in_flight: self.clone(), account, max, bytes: 0 }
    }
}

/// A request is in flight as long as this lives.
pub struct InFlightGuard(Arc<InFlight>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One key holds at most this part of the room for all bodies, or a single body.
const SHARE_OF_ONE_KEY: u64 = 4;

/// Room for a body, given back when this is dropped.
pub struct BodyRoom {
    in_flight: Arc<InFlight>,
    account: Arc<Account>,
    max: u64,
    bytes: u64,
}

/// There is no room for more of a body, at all or for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl BodyRoom {
    /// Counts `bytes` more that have arrived.
    ///
    /// # Errors
    /// When all bodies together would be over their room, or those of this key over a quarter of it. Nothing is taken then.
    /// A body that is the only one of its key may be larger: else one that is allowed, in a small room, could never come.
    pub fn take(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let (of_key, quarter) = (&self.account.buffered, self.max / SHARE_OF_ONE_KEY);
        add(of_key, bytes, |held, total| total <= quarter || held == self.bytes)?;
        if let Err(no_room) = add(&self.in_flight.body_bytes, bytes, |_, total| total <= self.max) {
            of_key.fetch_sub(bytes, Ordering::AcqRel);
            return Err(no_room);
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Counts `bytes` more, which are held already: a body that was written anew is held twice.
    pub fn grow(&mut self, bytes: u64) {
        self.account.buffered.fetch_add(bytes, Ordering::AcqRel);
        self.in_flight.body_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.bytes += bytes;
    }
}

/// Adds `bytes` to what is `held`, if what is held and the sum may be so.
fn add(held: &AtomicU64, bytes: u64, may: impl Fn(u64, u64) -> bool) -> Result<(), NoRoom> {
    let more = |held: u64| held.checked_add(bytes).filter(|total| may(held, *total));
    held.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).map(drop).map_err(|_| NoRoom)
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        self.account.buffered.fetch_sub(self.bytes, Ordering::AcqRel);
        self.in_flight.body_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::tests::fixture::record, limits::account::Accounts, observe::metrics::Metrics};

    fn accounts<const KEYS: usize>(ids: [&str; KEYS]) -> [Arc<Account>; KEYS] {
        let accounts = Accounts::new(Arc::new(Metrics::new(10).unwrap()));
        ids.map(|id| accounts.of(&record(id)))
    }

    #[test]
    fn room_is_taken_as_bytes_arrive_and_comes_back() {
        let in_flight = Arc::new(InFlight::default());
        let keys = accounts(["key_a", "key_b", "key_c", "key_d", "key_e"]);
        let mut rooms: Vec<_> = keys.iter().map(|key| in_flight.body_room(key.clone(), 1000)).collect();
        let last = rooms.len() - 1;
        assert_eq!(rooms[last].take(1), Ok(()), "who announces takes nothing");
        for room in &mut rooms[..last] {
            assert_eq!(room.take(200), Ok(()));
        }
        assert_eq!(rooms[last].take(200), Err(NoRoom));
        assert_eq!(rooms[last].take(u64::MAX), Err(NoRoom));
        assert_eq!(rooms[last].take(199), Ok(()), "what was refused took nothing");
        assert_eq!(rooms[0].take(1), Err(NoRoom));
        drop(rooms);
        assert!(keys.iter().all(|key| key.buffered.load(Ordering::Relaxed) == 0));
        for key in &keys[..4] {
            assert_eq!(in_flight.body_room(key.clone(), 1000).take(250), Ok(()));
        }
    }

    #[test]
    fn one_key_holds_a_quarter_at_most() {
        let in_flight = Arc::new(InFlight::default());
        let [a, b] = accounts(["key_a", "key_b"]);
        let (mut first, mut second) = (in_flight.body_room(a.clone(), 1000), in_flight.body_room(a, 1000));
        assert_eq!(
            (first.take(100), second.take(150), first.take(1), second.take(1)),
            (Ok(()), Ok(()), Err(NoRoom), Err(NoRoom))
        );
        assert_eq!(in_flight.body_room(b, 1000).take(250), Ok(()), "another has its own");
        drop(first);
        assert_eq!(second.take(100), Ok(()));
    }

    #[test]
    fn a_body_that_is_its_keys_only_one_may_be_larger() {
        let in_flight = Arc::new(InFlight::default());
        let [a, b] = accounts(["key_a", "key_b"]);
        let (mut first, mut second) = (in_flight.body_room(a.clone(), 1000), in_flight.body_room(a, 1000));
        assert_eq!((first.take(250), first.take(350), second.take(1)), (Ok(()), Ok(()), Err(NoRoom)));
        assert_eq!((in_flight.body_room(b, 1000).take(250), first.take(401)), (Ok(()), Err(NoRoom)));
        drop(first);
        assert_eq!((second.take(100), second.take(900), second.take(1)), (Ok(()), Ok(()), Err(NoRoom)));
    }

    #[test]
    fn a_copy_of_a_body_is_counted_and_given_back() {
        let in_flight = Arc::new(InFlight::default());
        let [a, b, c] = accounts(["key_a", "key_b", "key_c"]);
        let mut copied = in_flight.body_room(a.clone(), 1000);
        assert_eq!(copied.take(250), Ok(()));
        copied.grow(600);
        assert_eq!(in_flight.body_room(a.clone(), 1000).take(1), Err(NoRoom));
        assert_eq!(in_flight.body_room(b, 1000).take(151), Err(NoRoom));
        drop(copied);
        assert_eq!((in_flight.body_room(a, 1000).take(250), in_flight.body_room(c, 1000).take(250)), (Ok(()), Ok(())));
    }

    #[test]
    fn whoever_leaves_is_no_longer_counted() {
        let in_flight = Arc::new(InFlight::default());
        let guards: Vec<_> = (0..3).map(|_| in_flight.enter()).collect();
        assert_eq!(in_flight.present(), 3);
        drop(guards);
        assert_eq!(in_flight.present(), 0);
    }
}
