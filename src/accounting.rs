//! The ledger's side of the gateway: one record a request, on disk before the client sees the response's end, sent on
//! until the other side has it for good.

mod backlog;
mod client;
mod delivery;
pub mod frame;
pub mod outbox;
mod refused;
pub mod sender;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keymeter_core::record::{Record, Session};
use thiserror::Error;

pub use self::{
    client::AccountingClient,
    outbox::{OpenError, Outbox, OutboxError},
    sender::Sender,
};
use crate::observe::metrics::{LedgerRecord, Metrics};

/// The records of this process, and of those before it that were killed.
pub struct Ledger {
    session: Session,
    spool: Outbox,
    metrics: Arc<Metrics>,
    /// Records of processes that are gone, which this one sends on.
    adopted: AtomicU64,
}

impl Ledger {
    /// Opens the ledger in `directory`, under a session of its own.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(directory: &Path, metrics: Arc<Metrics>) -> Result<Self, LedgerError> {
        let session = Session::generate()?;
        let spool = Outbox::open(directory, &session)?;
        metrics.ledger_opened();
        Ok(Self { session, spool, metrics, adopted: AtomicU64::new(0) })
    }

    /// What tells this run of the gateway from all others.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether new work may be taken on: its record will find room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.spool.has_room()
    }

    /// Writes a record down, before the end of its response is passed on.
    ///
    /// # Errors
    /// When it could not be written. Then that end must not be passed on.
    pub fn append(&self, record: Record) -> Result<(), OutboxError> {
        let written = self.spool.append(&record.bounded());
        match &written {
            Ok(()) => self.metrics.ledger_record(LedgerRecord::Spooled, 1),
            Err(fault @ OutboxError::Held(_)) => {
                self.metrics.ledger_record(LedgerRecord::Held, 1);
                tracing::debug!("{fault}");
            }
            Err(fault) => {
                self.metrics.ledger_record(LedgerRecord::Lost, 1);
                tracing::error!("{fault}");
            }
        }
        written
    }

    /// Records that are on disk and not acknowledged, those of processes that are gone included.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.spool.spooled().saturating_add(self.adopted.load(Ordering::Relaxed))
    }

    /// Waits until nothing of this process is left to send, `limit` at most.
    pub async fn sent(&self, limit: Duration) {
        let sent = async {
            while self.spool.spooled() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // What is left then is sent by the next process.
        let _ = tokio::time::timeout(limit, sent).await;
    }
}

/// Why the ledger cannot be opened.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The operating system gives no randomness.
    #[error("cannot generate the gateway's session id: {0}")]
    Random(#[from] getrandom::Error),
    /// The directory cannot be used.
    #[error(transparent)]
    Outbox(#[from] OpenError),
}
