//! One limit over several gateways. What a key uses is counted on a Redis or Valkey server, where each admission is
//! one step and one round trip. While that server is unavailable, each gateway applies its share of the key's limits.

mod admission;
mod health;
mod link;
mod permits;
mod quota_lease;
mod script;
mod settlements;
mod snapshots;
mod sync;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keymeter_config::{self as config, WhenUnreachable};
use keymeter_core::{
    clock::MonotonicTime,
    key::KeyId,
    limit::{LimitStatus, Limits, MOST_TOKENS, Refusal},
};

use thiserror::Error;

use self::{
    health::Health,
    link::Link,
    permits::Permits,
    script::{Clock, Scripts},
    settlements::{Ending, Settlement, Settlements},
    snapshots::{Counted, Snapshots},
};
use crate::{
    observe::metrics::{SharedAnswer, SharedSeries},
    patience::Patience,
};

/// The limits that this gateway shares with others.
pub struct SharedLimits {
    terms: config::Shared,
    /// The id of this run of the gateway.
    gateway: Box<str>,
    numbers: AtomicU64,
    scripts: Scripts,
    link: Link,
    health: Health,
    permits: Permits,
    settlements: Settlements,
    snapshots: Snapshots,
    series: SharedSeries,
}

/// Why there are no shared limits: the operating system gives no randomness for this gateway's name.
#[derive(Debug, Error)]
#[error("the operating system gives no randomness: {0}")]
pub struct SharedLimitsError(getrandom::Error);

/// Why a request was not admitted by the server.
#[derive(Debug)]
pub enum Declined {
    /// A limit would be exceeded.
    Refused(Refusal),
    /// The server is unavailable: these limits apply meanwhile. `None`: no request is admitted.
    Unreachable(Option<Limits>),
}

impl SharedLimits {
    /// Limits that are shared as `terms` say. The server is not used until [`SharedLimits::run`] runs.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn new(terms: config::Shared, series: SharedSeries) -> Result<Self, SharedLimitsError> {
        Self::with_clock(terms, series, &Clock::Server)
    }

    fn with_clock(terms: config::Shared, series: SharedSeries, clock: &Clock) -> Result<Self, SharedLimitsError> {
        Ok(Self {
            link: Link::new(terms.clone()),
            terms,
            gateway: format!("{:016x}", getrandom::u64().map_err(SharedLimitsError)?).into(),
            numbers: AtomicU64::new(1),
            scripts: Scripts::new(clock),
            health: Health::default(),
            permits: Permits::default(),
            settlements: Settlements::default(),
            snapshots: Snapshots::default(),
            series,
        })
    }

    /// Admits a request that takes `tokens` tokens, cut to the limit, or refuses it and takes nothing. It waits until the
    /// server has been silent for `limits.shared.timeout`.
    ///
    /// # Errors
    /// When a limit would be exceeded, or the server is unavailable.
    pub async fn reserve(
        self: &Arc<Self>,
        key: &KeyId,
        limits: &Limits,
        tokens: u64,
        mut now: MonotonicTime,
    ) -> Result<Ticket, Declined> {
        let tokens = limits.tokens_per_minute.cut(tokens.min(MOST_TOKENS));
        let mut patience = self.link.patience(self.terms.timeout);
        if !self.health.decides(now) {
            now = now.max(self.wait_until_decided(&mut patience).await);
        }
        if !self.health.decides(now) {
            self.series.answer(SharedAnswer::Skipped);
            return Err(self.unreachable(limits));
        }
        if let Some(part) = self.snapshots.take_share(key, tokens, now) {
            self.series.answer(SharedAnswer::Leased);
            return Ok(self.ticket(key, limits, part.name, part.slot, tokens));
        }
        let start = MonotonicTime::now();
        let answer = self.ask(key, limits, tokens, &mut patience, now).await;
        self.series.took(MonotonicTime::now().saturating_since(start));
        self.series.answer(match &answer {
            Ok(_) => SharedAnswer::Admitted,
            Err(Declined::Refused(_)) => SharedAnswer::Refused,
            Err(Declined::Unreachable(_)) => SharedAnswer::Failed,
        });
        answer
    }

    /// The limits that this gateway applies by itself: all of `limits` while the server is asked, since the server counts
    /// more than what runs here, and its share otherwise.
    #[must_use]
    pub fn local_limits(&self, limits: &Limits) -> Limits {
        let is_asked = !self.health.is_known() || self.health.is_reachable();
        match self.terms.when_unreachable {
            WhenUnreachable::LocalShare if !is_asked => limits.share(self.health.gateways()),
            WhenUnreachable::LocalShare | WhenUnreachable::Refuse => *limits,
        }
    }

    /// Admits a request without the server, while it is unavailable.
    pub fn admit_locally(self: &Arc<Self>, key: &KeyId, limits: &Limits) -> Ticket {
        let name = self.new_name();
        self.permits.add(key, name.clone(), limits.concurrent_requests, false);
        Ticket { shared: self.clone(), key: key.clone(), name, slot: 0, tokens: 0, ending: Ending::Dropped }
    }

    /// The status of a key at `now`, from the server's last answer about it. `None`: the server is unavailable, and this
    /// gateway counts by itself.
    #[must_use]
    pub fn status(&self, key: &KeyId, limits: &Limits, now: MonotonicTime) -> Option<LimitStatus> {
        self.health.is_reachable().then(|| self.snapshots.status(key, limits, now))
    }

    /// The status of a key, from a new answer of the server if it gives one in time.
    pub async fn fetch_status(&self, key: &KeyId, limits: &Limits, now: MonotonicTime) -> Option<LimitStatus> {
        let known = self.status(key, limits, now)?;
        let Some(mut connection) = self.link.current() else { return Some(known) };
        let asked = self.scripts.status.on(&keys_of(key)).run::<Vec<u64>>(&mut connection);
        let answer = self.link.wait_for(self.terms.timeout, asked).await;
        let said = answer.ok().and_then(|said| Counted::read(&said));
        Some(said.map_or(known, |counted| counted.status(limits, Duration::ZERO)))
    }

    /// Waits until it is known whether the server decides, and returns when that was: after a start for the first contact,
    /// and after this process stood still until it has said anew what it runs.
    async fn wait_until_decided(&self, patience: &mut Patience<'_>) -> MonotonicTime {
        if !self.health.is_known() {
            let _ = patience.wait_for(self.health.wait_until_known()).await;
        }
        if self.health.is_reachable() {
            let _ = patience.wait_for(self.health.wait_until_renewed(MonotonicTime::now)).await;
        }
        MonotonicTime::now()
    }

    /// Stops asking the server until it is available again.
    fn mark_unavailable(&self, why: &dyn std::fmt::Display) {
        if self.health.mark_unreachable() {
            self.report_unavailable(why);
        }
    }

    fn report_unavailable(&self, why: &dyn std::fmt::Display) {
        self.series.reachable(false);
        let gateways = self.health.gateways();
        match self.terms.when_unreachable {
            WhenUnreachable::LocalShare => tracing::warn!(
                "the shared-limits server is unavailable: {why}; each key has 1/{gateways} of its limits here"
            ),
            WhenUnreachable::Refuse => {
                tracing::warn!("the shared-limits server is unavailable: {why}; requests of limited keys are refused");
            }
        }
    }

    fn unreachable(&self, limits: &Limits) -> Declined {
        Declined::Unreachable(match self.terms.when_unreachable {
            WhenUnreachable::LocalShare => Some(limits.share(self.health.gateways())),
            WhenUnreachable::Refuse => None,
        })
    }

    fn new_name(&self) -> Arc<str> {
        format!("{}.{}", self.gateway, self.numbers.fetch_add(1, Ordering::Relaxed)).into()
    }

    fn ticket(self: &Arc<Self>, key: &KeyId, limits: &Limits, name: Arc<str>, slot: u64, tokens: u64) -> Ticket {
        self.permits.add(key, name.clone(), limits.concurrent_requests, true);
        Ticket { shared: self.clone(), key: key.clone(), name, slot, tokens, ending: Ending::Dropped }
    }
}

/// The names of a key's data on the server. The braces put them on one server of a cluster.
fn keys_of(key: &KeyId) -> [String; 3] {
    [format!("keymeter:{{{key}}}:windows"), format!("keymeter:{{{key}}}:slots"), running_of(key)]
}

fn running_of(key: &KeyId) -> String {
    format!("keymeter:{{{key}}}:running")
}

/// The reservation of an admitted request on the server. Dropping it frees its permit, and what it reserved counts until it
/// leaves the minute: use `settle` or `cancel` to say more.
#[must_use = "a ticket that is dropped frees its permit at once"]
pub struct Ticket {
    shared: Arc<SharedLimits>,
    key: KeyId,
    name: Arc<str>,
    /// Where the server counts it; 0: it does not.
    slot: u64,
    tokens: u64,
    ending: Ending,
}

impl Ticket {
    /// The tokens reserved.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Ends the request, which used `used` tokens in all. The server is told off the request's path.
    pub fn settle(mut self, used: u64) {
        self.ending = Ending::Settled { used: used.min(MOST_TOKENS) };
    }

    /// Takes the admission back, for a request that is refused after all.
    pub fn cancel(mut self) {
        self.ending = Ending::Cancelled;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Self { shared, key, name, slot, tokens, ending } = self;
        let is_known = shared.permits.remove(key, name);
        if is_known {
            let ending = if *slot > 0 { ending.clone() } else { Ending::Dropped };
            shared.settlements.push(key, Settlement { name: name.clone(), slot: *slot, tokens: *tokens, ending });
        }
    }
}
