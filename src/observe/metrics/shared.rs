//! The metrics of limits that several gateways share.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge};

use super::Maker;

/// The series of the shared limits.
#[derive(Clone)]
pub struct SharedSeries {
    answers: IntCounterVec,
    took: Histogram,
    reachable: IntGauge,
    changes: IntCounterVec,
    gateways: IntGauge,
    excess: IntCounter,
}

/// Seconds of a round trip.
const TRIPS: [f64; 12] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0];

impl SharedSeries {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            answers: make.counters(
                "keymeter_shared_limits_requests_total",
                "Requests with shared limits, by outcome: admitted or refused by the server, leased, failed or skipped.",
                &["outcome"],
            )?,
            took: make.registered(Histogram::with_opts(
                HistogramOpts::new(
                    "keymeter_shared_limits_duration_seconds",
                    "How long requests waited for the shared-limits server.",
                )
                .buckets(TRIPS.to_vec()),
            )?)?,
            reachable: make.registered(IntGauge::new(
                "keymeter_shared_limits_reachable",
                "1 while the shared-limits server decides, 0 while this gateway decides by itself.",
            )?)?,
            changes: make.counters(
                "keymeter_shared_limits_changes_total",
                "How often the gateway changed between shared and local limits, by what it changed to.",
                &["to"],
            )?,
            gateways: make.registered(IntGauge::new(
                "keymeter_shared_limits_gateways",
                "The number of gateways that share the limits, as seen last.",
            )?)?,
            excess: make.registered(IntCounter::new(
                "keymeter_shared_limits_excess_total",
                "Permits that were taken again over the limit, because their gateway had been silent for too long.",
            )?)?,
        })
    }

    /// Counts a request with shared limits.
    pub fn answer(&self, answer: SharedAnswer) {
        self.answers.with_label_values(&[answer.as_str()]).inc();
    }

    /// Records how long a request waited for the server.
    pub fn took(&self, time: Duration) {
        self.took.observe(time.as_secs_f64());
    }

    /// Records that the server became reachable or unreachable.
    pub fn reachable(&self, is_reachable: bool) {
        self.reachable.set(i64::from(is_reachable));
        self.changes.with_label_values(&[if is_reachable { "shared" } else { "local" }]).inc();
    }

    /// Sets the number of gateways that share the limits.
    pub fn gateways(&self, number: u64) {
        self.gateways.set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// The number of permits taken over the limit.
    #[cfg(test)]
    pub(crate) fn excess_taken(&self) -> u64 {
        self.excess.get()
    }

    /// Counts permits that were taken again over the limit.
    pub fn excess(&self, places: u64) {
        self.excess.inc_by(places);
    }
}

keymeter_core::words! {
    /// The outcome of a request with shared limits.
    SharedAnswer {
        /// The server admitted it.
        Admitted = "admitted",
        /// The server refused it.
        Refused = "refused",
        /// It was admitted from a lease.
        Leased = "leased",
        /// The server was asked, and gave no valid answer in time.
        Failed = "failed",
        /// The server was not asked, because it is unavailable.
        Skipped = "skipped",
    }
}
