//! One admission: what is asked, and what the answer means. Whatever becomes of the question, a request that goes on
//! without its answer takes nothing.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    clock::MonotonicTime,
    key::KeyId,
    limit::{CONCURRENCY_WAIT, Limit, LimitKind, Limits, Refusal},
};

use super::{
    Declined, SharedLimits, Ticket, keys_of,
    link::{Connection, LinkError},
    quota_lease::{LIFE, QuotaLease, Wish},
    settlements::{Batch, Ending, Settlement},
    snapshots::Counted,
};

/// Settlements that an admission takes along: more would make it slow.
const TAKEN_ALONG: usize = 64;

impl SharedLimits {
    /// Asks the server whether a request is admitted.
    pub(super) async fn ask(
        self: &Arc<Self>,
        key: &KeyId,
        limits: &Limits,
        tokens: u64,
        patience: Duration,
        now: MonotonicTime,
    ) -> Result<Ticket, Declined> {
        let generation = self.link.generation();
        let Some(mut connection) = self.link.current() else { return Err(self.unreachable(limits)) };
        let takes_stock = self.terms.lease > 0;
        if let Some(rest) = takes_stock.then(|| self.seen.asks(key, now)).flatten() {
            // What is left of a stock was too little. It comes back with the question, and is no reason to refuse it.
            self.due.push(key, rest.into_settlement());
        }
        let is_busy = takes_stock && self.seen.is_busy(key, now);
        let wish = is_busy.then(|| Wish::new(self.terms.lease, limits, tokens)).flatten();
        let stock = wish.map(|wish| (self.new_name(), wish));
        let along = self.due.of(key, TAKEN_ALONG, self.link.keeps_order());
        let mut attempt = Attempt { shared: self, key, name: self.new_name(), tokens, stock, along, is_open: true };
        let asked = attempt.run(limits, &mut connection);
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(answer)) => {
                self.mode.answered();
                self.seen.saw(key, answer.counted, now);
                attempt.answered();
                answer.decide(&attempt, limits, now)
            }
            Ok(Err(fault)) => {
                // What an old connection ends with says nothing of the one that took its place.
                if self.link.generation() == generation {
                    self.lose(&fault);
                }
                Err(self.unreachable(limits))
            }
            Err(_) => {
                if self.mode.was_slow() {
                    self.say_lost(&LinkError::Slow(self.terms.timeout));
                }
                Err(self.unreachable(limits))
            }
        }
    }
}

/// A question whose answer is not there yet.
struct Attempt<'shared> {
    shared: &'shared Arc<SharedLimits>,
    key: &'shared KeyId,
    name: Arc<str>,
    tokens: u64,
    stock: Option<(Arc<str>, Wish)>,
    /// What ended before.
    along: Option<Batch>,
    is_open: bool,
}

impl Attempt<'_> {
    async fn run(&self, limits: &Limits, connection: &mut Connection) -> Result<Answer, LinkError> {
        let mut call = self.shared.scripts.admit.on(&keys_of(self.key));
        call.arg(&*self.name).arg(self.tokens).arg(number(limits.requests_per_minute));
        call.arg(number(limits.tokens_per_minute)).arg(number(limits.concurrent_requests));
        match &self.stock {
            Some((name, Wish { requests, tokens, places })) => {
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
        let sent = || self.along.iter().for_each(|along| self.shared.due.sent(along));
        let said: Vec<u64> = call.run_once_sent(connection, sent).await?;
        Answer::read(&said).ok_or(LinkError::Unreadable)
    }

    fn answered(&mut self) {
        self.is_open = false;
        self.along.iter().for_each(|along| self.shared.due.done(along));
    }
}

impl Drop for Attempt<'_> {
    /// The server may have admitted it, or may still do so before it reads this.
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        self.along.iter().for_each(|along| self.shared.due.lost(along));
        let settlement = |name: &Arc<str>, ending| Settlement { name: name.clone(), slot: 0, tokens: 0, ending };
        self.shared.due.push(self.key, settlement(&self.name, Ending::Cancelled));
        if let Some((name, wish)) = &self.stock {
            self.shared.due.push(self.key, settlement(name, Ending::whole_lease(name, wish.places)));
        }
    }
}

/// What the server said.
struct Answer {
    verdict: Verdict,
    /// Where the request is counted, and where the stock.
    slot: u64,
    stock_slot: u64,
    wait: Duration,
    counted: Counted,
}

#[derive(Clone, Copy)]
enum Verdict {
    Admitted,
    LimitKind(LimitKind),
}

impl Answer {
    fn read(said: &[u64]) -> Option<Self> {
        let [verdict, slot, wait, stock_slot, counted @ ..] = said else { return None };
        let verdict = match verdict {
            0 => Verdict::Admitted,
            1 => Verdict::LimitKind(LimitKind::Requests),
            2 => Verdict::LimitKind(LimitKind::Tokens),
            3 => Verdict::LimitKind(LimitKind::Concurrency),
            _ => return None,
        };
        let (slot, stock_slot) = (*slot, *stock_slot);
        let wait = Duration::from_micros(*wait);
        Some(Self { verdict, slot, stock_slot, wait, counted: Counted::read(counted)? })
    }

    fn decide(&self, attempt: &Attempt<'_>, limits: &Limits, now: MonotonicTime) -> Result<Ticket, Declined> {
        let Attempt { shared, key, name, tokens, stock, .. } = attempt;
        match self.verdict {
            Verdict::Admitted => {
                if let (Some((name, wish)), 1..) = (stock, self.stock_slot) {
                    let stock = QuotaLease::new(name.clone(), self.stock_slot, *wish, now);
                    if let Some(other) = shared.seen.keep(key, stock) {
                        // Another request took one at the same time.
                        shared.due.push(key, other.into_settlement());
                    }
                }
                Ok(shared.ticket(key, limits, name.clone(), self.slot, *tokens))
            }
            Verdict::LimitKind(over) => Err(Declined::Refused(self.refusal(over, limits))),
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

/// Whole numbers are exact up to here in the scripts. What is allowed more than that is not limited.
const MOST: u64 = 1 << 53;

/// A limit as the scripts read it.
pub(super) fn number(limit: Limit) -> i64 {
    limit.number().filter(|number| *number < MOST).and_then(|number| i64::try_from(number).ok()).unwrap_or(-1)
}
