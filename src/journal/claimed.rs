//! The owner of a journal. Each process has a directory and holds its lock as long as it runs. A process that finds a
//! directory whose lock nobody holds takes it over.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use keymeter_core::record::Session;

/// A directory whose lock this process holds.
pub struct Claimed {
    path: PathBuf,
    _lock: File,
}

const LOCK: &str = "lock";

impl Claimed {
    /// Creates a directory in `root`, which is created too. It gets its name only once its lock is held, so that no process
    /// takes it over.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn new(root: &Path, session: &Session) -> io::Result<Self> {
        let (path, unnamed) = (root.join(session.to_string()), root.join(format!(".{session}.new")));
        fs::create_dir_all(&unnamed)?;
        let lock = File::create(unnamed.join(LOCK))?;
        lock.try_lock()?;
        fs::rename(&unnamed, &path)?;
        File::open(root)?.sync_all()?;
        Ok(Self { path, _lock: lock })
    }

    /// Takes over the directory at `path`; `None` if another process holds it, or it no longer exists.
    ///
    /// # Errors
    /// When the system cannot lock it.
    pub fn take_over(path: PathBuf) -> io::Result<Option<Self>> {
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

    /// Removes directories in `root` that processes left when they were killed in [`Self::new`]. None may be in it now.
    pub fn remove_unfinished(root: &Path) {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let session =
                name.to_str().and_then(|name| name.strip_prefix('.')).and_then(|name| name.strip_suffix(".new"));
            if session.is_some_and(|session| session.parse::<Session>().is_ok()) {
                // It is in nobody's way.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// The directories of processes in `root`, whoever holds them.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn all(root: &Path) -> io::Result<Vec<(Session, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let session = entry.file_name().to_str().and_then(|name| name.parse().ok());
            found.extend(session.map(|session| (session, entry.path())));
        }
        Ok(found)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes the directory.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot delete the empty journal in {}: {error}", self.path.display());
        }
    }
}
