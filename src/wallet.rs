//! What a wallet lets this process spend. Several gateways draw on one wallet, and nobody can ask its keeper before every
//! request: so each is granted an allowance, reserves from it what a request may cost, and settles what it did cost.
//!
//! All sums are cumulative over the life of the process, so that words of the keeper and settlements may cross each
//! other: what is left is what was ever granted, less what was ever spent, less what is reserved.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};

use crate::{limit::Moment, price::Usd};

/// At this balance or less the keys of a wallet stop.
pub const USED_UP: Usd = Usd::from_nanos(50_000_000);

/// What a wallet's keeper says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What is in it, less what was charged to it so far.
    pub balance: Usd,
    /// What of that is ours to spend; `None`: the keeper grants nobody a part, and all of it is.
    pub allowance: Option<Allowance>,
}

/// What this process may spend of a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// All that it was ever granted.
    pub granted: Usd,
    /// What its requests have cost so far, of which the keeper knows.
    pub counted: Usd,
    /// From the question on. After that it must be asked for again.
    pub lasts: Duration,
}

/// One wallet, as far as this process may spend from it.
#[derive(Debug)]
pub struct Purse {
    id: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    heard: Option<Heard>,
    /// What our requests have cost since the process began.
    settled: i64,
    /// What the running ones may cost.
    reserved: i64,
    /// `settled` as it was when the last word came.
    settled_before: i64,
}

/// The last word, in nano-dollars, and when it was asked for.
#[derive(Clone, Copy, Debug)]
struct Heard {
    asked: Moment,
    balance: i64,
    granted: i64,
    counted: i64,
    /// `None`: there is no allowance that could run out.
    expires: Option<Moment>,
}

/// Why nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// The keeper is to be asked first, so that so much is left.
    Ask(Usd),
    /// The keeper was asked a moment ago, and there is not enough.
    Empty,
}

/// How far what was heard is gone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// As long as it lasts.
    WhileItLasts,
    /// However old: the keeper cannot be asked. What may be spent too much is what was left of the allowance.
    ForWantOfBetter,
}

/// Within this time it is useless to ask again.
const JUST_HEARD: Duration = Duration::from_secs(1);

impl Purse {
    /// The purse of the wallet `id`, of which nothing is known yet.
    #[must_use]
    pub fn new(id: Arc<str>) -> Self {
        Self { id, state: Mutex::default() }
    }

    /// The wallet's name.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Takes in what the keeper answered to a question of `asked`.
    pub fn hear(&self, word: &Word, asked: Moment) {
        let mut state = self.state.lock();
        let settled = state.settled;
        let heard = match word.allowance {
            Some(allowance) => Heard {
                asked,
                balance: word.balance.nanos(),
                granted: allowance.granted.nanos(),
                counted: allowance.counted.nanos(),
                expires: Some(asked + allowance.lasts),
            },
            None => Heard {
                asked,
                balance: word.balance.nanos(),
                granted: settled.saturating_add(word.balance.nanos()),
                counted: settled,
                expires: None,
            },
        };
        // Of two answers that crossed each other the one that knows more of our requests is the later.
        if state.heard.is_none_or(|before| before.asked <= asked || before.counted < heard.counted) {
            state.heard = Some(heard);
            state.settled_before = settled;
        }
    }

    /// Reserves what a request may cost, at most.
    ///
    /// # Errors
    /// When that is not left, or nothing was heard of the wallet lately.
    pub fn reserve(self: &Arc<Self>, cost: Usd, trust: Trust, now: Moment) -> Result<Hold, Short> {
        let mut state = self.state.lock();
        let cost = cost.nanos();
        if state.allows(cost, trust, now) {
            state.reserved = state.reserved.saturating_add(cost);
            return Ok(Hold { purse: self.clone(), reserved: cost, cost: 0 });
        }
        if state.was_just_asked(now) || trust == Trust::ForWantOfBetter {
            return Err(Short::Empty);
        }
        Err(Short::Ask(Usd::from_nanos(state.wanted(cost))))
    }

    /// What could be reserved at most, without asking.
    #[must_use]
    pub fn left(&self) -> Usd {
        Usd::from_nanos(self.state.lock().left().max(0))
    }

    /// Whether the keeper was asked so lately that it is useless to ask again.
    #[must_use]
    pub fn was_just_asked(&self, now: Moment) -> bool {
        self.state.lock().was_just_asked(now)
    }

    /// What the keeper is to be asked for in advance, if it is time: of an allowance that is used, and soon runs out.
    /// It is all that shall be granted and not counted yet.
    #[must_use]
    pub fn wish(&self, now: Moment) -> Option<Usd> {
        let state = self.state.lock();
        let heard = state.heard?;
        let expires = heard.expires?;
        let spent = state.settled.saturating_sub(state.settled_before).saturating_add(state.reserved);
        let runs_out = now + SOON >= expires || state.left() < spent;
        (spent > 0 && runs_out && !state.was_just_asked(now)).then(|| Usd::from_nanos(state.wanted(0)))
    }
}

/// The wallets of all keys that were met. They stay for the life of the process, as their sums do; there are far fewer
/// of them than keys.
#[derive(Debug, Default)]
pub struct Purses {
    by_id: RwLock<HashMap<Arc<str>, Arc<Purse>>>,
}

impl Purses {
    /// The purse of the wallet `id`.
    #[must_use]
    pub fn of(&self, id: &Arc<str>) -> Arc<Purse> {
        let known = self.by_id.read().get(id).cloned();
        known.unwrap_or_else(|| {
            let new = || Arc::new(Purse::new(id.clone()));
            self.by_id.write().entry(id.clone()).or_insert_with(new).clone()
        })
    }

    /// The purse of the wallet `id`, if a key of it was met.
    #[must_use]
    pub fn known(&self, id: &str) -> Option<Arc<Purse>> {
        self.by_id.read().get(id).cloned()
    }

    /// Of which wallets the keeper is to be asked in advance, and for how much.
    #[must_use]
    pub fn wishes(&self, now: Moment) -> Vec<(Arc<str>, Usd)> {
        let purses = self.by_id.read();
        purses.values().filter_map(|purse| Some((purse.id.clone(), purse.wish(now)?))).collect()
    }
}

/// An allowance that is used is asked for again so long before its end.
const SOON: Duration = Duration::from_secs(20);

impl State {
    fn allows(&self, cost: i64, trust: Trust, now: Moment) -> bool {
        let Some(heard) = self.heard else { return false };
        let lasts = trust == Trust::ForWantOfBetter || heard.expires.is_none_or(|end| now < end);
        let used_up = heard.expires.is_some() && self.balance(&heard) <= USED_UP.nanos();
        lasts && !used_up && self.left() > 0 && cost <= self.left()
    }

    fn was_just_asked(&self, now: Moment) -> bool {
        self.heard.is_some_and(|heard| now.saturating_since(heard.asked) < JUST_HEARD)
    }

    /// What is in the wallet, as far as we know.
    fn balance(&self, heard: &Heard) -> i64 {
        heard.balance.saturating_sub(self.settled.saturating_sub(heard.counted).max(0))
    }

    fn left(&self) -> i64 {
        let granted = self.heard.map_or(0, |heard| heard.granted);
        granted.saturating_sub(self.settled).saturating_sub(self.reserved)
    }

    /// What is to be granted and not counted, so that `cost` is left and as much as was spent since the last word.
    fn wanted(&self, cost: i64) -> i64 {
        let counted = self.heard.map_or(0, |heard| heard.counted);
        let uncounted = self.settled.saturating_sub(counted).max(0);
        let lately = self.settled.saturating_sub(self.settled_before).max(0);
        let ahead = cost.max(0).saturating_add(lately.saturating_mul(2));
        uncounted.saturating_add(self.reserved).saturating_add(ahead)
    }
}

/// What a running request has reserved of a wallet. Dropped, it gives all of it back but for what it is said to have
/// cost.
#[must_use = "what is reserved is given back when this is dropped"]
#[derive(Debug)]
pub struct Hold {
    purse: Arc<Purse>,
    reserved: i64,
    cost: i64,
}

impl Hold {
    /// Ends the request, which cost so much in the end, be it more than was reserved.
    pub fn settle(mut self, cost: Usd) {
        self.cost = cost.nanos();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.purse.state.lock();
        state.reserved = state.reserved.saturating_sub(self.reserved);
        state.settled = state.settled.saturating_add(self.cost);
    }
}

#[cfg(test)]
mod tests;
