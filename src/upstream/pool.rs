//! The replicas of one upstream together: which of them takes a request, how requests wait while all are full, and how often
//! one may be tried again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use keymeter_config::{self as config, Affinity, Balance};
use keymeter_core::{
    clock::MonotonicTime,
    pool::{Availability, Cause, Change, FairQueue, Others, Place, Probe, Ring},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use super::{
    interrupt::{Interrupt, Ways},
    makers::Makers,
    replica::Replica,
    retries::{RetryBudget, Window},
};
use crate::observe::metrics::{AttemptOutcome, QueueSeries};

/// The replicas of one upstream. Requests take places on them.
pub struct Pool {
    /// What the upstream is called.
    pub name: Arc<str>,
    members: RwLock<Arc<Members>>,
    queue: Mutex<FairQueue<Waiter>>,
    waiting: AtomicUsize,
    /// How many requests have a place.
    running: AtomicU64,
    /// Where a search begins, so that equal ones are taken in turn.
    turn: AtomicUsize,
    retries: Mutex<RetryBudget>,
    /// Places that were given to those that waited.
    served: Mutex<Window>,
    makers: Makers,
    /// Held while a failed attempt is judged: of two replicas that fail at once, one sees that the other is out.
    judging: Mutex<()>,
    series: QueueSeries,
}

/// The replicas at one time.
pub struct Members {
    /// What is configured.
    pub upstream: Arc<config::Upstream>,
    /// In the order of the configuration; none where the upstream is not configured any more.
    pub replicas: Vec<Arc<Replica>>,
    ring: Option<Ring>,
}

/// What a request wants of a pool.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// A number that stands for its key.
    pub key: u64,
    /// A lower one goes first.
    pub priority: i8,
    /// What it is planned to take, prompt and output.
    pub tokens: u64,
    /// By which its home is found, where requests have one.
    pub affinity: Option<u64>,
    /// The answer that it goes on from, by a hash of its id.
    pub previous: Option<u64>,
    /// The replicas that failed it, which it is not sent to again.
    pub tried: Vec<Arc<str>>,
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

/// Why a search finds no replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoReplica {
    NoneUp,
    Full,
}

/// A request in the queue.
struct Waiter {
    wanted: Wanted,
    place: oneshot::Sender<Result<Permit, PoolError>>,
}

/// A place on a replica. Dropped, it is given back, and goes to the next that waits.
pub struct Permit {
    pool: Arc<Pool>,
    replica: Arc<Replica>,
    wanted: Wanted,
    /// Where it is the one request that decides whether an ejected replica is well again.
    probe: Option<Probe>,
    is_over: bool,
}

impl Members {
    /// `replicas` of `upstream`.
    #[must_use]
    pub fn new(upstream: Arc<config::Upstream>, replicas: Vec<Arc<Replica>>) -> Self {
        let ring = || Ring::new(replicas.iter().map(|replica| (&*replica.name, replica.config.weight)));
        let ring = upstream.pool.affinity.as_ref().map(|_| ring());
        Self { upstream, replicas, ring }
    }

    fn affinity(&self, wanted: &Wanted) -> Option<(&Ring, &Affinity, u64)> {
        Some((self.ring.as_ref()?, self.upstream.pool.affinity.as_ref()?, wanted.affinity?))
    }

    /// Whether a replica counts as one that may be asked. Where none may, those are asked all the same that only a failed
    /// request keeps out.
    fn may_be_asked(&self, now: MonotonicTime) -> impl Fn(&Replica) -> bool + use<'_> {
        let any = self.replicas.iter().any(|replica| replica.may_be_open(now));
        move |replica| {
            if any {
                return replica.may_be_open(now);
            }
            let availability = replica.availability(now);
            matches!(availability, Availability::Paused { .. } | Availability::Ejected { .. } | Availability::Probing)
        }
    }

    /// Whether another replica than this one may be asked: then this one may be paused or ejected.
    fn has_other(&self, replica: &Replica, now: MonotonicTime) -> bool {
        self.replicas.iter().any(|other| other.name != replica.name && other.may_be_open(now))
    }
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
            running: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
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
        match self.try_place(wanted, now) {
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
        let place = {
            let mut waiters = self.queue.lock();
            if waiters.len() >= queue.length {
                return Err(self.overloaded(waiters.len(), now));
            }
            let (key, priority) = (wanted.key, wanted.priority);
            let place = waiters.push(key, priority, 1, now, Waiter { wanted, place: sender });
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

    /// A place at once, on another replica than those that it tried, for a request that goes on from an attempt which failed.
    #[must_use]
    pub fn another(self: &Arc<Self>, wanted: &Wanted, now: MonotonicTime) -> Option<Permit> {
        self.try_place(wanted, now).ok()
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
        self.retries.lock().take(self.running.load(Ordering::Relaxed), now)
    }

    /// How many requests wait, and how long the one that waits longest has.
    #[must_use]
    pub fn queue(&self, now: MonotonicTime) -> (usize, Option<Duration>) {
        let queue = self.queue.lock();
        (queue.len(), queue.oldest().map(|since| now.saturating_since(since)))
    }

    /// Remembers that this replica made an answer, by a hash of its id.
    pub fn made(&self, answer: u64, replica: &Replica) {
        if self.members().replicas.len() > 1 {
            self.makers.remember(answer, &replica.name);
        }
    }

    /// Gives free places to those that wait, and tells them if no replica may be asked any more.
    pub fn serve(self: &Arc<Self>, now: MonotonicTime) {
        while self.waiting.load(Ordering::Acquire) > 0 {
            let (waiter, found) = {
                let mut queue = self.queue.lock();
                let Some(first) = queue.first() else { return };
                let found = match self.try_place(&first.wanted, now) {
                    Err(NoReplica::Full) => return,
                    Err(NoReplica::NoneUp) => Err(PoolError::NoneUp),
                    Ok(permit) => Ok(permit),
                };
                let waiter = queue.pop();
                self.record_length(queue.len());
                (waiter, found)
            };
            if found.is_ok() {
                self.served.lock().add(now);
            }
            // One that has left leaves its place to the next: a permit that nobody takes is dropped.
            drop(waiter.map(|waiter| waiter.place.send(found)));
        }
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

    fn try_place(self: &Arc<Self>, wanted: &Wanted, now: MonotonicTime) -> Result<Permit, NoReplica> {
        let members = self.members();
        loop {
            let replica = self.choose(&members, wanted, now)?;
            let is_probe = !replica.is_plainly_up() && replica.availability(now) == Availability::Probe;
            let probe = if is_probe { replica.update(|condition| condition.begin_probe(now)) } else { None };
            if is_probe && probe.is_none() {
                // Another request decides.
                continue;
            }
            if replica.take(wanted.tokens) {
                self.running.fetch_add(1, Ordering::Relaxed);
                let (pool, replica, wanted) = (self.clone(), replica.clone(), wanted.clone());
                return Ok(Permit { pool, replica, wanted, probe, is_over: false });
            }
            if let Some(probe) = probe {
                replica.update(|condition| condition.probe_unused(probe));
            }
        }
    }

    /// The replica that can take the request soonest.
    fn choose<'members>(
        &self,
        members: &'members Members,
        wanted: &Wanted,
        now: MonotonicTime,
    ) -> Result<&'members Arc<Replica>, NoReplica> {
        let may_be_asked = members.may_be_asked(now);
        let is_candidate = |replica: &Replica| !wanted.tried.contains(&replica.name) && may_be_asked(replica);
        if let [only] = members.replicas.as_slice() {
            return match (is_candidate(only), only.has_room()) {
                (false, _) => Err(NoReplica::NoneUp),
                (true, false) => Err(NoReplica::Full),
                (true, true) => Ok(only),
            };
        }
        if let Some(maker) = wanted.previous.and_then(|answer| self.makers.maker(answer))
            && let Some(replica) = members.replicas.iter().find(|replica| replica.name == maker)
            && is_candidate(replica)
            && replica.has_room()
        {
            return Ok(replica);
        }
        if let Some((ring, affinity, hash)) = members.affinity(wanted) {
            let candidates = || members.replicas.iter().filter(|replica| is_candidate(replica));
            let mean = Mean::of(candidates(), members.upstream.pool.balance);
            let walk = ring.walk(hash).filter_map(|at| members.replicas.get(at));
            let mut walk = walk.filter(|replica| is_candidate(replica) && replica.has_room());
            if let Some(home) = walk.find(|replica| !mean.is_over(replica, affinity.load)) {
                return Ok(home);
            }
        }
        self.least_loaded(members, &is_candidate)
    }

    fn least_loaded<'members>(
        &self,
        members: &'members Members,
        is_candidate: &impl Fn(&Replica) -> bool,
    ) -> Result<&'members Arc<Replica>, NoReplica> {
        let (balance, count) = (members.upstream.pool.balance, members.replicas.len());
        let first = match balance {
            Balance::RoundRobin => weighted_turn(members, self.turn.fetch_add(1, Ordering::Relaxed)),
            Balance::LeastTokens | Balance::LeastRequests => self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1),
        };
        let (mut best, mut any) = (None::<(&Arc<Replica>, Load)>, false);
        let (before, after) = members.replicas.split_at(first.min(count));
        for replica in after.iter().chain(before) {
            if !is_candidate(replica) {
                continue;
            }
            any = true;
            if !replica.has_room() {
                continue;
            }
            if balance == Balance::RoundRobin {
                return Ok(replica);
            }
            let load = Load::of(replica, balance);
            if best.is_none_or(|(_, least)| load.is_less_than(least)) {
                best = Some((replica, load));
            }
        }
        best.map(|(replica, _)| replica).ok_or(if any { NoReplica::Full } else { NoReplica::NoneUp })
    }
}

/// Where the turn is, each replica having as many of them as its weight.
fn weighted_turn(members: &Members, turn: usize) -> usize {
    let weight = |replica: &Arc<Replica>| replica.config.weight as usize;
    let all: usize = members.replicas.iter().map(weight).sum();
    let mut left = turn % all.max(1);
    for (at, replica) in members.replicas.iter().enumerate() {
        match left.checked_sub(weight(replica)) {
            Some(rest) => left = rest,
            None => return at,
        }
    }
    0
}

/// What a replica has to do, and the part of all that it should have.
#[derive(Clone, Copy, Debug)]
struct Load {
    load: u64,
    weight: u32,
}

impl Load {
    fn of(replica: &Replica, balance: Balance) -> Self {
        let load = match balance {
            Balance::LeastTokens => replica.load_tokens(),
            Balance::LeastRequests | Balance::RoundRobin => replica.in_flight(),
        };
        Self { load, weight: replica.config.weight }
    }

    fn is_less_than(self, other: Self) -> bool {
        // 64 bits by 32 fit into 128: nothing wraps, and a checked product costs a call for each replica.
        let product = |load: u64, weight: u32| u128::from(load).wrapping_mul(u128::from(weight));
        product(self.load, other.weight) < product(other.load, self.weight)
    }
}

/// What all candidates have to do together.
struct Mean {
    load: u128,
    weight: u128,
    balance: Balance,
}

impl Mean {
    fn of<'replica>(replicas: impl Iterator<Item = &'replica Arc<Replica>>, balance: Balance) -> Self {
        let none = Self { load: 0, weight: 0, balance };
        replicas.fold(none, |mean, replica| {
            let Load { load, weight } = Load::of(replica, balance);
            Self { load: mean.load + u128::from(load), weight: mean.weight + u128::from(weight), balance }
        })
    }

    /// Whether a replica has more than `percent` of the mean for its weight.
    fn is_over(&self, replica: &Replica, percent: u32) -> bool {
        let Load { load, weight } = Load::of(replica, self.balance);
        u128::from(load) * self.weight * 100 > self.load * u128::from(weight) * u128::from(percent)
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

impl Permit {
    /// The replica.
    #[must_use]
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The pool that it is of.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What was wanted.
    #[must_use]
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The request waits for the head of the replica's answer, and may be told that there will be none.
    #[must_use]
    pub fn interrupt(&self, ways: Ways) -> Arc<Interrupt> {
        let interrupt = Arc::new(Interrupt::new(ways));
        self.replica.register(&interrupt);
        interrupt
    }

    /// The request is sent to the same replica once more: what comes of that counts.
    pub fn begin_again(&mut self) {
        self.is_over = false;
    }

    /// The replica answered with this status, and said when to come again, or it failed in this way. The first that is told of
    /// an attempt counts.
    pub fn attempted(
        &mut self,
        outcome: AttemptOutcome,
        status: u16,
        retry_after: Option<Duration>,
        now: MonotonicTime,
    ) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.replica.state.series.attempted(outcome);
        let change = self.judge(outcome, status, retry_after, now);
        if let Some(Change::Ejected { .. }) = change {
            self.replica.state.series.ejected();
            let why = reason(outcome, status);
            tracing::warn!("upstream {}: replica {} is ejected: {why}", self.pool.name, self.replica.name);
        }
    }

    /// What an attempt says of the replica.
    fn judge(
        &mut self,
        outcome: AttemptOutcome,
        status: u16,
        retry_after: Option<Duration>,
        now: MonotonicTime,
    ) -> Option<Change> {
        let probe = self.probe.take();
        // What a server does not know or cannot do speaks against nobody.
        let is_no_fault = outcome == AttemptOutcome::ServerError && !matches!(status, 500 | 502..=504);
        let outcome = if is_no_fault { AttemptOutcome::Other } else { outcome };
        match (outcome, probe) {
            (AttemptOutcome::Success, Some(probe)) => {
                self.replica.update(|condition| condition.probe_succeeded(probe, now))
            }
            (AttemptOutcome::Success, None) => {
                self.replica.update(|condition| condition.request_succeeded(now));
                None
            }
            (AttemptOutcome::Other, Some(probe)) => {
                self.replica.update(|condition| condition.probe_unused(probe));
                None
            }
            (AttemptOutcome::Other, None) => None,
            (_, probe) => {
                // No key can bring about that nobody takes a connection.
                let is_its_own = outcome == AttemptOutcome::Connect;
                let cause = if is_its_own { Cause::Replica } else { Cause::Key(self.wanted.key) };
                self.judge_failure((probe, cause), &reason(outcome, status), status, retry_after, now)
            }
        }
    }

    fn judge_failure(
        &self,
        (probe, cause): (Option<Probe>, Cause),
        why: &str,
        status: u16,
        retry_after: Option<Duration>,
        now: MonotonicTime,
    ) -> Option<Change> {
        let _judging = self.pool.judging.lock();
        let has_other = self.pool.members().has_other(&self.replica, now);
        let others = if has_other { Others::Available } else { Others::None };
        self.replica.update(|condition| {
            if matches!(status, 429 | 502..=504) {
                condition.pause(retry_after.unwrap_or(A_SECOND), why, others, now);
            }
            match probe {
                Some(probe) => condition.probe_failed(probe, why, others, now),
                None => condition.request_failed(cause, why, others, now),
            }
        })
    }
}

fn reason(outcome: AttemptOutcome, status: u16) -> String {
    if status > 0 { format!("it answered {status}") } else { format!("its attempts end as {}", outcome.as_str()) }
}

/// A pause where none is stated.
const A_SECOND: Duration = Duration::from_secs(1);

impl Drop for Permit {
    fn drop(&mut self) {
        let now = MonotonicTime::now();
        self.attempted(AttemptOutcome::Other, 0, None, now);
        self.replica.give_back(self.wanted.tokens);
        self.pool.running.fetch_sub(1, Ordering::Relaxed);
        self.pool.serve(now);
    }
}

#[cfg(test)]
mod tests;
