//! The writing end of a journal: the current segment, a spare one after it, and memory while there is neither.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    AppendError,
    segment::{self, Magic, Position, Segment},
};

pub(super) struct Writer {
    directory: PathBuf,
    magic: Magic,
    /// The directory, to sync the names of files to the disk.
    names: Arc<File>,
    current: Option<Segment>,
    spare: Option<Segment>,
    next_number: u64,
    /// Frames that could not be written.
    held: VecDeque<Vec<u8>>,
    held_bytes: usize,
    /// Whether the current segment has data that is not synced.
    is_dirty: bool,
    /// Other files with such data, and the directory, if it has new names.
    dirty: Vec<Arc<File>>,
}

/// The memory for frames that cannot be written.
const MOST_HELD: usize = 16 * 1024 * 1024;

impl Writer {
    pub(super) fn new(directory: &Path, magic: Magic) -> io::Result<Self> {
        Ok(Self {
            names: Arc::new(File::open(directory)?),
            directory: directory.to_owned(),
            magic,
            current: None,
            spare: None,
            next_number: 1,
            held: VecDeque::new(),
            held_bytes: 0,
            is_dirty: false,
            dirty: Vec::new(),
        })
    }

    /// Writes `frame`, or holds it in memory.
    pub(super) fn append(&mut self, frame: Vec<u8>) -> Result<(), AppendError> {
        match self.write(&frame) {
            Ok(()) => Ok(()),
            Err(error) if self.held_bytes + frame.len() <= MOST_HELD => {
                self.held_bytes += frame.len();
                self.held.push_back(frame);
                Err(AppendError::Held(error))
            }
            Err(error) => Err(AppendError::Lost(error)),
        }
    }

    /// Writes held frames as far as possible, and returns how many were written.
    pub(super) fn write_held(&mut self) -> u64 {
        let mut written = 0;
        while let Some(frame) = self.held.pop_front() {
            if self.write(&frame).is_err() {
                self.held.push_front(frame);
                break;
            }
            self.held_bytes -= frame.len();
            written += 1;
        }
        written
    }

    /// The number of frames that are in memory only.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes a number for a spare segment, if there is none.
    pub(super) fn take_spare_number(&mut self) -> Option<u64> {
        self.spare.is_none().then(|| self.take_number())
    }

    pub(super) fn put_spare(&mut self, spare: Segment) {
        match &self.current {
            // A request was faster and created one for itself. What cannot be removed goes with the directory.
            Some(current) if current.number > spare.number => {
                let _ = fs::remove_file(segment::path(&self.directory, spare.number));
            }
            Some(_) => self.spare = Some(self.noted(spare)),
            None => self.current = Some(self.noted(spare)),
        }
    }

    /// Whether no frame is held in memory.
    pub(super) fn is_written(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes the files that have data that is not synced.
    pub(super) fn take_dirty(&mut self) -> Vec<Arc<File>> {
        let mut files = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.is_dirty) {
            files.extend(self.current.as_ref().map(|segment| segment.file.clone()));
        }
        files
    }

    pub(super) fn sync_again(&mut self, file: Arc<File>) {
        self.dirty.push(file);
    }

    /// The end of what was written.
    pub(super) fn end(&self) -> Option<Position> {
        self.current.as_ref().map(|segment| Position { segment: segment.number, offset: segment.end })
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let fits = self.current.as_ref().is_some_and(|current| current.fits(frame));
        if !fits {
            self.turn_over()?;
        }
        if let Some(current) = &mut self.current {
            current.append(frame)?;
            self.is_dirty = true;
        }
        Ok(())
    }

    /// Turns to the spare segment.
    pub(super) fn turn_over(&mut self) -> io::Result<()> {
        let next = if let Some(spare) = self.spare.take() {
            spare
        } else {
            let number = self.take_number();
            let made = Segment::create(&self.directory, number, self.magic)?;
            self.noted(made)
        };
        let last = self.current.replace(next);
        if let Some(last) = last.filter(|_| std::mem::take(&mut self.is_dirty)) {
            self.dirty.push(last.file);
        }
        Ok(())
    }

    /// Notes that a new segment and its name are to be synced.
    fn noted(&mut self, segment: Segment) -> Segment {
        self.dirty.extend([segment.file.clone(), self.names.clone()]);
        segment
    }

    fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}
