//! The journals of other processes: of those that have ended, which this process takes over, and of one that still runs, as the
//! one before an upgrade does while it ends its requests. What that one writes is read as it comes.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use keymeter_core::record::Session;

use super::{KIND, snapshot::Included};
use crate::journal::{Claimed, Position, Reader, segment};

/// Those that were found.
#[derive(Default)]
pub struct Others(BTreeMap<Session, Other>);

struct Other {
    reader: Reader,
    /// Its directory, once its process has ended and all of its journal is read.
    ended: Option<Claimed>,
    /// Whether reading it failed the last time.
    is_failing: bool,
}

impl Others {
    /// Reads what others have written since the last time; what is `included` in the snapshot was read there. Takes over those
    /// who have ended.
    ///
    /// # Errors
    /// When `root` cannot be read. A journal that cannot is logged, and tried again the next time.
    pub fn poll(
        &mut self,
        root: &Path,
        own: &Session,
        included: &Included,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let found: BTreeMap<_, _> = Claimed::all(root)?.into_iter().filter(|(session, _)| session != own).collect();
        self.0.retain(|session, _| found.contains_key(session));
        for (session, path) in found {
            let after = included.get(&session).map_or(0, |last| last + 1);
            let other = self.0.entry(session).or_insert_with(|| Other::new(path.clone(), after));
            let read = other.poll(&path, &mut each);
            if let Err(error) = &read
                && !other.is_failing
            {
                tracing::error!("cannot read what was used of quotas in {}: {error}; trying again", path.display());
            }
            other.is_failing = read.is_err();
        }
        Ok(())
    }

    /// Whether none of them runs.
    pub fn have_ended(&self) -> bool {
        self.0.values().all(|other| other.ended.is_some())
    }

    /// Those that have ended.
    pub fn ended(&self) -> impl Iterator<Item = (&Session, &Claimed)> {
        self.0.iter().filter_map(|(session, other)| Some((session, other.ended.as_ref()?)))
    }

    /// How many segments those take that have ended.
    pub fn segments(&self) -> usize {
        self.ended().map(|(_, claimed)| segment::numbers(claimed.path()).map_or(0, |numbers| numbers.len())).sum()
    }

    /// Deletes the directory of one whose journal is in the snapshot.
    pub fn remove(&mut self, session: &Session) {
        if let Some(claimed) = self.0.remove(session).and_then(|other| other.ended) {
            claimed.remove();
        }
    }
}

impl Other {
    fn new(path: PathBuf, after: u64) -> Self {
        Self { reader: Reader::new(path, KIND.magic, Position::start_of(after)), ended: None, is_failing: false }
    }

    fn poll(&mut self, path: &Path, each: impl FnMut(&[u8])) -> io::Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        let Some(claimed) = Claimed::take_over(path.to_owned())? else {
            return match self.reader.follow(each) {
                // It ended with nothing to leave behind.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                read => read,
            };
        };
        // From here on nobody writes to it.
        self.reader.read_to(self.reader.end()?, each)?;
        for damaged in self.reader.damaged() {
            tracing::warn!("{} has data behind its last whole frame: it is skipped", damaged.display());
        }
        self.ended = Some(claimed);
        Ok(())
    }
}
