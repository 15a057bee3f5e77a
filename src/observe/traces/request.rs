//! The trace of one request: its own span and one for each attempt at a replica. It contains no prompt, no answer, no secret
//! and no query, and text of a client is short.

use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use keymeter_core::{
    api::{Call, Endpoint},
    rejection::ErrorCode,
    usage::{Usage, UsageSource},
};
use opentelemetry::{
    Context, KeyValue, Value,
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::{Arrival, AskedReplica, Ended, ExchangeEnded, Spent, names, parent::written};
use crate::observe::metrics::AttemptOutcome;

/// The trace of a request.
pub struct RequestTrace {
    tracer: SdkTracer,
    id: String,
    span: Span,
    /// The attempt that is made at present, or was made last.
    attempt: Option<Attempt>,
    /// How often the request was sent.
    sent: u32,
    asked: Asked,
}

/// What a request asks of a model.
#[derive(Clone, Default)]
struct Asked {
    operation: Option<&'static str>,
    provider: &'static str,
    model: Option<String>,
    maximum: Option<u64>,
    is_stream: bool,
}

/// An attempt at a replica, or at what a proxy of somebody's own chose.
struct Attempt {
    span: Span,
    began: Timestamp,
    /// How often the request was sent, this attempt's last time included.
    sent: u32,
    status: Option<u16>,
    /// `None` where there is no replica.
    outcome: Option<AttemptOutcome>,
}

/// Begins the trace of a request, within that of its caller if there is one.
pub(super) fn began(
    tracer: &SdkTracer,
    arrival: &Arrival<'_>,
    parent: Option<SpanContext>,
) -> Option<Box<RequestTrace>> {
    let Arrival { method, path, api, call, id, at, .. } = *arrival;
    let context = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
    let builder = tracer.span_builder(names::span(method, api, call)).with_kind(SpanKind::Server).with_start_time(at);
    let mut span = tracer.build_with_context(builder, &context);
    if !span.span_context().is_valid() {
        return None;
    }
    let mut asked = Asked { provider: names::provider(api), ..Asked::default() };
    if let Some(Call::Inference { endpoint, .. }) = call {
        asked.operation = Some(names::operation(*endpoint));
    }
    if span.is_recording() {
        set(&mut span, "http.request.method", names::method(method));
        set(&mut span, "url.path", path.to_owned());
        set(&mut span, "keymeter.request.id", id.to_owned());
        asked.describe(&mut span);
    }
    let id = span.span_context().trace_id().to_string();
    Some(Box::new(RequestTrace { tracer: tracer.clone(), id, span, attempt: None, sent: 0, asked }))
}

impl RequestTrace {
    /// The name of the trace, in 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the request asks for, once its body is read. The model is named as briefly as in the log.
    pub fn asks(&mut self, endpoint: Endpoint, model: Option<&str>, maximum: Option<u64>, is_stream: bool) {
        if !self.span.is_recording() {
            return;
        }
        let operation = names::operation(endpoint);
        let is_stream = is_stream || endpoint == Endpoint::StreamGenerateContent;
        let (provider, model) = (names::provider(endpoint.api()), model.map(str::to_owned));
        self.asked = Asked { operation: Some(operation), provider, model, maximum, is_stream };
        if let Some(model) = &self.asked.model {
            self.span.update_name(format!("{operation} {model}"));
            set(&mut self.span, "gen_ai.request.model", model.clone());
        }
    }

    /// The request is sent to a replica: an attempt begins, or the one that is made goes on with another sending.
    pub fn exchange_begins(&mut self, upstream: &str, replica: Option<AskedReplica<'_>>, at: Timestamp) {
        self.sent += 1;
        let outcome = replica.map(|_| AttemptOutcome::Other);
        if let Some(attempt) = &mut self.attempt {
            (attempt.sent, attempt.status, attempt.outcome) = (self.sent, None, outcome);
            return;
        }
        let parent = Context::new().with_remote_span_context(self.span.span_context().clone());
        let builder = self.tracer.span_builder(self.asked.span_name()).with_kind(SpanKind::Client).with_start_time(at);
        let mut span = self.tracer.build_with_context(builder, &parent);
        if span.is_recording() {
            self.asked.describe(&mut span);
            set_some(&mut span, "gen_ai.request.model", self.asked.model.clone());
            set_some(&mut span, "gen_ai.request.max_tokens", self.asked.maximum.map(count));
            set_some(&mut span, "gen_ai.request.stream", self.asked.is_stream.then_some(true));
            set(&mut span, "keymeter.upstream", upstream.to_owned());
            if let Some(AskedReplica { name, host, port }) = replica {
                set(&mut span, "keymeter.replica", name.to_owned());
                set(&mut span, "server.address", host.to_owned());
                set(&mut span, "server.port", i64::from(port));
            }
        }
        self.attempt = Some(Attempt { span, began: at, sent: self.sent, status: None, outcome });
    }

    /// What names the attempt to the upstream: headers to be set, or to be taken out.
    #[must_use]
    pub fn headers(&self) -> [(HeaderName, Option<HeaderValue>); 2] {
        written(self.attempt.as_ref().map_or(&self.span, |attempt| &attempt.span).span_context())
    }

    /// The upstream has answered with this status.
    pub fn upstream_answered(&mut self, status: u16) {
        if let Some(attempt) = &mut self.attempt {
            attempt.status = Some(status);
        }
    }

    /// What came of the attempt that is made. The first that is told counts, as in the metrics.
    pub fn attempted(&mut self, outcome: AttemptOutcome) {
        if let Some(Attempt { outcome: told @ Some(AttemptOutcome::Other), .. }) = &mut self.attempt {
            *told = Some(outcome);
        }
    }

    /// The attempt that was made has failed, and the request is tried elsewhere.
    pub fn goes_elsewhere(&mut self, at: Timestamp) {
        let Some(mut attempt) = self.attempt.take() else { return };
        if attempt.span.is_recording() {
            attempt.describe();
            attempt.fail(attempt.outcome.map(AttemptOutcome::as_str));
            attempt.span.end_with_timestamp(at.into());
        }
    }

    /// The exchange with the upstream is over, and the last attempt with it, if there is one. The first time counts.
    pub fn exchange_ended(&mut self, ended: &ExchangeEnded, at: Timestamp) {
        let Some(attempt) = &mut self.attempt else { return };
        if !attempt.span.is_recording() {
            return;
        }
        attempt.describe();
        let waited = |first: Timestamp| first.duration_since(attempt.began).as_secs_f64().max(0.0);
        let span = &mut attempt.span;
        set_some(span, "gen_ai.response.time_to_first_chunk", ended.first_piece.map(waited));
        if ended.source != UsageSource::None {
            describe_usage(span, &ended.usage);
        }
        attempt.fail(ended.failure.map(ErrorCode::as_str));
        attempt.span.end_with_timestamp(at.into());
    }

    /// The request is over. Of its key, the id and the team are told.
    pub fn ended(&mut self, ended: &Ended<'_>, key: Option<(&str, Option<&str>)>, at: Timestamp) {
        let span = &mut self.span;
        if !span.is_recording() {
            return;
        }
        let Ended { status, reason, broke_off, client_aborted, upstream, ref spent } = *ended;
        set(span, "http.response.status_code", i64::from(status));
        set_some(span, "keymeter.key.id", key.map(|(id, _)| id.to_owned()));
        set_some(span, "keymeter.key.team", key.and_then(|(_, team)| team).map(str::to_owned));
        set_some(span, "keymeter.upstream", upstream.map(str::to_owned));
        set_some(span, "keymeter.rejection", reason.map(ErrorCode::as_str));
        if let Some(spent) = spent {
            describe_spent(span, spent);
            set(span, "keymeter.client_aborted", client_aborted);
        }
        // A refusal that is the client's own fault is no error of this span.
        let failed = status < 400 && !client_aborted && (broke_off || reason.is_some());
        if status >= 500 || failed {
            let unnamed = || if status >= 500 { status.to_string() } else { "_OTHER".to_owned() };
            fail(span, reason.map_or_else(unnamed, |code| code.as_str().to_owned()));
        }
        span.end_with_timestamp(at.into());
    }
}

impl Attempt {
    /// Says how often the request was sent before, and what came of that.
    fn describe(&mut self) {
        let Self { span, sent, status, outcome, .. } = self;
        set_some(span, "http.response.status_code", status.map(i64::from));
        set_some(span, "http.request.resend_count", (*sent > 1).then(|| i64::from(*sent - 1)));
        set_some(span, "keymeter.attempt.outcome", outcome.map(AttemptOutcome::as_str));
    }

    /// Marks the attempt as failed where the upstream refused, or for this reason, if there is one.
    fn fail(&mut self, reason: Option<&'static str>) {
        let refused = self.status.filter(|status| *status >= 400).map(|status| status.to_string());
        if let Some(error) = refused.or_else(|| reason.map(str::to_owned)) {
            fail(&mut self.span, error);
        }
    }
}

impl Asked {
    fn span_name(&self) -> String {
        let operation = self.operation.unwrap_or("HTTP");
        self.model.as_ref().map_or_else(|| operation.to_owned(), |model| format!("{operation} {model}"))
    }

    fn describe(&self, span: &mut Span) {
        if let Some(operation) = self.operation {
            set(span, "gen_ai.operation.name", operation);
            set(span, "gen_ai.provider.name", self.provider);
        }
    }
}

/// Usage as the conventions count it: the input is all of the prompt.
fn describe_usage(span: &mut Span, usage: &Usage) {
    let Usage { input, cached_input, cache_write, output, reasoning, .. } = *usage;
    let prompt = input.saturating_add(cached_input).saturating_add(cache_write);
    set(span, "gen_ai.usage.input_tokens", count(prompt));
    set(span, "gen_ai.usage.output_tokens", count(output));
    for (name, tokens) in [
        ("gen_ai.usage.cache_read.input_tokens", cached_input),
        ("gen_ai.usage.cache_creation.input_tokens", cache_write),
        ("gen_ai.usage.reasoning.output_tokens", reasoning),
    ] {
        set_some(span, name, (tokens > 0).then(|| count(tokens)));
    }
}

/// Usage as it is charged, under keymeter's names, so that a sum of the conventions' attributes counts each request once.
fn describe_spent(span: &mut Span, spent: &Spent) {
    let Usage { input, cached_input, cache_write, output, .. } = spent.usage;
    for (name, tokens) in [
        ("keymeter.tokens.input", input),
        ("keymeter.tokens.cached_input", cached_input),
        ("keymeter.tokens.cache_write", cache_write),
        ("keymeter.tokens.output", output),
    ] {
        set(span, name, count(tokens));
    }
    set(span, "keymeter.usage.source", spent.source.as_str());
    set(span, "keymeter.cost_usd", spent.cost.to_string());
}

/// Marks a span as failed. What is said of it is a word of ours or a status.
fn fail(span: &mut Span, error: String) {
    set(span, "error.type", error);
    span.set_status(Status::error(""));
}

fn set(span: &mut Span, name: &'static str, value: impl Into<Value>) {
    span.set_attribute(KeyValue::new(name, value));
}

fn set_some(span: &mut Span, name: &'static str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        set(span, name, value);
    }
}

fn count(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}
