//! What an admitted request holds on the server, of each of those whose limits it is held to.

use std::sync::Arc;

use keymeter_core::{
    clock::Now,
    glob::Glob,
    limit::{Amounts, MOST_TOKENS, Quota, QuotaUse, Quotas, Refusal, Scope},
};

use super::{
    SharedLimits, quotas,
    settlements::{Ending, Settlement, Spent},
    subject::{Part, Subject},
};

/// The reservation of an admitted request on the server. Dropping it frees its permits, and what it reserved counts until it
/// leaves: use `settle` or `cancel` to say more.
#[must_use = "a ticket that is dropped frees its permits at once"]
pub struct Ticket {
    shared: Arc<SharedLimits>,
    pub(super) name: Arc<str>,
    held: Box<[Held]>,
    /// The tokens reserved.
    tokens: u64,
    observed: Option<Refusal>,
    end: End,
}

/// What it holds of one subject.
struct Held {
    subject: Subject,
    scope: Scope,
    models: Option<Glob>,
    quotas: Quotas,
    /// Where the server counts it; 0: it does not.
    slot: u64,
    /// What it came to in the quotas, as they are counted here.
    added: Box<[Spent]>,
}

#[derive(Clone, Copy)]
enum End {
    Settled(Amounts, Now),
    Dropped,
    Cancelled,
}

impl Ticket {
    /// A ticket for `parts`, counted in these slots; without any, the server does not know of it.
    pub(super) fn new(
        shared: Arc<SharedLimits>,
        name: Arc<str>,
        parts: &[Part],
        slots: Option<&[u64]>,
        tokens: u64,
        observed: Option<Refusal>,
    ) -> Self {
        let slots = slots.unwrap_or_default().iter().copied().chain(std::iter::repeat(0));
        let held = parts.iter().zip(slots).map(|(part, slot)| {
            let Part { subject, scope, models, limits } = part;
            shared.permits.add(subject, name.clone(), limits.minute.concurrent_requests, slot > 0);
            let (subject, models, quotas) = (subject.clone(), models.clone(), limits.quotas.clone());
            Held { subject, scope: *scope, models, quotas, slot, added: Box::default() }
        });
        let held = held.collect();
        Self { shared, name, held, tokens, observed, end: End::Dropped }
    }

    /// The tokens reserved.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// What would have refused the request, if limits were enforced.
    #[must_use]
    pub fn observed(&self) -> Option<&Refusal> {
        self.observed.as_ref()
    }

    /// Ends the request, which used so much in all, and came to `by_quota` in the quotas as they are counted here. The server is
    /// told off the request's path.
    pub fn settle(mut self, used: Amounts, by_quota: &[QuotaUse], now: Now) {
        let (tokens, output_tokens) = (used.tokens.min(MOST_TOKENS), used.output_tokens.min(MOST_TOKENS));
        self.end = End::Settled(Amounts { tokens, output_tokens, ..used }, now);
        for held in self.held.iter_mut().filter(|held| !held.quotas.is_empty()) {
            let spent = held.spent(&self.shared, by_quota, now);
            if held.slot > 0 {
                held.added = spent.into();
            } else if !spent.is_empty() {
                // The server did not know of it: it is said later what was used.
                self.shared.settlements.push_spent(&held.subject, self.shared.new_name(), spent);
            }
        }
    }

    /// Takes the admission back, for a request that is refused after all.
    pub fn cancel(mut self) {
        self.end = End::Cancelled;
    }
}

impl Held {
    /// What was used of its quotas.
    fn spent(&self, shared: &SharedLimits, by_quota: &[QuotaUse], now: Now) -> Vec<Spent> {
        let own = by_quota.iter().filter(|used| used.scope == self.scope && used.models == self.models);
        let spent = own.filter_map(|used| {
            let quota = self.quotas.iter().find(|quota| quota.name == used.name)?;
            let division = shared.calendar.division(quota, shared.calendar.date(now.date));
            Some(Spent { name: used.name, slot: used.slot, amount: quotas::exact(quota, used.amount), division })
        });
        spent.collect()
    }

    fn settlement(&mut self, shared: &SharedLimits, name: &Arc<str>, tokens: u64, end: End) -> Settlement {
        let has_quotas = !self.quotas.is_empty();
        match end {
            _ if self.slot == 0 => Settlement::unknown(name.clone(), Ending::Dropped, false),
            End::Settled(used, now) => {
                let quotas = self.said_of_quotas(shared, &used, now).into();
                Settlement {
                    name: name.clone(),
                    slot: self.slot,
                    tokens,
                    ending: Ending::Settled { used: used.tokens },
                    quotas,
                    added: std::mem::take(&mut self.added),
                }
            }
            End::Dropped | End::Cancelled => {
                let ending = if matches!(end, End::Cancelled) { Ending::Cancelled } else { Ending::Dropped };
                Settlement { slot: self.slot, tokens, ..Settlement::unknown(name.clone(), ending, has_quotas) }
            }
        }
    }

    fn said_of_quotas(&self, shared: &SharedLimits, used: &Amounts, now: Now) -> String {
        let (date, mut words) = (shared.calendar.date(now.date), String::new());
        for quota in self.quotas.iter() {
            let Quota { name, .. } = quota;
            let amount = quotas::exact(quota, used.of(name.unit));
            quotas::say(*name, 0, amount, &shared.calendar.division(quota, date), &mut words);
        }
        words
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Self { shared, name, held, tokens, end, .. } = self;
        for held in held {
            let is_known = shared.permits.remove(&held.subject, name);
            if is_known {
                let settlement = held.settlement(shared, name, *tokens, *end);
                shared.settlements.push(&held.subject, settlement);
            }
        }
    }
}
