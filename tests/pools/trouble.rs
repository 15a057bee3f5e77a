//! Pools in odd states: others full, gone from the file, down in a row, without an address.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::*;
use crate::support::{gateway::one_key, script::Gate};

const CHECKS: &str =
    ", health: {path: /health, interval: 100ms, timeout: 300ms, down_after: 2, up_after: 1}, balance: round_robin";

const DOWN: &str = "health: {interval: 100ms, down_after: 1}";

/// An address that refuses connections.
fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A server that hangs, checks and all, as long as the gate is closed.
async fn hanging(gate: &Gate) -> ScriptedUpstream {
    let gate = gate.clone();
    ScriptedUpstream::start(move |request| answer(request, 4).gated(0, &gate)).await
}

/// A server whose chats hang as long as the gate is closed.
async fn slow(gate: &Gate) -> ScriptedUpstream {
    let gate = gate.clone();
    let script = move |request: &Received| answer(request, 4).gated(0, &gate);
    ScriptedUpstream::start(move |request| if is_chat(request) { script(request) } else { answer(request, 4) }).await
}

fn begin(gateway: &Gateway) -> tokio::task::JoinHandle<u16> {
    let address = gateway.address();
    tokio::spawn(async move { Client::connect(address).await.chat(SECRET, &hello()).await.status })
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_keep_connections_do_not_use_up_the_attempts_of_others() {
    let hangs = Arc::new(AtomicBool::new(false));
    let is_hung = hangs.clone();
    let hung =
        ScriptedUpstream::start(
            move |request| {
                if is_hung.load(Ordering::Relaxed) { Script::hang() } else { answer(request, 4) }
            },
        );
    let (hung, good) = (hung.await, answering(4).await);
    let gateway = gateway(&pool(&urls([&hung, &good]), CHECKS), &one_key(""));
    let mut kept = Vec::new();
    for _ in 0..44 {
        let mut client = gateway.connect().await;
        assert_eq!(ask_by(&mut client, SECRET).await.status, 200);
        kept.push(client);
    }
    hangs.store(true, Ordering::Relaxed);
    let waiting: Vec<_> = (0..4).map(|_| begin(&gateway)).collect();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), 200);
    }
    drop(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_costs_nobody_a_request() {
    let good = answering(4).await;
    let replicas = ["http://no-such-server.invalid:1".to_owned(), good.url()];
    let gateway = gateway(&pool(&replicas, ", balance: round_robin"), &one_key(""));
    for _ in 0..4 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert!(gateway.metric(&attempts("r0", "connect")).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_other_is_full_one_waits_for_it() {
    let gate = Gate::new();
    let good = slow(&gate).await;
    let gateway = gateway(&pool(&[refusing(), good.url()], ", max_in_flight: 1"), &one_key(""));
    let mut all: Vec<_> = (0..3).map(|_| begin(&gateway)).collect();
    gateway.metric_becomes(r#"keymeter_queue_length{upstream="pool"}"#, 2.0).await;
    gate.open();
    for request in all.drain(..) {
        assert_eq!(request.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_down_and_is_left_as_the_only_one_is_asked() {
    let gate = Gate::new();
    let (hung, good) = (hanging(&gate).await, answering(4).await);
    let gateway = gateway(&pool(&urls([&hung, &good]), CHECKS), &one_key(""));
    becomes(&gateway, "r0", "down").await;
    gate.open();
    gateway.write_config(&configuration(&pool(&urls([&hung]), ""), "", ""));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    assert_eq!(replica(&gateway, "r0").await["state"], "up", "nothing checks it any more");
    assert_eq!(ask(&gateway).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_wait_for_a_whole_upstream_that_hangs_go_to_the_next() {
    let gate = Gate::new();
    let (hung, good) = (hanging(&gate).await, answering(4).await);
    let first = pool(&urls([&hung]), CHECKS);
    let second = format!("{{name: second, url: \"{}\"}}", good.url());
    let gateway = gateway(&format!("{first}, {second}"), &one_key(""));
    let start = Instant::now();
    let waiting: Vec<_> = (0..3).map(|_| begin(&gateway)).collect();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), 200);
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_cannot_go_on_elsewhere_keep_their_answer() {
    let gate = Gate::new();
    let held = gate.clone();
    // It fails its checks, and works on.
    let busy = ScriptedUpstream::start(move |request| {
        if is_chat(request) { answer(request, 4).gated(0, &held) } else { Script::json(503, &json!({})) }
    });
    let (busy, good) = (busy.await, answering(4).await);
    let gateway = gateway(&pool(&urls([&busy, &good]), &format!("{CHECKS}, attempts: 1")), &one_key(""));
    let both = [begin(&gateway), begin(&gateway)];
    becomes(&gateway, "r0", "down").await;
    gate.open();
    for request in both {
        assert_eq!(request.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_stepped_over() {
    let good = answering(4).await;
    let upstream = |name: &str, url: &str| format!("{{name: {name}, url: \"{url}\", {DOWN}}}");
    let all = [upstream("pool", &refusing()), upstream("second", &refusing()), upstream("third", &good.url())];
    let gateway = gateway(&all.join(", "), &one_key(""));
    for _ in 0..6 {
        assert_eq!(ask(&gateway).await.status, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_is_told_before_down() {
    let gate = Gate::new();
    let full = slow(&gate).await;
    let first = pool(&urls([&full]), ", max_in_flight: 1, queue: {length: 0}");
    let second = format!("{{name: second, replicas: [{{name: s0, url: \"{}\"}}], {DOWN}}}", refusing());
    let gateway = gateway(&format!("{first}, {second}"), &one_key(""));
    gateway.metric_becomes(r#"keymeter_replica_up{replica="s0",upstream="second"}"#, 0.0).await;
    let running = begin(&gateway);
    full.wait_for_request(1).await;
    let refused = ask(&gateway).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("overloaded")));
    gate.open();
    assert_eq!(running.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_an_upstream_that_leaves_the_file_goes_on_elsewhere() {
    let gate = Gate::new();
    let (old, new) = (slow(&gate).await, answering(4).await);
    let gateway = gateway(&pool(&urls([&old]), ", max_in_flight: 1"), &one_key(""));
    let running = begin(&gateway);
    old.wait_for_request(1).await;
    let waiting = begin(&gateway);
    gateway.metric_becomes(r#"keymeter_queue_length{upstream="pool"}"#, 1.0).await;
    gateway.write_config(&configuration(&format!("{{name: other, url: \"{}\"}}", new.url()), "", ""));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    assert_eq!(waiting.await.unwrap(), 503, "the request's own configuration has no other");
    gate.open();
    assert_eq!(running.await.unwrap(), 200);
    assert_eq!(old.received().len(), 1, "nothing new went there");
    assert_eq!(ask(&gateway).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_not_know_speaks_against_nobody() {
    let odd = ScriptedUpstream::start(|_| Script::error(501, "server_error", "not here")).await;
    let good = answering(4).await;
    let keys = "keys:\n- {id: key_a, name: Key A, secret: sk-a}\n- {id: key_b, name: Key B, secret: sk-b}\n";
    let gateway = gateway(&pool(&urls([&odd, &good]), ", balance: round_robin, eject: {after: 2}"), keys);
    for secret in ["sk-a", "sk-b"].repeat(6) {
        ask_by(&mut gateway.connect().await, secret).await;
    }
    assert_eq!(replica(&gateway, "r0").await["state"], "up");
}
