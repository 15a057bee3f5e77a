//! One admission: the call and the meaning of its answer. A request that goes on without the answer takes nothing.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    clock::MonotonicTime,
    key::KeyId,
    limit::{CONCURRENCY_WAIT, Limit, LimitKind, Limits, Refusal},
};
use tokio::time::Instant;

use super::{
    Declined, SharedLimits, Ticket, keys_of,
    link::{LinkError, ServerConnection},
    quota_lease::{LIFE, LeaseRequest, QuotaLease},
    settlements::{Ending, Settlement, SettlementBatch},
    snapshots::Counted,
};
use crate::patience::Patience;

/// The most settlements that an admission takes along: more would make it slow.
const TAKEN_ALONG: usize = 64;

impl SharedLimits {
    /// Asks the server whether a request is admitted.
    pub(super) async fn ask(
        self: &Arc<Self>,
        key: &KeyId,
        limits: &Limits,
        tokens: u64,
        patience: &mut Patience<'_>,
        now: MonotonicTime,
    ) -> Result<Ticket, Declined> {
        let generation = self.link.generation();
        let Some(mut connection) = self.link.current() else { return Err(self.unreachable(limits)) };
        let takes_leases = self.terms.lease > 0;
        if let Some(rest) = takes_leases.then(|| self.snapshots.record_request(key, now)).flatten() {
            // What is left of the lease is too little. It is returned with this call, so that it is no reason to refuse.
            self.settlements.push(key, rest.into_settlement());
        }
        let is_busy = takes_leases && self.snapshots.is_busy(key, now);
        let lease_request = is_busy.then(|| LeaseRequest::new(self.terms.lease, limits, tokens)).flatten();
        let lease = lease_request.map(|lease_request| (self.new_name(), lease_request));
        let along = self.settlements.for_key(key, TAKEN_ALONG, self.link.keeps_order());
        let mut attempt = Attempt { shared: self, key, name: self.new_name(), tokens, lease, along, is_open: true };
        let asked = attempt.run(limits, &mut connection);
        match patience.wait_for(asked).await {
            Some(Ok(answer)) => {
                self.record_answer(patience);
                self.snapshots.record(key, answer.counted, now);
                attempt.answered();
                answer.decide(&attempt, limits, now)
            }
            Some(Err(error)) => {
                // The error of an old connection says nothing about its successor.
                if self.link.generation() == generation {
                    self.mark_unavailable(&error);
                }
                Err(self.unreachable(limits))
            }
            None => {
                if self.link.generation() == generation && self.health.record_timeouts(patience.silent_limits()) {
                    self.report_unavailable(&LinkError::Slow(self.terms.timeout));
                }
                Err(self.unreachable(limits))
            }
        }
    }

    /// Records an answer. Though a request of a process that is late itself waits for it long enough, a server that is slow
    /// each time is given up.
    fn record_answer(&self, patience: &Patience<'_>) {
        if patience.is_in_time() {
            self.health.record_answer();
        } else if self.health.record_slow_answer(patience.start(), Instant::now()) {
            self.report_unavailable(&LinkError::Slow(self.terms.timeout));
        }
    }
}

/// A call whose answer is awaited.
struct Attempt<'shared> {
    shared: &'shared Arc<SharedLimits>,
    key: &'shared KeyId,
    name: Arc<str>,
    tokens: u64,
    lease: Option<(Arc<str>, LeaseRequest)>,
    /// The settlements that it takes along.
    along: Option<SettlementBatch>,
    is_open: bool,
}

impl Attempt<'_> {
    async fn run(&self, limits: &Limits, connection: &mut ServerConnection) -> Result<Answer, LinkError> {
        let mut call = self.shared.scripts.admit.on(&keys_of(self.key));
        call.arg(&*self.name).arg(self.tokens).arg(number(limits.requests_per_minute));
        call.arg(number(limits.tokens_per_minute)).arg(number(limits.concurrent_requests));
        match &self.lease {
            Some((name, LeaseRequest { requests, tokens, places })) => {
                call.arg(&**name).arg(*requests).arg(*tokens).arg(*places);
            }
            None => {
                call.arg(0).arg(0).arg(0).arg(0);
            }
        }
        call.arg(u64::try_from(LIFE.as_micros()).unwrap_or(u64::MAX));
        let settlements = self.along.as_ref().map(|along| &along.settlements[..]).unwrap_or_default();
        call.arg(settlements.len());
        for settlement in settlements {
            settlement.write(&mut call);
        }
        let sent = || self.along.iter().for_each(|along| self.shared.settlements.mark_sent(along));
        let said: Vec<u64> = call.run_once_sent(connection, sent).await?;
        Answer::read(&said).ok_or(LinkError::Unreadable)
    }

    fn answered(&mut self) {
        self.is_open = false;
        self.along.iter().for_each(|along| self.shared.settlements.remove(along));
    }
}

impl Drop for Attempt<'_> {
    /// Cancels the request: the server may have admitted it, or may still do so.
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        self.along.iter().for_each(|along| self.shared.settlements.mark_lost(along));
        let settlement = |name: &Arc<str>, ending| Settlement { name: name.clone(), slot: 0, tokens: 0, ending };
        self.shared.settlements.push(self.key, settlement(&self.name, Ending::Cancelled));
        if let Some((name, lease_request)) = &self.lease {
            self.shared.settlements.push(self.key, settlement(name, Ending::whole_lease(name, lease_request.places)));
        }
    }
}

/// The server's answer.
struct Answer {
    verdict: Verdict,
    /// Where the request is counted, and where the lease.
    slot: u64,
    lease_slot: u64,
    wait: Duration,
    counted: Counted,
}

#[derive(Clone, Copy)]
enum Verdict {
    Admitted,
    Refused(LimitKind),
}

impl Answer {
    fn read(said: &[u64]) -> Option<Self> {
        let [verdict, slot, wait, lease_slot, counted @ ..] = said else { return None };
        let verdict = match verdict {
            0 => Verdict::Admitted,
            1 => Verdict::Refused(LimitKind::Requests),
            2 => Verdict::Refused(LimitKind::Tokens),
            3 => Verdict::Refused(LimitKind::Concurrency),
            _ => return None,
        };
        let (slot, lease_slot) = (*slot, *lease_slot);
        let wait = Duration::from_micros(*wait);
        Some(Self { verdict, slot, lease_slot, wait, counted: Counted::read(counted)? })
    }

    fn decide(&self, attempt: &Attempt<'_>, limits: &Limits, now: MonotonicTime) -> Result<Ticket, Declined> {
        let Attempt { shared, key, name, tokens, lease, .. } = attempt;
        match self.verdict {
            Verdict::Admitted => {
                if let (Some((name, lease_request)), 1..) = (lease, self.lease_slot) {
                    let lease = QuotaLease::new(name.clone(), self.lease_slot, *lease_request, now);
                    if let Some(other) = shared.snapshots.store_lease(key, lease) {
                        // Another request took one at the same time.
                        shared.settlements.push(key, other.into_settlement());
                    }
                }
                Ok(shared.ticket(key, limits, name.clone(), self.slot, *tokens))
            }
            Verdict::Refused(over) => Err(Declined::Refused(self.refusal(over, limits))),
        }
    }

    fn refusal(&self, over: LimitKind, limits: &Limits) -> Refusal {
        let Counted { requests, requests_reset, tokens, tokens_reset, running, .. } = self.counted;
        let (limit, used, retry_after, reset) = match over {
            LimitKind::Requests => (limits.requests_per_minute, requests, self.wait, requests_reset),
            LimitKind::Tokens => (limits.tokens_per_minute, tokens, self.wait, tokens_reset),
            LimitKind::Concurrency => (limits.concurrent_requests, running, CONCURRENCY_WAIT, CONCURRENCY_WAIT),
        };
        Refusal { over, limit: limit.number().unwrap_or(u64::MAX), used, retry_after, reset }
    }
}

/// Whole numbers are exact below this in the scripts. A higher limit counts as none.
const MOST: u64 = 1 << 53;

/// A limit as the scripts read it.
pub(super) fn number(limit: Limit) -> i64 {
    limit.number().filter(|number| *number < MOST).and_then(|number| i64::try_from(number).ok()).unwrap_or(-1)
}
