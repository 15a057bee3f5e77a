//! Records on disk until the accounting service has acknowledged them. An appended record survives the process at once,
//! and the machine within a second. Room is allocated beforehand, so that the records of running requests can be written
//! when the disk fills.

mod directory;
mod journal;
mod reader;
mod segment;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use keymeter_core::record::{Record, Session};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

use self::{directory::Claimed, journal::Journal};
pub use self::{
    directory::Orphan,
    reader::{Batch, Position},
};
use super::frame::{LONGEST, framed};

/// The outbox of this process: its own directory within the ledger's.
pub struct Outbox {
    shared: Arc<Shared>,
    upkeep: Option<JoinHandle<()>>,
    root: PathBuf,
}

/// What requests and the upkeep thread share.
struct Shared {
    claimed: Claimed,
    journal: Mutex<Journal>,
    has_room: AtomicBool,
    /// Records that are on disk and not acknowledged.
    pending: AtomicU64,
    appended: Notify,
    is_closed: AtomicBool,
}

/// How often room is allocated and checked, and written records are synced to the disk.
const UPKEEP: Duration = Duration::from_millis(200);

impl Outbox {
    /// Opens the outbox of the process with `session` in `root`, which is created if it does not exist.
    ///
    /// # Errors
    /// When the directory cannot be created. A full disk is no error: the outbox has no room then.
    pub fn open(root: &Path, session: &Session) -> Result<Self, OpenError> {
        let error = |error| OpenError { directory: root.to_owned(), error };
        let claimed = Claimed::new(root, session).map_err(error)?;
        let journal = Mutex::new(Journal::new(&claimed.path).map_err(error)?);
        let shared = Arc::new(Shared {
            claimed,
            journal,
            has_room: AtomicBool::new(true),
            pending: AtomicU64::new(0),
            appended: Notify::new(),
            is_closed: AtomicBool::new(false),
        });
        shared.maintain();
        let theirs = shared.clone();
        let upkeep = thread::Builder::new().name("ledger-outbox".to_owned()).spawn(move || theirs.run());
        let upkeep = Some(upkeep.map_err(error)?);
        Ok(Self { shared, upkeep, root: root.to_owned() })
    }

    /// Writes a record with one system call, without waiting for the disk. From then on it survives the process.
    ///
    /// # Errors
    /// When it could not be written. Then the end of its response must not be passed on.
    pub fn append(&self, record: &Record) -> Result<(), OutboxError> {
        let Some(frame) = framed(&record.to_json()) else { return Err(OutboxError::TooLong) };
        let written = {
            let mut journal = self.shared.journal.lock();
            let written = journal.append(frame);
            // A reader finds it counted.
            self.shared.pending.fetch_add(u64::from(written.is_ok()), Ordering::Relaxed);
            written
        };
        match &written {
            Ok(()) => self.shared.appended.notify_one(),
            Err(_) => self.shared.set_has_room(false),
        }
        written
    }

    /// Whether there is room for the records of all running requests, and for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.has_room.load(Ordering::Acquire)
    }

    /// Records that are on disk and not acknowledged.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.shared.pending.load(Ordering::Relaxed)
    }

    /// Waits until a record was appended since the last call.
    pub async fn appended(&self) {
        self.shared.appended.notified().await;
    }

    /// A reader of this outbox's records, from the first one on. There must be only one.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let files = reader::Files::new(self.shared.claimed.path.clone(), self.root.clone());
        Reader { shared: self.shared.clone(), files }
    }

    /// Takes over the outboxes of processes that have ended.
    ///
    /// # Errors
    /// When the ledger's directory cannot be read.
    pub fn adopt(&self) -> io::Result<Vec<Orphan>> {
        directory::adopt(&self.root)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
        if let Some(upkeep) = self.upkeep.take() {
            upkeep.thread().unpark();
            // A panic of the thread was logged already.
            let _ = upkeep.join();
        }
        match (self.shared.pending.load(Ordering::Acquire), self.shared.journal.lock().held()) {
            (0, 0) => self.shared.claimed.remove(),
            (_, 0) => {}
            (_, lost) => tracing::error!("{lost} records could not be written to the ledger and are lost"),
        }
    }
}

impl Shared {
    fn run(&self) {
        while !self.is_closed.load(Ordering::Acquire) {
            thread::park_timeout(UPKEEP);
            self.maintain();
        }
    }

    /// Writes held records, allocates room, and syncs written records to the disk.
    fn maintain(&self) {
        self.write_held();
        // Syncing may take long: requests need the next segment meanwhile.
        self.make_spare();
        let dirty = self.journal.lock().take_dirty();
        for file in dirty {
            if let Err(error) = file.sync_data() {
                tracing::error!("cannot sync the ledger's outbox to the disk: {error}");
                self.journal.lock().sync_again(file);
            }
        }
        // Requests may have used up the spare segment, which says nothing about the disk.
        let has_spare = self.make_spare();
        let has_room = has_spare && self.journal.lock().is_written() && segment::has_space_for_one(&self.claimed.path);
        self.set_has_room(has_room);
    }

    fn write_held(&self) {
        let mut journal = self.journal.lock();
        let written = journal.write_held();
        self.pending.fetch_add(written, Ordering::Relaxed);
        if written > 0 {
            self.appended.notify_one();
        }
    }

    /// Creates the next segments without blocking requests. Returns whether there is room for one.
    fn make_spare(&self) -> bool {
        loop {
            let Some(number) = self.journal.lock().take_spare_number() else { return true };
            match segment::Segment::create(&self.claimed.path, number) {
                Ok(spare) => self.journal.lock().put_spare(spare),
                Err(error) => {
                    tracing::debug!("cannot create the next segment of the ledger's outbox: {error}");
                    return false;
                }
            }
        }
    }

    fn set_has_room(&self, has_room: bool) {
        if self.has_room.swap(has_room, Ordering::AcqRel) != has_room {
            let path = self.claimed.path.display();
            if has_room {
                tracing::info!("the ledger's outbox in {path} has room again");
            } else {
                tracing::error!("the ledger's outbox in {path} has no room: requests are refused until it has");
            }
        }
    }
}

/// Reads what this process appends.
pub struct Reader {
    shared: Arc<Shared>,
    files: reader::Files,
}

impl Reader {
    /// The next records, `most` at most, in the order in which they were written; none if there are no more for now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn next(&mut self, most: usize) -> io::Result<Batch> {
        let end = self.shared.journal.lock().end();
        end.map_or_else(|| Ok(Batch::default()), |end| self.files.next(end, most))
    }

    /// Marks the records of `batch` as taken: they are no longer kept.
    ///
    /// # Errors
    /// When the mark cannot be written. The records may come again after a restart then.
    pub fn acknowledge(&mut self, batch: &Batch) -> io::Result<()> {
        let count = u64::try_from(batch.payloads.len()).unwrap_or(u64::MAX);
        self.shared.pending.fetch_sub(count, Ordering::Relaxed);
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

/// Why a record is not on disk.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// It could not be written now. It is held in memory, and written as soon as possible.
    #[error("a record waits in memory because it cannot be written: {0}")]
    Held(io::Error),
    /// It could not be written, and the memory for held records is full.
    #[error("a record is lost because it cannot be written: {0}")]
    Lost(io::Error),
    /// It is longer than any record can be.
    #[error("a record is lost because it has more than {LONGEST} bytes")]
    TooLong,
}

#[cfg(test)]
mod tests;
