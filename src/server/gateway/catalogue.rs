//! The models that a key may call: the literal names of the configuration, and for patterns
//! what the upstreams themselves say they have, kept for a minute.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use keymeter_config::Upstream;
use keymeter_core::{api::Api, model_name::is_valid};
use moka::{Expiry, future::Cache};
use parking_lot::Mutex;
use pingora::{
    ErrorType,
    connectors::http::Connector,
    http::RequestHeader,
    prelude::{Error, Result},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    proxy::RequestInfo,
    upstream::{Dialer, address_request},
};

/// A model that a key may call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ListedModel {
    pub id: String,
    pub owned_by: String,
}

/// How long an upstream's answer is kept.
const KEPT: Duration = Duration::from_mins(1);
/// How long an upstream that does not answer is not asked again.
const KEPT_UNANSWERED: Duration = Duration::from_secs(5);
/// More than anybody configures.
const MOST_UPSTREAMS: u64 = 10_000;
/// The longest that a client waits for an upstream's list.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest list that is read.
const LONGEST: usize = 4 << 20;

/// What upstreams said that they have.
pub(super) struct Catalogue {
    connector: Connector,
    /// By the upstream's name.
    lists: Cache<Arc<str>, Arc<List>>,
    /// What each upstream said when it last answered.
    last_lists: Mutex<HashMap<Arc<str>, Vec<String>>>,
}

impl Default for Catalogue {
    fn default() -> Self {
        let lists = Cache::builder().max_capacity(MOST_UPSTREAMS).expire_after(Kept).build();
        Self { connector: Connector::new(None), lists, last_lists: Mutex::default() }
    }
}

#[derive(Clone)]
struct List {
    names: Vec<String>,
    is_answer: bool,
}

/// The expiry of lists: an answer is kept for longer than a failure.
struct Kept;

impl Expiry<Arc<str>, Arc<List>> for Kept {
    fn expire_after_create(&self, _: &Arc<str>, list: &Arc<List>, _: Instant) -> Option<Duration> {
        Some(if list.is_answer { KEPT } else { KEPT_UNANSWERED })
    }
}

impl Catalogue {
    /// The models that the key of `pass` may call, sorted by name.
    pub async fn models_for(&self, pass: &RequestInfo, dialer: &Dialer) -> Vec<ListedModel> {
        let mut models = BTreeMap::new();
        for upstream in pass.settings.routes().iter().filter_map(|route| route.upstream.as_ref()) {
            let mut names: Vec<String> =
                upstream.models.iter().filter(|glob| glob.is_literal()).map(|glob| glob.as_str().to_owned()).collect();
            if lists_models(upstream) && upstream.models.iter().any(|glob| !glob.is_literal()) {
                let listed = self.listed(upstream, dialer).await;
                names.extend(listed.names.iter().filter(|name| serves(upstream, name)).cloned());
            }
            for id in names.into_iter().filter(|name| pass.key().may_call(name)) {
                models.entry(id).or_insert_with(|| upstream.name.to_string());
            }
        }
        models.into_iter().map(|(id, owned_by)| ListedModel { id, owned_by }).collect()
    }

    /// What `upstream` last said, asked for once for all who want to know. One that does not
    /// answer is taken at its last word.
    async fn listed(&self, upstream: &Arc<Upstream>, dialer: &Dialer) -> Arc<List> {
        // In a box, so that the requests that ask nothing do not carry its size.
        let asking = Box::pin(async {
            let answer = tokio::time::timeout(PATIENCE, self.ask(upstream, dialer)).await;
            match answer {
                Ok(Ok(names)) => Arc::new(self.answered(upstream, names)),
                Ok(Err(fault)) => Arc::new(self.unanswered(upstream, &fault.to_string())),
                Err(_) => Arc::new(self.unanswered(upstream, "it took too long")),
            }
        });
        self.lists.get_with(upstream.name.clone(), asking).await
    }

    fn answered(&self, upstream: &Upstream, names: Vec<String>) -> List {
        self.last_lists.lock().insert(upstream.name.clone(), names.clone());
        List { names, is_answer: true }
    }

    fn unanswered(&self, upstream: &Upstream, why: &str) -> List {
        tracing::warn!("upstream {} does not list its models: {why}", upstream.name);
        let names = self.last_lists.lock().get(&upstream.name).cloned().unwrap_or_default();
        List { names, is_answer: false }
    }

    async fn ask(&self, upstream: &Arc<Upstream>, dialer: &Dialer) -> Result<Vec<String>> {
        let peer = dialer.peer(upstream).await?;
        let (mut session, _) = self.connector.get_http_session(&*peer).await?;
        session.set_read_timeout(Some(PATIENCE));
        let mut request = RequestHeader::build(Method::GET, b"/v1/models", None)?;
        address_request(&mut request, upstream)?;
        session.write_request_header(Box::new(request)).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let status = session.response_header().map(|head| head.status.as_u16()).unwrap_or_default();
        let mut body = Vec::new();
        while let Some(chunk) = session.read_response_body().await? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST {
                return malformed("its list is too long");
            }
        }
        self.connector.release_http_session(session, &*peer, None).await;
        if status == 200 { names(&body) } else { malformed(&format!("it answered {status}")) }
    }
}

/// Whether an upstream can be asked at `/v1/models`; Gemini's API has none there.
fn lists_models(upstream: &Upstream) -> bool {
    upstream.apis.iter().any(|api| *api != Api::Gemini)
}

fn serves(upstream: &Upstream, name: &str) -> bool {
    upstream.models.iter().any(|glob| glob.matches(name))
}

/// The ids in a list of models as OpenAI's API writes it.
fn names(body: &[u8]) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Listed {
        data: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
    }
    match serde_json::from_slice::<Listed>(body) {
        // What could not be asked for is not listed either.
        Ok(listed) => Ok(listed.data.into_iter().map(|entry| entry.id).filter(|id| is_valid(id)).collect()),
        Err(fault) => malformed(&fault.to_string()),
    }
}

fn malformed<T>(why: &str) -> Result<T> {
    Error::e_explain(ErrorType::InvalidHTTPHeader, why.to_owned())
}

/// A list of models in OpenAI's form.
pub(super) fn list(models: &[ListedModel]) -> Vec<u8> {
    json!({"object": "list", "data": models.iter().map(object).collect::<Vec<_>>()}).to_string().into_bytes()
}

/// One model in OpenAI's form.
pub(super) fn one(model: &ListedModel) -> Vec<u8> {
    object(model).to_string().into_bytes()
}

/// The time of creation is not known here; clients require the field.
fn object(model: &ListedModel) -> Value {
    json!({"id": model.id, "object": "model", "created": 0, "owned_by": model.owned_by})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_list_is_read() {
        let body =
            br#"{"object":"list","data":[{"id":"qwen3","object":"model","created":1,"owned_by":"vllm"},{"id":"b"},{"id":"c\u0000"},{"id":""}]}"#;
        assert_eq!(names(body).unwrap(), ["qwen3", "b"]);
        assert!(names(b"[]").is_err() && names(b"{}").is_err());
    }

    #[test]
    fn a_list_is_written() {
        let models = [ListedModel { id: "qwen3".to_owned(), owned_by: "vllm".to_owned() }];
        assert_eq!(names(&list(&models)).unwrap(), ["qwen3"]);
        let written: Value = serde_json::from_slice(&one(&models[0])).unwrap();
        assert_eq!((&written["object"], &written["owned_by"]), (&"model".into(), &"vllm".into()));
    }
}
