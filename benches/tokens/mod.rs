//! A gate that takes tokens, and the issuer that it asks for its key.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    sync::Arc,
};

use http::{HeaderMap, header::AUTHORIZATION};
use jiff::Timestamp;
use keymeter::{
    admission::{Gate, Settings},
    keys::{Resolver, YamlSource},
    limits::account::Accounts,
    observe::{access_log::AccessLog, metrics::Metrics},
    upstream::Pools,
};
use keymeter_config::{self as config, keys};
use keymeter_core::key::{KeyHash, Secret};
use serde_json::{Value, json};

use super::signer::Signer;

pub const SECRET: &str = "sk-000000000000000000000000000000000000000000000000";
const ISSUER: &str = "https://login.example";

/// A gate that takes tokens which `key` signs, and a secret.
pub fn gate(key: &Signer) -> Arc<Gate> {
    let text = format!(
        "upstreams: [{{name: a, url: 'http://127.0.0.1:1'}}]\nkeys:\n  yaml: {{path: none}}\n  jwt: [{{issuer: '{ISSUER}', \
         audience: keymeter, jwks: '{}', algorithms: [{}]}}]\n",
        issuer(&json!({"keys": [key.jwk()]})),
        key.algorithm()
    );
    let config = config::parse(&text, Path::new("bench"), &|_| None).expect("a good configuration");
    let metrics = Arc::new(Metrics::new(100_000).expect("metrics"));
    let [holder, secret] = [KeyHash::of_token_holder(ISSUER, "ada"), Secret::new(SECRET).hash()];
    let keys =
        format!("keys: [{{id: a, name: a key, hash: \"{holder}\"}}, {{id: b, name: a key, hash: \"{secret}\"}}]");
    let keys = keys::parse(&keys, Path::new("bench"), false, &|_| None).expect("good keys");
    let accounts = Arc::new(Accounts::new(metrics.clone()));
    let source = Arc::new(YamlSource::new(keys));
    let resolver = Arc::new(Resolver::new(source, &config.key_cache, accounts, metrics.clone(), Arc::default()));
    let settings = Settings::new(&config, &Pools::new(metrics.pools().clone()));
    let gate = Gate::new(settings, resolver, metrics, AccessLog::none());
    gate.issuers().replace(gate.issuers().prepare(&config.keys.jwt).expect("an issuer"));
    Arc::new(gate)
}

/// What a token says, each of another number; as long as those that people sign in with.
pub fn claims(number: u64) -> Value {
    let now = Timestamp::now().as_second();
    json!({"iss": ISSUER, "aud": "keymeter", "sub": "ada", "iat": now, "nbf": now, "exp": now + 36_000, "jti": number,
        "name": "Ada Lovelace", "email": "ada@example.com", "groups": ["research", "operators", "everybody"],
        "scope": "openid profile email", "azp": "a-client-of-the-issuer"})
}

pub fn head(credential: &str) -> HeaderMap {
    [(AUTHORIZATION, format!("Bearer {credential}").parse().expect("a header"))].into_iter().collect()
}

/// Where somebody answers everything with `keys`.
fn issuer(keys: &Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
    let body = keys.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    url
}
