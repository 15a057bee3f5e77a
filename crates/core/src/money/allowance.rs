//! The allowance of one wallet, as the process that spends from it knows it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{AllowanceError, AllowanceRequest, BalanceUpdate, Cost, StalePolicy, USED_UP, Usd};
use crate::clock::MonotonicTime;

/// One wallet, as far as this process may spend from it.
#[derive(Debug)]
pub struct WalletAllowance {
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
    /// What those may cost that wait for an update from the accounting service.
    asking: i64,
    /// `settled` as it was when the last update came.
    settled_before: i64,
    /// When something was reserved or settled last.
    used: MonotonicTime,
    /// Whether others need what we do not.
    is_recalled: bool,
    /// What was given back: no update of this version or an earlier one grants more than this.
    given_back: Option<(u64, i64)>,
}

/// The last update, in nano-dollars, and when it was asked for.
#[derive(Clone, Copy, Debug)]
struct Heard {
    asked: MonotonicTime,
    version: u64,
    balance: i64,
    granted: i64,
    counted: i64,
    /// `None`: there is no allowance that could run out.
    expires: Option<MonotonicTime>,
    /// Whether it is less than was asked for, or all that there is.
    is_short: bool,
}

/// An accounting service that had less than was asked for is not asked again so soon.
const JUST_HEARD: Duration = Duration::from_secs(1);

/// An allowance that nobody uses for so long goes back, so that others may have it.
const IDLE: Duration = Duration::from_millis(500);

/// But for this part of the balance, so that the next request need not ask, nor one without the accounting service.
const KEPT: i64 = 8;

/// What was heard longer ago is not told as what is so.
const LATELY: Duration = Duration::from_mins(10);

impl WalletAllowance {
    /// The allowance of the wallet `id`, of which nothing is known yet.
    #[must_use]
    pub fn new(id: Arc<str>) -> Self {
        Self { id, state: Mutex::default() }
    }

    /// The wallet's name.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Says that a request which may cost so much waits for an update from the accounting service, as long as this is held.
    #[must_use]
    pub fn asking(self: &Arc<Self>, cost: Cost) -> AllowanceRequestGuard {
        let (Cost::AtMost(cost) | Cost::Probably(cost)) = cost;
        let mut state = self.state.lock();
        state.asking = state.asking.saturating_add(cost.nanos());
        AllowanceRequestGuard { wallet: self.clone(), cost: cost.nanos() }
    }

    /// Others need what is granted to us and not in use: it goes back with the next request.
    pub fn recall(&self) {
        let mut state = self.state.lock();
        // Whoever asks for more has nothing to spare.
        state.is_recalled = state.asking == 0;
    }

    /// Whether there is an update for a question that was put at `moment` or later.
    #[must_use]
    pub fn was_asked_since(&self, moment: MonotonicTime) -> bool {
        self.state.lock().heard.is_some_and(|heard| heard.asked >= moment)
    }

    /// What the accounting service is to be asked for, for those who wait.
    #[must_use]
    pub fn question(&self) -> AllowanceRequest {
        let state = self.state.lock();
        state.request(self.id.clone(), state.pending())
    }

    /// Takes in what the accounting service said without being asked for more, such as with a key.
    pub fn update(&self, word: &BalanceUpdate, asked: MonotonicTime) {
        self.take_in(word, asked, 0);
    }

    /// Takes in what the accounting service answered to a `request` of `asked`.
    pub fn update_answered(&self, word: &BalanceUpdate, asked: MonotonicTime, request: &AllowanceRequest) {
        self.take_in(word, asked, request.wanted.nanos());
    }

    fn take_in(&self, word: &BalanceUpdate, asked: MonotonicTime, wanted: i64) {
        let mut state = self.state.lock();
        let heard = state.read(word, asked, wanted);
        if state.heard.is_none_or(|before| !before.is_later_than(&heard)) {
            state.heard = Some(heard);
            state.settled_before = state.settled;
        }
    }

    /// Reserves what a request may cost.
    ///
    /// # Errors
    /// When that is not left, or nothing was heard of the wallet lately.
    pub fn reserve(
        self: &Arc<Self>,
        cost: Cost,
        trust: StalePolicy,
        now: MonotonicTime,
    ) -> Result<Hold, AllowanceError> {
        let mut state = self.state.lock();
        let is_last_word = state.was_refused(now) || trust == StalePolicy::ForWantOfBetter;
        let cost = match cost {
            Cost::Probably(cost) if is_last_word => {
                cost.nanos().min(state.left().saturating_add(state.reserved).max(1))
            }
            Cost::AtMost(cost) | Cost::Probably(cost) => cost.nanos(),
        };
        if state.allows(cost, trust, now) {
            state.reserved = state.reserved.saturating_add(cost);
            state.used = now;
            return Ok(Hold { wallet: self.clone(), reserved: cost, cost: 0 });
        }
        Err(match trust {
            StalePolicy::WhileItLasts if !is_last_word => AllowanceError::Ask,
            StalePolicy::WhileItLasts if state.is_elsewhere(cost) => AllowanceError::Wait,
            StalePolicy::WhileItLasts | StalePolicy::ForWantOfBetter => AllowanceError::Empty,
        })
    }

    /// What is in the wallet, as far as we know; `None`: nothing was heard of it lately, and others may have spent it.
    #[must_use]
    pub fn balance(&self, now: MonotonicTime) -> Option<Usd> {
        let state = self.state.lock();
        let heard = state.heard.filter(|heard| now.saturating_since(heard.asked) < LATELY)?;
        Some(Usd::from_nanos(state.balance(&heard)))
    }

    /// What could be reserved at most, without asking.
    #[must_use]
    pub fn left(&self) -> Usd {
        Usd::from_nanos(self.state.lock().left().max(0))
    }

    /// Whether the accounting service had less than it was asked for, a moment ago.
    #[must_use]
    pub fn was_refused(&self, now: MonotonicTime) -> bool {
        self.state.lock().was_refused(now)
    }

    /// What the accounting service is to be asked for in advance, if it is time: more of an allowance that is used and soon runs out,
    /// or less of one that is not used. What is given back is so from here on.
    #[must_use]
    pub fn request(&self, now: MonotonicTime) -> Option<AllowanceRequest> {
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
        if granted == heard.granted {
            return Some(state.request(self.id.clone(), state.pending()));
        }
        state.heard = Some(Heard { granted, ..heard });
        state.given_back = Some((heard.version, granted));
        // What is kept is to stay, and nothing more is wanted.
        state.settled_before = state.settled;
        Some(state.request(self.id.clone(), granted.saturating_sub(state.settled)))
    }
}

impl Heard {
    /// Whether this update was said after `other`. Updates of one grant are told apart by what was counted by then.
    fn is_later_than(&self, other: &Self) -> bool {
        (self.version, self.counted, self.asked) > (other.version, other.counted, other.asked)
    }
}

/// An allowance that is used is asked for again so long before its end.
const SOON: Duration = Duration::from_secs(20);

impl State {
    fn allows(&self, cost: i64, trust: StalePolicy, now: MonotonicTime) -> bool {
        let Some(heard) = self.heard else { return false };
        let lasts = trust == StalePolicy::ForWantOfBetter || heard.expires.is_none_or(|end| now < end);
        let used_up = heard.expires.is_some() && self.balance(&heard) <= USED_UP.nanos();
        lasts && !used_up && self.left() > 0 && cost <= self.left()
    }

    fn was_refused(&self, now: MonotonicTime) -> bool {
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

    /// What our requests have cost of which the accounting service does not know yet.
    fn uncounted(&self, heard: &Heard) -> i64 {
        self.settled.saturating_sub(heard.counted).max(0)
    }

    fn left(&self) -> i64 {
        let granted = self.heard.map_or(0, |heard| heard.granted);
        granted.saturating_sub(self.settled).saturating_sub(self.reserved)
    }

    /// What runs, and what waits, may cost.
    fn pending(&self) -> i64 {
        self.reserved.saturating_add(self.asking)
    }

    /// What is to be granted and not counted: what was spent, `ahead`, and twice what was spent since the last update, so
    /// that there need not be one for each request.
    fn request(&self, wallet: Arc<str>, ahead: i64) -> AllowanceRequest {
        let uncounted = self.heard.map_or(self.settled, |heard| self.uncounted(&heard));
        let lately = self.settled.saturating_sub(self.settled_before).max(0);
        let wanted = uncounted.saturating_add(ahead).saturating_add(lately.saturating_mul(2));
        let (version, granted) = self.heard.map_or((0, 0), |heard| (heard.version, heard.granted));
        let [wanted, granted] = [wanted, granted].map(Usd::from_nanos);
        AllowanceRequest { wallet, version, wanted, granted }
    }

    /// What an update means to us that answers a question for so much.
    fn read(&mut self, word: &BalanceUpdate, asked: MonotonicTime, wanted: i64) -> Heard {
        let balance = word.balance.nanos();
        let Some(allowance) = word.allowance else {
            let granted = self.settled.saturating_add(balance);
            let (version, counted) = (0, self.settled);
            return Heard { asked, version, balance, granted, counted, expires: None, is_short: true };
        };
        let (version, counted) = (allowance.version, allowance.counted.nanos());
        let open = allowance.granted.nanos().saturating_sub(counted);
        let granted = match self.given_back {
            Some((until, most)) if version <= until => allowance.granted.nanos().min(most),
            _ => allowance.granted.nanos(),
        };
        let expires = Some(asked + allowance.lasts);
        Heard { asked, version, balance, granted, counted, expires, is_short: open < wanted || open >= balance }
    }
}

/// Says that somebody waits for an update from the accounting service.
#[derive(Debug)]
pub struct AllowanceRequestGuard {
    wallet: Arc<WalletAllowance>,
    cost: i64,
}

impl AllowanceRequestGuard {
    /// Of which wallet.
    #[must_use]
    pub fn wallet(&self) -> &Arc<WalletAllowance> {
        &self.wallet
    }
}

impl Drop for AllowanceRequestGuard {
    fn drop(&mut self) {
        let mut state = self.wallet.state.lock();
        state.asking = state.asking.saturating_sub(self.cost);
    }
}

/// What a running request has reserved of a wallet. Dropped, it gives all of it back but for what it is said to have
/// cost.
#[must_use = "what is reserved is given back when this is dropped"]
#[derive(Debug)]
pub struct Hold {
    wallet: Arc<WalletAllowance>,
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
        let mut state = self.wallet.state.lock();
        state.reserved = state.reserved.saturating_sub(self.reserved);
        state.settled = state.settled.saturating_add(self.cost);
    }
}
