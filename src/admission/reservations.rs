//! What an admitted request has reserved, here, on the server of shared limits and in its key's wallet. Dropped, it is given back
//! as far as that can be known.

use std::sync::Arc;

use keymeter_core::{
    clock::MonotonicTime,
    limit::{Demand, Limit, LimitKind, Limits, Place, Refusal, Reservation, plan},
    money::{Hold, Usd},
    rejection::Rejection,
};

use super::{Now, admit::Planned};
use crate::limits::{
    account::Holder,
    shared::{Declined, SharedLimits, Ticket},
};

/// What an admitted request has reserved.
pub struct Reservations {
    /// Of its key's limits.
    pub limits: LimitReservations,
    /// Of its key's wallet, if it has one.
    pub money: Option<Hold>,
}

impl Reservations {
    /// Ends the request, which used `tokens` in all and cost so much.
    pub fn settle(self, tokens: u64, cost: Usd, now: MonotonicTime) {
        self.limits.settle(tokens, now);
        if let Some(money) = self.money {
            money.settle(cost);
        }
    }
}

/// What an admitted request has reserved of its key's limits.
pub struct LimitReservations {
    here: Reservation<Holder>,
    /// Where several gateways count together.
    shared: Option<Ticket>,
}

impl LimitReservations {
    /// What this gateway alone counts.
    #[must_use]
    pub fn here(here: Reservation<Holder>) -> Self {
        Self { here, shared: None }
    }

    /// What several gateways count together.
    #[must_use]
    pub fn with(here: Reservation<Holder>, shared: Ticket) -> Self {
        Self { here, shared: Some(shared) }
    }

    /// Ends the request, which used `used` tokens in all.
    pub fn settle(self, used: u64, now: MonotonicTime) {
        self.here.settle(used, now);
        if let Some(ticket) = self.shared {
            ticket.settle(used);
        }
    }

    /// Takes the admission back, for a request that is refused after all. What is left is its place here.
    pub fn cancel(self) -> Place<Holder> {
        if let Some(ticket) = self.shared {
            ticket.cancel();
        }
        self.here.cancel()
    }
}

impl Planned {
    /// Reserves what this gateway counts by itself.
    pub(super) fn reserve_here(&mut self, now: Now) -> Result<LimitReservations, Rejection> {
        let limits = self.admitted.limits;
        self.reserve(&limits, now).map(LimitReservations::here)
    }

    /// Reserves it where all gateways do; or a share of it here, while that is not to be had.
    pub(super) async fn reserve_shared(
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
                Ok(LimitReservations::with(here, shared.admitted_here(&key, &limits)))
            }
            Err(Declined::Unreachable(None)) => Err(Rejection::LimitsUnavailable),
        }
    }

    /// Plans again for a part of the limit. A prompt that is larger than that is not refused for good.
    fn plan_for(&mut self, limit: Limit) {
        self.demand.certain_prompt = 0;
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
}
