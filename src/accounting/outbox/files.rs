//! The files of an outbox, as they are read: from the first record that is not acknowledged, and acknowledged ones are deleted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::KIND;
use crate::journal::{Position, Reader, segment::FIRST};

/// Records that were read together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Each in JSON.
    pub payloads: Vec<Vec<u8>>,
    /// The position of the next ones.
    after: Option<Position>,
}

pub(super) struct Files {
    directory: PathBuf,
    /// Where damaged segments are kept.
    root: PathBuf,
    reader: Reader,
}

/// The file with the position of the first record that is not acknowledged.
const CURSOR: &str = "cursor";

impl Files {
    pub(super) fn new(directory: PathBuf, root: PathBuf) -> Self {
        let at = cursor(&directory).unwrap_or(Position::start_of(0));
        Self { reader: Reader::new(directory.clone(), KIND.magic, at), directory, root }
    }

    /// The next records before `end`, `most` at most.
    pub(super) fn next(&mut self, end: Position, most: usize) -> io::Result<Batch> {
        let mut payloads = Vec::new();
        self.reader.next(end, most, |payload| payloads.push(payload.to_vec()))?;
        Ok(Batch { after: (!payloads.is_empty()).then_some(self.reader.at()), payloads })
    }

    /// How many records there are before `end`.
    pub(super) fn count(mut self, end: Position) -> io::Result<u64> {
        let mut count = 0;
        self.reader.read_to(end, |_| count += 1)?;
        Ok(count)
    }

    /// A position behind all segments, for an outbox that no process writes to.
    pub(super) fn end(&self) -> io::Result<Position> {
        self.reader.end()
    }

    /// Stores the position after `batch`, and deletes the segments before it.
    pub(super) fn acknowledge(&mut self, batch: &Batch) -> io::Result<()> {
        let Some(after) = batch.after else { return Ok(()) };
        let text = format!("{} {}\n", after.segment, after.offset);
        let (path, new) = (self.directory.join(CURSOR), self.directory.join("cursor.new"));
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        self.delete_before(after.segment);
        written
    }

    /// Deletes the segments before `segment` that were read to their end.
    pub(super) fn delete_before(&mut self, segment: u64) {
        self.reader.delete_before(segment, &self.root);
    }
}

/// The stored position. If it is missing or invalid, everything is read again.
fn cursor(directory: &Path) -> Option<Position> {
    let text = fs::read_to_string(directory.join(CURSOR)).ok()?;
    let (segment, offset) = text.strip_suffix('\n')?.split_once(' ')?;
    Some(Position { segment: segment.parse().ok()?, offset: offset.parse().ok().filter(|offset| *offset >= FIRST)? })
}
