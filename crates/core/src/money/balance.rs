//! Messages about a wallet's balance between a gateway and the accounting service.

use std::{sync::Arc, time::Duration};

use super::Usd;

/// At this balance or less the keys of a wallet stop.
pub const USED_UP: Usd = Usd::from_nanos(50_000_000);

/// What the accounting service says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceUpdate {
    /// What is in it, less what was charged to it so far.
    pub balance: Usd,
    /// What of that is ours to spend; `None`: the accounting service grants nobody a part, and all of it is.
    pub allowance: Option<Allowance>,
}

/// What this process may spend of a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Which one it is: whenever something is granted or given back, it is a later one.
    pub version: u64,
    /// All that it was ever granted.
    pub granted: Usd,
    /// What its requests have cost so far, of which the accounting service knows.
    pub counted: Usd,
    /// From the question on. After that it must be asked for again.
    pub lasts: Duration,
}

/// Why nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowanceError {
    /// The accounting service is to be asked first.
    #[error("it is not known what is left of the wallet's allowance: ask the accounting service")]
    Ask,
    /// It is in the wallet, and granted to others, who may give it back in a moment: the accounting service is to be asked again.
    #[error("the rest of the wallet is granted to other gateways: ask the accounting service again in a moment")]
    Wait,
    /// There is not enough.
    #[error("the wallet has too little left: credit it")]
    Empty,
}

/// How far what was heard is gone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalePolicy {
    /// As long as it lasts.
    WhileItLasts,
    /// However old: the accounting service cannot be asked. What may be spent too much is what was left of the allowance.
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

/// What the accounting service is asked for.
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
