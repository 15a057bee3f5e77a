//! The ejection of a replica on which requests fail. Only [`Condition`](super::Condition) uses this.

use std::time::Duration;

use super::{Availability, Cause, Change, EjectionRules, Others};
use crate::clock::MonotonicTime;

/// Failures in a row, and what they led to.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    failures: u32,
    /// Whose failures they are.
    keys: Keys,
    phase: Phase,
    /// How many there were since the replica was last well for a while.
    times: u32,
    /// How long the last one lasts.
    lasts: Duration,
    reason: String,
    /// How many probes there were, so that none speaks for a later one.
    probes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum Keys {
    #[default]
    None,
    One(u64),
    Several,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests come.
    In {
        /// When the last ejection ended.
        since: MonotonicTime,
    },
    /// None comes.
    Out { until: MonotonicTime },
    /// The one with this number is under way.
    Probing(u64),
}

impl Default for Phase {
    fn default() -> Self {
        Self::In { since: MonotonicTime::default() }
    }
}

/// The right to send one request to a replica after its ejection. Give it back with what came of the request.
#[derive(Debug)]
#[must_use = "nothing is sent to the replica until it is said what came of its probe"]
pub struct Probe(u64);

/// No ejection lasts longer than so many times the first.
const MOST_TIMES_AS_LONG: u32 = 10;

impl Ejection {
    pub(super) fn availability(&self, now: MonotonicTime) -> Availability {
        match self.phase {
            Phase::In { .. } => Availability::Up,
            Phase::Out { until } if until > now => Availability::Ejected { until },
            Phase::Out { .. } => Availability::Probe,
            Phase::Probing(_) => Availability::Probing,
        }
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// While it is ejected, requests end that began before: what they say is old.
    pub(super) fn request_succeeded(&mut self, now: MonotonicTime) {
        if let Phase::In { since } = self.phase {
            self.forget_failures();
            if now.saturating_since(since) >= self.lasts {
                self.times = 0;
            }
        }
    }

    pub(super) fn request_failed(
        &mut self,
        rules: EjectionRules,
        cause: Cause,
        why: &str,
        others: Others,
        now: MonotonicTime,
    ) -> Option<Change> {
        if !matches!(self.phase, Phase::In { .. }) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        self.keys = match (self.keys, cause) {
            (Keys::None, Cause::Key(key)) => Keys::One(key),
            (Keys::One(first), Cause::Key(key)) if first == key => Keys::One(key),
            _ => Keys::Several,
        };
        let is_enough = self.failures >= rules.after && matches!(self.keys, Keys::Several);
        (is_enough && others == Others::Available).then(|| self.eject(rules, why, now))
    }

    pub(super) fn begin_probe(&mut self) -> Probe {
        self.probes += 1;
        self.phase = Phase::Probing(self.probes);
        Probe(self.probes)
    }

    /// Says whether that ended an ejection.
    pub(super) fn probe_succeeded(&mut self, Probe(number): Probe, now: MonotonicTime) -> bool {
        let decides = self.is_decided_by(number);
        if decides {
            self.end(now);
        } else {
            self.request_succeeded(now);
        }
        decides
    }

    /// The failures that ejected it are counted on if it is let in as the last one, so that the next failure ejects it if
    /// others are there again.
    pub(super) fn probe_failed(
        &mut self,
        Probe(number): Probe,
        rules: EjectionRules,
        why: &str,
        others: Others,
        now: MonotonicTime,
    ) -> Option<Change> {
        if !self.is_decided_by(number) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if others == Others::None {
            self.phase = Phase::In { since: now };
            return None;
        }
        Some(self.eject(rules, why, now))
    }

    pub(super) fn probe_unused(&mut self, Probe(number): Probe) {
        if self.is_decided_by(number) {
            self.phase = Phase::Out { until: MonotonicTime::default() };
        }
    }

    /// Lets requests come again, if they did not.
    pub(super) fn end(&mut self, now: MonotonicTime) {
        self.forget_failures();
        if !matches!(self.phase, Phase::In { .. }) {
            self.phase = Phase::In { since: now };
        }
    }

    /// Begins anew. A probe that is still under way decides nothing any more.
    pub(super) fn forget(&mut self) {
        *self = Self { probes: self.probes, ..Self::default() };
    }

    fn eject(&mut self, rules: EjectionRules, why: &str, now: MonotonicTime) -> Change {
        let factor = 2_u32.checked_pow(self.times).unwrap_or(u32::MAX).min(MOST_TIMES_AS_LONG);
        self.times = self.times.saturating_add(1);
        self.lasts = rules.lasts.saturating_mul(factor);
        self.reason = format!("{} requests in a row failed, the last: {why}", self.failures);
        let until = now + self.lasts;
        self.phase = Phase::Out { until };
        Change::Ejected { until }
    }

    fn is_decided_by(&self, probe: u64) -> bool {
        self.phase == Phase::Probing(probe)
    }

    fn forget_failures(&mut self) {
        self.failures = 0;
        self.keys = Keys::None;
    }
}
