//! A request's place on a replica, and what came of the attempt that it was taken for.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    clock::MonotonicTime,
    pool::{Cause, Change, Others, Probe},
};

use super::{Interrupt, Pool, Replica, Wanted, Ways};
use crate::observe::metrics::AttemptOutcome;

/// A place on a replica. Dropped, it is given back, and goes to the next that waits.
pub struct Permit {
    pool: Arc<Pool>,
    pub(super) replica: Arc<Replica>,
    wanted: Wanted,
    /// Where it is the one request that decides whether an ejected replica is well again.
    probe: Option<Probe>,
    is_over: bool,
}

impl Permit {
    /// A place that was taken on `replica`.
    pub(super) fn new(pool: &Arc<Pool>, replica: &Arc<Replica>, wanted: &Wanted, probe: Option<Probe>) -> Self {
        pool.chooser.running.begin(wanted.tokens);
        let (pool, replica, wanted) = (pool.clone(), replica.clone(), wanted.clone());
        Self { pool, replica, wanted, probe, is_over: false }
    }

    /// The replica.
    #[must_use]
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The pool that it is of.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What was wanted.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The replica made an answer, by a hash of its id: a request that goes on from that goes there.
    pub fn made(&self, answer: u64) {
        if self.pool.members().may_be_several() {
            self.pool.makers.remember(self.wanted.key, answer, self.replica.server);
        }
    }

    /// The request waits for the head of the replica's answer, and may be told that there will be none.
    #[must_use]
    pub fn interrupt(&self, ways: Ways) -> Arc<Interrupt> {
        let interrupt = Arc::new(Interrupt::new(ways));
        self.replica.register(&interrupt);
        interrupt
    }

    /// The request is sent to the same replica once more: what comes of that counts.
    pub fn begin_again(&mut self) {
        self.is_over = false;
    }

    /// The replica answered with this status, and said when to come again, or it failed in this way. The first that is told of
    /// an attempt counts.
    pub fn attempted(
        &mut self,
        outcome: AttemptOutcome,
        status: u16,
        retry_after: Option<Duration>,
        now: MonotonicTime,
    ) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.replica.state.series().attempted(outcome);
        let change = self.judge(outcome, status, retry_after, now);
        if let Some(Change::Ejected { .. }) = change {
            self.replica.state.series().ejected();
            let why = reason(outcome, status);
            tracing::warn!("upstream {}: replica {} is ejected: {why}", self.pool.name, self.replica.name);
        }
    }

    /// The replica's name has no address at present. That is no fault of its own, and it is left alone for a moment where
    /// another may be asked.
    pub fn unresolved(&mut self, now: MonotonicTime) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.replica.state.series().attempted(AttemptOutcome::Connect);
        let _judging = self.pool.judging.lock();
        let (probe, others) = (self.probe.take(), self.others(now));
        self.replica.update(|condition| {
            if let Some(probe) = probe {
                condition.probe_unused(probe);
            }
            condition.pause(A_SECOND, "its name does not resolve", others, now)
        });
    }

    /// What an attempt says of the replica.
    fn judge(
        &mut self,
        outcome: AttemptOutcome,
        status: u16,
        retry_after: Option<Duration>,
        now: MonotonicTime,
    ) -> Option<Change> {
        let probe = self.probe.take();
        // What a server does not know or cannot do speaks against nobody.
        let is_no_fault = outcome == AttemptOutcome::ServerError && !matches!(status, 500 | 502..=504);
        let outcome = if is_no_fault { AttemptOutcome::Other } else { outcome };
        match (outcome, probe) {
            (AttemptOutcome::Success, Some(probe)) => {
                self.replica.update(|condition| condition.probe_succeeded(probe, now))
            }
            (AttemptOutcome::Success, None) => {
                self.replica.update(|condition| condition.request_succeeded(now));
                None
            }
            (AttemptOutcome::Other, Some(probe)) => {
                self.replica.update(|condition| condition.probe_unused(probe));
                None
            }
            (AttemptOutcome::Other, None) => None,
            (_, probe) => {
                // No key can bring about that nobody takes a connection.
                let is_its_own = outcome == AttemptOutcome::Connect;
                let cause = if is_its_own { Cause::Replica } else { Cause::Key(self.wanted.key) };
                self.judge_failure((probe, cause), &reason(outcome, status), status, retry_after, now)
            }
        }
    }

    fn judge_failure(
        &self,
        (probe, cause): (Option<Probe>, Cause),
        why: &str,
        status: u16,
        retry_after: Option<Duration>,
        now: MonotonicTime,
    ) -> Option<Change> {
        let _judging = self.pool.judging.lock();
        let others = self.others(now);
        self.replica.update(|condition| {
            if matches!(status, 429 | 502..=504) {
                condition.pause(retry_after.unwrap_or(A_SECOND), why, others, now);
            }
            match probe {
                Some(probe) => condition.probe_failed(probe, why, others, now),
                None => condition.request_failed(cause, why, others, now),
            }
        })
    }

    /// Whether another replica may be asked, which is to be known under the pool's lock `judging`.
    fn others(&self, now: MonotonicTime) -> Others {
        if self.pool.members().has_other(&self.replica, now) { Others::Available } else { Others::None }
    }
}

fn reason(outcome: AttemptOutcome, status: u16) -> String {
    if status > 0 { format!("it answered {status}") } else { format!("its attempts end as {}", outcome.as_str()) }
}

/// A pause where none is stated.
const A_SECOND: Duration = Duration::from_secs(1);

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_over {
            self.attempted(AttemptOutcome::Other, 0, None, MonotonicTime::now());
        }
        self.replica.give_back(self.wanted.tokens);
        self.pool.chooser.running.end(self.wanted.tokens);
        if self.pool.is_waited_for() {
            self.pool.serve(MonotonicTime::now());
        }
    }
}
