//! Records on disk until the accounting service has acknowledged them, in a journal.

mod files;
mod orphan;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use keymeter_core::record::{Record, Session};
use thiserror::Error;

use self::files::Files;
pub use self::{files::Batch, orphan::Orphan};
pub use crate::journal::AppendError as OutboxError;
use crate::journal::{Claimed, Journal, Kind};

/// The outbox of this process: its own directory within the ledger's.
pub struct Outbox {
    journal: Arc<Journal>,
    acknowledged: Arc<AtomicU64>,
    root: PathBuf,
}

const KIND: Kind = Kind { magic: *b"kmspool\x01", name: "the ledger's outbox", thread: "ledger-outbox" };

impl Outbox {
    /// Opens the outbox of the process with `session` in `root`, which is created if it does not exist.
    ///
    /// # Errors
    /// When the directory cannot be created. A full disk is no error: the outbox has no room then.
    pub fn open(root: &Path, session: &Session) -> Result<Self, OpenError> {
        let journal = Claimed::new(root, session).and_then(|claimed| Journal::open(claimed, &KIND));
        let journal = journal.map_err(|error| OpenError { directory: root.to_owned(), error })?;
        Ok(Self { journal: Arc::new(journal), acknowledged: Arc::default(), root: root.to_owned() })
    }

    /// Writes a record with one system call, without waiting for the disk. From then on it survives the process.
    ///
    /// # Errors
    /// When it could not be written. Then the end of its response must not be passed on.
    pub fn append(&self, record: &Record) -> Result<(), OutboxError> {
        self.journal.append(&record.to_json())
    }

    /// Whether there is room for the records of all running requests, and for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.journal.has_room()
    }

    /// Records that are on disk and not acknowledged.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.journal.written().saturating_sub(self.acknowledged.load(Ordering::Relaxed))
    }

    /// Waits until a record was appended since the last call.
    pub async fn appended(&self) {
        self.journal.appended().await;
    }

    /// A reader of this outbox's records, from the first one on. There must be only one.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let files = Files::new(self.journal.directory().to_owned(), self.root.clone());
        Reader { journal: self.journal.clone(), acknowledged: self.acknowledged.clone(), files }
    }

    /// Takes over the outboxes of processes that have ended.
    ///
    /// # Errors
    /// When the ledger's directory cannot be read.
    pub fn adopt(&self) -> io::Result<Vec<Orphan>> {
        orphan::adopt(&self.root)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        match (self.journal.close(), self.pending()) {
            (0, 0) => self.journal.remove(),
            (0, _) => {}
            (lost, _) => tracing::error!("{lost} records could not be written to the ledger and are lost"),
        }
    }
}

/// Reads what this process appends.
pub struct Reader {
    journal: Arc<Journal>,
    acknowledged: Arc<AtomicU64>,
    files: Files,
}

impl Reader {
    /// The next records, `most` at most, in the order in which they were written; none if there are no more for now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn next(&mut self, most: usize) -> io::Result<Batch> {
        self.journal.end().map_or_else(|| Ok(Batch::default()), |end| self.files.next(end, most))
    }

    /// Marks the records of `batch` as taken: they are no longer kept.
    ///
    /// # Errors
    /// When the mark cannot be written. The records may come again after a restart then.
    pub fn acknowledge(&mut self, batch: &Batch) -> io::Result<()> {
        let count = u64::try_from(batch.payloads.len()).unwrap_or(u64::MAX);
        self.acknowledged.fetch_add(count, Ordering::Relaxed);
        self.files.acknowledge(batch)
    }
}

/// Why an outbox cannot be opened.
#[derive(Debug, Error)]
#[error("cannot keep the ledger in {}: {error}; `ledger.directory` must be writable", .directory.display())]
pub struct OpenError {
    directory: PathBuf,
    error: io::Error,
}

#[cfg(test)]
mod tests;
