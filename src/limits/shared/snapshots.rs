//! The server's last answer about each subject, and this gateway's leases.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use jiff::Timestamp;
use keymeter_core::{
    clock::{MonotonicTime, Now},
    limit::{Division, Limit, LimitStatus, Limits, QuotaName, SPAN, WindowStatus},
};
use parking_lot::{Mutex, MutexGuard};

use super::{
    quota_lease::{LeaseShare, QuotaLease},
    subject::Subject,
};

/// What the server counts for a subject.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// The server's time, in microseconds.
    time: u64,
    pub requests: u64,
    pub requests_reset: Duration,
    pub tokens: u64,
    pub tokens_reset: Duration,
    pub running: u64,
}

impl Counted {
    /// So many numbers of an answer say it.
    pub(super) const NUMBERS: usize = 6;

    /// Reads the answer of a script; the server's time is first.
    pub(super) fn read(said: &[u64]) -> Option<Self> {
        let [time, requests, requests_reset, tokens, tokens_reset, running] = *said else { return None };
        let (requests_reset, tokens_reset) =
            (Duration::from_micros(requests_reset), Duration::from_micros(tokens_reset));
        Some(Self { time, requests, requests_reset, tokens, tokens_reset, running })
    }

    /// Whether this answer is later than `other`: answers overtake each other. Of two at one moment, the higher count is
    /// later. A server's clock that was set back by a minute starts anew.
    fn is_after(&self, other: &Self) -> bool {
        let span = u64::try_from(SPAN.as_micros()).unwrap_or(u64::MAX);
        (self.time, self.requests) >= (other.time, other.requests) || self.time.saturating_add(span) < other.time
    }

    /// The status now, from an answer that is `age` old.
    pub(super) fn status(&self, limits: &Limits, age: Duration) -> LimitStatus {
        let level = |limit: Limit, used: u64, reset: Duration| {
            let reset = reset.saturating_sub(age);
            WindowStatus { limit, used: if reset.is_zero() { 0 } else { used }, reset }
        };
        LimitStatus {
            requests: level(limits.requests_per_minute, self.requests, self.requests_reset),
            tokens: level(limits.tokens_per_minute, self.tokens, self.tokens_reset),
            running: self.running,
        }
    }
}

/// The snapshots of the subjects that were used lately: in the last minute, or for as long as their quotas count.
#[derive(Default)]
pub(super) struct Snapshots {
    /// By a subject's hash, so that requests of different subjects seldom wait for each other.
    parts: [Mutex<HashMap<Subject, Sighting>>; PARTS],
    hasher: RandomState,
    /// The leases of busy keys.
    leases: Mutex<HashMap<Subject, Busy>>,
}

const PARTS: usize = 32;

struct Sighting {
    counted: Counted,
    at: MonotonicTime,
    quotas: Box<[UsedQuota]>,
}

/// What is known of one quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct UsedQuota {
    pub name: QuotaName,
    /// What the server counted.
    pub used: u64,
    /// When it did, by its own clock.
    pub at: Timestamp,
    /// How it is divided, which says when that counts no longer.
    pub division: Division,
    /// What was used here itself when the server was first not asked after that.
    pub here: Option<u64>,
}

impl UsedQuota {
    /// Whether all of it counts no longer.
    pub(super) fn is_over(&self, date: Timestamp) -> bool {
        match self.division {
            Division::Spans { bounds: [_, _, end, _], .. } => date.as_second() >= end,
            // It stays for 60 steps beside the one that begins.
            Division::Steps(micros) => date.as_microsecond().saturating_sub(self.at.as_microsecond()) >= 61 * micros,
        }
    }
}

#[derive(Default)]
struct Busy {
    /// When the server was asked last, and the time before.
    asked: [Option<MonotonicTime>; 2],
    lease: Option<QuotaLease>,
}

/// A key that the server was asked for twice within this time is busy.
const BUSY: Duration = Duration::from_secs(1);

impl Snapshots {
    /// Records the server's answer about a subject.
    pub(super) fn record(&self, subject: &Subject, counted: Counted, quotas: Box<[UsedQuota]>, now: MonotonicTime) {
        let (mut part, sighting) = (self.part(subject), Sighting { counted, at: now, quotas });
        match part.get_mut(subject) {
            Some(known) if counted.is_after(&known.counted) => *known = sighting,
            Some(_) => {}
            None => drop(part.insert(subject.clone(), sighting)),
        }
    }

    /// The status of a subject, as far as it is known.
    pub(super) fn status(&self, subject: &Subject, limits: &Limits, now: MonotonicTime) -> LimitStatus {
        let known = self.part(subject).get(subject).map(|sighting| (sighting.counted, sighting.at));
        let (mut counted, at) = known.unwrap_or((Counted::default(), now));
        if let Some(lease) = self.leases.lock().get(subject).and_then(|busy| busy.lease.as_ref()) {
            let (requests, tokens) = lease.left();
            counted.requests = counted.requests.saturating_sub(requests);
            counted.tokens = counted.tokens.saturating_sub(tokens);
        }
        counted.status(limits, now.saturating_since(at))
    }

    /// What the server last counted of a quota, if that still counts at `date`, with what had been used here itself when it
    /// was first not asked: that is now, and what `used_here` says, if nobody asked before.
    pub(super) fn used_quota(
        &self,
        subject: &Subject,
        name: QuotaName,
        date: Timestamp,
        used_here: impl FnOnce() -> u64,
    ) -> Option<(u64, u64)> {
        let mut part = self.part(subject);
        let quotas = &mut part.get_mut(subject)?.quotas;
        let known = quotas.iter_mut().find(|known| known.name == name && !known.is_over(date))?;
        Some((known.used, *known.here.get_or_insert_with(used_here)))
    }

    /// Takes a request's share of the key's lease, if enough is left.
    pub(super) fn take_share(&self, subject: &Subject, tokens: u64, now: MonotonicTime) -> Option<LeaseShare> {
        self.leases.lock().get_mut(subject)?.lease.as_mut()?.take(tokens, now)
    }

    /// Records that the server is asked for a key, and takes what is left of its lease, which is to be returned.
    pub(super) fn record_request(&self, subject: &Subject, now: MonotonicTime) -> Option<QuotaLease> {
        let mut leases = self.leases.lock();
        let busy = leases.entry(subject.clone()).or_default();
        busy.asked = [Some(now), busy.asked[0]];
        busy.lease.take()
    }

    /// Whether the server is asked for a key so often that a lease pays.
    pub(super) fn is_busy(&self, subject: &Subject, now: MonotonicTime) -> bool {
        let before = self.leases.lock().get(subject).and_then(|busy| busy.asked[1]);
        before.is_some_and(|before| now.saturating_since(before) < BUSY)
    }

    /// Stores a lease. Returns one that another request took at the same time.
    #[must_use]
    pub(super) fn store_lease(&self, subject: &Subject, lease: QuotaLease) -> Option<QuotaLease> {
        self.leases.lock().entry(subject.clone()).or_default().lease.replace(lease)
    }

    /// Takes the expired leases, and forgets keys that are no longer busy.
    pub(super) fn take_expired(
        &self,
        is_expired: impl Fn(&QuotaLease) -> bool,
        now: MonotonicTime,
    ) -> Vec<(Subject, QuotaLease)> {
        let mut over = Vec::new();
        self.leases.lock().retain(|subject, busy| {
            if busy.lease.as_ref().is_some_and(&is_expired) {
                over.extend(busy.lease.take().map(|lease| (subject.clone(), lease)));
            }
            busy.lease.is_some() || busy.asked[0].is_some_and(|asked| now.saturating_since(asked) < BUSY)
        });
        over
    }

    /// Forgets subjects of which nothing counts any more.
    pub(super) fn forget(&self, now: Now) {
        for part in &self.parts {
            part.lock().retain(|_, sighting| {
                now.moment.saturating_since(sighting.at) < SPAN
                    || sighting.quotas.iter().any(|quota| !quota.is_over(now.date))
            });
        }
    }

    fn part(&self, subject: &Subject) -> MutexGuard<'_, HashMap<Subject, Sighting>> {
        let index = self.hasher.hash_one(subject) % PARTS as u64;
        #[allow(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "it is below the number of parts")]
        self.parts[index as usize].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_overtaken_is_not_believed() {
        let (snapshots, key, now) = (Snapshots::default(), Subject::from("key/key_a"), MonotonicTime::default());
        let limits = Limits { requests_per_minute: Limit::at(10).unwrap(), ..Limits::UNLIMITED };
        for (time, requests, believed) in [(500, 6, 6), (700, 10, 10), (600, 8, 10), (700, 9, 10), (900, 3, 3)] {
            let said = [time, requests, 60_000_000, 0, 0, 0];
            snapshots.record(&key, Counted::read(&said).unwrap(), Box::default(), now);
            assert_eq!(snapshots.status(&key, &limits, now).requests.used, believed, "{time}");
        }
        let set_back = [500, 1, 60_000_000, 0, 0, 0];
        snapshots.record(
            &key,
            Counted { time: 70_000_000_000, ..Counted::read(&set_back).unwrap() },
            Box::default(),
            now,
        );
        snapshots.record(&key, Counted::read(&set_back).unwrap(), Box::default(), now);
        assert_eq!(snapshots.status(&key, &limits, now).requests.used, 1);
    }
}
