//! Traces of requests, by OpenTelemetry: a span for each request, from its arrival to its settlement, and one below it for
//! each attempt at a replica. Only this module knows OpenTelemetry: other modules report what happened. It names spans by the
//! conventions, continues a caller's trace, and sends spans to a collector without holding up a request.

mod export;
mod names;
mod parent;
mod request;

use std::time::Duration;

use keymeter_config::{SampleRatio, Tracing};
use opentelemetry::{InstrumentationScope, KeyValue, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanProcessor},
};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use self::{
    export::{collector, endpoint},
    request::began,
};
pub use self::{
    parent::{parent, written},
    request::RequestTrace,
};
pub use super::traced::{Arrival, AskedReplica, Ended, ExchangeEnded, LAST_SPANS, Spent};
use crate::observe::metrics::TraceSeries;

/// What traces requests.
pub struct Traces {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    is_flushed: Mutex<bool>,
    /// What carries spans to the collector: whatever becomes of the runtime that serves requests, the last ones get there.
    /// `None` once it is over.
    runtime: Option<Runtime>,
}

impl Traces {
    /// Traces that go to the collector that `terms` name.
    ///
    /// # Errors
    /// When the operating system gives no thread, or what the environment says of OTLP cannot be used.
    pub fn start(terms: &Tracing, series: TraceSeries) -> Result<Self, TracesError> {
        let mut runtime = Builder::new_multi_thread();
        let runtime =
            runtime.worker_threads(1).thread_name("traces").enable_all().build().map_err(TracesError::System)?;
        let processor = {
            // The connection is made by what runs there, once there is something to send.
            let _within = runtime.enter();
            collector(&terms.otlp, series)?
        };
        Ok(Self::new(processor, terms.sample, Some(runtime)))
    }

    /// Whether `start` could use what `terms` say.
    ///
    /// # Errors
    /// When the system's certificates, by which the collector is to be known, cannot be used.
    pub fn rehearse(terms: &Tracing) -> Result<(), TracesError> {
        endpoint(&terms.otlp).map(drop)
    }

    /// Traces that `processor` is given, and what it needs to live.
    fn new(processor: impl SpanProcessor + 'static, sample: SampleRatio, runtime: Option<Runtime>) -> Self {
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample.ratio())));
        let provider = SdkTracerProvider::builder().with_span_processor(processor).with_sampler(sampler);
        let provider = provider.with_resource(resource()).build();
        let scope = InstrumentationScope::builder("keymeter").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { tracer: provider.tracer_with_scope(scope), provider, is_flushed: Mutex::new(false), runtime }
    }

    /// Begins the trace of a request, or carries its caller's on. `None`: no more of them are taken.
    #[must_use]
    pub fn begin(&self, arrival: &Arrival<'_>) -> Option<Box<RequestTrace>> {
        began(&self.tracer, arrival, parent(arrival.headers))
    }

    /// Sends what is still to be sent, for a process that is about to end, and waits for that, `limit` at most. Whatever
    /// ends later is not traced.
    pub fn flush(&self, limit: Duration) {
        // A second call waits for the first.
        let mut is_flushed = self.is_flushed.lock();
        if !std::mem::replace(&mut *is_flushed, true) && self.provider.shutdown_with_timeout(limit).is_err() {
            tracing::warn!("the last spans were not sent within {} s", limit.as_secs_f32());
        }
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        self.flush(LAST_SPANS);
        if let Some(runtime) = self.runtime.take() {
            // This may be a thread of another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

/// What the spans say of this process: what `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say, and what they do not.
fn resource() -> Resource {
    let stated = Resource::builder().build();
    let is_stated = |name: &'static str| match stated.get(&name.into()) {
        Some(value) => name != SERVICE_NAME || !value.as_str().starts_with("unknown_service"),
        None => false,
    };
    let ours = [
        (SERVICE_NAME, "keymeter".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance()),
    ];
    let ours = ours.into_iter().filter(|(name, _)| !is_stated(name));
    Resource::builder().with_attributes(ours.map(|(name, value)| KeyValue::new(name, value))).build()
}

const SERVICE_NAME: &str = "service.name";

/// A name of this process that no other has.
fn instance() -> String {
    let process = || u64::from(std::process::id());
    let parts = [getrandom::u64().unwrap_or_else(|_| process()), getrandom::u64().unwrap_or_else(|_| process())];
    parts.map(|part| format!("{part:016x}")).concat()
}

/// Why requests cannot be traced.
#[derive(Debug, Error)]
pub enum TracesError {
    /// The operating system gives no thread.
    #[error("cannot start the thread of traces: {0}")]
    System(std::io::Error),
    /// The system's certificates cannot be used.
    #[error("cannot use TLS with the collector of `tracing.otlp`: {}", reasons(.0))]
    Tls(tonic::transport::Error),
    /// What the environment says of OTLP cannot be used.
    #[error("cannot use the OTEL_EXPORTER_OTLP_… variables: {0}")]
    Exporter(opentelemetry_otlp::ExporterBuildError),
}

/// The causes of `error`, whose own text says only that there is one.
fn reasons(error: &dyn std::error::Error) -> String {
    let reasons: Vec<_> =
        std::iter::successors(error.source(), |reason| reason.source()).map(ToString::to_string).collect();
    reasons.join(": ")
}

#[cfg(test)]
mod tests;
