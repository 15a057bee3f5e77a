//! Where quotas are kept, so that a restart sets none back: what each request came to is appended to this process' journal, and
//! a snapshot takes the place of journals that have grown. What a process finds when it opens the store stays dormant until a
//! request comes for that key, team or owner.
//!
//! The files in the store's directory: `snapshot`; for each process a directory with its journal; and `lock`, which is held by
//! who opens the store, or replaces the snapshot. The snapshot is replaced by a process that is alone, so nobody has to read
//! what is deleted then. Two processes beside each other, as in an upgrade, read what the other writes.

mod arena;
mod dormant;
mod epoch;
mod others;
mod snapshot;
mod uses;

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use keymeter_core::{
    glob::Glob,
    limit::{Counters, QuotaName, QuotaUse, Scope, Slot},
    record::Session,
};
use parking_lot::Mutex;
use thiserror::Error;

use self::{arena::Arena, dormant::Dormant, others::Others, snapshot::Included, uses::Packer};
use crate::journal::{AppendError, Claimed, Journal, Kind, Position, Reader, segment};

const KIND: Kind = Kind { magic: *b"kmquota\x01", name: "the store of quotas", thread: "quota-store" };

/// The quotas of all keys, teams and owners on disk, and those in memory that no request has come for yet.
pub struct QuotaStore {
    root: PathBuf,
    session: Session,
    journal: Journal,
    dormant: Dormant,
    /// What earlier processes used, for a server that may lose what it counts.
    earlier: Option<Dormant>,
    reading: Mutex<Reading>,
    /// When dormant quotas were swept last.
    swept: Mutex<Timestamp>,
}

/// What is read of others.
#[derive(Default)]
struct Reading {
    /// What is in the snapshot.
    included: Included,
    others: Others,
    /// The names of which something was read and not told.
    news: BTreeSet<Vec<u8>>,
    /// How many segments there were when it was last told that nobody may delete them.
    told: u64,
}

/// What a request came to in one quota of the key, the team or the owner with this id.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'request> {
    /// Whose quota it is; of one for some models the key's id.
    pub id: &'request str,
    /// What it came to.
    pub used: &'request QuotaUse,
}

/// So many segments are not worth a new snapshot.
const FEW_SEGMENTS: u64 = 4;

/// More processes that have ended than this make a new snapshot due at the start.
const MOST_ENDED: usize = 16;

/// How often dormant quotas are swept.
const SWEEP: SignedDuration = SignedDuration::from_hours(1);

/// The longest id: no key's is nearly as long.
const LONGEST_ID: usize = 16 * 1024;

impl QuotaStore {
    /// Opens the store in `directory`, which is created if it does not exist, and reads what still counts at `now`. What cannot be
    /// read is logged and skipped.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process holds its lock for a minute. A full disk is no error: the store
    /// has no room then.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, StoreError> {
        Self::open_with(directory, None, now)
    }

    /// Opens it for a process that counts on a server too: what earlier processes used is remembered, for
    /// [`Self::each_earlier`].
    ///
    /// # Errors
    /// As those of [`Self::open`].
    pub fn open_beside_server(directory: &Path, now: Timestamp) -> Result<Self, StoreError> {
        Self::open_with(directory, Some(Dormant::new()), now)
    }

    fn open_with(directory: &Path, earlier: Option<Dormant>, now: Timestamp) -> Result<Self, StoreError> {
        let error = |error| StoreError::Open { directory: directory.to_owned(), error };
        fs::create_dir_all(directory).map_err(error)?;
        let lock = Lock::wait(directory).map_err(error)?;
        // Whoever makes one of these holds the lock.
        Claimed::remove_unfinished(directory);
        snapshot::remove_unfinished(directory);
        let session = Session::generate().map_err(|random| error(random.into()))?;
        let claimed = Claimed::new(directory, &session).map_err(error)?;
        let store = Self {
            root: directory.to_owned(),
            session,
            journal: Journal::open(claimed, &KIND).map_err(error)?,
            dormant: Dormant::new(),
            earlier,
            reading: Mutex::default(),
            swept: Mutex::new(now),
        };
        store.read(now).map_err(error)?;
        let is_crowded = store.reading.lock().others.ended().count() > MOST_ENDED;
        if is_crowded && let Err(error) = store.replace_snapshot(&lock, now) {
            tracing::warn!("{error}");
        }
        Ok(store)
    }

    /// Whether there is room for what all running requests come to, and for more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.journal.has_room()
    }

    /// Writes what one request came to, without waiting for the disk. From then on it survives the process.
    ///
    /// # Errors
    /// When it could not be written. Then the end of its response must not be passed on.
    pub fn append(&self, uses: &[Kept<'_>]) -> Result<(), StoreError> {
        let mut groups: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        for Kept { id, used } in uses {
            if id.len() > LONGEST_ID {
                return Err(AppendError::TooLong.into());
            }
            let name = uses::name(used.scope, id);
            let at = groups.iter().position(|(known, _)| *known == name).unwrap_or(groups.len());
            if at == groups.len() {
                groups.push((name, Vec::new()));
            }
            if let Some((_, group)) = groups.get_mut(at) {
                uses::push(group, used.models.as_ref().map(Glob::as_str), used.name, used.slot, used.amount);
            }
        }
        let mut packer = Packer::default();
        for (name, group) in &groups {
            packer.push(name, group, |payload| self.journal.append(payload))?;
        }
        Ok(packer.finish(|payload| self.journal.append(payload))?)
    }

    /// Moves what is dormant of a key, a team or an owner into its counters. Call it before anybody else sees them, under the lock
    /// under which they become visible, and again when [`Self::poll_others`] names them.
    pub fn restore(&self, scope: Scope, id: &str, counters: &Counters) {
        let uses = self.dormant.take(&uses::name(scope, id));
        let mut models: Option<Glob> = None;
        for used in uses::each(&uses) {
            if models.as_ref().map(Glob::as_str) != used.models {
                models = used.models.map(Glob::new);
            }
            counters.restore(models.as_ref(), used.name, used.slot, used.amount);
        }
    }

    /// Keeps what counters hold that are closed though it still counts, until a request comes for them again. Call it under the lock
    /// under which they become invisible. Nothing is written: what they hold was appended.
    pub fn forget(&self, scope: Scope, id: &str, counters: &Counters, now: Timestamp) {
        let mut held = Vec::new();
        for (models, quota) in counters.quotas() {
            for (slot, amount) in quota.counted() {
                uses::push(&mut held, models.as_ref().map(Glob::as_str), quota.name, slot, amount);
            }
        }
        if !held.is_empty() {
            self.dormant.add(&uses::name(scope, id), &held, now);
        }
    }

    /// What processes before this one, and beside it, used of quotas, of each key, team and owner, where it was opened beside a
    /// server: the scope, the id, the models within a key, the quota, where it counts, and how much.
    pub fn each_earlier(&self, mut visit: impl FnMut(Scope, &str, Option<&str>, QuotaName, Slot, u64)) {
        let Some(earlier) = &self.earlier else { return };
        earlier.each(|name, uses| {
            let Some((scope, id)) = uses::named(name) else { return };
            for used in uses::each(uses) {
                visit(scope, id, used.models, used.name, used.slot, used.amount);
            }
        });
    }

    /// The epoch of the server's data to which what is kept was added, as it was set last.
    #[must_use]
    pub fn epoch(&self) -> Option<String> {
        epoch::read(&self.root)
    }

    /// The name of the store, over all of its processes.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        epoch::identity(&self.root)
    }

    /// Keeps the epoch of the server's data to which all that is kept was added.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_epoch(&self, epoch: &str) -> Result<(), StoreError> {
        epoch::set(&self.root, epoch).map_err(|error| self.compaction_error(error))
    }

    /// Reads what other processes have appended, and names those for whom there was something. It is dormant then: for those that
    /// have counters, call [`Self::restore`]. Look for the counters after this call. Whoever has none then gets it when they do.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn poll_others(&self, now: Timestamp) -> Result<Vec<(Scope, String)>, StoreError> {
        let mut reading = self.reading.lock();
        self.poll(&mut reading, now).map_err(|error| self.compaction_error(error))?;
        let news = std::mem::take(&mut reading.news);
        Ok(news.iter().filter_map(|name| uses::named(name)).map(|(scope, id)| (scope, id.to_owned())).collect())
    }

    /// Puts what journals say into a new snapshot and deletes them, if they have grown enough and no other process runs. Says
    /// whether it did. Call it about once a minute, where it may take some seconds.
    ///
    /// # Errors
    /// When the snapshot cannot be written. Then nothing has changed.
    pub fn compact(&self, now: Timestamp) -> Result<bool, StoreError> {
        self.sweep(now);
        if !self.is_compaction_due() {
            return Ok(false);
        }
        let lock = Lock::take(&self.root).map_err(|error| self.compaction_error(error))?;
        let is_replaced = lock.map_or(Ok(false), |lock| self.replace_snapshot(&lock, now))?;
        if !is_replaced {
            self.tell_of_another();
        }
        Ok(is_replaced)
    }

    /// Reads the snapshot and all journals.
    fn read(&self, now: Timestamp) -> io::Result<()> {
        let reading = &mut *self.reading.lock();
        reading.included = snapshot::read(&self.root, |name, uses| self.add(name, uses, now))?.included;
        let Reading { included, others, .. } = reading;
        // Nobody has counters yet, so none of it is news.
        others.poll(&self.root, &self.session, included, |payload| {
            uses::groups(payload).for_each(|(name, uses)| self.add(name, uses, now));
        })?;
        if !reading.others.have_ended() {
            tracing::info!(
                "another process uses {}: what it counts of quotas is counted here too",
                self.root.display()
            );
        }
        Ok(())
    }

    /// Adds what others used.
    fn add(&self, name: &[u8], uses: &[u8], now: Timestamp) {
        self.dormant.add(name, uses, now);
        if let Some(earlier) = &self.earlier {
            earlier.add(name, uses, now);
        }
    }

    fn poll(&self, reading: &mut Reading, now: Timestamp) -> io::Result<()> {
        let Reading { included, others, news, .. } = reading;
        others.poll(&self.root, &self.session, included, |payload| {
            for (name, uses) in uses::groups(payload) {
                self.add(name, uses, now);
                if !news.contains(name) {
                    news.insert(name.to_owned());
                }
            }
        })
    }

    fn sweep(&self, now: Timestamp) {
        let mut swept = self.swept.lock();
        if now.duration_since(*swept).abs() >= SWEEP {
            *swept = now;
            self.dormant.sweep(now);
            self.earlier.iter().for_each(|earlier| earlier.sweep(now));
        }
    }

    /// Whether journals take more of the disk than what a new snapshot saves is worth.
    fn is_compaction_due(&self) -> bool {
        self.segments() >= FEW_SEGMENTS.max(snapshot::size(&self.root) / segment::SIZE / 2)
    }

    /// How many segments a new snapshot would replace.
    fn segments(&self) -> u64 {
        let own = self.closed_segments().count() as u64;
        own + self.reading.lock().others.segments() as u64
    }

    /// Says that journals grow while another process runs, each time that there are twice as many segments.
    fn tell_of_another(&self) {
        let segments = self.segments();
        let told = &mut self.reading.lock().told;
        if segments >= (*told * 2).max(FEW_SEGMENTS * 4) {
            *told = segments;
            tracing::warn!(
                "another process uses {} too, and what both keep there of quotas grows until one of them ends; give each \
                 gateway a `limits.store` of its own",
                self.root.display()
            );
        }
    }

    /// The numbers of the segments of this process that it writes to no longer.
    fn closed_segments(&self) -> impl Iterator<Item = u64> {
        let open = self.journal.end().map_or(0, |end| end.segment);
        let included = self.reading.lock().included.get(&self.session).copied().unwrap_or(0);
        let numbers = segment::numbers(self.journal.directory()).unwrap_or_default();
        numbers.into_iter().filter(move |number| (included + 1..open).contains(number))
    }

    /// Puts all closed segments into a new snapshot, unless another process runs.
    fn replace_snapshot(&self, _lock: &Lock, now: Timestamp) -> Result<bool, StoreError> {
        let error = |error| self.compaction_error(error);
        let reading = &mut *self.reading.lock();
        // It may have been written though it could not be synced.
        reading.included = snapshot::included(&self.root).map_err(error)?;
        // One may have begun or ended since.
        self.poll(reading, now).map_err(error)?;
        if !reading.others.have_ended() {
            return Ok(false);
        }
        let mut journals = self.closed_journals(reading).map_err(error)?;
        let mut fresh = Arena::default();
        for Closed { reader, end, .. } in &mut journals {
            let add = |payload: &[u8]| {
                uses::groups(payload).for_each(|(name, uses)| fresh.add(fresh.hash(name), name, uses, now));
            };
            reader.read_to(*end, add).map_err(error)?;
        }
        let present = |session: &Session| *session == self.session || self.root.join(session.as_str()).exists();
        let mut included = reading.included.clone();
        included.retain(|session, _| present(session));
        included.extend(journals.iter().map(|closed| (closed.session.clone(), closed.end.segment - 1)));
        snapshot::replace(&self.root, &fresh, &included, now).map_err(error)?;
        reading.included = included;
        for Closed { session, mut reader, .. } in journals {
            reader.delete_before(u64::MAX, &self.root);
            reading.others.remove(&session);
        }
        Ok(true)
    }

    /// The journals of those that have ended, and the part of this process' own that is closed.
    fn closed_journals(&self, reading: &Reading) -> io::Result<Vec<Closed>> {
        let open = self.journal.end().map(|end| Position::start_of(end.segment));
        let own = (self.session.clone(), self.journal.directory(), open);
        let ended = reading.others.ended().map(|(session, claimed)| (session.clone(), claimed.path(), None));
        let mut closed = Vec::new();
        for (session, directory, end) in std::iter::once(own).filter(|(.., open)| open.is_some()).chain(ended) {
            let after = reading.included.get(&session).map_or(0, |last| last + 1);
            let reader = Reader::new(directory.to_owned(), KIND.magic, Position::start_of(after));
            let end = end.map_or_else(|| reader.end(), Ok)?;
            closed.push(Closed { session, reader, end });
        }
        Ok(closed)
    }

    fn compaction_error(&self, error: io::Error) -> StoreError {
        StoreError::Compaction { directory: self.root.clone(), error }
    }
}

impl Drop for QuotaStore {
    fn drop(&mut self) {
        match (self.journal.close(), self.journal.written()) {
            (0, 0) => self.journal.remove(),
            (0, _) => {}
            (lost, _) => tracing::error!("what {lost} requests came to in quotas could not be written and is lost"),
        }
    }
}

/// A part of a journal that nobody writes to.
struct Closed {
    session: Session,
    reader: Reader,
    end: Position,
}

/// The lock of the store's directory.
struct Lock {
    _file: File,
}

/// How long a process that starts waits for one that starts, or replaces the snapshot.
const PATIENCE: Duration = Duration::from_mins(1);

impl Lock {
    fn take(root: &Path) -> io::Result<Option<Self>> {
        let file = File::options().create(true).truncate(false).write(true).open(root.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn wait(root: &Path) -> io::Result<Self> {
        let start = Instant::now();
        loop {
            match Self::take(root)? {
                Some(lock) => return Ok(lock),
                None if start.elapsed() > PATIENCE => return Err(io::Error::other("another process holds its lock")),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

/// Why quotas are not kept.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("cannot keep quotas in {}: {error}; `limits.store` must be writable", .directory.display())]
    Open {
        /// The store's.
        directory: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What a request came to could not be written.
    #[error("what a request came to in quotas: {0}")]
    Append(#[from] AppendError),
    /// Journals cannot be read, or the snapshot cannot be replaced.
    #[error("cannot read or tidy up the quotas in {}: {error}; they are kept, and it is tried again", .directory.display())]
    Compaction {
        /// The store's.
        directory: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests;
