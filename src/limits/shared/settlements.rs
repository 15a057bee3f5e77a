//! What is still to be said to the server of requests that have ended. Each is kept until it was acknowledged: that it
//! is said twice does no harm, because the server counts the first time only.

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
    /// Nobody knows what it used.
    Dropped,
    /// It was not made.
    Cancelled,
    /// What was taken in advance was not all used: this is left.
    QuotaLease { requests: u64, tokens: u64, places: String },
}

impl Ending {
    /// Of a stock of which nothing was used, or that there may not even be.
    pub(super) fn whole_lease(name: &str, places: u64) -> Self {
        let places: Vec<_> = (1..=places).map(|place| format!("{name}.{place}")).collect();
        Self::QuotaLease { requests: 0, tokens: 0, places: places.join(" ") }
    }
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Settlement {
    pub name: Arc<str>,
    /// Where the server counts it; 0: it did not say.
    pub slot: u64,
    /// What was reserved.
    pub tokens: u64,
    pub ending: Ending,
}

impl Settlement {
    /// As the scripts read it.
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

/// Those of all keys.
#[derive(Default)]
pub(super) struct Settlements {
    by_key: Mutex<HashMap<KeyId, Vec<Entry>>>,
    numbers: AtomicU64,
    arrived: Notify,
}

struct Entry {
    number: u64,
    settlement: Settlement,
    /// Whether it was ever sent, so that it may have been heard.
    is_sent: bool,
    /// Whether it is on its way, over a connection on which nothing that is sent later is heard before it.
    is_under_way: bool,
}

/// Settlements of one key that are said together.
pub(super) struct Batch {
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

    /// Waits until there is something that was not sent.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Whether all was acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.lock().is_empty()
    }

    /// Of one key the first `most`: an admission takes them along, so that it finds what ended here before it. What is
    /// under way is heard before it anyway, where both go the same way.
    pub(super) fn of(&self, key: &KeyId, most: usize, goes_the_same_way: bool) -> Option<Batch> {
        let by_key = self.by_key.lock();
        let entries = by_key.get(key)?.iter().filter(|entry| !(entry.is_under_way && goes_the_same_way));
        Batch::new(key, entries.take(most))
    }

    /// What is not under way: some `most` of it, a batch for each key, of `most_of_key` at most.
    pub(super) fn all(&self, most: usize, most_of_key: usize) -> Vec<Batch> {
        let (mut batches, mut count) = (Vec::new(), 0);
        for (key, entries) in self.by_key.lock().iter() {
            let batch = Batch::new(key, entries.iter().filter(|entry| !entry.is_under_way).take(most_of_key));
            count += batch.as_ref().map_or(0, |batch| batch.numbers.len());
            batches.extend(batch);
            if count >= most {
                break;
            }
        }
        batches
    }

    /// They were sent.
    pub(super) fn sent(&self, batch: &Batch) {
        self.mark(batch, |entry| (entry.is_sent, entry.is_under_way) = (true, true));
    }

    /// Nobody knows whether they were heard.
    pub(super) fn lost(&self, batch: &Batch) {
        self.mark(batch, |entry| entry.is_under_way = false);
        self.arrived.notify_one();
    }

    /// Nobody knows of any whether it was heard.
    pub(super) fn all_lost(&self) {
        for entry in self.by_key.lock().values_mut().flatten() {
            entry.is_under_way = false;
        }
    }

    /// They were acknowledged.
    pub(super) fn done(&self, batch: &Batch) {
        let mut by_key = self.by_key.lock();
        let Some(entries) = by_key.get_mut(&batch.key) else { return };
        entries.retain(|entry| !batch.has(entry));
        if entries.is_empty() {
            by_key.remove(&batch.key);
        }
    }

    /// Whether the server cannot have heard of the end of a request.
    pub(super) fn is_unsent(&self, key: &KeyId, name: &str) -> bool {
        let by_key = self.by_key.lock();
        let mut entries = by_key.get(key).into_iter().flatten();
        entries.any(|entry| !entry.is_sent && &*entry.settlement.name == name)
    }

    /// Whose end the server cannot have heard of: their places are still kept.
    pub(super) fn unsent(&self) -> Vec<(KeyId, Arc<str>)> {
        let by_key = self.by_key.lock();
        let unsent = by_key.iter().flat_map(|(key, entries)| {
            let ended =
                |entry: &&Entry| !entry.is_sent && entry.settlement.slot > 0 && entry.settlement.is_of_request();
            entries.iter().filter(ended).map(|entry| (key.clone(), entry.settlement.name.clone()))
        });
        unsent.collect()
    }

    fn mark(&self, batch: &Batch, change: impl Fn(&mut Entry)) {
        if let Some(entries) = self.by_key.lock().get_mut(&batch.key) {
            entries.iter_mut().filter(|entry| batch.has(entry)).for_each(change);
        }
    }
}

impl Batch {
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
        let due = Settlements::default();
        let keys: [KeyId; 2] = ["key_a".parse().unwrap(), "key_b".parse().unwrap()];
        for (key, name) in [(&keys[0], "1"), (&keys[0], "2"), (&keys[1], "3")] {
            due.push(key, settlement(name));
        }
        let waiting = || due.all(100, 100).iter().map(|batch| batch.settlements.len()).sum::<usize>();
        assert_eq!((due.unsent().len(), waiting()), (3, 3));
        let first = due.of(&keys[0], 1, true).unwrap();
        due.sent(&first);
        assert_eq!((first.settlements.len(), due.unsent().len(), waiting()), (1, 2, 2));
        assert_eq!(due.of(&keys[0], 9, true).unwrap().settlements.len(), 1, "the other is heard before");
        assert_eq!(due.of(&keys[0], 9, false).unwrap().settlements.len(), 2, "or is not");
        due.lost(&first);
        assert_eq!((due.unsent().len(), waiting()), (2, 3));
        due.done(&first);
        assert_eq!(due.all(1, 1).len(), 1);
        due.all(100, 100).iter().for_each(|batch| due.sent(batch));
        assert_eq!((due.unsent().len(), waiting()), (0, 0));
        due.all_lost();
        assert_eq!((due.unsent().len(), waiting()), (0, 2));
        due.all(100, 100).iter().for_each(|batch| due.done(batch));
        assert!(due.is_empty() && due.of(&keys[0], 9, false).is_none());
    }
}
