//! Counters against a plain list of all that ever happened, for any sequence of events: those of one process here, and
//! those that gateways share where they are. For tests only.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::wildcard_imports,
    reason = "it is a test's, which stops at the first surprise"
)]

pub mod scopes;

use proptest::prelude::*;

use super::*;
use crate::limit::{Limits, SPAN};

const SLACK: Duration = Duration::from_millis(100);

/// What is compared with the list.
pub trait Subject {
    /// What an admitted request holds.
    type Held;

    /// How exactly it knows the time.
    const TICK: Duration;

    fn reserve(&mut self, limits: &Limits, tokens: u64, now: MonotonicTime) -> Result<Self::Held, Refusal>;
    fn tokens(held: &Self::Held) -> u64;
    fn settle(&mut self, held: Self::Held, used: u64, now: MonotonicTime);
    fn cancel(&mut self, held: Self::Held, now: MonotonicTime);
    fn drop(&mut self, held: Self::Held, now: MonotonicTime);
    fn standing(&mut self, limits: &Limits, now: MonotonicTime) -> LimitStatus;
}

impl Subject for Arc<Counters> {
    type Held = Reservation;

    const TICK: Duration = Duration::from_nanos(1);

    fn reserve(&mut self, limits: &Limits, tokens: u64, now: MonotonicTime) -> Result<Reservation, Refusal> {
        Counters::reserve(self, limits, tokens, calendar(now))
    }

    fn tokens(held: &Reservation) -> u64 {
        held.tokens()
    }

    fn settle(&mut self, held: Reservation, used: u64, now: MonotonicTime) {
        held.settle(Amounts::tokens(used), calendar(now));
    }

    fn cancel(&mut self, held: Reservation, _: MonotonicTime) {
        drop(held.cancel());
    }

    fn drop(&mut self, held: Reservation, _: MonotonicTime) {
        drop(held);
    }

    fn standing(&mut self, limits: &Limits, now: MonotonicTime) -> LimitStatus {
        Counters::standing(self, limits, calendar(now))
    }
}

/// A moment with a date, for what only counts in minutes.
pub fn calendar(moment: MonotonicTime) -> Now {
    Now { moment, date: jiff::Timestamp::UNIX_EPOCH + Duration::from_nanos(moment.as_nanos().min(1 << 60)) }
}

/// What happens to a key.
#[derive(Clone, Debug)]
pub enum Step {
    Reserve {
        tokens: u64,
    },
    /// Reserves, and if it is refused waits for as long as it is told and tries again.
    Insist {
        tokens: u64,
    },
    Settle {
        which: prop::sample::Index,
        used: u64,
    },
    Drop {
        which: prop::sample::Index,
    },
    Cancel {
        which: prop::sample::Index,
    },
    Wait {
        nanos: u64,
    },
    /// A thread comes whose clock was read earlier.
    Lag {
        nanos: u64,
    },
    Reload {
        limits: Limits,
    },
}

fn any_limit(most: u64) -> impl Strategy<Value = Limit> {
    prop_oneof![1 => Just(Limit::Unlimited), 4 => (1..=most).prop_map(|number| Limit::at(number).unwrap())]
}

pub fn any_limits() -> impl Strategy<Value = Limits> {
    (any_limit(8), any_limit(100), any_limit(5)).prop_map(
        |(requests_per_minute, tokens_per_minute, concurrent_requests)| Limits {
            requests_per_minute,
            tokens_per_minute,
            concurrent_requests,
        },
    )
}

pub fn any_step() -> impl Strategy<Value = Step> {
    let which = any::<prop::sample::Index>;
    let nanos = prop_oneof![
        0..1_000_000_u64,
        0..200_000_000_u64,
        0..70_000_000_000_u64,
        Just(60_000_000_000),
        Just(100_000_000)
    ];
    prop_oneof![
        8 => (0_u64..120).prop_map(|tokens| Step::Reserve { tokens }),
        3 => (0_u64..120).prop_map(|tokens| Step::Insist { tokens }),
        5 => (which(), 0_u64..150).prop_map(|(which, used)| Step::Settle { which, used }),
        1 => which().prop_map(|which| Step::Drop { which }),
        1 => which().prop_map(|which| Step::Cancel { which }),
        6 => nanos.prop_map(|nanos| Step::Wait { nanos }),
        1 => (0..50_000_000_u64).prop_map(|nanos| Step::Lag { nanos }),
        1 => any_limits().prop_map(|limits| Step::Reload { limits }),
    ]
}

/// One admission or overuse, as plainly as can be.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: MonotonicTime,
    requests: u64,
    tokens: u64,
    overuse: bool,
}

/// The counters beside a list of all that ever happened.
pub struct Check<S: Subject> {
    counters: S,
    limits: Limits,
    now: MonotonicTime,
    latest: MonotonicTime,
    history: Vec<Entry>,
    running: Vec<(S::Held, usize)>,
}

impl<S: Subject> Check<S> {
    pub fn new(counters: S, limits: Limits) -> Self {
        let now = MonotonicTime::default();
        Self { counters, limits, now, latest: now, history: Vec::new(), running: Vec::new() }
    }

    /// Takes all `steps`, and then looks back.
    pub fn run(mut self, steps: &[Step]) -> S {
        let reloads = steps.iter().any(|step| matches!(step, Step::Reload { .. }));
        for step in steps {
            self.step(step);
        }
        if !reloads {
            self.check_all_spans();
        }
        self.check_nothing_leaks()
    }

    fn see(&mut self) -> MonotonicTime {
        self.latest = self.latest.max(self.now);
        self.latest
    }

    /// Requests and tokens no older than `age`.
    fn counted(&self, age: Duration) -> (u64, u64) {
        let recent = self.history.iter().filter(|entry| self.latest.saturating_since(entry.at) < age);
        recent.fold((0, 0), |(requests, tokens), entry| (requests + entry.requests, tokens + entry.tokens))
    }

    /// What would be over its limit if a request of `tokens` came and entries were kept for `age`.
    fn over(&self, tokens: u64, age: Duration) -> Vec<LimitKind> {
        let (requests, used) = self.counted(age);
        let exceeds = |limit: Limit, total: u64| limit.number().is_some_and(|number| total > number);
        [
            (LimitKind::Concurrency, exceeds(self.limits.concurrent_requests, self.running.len() as u64 + 1)),
            (LimitKind::Requests, exceeds(self.limits.requests_per_minute, requests + 1)),
            (LimitKind::Tokens, tokens > 0 && exceeds(self.limits.tokens_per_minute, used + tokens)),
        ]
        .into_iter()
        .filter_map(|(over, exceeded)| exceeded.then_some(over))
        .collect()
    }

    fn reserve(&mut self, tokens: u64) -> Result<(), Refusal> {
        let at = self.see();
        let cut = self.limits.tokens_per_minute.cut(tokens);
        match self.counters.reserve(&self.limits, tokens, self.now) {
            Ok(reservation) => {
                assert_eq!(self.over(cut, SPAN), [], "admitted over a limit");
                assert_eq!(S::tokens(&reservation), cut);
                self.running.push((reservation, self.history.len()));
                self.history.push(Entry { at, requests: 1, tokens: cut, overuse: false });
                Ok(())
            }
            Err(refusal) => {
                assert!(self.over(cut, SPAN + SLACK).contains(&refusal.over), "refused within the limits: {refusal:?}");
                assert!(refusal.retry_after <= SPAN && refusal.retry_after <= refusal.reset);
                Err(refusal)
            }
        }
    }

    /// What is promised: a nanosecond earlier is too early, and then it is enough.
    fn insist(&mut self, tokens: u64) {
        let Err(refusal) = self.reserve(tokens) else { return };
        if refusal.over == LimitKind::Concurrency {
            return;
        }
        self.now = self.latest + refusal.retry_after.saturating_sub(S::TICK);
        assert!(self.reserve(tokens).is_err(), "it was told to wait longer than it has to");
        self.now = self.now + S::TICK;
        self.reserve(tokens).expect("it has waited for as long as it was told");
    }

    fn take(&mut self, which: prop::sample::Index) -> Option<(S::Held, usize)> {
        (!self.running.is_empty()).then(|| self.running.swap_remove(which.index(self.running.len())))
    }

    fn settle(&mut self, (reservation, index): (S::Held, usize), used: u64) {
        let (at, reserved) = (self.see(), S::tokens(&reservation));
        self.counters.settle(reservation, used, self.now);
        self.history[index].tokens = reserved.min(used);
        self.history.push(Entry { at, requests: 0, tokens: used.saturating_sub(reserved), overuse: true });
    }

    fn cancel(&mut self, (reservation, index): (S::Held, usize)) {
        self.counters.cancel(reservation, self.now);
        (self.history[index].requests, self.history[index].tokens) = (0, 0);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Reserve { tokens } => drop(self.reserve(tokens)),
            Step::Insist { tokens } => self.insist(tokens),
            Step::Settle { which, used } => self.take(which).into_iter().for_each(|taken| self.settle(taken, used)),
            Step::Drop { which } => {
                if let Some((held, _)) = self.take(which) {
                    self.counters.drop(held, self.now);
                }
            }
            Step::Cancel { which } => self.take(which).into_iter().for_each(|taken| self.cancel(taken)),
            Step::Wait { nanos } => self.now = self.now + ticks::<S>(nanos),
            Step::Lag { nanos } => {
                let earlier = self.now.saturating_since(MonotonicTime::default() + ticks::<S>(nanos));
                self.now = MonotonicTime::default() + earlier;
            }
            Step::Reload { limits } => self.limits = limits,
        }
        self.agree();
    }

    /// What is counted lies between what 60.0 s and what 60.1 s would keep.
    fn agree(&mut self) {
        self.see();
        let standing = self.counters.standing(&self.limits, self.now);
        let (least, most) = (self.counted(SPAN), self.counted(SPAN + SLACK));
        assert!((least.0..=most.0).contains(&standing.requests.used), "{standing:?} {least:?} {most:?}");
        assert!((least.1..=most.1).contains(&standing.tokens.used), "{standing:?} {least:?} {most:?}");
        assert_eq!(standing.running, self.running.len() as u64);
    }

    /// No span that begins with an admission holds more than the limits; nor does any other, as
    /// it holds no more than the one that begins with its first admission.
    fn check_all_spans(&self) {
        for first in &self.history {
            let in_span = self
                .history
                .iter()
                .filter(|entry| !entry.overuse && entry.at >= first.at && entry.at.saturating_since(first.at) < SPAN);
            let (requests, tokens) =
                in_span.fold((0, 0), |(requests, tokens), entry| (requests + entry.requests, tokens + entry.tokens));
            assert_eq!(self.limits.requests_per_minute.cut(requests), requests, "requests of a span");
            assert_eq!(self.limits.tokens_per_minute.cut(tokens), tokens, "tokens of a span");
        }
    }

    /// When everything has ended and 60.1 s have passed, nothing is left.
    fn check_nothing_leaks(mut self) -> S {
        if let Some(last) = self.running.pop() {
            self.settle(last, 60);
        }
        for (held, _) in std::mem::take(&mut self.running) {
            self.counters.drop(held, self.now);
        }
        self.see();
        let standing = self.counters.standing(&Limits::UNLIMITED, self.latest + SPAN + SLACK);
        assert_eq!((standing.requests.used, standing.tokens.used, standing.running), (0, 0, 0));
        self.counters
    }
}

/// A time, as exactly as the subject knows it.
fn ticks<S: Subject>(nanos: u64) -> Duration {
    let tick = u64::try_from(S::TICK.as_nanos()).unwrap();
    Duration::from_nanos(nanos / tick * tick)
}

/// How often to repeat what depends on chance: `KEYMETER_SOAK` times, where that is more than usual.
pub fn repetitions() -> u64 {
    std::env::var("KEYMETER_SOAK").ok().and_then(|number| number.parse().ok()).map_or(50, |number: u64| number.max(50))
}
