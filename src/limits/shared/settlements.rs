//! The settlements that are still to be sent to the server. Each is kept until it is acknowledged. Sending one twice does
//! no harm, because the server counts it once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use keymeter_core::key::KeyId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::script::Call;

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// It used so many tokens.
    Settled { used: u64 },
    /// Its usage is unknown.
    Dropped,
    /// It was not sent to an upstream.
    Cancelled,
    /// This is left of a lease.
    QuotaLease { requests: u64, tokens: u64, places: String },
}

impl Ending {
    /// The end of a lease that was not used, and that the server may not even have given.
    pub(super) fn whole_lease(name: &str, places: u64) -> Self {
        let places: Vec<_> = (1..=places).map(|place| format!("{name}.{place}")).collect();
        Self::QuotaLease { requests: 0, tokens: 0, places: places.join(" ") }
    }
}

/// The settlement of one request or lease.
#[derive(Clone, Debug)]
pub(super) struct Settlement {
    pub name: Arc<str>,
    /// Where the server counts it; 0 if unknown.
    pub slot: u64,
    /// The tokens that were reserved.
    pub tokens: u64,
    pub ending: Ending,
}

impl Settlement {
    /// Writes the settlement as the scripts read it.
    pub(super) fn write(&self, call: &mut Call<'_>) {
        let Self { name, slot, tokens, ending } = self;
        let (word, third, fourth, fifth) = match ending {
            Ending::Settled { used } => ("settle", *tokens, *used, ""),
            Ending::Dropped => ("drop", *tokens, 0, ""),
            Ending::Cancelled => ("cancel", *tokens, 0, ""),
            Ending::QuotaLease { requests, tokens, places } => ("stock", *requests, *tokens, &**places),
        };
        call.arg(&**name).arg(word).arg(*slot).arg(third).arg(fourth).arg(fifth);
    }

    fn is_of_request(&self) -> bool {
        !matches!(self.ending, Ending::QuotaLease { .. })
    }
}

/// The settlements of all keys.
#[derive(Default)]
pub(super) struct Settlements {
    by_key: Mutex<HashMap<KeyId, Vec<Entry>>>,
    numbers: AtomicU64,
    arrived: Notify,
}

struct Entry {
    number: u64,
    settlement: Settlement,
    /// Whether it was ever sent, so that the server may know it.
    is_sent: bool,
    /// Whether it is on its way. The connection keeps the order of what is sent.
    is_under_way: bool,
}

/// Settlements of one key that are sent together.
pub(super) struct SettlementBatch {
    pub key: KeyId,
    pub settlements: Vec<Settlement>,
    numbers: Vec<u64>,
}

impl Settlements {
    pub(super) fn push(&self, key: &KeyId, settlement: Settlement) {
        let mut by_key = self.by_key.lock();
        // Under the lock, so that the numbers of a key ascend.
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { number, settlement, is_sent: false, is_under_way: false };
        match by_key.get_mut(key) {
            Some(entries) => entries.push(entry),
            None => drop(by_key.insert(key.clone(), vec![entry])),
        }
        drop(by_key);
        self.arrived.notify_one();
    }

    /// Waits until there may be a settlement that was not sent.
    pub(super) async fn wait_for_unsent(&self) {
        self.arrived.notified().await;
    }

    /// Whether all settlements are acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.lock().is_empty()
    }

    /// The first `most` settlements of a key. An admission takes them along, so that it counts what ended here before it.
    /// Settlements under way arrive before it anyway, if both go the same way.
    pub(super) fn for_key(&self, key: &KeyId, most: usize, goes_the_same_way: bool) -> Option<SettlementBatch> {
        let by_key = self.by_key.lock();
        let entries = by_key.get(key)?.iter().filter(|entry| !(entry.is_under_way && goes_the_same_way));
        SettlementBatch::new(key, entries.take(most))
    }

    /// The settlements that are not under way: about `most` of them, in a batch of `most_of_key` at most for each key.
    pub(super) fn unsent_batches(&self, most: usize, most_of_key: usize) -> Vec<SettlementBatch> {
        let (mut batches, mut count) = (Vec::new(), 0);
        for (key, entries) in self.by_key.lock().iter() {
            let batch = SettlementBatch::new(key, entries.iter().filter(|entry| !entry.is_under_way).take(most_of_key));
            count += batch.as_ref().map_or(0, |batch| batch.numbers.len());
            batches.extend(batch);
            if count >= most {
                break;
            }
        }
        batches
    }

    /// Marks a batch as sent.
    pub(super) fn mark_sent(&self, batch: &SettlementBatch) {
        self.mark(batch, |entry| (entry.is_sent, entry.is_under_way) = (true, true));
    }

    /// Marks a batch as lost: the server may not have received it.
    pub(super) fn mark_lost(&self, batch: &SettlementBatch) {
        self.mark(batch, |entry| entry.is_under_way = false);
        self.arrived.notify_one();
    }

    /// Marks all settlements under way as lost.
    pub(super) fn mark_all_lost(&self) {
        for entry in self.by_key.lock().values_mut().flatten() {
            entry.is_under_way = false;
        }
    }

    /// Removes a batch that was acknowledged.
    pub(super) fn remove(&self, batch: &SettlementBatch) {
        let mut by_key = self.by_key.lock();
        let Some(entries) = by_key.get_mut(&batch.key) else { return };
        entries.retain(|entry| !batch.has(entry));
        if entries.is_empty() {
            by_key.remove(&batch.key);
        }
    }

    /// Whether the server cannot know the end of a request.
    pub(super) fn is_unsent(&self, key: &KeyId, name: &str) -> bool {
        let by_key = self.by_key.lock();
        let mut entries = by_key.get(key).into_iter().flatten();
        entries.any(|entry| !entry.is_sent && &*entry.settlement.name == name)
    }

    /// The requests whose end the server cannot know: it still keeps their permits.
    pub(super) fn unsent(&self) -> Vec<(KeyId, Arc<str>)> {
        let by_key = self.by_key.lock();
        let unsent = by_key.iter().flat_map(|(key, entries)| {
            let ended =
                |entry: &&Entry| !entry.is_sent && entry.settlement.slot > 0 && entry.settlement.is_of_request();
            entries.iter().filter(ended).map(|entry| (key.clone(), entry.settlement.name.clone()))
        });
        unsent.collect()
    }

    fn mark(&self, batch: &SettlementBatch, change: impl Fn(&mut Entry)) {
        if let Some(entries) = self.by_key.lock().get_mut(&batch.key) {
            entries.iter_mut().filter(|entry| batch.has(entry)).for_each(change);
        }
    }
}

impl SettlementBatch {
    fn new<'entries>(key: &KeyId, entries: impl Iterator<Item = &'entries Entry>) -> Option<Self> {
        let (numbers, settlements): (Vec<_>, _) = entries.map(|entry| (entry.number, entry.settlement.clone())).unzip();
        (!numbers.is_empty()).then(|| Self { key: key.clone(), settlements, numbers })
    }

    fn has(&self, entry: &Entry) -> bool {
        self.numbers.binary_search(&entry.number).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settlement(name: &str) -> Settlement {
        Settlement { name: name.into(), slot: 1, tokens: 5, ending: Ending::Dropped }
    }

    #[test]
    fn what_is_not_acknowledged_is_said_again() {
        let settlements = Settlements::default();
        let keys: [KeyId; 2] = ["key_a".parse().unwrap(), "key_b".parse().unwrap()];
        for (key, name) in [(&keys[0], "1"), (&keys[0], "2"), (&keys[1], "3")] {
            settlements.push(key, settlement(name));
        }
        let waiting =
            || settlements.unsent_batches(100, 100).iter().map(|batch| batch.settlements.len()).sum::<usize>();
        assert_eq!((settlements.unsent().len(), waiting()), (3, 3));
        let first = settlements.for_key(&keys[0], 1, true).unwrap();
        settlements.mark_sent(&first);
        assert_eq!((first.settlements.len(), settlements.unsent().len(), waiting()), (1, 2, 2));
        assert_eq!(settlements.for_key(&keys[0], 9, true).unwrap().settlements.len(), 1, "the other is heard before");
        assert_eq!(settlements.for_key(&keys[0], 9, false).unwrap().settlements.len(), 2, "or is not");
        settlements.mark_lost(&first);
        assert_eq!((settlements.unsent().len(), waiting()), (2, 3));
        settlements.remove(&first);
        assert_eq!(settlements.unsent_batches(1, 1).len(), 1);
        settlements.unsent_batches(100, 100).iter().for_each(|batch| settlements.mark_sent(batch));
        assert_eq!((settlements.unsent().len(), waiting()), (0, 0));
        settlements.mark_all_lost();
        assert_eq!((settlements.unsent().len(), waiting()), (0, 2));
        settlements.unsent_batches(100, 100).iter().for_each(|batch| settlements.remove(batch));
        assert!(settlements.is_empty() && settlements.for_key(&keys[0], 9, false).is_none());
    }
}
