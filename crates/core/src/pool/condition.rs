//! Whether one replica may be asked: what its checks say, what requests came to on it, and what the operator wants. The
//! upstream's pool keeps one of these a replica, behind a lock, tells it what happens, and asks it before each choice.

mod ejection;

use std::time::Duration;

pub use ejection::Probe;

use crate::clock::MonotonicTime;
use ejection::Ejection;

/// The condition of one replica. By itself it is up until the contrary shows; after any outage, time and checks that pass
/// bring it up again.
#[derive(Debug)]
pub struct Condition {
    rules: Rules,
    service: Service,
    /// Checks in a row that failed while it was up, or passed while it was down.
    contrary_checks: u32,
    /// Why the last check failed.
    failing: String,
    ejection: Ejection,
    paused_until: MonotonicTime,
    /// Why it is paused.
    pausing: String,
    is_drained: bool,
}

/// When a replica is taken out, and when it comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How its checks are read; `None` where it is not checked.
    pub checks: Option<CheckRules>,
    /// When requests that fail eject it; `None` for never.
    pub ejection: Option<EjectionRules>,
}

/// How a replica's checks are read. Where a number is 0, it counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckRules {
    /// So many failures in a row take it down.
    pub down_after: u32,
    /// So many that pass in a row bring it up again.
    pub up_after: u32,
}

/// When requests that fail eject a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionRules {
    /// So many failures in a row, of at least two keys.
    pub after: u32,
    /// How long the first ejection lasts. Each further one lasts twice as long, up to ten times this.
    pub lasts: Duration,
}

/// The longest pause, whatever the replica asks for.
pub const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What the checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Up,
    Down,
    Loading,
}

/// Whether a replica may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It may.
    Up,
    /// Its ejection's time is over. One request may be sent, by whoever gets the [`Probe`].
    Probe,
    /// That one request is under way, and decides.
    Probing,
    /// It asked to be left alone.
    Paused {
        /// For so long.
        until: MonotonicTime,
    },
    /// Requests failed on it.
    Ejected {
        /// When one may be tried again.
        until: MonotonicTime,
    },
    /// Its checks fail.
    Down,
    /// It answers, and does not have its models yet.
    Loading,
    /// The operator wants nothing new on it.
    Draining,
}

impl Availability {
    /// The state's name for the operator, who need not know probes from the ejection that they end.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Probe | Self::Probing | Self::Ejected { .. } => "ejected",
            Self::Paused { .. } => "paused",
            Self::Down => "down",
            Self::Loading => "loading",
            Self::Draining => "draining",
        }
    }

    /// When it is over, where that is known.
    #[must_use]
    pub fn until(self) -> Option<MonotonicTime> {
        match self {
            Self::Paused { until } | Self::Ejected { until } => Some(until),
            _ => None,
        }
    }
}

/// What changed by what happened; worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Checks brought it up.
    CameUp,
    /// Checks took it down.
    WentDown,
    /// It answers its checks, without its models.
    IsLoading,
    /// Requests that failed ejected it, for the first time or again.
    Ejected {
        /// When one may be tried again.
        until: MonotonicTime,
    },
    /// The request that was let through after an ejection was answered.
    Readmitted,
    /// It asked to be left alone, and was not paused before.
    Paused {
        /// For so long.
        until: MonotonicTime,
    },
}

/// Who may have brought a failure about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The key with this tag, by what it sent. One key alone ejects nothing.
    Key(u64),
    /// The replica alone: nothing was sent to it.
    Replica,
}

/// What a method is told of the rest of the pool: whether another replica may be asked. The last one is neither paused nor
/// ejected, since that would help nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// There is another.
    Available,
    /// This is the last.
    None,
}

impl Condition {
    /// The condition of a replica of which nothing is known. It is up, unless `must_load`: then it has to show its models
    /// first, in a check that passes.
    #[must_use]
    pub fn new(rules: Rules, must_load: bool) -> Self {
        let service = if must_load && rules.checks.is_some() { Service::Loading } else { Service::Up };
        Self {
            rules,
            service,
            contrary_checks: 0,
            failing: "it has not listed its models yet".to_owned(),
            ejection: Ejection::default(),
            paused_until: MonotonicTime::default(),
            pausing: String::new(),
            is_drained: false,
        }
    }

    /// Follows other rules from here on. What no rule could end any more ends at once.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        if rules.checks.is_none() {
            self.service = Service::Up;
            self.contrary_checks = 0;
        }
        if rules.ejection.is_none() {
            self.ejection.forget();
        }
    }

    /// Whether it may be asked at `now`. What excludes it for longer comes first, the operator's word before all.
    #[must_use]
    pub fn availability(&self, now: MonotonicTime) -> Availability {
        let by_requests = || match self.ejection.availability(now) {
            Availability::Up | Availability::Probe if self.is_paused(now) => {
                Availability::Paused { until: self.paused_until }
            }
            other => other,
        };
        match self.service {
            _ if self.is_drained => Availability::Draining,
            Service::Down => Availability::Down,
            Service::Loading => Availability::Loading,
            Service::Up => by_requests(),
        }
    }

    /// Whether its checks say that it can serve, drained or not.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.service == Service::Up
    }

    /// Why it is not up at `now`, for the operator; `None` where it is, or where the operator drains it.
    #[must_use]
    pub fn reason(&self, now: MonotonicTime) -> Option<&str> {
        match self.availability(now) {
            Availability::Up | Availability::Draining => None,
            Availability::Down | Availability::Loading => Some(&self.failing),
            Availability::Paused { .. } => Some(&self.pausing),
            Availability::Ejected { .. } | Availability::Probe | Availability::Probing => Some(self.ejection.reason()),
        }
    }

    /// A check passed. A replica that was down needs several in a row; one that was loading has just shown its models.
    /// Coming up ends an ejection, too: what failed is not what answers now.
    pub fn check_passed(&mut self, now: MonotonicTime) -> Option<Change> {
        let rules = self.rules.checks?;
        match self.service {
            Service::Up => {
                self.contrary_checks = 0;
                return None;
            }
            Service::Loading => {}
            Service::Down => {
                self.contrary_checks = self.contrary_checks.saturating_add(1);
                if self.contrary_checks < rules.up_after {
                    return None;
                }
            }
        }
        self.ejection.end(now);
        Some(self.turn(Service::Up))
    }

    /// A check failed: no answer, or a wrong one. A replica that is up or loading goes down after several in a row.
    pub fn check_failed(&mut self, why: &str) -> Option<Change> {
        let rules = self.rules.checks?;
        self.failing = shortened(why);
        if self.service == Service::Down {
            self.contrary_checks = 0;
            return None;
        }
        self.count_failed_check(rules).then(|| self.turn(Service::Down))
    }

    /// A check was answered, and showed none of the models that the replica is to serve. One that was down is loading from
    /// then on; one that is up, after several such checks or failed ones in a row.
    pub fn check_found_it_loading(&mut self, why: &str) -> Option<Change> {
        let rules = self.rules.checks?;
        self.failing = shortened(why);
        let is_change = match self.service {
            Service::Up => self.count_failed_check(rules),
            Service::Down => true,
            Service::Loading => {
                self.contrary_checks = 0;
                false
            }
        };
        is_change.then(|| self.turn(Service::Loading))
    }

    /// A request was answered.
    pub fn request_succeeded(&mut self, now: MonotonicTime) {
        self.ejection.request_succeeded(now);
    }

    /// A request failed in a way that speaks against the replica.
    pub fn request_failed(&mut self, cause: Cause, why: &str, others: Others, now: MonotonicTime) -> Option<Change> {
        let rules = self.rules.ejection?;
        self.ejection.request_failed(rules, cause, &shortened(why), others, now)
    }

    /// Takes the right to send the one request that decides after an ejection; `None` unless the replica's availability is
    /// [`Availability::Probe`]. Who has it must say what came of it, on every way out, or nothing is sent there any more.
    #[must_use]
    pub fn begin_probe(&mut self, now: MonotonicTime) -> Option<Probe> {
        let may_probe = self.availability(now) == Availability::Probe;
        may_probe.then(|| self.ejection.begin_probe())
    }

    /// The request of a probe was answered.
    pub fn probe_succeeded(&mut self, probe: Probe, now: MonotonicTime) -> Option<Change> {
        self.ejection.probe_succeeded(probe, now).then_some(Change::Readmitted)
    }

    /// The request of a probe failed. The replica is ejected again, for longer; the last one is let in.
    pub fn probe_failed(&mut self, probe: Probe, why: &str, others: Others, now: MonotonicTime) -> Option<Change> {
        let rules = self.rules.ejection?;
        self.ejection.probe_failed(probe, rules, &shortened(why), others, now)
    }

    /// The request of a probe ended without a word on the replica, as when its client left. Another one may decide.
    pub fn probe_unused(&mut self, probe: Probe) {
        self.ejection.probe_unused(probe);
    }

    /// The replica answered that it wants nothing new for so long. Of several pauses the one that ends last holds.
    pub fn pause(&mut self, lasts: Duration, why: &str, others: Others, now: MonotonicTime) -> Option<Change> {
        if others == Others::None {
            return None;
        }
        let was_paused = self.is_paused(now);
        let until = now + lasts.min(LONGEST_PAUSE);
        if until > self.paused_until {
            self.paused_until = until;
            self.pausing = shortened(why);
        }
        (!was_paused && self.is_paused(now)).then_some(Change::Paused { until })
    }

    /// The operator wants nothing new on it, or wants it back.
    pub fn set_drained(&mut self, is_drained: bool) {
        self.is_drained = is_drained;
    }

    /// Whether the operator wants nothing new on it.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_drained
    }

    fn is_paused(&self, now: MonotonicTime) -> bool {
        self.paused_until > now
    }

    /// Says whether that is enough.
    fn count_failed_check(&mut self, rules: CheckRules) -> bool {
        self.contrary_checks = self.contrary_checks.saturating_add(1);
        self.contrary_checks >= rules.down_after
    }

    fn turn(&mut self, service: Service) -> Change {
        self.service = service;
        self.contrary_checks = 0;
        match service {
            Service::Up => Change::CameUp,
            Service::Down => Change::WentDown,
            Service::Loading => Change::IsLoading,
        }
    }
}

/// Reasons may quote what a replica wrote; so much of it is enough.
const LONGEST_REASON: usize = 200;

fn shortened(why: &str) -> String {
    why.chars().take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests;
