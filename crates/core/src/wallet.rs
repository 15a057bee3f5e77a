//! What a wallet lets this process spend. Several gateways draw on one wallet, and nobody can ask its keeper before every
//! request: so each is granted an allowance, reserves from it what a request may cost, and settles what it did cost.
//!
//! All sums are cumulative over the life of the process, so that words of the keeper and settlements may cross each
//! other: what is left is what was ever granted, less what was ever spent, less what is reserved. Words are numbered, so
//! that one that was overtaken neither gives back what was given back, nor takes what was granted since.

mod allowance;
mod grant;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::RwLock;

pub use self::{
    allowance::{AllowanceRequestGuard, Hold, WalletAllowance},
    grant::Grant,
};
use crate::{clock::MonotonicTime, price::Usd};

/// At this balance or less the keys of a wallet stop.
pub const USED_UP: Usd = Usd::from_nanos(50_000_000);

/// What a wallet's keeper says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceUpdate {
    /// What is in it, less what was charged to it so far.
    pub balance: Usd,
    /// What of that is ours to spend; `None`: the keeper grants nobody a part, and all of it is.
    pub allowance: Option<Allowance>,
}

/// What this process may spend of a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Which one it is: whenever something is granted or given back, it is a later one.
    pub version: u64,
    /// All that it was ever granted.
    pub granted: Usd,
    /// What its requests have cost so far, of which the keeper knows.
    pub counted: Usd,
    /// From the question on. After that it must be asked for again.
    pub lasts: Duration,
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
pub enum StalePolicy {
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
pub struct AllowanceRequest {
    /// Of which wallet.
    pub wallet: Arc<str>,
    /// The last allowance that is known; 0: none.
    pub version: u64,
    /// All that shall be granted and not counted yet.
    pub wanted: Usd,
    /// All that was ever granted, less what is given back herewith.
    pub granted: Usd,
}

/// The wallets of all keys that were met. They stay for the life of the process, as their sums do; there are far fewer
/// of them than keys.
#[derive(Debug, Default)]
pub struct WalletAllowances {
    by_id: RwLock<HashMap<Arc<str>, Arc<WalletAllowance>>>,
}

impl WalletAllowances {
    /// The purse of the wallet `id`.
    #[must_use]
    pub fn of(&self, id: &Arc<str>) -> Arc<WalletAllowance> {
        let known = self.by_id.read().get(id).cloned();
        known.unwrap_or_else(|| {
            let new = || Arc::new(WalletAllowance::new(id.clone()));
            self.by_id.write().entry(id.clone()).or_insert_with(new).clone()
        })
    }

    /// The purse of the wallet `id`, if a key of it was met.
    #[must_use]
    pub fn known(&self, id: &str) -> Option<Arc<WalletAllowance>> {
        self.by_id.read().get(id).cloned()
    }

    /// What is in each wallet of which something was heard lately.
    #[must_use]
    pub fn balances(&self, now: MonotonicTime) -> Vec<(Arc<str>, Usd)> {
        let by_id = self.by_id.read();
        by_id.iter().filter_map(|(id, purse)| Some((id.clone(), purse.balance(now)?))).collect()
    }

    /// Of which wallets the keeper is to be asked in advance, and for how much.
    #[must_use]
    pub fn wishes(&self, now: MonotonicTime) -> Vec<AllowanceRequest> {
        self.by_id.read().values().filter_map(|purse| purse.wish(now)).collect()
    }
}

#[cfg(test)]
mod tests;
