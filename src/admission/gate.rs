//! The gate: everything that admission needs, made once for a process. One gate serves any number of proxies.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use keymeter_config::OnClientAbort;
pub use keymeter_core::clock::Now;
use keymeter_core::{
    learned::LearnedModels,
    limit::{self, LimitLine, LimitStatus, RequestLimits},
};
use keymeter_throttle::AuthThrottle;

use super::{InFlight, Settings};
use crate::{
    accounting::{AccountingClient, Ledger},
    keys::{Key, Resolver, jwt::Issuers, revocation::RevocationRegistry},
    limits::shared::SharedLimits,
    observe::{access_log::AccessLog, metrics::Metrics, traces::Traces},
};

/// Everything that admission needs. One gate serves any number of proxies.
pub struct Gate {
    pub(super) settings: ArcSwap<Settings>,
    pub(super) resolver: Arc<Resolver>,
    /// Whose tokens are taken beside secrets.
    pub(super) issuers: Issuers,
    pub(super) metrics: Arc<Metrics>,
    pub(super) learned: LearnedModels,
    pub(super) throttle: AuthThrottle,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) log: AccessLog,
    /// `None`: nobody wants to know of single requests.
    pub(super) ledger: Option<Arc<Ledger>>,
    /// Who is asked for more of a wallet.
    pub(super) accounting: Option<Arc<AccountingClient>>,
    /// Limits over several gateways; `None`: this one is alone.
    pub(super) shared: Option<Arc<SharedLimits>>,
    /// What traces requests; `None`: nothing does.
    pub(super) traces: Option<Arc<Traces>>,
}

impl Gate {
    /// A gate over the keys of `resolver`.
    #[must_use]
    pub fn new(settings: Settings, resolver: Arc<Resolver>, metrics: Arc<Metrics>, log: AccessLog) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            resolver,
            issuers: Issuers::none(metrics.clone()),
            metrics,
            learned: LearnedModels::default(),
            throttle: AuthThrottle::default(),
            in_flight: Arc::default(),
            log,
            ledger: None,
            accounting: None,
            shared: None,
            traces: None,
        }
    }

    /// The gate with a ledger, in which each request is recorded, and the way to the accounting service.
    #[must_use]
    pub fn with_ledger(self, ledger: Arc<Ledger>, accounting: Arc<AccountingClient>) -> Self {
        Self { ledger: Some(ledger), accounting: Some(accounting), ..self }
    }

    /// The gate, which holds keys to limits that it shares with other gateways.
    #[must_use]
    pub fn with_shared_limits(self, shared: Arc<SharedLimits>) -> Self {
        Self { shared: Some(shared), ..self }
    }

    /// The gate, whose requests are traced.
    #[must_use]
    pub fn with_traces(self, traces: Arc<Traces>) -> Self {
        Self { traces: Some(traces), ..self }
    }

    /// The issuers whose tokens are taken beside secrets.
    #[must_use]
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// What traces requests, if anything does.
    #[must_use]
    pub fn traces(&self) -> Option<&Arc<Traces>> {
        self.traces.as_ref()
    }

    /// Where requests are recorded, if they are.
    #[must_use]
    pub fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.ledger.as_ref()
    }

    /// What holds now. A request takes it once and keeps it to its end.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// From the next request on, `settings` hold.
    pub fn replace_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// Whether an exchange with an upstream may have to run apart from its client.
    #[must_use]
    pub fn may_need_subrequest(&self) -> bool {
        let settings = self.settings.load();
        settings.cuts_revoked
            || settings.heartbeat.is_some()
            || matches!(settings.on_client_abort, OnClientAbort::Drain { .. })
    }

    /// The running requests that end with their keys.
    #[must_use]
    pub fn revocations(&self) -> &Arc<RevocationRegistry> {
        self.resolver.revocations()
    }

    /// The requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// What the key has used in all, and what is in its wallet, from whoever keeps the accounts; `None`: nobody does, or
    /// they do not answer.
    pub async fn totals(&self, key: &Key) -> Option<serde_json::Map<String, serde_json::Value>> {
        self.accounting.as_ref()?.totals(key.hash()).await
    }

    /// What came from an address is no request: whoever sends that is a stranger.
    pub fn malformed(&self, from: IpAddr) {
        self.throttle.bad_key(from);
        self.metrics.malformed_request();
    }

    /// What is used and left of the limits of a minute that concern a key's requests, by those who count it.
    #[must_use]
    pub fn standing(&self, key: &Key, limits: &RequestLimits, now: Now) -> LimitStatus {
        let here = limit::status(&key.accounts(), limits, now);
        let elsewhere = self.sharing(limits).and_then(|shared| shared.status(&key.ids(), limits, now));
        elsewhere.map_or(here, |status| with_running(status, &here, limits))
    }

    /// The same without those of single models, and each limit of a key, asked of those who count it.
    pub async fn asked_standing(&self, key: &Key, limits: &RequestLimits, now: Now) -> (LimitStatus, Vec<LimitLine>) {
        let whole = RequestLimits { models: Box::default(), ..limits.clone() };
        let here = limit::status(&key.accounts(), &whole, now);
        let elsewhere = match self.sharing(limits) {
            Some(shared) => shared.fetch_status(&key.ids(), limits, now).await,
            None => None,
        };
        match elsewhere {
            Some((status, lines)) => (with_running(status, &here, limits), lines),
            None => (here, self.limit_lines(key, limits, now)),
        }
    }

    /// Whether what a request comes to in its quotas can be kept.
    pub(super) fn keeps_quotas(&self) -> bool {
        let accounts = self.resolver.accounts();
        let was_open = accounts.kept().opened().is_some();
        let takes_requests = accounts.kept().takes_requests(Now::read());
        if !was_open {
            accounts.restore_all();
        }
        takes_requests
    }

    /// Each limit that concerns a key's requests, with what is used of it here.
    #[must_use]
    pub fn limit_lines(&self, key: &Key, limits: &RequestLimits, now: Now) -> Vec<LimitLine> {
        limit::lines(&key.accounts(), limits, now)
    }

    /// The server on which limits are counted, if there are any and there is one.
    pub(super) fn sharing(&self, limits: &RequestLimits) -> Option<&Arc<SharedLimits>> {
        self.shared.as_ref().filter(|_| !limits.are_unlimited())
    }
}

/// The status of limits that are counted elsewhere. Of a key that has none of its own, what runs is counted here.
fn with_running(status: LimitStatus, here: &LimitStatus, limits: &RequestLimits) -> LimitStatus {
    if limits.scopes.key.are_unlimited() { LimitStatus { running: here.running, ..status } } else { status }
}
