//! Whether the server is of use at the moment. While it is not, nobody waits for it but the one who looks after it.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use keymeter_core::clock::MonotonicTime;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Whether the server is asked, and by how many.
#[derive(Default)]
pub(super) struct Health {
    is_reachable: AtomicBool,
    /// Whether it is known at all.
    is_known: AtomicBool,
    becomes_known: Notify,
    /// In a row, each of which a request has waited for.
    slow_answers: AtomicU32,
    gateways: Mutex<Gateways>,
    lost: Notify,
}

#[derive(Default)]
struct Gateways {
    number: u64,
    /// Since when fewer were seen.
    fewer_since: Option<MonotonicTime>,
}

/// For so long a server that forgot may not have heard of all of them again.
const FORGETFUL: Duration = Duration::from_secs(10);

/// Slow answers in a row that are taken for chance.
const CHANCE: u32 = 3;
/// Good answers in a row for which a server that was lost is trusted again, and the time between them.
pub(super) const TRIALS: u32 = 3;
pub(super) const BETWEEN_TRIALS: Duration = Duration::from_millis(50);

impl Health {
    pub(super) fn is_reachable(&self) -> bool {
        self.is_reachable.load(Ordering::Acquire)
    }

    /// Waits until it was found out whether the server is of use.
    pub(super) async fn known(&self) {
        let becomes_known = self.becomes_known.notified();
        if !self.is_known.load(Ordering::Acquire) {
            becomes_known.await;
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// It was found out.
    pub(super) fn know(&self) {
        self.is_known.store(true, Ordering::Release);
        self.becomes_known.notify_waiters();
    }

    /// How many gateways were seen last, this one included.
    pub(super) fn gateways(&self) -> u64 {
        self.gateways.lock().number.max(1)
    }

    /// So many were seen. That they are fewer than before is believed after some time.
    pub(super) fn saw(&self, number: u64, now: MonotonicTime) {
        let mut gateways = self.gateways.lock();
        let fewer_since = (number < gateways.number).then(|| gateways.fewer_since.unwrap_or(now));
        if fewer_since.is_none_or(|since| now.saturating_since(since) >= FORGETFUL) {
            *gateways = Gateways { number, fewer_since: None };
        } else {
            gateways.fewer_since = fewer_since;
        }
    }

    /// An answer came in time.
    pub(super) fn answered(&self) {
        if self.slow_answers.load(Ordering::Relaxed) > 0 {
            self.slow_answers.store(0, Ordering::Relaxed);
        }
    }

    /// None did. Says whether the server is given up with this one.
    pub(super) fn was_slow(&self) -> bool {
        self.slow_answers.fetch_add(1, Ordering::Relaxed) + 1 >= CHANCE && self.give_up()
    }

    /// The server is of no use. Says whether it was until now.
    pub(super) fn give_up(&self) -> bool {
        let was_reachable = self.is_reachable.swap(false, Ordering::AcqRel);
        self.lost.notify_one();
        was_reachable
    }

    /// It is again.
    pub(super) fn restore(&self) {
        self.slow_answers.store(0, Ordering::Relaxed);
        self.is_reachable.store(true, Ordering::Release);
        self.know();
    }

    /// Waits until the server is given up.
    pub(super) async fn lost(&self) {
        while self.is_reachable() {
            // It may have been said of the time before it was found again.
            self.lost.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_chance_and_three_in_a_row_are_not() {
        let mode = Health::default();
        mode.restore();
        assert!(!mode.was_slow() && !mode.was_slow());
        mode.answered();
        assert!(!mode.was_slow() && !mode.was_slow() && mode.is_reachable());
        assert!(mode.was_slow() && !mode.is_reachable());
        assert!(!mode.was_slow() && !mode.give_up(), "it is given up once");
        mode.restore();
        assert!(!mode.was_slow() && mode.is_reachable());
    }

    #[test]
    fn there_is_one_gateway_at_least() {
        let mode = Health::default();
        assert_eq!(mode.gateways(), 1);
        mode.saw(4, at(0));
        assert_eq!(mode.gateways(), 4);
    }

    #[test]
    fn that_there_are_fewer_gateways_is_believed_after_a_while() {
        let mode = Health::default();
        for (seconds, seen, believed) in
            [(0, 4, 4), (2, 1, 4), (4, 3, 4), (6, 4, 4), (8, 2, 4), (17, 2, 4), (18, 2, 2), (19, 3, 3)]
        {
            mode.saw(seen, at(seconds));
            assert_eq!(mode.gateways(), believed, "after {seconds} s");
        }
    }

    fn at(seconds: u64) -> MonotonicTime {
        MonotonicTime::from_nanos(seconds * 1_000_000_000)
    }
}
