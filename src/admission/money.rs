//! What a request may cost before anybody knows what it will, for a reservation from its key's wallet; and what is done
//! where the wallet is short.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    clock::MonotonicTime,
    limit::{Demand, Limit, Strategy},
    money::{AllowanceError, Cost, Hold, StalePolicy, TokenCounts, Usd, WalletAllowance},
};

use super::{Admitted, Now};

/// How long a request waits for what other gateways were granted of its wallet.
pub(super) const WAIT_FOR_OTHERS: Duration = Duration::from_secs(2);
/// How long between two questions.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A wallet does not pay for a request.
pub(super) struct Shortage {
    /// What the accounting service may be asked for; `None`: the wallet is empty.
    pub needed: Option<AllowanceNeeded>,
}

/// More of a wallet than this process was granted.
pub(super) struct AllowanceNeeded {
    /// What is known of the wallet.
    pub wallet: Arc<WalletAllowance>,
    /// What is to be left of it.
    pub cost: Cost,
}

/// Takes `cost` from a request's wallet, if its key has one.
///
/// # Errors
/// When the wallet does not pay for it, as far as is known here.
pub(super) fn reserve(
    admitted: &Admitted,
    cost: impl FnOnce() -> Cost,
    policy: StalePolicy,
    now: Now,
) -> Result<Option<Hold>, Shortage> {
    let Some(wallet) = &admitted.key.wallet else { return Ok(None) };
    let cost = cost();
    wallet.reserve(cost, policy, now.moment).map(Some).map_err(|short| {
        let needed = (short != AllowanceError::Empty).then(|| AllowanceNeeded { wallet: wallet.clone(), cost });
        Shortage { needed }
    })
}

/// `limit`, or, where the worst case is reserved and nothing says how long an answer may be, what the
/// wallet still pays for if that is less: so that the request's own maximum is set to that. Where it does not pay for what such answers
/// take, the accounting service is asked for that much first.
pub(super) fn affordable(
    strategy: Strategy,
    admitted: &Admitted,
    demand: &Demand,
    limit: Limit,
    now: MonotonicTime,
) -> Limit {
    let Some(wallet) = &admitted.key.wallet else { return limit };
    let has_maximum = demand.stated_maximum.or(demand.max_output_tokens).is_some();
    if strategy != Strategy::WorstCase || has_maximum || !demand.has_output {
        return limit;
    }
    let expected = cost(admitted, demand.prompt, demand.expected_output.saturating_mul(demand.choices.max(1)));
    let left = if wallet.was_refused(now) { wallet.left() } else { wallet.left().max(expected) };
    match tokens_for(admitted, left.nanos().unsigned_abs()) {
        Some(tokens) => Limit::at(limit.cut(tokens.max(demand.certain()))).unwrap_or(limit),
        None => limit,
    }
}

/// How many tokens so many nano-dollars pay for, at the dearest price of the model; `None`: they cost nothing.
pub(super) fn tokens_for(admitted: &Admitted, nanos: u64) -> Option<u64> {
    let of_many = cost(admitted, 0, MANY).nanos().unsigned_abs().max(cost(admitted, MANY, 0).nanos().unsigned_abs());
    let tokens = (u128::from(nanos) * u128::from(MANY)).checked_div(of_many.into())?;
    Some(u64::try_from(tokens).unwrap_or(u64::MAX))
}

/// Prices are of a million tokens.
const MANY: u64 = 1_000_000;

/// What so many tokens cost at most, from a cache or written to one.
pub(super) fn cost(admitted: &Admitted, prompt: u64, output: u64) -> Usd {
    let price = &admitted.model.price;
    let fresh = TokenCounts { input: prompt, output, ..TokenCounts::default() };
    let written = TokenCounts { cache_write: prompt, output, ..TokenCounts::default() };
    // A request may ask that what it writes is kept for an hour, and so may the upstream.
    let for_an_hour = TokenCounts { cache_write_1h: prompt, ..written };
    [fresh, written, for_an_hour]
        .map(|tokens| price.cost(&tokens, Duration::ZERO))
        .into_iter()
        .fold(Usd::ZERO, Usd::max)
}
