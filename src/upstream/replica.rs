//! One server of an upstream while it serves: what runs on it, whether it may be asked, and who waits for its answer.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use keymeter_config as config;
use keymeter_core::{
    clock::MonotonicTime,
    pool::{Availability, Condition, Rules},
};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::interrupt::Interrupt;
use crate::observe::metrics::ReplicaSeries;

/// A replica as it is configured at present. What is known of it is shared with those of it that were configured before.
pub struct Replica {
    /// What it is called in metrics and logs.
    pub name: Arc<str>,
    /// What is configured of it.
    pub config: Arc<config::Replica>,
    /// Where it is, where that is known before it is dialled.
    pub address: Option<SocketAddr>,
    pub(super) server: ServerId,
    pub(super) state: Arc<ReplicaState>,
}

/// Which server a replica is, by its URL and its address: it may be called otherwise while others of its host's name come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerId(u64);

/// What is known of a replica.
pub(super) struct ReplicaState {
    gauges: Gauges,
    condition: Mutex<Condition>,
    /// Those that wait for the head of its answer.
    waiting: Mutex<Vec<Weak<Interrupt>>>,
    /// Nothing new goes to it: it is not configured any more.
    is_gone: AtomicBool,
    series: RwLock<ReplicaSeries>,
}

/// What those read who choose, within one line of a processor's cache: they take no lock of a replica that is up.
#[repr(align(64))]
struct Gauges {
    /// What the condition says.
    closed: AtomicU64,
    in_flight: AtomicU64,
    /// Tokens.
    load: AtomicU64,
}

impl Replica {
    /// A replica, of which `state` is known.
    pub(super) fn new(
        name: Arc<str>,
        config: Arc<config::Replica>,
        address: Option<SocketAddr>,
        state: Arc<ReplicaState>,
    ) -> Arc<Self> {
        state.publish_condition(&state.condition.lock());
        let server = ServerId::new(&config.url, address);
        Arc::new(Self { name, config, address, server, state })
    }

    /// How many requests run on it.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.state.in_flight()
    }

    /// How many tokens its running requests were planned to take.
    #[must_use]
    pub fn load_tokens(&self) -> u64 {
        self.state.load_tokens()
    }

    /// Whether, and how, it may be asked.
    #[must_use]
    pub fn availability(&self, now: MonotonicTime) -> Availability {
        self.state.condition.lock().availability(now)
    }

    /// Whether it is up, or the time of what keeps it out is over.
    pub(super) fn may_be_open(&self, now: MonotonicTime) -> bool {
        self.state.may_be_open(now)
    }

    /// Whether it is up, as far as that needs no lock.
    pub(super) fn is_plainly_up(&self) -> bool {
        self.state.gauges.closed.load(Ordering::Acquire) == OPEN
    }

    /// Why it is not up, if somebody said so.
    #[must_use]
    pub fn reason(&self, now: MonotonicTime) -> Option<String> {
        self.state.condition.lock().reason(now).map(str::to_owned)
    }

    /// Nothing new goes to it from now on, or it takes part again.
    pub fn set_drained(&self, is_drained: bool) {
        self.update(|condition| condition.set_drained(is_drained));
    }

    /// Whether it has room for one request more.
    pub(super) fn has_room(&self) -> bool {
        self.config.max_in_flight.number().is_none_or(|most| self.in_flight() < most)
    }

    /// Takes a place on it for a request that is planned to take so many tokens. `false`: it is full by now.
    pub(super) fn take(&self, tokens: u64) -> bool {
        let most = self.config.max_in_flight.number().unwrap_or(u64::MAX);
        let taken = self
            .state
            .gauges
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |running| (running < most).then_some(running + 1));
        if taken.is_ok() {
            self.state.gauges.load.fetch_add(tokens, Ordering::Relaxed);
            self.state.publish();
        }
        taken.is_ok()
    }

    /// Gives such a place back.
    pub(super) fn give_back(&self, tokens: u64) {
        self.state.gauges.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.state.gauges.load.fetch_sub(tokens, Ordering::Relaxed);
        self.state.publish();
    }

    /// Somebody waits for the head of its answer.
    pub(super) fn register(&self, interrupt: &Arc<Interrupt>) {
        let mut waiting = self.state.waiting.lock();
        if waiting.len() == waiting.capacity() {
            waiting.retain(|waiting| waiting.upgrade().is_some_and(|waiting| waiting.is_waiting()));
        }
        waiting.push(Arc::downgrade(interrupt));
    }

    /// Those that wait for the head of its answer, and are not told otherwise any more.
    pub(super) fn take_waiting(&self) -> Vec<Arc<Interrupt>> {
        let waiting = std::mem::take(&mut *self.state.waiting.lock());
        waiting.iter().filter_map(Weak::upgrade).filter(|waiting| waiting.is_waiting()).collect()
    }

    /// Changes what is known of its health, and tells the metrics. Says what changed.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Condition) -> T) -> T {
        let mut condition = self.state.condition.lock();
        let changed = change(&mut condition);
        self.state.publish_condition(&condition);
        changed
    }
}

impl ServerId {
    fn new(url: &config::UpstreamUrl, address: Option<SocketAddr>) -> Self {
        let mut hasher = DefaultHasher::new();
        (url, address).hash(&mut hasher);
        Self(hasher.finish())
    }

    #[cfg(test)]
    pub fn of_test(number: u64) -> Self {
        Self(number)
    }
}

/// What [`Gauges::closed`] is of a replica that is up, and of one that no time brings back; else when that is.
const OPEN: u64 = 0;
const CLOSED: u64 = u64::MAX;

impl ReplicaState {
    /// What is known of a replica at its beginning.
    pub(super) fn new(rules: Rules, must_load: bool, series: ReplicaSeries) -> Arc<Self> {
        Arc::new(Self {
            gauges: Gauges { closed: AtomicU64::new(CLOSED), in_flight: AtomicU64::new(0), load: AtomicU64::new(0) },
            condition: Mutex::new(Condition::new(rules, must_load)),
            waiting: Mutex::default(),
            is_gone: AtomicBool::new(false),
            series: RwLock::new(series),
        })
    }

    /// How many requests run on it.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.gauges.in_flight.load(Ordering::Acquire)
    }

    /// How many tokens its running requests were planned to take.
    #[inline]
    pub fn load_tokens(&self) -> u64 {
        self.gauges.load.load(Ordering::Relaxed)
    }

    /// Whether it is up, or the time of what keeps it out is over.
    #[inline]
    pub fn may_be_open(&self, now: MonotonicTime) -> bool {
        let closed = self.gauges.closed.load(Ordering::Acquire);
        closed == OPEN || self.opens(closed, now)
    }

    /// Whether what keeps it out until then is over. Whether it may be asked needs no lock from then on if it is up.
    #[cold]
    fn opens(&self, until: u64, now: MonotonicTime) -> bool {
        if until == CLOSED || now.as_nanos() < until {
            return false;
        }
        let condition = self.condition.lock();
        let availability = condition.availability(now);
        if availability == Availability::Up {
            // Another may have been here before.
            let _ = self.gauges.closed.compare_exchange(until, OPEN, Ordering::AcqRel, Ordering::Relaxed);
        }
        matches!(availability, Availability::Up | Availability::Probe)
    }

    /// Whether only a failed request keeps it out.
    pub fn is_only_kept_out(&self, now: MonotonicTime) -> bool {
        let availability = self.condition.lock().availability(now);
        matches!(availability, Availability::Paused { .. } | Availability::Ejected { .. } | Availability::Probing)
    }

    /// Its rules may be others from now on.
    pub(super) fn set_rules(&self, rules: Rules) {
        self.condition.lock().set_rules(rules);
    }

    /// Its series in the metrics.
    pub fn series(&self) -> RwLockReadGuard<'_, ReplicaSeries> {
        self.series.read()
    }

    /// It has another name from now on, and other series with that.
    pub fn rename(&self, series: ReplicaSeries) {
        std::mem::replace(&mut *self.series.write(), series).remove();
        self.publish();
    }

    /// It is not configured any more. What runs on it goes on.
    pub(super) fn leave(&self) {
        self.is_gone.store(true, Ordering::Release);
        self.series().remove();
    }

    fn publish_condition(&self, condition: &Condition) {
        let closed = match condition.availability(MonotonicTime::default()) {
            Availability::Up => OPEN,
            Availability::Paused { until } | Availability::Ejected { until } => until.as_nanos().clamp(1, CLOSED - 1),
            // What its time decides is asked for.
            Availability::Probe => 1,
            Availability::Probing | Availability::Down | Availability::Loading | Availability::Draining => CLOSED,
        };
        self.gauges.closed.store(closed, Ordering::Release);
        if !self.is_gone.load(Ordering::Acquire) {
            self.series().set_up(condition.is_well());
        }
    }

    fn publish(&self) {
        if !self.is_gone.load(Ordering::Acquire) {
            self.series().set_load(self.in_flight(), self.load_tokens());
        }
    }
}
