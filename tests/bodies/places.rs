//! A request has its place among its key's from its head on, before its body comes, and gives it back on every way out.

use std::time::Duration;

use keymeter::server::Drained;

use super::{Interim, chat_of, head, request};
use crate::{
    admission::{answering, answering_behind},
    support::{
        client::Response,
        gateway::{Gateway, config, one_key},
        script::Gate,
        upstream::ScriptedUpstream,
    },
};

const OTHER: &str = "sk-of-another-key";

/// A gateway whose key of the test may make these requests, beside another without limits.
fn limited(upstream: &ScriptedUpstream, server: &str, limits: &str) -> Gateway {
    let configuration = config(upstream, "").replace("server: {", &format!("server: {{{server}"));
    let configuration = configuration.replace("name: scripted,", "name: scripted, models: [m],");
    let other = format!("  - {{id: key_other, name: Other key, secret: {OTHER}}}\n");
    Gateway::start(&configuration, &(one_key(&format!(", limits: {{{limits}}}")) + &other))
}

/// A client whose place is taken, and whose body of `size` bytes is yet to come: one byte of it is there.
async fn waiting(gateway: &Gateway, size: usize) -> Interim {
    let mut client = Interim::to(gateway).await;
    client.send(&head(&format!("expect: 100-continue\r\ncontent-length: {size}"))).await;
    assert_eq!(client.next().await, "HTTP/1.1 100 Continue");
    client.send(&chat_of(size)[..1]).await;
    client
}

async fn ask(gateway: &Gateway) -> Response {
    let mut client = gateway.connect().await;
    client.send_raw(&request(&chat_of(100))).await;
    client.response().await
}

/// Waits until a request finds a place.
async fn is_free(gateway: &Gateway, after: &str) {
    let start = std::time::Instant::now();
    loop {
        match ask(gateway).await.status {
            200 => return,
            429 => assert!(start.elapsed() < Duration::from_secs(10), "{after}: the place does not come back"),
            other => panic!("{after}: status {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keys_unfinished_bodies_are_at_most_as_many_as_it_may_run() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "", "requests_per_minute: 5, tokens_per_minute: 5000, concurrent_requests: 2");
    let mut first = waiting(&gateway, 10_000).await;
    let second = waiting(&gateway, 10_000).await;
    for _ in 0..30 {
        let refusal = ask(&gateway).await;
        let error = &refusal.json()["error"];
        assert_eq!((refusal.status, &error["type"]), (429, &"requests".into()), "{}", refusal.text());
        assert_eq!(&error["code"], "rate_limit_exceeded");
        assert!(error["message"].as_str().unwrap().contains("2 of the 2 requests running"), "{error}");
        assert_eq!((refusal.header("retry-after"), refusal.header("retry-after-ms")), (Some("1"), Some("1000")));
        assert_eq!(refusal.header("x-ratelimit-remaining-requests"), Some("5"), "no body that waits took a request");
        assert_eq!(refusal.header("x-ratelimit-remaining-tokens"), Some("5000"));
    }
    let reason = r#"keymeter_rejections_total{key_id="key_test",reason="concurrent_requests",scope="key"}"#;
    gateway.metric_becomes(reason, 30.0).await;
    gateway
        .metric_becomes(r#"keymeter_key_limit_used_ratio{key_id="key_test",limit="concurrent_requests"}"#, 1.0)
        .await;
    assert!(gateway.metric(r#"keymeter_requests_in_flight{key_id="key_test"}"#).await < 1.0, "none is admitted");
    assert_eq!(gateway.connect().await.chat(OTHER, &crate::admission::chat()).await.status, 200);

    first.send(&chat_of(10_000)[1..]).await;
    assert!(first.next().await.starts_with("HTTP/1.1 200"));
    drop(second);
    is_free(&gateway, "both are over").await;
    let last = ask(&gateway).await;
    assert_eq!((last.status, last.header("x-ratelimit-remaining-requests")), (200, Some("2")), "three were made");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_finds_no_place_is_told_at_once_and_need_not_send() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "", "concurrent_requests: 1");
    let held = waiting(&gateway, 1000).await;
    let mut large = gateway.connect().await;
    large.send_raw(&head("content-length: 30000000")).await;
    assert_eq!(large.response().await.status, 429);
    assert!(large.closed_by_server().await.is_empty(), "30 MB are not waited for");
    let mut polite = Interim::to(&gateway).await;
    polite.send(&head("expect: 100-continue\r\ncontent-length: 1000")).await;
    assert!(polite.next().await.starts_with("HTTP/1.1 429"), "it is not invited");
    let mut small = gateway.connect().await;
    for _ in 0..3 {
        small.send_raw(&request(&chat_of(1000))).await;
        assert_eq!(small.response().await.status, 429, "the connection of a small body lives");
    }
    drop(held);
    is_free(&gateway, "the client left").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_gives_the_place_back() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "body_timeout: 200ms, max_request_body: 2KiB, ", "concurrent_requests: 1");
    let text = |lines: &str| String::from_utf8(head(lines)).unwrap();
    let cut = [head("content-length: 1000"), b"{".to_vec()].concat();
    for (bytes, status) in [
        (request(b"{"), 400),
        (request(br#"{"model":"x"}"#), 404),
        (head("content-length: 2049"), 413),
        (text("content-encoding: compress\r\ncontent-length: 1").into_bytes(), 415),
        (head("transfer-encoding: chunked\r\ncontent-length: 5"), 400),
        ([head("transfer-encoding: chunked"), b"5\r\n{\"mod\r\nx\r\n".to_vec()].concat(), 400),
        (cut, 408),
    ] {
        let mut client = gateway.connect().await;
        client.send_raw(&bytes).await;
        let answer = client.response().await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(ask(&gateway).await.status, 200, "it is free before {status} is told");
    }
    assert_eq!(gateway.server.drain(Duration::from_secs(10)).await, Drained::Empty);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_mid_body_gives_its_place_back() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "", "concurrent_requests: 1");
    for polite in [true, false] {
        let client = waiting(&gateway, 1000).await;
        assert_eq!(ask(&gateway).await.status, 429);
        if !polite {
            client.stream.get_ref().set_zero_linger().unwrap();
        }
        drop(client);
        is_free(&gateway, "the client left").await;
    }
    gateway.holds_of_bodies(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_or_lowered_while_its_body_comes_is_held_to_that() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "", "concurrent_requests: 2");
    let (mut first, second) = (waiting(&gateway, 1000).await, waiting(&gateway, 1000).await);
    gateway.write_keys(&one_key(", limits: {concurrent_requests: 1}"));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    first.send(&chat_of(1000)[1..]).await;
    assert!(first.next().await.starts_with("HTTP/1.1 429"), "another still waits, and one may run");
    drop(second);
    is_free(&gateway, "both are over").await;

    let mut third = waiting(&gateway, 1000).await;
    gateway.write_keys(&one_key(", enabled: false"));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    third.send(&chat_of(1000)[1..]).await;
    assert!(third.next().await.starts_with("HTTP/1.1 401"));
    gateway.write_keys(&one_key(", limits: {concurrent_requests: 1}"));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    assert_eq!(ask(&gateway).await.status, 200, "what was refused holds no place");
}

/// The secret is another key's by the time the body is there: it is that one whose place is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_becomes_another_keys_meanwhile_takes_that_keys_place() {
    let gate = Gate::new();
    let upstream = answering_behind(&gate).await;
    let gateway = limited(&upstream, "", "concurrent_requests: 1");
    let mut first = waiting(&gateway, 1000).await;
    let renamed = one_key(", limits: {concurrent_requests: 1}").replace("key_test", "key_new");
    let old = format!("  - {{id: key_test, name: Old key, secret: {OTHER}, limits: {{concurrent_requests: 1}}}}\n");
    gateway.write_keys(&(renamed + &old));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    first.send(&chat_of(1000)[1..]).await;
    upstream.wait_for_request(1).await;
    assert_eq!(ask(&gateway).await.status, 429, "the new key's only place is taken");
    gate.open();
    let of_old = gateway.connect().await.chat(OTHER, &crate::admission::chat()).await;
    assert_eq!(of_old.status, 200, "and the old one's is free");
    assert!(first.next().await.starts_with("HTTP/1.1 200"));
    is_free(&gateway, "it is over").await;
}
