//! What an admitted request has reserved, here, on the server of shared limits and in its key's wallet. Dropped, it is given back
//! as far as that can be known.

use keymeter_core::{
    clock::MonotonicTime,
    limit::{Place, Reservation},
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
