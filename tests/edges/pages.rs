//! Pages of other origins, in browsers: preflights, and what lets a page read an answer.

use serde_json::json;

use crate::{
    admission::answering,
    bodies::with_server,
    support::{
        client::{Arrival, Response},
        gateway::{Gateway, SECRET, config, one_key},
        h2c::H2c,
        script::{Script, completion, usage},
        upstream::ScriptedUpstream,
    },
};

const PAGE: &str = "https://app.example";
const CORS: &str = "cors: {origins: ['https://app.example', 'http://localhost:3000'], max_age: 5m}";
const CHAT: &str = "/v1/chat/completions";

async fn preflight(gateway: &Gateway, path: &str, origin: &str) -> Response {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-stainless-os"),
    ];
    gateway.connect().await.request("OPTIONS", path, &headers, b"").await
}

/// The names that a page may read, apart.
fn exposed(answer: &Response) -> Vec<String> {
    let names = answer.header("access-control-expose-headers").unwrap_or_default();
    names.split(',').map(|name| name.trim().to_owned()).collect()
}

/// Asserts that the page may read the answer, and what it tells of limits and retries.
fn is_readable(what: &str, answer: &Response) {
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE), "{what}");
    assert_eq!(answer.header("vary").map(str::to_ascii_lowercase).as_deref(), Some("origin"), "{what}");
    assert_eq!(answer.header("access-control-allow-credentials"), None, "{what}");
    for name in ["x-request-id", "retry-after", "retry-after-ms", "x-ratelimit-remaining-tokens"] {
        assert!(exposed(answer).iter().any(|exposed| exposed == name), "{what}: {name}");
    }
    for (name, _) in answer.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().contains("ratelimit")) {
        assert!(exposed(answer).contains(&name.to_ascii_lowercase()), "{what}: {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_answered_without_a_key_and_is_no_bad_key() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, CORS);
    for path in [CHAT, "/v1/models", "/v1/messages", "/v1beta/models/m:generateContent", "/none"] {
        let answer = preflight(&gateway, path, PAGE).await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}");
        is_readable(path, &answer);
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,content-type,x-stainless-os"));
        assert_eq!(answer.header("access-control-max-age"), Some("300"));
        assert!(answer.header("x-request-id").is_some() && answer.header("content-length").is_none());
    }
    // Far more than the bad keys that an address may send.
    let mut client = gateway.connect().await;
    for _ in 0..500 {
        let headers = [("origin", PAGE), ("access-control-request-method", "POST")];
        assert_eq!(client.request("OPTIONS", CHAT, &headers, b"").await.status, 204);
    }
    assert_eq!(client.chat("sk-nobody", &json!({"model": "m"})).await.status, 401, "the address is not throttled");
    let unauthorized = gateway.metric(r#"keymeter_unauthorized_total{reason="missing"}"#).await;
    assert!(unauthorized < 0.5, "{unauthorized}");
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_may_read_every_answer() {
    let upstream = ScriptedUpstream::start(|request| match request.json()["model"].as_str() {
        Some("bad") => Script::error(429, "requests", "slowly").with_header("retry-after", "7"),
        _ => Script::json(200, &completion("m", 3))
            .with_header("Access-Control-Allow-Origin", "*")
            .with_header("access-control-allow-credentials", "true"),
    });
    let upstream = upstream.await;
    let configuration = config(&upstream, "").replace("server: {", &format!("server: {{{CORS}, "));
    let limits = ", limits: {requests_per_minute: 3, tokens_per_minute: 100000, concurrent_requests: 5}";
    let gateway = Gateway::start(&configuration, &one_key(limits));
    let mut client = gateway.connect().await;
    for (what, secret, path, body, status) in [
        ("a success", SECRET, CHAT, r#"{"model":"m"}"#, 200),
        ("an upstream's own refusal", SECRET, CHAT, r#"{"model":"bad"}"#, 429),
        ("no JSON", SECRET, CHAT, "{", 400),
        ("a bad key", "sk-nobody", CHAT, r#"{"model":"m"}"#, 401),
        ("an unknown path", SECRET, "/v1/none", "{}", 404),
        ("the wrong method", SECRET, "/v1/models", "{}", 405),
        ("the last request", SECRET, CHAT, r#"{"model":"m"}"#, 200),
        ("a limit", SECRET, CHAT, r#"{"model":"m"}"#, 429),
    ] {
        let headers = [("x-api-key", secret), ("origin", PAGE)];
        let answer = client.request("POST", path, &headers, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        is_readable(what, &answer);
        let origins =
            answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("access-control-allow-origin"));
        assert_eq!(origins.count(), 1, "{what}: the upstream's is replaced");
    }
    for path in ["/v1/models", "/v1/usage", "/v1/models/none"] {
        let answer = client.request("GET", path, &[("x-api-key", SECRET), ("origin", PAGE)], b"").await;
        is_readable(path, &answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_may_a_stream_and_over_http2() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 2, &usage(7, 2))).await;
    for extra in ["", "on_client_abort: drain"] {
        let configuration = config(&upstream, extra).replace("server: {", &format!("server: {{{CORS}, "));
        let gateway = Gateway::start(&configuration, &one_key(""));
        let mut client = gateway.connect().await;
        let headers = [("x-api-key", SECRET), ("origin", PAGE)];
        let head = client.open_stream("POST", CHAT, &headers, br#"{"model":"m","stream":true}"#).await;
        assert_eq!((head.status, head.header("access-control-allow-origin")), (200, Some(PAGE)));
        assert_eq!(client.rest().await.1, Arrival::End);
        let http2 = H2c::connect(gateway.address()).await;
        for (secret, status) in [(SECRET, 200), ("sk-nobody", 401)] {
            let mut exchange = http2.open(secret, &[("origin", PAGE)]).await;
            exchange.data(br#"{"model":"m","stream":true}"#, true);
            let (answer, _) = exchange.whole().await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, Some(PAGE)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_pages_are_told_nothing() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, CORS);
    let mut client = gateway.connect().await;
    for origin in ["https://app.example.evil.test", "http://app.example", "https://app.example:8443", "null"] {
        let answer = preflight(&gateway, CHAT, origin).await;
        assert_eq!(answer.status, 204, "{origin}");
        let chat =
            client.request("POST", CHAT, &[("x-api-key", SECRET), ("origin", origin)], br#"{"model":"m"}"#).await;
        assert_eq!(chat.status, 200, "{origin}: a page is held back by its browser");
        for answer in [answer, chat] {
            let told: Vec<_> = answer.headers.iter().filter(|(name, _)| name.starts_with("access-control-")).collect();
            assert!(told.is_empty(), "{origin}: {told:?}");
            assert_eq!(answer.header("vary"), Some("origin"), "caches keep the two apart");
        }
    }
    let plain = client.request("POST", CHAT, &[("x-api-key", SECRET)], br#"{"model":"m"}"#).await;
    assert_eq!((plain.header("vary"), plain.header("access-control-allow-origin")), (Some("origin"), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_may_be_allowed() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "cors: {origins: ['*']}");
    let answer = preflight(&gateway, CHAT, "https://any.test").await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://any.test"));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_preflight_is_asked_for_its_key() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, CORS);
    for headers in [&[("origin", PAGE)][..], &[("access-control-request-method", "POST")], &[]] {
        let answer = gateway.connect().await.request("OPTIONS", CHAT, headers, b"").await;
        assert_eq!(answer.status, 401, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_nothing_is_said_and_what_upstreams_say_passes() {
    let upstream = ScriptedUpstream::start(|_| {
        Script::json(200, &completion("m", 3)).with_header("access-control-allow-origin", "*")
    });
    let upstream = upstream.await;
    let gateway = Gateway::before(&upstream);
    assert_eq!(preflight(&gateway, CHAT, PAGE).await.status, 401);
    let mut client = gateway.connect().await;
    let headers = [("x-api-key", SECRET), ("origin", PAGE)];
    let answer = client.request("POST", CHAT, &headers, br#"{"model":"m"}"#).await;
    assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), (Some("*"), None));
    let refused = client.request("POST", CHAT, &headers, b"{").await;
    assert_eq!((refused.header("access-control-allow-origin"), refused.header("vary")), (None, None));
}
