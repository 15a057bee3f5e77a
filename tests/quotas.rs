//! Quotas, and limits of teams, owners and models, as files say them: what a client is told, what counts over restarts and
//! crashes, and what is exported.

mod crash;

use std::{fmt::Write, fs};

use keymeter_core::key::Secret;
use serde_json::{Value, json};

use crate::support::{
    client::Response,
    gateway::{Gateway, SECRET, config, one_key},
    process::Process,
    script::{Script, completion},
    upstream::ScriptedUpstream,
};

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
}

/// An upstream that answers with 7 tokens in and 5 out.
async fn upstream() -> ScriptedUpstream {
    ScriptedUpstream::start(|_| Script::json(200, &completion("m", 5))).await
}

const PRICES: &str = r#"models: [{name: m, input: "1000", output: "2000"}]"#;

/// What `GET /v1/usage` tells of one limit.
fn limit(usage: &Value, scope: &str, name: &str) -> Value {
    let all = usage["all"].as_array().unwrap();
    all.iter().find(|limit| limit["scope"] == scope && limit["limit"] == name).unwrap_or(&Value::Null).clone()
}

async fn usage(gateway: &Gateway, secret: &str) -> Value {
    let authorization = format!("Bearer {secret}");
    let answer = gateway.connect().await.request("GET", "/v1/usage", &[("authorization", &authorization)], b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn is_refused(response: &Response, code: &str, message: &str) {
    let error = &response.json()["error"];
    assert_eq!((response.status, error["code"].as_str()), (429, Some(code)), "{}", response.text());
    let told = error["message"].as_str().unwrap();
    assert!(told.contains(message), "{told}");
}

#[tokio::test]
async fn a_quota_is_used_up_and_says_when_there_is_room() {
    let upstream = upstream().await;
    let quotas = r#", limits: {quotas: [{usd: "0.05", per: month}, {tokens: 10000, per: day, zone: Europe/Berlin}, {requests: 50, per: 5h}]}"#;
    let gateway = Gateway::start(&config(&upstream, PRICES), &one_key(quotas));
    // An answer costs $0.017: the third passes, since its reservation is cut to the quota only if nothing is used.
    let first = gateway.chat(&chat()).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let refused = gateway.chat(&chat()).await;
    is_refused(&refused, "insufficient_quota", "of the $0.05 that it may use per month, and this request reserves $");
    assert_eq!(refused.json()["error"]["type"], "insufficient_quota");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
    let told = usage(&gateway, SECRET).await;
    let month = limit(&told, "key", "usd_per_month");
    assert_eq!(
        (&month["used"], &month["value"], &month["remaining"]),
        (&json!("0.017"), &json!("0.05"), &json!("0.033"))
    );
    assert_eq!(limit(&told, "key", "tokens_per_day")["used"], 12);
    assert_eq!(limit(&told, "key", "requests_per_5h")["remaining"], 49, "a refusal takes nothing");
    let ratio = gateway.metric(r#"keymeter_key_limit_used_ratio{key_id="key_test",limit="usd_per_month"}"#).await;
    assert!((ratio - 0.34).abs() < 1e-9, "{ratio}");
    let refused = r#"keymeter_rejections_total{key_id="key_test",reason="usd_quota",scope="key"}"#;
    assert_eq!(gateway.metric(refused).await, 1.0);
}

#[tokio::test]
async fn a_request_that_is_expected_to_cost_more_than_a_whole_quota_takes_all_of_it() {
    let upstream = upstream().await;
    let gateway = Gateway::start(&config(&upstream, PRICES), &one_key(", limits: {quotas: [{tokens: 20, per: 1h}]}"));
    assert_eq!(gateway.chat(&chat()).await.status, 200);
    is_refused(&gateway.chat(&chat()).await, "insufficient_quota", "12 tokens of the 20 tokens");
}

/// Three keys of one owner, two of one team.
fn team_keys(lists: &str) -> String {
    let mut keys = format!("{lists}keys:\n");
    for (id, team) in [("key_a", "research"), ("key_b", "research"), ("key_c", "other")] {
        let hash = Secret::new(format!("sk-{id}")).hash();
        writeln!(keys, "  - {{id: {id}, name: Key of Ada, hash: \"{hash}\", owner: ada, team: {team}}}").unwrap();
    }
    keys
}

#[tokio::test]
async fn the_limits_of_an_owner_and_a_team_hold_for_all_their_keys() {
    let upstream = upstream().await;
    let lists = "owners: [{id: ada, limits: {requests_per_minute: 4}}]\nteams: [{id: research, limits: {quotas: [{requests: 3, per: week}]}}]\n";
    let gateway = Gateway::start(&config(&upstream, ""), &team_keys(lists));
    let ask = async |key: &str| gateway.connect().await.chat(&format!("sk-{key}"), &chat()).await;
    for key in ["key_a", "key_b", "key_a"] {
        assert_eq!(ask(key).await.status, 200);
    }
    is_refused(
        &ask("key_b").await,
        "insufficient_quota",
        "the team research of the API key key_b made 3 of the 3 requests",
    );
    let fourth = ask("key_c").await;
    assert_eq!(
        (fourth.status, fourth.header("x-ratelimit-remaining-requests")),
        (200, Some("0")),
        "the tightest is told"
    );
    is_refused(
        &ask("key_c").await,
        "rate_limit_exceeded",
        "the owner ada of the API key key_c made 4 of the 4 requests",
    );
    assert_eq!(
        gateway
            .metric(r#"keymeter_scope_limit_used_ratio{scope="team",id="research",limit="requests_per_week"}"#)
            .await,
        1.0
    );
    assert_eq!(
        gateway.metric(r#"keymeter_scope_limit_used_ratio{scope="owner",id="ada",limit="requests_per_minute"}"#).await,
        1.0
    );
    assert_eq!(
        gateway.metric(r#"keymeter_rejections_total{key_id="key_b",reason="requests_quota",scope="team"}"#).await,
        1.0
    );
    // What is raised counts what is used already.
    gateway.write_keys(&team_keys(&lists.replace("requests: 3", "requests: 4").replace("minute: 4", "minute: 9")));
    let reloaded = gateway.admin("POST", "/-/reload").await;
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    assert_eq!(ask("key_b").await.status, 200);
    is_refused(&ask("key_a").await, "insufficient_quota", "made 4 of the 4 requests");
}

#[tokio::test]
async fn limits_that_only_count_are_told_and_refuse_nothing() {
    let upstream = upstream().await;
    let extra = "limits: {mode: observe, requests_per_minute: 1}";
    let gateway = Gateway::start(&config(&upstream, extra), &one_key(""));
    for remaining in ["0", "0", "0"] {
        let answer = gateway.chat(&chat()).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining-requests")), (200, Some(remaining)));
    }
    let observed = r#"keymeter_observed_rejections_total{key_id="key_test",reason="requests_per_minute",scope="key"}"#;
    assert_eq!(gateway.metric(observed).await, 2.0);
    let lines = [gateway.next_line(), gateway.next_line()];
    assert_eq!((&lines[0]["would_reject"], &lines[1]["would_reject"]), (&Value::Null, &json!("requests_per_minute")));
}

#[tokio::test]
async fn a_key_that_is_not_allowed_from_here_is_refused_before_its_body() {
    let upstream = upstream().await;
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(r#", allow_from: ["10.0.0.0/8", "2001:db8::/32"]"#));
    let refused = gateway.chat(&chat()).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (403, Some("address_not_allowed")));
    assert_eq!(upstream.received().len(), 0);
    let allowed = Gateway::start(&config(&upstream, ""), &one_key(r#", allow_from: ["::1", "127.0.0.0/8"]"#));
    assert_eq!(allowed.chat(&chat()).await.status, 200);
}

/// Quotas are there after a restart, whatever became of the limits meanwhile; those of a minute are not.
#[tokio::test]
async fn quotas_survive_a_restart() {
    let upstream = upstream().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    fs::write(&path, config(&upstream, PRICES)).unwrap();
    let keys =
        team_keys("teams: [{id: research, limits: {quotas: [{tokens: 1000000, per: day}, {usd: \"50\", per: 5h}]}}]\n");
    fs::write(directory.path().join("keys.yaml"), &keys).unwrap();
    for round in 1..=3_u64 {
        let mut process = Process::serve(&path);
        let (address, _) = process.addresses().await;
        let mut client = crate::support::client::Client::connect(address).await;
        for key in ["sk-key_a", "sk-key_b"] {
            assert_eq!(client.chat(key, &chat()).await.status, 200);
        }
        let told = client.request("GET", "/v1/usage", &[("authorization", "Bearer sk-key_a")], b"").await.json();
        assert_eq!(limit(&told, "team", "tokens_per_day")["used"], 24 * round, "{told}");
        assert_eq!(
            limit(&told, "team", "usd_per_5h")["used"],
            json!(format!("0.{:03}", 34 * round).trim_end_matches('0'))
        );
        process.signal(crate::support::process::Signal::TERM);
        assert!(process.ended().await.0.success());
    }
}
