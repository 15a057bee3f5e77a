//! What a client is told when it gets no answer: each row of the table of errors, in OpenAI's form.

mod secrets;
mod upstream;

use keymeter_core::key::Secret;
use serde_json::json;

use crate::support::{
    client::Response,
    gateway::{Gateway, SECRET, config, one_key},
    scene::{chat, configuration, get, post, sum_becomes},
    script::{Script, completion},
    upstream::ScriptedUpstream,
};

/// What a refusal is to be.
struct Told {
    status: u16,
    kind: &'static str,
    code: &'static str,
    param: Option<&'static str>,
    /// What its message has to name.
    names: &'static [&'static str],
}

const INVALID: &str = "invalid_request_error";
const CHAT: &str = "/v1/chat/completions";

fn told(status: u16, kind: &'static str, code: &'static str, names: &'static [&'static str]) -> Told {
    Told { status, kind, code, param: None, names }
}

/// Asserts that a response is a refusal of ours, in OpenAI's form and with nothing missing.
fn assert_told(name: &str, response: &Response, expected: &Told) {
    let Told { status, kind, code, param, names } = expected;
    assert_eq!(response.status, *status, "{name}: {}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"), "{name}");
    assert!(response.header("x-request-id").is_some_and(|id| id.starts_with("req_")), "{name}: {:?}", response.headers);
    let body = response.json();
    assert_eq!(body.as_object().unwrap().len(), 1, "{name}: {body}");
    let error = body["error"].as_object().unwrap();
    let mut fields: Vec<_> = error.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["code", "message", "param", "type"], "{name}: {body}");
    assert_eq!((&error["type"], &error["code"]), (&(*kind).into(), &(*code).into()), "{name}: {body}");
    assert_eq!(error["param"], json!(param), "{name}: {body}");
    let message = error["message"].as_str().unwrap();
    for part in *names {
        assert!(message.contains(part), "{name}: {part:?} is not in {message:?}");
    }
}

/// `keys.yaml` with these keys: an id, a secret, and further fields.
fn keys(entries: &[(&str, &str, &str)]) -> String {
    let entry = |(id, secret, extra): &(&str, &str, &str)| {
        format!("  - {{id: {id}, name: Some key, hash: \"{}\"{extra}}}\n", Secret::new(*secret).hash())
    };
    format!("keys:\n{}", entries.iter().map(entry).collect::<String>())
}

async fn answering() -> ScriptedUpstream {
    ScriptedUpstream::start(|_| Script::json(200, &completion("m", 5))).await
}

async fn hanging() -> ScriptedUpstream {
    ScriptedUpstream::start(|_| Script::hang()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_that_does_not_work_gets_one_and_the_same_body() {
    let upstream = answering().await;
    let with = |entries: &[_]| keys(&[&[("key_test", SECRET, "")], entries].concat());
    let before = with(&[("key_deleted", "sk-deleted", ""), ("key_replaced", "sk-replaced", "")]);
    let gateway = Gateway::start(&config(&upstream, ""), &before);
    let mut client = gateway.connect().await;
    for secret in ["sk-deleted", "sk-replaced"] {
        assert_eq!(post(&mut client, CHAT, secret, &chat("m", "", false)).await.status, 200, "{secret}");
    }
    gateway.write_keys(&with(&[("key_replaced", "sk-replacement", "")]));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);

    let authorization = format!("Bearer {SECRET}");
    let mut bodies = Vec::new();
    let mut ids = Vec::new();
    for (name, headers) in [
        ("missing", vec![]),
        ("another scheme", vec![("authorization", "Basic dTpw")]),
        ("empty", vec![("authorization", "Bearer ")]),
        ("two different ones", vec![("authorization", authorization.as_str()), ("x-api-key", "sk-other")]),
        ("unknown", vec![("authorization", "Bearer sk-unknown")]),
        ("unknown, elsewhere", vec![("x-api-key", "sk-unknown")]),
        ("deleted", vec![("api-key", "sk-deleted")]),
        ("replaced", vec![("authorization", "Bearer sk-replaced")]),
    ] {
        // An address with more than twenty bad keys in a second is told something else.
        for path in [CHAT, "/v1/models"] {
            let method = if path == CHAT { "POST" } else { "GET" };
            let body = if path == CHAT { "{}" } else { "" };
            let response = client.request(method, path, &headers, body.as_bytes()).await;
            assert_told(name, &response, &told(401, INVALID, "invalid_api_key", &["Bearer"]));
            ids.push(response.header("x-request-id").unwrap().to_owned());
            let rest = response
                .headers
                .iter()
                .filter(|(header, _)| !["x-request-id", "date"].contains(&header.to_lowercase().as_str()));
            bodies.push((response.body.clone(), rest.cloned().collect::<Vec<_>>()));
        }
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), bodies.len(), "every response has an id of its own");
    assert_eq!(upstream.received().len(), 2, "none of them reached the upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_be_used_now_is_told_why() {
    let upstream = answering().await;
    let gateway = Gateway::start(
        &config(&upstream, ""),
        &keys(&[
            ("key_off", "sk-off", ", enabled: false"),
            ("key_old", "sk-old", ", expires_at: 2020-01-01T00:00:00Z"),
            ("key_few", "sk-few", r#", models: ["small-*"]"#),
        ]),
    );
    let mut client = gateway.connect().await;
    let not_found = |names| Told { param: Some("model"), ..told(404, INVALID, "model_not_found", names) };
    for (secret, reason, expected) in [
        ("sk-off", "disabled", told(401, INVALID, "api_key_disabled", &["key_off"])),
        ("sk-old", "expired", told(401, INVALID, "api_key_expired", &["key_old"])),
        ("sk-few", "model", not_found(&["key_few", "`large`"])),
    ] {
        let response = post(&mut client, CHAT, secret, &chat("large", "", false)).await;
        assert_told(secret, &response, &expected);
        let id = expected.names[0];
        gateway
            .metric_becomes(
                &format!(r#"keymeter_rejections_total{{key_id="{id}",reason="{reason}",scope="key"}}"#),
                1.0,
            )
            .await;
        let line = gateway.next_line();
        assert_eq!((&line["key_id"], &line["reason"]), (&id.into(), &expected.code.into()), "{line}");
    }
    assert_eq!(post(&mut client, CHAT, "sk-few", &chat("small-1", "", false)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_no_upstream_serves_is_not_found() {
    let upstream = answering().await;
    let entry = format!(r#"{{name: scripted, url: "{}", models: ["llama-*"]}}"#, upstream.url());
    let gateway = Gateway::start(&configuration(&entry, "", ""), &one_key(""));
    let expected = Told { param: Some("model"), ..told(404, INVALID, "model_not_found", &["key_test"]) };
    for body in [json!({"model": "gpt", "messages": []}), json!({"messages": []})] {
        let response = post(&mut gateway.connect().await, CHAT, SECRET, &body).await;
        assert_told(&body.to_string(), &response, &expected);
    }
    let expected = Told { param: Some("model"), ..told(400, INVALID, "invalid_json", &["1 to 256 bytes"]) };
    let unnamed = json!({"model": "", "messages": []});
    assert_told("no name", &post(&mut gateway.connect().await, CHAT, SECRET, &unnamed).await, &expected);
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_a_limit_is_told_which_and_for_how_long() {
    let upstream = ScriptedUpstream::start(|request| match request.json()["model"].as_str() {
        Some("hang") => Script::hang(),
        _ => Script::json(200, &completion("m", 5)),
    });
    let upstream = upstream.await;
    let gateway = Gateway::start(
        &config(&upstream, ""),
        &keys(&[
            ("key_requests", "sk-requests", ", limits: {requests_per_minute: 1}"),
            ("key_tokens", "sk-tokens", ", limits: {tokens_per_minute: 100}"),
            ("key_running", "sk-running", ", limits: {concurrent_requests: 1}"),
        ]),
    );
    for (secret, first, reason, kind, names) in [
        ("sk-requests", "m", "requests_per_minute", "requests", &["key_requests", "1 of the 1 requests", "60 s"][..]),
        ("sk-tokens", "m", "tokens_per_minute", "tokens", &["key_tokens", "of the 100 tokens", "60 s"]),
        ("sk-running", "hang", "concurrent_requests", "requests", &["key_running", "1 of the 1 requests"]),
    ] {
        let mut earlier = gateway.connect().await;
        let authorization = format!("Bearer {secret}");
        let body = chat(first, "", false).to_string();
        earlier.send("POST", CHAT, &[("authorization", &authorization)], body.as_bytes()).await;
        if first == "m" {
            assert_eq!(earlier.response().await.status, 200, "{secret}");
        } else {
            upstream.wait_for_request(3).await;
        }
        let refused = post(&mut gateway.connect().await, CHAT, secret, &chat("m", "", false)).await;
        assert_told(secret, &refused, &told(429, kind, "rate_limit_exceeded", names));
        let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        let millis: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
        assert_eq!(seconds, millis.div_ceil(1000), "{secret}: whole seconds, rounded up");
        if first == "hang" {
            assert_eq!(seconds, 1, "{secret}");
        } else {
            assert!((50..=60).contains(&seconds), "{secret}: {seconds}");
        }
        assert_eq!(refused.header("x-should-retry"), None, "{secret}: waiting helps");
        let id = names[0];
        gateway
            .metric_becomes(
                &format!(r#"keymeter_rejections_total{{key_id="{id}",reason="{reason}",scope="key"}}"#),
                1.0,
            )
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_never_fits_is_refused_for_good() {
    let upstream = answering().await;
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(", limits: {tokens_per_minute: 100}"));
    let refused = gateway.chat(&chat("m", &"word ".repeat(4000), false)).await;
    assert_told("too large", &refused, &told(429, "tokens", "request_too_large", &["key_test", "100", "60 s"]));
    assert_eq!((refused.header("retry-after"), refused.header("x-should-retry")), (None, Some("false")));
    assert_eq!(gateway.chat(&chat("m", "word", false)).await.status, 200, "it took nothing from the limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_guesses_keys_is_throttled_and_a_known_key_is_not() {
    let upstream = answering().await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    assert_eq!(client.chat(SECRET, &chat("m", "", false)).await.status, 200);
    let mut refused = None;
    // Twenty in a second are too many; on a slow day it takes another second's.
    for guess in 0..2000 {
        let response = get(&mut client, "/v1/models", &format!("sk-guess-{guess}")).await;
        if response.status != 401 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("guesses are slowed down");
    assert_told("throttled", &refused, &told(429, "requests", "rate_limit_exceeded", &[]));
    assert_eq!(refused.header("retry-after"), Some("1"));
    sum_becomes(&gateway, r#"keymeter_unauthorized_total{reason="throttled"}"#, 1.0).await;
    assert_eq!(client.chat(SECRET, &chat("m", "", false)).await.status, 200, "a cached key is never throttled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cannot_be_read_in_one_way_only_is_refused() {
    let upstream = answering().await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let key = [("x-api-key", SECRET)];
    let twice = Some("model");
    for (name, body, param) in [
        ("empty", &b""[..], None),
        ("an array", b"[]", None),
        ("a string", b"\"model\"", None),
        ("cut off", br#"{"model":"m""#, None),
        ("two objects", br#"{"model":"m"}{"model":"n"}"#, None),
        ("not UTF-8", b"{\"model\":\"m\",\"user\":\"\xff\"}", None),
        ("model twice", br#"{"model":"m","model":"n"}"#, twice),
        ("model twice, escaped", br#"{"model":"m","mod\u0065l":"n"}"#, twice),
        ("a model that is no string", br#"{"model":["m"]}"#, twice),
    ] {
        let response = client.request("POST", CHAT, &key, body).await;
        assert_told(name, &response, &Told { param, ..told(400, INVALID, "invalid_json", &[]) });
    }
    let both = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-api-key: ";
    let framing = b"\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    client.send_raw(&[both, SECRET.as_bytes(), framing].concat()).await;
    assert_told("two lengths", &client.response().await, &told(400, INVALID, "invalid_request", &["content-length"]));
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_slow_too_long_or_packed_is_refused() {
    let upstream = answering().await;
    let entry = format!(r#"{{name: scripted, url: "{}"}}"#, upstream.url());
    let server = ", body_timeout: 1s, max_request_body: 128KiB";
    let gateway = Gateway::start(&configuration(&entry, server, ""), &one_key(""));
    let request = |headers: &str, body: &str| {
        format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nx-api-key: {SECRET}\r\n{headers}\r\n\r\n{body}")
    };
    let chunked = |bytes: usize| format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", padded(bytes));
    for (name, sent, expected) in [
        ("too slow", request("content-length: 100", "{"), told(408, INVALID, "request_timeout", &["1 s"])),
        (
            "too long",
            request("content-length: 131073", &padded(131_073)),
            told(413, INVALID, "request_too_large", &["131072 bytes"]),
        ),
        (
            "too long, as announced",
            request("content-length: 99999999999\r\nexpect: 100-continue", ""),
            told(413, INVALID, "request_too_large", &["131072 bytes"]),
        ),
        (
            "too long, in chunks",
            request("transfer-encoding: chunked", &chunked(131_073)),
            told(413, INVALID, "request_too_large", &["131072 bytes"]),
        ),
        (
            "packed",
            request("content-length: 3\r\ncontent-encoding: compress", "\x1f\x1d\x08"),
            told(415, INVALID, "unsupported_encoding", &["content-encoding", "gzip, deflate, br and zstd"]),
        ),
        (
            "packed otherwise than it says",
            request("content-length: 3\r\ncontent-encoding: gzip", "\x1f\x0b\x08"),
            told(400, INVALID, "invalid_json", &["content-encoding"]),
        ),
    ] {
        let mut client = gateway.connect().await;
        client.send_raw(sent.as_bytes()).await;
        assert_told(name, &client.response().await, &expected);
        let line = gateway.next_line();
        assert_eq!((&line["status"], &line["reason"]), (&expected.status.into(), &expected.code.into()), "{line}");
    }
    for sent in [
        request("content-length: 131072", &padded(131_072)),
        request("transfer-encoding: chunked", &chunked(131_072)),
        request("content-length: 14\r\ncontent-encoding: identity", r#"{"model": "m"}"#),
    ] {
        let mut client = gateway.connect().await;
        client.send_raw(sent.as_bytes()).await;
        assert_eq!(client.response().await.status, 200, "one byte less is taken");
    }
}

/// A request of so many bytes.
fn padded(bytes: usize) -> String {
    let (start, end) = (r#"{"model":"m","user":""#, r#""}"#);
    format!("{start}{}{end}", "a".repeat(bytes - start.len() - end.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_or_method_that_is_not_served_is_told() {
    let upstream = answering().await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let key = [("x-api-key", SECRET)];
    for (method, path) in [("GET", "/"), ("POST", "/v1/files"), ("GET", "/v1/models/"), ("DELETE", "/v1/chat")] {
        let response = client.request(method, path, &key, b"").await;
        assert_told(path, &response, &told(404, INVALID, "unknown_url", &[]));
        let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(method) && message.contains(path), "{message}");
    }
    for (method, path, allowed) in [
        ("GET", CHAT, "POST"),
        ("PUT", "/v1/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/m", "GET"),
    ] {
        let response = client.request(method, path, &key, b"").await;
        assert_told(path, &response, &told(405, INVALID, "method_not_allowed", &[]));
        assert!(response.json()["error"]["message"].as_str().unwrap().contains(allowed), "{method} {path}");
        assert_eq!(response.header("allow"), Some(allowed), "{method} {path}");
    }
    // A HEAD's refusal has no body: what follows is the next response.
    let response = client.request("HEAD", "/v1/models", &key, b"").await;
    assert!(response.status == 405 && response.header("x-request-id").is_some(), "{response:?}");
    assert_eq!(client.chat(SECRET, &chat("m", "", false)).await.status, 200, "the connection lives on");
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_bodies_than_there_is_room_for_are_refused_unread() {
    let upstream = hanging().await;
    let entry = format!(r#"{{name: scripted, url: "{}"}}"#, upstream.url());
    let server = ", max_request_body: 1KiB, max_buffered_bodies: 1KiB";
    let gateway = Gateway::start(&configuration(&entry, server, ""), &one_key(""));
    let mut first = gateway.connect().await;
    first.send("POST", CHAT, &[("x-api-key", SECRET)], padded(600).as_bytes()).await;
    upstream.wait_for_request(1).await;
    let mut second = gateway.connect().await;
    let refused = second.request("POST", CHAT, &[("x-api-key", SECRET)], padded(600).as_bytes()).await;
    assert_told("overloaded", &refused, &told(503, "server_error", "overloaded", &[]));
    first.abort();
    upstream.wait_for_closed(1).await;
    sum_becomes(&gateway, "keymeter_requests_in_flight{", 0.0).await;
    second.send("POST", CHAT, &[("x-api-key", SECRET)], padded(600).as_bytes()).await;
    upstream.wait_for_request(2).await;
}
