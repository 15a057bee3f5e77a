//! Records on disk until the other side has them for good. A record that is appended survives the process at once, and
//! the machine within a second; room is taken beforehand, so that what runs when the disk fills can still be written.

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

/// The spool of this process: a directory of its own within the ledger's.
pub struct Outbox {
    shared: Arc<Shared>,
    upkeep: Option<JoinHandle<()>>,
    root: PathBuf,
}

/// What requests and the upkeep share.
struct Shared {
    claimed: Claimed,
    journal: Mutex<Journal>,
    has_room: AtomicBool,
    /// Records that are on disk and not acknowledged.
    spooled: AtomicU64,
    appended: Notify,
    is_closed: AtomicBool,
}

/// How often room is made, looked for, and what was written is put on the disk itself.
const UPKEEP: Duration = Duration::from_millis(200);

impl Outbox {
    /// Opens the spool of the process that goes by `session` in `root`, which is made if it is not there.
    ///
    /// # Errors
    /// When there can be no such directory. A full disk is none: the spool has no room then.
    pub fn open(root: &Path, session: &Session) -> Result<Self, OpenError> {
        let fault = |error| OpenError { directory: root.to_owned(), error };
        let claimed = Claimed::new(root, session).map_err(fault)?;
        let journal = Mutex::new(Journal::new(&claimed.path).map_err(fault)?);
        let shared = Arc::new(Shared {
            claimed,
            journal,
            has_room: AtomicBool::new(true),
            spooled: AtomicU64::new(0),
            appended: Notify::new(),
            is_closed: AtomicBool::new(false),
        });
        shared.look_after();
        let theirs = shared.clone();
        let upkeep = thread::Builder::new().name("ledger-spool".to_owned()).spawn(move || theirs.run());
        let upkeep = Some(upkeep.map_err(fault)?);
        Ok(Self { shared, upkeep, root: root.to_owned() })
    }

    /// Writes a record, in one call of the system and without waiting for the disk: from here on it survives the
    /// process.
    ///
    /// # Errors
    /// When it could not be written. Then the end of its response must not be passed on.
    pub fn append(&self, record: &Record) -> Result<(), OutboxError> {
        let Some(frame) = framed(&record.to_json()) else { return Err(OutboxError::TooLong) };
        let written = {
            let mut journal = self.shared.journal.lock();
            let written = journal.append(frame);
            // Whoever reads it finds it counted.
            self.shared.spooled.fetch_add(u64::from(written.is_ok()), Ordering::Relaxed);
            written
        };
        match &written {
            Ok(()) => self.shared.appended.notify_one(),
            Err(_) => self.shared.turn(false),
        }
        written
    }

    /// Whether new work may be taken on: there is room for the records of all that runs, and for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.has_room.load(Ordering::Acquire)
    }

    /// Records that are on disk and not acknowledged.
    #[must_use]
    pub fn spooled(&self) -> u64 {
        self.shared.spooled.load(Ordering::Relaxed)
    }

    /// Comes back when something was appended since it last did.
    pub async fn appended(&self) {
        self.shared.appended.notified().await;
    }

    /// What reads this spool's records, from the first one on. There is to be one.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let files = reader::Files::new(self.shared.claimed.path.clone(), self.root.clone());
        Reader { shared: self.shared.clone(), files }
    }

    /// The spools of processes that are gone. They are this process's from here on.
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
            // It ends by itself; what it may have panicked over it has said already.
            let _ = upkeep.join();
        }
        match (self.shared.spooled.load(Ordering::Acquire), self.shared.journal.lock().held()) {
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
            self.look_after();
        }
    }

    /// Writes what was held, makes room, and puts on the disk what was written.
    fn look_after(&self) {
        self.write_held();
        // A disk may take its time: requests are to find the next segment meanwhile.
        self.make_spare();
        let dirty = self.journal.lock().take_dirty();
        for file in dirty {
            if let Err(error) = file.sync_data() {
                tracing::error!("the ledger's spool cannot be put on the disk: {error}");
                self.journal.lock().sync_again(file);
            }
        }
        // They may have used it up, which says nothing of the disk.
        let has_spare = self.make_spare();
        let has_room = has_spare && self.journal.lock().is_written() && segment::has_space_for_one(&self.claimed.path);
        self.turn(has_room);
    }

    fn write_held(&self) {
        let mut journal = self.journal.lock();
        let written = journal.write_held();
        self.spooled.fetch_add(written, Ordering::Relaxed);
        if written > 0 {
            self.appended.notify_one();
        }
    }

    /// Makes the next segments, without holding requests up. Says whether there is room for one.
    fn make_spare(&self) -> bool {
        loop {
            let Some(number) = self.journal.lock().lacks_spare() else { return true };
            match segment::Segment::create(&self.claimed.path, number) {
                Ok(spare) => self.journal.lock().put_spare(spare),
                Err(error) => {
                    tracing::debug!("the ledger's spool has no spare segment: {error}");
                    return false;
                }
            }
        }
    }

    fn turn(&self, has_room: bool) {
        if self.has_room.swap(has_room, Ordering::AcqRel) != has_room {
            let path = self.claimed.path.display();
            if has_room {
                tracing::info!("the ledger's spool in {path} has room");
            } else {
                tracing::error!("the ledger's spool in {path} has no room: requests are refused until it has");
            }
        }
    }
}

/// Reads what the process itself appends.
pub struct Reader {
    shared: Arc<Shared>,
    files: reader::Files,
}

impl Reader {
    /// The next records, `most` at most, in the order in which they were written; none: there are no more for now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn next(&mut self, most: usize) -> io::Result<Batch> {
        let end = self.shared.journal.lock().end();
        end.map_or_else(|| Ok(Batch::default()), |end| self.files.next(end, most))
    }

    /// The records of `batch` are where they should be: they need not be kept.
    ///
    /// # Errors
    /// When that cannot be written down. They may come again after a restart then.
    pub fn acknowledge(&mut self, batch: &Batch) -> io::Result<()> {
        let count = u64::try_from(batch.payloads.len()).unwrap_or(u64::MAX);
        self.shared.spooled.fetch_sub(count, Ordering::Relaxed);
        self.files.acknowledge(batch)
    }
}

/// Why there is no spool.
#[derive(Debug, Error)]
#[error("cannot keep the ledger in {}: {error}; `ledger.directory` must be writable", .directory.display())]
pub struct OpenError {
    directory: PathBuf,
    error: io::Error,
}

/// Why a record is not on disk.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// It could not be written now; it is held in memory and written as soon as that can be done.
    #[error("a record waits in memory because it cannot be written: {0}")]
    Held(io::Error),
    /// It could not be written, and there is no more memory for such.
    #[error("a record is lost because it cannot be written: {0}")]
    Lost(io::Error),
    /// It is longer than any record can be.
    #[error("a record is lost because it has more than {LONGEST} bytes")]
    TooLong,
}

#[cfg(test)]
mod tests;
