//! What holds for the replicas of one upstream: how one is chosen, watched and given up, and how requests wait.

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc, time::Duration};

use super::{
    raw,
    report::Place,
    scalar::{Scalar, Span, Timeout},
    written::{AffinityBy, Balance, LoadPercent},
};

/// How the replicas of an upstream are used. Everything has a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// How often the addresses of a host name are asked for again; not zero.
    pub resolve: Duration,
    /// By what a replica is chosen.
    pub balance: Balance,
    /// What keeps requests at one replica; `None`: nothing.
    pub affinity: Option<Affinity>,
    /// How replicas are checked, where that is written.
    pub health: Option<HealthChecks>,
    /// When a replica is ejected.
    pub eject: Eject,
    /// For the head of a response; not zero, and at most the upstream's `read_timeout`.
    pub first_byte_timeout: Duration,
    /// Of one request at this upstream; not zero.
    pub attempts: u32,
    /// How requests wait while every replica is full.
    pub queue: Queue,
    /// Whether the key's priority is written into bodies.
    pub send_priority: bool,
}

/// What keeps requests at one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// What they have in common.
    pub by: AffinityBy,
    /// How much of the mean load a home may have before it hands on, in percent; at least 100.
    pub load: u32,
}

/// How a replica is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChecks {
    /// What is asked for; `None`: the port takes a connection.
    pub path: Option<Arc<str>>,
    /// Whether its list of models must have one that the upstream serves.
    pub models: bool,
    /// From one check to the next; not zero.
    pub interval: Duration,
    /// For one check; not zero.
    pub timeout: Duration,
    /// So many failures in a row make it down; not zero.
    pub down_after: u32,
    /// So many successes in a row make it up; not zero.
    pub up_after: u32,
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self {
            path: None,
            models: false,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            down_after: 3,
            up_after: 2,
        }
    }
}

/// When a replica is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eject {
    /// So many failures of real requests in a row; not zero.
    pub after: u32,
    /// For so long the first time.
    pub lasts: Duration,
}

/// How requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// So many at most.
    pub length: usize,
    /// For so long at most.
    pub timeout: Duration,
}

/// What models are called by clients, and by the upstream.
pub type Rename = BTreeMap<Arc<str>, Arc<str>>;

/// What is written of it, beside other fields of an upstream.
pub(super) struct WrittenPool {
    pub resolve: Option<Scalar<Timeout>>,
    pub balance: Option<Scalar<Balance>>,
    pub affinity: Option<raw::Affinity>,
    pub health: Option<raw::Health>,
    pub eject: Option<raw::Eject>,
    pub first_byte_timeout: Option<Scalar<Timeout>>,
    pub attempts: Option<Scalar<NonZeroU64>>,
    pub queue: Option<raw::Queue>,
    pub send_priority: Option<Scalar<bool>>,
}

impl PoolSettings {
    /// `read_timeout` is the upstream's.
    pub(super) fn check(raw: WrittenPool, place: &Place<'_>, read_timeout: Duration) -> Option<Self> {
        let affinity = checked(raw.affinity, |raw| Affinity::check(raw, &place.field("affinity")))?;
        let health = checked(raw.health, |raw| HealthChecks::check(raw, &place.field("health")))?;
        let first_byte_timeout = raw.first_byte_timeout.map_or(read_timeout, |Scalar(Timeout(time))| time);
        if first_byte_timeout > read_timeout {
            place.field("first_byte_timeout").error("must be at most the upstream's `read_timeout`");
        }
        let queue = raw.queue.unwrap_or_default();
        let eject = raw.eject.unwrap_or_default();
        Some(Self {
            resolve: raw.resolve.map_or(Duration::from_secs(5), |Scalar(Timeout(time))| time),
            balance: raw.balance.map_or_else(Balance::default, |Scalar(balance)| balance),
            affinity,
            health,
            eject: Eject {
                after: count(eject.after, 5),
                lasts: eject.lasts.map_or(Duration::from_secs(30), |Scalar(Timeout(time))| time),
            },
            first_byte_timeout,
            attempts: count(raw.attempts, 3),
            queue: Queue {
                length: queue.length.map_or(1000, |Scalar(length)| length),
                timeout: queue.timeout.map_or(Duration::from_secs(10), |Scalar(Span(time))| time),
            },
            send_priority: raw.send_priority.is_some_and(|Scalar(sends)| sends),
        })
    }
}

impl Affinity {
    /// The fault of a missing field is in the result: an affinity by nothing is none.
    fn check(raw: raw::Affinity, place: &Place<'_>) -> Option<Self> {
        let by = place.required("by", raw.by, "prefix, key, or header: and its name");
        Some(Self { by: by?.0, load: raw.load.map_or(125, |Scalar(LoadPercent(load))| load) })
    }
}

impl HealthChecks {
    fn check(raw: raw::Health, place: &Place<'_>) -> Option<Self> {
        let path = match raw.path {
            Some(Scalar(path)) if is_path(&path) => Some(path),
            Some(_) => {
                place.field("path").error("a path begins with `/` and has no spaces or `#`, such as /health");
                return None;
            }
            None => None,
        };
        let usual = Self::default();
        Some(Self {
            path,
            models: raw.models.is_some_and(|Scalar(models)| models),
            interval: raw.interval.map_or(usual.interval, |Scalar(Timeout(time))| time),
            timeout: raw.timeout.map_or(usual.timeout, |Scalar(Timeout(time))| time),
            down_after: count(raw.down_after, usual.down_after),
            up_after: count(raw.up_after, usual.up_after),
        })
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains('#') && path.parse::<http::uri::PathAndQuery>().is_ok()
}

/// What an optional section means; none, if it is faulty.
#[allow(clippy::option_option, reason = "a section that is not written is none, and no fault")]
fn checked<T, U>(written: Option<T>, check: impl FnOnce(T) -> Option<U>) -> Option<Option<U>> {
    match written {
        Some(written) => check(written).map(Some),
        None => Some(None),
    }
}

fn count(written: Option<Scalar<NonZeroU64>>, usual: u32) -> u32 {
    written.map_or(usual, |Scalar(count)| u32::try_from(count.get()).unwrap_or(u32::MAX))
}
