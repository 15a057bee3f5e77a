//! Sends the spool on, batch after batch, for as long as it takes: what is acknowledged is let go of, what is refused for
//! good is set aside, and everything else is sent again.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::json;

use super::{
    Courier, Ledger,
    backlog::{Backlog, MOST, Owner, oldest},
    courier::{Faulty, Refusal},
    spool::Batch,
};
use crate::{limit::Moment, metrics::LedgerRecord, resolve::circuit::pause};

/// What sends a ledger on.
pub struct Sender {
    ledger: Arc<Ledger>,
    courier: Arc<Courier>,
    /// Where records go that are never taken.
    refused: PathBuf,
}

/// Records of so long a time go together; the first after a while goes at once.
const WINDOW: Duration = Duration::from_millis(100);

/// How often wallets are looked after while there are no records.
const IDLE: Duration = Duration::from_millis(250);

/// How often it is looked for gateways that are gone.
const ADOPT: Duration = Duration::from_secs(5);

impl Sender {
    /// What sends `ledger` on by `courier`, and sets aside in the ledger's `directory` what is never taken.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, courier: Arc<Courier>, directory: &std::path::Path) -> Self {
        Self { ledger, courier, refused: directory.join("refused.jsonl") }
    }

    /// Sends what there is and what comes, for ever.
    pub async fn run(&self) {
        let mut backlog = Backlog::new(self.ledger.clone());
        let mut adopted: Option<Moment> = None;
        loop {
            if adopted.is_none_or(|last| Moment::now().saturating_since(last) >= ADOPT) {
                backlog.adopt().await;
                adopted = Some(Moment::now());
            }
            let start = Moment::now();
            match backlog.next() {
                Ok(Some((owner, batch))) => {
                    self.show(oldest(&batch));
                    self.deliver(&batch).await;
                    let_go(&mut backlog, owner, &batch);
                    if batch.payloads.len() < MOST && !backlog.has_orphans() {
                        tokio::time::sleep(WINDOW.saturating_sub(Moment::now().saturating_since(start))).await;
                    }
                }
                Ok(None) => self.idle().await,
                Err(error) => {
                    tracing::error!("cannot read the ledger's spool: {error}");
                    tokio::time::sleep(ADOPT).await;
                }
            }
        }
    }

    async fn idle(&self) {
        self.show(None);
        if let Err(refusal) = self.courier.hand_over(&[]).await {
            tracing::debug!("no word on wallets: {refusal}");
        }
        tokio::select! {
            () = self.ledger.spool.appended() => {}
            () = tokio::time::sleep(IDLE) => {}
        }
    }

    fn show(&self, oldest: Option<Timestamp>) {
        self.ledger.metrics.ledger_waits(self.ledger.waiting(), oldest, Timestamp::now());
    }

    /// Sends a batch until all of it is acknowledged or set aside.
    async fn deliver(&self, batch: &Batch) {
        let mut parts: Vec<Vec<&[u8]>> = vec![batch.payloads.iter().map(Vec::as_slice).collect()];
        while let Some(part) = parts.pop() {
            match self.send(&part, oldest(batch)).await {
                Ok(()) => self.ledger.metrics.ledger_record(LedgerRecord::Sent, part.len()),
                Err(faulty) => parts.extend(self.sort_out(part, faulty).await),
            }
        }
    }

    /// Sends records until they are taken.
    ///
    /// # Errors
    /// When they never will be: which of them is at fault, if that is said.
    async fn send(&self, part: &[&[u8]], oldest: Option<Timestamp>) -> Result<(), Option<Faulty>> {
        let mut failures = 0_u32;
        loop {
            match self.courier.hand_over(part).await {
                Ok(()) => return Ok(()),
                Err(Refusal::Faulty(faulty)) => return Err(faulty),
                Err(Refusal::Failed(why)) if failures.is_multiple_of(32) => {
                    tracing::warn!("records cannot be handed over: {why}; they are kept, and sent again");
                }
                Err(Refusal::Failed(_)) => {}
            }
            self.show(oldest);
            tokio::time::sleep(pause(failures, Moment::now().as_nanos())).await;
            failures = failures.saturating_add(1);
        }
    }

    /// Sets aside what is at fault, and gives what is to be sent again. Where it is not said which that is, halves are
    /// tried, down to single records.
    async fn sort_out<'batch>(&self, mut part: Vec<&'batch [u8]>, faulty: Option<Faulty>) -> Vec<Vec<&'batch [u8]>> {
        match faulty {
            None if part.len() > 1 => {
                let second = part.split_off(part.len() / 2);
                return vec![second, part];
            }
            Some(Faulty { index, why }) if index < part.len() => self.set_aside(part.remove(index), &why).await,
            _ => self.set_aside(part.pop().unwrap_or_default(), "it was not said why").await,
        }
        if part.is_empty() { Vec::new() } else { vec![part] }
    }

    /// Keeps a record that is never taken where a person finds it.
    async fn set_aside(&self, record: &[u8], why: &str) {
        while let Err(error) = self.write_aside(record, why) {
            tracing::error!("cannot set a refused record aside in {}: {error}", self.refused.display());
            tokio::time::sleep(ADOPT).await;
        }
        self.ledger.metrics.ledger_record(LedgerRecord::Refused, 1);
        tracing::error!("a record is refused for good: {why}; it is set aside in {}", self.refused.display());
    }

    fn write_aside(&self, record: &[u8], why: &str) -> io::Result<()> {
        let record = match serde_json::from_slice(record) {
            Ok(record) => record,
            Err(_) => serde_json::Value::from(String::from_utf8_lossy(record)),
        };
        let line = format!("{}\n", json!({"refused": why, "record": record}));
        let mut file = OpenOptions::new().append(true).create(true).open(&self.refused)?;
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }
}

fn let_go(backlog: &mut Backlog, owner: Owner, batch: &Batch) {
    if let Err(error) = backlog.acknowledge(owner, batch) {
        tracing::warn!("cannot write down which records are sent: {error}; they may be sent once more");
    }
}
