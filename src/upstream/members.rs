//! The replicas of an upstream as they are configured and resolved at one time, and which of them may be asked.

use std::sync::Arc;

use keymeter_config::{self as config, Affinity};
use keymeter_core::{clock::MonotonicTime, pool::Ring};

use super::replica::{Replica, ReplicaState};

/// The replicas at one time.
pub struct Members {
    /// What is configured.
    pub upstream: Arc<config::Upstream>,
    /// In the order of the configuration; none where the upstream is not configured any more.
    pub replicas: Vec<Arc<Replica>>,
    /// What a choice reads of each of them, in the same order.
    pub(super) seats: Vec<Seat>,
    /// Whether all have the same weight.
    pub(super) has_even_weights: bool,
    ring: Option<Ring>,
}

/// What a choice reads of a replica, one step away: all replicas are looked at for each request.
pub(super) struct Seat {
    /// Where the replica is among the others.
    pub place: usize,
    pub state: Arc<ReplicaState>,
    /// So many requests may run on it.
    pub most: u64,
    /// The part of all that it should have.
    pub weight: u32,
    /// How much closer its requests stand than on a replica of mean weight, of which [`CLOSENESS`] is that: a heavier one has
    /// room for more.
    pub closeness: u64,
}

/// [`Seat::closeness`] of a replica of mean weight.
pub(super) const CLOSENESS: u64 = 1024;

impl Members {
    /// `replicas` of `upstream`.
    #[must_use]
    pub fn new(upstream: Arc<config::Upstream>, replicas: Vec<Arc<Replica>>) -> Self {
        let ring = || Ring::new(replicas.iter().map(|replica| (&*replica.name, replica.config.weight)));
        let ring = upstream.pool.affinity.as_ref().map(|_| ring());
        let all: u64 = replicas.iter().map(|replica| u64::from(replica.config.weight)).sum();
        let closeness = |replica: &Replica| {
            let of_all = u64::from(replica.config.weight).saturating_mul(replicas.len() as u64);
            all.saturating_mul(CLOSENESS).checked_div(of_all).unwrap_or(CLOSENESS).max(1)
        };
        let seat = |(place, replica): (usize, &Arc<Replica>)| Seat::new(place, replica, closeness(replica));
        let seats = replicas.iter().enumerate().map(seat).collect();
        let first = replicas.first().map(|replica| replica.config.weight);
        let has_even_weights = replicas.iter().all(|replica| Some(replica.config.weight) == first);
        Self { upstream, replicas, seats, has_even_weights, ring }
    }

    /// The ring on which requests have homes, where they have, and how.
    pub(super) fn homes(&self) -> Option<(&Ring, &Affinity)> {
        Some((self.ring.as_ref()?, self.upstream.pool.affinity.as_ref()?))
    }

    /// Whether there are several, or may be once a name has more addresses.
    pub(super) fn may_be_several(&self) -> bool {
        self.replicas.len() > 1 || self.replicas.iter().any(|replica| replica.config.url.ip().is_none())
    }

    /// Whether a replica counts as one that may be asked. Where none may, those are asked all the same that only a failed
    /// request keeps out.
    pub(super) fn may_be_asked(&self, now: MonotonicTime) -> impl Fn(&Replica) -> bool + use<'_> {
        let any = self.replicas.iter().any(|replica| replica.may_be_open(now));
        move |replica| if any { replica.may_be_open(now) } else { replica.state.is_only_kept_out(now) }
    }

    /// Whether another replica than this one may be asked: then this one may be paused or ejected.
    pub(super) fn has_other(&self, replica: &Replica, now: MonotonicTime) -> bool {
        self.replicas.iter().any(|other| other.name != replica.name && other.may_be_open(now))
    }
}

impl Seat {
    fn new(place: usize, replica: &Replica, closeness: u64) -> Self {
        let most = replica.config.max_in_flight.number().unwrap_or(u64::MAX);
        Self { place, state: replica.state.clone(), most, weight: replica.config.weight, closeness }
    }
}
