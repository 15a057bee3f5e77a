//! Tokens of an issuer in place of a secret: whose they are, what is none, and what an issuer that changes its keys, is slow
//! or gone does to whom.

mod checked;
mod issuers;

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use keymeter_core::key::KeyHash;
use serde_json::{Value, json};

use crate::support::{
    client::{Client, PATIENCE, Response},
    gateway::{Gateway, one_key},
    issuer::NAME,
    scene::{chat, configuration},
    script::{Script, completion},
    upstream::ScriptedUpstream,
};

/// A gateway that takes tokens of these issuers (in YAML's flow form) beside the keys of a file: `ada`'s, and the one with
/// a secret.
fn gateway(upstream: &ScriptedUpstream, issuers: &str, extra: &str) -> Gateway {
    Gateway::start(&text(upstream, issuers, extra), &keys(""))
}

fn text(upstream: &ScriptedUpstream, issuers: &str, extra: &str) -> String {
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let clients = ", client_address: {header: x-forwarded-for, trusted: [\"127.0.0.0/8\"]}";
    let text = configuration(&upstreams, clients, extra);
    text.replace("keys: {yaml: {path: keys.yaml}}", &format!("keys: {{yaml: {{path: keys.yaml}}, jwt: [{issuers}]}}"))
}

fn keys(extra: &str) -> String {
    format!("{}  - {{id: key_ada, name: Ada, hash: \"{}\"{extra}}}\n", one_key(""), hash("ada"))
}

/// The hash by which the key of a holder of the issuer's tokens is looked up.
fn hash(holder: &str) -> KeyHash {
    KeyHash::of_token_holder(NAME, holder)
}

async fn answering() -> ScriptedUpstream {
    ScriptedUpstream::start(|_| Script::json(200, &completion("m", 1))).await
}

/// A chat request with a bearer's credential that comes from an address of its own, so that no bad one is held against
/// another.
async fn ask(client: &mut Client, credential: &str) -> Response {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let from = Ipv4Addr::from_bits(0x0A00_0000 | ASKED.fetch_add(1, Ordering::Relaxed)).to_string();
    let authorization = format!("Bearer {credential}");
    let headers = [("authorization", authorization.as_str()), ("x-forwarded-for", from.as_str())];
    client.request("POST", "/v1/chat/completions", &headers, chat("m", "Hello", false).to_string().as_bytes()).await
}

/// The status of such a request, and the code of its error.
async fn asked(gateway: &Gateway, credential: &str) -> (u16, Value) {
    let answer = ask(&mut gateway.connect().await, credential).await;
    let code = if answer.status == 200 { Value::Null } else { answer.json()["error"]["code"].clone() };
    (answer.status, code)
}

/// Waits until a token's request has this status.
async fn becomes(gateway: &Gateway, token: &str, status: u16) {
    let (start, mut client) = (Instant::now(), gateway.connect().await);
    loop {
        let now = ask(&mut client, token).await.status;
        if now == status {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "it is {now} and does not become {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The issuer's keys are known.
async fn knows(gateway: &Gateway) {
    gateway.metric_becomes(&format!("keymeter_issuer_up{{issuer=\"{NAME}\"}}"), 1.0).await;
}

fn refused() -> (u16, Value) {
    (401, json!("invalid_api_key"))
}

fn unavailable() -> (u16, Value) {
    (503, json!("key_source_unavailable"))
}

const SERVED: (u16, Value) = (200, Value::Null);
