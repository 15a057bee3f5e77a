//! The part of the configuration that admission asks, laid out for asking: what holds for a
//! key, which route serves a model, what a model costs.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use keymeter_config::{
    self as config, ClientAddress, Config, Cors, InjectUsage, LoggedAddress, OnClientAbort, OnRevoke,
};
use keymeter_core::{
    api::Api,
    clock::MonotonicTime,
    evidence::{self, EvidenceOfModels, SharedEvidence},
    glob::Glob,
    key::KeyRecord,
    limit::{LimitMode, Limits, Quotas, RequestLimits, ScopeLimits, Scopes, Strategy},
    money::Price,
};

use super::additions::Asking;
use crate::{
    keys::Key,
    observe::metrics::{Metrics, UpstreamSeries},
    upstream::{Pool, Pools},
};

/// What holds for a request from its arrival to its end.
pub struct Settings {
    /// For keys that set none of their own.
    pub limits: Limits,
    /// Whether limits refuse, for keys that do not say so themselves.
    pub limit_mode: LimitMode,
    /// How much a request reserves.
    pub strategy: Strategy,
    /// Bytes.
    pub max_request_body: u64,
    /// Bytes, of all requests together.
    pub max_buffered_bodies: u64,
    /// In total.
    pub body_timeout: Duration,
    /// Whether a secret without a right checksum is refused without a look-up.
    pub secret_checksum_required: bool,
    /// What becomes of a response whose client has left.
    pub on_client_abort: OnClientAbort,
    /// Whether a response ends when its key is revoked.
    pub cuts_revoked: bool,
    /// Whose pages may call from a browser; `None`: nobody's.
    pub cors: Option<Cors>,
    /// After how long a silence a stream of events gets a comment; `None`: never.
    pub heartbeat: Option<Duration>,
    /// How much of a client's address the access log tells.
    pub logged_address: LoggedAddress,
    client_address: Option<ClientAddress>,
    models: Vec<Arc<Model>>,
    other: Arc<Model>,
    routes: Vec<Arc<Route>>,
}

/// What is configured of a model.
#[derive(Debug)]
pub struct Model {
    /// The name under which it stands in metrics: as configured, or `other`.
    pub label: Arc<str>,
    /// What its tokens cost.
    pub price: Price,
    /// The most that it puts out.
    pub max_output_tokens: Option<u64>,
    names: Glob,
    index: usize,
}

/// Where requests for some models go.
pub struct Route {
    /// What it is called in metrics, logs and errors.
    pub name: Arc<str>,
    /// The upstream, as configured; `None`: the proxy behind the gate knows where requests go.
    pub upstream: Option<Arc<config::Upstream>>,
    /// Its replicas, if there is an upstream.
    pub pool: Option<Arc<Pool>>,
    models: Vec<Glob>,
    inject_usage: InjectUsage,
    /// That it refuses `stream_options`, for each configured model.
    refuses_stream_options: Vec<SharedEvidence>,
    /// That it takes a chat's maximum as `max_completion_tokens` only.
    refuses_max_tokens: EvidenceOfModels,
    /// Whether it took a maximum of ours as `max_tokens`, for each configured model.
    has_taken_max_tokens: Vec<AtomicBool>,
    /// When it last took the credential that we send, to the second.
    took_credential: AtomicU64,
    series: Vec<OnceLock<Arc<UpstreamSeries>>>,
}

/// One refusal may have been about something else.
const REFUSALS_OF_USAGE: u32 = 2;

/// In nanoseconds.
const ONE_SECOND: u64 = 1_000_000_000;

impl Settings {
    /// What `config` says, whose upstreams' replicas are those of `pools`.
    #[must_use]
    pub fn new(config: &Config, pools: &Pools) -> Self {
        let models: Vec<_> =
            config.models.iter().enumerate().map(|(index, model)| Arc::new(Model::new(model, index))).collect();
        Self {
            limits: config.limits.limits,
            limit_mode: config.limits.mode,
            strategy: config.limits.reservation,
            max_request_body: config.server.max_request_body,
            max_buffered_bodies: config.server.max_buffered_bodies,
            body_timeout: config.server.body_timeout,
            secret_checksum_required: config.keys.secret_checksum_required,
            on_client_abort: config.on_client_abort,
            cuts_revoked: config.on_revoke == OnRevoke::Cut,
            cors: config.server.cors.clone(),
            heartbeat: config.server.heartbeat,
            logged_address: config.logged_address,
            client_address: config.server.client_address.clone(),
            routes: routes(&config.upstreams, pools, models.len() + 1),
            other: Arc::new(Model::other(models.len())),
            models,
        }
    }

    /// The limits that requests of a key are held to, whatever their model is: those of its team and its owner, and its own,
    /// or the configuration's where it has none.
    #[must_use]
    pub fn limits_of(&self, key: &Key) -> RequestLimits {
        let terms = key.record.terms.as_deref();
        let quotas = terms.map_or_else(Quotas::default, |terms| terms.quotas.clone());
        RequestLimits {
            scopes: Scopes {
                team: key.team().map(|team| team.limits()),
                owner: key.owner().map(|owner| owner.limits()),
                key: ScopeLimits { minute: self.own_limits(&key.record), quotas },
            },
            models: Box::default(),
            mode: self.limit_mode_of(&key.record),
        }
    }

    /// The same, and those of the key for `model`.
    #[must_use]
    pub fn limits_for(&self, key: &Key, model: &str) -> RequestLimits {
        let models = key.record.terms.as_deref().map(|terms| &*terms.models).unwrap_or_default();
        let models = models.iter().filter(|limits| limits.models.matches(model)).cloned().collect();
        RequestLimits { models, ..self.limits_of(key) }
    }

    /// The same, and all those of the key for some models.
    #[must_use]
    pub fn limits_with_models(&self, key: &Key) -> RequestLimits {
        let models = key.record.terms.as_deref().map(|terms| terms.models.clone()).unwrap_or_default();
        RequestLimits { models, ..self.limits_of(key) }
    }

    /// Whether limits refuse the requests of a key.
    #[must_use]
    pub fn limit_mode_of(&self, record: &KeyRecord) -> LimitMode {
        record.terms.as_ref().and_then(|terms| terms.mode).unwrap_or(self.limit_mode)
    }

    fn own_limits(&self, record: &KeyRecord) -> Limits {
        let own = record.limits;
        Limits {
            requests_per_minute: own.requests_per_minute.unwrap_or(self.limits.requests_per_minute),
            tokens_per_minute: own.tokens_per_minute.unwrap_or(self.limits.tokens_per_minute),
            concurrent_requests: own.concurrent_requests.unwrap_or(self.limits.concurrent_requests),
        }
    }

    /// The first route that speaks `api` and serves `model`.
    #[must_use]
    pub fn route(&self, api: Api, model: &str) -> Option<Arc<Route>> {
        self.routes.iter().find(|route| route.serves(api, model)).cloned()
    }

    /// The route that serves where `route` cannot.
    #[must_use]
    pub fn route_after(&self, route: &Arc<Route>, api: Api, model: &str) -> Option<Arc<Route>> {
        let mut after = self.routes.iter().skip_while(|other| !Arc::ptr_eq(other, route)).skip(1);
        after.find(|route| route.serves(api, model)).cloned()
    }

    /// Every route, in the order of the configuration.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// What is configured of `model`: the first entry that it fits, or `other`.
    #[must_use]
    pub fn model(&self, model: &str) -> Arc<Model> {
        self.models.iter().find(|known| known.names.matches(model)).unwrap_or(&self.other).clone()
    }

    /// What holds for models that no entry names.
    #[must_use]
    pub fn other(&self) -> Arc<Model> {
        self.other.clone()
    }

    /// Where a request comes from: the peer, or whom a trusted peer says that it forwards for.
    #[must_use]
    pub fn client_address(&self, headers: &http::HeaderMap, peer: IpAddr) -> IpAddr {
        self.client_address.as_ref().map_or(peer.to_canonical(), |from| from.client(headers, peer))
    }
}

fn is_refused(evidence: &SharedEvidence, asking: Asking<'_>) -> bool {
    evidence.holds_for(asking.key, REFUSALS_OF_USAGE, asking.now)
}

/// The routes to `upstreams`; where none is configured, the one that everything takes.
fn routes(upstreams: &[Arc<config::Upstream>], pools: &Pools, models: usize) -> Vec<Arc<Route>> {
    let pools = pools.renew(upstreams, MonotonicTime::now());
    if upstreams.is_empty() {
        return vec![Arc::new(Route::of_inner_proxy(models))];
    }
    let ways = upstreams.iter().zip(pools);
    ways.map(|(upstream, pool)| Arc::new(Route::to(upstream.clone(), pool, models))).collect()
}

impl Model {
    fn new(model: &config::Model, index: usize) -> Self {
        Self {
            label: model.name.as_str().into(),
            price: model.price,
            max_output_tokens: model.max_output_tokens,
            names: model.name.clone(),
            index,
        }
    }

    fn other(index: usize) -> Self {
        let names = Glob::new("*");
        Self { label: "other".into(), price: Price::default(), max_output_tokens: None, names, index }
    }
}

impl Route {
    /// The way to `upstream`, with room for the series of so many configured models.
    fn to(upstream: Arc<config::Upstream>, pool: Arc<Pool>, models: usize) -> Self {
        Self {
            name: upstream.name.clone(),
            models: upstream.models.clone(),
            inject_usage: upstream.inject_usage,
            upstream: Some(upstream),
            pool: Some(pool),
            ..Self::of_inner_proxy(models)
        }
    }

    /// The way to wherever the proxy behind the gate sends a request.
    fn of_inner_proxy(models: usize) -> Self {
        Self {
            name: "upstream".into(),
            models: vec![Glob::new("*")],
            inject_usage: InjectUsage::Auto,
            refuses_stream_options: std::iter::repeat_with(SharedEvidence::default).take(models).collect(),
            refuses_max_tokens: EvidenceOfModels::default(),
            has_taken_max_tokens: std::iter::repeat_with(AtomicBool::default).take(models).collect(),
            took_credential: AtomicU64::new(0),
            series: std::iter::repeat_with(OnceLock::new).take(models).collect(),
            upstream: None,
            pool: None,
        }
    }

    fn serves(&self, api: Api, model: &str) -> bool {
        self.speaks(api) && self.models.iter().any(|names| names.matches(model))
    }

    /// Whether requests of `api` are understood. A proxy of somebody's own may speak any.
    fn speaks(&self, api: Api) -> bool {
        self.upstream.as_ref().is_none_or(|upstream| upstream.apis.contains(&api))
    }

    /// Whether streams are asked to state their usage.
    #[must_use]
    pub(super) fn injects_usage(&self, asking: Asking<'_>) -> bool {
        let refuses = || self.usage_evidence(asking).is_some_and(|evidence| is_refused(evidence, asking));
        match self.inject_usage {
            InjectUsage::Always => true,
            InjectUsage::Never => false,
            InjectUsage::Auto => !refuses(),
        }
    }

    /// Whether a refusal of a request that asks for usage is met by sending it again without.
    #[must_use]
    pub(super) fn may_retry_without_usage(&self) -> bool {
        self.inject_usage == InjectUsage::Auto
    }

    /// The upstream took a request that did not ask for usage, and had refused it when it did.
    pub(super) fn usage_was_refused(&self, asking: Asking<'_>) {
        let Some(evidence) = self.usage_evidence(asking) else { return };
        if evidence.prove(asking.key, REFUSALS_OF_USAGE, asking.now) {
            let (name, model) = (&self.name, &asking.model.label);
            tracing::info!(
                "upstream {name} refuses stream_options: its streams of {model} are not asked for their usage for 10 minutes"
            );
        }
    }

    /// The upstream took a request that asks for usage.
    pub(super) fn usage_was_taken(&self, asking: Asking<'_>) {
        if let Some(evidence) = self.usage_evidence(asking) {
            evidence.disprove();
        }
    }

    fn usage_evidence(&self, asking: Asking<'_>) -> Option<&SharedEvidence> {
        self.refuses_stream_options.get(asking.model.index)
    }

    /// Whether a chat's maximum has to be written as `max_completion_tokens`.
    #[must_use]
    pub(super) fn takes_completion_tokens(&self, asking: Asking<'_>) -> bool {
        self.refuses_max_tokens.holds_for(asking.named, asking.key, asking.now)
    }

    /// The upstream took a request with `max_completion_tokens`, and had refused it with `max_tokens`.
    pub(super) fn max_tokens_were_refused(&self, asking: Asking<'_>) {
        self.refuses_max_tokens.prove(asking.named, asking.key, asking.now);
    }

    /// The upstream took a request with `max_tokens`.
    pub(super) fn max_tokens_were_taken(&self, asking: Asking<'_>) {
        self.refuses_max_tokens.disprove(asking.named);
        if let Some(taken) = self.has_taken_max_tokens.get(asking.model.index) {
            taken.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the upstream ever took a request with `max_tokens`, for this model or another of its entry.
    #[must_use]
    pub(super) fn has_taken_max_tokens(&self, asking: Asking<'_>) -> bool {
        self.has_taken_max_tokens.get(asking.model.index).is_some_and(|taken| taken.load(Ordering::Relaxed))
    }

    /// The upstream passed over `max_completion_tokens`.
    pub(super) fn completion_tokens_were_passed_over(&self, asking: Asking<'_>) {
        self.refuses_max_tokens.disprove(asking.named);
    }

    /// The upstream answered a request with a success.
    pub(super) fn credential_was_taken(&self, now: MonotonicTime) {
        let (now, before) = (now.as_nanos().max(1), self.took_credential.load(Ordering::Relaxed));
        // What every request writes would go from core to core.
        if before == 0 || now.saturating_sub(before) >= ONE_SECOND {
            self.took_credential.store(now, Ordering::Relaxed);
        }
    }

    /// Whether the upstream took our credential within the last 10 minutes.
    #[must_use]
    pub fn has_taken_credential(&self, now: MonotonicTime) -> bool {
        let taken = self.took_credential.load(Ordering::Relaxed);
        taken > 0 && now.saturating_since(MonotonicTime::from_nanos(taken)) < evidence::LASTS
    }

    /// The series of this route and `model`.
    #[must_use]
    pub fn series(&self, model: &Model, metrics: &Metrics) -> Arc<UpstreamSeries> {
        let find = || Arc::new(metrics.upstream(&self.name, &model.label));
        self.series.get(model.index).map_or_else(find, |known| known.get_or_init(find).clone())
    }
}
