//! Whose a spool is. Each process has a directory and holds its lock as long as it lives; whoever finds one that nobody
//! holds takes it over.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use keymeter_core::record::Session;

use super::reader::{Batch, Files, Position};

/// A directory whose lock we hold.
pub(super) struct Claimed {
    pub path: PathBuf,
    _lock: File,
}

const LOCK: &str = "lock";

impl Claimed {
    /// A new directory in `root`. It gets its name only when its lock is held, so that nobody takes it for an orphan.
    pub(super) fn new(root: &Path, session: &Session) -> io::Result<Self> {
        let (path, unnamed) = (root.join(session.to_string()), root.join(format!(".{session}.new")));
        fs::create_dir_all(&unnamed)?;
        let lock = File::create(unnamed.join(LOCK))?;
        lock.try_lock()?;
        fs::rename(&unnamed, &path)?;
        File::open(root)?.sync_all()?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory at `path`; `None`: somebody holds it, or it is gone.
    fn take_over(path: PathBuf) -> io::Result<Option<Self>> {
        let lock = match File::options().write(true).open(path.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            lock => lock?,
        };
        match lock.try_lock() {
            // Its holder may have removed it between the two calls.
            Ok(()) => Ok(path.join(LOCK).exists().then_some(Self { path, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove the empty spool in {}: {error}", self.path.display());
        }
    }
}

/// The spool of a process that is gone.
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

    /// Its records that were not acknowledged when it was taken over.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next records, `most` at most, in the order in which they were written; none: there are no more.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn next(&mut self, most: usize) -> io::Result<Batch> {
        self.files.next(self.end, most)
    }

    /// The records of `batch` are where they should be: they need not be kept.
    ///
    /// # Errors
    /// When that cannot be written down. They may come again after a restart then.
    pub fn acknowledge(&mut self, batch: &Batch) -> io::Result<()> {
        self.files.acknowledge(batch)
    }

    /// All its records are acknowledged: lets go of it.
    pub fn close(mut self) {
        self.files.let_go(u64::MAX);
        self.claimed.remove();
    }
}

/// The spools in `root` whose processes are gone.
pub(super) fn adopt(root: &Path) -> io::Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let is_spool =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<Session>().is_ok());
        if !is_spool {
            continue;
        }
        match take_over(path.clone(), root) {
            Ok(orphan) => orphans.extend(orphan),
            // It must not keep the others back.
            Err(error) => tracing::warn!("cannot take over the spool in {}: {error}", path.display()),
        }
    }
    Ok(orphans)
}

fn take_over(path: PathBuf, root: &Path) -> io::Result<Option<Orphan>> {
    Claimed::take_over(path)?.map(|claimed| Orphan::new(claimed, root)).transpose()
}
