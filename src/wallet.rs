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
    /// What those may cost that wait for a word of the keeper.
    asking: i64,
    /// What the keeper was asked for last.
    wanted: i64,
    /// `settled` as it was when the last word came.
    settled_before: i64,
    /// When something was reserved or settled last.
    used: Moment,
    /// Whether others need what we do not.
    is_recalled: bool,
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
    /// Whether it is less than was asked for, or all that there is.
    is_short: bool,
}

/// Why nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// The keeper is to be asked first.
    Ask,
    /// It is in the wallet, and granted to others, who may give it back in a moment: the keeper is to be asked again.
    Wait,
    /// There is not enough.
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

/// What is reserved for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// It may cost so much and no more: it is admitted only if that is left.
    AtMost(Usd),
    /// It probably costs so much. One that would cost more than there is runs if it runs alone.
    Probably(Usd),
}

/// What a keeper is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Of which wallet.
    pub wallet: Arc<str>,
    /// All that shall be granted and not counted yet.
    pub wanted: Usd,
    /// All that was ever granted, less what is given back herewith.
    pub granted: Usd,
}

/// A keeper that had less than was asked for is not asked again so soon.
const JUST_HEARD: Duration = Duration::from_secs(1);

/// An allowance that nobody uses for so long goes back, so that others may have it.
const IDLE: Duration = Duration::from_millis(500);

/// But for this part of the balance, so that the next request need not ask, nor one without the keeper.
const KEPT: i64 = 8;

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

    /// Says that a request which may cost so much waits for a word of the keeper, as long as this is held.
    #[must_use]
    pub fn asking(self: &Arc<Self>, cost: Cost) -> Asking {
        let (Cost::AtMost(cost) | Cost::Probably(cost)) = cost;
        let mut state = self.state.lock();
        state.asking = state.asking.saturating_add(cost.nanos());
        Asking { purse: self.clone(), cost: cost.nanos() }
    }

    /// Others need what is granted to us and not in use: it goes back with the next wish.
    pub fn recall(&self) {
        let mut state = self.state.lock();
        // Whoever asks for more has nothing to spare.
        state.is_recalled = state.asking == 0;
    }

    /// Whether there is a word to a question that was put at `moment` or later.
    #[must_use]
    pub fn was_asked_since(&self, moment: Moment) -> bool {
        self.state.lock().heard.is_some_and(|heard| heard.asked >= moment)
    }

    /// What the keeper is to be asked for, for those who wait.
    #[must_use]
    pub fn question(&self) -> Wish {
        let mut state = self.state.lock();
        let granted = state.heard.map_or(0, |heard| heard.granted);
        state.wish(self.id.clone(), granted)
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
                is_short: {
                    let granted = allowance.granted.nanos().saturating_sub(allowance.counted.nanos());
                    granted < state.wanted || granted >= word.balance.nanos()
                },
            },
            None => Heard {
                asked,
                balance: word.balance.nanos(),
                granted: settled.saturating_add(word.balance.nanos()),
                counted: settled,
                expires: None,
                is_short: true,
            },
        };
        if let Some(before) = state.heard.filter(|before| before.asked <= asked) {
            // A keeper that knows of less than before has lost some of it, as one does that is restored from a backup:
            // what it once counted is not held against what it grants now.
            let lost = before.counted.saturating_sub(heard.counted).max(0);
            state.settled = state.settled.saturating_sub(lost);
        }
        let settled = state.settled;
        // Of two answers that crossed each other the one that knows more of our requests is the later.
        if state.heard.is_none_or(|before| before.asked <= asked || before.counted < heard.counted) {
            state.heard = Some(heard);
            state.settled_before = settled;
        }
    }

    /// Reserves what a request may cost.
    ///
    /// # Errors
    /// When that is not left, or nothing was heard of the wallet lately.
    pub fn reserve(self: &Arc<Self>, cost: Cost, trust: Trust, now: Moment) -> Result<Hold, Short> {
        let mut state = self.state.lock();
        let is_last_word = state.was_refused(now) || trust == Trust::ForWantOfBetter;
        let cost = match cost {
            Cost::Probably(cost) if is_last_word => {
                cost.nanos().min(state.left().saturating_add(state.reserved).max(1))
            }
            Cost::AtMost(cost) | Cost::Probably(cost) => cost.nanos(),
        };
        if state.allows(cost, trust, now) {
            state.reserved = state.reserved.saturating_add(cost);
            state.used = now;
            return Ok(Hold { purse: self.clone(), reserved: cost, cost: 0 });
        }
        Err(match trust {
            Trust::WhileItLasts if !is_last_word => Short::Ask,
            Trust::WhileItLasts if state.is_elsewhere(cost) => Short::Wait,
            Trust::WhileItLasts | Trust::ForWantOfBetter => Short::Empty,
        })
    }

    /// What could be reserved at most, without asking.
    #[must_use]
    pub fn left(&self) -> Usd {
        Usd::from_nanos(self.state.lock().left().max(0))
    }

    /// Whether the keeper had less than it was asked for, a moment ago.
    #[must_use]
    pub fn was_refused(&self, now: Moment) -> bool {
        self.state.lock().was_refused(now)
    }

    /// What the keeper is to be asked for in advance, if it is time: more of an allowance that is used and soon runs out,
    /// or less of one that is not used. What is given back is so from here on.
    #[must_use]
    pub fn wish(&self, now: Moment) -> Option<Wish> {
        let mut state = self.state.lock();
        let heard = state.heard?;
        let expires = heard.expires?;
        let spent = state.settled.saturating_sub(state.settled_before).saturating_add(state.reserved);
        let runs_out = now + SOON >= expires || state.left() < spent;
        let kept = (state.balance(&heard) / KEPT).max(0);
        let is_idle = state.reserved == 0 && state.asking == 0 && now.saturating_since(state.used) >= IDLE;
        let is_recalled = std::mem::take(&mut state.is_recalled) && now < expires && state.left() > 0;
        let kept = if is_recalled { 0 } else { kept };
        let granted = match () {
            () if is_recalled => state.settled.saturating_add(state.reserved),
            () if is_idle && now < expires && state.left() > kept => state.settled.saturating_add(kept),
            () if spent > 0 && runs_out && !state.was_refused(now) => heard.granted,
            () => return None,
        };
        let is_less = granted < heard.granted;
        state.heard = Some(Heard { granted, ..heard });
        if is_less {
            // What is kept is to stay, and nothing more is wanted.
            state.settled_before = state.settled;
            state.asking = kept;
        }
        let wish = state.wish(self.id.clone(), granted);
        if is_less {
            state.asking = 0;
        }
        Some(wish)
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
    pub fn wishes(&self, now: Moment) -> Vec<Wish> {
        self.by_id.read().values().filter_map(|purse| purse.wish(now)).collect()
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

    fn was_refused(&self, now: Moment) -> bool {
        self.heard.is_some_and(|heard| heard.is_short && now.saturating_since(heard.asked) < JUST_HEARD)
    }

    /// Whether the wallet has so much beside what is ours, which others were granted.
    fn is_elsewhere(&self, cost: i64) -> bool {
        let Some(heard) = self.heard.filter(|heard| heard.expires.is_some()) else { return false };
        let balance = self.balance(&heard);
        balance > USED_UP.nanos() && balance.saturating_sub(self.reserved) >= cost
    }

    /// What is in the wallet, as far as we know.
    fn balance(&self, heard: &Heard) -> i64 {
        heard.balance.saturating_sub(self.uncounted(heard))
    }

    /// What our requests have cost of which the keeper does not know yet.
    fn uncounted(&self, heard: &Heard) -> i64 {
        self.settled.saturating_sub(heard.counted).max(0)
    }

    fn left(&self) -> i64 {
        let granted = self.heard.map_or(0, |heard| heard.granted);
        granted.saturating_sub(self.settled).saturating_sub(self.reserved)
    }

    /// What is to be granted and not counted: what was spent and what runs or waits may cost, and twice what was spent
    /// since the last word, so that there need not be one for each request.
    fn wish(&mut self, wallet: Arc<str>, granted: i64) -> Wish {
        let uncounted = self.heard.map_or(self.settled, |heard| self.uncounted(&heard));
        let lately = self.settled.saturating_sub(self.settled_before).max(0);
        let pending = self.reserved.saturating_add(self.asking);
        self.wanted = uncounted.saturating_add(pending).saturating_add(lately.saturating_mul(2));
        let [wanted, granted] = [self.wanted, granted].map(Usd::from_nanos);
        Wish { wallet, wanted, granted }
    }
}

/// Says that somebody waits for a word of a wallet's keeper.
#[derive(Debug)]
pub struct Asking {
    purse: Arc<Purse>,
    cost: i64,
}

impl Asking {
    /// Of which wallet.
    #[must_use]
    pub fn purse(&self) -> &Arc<Purse> {
        &self.purse
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.purse.state.lock();
        state.asking = state.asking.saturating_sub(self.cost);
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
