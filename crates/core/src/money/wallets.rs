//! The wallets that this process spends from.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use super::{AllowanceRequest, Usd, WalletAllowance};
use crate::clock::MonotonicTime;

/// The wallets of all keys that were met. They stay for the life of the process, as their sums do; there are far fewer
/// of them than keys.
#[derive(Debug, Default)]
pub struct WalletAllowances {
    by_id: RwLock<HashMap<Arc<str>, Arc<WalletAllowance>>>,
}

impl WalletAllowances {
    /// The allowance of the wallet `id`.
    #[must_use]
    pub fn of(&self, id: &Arc<str>) -> Arc<WalletAllowance> {
        let known = self.by_id.read().get(id).cloned();
        known.unwrap_or_else(|| {
            let new = || Arc::new(WalletAllowance::new(id.clone()));
            self.by_id.write().entry(id.clone()).or_insert_with(new).clone()
        })
    }

    /// The allowance of the wallet `id`, if a key of it was met.
    #[must_use]
    pub fn known(&self, id: &str) -> Option<Arc<WalletAllowance>> {
        self.by_id.read().get(id).cloned()
    }

    /// What is in each wallet of which something was heard lately.
    #[must_use]
    pub fn balances(&self, now: MonotonicTime) -> Vec<(Arc<str>, Usd)> {
        let by_id = self.by_id.read();
        by_id.iter().filter_map(|(id, wallet)| Some((id.clone(), wallet.balance(now)?))).collect()
    }

    /// Of which wallets the accounting service is to be asked in advance, and for how much.
    #[must_use]
    pub fn requests(&self, now: MonotonicTime) -> Vec<AllowanceRequest> {
        self.by_id.read().values().filter_map(|wallet| wallet.request(now)).collect()
    }
}
