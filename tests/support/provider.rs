//! An issuer by which people sign in (OpenID Connect), for tests: it gives codes, and tokens for them, and has faults.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    script::Script,
    signer::Signer,
    upstream::{Received, ScriptedUpstream},
};

pub const CLIENT: &str = "keymeter";
/// As a form has to encode it.
pub const SECRET: &str = "client-secret/of+the:tests%";
/// Where the page is reached, as the configuration says. Nobody is there: a test's browser asks the plane itself.
pub const PAGE: &str = "http://keys.example";

/// An issuer on a free port of loopback.
pub struct Provider {
    server: ScriptedUpstream,
    state: Arc<Mutex<State>>,
    pub signer: Signer,
}

#[derive(Default)]
struct State {
    keys: Vec<Value>,
    /// What is said in place of the real thing, by path.
    faults: HashMap<String, Script>,
    metadata: Value,
    codes: HashMap<String, Grant>,
    /// How many codes there were.
    given: usize,
    information: Value,
    is_public: bool,
}

struct Grant {
    challenge: String,
    token: String,
}

/// What a browser was sent to the issuer with.
pub struct Asked(HashMap<String, String>);

impl Asked {
    pub fn read(location: &str) -> Self {
        let url = reqwest::Url::parse(location).unwrap();
        Self(url.query_pairs().into_owned().collect())
    }

    pub fn field(&self, name: &str) -> &str {
        &self.0[name]
    }

    /// The way back to the page, with what `answer` says.
    pub fn back(&self, answer: &str) -> String {
        let path = self.field("redirect_uri").strip_prefix(PAGE).expect("it leads to the page that is configured");
        format!("{path}?{answer}&state={}", self.field("state"))
    }
}

impl Provider {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State { metadata: json!({}), information: json!({}), ..State::default() }));
        let answering = state.clone();
        let server = ScriptedUpstream::start(move |request| answering.lock().unwrap().answer(request)).await;
        let signer = Signer::rsa("first");
        let provider = Self { server, state, signer };
        provider.show(vec![provider.signer.jwk()]);
        provider
    }

    /// Its name, which its tokens say as `iss`.
    pub fn name(&self) -> String {
        self.server.url()
    }

    /// The part of a `control` section that names it.
    pub fn section(&self, more: &str) -> String {
        let name = self.name();
        format!(
            "page_url: '{PAGE}', oidc: {{issuer: '{name}', client_id: {CLIENT}, client_secret: '{SECRET}', {more}}}"
        )
    }

    /// The same for a client without a secret.
    pub fn public_section(&self) -> String {
        self.state.lock().unwrap().is_public = true;
        format!("page_url: '{PAGE}', oidc: {{issuer: '{}', client_id: {CLIENT}}}", self.name())
    }

    /// From now on these are its keys.
    pub fn show(&self, keys: Vec<Value>) {
        self.state.lock().unwrap().keys = keys;
    }

    /// At `path` it answers like this from now on.
    pub fn fail_at(&self, path: &str, script: Script) {
        self.state.lock().unwrap().faults.insert(path.to_owned(), script);
    }

    /// It answers as it should from now on.
    pub fn recover(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    /// What it says of itself otherwise than usual.
    pub fn says(&self, metadata: Value) {
        self.state.lock().unwrap().metadata = metadata;
    }

    /// What it says of whoever an access token is of.
    pub fn informs(&self, information: Value) {
        self.state.lock().unwrap().information = information;
    }

    /// What the ID token says that belongs to `asked`, with other values of some claims; one that is null is left out.
    pub fn claims(&self, asked: &Asked, others: &Value) -> Value {
        let now = Timestamp::now().as_second();
        let mut claims = json!({
            "iss": self.name(), "aud": CLIENT, "sub": "0123", "iat": now, "exp": now + 300, "nonce": asked.field("nonce"),
        });
        for (name, value) in others.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims
    }

    /// A code for which there is this ID token.
    pub fn code_for(&self, asked: &Asked, token: String) -> String {
        let mut state = self.state.lock().unwrap();
        state.given += 1;
        let code = format!("code-{}-of-the-tests", state.given);
        state.codes.insert(code.clone(), Grant { challenge: asked.field("code_challenge").to_owned(), token });
        code
    }

    /// The way back of somebody of whom it says this.
    pub fn lets_in(&self, asked: &Asked, claims: &Value) -> String {
        let token = self.signer.token(&self.claims(asked, claims));
        asked.back(&format!("code={}", self.code_for(asked, token)))
    }

    /// What it was asked.
    pub fn asked(&self, path: &str) -> Vec<Received> {
        self.server.received().into_iter().filter(|request| request.path == path).collect()
    }
}

impl State {
    fn answer(&mut self, request: &Received) -> Script {
        if let Some(fault) = self.faults.get(&request.path) {
            return fault.clone();
        }
        match request.path.as_str() {
            "/.well-known/openid-configuration" => self.metadata(request),
            "/jwks" => Script::json(200, &json!({"keys": self.keys})),
            "/token" => self.tokens(request),
            "/userinfo" if request.header("authorization") == Some("Bearer access-token-of-the-tests") => {
                Script::json(200, &self.information)
            }
            _ => Script::json(404, &json!({})),
        }
    }

    fn metadata(&self, request: &Received) -> Script {
        let name = format!("http://{}", request.header("host").unwrap());
        let mut metadata = json!({
            "issuer": name, "authorization_endpoint": format!("{name}/authorize?tenant=tests"),
            "token_endpoint": format!("{name}/token"), "jwks_uri": format!("{name}/jwks"),
            "userinfo_endpoint": format!("{name}/userinfo"),
        });
        for (field, value) in self.metadata.as_object().unwrap() {
            metadata[field] = value.clone();
        }
        Script::json(200, &metadata)
    }

    /// A code is good once, with its verifier, and for the client that it was made for.
    fn tokens(&mut self, request: &Received) -> Script {
        let url = format!("http://x/?{}", String::from_utf8_lossy(&request.body));
        let form: HashMap<_, _> = reqwest::Url::parse(&url).unwrap().query_pairs().into_owned().collect();
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        if !self.is_client(request, (field("client_id"), field("client_secret"))) {
            return Script::json(401, &json!({"error": "invalid_client"}));
        }
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(field("code_verifier")));
        let grant = self.codes.remove(field("code")).filter(|grant| grant.challenge == challenge);
        let is_right =
            field("grant_type") == "authorization_code" && field("redirect_uri") == format!("{PAGE}/sign-in/callback");
        match grant.filter(|_| is_right) {
            Some(Grant { token, .. }) => {
                let access = "access-token-of-the-tests";
                Script::json(200, &json!({"id_token": token, "access_token": access, "token_type": "Bearer"}))
            }
            None => Script::json(400, &json!({"error": "invalid_grant"})),
        }
    }

    fn is_client(&self, request: &Received, (id, secret): (&str, &str)) -> bool {
        if self.is_public {
            return id == CLIENT && secret.is_empty() && request.header("authorization").is_none();
        }
        let methods = self.metadata["token_endpoint_auth_methods_supported"].as_array();
        if methods.is_some_and(|methods| methods.contains(&json!("client_secret_post"))) {
            return (id, secret) == (CLIENT, SECRET);
        }
        let encoded = "client-secret%2Fof%2Bthe%3Atests%25";
        let basic = format!("Basic {}", STANDARD.encode(format!("{CLIENT}:{encoded}")));
        request.header("authorization") == Some(&basic) && secret.is_empty()
    }
}
