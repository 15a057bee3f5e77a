//! What the server last said of each key, and what this gateway took of it in advance.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use keymeter_core::{
    clock::MonotonicTime,
    key::KeyId,
    limit::{Limit, LimitStatus, Limits, SPAN, WindowStatus},
};
use parking_lot::{Mutex, MutexGuard};

use super::quota_lease::{Part, QuotaLease};

/// What counts of a key, and what runs.
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
    /// As the scripts state it: the server's time is first.
    pub(super) fn read(said: &[u64]) -> Option<Self> {
        let [time, requests, requests_reset, tokens, tokens_reset, running] = *said else { return None };
        let (requests_reset, tokens_reset) =
            (Duration::from_micros(requests_reset), Duration::from_micros(tokens_reset));
        Some(Self { time, requests, requests_reset, tokens, tokens_reset, running })
    }

    /// Whether this was said after `other`: answers overtake each other. Of one moment, more is later. A server's clock
    /// that was set back by a minute begins anew.
    fn is_after(&self, other: &Self) -> bool {
        let span = u64::try_from(SPAN.as_micros()).unwrap_or(u64::MAX);
        (self.time, self.requests) >= (other.time, other.requests) || self.time.saturating_add(span) < other.time
    }

    /// What that was `age` ago is now, if nothing was heard since.
    pub(super) fn standing(&self, limits: &Limits, age: Duration) -> LimitStatus {
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

/// What is known of the keys that were used in the last minute.
#[derive(Default)]
pub(super) struct Snapshots {
    /// By a key's hash, so that requests of different keys seldom wait for each other.
    parts: [Mutex<HashMap<KeyId, Sighting>>; PARTS],
    hasher: RandomState,
    /// Of keys that are busy, what was taken in advance.
    stocks: Mutex<HashMap<KeyId, Busy>>,
}

const PARTS: usize = 32;

struct Sighting {
    counted: Counted,
    at: MonotonicTime,
}

#[derive(Default)]
struct Busy {
    /// When the server was asked last, and before that.
    asked: [Option<MonotonicTime>; 2],
    stock: Option<QuotaLease>,
}

/// A key for which the server was asked twice within this time is worth a stock.
const BUSY: Duration = Duration::from_secs(1);

impl Snapshots {
    /// The server said this of a key.
    pub(super) fn saw(&self, key: &KeyId, counted: Counted, now: MonotonicTime) {
        let (mut part, sighting) = (self.part(key), Sighting { counted, at: now });
        match part.get_mut(key) {
            Some(known) if counted.is_after(&known.counted) => *known = sighting,
            Some(_) => {}
            None => drop(part.insert(key.clone(), sighting)),
        }
    }

    /// What holds of a key, as far as is known.
    pub(super) fn standing(&self, key: &KeyId, limits: &Limits, now: MonotonicTime) -> LimitStatus {
        let known = self.part(key).get(key).map(|sighting| (sighting.counted, sighting.at));
        let (mut counted, at) = known.unwrap_or((Counted::default(), now));
        if let Some(stock) = self.stocks.lock().get(key).and_then(|busy| busy.stock.as_ref()) {
            let (requests, tokens) = stock.left();
            counted.requests = counted.requests.saturating_sub(requests);
            counted.tokens = counted.tokens.saturating_sub(tokens);
        }
        counted.standing(limits, now.saturating_since(at))
    }

    /// A request's part of what was taken in advance, if there is enough of it.
    pub(super) fn take_part(&self, key: &KeyId, tokens: u64, now: MonotonicTime) -> Option<Part> {
        self.stocks.lock().get_mut(key)?.stock.as_mut()?.take(tokens, now)
    }

    /// The server is about to be asked for a key. What is left of its stock is to be given back.
    pub(super) fn asks(&self, key: &KeyId, now: MonotonicTime) -> Option<QuotaLease> {
        let mut stocks = self.stocks.lock();
        let busy = stocks.entry(key.clone()).or_default();
        busy.asked = [Some(now), busy.asked[0]];
        busy.stock.take()
    }

    /// Whether the server is asked for a key often enough that a stock spares something.
    pub(super) fn is_busy(&self, key: &KeyId, now: MonotonicTime) -> bool {
        let before = self.stocks.lock().get(key).and_then(|busy| busy.asked[1]);
        before.is_some_and(|before| now.saturating_since(before) < BUSY)
    }

    /// Keeps what was taken in advance. Returns one that another request took at the same time.
    #[must_use]
    pub(super) fn keep(&self, key: &KeyId, stock: QuotaLease) -> Option<QuotaLease> {
        self.stocks.lock().entry(key.clone()).or_default().stock.replace(stock)
    }

    /// The stocks that may not be used any more. Keys that are busy no longer are forgotten.
    pub(super) fn stocks_over(
        &self,
        is_over: impl Fn(&QuotaLease) -> bool,
        now: MonotonicTime,
    ) -> Vec<(KeyId, QuotaLease)> {
        let mut over = Vec::new();
        self.stocks.lock().retain(|key, busy| {
            if busy.stock.as_ref().is_some_and(&is_over) {
                over.extend(busy.stock.take().map(|stock| (key.clone(), stock)));
            }
            busy.stock.is_some() || busy.asked[0].is_some_and(|asked| now.saturating_since(asked) < BUSY)
        });
        over
    }

    /// Forgets keys of which nothing counts any more.
    pub(super) fn forget(&self, now: MonotonicTime) {
        for part in &self.parts {
            part.lock().retain(|_, sighting| now.saturating_since(sighting.at) < SPAN);
        }
    }

    fn part(&self, key: &KeyId) -> MutexGuard<'_, HashMap<KeyId, Sighting>> {
        let index = self.hasher.hash_one(key) % PARTS as u64;
        #[allow(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "it is below the number of parts")]
        self.parts[index as usize].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_overtaken_is_not_believed() {
        let (seen, key, now) = (Snapshots::default(), "key_a".parse().unwrap(), MonotonicTime::default());
        let limits = Limits { requests_per_minute: Limit::at(10).unwrap(), ..Limits::UNLIMITED };
        for (time, requests, believed) in [(500, 6, 6), (700, 10, 10), (600, 8, 10), (700, 9, 10), (900, 3, 3)] {
            let said = [time, requests, 60_000_000, 0, 0, 0];
            seen.saw(&key, Counted::read(&said).unwrap(), now);
            assert_eq!(seen.standing(&key, &limits, now).requests.used, believed, "{time}");
        }
        let set_back = [500, 1, 60_000_000, 0, 0, 0];
        seen.saw(&key, Counted { time: 70_000_000_000, ..Counted::read(&set_back).unwrap() }, now);
        seen.saw(&key, Counted::read(&set_back).unwrap(), now);
        assert_eq!(seen.standing(&key, &limits, now).requests.used, 1);
    }
}
