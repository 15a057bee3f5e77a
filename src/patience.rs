//! Waiting for another program's answer without blaming it for our own lateness. On a busy machine a timer fires late, and
//! the answer may have arrived long before anybody looked: time that passes unseen says nothing about the other side. So a
//! wait is divided into steps. A step counts for its own length, however late it ends; and where steps end late the other
//! side may have too little CPU too, so that its silence must last longer before it means something.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

/// What is known of a connection that many waits share.
#[derive(Default)]
pub(crate) struct Watch {
    answers: AtomicU64,
    /// How many connections were given up.
    ends: AtomicU64,
    lateness: Mutex<Lateness>,
}

impl Watch {
    /// Ends all waits on the connection, because it is given up.
    pub(crate) fn end(&self) {
        self.ends.fetch_add(1, Ordering::AcqRel);
    }

    /// How many connections were given up.
    pub(crate) fn ends(&self) -> u64 {
        self.ends.load(Ordering::Acquire)
    }

    /// Records that something that was due at `due` happened at `now`. Returns how late this process was lately.
    pub(crate) fn record_due(&self, due: Instant, now: Instant) -> Duration {
        self.lateness.lock().record(due, now)
    }

    fn record_answer(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }
}

/// The patience of one wait. Several waits may use it up one after another.
pub(crate) struct Patience<'watch> {
    silence: Silence,
    /// When the next look is due.
    next: Instant,
    /// How late this process was, where nobody else watches.
    lateness: Lateness,
    /// What others see on the connection, and how many connections had been given up before.
    watch: Option<(&'watch Watch, u64)>,
}

impl Patience<'static> {
    /// Patience with an answer that may be silent for `limit`.
    pub(crate) fn new(limit: Duration) -> Self {
        Self::with(limit, None)
    }
}

impl<'watch> Patience<'watch> {
    /// The same, for one of many answers on a connection. While others come the other side is not silent, for twice `limit`
    /// at most.
    pub(crate) fn on(limit: Duration, watch: &'watch Watch) -> Self {
        Self::with(limit, Some(watch))
    }

    fn with(limit: Duration, watch: Option<&'watch Watch>) -> Self {
        let now = Instant::now();
        let silence = Silence::new(limit, now, watch.map_or(0, Watch::answers));
        let watch = watch.map(|watch| (watch, watch.ends()));
        Self { next: now + silence.step(), silence, lateness: Lateness::default(), watch }
    }

    /// When the wait began.
    pub(crate) fn start(&self) -> Instant {
        self.silence.start
    }

    /// Whether less than the limit was watched until now, so that an answer that just came did so in time.
    pub(crate) fn is_in_time(&self) -> bool {
        self.silence.watched < self.silence.limit
    }

    /// How many times the limit the other side has been silent, and once at least.
    pub(crate) fn silent_limits(&self) -> u32 {
        let limits = self.silence.silent.as_nanos() / self.silence.limit.as_nanos().max(1);
        u32::try_from(limits).unwrap_or(u32::MAX).max(1)
    }

    /// The answer. `None`: the other side is silent, its connection is given up, or this process is so late that nobody can
    /// tell.
    pub(crate) async fn wait_for<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        loop {
            if let Ok(answer) = timeout_at(self.next, answer.as_mut()).await {
                if let Some((watch, _)) = self.watch {
                    watch.record_answer();
                }
                return Some(answer);
            }
            let now = Instant::now();
            let (heard, lateness) = match self.watch {
                Some((watch, ends)) if watch.ends() != ends => return None,
                Some((watch, _)) => (watch.answers(), watch.record_due(self.next, now)),
                None => (0, self.lateness.record(self.next, now)),
            };
            self.next = now + self.silence.look(now, heard, lateness)?;
        }
    }
}

/// How late this process was lately, at worst.
#[derive(Default)]
struct Lateness {
    worst: Duration,
    at: Option<Instant>,
}

/// How late timers are on an idle machine.
const USUAL: Duration = Duration::from_millis(2);
/// How long lateness is remembered.
const LATELY: Duration = Duration::from_secs(1);

impl Lateness {
    /// Records that something that was due at `due` happened at `now`. Returns how late something was at worst lately.
    fn record(&mut self, due: Instant, now: Instant) -> Duration {
        let lateness = now.saturating_duration_since(due);
        let is_over = self.at.is_none_or(|at| now.saturating_duration_since(at) > LATELY);
        if is_over || lateness >= self.worst {
            (self.worst, self.at) = (lateness, Some(now));
        }
        if self.worst > USUAL { self.worst } else { Duration::ZERO }
    }
}

/// How long the other side has been silent, as far as it was looked at.
struct Silence {
    limit: Duration,
    start: Instant,
    looked: Instant,
    /// How much of the longest wait is used up.
    waited: Duration,
    /// The number of answers on the connection at the last look.
    heard: u64,
    /// The time that was watched: all of it, and since the last answer.
    watched: Duration,
    silent: Duration,
}

/// The steps of a wait on an idle machine.
const STEPS: u32 = 5;
/// Silence must last so many times longer as this process was late: a program beside it gets its turn as late, and needs
/// several.
const TURNS: u32 = 10;
/// Where others are answered, so many times as much is watched at most.
const OTHERS: u32 = 2;
/// The longest that a wait lasts in all: so many times its limit, and no less than 5 s.
const MOST: (u32, Duration) = (4, Duration::from_secs(5));
/// The looks that it has at least: a process that stood still looks once more before it says anything.
const FEWEST_LOOKS: u32 = 5;

/// The longest that a wait lasts in all whose answer may be silent for `limit`.
pub(crate) fn longest(limit: Duration) -> Duration {
    (limit * MOST.0).max(MOST.1)
}

impl Silence {
    fn new(limit: Duration, now: Instant, heard: u64) -> Self {
        let none = Duration::ZERO;
        Self { limit, start: now, looked: now, waited: none, heard, watched: none, silent: none }
    }

    fn step(&self) -> Duration {
        self.limit / STEPS
    }

    /// Notes that the answer is not there at `now`, when `heard` answers had come in all, and this process was late by
    /// `lateness` lately. Returns the time to the next look; `None` if there is none.
    fn look(&mut self, now: Instant, heard: u64, lateness: Duration) -> Option<Duration> {
        let (elapsed, longest) = (now.saturating_duration_since(self.looked), longest(self.limit));
        let watched = elapsed.min(self.step() + USUAL);
        self.waited += elapsed.min(longest / FEWEST_LOOKS);
        self.watched += watched;
        self.silent = if heard == self.heard { self.silent + watched } else { Duration::ZERO };
        (self.looked, self.heard) = (now, heard);
        let limit = self.limit + lateness * TURNS;
        let is_over = self.silent >= limit || self.watched >= limit * OTHERS;
        let left = longest.saturating_sub(self.waited);
        (!is_over && !left.is_zero()).then(|| left.min(self.step()))
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    /// Looks that come so many milliseconds after each other, each with the number of answers by then. Returns after how
    /// many milliseconds the other side counts as silent.
    fn silent_after(looks: impl IntoIterator<Item = (u64, u64)>) -> Option<u64> {
        let (mut now, mut passed) = (Instant::now(), 0);
        let (mut silence, mut lateness) = (Silence::new(LIMIT, now, 0), Lateness::default());
        for (elapsed, heard) in looks {
            let due = now + silence.step();
            passed += elapsed;
            now += Duration::from_millis(elapsed);
            let lateness = lateness.record(due, now);
            if silence.look(now, heard, lateness).is_none() {
                return Some(passed);
            }
        }
        None
    }

    #[test]
    fn silence_that_was_watched_ends_the_wait() {
        assert_eq!(silent_after([(10, 0); 5]), Some(50));
        assert_eq!(silent_after([(11, 0), (12, 0), (12, 0), (12, 0), (10, 0)]), Some(57), "as late as any timer");
    }

    #[test]
    fn time_that_passed_before_anybody_looked_does_not_count() {
        assert_eq!(silent_after([(10, 0), (10, 0), (10, 0), (10, 0), (200, 0)]), None);
        assert_eq!(silent_after([(4_000, 0), (10, 0), (10, 0), (10, 0), (10, 0)]), None);
        assert_eq!(silent_after([(60_000, 0), (10, 0), (10, 0), (10, 0)]), None, "it stood still");
    }

    #[test]
    fn where_looks_are_late_silence_must_last_longer() {
        // 10 ms late: 100 ms more.
        let late = [(20, 0)].into_iter().chain(iter::repeat((10, 0)));
        assert_eq!(silent_after(late), Some(20 + 140));
        // 30 ms late: 300 ms more.
        let late = [(40, 0)].into_iter().chain(iter::repeat((10, 0)));
        assert_eq!(silent_after(late), Some(40 + 340));
        // What was more than a second ago is forgotten.
        let late = [(500, 0)].into_iter().chain(iter::repeat((10, 0)));
        assert_eq!(silent_after(late), Some(500 + 1_010));
        assert_eq!(silent_after(iter::repeat((20, 0))), Some(260), "a late step counts as one on time");
    }

    #[test]
    fn somebody_who_answers_others_is_not_silent() {
        let heard = (1..).map(|number| (10, number));
        assert_eq!(silent_after(heard.clone().take(3).chain([(10, 3); 4])), None);
        assert_eq!(silent_after(heard.clone().take(3).chain([(10, 3); 5])), Some(80));
        assert_eq!(silent_after(heard), Some(100), "and still is too slow");
    }

    #[test]
    fn nobody_waits_for_ever_on_a_machine_that_is_always_late() {
        assert_eq!(silent_after(iter::repeat((100, 0))), Some(5_000));
        assert_eq!(silent_after(iter::repeat((3_000, 0))), Some(15_000), "five looks at least");
        assert_eq!(longest(Duration::from_secs(2)), Duration::from_secs(8));
    }

    #[test]
    fn the_worst_lateness_of_the_last_second_counts() {
        let (mut lateness, start) = (Lateness::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for (due, now, worst) in [
            (10, 12, 0),
            (20, 25, 5),
            (30, 34, 5),
            (40, 60, 20),
            (1_060, 1_060, 20),
            (1_061, 1_064, 3),
            (1_070, 1_070, 3),
        ] {
            assert_eq!(lateness.record(at(due), at(now)), Duration::from_millis(worst), "at {now} ms");
        }
    }

    proptest! {
        #[test]
        fn only_watched_silence_or_the_longest_wait_ends_it(
            looks in prop::collection::vec((0_u64..40, prop::bool::weighted(0.2), 0_u64..30), 1..300)
        ) {
            let (mut now, mut heard) = (Instant::now(), 0);
            let (start, mut silence) = (now, Silence::new(LIMIT, now, 0));
            let (mut watched, mut silent) = (0, 0);
            for (elapsed, is_heard, late) in looks {
                heard += u64::from(is_heard);
                now += Duration::from_millis(elapsed);
                watched += elapsed.min(12);
                silent = if is_heard { 0 } else { silent + elapsed.min(12) };
                let next = silence.look(now, heard, Duration::from_millis(late));
                let (limit, waited) = (50 + 10 * late, now - start);
                let is_over = silent >= limit || watched >= 2 * limit || waited >= longest(LIMIT);
                prop_assert_eq!(next.is_none(), is_over);
                match next {
                    None => break,
                    Some(step) => prop_assert!(step <= LIMIT / STEPS && waited + step <= longest(LIMIT)),
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_until_the_limit() {
        let answer_after = |millis| async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            millis
        };
        for (millis, answer) in [(0, Some(0)), (49, Some(49)), (60, None)] {
            let (start, mut patience) = (Instant::now(), Patience::new(LIMIT));
            assert_eq!(patience.wait_for(answer_after(millis)).await, answer);
            assert_eq!((patience.is_in_time(), patience.silent_limits()), (answer.is_some(), 1));
            assert!(start.elapsed() <= LIMIT + Duration::from_millis(5), "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_patience_is_for_all_waits_of_a_request() {
        let mut patience = Patience::new(LIMIT);
        assert_eq!(patience.wait_for(tokio::time::sleep(Duration::from_millis(30))).await, Some(()));
        let start = Instant::now();
        assert_eq!(patience.wait_for(std::future::pending::<()>()).await, None);
        assert!(start.elapsed() <= Duration::from_millis(25), "{:?}", start.elapsed());
        assert_eq!(patience.wait_for(async {}).await, Some(()), "what is there is taken");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_others_show_that_the_other_side_is_there() {
        let watch = Watch::default();
        let start = Instant::now();
        let others = async {
            for _ in 0..4 {
                let mut patience = Patience::on(LIMIT, &watch);
                patience.wait_for(tokio::time::sleep(Duration::from_millis(15))).await.unwrap();
            }
        };
        let mut patience = Patience::on(LIMIT, &watch);
        let late = patience.wait_for(tokio::time::sleep(Duration::from_millis(90)));
        assert_eq!(tokio::join!(late, others).0, Some(()));
        assert!(!patience.is_in_time());
        assert_eq!(Patience::on(LIMIT, &watch).wait_for(std::future::pending::<()>()).await, None);
        assert!(start.elapsed() <= Duration::from_millis(150), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_given_up_ends_all_waits_on_it() {
        let watch = Watch::default();
        let (mut patience, start) = (Patience::on(LIMIT * 20, &watch), Instant::now());
        let waited = tokio::join!(patience.wait_for(std::future::pending::<()>()), async { watch.end() });
        assert_eq!((waited.0, start.elapsed() <= LIMIT * 5), (None, true));
        assert_eq!(Patience::on(LIMIT, &watch).wait_for(async {}).await, Some(()), "the next one is another's");
    }

    /// The answer is there all the while, but the task that waits for it, and the one that reads it, are not run.
    #[tokio::test]
    async fn a_process_that_stood_still_finds_the_answer_that_came_meanwhile() {
        for _ in 0..20 {
            let (answer, answered) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                // Others are run first.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                answer.send(()).unwrap();
            });
            let waiting = tokio::spawn(async { Patience::new(Duration::from_millis(20)).wait_for(answered).await });
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(waiting.await.unwrap(), Some(Ok(())));
        }
    }
}
