//! What a request may cost before anybody knows what it will, for a reservation from its key's wallet; and what is done
//! where the wallet is short.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    clock::MonotonicTime,
    limit::{Demand, Limit, Strategy},
    money::{Cost, Hold, Short, StalePolicy, TokenCounts, Usd, WalletAllowance},
};

use super::{Admitted, Now, admit::Planned};

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

/// Takes what a request may cost from its key's wallet, if it has one.
///
/// # Errors
/// When the wallet does not pay for it, as far as is known here.
pub(super) fn reserve(planned: &Planned, policy: StalePolicy, now: Now) -> Result<Option<Hold>, Shortage> {
    let Some(wallet) = &planned.admitted.key.purse else { return Ok(None) };
    let cost = estimated(planned);
    wallet.reserve(cost, policy, now.moment).map(Some).map_err(|short| {
        let needed = (short != Short::Empty).then(|| AllowanceNeeded { wallet: wallet.clone(), cost });
        Shortage { needed }
    })
}

/// What a planned request may cost. In the worst case no part of its prompt comes from a cache, and each byte of it is a
/// token.
fn estimated(planned: &Planned) -> Cost {
    let Planned { admitted, demand, scanned, plan, .. } = planned;
    if !admitted.endpoint.takes_tokens() {
        return Cost::AtMost(Usd::ZERO);
    }
    let output = if demand.has_output { plan.tokens.saturating_sub(demand.prompt) } else { 0 };
    match planned.context.settings.strategy {
        Strategy::Expected => Cost::Probably(cost(admitted, demand.prompt, output)),
        Strategy::WorstCase => {
            let bytes = scanned.prompt_text_bytes.saturating_add(scanned.prompt_tokens_given);
            Cost::AtMost(cost(admitted, demand.prompt.max(bytes), output))
        }
    }
}

/// The key's token limit, or, where the worst case is reserved and nothing says how long an answer may be, what the
/// wallet still pays for if that is less: so that the request's own maximum is set to that. Where it does not pay for what such answers
/// take, the accounting service is asked for that much first.
pub(super) fn affordable(strategy: Strategy, admitted: &Admitted, demand: &Demand, now: MonotonicTime) -> Limit {
    let limit = admitted.limits.tokens_per_minute;
    let Some(purse) = &admitted.key.purse else { return limit };
    let has_maximum = demand.stated_maximum.or(demand.max_output_tokens).is_some();
    if strategy != Strategy::WorstCase || has_maximum || !demand.has_output {
        return limit;
    }
    let of_many = cost(admitted, 0, MANY).nanos().unsigned_abs().max(cost(admitted, MANY, 0).nanos().unsigned_abs());
    let expected = cost(admitted, demand.prompt, demand.expected_output.saturating_mul(demand.choices.max(1)));
    let left = if purse.was_refused(now) { purse.left() } else { purse.left().max(expected) };
    let left = u128::from(left.nanos().unsigned_abs());
    match (left * u128::from(MANY)).checked_div(of_many.into()) {
        Some(tokens) => {
            let tokens = u64::try_from(tokens).unwrap_or(u64::MAX).max(demand.certain_prompt);
            Limit::at(limit.cut(tokens)).unwrap_or(limit)
        }
        None => limit,
    }
}

/// Prices are of a million tokens.
const MANY: u64 = 1_000_000;

fn cost(admitted: &Admitted, prompt: u64, output: u64) -> Usd {
    let price = &admitted.model.price;
    let fresh = TokenCounts { input: prompt, output, ..TokenCounts::default() };
    let written = TokenCounts { cache_write: prompt, output, ..TokenCounts::default() };
    price.cost(&fresh, Duration::ZERO).max(price.cost(&written, Duration::ZERO))
}
