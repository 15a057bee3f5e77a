//! One file of a journal. Its room is allocated when it is created, so writing to it needs no more of the disk.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};

/// The first bytes of a file: the name and the version of its format.
pub type Magic = [u8; 8];

/// A position in a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// Bytes from its start.
    pub offset: u64,
}

/// The size of a segment on disk.
pub const SIZE: u64 = 4 * 1024 * 1024;

/// The offset of the first frame.
pub const FIRST: u64 = size_of::<Magic>() as u64;

impl Position {
    /// The first one of a segment.
    #[must_use]
    pub fn start_of(segment: u64) -> Self {
        Self { segment, offset: FIRST }
    }
}

/// A segment that is written to.
pub(super) struct Segment {
    pub number: u64,
    pub file: Arc<File>,
    /// Where the next frame goes.
    pub end: u64,
}

impl Segment {
    /// Creates the file and allocates its room. It is not synced to the disk yet.
    pub(super) fn create(directory: &Path, number: u64, magic: Magic) -> io::Result<Self> {
        let path = path(directory, number);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        if let Err(error) = take_room(&file).and_then(|()| file.write_all_at(&magic, 0)) {
            // Half a segment would block the next attempt.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { number, file: Arc::new(file), end: FIRST })
    }

    pub(super) fn fits(&self, frame: &[u8]) -> bool {
        self.end + frame.len() as u64 <= SIZE
    }

    /// Writes a frame. After a failure half-way, the next frame is written over it.
    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write_all_at(frame, self.end)?;
        self.end += frame.len() as u64;
        Ok(())
    }
}

/// The file of the segment with `number`.
#[must_use]
pub fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}.segment"))
}

/// The number in a segment's name.
fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".segment").filter(|digits| digits.len() == 20).and_then(|digits| digits.parse().ok())
}

/// The numbers of the segments in a directory.
///
/// # Errors
/// When it cannot be read.
pub fn numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        numbers.extend(entry?.file_name().to_str().and_then(number));
    }
    Ok(numbers)
}

/// Whether the disk has room for one more segment. If the system does not say, this is true, and creating one will fail.
pub(super) fn has_space_for_one(directory: &Path) -> bool {
    statvfs(directory).map_or(true, |disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= SIZE)
}

fn take_room(file: &File) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, SIZE) {
        // Some file systems allocate room by writing only.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = [0; 16 * 1024];
            (0..SIZE / zeros.len() as u64).try_for_each(|block| file.write_all_at(&zeros, block * zeros.len() as u64))
        }
        done => Ok(done?),
    }
}
