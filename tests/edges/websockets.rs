//! A client that asks for a websocket is told at once that there is none, so that it goes on without.

use serde_json::json;

use crate::{
    admission::answering,
    support::{
        client::Response,
        gateway::{Gateway, SECRET},
    },
};

/// A client's opening of a websocket on `path`.
async fn open(gateway: &Gateway, method: &str, path: &str, secret: &str, upgrade: &str) -> Response {
    let authorization = format!("Bearer {secret}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("connection", "Upgrade"),
        ("upgrade", upgrade),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    gateway.connect().await.request(method, path, &headers, b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_on_a_known_path_is_answered_with_426() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    for (path, code) in [
        ("/v1/responses", "/error/code"),
        ("/v1/chat/completions", "/error/code"),
        ("/v1/models", "/error/code"),
        ("/v1/messages", ""),
        ("/api/chat", ""),
        ("/v1beta/models/m:generateContent", ""),
    ] {
        for upgrade in ["websocket", "WebSocket", "h2c, websocket"] {
            let answer = open(&gateway, "GET", path, SECRET, upgrade).await;
            assert_eq!(answer.status, 426, "{path}: {}", answer.text());
            assert_eq!(answer.header("upgrade"), Some("HTTP/1.1"));
            assert!(
                answer.header("x-request-id").is_some() && answer.text().contains("websocket"),
                "{}",
                answer.text()
            );
            if !code.is_empty() {
                assert_eq!(answer.json().pointer(code), Some(&json!("upgrade_required")));
            }
            let line = gateway.next_line();
            assert_eq!((&line["status"], &line["reason"]), (&json!(426), &json!("upgrade_required")), "{line}");
        }
    }
    let anthropic = open(&gateway, "GET", "/v1/messages", SECRET, "websocket").await.json();
    assert_eq!(anthropic["error"]["type"], "invalid_request_error");
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_to_who_may_ask_and_only_there() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    for (method, path, secret, upgrade, status) in [
        ("GET", "/v1/responses", "sk-nobody", "websocket", 401),
        ("GET", "/v1/realtime", SECRET, "websocket", 404),
        ("GET", "/v1/responses", SECRET, "h2c", 405),
        ("GET", "/v1/models", SECRET, "h2c", 200),
        ("DELETE", "/v1/responses", SECRET, "websocket", 405),
    ] {
        let answer = open(&gateway, method, path, secret, upgrade).await;
        assert_eq!(answer.status, status, "{method} {path} {upgrade}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_connection_goes_on_without() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let headers = [("x-api-key", SECRET), ("connection", "Upgrade"), ("upgrade", "websocket")];
    assert_eq!(client.request("GET", "/v1/responses", &headers, b"").await.status, 426);
    assert_eq!(client.chat(SECRET, &json!({"model": "m"})).await.status, 200);
}
