//! A request between its body and its lease: what it is to reserve, and of whom.

use std::sync::Arc;

use keymeter_core::{
    body::Scanned,
    limit::{
        Demand, Limit, LimitKind, Limits, Place, Plan, Refusal, Reservation, Strategy, TooLarge, certain_prompt, plan,
    },
    rejection::Rejection,
};

use super::{Admitted, Gate, LimitReservations, Now, Prompt, Rejected, RequestContext, money};
use crate::limits::{
    account::Holder,
    shared::{Declined, SharedLimits},
};

/// What is known of a request that may be admitted.
pub(super) struct Planned {
    pub visit: RequestContext,
    pub admitted: Admitted,
    pub prompt: Prompt,
    pub demand: Demand,
    pub plan: Plan,
    /// What the plan keeps to.
    limit: Limit,
    /// Whether it may be planned for what is free, and the request's own maximum set to that, if it has one.
    may_fit: bool,
}

impl Planned {
    /// What a request is to reserve.
    pub fn of(
        gate: &Gate,
        visit: RequestContext,
        admitted: Admitted,
        scanned: &Scanned,
        now: Now,
    ) -> Result<Self, Box<Rejected>> {
        let may_fit = visit.settings.strategy == Strategy::WorstCase && admitted.endpoint.has_output();
        // Others may have used it too, where limits are shared: their server says so when it refuses.
        let is_known = may_fit && gate.sharing(&admitted.limits).is_none();
        let standing = is_known.then(|| gate.standing(&admitted.key, &admitted.limits, now));
        let free = standing.and_then(|standing| standing.tokens.remaining());
        let prompt = Prompt::of(scanned, admitted.endpoint, &admitted.learned);
        let demand = Demand {
            prompt: prompt.estimate(),
            certain_prompt: certain_prompt(scanned.prompt_text_bytes).saturating_add(scanned.prompt_tokens_given),
            stated_maximum: scanned.maximum,
            choices: scanned.choices,
            max_output_tokens: admitted.model.max_output_tokens,
            expected_output: admitted.learned.expected_output(),
            free,
            has_output: admitted.endpoint.has_output(),
        };
        let strategy = visit.settings.strategy;
        let limit = money::affordable(strategy, &admitted, &demand, now.moment);
        let planned = if admitted.endpoint.takes_tokens() {
            plan(strategy, limit, &demand)
        } else {
            Ok(Plan { tokens: 0, set_maximum: None })
        };
        match planned {
            Ok(plan) => Ok(Self { visit, admitted, prompt, demand, plan, limit, may_fit }),
            Err(TooLarge { certain_prompt: least, limit }) => {
                let key = admitted.key.record.id.clone();
                Err(Rejected::boxed(visit, Rejection::PromptTooLarge { key, least, limit }))
            }
        }
    }

    /// Reserves what this gateway counts by itself.
    pub fn reserve_here(&mut self, now: Now) -> Result<LimitReservations, Rejection> {
        let limits = self.admitted.limits;
        self.reserve(&limits, now).map(LimitReservations::here)
    }

    /// Reserves it where all gateways do; or a share of it here, while that is not to be had.
    pub async fn reserve_shared(
        &mut self,
        shared: &Arc<SharedLimits>,
        now: Now,
    ) -> Result<LimitReservations, Rejection> {
        let (key, limits) = (self.admitted.key.record.id.clone(), self.admitted.limits);
        let mut asked = shared.reserve(&key, &limits, self.plan.tokens, now.moment).await;
        if let Err(Declined::Refused(refusal)) = &asked
            && self.fits_into(refusal)
        {
            asked = shared.reserve(&key, &limits, self.plan.tokens, now.moment).await;
        }
        match asked {
            Ok(ticket) => {
                // It is counted here, too: should the others be out of reach, this is what is known.
                let here = self.reserve(&Limits::UNLIMITED, now)?;
                Ok(LimitReservations::with(here, ticket))
            }
            Err(Declined::Refused(refusal)) => Err(self.over(refusal)),
            Err(Declined::Unreachable(Some(share))) => {
                // What holds is what is shown, and what the request's own maximum is held to.
                self.admitted.limits = share;
                self.plan_for(share.tokens_per_minute);
                let here = self.reserve(&share, now)?;
                Ok(LimitReservations::with(here, shared.admit_locally(&key, &limits)))
            }
            Err(Declined::Unreachable(None)) => Err(Rejection::LimitsUnavailable),
        }
    }

    /// Plans again for a part of the limit. A prompt that is larger than that is not refused for good.
    fn plan_for(&mut self, limit: Limit) {
        self.demand.certain_prompt = 0;
        if let (Limit::At(_), true) = (limit, self.admitted.endpoint.takes_tokens())
            && let Ok(plan) = plan(self.visit.settings.strategy, limit, &self.demand)
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
        let smaller = plan(self.visit.settings.strategy, self.limit, &demand).ok();
        let smaller = smaller.filter(|plan| plan.tokens < self.plan.tokens);
        smaller.map(|plan| self.plan = plan).is_some()
    }

    fn reserve(&mut self, limits: &Limits, now: Now) -> Result<Reservation<Holder>, Rejection> {
        let place = match self.visit.place.take() {
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
}
