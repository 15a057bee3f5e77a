//! Errors within a response of status 200, in each API's form, streamed or not: the upstream failed, in the metrics, the log
//! and the trace, though its head said otherwise.

use keymeter_core::usage::count_tokens;
use serde_json::Value;

use crate::support::{
    gateway::{Gateway, SECRET, one_key},
    scene::{DONE, configuration, says, sum},
    script::{Script, Step},
    upstream::ScriptedUpstream,
};

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const GEMINI: &str = "/v1beta/models/m:streamGenerateContent";

#[rustfmt::skip]
const ERRORS: &[(&str, &str, &str)] = &[
    (CHAT, SSE, "data: {\"error\":{\"message\":\"no\"}}\n\n"),
    (CHAT, SSE, "event: error\ndata: {\"message\":\"no\"}\n\n"),
    (CHAT, SSE, "error: {\"code\":500,\"message\":\"no\"}\n\n"),
    (CHAT, SSE, r#"{"error":{"message":"no"}}"#),
    (CHAT, JSON, r#"{"error":{"message":"no"}}"#),
    (CHAT, JSON, "data: {\"error\":{\"message\":\"no\"}}\n\ndata: [DONE]\n\n"),
    (CHAT, JSON, r#"{"object":"error","message":"no","code":400}"#),
    ("/v1/completions", SSE, "data: {\"error\":{\"message\":\"no\"}}\n\n"),
    ("/v1/completions", JSON, r#"{"error":{"message":"no"}}"#),
    ("/v1/responses", SSE, "event: error\ndata: {\"type\":\"error\",\"message\":\"no\"}\n\n"),
    ("/v1/responses", SSE, "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\"}}}\n\n"),
    ("/v1/responses", JSON, r#"{"object":"response","status":"failed","error":{"code":"server_error"},"usage":null}"#),
    ("/v1/embeddings", JSON, r#"{"error":{"message":"no"}}"#),
    ("/v1/moderations", JSON, r#"{"error":{"message":"no"}}"#),
    ("/v1/rerank", JSON, r#"{"error":"no"}"#),
    ("/v1/images/generations", JSON, r#"{"error":{"message":"no"}}"#),
    ("/v1/audio/speech", SSE, "event: error\ndata: {\"type\":\"error\"}\n\n"),
    (MESSAGES, SSE, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n"),
    (MESSAGES, JSON, r#"{"type":"error","error":{"type":"overloaded_error"}}"#),
    ("/api/chat", NDJSON, "{\"error\":\"no\"}\n"),
    ("/api/chat", JSON, r#"{"error":"no"}"#),
    ("/api/generate", NDJSON, "{\"error\":\"no\"}\n"),
    ("/api/embed", JSON, r#"{"error":"no"}"#),
    (GEMINI, SSE, "data: {\"error\":{\"code\":503}}\r\n\r\n"),
    (GEMINI, JSON, "[{\"error\":{\"code\":503}}]"),
    ("/v1beta/models/m:generateContent", JSON, r#"{"error":{"code":503}}"#),
    ("/v1beta/models/m:embedContent", JSON, r#"{"error":{"code":503}}"#),
];

const BODY: &str = r#"{"max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"prompt":"Hi","input":"Hi","query":"q",
    "documents":["d"],"contents":[{"parts":[{"text":"Hi"}]}],"content":{"parts":[{"text":"Hi"}]}"#;

fn series(outcome: &str) -> String {
    format!(r#"keymeter_upstream_responses_total{{model="other",outcome="{outcome}",upstream="all"}}"#)
}

/// What the log has of an answer, and how often the metrics have each outcome.
async fn answered(path: &str, content_type: &str, answer: &str) -> (Value, f64, f64) {
    let headers = vec![("content-type".to_owned(), content_type.to_owned())];
    let script = Script { status: 200, headers, steps: vec![Step::Send(answer.to_owned().into()), Step::Finish] };
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let all = format!("{{name: all, url: \"{}\", apis: [openai, anthropic, ollama, gemini]}}", upstream.url());
    let gateway = Gateway::start(&configuration(&all, "", ""), &one_key(""));
    let mut client = gateway.connect().await;
    let model = if path.starts_with("/v1beta") { "}" } else { r#","model":"m"}"# };
    let body = format!("{BODY}{model}");
    let response =
        client.request("POST", path, &[("x-api-key", SECRET), ("content-type", JSON)], body.as_bytes()).await;
    assert_eq!((response.status, response.text().as_str()), (200, answer), "{path}");
    let line = gateway.next_line();
    gateway
        .metric_becomes(&format!(r#"keymeter_usage_total{{source="{}"}}"#, line["usage_source"].as_str().unwrap()), 1.0)
        .await;
    assert_eq!(sum(&gateway, "keymeter_errors_total{").await, 0.0, "{path}: the gateway itself has answered no error");
    (line, gateway.metric(&series("upstream_error")).await, gateway.metric(&series("success")).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_within_a_success_is_the_upstreams_failure_in_metrics_and_log() {
    for (path, content_type, answer) in ERRORS {
        let (line, failures, successes) = answered(path, content_type, answer).await;
        let name = format!("{path} as {content_type}: {answer}: {line}");
        assert_eq!((failures, successes), (1.0, 0.0), "{name}");
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"upstream_error".into()), "{name}");
        assert_eq!(line["outcome"], "upstream_error", "{name}");
        assert_eq!((&line["usage_source"], &line["cost_usd"]), (&"none".into(), &"0".into()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_some_words_is_a_failure_that_costs_them() {
    let error = "data: {\"error\":{\"message\":\"no\"}}\n\n";
    let output = count_tokens("one two ");
    for (path, content_type, answer) in [
        (CHAT, SSE, format!("{}{error}{DONE}", says("one two "))),
        (CHAT, SSE, format!("{}{error}", says("one two "))),
        (
            "/api/chat",
            NDJSON,
            "{\"message\":{\"content\":\"one two \"},\"done\":false}\n{\"error\":\"no\"}\n".to_owned(),
        ),
        (
            GEMINI,
            JSON,
            r#"[{"candidates":[{"content":{"parts":[{"text":"one two "}]}}]},{"error":{"code":500}}]"#.to_owned(),
        ),
    ] {
        let (line, failures, successes) = answered(path, content_type, &answer).await;
        assert_eq!((failures, successes), (1.0, 0.0), "{path}: {line}");
        assert_eq!((&line["outcome"], &line["reason"]), (&"upstream_error".into(), &"upstream_error".into()), "{line}");
        assert_eq!(
            (&line["usage_source"], &line["output_tokens"]),
            (&"estimated".into(), &output.into()),
            "{path}: {line}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_has_no_outcome_in_the_log() {
    let (line, failures, successes) = answered(CHAT, SSE, &format!("{}{DONE}", says("event: error "))).await;
    assert_eq!((failures, successes, line.get("outcome"), &line["reason"]), (0.0, 1.0, None, &Value::Null), "{line}");
}
