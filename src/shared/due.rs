//! What is still to be said to the server of requests that have ended. Each is kept until it was acknowledged: that it
//! is said twice does no harm, because the server counts the first time only.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::script::Call;
use crate::key::KeyId;

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
    Stock { requests: u64, tokens: u64, places: String },
}

impl Ending {
    /// Of a stock of which nothing was used, or that there may not even be.
    pub(super) fn of_whole_stock(name: &str, places: u64) -> Self {
        let places: Vec<_> = (1..=places).map(|place| format!("{name}.{place}")).collect();
        Self::Stock { requests: 0, tokens: 0, places: places.join(" ") }
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
            Ending::Stock { requests, tokens, places } => ("stock", *requests, *tokens, &**places),
        };
        call.arg(&**name).arg(word).arg(*slot).arg(third).arg(fourth).arg(fifth);
    }
}

/// Those of all keys.
#[derive(Default)]
pub(super) struct Due {
    by_key: Mutex<HashMap<KeyId, Vec<Entry>>>,
    numbers: AtomicU64,
    arrived: Notify,
}

struct Entry {
    number: u64,
    settlement: Settlement,
    /// Whether it was sent, so that it may have been heard.
    is_sent: bool,
}

/// Settlements of one key on their way.
pub(super) struct Batch {
    pub key: KeyId,
    pub settlements: Vec<Settlement>,
    numbers: Vec<u64>,
}

impl Due {
    pub(super) fn push(&self, key: &KeyId, settlement: Settlement) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { number, settlement, is_sent: false };
        self.by_key.lock().entry(key.clone()).or_default().push(entry);
        self.arrived.notify_one();
    }

    /// Waits until there is something that was not sent.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Of one key the first `most`, those on their way included: an admission takes them along, so that it finds what
    /// ended here before it.
    pub(super) fn of(&self, key: &KeyId, most: usize) -> Option<Batch> {
        let mut by_key = self.by_key.lock();
        by_key.get_mut(key).map(|entries| Batch::of(key, entries.iter_mut().take(most)))
    }

    /// `most` of all, a batch for each key.
    pub(super) fn all(&self, mut most: usize) -> Vec<Batch> {
        let mut batches = Vec::new();
        for (key, entries) in self.by_key.lock().iter_mut() {
            let batch = Batch::of(key, entries.iter_mut().take(most));
            most -= batch.numbers.len();
            batches.push(batch);
            if most == 0 {
                break;
            }
        }
        batches
    }

    /// They were acknowledged.
    pub(super) fn done(&self, batch: &Batch) {
        let mut by_key = self.by_key.lock();
        let Some(entries) = by_key.get_mut(&batch.key) else { return };
        entries.retain(|entry| !batch.numbers.contains(&entry.number));
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
}

impl Settlement {
    fn is_of_request(&self) -> bool {
        !matches!(self.ending, Ending::Stock { .. })
    }
}

impl Batch {
    fn of<'entries>(key: &KeyId, entries: impl Iterator<Item = &'entries mut Entry>) -> Self {
        let mut batch = Self { key: key.clone(), settlements: Vec::new(), numbers: Vec::new() };
        for entry in entries {
            entry.is_sent = true;
            batch.numbers.push(entry.number);
            batch.settlements.push(entry.settlement.clone());
        }
        batch
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
        let due = Due::default();
        let keys: [KeyId; 2] = ["key_a".parse().unwrap(), "key_b".parse().unwrap()];
        for (key, name) in [(&keys[0], "1"), (&keys[0], "2"), (&keys[1], "3")] {
            due.push(key, settlement(name));
        }
        assert_eq!(due.unsent().len(), 3);
        let first = due.of(&keys[0], 1).unwrap();
        assert_eq!((first.settlements.len(), due.unsent().len()), (1, 2));
        assert_eq!(
            due.all(100).iter().map(|batch| batch.settlements.len()).sum::<usize>(),
            3,
            "also what is on its way"
        );
        due.done(&first);
        assert_eq!(due.all(2).iter().map(|batch| batch.settlements.len()).sum::<usize>(), 2);
        due.all(100).iter().for_each(|batch| due.done(batch));
        assert!(due.all(100).is_empty() && due.of(&keys[0], 9).is_none() && due.unsent().is_empty());
    }
}
