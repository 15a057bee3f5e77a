//! Keys from a key service: what is asked, what is believed, and what a service that is slow, wrong or gone does to
//! nobody whose key is known.

mod conformance;
mod described;
pub mod faults;
mod push;
mod reference;

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use keymeter_core::key::Secret;
use serde_json::{Value, json};

use crate::support::{
    client::{Client, Response},
    gateway::{Gateway, SECRET},
    scene::{chat, configuration, get},
    script::{Script, completion},
    service::KeyService,
    upstream::ScriptedUpstream,
};

pub const OTHER: &str = "sk-another-secret-of-another-key";

/// The record of the key `key_test`, as a service has it.
pub fn record() -> Value {
    json!({"id": "key_test", "name": "Test key", "hash": Secret::new(SECRET).hash().to_string()})
}

/// The record of another key.
pub fn another() -> Value {
    json!({"id": "key_other", "name": "Another key", "hash": Secret::new(OTHER).hash().to_string()})
}

/// A gateway with keys from `service`, whose cache is set as `cache` says.
pub fn gateway(upstream: &ScriptedUpstream, service: &KeyService, cache: &str, extra: &str) -> Gateway {
    let http = format!(
        "http: {{url: \"{0}/v1/keys/{{hash}}\", events_url: \"{0}/v1/keys/events\", token: keys-token, timeout: 500ms}}",
        service.url()
    );
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let clients = ", client_address: {header: x-forwarded-for, trusted: [\"127.0.0.0/8\"]}";
    let text = configuration(&upstreams, clients, &format!("key_cache: {{{cache}}}\n{extra}"));
    Gateway::start(&text.replace("yaml: {path: keys.yaml}", &http), "keys: []")
}

pub async fn answering() -> ScriptedUpstream {
    ScriptedUpstream::start(|_| Script::json(200, &completion("m", 1))).await
}

/// The status and the code that a chat request with `secret` is answered with.
pub async fn asked(gateway: &Gateway, secret: &str) -> (u16, Value) {
    let answer = ask(&mut gateway.connect().await, secret).await;
    let code = if answer.status == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
    (answer.status, code)
}

/// A chat request that comes from an address of its own, so that no bad key is held against another.
pub async fn ask(client: &mut Client, secret: &str) -> Response {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let from = Ipv4Addr::from_bits(0x0A00_0000 | ASKED.fetch_add(1, Ordering::Relaxed)).to_string();
    let headers = [("x-api-key", secret), ("x-forwarded-for", from.as_str())];
    client.request("POST", "/v1/chat/completions", &headers, chat("m", "Hello", false).to_string().as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_looked_up_once_by_its_hash_with_our_token() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    service.set(record());
    let gateway = gateway(&upstream, &service, "", "");
    gateway.metric_becomes("keymeter_key_events_connected", 1.0).await;
    for _ in 0..3 {
        assert_eq!(asked(&gateway, SECRET).await, (200, Value::Null));
        assert_eq!(asked(&gateway, OTHER).await, (401, "invalid_api_key".into()));
    }
    let asked = service.look_ups();
    assert_eq!(asked.len(), 2, "each is remembered: {asked:?}");
    for look_up in &asked {
        assert_eq!(look_up.header("authorization"), Some("Bearer keys-token"));
        assert!(!look_up.path.contains(SECRET) && !look_up.path.contains(OTHER));
    }
    assert_eq!(asked[0].path, format!("/v1/keys/{}", Secret::new(SECRET).hash().to_hex()));
}

/// A chat request from one address, whose answer's status matters alone.
async fn from_one_address(client: &mut Client, secret: &str) -> Response {
    let headers = [("x-api-key", secret), ("x-forwarded-for", "192.0.2.1")];
    client.request("POST", "/v1/chat/completions", &headers, chat("m", "Hello", false).to_string().as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_new_comes_through_a_flood_from_its_address_and_the_service_sees_a_tenth_of_that() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    let gateway = gateway(&upstream, &service, "", "");
    gateway.metric_becomes("keymeter_key_events_connected", 1.0).await;
    let mut client = gateway.connect().await;
    let mut bad = 0;
    let mut flood = async |client: &mut Client| {
        bad += 1;
        from_one_address(client, &format!("sk-bad-{bad}")).await
    };
    while flood(&mut client).await.status != 429 {}
    // The sketch counts by the second, in which there may be twenty more before it throttles again.
    let before = service.look_ups().len();
    let (mut throttled, mut made) = (0, 0);
    for _ in 0..200 {
        match flood(&mut client).await.status {
            429 => throttled += 1,
            401 => made += 1,
            other => panic!("status {other}"),
        }
    }
    assert_eq!(service.look_ups().len() - before, made, "what is throttled is not looked up");
    let seconds = 10;
    assert!(throttled > 0 && made <= 200 / 10 + 20 * seconds, "{made} of 200 were looked up");

    service.set(record());
    let mut tries = 0;
    loop {
        flood(&mut client).await;
        tries += 1;
        let answer = from_one_address(&mut client, SECRET).await;
        if answer.status == 200 {
            break;
        }
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
        assert!(tries < 100, "it does not come through");
    }
    for _ in 0..20 {
        flood(&mut client).await;
        assert_eq!(from_one_address(&mut client, SECRET).await.status, 200, "from then on it is never throttled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_misses_at_once_are_one_question() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    service.set(record());
    let gateway = gateway(&upstream, &service, "", "");
    gateway.metric_becomes("keymeter_key_events_connected", 1.0).await;
    let gate = service.hold();
    let asking: Vec<_> = (0..300)
        .map(|_| {
            let address = gateway.address();
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                get(&mut client, "/v1/models", SECRET).await.status
            })
        })
        .collect();
    service.wait_for_look_up(1).await;
    gate.open();
    for answer in asking {
        assert_eq!(answer.await.unwrap(), 200);
    }
    assert_eq!(service.look_ups().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_told_and_a_record_has_all_that_a_file_has() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    let gateway = gateway(&upstream, &service, "ttl: 0s", "");
    for (state, status, code) in [
        ("active", 200, Value::Null),
        ("disabled", 401, "api_key_disabled".into()),
        ("archived", 401, "api_key_archived".into()),
        ("no_balance", 429, "insufficient_quota".into()),
    ] {
        let mut record = record();
        record["state"] = state.into();
        record["wallet"] = json!({"id": "ada", "balance_usd": "12.5"});
        service.set(record);
        assert_eq!(asked(&gateway, SECRET).await, (status, code), "{state}");
    }
    let mut record = record();
    record["models"] = json!(["x*"]);
    record["limits"] = json!({"requests_per_minute": 5, "tokens_per_minute": "unlimited"});
    record["team"] = "research".into();
    record["expires_at"] = "2999-01-01T00:00:00Z".into();
    record["retiring"] = json!([{"hash": Secret::new(OTHER).hash().to_string(), "not_after": "2999-01-01T00:00:00Z"}]);
    service.set(record.clone());
    service.set_under(OTHER, record);
    assert_eq!(asked(&gateway, SECRET).await, (404, "model_not_found".into()));
    assert_eq!(asked(&gateway, OTHER).await, (404, "model_not_found".into()), "by its retiring secret too");
    let models = get(&mut gateway.connect().await, "/v1/models", SECRET).await;
    assert_eq!(models.header("x-ratelimit-limit-requests"), Some("5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_its_life_counts_and_an_unchanged_key_is_renewed() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    service.set(record());
    service.answer_with("cache-control", "max-age=0");
    service.answer_with("etag", "\"1\"");
    let gateway = gateway(&upstream, &service, "ttl: 1h", "");
    gateway.metric_becomes("keymeter_key_events_connected", 1.0).await;
    for _ in 0..3 {
        assert_eq!(asked(&gateway, SECRET).await.0, 200);
    }
    let asked: Vec<_> =
        service.look_ups().iter().map(|look_up| look_up.header("if-none-match").map(str::to_owned)).collect();
    assert_eq!(asked, [None, Some("\"1\"".to_owned()), Some("\"1\"".to_owned())]);
    assert_eq!(service.not_modified(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_is_ready_when_the_service_has_answered() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    service.fail(503);
    let waiting = gateway(&upstream, &service, "", "");
    let not_waiting = {
        let http = format!("http: {{url: \"{}/{{hash}}\"}}, ready_without_source: true", service.url());
        let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
        Gateway::start(&configuration(&upstreams, "", "").replace("yaml: {path: keys.yaml}", &http), "keys: []")
    };
    let ready = waiting.admin("GET", "/-/ready").await;
    assert_eq!(ready.status, 503);
    assert!(
        ready.text().starts_with("waiting for the key source\nkey source: has not answered yet\n"),
        "{}",
        ready.text()
    );
    let ready = not_waiting.admin("GET", "/-/ready").await;
    assert_eq!((ready.status, ready.text().lines().next()), (200, Some("ok")));
    assert!(ready.text().contains("key events: not configured"), "{}", ready.text());
    assert_eq!(asked(&waiting, SECRET).await, (503, "key_source_unavailable".into()));
    service.recover();
    let start = std::time::Instant::now();
    while waiting.admin("GET", "/-/ready").await.status != 200 {
        assert!(start.elapsed() < Duration::from_secs(5), "it answers again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
