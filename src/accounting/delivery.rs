//! The delivery of one batch, until each of its records is acknowledged or set aside.
//!
//! A service that names the record at fault has it set aside at once. A service that does not, and answers every batch with
//! that record with an error, must not hold up all other records for ever. So a batch that fails again and again is sent in
//! halves, down to single records. A record that fails alone again and again, while the service takes another between any two
//! attempts, is at fault and is set aside, too. While the service takes no record at all, none is set aside: then the service
//! is at fault.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use keymeter_core::clock::MonotonicTime;

use super::{
    AccountingClient, Ledger,
    backlog::{Backlog, Owner, oldest},
    client::{DeliveryError, RejectedRecord},
    outbox::Batch,
    refused::{Kept, RefusedRecord, RefusedRecords},
};
use crate::{keys::circuit::pause, observe::metrics::LedgerRecord};

/// A record that the service has taken. A working service takes it again, and counts it once.
#[derive(Default)]
pub(super) struct Witness(Option<Bytes>);

/// A batch that is being delivered.
pub(super) struct Delivery<'sender> {
    /// The batches to acknowledge once nothing is left to send, in their order.
    batches: Vec<(Owner, Batch)>,
    /// The parts to send.
    parts: VecDeque<Part>,
    /// Records that failed when they were sent alone.
    suspects: Vec<Suspect>,
    backlog: &'sender mut Backlog,
    witness: &'sender mut Witness,
    /// How often the service took records.
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
    /// How often it failed after the service had taken another.
    failures: u32,
    /// How often the service had taken records when this one failed last.
    tried_at: u64,
    why: String,
}

/// Failures of a part that count as the service's.
const PATIENCE: u32 = 4;

/// Failures of a record alone after which it is at fault, if the service takes others between them.
const PROOF: u32 = 6;

/// The most batches of one delivery.
const MOST_BATCHES: usize = 16;

/// How often setting a record aside is tried, and the pause between.
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

    /// Sends the records until none is left, and acknowledges their batches.
    pub(super) async fn complete(mut self, ledger: &Ledger, client: &AccountingClient, refused: &RefusedRecords) {
        let destination = Destination { ledger, client, refused };
        loop {
            if let Some(part) = self.parts.pop_front() {
                self.send(part, &destination).await;
            } else if self.suspects.is_empty() {
                break;
            } else {
                self.examine(&destination).await;
            }
        }
        for (owner, batch) in self.batches {
            if let Err(error) = self.backlog.acknowledge(owner, &batch) {
                tracing::warn!("cannot note which records were sent: {error}; they may be sent again");
            }
        }
    }

    fn take(&mut self, owner: Owner, batch: Batch) {
        let records = batch.payloads.iter().map(|json| Bytes::copy_from_slice(json)).collect();
        self.parts.push_back(Part { records, failures: 0 });
        self.batches.push((owner, batch));
    }

    /// Sends a part once, and handles its records as the answer says.
    async fn send(&mut self, mut part: Part, destination: &Destination<'_>) {
        match destination.client.deliver(&part.records).await {
            Ok(()) => self.sent(&part.records, destination),
            Err(DeliveryError::Rejected(faulty)) => self.set_rejected_aside(part, faulty, destination).await,
            Err(DeliveryError::Unavailable(why)) => {
                self.parts.push_front(part);
                self.failed(&why, destination).await;
            }
            Err(DeliveryError::Failed(why)) => {
                part.failures += 1;
                let is_due = part.failures >= PATIENCE && self.service_accepts_others(destination).await;
                match (is_due, part.records.pop()) {
                    (true, Some(record)) if part.records.is_empty() => {
                        let tried_at = self.taken;
                        self.suspects.push(Suspect { record, failures: 0, tried_at, why: why.clone() });
                    }
                    (true, Some(record)) => {
                        part.records.push(record);
                        // The parts with other records go first.
                        self.parts.extend(part.halves(PATIENCE - 1));
                    }
                    (false, record) => {
                        part.records.extend(record);
                        self.parts.push_front(part);
                    }
                    (true, None) => {}
                }
                self.failed(&why, destination).await;
            }
        }
    }

    /// Whether the records may be at fault: the service takes another one, or none is known that it takes.
    async fn service_accepts_others(&mut self, destination: &Destination<'_>) -> bool {
        let Some(witness) = &self.witness.0 else { return true };
        let lives = destination.client.deliver(std::slice::from_ref(witness)).await.is_ok();
        if lives {
            self.taken += 1;
            self.failures = 0;
        }
        lives
    }

    /// Sends suspects alone, once the service took another record. New records go first: they do not wait for suspects, and
    /// the service may take them.
    async fn examine(&mut self, destination: &Destination<'_>) {
        self.take_more();
        if !self.parts.is_empty() {
            return;
        }
        if let Some(witness) = self.witness.0.clone() {
            match destination.client.deliver(&[witness]).await {
                Ok(()) => self.taken += 1,
                Err(DeliveryError::Unavailable(why)) => return self.failed(&why, destination).await,
                // The service may have forgotten it, and now refuse it.
                Err(_) => self.witness.0 = None,
            }
        }
        let mut guilty = Vec::new();
        for suspect in self.next_suspects() {
            match destination.client.deliver_alone(&suspect.record).await {
                Ok(()) => self.sent(std::slice::from_ref(&suspect.record), destination),
                Err(DeliveryError::Rejected(faulty)) => {
                    let why = faulty.into_iter().next().map_or_else(|| suspect.why.clone(), |faulty| faulty.why);
                    guilty.push(Suspect { why, ..suspect });
                }
                Err(DeliveryError::Failed(why)) => {
                    let suspect = suspect.failed_again(why, self.taken);
                    if suspect.failures >= PROOF { &mut guilty } else { &mut self.suspects }.push(suspect);
                }
                Err(DeliveryError::Unavailable(_)) => self.suspects.push(suspect),
            }
        }
        let refused: Vec<_> =
            guilty.iter().map(|Suspect { record, why, .. }| RefusedRecord { json: record, why }).collect();
        destination.set_aside(&refused).await;
        if let Some(Suspect { why, .. }) = self.suspects.first() {
            let why = why.clone();
            self.failed(&why, destination).await;
        }
    }

    /// All suspects, if the service took a record since they were tried; else one of them, in turn.
    fn next_suspects(&mut self) -> Vec<Suspect> {
        if self.suspects.iter().any(|suspect| suspect.tried_at < self.taken) {
            return std::mem::take(&mut self.suspects);
        }
        if self.suspects.is_empty() { Vec::new() } else { vec![self.suspects.remove(0)] }
    }

    fn take_more(&mut self) {
        if self.batches.len() >= MOST_BATCHES {
            return;
        }
        match self.backlog.more() {
            Ok(batch) if batch.payloads.is_empty() => {}
            Ok(batch) => self.take(Owner::Own, batch),
            Err(error) => tracing::error!("cannot read the ledger's outbox: {error}"),
        }
    }

    fn sent(&mut self, records: &[Bytes], destination: &Destination<'_>) {
        self.taken += 1;
        self.failures = 0;
        if let Some(last) = records.last() {
            self.witness.0 = Some(last.clone());
        }
        destination.ledger.metrics.ledger_record(LedgerRecord::Sent, records.len());
    }

    /// Logs every 32nd failure in a row, and waits longer after each.
    async fn failed(&mut self, why: &str, destination: &Destination<'_>) {
        if self.failures.is_multiple_of(32) {
            tracing::warn!("usage records cannot be delivered: {why}; they are kept and sent again");
        }
        let first = self.batches.first().and_then(|(_, batch)| oldest(batch));
        destination.ledger.metrics.ledger_waits(destination.ledger.waiting(), first, Timestamp::now());
        tokio::time::sleep(pause(self.failures, MonotonicTime::now().as_nanos())).await;
        self.failures = self.failures.saturating_add(1);
    }

    /// Sets rejected records aside; the others are sent again at once. If the service does not say which are rejected, halves
    /// are tried, down to single records.
    async fn set_rejected_aside(&mut self, mut part: Part, faulty: Vec<RejectedRecord>, destination: &Destination<'_>) {
        let aside: Vec<_> = if faulty.is_empty() && part.records.len() == 1 {
            part.records.pop().map(|record| (record, "the service gave no reason".to_owned())).into_iter().collect()
        } else {
            // From the end, so that the other indices stay valid.
            let taken = faulty.into_iter().rev().filter(|faulty| faulty.index < part.records.len());
            let taken: Vec<_> = taken.map(|RejectedRecord { index, why }| (index, why)).collect();
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
        destination.set_aside(&refused).await;
        if !part.records.is_empty() {
            self.parts.push_front(part);
        }
    }
}

impl Suspect {
    /// The suspect after another failure, at which the service had taken records `taken` times.
    fn failed_again(self, why: String, taken: u64) -> Self {
        Self { failures: self.failures + u32::from(taken > self.tried_at), tried_at: taken, why, ..self }
    }
}

impl Part {
    /// The first half and the second, each with so many failures.
    fn halves(mut self, failures: u32) -> [Self; 2] {
        let second = self.records.split_off(self.records.len() / 2);
        [self.records, second].map(|records| Self { records, failures })
    }
}

/// Where records go, and where they are counted.
struct Destination<'sender> {
    ledger: &'sender Ledger,
    client: &'sender AccountingClient,
    refused: &'sender RefusedRecords,
}

impl Destination<'_> {
    /// Sets records aside for an operator. A disk that takes none of them does not hold up the others.
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
                    tracing::error!(
                        "{count} usage records are refused for good and set aside in {path}; the first: {why}"
                    );
                    return;
                }
                Ok(Kept::Full) => {
                    "the file is full: check its records, and move it away".clone_into(&mut failure);
                    break;
                }
                Err(error) => failure = error.to_string(),
            }
        }
        self.ledger.metrics.ledger_record(LedgerRecord::Lost, count);
        tracing::error!("{count} usage records are refused for good and cannot be set aside in {path}: {failure}");
    }
}
