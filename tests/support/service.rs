//! A key service for tests, that does what a test says: the keys that it has, the faults that it shows, the events that
//! it sends, and everything that it was asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use keymeter_core::key::{KeyHash, Secret};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    client::within,
    script::{Gate, Script, Step},
    upstream::{Received, ScriptedUpstream},
};

/// A service on a free port of loopback.
pub struct KeyService {
    server: ScriptedUpstream,
    state: Arc<Mutex<State>>,
    seen: watch::Receiver<usize>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Value>,
    headers: Vec<(String, String)>,
    error: Option<Script>,
    gate: Option<Gate>,
    look_ups: Vec<Received>,
    not_modified: usize,
    /// What each event stream is to send.
    listeners: Vec<watch::Sender<Vec<Bytes>>>,
    last_event_ids: Vec<Option<String>>,
}

impl KeyService {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (told, seen) = watch::channel(0);
        let answering = state.clone();
        let server = ScriptedUpstream::start(move |request| {
            let mut state = answering.lock().unwrap();
            if request.path.ends_with("/events") {
                let id = request.header("last-event-id").map(str::to_owned);
                state.last_event_ids.push(id);
                return state.stream();
            }
            // A gateway asks for a secret that nobody has, to see whether the service answers.
            if !request.path.ends_with(&hash("").to_hex()) {
                state.look_ups.push(request.clone());
                told.send_replace(state.look_ups.len());
            }
            state.answer(request)
        })
        .await;
        Self { server, state, seen }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// It has this key, or has it as this from now on.
    pub fn set(&self, record: Value) {
        let hash = record["hash"].as_str().expect("a record has its hash").trim_start_matches("sha256:").to_owned();
        self.with(|state| drop(state.keys.insert(hash, record)));
    }

    /// It answers so when it is asked by `secret`.
    pub fn set_under(&self, secret: &str, record: Value) {
        let hash = hash(secret).to_hex();
        self.with(|state| drop(state.keys.insert(hash, record)));
    }

    /// It has no key with this secret any more.
    pub fn remove(&self, secret: &str) {
        let hash = hash(secret).to_hex();
        self.with(|state| drop(state.keys.remove(&hash)));
    }

    /// Its answers bear this header.
    pub fn answer_with(&self, name: &str, value: &str) {
        self.with(|state| state.headers.push((name.to_owned(), value.to_owned())));
    }

    /// It answers every look-up with this status.
    pub fn fail(&self, status: u16) {
        self.fail_as(Script::json(status, &Value::Null));
    }

    /// It answers every look-up like this.
    pub fn fail_as(&self, script: Script) {
        self.with(|state| state.error = Some(script));
    }

    /// It answers again.
    pub fn recover(&self) {
        self.with(|state| state.error = None);
    }

    /// Its answers wait from now on until the gate is opened. What they say is decided when they are asked for.
    pub fn hold(&self) -> Gate {
        let gate = Gate::new();
        self.with(|state| state.gate = Some(gate.clone()));
        gate
    }

    /// It sends this to whoever listens now.
    pub fn send(&self, event: &str) {
        let piece = Bytes::from(event.to_owned());
        self.with(|state| state.listeners.iter().for_each(|stream| stream.send_modify(|all| all.push(piece.clone()))));
    }

    /// It closes its event streams.
    pub fn hang_up(&self) {
        self.with(|state| state.listeners.clear());
    }

    /// Waits until so many event streams were asked for in all.
    pub async fn wait_for_listener(&self, count: usize) {
        let listening = async {
            while self.state.lock().unwrap().last_event_ids.len() < count {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        within("a listener", listening).await;
    }

    /// The id from which each listener wanted to go on.
    pub fn last_event_ids(&self) -> Vec<Option<String>> {
        self.state.lock().unwrap().last_event_ids.clone()
    }

    pub fn look_ups(&self) -> Vec<Received> {
        self.state.lock().unwrap().look_ups.clone()
    }

    pub fn not_modified(&self) -> usize {
        self.state.lock().unwrap().not_modified
    }

    /// Waits until it was asked `count` times in all.
    pub async fn wait_for_look_up(&self, count: usize) {
        let mut seen = self.seen.clone();
        within("a look-up", seen.wait_for(|seen| *seen >= count)).await.expect("the service runs");
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }
}

impl State {
    fn answer(&mut self, request: &Received) -> Script {
        if let Some(error) = &self.error {
            return error.clone();
        }
        let hash = request.path.rsplit('/').next().unwrap_or_default();
        let tag = self.headers.iter().find(|(name, _)| name == "etag").map(|(_, tag)| tag.as_str());
        let mut script = match self.keys.get(hash) {
            Some(_) if tag.is_some() && request.header("if-none-match") == tag => {
                self.not_modified += 1;
                Script {
                    status: 304,
                    headers: vec![("content-length".to_owned(), "0".to_owned())],
                    steps: vec![Step::Finish],
                }
            }
            Some(record) => Script::json(200, record),
            None => Script::json(404, &Value::Null),
        };
        script.headers.extend(self.headers.clone());
        match &self.gate {
            Some(gate) => script.gated(0, gate),
            None => script,
        }
    }

    /// The events from now on.
    fn stream(&mut self) -> Script {
        let (sender, feed) = watch::channel(Vec::new());
        self.listeners.push(sender);
        let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
        Script { status: 200, headers, steps: vec![Step::Head, Step::Feed(feed), Step::Close] }
    }
}

fn hash(secret: &str) -> KeyHash {
    Secret::new(secret).hash()
}
