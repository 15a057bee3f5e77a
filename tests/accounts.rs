//! What every request used is at the control plane, once, and its wallet pays for it, whatever happens in between.

use std::time::{Duration, Instant};

use keymeter_core::money::Usd;
use serde_json::{Value, json};

use crate::{
    control::gateways::gateway,
    sources::asked,
    support::{
        client::Arrival,
        control::{OPERATOR, Plane},
        gateway::Gateway,
        scene::chat,
        script::{Gate, Script, completion, usage},
        upstream::ScriptedUpstream,
    },
};

/// A dollar for a thousand tokens of output.
const PRICED: &str = "models: [{name: m, input: \"0\", output: \"1000\"}]\non_revoke: finish";
const WORST: &str = "models: [{name: m, input: \"0\", output: \"1000\"}]\nlimits: {reservation: worst_case}";

/// A user with money, and a key of theirs.
async fn funded(plane: &Plane, usd: &str) -> (String, String) {
    plane.user("ada").await;
    plane.credit("ada", usd, "first").await;
    plane.key(OPERATOR, json!({"name": "Some key", "owner": "ada"})).await
}

/// The usage of all keys, once so many requests have arrived.
async fn usage_of(plane: &Plane, requests: u64) -> Value {
    let start = Instant::now();
    loop {
        let rows = plane.get(OPERATOR, "/api/v1/usage").await.with(200)["rows"].clone();
        if rows[0]["requests"].as_u64().unwrap_or(0) >= requests {
            assert_eq!(rows[0]["requests"], requests);
            return rows[0].clone();
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{rows} of {requests} requests");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_on_record_and_paid_for() {
    let plane = Plane::sqlite().await;
    let upstream = ScriptedUpstream::start(|request| match request.json()["user"].as_str() {
        Some("fail") => Script::error(500, "server_error", "broken"),
        Some("stream") => Script::stream_of(request, 3, &usage(7, 3)),
        Some("cut") => Script::truncated(request, 2),
        _ => Script::json(200, &completion("m", 5)),
    })
    .await;
    let gateway = gateway(&upstream, &plane, PRICED).await;
    let (id, secret) = funded(&plane, "10").await;
    let mut client = gateway.connect().await;
    for _ in 0..10 {
        assert_eq!(client.chat(&secret, &chat("m", "Hello", false)).await.status, 200);
    }
    for user in ["stream", "cut", "fail"] {
        let mut body = chat("m", "Hello", user != "fail");
        body["user"] = user.into();
        body["stream"] = (user != "fail").into();
        let mut client = gateway.connect().await;
        client.chat_stream(&secret, &body).await;
        client.rest().await;
    }
    assert_eq!(client.chat(&secret, &chat("none", "Hello", false)).await.status, 200);
    assert_eq!(client.chat("sk-nobody", &chat("m", "Hello", false)).await.status, 401);
    let row = usage_of(&plane, 14).await;
    let lines: Vec<_> = (0..15).map(|_| gateway.next_line()).collect();
    let output: u64 = lines.iter().filter_map(|line| line["output_tokens"].as_u64()).sum();
    assert_eq!((&row["output_tokens"], &row["models"]), (&json!(output), &json!(["m", "none"])));
    assert_eq!(row["cost_usd"], format!("0.0{}", output - 5).as_str(), "a model without a price costs nothing");
    let cost: Usd = row["cost_usd"].as_str().unwrap().parse().unwrap();
    let left = "10".parse::<Usd>().unwrap().checked_sub(cost).unwrap();
    assert_eq!(plane.balance("ada").await, left.to_string());
    let rows = plane.get(OPERATOR, "/api/v1/usage?group_by=key").await.with(200);
    assert_eq!((&rows["rows"][0]["key"], &rows["rows"][0]["key_name"]), (&json!(id), &json!("Some key")));
    assert!(plane.store().sums_are_right("2020-01-01T00:00:00Z".parse().unwrap()).await.unwrap());
    gateway.metric_becomes("keymeter_ledger_spooled_records", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_written_before_the_client_sees_the_end() {
    let plane = Plane::sqlite().await;
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 3, &usage(7, 3))).await;
    let gateway = gateway(&upstream, &plane, PRICED).await;
    let (_, secret) = funded(&plane, "10").await;
    let spool = gateway.directory.path().join("data/spool");
    for round in 1..=20 {
        let mut client = gateway.connect().await;
        client.chat_stream(&secret, &chat("m", "Hello", true)).await;
        let mut seen = Vec::new();
        while let Arrival::Chunk { data, .. } = client.next_chunk().await {
            seen.extend_from_slice(&data);
            if String::from_utf8_lossy(&seen).contains("[DONE]") {
                break;
            }
        }
        let written = walk(&spool).into_iter().map(|text| text.matches("\"status\":200").count()).sum::<usize>();
        assert_eq!(written, round);
    }
}

/// The texts of all files in a folder.
fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            texts.extend(walk(&path));
        } else {
            texts.push(String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned());
        }
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_at_once_do_not_spend_a_balance_for_ten() {
    let plane = Plane::sqlite().await;
    let gate = Gate::new();
    let held = gate.clone();
    let upstream =
        ScriptedUpstream::start(move |request| Script::stream_of(request, 100, &usage(7, 100)).gated(0, &held)).await;
    let gateway = gateway(&upstream, &plane, WORST).await;
    let (_, secret) = funded(&plane, "1.05").await;
    let mut body = chat("m", "Hello", true);
    body["max_tokens"] = json!(100);
    let requests: Vec<_> = (0..200)
        .map(|_| async {
            let mut client = gateway.connect().await;
            client.send("POST", "/v1/chat/completions", &[("x-api-key", &secret)], body.to_string().as_bytes()).await;
            client
        })
        .collect();
    let clients = futures_util::future::join_all(requests).await;
    upstream.wait_for_request(10).await;
    let refused = |text: &str| text.contains("insufficient_quota");
    gate.open();
    let answers = clients.into_iter().map(|mut client| async move {
        let status = client.head().await.status;
        (status, String::from_utf8_lossy(&client.rest().await.0).into_owned())
    });
    let answers = futures_util::future::join_all(answers).await;
    let served = answers.iter().filter(|(status, _)| *status == 200).count();
    assert!(answers.iter().all(|(status, text)| *status == 200 || *status == 429 && refused(text)), "{answers:?}");
    assert_eq!((served, upstream.received().len()), (10, 10));
    usage_of(&plane, 10).await;
    assert_eq!(plane.balance("ada").await, "0.05");
    assert_eq!(asked(&gateway, &secret).await, (429, "insufficient_quota".into()));
    plane.credit("ada", "1", "second").await;
    becomes_usable(&gateway, &secret).await;
}

async fn becomes_usable(gateway: &Gateway, secret: &str) {
    let start = Instant::now();
    while asked(gateway, secret).await.0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(5), "a credit brings the keys back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_is_used_up_on_one_gateway_is_so_on_the_other_within_a_second() {
    let plane = Plane::sqlite().await;
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 96))).await;
    let (one, other) = (gateway(&upstream, &plane, PRICED).await, gateway(&upstream, &plane, PRICED).await);
    let (_, secret) = funded(&plane, "1").await;
    assert_eq!(asked(&other, &secret).await.0, 200);
    let mut served = 1;
    while asked(&one, &secret).await.0 == 200 {
        served += 1;
    }
    let start = Instant::now();
    assert_eq!(served, 10, "of 96 tenths of a cent each: the record that crosses the five cents is the last");
    while asked(&other, &secret).await.0 == 200 {
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    gateway_is_done(&one).await;
    gateway_is_done(&other).await;
    let requests = upstream.received().len() as u64;
    assert!((10..20).contains(&requests), "{requests}");
    usage_of(&plane, requests).await;
    assert_eq!(
        plane.balance("ada").await,
        Usd::from_nanos(1_000_000_000 - 96_000_000 * i64::try_from(requests).unwrap()).to_string()
    );
}

/// Waits until nobody holds more than an eighth of the balance.
async fn gives_back(plane: &Plane) {
    let sql = "SELECT MAX(granted_nanos - counted_nanos) FROM allowances";
    let most: Usd = plane.balance("ada").await.parse().unwrap();
    let start = Instant::now();
    while sqlx::query_scalar::<_, i64>(sql).fetch_one(plane.store().reader()).await.unwrap() > most.nanos() / 8 {
        assert!(start.elapsed() < Duration::from_secs(10), "what is not used does not go back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn gateway_is_done(gateway: &Gateway) {
    gateway.metric_becomes("keymeter_ledger_spooled_records", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_a_gateway_spends_its_allowance_and_keeps_its_records() {
    let plane = Plane::sqlite().await;
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 100))).await;
    let gateway = gateway(&upstream, &plane, PRICED).await;
    let (_, secret) = funded(&plane, "20").await;
    assert_eq!(asked(&gateway, &secret).await.0, 200);
    usage_of(&plane, 1).await;
    let Plane { control, .. } = plane;
    let store = control.store().clone();
    drop(store);
    control.stop().await;
    // A quarter of $20 was granted, at a tenth of a dollar a request.
    let mut served = 1;
    while served < 200 && asked(&gateway, &secret).await.0 == 200 {
        served += 1;
    }
    assert_eq!(served, 50);
    assert_eq!(asked(&gateway, &secret).await, (429, "insufficient_quota".into()));
    gateway.metric_becomes("keymeter_ledger_spooled_records", 49.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_asks_for_its_own_usage() {
    let plane = Plane::sqlite().await;
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 5))).await;
    let gateway = gateway(&upstream, &plane, PRICED).await;
    plane.user("ada").await;
    plane.credit("ada", "10", "first").await;
    let limits = json!({"requests_per_minute": 60, "concurrent_requests": 3});
    let key = json!({"name": "Some key", "owner": "ada", "limits": limits});
    let (id, secret) = plane.key(OPERATOR, key).await;
    for _ in 0..2 {
        assert_eq!(asked(&gateway, &secret).await.0, 200);
    }
    usage_of(&plane, 2).await;
    let mut client = gateway.connect().await;
    let answer = client.request("GET", "/v1/usage", &[("x-api-key", &secret)], b"").await;
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("58"), "asking takes nothing");
    let told = answer.json();
    assert_eq!(told["key"], json!({"id": id, "name": "Some key", "owner": "ada", "team": null}));
    let requests = &told["limits"]["requests_per_minute"];
    assert_eq!((&requests["limit"], &requests["used"], &requests["remaining"]), (&json!(60), &json!(2), &json!(58)));
    assert_eq!(told["limits"]["concurrent_requests"], json!({"limit": 3, "used": 0, "remaining": 3}));
    assert_eq!(told["limits"]["tokens_per_minute"]["remaining"], Value::Null);
    assert_eq!((&told["balance_usd"], &told["total"]["cost_usd"]), (&json!("9.99"), &json!("0.01")));
    assert_eq!((&told["total"]["requests"], &told["total"]["models"]), (&json!(2), &json!(["m"])));
    // Prometheus is told the same.
    gateway.metric_becomes("keymeter_wallet_balance_usd{wallet=\"ada\"}", 9.99).await;
    let used = format!("keymeter_key_limit_used_ratio{{key_id=\"{id}\",limit=\"requests_per_minute\"}}");
    gateway.metric_becomes(&used, 0.033_333).await;
    assert_eq!(client.request("GET", "/v1/usage", &[("x-api-key", "sk-no")], b"").await.status, 401);
    assert_eq!(client.request("POST", "/v1/usage", &[("x-api-key", &secret)], b"").await.status, 405);
    plane.control.stop().await;
    let answer = gateway.connect().await.request("GET", "/v1/usage", &[("x-api-key", &secret)], b"").await.json();
    assert_eq!((&answer["limits"]["requests_per_minute"]["used"], answer.get("total")), (&json!(2), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wallet_has_can_be_spent_to_the_end_though_another_gateway_has_an_allowance() {
    let plane = Plane::sqlite().await;
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 450))).await;
    let (one, other) = (gateway(&upstream, &plane, PRICED).await, gateway(&upstream, &plane, PRICED).await);
    let (_, secret) = funded(&plane, "5").await;
    // The other keeps an eighth of what was there then, which is soon more than there is.
    assert_eq!(asked(&other, &secret).await.0, 200);
    gateway_is_done(&other).await;
    gives_back(&plane).await;
    while asked(&one, &secret).await.0 == 200 {}
    gateway_is_done(&one).await;
    gateway_is_done(&other).await;
    let left: Usd = plane.balance("ada").await.parse().unwrap();
    assert!(left <= "0.05".parse().unwrap(), "refused with ${left} in the wallet");
}
