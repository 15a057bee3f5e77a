//! The collector that traces are sent to, and the part of requests that is traced.

use super::{
    raw,
    report::Place,
    scalar::Scalar,
    written::{CollectorUrl, SampleRatio},
};

/// Traces of requests, by OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// The collector.
    pub otlp: CollectorUrl,
    /// Of the requests that come without a trace of their caller's, those that are traced.
    pub sample: SampleRatio,
}

impl Tracing {
    pub(super) fn check(raw: raw::Tracing, place: &Place<'_>) -> Option<Self> {
        let example = "the collector that takes OTLP over gRPC, such as http://127.0.0.1:4317";
        let otlp = place.required("otlp", raw.otlp, example).map(|Scalar(url)| url);
        Some(Self { otlp: otlp?, sample: raw.sample.map_or(SampleRatio::ALL, |Scalar(sample)| sample) })
    }
}
