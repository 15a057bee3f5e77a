//! The series of each key: plain numbers beside the key, encoded at each scrape. The `prometheus` crate keeps labels and a
//! description with each number, some 300 bytes, which is too much for a hundred thousand keys. A deleted key's series are
//! removed by `Drop`.

mod exposition;
mod limits;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use keymeter_core::rejection::Refused;
use keymeter_core::{
    key::{KeyId, KeyName},
    limit::{Scope, ScopeLimits},
    money::Usd,
    usage::Usage,
};
use parking_lot::{Mutex, RwLock};

use self::limits::LastLimits;
pub(super) use exposition::escape;

/// What stands in place of an id once too many keys have series.
const OTHER: &str = "other";

/// All keys that have series of their own, and what the others share.
pub struct KeySeries {
    max: usize,
    folded: AtomicU64,
    by_id: Mutex<BTreeMap<KeyId, Weak<KeyMetrics>>>,
    others: Mutex<Option<Arc<KeyMetrics>>>,
}

impl KeySeries {
    pub(super) fn new(max: usize) -> Self {
        Self { max, folded: AtomicU64::new(0), by_id: Mutex::default(), others: Mutex::default() }
    }

    /// How many keys came when all series were taken.
    fn folded(&self) -> u64 {
        self.folded.load(Relaxed)
    }

    /// How many keys have series of their own at most.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// The series of the key `id`, or, if too many keys have series, those that all further keys share.
    #[must_use]
    pub fn of(self: &Arc<Self>, id: &KeyId) -> Arc<KeyMetrics> {
        self.own(id).unwrap_or_else(|| self.shared())
    }

    fn own(self: &Arc<Self>, id: &KeyId) -> Option<Arc<KeyMetrics>> {
        let mut by_id = self.by_id.lock();
        let former = by_id.get(id).and_then(Weak::upgrade);
        if former.is_some() {
            return former;
        }
        if id.as_str() == OTHER {
            return None;
        }
        if by_id.len() >= self.max {
            self.folded.fetch_add(1, Relaxed);
            return None;
        }
        let new = Arc::new(KeyMetrics::new(Some((self.clone(), id.clone()))));
        by_id.insert(id.clone(), Arc::downgrade(&new));
        Some(new)
    }

    fn shared(&self) -> Arc<KeyMetrics> {
        self.others.lock().get_or_insert_with(|| Arc::new(KeyMetrics::new(None))).clone()
    }

    fn forget(&self, id: &KeyId) {
        let mut by_id = self.by_id.lock();
        // Another may have been opened in its place meanwhile.
        if by_id.get(id).is_some_and(|series| series.strong_count() == 0) {
            by_id.remove(id);
        }
    }

    /// All series as they are now, by their ids; those that are shared come last.
    pub(super) fn all(&self) -> Vec<Arc<KeyMetrics>> {
        let own = self.by_id.lock().values().filter_map(Weak::upgrade).collect::<Vec<_>>();
        own.into_iter().chain(self.others.lock().clone()).collect()
    }
}

/// One key's series. When this is dropped, they are gone from the next scrape.
pub struct KeyMetrics {
    /// Whose it is; `None`: it is shared.
    own: Option<(Arc<KeySeries>, KeyId)>,
    in_flight: AtomicI64,
    last_used: AtomicI64,
    rejections: [AtomicU64; Refused::ALL.len()],
    /// What other scopes' limits refused, and what limits would have refused that only count: nothing of most keys.
    further: OnceLock<Box<FurtherRejections>>,
    limits: LastLimits,
    described: RwLock<Option<Description>>,
    models: RwLock<Vec<Arc<ModelMetrics>>>,
}

/// What people call the key.
#[derive(PartialEq, Eq)]
struct Description {
    name: KeyName,
    team: Option<Arc<str>>,
}

impl KeyMetrics {
    fn new(own: Option<(Arc<KeySeries>, KeyId)>) -> Self {
        Self {
            own,
            in_flight: AtomicI64::new(0),
            last_used: AtomicI64::new(0),
            rejections: Default::default(),
            further: OnceLock::new(),
            limits: LastLimits::default(),
            described: RwLock::default(),
            models: RwLock::default(),
        }
    }

    fn label(&self) -> &str {
        self.id().map_or(OTHER, KeyId::as_str)
    }

    /// Whose series these are, if they are one key's.
    pub(super) fn id(&self) -> Option<&KeyId> {
        self.own.as_ref().map(|(_, id)| id)
    }

    /// Counts an admitted request at `now`, in seconds since 1970.
    pub fn began(&self, now: i64) {
        // In one order with `ended` of other threads, so that nobody ever reads less than nothing.
        self.in_flight.fetch_add(1, SeqCst);
        self.last_used.store(now, Relaxed);
    }

    /// Records the limits of the key at a request.
    pub fn held_to(&self, limits: &ScopeLimits) {
        // Those that share series have limits of their own.
        if self.own.is_some() {
            self.limits.set(limits);
        }
    }

    /// The limits of the key at its last request.
    pub(super) fn limits(&self) -> ScopeLimits {
        self.limits.read()
    }

    /// Counts the end of an admitted request.
    pub fn ended(&self) {
        self.in_flight.fetch_sub(1, SeqCst);
    }

    /// States the key's name and team, and no longer what they were before.
    pub fn describe(&self, name: &KeyName, team: Option<&Arc<str>>) {
        let is_said = |said: &Description| said.name == *name && said.team.as_ref() == team;
        if self.own.is_some() && !self.described.read().as_ref().is_some_and(is_said) {
            *self.described.write() = Some(Description { name: name.clone(), team: team.cloned() });
        }
    }

    /// The key's series for one model; `model` is a configured name or `other`.
    #[must_use]
    pub fn model(&self, model: &Arc<str>) -> Arc<ModelMetrics> {
        if let Some(known) = self.models.read().iter().find(|known| known.model == *model) {
            return known.clone();
        }
        let mut models = self.models.write();
        if let Some(known) = models.iter().find(|known| known.model == *model) {
            return known.clone();
        }
        let new = Arc::new(ModelMetrics::new(model));
        models.push(new.clone());
        new
    }

    /// Counts a request that was refused by the limits of `scope`, or for another reason, which is the key's.
    pub fn refused(&self, reason: Refused, scope: Scope) {
        let of_scope = match scope {
            Scope::Key => &self.rejections,
            Scope::Team | Scope::Owner | Scope::Model => of(&self.further().refused, scope),
        };
        count(of_scope, reason);
    }

    /// Counts a request that would have been refused so, if limits were enforced.
    pub fn observed(&self, reason: Refused, scope: Scope) {
        count(of(&self.further().observed, scope), reason);
    }

    fn further(&self) -> &FurtherRejections {
        self.further.get_or_init(Box::default)
    }
}

impl Drop for KeyMetrics {
    fn drop(&mut self) {
        if let Some((all, id)) = &self.own {
            all.forget(id);
        }
    }
}

/// A count for each reason.
type Reasons = [AtomicU64; Refused::ALL.len()];

/// Rejections by scope.
#[derive(Default)]
struct FurtherRejections {
    refused: [Reasons; Scope::ALL.len()],
    observed: [Reasons; Scope::ALL.len()],
}

fn of(scopes: &[Reasons; Scope::ALL.len()], scope: Scope) -> &Reasons {
    #[allow(clippy::indexing_slicing, reason = "the array has a place for each scope")]
    &scopes[scope as usize]
}

fn count(reasons: &Reasons, reason: Refused) {
    // The array has a place for each reason.
    if let Some(counter) = reasons.get(reason as usize) {
        counter.fetch_add(1, Relaxed);
    }
}

/// One key's series for one model.
pub struct ModelMetrics {
    model: Arc<str>,
    tokens: [AtomicU64; TOKEN_TYPES.len()],
    reasoning: AtomicU64,
    cost_nanos: AtomicI64,
    statuses: RwLock<Vec<(u16, AtomicU64)>>,
}

const TOKEN_TYPES: [&str; 4] = ["input", "cached_input", "cache_write", "output"];

impl ModelMetrics {
    fn new(model: &Arc<str>) -> Self {
        Self {
            model: model.clone(),
            tokens: Default::default(),
            reasoning: AtomicU64::new(0),
            cost_nanos: AtomicI64::new(0),
            statuses: RwLock::default(),
        }
    }

    /// Counts what one response used and cost.
    pub fn used(&self, usage: &Usage, cost: Usd) {
        let amounts = [usage.input, usage.cached_input, usage.cache_write, usage.output];
        for (counter, amount) in self.tokens.iter().zip(amounts) {
            counter.fetch_add(amount, Relaxed);
        }
        self.reasoning.fetch_add(usage.reasoning, Relaxed);
        self.cost_nanos.fetch_add(cost.nanos(), Relaxed);
    }

    /// Counts a request by the status that was answered.
    pub fn answered(&self, status: u16) {
        let count = |statuses: &[(u16, AtomicU64)]| {
            let known = statuses.iter().find(|(known, _)| *known == status);
            known.map(|(_, counter)| counter.fetch_add(1, Relaxed)).is_some()
        };
        if count(&self.statuses.read()) {
            return;
        }
        let mut statuses = self.statuses.write();
        if !count(&statuses) {
            statuses.push((status, AtomicU64::new(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> KeyId {
        text.parse().unwrap()
    }

    #[test]
    fn a_million_small_costs_add_up() {
        let series = Arc::new(KeySeries::new(1));
        let model = series.of(&id("key_a")).model(&"m".into());
        for _ in 0..1_000_000 {
            model.used(&Usage::default(), Usd::from_nanos(1));
        }
        assert_eq!(model.cost_nanos.load(Relaxed), 1_000_000);
    }

    #[test]
    fn a_key_that_goes_makes_room_for_another() {
        let series = Arc::new(KeySeries::new(1));
        let first = series.of(&id("key_a"));
        assert_eq!(series.of(&id("key_b")).label(), OTHER);
        assert_eq!(series.folded(), 1);
        assert!(Arc::ptr_eq(&series.of(&id("key_a")), &first));
        drop(first);
        assert_eq!(series.of(&id("key_b")).label(), "key_b");
        assert_eq!(series.of(&id(OTHER)).label(), OTHER);
        assert_eq!(series.folded(), 1, "one that is called so has its place");
    }

    #[test]
    fn what_is_dropped_late_takes_nothing_from_its_successor() {
        let series = Arc::new(KeySeries::new(1));
        let first = series.of(&id("key_a"));
        // As if the last holder of the first dropped it, and another opened the second before it was forgotten.
        series.by_id.lock().remove(&id("key_a"));
        let second = series.of(&id("key_a"));
        drop(first);
        assert!(Arc::ptr_eq(&series.of(&id("key_a")), &second));
    }
}
