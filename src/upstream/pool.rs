//! The replicas of one upstream together: which of them takes a request, how requests wait while all are full, and how often
//! one may be tried again.

mod permit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keymeter_core::{
    clock::MonotonicTime,
    pool::{Availability, FairQueue, Place},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

pub use self::permit::Permit;
use super::{
    choice::{Chooser, NoReplica, Wanted},
    interrupt::{Interrupt, Ways},
    makers::Makers,
    members::Members,
    replica::{Replica, ServerId},
    retries::{RetryBudget, Window},
};
use crate::observe::metrics::QueueSeries;

/// The replicas of one upstream. Requests take places on them.
pub struct Pool {
    /// What the upstream is called.
    pub name: Arc<str>,
    members: RwLock<Arc<Members>>,
    queue: Mutex<FairQueue<Waiter>>,
    waiting: AtomicUsize,
    chooser: Chooser,
    retries: Mutex<RetryBudget>,
    /// Places that were given to those that waited.
    served: Mutex<Window>,
    makers: Makers,
    /// Held while a failed attempt is judged: of two replicas that fail at once, one sees that the other is out.
    judging: Mutex<()>,
    series: QueueSeries,
}

/// Why a request gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// No replica may be asked.
    #[error("no replica of the upstream may be asked: see /-/upstreams for why each of them may not")]
    NoneUp,
    /// All are full, and so is the queue, or the request waited for too long.
    #[error("all replicas of the upstream are busy: come again in {} s", retry_after.as_secs())]
    Overloaded {
        /// When there is probably a place.
        retry_after: Duration,
    },
}

/// A request in the queue.
struct Waiter {
    wanted: Wanted,
    /// Who made the answer that it goes on from.
    maker: Option<ServerId>,
    place: oneshot::Sender<Result<Permit, PoolError>>,
}

impl Pool {
    /// A pool of `members`.
    #[must_use]
    pub fn new(members: Members, series: QueueSeries) -> Arc<Self> {
        Arc::new(Self {
            name: members.upstream.name.clone(),
            members: RwLock::new(Arc::new(members)),
            queue: Mutex::default(),
            waiting: AtomicUsize::new(0),
            chooser: Chooser::default(),
            retries: Mutex::default(),
            served: Mutex::default(),
            makers: Makers::default(),
            judging: Mutex::default(),
            series,
        })
    }

    /// The replicas at present.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        self.members.read().clone()
    }

    /// Other replicas serve from now on, or the same in another way.
    pub fn replace(self: &Arc<Self>, members: Members, now: MonotonicTime) {
        *self.members.write() = Arc::new(members);
        self.serve(now);
    }

    /// A place for a request that begins, if it need not wait.
    ///
    /// # Errors
    /// When no replica may be asked.
    #[must_use]
    pub fn place_now(self: &Arc<Self>, wanted: &Wanted, now: MonotonicTime) -> Option<Result<Permit, PoolError>> {
        self.retries.lock().begin(now);
        if self.waiting.load(Ordering::Acquire) > 0 {
            return None;
        }
        match self.try_place(wanted, self.maker(wanted), now) {
            Ok(permit) => Some(Ok(permit)),
            Err(NoReplica::NoneUp) => Some(Err(PoolError::NoneUp)),
            Err(NoReplica::Full) => None,
        }
    }

    /// A place for a request that has to wait, since `now`, as long as the upstream's queue lets it. One that is dropped waits
    /// no longer.
    ///
    /// # Errors
    /// When no replica may be asked, or it cannot wait, or not any longer.
    pub async fn wait(
        self: &Arc<Self>,
        wanted: Wanted,
        now: MonotonicTime,
        clock: impl Fn() -> MonotonicTime,
    ) -> Result<Permit, PoolError> {
        let queue = self.members().upstream.pool.queue;
        let (sender, receiver) = oneshot::channel();
        let maker = self.maker(&wanted);
        if self.waiting.load(Ordering::Acquire) >= queue.length {
            return self.pass_by(&wanted, maker, now);
        }
        let place = {
            let mut waiters = self.queue.lock();
            if waiters.len() >= queue.length {
                return Err(self.overloaded(waiters.len(), now));
            }
            let (key, priority) = (wanted.key, wanted.priority);
            let place = waiters.push(key, priority, 1, now, Waiter { wanted, maker, place: sender });
            self.record_length(waiters.len());
            place
        };
        let _leaves = Leaves { pool: self, place };
        // A place may have become free before the request was in the queue.
        self.serve(now);
        let found = tokio::time::timeout(queue.timeout, receiver).await;
        let at_end = clock();
        self.series.waited(at_end.saturating_since(now));
        match found {
            Ok(Ok(found)) => found,
            // The sender is dropped only with what it belongs to.
            Ok(Err(_)) => Err(PoolError::NoneUp),
            Err(_) => Err(self.overloaded(self.waiting.load(Ordering::Relaxed), at_end)),
        }
    }

    /// A place beside a full queue: those that wait may all wait for one replica.
    fn pass_by(
        self: &Arc<Self>,
        wanted: &Wanted,
        maker: Option<ServerId>,
        now: MonotonicTime,
    ) -> Result<Permit, PoolError> {
        self.serve(now);
        self.try_place(wanted, maker, now).map_err(|why| match why {
            NoReplica::NoneUp => PoolError::NoneUp,
            NoReplica::Full => self.overloaded(self.waiting.load(Ordering::Relaxed), now),
        })
    }

    /// A place at once, on another replica than those that it tried, for a request that goes on from an attempt which failed.
    #[must_use]
    pub fn another(self: &Arc<Self>, wanted: &Wanted, now: MonotonicTime) -> Option<Permit> {
        self.try_place(wanted, self.maker(wanted), now).ok()
    }

    /// A replica that may be asked, for a question of our own, which takes no place.
    #[must_use]
    pub fn any(&self, now: MonotonicTime) -> Option<Arc<Replica>> {
        let members = self.members();
        let may_be_asked = members.may_be_asked(now);
        members.replicas.iter().find(|replica| may_be_asked(replica)).cloned()
    }

    /// Whether another one may be asked than those that were `tried`, full or not.
    #[must_use]
    pub fn has_another(&self, tried: &[Arc<str>], now: MonotonicTime) -> bool {
        let members = self.members();
        let may_be_asked = members.may_be_asked(now);
        members.replicas.iter().any(|replica| !tried.contains(&replica.name) && may_be_asked(replica))
    }

    /// Takes one attempt more from the budget, if there is one left.
    #[must_use]
    pub fn take_retry(&self, now: MonotonicTime) -> bool {
        self.retries.lock().take(self.chooser.running.count(), now)
    }

    /// How many requests wait, and how long the one that waits longest has.
    #[must_use]
    pub fn queue(&self, now: MonotonicTime) -> (usize, Option<Duration>) {
        let queue = self.queue.lock();
        (queue.len(), queue.oldest().map(|since| now.saturating_since(since)))
    }

    /// Gives free places to those that wait, and tells them if no replica may be asked any more.
    pub fn serve(self: &Arc<Self>, now: MonotonicTime) {
        let mut full = Vec::new();
        while self.is_waited_for() {
            let Some((waiter, found)) = self.next_served(&mut full, now) else { return };
            if found.is_ok() {
                self.served.lock().add(now);
            }
            // One that has left leaves its place to the next: a permit that nobody takes is dropped.
            drop(waiter.place.send(found));
        }
    }

    /// Whether requests wait for a place.
    fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Takes the next from the queue that gets a place, or learns that there is none for it. Those are passed by that wait for
    /// a replica which is full, the only one that may serve them; a place that becomes free meanwhile is given by whoever gave
    /// it back.
    fn next_served(
        self: &Arc<Self>,
        full: &mut Vec<ServerId>,
        now: MonotonicTime,
    ) -> Option<(Waiter, Result<Permit, PoolError>)> {
        let mut queue = self.queue.lock();
        let mut served = None;
        for (place, waiter) in queue.in_turn() {
            if waiter.goes_to_one_of(full) {
                continue;
            }
            match self.try_place(&waiter.wanted, waiter.maker, now) {
                Ok(permit) => served = Some((place, Ok(permit))),
                Err(NoReplica::NoneUp) => served = Some((place, Err(PoolError::NoneUp))),
                Err(NoReplica::Full) if waiter.goes_anywhere() => return None,
                Err(NoReplica::Full) => full.extend(waiter.maker.filter(|_| waiter.wanted.tried.is_empty())),
            }
            if served.is_some() {
                break;
            }
        }
        let (place, found) = served?;
        let waiter = queue.serve(place)?;
        self.record_length(queue.len());
        Some((waiter, found))
    }

    /// Tells those that wait for the head of an answer of `replica`, which was found down, to go elsewhere. Those that cannot
    /// stay.
    pub(super) fn interrupt(&self, replica: &Replica, now: MonotonicTime) {
        for waiting in replica.take_waiting() {
            let goes = self.goes_elsewhere(&waiting.ways, replica, now) && self.take_retry(now);
            if !goes || !waiting.interrupt() {
                replica.register(&waiting);
            }
        }
    }

    /// The same for all that are down: another one may be up since they were found so.
    pub(super) fn interrupt_all(&self, now: MonotonicTime) {
        for replica in &self.members().replicas {
            if matches!(replica.availability(now), Availability::Down | Availability::Loading) {
                self.interrupt(replica, now);
            }
        }
    }

    fn goes_elsewhere(&self, ways: &Ways, replica: &Replica, now: MonotonicTime) -> bool {
        let here = ways.here.as_ref().is_some_and(|tried| {
            let tried: Vec<_> = tried.iter().chain([&replica.name]).cloned().collect();
            self.has_another(&tried, now)
        });
        here || ways.after.iter().any(|pool| pool.has_another(&[], now))
    }

    fn record_length(&self, length: usize) {
        self.waiting.store(length, Ordering::Release);
        self.series.set_length(length);
    }

    /// The time that as many take as wait, at the pace at which places lately became free; a second at least.
    fn overloaded(&self, waiting: usize, now: MonotonicTime) -> PoolError {
        let served = self.served.lock().sum(now).max(1);
        let waiting = u32::try_from(waiting.saturating_add(1)).unwrap_or(u32::MAX);
        let time = Window::LENGTH.saturating_mul(waiting) / u32::try_from(served).unwrap_or(u32::MAX);
        PoolError::Overloaded { retry_after: time.clamp(Duration::from_secs(1), Duration::from_mins(1)) }
    }

    /// Who made the answer that a request goes on from, as long as that is remembered.
    fn maker(&self, wanted: &Wanted) -> Option<ServerId> {
        wanted.previous.and_then(|answer| self.makers.maker(answer))
    }

    fn try_place(
        self: &Arc<Self>,
        wanted: &Wanted,
        maker: Option<ServerId>,
        now: MonotonicTime,
    ) -> Result<Permit, NoReplica> {
        let members = self.members();
        loop {
            let replica = self.chooser.choose(&members, wanted, maker, now)?;
            let is_probe = !replica.is_plainly_up() && replica.availability(now) == Availability::Probe;
            let probe = if is_probe { replica.update(|condition| condition.begin_probe(now)) } else { None };
            if is_probe && probe.is_none() {
                // Another request decides.
                continue;
            }
            if replica.take(wanted.tokens) {
                return Ok(Permit::new(self, replica, wanted, probe));
            }
            if let Some(probe) = probe {
                replica.update(|condition| condition.probe_unused(probe));
            }
        }
    }
}

impl Waiter {
    /// Whether any replica would do.
    fn goes_anywhere(&self) -> bool {
        self.maker.is_none() && self.wanted.tried.is_empty()
    }

    /// Whether it waits for one of these.
    fn goes_to_one_of(&self, servers: &[ServerId]) -> bool {
        self.maker.as_ref().is_some_and(|maker| self.wanted.tried.is_empty() && servers.contains(maker))
    }
}

/// A request in the queue, which leaves it when it does not wait any longer.
struct Leaves<'pool> {
    pool: &'pool Arc<Pool>,
    place: Place,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        let mut queue = self.pool.queue.lock();
        let waiter = queue.remove(self.place);
        self.pool.record_length(queue.len());
        drop(queue);
        drop(waiter);
    }
}

#[cfg(test)]
mod tests;
