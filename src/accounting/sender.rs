//! Sends the spool on, batch after batch, for as long as it takes: what is acknowledged is let go of, what is refused for
//! good is set aside, and everything else is sent again.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use keymeter_core::clock::MonotonicTime;

use super::{
    AccountingClient, Ledger,
    backlog::{Backlog, MOST, oldest},
    delivery::{Delivery, Witness},
    refused::RefusedRecords,
};

/// What sends a ledger on.
pub struct Sender {
    ledger: Arc<Ledger>,
    courier: Arc<AccountingClient>,
    /// Where records go that are never taken.
    refused: RefusedRecords,
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
    pub fn new(ledger: Arc<Ledger>, courier: Arc<AccountingClient>, directory: &std::path::Path) -> Self {
        Self { ledger, courier, refused: RefusedRecords::new(directory) }
    }

    /// Sends what there is and what comes, for ever.
    pub async fn run(&self) {
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
                    delivery.complete(&self.ledger, &self.courier, &self.refused).await;
                    if is_last && !backlog.has_orphans() {
                        tokio::time::sleep(WINDOW.saturating_sub(MonotonicTime::now().saturating_since(start))).await;
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
}
