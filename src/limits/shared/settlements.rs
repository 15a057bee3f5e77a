//! The settlements that are still to be sent to the server. Each is kept until it is acknowledged. Sending one twice does
//! no harm, because the server counts it once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use keymeter_core::limit::{Division, QuotaName, Slot};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{quotas, script::Call, subject::Subject};

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
    /// Requests used this of quotas while the server was not asked.
    Spent(Vec<Spent>),
    /// The server knew this of quotas, and has lost it.
    Returned(Vec<Spent>),
}

/// What was used of one quota without the server.
#[derive(Clone, Debug)]
pub(super) struct Spent {
    pub name: QuotaName,
    pub slot: Slot,
    pub amount: u64,
    pub division: Division,
}

impl Ending {
    /// The end of a lease that was not used, and that the server may not even have given.
    pub(super) fn whole_lease(name: &str, places: u64) -> Self {
        let places: Vec<_> = (1..=places).map(|place| format!("{name}.{place}")).collect();
        Self::QuotaLease { requests: 0, tokens: 0, places: places.join(" ") }
    }
}

/// The settlement of one request or lease with one subject.
#[derive(Clone, Debug)]
pub(super) struct Settlement {
    pub name: Arc<str>,
    /// Where the server counts it; 0 if unknown.
    pub slot: u64,
    /// The tokens that were reserved.
    pub tokens: u64,
    pub ending: Ending,
    /// What it used of quotas, as the scripts read it; empty if it has none.
    pub quotas: Box<str>,
    /// The same, as it counts here.
    pub added: Box<[Spent]>,
}

/// Stands for the quotas of a request of which the server is to look up what it has reserved.
const LOOK_UP: &str = "-";

impl Settlement {
    /// The end of a request of which nothing more is known.
    pub(super) fn unknown(name: Arc<str>, ending: Ending, has_quotas: bool) -> Self {
        let quotas = if has_quotas { LOOK_UP.into() } else { Box::default() };
        Self { name, slot: 0, tokens: 0, ending, quotas, added: Box::default() }
    }

    /// Writes the settlement as the scripts read it.
    pub(super) fn write(&self, call: &mut Call<'_>) {
        let Self { name, slot, tokens, ending, quotas, .. } = self;
        let spent;
        let (word, third, fourth, fifth) = match ending {
            Ending::Settled { used } => ("settle", *tokens, *used, &**quotas),
            Ending::Dropped => ("drop", *tokens, 0, &**quotas),
            Ending::Cancelled => ("cancel", *tokens, 0, &**quotas),
            Ending::QuotaLease { requests, tokens, places } => ("stock", *requests, *tokens, &**places),
            Ending::Spent(uses) | Ending::Returned(uses) => {
                spent = said_of(uses);
                ("spent", 0, 0, &*spent)
            }
        };
        call.arg(&**name).arg(word).arg(*slot).arg(third).arg(fourth).arg(fifth);
    }

    /// What the server counts of quotas once it has it.
    pub(super) fn added(&self) -> &[Spent] {
        match &self.ending {
            Ending::Spent(uses) | Ending::Returned(uses) => uses,
            _ => &self.added,
        }
    }

    fn is_of_request(&self) -> bool {
        !matches!(self.ending, Ending::QuotaLease { .. } | Ending::Spent(_) | Ending::Returned(_))
    }
}

fn said_of(uses: &[Spent]) -> String {
    let mut words = String::new();
    for Spent { name, slot, amount, division } in uses {
        quotas::say(*name, *slot, *amount, division, &mut words);
    }
    words
}

/// The settlements of all subjects.
#[derive(Default)]
pub(super) struct Settlements {
    by_subject: Mutex<HashMap<Subject, Vec<Entry>>>,
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

/// Settlements of one subject that are sent together.
pub(super) struct SettlementBatch {
    pub subject: Subject,
    pub settlements: Vec<Settlement>,
    numbers: Vec<u64>,
}

impl Settlements {
    pub(super) fn push(&self, subject: &Subject, settlement: Settlement) {
        let mut by_subject = self.by_subject.lock();
        // Under the lock, so that the numbers of a subject ascend.
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { number, settlement, is_sent: false, is_under_way: false };
        match by_subject.get_mut(subject) {
            Some(entries) => entries.push(entry),
            None => drop(by_subject.insert(subject.clone(), vec![entry])),
        }
        drop(by_subject);
        self.arrived.notify_one();
    }

    /// Adds what was spent of quotas without the server, to what is still to be said of that: however long the server is
    /// away, it is one settlement for each subject.
    pub(super) fn push_spent(&self, subject: &Subject, name: Arc<str>, uses: Vec<Spent>) {
        let mut by_subject = self.by_subject.lock();
        let mut entries = by_subject.get_mut(subject).into_iter().flatten();
        let unsaid = entries.find_map(|entry| match &mut entry.settlement.ending {
            Ending::Spent(spent) if !entry.is_sent => Some(spent),
            _ => None,
        });
        let Some(spent) = unsaid else {
            drop(by_subject);
            let ending = Ending::Spent(uses);
            return self.push(subject, Settlement::unknown(name, ending, true));
        };
        for new in uses {
            match spent.iter_mut().find(|known| (known.name, known.slot) == (new.name, new.slot)) {
                Some(known) => known.amount = known.amount.saturating_add(new.amount),
                None => spent.push(new),
            }
        }
    }

    /// Waits until there may be a settlement that was not sent.
    pub(super) async fn wait_for_unsent(&self) {
        self.arrived.notified().await;
    }

    /// Whether all settlements are acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.by_subject.lock().is_empty()
    }

    /// The first `most` settlements of a subject. An admission takes them along, so that it counts what ended here before it.
    /// Settlements under way arrive before it anyway, if both go the same way.
    pub(super) fn of_subject(
        &self,
        subject: &Subject,
        most: usize,
        goes_the_same_way: bool,
    ) -> Option<SettlementBatch> {
        let by_subject = self.by_subject.lock();
        let entries = by_subject.get(subject)?.iter().filter(|entry| !(entry.is_under_way && goes_the_same_way));
        SettlementBatch::new(subject, entries.take(most))
    }

    /// The settlements that are not under way: about `most` of them, in a batch of `most_of_one` at most for each subject.
    pub(super) fn unsent_batches(&self, most: usize, most_of_one: usize) -> Vec<SettlementBatch> {
        let (mut batches, mut count) = (Vec::new(), 0);
        for (subject, entries) in self.by_subject.lock().iter() {
            let batch =
                SettlementBatch::new(subject, entries.iter().filter(|entry| !entry.is_under_way).take(most_of_one));
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

    /// Takes what settlements said of quotas that a server without its former data does not count: it keeps no request that
    /// ended before the settlement was sent.
    pub(super) fn take_sent(&self) -> Vec<(Subject, Box<[Spent]>)> {
        let mut by_subject = self.by_subject.lock();
        let mut taken = Vec::new();
        for (subject, entries) in by_subject.iter_mut() {
            for entry in entries.iter_mut().filter(|entry| entry.is_sent && !entry.settlement.added.is_empty()) {
                taken.push((subject.clone(), std::mem::take(&mut entry.settlement.added)));
            }
        }
        taken
    }

    /// Marks all settlements under way as lost.
    pub(super) fn mark_all_lost(&self) {
        for entry in self.by_subject.lock().values_mut().flatten() {
            entry.is_under_way = false;
        }
    }

    /// Removes a batch that was acknowledged. Returns those of it that were still there: a settlement may be in two batches at
    /// once, and the second to be acknowledged finds it gone.
    pub(super) fn remove(&self, batch: &SettlementBatch) -> Vec<Settlement> {
        let mut by_subject = self.by_subject.lock();
        let Some(entries) = by_subject.get_mut(&batch.subject) else { return Vec::new() };
        let removed = entries.extract_if(.., |entry| batch.has(entry)).map(|entry| entry.settlement).collect();
        if entries.is_empty() {
            by_subject.remove(&batch.subject);
        }
        removed
    }

    /// Whether the server cannot know the end of a request.
    pub(super) fn is_unsent(&self, subject: &Subject, name: &str) -> bool {
        let by_subject = self.by_subject.lock();
        let mut entries = by_subject.get(subject).into_iter().flatten();
        entries.any(|entry| !entry.is_sent && &*entry.settlement.name == name)
    }

    /// The requests whose end the server cannot know: it still keeps their permits.
    pub(super) fn unsent(&self) -> Vec<(Subject, Arc<str>)> {
        let by_subject = self.by_subject.lock();
        let unsent = by_subject.iter().flat_map(|(subject, entries)| {
            let ended =
                |entry: &&Entry| !entry.is_sent && entry.settlement.slot > 0 && entry.settlement.is_of_request();
            entries.iter().filter(ended).map(|entry| (subject.clone(), entry.settlement.name.clone()))
        });
        unsent.collect()
    }

    fn mark(&self, batch: &SettlementBatch, change: impl Fn(&mut Entry)) {
        if let Some(entries) = self.by_subject.lock().get_mut(&batch.subject) {
            entries.iter_mut().filter(|entry| batch.has(entry)).for_each(change);
        }
    }
}

impl SettlementBatch {
    fn new<'entries>(subject: &Subject, entries: impl Iterator<Item = &'entries Entry>) -> Option<Self> {
        let (numbers, settlements): (Vec<_>, _) = entries.map(|entry| (entry.number, entry.settlement.clone())).unzip();
        (!numbers.is_empty()).then(|| Self { subject: subject.clone(), settlements, numbers })
    }

    fn has(&self, entry: &Entry) -> bool {
        self.numbers.binary_search(&entry.number).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settlement(name: &str) -> Settlement {
        Settlement { slot: 1, tokens: 5, ..Settlement::unknown(name.into(), Ending::Dropped, false) }
    }

    #[test]
    fn what_is_not_acknowledged_is_said_again() {
        let settlements = Settlements::default();
        let keys = [Subject::from("key/key_a"), Subject::from("key/key_b")];
        for (key, name) in [(&keys[0], "1"), (&keys[0], "2"), (&keys[1], "3")] {
            settlements.push(key, settlement(name));
        }
        let waiting =
            || settlements.unsent_batches(100, 100).iter().map(|batch| batch.settlements.len()).sum::<usize>();
        assert_eq!((settlements.unsent().len(), waiting()), (3, 3));
        let first = settlements.of_subject(&keys[0], 1, true).unwrap();
        settlements.mark_sent(&first);
        assert_eq!((first.settlements.len(), settlements.unsent().len(), waiting()), (1, 2, 2));
        assert_eq!(
            settlements.of_subject(&keys[0], 9, true).unwrap().settlements.len(),
            1,
            "the other is heard before"
        );
        assert_eq!(settlements.of_subject(&keys[0], 9, false).unwrap().settlements.len(), 2, "or is not");
        settlements.mark_lost(&first);
        assert_eq!((settlements.unsent().len(), waiting()), (2, 3));
        assert_eq!(settlements.remove(&first).len(), 1);
        assert_eq!(settlements.remove(&first).len(), 0, "it is acknowledged once");
        assert_eq!(settlements.unsent_batches(1, 1).len(), 1);
        settlements.unsent_batches(100, 100).iter().for_each(|batch| settlements.mark_sent(batch));
        assert_eq!((settlements.unsent().len(), waiting()), (0, 0));
        settlements.mark_all_lost();
        assert_eq!((settlements.unsent().len(), waiting()), (0, 2));
        settlements.unsent_batches(100, 100).iter().for_each(|batch| drop(settlements.remove(batch)));
        assert!(settlements.is_empty() && settlements.of_subject(&keys[0], 9, false).is_none());
    }

    #[test]
    fn what_was_spent_without_the_server_is_said_at_once() {
        let (settlements, key) = (Settlements::default(), Subject::from("key/key_a"));
        let spent = |slot, amount| {
            let name = "tokens_per_1h".parse().unwrap();
            vec![Spent { name, slot, amount, division: Division::Steps(60_000_000) }]
        };
        for (name, slot, amount) in [("1", 7, 10), ("2", 7, 5), ("3", 8, 1)] {
            settlements.push_spent(&key, name.into(), spent(slot, amount));
        }
        let batch = settlements.of_subject(&key, 9, true).unwrap();
        let said = |settlement: &Settlement| match &settlement.ending {
            Ending::Spent(uses) => uses.iter().map(|spent| (spent.slot, spent.amount)).collect::<Vec<_>>(),
            _ => panic!("nothing else was said"),
        };
        assert_eq!((batch.settlements.len(), said(&batch.settlements[0])), (1, vec![(7, 15), (8, 1)]));
        settlements.mark_sent(&batch);
        settlements.push_spent(&key, "4".into(), spent(8, 2));
        settlements.mark_all_lost();
        let again = settlements.of_subject(&key, 9, true).unwrap();
        assert_eq!(said(&again.settlements[0]), [(7, 15), (8, 1)], "what may be known is said as it was");
        assert_eq!((&*again.settlements[1].name, said(&again.settlements[1])), ("4", vec![(8, 2)]));
    }
}
