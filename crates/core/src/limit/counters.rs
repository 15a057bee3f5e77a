//! The counters of one key. A request takes a `Place` among those that run as soon as it is there, and with it a
//! `Reservation` of requests and tokens when it is known what it asks for; what is refused on the way has taken nothing.
//! A place is given back exactly once, on every way out.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use super::{Limit, Limits, window::Window};
use crate::clock::MonotonicTime;

/// What one key has used lately and has running. It counts what is unlimited too, so that a
/// limit set later holds at once. An idle key takes less than 200 bytes, the busiest about 50 KiB.
///
/// Moments passed in may be slightly out of order between threads: time never steps back here.
#[derive(Debug, Default)]
pub struct Counters {
    state: Mutex<State>,
}

/// More than any request takes. It keeps a made-up number from filling the sums, which would
/// saturate only at 16 million such requests a minute.
pub const MOST_TOKENS: u64 = 1 << 40;

/// When to come back after a refusal over concurrency: nobody knows when a request ends.
pub const CONCURRENCY_WAIT: Duration = Duration::from_secs(1);

impl Counters {
    /// Admits a request, as [`Reservation::take`] does.
    ///
    /// # Errors
    /// When a limit would be exceeded. While as many requests run as may, that is what the refusal
    /// names, since no waiting time could be promised; else it names the limit with the longest wait.
    pub fn reserve(self: &Arc<Self>, limits: &Limits, tokens: u64, now: MonotonicTime) -> Result<Reservation, Refusal> {
        Reservation::take(self.clone(), limits, tokens, now)
    }

    /// What is used and what is left at `now`.
    #[must_use]
    pub fn standing(&self, limits: &Limits, now: MonotonicTime) -> LimitStatus {
        let mut state = self.lock();
        let now = state.advance(now);
        LimitStatus {
            requests: WindowStatus::new(&state.requests, limits.requests_per_minute, now),
            tokens: WindowStatus::new(&state.tokens, limits.tokens_per_minute, now),
            running: state.running,
        }
    }

    /// Whether nothing counts and nothing runs, so that forgetting these counters loses nothing.
    /// It also frees the memory of a key that has fallen silent.
    #[must_use]
    pub fn is_idle(&self, now: MonotonicTime) -> bool {
        let mut state = self.lock();
        state.advance(now);
        state.running == 0 && state.requests.used() == 0 && state.tokens.used() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        #[cfg(test)]
        tests::interleave();
        self.state.lock()
    }
}

/// One place among the requests of a key that run at once. Dropped, it is free for another request.
#[must_use = "a place that is dropped is free at once"]
pub struct Place<Owner: Deref<Target = Counters> = Arc<Counters>> {
    /// Whatever keeps the counters alive.
    counters: Owner,
    is_taken: bool,
}

impl<Owner: Deref<Target = Counters>> Place<Owner> {
    /// Takes a place, if fewer than `limit` requests run. Requests and tokens are not touched.
    ///
    /// # Errors
    /// When as many requests run as may.
    pub fn take(counters: Owner, limit: Limit) -> Result<Self, Refusal> {
        counters.lock().enter(limit)?;
        Ok(Self { counters, is_taken: true })
    }

    /// Whose place it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.counters
    }

    /// Admits the request that holds this place and takes `tokens` tokens, cut to the limit, or refuses it and takes
    /// nothing of its requests and tokens. A request of 0 tokens is never refused over tokens.
    ///
    /// # Errors
    /// The place, and why a limit would be exceeded: the one over concurrency, where that was lowered since the place was
    /// taken, as no waiting time could be promised; else the one with the longest wait.
    pub fn reserve(
        self,
        limits: &Limits,
        tokens: u64,
        now: MonotonicTime,
    ) -> Result<Reservation<Owner>, (Self, Refusal)> {
        let tokens = limits.tokens_per_minute.cut(tokens.min(MOST_TOKENS));
        let admitted = self.counters.lock().admit(limits, tokens, now);
        match admitted {
            Ok(admitted) => Ok(Reservation { place: self, admitted, tokens }),
            Err(refusal) => Err((self, refusal)),
        }
    }

    /// Gives it back, together with what else is to be said of its request.
    fn leave(mut self, say: impl FnOnce(&mut State)) {
        self.is_taken = false;
        let mut state = self.counters.lock();
        say(&mut state);
        state.leave();
    }
}

impl<Owner: Deref<Target = Counters>> Drop for Place<Owner> {
    fn drop(&mut self) {
        if self.is_taken {
            self.counters.lock().leave();
        }
    }
}

impl<Owner: Deref<Target = Counters>> fmt::Debug for Place<Owner> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Place").finish_non_exhaustive()
    }
}

/// What an admitted request holds. Dropped, it frees its place among the running requests, and
/// what it reserved counts until it leaves the window: use `settle` or `cancel` to say more.
#[derive(Debug)]
#[must_use = "a reservation that is dropped frees its place at once"]
pub struct Reservation<Owner: Deref<Target = Counters> = Arc<Counters>> {
    place: Place<Owner>,
    admitted: MonotonicTime,
    tokens: u64,
}

impl<Owner: Deref<Target = Counters>> Reservation<Owner> {
    /// Takes a place and admits the request with it, or takes nothing.
    ///
    /// # Errors
    /// As those of [`Place::take`] and [`Place::reserve`].
    pub fn take(counters: Owner, limits: &Limits, tokens: u64, now: MonotonicTime) -> Result<Self, Refusal> {
        let tokens = limits.tokens_per_minute.cut(tokens.min(MOST_TOKENS));
        let admitted = counters.lock().enter_and_admit(limits, tokens, now)?;
        Ok(Self { place: Place { counters, is_taken: true }, admitted, tokens })
    }

    /// The tokens reserved.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Ends the request, which used `used` tokens in all. What it reserved and did not use is
    /// given back, if it still counts; what it used beyond that counts from `now`.
    pub fn settle(self, used: u64, now: MonotonicTime) {
        let Self { place, admitted, tokens } = self;
        place.leave(|state| state.settle(admitted, tokens, used.min(MOST_TOKENS), now));
    }

    /// Takes the admission back, request and tokens, for a request that is refused after all. What is left is its place.
    pub fn cancel(self) -> Place<Owner> {
        let Self { place, admitted, tokens } = self;
        place.counters.lock().cancel(admitted, tokens);
        place
    }
}

#[derive(Debug, Default)]
struct State {
    /// The latest moment seen.
    latest: MonotonicTime,
    requests: Window,
    tokens: Window,
    running: u64,
}

impl State {
    /// Brings both windows to `now`, or to the latest moment seen if that is later, and returns it.
    fn advance(&mut self, now: MonotonicTime) -> MonotonicTime {
        self.latest = self.latest.max(now);
        self.requests.roll(self.latest);
        self.tokens.roll(self.latest);
        self.latest
    }

    fn enter(&mut self, limit: Limit) -> Result<(), Refusal> {
        if let Some(refusal) = too_many(self.running, limit) {
            return Err(refusal);
        }
        self.running += 1;
        Ok(())
    }

    fn leave(&mut self) {
        // Each place added 1 and comes here once.
        self.running = self.running.saturating_sub(1);
    }

    fn enter_and_admit(&mut self, limits: &Limits, tokens: u64, now: MonotonicTime) -> Result<MonotonicTime, Refusal> {
        self.enter(limits.concurrent_requests)?;
        let admitted = self.admit(limits, tokens, now);
        if admitted.is_err() {
            self.leave();
        }
        admitted
    }

    /// Admits a request that has its place.
    fn admit(&mut self, limits: &Limits, tokens: u64, now: MonotonicTime) -> Result<MonotonicTime, Refusal> {
        let now = self.advance(now);
        if let Some(refusal) = self.refusal(limits, tokens, now) {
            return Err(refusal);
        }
        self.requests.add(now, 1);
        self.tokens.add(now, tokens);
        Ok(now)
    }

    fn refusal(&self, limits: &Limits, tokens: u64, now: MonotonicTime) -> Option<Refusal> {
        let requests = || refusal_over(LimitKind::Requests, &self.requests, limits.requests_per_minute, 1, now);
        let tokens = || refusal_over(LimitKind::Tokens, &self.tokens, limits.tokens_per_minute, tokens, now);
        // Of equal waits the last is taken.
        let longest = || tokens().into_iter().chain(requests()).max_by_key(|refusal| refusal.retry_after);
        too_many(self.running.saturating_sub(1), limits.concurrent_requests).or_else(longest)
    }

    fn settle(&mut self, admitted: MonotonicTime, tokens: u64, used: u64, now: MonotonicTime) {
        let now = self.advance(now);
        self.tokens.give_back(admitted, tokens.saturating_sub(used));
        self.tokens.add(now, used.saturating_sub(tokens));
    }

    fn cancel(&mut self, admitted: MonotonicTime, tokens: u64) {
        self.requests.give_back(admitted, 1);
        self.tokens.give_back(admitted, tokens);
    }
}

/// Which limit a request would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests in any 60 seconds.
    Requests,
    /// Tokens in any 60 seconds.
    Tokens,
    /// Requests running at once.
    Concurrency,
}

/// Why a request is refused, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The limit that it would exceed.
    pub over: LimitKind,
    /// That limit's number.
    pub limit: u64,
    /// What is used of it; more than the limit where more was used than reserved.
    pub used: u64,
    /// How long to wait. For requests and tokens it is exactly enough if nothing else is sent and
    /// nothing running uses more than it reserved, and at most 60 seconds; for concurrency 1 second.
    pub retry_after: Duration,
    /// How long until all of it is free again; for concurrency as `retry_after`.
    pub reset: Duration,
}

/// The refusal of a request beside which so many others run.
fn too_many(running: u64, limit: Limit) -> Option<Refusal> {
    let limit = limit.number()?;
    let (retry_after, reset) = (CONCURRENCY_WAIT, CONCURRENCY_WAIT);
    (running >= limit).then_some(Refusal { over: LimitKind::Concurrency, limit, used: running, retry_after, reset })
}

/// The refusal of a request that takes `amount` beyond `limit`. Nothing is never too much.
fn refusal_over(over: LimitKind, window: &Window, limit: Limit, amount: u64, now: MonotonicTime) -> Option<Refusal> {
    let (limit, used) = (limit.number()?, window.used());
    let excess = used.saturating_add(amount).saturating_sub(limit);
    let refused = amount > 0 && excess > 0;
    refused.then(|| Refusal { over, limit, used, retry_after: window.wait_for(excess, now), reset: window.reset(now) })
}

/// What a key has used and has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    /// Requests in the last 60 seconds.
    pub requests: WindowStatus,
    /// Tokens in the last 60 seconds.
    pub tokens: WindowStatus,
    /// Requests running now.
    pub running: u64,
}

/// What is used of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowStatus {
    /// What is allowed in any 60 seconds.
    pub limit: Limit,
    /// What counts now; it may be more than the limit.
    pub used: u64,
    /// How long until all of it is free again.
    pub reset: Duration,
}

impl WindowStatus {
    fn new(window: &Window, limit: Limit, now: MonotonicTime) -> Self {
        Self { limit, used: window.used(), reset: window.reset(now) }
    }

    /// What is left; `None` where there is no limit.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        Some(self.limit.number()?.saturating_sub(self.used))
    }
}

#[cfg(any(test, feature = "test-util"))]
pub mod reference;

#[cfg(test)]
mod tests;
