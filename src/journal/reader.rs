//! The reading end of a journal, of this process, of one that has ended, or of one that still writes.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    frame::frames,
    segment::{self, FIRST, Magic, Position, numbers},
};

/// The files of a journal, as they are read.
pub struct Reader {
    directory: PathBuf,
    magic: Magic,
    at: Position,
    /// Segments that were read to their end.
    passed: Vec<Passed>,
}

struct Passed {
    number: u64,
    /// Whether unreadable data follows the last frame.
    is_damaged: bool,
}

/// How much is read at once. It holds any frame.
const PIECE: usize = 512 * 1024;

impl Reader {
    /// Of the journal in `directory`, from `at` on.
    #[must_use]
    pub fn new(directory: PathBuf, magic: Magic, at: Position) -> Self {
        Self { directory, magic, at, passed: Vec::new() }
    }

    /// Where the next frame begins.
    #[must_use]
    pub fn at(&self) -> Position {
        self.at
    }

    /// A position behind all segments, for a journal that no process writes to.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn end(&self) -> io::Result<Position> {
        let last = numbers(&self.directory)?.into_iter().max().unwrap_or(0);
        Ok(Position::start_of(last.saturating_add(1)))
    }

    /// Reads the next payloads before `end`, `most` at most. Says how many there were, which is 0 at the end only.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn next(&mut self, end: Position, most: usize, mut each: impl FnMut(&[u8])) -> io::Result<usize> {
        loop {
            let limit = if self.at.segment == end.segment { end.offset } else { u64::MAX };
            let count = self.read(limit, most, &mut each)?;
            if count > 0 || self.at.segment >= end.segment {
                return Ok(count);
            }
            self.advance(end.segment)?;
        }
    }

    /// Reads all payloads before `end`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read_to(&mut self, end: Position, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        while self.next(end, usize::MAX, &mut each)? > 0 {}
        Ok(())
    }

    /// Reads all payloads that are there so far of a journal that another process writes to.
    ///
    /// # Errors
    /// When they cannot be read. What was read is not read again.
    pub fn follow(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            self.read_current(&mut each)?;
            if !self.has_later_frames()? {
                return Ok(());
            }
            // Its last frames may have come before the next segment's first, and after they were looked for.
            self.read_current(&mut each)?;
            self.advance(u64::MAX)?;
        }
    }

    /// The segments that were read to their end and in which data follows the last frame.
    pub fn damaged(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let damaged = self.passed.iter().filter(|passed| passed.is_damaged);
        damaged.map(|passed| segment::path(&self.directory, passed.number))
    }

    /// Deletes the segments before `segment` that were read to their end. Damaged ones are kept in `aside`.
    pub fn delete_before(&mut self, segment: u64, aside: &Path) {
        let (done, passed) = std::mem::take(&mut self.passed).into_iter().partition(|passed| passed.number < segment);
        self.passed = passed;
        let done: Vec<Passed> = done;
        for Passed { number, is_damaged } in done {
            let path = segment::path(&self.directory, number);
            let gone = if is_damaged { self.keep_damaged(number, &path, aside) } else { fs::remove_file(&path) };
            if let Err(error) = gone {
                tracing::warn!("cannot delete {}: {error}", path.display());
            }
        }
    }

    fn keep_damaged(&self, number: u64, path: &Path, aside: &Path) -> io::Result<()> {
        let session = self.directory.file_name().unwrap_or_default().to_string_lossy();
        let aside = aside.join(format!("{session}-{number}.damaged"));
        tracing::error!("{} contains data that cannot be read; it is kept as {}", path.display(), aside.display());
        fs::rename(path, aside)
    }

    fn read_current(&mut self, each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while self.read(u64::MAX, usize::MAX, each)? > 0 {}
        Ok(())
    }

    /// Reads the next payloads of the current segment.
    fn read(&mut self, limit: u64, most: usize, each: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        let Some(file) = self.open(self.at.segment)? else { return Ok(0) };
        read_frames(&file, &mut self.at.offset, limit, most, each)
    }

    /// The file of a segment, if it is one.
    fn open(&self, number: u64) -> io::Result<Option<File>> {
        let file = match File::open(segment::path(&self.directory, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        Ok(is_segment(&file, self.magic)?.then_some(file))
    }

    /// Turns to the next segment.
    fn advance(&mut self, last: u64) -> io::Result<()> {
        let number = self.at.segment;
        let later = numbers(&self.directory)?.into_iter().filter(|later| (number + 1..=last).contains(later)).min();
        if segment::path(&self.directory, number).exists() {
            self.passed.push(Passed { number, is_damaged: self.has_more()? });
        }
        self.at = Position::start_of(later.unwrap_or(last));
        Ok(())
    }

    /// Whether a segment after the current one has been written to.
    fn has_later_frames(&self) -> io::Result<bool> {
        for number in numbers(&self.directory)? {
            if number > self.at.segment
                && let Some(file) = self.open(number)?
                && read_frames(&file, &mut { FIRST }, u64::MAX, 1, |_| {})? > 0
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether data follows the last frame of the current segment.
    fn has_more(&self) -> io::Result<bool> {
        let file = File::open(segment::path(&self.directory, self.at.segment))?;
        let mut offset = if is_segment(&file, self.magic)? { self.at.offset } else { 0 };
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

/// Reads the next payloads of `file` from `offset` on, which moves behind them: of frames before `limit`, `most` at most, and
/// not all of them at once. Says how many there were, which is 0 where no whole frame follows.
///
/// # Errors
/// When the file cannot be read.
pub fn read_frames(
    file: &File,
    offset: &mut u64,
    limit: u64,
    most: usize,
    each: impl FnMut(&[u8]),
) -> io::Result<usize> {
    let room = usize::try_from(limit.saturating_sub(*offset)).unwrap_or(usize::MAX).min(PIECE);
    let bytes = piece(file, *offset, room)?;
    let mut reader = frames(&bytes);
    let count = reader.by_ref().take(most).map(each).count();
    *offset += reader.read() as u64;
    Ok(count)
}

/// Whether a file is a segment, and not one whose creation was interrupted.
fn is_segment(file: &File, magic: Magic) -> io::Result<bool> {
    Ok(piece(file, 0, magic.len())? == magic)
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
