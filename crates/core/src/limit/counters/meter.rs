//! What one scope, or some models within a key, has used lately and has running.

use std::time::Duration;

use jiff::Timestamp;

use super::{Amounts, LimitKind, LimitLine, LimitName, LimitStatus, Refusal, WindowStatus};
use crate::{
    clock::{MonotonicTime, Now},
    glob::Glob,
    limit::{Limit, Limits, Quota, QuotaName, Scope, ScopeLimits, Slot, quota::QuotaCounter, window::Window},
};

#[derive(Debug, Default)]
pub(super) struct Meter {
    requests: Window,
    tokens: Window,
    /// Requests that have a place.
    pub running: u64,
    /// Nothing for most.
    #[allow(clippy::box_collection, reason = "a million keys that have none take 8 bytes each, not 24")]
    quotas: Option<Box<Vec<QuotaCounter>>>,
}

impl Meter {
    /// Lets go of what came more than a minute ago.
    pub fn roll(&mut self, now: MonotonicTime) {
        self.requests.roll(now);
        self.tokens.roll(now);
    }

    pub fn leave(&mut self) {
        // Each place added 1 and comes here once.
        self.running = self.running.saturating_sub(1);
    }

    pub fn admit(&mut self, tokens: u64, now: MonotonicTime) {
        self.requests.add(now, 1);
        self.tokens.add(now, tokens);
    }

    pub fn settle(&mut self, admitted: MonotonicTime, tokens: u64, used: u64, now: MonotonicTime) {
        self.tokens.give_back(admitted, tokens.saturating_sub(used));
        self.tokens.add(now, used.saturating_sub(tokens));
    }

    pub fn cancel(&mut self, admitted: MonotonicTime, tokens: u64) {
        self.requests.give_back(admitted, 1);
        self.tokens.give_back(admitted, tokens);
    }

    /// Settles what was reserved of a quota in `slot`, and says what counts of it, where.
    pub fn settle_quota(
        &mut self,
        quota: &Quota,
        slot: Slot,
        reserved: u64,
        used: u64,
        now: Timestamp,
    ) -> impl Iterator<Item = (Slot, u64)> + use<> {
        let counter = self.quota(quota.name);
        counter.give_back(slot, reserved.saturating_sub(used));
        let beyond = used.saturating_sub(reserved);
        // What is given back counts where it did; only what counts anew needs the present.
        let later = if beyond > 0 {
            counter.roll(quota, now);
            counter.add(now, beyond)
        } else {
            slot
        };
        [(slot, reserved.min(used)), (later, beyond)].into_iter().filter(|(_, amount)| *amount > 0)
    }

    /// The counter of a quota, which begins if it is new.
    pub fn quota(&mut self, name: QuotaName) -> &mut QuotaCounter {
        let quotas = self.quotas.get_or_insert_default();
        let at = quotas.iter().position(|known| known.name == name).unwrap_or_else(|| {
            quotas.reserve_exact(1);
            quotas.push(QuotaCounter::new(name));
            quotas.len() - 1
        });
        #[allow(clippy::indexing_slicing, reason = "it is a place in the list, or the one that was just added")]
        &mut quotas[at]
    }

    pub fn quotas(&self) -> impl Iterator<Item = &QuotaCounter> {
        self.quotas.iter().flat_map(|quotas| quotas.iter())
    }

    pub fn is_idle(&mut self, now: Now) -> bool {
        if let Some(quotas) = &mut self.quotas {
            quotas.retain(|quota| !quota.is_idle(now.date));
            if quotas.is_empty() {
                self.quotas = None;
            }
        }
        self.is_at_rest() && self.quotas.is_none()
    }

    /// Whether nothing of a minute counts and nothing runs.
    pub fn is_at_rest(&self) -> bool {
        self.running == 0 && self.requests.used() == 0 && self.tokens.used() == 0
    }

    /// Each limit, but that of concurrency, which a request of these amounts would exceed.
    pub fn refusals(&mut self, limits: &ScopeLimits, amounts: &Amounts, now: Now, mut tell: impl FnMut(Refusal)) {
        let Limits { requests_per_minute, tokens_per_minute, .. } = limits.minute;
        let over_tokens = over(LimitKind::Tokens, &self.tokens, tokens_per_minute, amounts.tokens, now.moment);
        let over_requests = over(LimitKind::Requests, &self.requests, requests_per_minute, 1, now.moment);
        over_tokens.into_iter().chain(over_requests).for_each(&mut tell);
        for quota in limits.quotas.iter() {
            let counter = self.quota(quota.name);
            counter.roll(quota, now.date);
            over_quota(counter, quota, amounts.of(quota.name.unit), now.date).into_iter().for_each(&mut tell);
        }
    }

    /// Each quota that there is, with its number and what is used of it.
    pub fn each_quota(&mut self, limits: &ScopeLimits, now: Now, mut tell: impl FnMut(QuotaName, u64, u64)) {
        for quota in limits.quotas.iter() {
            let counter = self.quota(quota.name);
            counter.roll(quota, now.date);
            tell(quota.name, quota.amount.get(), counter.used(quota, now.date));
        }
    }

    pub fn status(&self, limits: &Limits, now: MonotonicTime) -> LimitStatus {
        LimitStatus {
            requests: window_status(&self.requests, limits.requests_per_minute, now),
            tokens: window_status(&self.tokens, limits.tokens_per_minute, now),
            running: self.running,
        }
    }

    /// Each limit that there is, with what is used of it.
    pub fn lines(
        &mut self,
        scope: Scope,
        models: Option<&Glob>,
        limits: &ScopeLimits,
        now: Now,
        lines: &mut Vec<LimitLine>,
    ) {
        let line = |name, limit, used, reset| LimitLine { scope, models: models.cloned(), name, limit, used, reset };
        let status = self.status(&limits.minute, now.moment);
        let windows = [(LimitName::RequestsPerMinute, status.requests), (LimitName::TokensPerMinute, status.tokens)];
        for (name, WindowStatus { limit, used, reset }) in windows {
            lines.extend(limit.number().map(|limit| line(name, limit, used, reset)));
        }
        let concurrent = limits.minute.concurrent_requests.number();
        lines.extend(concurrent.map(|limit| line(LimitName::ConcurrentRequests, limit, self.running, Duration::ZERO)));
        for quota in limits.quotas.iter() {
            let counter = self.quota(quota.name);
            counter.roll(quota, now.date);
            let (used, reset) = (counter.used(quota, now.date), counter.reset(quota, now.date));
            lines.push(line(LimitName::Quota(quota.name), quota.amount.get(), used, reset));
        }
    }
}

fn window_status(window: &Window, limit: Limit, now: MonotonicTime) -> WindowStatus {
    WindowStatus { limit, used: window.used(), reset: window.reset(now) }
}

/// The refusal of a request that takes `amount` beyond `limit`. Nothing is never too much.
fn over(over: LimitKind, window: &Window, limit: Limit, amount: u64, now: MonotonicTime) -> Option<Refusal> {
    let (limit, used) = (limit.number()?, window.used());
    let excess = used.saturating_add(amount).saturating_sub(limit);
    let (retry_after, reset) = (|| window.wait_for(excess, now), || window.reset(now));
    (amount > 0 && excess > 0).then(|| refusal(over, limit, used, retry_after(), reset()))
}

fn over_quota(counter: &QuotaCounter, quota: &Quota, amount: u64, now: Timestamp) -> Option<Refusal> {
    let (limit, used) = (quota.amount.get(), counter.used(quota, now));
    let excess = used.saturating_add(amount).saturating_sub(limit);
    let (retry_after, reset) = (|| counter.wait_for(excess, quota, now), || counter.reset(quota, now));
    (amount > 0 && excess > 0).then(|| refusal(LimitKind::Quota(quota.name), limit, used, retry_after(), reset()))
}

fn refusal(over: LimitKind, limit: u64, used: u64, retry_after: Duration, reset: Duration) -> Refusal {
    Refusal { over, scope: Scope::Key, models: None, limit, used, retry_after, reset }
}
