//! The delivery of one batch, until each of its records is acknowledged or set aside.
//!
//! A keeper that knows what is wrong with a record says which it is, and the record is set aside at once. One that does not
//! know, and answers with an error whatever it is sent together with that record, must not hold up all others for ever. So a
//! batch at which it fails again and again is sent in halves, down to single records. A record at which it fails alone, again
//! and again, while it takes another between any two attempts, is what it fails at, and is set aside, too. While the keeper
//! takes nothing at all, nothing is set aside: then it is the keeper.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use keymeter_core::clock::MonotonicTime;

use super::{
    AccountingClient, Ledger,
    backlog::{Backlog, Owner, oldest},
    client::{Faulty, Refusal},
    outbox::Batch,
    refused::{Kept, RefusedRecord, RefusedRecords},
};
use crate::{keys::circuit::pause, observe::metrics::LedgerRecord};

/// A record that the keeper took. It takes it again, and counts it once, if it takes anything.
#[derive(Default)]
pub(super) struct Witness(Option<Bytes>);

/// A batch on its way.
pub(super) struct Delivery<'sender> {
    /// What is acknowledged once nothing is left to send, in its order.
    batches: Vec<(Owner, Batch)>,
    /// What is to be sent, part by part.
    parts: VecDeque<Part>,
    /// Records at which the keeper failed when they were sent alone.
    suspects: Vec<Suspect>,
    backlog: &'sender mut Backlog,
    witness: &'sender mut Witness,
    /// How often the keeper took records.
    taken: u64,
    /// Failures in a row.
    failures: u32,
}

/// Records that are sent together.
struct Part {
    records: Vec<Bytes>,
    failures: u32,
}

struct Suspect {
    record: Bytes,
    /// How often the keeper failed at it, and took another before.
    failures: u32,
    /// How often the keeper had taken records when it failed at it last.
    tried_at: u64,
    why: String,
}

/// Failures of a part that are taken for the keeper's.
const PATIENCE: u32 = 4;

/// Failures at a record alone after which it is the record, if the keeper takes others between them.
const PROOF: u32 = 6;

/// Batches that wait for the end of one delivery, at most.
const MOST_BATCHES: usize = 16;

/// How often it is tried to set a record aside, and how long is waited between.
const ATTEMPTS: u32 = 3;
const WAIT: Duration = Duration::from_secs(2);

impl<'sender> Delivery<'sender> {
    /// The delivery of a batch.
    pub(super) fn new(
        owner: Owner,
        batch: Batch,
        backlog: &'sender mut Backlog,
        witness: &'sender mut Witness,
    ) -> Self {
        let mut delivery = Self {
            batches: Vec::with_capacity(1),
            parts: VecDeque::with_capacity(1),
            suspects: Vec::new(),
            backlog,
            witness,
            taken: 0,
            failures: 0,
        };
        delivery.take(owner, batch);
        delivery
    }

    /// Sends records until nothing is left of them, and lets go of them.
    pub(super) async fn complete(mut self, ledger: &Ledger, courier: &AccountingClient, refused: &RefusedRecords) {
        let way = Way { ledger, courier, refused };
        loop {
            if let Some(part) = self.parts.pop_front() {
                self.send(part, &way).await;
            } else if self.suspects.is_empty() {
                break;
            } else {
                self.examine(&way).await;
            }
        }
        for (owner, batch) in self.batches {
            if let Err(error) = self.backlog.acknowledge(owner, &batch) {
                tracing::warn!("cannot write down which records are sent: {error}; they may be sent once more");
            }
        }
    }

    fn take(&mut self, owner: Owner, batch: Batch) {
        let records = batch.payloads.iter().map(|json| Bytes::copy_from_slice(json)).collect();
        self.parts.push_back(Part { records, failures: 0 });
        self.batches.push((owner, batch));
    }

    /// Sends a part once, and does with its records what the answer asks for.
    async fn send(&mut self, mut part: Part, way: &Way<'_>) {
        match way.courier.hand_over(&part.records).await {
            Ok(()) => self.sent(&part.records, way),
            Err(Refusal::Faulty(faulty)) => self.sort_out(part, faulty, way).await,
            Err(Refusal::Away(why)) => {
                self.parts.push_front(part);
                self.failed(&why, way).await;
            }
            Err(Refusal::Failed(why)) => {
                part.failures += 1;
                let is_due = part.failures >= PATIENCE && self.keeper_may_live(way).await;
                match (is_due, part.records.pop()) {
                    (true, Some(record)) if part.records.is_empty() => {
                        let tried_at = self.taken;
                        self.suspects.push(Suspect { record, failures: 0, tried_at, why: why.clone() });
                    }
                    (true, Some(record)) => {
                        part.records.push(record);
                        // What others are in gets its turn first.
                        self.parts.extend(part.halves(PATIENCE - 1));
                    }
                    (false, record) => {
                        part.records.extend(record);
                        self.parts.push_front(part);
                    }
                    (true, None) => {}
                }
                self.failed(&why, way).await;
            }
        }
    }

    /// Whether what the keeper fails at may be the records: it takes another, or none is known that it takes.
    async fn keeper_may_live(&mut self, way: &Way<'_>) -> bool {
        let Some(witness) = &self.witness.0 else { return true };
        let lives = way.courier.hand_over(std::slice::from_ref(witness)).await.is_ok();
        if lives {
            self.taken += 1;
            self.failures = 0;
        }
        lives
    }

    /// Sends suspects alone, once the keeper was seen to take another. What came meanwhile goes first: it does not wait for
    /// them, and may be what the keeper takes.
    async fn examine(&mut self, way: &Way<'_>) {
        self.look_for_more();
        if !self.parts.is_empty() {
            return;
        }
        if let Some(witness) = self.witness.0.clone() {
            match way.courier.hand_over(&[witness]).await {
                Ok(()) => self.taken += 1,
                Err(Refusal::Away(why)) => return self.failed(&why, way).await,
                // It is none: perhaps the keeper has forgotten it, and counts what it knows as a fault.
                Err(_) => self.witness.0 = None,
            }
        }
        let mut guilty = Vec::new();
        for suspect in self.next_suspects() {
            match way.courier.hand_over_alone(&suspect.record).await {
                Ok(()) => self.sent(std::slice::from_ref(&suspect.record), way),
                Err(Refusal::Faulty(faulty)) => {
                    let why = faulty.into_iter().next().map_or_else(|| suspect.why.clone(), |faulty| faulty.why);
                    guilty.push(Suspect { why, ..suspect });
                }
                Err(Refusal::Failed(why)) => {
                    let suspect = suspect.failed_again(why, self.taken);
                    if suspect.failures >= PROOF { &mut guilty } else { &mut self.suspects }.push(suspect);
                }
                Err(Refusal::Away(_)) => self.suspects.push(suspect),
            }
        }
        let refused: Vec<_> =
            guilty.iter().map(|Suspect { record, why, .. }| RefusedRecord { json: record, why }).collect();
        way.set_aside(&refused).await;
        if let Some(Suspect { why, .. }) = self.suspects.first() {
            let why = why.clone();
            self.failed(&why, way).await;
        }
    }

    /// All suspects, if the keeper took a record since each of them was tried; else one, in turn, for it may be taken at last.
    fn next_suspects(&mut self) -> Vec<Suspect> {
        if self.suspects.iter().any(|suspect| suspect.tried_at < self.taken) {
            return std::mem::take(&mut self.suspects);
        }
        if self.suspects.is_empty() { Vec::new() } else { vec![self.suspects.remove(0)] }
    }

    fn look_for_more(&mut self) {
        if self.batches.len() >= MOST_BATCHES {
            return;
        }
        match self.backlog.more() {
            Ok(batch) if batch.payloads.is_empty() => {}
            Ok(batch) => self.take(Owner::Own, batch),
            Err(error) => tracing::error!("cannot read the ledger's spool: {error}"),
        }
    }

    fn sent(&mut self, records: &[Bytes], way: &Way<'_>) {
        self.taken += 1;
        self.failures = 0;
        if let Some(last) = records.last() {
            self.witness.0 = Some(last.clone());
        }
        way.ledger.metrics.ledger_record(LedgerRecord::Sent, records.len());
    }

    /// Tells of a failure now and then, and waits for longer with each.
    async fn failed(&mut self, why: &str, way: &Way<'_>) {
        if self.failures.is_multiple_of(32) {
            tracing::warn!("records cannot be handed over: {why}; they are kept, and sent again");
        }
        let first = self.batches.first().and_then(|(_, batch)| oldest(batch));
        way.ledger.metrics.ledger_waits(way.ledger.waiting(), first, Timestamp::now());
        tokio::time::sleep(pause(self.failures, MonotonicTime::now().as_nanos())).await;
        self.failures = self.failures.saturating_add(1);
    }

    /// Sets aside what is at fault; the others are sent again at once. Where it is not said which that is, halves are
    /// tried, down to single records.
    async fn sort_out(&mut self, mut part: Part, faulty: Vec<Faulty>, way: &Way<'_>) {
        let aside: Vec<_> = if faulty.is_empty() && part.records.len() == 1 {
            part.records.pop().map(|record| (record, "it was not said why".to_owned())).into_iter().collect()
        } else {
            // From behind, so that places stay what they are.
            let taken = faulty.into_iter().rev().filter(|faulty| faulty.index < part.records.len());
            let taken: Vec<_> = taken.map(|Faulty { index, why }| (index, why)).collect();
            let mut taken: Vec<_> = taken.into_iter().map(|(index, why)| (part.records.remove(index), why)).collect();
            taken.reverse();
            taken
        };
        if aside.is_empty() {
            for half in part.halves(0).into_iter().rev() {
                self.parts.push_front(half);
            }
            return;
        }
        let refused: Vec<_> = aside.iter().map(|(json, why)| RefusedRecord { json, why }).collect();
        way.set_aside(&refused).await;
        if !part.records.is_empty() {
            self.parts.push_front(part);
        }
    }
}

impl Suspect {
    /// The same, when the keeper had taken so many records in all and failed at this one once more.
    fn failed_again(self, why: String, taken: u64) -> Self {
        Self { failures: self.failures + u32::from(taken > self.tried_at), tried_at: taken, why, ..self }
    }
}

impl Part {
    /// The first half and the second, each as if it had failed so often.
    fn halves(mut self, failures: u32) -> [Self; 2] {
        let second = self.records.split_off(self.records.len() / 2);
        [self.records, second].map(|records| Self { records, failures })
    }
}

/// Where records go.
struct Way<'sender> {
    ledger: &'sender Ledger,
    courier: &'sender AccountingClient,
    refused: &'sender RefusedRecords,
}

impl Way<'_> {
    /// Keeps records that are never taken where a person finds them. A disk that takes none of them does not hold up the
    /// others.
    async fn set_aside(&self, records: &[RefusedRecord<'_>]) {
        let Some(RefusedRecord { why, .. }) = records.first() else { return };
        let (count, path) = (records.len(), self.refused.path().display());
        self.ledger.metrics.ledger_record(LedgerRecord::Refused, count);
        let mut failure = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(WAIT).await;
            }
            match self.refused.add(records) {
                Ok(Kept::OnDisk) => {
                    tracing::error!("{count} records are refused for good and set aside in {path}; the first: {why}");
                    return;
                }
                Ok(Kept::Full) => {
                    "the file is full: see to its records, and move it away".clone_into(&mut failure);
                    break;
                }
                Err(error) => failure = error.to_string(),
            }
        }
        self.ledger.metrics.ledger_record(LedgerRecord::Lost, count);
        tracing::error!("{count} records are refused for good and cannot be set aside in {path}: {failure}");
    }
}
