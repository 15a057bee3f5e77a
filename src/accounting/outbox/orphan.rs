//! The outboxes of processes that have ended.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::files::{Batch, Files};
use crate::journal::{Claimed, Position};

/// The outbox of a process that has ended.
pub struct Orphan {
    claimed: Claimed,
    files: Files,
    end: Position,
    count: u64,
}

impl Orphan {
    fn new(claimed: Claimed, root: &Path) -> io::Result<Self> {
        let files = || Files::new(claimed.path().to_owned(), root.to_owned());
        let end = files().end()?;
        let count = files().count(end)?;
        Ok(Self { files: files(), claimed, end, count })
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
    for (_, path) in Claimed::all(root)? {
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
