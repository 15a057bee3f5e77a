//! What the server last said of each key, and what this gateway took of it in advance.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;

use super::stock::{Part, Stock};
use crate::{
    key::KeyId,
    limit::{Level, Limit, Limits, Moment, SPAN, Standing},
};

/// What counts of a key, and what runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub requests: u64,
    pub requests_reset: Duration,
    pub tokens: u64,
    pub tokens_reset: Duration,
    pub running: u64,
}

impl Counted {
    /// As the scripts state it: the server's time is first.
    pub(super) fn read(said: &[u64]) -> Option<Self> {
        let [_, requests, requests_reset, tokens, tokens_reset, running] = *said else { return None };
        let (requests_reset, tokens_reset) =
            (Duration::from_micros(requests_reset), Duration::from_micros(tokens_reset));
        Some(Self { requests, requests_reset, tokens, tokens_reset, running })
    }

    /// What that was `age` ago is now, if nothing was heard since.
    pub(super) fn standing(&self, limits: &Limits, age: Duration) -> Standing {
        let level = |limit: Limit, used: u64, reset: Duration| {
            let reset = reset.saturating_sub(age);
            Level { limit, used: if reset.is_zero() { 0 } else { used }, reset }
        };
        Standing {
            requests: level(limits.requests_per_minute, self.requests, self.requests_reset),
            tokens: level(limits.tokens_per_minute, self.tokens, self.tokens_reset),
            running: self.running,
        }
    }
}

/// What is known of the keys that were used in the last minute.
#[derive(Default)]
pub(super) struct Seen {
    by_key: Mutex<HashMap<KeyId, OfKey>>,
}

#[derive(Default)]
struct OfKey {
    counted: Counted,
    at: Moment,
    /// When the server was asked last, and before that.
    asked: [Option<Moment>; 2],
    stock: Option<Stock>,
}

/// A key for which the server was asked twice within this time is worth a stock.
const BUSY: Duration = Duration::from_secs(1);

impl Seen {
    /// The server said this of a key.
    pub(super) fn saw(&self, key: &KeyId, counted: Counted, now: Moment) {
        self.with(key, |of_key| (of_key.counted, of_key.at) = (counted, now));
    }

    /// What holds of a key, as far as is known.
    pub(super) fn standing(&self, key: &KeyId, limits: &Limits, now: Moment) -> Standing {
        let by_key = self.by_key.lock();
        let Some(of_key) = by_key.get(key) else { return Counted::default().standing(limits, Duration::ZERO) };
        let mut counted = of_key.counted;
        if let Some(stock) = &of_key.stock {
            let (requests, tokens) = stock.left();
            counted.requests = counted.requests.saturating_sub(requests);
            counted.tokens = counted.tokens.saturating_sub(tokens);
        }
        counted.standing(limits, now.saturating_since(of_key.at))
    }

    /// A request's part of what was taken in advance, if there is enough of it.
    pub(super) fn take_part(&self, key: &KeyId, tokens: u64, now: Moment) -> Option<Part> {
        self.by_key.lock().get_mut(key)?.stock.as_mut()?.take(tokens, now)
    }

    /// The server is about to be asked for a key. What is left of its stock is to be given back.
    pub(super) fn asks(&self, key: &KeyId, now: Moment) -> Option<Stock> {
        self.with(key, |of_key| {
            of_key.asked = [Some(now), of_key.asked[0]];
            of_key.stock.take()
        })
    }

    /// Whether the server is asked for a key often enough that a stock spares something.
    pub(super) fn is_busy(&self, key: &KeyId, now: Moment) -> bool {
        let before = self.by_key.lock().get(key).and_then(|of_key| of_key.asked[1]);
        before.is_some_and(|before| now.saturating_since(before) < BUSY)
    }

    /// Keeps what was taken in advance. Returns one that another request took at the same time.
    #[must_use]
    pub(super) fn keep(&self, key: &KeyId, stock: Stock) -> Option<Stock> {
        self.with(key, |of_key| of_key.stock.replace(stock))
    }

    /// The stocks that may not be used any more; and forgets keys of which nothing counts.
    pub(super) fn sweep(&self, now: Moment) -> Vec<(KeyId, Stock)> {
        let mut over = Vec::new();
        self.by_key.lock().retain(|key, of_key| {
            if of_key.stock.as_ref().is_some_and(|stock| stock.is_over(now)) {
                over.extend(of_key.stock.take().map(|stock| (key.clone(), stock)));
            }
            of_key.stock.is_some() || now.saturating_since(of_key.at) < SPAN
        });
        over
    }

    fn with<T>(&self, key: &KeyId, change: impl FnOnce(&mut OfKey) -> T) -> T {
        let mut by_key = self.by_key.lock();
        match by_key.get_mut(key) {
            Some(of_key) => change(of_key),
            None => change(by_key.entry(key.clone()).or_default()),
        }
    }
}
