//! One admission: the call, and what becomes of it. A request that goes on without the answer takes nothing.

use std::sync::Arc;

use jiff::Timestamp;
use keymeter_core::{
    clock::Now,
    limit::{Amounts, LimitMode, Refusal},
};
use tokio::time::Instant;

use super::{
    Declined, Failed, SharedLimits, Ticket,
    answer::{Answer, Outcome},
    link::{LinkError, ServerConnection},
    quota_lease::{LIFE, LeaseRequest, QuotaLease},
    quotas,
    script::number,
    settlements::{Ending, Settlement, SettlementBatch},
    subject::Part,
};
use crate::patience::Patience;

/// The most settlements that an admission takes along: more would make it slow.
const TAKEN_ALONG: usize = 64;

/// What is asked of the server: a request that takes `amounts` of all its `parts`.
pub(super) struct Question {
    pub parts: Vec<Part>,
    pub mode: LimitMode,
    pub amounts: Amounts,
}

impl Question {
    /// The one subject of which something may be taken in advance, if it is a key that nothing else is counted with.
    pub(super) fn sole_key(&self) -> Option<&Part> {
        match &self.parts[..] {
            [key] if key.limits.quotas.is_empty() && key.models.is_none() => Some(key),
            _ => None,
        }
    }
}

impl SharedLimits {
    /// Asks the server whether a request is admitted.
    pub(super) async fn ask(
        self: &Arc<Self>,
        question: &Question,
        patience: &mut Patience<'_>,
        now: Now,
    ) -> Result<Ticket, Declined> {
        // The second time with the calendar of the server's clock, if that is far from ours.
        for _ in 0..2 {
            match self.ask_once(question, patience, now).await? {
                Asked::Admitted(ticket) => return Ok(ticket),
                Asked::Refused(refusal) => return Err(Declined::Refused(refusal)),
                Asked::OfAnotherSpan => {}
            }
        }
        self.mark_unavailable(Failed::Admitting, &LinkError::Unreadable);
        Err(Declined::Unreachable)
    }

    async fn ask_once(
        self: &Arc<Self>,
        question: &Question,
        patience: &mut Patience<'_>,
        now: Now,
    ) -> Result<Asked, Declined> {
        let generation = self.link.generation();
        let Some(mut connection) = self.link.current() else { return Err(Declined::Unreachable) };
        let mut attempt = Attempt::new(self, question, now);
        let asked = attempt.run(&mut connection);
        match patience.wait_for(asked).await {
            Some(Ok(answer)) => {
                self.record_answer(patience);
                attempt.answered();
                Ok(attempt.read(answer, now))
            }
            Some(Err(error)) => {
                // The error of an old connection says nothing about its successor.
                if self.link.generation() == generation {
                    self.mark_unavailable(Failed::Admitting, &error);
                }
                Err(Declined::Unreachable)
            }
            None => {
                if self.link.generation() == generation && self.health.record_timeouts(patience.silent_limits()) {
                    self.report_unavailable(Failed::Admitting, &LinkError::Slow(self.terms.timeout));
                }
                Err(Declined::Unreachable)
            }
        }
    }

    /// What to take in advance of a key that is asked about often, and its name.
    fn lease_request(&self, question: &Question, now: Now) -> Option<(Arc<str>, LeaseRequest)> {
        if self.terms.lease == 0 {
            return None;
        }
        for Part { subject, .. } in &question.parts {
            if let Some(rest) = self.snapshots.record_request(subject, now.moment) {
                // What is left of the lease is too little. It is returned with this call, so that it is no reason to refuse.
                self.settlements.push(subject, rest.into_settlement());
            }
        }
        let key = question.sole_key().filter(|key| self.snapshots.is_busy(&key.subject, now.moment))?;
        let lease_request = LeaseRequest::new(self.terms.lease, &key.limits.minute, question.amounts.tokens)?;
        Some((self.new_name(), lease_request))
    }

    /// Records an answer. Though a request of a process that is late itself waits for it long enough, a server that is slow
    /// each time is given up.
    fn record_answer(&self, patience: &Patience<'_>) {
        if patience.is_in_time() {
            self.health.record_answer();
        } else if self.health.record_slow_answer(patience.start(), Instant::now()) {
            self.report_unavailable(Failed::Admitting, &LinkError::Slow(self.terms.timeout));
        }
    }
}

/// What the server said.
enum Asked {
    Admitted(Ticket),
    Refused(Refusal),
    /// By its clock it is another day, or week, or month.
    OfAnotherSpan,
}

/// A call whose answer is awaited.
struct Attempt<'shared> {
    shared: &'shared Arc<SharedLimits>,
    question: &'shared Question,
    name: Arc<str>,
    lease: Option<(Arc<str>, LeaseRequest)>,
    /// The settlements that it takes along, of each subject.
    along: Vec<Option<SettlementBatch>>,
    /// When it is for the server.
    date: Timestamp,
    is_open: bool,
}

impl<'shared> Attempt<'shared> {
    fn new(shared: &'shared Arc<SharedLimits>, question: &'shared Question, now: Now) -> Self {
        let lease = shared.lease_request(question, now);
        let most = TAKEN_ALONG / question.parts.len().max(1);
        let keeps_order = shared.link.keeps_order();
        let along = |part: &Part| shared.settlements.of_subject(&part.subject, most.max(1), keeps_order);
        Self {
            name: shared.new_name(),
            lease,
            along: question.parts.iter().map(along).collect(),
            date: shared.calendar.date(now.date),
            is_open: true,
            shared,
            question,
        }
    }

    async fn run(&self, connection: &mut ServerConnection) -> Result<Answer, LinkError> {
        let Self { shared, question: Question { parts, mode, amounts }, along, .. } = self;
        let keys: Vec<_> = parts.iter().flat_map(|part| part.subject.data()).collect();
        let mut call = shared.scripts.admit.on(&keys);
        call.arg(&*self.name).arg(amounts.tokens).arg(u8::from(*mode == LimitMode::Enforce));
        match &self.lease {
            Some((name, LeaseRequest { requests, tokens, places })) => {
                call.arg(&**name).arg(*requests).arg(*tokens).arg(*places);
            }
            None => {
                call.arg(0).arg(0).arg(0).arg(0);
            }
        }
        call.arg(u64::try_from(LIFE.as_micros()).unwrap_or(u64::MAX));
        for (part, along) in parts.iter().zip(along) {
            let minute = &part.limits.minute;
            call.arg(number(minute.requests_per_minute)).arg(number(minute.tokens_per_minute));
            call.arg(number(minute.concurrent_requests));
            let settlements = along.as_ref().map(|along| &along.settlements[..]).unwrap_or_default();
            call.arg(settlements.len());
            for settlement in settlements {
                settlement.write(&mut call);
            }
            quotas::write(&part.limits.quotas, &shared.calendar, |unit| amounts.of(unit), self.date, &mut call);
        }
        let sent = || along.iter().flatten().for_each(|along| shared.settlements.mark_sent(along));
        let said: Vec<u64> = call.run_once_sent(connection, sent).await?;
        Answer::read(&said, parts).ok_or(LinkError::Unreadable)
    }

    fn answered(&mut self) {
        self.is_open = false;
        self.along.iter().flatten().for_each(|along| self.shared.acknowledge(along));
    }

    fn read(&self, answer: Answer, now: Now) -> Asked {
        let Self { shared, question, name, lease, .. } = self;
        let Answer { outcome, lease_slot, time, standings } = answer;
        if !matches!(outcome, Outcome::OfAnotherSpan) {
            shared.record(&question.parts, &standings, self.date, now);
        }
        let observed = match outcome {
            Outcome::OfAnotherSpan => {
                shared.calendar.set(time, now.date);
                return Asked::OfAnotherSpan;
            }
            Outcome::Refused(refusal) => return Asked::Refused(refusal),
            Outcome::Admitted { observed } => observed,
        };
        if let (Some((name, lease_request)), 1.., Some(key)) = (lease, lease_slot, question.sole_key()) {
            let lease = QuotaLease::new(name.clone(), lease_slot, *lease_request, now.moment);
            if let Some(other) = shared.snapshots.store_lease(&key.subject, lease) {
                // Another request took one at the same time.
                shared.settlements.push(&key.subject, other.into_settlement());
            }
        }
        let slots: Vec<_> = standings.iter().map(|standing| standing.slot).collect();
        Asked::Admitted(shared.ticket(question, &slots, name.clone(), observed))
    }
}

impl Drop for Attempt<'_> {
    /// Cancels the request: the server may have admitted it, or may still do so.
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let Self { shared, question, name, lease, along, .. } = self;
        along.iter().flatten().for_each(|along| shared.settlements.mark_lost(along));
        for Part { subject, limits, .. } in &question.parts {
            let has_quotas = !limits.quotas.is_empty();
            let cancelled = Settlement::unknown(name.clone(), Ending::Cancelled, has_quotas);
            shared.settlements.push(subject, cancelled);
        }
        if let (Some((name, lease_request)), Some(key)) = (lease, question.sole_key()) {
            let whole = Ending::whole_lease(name, lease_request.places);
            shared.settlements.push(&key.subject, Settlement::unknown(name.clone(), whole, false));
        }
    }
}
