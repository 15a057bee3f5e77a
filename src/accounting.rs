//! Usage records: one for each request. A record is on disk before the client sees the end of the response, and is sent
//! to the accounting service until the service acknowledges it.

mod backlog;
mod client;
mod delivery;
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

use jiff::Timestamp;
use keymeter_core::{
    key::KeyId,
    limit::Scope,
    record::{Record, Session},
    refusals::{RefusalReport, RefusalSums},
    rejection::Refused,
};
use parking_lot::Mutex;
use thiserror::Error;

pub use self::{
    client::AccountingClient,
    outbox::{OpenError, Outbox, OutboxError},
    sender::Sender,
};
use crate::{
    drain::drain,
    observe::metrics::{LedgerRecord, Metrics},
};

/// The ledger: the records of this process, and of those before it that were killed.
pub struct Ledger {
    session: Session,
    outbox: Outbox,
    metrics: Arc<Metrics>,
    /// The number of records of ended processes that this one sends.
    adopted: AtomicU64,
    /// What was refused, beside the records: it is on no disk, and holds up none of them.
    refusals: Mutex<RefusalSums>,
}

impl Ledger {
    /// Opens the ledger in `directory`, with a new session.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(directory: &Path, metrics: Arc<Metrics>) -> Result<Self, LedgerError> {
        let session = Session::generate()?;
        let outbox = Outbox::open(directory, &session)?;
        metrics.ledger_opened();
        Ok(Self { session, outbox, metrics, adopted: AtomicU64::new(0), refusals: Mutex::default() })
    }

    /// The id of this run of the gateway.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether a new request may be admitted: there is room for its record.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.outbox.has_room()
    }

    /// Writes a record, before the end of its response is passed on.
    ///
    /// # Errors
    /// When it could not be written. Then the end must not be passed on.
    pub fn append(&self, record: Record) -> Result<(), OutboxError> {
        let written = self.outbox.append(&record.bounded());
        match &written {
            Ok(()) => self.metrics.ledger_record(LedgerRecord::Spooled, 1),
            Err(error @ OutboxError::Held(_)) => {
                self.metrics.ledger_record(LedgerRecord::Held, 1);
                tracing::debug!("{error}");
            }
            Err(error) => {
                self.metrics.ledger_record(LedgerRecord::Lost, 1);
                tracing::error!("{error}");
            }
        }
        written
    }

    /// Notes that a request of a known key was refused, for whoever looks at the key.
    pub fn note_refusal(&self, key: &KeyId, reason: Refused, scope: Scope, now: Timestamp) {
        self.refusals.lock().note(key, reason, scope, now);
    }

    /// What was refused and is in no report yet.
    fn refusal_report(&self) -> Option<RefusalReport> {
        self.refusals.lock().take()
    }

    /// The number of records on disk that are not acknowledged, those of ended processes included.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.outbox.pending().saturating_add(self.adopted.load(Ordering::Relaxed))
    }

    /// Waits until all records of this process are sent, for `limit` at most.
    pub async fn drain(&self, limit: Duration) {
        // The next process sends the rest.
        drain(limit, || self.outbox.pending() == 0).await;
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
