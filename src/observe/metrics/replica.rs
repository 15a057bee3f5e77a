//! The metrics of upstreams' replicas: what runs on them, whether they are up, what came of attempts, and how requests wait.

use std::{sync::Arc, time::Duration};

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::Maker;

/// The series of all replicas. Clones are the same.
#[derive(Clone)]
pub struct PoolMetrics {
    up: IntGaugeVec,
    in_flight: IntGaugeVec,
    load_tokens: IntGaugeVec,
    attempts: IntCounterVec,
    ejections: IntCounterVec,
    queue_length: IntGaugeVec,
    queue_wait: HistogramVec,
}

/// The series of one replica.
pub struct ReplicaSeries {
    all: PoolMetrics,
    upstream: Arc<str>,
    replica: Arc<str>,
    up: IntGauge,
    in_flight: IntGauge,
    load_tokens: IntGauge,
    attempts: [IntCounter; AttemptOutcome::ALL.len()],
    ejections: IntCounter,
}

/// The series of one upstream's queue.
pub struct QueueSeries {
    length: IntGauge,
    wait: Histogram,
}

keymeter_core::words! {
    /// The outcome of an attempt at a replica.
    AttemptOutcome {
        /// It answered.
        Success = "success",
        /// No connection was made.
        Connect = "connect",
        /// The connection ended before the head of an answer.
        Closed = "closed",
        /// The head of an answer took too long.
        Timeout = "timeout",
        /// It was found down while a request waited for its answer.
        Down = "down",
        /// It has a limit of its own, and it was reached.
        TooMany = "http_429",
        /// It said that it failed.
        ServerError = "http_5xx",
        /// The client left, or its key was revoked.
        Other = "other",
    }
}

const LABELS: [&str; 2] = ["upstream", "replica"];
/// Seconds.
const WAITS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

const UP: (&str, &str) = ("keymeter_replica_up", "1 while the replica is up by its health checks, else 0.");
const IN_FLIGHT: (&str, &str) = ("keymeter_replica_in_flight", "Requests that run on the replica.");
const LOAD: (&str, &str) =
    ("keymeter_replica_load_tokens", "The tokens that the requests which run on the replica were planned to take.");
const ATTEMPTS: (&str, &str) = ("keymeter_attempts_total", "Attempts at replicas, by outcome.");
const EJECTIONS: (&str, &str) = ("keymeter_replica_ejections_total", "How often the replica was ejected.");
const LENGTH: (&str, &str) = ("keymeter_queue_length", "Requests that wait for a place on a replica of the upstream.");
const WAIT: (&str, &str) =
    ("keymeter_queue_wait_seconds", "How long requests waited for a place, of those that waited.");

impl PoolMetrics {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let metrics = Self::unregistered()?;
        make.registered(metrics.up.clone())?;
        make.registered(metrics.in_flight.clone())?;
        make.registered(metrics.load_tokens.clone())?;
        make.registered(metrics.attempts.clone())?;
        make.registered(metrics.ejections.clone())?;
        make.registered(metrics.queue_length.clone())?;
        make.registered(metrics.queue_wait.clone())?;
        Ok(metrics)
    }

    /// Series that nobody reads.
    ///
    /// # Errors
    /// When a name or a label is malformed, which is an error in this file.
    pub fn unregistered() -> Result<Self, prometheus::Error> {
        let gauge = |(name, help), labels| IntGaugeVec::new(Opts::new(name, help), labels);
        let counter = |(name, help), labels| IntCounterVec::new(Opts::new(name, help), labels);
        Ok(Self {
            up: gauge(UP, &LABELS)?,
            in_flight: gauge(IN_FLIGHT, &LABELS)?,
            load_tokens: gauge(LOAD, &LABELS)?,
            attempts: counter(ATTEMPTS, &["upstream", "replica", "outcome"])?,
            ejections: counter(EJECTIONS, &LABELS)?,
            queue_length: gauge(LENGTH, &["upstream"])?,
            queue_wait: HistogramVec::new(HistogramOpts::new(WAIT.0, WAIT.1).buckets(WAITS.to_vec()), &["upstream"])?,
        })
    }

    /// The series of one replica.
    #[must_use]
    pub fn replica(&self, upstream: &Arc<str>, replica: &Arc<str>) -> ReplicaSeries {
        let labels = [&**upstream, &**replica];
        ReplicaSeries {
            up: self.up.with_label_values(&labels),
            in_flight: self.in_flight.with_label_values(&labels),
            load_tokens: self.load_tokens.with_label_values(&labels),
            attempts: AttemptOutcome::ALL
                .map(|outcome| self.attempts.with_label_values(&[upstream, replica, outcome.as_str()])),
            ejections: self.ejections.with_label_values(&labels),
            all: self.clone(),
            upstream: upstream.clone(),
            replica: replica.clone(),
        }
    }

    /// The series of an upstream's queue.
    #[must_use]
    pub fn queue(&self, upstream: &str) -> QueueSeries {
        QueueSeries {
            length: self.queue_length.with_label_values(&[upstream]),
            wait: self.queue_wait.with_label_values(&[upstream]),
        }
    }

    /// Takes the series of an upstream's queue away.
    pub fn remove_queue(&self, upstream: &str) {
        // One that is not there is away.
        let _ = self.queue_length.remove_label_values(&[upstream]);
        let _ = self.queue_wait.remove_label_values(&[upstream]);
    }
}

impl ReplicaSeries {
    /// Records whether it is up.
    pub fn set_up(&self, is_up: bool) {
        self.up.set(i64::from(is_up));
    }

    /// Records what runs on it.
    pub fn set_load(&self, in_flight: u64, tokens: u64) {
        self.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
        self.load_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
    }

    /// Counts an attempt.
    pub fn attempted(&self, outcome: AttemptOutcome) {
        // There is one for each outcome.
        if let Some(counter) = self.attempts.get(outcome as usize) {
            counter.inc();
        }
    }

    /// Counts an ejection.
    pub fn ejected(&self) {
        self.ejections.inc();
    }

    /// Takes the series away.
    pub fn remove(&self) {
        let labels = [&*self.upstream, &*self.replica];
        for gauge in [&self.all.up, &self.all.in_flight, &self.all.load_tokens] {
            // One that is not there is away.
            let _ = gauge.remove_label_values(&labels);
        }
        let _ = self.all.ejections.remove_label_values(&labels);
        for outcome in AttemptOutcome::ALL {
            let _ = self.all.attempts.remove_label_values(&[&self.upstream, &self.replica, outcome.as_str()]);
        }
    }
}

impl QueueSeries {
    /// Records how many wait.
    pub fn set_length(&self, length: usize) {
        self.length.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// Counts a request that waited so long.
    pub fn waited(&self, time: Duration) {
        self.wait.observe(time.as_secs_f64());
    }
}
