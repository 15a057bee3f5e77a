//! What an admitted request has reserved, here, on the server of shared limits and in its key's wallet. Dropped, it is given back
//! as far as that can be known.

use keymeter_core::{
    clock::Now,
    limit::{Amounts, Place, QuotaUse, Refusal, Reservation},
    money::{Hold, Usd},
};

use crate::limits::{account::Holder, shared::Ticket};

/// What an admitted request has reserved.
pub struct Reservations {
    /// Of its key's limits.
    pub limits: LimitReservations,
    /// Of its key's wallet, if it has one.
    pub money: Option<Hold>,
}

impl Reservations {
    /// Ends the request, which used so much in all and cost so much. Says what it came to in each quota.
    #[must_use = "what it came to is to be kept"]
    pub fn settle(self, used: Amounts, cost: Usd, now: Now) -> Vec<QuotaUse> {
        if let Some(money) = self.money {
            money.settle(cost);
        }
        self.limits.settle(used, now)
    }
}

/// What an admitted request has reserved of its key's limits.
pub struct LimitReservations {
    here: Reservation<Holder>,
    /// Where several gateways count together.
    shared: Option<Ticket>,
    /// Whether what is counted here decided.
    decided_here: bool,
}

impl LimitReservations {
    /// What this gateway alone counts.
    #[must_use]
    pub fn here(here: Reservation<Holder>) -> Self {
        Self { here, shared: None, decided_here: true }
    }

    /// What several gateways count together, and what was admitted by that is counted here without being held to it.
    #[must_use]
    pub fn with(here: Reservation<Holder>, shared: Ticket) -> Self {
        Self { here, shared: Some(shared), decided_here: false }
    }

    /// What this gateway counts alone for now, and says to the others later.
    #[must_use]
    pub fn alone(here: Reservation<Holder>, shared: Ticket) -> Self {
        Self { here, shared: Some(shared), decided_here: true }
    }

    /// What would have refused the request, if limits were enforced.
    #[must_use]
    pub fn observed(&self) -> Option<&Refusal> {
        match &self.shared {
            Some(ticket) if !self.decided_here => ticket.observed(),
            _ => self.here.observed(),
        }
    }

    /// Ends the request, which used so much in all. Says what it came to in each quota.
    #[must_use = "what it came to is to be kept"]
    pub fn settle(self, amounts: Amounts, now: Now) -> Vec<QuotaUse> {
        let uses = self.here.settle(amounts, now);
        if let Some(ticket) = self.shared {
            ticket.settle(amounts, &uses, now);
        }
        uses
    }

    /// Takes the admission back, for a request that is refused after all. What is left is its place here.
    pub fn cancel(self) -> Place<Holder> {
        if let Some(ticket) = self.shared {
            ticket.cancel();
        }
        self.here.cancel()
    }
}
