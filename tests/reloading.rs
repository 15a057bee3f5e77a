//! A changed file takes effect whole and at once, a faulty one not at all, and no request notices.

mod under_load;
mod watching;

use std::time::Duration;

use keymeter_core::key::{KeyHash, Secret};
use serde_json::{Value, json};

use crate::support::{
    client::{Arrival, Client, Response, events},
    gateway::{Gateway, SECRET, config, one_key, replace},
    script::{Gate, Script, completion, usage},
    soak::scaled,
    upstream::ScriptedUpstream,
};

const OTHER_SECRET: &str = "sk-other-key-of-the-reloading-tests";
const SUCCESSFUL: &str = "keymeter_config_last_reload_successful";
const SUCCEEDED_AT: &str = "keymeter_config_last_reload_success_timestamp_seconds";

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
}

async fn upstream() -> ScriptedUpstream {
    ScriptedUpstream::start(|request| match request.json()["stream"] {
        Value::Bool(true) => Script::stream_of(request, 3, &usage(7, 3)),
        _ => Script::json(200, &completion("m", 5)),
    })
    .await
}

/// `keys.yaml` with the test's key and another one, each with `extra` fields.
fn two_keys(extra: &str, extra_of_other: &str) -> String {
    let hash = Secret::new(OTHER_SECRET).hash();
    format!("{}  - {{id: key_other, name: Other key, hash: \"{hash}\"{extra_of_other}}}\n", one_key(extra))
}

async fn reload(gateway: &Gateway) -> Response {
    gateway.admin("POST", "/-/reload").await
}

/// Puts the keys in place and reloads, which must succeed.
async fn reload_keys(gateway: &Gateway, keys: &str) {
    gateway.write_keys(keys);
    let answer = reload(gateway).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn status_with(gateway: &Gateway, secret: &str) -> u16 {
    gateway.connect().await.chat(secret, &chat()).await.status
}

fn code(response: &Response) -> String {
    response.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_answers_what_it_did() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream);
    gateway.write_keys(&two_keys("", ""));
    let answer = reload(&gateway).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"keys": 2, "restart_needed": []})));
    assert_eq!(gateway.metric(SUCCESSFUL).await, 1.0);
    let age = jiff::Timestamp::now().as_second() as f64 - gateway.metric(SUCCEEDED_AT).await;
    assert!((0.0..60.0).contains(&age), "{age}");
    let wrong = gateway.admin("GET", "/-/reload").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_keys_holds_at_the_very_next_request() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream);
    for _ in 0..scaled(3, 100) {
        for (keys, own, others) in [
            (one_key(""), 200, 401),
            (two_keys("", ""), 200, 200),
            (two_keys(", enabled: false", ""), 401, 200),
            (two_keys(", expires_at: 2020-01-01T00:00:00Z", ""), 401, 200),
            (two_keys("", ", models: [other-model]"), 200, 404),
            ("keys: []\n".to_owned(), 401, 401),
        ] {
            reload_keys(&gateway, &keys).await;
            let statuses = (status_with(&gateway, SECRET).await, status_with(&gateway, OTHER_SECRET).await);
            assert_eq!(statuses, (own, others), "{keys}");
        }
        // Fewer bad keys in a second than a stranger may send.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_looks_unknown_and_a_disabled_one_does_not() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    assert_eq!(client.chat(SECRET, &chat()).await.status, 200);
    for (keys, expected) in [
        (one_key(", enabled: false"), "api_key_disabled"),
        ("keys: []\n".to_owned(), "invalid_api_key"),
        (one_key(", expires_at: 2020-01-01T00:00:00Z"), "api_key_expired"),
    ] {
        reload_keys(&gateway, &keys).await;
        let refusal = client.chat(SECRET, &chat()).await;
        assert_eq!((refusal.status, code(&refusal).as_str()), (401, expected));
    }
    reload_keys(&gateway, &one_key("")).await;
    assert_eq!(client.chat(SECRET, &chat()).await.status, 200);
    assert_eq!(upstream.received().len(), 2, "a refused request went on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_secret_stops_at_once_and_its_keys_counts_stay() {
    let upstream = upstream().await;
    let limits = ", limits: {requests_per_minute: 10}";
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(limits));
    for _ in 0..4 {
        assert_eq!(status_with(&gateway, SECRET).await, 200);
    }
    let hash = KeyHash::digest(OTHER_SECRET.as_bytes());
    reload_keys(&gateway, &format!("keys: [{{id: key_test, name: Test key, hash: \"{hash}\"{limits}}}]\n")).await;
    assert_eq!(status_with(&gateway, SECRET).await, 401);
    let answer = gateway.connect().await.chat(OTHER_SECRET, &chat()).await;
    assert_eq!((answer.status, answer.header("x-ratelimit-remaining-requests")), (200, Some("5")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_has_used_is_not_forgotten() {
    let upstream = upstream().await;
    let limits = ", limits: {requests_per_minute: 10, tokens_per_minute: 1000000}";
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(limits));
    for _ in 0..5 {
        assert_eq!(status_with(&gateway, SECRET).await, 200);
    }
    // 7 tokens of the prompt and 5 of the output, five times.
    gateway.metric_becomes(r#"keymeter_usage_total{source="upstream"}"#, 5.0).await;
    reload_keys(&gateway, &two_keys(limits, "")).await;
    for left in (0..5).rev() {
        let answer = gateway.chat(&chat()).await;
        let remaining = answer.header("x-ratelimit-remaining-requests").unwrap().parse();
        assert_eq!((answer.status, remaining), (200, Ok(left)));
        let tokens: u64 = answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        assert!(tokens <= 1_000_000 - 60, "{tokens}");
    }
    let refusal = gateway.chat(&chat()).await;
    assert_eq!((refusal.status, code(&refusal).as_str()), (429, "rate_limit_exceeded"));
    // Deleted and made again under the same id, it is the same key.
    reload_keys(&gateway, "keys: []\n").await;
    assert_eq!(status_with(&gateway, SECRET).await, 401);
    reload_keys(&gateway, &one_key(limits)).await;
    assert_eq!(status_with(&gateway, SECRET).await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_holds_at_once() {
    let upstream = upstream().await;
    let limits = |requests: &str| config(&upstream, &format!("limits: {{requests_per_minute: {requests}}}"));
    let gateway = Gateway::start(&limits("3"), &one_key(""));
    for _ in 0..3 {
        assert_eq!(gateway.chat(&chat()).await.status, 200);
    }
    assert_eq!(gateway.chat(&chat()).await.status, 429);
    for (requests, status, left) in
        [("5", 200, Some("1")), ("4", 429, Some("0")), ("unlimited", 200, None), ("6", 200, Some("0"))]
    {
        gateway.write_config(&limits(requests));
        assert_eq!(reload(&gateway).await.status, 200);
        let answer = gateway.chat(&chat()).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-remaining-requests")), (status, left), "{requests}");
    }
    reload_keys(&gateway, &one_key(", limits: {requests_per_minute: 7}")).await;
    assert_eq!((gateway.chat(&chat()).await.status, gateway.chat(&chat()).await.status), (200, 429));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_file_changes_nothing_and_is_reported_with_its_places() {
    let upstream = upstream().await;
    let good = config(&upstream, "limits: {requests_per_minute: 100}");
    let gateway = Gateway::start(&good, &one_key(""));
    let (configuration, keys) = (gateway.path(), gateway.keys_path());
    let loaded_at = gateway.metric(SUCCEEDED_AT).await;
    while jiff::Timestamp::now().as_second() as f64 == loaded_at {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    replace(&keys, "keys: }");
    assert_eq!((reload(&gateway).await.status, gateway.metric(SUCCEEDED_AT).await), (422, loaded_at));
    replace(&keys, &one_key(""));
    let limited = |to: &str| good.replace("minute: 100", &format!("minute: {to}"));
    for (file, text, culprits) in [
        (&configuration, limited("many"), vec!["many"]),
        (&configuration, format!("{good}no_such_field: 1\n"), vec!["no_such_field"]),
        (&configuration, limited("0.5").replace("\"http:", "\"ftp:"), vec!["\"ftp:", "0.5"]),
        (&configuration, "upstreams: }".to_owned(), vec!["}"]),
        (&keys, two_keys(", limits: 7", "").replace("key_other", "key_test"), vec!["7}", "key_test, name: Other"]),
    ] {
        let original = std::fs::read_to_string(file).unwrap();
        replace(file, &text);
        let answer = reload(&gateway).await;
        let faults: Vec<String> = serde_json::from_value(answer.json()["faults"].clone()).unwrap();
        assert_eq!((answer.status, faults.len()), (422, culprits.len()), "{faults:#?}");
        for (error, culprit) in faults.iter().zip(culprits) {
            let place = format!("{}:{}: ", file.display(), line_and_column(&text, culprit));
            assert!(error.starts_with(&place), "{error} is not at {place}");
        }
        assert_eq!(gateway.metric(SUCCESSFUL).await, 0.0);
        let answer = gateway.chat(&chat()).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-limit-requests")), (200, Some("100")));
        replace(file, &original);
    }
    std::fs::remove_file(gateway.keys_path()).unwrap();
    assert_eq!((reload(&gateway).await.status, gateway.chat(&chat()).await.status), (422, 200));
    reload_keys(&gateway, &one_key("")).await;
    assert_eq!(gateway.metric(SUCCESSFUL).await, 1.0);
}

/// Where `part` stands first, as faults say it.
fn line_and_column(text: &str, part: &str) -> String {
    let before = &text[..text.find(part).unwrap()];
    let line = before.rsplit('\n').next().unwrap();
    format!("{}:{}", before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_is_named_and_what_does_not_is_not() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream);
    let base = config(&upstream, "");
    let changed = |from: &str, to: &str| {
        assert!(base.contains(from), "{from} is not in {base}");
        base.replace(from, to)
    };
    let with = |extra: &str| config(&upstream, extra);
    for (configuration, named) in [
        (changed("{listen: [\"127.0.0.1:0\"]}", "{listen: [\"127.0.0.1:0\", \"127.0.0.1:0\"]}"), vec!["server.listen"]),
        (changed("server: {", "server: {threads: 3, "), vec!["server.threads"]),
        (changed("admin: {listen: \"127.0.0.1:0\"}", "admin: {listen: \"127.0.0.2:0\"}"), vec!["admin.listen"]),
        (changed("server: {", "server: {upgrade_socket: upgrade.sock, "), vec!["server.upgrade_socket"]),
        (with("key_cache: {capacity: 5}"), vec!["key_cache.capacity"]),
        (with("key_cache: {ttl: 61s}"), vec!["key_cache.ttl"]),
        (with("key_cache: {unknown_ttl: 6s}"), vec!["key_cache.unknown_ttl"]),
        (with("metrics: {max_key_series: 5}"), vec!["metrics.max_key_series"]),
        (with("tracing: {otlp: \"http://127.0.0.1:4317\"}"), vec!["tracing"]),
        (with("limits: {requests_per_minute: 7}"), vec![]),
        (with("models: [{name: m, input: \"1\"}]"), vec![]),
        (changed("server: {", "server: {max_request_body: 1MiB, drain_timeout: 7s, "), vec![]),
        (base.clone(), vec![]),
    ] {
        gateway.write_config(&configuration);
        let answer = reload(&gateway).await;
        assert_eq!((answer.status, &answer.json()["restart_needed"]), (200, &json!(named)), "{configuration}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_wants_the_admin_token_where_there_is_one() {
    let upstream = upstream().await;
    let with_token = |token: &str| config(&upstream, "").replace("admin: {", &format!("admin: {{token: {token}, "));
    let gateway = Gateway::start(&with_token("first-token-0123456789-0123456789"), &one_key(""));
    let reload_with = async |headers: &[(&str, &str)]| {
        Client::connect(gateway.server.admin_address).await.request("POST", "/-/reload", headers, b"").await
    };
    for headers in [
        &[][..],
        &[("authorization", "Bearer second-token-0123456789-0123456789")],
        &[("authorization", "first-token-0123456789-0123456789")],
        &[("authorization", "Bearer first-token-0123456789-0123456789 ")],
        &[("authorization", "Bearer first-toke")],
    ] {
        let trimmed =
            headers.first().is_some_and(|(_, value)| value.trim() == "Bearer first-token-0123456789-0123456789");
        let answer = reload_with(headers).await;
        assert_eq!(answer.status, if trimmed { 200 } else { 401 }, "{headers:?}");
        assert!(!answer.text().contains("first-token-0123456789-0123456789"));
    }
    gateway.write_config(&with_token("second-token-0123456789-0123456789"));
    // It either loads the new token or has been overtaken by the watcher, which did.
    reload_with(&[("authorization", "Bearer first-token-0123456789-0123456789")]).await;
    assert_eq!(
        reload_with(&[("authorization", "Bearer first-token-0123456789-0123456789")]).await.status,
        401,
        "it was replaced"
    );
    assert_eq!(reload_with(&[("authorization", "Bearer second-token-0123456789-0123456789")]).await.status, 200);
    for (method, path) in [("GET", "/metrics"), ("GET", "/-/ready"), ("GET", "/-/healthy")] {
        assert_eq!(gateway.admin(method, path).await.status, 200, "{path} is for every scraper");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_admin_address_keeps_its_token_until_the_restart_that_makes_it_private() {
    let upstream = upstream().await;
    let private = config(&upstream, "");
    let public = private.replace(
        "admin: {listen: \"127.0.0.1:0\"",
        "admin: {token: canary-0123456789-0123456789-0123456789, listen: \"0.0.0.0:0\"",
    );
    let gateway = Gateway::start(&public, &one_key(""));
    let reload_with = async |headers: &[(&str, &str)]| {
        let address = ([127, 0, 0, 1], gateway.server.admin_address.port()).into();
        Client::connect(address).await.request("POST", "/-/reload", headers, b"").await.status
    };
    gateway.write_config(&private);
    assert_eq!(reload_with(&[("authorization", "Bearer canary-0123456789-0123456789-0123456789")]).await, 200);
    assert_eq!(reload_with(&[]).await, 401, "the socket is still open to all");
    assert_eq!(reload_with(&[("authorization", "Bearer canary-0123456789-0123456789-0123456789")]).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_stream_does_not_notice_and_the_next_request_does() {
    let gate = Gate::new();
    let held = gate.clone();
    let former = ScriptedUpstream::start(move |request| Script::stream_of(request, 3, &usage(7, 3)).gated(1, &held));
    let (former, latter) = (former.await, upstream().await);
    let models = |name: &str| format!("models: [{{name: m, input: \"1\", output: \"{name}\"}}]");
    let gateway = Gateway::start(&config(&former, &models("2")), &one_key(""));
    let mut client = gateway.connect().await;
    let streaming = json!({"model": "m", "stream": true, "messages": []});
    assert_eq!(client.chat_stream(SECRET, &streaming).await.status, 200);
    assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));

    gateway.write_config(&config(&latter, &models("200")));
    reload_keys(&gateway, &one_key(", limits: {requests_per_minute: 1, concurrent_requests: 1}")).await;
    gate.open();
    let (body, end) = client.rest().await;
    assert_eq!((end, events(&body).last().map(String::as_str)), (Arrival::End, Some("[DONE]")));
    // 7 tokens at 1 and 3 at 2 dollars for a million: the price when it came.
    gateway.metric_becomes(r#"keymeter_cost_usd_total{key_id="key_test",model="m"}"#, 0.000_013).await;
    let refusal = gateway.chat(&chat()).await;
    assert_eq!((refusal.status, code(&refusal).as_str()), (429, "rate_limit_exceeded"));
    reload_keys(&gateway, &one_key("")).await;
    assert_eq!(gateway.chat(&chat()).await.status, 200);
    assert_eq!((former.received().len(), latter.received().len()), (1, 1));
}
