//! The metrics of traces.

use prometheus::IntCounterVec;

use super::Maker;

/// The series of traces.
#[derive(Clone)]
pub struct TraceSeries {
    spans: IntCounterVec,
}

impl TraceSeries {
    pub(super) fn new(make: &Maker<'_>) -> Result<Self, prometheus::Error> {
        let spans = make.counters_of(
            "keymeter_trace_spans_total",
            "Spans of traces, by outcome: exported, dropped or failed.",
            "outcome",
            &SpanOutcome::ALL.map(SpanOutcome::as_str),
        )?;
        Ok(Self { spans })
    }

    /// Counts spans that the collector took.
    pub fn exported(&self, spans: usize) {
        self.count(SpanOutcome::Exported, spans);
    }

    /// Counts a span for which there was no room.
    pub fn dropped(&self) {
        self.count(SpanOutcome::Dropped, 1);
    }

    /// Counts spans that the collector did not take.
    pub fn failed(&self, spans: usize) {
        self.count(SpanOutcome::Failed, spans);
    }

    fn count(&self, outcome: SpanOutcome, spans: usize) {
        self.spans.with_label_values(&[outcome.as_str()]).inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    }
}

keymeter_core::words! {
    /// The outcome of a span.
    SpanOutcome {
        /// The collector has it.
        Exported = "exported",
        /// Too many were waiting.
        Dropped = "dropped",
        /// The collector did not take it.
        Failed = "failed",
    }
}
