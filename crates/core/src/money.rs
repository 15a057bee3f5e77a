//! Money: amounts, what requests cost, and what a wallet lets this process spend.
//!
//! Several gateways draw on one wallet, and none of them can ask the accounting service before every request. Each
//! gateway is therefore granted an allowance, reserves from it what a request may cost, and settles what the request did
//! cost.
//!
//! All sums are cumulative over the life of the process, so that balance updates and settlements may cross each other:
//! what is left is what was ever granted, less what was ever spent, less what is reserved. Balance updates are numbered,
//! so that an outdated one neither gives back what was given back already, nor takes what was granted since.

mod allowance;
mod balance;
mod grant;
mod price;
mod usd;
mod wallets;

pub use self::{
    allowance::{AllowanceRequestGuard, Hold, WalletAllowance},
    balance::{Allowance, AllowanceError, AllowanceRequest, BalanceUpdate, Cost, StalePolicy, USED_UP},
    grant::Grant,
    price::{Price, TokenCounts},
    usd::{Rate, Usd, UsdError},
    wallets::WalletAllowances,
};

#[cfg(test)]
mod tests;
