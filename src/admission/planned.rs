//! A request that may be made, what it is to reserve, and the taking of that from its key's limits and its wallet.

use std::sync::Arc;

use keymeter_core::{
    body::Scanned,
    limit::{Demand, Limit, LimitKind, Limits, Place, Plan, Refusal, Reservation, Strategy, TooLarge, plan},
    money::{Cost, Hold, StalePolicy, Usd},
    rejection::Rejection,
};

use super::{
    Admitted, Gate, LimitReservations, Now, Prompt, Rejected, RequestContext,
    money::{self, Shortage},
};
use crate::limits::{
    account::Holder,
    shared::{Declined, SharedLimits},
};

/// A request that may be made, and what it is to reserve.
pub(super) struct Planned {
    pub context: RequestContext,
    pub admitted: Admitted,
    /// Among the requests of its key that run. `None` while it is a part of what is reserved.
    pub place: Option<Place<Holder>>,
    pub scanned: Box<Scanned>,
    pub prompt: Prompt,
    pub demand: Demand,
    pub plan: Plan,
    /// What the plan keeps to.
    pub limit: Limit,
    /// Whether it may be planned for what is free, and the request's own maximum set to that, if it has one.
    pub may_fit: bool,
}

impl Planned {
    /// Plans for what the limits and the wallet leave at this moment.
    pub fn plan(&mut self, gate: &Gate, now: Now) -> Result<(), Rejection> {
        if !self.admitted.endpoint.takes_tokens() {
            return Ok(());
        }
        let Admitted { key, limits, .. } = &self.admitted;
        // Others may have used it too, where limits are shared: their server says so when it refuses.
        let is_known = self.may_fit && gate.sharing(limits).is_none();
        self.demand.free = is_known.then(|| gate.standing(key, limits, now).tokens.remaining()).flatten();
        let strategy = self.context.settings.strategy;
        self.limit = money::affordable(strategy, &self.admitted, &self.demand, now.moment);
        self.plan = plan(strategy, self.limit, &self.demand).map_err(|error| {
            let key = key.record.id.clone();
            match error {
                TooLarge::Prompt { certain_prompt: least, limit } => Rejection::PromptTooLarge { key, least, limit },
                TooLarge::Answer { certain: least, answer, limit } => {
                    Rejection::AnswerTooLarge { key, answer, least, limit }
                }
                TooLarge::Model { answer, most } => Rejection::AnswerOverModel { answer, most },
            }
        })?;
        Ok(())
    }

    /// Reserves what was planned of the key's limits, and says when that was.
    pub async fn reserve_limits(
        &mut self,
        gate: &Gate,
        clock: &impl Fn() -> Now,
    ) -> Result<(LimitReservations, Now), Rejection> {
        match gate.sharing(&self.admitted.limits).cloned() {
            Some(shared) => self.reserve_shared(&shared, clock).await,
            None => self.reserve_here(clock()),
        }
    }

    /// Takes what the request may cost from its key's wallet, if it has one.
    pub fn reserve_money(&self, policy: StalePolicy, now: Now) -> Result<Option<Hold>, Shortage> {
        money::reserve(&self.admitted, || self.cost(), policy, now)
    }

    /// What the request may cost. In the worst case no part of its prompt comes from a cache, and each byte of it is a token.
    fn cost(&self) -> Cost {
        let Self { admitted, demand, scanned, plan, .. } = self;
        if !admitted.endpoint.takes_tokens() {
            return Cost::AtMost(Usd::ZERO);
        }
        let output = if demand.has_output { plan.tokens.saturating_sub(demand.prompt) } else { 0 };
        match self.context.settings.strategy {
            Strategy::Expected => Cost::Probably(money::cost(admitted, demand.prompt, output)),
            Strategy::WorstCase => {
                let bytes = scanned.prompt_text_bytes.saturating_add(scanned.prompt_tokens_given);
                Cost::AtMost(money::cost(admitted, demand.prompt.max(bytes), output))
            }
        }
    }

    /// Reserves what this gateway counts by itself.
    fn reserve_here(&mut self, now: Now) -> Result<(LimitReservations, Now), Rejection> {
        let limits = self.admitted.limits;
        Ok((LimitReservations::here(self.reserve(&limits, now)?), now))
    }

    /// Reserves it where all gateways do; or a share of it here, while that is not to be had.
    async fn reserve_shared(
        &mut self,
        shared: &Arc<SharedLimits>,
        clock: &impl Fn() -> Now,
    ) -> Result<(LimitReservations, Now), Rejection> {
        let (key, limits) = (self.admitted.key.record.id.clone(), self.admitted.limits);
        let mut asked = shared.reserve(&key, &limits, self.plan.tokens, clock().moment).await;
        if let Err(Declined::Refused(refusal)) = &asked
            && self.fits_into(refusal)
        {
            asked = shared.reserve(&key, &limits, self.plan.tokens, clock().moment).await;
        }
        // Waiting took time, and what is counted here counts from now.
        let now = clock();
        match asked {
            Ok(ticket) => {
                // It is counted here, too: should the others be out of reach, this is what is known.
                let here = self.reserve(&Limits::UNLIMITED, now)?;
                Ok((LimitReservations::with(here, ticket), now))
            }
            Err(Declined::Refused(refusal)) => Err(self.over(refusal)),
            Err(Declined::Unreachable(Some(share))) => {
                // What holds is what is shown, and what the request's own maximum is held to.
                self.admitted.limits = share;
                self.plan_for(share.tokens_per_minute);
                let here = self.reserve(&share, now)?;
                Ok((LimitReservations::with(here, shared.admit_locally(&key, &limits)), now))
            }
            Err(Declined::Unreachable(None)) => Err(Rejection::LimitsUnavailable),
        }
    }

    /// Plans again for a part of the limit. A request that is larger than that at its least is not refused for good.
    fn plan_for(&mut self, share: Limit) {
        self.demand.certain_prompt = 0;
        let limit = share.number().and_then(|share| Limit::at(share.max(self.demand.certain()))).unwrap_or(share);
        if let (Limit::At(_), true) = (limit, self.admitted.endpoint.takes_tokens())
            && let Ok(plan) = plan(self.context.settings.strategy, limit, &self.demand)
        {
            self.plan = plan;
            self.limit = limit;
        }
    }

    /// Whether the request was refused for tokens that it can do without: then it is planned for what was free.
    fn fits_into(&mut self, refusal: &Refusal) -> bool {
        if !self.may_fit || refusal.over != LimitKind::Tokens {
            return false;
        }
        let demand = Demand { free: Some(refusal.limit.saturating_sub(refusal.used)), ..self.demand };
        let smaller = plan(self.context.settings.strategy, self.limit, &demand).ok();
        let smaller = smaller.filter(|plan| plan.tokens < self.plan.tokens);
        smaller.map(|plan| self.plan = plan).is_some()
    }

    fn reserve(&mut self, limits: &Limits, now: Now) -> Result<Reservation<Holder>, Rejection> {
        let place = match self.place.take() {
            Some(place) => Ok(place),
            None => Place::take(Holder(self.admitted.key.account.clone()), limits.concurrent_requests),
        };
        let place = place.map_err(|refusal| self.over(refusal))?;
        let reserved = match place.reserve(limits, self.plan.tokens, now.moment) {
            // Another may have come between.
            Err((place, refusal)) if self.fits_into(&refusal) => place.reserve(limits, self.plan.tokens, now.moment),
            reserved => reserved,
        };
        reserved.map_err(|(_, refusal)| self.over(refusal))
    }

    fn over(&self, refusal: Refusal) -> Rejection {
        Rejection::OverLimit { key: self.admitted.key.record.id.clone(), refusal }
    }

    pub fn no_balance(self) -> Box<Rejected> {
        let rejection = Rejection::NoBalance(self.admitted.key.record.id.clone());
        self.rejected(rejection)
    }

    pub fn rejected(self, rejection: Rejection) -> Box<Rejected> {
        Rejected::new(self.context, Some(self.admitted.key), rejection)
    }
}
