//! What the gate is measured with: keys, heads and bodies, without a socket.

use std::{net::Ipv4Addr, path::Path, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, header::AUTHORIZATION};
use keymeter::{
    admission::{Credentials, Gate, Identified, Now, Outcome, RequestContext, Settings},
    keys::{Resolver, YamlSource},
    limits::account::Accounts,
    observe::{access_log::AccessLog, metrics::Metrics},
    upstream::Pools,
};
use keymeter_config::{self as config};
use keymeter_core::{
    api::{Api, Endpoint},
    body::Scanned,
    key::{KeyHash, KeyRecord, KeyState, OwnLimits, Priority},
};

/// A request from its head to its end: identified, admitted and settled. What was read of its body is handed back, for the
/// next one.
pub async fn exchange(gate: &Arc<Gate>, head: &HeaderMap, body: Box<Scanned>) -> Box<Scanned> {
    let now = Now::read();
    let request = identified(gate, head, now).await;
    let read_body = async |_| Ok(Ok(*body));
    let Ok((request, body)) = gate.admit(request, Endpoint::ChatCompletions, read_body, || now).await else {
        panic!("refused")
    };
    request.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now);
    body
}

/// A request whose key is known.
pub async fn identified(gate: &Arc<Gate>, head: &HeaderMap, now: Now) -> Identified {
    let context =
        RequestContext::new("/v1/chat/completions", Api::OpenAi, Ipv4Addr::LOCALHOST.into(), gate.settings(), now);
    let credentials = Credentials { headers: head, in_query: None };
    let Ok(request) = gate.identify(context, credentials, now).await else { panic!("an unknown key") };
    request
}

pub fn gate(keys: usize) -> Arc<Gate> {
    let text = r#"{upstreams: [{name: a, url: "http://127.0.0.1:1"}], keys: {yaml: {path: none}},
        limits: {requests_per_minute: 1000000000, tokens_per_minute: 1000000000000, concurrent_requests: 100}}"#;
    let config = config::parse(text, Path::new("bench"), &|_| None).expect("a good configuration");
    let metrics = Arc::new(Metrics::new(100_000).expect("metrics"));
    let accounts = Arc::new(Accounts::new(metrics.clone()));
    let source = Arc::new(YamlSource::new((0..keys).map(record).collect()));
    let resolver = Arc::new(Resolver::new(source, &config.key_cache, accounts, metrics.clone(), Arc::default()));
    let settings = Settings::new(&config, &Pools::new(metrics.pools().clone()));
    Arc::new(Gate::new(settings, resolver, metrics, AccessLog::none()))
}

fn record(number: usize) -> KeyRecord {
    KeyRecord {
        id: format!("key_{number}").parse().expect("an id"),
        name: "a key".parse().expect("a name"),
        hash: KeyHash::digest(secret(number).as_bytes()),
        state: KeyState::Active,
        owner: None,
        team: None,
        models: None,
        limits: OwnLimits::default(),
        expires_at: None,
        retiring: Box::default(),
        wallet: None,
        priority: Priority::default(),
        terms: None,
    }
}

fn secret(number: usize) -> String {
    format!("sk-{number:048}")
}

pub fn head(number: usize) -> HeaderMap {
    let value = format!("Bearer {}", secret(number)).parse().expect("a header");
    [(AUTHORIZATION, value)].into_iter().collect()
}

pub fn chat(size: usize) -> Bytes {
    let prompt = "how much of a question is needed for an answer? ".repeat(size / 48 + 1);
    let prompt = &prompt[..size];
    format!(r#"{{"model":"llama-3.1-8b","stream":true,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#).into()
}

/// A record as a ledger writes it.
pub const RECORD: &str = r#"{"id":"req_5b1f0c8a2d3e4f60800000000000002a","gateway":"9a3c5e7f01b2d4c6",
    "time":"2026-07-01T12:00:00.000001Z","key_id":"key_prod","key_name":"Production API","owner":"ada","team":"research",
    "wallet":"research","model":"llama-3","input_tokens":7,"cached_input_tokens":0,"cache_write_tokens":0,
    "output_tokens":5,"reasoning_tokens":0,"cost_usd":"0.000034","status":200,"usage_source":"upstream"}"#;
