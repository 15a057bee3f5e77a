//! Traces: a span for each request and one for its exchange with the upstream, within the trace of the caller, sent to a
//! collector that never holds up a request.

mod attempts;
mod processes;

use serde_json::{Value, json};

use crate::support::{
    client::{Client, PATIENCE},
    collector::{Collector, Seen},
    gateway::{Gateway, SECRET, config, one_key},
    h2c::H2c,
    scene::{chat, get, post},
    script::{Script, completion, usage},
    upstream::{Received, ScriptedUpstream},
};

const CHAT: &str = "/v1/chat/completions";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
/// What nobody may read in a trace.
const PROMPT: &str = "the-words-of-a-client";

fn ask() -> Value {
    json!({"model": "llama-3", "max_tokens": 50, "messages": [{"role": "user", "content": PROMPT}]})
}

async fn completing() -> ScriptedUpstream {
    ScriptedUpstream::start(|_| Script::json(200, &completion("llama-3", 3))).await
}

/// A gateway that traces every request, with one key of a team.
fn traced(collector: &Collector, upstream: &ScriptedUpstream, extra: &str) -> Gateway {
    traced_with(collector, upstream, extra, "")
}

fn traced_with(collector: &Collector, upstream: &ScriptedUpstream, extra: &str, key: &str) -> Gateway {
    let sections = format!("{}\n{extra}", collector.section(""));
    Gateway::start(&config(upstream, &sections), &one_key(&format!(", team: research{key}")))
}

async fn ask_with(gateway: &Gateway, headers: &[(&str, &str)]) -> u16 {
    let authorization = format!("Bearer {SECRET}");
    let headers =
        [&[("authorization", authorization.as_str()), ("content-type", "application/json")], headers].concat();
    gateway.connect().await.request("POST", CHAT, &headers, ask().to_string().as_bytes()).await.status
}

fn parent_of(request: &Received) -> (String, String, String) {
    let parts: Vec<_> = request.header("traceparent").expect("a traceparent").split('-').map(str::to_owned).collect();
    let [version, trace, span, flags] = &parts[..] else { panic!("{parts:?}") };
    assert_eq!((version.as_str(), trace.len(), span.len()), ("00", 32, 16));
    (trace.clone(), span.clone(), flags.clone())
}

#[track_caller]
fn assert_has(span: &Seen, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(span.get(name), Some(*value), "{name} of {span:#?}");
    }
}

const MODES: [&str; 2] = ["on_client_abort: stop", "on_client_abort: drain"];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_traced_through_the_gateway_to_the_upstream() {
    for mode in MODES {
        let (collector, upstream) = (Collector::start().await, completing().await);
        let prices = "models: [{name: \"llama-*\", input: \"1\", output: \"2\"}]";
        let gateway = traced(&collector, &upstream, &format!("{mode}\n{prices}"));
        let response = post(&mut gateway.connect().await, &format!("{CHAT}?key=in-query"), SECRET, &ask()).await;
        assert_eq!(response.status, 200);
        let (server, client) = collector.request().await;
        let (trace, span, flags) = parent_of(&upstream.wait_for_request(1).await);
        assert_eq!((trace.as_str(), span.as_str(), flags.as_str()), (&*server.trace, &*client.id, "01"), "{mode}");
        assert_eq!(upstream.received()[0].header("tracestate"), None);
        assert_eq!((&client.trace, &client.parent, server.parent.as_str()), (&server.trace, &server.id, ""), "{mode}");
        assert!(server.began <= client.began && client.ended <= server.ended && !client.took().is_zero());
        assert_eq!((server.name.as_str(), client.name.as_str()), ("chat llama-3", "chat llama-3"));
        assert!(!server.is_error && !client.is_error);
        assert_has(
            &server,
            &[
                ("http.request.method", "POST"),
                ("url.path", CHAT),
                ("http.response.status_code", "200"),
                ("gen_ai.request.model", "llama-3"),
                ("keymeter.key.id", "key_test"),
                ("keymeter.key.team", "research"),
                ("keymeter.upstream", "scripted"),
                ("keymeter.usage.source", "upstream"),
                ("keymeter.tokens.input", "7"),
                ("keymeter.tokens.output", "3"),
                ("keymeter.cost_usd", "0.000013"),
                ("keymeter.client_aborted", "false"),
            ],
        );
        assert_eq!(server.get("keymeter.request.id"), response.header("x-request-id"));
        assert_eq!(client.get("gen_ai.response.time_to_first_chunk"), None, "it is no stream");
        assert_has(
            &client,
            &[
                ("gen_ai.operation.name", "chat"),
                ("gen_ai.provider.name", "openai"),
                ("gen_ai.request.max_tokens", "50"),
                ("gen_ai.usage.input_tokens", "7"),
                ("gen_ai.usage.output_tokens", "3"),
                ("http.response.status_code", "200"),
                ("server.address", "127.0.0.1"),
                ("server.port", &upstream.address.port().to_string()),
            ],
        );
        let line = gateway.next_line();
        assert_eq!(line["trace_id"], server.trace.as_str());
        gateway.metric_becomes(r#"keymeter_trace_spans_total{outcome="exported"}"#, 2.0).await;
        for secret in [SECRET, PROMPT, "word0", "in-query"] {
            assert!(!collector.taken().calls.concat().contains(secret), "{secret} is in a trace");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_when_its_first_piece_came() {
    let collector = Collector::start().await;
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 4, &usage(9, 4))).await;
    let gateway = traced(&collector, &upstream, "");
    let response = gateway.chat(&chat("qwen3", PROMPT, false)).await;
    assert!(response.text().contains("word3"));
    let (server, client) = collector.request().await;
    assert_has(&client, &[("gen_ai.request.stream", "true"), ("gen_ai.usage.input_tokens", "9")]);
    assert_has(&server, &[("keymeter.tokens.output", "4")]);
    let first: f64 = client.get("gen_ai.response.time_to_first_chunk").unwrap().parse().unwrap();
    assert!(first > 0.0 && first <= client.took().as_secs_f64(), "{first}");
    assert_eq!(server.get("gen_ai.usage.input_tokens"), None, "whoever adds them up counts each request once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_a_span_and_no_exchange() {
    let (collector, upstream) = (Collector::start().await, completing().await);
    let gateway = traced_with(&collector, &upstream, "", ", limits: {requests_per_minute: 1}");
    assert_eq!(gateway.chat(&ask()).await.status, 200);
    assert_eq!(gateway.chat(&ask()).await.status, 429);
    let mut client = gateway.connect().await;
    assert_eq!(client.chat("sk-nobody-has-this-one", &ask()).await.status, 401);
    assert_eq!(get(&mut client, "/v1/models", SECRET).await.status, 200);
    assert_eq!(get(&mut client, "/v1/secret-path", SECRET).await.status, 404);
    let spans = collector.spans(6).await;
    let of = |status: &str| {
        let mut found =
            spans.iter().filter(|span| span.kind == "SERVER" && span.get("http.response.status_code") == Some(status));
        found.next().unwrap_or_else(|| panic!("{status} is not in {spans:#?}"))
    };
    assert_eq!(of("429").name, "chat llama-3");
    assert_has(of("429"), &[("keymeter.rejection", "rate_limit_exceeded"), ("keymeter.key.id", "key_test")]);
    assert_has(of("401"), &[("keymeter.rejection", "invalid_api_key"), ("gen_ai.operation.name", "chat")]);
    assert_eq!((of("401").name.as_str(), of("401").get("keymeter.key.id")), ("chat", None));
    assert_eq!((of("404").name.as_str(), of("404").get("url.path")), ("GET", Some("/v1/secret-path")));
    assert!(spans.iter().any(|span| span.name == "GET /v1/models"), "{spans:#?}");
    assert!(spans.iter().all(|span| !span.is_error));
    let traces: std::collections::BTreeSet<_> = spans.iter().map(|span| &span.trace).collect();
    assert_eq!(traces.len(), 5, "each request has a trace of its own");
    assert!(!collector.taken().calls.concat().contains("sk-nobody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_makes_up_is_short() {
    let (collector, upstream) = (Collector::start().await, completing().await);
    let gateway = traced(&collector, &upstream, "");
    let mut body = ask();
    body["model"] = "m".repeat(256).into();
    gateway.chat(&body).await;
    let long = format!("/{}", "p".repeat(4000));
    assert_eq!(get(&mut gateway.connect().await, &long, SECRET).await.status, 404);
    let spans = collector.spans(3).await;
    let longest = spans.iter().flat_map(|span| span.attributes.values().chain([&span.name])).map(String::len).max();
    assert_eq!(longest, Some("chat ".len() + 128));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_no_error() {
    for mode in MODES {
        let collector = Collector::start().await;
        let upstream = ScriptedUpstream::start(|request| {
            let mut script = Script::stream_of(request, 2, &usage(9, 2));
            script.steps.truncate(2);
            script
        });
        let upstream = upstream.await;
        let gateway = traced(&collector, &upstream, &format!("{mode}\ndrain_limit: 0s"));
        let mut client = gateway.connect().await;
        client.chat_stream(SECRET, &chat("m", PROMPT, false)).await;
        client.next_chunk().await;
        client.abort();
        let (server, client) = collector.request().await;
        assert_has(&server, &[("keymeter.client_aborted", "true"), ("keymeter.usage.source", "estimated")]);
        assert_eq!((server.is_error, client.is_error), (false, false), "{mode}");
        assert_eq!(client.parent, server.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_tried_again_is_one_span() {
    let collector = Collector::start().await;
    let upstream = ScriptedUpstream::start(|request| {
        if request.asks_for_usage() {
            Script::error(400, "invalid_request_error", "stream_options is not supported")
        } else {
            Script::stream_of(request, 2, &usage(9, 2))
        }
    });
    let upstream = upstream.await;
    let gateway = traced(&collector, &upstream, "");
    assert_eq!(gateway.chat(&chat("m", PROMPT, false)).await.status, 200);
    let (_, client) = collector.request().await;
    upstream.wait_for_request(2).await;
    let [first, second] = &upstream.received()[..] else { panic!("it was tried twice") };
    assert_eq!(parent_of(first), parent_of(second));
    assert_eq!(parent_of(first).1, client.id);
    assert_has(&client, &[("http.request.resend_count", "1"), ("http.response.status_code", "200")]);
    assert!(!client.is_error);
    let replica = upstream.address;
    let attempts =
        format!("keymeter_attempts_total{{outcome=\"success\",replica=\"{replica}\",upstream=\"scripted\"}}");
    assert_eq!(gateway.metric(&attempts).await, 1.0, "and one attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_an_error_of_both_spans() {
    for (way, status, of_exchange, of_request) in [
        ("breaks off", "200", "upstream_error", "upstream_error"),
        ("says so within a success", "200", "upstream_error", "upstream_error"),
        ("refuses us", "502", "401", "upstream_error"),
        ("fails", "500", "500", "500"),
    ] {
        let script = move |request: &Received| match way {
            "breaks off" => Script::truncated(request, 2),
            "says so within a success" => Script::sse(&[r#"{"error":{"message":"out of memory"}}"#]),
            "refuses us" => Script::error(401, "invalid_request_error", "who are you?"),
            _ => Script::error(500, "server_error", "out of memory"),
        };
        let (collector, upstream) = (Collector::start().await, ScriptedUpstream::start(script).await);
        let gateway = traced(&collector, &upstream, "");
        let mut connection = gateway.connect().await;
        connection.chat_stream(SECRET, &chat("m", PROMPT, false)).await;
        connection.rest().await;
        let (server, client) = collector.request().await;
        assert_has(&client, &[("error.type", of_exchange)]);
        assert_has(&server, &[("error.type", of_request)]);
        assert_eq!((client.is_error, server.is_error), (true, true), "{status}");
        assert_has(&server, &[("http.response.status_code", status)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_away_has_a_span_too() {
    let (collector, upstream) = (Collector::start().await, completing().await);
    let gateway = traced(&collector, &upstream, "");
    let port = upstream.address.port().to_string();
    drop(upstream);
    // The one connection that is open still is told of it by a close, or refused.
    assert_eq!(gateway.chat(&ask()).await.status, 502);
    let (server, client) = collector.request().await;
    assert_has(&client, &[("error.type", "upstream_error"), ("server.port", &port)]);
    assert_eq!(client.get("http.response.status_code"), None);
    assert_has(&server, &[("keymeter.rejection", "upstream_error"), ("http.response.status_code", "502")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_is_carried_on_and_its_decision_followed() {
    for (sample, flags, state, spans) in [("0%", "01", Some("b=2,a=1"), 2), ("100%", "00", None, 0)] {
        let (collector, upstream) = (Collector::start().await, completing().await);
        let sections = collector.section(&format!(", sample: {sample}"));
        let gateway = Gateway::start(&config(&upstream, &sections), &one_key(""));
        let parent = format!("00-{TRACE}-{CALLER}-{flags}");
        let mut headers = vec![("traceparent", parent.as_str())];
        headers.extend(state.map(|state| ("tracestate", state)));
        assert_eq!(ask_with(&gateway, &headers).await, 200);
        let (trace, span, sampled) = parent_of(&upstream.wait_for_request(1).await);
        assert_eq!((trace.as_str(), sampled.as_str()), (TRACE, flags));
        assert_ne!(span, CALLER);
        assert_eq!(upstream.received()[0].header("tracestate"), state);
        assert_eq!(gateway.next_line()["trace_id"], TRACE);
        if spans > 0 {
            let (server, client) = collector.request().await;
            assert_eq!((server.parent.as_str(), server.trace.as_str(), &client.id), (CALLER, TRACE, &span));
            assert_eq!(server.state, "b=2,a=1");
        } else {
            gateway.server.traces().unwrap().flush(PATIENCE);
            assert_eq!(collector.taken().spans.len(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_is_not_one_is_begun_anew() {
    let upper = TRACE.to_uppercase();
    let valid = format!("00-{TRACE}-{CALLER}-01");
    for lines in [
        vec![format!("00-{upper}-{CALLER}-01")],
        vec![format!("00-{TRACE}-{CALLER}")],
        vec!["nonsense".to_owned()],
        vec![valid.clone(), valid],
    ] {
        let (collector, upstream) = (Collector::start().await, completing().await);
        let gateway = traced(&collector, &upstream, "");
        let mut headers: Vec<_> = lines.iter().map(|line| ("traceparent", line.as_str())).collect();
        headers.push(("tracestate", "a=1"));
        assert_eq!(ask_with(&gateway, &headers).await, 200);
        let (server, client) = collector.request().await;
        assert_eq!(server.parent, "");
        assert_ne!(server.trace, TRACE);
        let received = upstream.wait_for_request(1).await;
        assert_eq!(received.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("traceparent")).count(), 1);
        assert_eq!(parent_of(&received), (server.trace, client.id, "01".to_owned()));
        assert_eq!(received.header("tracestate"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_it_is_the_same() {
    let (collector, upstream) = (Collector::start().await, completing().await);
    let gateway = traced(&collector, &upstream, "");
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let body = ask().to_string();
    let connection = H2c::connect(gateway.address()).await;
    let length = body.len().to_string();
    let headers = [("traceparent", parent.as_str()), ("content-length", &length), ("content-type", "application/json")];
    let mut exchange = connection.open(SECRET, &headers).await;
    exchange.data(body.as_bytes(), true);
    assert_eq!(exchange.whole().await.0.status, 200);
    let (server, client) = collector.request().await;
    assert_eq!((server.parent.as_str(), &client.parent), (CALLER, &server.id));
    assert_eq!(parent_of(&upstream.wait_for_request(1).await).1, client.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_traces_a_clients_headers_pass_unchanged() {
    let upstream = completing().await;
    let gateway = Gateway::before(&upstream);
    let valid = format!("00-{TRACE}-{CALLER}-01");
    for (number, lines) in
        [vec![valid.as_str()], vec!["Nonsense-00"], vec![valid.as_str(), "another"], vec![]].into_iter().enumerate()
    {
        let mut headers: Vec<_> = lines.iter().map(|line| ("traceparent", *line)).collect();
        headers.push(("tracestate", "UPPER , not a pair"));
        assert_eq!(ask_with(&gateway, &headers).await, 200);
        let received = upstream.wait_for_request(number + 1).await;
        let of = |name: &str| -> Vec<_> {
            received.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!((of("traceparent"), of("tracestate")), (lines, vec!["UPPER , not a pair"]));
        assert_eq!(gateway.next_line().get("trace_id"), None);
    }
    let metrics = gateway.admin("GET", "/metrics").await.text();
    assert!(!metrics.contains("keymeter_trace_spans"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_are_counted_from_0() {
    let (collector, upstream) = (Collector::start().await, completing().await);
    let gateway = traced(&collector, &upstream, "");
    let metrics = gateway.admin("GET", "/metrics").await.text();
    for outcome in ["exported", "dropped", "failed"] {
        assert!(metrics.contains(&format!("keymeter_trace_spans_total{{outcome=\"{outcome}\"}} 0\n")), "{metrics}");
    }
    // A client that connects and says nothing is no request.
    Client::connect(gateway.address()).await.close().await;
    gateway.server.traces().unwrap().flush(PATIENCE);
    assert_eq!(collector.taken().spans.len(), 0);
}
