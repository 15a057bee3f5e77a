//! The series of one key. They are found once and kept with the key, because finding a child
//! takes a lock and hashes its labels, and because a deleted key's series must go.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::RwLock;
use prometheus::{IntCounter, IntGauge, core::GenericCounter};

use super::{
    Metrics, Refused,
    nano::{AtomicNano, Nano},
};
use crate::{
    key::{KeyId, KeyName},
    price::Usd,
    usage::Usage,
};

/// What stands in place of an id once too many keys have series.
const OTHER: &str = "other";

/// How many keys have series of their own, and how many may.
pub(super) struct SeriesCount {
    used: AtomicUsize,
    max: usize,
}

impl SeriesCount {
    pub(super) fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    fn take(&self) -> bool {
        let more = |used: usize| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One key's series. When this is dropped, they are gone from the next scrape.
pub struct KeyMetrics {
    metrics: Arc<Metrics>,
    label: String,
    own: bool,
    /// Admitted requests that are running.
    pub in_flight: IntGauge,
    /// Seconds since 1970.
    pub last_used: IntGauge,
    models: RwLock<Vec<Arc<ModelMetrics>>>,
    rejections: RwLock<Vec<(Refused, IntCounter)>>,
    info: RwLock<Option<[String; 3]>>,
}

impl KeyMetrics {
    /// The series of the key `id`; `None`: too many keys have series of their own.
    #[must_use]
    pub fn of(metrics: &Arc<Metrics>, id: &KeyId) -> Option<Self> {
        let own = id.as_str() != OTHER && metrics.key_series.take();
        own.then(|| Self::labelled(metrics, id.as_str(), own))
    }

    /// The series that all further keys share.
    #[must_use]
    pub fn of_others(metrics: &Arc<Metrics>) -> Self {
        Self::labelled(metrics, OTHER, false)
    }

    fn labelled(metrics: &Arc<Metrics>, label: &str, own: bool) -> Self {
        let label = label.to_owned();
        Self {
            in_flight: metrics.in_flight.with_label_values(&[&label]),
            last_used: metrics.last_used.with_label_values(&[&label]),
            metrics: metrics.clone(),
            label,
            own,
            models: RwLock::default(),
            rejections: RwLock::default(),
            info: RwLock::default(),
        }
    }

    /// States the key's name and team, and no longer what they were before.
    pub fn describe(&self, name: &KeyName, team: Option<&str>) {
        if !self.own {
            return;
        }
        let labels = [self.label.clone(), name.as_str().to_owned(), team.unwrap_or_default().to_owned()];
        let mut info = self.info.write();
        if info.as_ref() == Some(&labels) {
            return;
        }
        if let Some(former) = info.take() {
            // It may be gone already: then there is nothing to take back.
            let _ = self.metrics.key_info.remove_label_values(&former);
        }
        self.metrics.key_info.with_label_values(&labels).set(1);
        *info = Some(labels);
    }

    /// The key's series for one model; `model` is a configured name or `other`.
    #[must_use]
    pub fn model(&self, model: &str) -> Arc<ModelMetrics> {
        if let Some(known) = self.models.read().iter().find(|known| known.model == model) {
            return known.clone();
        }
        let mut models = self.models.write();
        if let Some(known) = models.iter().find(|known| known.model == model) {
            return known.clone();
        }
        let new = Arc::new(ModelMetrics::new(&self.metrics, &self.label, model));
        models.push(new.clone());
        new
    }

    /// A refused request.
    pub fn refused(&self, reason: Refused) {
        let known =
            self.rejections.read().iter().find(|(known, _)| *known == reason).map(|(_, counter)| counter.clone());
        let counter = known.unwrap_or_else(|| {
            let counter = self.metrics.rejections.with_label_values(&[self.label.as_str(), reason.as_str()]);
            self.rejections.write().push((reason, counter.clone()));
            counter
        });
        counter.inc();
    }
}

impl Drop for KeyMetrics {
    /// Removing a series that is gone already is no error that anybody could act on.
    fn drop(&mut self) {
        if !self.own {
            return;
        }
        let label = self.label.as_str();
        let _ = self.metrics.in_flight.remove_label_values(&[label]);
        let _ = self.metrics.last_used.remove_label_values(&[label]);
        for (reason, _) in self.rejections.get_mut() {
            let _ = self.metrics.rejections.remove_label_values(&[label, reason.as_str()]);
        }
        for model in self.models.get_mut() {
            model.remove(&self.metrics, label);
        }
        if let Some(info) = self.info.get_mut() {
            let _ = self.metrics.key_info.remove_label_values(info);
        }
        self.metrics.key_series.give_back();
    }
}

/// One key's series for one model.
pub struct ModelMetrics {
    model: String,
    metrics: Arc<Metrics>,
    key_label: String,
    tokens: [IntCounter; 4],
    reasoning: IntCounter,
    cost: GenericCounter<AtomicNano>,
    statuses: RwLock<Vec<(u16, IntCounter)>>,
}

const TOKEN_TYPES: [&str; 4] = ["input", "cached_input", "cache_write", "output"];

impl ModelMetrics {
    fn new(metrics: &Arc<Metrics>, key_label: &str, model: &str) -> Self {
        Self {
            model: model.to_owned(),
            metrics: metrics.clone(),
            key_label: key_label.to_owned(),
            tokens: TOKEN_TYPES.map(|kind| metrics.tokens.with_label_values(&[key_label, model, kind])),
            reasoning: metrics.reasoning.with_label_values(&[key_label, model]),
            cost: metrics.cost.with_label_values(&[key_label, model]),
            statuses: RwLock::default(),
        }
    }

    /// Counts what one response used and cost.
    pub fn used(&self, usage: &Usage, cost: Usd) {
        let amounts = [usage.input, usage.cached_input, usage.cache_write, usage.output];
        for (counter, amount) in self.tokens.iter().zip(amounts) {
            counter.inc_by(amount);
        }
        self.reasoning.inc_by(usage.reasoning);
        self.cost.inc_by(Nano(cost.nanos()));
    }

    /// Counts a request by the status that was answered.
    pub fn answered(&self, status: u16) {
        let known = self.statuses.read().iter().find(|(known, _)| *known == status).map(|(_, counter)| counter.clone());
        let counter = known.unwrap_or_else(|| {
            let labels = [self.key_label.as_str(), self.model.as_str(), &status.to_string()];
            let counter = self.metrics.requests.with_label_values(&labels);
            self.statuses.write().push((status, counter.clone()));
            counter
        });
        counter.inc();
    }

    fn remove(&self, metrics: &Metrics, key_label: &str) {
        for kind in TOKEN_TYPES {
            let _ = metrics.tokens.remove_label_values(&[key_label, &self.model, kind]);
        }
        let _ = metrics.reasoning.remove_label_values(&[key_label, &self.model]);
        let _ = metrics.cost.remove_label_values(&[key_label, &self.model]);
        for (status, _) in self.statuses.read().iter() {
            let _ = metrics.requests.remove_label_values(&[key_label, &self.model, &status.to_string()]);
        }
    }
}
