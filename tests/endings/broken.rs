//! What a client is told when its response breaks off after it began.

use serde_json::Value;

use super::{PROMPT, complete, half_an_answer, impatient, patient, sent, silent, two_words};
use crate::support::{
    client::Arrival,
    gateway::{Gateway, SECRET},
    scene::{DONE, chat, event, says, stream, sum_becomes},
    script::{Gate, Script, Step},
    upstream::ScriptedUpstream,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_between_events_ends_with_an_error_event() {
    let end = |line_end: &str| stream([format!("data: {{\"choices\":[]}}{line_end}{line_end}")]);
    for (name, script, code) in [
        ("reset", two_words().then(Step::Reset), "upstream_error"),
        ("truncated", two_words().then(Step::Close), "upstream_error"),
        ("too slow", two_words(), "upstream_timeout"),
        ("before any event", silent().then(Step::Head).then(Step::Close), "upstream_error"),
        ("after CRLF", end("\r\n").then(Step::Close), "upstream_error"),
        ("after a comment", stream([says("one "), ": ping\n\n".to_owned()]).then(Step::Close), "upstream_error"),
    ] {
        let (sent, (body, _)) = (sent(&script), told(script).await);
        let body = String::from_utf8(body).unwrap();
        let event = body.strip_prefix(&sent).unwrap_or_else(|| panic!("{name}: {body:?} does not begin {sent:?}"));
        let data = event.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n"));
        let data = data.unwrap_or_else(|| panic!("{name}: {event:?} is no event"));
        assert!(!data.contains('\n'), "{name}: one event and no more: {data:?}");
        let error: Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            (&error["error"]["type"], &error["error"]["code"]),
            (&"server_error".into(), &code.into()),
            "{name}"
        );
        assert_eq!(error["error"].as_object().unwrap().len(), 4, "{name}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_within_an_event_is_cut() {
    let half = r#"data: {"choices":[{"index":0,"delta":{"content":"one"#;
    for (name, script) in [
        ("reset", stream([says("one "), half.to_owned()]).then(Step::Reset)),
        ("truncated", stream([half]).then(Step::Close)),
        ("too slow", stream([half])),
        ("after a line", stream([says("one ").trim_end().to_owned() + "\n"]).then(Step::Close)),
        ("JSON", half_an_answer().then(Step::Close)),
    ] {
        let (sent, (body, end)) = (sent(&script), told(script).await);
        assert_eq!(String::from_utf8(body).unwrap(), sent, "{name}: nothing is added");
        assert!(matches!(end, Arrival::Cut(_)), "{name}: {end:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_after_its_end_has_ended() {
    for (name, script) in [("reset", complete().then(Step::Reset)), ("truncated", complete().then(Step::Close))] {
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = patient(&upstream.url());
        let mut client = gateway.connect().await;
        client.chat_stream(SECRET, &chat("m", PROMPT, true)).await;
        let (body, _) = client.rest().await;
        assert!(String::from_utf8(body).unwrap().ends_with(DONE), "{name}: nothing comes after [DONE]");
        let line = gateway.next_line();
        assert_eq!((&line["usage_source"], &line["output_tokens"]), (&"upstream".into(), &5.into()), "{name}");
        assert_eq!(line["client_aborted"], false, "{name}");
    }
}

/// A stream of two events in the form of `/v1/responses` whose length is stated as so many bytes more than they are.
fn stated_as_longer(bytes: usize, ends: bool) -> Script {
    let delta = event(r#"{"type":"response.output_text.delta","delta":"one two"}"#);
    let second = if ends {
        r#"{"type":"response.completed","response":{"usage":{"input_tokens":7,"output_tokens":5}}}"#
    } else {
        "{}"
    };
    let body = delta + &event(second);
    let length = (body.len() + bytes).to_string();
    stream([body]).with_header("content-length", &length)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_event_that_a_stated_length_would_cut_is_not_written() {
    for (missing, is_told) in [(1, false), (40, false), (1000, true)] {
        let script = stated_as_longer(missing, false);
        let sent = sent(&script);
        let body = responses(script.then(Step::Close)).await.0;
        let event = body.strip_prefix(&sent).unwrap_or_else(|| panic!("{body:?} does not begin {sent:?}"));
        assert_eq!(event.is_empty(), !is_told, "{missing} bytes are missing: {event:?}");
        assert!(!is_told || event.ends_with("\n\n") && event.contains("\"error\""), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_behind_the_end_of_a_response_is_no_failure() {
    let script = stated_as_longer(40, true);
    for last in [Step::Close, Step::Reset] {
        let (body, gateway) = responses(script.clone().then(last)).await;
        assert_eq!(body, sent(&script));
        let line = gateway.next_line();
        assert_eq!(
            (&line["status"], &line["reason"], &line["usage_source"]),
            (&200.into(), &Value::Null, &"upstream".into())
        );
        assert_eq!((&line["output_tokens"], &line["client_aborted"]), (&5.into(), &false.into()));
        sum_becomes(&gateway, "keymeter_upstream_responses_total", 1.0).await;
        let metrics = gateway.admin("GET", "/metrics").await.text();
        let is_success = |line: &str| {
            line.starts_with("keymeter_upstream_responses_total{")
                && line.contains("outcome=\"success\"")
                && line.ends_with(" 1")
        };
        assert!(metrics.lines().any(is_success), "{metrics}");
    }
}

/// What a client gets of such a stream before its connection closes.
async fn responses(script: Script) -> (String, Gateway) {
    let gate = Gate::new();
    let (script, held) = (script.gated(1, &gate), gate.clone());
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let gateway = patient(&upstream.url());
    let mut client = gateway.connect().await;
    let body = br#"{"model":"m","stream":true,"input":"Hi!"}"#;
    let authorization = format!("Bearer {SECRET}");
    client.send("POST", "/v1/responses", &[("authorization", &authorization)], body).await;
    assert_eq!(client.head().await.status, 200);
    held.open();
    (String::from_utf8(client.closed_by_server().await.to_vec()).unwrap(), gateway)
}

/// What a client that asked for its usage gets of a response, and how that ends.
async fn told(script: Script) -> (Vec<u8>, Arrival) {
    let is_slow = !matches!(script.steps.last(), Some(Step::Close | Step::Reset));
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let gateway = if is_slow { impatient(&upstream.url()) } else { patient(&upstream.url()) };
    let mut client = gateway.connect().await;
    assert_eq!(client.chat_stream(SECRET, &chat("m", PROMPT, true)).await.status, 200);
    client.rest().await
}
