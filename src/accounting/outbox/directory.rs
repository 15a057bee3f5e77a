//! The owner of an outbox. Each process has a directory and holds its lock as long as it runs. A process that finds a
//! directory whose lock nobody holds takes it over.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use keymeter_core::record::Session;

use super::reader::{Batch, Files, Position};

/// A directory whose lock this process holds.
pub(super) struct Claimed {
    pub path: PathBuf,
    _lock: File,
}

const LOCK: &str = "lock";

impl Claimed {
    /// Creates a directory in `root`. It gets its name only once its lock is held, so that no process takes it over.
    pub(super) fn new(root: &Path, session: &Session) -> io::Result<Self> {
        let (path, unnamed) = (root.join(session.to_string()), root.join(format!(".{session}.new")));
        fs::create_dir_all(&unnamed)?;
        let lock = File::create(unnamed.join(LOCK))?;
        lock.try_lock()?;
        fs::rename(&unnamed, &path)?;
        File::open(root)?.sync_all()?;
        Ok(Self { path, _lock: lock })
    }

    /// Takes over the directory at `path`; `None` if another process holds it, or it no longer exists.
    fn take_over(path: PathBuf) -> io::Result<Option<Self>> {
        let lock = match File::options().write(true).open(path.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            lock => lock?,
        };
        match lock.try_lock() {
            // Its owner may have removed it between the two calls.
            Ok(()) => Ok(path.join(LOCK).exists().then_some(Self { path, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("cannot delete the empty outbox in {}: {error}", self.path.display());
        }
    }
}

/// The outbox of a process that has ended.
pub struct Orphan {
    claimed: Claimed,
    files: Files,
    end: Position,
    count: u64,
}

impl Orphan {
    fn new(claimed: Claimed, root: &Path) -> io::Result<Self> {
        let files = Files::new(claimed.path.clone(), root.to_owned());
        let end = files.end()?;
        let count = Files::new(claimed.path.clone(), root.to_owned()).count(end)?;
        Ok(Self { claimed, files, end, count })
    }

    /// The number of its records that were not acknowledged when it was taken over.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next records, `most` at most, in the order in which they were written; none if there are no more.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn next(&mut self, most: usize) -> io::Result<Batch> {
        self.files.next(self.end, most)
    }

    /// Marks the records of `batch` as taken: they are no longer kept.
    ///
    /// # Errors
    /// When the mark cannot be written. The records may come again after a restart then.
    pub fn acknowledge(&mut self, batch: &Batch) -> io::Result<()> {
        self.files.acknowledge(batch)
    }

    /// Deletes the outbox, all of whose records are acknowledged.
    pub fn close(mut self) {
        self.files.delete_before(u64::MAX);
        self.claimed.remove();
    }
}

/// Takes over the outboxes in `root` whose processes have ended.
pub(super) fn adopt(root: &Path) -> io::Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let is_outbox =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<Session>().is_ok());
        if !is_outbox {
            continue;
        }
        match take_over(path.clone(), root) {
            Ok(orphan) => orphans.extend(orphan),
            // One that fails does not stop the others.
            Err(error) => tracing::warn!("cannot take over the outbox in {}: {error}", path.display()),
        }
    }
    Ok(orphans)
}

fn take_over(path: PathBuf, root: &Path) -> io::Result<Option<Orphan>> {
    Claimed::take_over(path)?.map(|claimed| Orphan::new(claimed, root)).transpose()
}
