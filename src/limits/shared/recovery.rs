//! What a server that lost its data gets back. The server's data bear a mark, the epoch, from when they were made; each gateway
//! remembers under which one it added to quotas what it did, in `limits.store` over its restarts too. Where the server has another
//! epoch, its data are new ones, and each gateway says once more what it added and still counts.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;
use keymeter_core::{
    glob::Glob,
    limit::{Division, QuotaName, QuotaSpan, QuotaUnit, Slot},
};
use parking_lot::Mutex;

use super::{
    script::MOST,
    settlements::{Ending, Settlement, Settlements, Spent},
    subject::Subject,
};
use crate::limits::kept::KeptQuotas;

/// What this gateway added to quotas on the server, and to which of its data.
pub(super) struct Recovery {
    kept: Arc<KeptQuotas>,
    /// By which the server knows this gateway's words again, if it keeps nothing on disk.
    gateway: Box<str>,
    epoch: Mutex<Option<Arc<str>>>,
    /// What the server has acknowledged.
    added: Mutex<HashMap<Subject, Vec<Spent>>>,
    /// What the server is to get back, and has not acknowledged.
    unacknowledged: AtomicUsize,
    /// Whether the epoch is still to be kept.
    is_unkept: AtomicBool,
}

/// The mark of the server's data. Its name is no subject's.
pub(super) const EPOCH: &str = "keymeter:{keymeter}:epoch";

impl Recovery {
    pub(super) fn new(kept: Arc<KeptQuotas>, gateway: Box<str>) -> Self {
        let (epoch, added) = (Mutex::default(), Mutex::default());
        Self { kept, gateway, epoch, added, unacknowledged: AtomicUsize::default(), is_unkept: AtomicBool::default() }
    }

    /// Remembers what settlements added that the server has acknowledged.
    pub(super) fn record(&self, subject: &Subject, settlements: &[Settlement]) {
        let mut uses = settlements.iter().flat_map(Settlement::added).peekable();
        if uses.peek().is_some() {
            add(self.added.lock().entry(subject.clone()).or_default(), uses);
        }
        let returned = settlements.iter().filter(|settlement| matches!(settlement.ending, Ending::Returned(_)));
        self.unacknowledged.fetch_sub(returned.count(), Ordering::AcqRel);
    }

    /// Says once more what was added, if the server's data are others than those to which it was.
    pub(super) fn check(&self, epoch: &str, settlements: &Settlements, now: Timestamp) {
        let Some(before) = self.replaced(epoch) else { return self.keep(epoch) };
        self.is_unkept.store(true, Ordering::Release);
        let mut lost = std::mem::take(&mut *self.added.lock());
        for (subject, uses) in settlements.take_sent() {
            add(lost.entry(subject).or_default(), uses.iter());
        }
        self.add_earlier(&mut lost, now);
        let name: Arc<str> = format!("{}.{epoch}", self.identity()).into();
        let mut count = 0_usize;
        for (subject, mut uses) in lost {
            uses.retain(|spent| spent.name.span.leaves(spent.slot) > now);
            if !uses.is_empty() {
                self.unacknowledged.fetch_add(1, Ordering::AcqRel);
                settlements.push(&subject, Settlement::unknown(name.clone(), Ending::Returned(uses), true));
                count += 1;
            }
        }
        if count > 0 && before.is_some() {
            tracing::warn!(
                "the shared-limits server has lost its data: it gets back what this gateway added to the quotas of {count} keys, \
                 teams, owners and models"
            );
        }
    }

    /// Lets go of what counts no longer.
    pub(super) fn forget(&self, now: Timestamp) {
        self.added.lock().retain(|_, uses| {
            uses.retain(|spent| spent.name.span.leaves(spent.slot) > now);
            !uses.is_empty()
        });
    }

    /// The epoch before, if this is another: `Some(None)` if none was known.
    #[allow(clippy::option_option, reason = "the same, none before, and another before are three cases")]
    fn replaced(&self, epoch: &str) -> Option<Option<Arc<str>>> {
        let mut known = self.epoch.lock();
        if known.is_none() {
            *known = self.kept.opened().and_then(|store| store.epoch()).map(Into::into);
        }
        let is_other = known.as_deref() != Some(epoch);
        is_other.then(|| known.replace(epoch.into()))
    }

    /// Keeps the epoch once the server has what it is to have.
    fn keep(&self, epoch: &str) {
        let Some(store) = self.kept.opened() else { return };
        if !self.is_unkept.load(Ordering::Acquire) || self.unacknowledged.load(Ordering::Acquire) > 0 {
            return;
        }
        match store.set_epoch(epoch) {
            Ok(()) => self.is_unkept.store(false, Ordering::Release),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// What earlier processes of this gateway added.
    fn add_earlier(&self, lost: &mut HashMap<Subject, Vec<Spent>>, now: Timestamp) {
        let Some(store) = self.kept.opened() else { return };
        store.each_earlier(|scope, id, models, name, slot, amount| {
            let subject = Subject::new(scope, id, models.map(Glob::new).as_ref());
            let spent = Spent { name, slot, amount: exact(name, amount), division: division(name.span, slot, now) };
            add(lost.entry(subject).or_default(), std::iter::once(&spent));
        });
    }

    /// The same over restarts where there is a store, so that the server takes the same words once.
    fn identity(&self) -> String {
        let kept = self.kept.opened().and_then(|store| store.identity());
        kept.unwrap_or_else(|| self.gateway.to_string())
    }
}

fn add<'spent>(all: &mut Vec<Spent>, more: impl Iterator<Item = &'spent Spent>) {
    for spent in more {
        match all.iter_mut().find(|known| (known.name, known.slot) == (spent.name, spent.slot)) {
            Some(known) => known.amount = known.amount.saturating_add(spent.amount),
            None => all.push(spent.clone()),
        }
    }
}

/// An amount that a script reads exactly, rounded up.
fn exact(name: QuotaName, amount: u64) -> u64 {
    let is_large = name.unit == QuotaUnit::Usd && amount >= MOST;
    if is_large { amount.checked_next_multiple_of(1024).unwrap_or(amount) } else { amount }
}

/// How the time of a quota is divided of which only the span is known, that ends at `slot` if it is one of the calendar.
fn division(span: QuotaSpan, slot: Slot, now: Timestamp) -> Division {
    if let Some(steps) = Division::of_length(span) {
        return steps;
    }
    let longest = span.longest();
    let begin = slot.saturating_sub(longest).min(now.as_second());
    Division::Spans { bounds: [begin.saturating_sub(longest), begin, slot, slot.saturating_add(longest)], longest }
}
