//! The snapshot: all that was used of quotas and still counts, in the order of the names, and up to where each process'
//! journal is in it. A new one is the old one and segments of journals, merged as they are read. It takes the old one's place
//! by a rename: whatever happens, one of them is there, and a segment is either in it or beside it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    iter::Peekable,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    vec,
};

use jiff::Timestamp;
use keymeter_core::record::Session;

use super::{
    arena::Arena,
    uses::{self, Packer},
};
use crate::journal::{Magic, frame::framed, read_frames, segment::FIRST};

const MAGIC: Magic = *b"kmquots\x01";
const NAME: &str = "snapshot";
const NEW: &str = "snapshot.new";

/// The last segment of each process' journal that is in a snapshot.
pub type Included = BTreeMap<Session, u64>;

/// What was read of a snapshot.
#[derive(Debug, Default)]
pub struct Read {
    /// What is in it.
    pub included: Included,
    /// Whether something stands in it that cannot be read.
    pub is_damaged: bool,
}

/// A frame begins with what it is.
const HEADER: u8 = 0;
const GROUPS: u8 = 1;
const END: u8 = 2;

/// A frame of groups is about this long.
const FRAME: usize = 16 * 1024;

/// Reads the snapshot in `root` and passes on each name with its uses. Damage is logged, and what stands before it is read.
///
/// # Errors
/// When there is one and the system does not read it.
pub fn read(root: &Path, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<Read> {
    let Some(file) = open(root)? else { return Ok(Read::default()) };
    let mut contents = Contents::default();
    while contents.read(&file, usize::MAX, &mut each)? {}
    if !contents.has_ended {
        let (path, offset) = (root.join(NAME), contents.offset);
        tracing::error!(
            "{} cannot be read from byte {offset} on; what was used of quotas is missing from there",
            path.display()
        );
    }
    Ok(Read { is_damaged: !contents.has_ended, included: contents.included.unwrap_or_default() })
}

/// What is in the snapshot in `root`.
///
/// # Errors
/// When there is one and the system does not read it.
pub fn included(root: &Path) -> io::Result<Included> {
    let Some(file) = open(root)? else { return Ok(Included::default()) };
    let mut contents = Contents::default();
    while !contents.has_groups && contents.read(&file, 1, &mut |_, _| {})? {}
    Ok(contents.included.unwrap_or_default())
}

fn open(root: &Path) -> io::Result<Option<File>> {
    match File::open(root.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

/// What was read of a snapshot so far.
#[derive(Default)]
struct Contents {
    included: Option<Included>,
    has_groups: bool,
    has_ended: bool,
    offset: u64,
}

impl Contents {
    /// Reads on, `most` frames at most. Says whether there was one.
    fn read(&mut self, file: &File, most: usize, each: &mut impl FnMut(&[u8], &[u8])) -> io::Result<bool> {
        let mut offset = self.offset;
        if offset == 0 {
            let mut magic = Magic::default();
            if file.read_exact_at(&mut magic, 0).is_err() || magic != MAGIC {
                return Ok(false);
            }
            offset = FIRST;
        }
        let count = read_frames(file, &mut offset, u64::MAX, most, |payload| self.tell(payload, each))?;
        self.offset = offset;
        Ok(count > 0)
    }

    fn tell(&mut self, payload: &[u8], each: &mut impl FnMut(&[u8], &[u8])) {
        match payload.split_first() {
            Some((&HEADER, rest)) => {
                if let Some(more) = parsed(rest) {
                    self.included.get_or_insert_default().extend(more);
                }
            }
            Some((&GROUPS, rest)) if self.included.is_some() => {
                self.has_groups = true;
                uses::groups(rest).for_each(|(name, uses)| each(name, uses));
            }
            Some((&END, _)) if self.included.is_some() => self.has_ended = true,
            _ => {}
        }
    }
}

/// Removes a snapshot in `root` that was not finished.
pub fn remove_unfinished(root: &Path) {
    let _ = fs::remove_file(root.join(NEW));
}

/// The size of the snapshot in `root`.
pub fn size(root: &Path) -> u64 {
    fs::metadata(root.join(NAME)).map_or(0, |snapshot| snapshot.len())
}

/// Replaces the snapshot in `root` by one with `fresh` in it too, and with what is `included` then. What counts no longer at
/// `now` is left out.
///
/// # Errors
/// When it cannot be written. Then the old one is still there.
pub fn replace(root: &Path, fresh: &Arena, included: &Included, now: Timestamp) -> io::Result<()> {
    let (path, new) = (root.join(NAME), root.join(NEW));
    let written = write(root, &new, fresh, included, now).and_then(|is_damaged| {
        if is_damaged {
            keep_aside(root, &path)?;
        }
        fs::rename(&new, &path)
    });
    if written.is_err() {
        // It takes room on a disk that may be full.
        remove_unfinished(root);
    }
    written?;
    // The segments that are in it are deleted next.
    File::open(root)?.sync_all()
}

/// Writes the new snapshot. Says whether the old one is damaged.
fn write(root: &Path, new: &Path, fresh: &Arena, included: &Included, now: Timestamp) -> io::Result<bool> {
    let mut merge = Merge {
        file: BufWriter::new(File::create(new)?),
        packer: Packer::default(),
        open: (Vec::new(), Vec::new()),
        fresh: fresh.sorted().into_iter().peekable(),
        now,
    };
    merge.file.write_all(&MAGIC)?;
    for header in headers(included) {
        frame(&mut merge.file, HEADER, &header)?;
    }
    let mut done = Ok(());
    let old = read(root, |name, uses| {
        if done.is_ok() {
            done = merge.add(name, uses);
        }
    })?;
    done?;
    merge.finish()?;
    Ok(old.is_damaged)
}

/// The names of an old snapshot and fresh ones, in their order.
struct Merge<'fresh> {
    file: BufWriter<File>,
    packer: Packer,
    /// The name that comes next in the file, and its uses so far.
    open: (Vec<u8>, Vec<u8>),
    fresh: Peekable<vec::IntoIter<(&'fresh [u8], &'fresh [u8])>>,
    now: Timestamp,
}

impl Merge<'_> {
    /// Adds a name of the old snapshot, and fresh ones before it.
    fn add(&mut self, name: &[u8], uses: &[u8]) -> io::Result<()> {
        while let Some((fresh, more)) = self.fresh.next_if(|(fresh, _)| *fresh <= name) {
            self.put(fresh, more)?;
        }
        self.put(name, uses)
    }

    fn put(&mut self, name: &[u8], uses: &[u8]) -> io::Result<()> {
        if self.open.0 != name {
            self.flush()?;
            self.open.0.extend(name);
        }
        if self.open.1.is_empty() && uses::all_count(uses, self.now) {
            self.open.1.extend(uses);
        } else {
            self.open.1 = uses::merged(&self.open.1, uses, self.now);
        }
        Ok(())
    }

    /// Writes the open name.
    fn flush(&mut self) -> io::Result<()> {
        let (name, uses) = &mut self.open;
        let mut done = |payload: &[u8]| frame(&mut self.file, GROUPS, payload);
        self.packer.push(name, uses, &mut done)?;
        if self.packer.len() >= FRAME {
            self.packer.finish(&mut done)?;
        }
        name.clear();
        uses.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        while let Some((fresh, more)) = self.fresh.next() {
            self.put(fresh, more)?;
        }
        self.flush()?;
        self.packer.finish(|payload| frame(&mut self.file, GROUPS, payload))?;
        frame(&mut self.file, END, &[])?;
        self.file.into_inner()?.sync_all()
    }
}

fn frame(file: &mut impl Write, tag: u8, payload: &[u8]) -> io::Result<()> {
    let frame = framed(&[&[tag], payload].concat());
    file.write_all(&frame.ok_or_else(|| io::Error::other("a part of the snapshot is too long"))?)
}

/// What is included, in parts that fit into frames, and one at least.
fn headers(included: &Included) -> Vec<Vec<u8>> {
    let mut headers = vec![Vec::new()];
    for (session, segment) in included {
        if headers.last().is_none_or(|header| header.len() >= FRAME) {
            headers.push(Vec::new());
        }
        if let Some(header) = headers.last_mut() {
            header.extend(session.as_str().as_bytes());
            uses::put(header, *segment);
        }
    }
    headers
}

fn parsed(mut header: &[u8]) -> Option<Included> {
    let mut included = Included::new();
    while let Some((session, rest)) = header.split_first_chunk::<16>() {
        header = rest;
        included.insert(str::from_utf8(session).ok()?.parse().ok()?, uses::take(&mut header)?);
    }
    header.is_empty().then_some(included)
}

/// Gives a damaged snapshot another name too, for whoever can make something of it.
fn keep_aside(root: &Path, path: &Path) -> io::Result<()> {
    let free = |number: &u32| !aside(root, *number).exists();
    let aside = aside(root, (1..=u32::MAX).find(free).unwrap_or_default());
    fs::copy(path, &aside)?;
    tracing::error!("{} is damaged; a copy is kept as {}", path.display(), aside.display());
    Ok(())
}

fn aside(root: &Path, number: u32) -> PathBuf {
    root.join(format!("snapshot-{number}.damaged"))
}
