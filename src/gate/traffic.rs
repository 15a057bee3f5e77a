//! How much is going on: the requests that are in the house, so that a stopping process knows
//! when it is empty, and the bodies that are held, so that they never outgrow the memory set
//! aside for them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// The process's requests.
#[derive(Default)]
pub struct Traffic {
    present: AtomicUsize,
    draining: AtomicBool,
    body_bytes: AtomicU64,
}

impl Traffic {
    /// Counts a request until the value is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Presence {
        self.present.fetch_add(1, Ordering::AcqRel);
        Presence(self.clone())
    }

    /// How many requests are in the house.
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

    /// Sets `bytes` of `max` aside for a body, until the value is dropped; `None`: there is no room.
    #[must_use]
    pub fn hold_body(self: &Arc<Self>, bytes: u64, max: u64) -> Option<BodyRoom> {
        let more = |held: u64| held.checked_add(bytes).filter(|total| *total <= max);
        self.body_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(BodyRoom { traffic: self.clone(), bytes })
    }
}

/// A request is in the house as long as this lives.
pub struct Presence(Arc<Traffic>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Room for a body, given back when this is dropped.
pub struct BodyRoom {
    traffic: Arc<Traffic>,
    bytes: u64,
}

impl BodyRoom {
    /// Counts `bytes` more, which are held already: a body that was written anew is held twice.
    pub fn grow(&mut self, bytes: u64) {
        self.traffic.body_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.bytes += bytes;
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        self.traffic.body_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_bodies_ends_and_comes_back() {
        let traffic = Arc::new(Traffic::default());
        let first = traffic.hold_body(600, 1000);
        assert!(first.is_some());
        assert!(traffic.hold_body(401, 1000).is_none());
        assert!(traffic.hold_body(u64::MAX, 1000).is_none());
        drop(first);
        assert!(traffic.hold_body(1000, 1000).is_some());
    }

    #[test]
    fn a_copy_of_a_body_is_counted_and_given_back() {
        let traffic = Arc::new(Traffic::default());
        let mut room = traffic.hold_body(600, 1000).unwrap();
        room.grow(600);
        assert!(traffic.hold_body(1, 1000).is_none());
        drop(room);
        assert!(traffic.hold_body(1000, 1000).is_some());
    }

    #[test]
    fn whoever_leaves_is_no_longer_counted() {
        let traffic = Arc::new(Traffic::default());
        let presences: Vec<_> = (0..3).map(|_| traffic.enter()).collect();
        assert_eq!(traffic.present(), 3);
        drop(presences);
        assert_eq!(traffic.present(), 0);
    }
}
