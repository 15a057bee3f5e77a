//! Checks: a replica that is down gets nothing, and those that wait for it go elsewhere.

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::support::{gateway::one_key, h2c::H2c, script::Gate};

const CHECKS: &str =
    ", health: {path: /health, interval: 100ms, timeout: 300ms, down_after: 2, up_after: 1}, balance: round_robin";

/// A server that hangs, checks and all, as long as the gate is closed.
async fn hanging(gate: &Gate) -> ScriptedUpstream {
    let gate = gate.clone();
    ScriptedUpstream::start(move |request| answer(request, 4).gated(0, &gate)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_is_left_and_comes_back() {
    let gate = Gate::new();
    let (hung, good) = (hanging(&gate).await, answering(4).await);
    let gateway = gateway(&pool(&urls([&hung, &good]), CHECKS), &one_key(""));
    let asked = Instant::now();
    let waiting: Vec<_> = (0..6)
        .map(|_| {
            let address = gateway.address();
            tokio::spawn(async move { Client::connect(address).await.chat(SECRET, &hello()).await.status })
        })
        .collect();
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), 200, "they go to the other once it is down");
    }
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    becomes(&gateway, "r0", "down").await;
    gateway.metric_becomes(r#"keymeter_replica_up{replica="r0",upstream="pool"}"#, 0.0).await;
    assert!(gateway.metric(&attempts("r0", "down")).await >= 1.0);
    gate.open();
    becomes(&gateway, "r0", "up").await;
    gateway.metric_becomes(r#"keymeter_replica_up{replica="r0",upstream="pool"}"#, 1.0).await;
    let before = chats(&hung).len();
    for _ in 0..2 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!(chats(&hung).len(), before + 1, "and takes its turn");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_are_requests_over_http2_and_those_that_run_apart() {
    for extra in ["", "on_client_abort: drain"] {
        let gate = Gate::new();
        let (hung, good) = (hanging(&gate).await, answering(4).await);
        let text = configuration(&pool(&urls([&hung, &good]), CHECKS), "", extra);
        let gateway = Gateway::start(&text, &one_key(""));
        let mut waiting = Vec::new();
        for _ in 0..2 {
            let address = gateway.address();
            waiting.push(tokio::spawn(async move {
                let client = H2c::connect(address).await;
                client.chat(SECRET, &hello()).await.0.status
            }));
            let address = gateway.address();
            waiting
                .push(tokio::spawn(async move { Client::connect(address).await.chat(SECRET, &hello()).await.status }));
        }
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), 200, "{extra}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_none_is_up_it_is_said_so_and_the_first_that_comes_up_serves() {
    let gate = Gate::new();
    let (one, other) = (hanging(&gate).await, hanging(&gate).await);
    let gateway = gateway(&pool(&urls([&one, &other]), CHECKS), &one_key(""));
    becomes(&gateway, "r0", "down").await;
    becomes(&gateway, "r1", "down").await;
    let refused = ask(&gateway).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.json()["error"]["code"], "upstream_unavailable");
    assert_eq!(gateway.next_line()["reason"], "upstream_unavailable");
    gate.open();
    becomes(&gateway, "r0", "up").await;
    assert_eq!(ask(&gateway).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_its_models_gets_nothing_until_it_lists_one() {
    let is_loaded = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = is_loaded.clone();
    let loading = ScriptedUpstream::start(move |request| match request.path.as_str() {
        "/v1/models" if !flag.load(std::sync::atomic::Ordering::Relaxed) => Script::json(200, &json!({"data": []})),
        _ => answer(request, 4),
    })
    .await;
    let good = answering(4).await;
    let fields = ", models: [m], health: {models: true, interval: 100ms, timeout: 1s}, balance: round_robin";
    let gateway = gateway(&pool(&urls([&loading, &good]), fields), &one_key(""));
    becomes(&gateway, "r1", "up").await;
    assert_eq!(replica(&gateway, "r0").await["state"], "loading");
    for _ in 0..4 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!(chats(&loading).len(), 0);
    is_loaded.store(true, std::sync::atomic::Ordering::Relaxed);
    becomes(&gateway, "r0", "up").await;
    for _ in 0..2 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!(chats(&loading).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_drains_a_replica_and_lets_it_take_part_again() {
    let (one, other) = (answering(4).await, answering(4).await);
    let gateway = gateway(&pool(&urls([&one, &other]), ", balance: round_robin"), &one_key(""));
    let answer = gateway.admin("POST", "/-/upstreams/pool/r0/drain").await;
    assert_eq!((answer.status, replica(&gateway, "r0").await["state"].clone()), (200, json!("draining")));
    for _ in 0..4 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!((chats(&one).len(), chats(&other).len()), (0, 4));
    assert_eq!(gateway.admin("POST", "/-/upstreams/pool/r0/undrain").await.status, 200);
    for _ in 0..2 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!(chats(&one).len(), 1);
    for path in ["/-/upstreams/none/r0/drain", "/-/upstreams/pool/none/drain", "/-/upstreams/pool/r0/stop"] {
        assert_eq!(gateway.admin("POST", path).await.status, 404, "{path}");
    }
    assert_eq!(gateway.admin("GET", "/-/upstreams/pool/r0/drain").await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_never_passes_is_told_once_and_not_in_silence() {
    let lost = ScriptedUpstream::start(|request| match request.path.as_str() {
        "/health" => Script::error(404, "invalid_request_error", "no"),
        _ => answer(request, 1),
    })
    .await;
    let gateway = gateway(&pool(&urls([&lost, &answering(4).await]), CHECKS), &one_key(""));
    becomes(&gateway, "r0", "down").await;
    assert_eq!(replica(&gateway, "r0").await["reason"], "/health answered 404");
    gateway.metric_becomes(r#"keymeter_replica_up{replica="r0",upstream="pool"}"#, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_is_known_of_those_that_stay() {
    let (one, other, third) = (answering(4).await, answering(4).await, answering(4).await);
    let gateway = gateway(&pool(&urls([&one, &other]), ", balance: round_robin"), &one_key(""));
    gateway.admin("POST", "/-/upstreams/pool/r0/drain").await;
    gateway.write_config(&configuration(&pool(&urls([&one, &third]), ", balance: round_robin"), "", ""));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    assert_eq!(replica(&gateway, "r0").await["state"], "draining");
    for _ in 0..4 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!((chats(&one).len(), chats(&other).len(), chats(&third).len()), (0, 0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_resolve_is_no_fault_of_its_replica() {
    let good = answering(4).await;
    let urls = ["http://no-such-name.invalid:80".to_owned(), good.url()];
    let fields = ", balance: round_robin, eject: {after: 1}, health: {interval: 100ms, timeout: 1s, down_after: 1}";
    let gateway = gateway(&pool(&urls, fields), &one_key(""));
    becomes(&gateway, "r1", "up").await;
    let mut reasons = Vec::new();
    for _ in 0..20 {
        assert_eq!(ask(&gateway).await.status, 200);
        let told = replica(&gateway, "r0").await;
        assert!(matches!(told["state"].as_str(), Some("up" | "paused")), "{told}");
        reasons.push(told["reason"].clone());
    }
    assert!(reasons.contains(&json!("its name does not resolve")), "{reasons:?}");
}
