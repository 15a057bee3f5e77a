use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};
use jiff::Timestamp;
use keymeter_core::{
    api::{Api, Call, Endpoint},
    rejection::ErrorCode,
    usage::{Usage, UsageSource},
};
use opentelemetry::{
    Context,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData},
};
use parking_lot::Mutex;

use super::*;
use crate::observe::metrics::AttemptOutcome;

/// Keeps spans that ended.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Kept {
    fn only(&self) -> SpanData {
        let spans = self.0.lock();
        assert_eq!(spans.len(), 1, "{spans:?}");
        spans[0].clone()
    }

    fn both(&self) -> (SpanData, SpanData) {
        let spans = self.0.lock();
        let of = |kind| spans.iter().find(|span| span.span_kind == kind).unwrap().clone();
        assert_eq!(spans.len(), 2, "{spans:?}");
        (of(SpanKind::Server), of(SpanKind::Client))
    }
}

fn traces(sample: SampleRatio) -> (Traces, Kept) {
    let kept = Kept::default();
    (Traces::new(kept.clone(), sample, None), kept)
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    span.attributes.iter().find(|pair| pair.key.as_str() == name).map(|pair| pair.value.to_string())
}

#[track_caller]
fn assert_attributes(span: &SpanData, expected: &[(&str, &str)]) {
    let mut found: Vec<_> = span.attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
    let mut expected: Vec<_> = expected.iter().map(|(name, value)| format!("{name}={value}")).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

fn chat() -> Call {
    Call::Inference { endpoint: Endpoint::ChatCompletions, model: None }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
}

fn begun(traces: &Traces, headers: &HeaderMap, call: Option<&Call>) -> Option<Box<RequestTrace>> {
    let path = "/v1/chat/completions";
    let arrival = Arrival { headers, method: &Method::POST, path, api: Api::OpenAi, call, id: "req_1", at: at(0) };
    traces.begin(&arrival)
}

const REPLICA: AskedReplica<'_> = AskedReplica { name: "big", host: "10.0.0.1", port: 8000 };

const USAGE: Usage =
    Usage { input: 10, cached_input: 20, cache_write: 30, cache_write_1h: 12, output: 40, reasoning: 5 };

#[test]
fn a_request_and_its_exchange_are_told_by_the_conventions() {
    let (traces, kept) = traces(SampleRatio::ALL);
    let mut trace = begun(&traces, &HeaderMap::new(), Some(&chat())).unwrap();
    trace.asks(Endpoint::ChatCompletions, Some("llama-3"), Some(100), true);
    trace.exchange_begins("vllm", Some(REPLICA), at(5));
    trace.upstream_answered(200);
    trace.attempted(AttemptOutcome::Success);
    let first_piece = Some(at(255));
    let ended = ExchangeEnded { usage: USAGE, source: UsageSource::Upstream, first_piece, failure: None };
    trace.exchange_ended(&ended, at(900));
    // What comes later changes nothing.
    trace.exchange_ended(&ExchangeEnded { failure: Some(ErrorCode::UpstreamError), ..ended }, at(950));
    let spent = Spent { usage: USAGE, source: UsageSource::Upstream, cost: "0.25".parse().unwrap() };
    let upstream = Some("vllm");
    let ended = Ended { status: 200, upstream, spent: Some(spent), ..Ended::default() };
    trace.ended(&ended, Some(("key_a", Some("research"))), at(1000));

    let id = trace.id().to_owned();
    drop(trace);
    let (server, client) = kept.both();
    assert_eq!((server.name.as_ref(), client.name.as_ref()), ("chat llama-3", "chat llama-3"));
    assert_eq!(server.span_context.trace_id().to_string(), id);
    assert_eq!(client.span_context.trace_id(), server.span_context.trace_id());
    assert_eq!(client.parent_span_id, server.span_context.span_id());
    assert_eq!((server.start_time, server.end_time), (at(0).into(), at(1000).into()));
    assert_eq!((client.start_time, client.end_time), (at(5).into(), at(900).into()));
    assert_eq!((&server.status, &client.status), (&Status::Unset, &Status::Unset));
    assert_attributes(
        &server,
        &[
            ("http.request.method", "POST"),
            ("url.path", "/v1/chat/completions"),
            ("http.response.status_code", "200"),
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.model", "llama-3"),
            ("keymeter.request.id", "req_1"),
            ("keymeter.key.id", "key_a"),
            ("keymeter.key.team", "research"),
            ("keymeter.upstream", "vllm"),
            ("keymeter.tokens.input", "10"),
            ("keymeter.tokens.cached_input", "20"),
            ("keymeter.tokens.cache_write", "30"),
            ("keymeter.tokens.output", "40"),
            ("keymeter.usage.source", "upstream"),
            ("keymeter.cost_usd", "0.25"),
            ("keymeter.client_aborted", "false"),
        ],
    );
    assert_attributes(
        &client,
        &[
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.model", "llama-3"),
            ("gen_ai.request.max_tokens", "100"),
            ("gen_ai.request.stream", "true"),
            ("gen_ai.response.time_to_first_chunk", "0.25"),
            ("gen_ai.usage.input_tokens", "60"),
            ("gen_ai.usage.output_tokens", "40"),
            ("gen_ai.usage.cache_read.input_tokens", "20"),
            ("gen_ai.usage.cache_creation.input_tokens", "30"),
            ("gen_ai.usage.reasoning.output_tokens", "5"),
            ("http.response.status_code", "200"),
            ("keymeter.upstream", "vllm"),
            ("keymeter.replica", "big"),
            ("keymeter.attempt.outcome", "success"),
            ("server.address", "10.0.0.1"),
            ("server.port", "8000"),
        ],
    );
}

/// What went wrong, and whether it is an error of the request's span.
#[test]
fn an_error_is_one_where_it_is_not_the_clients() {
    for (ended, error) in [
        (Ended { status: 200, ..Ended::default() }, None),
        (Ended { status: 401, reason: Some(ErrorCode::InvalidApiKey), ..Ended::default() }, None),
        (Ended { status: 429, reason: Some(ErrorCode::RateLimitExceeded), ..Ended::default() }, None),
        (Ended { status: 499, client_aborted: true, broke_off: true, ..Ended::default() }, None),
        (Ended { status: 200, client_aborted: true, broke_off: true, ..Ended::default() }, None),
        (Ended { status: 503, reason: Some(ErrorCode::Overloaded), ..Ended::default() }, Some("overloaded")),
        (Ended { status: 500, ..Ended::default() }, Some("500")),
        (
            Ended { status: 200, reason: Some(ErrorCode::UpstreamError), broke_off: true, ..Ended::default() },
            Some("upstream_error"),
        ),
        (Ended { status: 200, broke_off: true, ..Ended::default() }, Some("_OTHER")),
    ] {
        let (traces, kept) = traces(SampleRatio::ALL);
        begun(&traces, &HeaderMap::new(), Some(&chat())).unwrap().ended(&ended, None, at(1));
        let span = kept.only();
        assert_eq!(attribute(&span, "error.type").as_deref(), error);
        let expected = if error.is_some() { Status::error("") } else { Status::Unset };
        assert_eq!(
            (span.status.clone(), attribute(&span, "keymeter.rejection").as_deref()),
            (expected, ended.reason.map(ErrorCode::as_str))
        );
    }
}

#[test]
fn what_is_sent_again_to_the_same_replica_is_one_attempt_and_its_last_answer_counts() {
    let (traces, kept) = traces(SampleRatio::ALL);
    let mut trace = begun(&traces, &HeaderMap::new(), Some(&chat())).unwrap();
    trace.exchange_begins("vllm", None, at(1));
    let first = trace.headers();
    trace.upstream_answered(400);
    trace.exchange_begins("vllm", None, at(2));
    assert_eq!(trace.headers(), first, "it has one name");
    let nothing =
        |failure| ExchangeEnded { usage: Usage::default(), source: UsageSource::None, first_piece: None, failure };
    trace.exchange_ended(&nothing(Some(ErrorCode::UpstreamTimeout)), at(3));
    drop(trace);
    let (_, client) = kept.both();
    assert_eq!(client.start_time, std::time::SystemTime::from(at(1)));
    assert_eq!(client.status, Status::error(""));
    assert_attributes(
        &client,
        &[
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("keymeter.upstream", "vllm"),
            ("http.request.resend_count", "1"),
            ("error.type", "upstream_timeout"),
        ],
    );
}

#[test]
fn each_attempt_is_a_span_and_the_last_one_has_what_was_used() {
    let (traces, kept) = traces(SampleRatio::ALL);
    let mut trace = begun(&traces, &HeaderMap::new(), Some(&chat())).unwrap();
    let mut names = Vec::new();
    for (name, outcome, status) in [("a", AttemptOutcome::Connect, None), ("b", AttemptOutcome::ServerError, Some(503))]
    {
        trace.exchange_begins("vllm", Some(AskedReplica { name, ..REPLICA }), at(1));
        names.push(trace.headers());
        if let Some(status) = status {
            trace.upstream_answered(status);
        }
        trace.attempted(outcome);
        // Only the first that is told counts.
        trace.attempted(AttemptOutcome::Closed);
        trace.goes_elsewhere(at(2));
    }
    trace.exchange_begins("other", Some(REPLICA), at(3));
    names.push(trace.headers());
    let ended = ExchangeEnded { usage: USAGE, source: UsageSource::Upstream, first_piece: None, failure: None };
    trace.exchange_ended(&ended, at(4));
    drop(trace);
    assert!(names[0] != names[1] && names[1] != names[2] && names[0] != names[2], "{names:?}");
    let spans = kept.0.lock();
    let told = |name: &str| spans.iter().map(|span| attribute(span, name)).collect::<Vec<_>>();
    let of = |all: [Option<&str>; 4]| all.map(|value| value.map(str::to_owned)).to_vec();
    assert_eq!(told("keymeter.replica"), of([Some("a"), Some("b"), Some("big"), None]));
    assert_eq!(told("keymeter.upstream"), of([Some("vllm"), Some("vllm"), Some("other"), None]));
    assert_eq!(told("keymeter.attempt.outcome"), of([Some("connect"), Some("http_5xx"), Some("other"), None]));
    assert_eq!(told("error.type"), of([Some("connect"), Some("503"), None, None]));
    assert_eq!(told("http.request.resend_count"), of([None, Some("1"), Some("2"), None]));
    assert_eq!(told("gen_ai.usage.output_tokens"), of([None, None, Some("40"), None]));
    assert!(spans.iter().take(3).all(|span| span.parent_span_id == spans[3].span_context.span_id()));
}

#[test]
fn what_an_upstream_refuses_is_an_error_of_the_exchange() {
    let (traces, kept) = traces(SampleRatio::ALL);
    let mut trace = begun(&traces, &HeaderMap::new(), Some(&chat())).unwrap();
    trace.exchange_begins("vllm", None, at(1));
    trace.upstream_answered(401);
    let (usage, failure) = (Usage::default(), Some(ErrorCode::UpstreamError));
    trace.exchange_ended(&ExchangeEnded { usage, source: UsageSource::None, first_piece: None, failure }, at(3));
    drop(trace);
    assert_eq!(attribute(&kept.both().1, "error.type").as_deref(), Some("401"));
}

#[test]
fn a_callers_trace_and_its_decision_are_carried_on() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    for (sample, flags, spans) in [("0%", "01", 1), ("100%", "00", 0)] {
        let sample = keymeter_config::parse(
            &format!("tracing: {{otlp: 'http://h:1', sample: {sample}}}\n{LEAST}"),
            std::path::Path::new("f"),
            &|_| None,
        );
        let (traces, kept) = traces(sample.unwrap().tracing.unwrap().sample);
        let mut headers = HeaderMap::new();
        let parent = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
        headers.insert("traceparent", HeaderValue::from_str(&parent).unwrap());
        headers.insert("tracestate", HeaderValue::from_static("b=2,a=1"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer sk-a"));
        let mut trace = begun(&traces, &headers, None).unwrap();
        trace.exchange_begins("vllm", None, at(1));
        let [(_, parent), (_, state)] = trace.headers();
        let parent = parent.unwrap().to_str().unwrap().to_owned();
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with(flags), "{parent}");
        assert!(!parent.contains("b7ad6b7169203331"), "{parent}");
        assert_eq!((state.unwrap(), trace.id()), (HeaderValue::from_static("b=2,a=1"), TRACE));
        drop(trace);
        assert_eq!(kept.0.lock().len(), 2 * spans);
        let remote =
            kept.0.lock().iter().find(|span| span.span_kind == SpanKind::Server).map(|span| span.parent_span_id);
        assert!(remote.is_none_or(|parent| parent.to_string() == "b7ad6b7169203331"));
    }
}

const LEAST: &str = "upstreams: [{name: a, url: 'http://h:1'}]\nkeys: {yaml: {path: k}}\n";

#[test]
fn a_request_that_comes_after_the_end_has_no_trace() {
    let (traces, kept) = traces(SampleRatio::ALL);
    let running = begun(&traces, &HeaderMap::new(), None).unwrap();
    traces.flush(LAST_SPANS);
    traces.flush(LAST_SPANS);
    assert!(begun(&traces, &HeaderMap::new(), None).is_none());
    drop(running);
    assert_eq!(kept.0.lock().len(), 0);
}

#[test]
fn a_span_is_named_by_what_is_asked_and_never_by_what_a_client_made_up() {
    let model = || Some(Call::Model("secret".to_owned()));
    for (method, api, call, name) in [
        ("POST", Api::OpenAi, Some(chat()), "chat"),
        ("GET", Api::OpenAi, Some(Call::Models), "GET /v1/models"),
        ("GET", Api::Anthropic, Some(Call::Models), "GET /v1/models"),
        ("GET", Api::Ollama, Some(Call::Models), "GET /api/tags"),
        ("GET", Api::Gemini, Some(Call::Models), "GET /v1beta/models"),
        ("GET", Api::OpenAi, model(), "GET /v1/models/{id}"),
        ("GET", Api::Gemini, model(), "GET /v1beta/models/{id}"),
        ("GET", Api::Ollama, Some(Call::Version), "GET /api/version"),
        ("GET", Api::OpenAi, Some(Call::Usage), "GET /v1/usage"),
        ("DELETE", Api::OpenAi, None, "DELETE"),
        ("BREW", Api::OpenAi, None, "HTTP"),
    ] {
        assert_eq!(names::span(&Method::from_bytes(method.as_bytes()).unwrap(), api, call.as_ref()), name);
    }
    assert_eq!(names::method(&Method::from_bytes(b"BREW").unwrap()), "_OTHER");
}

#[test]
fn the_process_says_what_it_is() {
    let resource = resource();
    let of = |name: &'static str| resource.get(&name.into()).map(|value| value.to_string());
    assert_eq!(of("service.name").as_deref(), Some("keymeter"));
    assert_eq!(of("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(of("service.instance.id").unwrap().len(), 32);
}
