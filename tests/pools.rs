//! Upstreams of several replicas: which one takes a request, what happens when one fails, and how requests wait.

mod addresses;
mod elsewhere;
mod health;
mod names;
mod queue;
mod trouble;

use serde_json::{Value, json};

use crate::support::{
    client::{Client, Response},
    gateway::{Gateway, SECRET},
    scene::configuration,
    script::{Script, completion},
    upstream::{Received, ScriptedUpstream},
};

/// A server that answers each chat with this many words.
async fn answering(words: u64) -> ScriptedUpstream {
    ScriptedUpstream::start(move |request| answer(request, words)).await
}

/// A chat's answer, and what checks ask for.
fn answer(request: &Received, words: u64) -> Script {
    match request.path.as_str() {
        "/health" => Script::json(200, &json!({})),
        "/v1/models" => Script::json(200, &json!({"data": [{"id": "m"}]})),
        _ => Script::json(200, &completion("m", words)),
    }
}

/// An upstream `pool` with these replicas, called `r0` and so on, and more fields.
fn pool(urls: &[String], fields: &str) -> String {
    let replicas: Vec<_> =
        urls.iter().enumerate().map(|(at, url)| format!("{{name: r{at}, url: \"{url}\"}}")).collect();
    format!("{{name: pool, replicas: [{}]{fields}}}", replicas.join(", "))
}

fn urls<'upstream>(upstreams: impl IntoIterator<Item = &'upstream ScriptedUpstream>) -> Vec<String> {
    upstreams.into_iter().map(ScriptedUpstream::url).collect()
}

fn gateway(upstreams: &str, keys: &str) -> Gateway {
    Gateway::start(&configuration(upstreams, "", ""), keys)
}

/// The chats among what a server was asked.
fn chats(upstream: &ScriptedUpstream) -> Vec<Received> {
    upstream.received().into_iter().filter(is_chat).collect()
}

fn is_chat(request: &Received) -> bool {
    request.path.ends_with("/chat/completions")
}

fn hello() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hello there"}]})
}

async fn ask(gateway: &Gateway) -> Response {
    gateway.connect().await.chat(SECRET, &hello()).await
}

async fn ask_by(client: &mut Client, secret: &str) -> Response {
    client.chat(secret, &hello()).await
}

/// What the admin address tells of a replica.
async fn replica(gateway: &Gateway, name: &str) -> Value {
    let told = gateway.admin("GET", "/-/upstreams").await.json();
    let replicas = told["upstreams"][0]["replicas"].as_array().cloned().unwrap_or_default();
    replicas.into_iter().find(|replica| replica["name"] == name).unwrap_or_else(|| panic!("{name}: {told}"))
}

/// Waits until a replica is in this state.
async fn becomes(gateway: &Gateway, name: &str, state: &str) {
    let start = std::time::Instant::now();
    loop {
        let told = replica(gateway, name).await;
        if told["state"] == state {
            return;
        }
        assert!(start.elapsed() < crate::support::client::PATIENCE, "{name} does not become {state}: {told}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

fn attempts(replica: &str, outcome: &str) -> String {
    format!("keymeter_attempts_total{{outcome=\"{outcome}\",replica=\"{replica}\",upstream=\"pool\"}}")
}
