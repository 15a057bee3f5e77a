//! Several gateways, one limit: over a real Redis server, in good days and bad.

mod busy;
mod faults;
mod limits;
mod lost;
mod processes;
mod scopes;
mod servers;
mod turn;

use std::time::{Duration, Instant};

use keymeter_core::key::Secret;
use serde_json::{Value, json};

use crate::support::{
    client::{Client, PATIENCE, Response},
    gateway::Gateway,
    redis::Redis,
    scene::{configuration, post},
    script::{Gate, Script, completion},
    soak::scaled,
    upstream::ScriptedUpstream,
};

/// Keys `key_0` and so on, with these fields.
fn keys(count: usize, fields: &str) -> String {
    let key = |number| {
        let hash = Secret::new(secret(number)).hash();
        format!("  - {{id: key_{number}, name: Key {number}, hash: \"{hash}\", {fields}}}\n")
    };
    let keys: String = (0..count).map(key).collect();
    format!("keys:\n{keys}")
}

fn secret(number: usize) -> String {
    format!("sk-shared-{number}")
}

/// Gateways before one upstream that share their limits at this address.
async fn gateways(count: usize, upstream: &ScriptedUpstream, shared: &str, keys: &str) -> Vec<Gateway> {
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let text = configuration(&upstreams, "", &format!("limits: {{shared: {{{shared}}}}}"));
    let gateways: Vec<_> = (0..count).map(|_| Gateway::start(&text, keys)).collect();
    for gateway in &gateways {
        gateway.metric_becomes("keymeter_shared_limits_reachable", 1.0).await;
    }
    // Each is to know of all others.
    for gateway in &gateways {
        gateway.metric_becomes("keymeter_shared_limits_gateways", count as f64).await;
    }
    gateways
}

fn body() -> Value {
    json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]})
}

async fn ask(client: &mut Client, number: usize) -> Response {
    post(client, "/v1/chat/completions", &secret(number), &body()).await
}

async fn upstream() -> ScriptedUpstream {
    ScriptedUpstream::start(|_| Script::json(200, &completion("m", 3))).await
}
