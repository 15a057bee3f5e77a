//! The metrics of upstreams and models: outcomes and durations.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::Maker;

/// The metrics of all upstreams and models.
pub(super) struct Upstreams {
    responses: IntCounterVec,
    request_duration: HistogramVec,
    time_to_first_token: HistogramVec,
    time_per_output_token: HistogramVec,
    overhead: HistogramVec,
}

/// The series of one upstream and model, found once and kept with the route.
pub struct UpstreamSeries {
    /// From the head to the last byte.
    pub request_duration: Histogram,
    /// From the head to the first piece of the answer.
    pub time_to_first_token: Histogram,
    /// Between output tokens.
    pub time_per_output_token: Histogram,
    /// Our own work.
    pub overhead: Histogram,
    responses: [IntCounter; UpstreamOutcome::ALL.len()],
}

keymeter_core::words! {
    /// The outcome of a request to an upstream.
    UpstreamOutcome {
        /// A response, whole.
        Success = "success",
        /// It said that the request is at fault.
        ClientError = "client_error",
        /// It has a limit of its own, and it was reached.
        RateLimited = "rate_limited",
        /// It does not take our credential.
        CredentialRefused = "credential_refused",
        /// It said that it failed, by its status.
        ServerError = "server_error",
        /// It said so within a response that began as a success.
        UpstreamError = "upstream_error",
        /// It was not to be reached, or said nothing.
        Unreachable = "unreachable",
        /// It was too slow.
        Timeout = "timeout",
        /// It began a response and did not end it.
        BrokenOff = "broken_off",
        /// The request was abandoned: the client left, or its key was revoked.
        Abandoned = "abandoned",
    }
}

const LABELS: [&str; 2] = ["upstream", "model"];
/// Seconds, from what a refusal takes to what a long answer takes.
const DURATIONS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 600.0];
/// Seconds between two tokens.
const TOKEN_TIMES: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0];
/// Seconds of the gateway's own work, calls to the key service and shared limits included.
const OVERHEADS: [f64; 14] =
    [0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

impl Upstreams {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            responses: make.counters(
                "keymeter_upstream_responses_total",
                "Requests to upstreams, by outcome.",
                &["upstream", "model", "outcome"],
            )?,
            request_duration: make.histograms(
                "keymeter_request_duration_seconds",
                "From the request's head to the response's last byte.",
                &DURATIONS,
                &LABELS,
            )?,
            time_to_first_token: make.histograms(
                "keymeter_time_to_first_token_seconds",
                "From the request's head to the first piece of the answer.",
                &DURATIONS,
                &LABELS,
            )?,
            time_per_output_token: make.histograms(
                "keymeter_time_per_output_token_seconds",
                "Time between output tokens after the first, for streams.",
                &TOKEN_TIMES,
                &LABELS,
            )?,
            overhead: make.histograms(
                "keymeter_overhead_seconds",
                "The gateway's own work on a request before it goes to the upstream.",
                &OVERHEADS,
                &LABELS,
            )?,
        })
    }

    pub(super) fn of(&self, upstream: &str, model: &str) -> UpstreamSeries {
        let labels = [upstream, model];
        UpstreamSeries {
            request_duration: self.request_duration.with_label_values(&labels),
            time_to_first_token: self.time_to_first_token.with_label_values(&labels),
            time_per_output_token: self.time_per_output_token.with_label_values(&labels),
            overhead: self.overhead.with_label_values(&labels),
            responses: UpstreamOutcome::ALL
                .map(|outcome| self.responses.with_label_values(&[upstream, model, outcome.as_str()])),
        }
    }
}

impl UpstreamSeries {
    /// Counts a request by its outcome.
    pub fn answered(&self, outcome: UpstreamOutcome) {
        // The array has a place for each outcome.
        if let Some(counter) = self.responses.get(outcome as usize) {
            counter.inc();
        }
    }
}
