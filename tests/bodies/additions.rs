//! What the gateway puts into a body: nothing but what it must, and not where the upstream refuses it.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use serde_json::json;

use super::{chat_of, request};
use crate::support::{
    client::{Client, Response, events},
    gateway::{Gateway, SECRET, config, one_key},
    script::{Script, usage},
    upstream::{Received, ScriptedUpstream},
};

const OPTIONS: &str = r#""stream_options":{"include_usage":true}"#;

/// A gateway that injects as `inject` says.
fn injecting(upstream: &ScriptedUpstream, inject: &str) -> Gateway {
    let named = format!("name: scripted, inject_usage: {inject},");
    Gateway::start(&config(upstream, "").replace("name: scripted,", &named), &one_key(""))
}

/// An upstream that answers with `status` whatever names `stream_options`, and streams otherwise.
async fn refusing(status: u16) -> ScriptedUpstream {
    ScriptedUpstream::start(move |request| {
        if request.json().get("stream_options").is_some() {
            return Script::error(status, "invalid_request_error", "unknown field: stream_options");
        }
        Script::stream_of(request, 3, &usage(7, 3))
    })
    .await
}

async fn stream(client: &mut Client, body: &[u8]) -> Response {
    client.send_raw(&request(body)).await;
    client.response().await
}

/// `chat_of` that asks for a stream; `size` is at least 100.
pub fn stream_of(size: usize) -> Vec<u8> {
    let mut body = chat_of(size - 14);
    body.splice(1..1, *br#""stream":true,"#);
    assert_eq!(body.len(), size);
    body
}

fn is_whole(answer: &Response) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let events = events(&answer.body);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(!answer.text().contains("usage"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_options_are_spliced_in_and_the_rest_stays_byte_for_byte() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 3, &usage(7, 3))).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for (before, after) in [
        (
            r#"{ "model" : "m",  "stream":true , "x":[1.50e1, "é\u00e9\/"] }"#,
            format!(r#"{{{OPTIONS}, "model" : "m",  "stream":true , "x":[1.50e1, "é\u00e9\/"] }}"#),
        ),
        (r#"{"model":"m","stream":true,"stream_options":null}"#, format!(r#"{{"model":"m","stream":true,{OPTIONS}}}"#)),
        (
            r#"{"model":"m","stream":true,"stream_options":{ }}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true }}"#.to_owned(),
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"a":1}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"a":1}}"#.to_owned(),
        ),
        (
            r#"{"model":"m","stream":true,"stream_options":{"include_usage" : false}}"#,
            r#"{"model":"m","stream":true,"stream_options":{"include_usage" : true}}"#.to_owned(),
        ),
    ] {
        is_whole(&stream(&mut client, before.as_bytes()).await);
        let seen = upstream.received().pop().unwrap();
        let received = String::from_utf8(seen.body.clone()).unwrap();
        assert!(seen.asks_for_usage(), "{received}");
        assert_eq!(received, after);
        assert_eq!(seen.header("content-length"), Some(received.len().to_string().as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_spliced_too() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 3, &usage(7, 3))).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for size in [65_500, 65_535, 65_536, 65_537, 131_072, 10 << 20] {
        let body = stream_of(size);
        is_whole(&stream(&mut client, &body).await);
        let seen = String::from_utf8(upstream.received().pop().unwrap().body).unwrap();
        assert_eq!(seen.matches(OPTIONS).count(), 1);
        assert!(seen.replacen(&format!("{OPTIONS},"), "", 1).as_bytes() == body, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_no_stream_or_asks_for_usage_itself_stays_as_it_is() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 3, &usage(7, 3))).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for body in [
        json!({"model": "m"}),
        json!({"model": "m", "stream": false}),
        json!({"model": "m", "stream": null}),
        json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}}),
    ] {
        let body = body.to_string().into_bytes();
        let answer = stream(&mut client, &body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(upstream.received().pop().unwrap().body, body);
        let asked = String::from_utf8(body).unwrap().contains("include_usage");
        assert_eq!(answer.text().contains(r#""usage":{"#), asked, "who asked gets the event");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_stream_options_twice_is_asked_again_without_and_then_no_longer() {
    for status in [400, 422] {
        for size in [200, 65_536, 65_537, 1 << 20] {
            let upstream = refusing(status).await;
            let gateway = injecting(&upstream, "auto");
            let mut client = gateway.connect().await;
            let body = stream_of(size);
            for round in 0..2 {
                is_whole(&stream(&mut client, &body).await);
                let received = upstream.received_from(2 * round);
                let asked: Vec<_> = received.iter().map(Received::asks_for_usage).collect();
                assert_eq!(asked, [true, false], "{status}, {size}");
                assert!(received[1].body == body, "{status}, {size}: the second is as the client wrote it");
            }
            is_whole(&stream(&mut client, &body).await);
            assert_eq!(upstream.received().len(), 5, "{status}, {size}: it is no longer asked");
            assert!(upstream.received()[4].body == body);
            gateway.metric_becomes(r#"keymeter_usage_total{source="estimated"}"#, 3.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_was_about_something_else_switches_nothing_off() {
    // A picture that could not be fetched the first time.
    let upstream = ScriptedUpstream::start({
        let tries = AtomicU16::new(0);
        move |request| match request.json()["messages"][0]["content"].as_str() {
            Some("picture") if tries.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
                Script::error(400, "invalid_request_error", "the picture cannot be fetched")
            }
            _ => Script::stream_of(request, 3, &usage(7, 3)),
        }
    })
    .await;
    let gateway = injecting(&upstream, "auto");
    for _ in 0..3 {
        let says =
            |content: &str| json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": content}]});
        assert_eq!(gateway.chat(&says("picture")).await.status, 200);
        let seen = upstream.received().len();
        assert_eq!(gateway.chat(&says("hello")).await.status, 200);
        assert!(upstream.received_from(seen)[0].asks_for_usage(), "others' streams are asked as before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_request_takes_one_request_of_the_key() {
    let upstream = refusing(400).await;
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(", limits: {requests_per_minute: 5}"));
    let answer = gateway.chat(&json!({"model": "m", "stream": true})).await;
    assert_eq!((answer.status, answer.header("x-ratelimit-remaining-requests")), (200, Some("4")));
    assert_eq!(upstream.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_without_the_addition_too_teaches_nothing() {
    let status = Arc::new(AtomicU16::new(400));
    let now = status.clone();
    let upstream = ScriptedUpstream::start(move |request| match now.load(Ordering::SeqCst) {
        200 => Script::stream_of(request, 3, &usage(7, 3)),
        status => Script::error(status, "invalid_request_error", "messages are missing"),
    })
    .await;
    let gateway = injecting(&upstream, "auto");
    let mut client = gateway.connect().await;
    let answer = stream(&mut client, &stream_of(200)).await;
    assert_eq!((answer.status, &answer.json()["error"]["message"]), (400, &"messages are missing".into()));
    assert_eq!(upstream.received().len(), 2);
    for other in [404, 413, 500] {
        status.store(other, Ordering::SeqCst);
        let asked = upstream.received().len();
        assert_eq!(stream(&mut client, &stream_of(200)).await.status, other);
        assert_eq!(upstream.received().len(), asked + 1, "{other} is not about what was added");
    }
    status.store(200, Ordering::SeqCst);
    is_whole(&stream(&mut client, &stream_of(200)).await);
    assert!(upstream.received().pop().unwrap().asks_for_usage(), "it is asked as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn always_is_not_asked_again_and_never_adds_nothing() {
    for (inject, statuses, asked) in
        [("always", [400, 400], vec![true, true]), ("never", [200, 200], vec![false, false])]
    {
        let upstream = refusing(400).await;
        let gateway = injecting(&upstream, inject);
        for status in statuses {
            let answer = gateway.chat(&json!({"model": "m", "stream": true})).await;
            assert_eq!(answer.status, status, "{inject}");
        }
        let seen: Vec<_> = upstream.received().iter().map(Received::asks_for_usage).collect();
        assert_eq!(seen, asked, "{inject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_itself_asked_for_is_not_taken_back() {
    let upstream = refusing(422).await;
    let gateway = injecting(&upstream, "auto");
    let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}});
    let answer = gateway.connect().await.chat(SECRET, &body).await;
    assert_eq!((answer.status, upstream.received().len()), (422, 1));
}
