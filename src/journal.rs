//! Journals: frames on disk that one process appends, and that it or another reads. An appended frame survives the process
//! at once, and the machine within a second. Room is allocated beforehand, so that what running requests have to write can be
//! written when the disk fills. What belongs in a frame is for whoever keeps the journal to say.

mod claimed;
pub mod frame;
mod reader;
pub mod segment;
mod writer;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::Notify;

pub use self::{
    claimed::Claimed,
    reader::{Reader, read_frames},
    segment::{Magic, Position},
};
use self::{
    frame::{LONGEST, framed},
    segment::Segment,
    writer::Writer,
};

/// What a journal is for.
#[derive(Debug)]
pub struct Kind {
    /// The first bytes of its segments.
    pub magic: Magic,
    /// What the log calls it, such as "the ledger's outbox".
    pub name: &'static str,
    /// The name of the thread that looks after it, 15 bytes at most.
    pub thread: &'static str,
}

/// The journal of this process, in a directory of its own.
pub struct Journal {
    shared: Arc<Shared>,
    upkeep: Mutex<Option<JoinHandle<()>>>,
}

/// What requests and the upkeep thread share.
struct Shared {
    kind: &'static Kind,
    claimed: Claimed,
    writer: Mutex<Writer>,
    has_room: AtomicBool,
    written: AtomicU64,
    appended: Notify,
    is_closed: AtomicBool,
}

/// How often room is allocated and checked, and written frames are synced to the disk.
const UPKEEP: Duration = Duration::from_millis(200);

impl Journal {
    /// A new journal in a directory that has none.
    ///
    /// # Errors
    /// When the directory cannot be used. A full disk is no error: the journal has no room then.
    pub fn open(claimed: Claimed, kind: &'static Kind) -> io::Result<Self> {
        let writer = Mutex::new(Writer::new(claimed.path(), kind.magic)?);
        let shared = Arc::new(Shared {
            kind,
            claimed,
            writer,
            has_room: AtomicBool::new(true),
            written: AtomicU64::new(0),
            appended: Notify::new(),
            is_closed: AtomicBool::new(false),
        });
        shared.maintain();
        let theirs = shared.clone();
        let upkeep = thread::Builder::new().name(kind.thread.to_owned()).spawn(move || theirs.run())?;
        Ok(Self { shared, upkeep: Mutex::new(Some(upkeep)) })
    }

    /// Writes a payload with one system call, without waiting for the disk. From then on it survives the process.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn append(&self, payload: &[u8]) -> Result<(), AppendError> {
        let Some(frame) = framed(payload) else { return Err(AppendError::TooLong) };
        let written = {
            let mut writer = self.shared.writer.lock();
            let written = writer.append(frame);
            // A reader finds it counted.
            self.shared.written.fetch_add(u64::from(written.is_ok()), Ordering::Relaxed);
            written
        };
        match &written {
            Ok(()) => self.shared.appended.notify_one(),
            Err(_) => self.shared.set_has_room(false),
        }
        written
    }

    /// Whether there is room for what all running requests append, and for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.shared.has_room.load(Ordering::Acquire)
    }

    /// The number of frames that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// The end of what was written; `None` before the disk had room for a segment.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        self.shared.writer.lock().end()
    }

    /// Waits until a frame was written since the last call.
    pub async fn appended(&self) {
        self.shared.appended.notified().await;
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.shared.claimed.path()
    }

    /// Ends the upkeep. Says how many frames could never be written and are lost.
    pub fn close(&self) -> usize {
        self.shared.is_closed.store(true, Ordering::Release);
        if let Some(upkeep) = self.upkeep.lock().take() {
            upkeep.thread().unpark();
            // A panic of the thread was logged already.
            let _ = upkeep.join();
        }
        self.shared.writer.lock().held()
    }

    /// Turns to the next segment, as if the current one were full.
    #[cfg(test)]
    pub(crate) fn turn_over(&self) {
        self.shared.writer.lock().turn_over().unwrap();
    }

    /// Deletes the directory, once nothing in it is needed any more.
    pub fn remove(&self) {
        self.shared.claimed.remove();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn run(&self) {
        while !self.is_closed.load(Ordering::Acquire) {
            thread::park_timeout(UPKEEP);
            self.maintain();
        }
    }

    /// Writes held frames, allocates room, and syncs written frames to the disk.
    fn maintain(&self) {
        self.write_held();
        // Syncing may take long: requests need the next segment meanwhile.
        self.make_spare();
        let dirty = self.writer.lock().take_dirty();
        for file in dirty {
            if let Err(error) = file.sync_data() {
                tracing::error!("cannot sync {} to the disk: {error}", self.kind.name);
                self.writer.lock().sync_again(file);
            }
        }
        // Requests may have used up the spare segment, which says nothing about the disk.
        let has_spare = self.make_spare();
        let has_room = has_spare && self.writer.lock().is_written() && segment::has_space_for_one(self.claimed.path());
        self.set_has_room(has_room);
    }

    fn write_held(&self) {
        let mut writer = self.writer.lock();
        let written = writer.write_held();
        self.written.fetch_add(written, Ordering::Relaxed);
        if written > 0 {
            self.appended.notify_one();
        }
    }

    /// Creates the next segments without blocking requests. Returns whether there is room for one.
    fn make_spare(&self) -> bool {
        loop {
            let Some(number) = self.writer.lock().take_spare_number() else { return true };
            match Segment::create(self.claimed.path(), number, self.kind.magic) {
                Ok(spare) => self.writer.lock().put_spare(spare),
                Err(error) => {
                    tracing::debug!("cannot create the next segment of {}: {error}", self.kind.name);
                    return false;
                }
            }
        }
    }

    fn set_has_room(&self, has_room: bool) {
        if self.has_room.swap(has_room, Ordering::AcqRel) != has_room {
            let (name, path) = (self.kind.name, self.claimed.path().display());
            if has_room {
                tracing::info!("{name} in {path} has room again");
            } else {
                tracing::error!("{name} in {path} has no room: requests are refused until it has");
            }
        }
    }
}

/// Why a record is not on disk.
#[derive(Debug, Error)]
pub enum AppendError {
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
