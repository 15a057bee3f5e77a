//! One limit over several gateways. What keys, teams and owners use is counted on a Redis or Valkey server, where each
//! admission is one step and one round trip. While that server is unavailable, each gateway applies its share of the limits.

mod admission;
mod answer;
mod health;
mod link;
mod permits;
mod quota_lease;
mod quotas;
mod recovery;
mod script;
mod settlements;
mod share;
mod snapshots;
mod standing;
mod subject;
mod sync;
mod ticket;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use keymeter_config::{self as config, WhenUnreachable};
use keymeter_core::{
    clock::{MonotonicTime, Now},
    limit::{Amounts, Refusal, RequestLimits, Scopes},
};

use thiserror::Error;

pub use self::ticket::Ticket;
use self::{
    admission::Question,
    health::Health,
    link::{Link, LinkError},
    permits::Permits,
    quotas::Calendar,
    recovery::Recovery,
    script::{Clock, Scripts},
    settlements::Settlements,
    snapshots::Snapshots,
    subject::parts,
};
use super::kept::KeptQuotas;
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
    calendar: Calendar,
    recovery: Recovery,
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
    /// The server is unavailable: [`SharedLimits::local_share`] says what applies meanwhile.
    Unreachable,
}

impl SharedLimits {
    /// Limits that are shared as `terms` say; what is added to quotas is in `kept` too. The server is not used until
    /// [`SharedLimits::run`] runs.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn new(terms: config::Shared, series: SharedSeries, kept: Arc<KeptQuotas>) -> Result<Self, SharedLimitsError> {
        Self::with_clock(terms, series, kept, &Clock::Server)
    }

    fn with_clock(
        terms: config::Shared,
        series: SharedSeries,
        kept: Arc<KeptQuotas>,
        clock: &Clock,
    ) -> Result<Self, SharedLimitsError> {
        let gateway: Box<str> = format!("{:016x}", getrandom::u64().map_err(SharedLimitsError)?).into();
        Ok(Self {
            link: Link::new(terms.clone()),
            terms,
            recovery: Recovery::new(kept, gateway.clone()),
            gateway,
            numbers: AtomicU64::new(1),
            scripts: Scripts::new(clock),
            health: Health::default(),
            permits: Permits::default(),
            settlements: Settlements::default(),
            snapshots: Snapshots::default(),
            calendar: Calendar::default(),
            series,
        })
    }

    /// Admits a request of those with these names that takes `amounts`, cut to the limits, or refuses it and takes nothing.
    /// It waits until the server has been silent for `limits.shared.timeout`.
    ///
    /// # Errors
    /// When a limit would be exceeded, or the server is unavailable.
    pub async fn reserve(
        self: &Arc<Self>,
        names: &Scopes<&str>,
        limits: &RequestLimits,
        amounts: Amounts,
        mut now: Now,
    ) -> Result<Ticket, Declined> {
        let question = Question { parts: parts(names, limits), mode: limits.mode, amounts: amounts.cut(limits) };
        let mut patience = self.link.patience(self.terms.timeout);
        if !self.health.decides(now.moment) {
            now = later(now, self.wait_until_decided(&mut patience).await);
        }
        if !self.health.decides(now.moment) {
            self.series.answer(SharedAnswer::Skipped);
            return Err(Declined::Unreachable);
        }
        if let Some(ticket) = self.leased(&question, now) {
            self.series.answer(SharedAnswer::Leased);
            return Ok(ticket);
        }
        let start = MonotonicTime::now();
        let answer = self.ask(&question, &mut patience, now).await;
        self.series.took(MonotonicTime::now().saturating_since(start));
        self.series.answer(match &answer {
            Ok(_) => SharedAnswer::Admitted,
            Err(Declined::Refused(_)) => SharedAnswer::Refused,
            Err(Declined::Unreachable) => SharedAnswer::Failed,
        });
        answer
    }

    /// A ticket for a request that is admitted without the server, while it is unavailable.
    pub fn admit_locally(self: &Arc<Self>, names: &Scopes<&str>, limits: &RequestLimits) -> Ticket {
        Ticket::new(self.clone(), self.new_name(), &parts(names, limits), None, 0, None)
    }

    /// A ticket from what was taken in advance.
    fn leased(self: &Arc<Self>, question: &Question, now: Now) -> Option<Ticket> {
        let key = question.sole_key()?;
        let part = self.snapshots.take_share(&key.subject, question.amounts.tokens, now.moment)?;
        Some(self.ticket(question, &[part.slot], part.name, None))
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
    fn mark_unavailable(&self, failed: Failed, why: &LinkError) {
        if self.health.mark_unreachable() {
            self.report_unavailable(failed, why);
        }
    }

    fn report_unavailable(&self, failed: Failed, why: &LinkError) {
        self.series.reachable(false);
        let (server, failed, gateways) = (&self.terms.url, failed.as_str(), self.health.gateways());
        match self.terms.when_unreachable {
            WhenUnreachable::LocalShare => tracing::warn!(
                "the shared-limits server {server} is unavailable: {failed}: {why}; this gateway has 1/{gateways} of each limit"
            ),
            WhenUnreachable::Refuse => {
                tracing::warn!(
                    "the shared-limits server {server} is unavailable: {failed}: {why}; requests of limited keys are refused"
                );
            }
        }
    }

    fn new_name(&self) -> Arc<str> {
        format!("{}.{}", self.gateway, self.numbers.fetch_add(1, Ordering::Relaxed)).into()
    }

    fn ticket(
        self: &Arc<Self>,
        question: &Question,
        slots: &[u64],
        name: Arc<str>,
        observed: Option<Refusal>,
    ) -> Ticket {
        Ticket::new(self.clone(), name, &question.parts, Some(slots), question.amounts.tokens, observed)
    }
}

/// What the server failed at.
#[derive(Clone, Copy, Debug)]
enum Failed {
    /// Connecting, and saying what runs here.
    Connecting,
    /// Admitting a request.
    Admitting,
    /// Taking what requests came to, and what runs here.
    Renewing,
}

impl Failed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "cannot connect",
            Self::Admitting => "cannot admit a request",
            Self::Renewing => "cannot hand in what requests used",
        }
    }
}

/// The same moment or a later one, of both clocks.
fn later(now: Now, moment: MonotonicTime) -> Now {
    let passed = moment.saturating_since(now.moment);
    Now { moment: now.moment.max(moment), date: now.date.checked_add(passed).unwrap_or(now.date) }
}
