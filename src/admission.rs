//! The gate decides who comes in and what it cost. A request is identified by its key, its
//! body is read, and `admit` gives a `ActiveRequest` or a `Rejection`; the lease meters the response and
//! settles once, whatever happens to the request.

mod active_request;
mod context;
mod credential;
mod in_flight;
mod money;
mod outcome;
mod planned;
mod prompt;
mod reservations;
mod scrape;
mod settings;

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use http::HeaderMap;
use jiff::Timestamp;
use keymeter_config::OnClientAbort;
use keymeter_core::{
    api::Endpoint,
    body::{Change, Scanned},
    clock::MonotonicTime,
    key::{KeyDenial, KeyHash, Secret},
    limit::{LearnedModels, LimitStatus, Limits, Place, Plan},
    rejection::Rejection,
    wallet::{Short, StalePolicy},
};
use keymeter_throttle::AuthThrottle;

pub use self::{
    active_request::{ActiveRequest, Admitted},
    context::{RequestContext, RequestId},
    credential::CREDENTIAL_HEADERS,
    in_flight::{BodyRoom, InFlight, InFlightGuard, NoRoom},
    money::AllowanceNeeded,
    outcome::{Client, Outcome},
    prompt::Prompt,
    reservations::{LimitReservations, Reservations},
    settings::{Model, Route, Settings},
};
use self::{
    credential::{CredentialError, credential},
    planned::Planned,
};
use crate::{
    accounting::{AccountingClient, Ledger},
    keys::{Key, ResolveError, Resolver, revocation::RevocationRegistry},
    limits::{account::Holder, shared::SharedLimits},
    observe::{
        access_log::AccessLog,
        metrics::{Metrics, Unauthorized},
        traces::{Ended, Traces},
    },
};

/// A request that was not admitted, and why.
pub struct Rejected {
    /// What is known of it.
    pub visit: RequestContext,
    /// What its sender is told.
    pub rejection: Rejection,
    /// The wallet that may pay for it once its keeper is asked, and how much is to be asked for.
    pub ask: Option<AllowanceNeeded>,
}

impl Rejected {
    fn boxed(visit: RequestContext, rejection: Rejection) -> Box<Self> {
        Box::new(Self { visit, rejection, ask: None })
    }
}

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
    settings: ArcSwap<Settings>,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    learned: LearnedModels,
    strangers: AuthThrottle,
    traffic: Arc<InFlight>,
    log: AccessLog,
    /// `None`: nobody wants to know of single requests.
    ledger: Option<Arc<Ledger>>,
    /// Who is asked for more of a wallet.
    keeper: Option<Arc<AccountingClient>>,
    /// Limits over several gateways; `None`: this one is alone.
    shared: Option<Arc<SharedLimits>>,
    /// What traces requests; `None`: nothing does.
    traces: Option<Arc<Traces>>,
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
            strangers: AuthThrottle::default(),
            traffic: Arc::default(),
            log,
            ledger: None,
            keeper: None,
            shared: None,
            traces: None,
        }
    }

    /// The gate with a ledger, in which each request is recorded, and the way to its keeper.
    #[must_use]
    pub fn with_ledger(self, ledger: Arc<Ledger>, keeper: Arc<AccountingClient>) -> Self {
        Self { ledger: Some(ledger), keeper: Some(keeper), ..self }
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
        settings.cuts_revoked || matches!(settings.on_client_abort, OnClientAbort::Drain { .. })
    }

    /// The running requests that end with their keys.
    #[must_use]
    pub fn runs(&self) -> &Arc<RevocationRegistry> {
        self.resolver.revocations()
    }

    /// The requests in the house.
    #[must_use]
    pub fn traffic(&self) -> &Arc<InFlight> {
        &self.traffic
    }

    /// What the key has used in all, and what is in its wallet, from whoever keeps the accounts; `None`: nobody does, or
    /// they do not answer.
    pub async fn totals(&self, key: &Key) -> Option<serde_json::Map<String, serde_json::Value>> {
        self.keeper.as_ref()?.totals(key.hash()).await
    }

    /// Whose request this is.
    ///
    /// # Errors
    /// When it bears no key that may be used now.
    pub async fn identify(
        &self,
        visit: &mut RequestContext,
        headers: &HeaderMap,
        in_query: Option<&str>,
        from: IpAddr,
        now: Now,
    ) -> Result<(), Rejection> {
        let secret = match credential(headers, in_query) {
            Ok(secret) => secret,
            Err(CredentialError::Missing) => return Err(self.stranger(from, Unauthorized::Missing)),
            Err(CredentialError::Malformed) => return Err(self.stranger(from, Unauthorized::Malformed)),
        };
        let hash = secret.hash();
        let known = self.resolver.known(&hash);
        if known.is_none() {
            self.inspect_stranger(&secret, &hash, visit.settings.secret_checksum_required, from)?;
        }
        let (key, bar) = self.key(hash, known, from, now).await?;
        let id = key.record.id.clone();
        visit.key = Some(key);
        bar.map_or(Ok(()), |bar| Err(Rejection::of_bar(bar, id)))
    }

    /// Whose request this still is, after some time has passed: its key may have changed meanwhile.
    ///
    /// # Errors
    /// When the key may not be used any more.
    pub async fn confirm(&self, visit: &mut RequestContext, from: IpAddr, now: Now) -> Result<(), Rejection> {
        let Some(key) = &visit.key else { return Ok(()) };
        let (hash, id) = (*key.hash(), key.record.id.clone());
        if self.resolver.is_current(key) {
            return key.denial(now.date).map_or(Ok(()), |bar| Err(Rejection::of_bar(bar, id)));
        }
        let (key, bar) = self.key(hash, self.resolver.known(&hash), from, now).await?;
        visit.key = Some(key);
        match bar {
            Some(bar) => Err(Rejection::of_bar(bar, id)),
            // The secret may have become another key's.
            None => self.take_place(visit, now),
        }
    }

    /// Takes the request's place among those of its key that run, before its body is read, so that a key's unfinished
    /// bodies are at most as many as it may run. It is given back with the visit, or goes on with the admitted request.
    /// Where limits are shared this is the place here, which costs no question: the others count it with the admission.
    ///
    /// # Errors
    /// When as many of the key's requests run as may.
    pub fn take_place(&self, visit: &mut RequestContext, now: Now) -> Result<(), Rejection> {
        let Some(Key { account, record, .. }) = visit.key.as_deref() else { return Err(Rejection::InvalidKey) };
        if visit.place.as_ref().is_some_and(|place| Arc::ptr_eq(&place.owner().0, account)) {
            return Ok(());
        }
        let limits = visit.settings.limits_of(record);
        let here = self.sharing(&limits).map_or(limits, |shared| shared.local_limits(&limits, now.moment));
        match Place::take(Holder(account.clone()), here.concurrent_requests) {
            Ok(place) => {
                visit.place = Some(place);
                Ok(())
            }
            Err(refusal) => {
                account.metrics.held_to(&here);
                Err(Rejection::OverLimit { key: record.id.clone(), refusal })
            }
        }
    }

    /// Where the request's body is counted as it arrives.
    ///
    /// # Errors
    /// When it has no key.
    pub fn body_room(&self, visit: &RequestContext) -> Result<BodyRoom, Rejection> {
        let key = visit.key.as_ref().ok_or(Rejection::InvalidKey)?;
        Ok(self.traffic.body_room(key.account.clone(), visit.settings.max_buffered_bodies))
    }

    /// The key that a secret with `hash` belongs to, and why that may not be used, if it may not.
    async fn key(
        &self,
        hash: KeyHash,
        known: Option<Arc<Key>>,
        from: IpAddr,
        now: Now,
    ) -> Result<(Arc<Key>, Option<KeyDenial>), Rejection> {
        match self.resolver.resolve_known(hash, known, now.moment).await {
            Ok(key) => match key.denial(now.date) {
                Some(KeyDenial::Unknown) => Err(self.stranger(from, Unauthorized::Unknown)),
                bar => Ok((key, bar)),
            },
            Err(ResolveError::Unknown) => Err(self.stranger(from, Unauthorized::Unknown)),
            Err(ResolveError::Unavailable(fault)) => {
                tracing::warn!("{fault}");
                Err(Rejection::SourceUnavailable)
            }
        }
    }

    /// What came from an address is no request: whoever sends that is a stranger.
    pub fn malformed(&self, from: IpAddr) {
        self.strangers.bad_key(from);
        self.metrics.malformed_request();
    }

    /// Whether a secret that is not in the cache may be looked up for whoever is at `from`. A key that is in memory is never
    /// throttled, and what is no key costs no look-up.
    fn inspect_stranger(
        &self,
        secret: &Secret,
        hash: &KeyHash,
        checksum_required: bool,
        from: IpAddr,
    ) -> Result<(), Rejection> {
        let is_malformed = checksum_required && !secret.is_well_formed();
        let is_known_key = if is_malformed { Some(false) } else { self.resolver.is_known_key(hash) };
        let is_throttled = match is_known_key {
            Some(true) => false,
            Some(false) => self.strangers.is_throttled(from),
            None => self.strangers.is_throttled(from) && !self.strangers.may_look_up(),
        };
        if is_throttled {
            self.metrics.unauthorized(Unauthorized::Throttled);
            return Err(Rejection::Throttled);
        }
        if is_malformed { Err(self.stranger(from, Unauthorized::Malformed)) } else { Ok(()) }
    }

    /// Counts a bad key against the address that it came from.
    fn stranger(&self, from: IpAddr, reason: Unauthorized) -> Rejection {
        self.strangers.bad_key(from);
        self.metrics.unauthorized(reason);
        Rejection::InvalidKey
    }

    /// Takes a request, a running slot and tokens from the key's limits, or nothing at all. Other gateways and the
    /// keeper of a wallet are not asked.
    ///
    /// # Errors
    /// When the key may not call the model, or one of its limits is reached. The visit is given
    /// back, so that the refusal can be logged.
    pub fn admit(
        self: &Arc<Self>,
        visit: RequestContext,
        endpoint: Endpoint,
        scanned: &Scanned,
        now: Now,
    ) -> Result<ActiveRequest, Box<Rejected>> {
        let mut plan = self.planned(visit, endpoint, scanned, now)?;
        let limits = plan.reserve_here(now);
        self.leased(plan, limits, scanned, StalePolicy::WhileItLasts, now)
    }

    /// The same, where those who share the key's limits are asked, and the keeper of its wallet may be.
    ///
    /// # Errors
    /// As those of `admit`.
    pub async fn admit_asking(
        self: &Arc<Self>,
        visit: RequestContext,
        endpoint: Endpoint,
        scanned: &Scanned,
        now: Now,
    ) -> Result<ActiveRequest, Box<Rejected>> {
        match self.admit_trusting(visit, endpoint, scanned, StalePolicy::WhileItLasts, now).await {
            Err(turned_away) if turned_away.ask.is_some() => money::asked(self, turned_away, endpoint, scanned).await,
            decided => decided,
        }
    }

    async fn admit_trusting(
        self: &Arc<Self>,
        visit: RequestContext,
        endpoint: Endpoint,
        scanned: &Scanned,
        trust: StalePolicy,
        now: Now,
    ) -> Result<ActiveRequest, Box<Rejected>> {
        let mut plan = self.planned(visit, endpoint, scanned, now)?;
        let limits = match &self.shared {
            Some(shared) if !plan.admitted.limits.are_unlimited() => plan.reserve_shared(shared, now).await,
            _ => plan.reserve_here(now),
        };
        self.leased(plan, limits, scanned, trust, now)
    }

    /// What the request is to reserve, if its key may make it at all.
    fn planned(
        &self,
        mut visit: RequestContext,
        endpoint: Endpoint,
        scanned: &Scanned,
        now: Now,
    ) -> Result<Planned, Box<Rejected>> {
        visit.asks(endpoint, scanned);
        let Some(key) = visit.key.clone() else {
            return Err(Rejected::boxed(visit, Rejection::InvalidKey));
        };
        let requested = scanned.model.as_deref().unwrap_or_default();
        let route = key.record.may_call(requested).then(|| visit.settings.route(visit.api, requested)).flatten();
        let Some(route) = route else {
            let model = requested.to_owned();
            let rejection = Rejection::ModelNotFound { key: key.record.id.clone(), model };
            return Err(Rejected::boxed(visit, rejection));
        };
        if self.ledger.as_ref().is_some_and(|ledger| !ledger.has_room()) {
            return Err(Rejected::boxed(visit, Rejection::LedgerUnavailable));
        }
        let admitted = Admitted {
            limits: visit.settings.limits_of(&key.record),
            model: visit.settings.model(requested),
            learned: self.learned.known(requested),
            route,
            endpoint,
            key,
        };
        admitted.key.account.metrics.held_to(&admitted.limits);
        Planned::of(self, visit, admitted, scanned, now)
    }

    /// The lease of a request whose limits are reserved, once its wallet's money is, too.
    fn leased(
        self: &Arc<Self>,
        mut plan: Planned,
        limits: Result<LimitReservations, Rejection>,
        scanned: &Scanned,
        trust: StalePolicy,
        now: Now,
    ) -> Result<ActiveRequest, Box<Rejected>> {
        let held = limits.map_err(|rejection| (rejection, None)).and_then(|limits| {
            let strategy = plan.visit.settings.strategy;
            let Some(purse) = &plan.admitted.key.wallet else { return Ok(Reservations { limits, money: None }) };
            let cost = money::of(strategy, &plan.admitted, scanned, &plan.demand, plan.plan.tokens);
            match purse.reserve(cost, trust, now.moment) {
                Ok(hold) => Ok(Reservations { limits, money: Some(hold) }),
                Err(short) => {
                    // Its body is held while the wallet's keeper is asked, and so is its place.
                    plan.visit.place = Some(limits.cancel());
                    let ask = (short != Short::Empty).then(|| AllowanceNeeded { purse: purse.clone(), cost });
                    Err((Rejection::NoBalance(plan.admitted.key.record.id.clone()), ask))
                }
            }
        });
        let Planned { visit, admitted, prompt, plan: Plan { set_maximum: maximum, .. }, .. } = plan;
        match held {
            Ok(held) => {
                let wish = Change { include_usage: asks_for_usage(&admitted, scanned), maximum };
                let lease = ActiveRequest::new(self.clone(), visit, admitted, held, prompt, wish, now);
                let key = &lease.admitted().key;
                if !self.resolver.is_current(key) {
                    // It changed a moment ago, when this request could not be reached yet.
                    self.resolver.recheck(key);
                }
                Ok(lease)
            }
            Err((rejection, ask)) => Err(Box::new(Rejected { visit, rejection, ask })),
        }
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

    fn sharing(&self, limits: &Limits) -> Option<&Arc<SharedLimits>> {
        self.shared.as_ref().filter(|_| !limits.are_unlimited())
    }

    /// Logs and counts a request that was not admitted, with the status that was answered.
    pub fn turned_away(&self, visit: &mut RequestContext, status: u16, rejection: Option<&Rejection>, now: Now) {
        if let Some(key) = &visit.key {
            let metrics = &key.account.metrics;
            let model =
                visit.model.as_deref().map_or_else(|| visit.settings.other(), |model| visit.settings.model(model));
            metrics.model(&model.label).answered(status);
            if let Some(reason) = rejection.and_then(Rejection::refused) {
                metrics.refused(reason);
            }
        }
        let reason = rejection.map(Rejection::code);
        if let Some(code) = reason {
            self.metrics.error(code);
        }
        visit.ended(&Ended { status, reason, ..Ended::default() }, now);
        self.log.write(&visit.line(status, reason, now));
    }
}

/// Whether the upstream is to be asked for the stream's usage on our own account.
fn asks_for_usage(admitted: &Admitted, scanned: &Scanned) -> bool {
    scanned.stream && !scanned.client_wants_usage && admitted.endpoint.injects_usage() && admitted.route.injects_usage()
}

#[cfg(test)]
mod tests;
