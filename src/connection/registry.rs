//! The connections that are open at one address or several, and which of them makes room when there are too many.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use keymeter_config::ConnectionTimeouts;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::Connection;

/// The open connections, up to a number.
pub struct Connections {
    timeouts: ConnectionTimeouts,
    most: usize,
    open: AtomicUsize,
    may_linger: AtomicBool,
    registry: Mutex<Registry>,
    /// The number of listeners that wait for a place.
    waiting: AtomicUsize,
    /// Notifies one of them that a place became free or a connection idle.
    changed: Notify,
}

#[derive(Default)]
struct Registry {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
    /// Some that were the longest idle when they were last looked through, the longest first. Any other that is still
    /// idle has been so for a shorter time.
    longest_idle: VecDeque<(Instant, u64)>,
    /// The number of evicted connections that are not closed yet.
    leaving: usize,
}

impl Connections {
    /// An empty set of `most` connections at most.
    #[must_use]
    pub fn new(timeouts: ConnectionTimeouts, most: usize) -> Arc<Self> {
        Arc::new(Self {
            timeouts,
            most,
            open: AtomicUsize::new(0),
            may_linger: AtomicBool::new(false),
            registry: Mutex::default(),
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    /// The number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// The time limits of each connection.
    #[must_use]
    pub fn timeouts(&self) -> ConnectionTimeouts {
        self.timeouts
    }

    /// Lets connections that are idle when the server stops stay open for one more request, which may be on its way.
    pub fn linger(&self) {
        self.may_linger.store(true, Ordering::Release);
    }

    /// Whether idle connections stay open for one more request.
    #[must_use]
    pub fn may_linger(&self) -> bool {
        self.may_linger.load(Ordering::Acquire)
    }

    /// A place for one more connection. Where there is none, the connection that has been idle for the longest is closed;
    /// where none is idle, one has to end or to become idle first.
    pub async fn place(self: &Arc<Self>) -> Place {
        if let Some(place) = self.free_place() {
            return place;
        }
        let _waiting = Waiting::new(self);
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(place) = self.free_place() {
                return place;
            }
            self.close_longest_idle();
            changed.await;
        }
    }

    /// A connection that another's listener has accepted, and that is here whether there is a place or not.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Ordering::SeqCst);
        Place(self.clone()).taken()
    }

    fn free_place(self: &Arc<Self>) -> Option<Place> {
        let one_more = |open| (open < self.most).then_some(open + 1);
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok().then(|| Place(self.clone()))
    }

    fn close_longest_idle(&self) {
        let mut registry = self.registry.lock();
        // Each listener that waits needs one place.
        if registry.leaving < self.waiting.load(Ordering::SeqCst) && registry.evict_one() {
            registry.leaving += 1;
        }
    }

    pub(super) fn notify_idle(&self) {
        self.notify_waiting();
    }

    fn notify_waiting(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notify_one();
        }
    }
}

impl Registry {
    /// Evicts the connection that has been idle for the longest. Returns whether there was one.
    fn evict_one(&mut self) -> bool {
        if self.evict_known() {
            return true;
        }
        let idle = self.all.iter().filter_map(|(number, connection)| Some((connection.idle_since()?, *number)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable();
        self.longest_idle = idle.into();
        self.evict_known()
    }

    fn evict_known(&mut self) -> bool {
        while let Some((since, number)) = self.longest_idle.pop_front() {
            if self.all.get(&number).is_some_and(|connection| connection.evict(since)) {
                return true;
            }
        }
        false
    }
}

/// Counts a waiting listener while it lives.
struct Waiting<'connections>(&'connections Connections);

impl<'connections> Waiting<'connections> {
    fn new(connections: &'connections Connections) -> Self {
        connections.waiting.fetch_add(1, Ordering::SeqCst);
        Self(connections)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        // A notification for this listener may be needed by another.
        self.0.notify_waiting();
    }
}

/// Room for one connection.
pub struct Place(Arc<Connections>);

impl Place {
    /// Takes the place for a new connection.
    #[must_use]
    pub fn taken(self) -> OpenConnection {
        let connection = Connection::new(self.0.timeouts, Instant::now(), Arc::downgrade(&self.0));
        let connection = Arc::new(connection);
        let mut registry = self.0.registry.lock();
        let number = registry.next;
        registry.next += 1;
        registry.all.insert(number, connection.clone());
        drop(registry);
        OpenConnection { connection, number, place: self }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.notify_waiting();
    }
}

/// An open connection, which keeps its place while it lives.
pub struct OpenConnection {
    connection: Arc<Connection>,
    number: u64,
    place: Place,
}

impl OpenConnection {
    /// The connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut registry = self.place.0.registry.lock();
        registry.all.remove(&self.number);
        if self.connection.is_evicted() {
            registry.leaving = registry.leaving.saturating_sub(1);
        }
    }
}
