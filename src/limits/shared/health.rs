//! Whether the server is available. While it is not, no request waits for it.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use keymeter_core::clock::MonotonicTime;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The health of the server, and the number of gateways that use it.
#[derive(Default)]
pub(super) struct Health {
    is_reachable: AtomicBool,
    /// Whether the health is known at all.
    is_known: AtomicBool,
    becomes_known: Notify,
    /// Timeouts in a row.
    slow_answers: AtomicU32,
    gateways: Mutex<Gateways>,
    lost: Notify,
}

#[derive(Default)]
struct Gateways {
    number: u64,
    /// Since when fewer are seen.
    fewer_since: Option<MonotonicTime>,
}

/// How long a server that lost its data may not know all gateways again.
const FORGETFUL: Duration = Duration::from_secs(10);

/// Timeouts in a row after which the server is unavailable.
const CHANCE: u32 = 3;
/// The good answers in a row after which a lost server is trusted again, and the time between them.
pub(super) const TRIALS: u32 = 3;
pub(super) const BETWEEN_TRIALS: Duration = Duration::from_millis(50);

impl Health {
    pub(super) fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::Acquire)
    }

    /// Waits until the health is known.
    pub(super) async fn wait_until_known(&self) {
        let becomes_known = self.becomes_known.notified();
        if !self.is_known.load(Ordering::Acquire) {
            becomes_known.await;
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// Notes that the health is known.
    pub(super) fn set_known(&self) {
        self.is_known.store(true, Ordering::Release);
        self.becomes_known.notify_waiters();
    }

    /// The number of gateways that were seen last, this one included.
    pub(super) fn gateways(&self) -> u64 {
        self.gateways.lock().number.max(1)
    }

    /// Records how many gateways were seen. A lower number counts after some time.
    pub(super) fn record_gateways(&self, number: u64, now: MonotonicTime) {
        let mut gateways = self.gateways.lock();
        let fewer_since = (number < gateways.number).then(|| gateways.fewer_since.unwrap_or(now));
        if fewer_since.is_none_or(|since| now.saturating_since(since) >= FORGETFUL) {
            *gateways = Gateways { number, fewer_since: None };
        } else {
            gateways.fewer_since = fewer_since;
        }
    }

    /// Records an answer in time.
    pub(super) fn record_answer(&self) {
        if self.slow_answers.load(Ordering::Relaxed) > 0 {
            self.slow_answers.store(0, Ordering::Relaxed);
        }
    }

    /// Records a timeout. Returns whether the server becomes unreachable with it.
    pub(super) fn record_timeout(&self) -> bool {
        self.slow_answers.fetch_add(1, Ordering::Relaxed) + 1 >= CHANCE && self.mark_unreachable()
    }

    /// Marks the server as unreachable. Returns whether it was reachable until now.
    pub(super) fn mark_unreachable(&self) -> bool {
        let was_reachable = self.is_reachable.swap(false, Ordering::AcqRel);
        self.lost.notify_one();
        was_reachable
    }

    /// Marks the server as reachable.
    pub(super) fn mark_reachable(&self) {
        self.slow_answers.store(0, Ordering::Relaxed);
        self.is_reachable.store(true, Ordering::Release);
        self.set_known();
    }

    /// Waits until the server is unreachable.
    pub(super) async fn wait_until_lost(&self) {
        while self.is_reachable() {
            // A notification may be from before the server was reachable again.
            self.lost.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_chance_and_three_in_a_row_are_not() {
        let health = Health::default();
        health.mark_reachable();
        assert!(!health.record_timeout() && !health.record_timeout());
        health.record_answer();
        assert!(!health.record_timeout() && !health.record_timeout() && health.is_reachable());
        assert!(health.record_timeout() && !health.is_reachable());
        assert!(!health.record_timeout() && !health.mark_unreachable(), "it is given up once");
        health.mark_reachable();
        assert!(!health.record_timeout() && health.is_reachable());
    }

    #[test]
    fn there_is_one_gateway_at_least() {
        let health = Health::default();
        assert_eq!(health.gateways(), 1);
        health.record_gateways(4, at(0));
        assert_eq!(health.gateways(), 4);
    }

    #[test]
    fn that_there_are_fewer_gateways_is_believed_after_a_while() {
        let health = Health::default();
        for (seconds, seen, believed) in
            [(0, 4, 4), (2, 1, 4), (4, 3, 4), (6, 4, 4), (8, 2, 4), (17, 2, 4), (18, 2, 2), (19, 3, 3)]
        {
            health.record_gateways(seen, at(seconds));
            assert_eq!(health.gateways(), believed, "after {seconds} s");
        }
    }

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime::from_nanos(seconds * 1_000_000_000)
    }
}
