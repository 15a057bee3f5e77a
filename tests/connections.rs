//! A refusal costs a client its request and not its connection, and requests on one connection are answered in order.

use serde_json::json;

use crate::{
    admission::{answering, chat},
    bodies::{chat_of, head, refused_early, request},
    support::{
        client::{Arrival, events},
        gateway::{Gateway, SECRET, config, one_key},
        script::{Gate, Script, completion, usage},
        upstream::ScriptedUpstream,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_requests_connection_takes_the_next_one() {
    let upstream = answering(5).await;
    let configuration = config(&upstream, "").replace("name: scripted,", "name: scripted, models: [m],");
    let configuration = configuration.replace("server: {", "server: {max_request_body: 60KiB, ");
    let gateway = Gateway::start(&configuration, &one_key(""));
    let mut client = gateway.connect().await;
    let changed = |from: &str, to: &str| String::from_utf8(request(&chat_of(50_000))).unwrap().replacen(from, to, 1);
    let cases = [
        (changed(SECRET, "sk-nobody"), 401),
        (changed("authorization", "x-nothing"), 401),
        (changed("/v1/chat/completions", "/v1/nothing"), 404),
        (changed("/v1/chat/completions", "/v1/models/unknown"), 405),
        (changed("POST", "GET"), 405),
        (changed("\"model\":\"m\"", "\"model\":\"x\""), 404),
        (String::from_utf8(request(&chat_of((60 << 10) + 1))).unwrap(), 413),
        (changed("content-length", "content-encoding: gzip\r\ncontent-length"), 415),
        (changed("{", "["), 400),
    ];
    for (bytes, status) in &cases {
        client.send_raw(bytes.as_bytes()).await;
        let answer = client.response().await;
        assert_eq!(answer.status, *status, "{}", answer.text());
        assert_ne!(answer.header("connection"), Some("close"));
        let good = client.chat(SECRET, &chat()).await;
        assert_eq!(good.status, 200, "after {status}");
    }
    assert_eq!(upstream.received().len(), cases.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_leaves_the_connection_as_it_is() {
    let upstream = answering(5).await;
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(", limits: {requests_per_minute: 1}"));
    let mut client = gateway.connect().await;
    for status in [200, 429, 429, 429] {
        client.send_raw(&request(&chat_of(200_000))).await;
        assert_eq!(client.response().await.status, status);
    }
    let models = client.request("GET", "/v1/models/none", &[("x-api-key", SECRET)], b"").await;
    assert_eq!(models.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_may_come_after_its_head() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let body = chat_of(1000);
    let bad = String::from_utf8(head("content-length: 1000")).unwrap().replace(SECRET, "sk-nobody");
    client.send_raw(bad.as_bytes()).await;
    client.send_raw(&body[..400]).await;
    assert_eq!(client.response().await.status, 401, "it does not wait for the rest");
    client.send_raw(&body[400..]).await;
    client.send_raw(&request(&body)).await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_rest_of_a_refused_body_is_not_waited_for() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    for (from, to, status) in [(SECRET, "sk-nobody", 401), ("/v1/chat/completions", "/v1/nothing", 404)] {
        let head = String::from_utf8(head("content-length: 65537")).unwrap().replace(from, to);
        let mut client = gateway.connect().await;
        client.send_raw(head.as_bytes()).await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        assert!(client.closed_by_server().await.is_empty());

        let whole = [head.replace("65537", "4194304").into_bytes(), vec![b' '; 4 << 20]].concat();
        let answer = refused_early(&gateway, whole).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}: who sends on regardless is told as well");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipelined_request_waits_for_the_running_stream() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |request| match request.json()["stream"].as_bool() {
        Some(true) => Script::stream_of(request, 5, &usage(7, 5)).gated(1, &held),
        _ => Script::json(200, &completion("m", 2)),
    })
    .await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let stream = json!({"model": "m", "stream": true}).to_string().into_bytes();
    client.send_raw(&request(&stream)).await;
    assert_eq!(client.head().await.status, 200);
    assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
    // In two pieces, so that the second comes while the first is already waiting.
    let second = request(&chat_of(70_000));
    client.send_raw(&second[..50]).await;
    client.send_raw(&second[50..]).await;
    gate.open();
    let (rest, end) = client.rest().await;
    assert_eq!((end, events(&rest).last().map(String::as_str)), (Arrival::End, Some("[DONE]")));
    let answer = client.response().await;
    assert_eq!((answer.status, &answer.json()["usage"]["completion_tokens"]), (200, &2.into()));
    assert!(upstream.received()[1].body == chat_of(70_000));
    assert_eq!(upstream.closed().iter().filter(|closed| closed.mid_response).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = ScriptedUpstream::start(|request| {
        let model = request.json()["model"].as_str().unwrap().to_owned();
        Script::json(200, &completion(&model, 1))
    })
    .await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let one = |number: usize| {
        let body = json!({"model": format!("m{number}"), "padding": "x".repeat(number * 1000)}).to_string();
        let bytes = request(body.as_bytes());
        // Every fourth is refused.
        if number % 4 == 3 {
            String::from_utf8(bytes).unwrap().replace(SECRET, "sk-nobody").into_bytes()
        } else {
            bytes
        }
    };
    let all: Vec<u8> = (0..20).flat_map(one).collect();
    client.send_raw(&all).await;
    for number in 0..20 {
        let answer = client.response().await;
        if number % 4 == 3 {
            assert_eq!(answer.status, 401, "{number}");
        } else {
            assert_eq!((answer.status, &answer.json()["model"]), (200, &format!("m{number}").into()), "{number}");
        }
    }
    assert_eq!(upstream.received().len(), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_it_gets_its_connection_closed() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    for (secret, status) in [(SECRET, 200), ("sk-nobody", 401)] {
        let mut client = gateway.connect().await;
        let headers = [("connection", "close"), ("x-api-key", secret)];
        let answer = client.request("POST", "/v1/chat/completions", &headers, &chat_of(100)).await;
        assert_eq!(answer.status, status);
        assert!(client.closed_by_server().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_mid_stream_has_the_upstream_stopped_and_everything_settled() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream =
        ScriptedUpstream::start(move |request| Script::stream_of(request, 50, &usage(7, 50)).gated(10, &held)).await;
    let gateway = Gateway::before(&upstream);
    for (number, polite) in [false, true].into_iter().enumerate() {
        let mut client = gateway.connect().await;
        assert_eq!(client.chat_stream(SECRET, &json!({"model": "m", "stream": true})).await.status, 200);
        assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
        if polite {
            client.close().await;
        } else {
            client.abort();
        }
        let closed = upstream.wait_for_closed(number + 1).await;
        assert!(closed.by_peer && closed.mid_response);
        let line = gateway.next_line();
        assert_eq!((&line["client_aborted"], &line["usage_source"]), (&true.into(), &"estimated".into()), "{line}");
        gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
    }
    gateway.metric_becomes("keymeter_client_aborts_total", 2.0).await;
}
