//! The reading end of an outbox: reads records from the first that is not acknowledged, and deletes acknowledged ones.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::segment::{self, FIRST};
use crate::accounting::frame::{MAGIC, frames};

/// A position in an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Bytes from its start.
    pub offset: u64,
}

/// Records that were read together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Each in JSON.
    pub payloads: Vec<Vec<u8>>,
    /// The position of the next ones.
    after: Option<Position>,
}

/// The files of an outbox, as they are read.
pub(super) struct Files {
    directory: PathBuf,
    /// Where damaged segments are kept.
    root: PathBuf,
    at: Position,
    /// Segments that were read to their end.
    passed: Vec<Passed>,
}

struct Passed {
    number: u64,
    /// Whether unreadable data follows the last record.
    is_damaged: bool,
}

/// How much is read at once. It holds any frame.
const PIECE: usize = 512 * 1024;

/// The file with the position of the first record that is not acknowledged.
const CURSOR: &str = "cursor";

impl Files {
    pub(super) fn new(directory: PathBuf, root: PathBuf) -> Self {
        let at = cursor(&directory).unwrap_or(Position { segment: 0, offset: FIRST });
        Self { directory, root, at, passed: Vec::new() }
    }

    /// The next records before `end`, `most` at most.
    pub(super) fn next(&mut self, end: Position, most: usize) -> io::Result<Batch> {
        loop {
            let limit = if self.at.segment == end.segment { end.offset } else { u64::MAX };
            let payloads = self.read(limit, most)?;
            if !payloads.is_empty() || self.at.segment >= end.segment {
                return Ok(Batch { after: (!payloads.is_empty()).then_some(self.at), payloads });
            }
            self.advance(end.segment)?;
        }
    }

    /// How many records there are before `end`.
    pub(super) fn count(mut self, end: Position) -> io::Result<u64> {
        let mut count = 0;
        loop {
            match self.next(end, usize::MAX)?.payloads.len() {
                0 => return Ok(count),
                more => count += more as u64,
            }
        }
    }

    /// A position behind all segments, for an outbox that no process writes to.
    pub(super) fn end(&self) -> io::Result<Position> {
        let last = numbers(&self.directory)?.into_iter().max().unwrap_or(0);
        Ok(Position { segment: last.saturating_add(1), offset: FIRST })
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
        let (done, passed) = std::mem::take(&mut self.passed).into_iter().partition(|passed| passed.number < segment);
        self.passed = passed;
        let done: Vec<Passed> = done;
        for Passed { number, is_damaged } in done {
            let path = segment::path(&self.directory, number);
            let gone = if is_damaged { self.keep_damaged(number, &path) } else { fs::remove_file(&path) };
            if let Err(error) = gone {
                tracing::warn!("cannot delete {}: {error}", path.display());
            }
        }
    }

    fn keep_damaged(&self, number: u64, path: &Path) -> io::Result<()> {
        let session = self.directory.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.root.join(format!("{session}-{number}.damaged"));
        tracing::error!("{} contains data that cannot be read; it is kept as {}", path.display(), aside.display());
        fs::rename(path, aside)
    }

    /// The next records of the current segment.
    fn read(&mut self, limit: u64, most: usize) -> io::Result<Vec<Vec<u8>>> {
        let Some(file) = self.open()? else { return Ok(Vec::new()) };
        let room = usize::try_from(limit.saturating_sub(self.at.offset)).unwrap_or(usize::MAX).min(PIECE);
        let bytes = piece(&file, self.at.offset, room)?;
        let mut reader = frames(&bytes);
        let payloads = reader.by_ref().take(most).map(<[u8]>::to_vec).collect();
        self.at.offset += reader.read() as u64;
        Ok(payloads)
    }

    /// The file of the current segment, if it is one.
    fn open(&self) -> io::Result<Option<File>> {
        let file = match File::open(segment::path(&self.directory, self.at.segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        Ok(is_segment(&file)?.then_some(file))
    }

    /// Turns to the next segment.
    fn advance(&mut self, last: u64) -> io::Result<()> {
        let number = self.at.segment;
        let next = numbers(&self.directory)?.into_iter().filter(|next| (number + 1..=last).contains(next)).min();
        if segment::path(&self.directory, number).exists() {
            self.passed.push(Passed { number, is_damaged: self.has_more()? });
        }
        self.at = Position { segment: next.unwrap_or(last), offset: FIRST };
        Ok(())
    }

    /// Whether data follows the last record of the current segment.
    fn has_more(&self) -> io::Result<bool> {
        let file = File::open(segment::path(&self.directory, self.at.segment))?;
        let mut offset = if is_segment(&file)? { self.at.offset } else { 0 };
        loop {
            let bytes = piece(&file, offset, PIECE)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            offset += bytes.len() as u64;
        }
    }
}

/// Whether a file is a segment, and not one whose creation was interrupted.
fn is_segment(file: &File) -> io::Result<bool> {
    Ok(piece(file, 0, MAGIC.len())? == MAGIC)
}

/// The bytes of `file` from `offset` on, `most` at most.
fn piece(file: &File, offset: u64, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; most];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The numbers of the segments in a directory.
fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        numbers.extend(entry?.file_name().to_str().and_then(segment::number));
    }
    Ok(numbers)
}

/// The stored position. If it is missing or invalid, everything is read again.
fn cursor(directory: &Path) -> Option<Position> {
    let text = fs::read_to_string(directory.join(CURSOR)).ok()?;
    let (segment, offset) = text.strip_suffix('\n')?.split_once(' ')?;
    Some(Position { segment: segment.parse().ok()?, offset: offset.parse().ok().filter(|offset| *offset >= FIRST)? })
}
