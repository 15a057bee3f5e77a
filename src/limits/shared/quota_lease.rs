//! A lease: what a gateway takes of a busy key's minute in advance, to admit requests without asking. It counts from the
//! moment when it expires, so that no part of it leaves the minute too early.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    clock::MonotonicTime,
    limit::{Limit, Limits},
};

use super::settlements::{Ending, Settlement};

/// How long a lease may be used.
pub(super) const LIFE: Duration = Duration::from_secs(1);

/// The most requests of a lease, and their number where requests are not limited.
const MOST_REQUESTS: u64 = 1000;
const REQUESTS_IF_UNLIMITED: u64 = 50;

/// How much to lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseRequest {
    pub requests: u64,
    pub tokens: u64,
    pub places: u64,
}

impl LeaseRequest {
    /// `part` hundredths of `limits`, for requests of so many `tokens`; `None` if that is less than one request.
    pub(super) fn new(part: u8, limits: &Limits, tokens: u64) -> Option<Self> {
        let part = u64::from(part);
        // At most the whole, so it does not overflow.
        let hundredths = |number: u64| number / 100 * part + number % 100 * part / 100;
        let part_of = |limit: Limit| limit.number().map(hundredths);
        let requests = part_of(limits.requests_per_minute).unwrap_or(REQUESTS_IF_UNLIMITED).min(MOST_REQUESTS);
        let places = part_of(limits.concurrent_requests).unwrap_or(requests).min(requests);
        let wanted = tokens.saturating_mul(requests);
        let tokens_taken = part_of(limits.tokens_per_minute).map_or(wanted, |most| most.min(wanted));
        let is_enough = part > 0 && requests > 0 && places > 0 && tokens_taken >= tokens;
        is_enough.then_some(Self { requests, tokens: tokens_taken, places })
    }
}

/// What is left of a lease.
#[derive(Debug)]
pub(super) struct QuotaLease {
    name: Arc<str>,
    slot: u64,
    requests: u64,
    tokens: u64,
    /// The numbers of the free permits, from 1 on.
    places: Vec<u64>,
    end: MonotonicTime,
}

/// A part of a lease that one request holds.
pub(super) struct LeaseShare {
    pub name: Arc<str>,
    pub slot: u64,
}

impl QuotaLease {
    /// A lease that the server gave at `slot` when it was asked at `asked`.
    pub(super) fn new(name: Arc<str>, slot: u64, lease_request: LeaseRequest, asked: MonotonicTime) -> Self {
        let LeaseRequest { requests, tokens, places } = lease_request;
        Self { name, slot, requests, tokens, places: (1..=places).collect(), end: asked + LIFE }
    }

    /// Takes a request's share, if enough is left and the lease has not expired.
    pub(super) fn take(&mut self, tokens: u64, now: MonotonicTime) -> Option<LeaseShare> {
        if now >= self.end || self.requests == 0 || self.tokens < tokens {
            return None;
        }
        let place = self.places.pop()?;
        self.requests -= 1;
        self.tokens -= tokens;
        Some(LeaseShare { name: format!("{}.{place}", self.name).into(), slot: self.slot })
    }

    pub(super) fn is_expired(&self, now: MonotonicTime) -> bool {
        now >= self.end
    }

    /// The requests and tokens that are left.
    pub(super) fn left(&self) -> (u64, u64) {
        (self.requests, self.tokens)
    }

    /// The settlement that returns what is left.
    pub(super) fn into_settlement(self) -> Settlement {
        let places: Vec<_> = self.places.iter().map(|place| format!("{}.{place}", self.name)).collect();
        let ending = Ending::QuotaLease { requests: self.requests, tokens: self.tokens, places: places.join(" ") };
        Settlement { slot: self.slot, ..Settlement::unknown(self.name, ending, false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::shared::tests::limits;

    #[test]
    fn a_part_of_each_limit_is_taken_and_of_none_too_much() {
        let lease_request = |limits, tokens| {
            LeaseRequest::new(5, &limits, tokens)
                .map(|lease_request| (lease_request.requests, lease_request.tokens, lease_request.places))
        };
        assert_eq!(lease_request(limits(600, 100_000, 100), 100), Some((30, 3000, 5)));
        assert_eq!(lease_request(limits(600, 100_000, 0), 1000), Some((30, 5000, 30)), "no more tokens than a part");
        assert_eq!(lease_request(limits(0, 100_000, 0), 10), Some((50, 500, 50)));
        for too_little in [limits(19, 100_000, 100), limits(600, 100, 100), limits(600, 100_000, 10)] {
            assert_eq!(lease_request(too_little, 10), None, "{too_little:?}");
        }
        assert_eq!(LeaseRequest::new(0, &limits(600, 0, 0), 1), None);
        assert_eq!(LeaseRequest::new(0, &limits(0, 0, 0), 0), None, "nothing of something is nothing");
    }

    #[test]
    fn a_stock_is_used_up_or_given_back() {
        let (now, lease_request) = (MonotonicTime::from_nanos(0), LeaseRequest { requests: 3, tokens: 25, places: 2 });
        let mut lease = QuotaLease::new("g.7".into(), 9, lease_request, now);
        assert_eq!(&*lease.take(10, now).unwrap().name, "g.7.2");
        assert!(lease.take(16, now).is_none() && lease.take(10, now + LIFE).is_none());
        assert_eq!(lease.take(10, now).unwrap().slot, 9);
        assert!(lease.take(1, now).is_none(), "no place is left");
        let Settlement { name, ending, .. } = lease.into_settlement();
        assert!(
            matches!(ending, Ending::QuotaLease { requests: 1, tokens: 5, places } if places.is_empty() && &*name == "g.7")
        );
    }
}
