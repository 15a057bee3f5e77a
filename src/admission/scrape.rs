//! What Prometheus gets: what was counted, and beside it what the counters and the wallets say at this moment.

use keymeter_core::{
    key::KeyId,
    limit::{Limit, Limits, WindowStatus},
};

use super::{Gate, Now};
use crate::observe::{
    metrics::{Shares, write_dropped_lines},
    process_log,
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
        keys.write_balances(&mut text, self.resolver.wallets().balances(now.moment));
        write_dropped_lines(&mut text, self.log.dropped(), process_log::dropped());
        Ok(text)
    }

    fn shares(&self, id: &KeyId, limits: &Limits, now: Now) -> Option<Shares> {
        let account = self.resolver.accounts().known(id)?;
        // Where others count too, each shows what went through it: that is known to the moment, and adds up.
        let standing = account.counters.standing(limits, now.moment);
        let of_level = |level: &WindowStatus| share(level.used, level.limit);
        Some(Shares {
            requests_per_minute: of_level(&standing.requests),
            tokens_per_minute: of_level(&standing.tokens),
            concurrent_requests: share(standing.running, limits.concurrent_requests),
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "a share is shown to a millionth")]
fn share(used: u64, limit: Limit) -> Option<f64> {
    Some(used as f64 / limit.number()? as f64)
}
