//! The gate: everything that admission needs, made once for a process. One gate serves any number of proxies.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use keymeter_config::OnClientAbort;
use keymeter_core::{
    clock::MonotonicTime,
    learned::LearnedModels,
    limit::{LimitStatus, Limits},
};
use keymeter_throttle::AuthThrottle;

use super::{InFlight, Settings};
use crate::{
    accounting::{AccountingClient, Ledger},
    keys::{Key, Resolver, revocation::RevocationRegistry},
    limits::shared::SharedLimits,
    observe::{access_log::AccessLog, metrics::Metrics, traces::Traces},
};

/// The two clocks of a request: one that never goes back, for limits, and the calendar's.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For windows and durations.
    pub moment: MonotonicTime,
    /// For expiry and logs.
    pub date: Timestamp,
}

impl Now {
    /// This moment.
    #[must_use]
    pub fn read() -> Self {
        Self { moment: MonotonicTime::now(), date: Timestamp::now() }
    }
}

/// Everything that admission needs. One gate serves any number of proxies.
pub struct Gate {
    pub(super) settings: ArcSwap<Settings>,
    pub(super) resolver: Arc<Resolver>,
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

    /// What is used and left of a key's limits, by those who count it.
    #[must_use]
    pub fn standing(&self, key: &Key, limits: &Limits, now: Now) -> LimitStatus {
        let elsewhere = self.sharing(limits).and_then(|shared| shared.status(&key.record.id, limits, now.moment));
        elsewhere.unwrap_or_else(|| key.account.counters.standing(limits, now.moment))
    }

    /// The same, asked of those who count it.
    pub async fn asked_standing(&self, key: &Key, limits: &Limits, now: Now) -> LimitStatus {
        let elsewhere = match self.sharing(limits) {
            Some(shared) => shared.fetch_status(&key.record.id, limits, now.moment).await,
            None => None,
        };
        elsewhere.unwrap_or_else(|| key.account.counters.standing(limits, now.moment))
    }

    pub(super) fn sharing(&self, limits: &Limits) -> Option<&Arc<SharedLimits>> {
        self.shared.as_ref().filter(|_| !limits.are_unlimited())
    }
}
