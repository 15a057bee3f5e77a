//! A request that may be made, what it is to reserve, and the taking of that from its key's limits and its wallet.

use std::sync::Arc;

use keymeter_core::{
    body::Scanned,
    limit::{
        Amounts, Demand, Limit, LimitKind, LimitMode, LimitName, Place, Plan, QuotaUnit, Refusal, RequestLimits,
        Reservation, Room, Strategy, TooLarge, plan, room_left,
    },
    money::{Cost, Hold, StalePolicy, Usd},
    rejection::{OverLimit, Rejection, TokenLimit, Wanted},
};

use super::{
    Admitted, Gate, LimitReservations, Now, Prompt, Rejected, RequestContext,
    money::{self, Shortage},
};
use crate::{
    keys::Key,
    limits::{
        account::Holder,
        shared::{Declined, SharedLimits},
    },
};

/// A request that may be made, and what it is to reserve.
pub(super) struct Planned {
    pub context: RequestContext,
    pub admitted: Admitted,
    /// Among the requests of its key, its team and its owner that run. `None` while it is a part of what is reserved.
    pub place: Option<Place<Holder>>,
    pub scanned: Box<Scanned>,
    pub prompt: Prompt,
    pub demand: Demand,
    pub plan: Plan,
    /// What the plan keeps to.
    pub limit: Limit,
    /// What would refuse the request for good or for want of money, if limits were enforced.
    pub observed: Option<Rejection>,
}

impl Planned {
    /// Plans for what the limits and the wallet leave at this moment. Where limits only count, nothing is held to them.
    pub fn plan(&mut self, gate: &Gate, now: Now) -> Result<(), Rejection> {
        if !self.admitted.endpoint.takes_tokens() {
            return Ok(());
        }
        let planned = self.plan_within_limits(gate, now);
        if self.enforces() {
            return planned;
        }
        self.observed = planned.err();
        (self.demand.free, self.limit) = (None, Limit::Unlimited);
        // Without a limit, nothing is too large.
        self.plan = plan(self.strategy(), Limit::Unlimited, &self.demand).unwrap_or(self.plan);
        Ok(())
    }

    fn plan_within_limits(&mut self, gate: &Gate, now: Now) -> Result<(), Rejection> {
        let limits = self.admitted.limits.clone();
        // Others may have used it too, where limits are shared: their server says so when it refuses.
        let is_known = self.may_fit() && gate.sharing(&limits).is_none();
        let left = is_known.then(|| room_left(&self.admitted.key.accounts(), &limits, now));
        self.demand.free = left.and_then(|left| self.tokens_in(&left));
        let most = self.tokens_in(&limits.room()).map_or(Limit::Unlimited, at_least_one);
        self.limit = money::affordable(self.strategy(), &self.admitted, &self.demand, most, now.moment);
        self.plan = plan(self.strategy(), self.limit, &self.demand).map_err(|error| self.too_large(error))?;
        Ok(())
    }

    /// Whether limits refuse the request.
    pub fn enforces(&self) -> bool {
        self.admitted.limits.mode == LimitMode::Enforce
    }

    /// Whether it may be planned for what is free, and the request's own maximum set to that, if it has one.
    fn may_fit(&self) -> bool {
        self.strategy() == Strategy::WorstCase && self.admitted.endpoint.has_output() && self.enforces()
    }

    fn strategy(&self) -> Strategy {
        self.context.settings.strategy
    }

    /// The tokens, prompt and output, that fit into `room`. The worst case keeps to what limits output and money too, though
    /// never to less than the request takes at its least: that shows when it is reserved.
    fn tokens_in(&self, room: &Room) -> Option<u64> {
        if self.strategy() == Strategy::Expected {
            return room.tokens;
        }
        let output = room.output_tokens.map(|output| output.saturating_add(self.demand.prompt));
        let money = room.nano_usd.and_then(|nanos| money::tokens_for(&self.admitted, nanos));
        let further = [output, money].into_iter().flatten().map(|tokens| tokens.max(self.demand.certain()));
        room.tokens.into_iter().chain(further).min()
    }

    fn too_large(&self, error: TooLarge) -> Rejection {
        let limit = || Box::new(self.least_token_limit());
        match error {
            TooLarge::Prompt { certain_prompt: least, .. } => Rejection::PromptTooLarge { least, limit: limit() },
            TooLarge::Answer { certain: least, answer, .. } => {
                Rejection::AnswerTooLarge { answer, least, limit: limit() }
            }
            TooLarge::Model { answer, most } => Rejection::AnswerOverModel { answer, most },
        }
    }

    /// The lowest limit of tokens that concerns the request.
    fn least_token_limit(&self) -> TokenLimit {
        let key = &self.admitted.key;
        let each = self.admitted.limits.all().flat_map(|(scope, models, limits)| {
            let minute = limits.minute.tokens_per_minute.number().map(|number| (LimitName::TokensPerMinute, number));
            let quotas = limits.quotas.iter().filter(|quota| quota.name.unit == QuotaUnit::Tokens);
            let quotas = quotas.map(|quota| (LimitName::Quota(quota.name), quota.amount.get()));
            minute.into_iter().chain(quotas).map(move |(name, number)| TokenLimit {
                key: key.record.id.clone(),
                scope,
                scope_id: key.accounts().of(scope).and_then(Holder::scope_id).cloned(),
                models: models.cloned(),
                name,
                number,
            })
        });
        let own = || TokenLimit {
            key: key.record.id.clone(),
            scope: keymeter_core::limit::Scope::Key,
            scope_id: None,
            models: None,
            name: LimitName::TokensPerMinute,
            number: self.limit.number().unwrap_or(u64::MAX),
        };
        each.min_by_key(|limit| limit.number).unwrap_or_else(own)
    }

    /// What it takes of its limits, as planned.
    fn amounts(&self) -> Amounts {
        let Self { demand, plan, admitted, .. } = self;
        let output_tokens = if demand.has_output { plan.tokens.saturating_sub(demand.prompt) } else { 0 };
        let nano_usd = match admitted.limits.room().nano_usd.map(|_| self.cost()) {
            Some(Cost::AtMost(cost) | Cost::Probably(cost)) => u64::try_from(cost.nanos()).unwrap_or(0),
            None => 0,
        };
        Amounts { tokens: plan.tokens, output_tokens, nano_usd }
    }

    /// Reserves what was planned of the limits, where it is asked for at `now`, and says when that was.
    pub async fn reserve_limits(
        &mut self,
        gate: &Gate,
        now: Now,
        clock: &impl Fn() -> Now,
    ) -> Result<(LimitReservations, Now), Rejection> {
        match gate.sharing(&self.admitted.limits).cloned() {
            // Boxed, so that the futures of requests whose limits are here alone stay small.
            Some(shared) => Box::pin(self.reserve_shared(&shared, clock)).await,
            None => self.reserve_here(now),
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
        let limits = self.admitted.limits.clone();
        Ok((LimitReservations::here(self.reserve(&limits, now)?), now))
    }

    /// Reserves it where all gateways do; or a share of it here, while that is not to be had.
    async fn reserve_shared(
        &mut self,
        shared: &Arc<SharedLimits>,
        clock: &impl Fn() -> Now,
    ) -> Result<(LimitReservations, Now), Rejection> {
        let (key, limits) = (self.admitted.key.clone(), self.admitted.limits.clone());
        let mut asked = shared.reserve(&key.ids(), &limits, self.amounts(), clock()).await;
        if let Err(Declined::Refused(refusal)) = &asked
            && self.fits_into(refusal)
        {
            asked = shared.reserve(&key.ids(), &limits, self.amounts(), clock()).await;
        }
        // Waiting took time, and what is counted here counts from now.
        let now = clock();
        match asked {
            // It is counted here, too: should the others be out of reach, this is what is known.
            Ok(ticket) => match self.reserve(&Arc::new(limits.observed()), now) {
                Ok(here) => Ok((LimitReservations::with(here, ticket), now)),
                Err(rejection) => {
                    ticket.cancel();
                    Err(rejection)
                }
            },
            Err(Declined::Refused(refusal)) => Err(self.over(refusal)),
            Err(Declined::Unreachable) => {
                let share = shared.local_share(&key.ids(), &key.accounts(), &limits, now);
                let share = Arc::new(share.ok_or(Rejection::LimitsUnavailable)?);
                // What holds is what is shown, and what the request's own maximum is held to.
                self.admitted.limits = share.clone();
                self.plan_for(self.tokens_in(&share.room()).map_or(Limit::Unlimited, at_least_one));
                let here = self.reserve(&share, now)?;
                Ok((LimitReservations::alone(here, shared.admit_locally(&key.ids(), &limits)), now))
            }
        }
    }

    /// Plans again for a part of the limit. A request that is larger than that at its least is not refused for good.
    fn plan_for(&mut self, share: Limit) {
        self.demand.certain_prompt = 0;
        let limit = share.number().and_then(|share| Limit::at(share.max(self.demand.certain()))).unwrap_or(share);
        if let (Limit::At(_), true) = (limit, self.admitted.endpoint.takes_tokens())
            && let Ok(plan) = plan(self.strategy(), limit, &self.demand)
        {
            self.plan = plan;
            self.limit = limit;
        }
    }

    /// Whether the request was refused for tokens that it can do without: then it is planned for what was free.
    fn fits_into(&mut self, refusal: &Refusal) -> bool {
        let left = Some(refusal.limit.saturating_sub(refusal.used));
        let room = match refusal.over {
            LimitKind::Tokens => Room { tokens: left, ..Room::default() },
            LimitKind::Quota(name) => match name.unit {
                QuotaUnit::Tokens => Room { tokens: left, ..Room::default() },
                QuotaUnit::OutputTokens => Room { output_tokens: left, ..Room::default() },
                QuotaUnit::Usd => Room { nano_usd: left, ..Room::default() },
                QuotaUnit::Requests => return false,
            },
            LimitKind::Requests | LimitKind::Concurrency => return false,
        };
        let Some(free) = self.tokens_in(&room).filter(|_| self.may_fit()) else { return false };
        let demand = Demand { free: Some(free), ..self.demand };
        let smaller = plan(self.strategy(), self.limit, &demand).ok();
        let smaller = smaller.filter(|plan| plan.tokens < self.plan.tokens);
        smaller.map(|plan| self.plan = plan).is_some()
    }

    fn reserve(&mut self, limits: &Arc<RequestLimits>, now: Now) -> Result<Reservation<Holder>, Rejection> {
        let place = match self.place.take() {
            Some(place) => Ok(place),
            None => Place::take(self.admitted.key.accounts(), limits),
        };
        let place = place.map_err(|refusal| self.over(refusal))?;
        let reserved = match place.reserve(limits, self.amounts(), now) {
            // Another may have come between.
            Err((place, refusal)) if self.fits_into(&refusal) => place.reserve(limits, self.amounts(), now),
            reserved => reserved,
        };
        reserved.map_err(|(_, refusal)| self.over(refusal))
    }

    fn over(&self, refusal: Refusal) -> Rejection {
        let Amounts { tokens, output_tokens, nano_usd } = self.amounts();
        let amount = match refusal.over {
            LimitKind::Requests | LimitKind::Concurrency => None,
            LimitKind::Tokens => Some(tokens),
            LimitKind::Quota(name) => match name.unit {
                QuotaUnit::Requests => None,
                QuotaUnit::Tokens => Some(tokens),
                QuotaUnit::OutputTokens => Some(output_tokens),
                QuotaUnit::Usd => Some(nano_usd),
            },
        };
        let wanted = amount.map(|amount| Wanted { amount, has_answer: self.demand.has_output });
        over_limit(&self.admitted.key, refusal, wanted)
    }

    /// The refusal for want of money.
    pub fn no_balance(&self) -> Rejection {
        Rejection::NoBalance(self.admitted.key.record.id.clone())
    }

    pub fn rejected(self, rejection: Rejection) -> Box<Rejected> {
        Rejected::new(self.context, Some(self.admitted.key), rejection)
    }
}

/// The refusal of a request of `key` by one of the limits that concern it.
pub(super) fn over_limit(key: &Key, refusal: Refusal, wanted: Option<Wanted>) -> Rejection {
    let scope_id = key.accounts().of(refusal.scope).and_then(Holder::scope_id).cloned();
    Rejection::OverLimit(Box::new(OverLimit { key: key.record.id.clone(), scope_id, refusal, wanted }))
}

fn at_least_one(tokens: u64) -> Limit {
    Limit::at(tokens.max(1)).unwrap_or(Limit::Unlimited)
}
