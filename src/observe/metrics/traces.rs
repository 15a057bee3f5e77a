//! What is shown of traces.

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
            "Spans of traces, by what became of them: exported, dropped or failed.",
            "outcome",
            &SpanOutcome::ALL.map(SpanOutcome::as_str),
        )?;
        Ok(Self { spans })
    }

    /// The collector has taken so many.
    pub fn exported(&self, spans: usize) {
        self.count(SpanOutcome::Exported, spans);
    }

    /// There was no room for one.
    pub fn dropped(&self) {
        self.count(SpanOutcome::Dropped, 1);
    }

    /// The collector has not taken so many.
    pub fn failed(&self, spans: usize) {
        self.count(SpanOutcome::Failed, spans);
    }

    fn count(&self, outcome: SpanOutcome, spans: usize) {
        self.spans.with_label_values(&[outcome.as_str()]).inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    }
}

keymeter_core::words! {
    /// What became of a span.
    SpanOutcome {
        /// The collector has it.
        Exported = "exported",
        /// Too many were waiting.
        Dropped = "dropped",
        /// The collector did not take it.
        Failed = "failed",
    }
}
