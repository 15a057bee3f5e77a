//! The models that a key may call: the literal names of the configuration, and for patterns
//! what the upstreams themselves say they have, kept for a minute. So is Ollama's version.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use keymeter_config::Upstream;
use keymeter_core::{api::Api, clock::MonotonicTime, model_name::is_valid};
use moka::{Expiry, future::Cache};
use parking_lot::Mutex;
use pingora::{
    ErrorType,
    prelude::{Error, Result},
};
use serde::Deserialize;

use crate::{
    admission::Route,
    proxy::RequestInfo,
    upstream::ask::{Asker, speaks_anthropics_alone},
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
    asker: Asker,
    /// By the upstream's name.
    lists: Cache<Arc<str>, Arc<List>>,
    /// Of the upstreams that speak Ollama's API: one name at most.
    versions: Cache<Arc<str>, Arc<List>>,
    /// What each upstream said when it last answered.
    last_lists: Mutex<HashMap<Arc<str>, Vec<String>>>,
}

impl Default for Catalogue {
    fn default() -> Self {
        let cache = || Cache::builder().max_capacity(MOST_UPSTREAMS).expire_after(Kept).build();
        Self { asker: Asker::default(), lists: cache(), versions: cache(), last_lists: Mutex::default() }
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
    /// The models that the key of `pass` may call, sorted by name. `OpenAI`'s list has them all; those of other APIs what can
    /// be called by that API.
    pub async fn models_for(&self, pass: &RequestInfo) -> Vec<ListedModel> {
        let mut models = BTreeMap::new();
        let is_listed = |upstream: &Upstream| pass.api == Api::OpenAi || upstream.apis.contains(&pass.api);
        for (route, upstream) in upstreams(pass).filter(|(_, upstream)| is_listed(upstream)) {
            let mut names: Vec<String> =
                upstream.models.iter().filter(|glob| glob.is_literal()).map(|glob| glob.as_str().to_owned()).collect();
            if upstream.models.iter().any(|glob| !glob.is_literal()) {
                let listed = self.listed(route, upstream).await;
                names.extend(listed.names.iter().filter(|name| serves(upstream, name)).cloned());
            }
            for id in names.into_iter().filter(|name| pass.key().may_call(name)) {
                models.entry(id).or_insert_with(|| upstream.name.to_string());
            }
        }
        models.into_iter().map(|(id, owned_by)| ListedModel { id, owned_by }).collect()
    }

    /// The version of the first upstream that speaks Ollama's API and tells it.
    pub async fn ollamas_version(&self, pass: &RequestInfo) -> Option<String> {
        for (route, upstream) in upstreams(pass).filter(|(_, upstream)| upstream.apis.contains(&Api::Ollama)) {
            let asking = Box::pin(async {
                let answer = tokio::time::timeout(PATIENCE, self.get(route, b"/api/version")).await;
                let version = answer.ok().and_then(Result::ok).and_then(|body| version_in(&body).ok());
                Arc::new(List { is_answer: version.is_some(), names: version.into_iter().collect() })
            });
            let told = self.versions.get_with(upstream.name.clone(), asking).await;
            if let Some(version) = told.names.first() {
                return Some(version.clone());
            }
        }
        None
    }

    /// What `upstream` last said, asked for once for all who want to know. One that does not
    /// answer is taken at its last word.
    async fn listed(&self, route: &Route, upstream: &Arc<Upstream>) -> Arc<List> {
        // In a box, so that the requests that ask nothing do not carry its size.
        let asking = Box::pin(async {
            let answer = tokio::time::timeout(PATIENCE, self.ask(route, upstream)).await;
            match answer {
                Ok(Ok(names)) => Arc::new(self.answered(upstream, names)),
                Ok(Err(error)) => Arc::new(self.unanswered(upstream, &error.to_string())),
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

    async fn ask(&self, route: &Route, upstream: &Upstream) -> Result<Vec<String>> {
        if is_geminis(upstream) {
            geminis_names(&self.get(route, b"/v1beta/models?pageSize=1000").await?)
        } else if speaks_anthropics_alone(upstream) {
            names(&self.get(route, b"/v1/models?limit=1000").await?)
        } else {
            names(&self.get(route, b"/v1/models").await?)
        }
    }

    /// The body of what a replica of `route`'s upstream answers at a path.
    async fn get(&self, route: &Route, path: &[u8]) -> Result<Vec<u8>> {
        let (Some(upstream), Some(pool)) = (&route.upstream, &route.pool) else {
            return malformed("it has no replicas");
        };
        let Some(replica) = pool.any(MonotonicTime::now()) else { return malformed("no replica may be asked") };
        let answer = self.asker.get(upstream, &replica, path, PATIENCE, LONGEST).await?;
        if answer.status == 200 { Ok(answer.body) } else { malformed(&format!("it answered {}", answer.status)) }
    }
}

/// Every upstream of the configuration, in its order.
fn upstreams(pass: &RequestInfo) -> impl Iterator<Item = (&Arc<Route>, &Arc<Upstream>)> {
    pass.settings.routes().iter().filter_map(|route| Some((route, route.upstream.as_ref()?)))
}

/// Whether an upstream speaks no API but Gemini's, which lists its models in a way of its own.
fn is_geminis(upstream: &Upstream) -> bool {
    upstream.apis.iter().all(|api| *api == Api::Gemini)
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
        Err(error) => malformed(&error.to_string()),
    }
}

/// The same of a list as Gemini's API writes it, each with `models/` before it.
fn geminis_names(body: &[u8]) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Listed {
        models: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        name: String,
    }
    let bare = |entry: Entry| entry.name.strip_prefix("models/").unwrap_or(&entry.name).to_owned();
    match serde_json::from_slice::<Listed>(body) {
        Ok(listed) => Ok(listed.models.into_iter().map(bare).filter(|name| is_valid(name)).collect()),
        Err(error) => malformed(&error.to_string()),
    }
}

/// The version in an answer of Ollama's.
fn version_in(body: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    struct Told {
        version: String,
    }
    match serde_json::from_slice::<Told>(body) {
        Ok(Told { version }) if is_valid(&version) => Ok(version),
        Ok(_) => malformed("its version is none"),
        Err(error) => malformed(&error.to_string()),
    }
}

fn malformed<T>(why: &str) -> Result<T> {
    Error::e_explain(ErrorType::InvalidHTTPHeader, why.to_owned())
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
    fn geminis_list_is_read() {
        let body =
            br#"{"models":[{"name":"models/gemini-2.5-flash","version":"1"},{"name":"models/"},{"name":"tuned"}]}"#;
        assert_eq!(geminis_names(body).unwrap(), ["gemini-2.5-flash", "tuned"]);
        assert!(geminis_names(b"{}").is_err());
    }

    #[test]
    fn a_version_is_a_short_text() {
        assert_eq!(version_in(br#"{"version":"0.13.5"}"#).unwrap(), "0.13.5");
        for body in [&b"{}"[..], br#"{"version":""}"#, br#"{"version":"a\u0000"}"#, br#"{"version":5}"#, b"0.13.5"] {
            assert!(version_in(body).is_err());
        }
    }
}
