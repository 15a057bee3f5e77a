//! The server's answer to an admission.

use std::time::Duration;

use jiff::Timestamp;
use keymeter_core::limit::{CONCURRENCY_WAIT, Limit, LimitKind, Refusal};

use super::{quotas, snapshots::Counted, subject::Part};

/// The server's answer.
pub(super) struct Answer {
    pub outcome: Outcome,
    /// Where the lease is counted; 0: there is none.
    pub lease_slot: u64,
    /// The server's time, in microseconds since 1970.
    pub time: u64,
    /// What counts of each subject.
    pub standings: Vec<Standing>,
}

pub(super) enum Outcome {
    Admitted {
        /// What would have refused it, if limits were enforced.
        observed: Option<Refusal>,
    },
    Refused(Refusal),
    /// Nothing was taken: it is another span of the calendar than that for which it was asked.
    OfAnotherSpan,
}

/// What the server counts of one subject.
pub(super) struct Standing {
    /// Where the request is counted.
    pub slot: u64,
    pub counted: Counted,
    /// What is used of each quota, without what was used elsewhere.
    pub quotas: Vec<u64>,
}

/// The numbers before those of the subjects.
const HEAD: usize = 8;

impl Answer {
    /// Reads an answer about these parts. `None`: it is none.
    pub(super) fn read(said: &[u64], parts: &[Part]) -> Option<Self> {
        let (head, subjects) = said.split_at_checked(HEAD)?;
        let standings = standings(subjects, parts)?;
        let [outcome, over, part, quota, wait, reset, lease_slot, time] = *head else { return None };
        let date = Timestamp::from_microsecond(i64::try_from(time).ok()?).ok()?;
        let refusal = if over == 0 {
            None
        } else {
            let (part, standing) = (parts.get(place(part)?)?, standings.get(place(part)?)?);
            Some(Refused { over, quota, wait, reset }.read(part, standing, date)?)
        };
        let outcome = match (outcome, refusal) {
            (0, Some(refusal)) => Outcome::Refused(refusal),
            (1, observed) => Outcome::Admitted { observed },
            (2, None) => Outcome::OfAnotherSpan,
            _ => return None,
        };
        Some(Self { outcome, lease_slot, time, standings })
    }
}

/// The place in a list of what the scripts number from 1 on.
fn place(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

fn standings(mut said: &[u64], parts: &[Part]) -> Option<Vec<Standing>> {
    let mut standings = Vec::with_capacity(parts.len());
    for part in parts {
        let (slot, rest) = said.split_first()?;
        let (counted, rest) = rest.split_at_checked(Counted::NUMBERS)?;
        let (used, rest) = rest.split_at_checked(part.limits.quotas.len())?;
        standings.push(Standing { slot: *slot, counted: Counted::read(counted)?, quotas: used.to_vec() });
        said = rest;
    }
    said.is_empty().then_some(standings)
}

/// Which limit of a subject refuses the request, or would.
struct Refused {
    over: u64,
    quota: u64,
    wait: u64,
    reset: u64,
}

impl Refused {
    fn read(&self, part: &Part, standing: &Standing, date: Timestamp) -> Option<Refusal> {
        let (minute, counted) = (&part.limits.minute, &standing.counted);
        let (wait, reset) = (Duration::from_micros(self.wait), Duration::from_micros(self.reset));
        let number = |limit: Limit| limit.number().unwrap_or(u64::MAX);
        let (over, limit, used, retry_after, reset) = match self.over {
            1 => {
                let limit = number(minute.requests_per_minute);
                (LimitKind::Requests, limit, counted.requests, wait, counted.requests_reset)
            }
            2 => (LimitKind::Tokens, number(minute.tokens_per_minute), counted.tokens, wait, counted.tokens_reset),
            3 => {
                let limit = number(minute.concurrent_requests);
                (LimitKind::Concurrency, limit, counted.running, CONCURRENCY_WAIT, CONCURRENCY_WAIT)
            }
            4 => {
                let quota = part.limits.quotas.get(place(self.quota)?)?;
                let used = standing.quotas.get(place(self.quota)?)?.saturating_add(quotas::carried(quota, date).0);
                (LimitKind::Quota(quota.name), quota.amount.get(), used, wait, reset)
            }
            _ => return None,
        };
        Some(Refusal { over, scope: part.scope, models: part.models.clone(), limit, used, retry_after, reset })
    }
}
