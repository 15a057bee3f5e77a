//! The service that keeps the usage records, for tests: it counts each record once, and fails as a test says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use keymeter_core::record::Record;
use serde_json::{Value, json};

use super::{
    client::PATIENCE,
    script::{Script, Step},
    upstream::{Received, ScriptedUpstream},
};

/// The accounting service on a free port of loopback.
pub struct UsageService {
    server: ScriptedUpstream,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    records: HashMap<String, Record>,
    /// Records that came again.
    again: usize,
    batches: Vec<Received>,
    failure: Failure,
}

/// What goes wrong with what it is sent.
#[derive(Clone, Debug, Default)]
pub enum Failure {
    #[default]
    None,
    /// It answers with this and takes nothing.
    Status(u16),
    /// It takes what it is sent, and the connection breaks before it has said so.
    AnswerLost,
    /// It refuses records of this model, and says which in OpenAI's form.
    RefusesModel(&'static str),
    /// It refuses batches with a record of this model, and does not say which that is.
    RefusesModelSilently(&'static str),
    /// It answers batches with a record of this model with this status and takes nothing of them, for ever.
    FailsAtModel(&'static str, u16),
    /// It refuses records of this model, and says of each which it is.
    RefusesAllOfModel(&'static str),
}

impl UsageService {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let answering = state.clone();
        let server = ScriptedUpstream::start(move |request| answering.lock().unwrap().answer(request)).await;
        Self { server, state }
    }

    pub fn usage_url(&self) -> String {
        format!("{}/v1/usage/records", self.server.url())
    }

    pub fn fail(&self, failure: Failure) {
        self.with(|state| state.failure = failure);
    }

    /// The records that it has, by their ids.
    pub fn records(&self) -> HashMap<String, Record> {
        self.with(|state| state.records.clone())
    }

    /// How often it was sent a record that it had.
    pub fn again(&self) -> usize {
        self.with(|state| state.again)
    }

    /// What it was sent, request by request.
    pub fn batches(&self) -> Vec<Received> {
        self.with(|state| state.batches.clone())
    }

    /// Waits until it has a record of this request.
    pub async fn record(&self, request_id: &str) -> Record {
        self.wait(request_id, |state| state.records.get(request_id).cloned()).await
    }

    /// Waits until it has so many records.
    pub async fn has(&self, count: usize) {
        self.wait("so many records", |state| (state.records.len() >= count).then_some(())).await;
    }

    /// Waits until it was sent something more.
    pub async fn is_asked(&self) {
        let before = self.batches().len();
        self.wait("another batch", |state| (state.batches.len() > before).then_some(())).await;
    }

    async fn wait<T>(&self, what: &str, find: impl Fn(&State) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = self.with(|state| find(state)) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "the usage_service waits in vain for {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }
}

impl State {
    fn answer(&mut self, request: &Received) -> Script {
        self.batches.push(request.clone());
        let body = request.json();
        let records: Vec<Value> = body["records"].as_array().cloned().unwrap_or_default();
        let is_bad = |model: &str| records.iter().position(|record| record["model"] == model);
        match &self.failure {
            Failure::Status(status) => return Script::error(*status, "server_error", "not now"),
            Failure::RefusesModel(model) => {
                if let Some(index) = is_bad(model) {
                    let error = json!({"message": "no such model", "type": "invalid_request_error",
                        "param": format!("records[{index}]"), "code": "unreadable"});
                    return Script::json(422, &json!({"error": error}));
                }
            }
            Failure::RefusesModelSilently(model) if is_bad(model).is_some() => {
                return Script::error(422, "invalid_request_error", "no");
            }
            Failure::FailsAtModel(model, status) if is_bad(model).is_some() => {
                return Script::error(*status, "server_error", "not now");
            }
            Failure::RefusesAllOfModel(model) if is_bad(model).is_some() => {
                let refused: Vec<_> = (0..records.len())
                    .filter(|index| records[*index]["model"] == *model)
                    .map(|index| json!({"index": index, "id": records[index]["id"], "message": "no such model"}))
                    .collect();
                let error = json!({"message": "no", "type": "invalid_request_error", "param": "records", "code": "x"});
                return Script::json(422, &json!({"error": error, "refused": refused}));
            }
            _ => {}
        }
        for record in &records {
            let record = Record::parse(record.to_string().as_bytes()).expect("the gateway sends records");
            self.again += usize::from(self.records.insert(record.id.to_string(), record).is_some());
        }
        match self.failure {
            Failure::AnswerLost => Script { status: 200, headers: Vec::new(), steps: vec![Step::Reset] },
            _ => Script::json(200, &json!({"accepted": records.len()})),
        }
    }
}
