//! Requests that wait while every replica is full: fairly, by priority, and not for ever.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::support::{gateway::one_key, scene::sum_becomes, script::Gate};

const KEYS: &str = "keys:
- {id: key_a, name: Key A, secret: sk-a}
- {id: key_b, name: Key B, secret: sk-b}
- {id: key_urgent, name: Urgent key, secret: sk-urgent, priority: -5}
";

/// A server each of whose answers waits for the gate.
async fn slow(gate: &Gate) -> ScriptedUpstream {
    let gate = gate.clone();
    let waits = move |request: &Received| answer(request, 4).gated(0, &gate);
    ScriptedUpstream::start(move |request| if is_chat(request) { waits(request) } else { answer(request, 1) }).await
}

fn one_at_a_time(upstream: &ScriptedUpstream, fields: &str) -> String {
    format!("{{name: pool, url: \"{}\", max_in_flight: 1{fields}}}", upstream.url())
}

/// A chat of a key under way, which tells its key when it is answered.
fn begin(gateway: &Gateway, secret: &'static str) -> tokio::task::JoinHandle<(u16, &'static str)> {
    let address = gateway.address();
    tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        (ask_by(&mut client, secret).await.status, secret)
    })
}

async fn waits(gateway: &Gateway, count: usize) {
    gateway.metric_becomes(r#"keymeter_queue_length{upstream="pool"}"#, count as f64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_of_another_key_waits_for_those_that_run_only_and_urgent_ones_go_first() {
    let gate = Gate::new();
    let upstream = slow(&gate).await;
    let gateway = gateway(&one_at_a_time(&upstream, ", queue: {timeout: 60s}"), KEYS);
    let mut all = vec![begin(&gateway, "sk-a")];
    upstream.wait_for_request(1).await;
    for count in 1..=20 {
        all.push(begin(&gateway, "sk-a"));
        waits(&gateway, count).await;
    }
    all.push(begin(&gateway, "sk-b"));
    waits(&gateway, 21).await;
    all.push(begin(&gateway, "sk-urgent"));
    waits(&gateway, 22).await;
    assert_eq!(upstream.received().len(), 1, "the replica has one at a time");
    for seen in 2..=23 {
        gate.pass_one();
        upstream.wait_for_request(seen).await;
    }
    gate.open();
    for request in all {
        assert_eq!(request.await.unwrap().0, 200);
    }
    let lines: Vec<_> = (0..23).map(|_| gateway.next_line()).collect();
    let order: Vec<_> = lines.iter().map(|line| line["key_id"].as_str().unwrap().to_owned()).collect();
    let place = |key: &str| order.iter().position(|other| other == key).unwrap();
    assert!(place("key_urgent") <= 1 && place("key_b") <= 3, "{order:?}");
    assert!(lines.iter().any(|line| line["queued_ms"].as_f64() > Some(0.0)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_and_a_long_wait_are_refused_with_a_time() {
    let gate = Gate::new();
    let upstream = slow(&gate).await;
    let gateway = gateway(&one_at_a_time(&upstream, ", queue: {length: 1, timeout: 1s}"), KEYS);
    let running = begin(&gateway, "sk-a");
    upstream.wait_for_request(1).await;
    let waiting = begin(&gateway, "sk-a");
    waits(&gateway, 1).await;
    let mut client = gateway.connect().await;
    let refused = ask_by(&mut client, "sk-b").await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("overloaded")));
    assert!(refused.header("retry-after").and_then(|wait| wait.parse::<u64>().ok()) >= Some(1));
    assert_eq!(waiting.await.unwrap().0, 503, "it waited for its second");
    gate.open();
    assert_eq!(running.await.unwrap().0, 200);
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_or_is_revoked_waits_no_longer() {
    for extra in ["", "on_revoke: finish", "on_client_abort: drain"] {
        leaves_the_queue(extra).await;
    }
}

async fn leaves_the_queue(extra: &str) {
    let gate = Gate::new();
    let upstream = slow(&gate).await;
    let text = configuration(&one_at_a_time(&upstream, ", queue: {timeout: 60s}"), "", extra);
    let gateway = Gateway::start(&text, KEYS);
    let running = begin(&gateway, "sk-a");
    upstream.wait_for_request(1).await;
    let mut leaving = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.connect().await;
        let authorization = "Bearer sk-a";
        let headers = [("authorization", authorization), ("content-type", "application/json")];
        client.send("POST", "/v1/chat/completions", &headers, hello().to_string().as_bytes()).await;
        leaving.push(client);
    }
    let revoked = begin(&gateway, "sk-b");
    waits(&gateway, 21).await;
    leaving.into_iter().for_each(Client::abort);
    waits(&gateway, 1).await;
    gateway.write_keys(&KEYS.replace("secret: sk-b", "secret: sk-b, enabled: false"));
    assert_eq!(revoked.await.unwrap().0, 401);
    waits(&gateway, 0).await;
    gate.open();
    assert_eq!(running.await.unwrap().0, 200);
    assert_eq!(upstream.received().len(), 1, "none of those went upstream");
    sum_becomes(&gateway, "keymeter_replica_in_flight", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_loaded_takes_the_next_by_tokens_and_not_by_number() {
    let gate = Gate::new();
    let (one, other) = (slow(&gate).await, slow(&gate).await);
    let gateway = gateway(&pool(&urls([&one, &other]), ""), &one_key(""));
    let long =
        json!({"model": "m", "max_tokens": 50_000, "messages": [{"role": "user", "content": "word ".repeat(9000)}]});
    let address = gateway.address();
    let first = tokio::spawn(async move { Client::connect(address).await.chat(SECRET, &long).await.status });
    while chats(&one).len() + chats(&other).len() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let short: Vec<_> = (0..4)
        .map(|_| tokio::spawn(async move { Client::connect(address).await.chat(SECRET, &hello()).await.status }))
        .collect();
    while chats(&one).len() + chats(&other).len() < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut counts = [chats(&one).len(), chats(&other).len()];
    counts.sort_unstable();
    assert_eq!(counts, [1, 4], "four short ones are less than one long one");
    gate.open();
    for request in short.into_iter().chain([first]) {
        assert_eq!(request.await.unwrap(), 200);
    }
}
