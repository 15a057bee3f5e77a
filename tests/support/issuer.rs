//! An issuer of tokens for tests: the keys that it shows, the faults that it has, and how often it was asked.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    script::Script,
    signer::Signer,
    upstream::{Received, ScriptedUpstream},
};

/// An issuer whose keys are on a free port of loopback.
pub struct Issuer {
    server: ScriptedUpstream,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    keys: Vec<Value>,
    error: Option<Script>,
}

/// What its tokens say as `iss` and `aud`.
pub const NAME: &str = "https://login.example/realms/tests";
pub const AUDIENCE: &str = "keymeter";

impl Issuer {
    /// An issuer that shows these keys.
    pub async fn start(keys: &[&Signer]) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let answering = state.clone();
        let server = ScriptedUpstream::start(move |_| answering.lock().unwrap().answer()).await;
        let issuer = Self { server, state };
        issuer.show(keys);
        issuer
    }

    /// It shows these keys from now on, and no others.
    pub fn show(&self, keys: &[&Signer]) {
        self.show_as(keys.iter().map(|key| key.jwk()).collect());
    }

    /// The same, as they are written.
    pub fn show_as(&self, keys: Vec<Value>) {
        let mut state = self.state.lock().unwrap();
        (state.keys, state.error) = (keys, None);
    }

    /// It answers like this from now on.
    pub fn fail_as(&self, script: Script) {
        self.state.lock().unwrap().error = Some(script);
    }

    /// Where its keys are.
    pub fn jwks(&self) -> String {
        format!("{}/jwks.json", self.server.url())
    }

    /// Its entry in a configuration.
    pub fn entry(&self) -> String {
        format!(
            "{{issuer: \"{NAME}\", audience: {AUDIENCE}, jwks: \"{}\", algorithms: [RS256, ES256, EdDSA]}}",
            self.jwks()
        )
    }

    /// What it was asked.
    pub fn asked(&self) -> Vec<Received> {
        self.server.received()
    }

    /// Waits until it was asked so often.
    pub async fn wait_for(&self, count: usize) {
        self.server.wait_for_request(count).await;
    }
}

impl State {
    fn answer(&self) -> Script {
        self.error.clone().unwrap_or_else(|| Script::json(200, &json!({"keys": self.keys})))
    }
}

/// What a token of `holder` says that is good for an hour.
pub fn claims(holder: &str) -> Value {
    let now = Timestamp::now().as_second();
    json!({"iss": NAME, "aud": AUDIENCE, "sub": holder, "iat": now, "nbf": now, "exp": now + 3600})
}

/// The same, with other values of some claims; one that is null is left out.
pub fn claims_with(holder: &str, others: &Value) -> Value {
    let mut claims = claims(holder);
    for (name, value) in others.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}
