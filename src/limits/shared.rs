//! One limit over several gateways. What a key uses is counted on a Redis or Valkey server, where each admission is
//! one step and one round trip; while that server is of no use, each gateway holds the key to its share.

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
use crate::observe::metrics::{SharedAnswer, SharedSeries};

/// The limits that this gateway shares with others.
pub struct SharedLimits {
    terms: config::Shared,
    /// What tells this run of the gateway from all others.
    gateway: Box<str>,
    numbers: AtomicU64,
    scripts: Scripts,
    link: Link,
    mode: Health,
    places: Permits,
    due: Settlements,
    seen: Snapshots,
    /// When the server last heard of what runs here, in nanoseconds.
    heard: AtomicU64,
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
    /// The server is of no use: these hold meanwhile; `None`: nothing is admitted.
    Unreachable(Option<Limits>),
}

/// Places that were not renewed for so long may be somebody else's soon: they are free after 10 s.
const TRUSTED_FOR: Duration = Duration::from_secs(8);

impl SharedLimits {
    /// Limits that are kept as `terms` say. Nothing is asked until [`SharedLimits::keep`] runs.
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
            mode: Health::default(),
            places: Permits::default(),
            due: Settlements::default(),
            seen: Snapshots::default(),
            heard: AtomicU64::new(0),
            series,
        })
    }

    /// Admits a request that takes `tokens` tokens, cut to the limit, or refuses it and takes nothing. It waits no
    /// longer than `limits.shared.timeout`.
    ///
    /// # Errors
    /// When a limit would be exceeded, or the server is of no use.
    pub async fn reserve(
        self: &Arc<Self>,
        key: &KeyId,
        limits: &Limits,
        tokens: u64,
        mut now: MonotonicTime,
    ) -> Result<Ticket, Declined> {
        let tokens = limits.tokens_per_minute.cut(tokens.min(MOST_TOKENS));
        let mut patience = self.terms.timeout;
        if !self.mode.is_known() {
            // The process has just started. Whatever comes of it, it is not waited for again.
            let start = MonotonicTime::now();
            let _ = tokio::time::timeout(patience, self.mode.known()).await;
            now = now.max(MonotonicTime::now());
            patience = patience.saturating_sub(now.saturating_since(start));
        }
        if !self.is_trusted(now) {
            self.series.answer(SharedAnswer::Skipped);
            return Err(self.unreachable(limits));
        }
        if let Some(part) = self.seen.take_part(key, tokens, now) {
            self.series.answer(SharedAnswer::Leased);
            return Ok(self.ticket(key, limits, part.name, part.slot, tokens));
        }
        let start = MonotonicTime::now();
        let answer = self.ask(key, limits, tokens, patience, now).await;
        self.series.took(MonotonicTime::now().saturating_since(start));
        self.series.answer(match &answer {
            Ok(_) => SharedAnswer::Admitted,
            Err(Declined::Refused(_)) => SharedAnswer::Refused,
            Err(Declined::Unreachable(_)) => SharedAnswer::Failed,
        });
        answer
    }

    /// What of `limits` this gateway holds a key to by itself at `now`: all of it while the server is asked, for that
    /// counts more than what is here, and its share otherwise.
    #[must_use]
    pub fn limits_here(&self, limits: &Limits, now: MonotonicTime) -> Limits {
        let is_asked = !self.mode.is_known() || self.is_trusted(now);
        match self.terms.when_unreachable {
            WhenUnreachable::LocalShare if !is_asked => limits.share(self.mode.gateways()),
            WhenUnreachable::LocalShare | WhenUnreachable::Refuse => *limits,
        }
    }

    /// A request that this gateway admits by itself, while the server is of no use.
    pub fn admitted_here(self: &Arc<Self>, key: &KeyId, limits: &Limits) -> Ticket {
        let name = self.new_name();
        self.places.enter(key, name.clone(), limits.concurrent_requests, false);
        Ticket { shared: self.clone(), key: key.clone(), name, slot: 0, tokens: 0, ending: Ending::Dropped }
    }

    /// What is known of a key at `now`, from the server's last answer about it; `None`: the server is of no use, and
    /// this gateway counts by itself.
    #[must_use]
    pub fn standing(&self, key: &KeyId, limits: &Limits, now: MonotonicTime) -> Option<LimitStatus> {
        self.mode.is_reachable().then(|| self.seen.standing(key, limits, now))
    }

    /// The same, from the server's answer to this very question, if it gives one in time.
    pub async fn asked_standing(&self, key: &KeyId, limits: &Limits, now: MonotonicTime) -> Option<LimitStatus> {
        let known = self.standing(key, limits, now)?;
        let Some(mut connection) = self.link.current() else { return Some(known) };
        let asked = self.scripts.standing.on(&keys_of(key)).run::<Vec<u64>>(&mut connection);
        let said = match tokio::time::timeout(self.terms.timeout, asked).await {
            Ok(Ok(said)) => Counted::read(&said),
            Ok(Err(_)) | Err(_) => None,
        };
        Some(said.map_or(known, |counted| counted.standing(limits, Duration::ZERO)))
    }

    /// Whether the server is asked.
    fn is_trusted(&self, now: MonotonicTime) -> bool {
        let heard = MonotonicTime::from_nanos(self.heard.load(Ordering::Relaxed));
        let is_fresh = now.saturating_since(heard) < TRUSTED_FOR;
        if self.mode.is_reachable() && !is_fresh {
            self.lose(&"the places of running requests were not renewed in time");
        }
        self.mode.is_reachable() && is_fresh
    }

    /// From here on nobody asks the server until it is found to be of use again.
    fn lose(&self, why: &dyn std::fmt::Display) {
        if self.mode.give_up() {
            self.say_lost(why);
        }
    }

    fn say_lost(&self, why: &dyn std::fmt::Display) {
        self.series.reachable(false);
        let gateways = self.mode.gateways();
        match self.terms.when_unreachable {
            WhenUnreachable::LocalShare => tracing::warn!(
                "the server of the shared limits is of no use: {why}; each key has 1/{gateways} of its limits here"
            ),
            WhenUnreachable::Refuse => {
                tracing::warn!(
                    "the server of the shared limits is of no use: {why}; requests of limited keys are refused"
                );
            }
        }
    }

    fn unreachable(&self, limits: &Limits) -> Declined {
        Declined::Unreachable(match self.terms.when_unreachable {
            WhenUnreachable::LocalShare => Some(limits.share(self.mode.gateways())),
            WhenUnreachable::Refuse => None,
        })
    }

    fn new_name(&self) -> Arc<str> {
        format!("{}.{}", self.gateway, self.numbers.fetch_add(1, Ordering::Relaxed)).into()
    }

    fn ticket(self: &Arc<Self>, key: &KeyId, limits: &Limits, name: Arc<str>, slot: u64, tokens: u64) -> Ticket {
        self.places.enter(key, name.clone(), limits.concurrent_requests, true);
        Ticket { shared: self.clone(), key: key.clone(), name, slot, tokens, ending: Ending::Dropped }
    }
}

/// What is kept of a key on the server. The braces put it on one server of a cluster.
fn keys_of(key: &KeyId) -> [String; 3] {
    [format!("keymeter:{{{key}}}:windows"), format!("keymeter:{{{key}}}:slots"), running_of(key)]
}

fn running_of(key: &KeyId) -> String {
    format!("keymeter:{{{key}}}:running")
}

/// What an admitted request holds on the server. Dropped, it frees its place, and what it reserved counts until it
/// leaves the minute: use `settle` or `cancel` to say more.
#[must_use = "a ticket that is dropped frees its place at once"]
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
        let is_known = shared.places.leave(key, name);
        if is_known {
            let ending = if *slot > 0 { ending.clone() } else { Ending::Dropped };
            shared.due.push(key, Settlement { name: name.clone(), slot: *slot, tokens: *tokens, ending });
        }
    }
}
