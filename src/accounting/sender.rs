//! The sender of the outbox. It sends batch after batch. Acknowledged records are deleted, records that are refused for
//! good are set aside, and all others are sent again.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use keymeter_core::clock::MonotonicTime;

use super::{
    AccountingClient, Ledger,
    backlog::{Backlog, MOST, oldest},
    delivery::{Delivery, Witness},
    refused::RefusedRecords,
};

/// Sends a ledger's records to the accounting service.
pub struct Sender {
    ledger: Arc<Ledger>,
    client: Arc<AccountingClient>,
    /// The records that the service will never take.
    refused: RefusedRecords,
}

/// Records that are made within this time are sent together; the first after a pause is sent at once.
const WINDOW: Duration = Duration::from_millis(100);

/// How often allowances are asked for while there are no records.
const IDLE: Duration = Duration::from_millis(250);

/// How often refusals are told of.
const REPORT: Duration = Duration::from_secs(2);

/// How often a service that does not take that is asked whether it does by now.
const ASK: Duration = Duration::from_hours(1);

/// How often the sender looks for outboxes of gateways that have ended.
const ADOPT: Duration = Duration::from_secs(5);

impl Sender {
    /// A sender of `ledger` by `client`. It sets refused records aside in the ledger's `directory`.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, client: Arc<AccountingClient>, directory: &std::path::Path) -> Self {
        Self { ledger, client, refused: RefusedRecords::new(directory) }
    }

    /// Sends records, and beside them what was refused, for as long as the process runs.
    pub async fn run(&self) {
        tokio::join!(self.send_records(), self.send_refusals());
    }

    /// Tells of refusals every few seconds, where the service takes that.
    async fn send_refusals(&self) {
        let (mut unsent, mut asked): (_, Option<MonotonicTime>) = (None, None);
        loop {
            tokio::time::sleep(REPORT).await;
            let Some(report) = unsent.take().or_else(|| self.ledger.refusal_report()) else { continue };
            let is_long_ago = asked.is_none_or(|last| MonotonicTime::now().saturating_since(last) >= ASK);
            if !self.client.takes_refusals() && is_long_ago {
                asked = Some(MonotonicTime::now());
                if let Err(error) = self.client.ask_what_it_takes().await {
                    asked = None;
                    tracing::debug!("the accounting service does not say what it takes: {error}");
                }
            }
            if !self.client.takes_refusals() {
                unsent = Some(report);
            } else if let Err(error) = self.client.report_refusals(&report).await {
                tracing::debug!("refusals are told of later: {error}");
                unsent = Some(report);
            }
        }
    }

    async fn send_records(&self) {
        let mut backlog = Backlog::new(self.ledger.clone());
        let mut adopted: Option<MonotonicTime> = None;
        let mut witness = Witness::default();
        loop {
            if adopted.is_none_or(|last| MonotonicTime::now().saturating_since(last) >= ADOPT) {
                backlog.adopt().await;
                adopted = Some(MonotonicTime::now());
            }
            let start = MonotonicTime::now();
            match backlog.next() {
                Ok(Some((owner, batch))) => {
                    let is_last = batch.payloads.len() < MOST;
                    self.show(oldest(&batch));
                    let delivery = Delivery::new(owner, batch, &mut backlog, &mut witness);
                    delivery.complete(&self.ledger, &self.client, &self.refused).await;
                    if is_last && !backlog.has_orphans() {
                        tokio::time::sleep(WINDOW.saturating_sub(MonotonicTime::now().saturating_since(start))).await;
                    }
                }
                Ok(None) => self.idle().await,
                Err(error) => {
                    tracing::error!("cannot read the ledger's outbox: {error}");
                    tokio::time::sleep(ADOPT).await;
                }
            }
        }
    }

    async fn idle(&self) {
        self.show(None);
        if let Err(error) = self.client.deliver(&[]).await {
            tracing::debug!("no allowances: {error}");
        }
        tokio::select! {
            () = self.ledger.outbox.appended() => {}
            () = tokio::time::sleep(IDLE) => {}
        }
    }

    fn show(&self, oldest: Option<Timestamp>) {
        self.ledger.metrics.ledger_waits(self.ledger.waiting(), oldest, Timestamp::now());
    }
}
