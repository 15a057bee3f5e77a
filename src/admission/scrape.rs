//! What Prometheus gets: what was counted, and beside it what the counters and the wallets say at this moment.

use std::sync::Arc;

use keymeter_core::{
    key::KeyId,
    limit::{self, Counters, RequestLimits, Scope, ScopeLimits, Scopes},
};

use super::{Gate, Now};
use crate::{
    limits::account::ScopeAccount,
    observe::{
        metrics::{ScopeShares, Shares, write_dropped_lines},
        process_log,
    },
};

impl Gate {
    /// Everything in Prometheus' text format, as it is at `now`.
    ///
    /// # Errors
    /// When the encoder fails, which it does for inconsistent metrics only.
    pub fn scrape(&self, now: Now) -> Result<String, prometheus::Error> {
        let mut text = self.metrics.encode()?;
        let keys = self.metrics.keys();
        keys.write_shares(&mut text, |id, limits| self.shares(id, limits, now));
        keys.write_scope_shares(&mut text, self.scope_shares(now));
        keys.write_balances(&mut text, self.resolver.wallets().balances(now.moment));
        write_dropped_lines(&mut text, self.log.dropped(), process_log::dropped());
        Ok(text)
    }

    fn shares(&self, id: &KeyId, limits: &ScopeLimits, now: Now) -> Option<Shares> {
        let account = self.resolver.accounts().known(id)?;
        // Where others count too, each shows what went through it: that is known to the moment, and adds up.
        Some(shares(&account.counters, limits.clone(), now))
    }

    fn scope_shares(&self, now: Now) -> Vec<ScopeShares> {
        let accounts = [Scope::Team, Scope::Owner].into_iter().flat_map(|scope| {
            self.resolver.accounts().of_scope(scope).into_iter().map(move |account| (scope, account))
        });
        let of_account = |(scope, account): (Scope, Arc<ScopeAccount>)| ScopeShares {
            scope,
            id: account.id.clone(),
            shares: shares(&account.counters, account.limits(), now),
        };
        accounts.map(of_account).collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "a share is shown to a millionth")]
fn shares(counters: &Counters, limits: ScopeLimits, now: Now) -> Shares {
    let limits = RequestLimits::from(limits);
    let lines = limit::lines(&Scopes::of_key(counters), &limits, now);
    lines.iter().map(|line| (line.name, line.used as f64 / line.limit as f64)).collect()
}
