//! What is changed at the key service is changed here at once: for requests to come, and for those that run.

use std::time::{Duration, Instant};

use keymeter_core::{key::Secret, usage::count_tokens};
use serde_json::{Value, json};

use super::{OTHER, another, answering, ask, asked, gateway, record};
use crate::{
    endings::PROMPT,
    support::{
        client::{Arrival, Client, within},
        gateway::{Gateway, SECRET},
        h2_upstream::H2Upstream,
        h2c::H2c,
        scene::{DONE, chat, configuration, says, stream, sum_becomes, uses},
        script::{Gate, Script, Step},
        service::KeyService,
        soak::scaled,
        upstream::ScriptedUpstream,
    },
};

fn key_event(id: &str) -> String {
    format!("event: key\ndata: {{\"id\":\"{id}\"}}\n\n")
}

/// A name, what is done at the service, and what a request is answered with then.
type Round<'test> = (&'static str, Box<dyn Fn() + 'test>, (u16, Value));

fn with_state(state: &str) -> Value {
    let mut record = record();
    record["state"] = state.into();
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_changes_a_key_at_once() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    service.set(record());
    let gateway = gateway(&upstream, &service, "ttl: 1h", "");
    service.wait_for_listener(1).await;
    gateway.metric_becomes("keymeter_key_events_connected", 1.0).await;
    let steps: [Round<'_>; 5] = [
        ("as it is", Box::new(|| {}), (200, Value::Null)),
        ("disabled", Box::new(|| service.set(with_state("disabled"))), (401, "api_key_disabled".into())),
        ("enabled", Box::new(|| service.set(record())), (200, Value::Null)),
        ("deleted", Box::new(|| service.remove(SECRET)), (401, "invalid_api_key".into())),
        ("made again", Box::new(|| service.set(record())), (200, Value::Null)),
    ];
    for (name, change, expected) in steps {
        change();
        service.send(&key_event("key_test"));
        becomes(&gateway, name, &expected).await;
    }
    service.set(with_state("disabled"));
    service.send("event: all\n\n");
    becomes(&gateway, "all", &(401, "api_key_disabled".into())).await;
    service.set(record());
    let told = gateway.connect().await.chat("", &json!({})).await;
    assert_eq!(told.status, 401);
    let mut admin = Client::connect(gateway.server.admin_address).await;
    let hash = Secret::new(SECRET).hash().to_hex();
    let body = json!({ "hash": hash }).to_string();
    assert_eq!(admin.request("POST", "/-/keys/invalidate", &[], body.as_bytes()).await.status, 204);
    assert_eq!(asked(&gateway, SECRET).await, (200, Value::Null), "from the answer on");
    let refused = admin.request("POST", "/-/keys/invalidate", &[], b"{\"id\":7}").await;
    assert_eq!((refused.status, refused.text().contains("send {\"id\"}")), (400, true), "{}", refused.text());
}

/// An event takes a moment to come: but no longer than that.
async fn becomes(gateway: &Gateway, name: &str, expected: &(u16, Value)) {
    let start = Instant::now();
    loop {
        let now = asked(gateway, SECRET).await;
        if now == *expected {
            return println!("{name}: after {:?}", start.elapsed());
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: {now:?} does not become {expected:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_under_way_never_brings_a_revoked_key_back() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    let gateway = gateway(&upstream, &service, "ttl: 1h", "");
    service.wait_for_listener(1).await;
    let rounds = scaled(30, 1000);
    for round in 0..rounds {
        service.set(record());
        let gate = service.hold();
        let before = service.look_ups().len();
        invalidate(&gateway, "key_test").await;
        let address = gateway.address();
        let asking = tokio::spawn(async move { ask(&mut Client::connect(address).await, SECRET).await.status });
        service.wait_for_look_up(before + 1).await;
        // The answer is decided, and says that all is well. It comes after the key is gone.
        service.remove(SECRET);
        invalidate(&gateway, "key_test").await;
        gate.open();
        assert_eq!(asking.await.unwrap(), 401, "round {round}");
        assert_eq!(asked(&gateway, SECRET).await.0, 401, "round {round}");
    }
}

async fn invalidate(gateway: &Gateway, id: &str) {
    let mut admin = Client::connect(gateway.server.admin_address).await;
    let body = json!({ "id": id }).to_string();
    assert_eq!(admin.request("POST", "/-/keys/invalidate", &[], body.as_bytes()).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_gap_what_is_known_is_checked_again() {
    let (upstream, service) = (answering().await, KeyService::start().await);
    service.set(record());
    service.set(another());
    let gateway = gateway(&upstream, &service, "ttl: 1h", "");
    service.wait_for_listener(1).await;
    service.send("id: 7\nevent: key\ndata: {\"id\":\"key_none\"}\n\n");
    for secret in [SECRET, OTHER] {
        assert_eq!(asked(&gateway, secret).await.0, 200);
    }
    service.hang_up();
    service.set(with_state("disabled"));
    service.wait_for_listener(2).await;
    gateway.metric_becomes("keymeter_key_events_connected", 1.0).await;
    assert_eq!(asked(&gateway, SECRET).await, (401, "api_key_disabled".into()), "though no event came");
    assert_eq!(asked(&gateway, OTHER).await.0, 200);
    assert_eq!(service.last_event_ids(), [None, Some("7".to_owned())]);
}

/// Two words, and then nothing until `gate` opens.
fn words(gate: &Gate) -> Script {
    stream([says("one "), says("two "), uses(7, 50), DONE.to_owned()]).gated(2, gate).then(Step::Finish)
}

/// Waits until both have come.
async fn both_words(client: &mut Client) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("two ") {
        match client.next_chunk().await {
            Arrival::Chunk { data, .. } => seen.extend(data),
            end => panic!("{end:?} after {seen:?}"),
        }
    }
}

/// The rest of a stream that is cut, once its first words have come.
async fn rest_of(client: &mut Client) -> (String, Arrival) {
    let (rest, end) = client.rest().await;
    (String::from_utf8(rest).unwrap(), end)
}

fn is_cut(gateway: &Gateway, code: &str) {
    let line = gateway.next_line();
    assert_eq!((&line["reason"], &line["client_aborted"]), (&code.into(), &false.into()), "{line}");
    assert_eq!(
        (&line["usage_source"], &line["output_tokens"]),
        (&"estimated".into(), &count_tokens("one two ").into()),
        "what came: {line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_key_is_revoked_ends_though_its_upstream_is_silent() {
    let gate = Gate::new();
    let script = words(&gate);
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    for on_abort in ["stop", "drain"] {
        let service = KeyService::start().await;
        service.set(record());
        service.set(another());
        let gateway = gateway(&upstream, &service, "ttl: 1h", &format!("on_client_abort: {on_abort}"));
        service.wait_for_listener(1).await;
        let (mut revoked, mut other) = (gateway.connect().await, gateway.connect().await);
        for (client, secret) in [(&mut revoked, SECRET), (&mut other, OTHER)] {
            client.chat_stream(secret, &chat("m", PROMPT, true)).await;
            both_words(client).await;
        }
        let closed = upstream.connections_closed();
        service.set(with_state("disabled"));
        let sent = Instant::now();
        service.send(&key_event("key_test"));
        let (rest, end) = rest_of(&mut revoked).await;
        println!("{on_abort}: cut after {:?}", sent.elapsed());
        assert!(sent.elapsed() < Duration::from_secs(1), "{on_abort}: {:?}", sent.elapsed());
        assert!(rest.contains(r#""code":"api_key_disabled""#), "{on_abort}: {rest:?} {end:?}");
        upstream.wait_for_closed(closed + 1).await;
        is_cut(&gateway, "api_key_disabled");
        sum_becomes(&gateway, "keymeter_requests_in_flight{", 1.0).await;
        assert_eq!(gateway.metric("keymeter_key_revocation_lag_seconds_count").await, 1.0);
        other.abort();
    }
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_http2_whose_key_is_revoked_ends_and_the_connection_goes_on() {
    let gate = Gate::new();
    let script = words(&gate);
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let service = KeyService::start().await;
    service.set(record());
    service.set(another());
    let gateway = gateway(&upstream, &service, "ttl: 1h", "");
    service.wait_for_listener(1).await;
    let client = H2c::connect(gateway.address()).await;
    let body = chat("m", PROMPT, true).to_string();
    let mut revoked = client.send(SECRET, body.as_bytes()).await.head().await;
    let mut other = client.send(OTHER, body.as_bytes()).await.head().await;
    for answer in [&mut revoked, &mut other] {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("two ") {
            seen.extend(answer.piece().await.unwrap());
        }
    }
    service.set(with_state("archived"));
    service.send(&key_event("key_test"));
    let rest = within("the end", revoked.until_the_end()).await;
    assert!(String::from_utf8_lossy(&rest).contains(r#""code":"api_key_archived""#), "{rest:?}");
    is_cut(&gateway, "api_key_archived");
    gate.open();
    assert!(String::from_utf8(other.rest().await).unwrap().ends_with(DONE));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_an_upstream_of_http2_is_reset() {
    let gate = Gate::new();
    let script = words(&gate);
    let upstream = H2Upstream::start(move |_| script.clone()).await;
    let service = KeyService::start().await;
    service.set(record());
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, &upstream.certificate).unwrap();
    let entry = format!("{{name: scripted, url: \"{}\", ca: {}}}", upstream.url(), ca.display());
    let http = format!("http: {{url: \"{0}/{{hash}}\", events_url: \"{0}/events\"}}", service.url());
    let text = configuration(&entry, "", "").replace("yaml: {path: keys.yaml}", &http);
    let gateway = Gateway::start(&text, "keys: []");
    service.wait_for_listener(1).await;
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &chat("m", PROMPT, true)).await;
    both_words(&mut client).await;
    service.remove(SECRET);
    service.send(&key_event("key_test"));
    let (rest, _) = rest_of(&mut client).await;
    assert!(rest.contains(r#""code":"invalid_api_key""#), "{rest}");
    upstream.wait_for_reset().await;
    is_cut(&gateway, "invalid_api_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_its_answer_is_refused_when_its_key_is_revoked() {
    let upstream = ScriptedUpstream::start(|_| Script::hang()).await;
    let service = KeyService::start().await;
    service.set(record());
    let gateway = gateway(&upstream, &service, "ttl: 1h", "");
    service.wait_for_listener(1).await;
    let mut client = gateway.connect().await;
    client.send("POST", "/v1/messages", &[("x-api-key", SECRET)], b"{}").await;
    assert_eq!(client.response().await.status, 404, "the upstream speaks OpenAI's API only");
    client
        .send("POST", "/v1/chat/completions", &[("x-api-key", SECRET)], chat("m", "", false).to_string().as_bytes())
        .await;
    upstream.wait_for_request(1).await;
    service.set(with_state("no_balance"));
    service.send(&key_event("key_test"));
    let answer = client.response().await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &"insufficient_quota".into()));
    upstream.wait_for_closed(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_finish_a_stream_goes_on_and_the_next_request_is_refused() {
    let gate = Gate::new();
    let script = words(&gate);
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let service = KeyService::start().await;
    service.set(record());
    let gateway = gateway(&upstream, &service, "ttl: 1h", "on_revoke: finish");
    service.wait_for_listener(1).await;
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &chat("m", PROMPT, true)).await;
    both_words(&mut client).await;
    service.set(with_state("disabled"));
    service.send(&key_event("key_test"));
    gateway.metric_becomes("keymeter_key_revocation_lag_seconds_count", 1.0).await;
    assert_eq!(asked(&gateway, SECRET).await, (401, "api_key_disabled".into()));
    gate.open();
    assert!(rest_of(&mut client).await.0.ends_with(DONE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_expires_ends_its_streams() {
    let gate = Gate::new();
    let script = words(&gate);
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let service = KeyService::start().await;
    let mut soon = record();
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1500);
    soon["expires_at"] = end.to_string().into();
    service.set(soon);
    let gateway = gateway(&upstream, &service, "ttl: 1h", "");
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &chat("m", PROMPT, true)).await;
    let (rest, _) = rest_of(&mut client).await;
    let late = jiff::Timestamp::now().duration_since(end);
    assert!(rest.contains(r#""code":"api_key_expired""#), "{rest}");
    assert!((jiff::SignedDuration::ZERO..jiff::SignedDuration::from_secs(1)).contains(&late), "{late:?}");
    is_cut(&gateway, "api_key_expired");
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_out_of_the_file_ends_its_streams_too() {
    let gate = Gate::new();
    let script = words(&gate);
    let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    client.chat_stream(SECRET, &chat("m", PROMPT, true)).await;
    both_words(&mut client).await;
    gateway.write_keys("keys: []");
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    let (rest, _) = rest_of(&mut client).await;
    assert!(rest.contains(r#""code":"invalid_api_key""#), "{rest}");
    is_cut(&gateway, "invalid_api_key");
    gate.open();
}
