//! Whether the server is available. While it is not, no request waits for it.

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use keymeter_core::clock::MonotonicTime;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// The health of the server, and the number of gateways that use it.
#[derive(Default)]
pub(super) struct Health {
    is_reachable: AtomicBool,
    /// Whether the health is known at all.
    is_known: AtomicBool,
    becomes_known: Notify,
    /// Timeouts and slow answers in a row.
    slow_answers: AtomicU32,
    /// When the last slow answer came that counted.
    slow_at: Mutex<Option<Instant>>,
    gateways: Mutex<Gateways>,
    lost: Notify,
    /// When the permits of running requests were last renewed on the server, in nanoseconds.
    renewed_at: AtomicU64,
    renewed: Notify,
    overdue: Notify,
}

#[derive(Default)]
struct Gateways {
    /// How many were seen last, this one included.
    number: u64,
    /// Since when fewer are seen.
    fewer_since: Option<MonotonicTime>,
    /// Since when the server is asked about them, and whether that is long enough to have heard of all.
    asked_since: Option<MonotonicTime>,
    are_known: bool,
}

/// How often each gateway renews its permits, and says by that that it is there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(2);

/// How long permits are trusted without renewal. The server frees them after 10 s.
const TRUSTED_FOR: Duration = Duration::from_secs(8);

/// The gateways that there are at least until all could have been heard of: limits that nobody else uses would not be
/// shared.
const FEWEST: u64 = 2;

/// How long a server that lost its data may not know all gateways again.
const FORGETFUL: Duration = Duration::from_secs(10);

/// Timeouts or slow answers in a row after which the server is unavailable.
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

    /// The number of gateways among which a limit is divided.
    pub(super) fn gateways(&self) -> u64 {
        let gateways = self.gateways.lock();
        gateways.number.max(if gateways.are_known { 1 } else { FEWEST })
    }

    /// The number of gateways that were seen last, this one included.
    pub(super) fn gateways_seen(&self) -> u64 {
        self.gateways.lock().number.max(1)
    }

    /// Records how many gateways the server knew when it was asked at `now`. A lower number counts after some time, and
    /// that there is no other one after a heartbeat's time: it may have started a moment later.
    pub(super) fn record_gateways(&self, number: u64, now: MonotonicTime) {
        let mut gateways = self.gateways.lock();
        let asked_since = *gateways.asked_since.get_or_insert(now);
        gateways.are_known |= now.saturating_since(asked_since) >= HEARTBEAT;
        let fewer_since = (number < gateways.number).then(|| gateways.fewer_since.unwrap_or(now));
        if fewer_since.is_none_or(|since| now.saturating_since(since) >= FORGETFUL) {
            (gateways.number, gateways.fewer_since) = (number, None);
        } else {
            gateways.fewer_since = fewer_since;
        }
    }

    /// Whether the server decides at `now`: it is reachable, and knows what runs here.
    pub(super) fn decides(&self, now: MonotonicTime) -> bool {
        self.is_reachable() && self.unrenewed_for(now) < TRUSTED_FOR
    }

    /// Records that the permits were renewed by calls that began at `now`.
    pub(super) fn record_renewal(&self, now: MonotonicTime) {
        self.renewed_at.store(now.as_nanos(), Ordering::Release);
        self.renewed.notify_waiters();
    }

    /// Whether the permits are to be renewed at `now`.
    pub(super) fn is_renewal_due(&self, now: MonotonicTime) -> bool {
        self.unrenewed_for(now) >= HEARTBEAT
    }

    /// Waits until the permits are renewed, which is asked for if they are overdue: this process may have stood still.
    pub(super) async fn wait_until_renewed(&self, clock: impl Fn() -> MonotonicTime) {
        loop {
            let mut renewed = pin!(self.renewed.notified());
            renewed.as_mut().enable();
            if self.unrenewed_for(clock()) < TRUSTED_FOR {
                return;
            }
            self.overdue.notify_one();
            renewed.await;
        }
    }

    /// Waits until somebody waits for overdue permits.
    pub(super) async fn wait_until_overdue(&self) {
        self.overdue.notified().await;
    }

    fn unrenewed_for(&self, now: MonotonicTime) -> Duration {
        now.saturating_since(MonotonicTime::from_nanos(self.renewed_at.load(Ordering::Acquire)))
    }

    /// Records an answer in time.
    pub(super) fn record_answer(&self) {
        if self.slow_answers.load(Ordering::Relaxed) > 0 {
            self.slow_answers.store(0, Ordering::Relaxed);
        }
    }

    /// Records a silence of so many timeouts. Returns whether the server becomes unreachable with it.
    pub(super) fn record_timeouts(&self, timeouts: u32) -> bool {
        let timeouts = timeouts.min(CHANCE);
        let before = self.slow_answers.fetch_add(timeouts, Ordering::Relaxed);
        before + timeouts >= CHANCE && self.mark_unreachable()
    }

    /// Records that the answer to a question asked at `asked` came at `now`, and too late. The answers to questions that were
    /// asked at once count as one. Returns whether the server becomes unreachable with it.
    pub(super) fn record_slow_answer(&self, asked: Instant, now: Instant) -> bool {
        let mut slow_at = self.slow_at.lock();
        if slow_at.is_some_and(|slow_at| asked < slow_at) {
            return false;
        }
        *slow_at = Some(now);
        self.record_timeouts(1)
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
        assert!(!health.record_timeouts(1) && !health.record_timeouts(1));
        health.record_answer();
        assert!(!health.record_timeouts(1) && !health.record_timeouts(1) && health.is_reachable());
        assert!(health.record_timeouts(1) && !health.is_reachable());
        assert!(!health.record_timeouts(1) && !health.mark_unreachable(), "it is given up once");
        health.mark_reachable();
        assert!(!health.record_timeouts(1) && health.is_reachable());
        assert!(health.record_timeouts(u32::MAX), "it was silent for long");
    }

    #[test]
    fn slow_answers_to_questions_that_were_asked_at_once_say_the_same() {
        let health = Health::default();
        health.mark_reachable();
        let start = Instant::now();
        let slow = |asked, now| {
            health.record_slow_answer(start + Duration::from_millis(asked), start + Duration::from_millis(now))
        };
        for answered in 1..50 {
            assert!(!slow(0, answered));
        }
        assert!(!slow(50, 51));
        health.record_answer();
        assert!(!slow(60, 61) && !slow(61, 62));
        assert!(!slow(61, 63), "it was asked before the last answer came");
        assert!(slow(63, 64) && !health.is_reachable());
    }

    #[test]
    fn a_gateway_counts_as_one_of_two_until_it_could_have_heard_of_others() {
        let health = Health::default();
        assert_eq!((health.gateways(), health.gateways_seen()), (2, 1), "the server was never reached");
        for (seconds, seen, believed) in [(5, 1, 2), (6, 1, 2), (7, 1, 1), (8, 2, 2), (60, 1, 2), (70, 1, 1)] {
            health.record_gateways(seen, at(seconds));
            assert_eq!(health.gateways(), believed, "after {seconds} s");
        }
        let health = Health::default();
        health.record_gateways(4, at(0));
        assert_eq!((health.gateways(), health.gateways_seen()), (4, 4));
    }

    #[tokio::test]
    async fn permits_that_are_overdue_are_renewed_before_the_server_decides() {
        let health = Health::default();
        health.mark_reachable();
        health.record_renewal(at(100));
        assert!(health.decides(at(107)) && !health.decides(at(108)) && !health.is_renewal_due(at(101)));
        health.wait_until_renewed(|| at(107)).await;
        let renewed = health.wait_until_renewed(|| at(109));
        let renewal = async {
            health.wait_until_overdue().await;
            assert!(health.is_renewal_due(at(109)));
            health.record_renewal(at(109));
        };
        tokio::join!(renewed, renewal);
        assert!(health.decides(at(109)));
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
