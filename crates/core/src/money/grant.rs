//! What the accounting service grants one process of a wallet: the other side of a
//! [`WalletAllowance`](super::WalletAllowance).

use std::time::Duration;

use jiff::Timestamp;

use super::{Allowance, AllowanceRequest, Usd};

/// What a process was granted so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which grant it is. It is the time in microseconds since 1970, or one more than the last: so it goes on where the
    /// accounting service is restored from a backup.
    pub version: u64,
    /// All that was ever granted.
    pub granted: Usd,
    /// What the process's requests have cost, as far as their records have arrived.
    pub counted: Usd,
    /// When what is not counted by then goes back.
    pub expires: Timestamp,
}

/// How long an allowance lasts.
const LASTS: Duration = Duration::from_mins(1);

/// What a process is granted that asks for nothing particular: a quarter of what is free, and this much if it is there.
const FIRST: i64 = 100_000_000;

impl Grant {
    /// To a process that was never granted anything.
    #[must_use]
    pub fn none() -> Self {
        Self { version: 0, granted: Usd::ZERO, counted: Usd::ZERO, expires: Timestamp::UNIX_EPOCH }
    }

    /// What may still be spent of it at `now`.
    #[must_use]
    pub fn outstanding(&self, now: Timestamp) -> Usd {
        let open = self.granted.nanos().saturating_sub(self.counted.nanos()).max(0);
        if self.expires > now { Usd::from_nanos(open) } else { Usd::ZERO }
    }

    /// The next grant, out of a balance of which `others` were granted so much. What is given back is taken only by one
    /// who knows the last grant: otherwise it was overtaken, and may be in use.
    #[must_use]
    pub fn next(self, balance: Usd, others: Usd, request: Option<&AllowanceRequest>, now: Timestamp) -> Self {
        let known = request.filter(|request| request.version == self.version);
        let granted = known.map_or(self.granted, |request| request.granted.min(self.granted));
        let own = Self { granted, ..self }.outstanding(now).nanos();
        let free = balance.nanos().saturating_sub(others.nanos()).saturating_sub(own).max(0);
        let first = if own == 0 { FIRST.max(free / 4) } else { own };
        let wanted = request.map_or(first, |request| request.wanted.nanos());
        let open = own.max(wanted.min(own.saturating_add(free)));
        let micros = u64::try_from(now.as_microsecond()).unwrap_or(0);
        Self {
            version: micros.max(self.version.saturating_add(1)),
            granted: Usd::from_nanos(self.counted.nanos().saturating_add(open)),
            counted: self.counted,
            expires: now.checked_add(LASTS).unwrap_or(Timestamp::MAX),
        }
    }

    /// What the process is told at `now`.
    #[must_use]
    pub fn allowance(&self, now: Timestamp) -> Allowance {
        let Self { version, granted, counted, expires } = *self;
        Allowance { version, granted, counted, lasts: Duration::try_from(expires - now).unwrap_or_default() }
    }

    /// Whether it lasts so long yet that none needs to be made.
    #[must_use]
    pub fn lasts_a_while(&self, now: Timestamp) -> bool {
        self.allowance(now).lasts >= LASTS / 2
    }
}
