//! What a gateway takes of a busy key's minute in advance, to admit from it without asking. It counts from the moment
//! when it must be used or given back, so that no part of it leaves the minute before its time.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    clock::MonotonicTime,
    limit::{Limit, Limits},
};

use super::settlements::{Ending, Settlement};

/// How long what was taken in advance may be used.
pub(super) const LIFE: Duration = Duration::from_secs(1);

/// The most requests that are taken at once, and how many where requests are not limited.
const MOST_REQUESTS: u64 = 1000;
const OF_UNLIMITED: u64 = 50;

/// How much is to be taken in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub requests: u64,
    pub tokens: u64,
    pub places: u64,
}

impl Wish {
    /// `part` hundredths of what `limits` allow, for requests of so many `tokens`; `None` where that is less than one
    /// request.
    pub(super) fn new(part: u8, limits: &Limits, tokens: u64) -> Option<Self> {
        let part = u64::from(part);
        // At most the whole, so it does not overflow.
        let hundredths = |number: u64| number / 100 * part + number % 100 * part / 100;
        let part_of = |limit: Limit| limit.number().map(hundredths);
        let requests = part_of(limits.requests_per_minute).unwrap_or(OF_UNLIMITED).min(MOST_REQUESTS);
        let places = part_of(limits.concurrent_requests).unwrap_or(requests).min(requests);
        let wanted = tokens.saturating_mul(requests);
        let tokens_taken = part_of(limits.tokens_per_minute).map_or(wanted, |most| most.min(wanted));
        let is_enough = part > 0 && requests > 0 && places > 0 && tokens_taken >= tokens;
        is_enough.then_some(Self { requests, tokens: tokens_taken, places })
    }
}

/// What was taken in advance, and is left.
#[derive(Debug)]
pub(super) struct QuotaLease {
    name: Arc<str>,
    slot: u64,
    requests: u64,
    tokens: u64,
    /// Numbers of places, from 1 on, that are free.
    places: Vec<u64>,
    end: MonotonicTime,
}

/// A part of a stock that one request holds.
pub(super) struct Part {
    pub name: Arc<str>,
    pub slot: u64,
}

impl QuotaLease {
    /// What a server gave at `slot`, when it was asked at the moment `asked`.
    pub(super) fn new(name: Arc<str>, slot: u64, wish: Wish, asked: MonotonicTime) -> Self {
        let Wish { requests, tokens, places } = wish;
        Self { name, slot, requests, tokens, places: (1..=places).collect(), end: asked + LIFE }
    }

    /// A request's part, if there is enough left and it is in time.
    pub(super) fn take(&mut self, tokens: u64, now: MonotonicTime) -> Option<Part> {
        if now >= self.end || self.requests == 0 || self.tokens < tokens {
            return None;
        }
        let place = self.places.pop()?;
        self.requests -= 1;
        self.tokens -= tokens;
        Some(Part { name: format!("{}.{place}", self.name).into(), slot: self.slot })
    }

    pub(super) fn is_over(&self, now: MonotonicTime) -> bool {
        now >= self.end
    }

    /// What is left: requests and tokens.
    pub(super) fn left(&self) -> (u64, u64) {
        (self.requests, self.tokens)
    }

    /// Gives back what is left.
    pub(super) fn into_settlement(self) -> Settlement {
        let places: Vec<_> = self.places.iter().map(|place| format!("{}.{place}", self.name)).collect();
        let ending = Ending::QuotaLease { requests: self.requests, tokens: self.tokens, places: places.join(" ") };
        Settlement { name: self.name, slot: self.slot, tokens: 0, ending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::shared::tests::limits;

    #[test]
    fn a_part_of_each_limit_is_taken_and_of_none_too_much() {
        let wish = |limits, tokens| Wish::new(5, &limits, tokens).map(|wish| (wish.requests, wish.tokens, wish.places));
        assert_eq!(wish(limits(600, 100_000, 100), 100), Some((30, 3000, 5)));
        assert_eq!(wish(limits(600, 100_000, 0), 1000), Some((30, 5000, 30)), "no more tokens than a part");
        assert_eq!(wish(limits(0, 100_000, 0), 10), Some((50, 500, 50)));
        for too_little in [limits(19, 100_000, 100), limits(600, 100, 100), limits(600, 100_000, 10)] {
            assert_eq!(wish(too_little, 10), None, "{too_little:?}");
        }
        assert_eq!(Wish::new(0, &limits(600, 0, 0), 1), None);
        assert_eq!(Wish::new(0, &limits(0, 0, 0), 0), None, "nothing of something is nothing");
    }

    #[test]
    fn a_stock_is_used_up_or_given_back() {
        let (now, wish) = (MonotonicTime::from_nanos(0), Wish { requests: 3, tokens: 25, places: 2 });
        let mut stock = QuotaLease::new("g.7".into(), 9, wish, now);
        assert_eq!(&*stock.take(10, now).unwrap().name, "g.7.2");
        assert!(stock.take(16, now).is_none() && stock.take(10, now + LIFE).is_none());
        assert_eq!(stock.take(10, now).unwrap().slot, 9);
        assert!(stock.take(1, now).is_none(), "no place is left");
        let Settlement { name, ending, .. } = stock.into_settlement();
        assert!(
            matches!(ending, Ending::QuotaLease { requests: 1, tokens: 5, places } if places.is_empty() && &*name == "g.7")
        );
    }
}
