//! The export of spans to the collector. Spans wait in a queue of a fixed length, and further ones are dropped: a collector that
//! is unreachable, slow or hanging costs spans and never a request. The outcome of each span is counted, and an outage is logged
//! once.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use keymeter_config::CollectorUrl;
use opentelemetry::Context;
use opentelemetry_otlp::WithTonicConfig;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};
use tonic::transport::{ClientTlsConfig, Endpoint};

use super::TracesError;
use crate::observe::metrics::TraceSeries;

/// Spans that may wait; at 2 KiB each some 16 MiB.
const QUEUE: usize = 8192;
/// Spans that are sent at once.
const BATCH: usize = 512;
/// How long spans wait for others to be sent with.
const LINGER: Duration = Duration::from_secs(1);
/// How long the collector may take to be connected to, and to answer.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);
/// After such a silence in the middle of a call it is asked whether the connection still lives, and given as long as for a
/// new one: of some that are lost nobody is told.
const SILENCE: Duration = Duration::from_secs(20);

/// What takes spans and sends them to the collector at `url`. To be called within the runtime that is to carry them.
pub(super) fn collector(url: &CollectorUrl, series: TraceSeries) -> Result<Queue, TracesError> {
    let channel = endpoint(url)?.connect_lazy();
    let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_channel(channel);
    let exporter = builder.build().map_err(TracesError::Exporter)?;
    Ok(Queue::before(exporter, url.as_str(), series, QUEUE))
}

/// How the collector at `url` is spoken to.
pub(super) fn endpoint(url: &CollectorUrl) -> Result<Endpoint, TracesError> {
    let endpoint = Endpoint::from_shared(url.as_str().to_owned()).map_err(TracesError::Tls)?;
    let endpoint = endpoint.connect_timeout(CONNECT).timeout(ANSWER);
    let endpoint = endpoint.http2_keep_alive_interval(SILENCE).keep_alive_timeout(CONNECT);
    if !url.tls {
        return Ok(endpoint);
    }
    endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(TracesError::Tls)
}

/// What the queue and what empties it know together.
struct Shared {
    /// Spans that were taken and of which it is not known yet what became.
    waiting: AtomicUsize,
    series: TraceSeries,
}

/// Takes spans, as long as there is room.
pub(super) struct Queue {
    batches: BatchSpanProcessor,
    room: usize,
    shared: Arc<Shared>,
}

impl Queue {
    fn before(exporter: impl SpanExporter + 'static, url: &str, series: TraceSeries, room: usize) -> Self {
        let shared = Arc::new(Shared { waiting: AtomicUsize::new(0), series });
        let counted =
            Counted { exporter, url: url.to_owned(), is_away: AtomicBool::new(false), shared: shared.clone() };
        let config =
            BatchConfigBuilder::default().with_max_queue_size(room).with_max_export_batch_size(BATCH.min(room));
        let config = config.with_scheduled_delay(LINGER).build();
        let batches = BatchSpanProcessor::builder(counted).with_batch_config(config).build();
        Self { batches, room, shared }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Queue").field("room", &self.room).finish_non_exhaustive()
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // Those that are on their way count too, so that the queue beneath is never full without our knowledge.
        if self.shared.waiting.fetch_add(1, Ordering::Relaxed) < self.room {
            self.batches.on_end(span);
        } else {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            self.shared.series.dropped();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Sends spans and keeps count.
struct Counted<E> {
    exporter: E,
    url: String,
    is_away: AtomicBool,
    shared: Arc<Shared>,
}

impl<E> Counted<E> {
    /// Logs that the collector becomes unavailable or available.
    fn tell(&self, result: Result<(), &OTelSdkError>) {
        let was_away = self.is_away.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_away => {
                tracing::warn!(
                    "the trace collector {} is unavailable: {error}; spans are lost until it is back",
                    self.url
                );
            }
            Ok(()) if was_away => tracing::info!("the trace collector {} is available again", self.url),
            _ => {}
        }
    }
}

impl<E> fmt::Debug for Counted<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Counted").field("url", &self.url).finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.tell(result.as_ref().copied());
        match &result {
            Ok(()) => self.shared.series.exported(spans),
            Err(_) => self.shared.series.failed(spans),
        }
        self.shared.waiting.fetch_sub(spans, Ordering::Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use jiff::Timestamp;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::observe::{
        metrics::Metrics,
        traces::{Arrival, LAST_SPANS, Traces},
    };
    use keymeter_config::SampleRatio;
    use keymeter_core::api::Api;

    /// A collector that takes nothing until the test lets it, and then takes it or does not.
    #[derive(Clone, Debug)]
    struct Held {
        gate: Arc<Semaphore>,
        takes: bool,
    }

    impl SpanExporter for Held {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            // An error means that the gate is open for good.
            let _ = self.gate.acquire().await;
            if self.takes { Ok(()) } else { Err(OTelSdkError::InternalFailure("no".to_owned())) }
        }
    }

    fn request(traces: &Traces) {
        let (headers, method, at) = (&HeaderMap::new(), &Method::GET, Timestamp::now());
        let arrival = Arrival { headers, method, path: "/", api: Api::OpenAi, call: None, id: "req_1", at };
        drop(traces.begin(&arrival).unwrap());
    }

    #[track_caller]
    fn assert_counts(metrics: &Metrics, expected: [(&str, u64); 3]) {
        let text = metrics.encode().unwrap();
        for (outcome, spans) in expected {
            let line = format!("keymeter_trace_spans_total{{outcome=\"{outcome}\"}} {spans}\n");
            assert!(text.contains(&line), "{line} is not in {text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_counted_and_there_is_room_again() {
        for takes in [true, false] {
            let metrics = Metrics::new(1).unwrap();
            let held = Held { gate: Arc::new(Semaphore::new(0)), takes };
            let queue = Queue::before(held.clone(), "http://h:1", metrics.traces().unwrap(), 4);
            let shared = queue.shared.clone();
            let traces = Traces::new(queue, SampleRatio::ALL, None);
            (0..10).for_each(|_| request(&traces));
            assert_counts(&metrics, [("dropped", 6), ("exported", 0), ("failed", 0)]);
            held.gate.close();
            traces.flush(LAST_SPANS);
            let (exported, failed) = if takes { (4, 0) } else { (0, 4) };
            assert_counts(&metrics, [("dropped", 6), ("exported", exported), ("failed", failed)]);
            assert_eq!(shared.waiting.load(Ordering::Relaxed), 0);
        }
    }
}
