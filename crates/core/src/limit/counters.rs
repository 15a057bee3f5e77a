//! The counters of those whose limits requests are held to: keys, teams and owners. A request takes a `Place` among those
//! that run as soon as it is there, and with it a `Reservation` of requests, tokens and quotas when it is known what it asks
//! for: of all scopes that concern it together, or of none. What is refused on the way has taken nothing. A place is given back
//! exactly once, on every way out.

mod meter;
mod room;
mod status;

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use self::meter::Meter;
pub use self::room::{Room, room_left};
pub use self::status::{LimitLine, LimitName, LimitStatus, WindowStatus};
use super::{
    Limit, LimitMode, QuotaName, QuotaUnit, RequestLimits, Scope, ScopeLimits, Scopes, Slot, quota::QuotaCounter,
};
use crate::{
    clock::{MonotonicTime, Now},
    glob::Glob,
};

/// What one key, team or owner has used lately and has running. What is unlimited counts too, so that a limit of a minute that
/// is set later holds at once. An idle one takes less than 200 bytes, the busiest about 50 KiB beside its quotas.
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

/// What a request takes, or is planned to take, beside being one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Tokens of all kinds.
    pub tokens: u64,
    /// Those of its answer.
    pub output_tokens: u64,
    /// Its cost in nano-dollars.
    pub nano_usd: u64,
}

impl Amounts {
    /// So many tokens, of nothing further known.
    #[must_use]
    pub const fn tokens(tokens: u64) -> Self {
        Self { tokens, output_tokens: 0, nano_usd: 0 }
    }

    /// The amount that a quota of `unit` counts.
    #[must_use]
    pub const fn of(&self, unit: QuotaUnit) -> u64 {
        match unit {
            QuotaUnit::Requests => 1,
            QuotaUnit::Tokens => self.tokens,
            QuotaUnit::OutputTokens => self.output_tokens,
            QuotaUnit::Usd => self.nano_usd,
        }
    }

    /// The same, cut to what the limits allow at all.
    #[must_use]
    pub fn cut(self, limits: &RequestLimits) -> Self {
        let mut cut =
            Self { tokens: self.tokens.min(MOST_TOKENS), output_tokens: self.output_tokens.min(MOST_TOKENS), ..self };
        for (.., ScopeLimits { minute, quotas }) in limits.all() {
            cut.tokens = minute.tokens_per_minute.cut(cut.tokens);
            for quota in quotas.iter() {
                let most = quota.amount.get();
                match quota.name.unit {
                    QuotaUnit::Requests => {}
                    QuotaUnit::Tokens => cut.tokens = cut.tokens.min(most),
                    QuotaUnit::OutputTokens => cut.output_tokens = cut.output_tokens.min(most),
                    QuotaUnit::Usd => cut.nano_usd = cut.nano_usd.min(most),
                }
            }
        }
        cut
    }
}

impl Counters {
    /// Whether nothing counts and nothing runs, so that forgetting these counters loses nothing.
    /// It also frees the memory of a key that has fallen silent.
    #[must_use]
    pub fn is_idle(&self, now: Now) -> bool {
        let mut state = self.lock();
        state.advance(now.moment);
        state.is_idle(now)
    }

    /// Whether nothing of a minute counts and nothing runs, so that forgetting these counters loses nothing but what is used of
    /// quotas.
    #[must_use]
    pub fn is_idle_but_for_quotas(&self, now: Now) -> bool {
        let mut state = self.lock();
        state.advance(now.moment);
        state.meter.is_at_rest() && state.models.iter().all(|(_, meter)| meter.is_at_rest())
    }

    /// Counts what was used of a quota before this process began, or by another: `amount` in `slot`, of the scope itself, or of
    /// some models within it.
    pub fn restore(&self, models: Option<&Glob>, name: QuotaName, slot: Slot, amount: u64) {
        let mut state = self.lock();
        let meter = match models {
            Some(models) => state.model(models),
            None => &mut state.meter,
        };
        meter.quota(name).restore(slot, amount);
    }

    /// What is used of its quotas, of the scope itself and of some models within it.
    #[must_use]
    pub fn quotas(&self) -> Vec<(Option<Glob>, QuotaCounter)> {
        let state = self.lock();
        let own = state.meter.quotas().map(|quota| (None, quota.clone()));
        let of_models = state
            .models
            .iter()
            .flat_map(|(models, meter)| meter.quotas().map(|quota| (Some(models.clone()), quota.clone())));
        own.chain(of_models).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        #[cfg(test)]
        return tests::interleaved(&self.state);
        #[cfg(not(test))]
        self.state.lock()
    }
}

/// All counters of a request, locked in the one order that there is: no two requests wait for each other.
fn lock<Owner: Deref<Target = Counters>>(counters: &Scopes<Owner>) -> Scopes<MutexGuard<'_, State>> {
    counters.map(|_, counters| counters.lock())
}

/// What is used and what is left at `now` of all that concerns a request: of requests and tokens a minute, those of the scope
/// that has the least left of its own.
pub fn status<Owner: Deref<Target = Counters>>(
    counters: &Scopes<Owner>,
    limits: &RequestLimits,
    now: Now,
) -> LimitStatus {
    let mut tightest: Option<LimitStatus> = None;
    each_status(counters, limits, now, |_, _, meter, limits| {
        let status = meter.status(&limits.minute, now.moment);
        match &mut tightest {
            Some(tightest) => tightest.tighten(&status),
            None => tightest = Some(status),
        }
    });
    tightest.unwrap_or_default()
}

/// Each limit that concerns a request, with what is used of it.
pub fn lines<Owner: Deref<Target = Counters>>(
    counters: &Scopes<Owner>,
    limits: &RequestLimits,
    now: Now,
) -> Vec<LimitLine> {
    let mut lines = Vec::new();
    each_status(counters, limits, now, |scope, models, meter, limits| {
        meter.lines(scope, models, limits, now, &mut lines);
    });
    lines
}

/// The key's first, so that of equal ones its own is told.
fn each_status<Owner: Deref<Target = Counters>>(
    counters: &Scopes<Owner>,
    limits: &RequestLimits,
    now: Now,
    mut tell: impl FnMut(Scope, Option<&Glob>, &mut Meter, &ScopeLimits),
) {
    for scope in [Scope::Key, Scope::Owner, Scope::Team] {
        let (Some(counters), Some(limits_of_scope)) = (counters.of(scope), limits.scopes.of(scope)) else { continue };
        let mut state = counters.lock();
        state.advance(now.moment);
        tell(scope, None, &mut state.meter, limits_of_scope);
        for model in limits.models.iter().filter(|_| scope == Scope::Key) {
            tell(Scope::Model, Some(&model.models), state.model(&model.models), &model.limits);
        }
    }
}

/// One place among the requests of a key, and of its team and owner, that run at once. Dropped, it is free for another
/// request.
#[must_use = "a place that is dropped is free at once"]
pub struct Place<Owner: Deref<Target = Counters> = Arc<Counters>> {
    /// Whatever keeps the counters alive.
    counters: Scopes<Owner>,
    /// The models within the key among whose requests it has a place too, once its model is known.
    models: Box<[Glob]>,
    /// What would have refused it, if limits were enforced.
    observed: Option<Refusal>,
    is_taken: bool,
}

impl<Owner: Deref<Target = Counters>> Place<Owner> {
    /// Takes a place, if fewer than may run of each scope. Requests and tokens are not touched.
    ///
    /// # Errors
    /// When as many requests run as may.
    pub fn take(counters: Scopes<Owner>, limits: &RequestLimits) -> Result<Self, Refusal> {
        let mut states = lock(&counters);
        let observed = enter(&mut states, limits)?;
        drop(states);
        Ok(Self { counters, models: Box::default(), observed, is_taken: true })
    }

    /// Whose place it is.
    #[must_use]
    pub fn counters(&self) -> &Scopes<Owner> {
        &self.counters
    }

    /// Admits the request that holds this place and takes `amounts`, cut to the limits, or refuses it and takes nothing.
    ///
    /// # Errors
    /// When a limit would be exceeded: the place is still there. While as many requests run as may, that is what the refusal
    /// names, since no waiting time could be promised; else it names the limit with the longest wait.
    #[allow(
        clippy::result_large_err,
        reason = "the place goes back to who tries again, and refusals are cheap as it is"
    )]
    pub fn reserve(
        self,
        limits: &Arc<RequestLimits>,
        amounts: Amounts,
        now: Now,
    ) -> Result<Reservation<Owner>, (Self, Refusal)> {
        let amounts = amounts.cut(limits);
        let mut states = lock(&self.counters);
        let admitted = admit(&mut states, limits, &amounts, now);
        drop(states);
        match admitted {
            Ok(admission) => Ok(self.admitted(admission, limits, amounts)),
            Err(refusal) => Err((self, refusal)),
        }
    }

    fn admitted(mut self, admission: Admission, limits: &Arc<RequestLimits>, amounts: Amounts) -> Reservation<Owner> {
        let Admission { moment, slots, observed } = admission;
        self.models = limits.models.iter().map(|model| model.models.clone()).collect();
        self.observed = self.observed.take().or(observed);
        Reservation { place: self, limits: limits.clone(), moment, slots, amounts }
    }

    /// Gives it back, together with what else is to be said of its request.
    fn leave<T>(mut self, say: impl FnOnce(&mut Scopes<MutexGuard<'_, State>>) -> T) -> T {
        self.is_taken = false;
        let mut states = lock(&self.counters);
        let said = say(&mut states);
        leave(&mut states, &self.models);
        said
    }
}

impl<Owner: Deref<Target = Counters>> Drop for Place<Owner> {
    fn drop(&mut self) {
        if self.is_taken {
            leave(&mut lock(&self.counters), &self.models);
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
    limits: Arc<RequestLimits>,
    moment: MonotonicTime,
    /// Where it counts in each quota, in the order in which they are met.
    slots: Vec<Slot>,
    amounts: Amounts,
}

/// What a request came to in one quota, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaUse {
    /// Whose quota it is.
    pub scope: Scope,
    /// Of which models, for those within a key.
    pub models: Option<Glob>,
    /// Which of its quotas.
    pub name: QuotaName,
    /// Where it counts.
    pub slot: Slot,
    /// How much.
    pub amount: u64,
}

impl<Owner: Deref<Target = Counters>> Reservation<Owner> {
    /// Takes a place and admits the request with it, or takes nothing.
    ///
    /// # Errors
    /// As those of [`Place::take`] and [`Place::reserve`].
    pub fn take(
        counters: Scopes<Owner>,
        limits: &Arc<RequestLimits>,
        amounts: Amounts,
        now: Now,
    ) -> Result<Self, Refusal> {
        let amounts = amounts.cut(limits);
        let mut states = lock(&counters);
        let observed = enter(&mut states, limits)?;
        let admitted = admit(&mut states, limits, &amounts, now);
        if admitted.is_err() {
            leave(&mut states, &[]);
        }
        drop(states);
        let place = Place { counters, models: Box::default(), observed, is_taken: admitted.is_ok() };
        Ok(place.admitted(admitted?, limits, amounts))
    }

    /// The tokens reserved.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.amounts.tokens
    }

    /// What would have refused the request, if limits were enforced.
    #[must_use]
    pub fn observed(&self) -> Option<&Refusal> {
        self.place.observed.as_ref()
    }

    /// Whose counters it is in.
    #[must_use]
    pub fn counters(&self) -> &Scopes<Owner> {
        &self.place.counters
    }

    /// Ends the request, which used so much in all. What it reserved and did not use is given back, if it still counts; what
    /// it used beyond that counts from `now`. Says what it came to in each quota.
    pub fn settle(self, used: Amounts, now: Now) -> Vec<QuotaUse> {
        let Self { place, limits, moment, slots, amounts } = self;
        let used = Amounts {
            tokens: used.tokens.min(MOST_TOKENS),
            output_tokens: used.output_tokens.min(MOST_TOKENS),
            ..used
        };
        place.leave(|states| {
            let present = advance(states, now.moment);
            let (mut slots, mut said) = (slots.into_iter(), Vec::new());
            each_meter(states, &limits, |scope, models, meter, limits| {
                meter.settle(moment, amounts.tokens, used.tokens, present);
                for (quota, slot) in limits.quotas.iter().zip(slots.by_ref()) {
                    let (reserved, used) = (amounts.of(quota.name.unit), used.of(quota.name.unit));
                    for (slot, amount) in meter.settle_quota(quota, slot, reserved, used, now.date) {
                        said.push(QuotaUse { scope, models: models.cloned(), name: quota.name, slot, amount });
                    }
                }
            });
            said
        })
    }

    /// Takes the admission back, request and tokens, for a request that is refused after all. What is left is its place.
    pub fn cancel(self) -> Place<Owner> {
        let Self { mut place, limits, moment, slots, amounts } = self;
        let models = std::mem::take(&mut place.models);
        let mut states = lock(&place.counters);
        let mut slots = slots.into_iter();
        each_meter(&mut states, &limits, |_, _, meter, limits| {
            meter.cancel(moment, amounts.tokens);
            for (quota, slot) in limits.quotas.iter().zip(slots.by_ref()) {
                meter.quota(quota.name).give_back(slot, amounts.of(quota.name.unit));
            }
        });
        leave_models(&mut states, &models);
        drop(states);
        place
    }
}

#[derive(Debug, Default)]
struct State {
    /// The latest moment seen.
    latest: MonotonicTime,
    meter: Meter,
    /// What is counted of some models within a key: few, and none for most keys.
    models: Vec<(Glob, Meter)>,
}

impl State {
    /// Brings all windows to `now`, or to the latest moment seen if that is later, and returns it.
    fn advance(&mut self, now: MonotonicTime) -> MonotonicTime {
        self.latest = self.latest.max(now);
        self.meter.roll(self.latest);
        self.models.iter_mut().for_each(|(_, meter)| meter.roll(self.latest));
        self.latest
    }

    fn is_idle(&mut self, now: Now) -> bool {
        self.models.retain_mut(|(_, meter)| !meter.is_idle(now));
        self.models.is_empty() && self.meter.is_idle(now)
    }

    fn model(&mut self, models: &Glob) -> &mut Meter {
        let at = self.models.iter().position(|(known, _)| known == models).unwrap_or_else(|| {
            self.models.push((models.clone(), Meter::default()));
            self.models.len() - 1
        });
        #[allow(clippy::indexing_slicing, reason = "it is a place in the list, or the one that was just added")]
        &mut self.models[at].1
    }
}

/// Takes a place in each scope, or in none.
fn enter(states: &mut Scopes<MutexGuard<'_, State>>, limits: &RequestLimits) -> Result<Option<Refusal>, Refusal> {
    let refusal = states.iter().find_map(|(scope, state)| {
        let limit = limits.scopes.of(scope)?.minute.concurrent_requests;
        too_many(state.meter.running, limit).map(|refusal| refusal.of(scope, None))
    });
    let observed = limits.mode.observed(refusal)?;
    each(states, |state| state.meter.running += 1);
    Ok(observed)
}

struct Admission {
    moment: MonotonicTime,
    slots: Vec<Slot>,
    observed: Option<Refusal>,
}

/// Admits a request that has its place.
fn admit(
    states: &mut Scopes<MutexGuard<'_, State>>,
    limits: &RequestLimits,
    amounts: &Amounts,
    now: Now,
) -> Result<Admission, Refusal> {
    let present = advance(states, now.moment);
    let refusal = refusal(states, limits, amounts, Now { moment: present, ..now });
    let observed = limits.mode.observed(refusal)?;
    let mut slots = Vec::new();
    each_meter(states, limits, |scope, _, meter, limits| {
        if scope == Scope::Model {
            meter.running += 1;
        }
        meter.admit(amounts.tokens, present);
        slots.extend(
            limits.quotas.iter().map(|quota| meter.quota(quota.name).add(now.date, amounts.of(quota.name.unit))),
        );
    });
    Ok(Admission { moment: present, slots, observed })
}

/// Why a request that has its place is refused: over concurrency before all else, else by the limit with the longest wait.
fn refusal(
    states: &mut Scopes<MutexGuard<'_, State>>,
    limits: &RequestLimits,
    amounts: &Amounts,
    now: Now,
) -> Option<Refusal> {
    let (mut crowded, mut longest) = (None, None::<Refusal>);
    each_meter(states, limits, |scope, models, meter, limits| {
        // Its place in the scopes is counted already, and that among the requests of some models is not.
        let others = if scope == Scope::Model { meter.running } else { meter.running.saturating_sub(1) };
        crowded = crowded
            .take()
            .or_else(|| too_many(others, limits.minute.concurrent_requests).map(|refusal| refusal.of(scope, models)));
        meter.refusals(limits, amounts, now, |refusal| {
            // Of equal waits the last is taken.
            if longest.as_ref().is_none_or(|longest| refusal.retry_after >= longest.retry_after) {
                longest = Some(refusal.of(scope, models));
            }
        });
    });
    crowded.or(longest)
}

/// Brings all counters of a request to one moment.
fn advance(states: &mut Scopes<MutexGuard<'_, State>>, now: MonotonicTime) -> MonotonicTime {
    let present = states.iter().fold(now, |present, (_, state)| present.max(state.latest));
    each(states, |state| {
        state.advance(present);
    });
    present
}

/// Each count that concerns a request, with the limits that hold for it.
fn each_meter(
    states: &mut Scopes<MutexGuard<'_, State>>,
    limits: &RequestLimits,
    mut tell: impl FnMut(Scope, Option<&Glob>, &mut Meter, &ScopeLimits),
) {
    if let (Some(state), Some(limits)) = (&mut states.team, &limits.scopes.team) {
        tell(Scope::Team, None, &mut state.meter, limits);
    }
    if let (Some(state), Some(limits)) = (&mut states.owner, &limits.scopes.owner) {
        tell(Scope::Owner, None, &mut state.meter, limits);
    }
    for model in &limits.models {
        tell(Scope::Model, Some(&model.models), states.key.model(&model.models), &model.limits);
    }
    tell(Scope::Key, None, &mut states.key.meter, &limits.scopes.key);
}

fn each(states: &mut Scopes<MutexGuard<'_, State>>, mut change: impl FnMut(&mut MutexGuard<'_, State>)) {
    let Scopes { team, owner, key } = states;
    team.iter_mut().for_each(&mut change);
    owner.iter_mut().for_each(&mut change);
    change(key);
}

fn leave(states: &mut Scopes<MutexGuard<'_, State>>, models: &[Glob]) {
    each(states, |state| state.meter.leave());
    leave_models(states, models);
}

fn leave_models(states: &mut Scopes<MutexGuard<'_, State>>, models: &[Glob]) {
    for models in models {
        states.key.model(models).leave();
    }
}

impl LimitMode {
    /// A refusal as it is, or as what was observed.
    fn observed(self, refusal: Option<Refusal>) -> Result<Option<Refusal>, Refusal> {
        match (self, refusal) {
            (Self::Enforce, Some(refusal)) => Err(refusal),
            (_, refusal) => Ok(refusal),
        }
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
    /// A quota.
    Quota(QuotaName),
}

/// Why a request is refused, and when to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The limit that it would exceed.
    pub over: LimitKind,
    /// Whose limit that is.
    pub scope: Scope,
    /// For which models it is, if it is one for some within the key.
    pub models: Option<Glob>,
    /// That limit's number; of money in nano-dollars.
    pub limit: u64,
    /// What is used of it; more than the limit where more was used than reserved.
    pub used: u64,
    /// How long to wait. For all but concurrency it is exactly enough if nothing else is sent and
    /// nothing running uses more than it reserved, and for those of a minute at most 60 seconds; for concurrency 1 second.
    pub retry_after: Duration,
    /// How long until all of it is free again; for concurrency as `retry_after`.
    pub reset: Duration,
}

impl Refusal {
    /// The same, of another scope.
    #[must_use]
    pub fn of(self, scope: Scope, models: Option<&Glob>) -> Self {
        Self { scope, models: models.cloned(), ..self }
    }
}

/// The refusal of a request beside which so many others run.
fn too_many(running: u64, limit: Limit) -> Option<Refusal> {
    let limit = limit.number()?;
    (running >= limit).then_some(Refusal {
        over: LimitKind::Concurrency,
        scope: Scope::Key,
        models: None,
        limit,
        used: running,
        retry_after: CONCURRENCY_WAIT,
        reset: CONCURRENCY_WAIT,
    })
}

/// What tests and benches ask of a key alone.
#[cfg(any(test, feature = "test-util"))]
impl Counters {
    /// Admits a request of a key that has no team and no owner, as [`Reservation::take`] does.
    ///
    /// # Errors
    /// When a limit would be exceeded.
    pub fn reserve(self: &Arc<Self>, limits: &super::Limits, tokens: u64, now: Now) -> Result<Reservation, Refusal> {
        let limits = Arc::new(RequestLimits::from(*limits));
        Reservation::take(Scopes::of_key(self.clone()), &limits, Amounts::tokens(tokens), now)
    }

    /// What is used and what is left at `now`.
    #[must_use]
    pub fn standing(&self, limits: &super::Limits, now: Now) -> LimitStatus {
        status(&Scopes::of_key(self), &RequestLimits::from(*limits), now)
    }
}

#[cfg(any(test, feature = "test-util"))]
pub mod reference;

#[cfg(test)]
mod tests;
