//! What a request may cost before anybody knows what it will, for a reservation from its key's wallet; and what is done
//! where the wallet is short.

use std::{sync::Arc, time::Duration};

use keymeter_core::{
    api::Endpoint,
    body::Scanned,
    clock::MonotonicTime,
    limit::{Demand, Limit, Strategy},
    price::{TokenCounts, Usd},
    wallet::{Cost, StalePolicy, WalletAllowance},
};

use super::{ActiveRequest, Admitted, Gate, Now, Rejected};

/// How long a request waits for what other gateways were granted of its wallet.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// A wallet whose keeper is to be asked, and what the request may cost.
pub struct AllowanceNeeded {
    /// What is known of the wallet.
    pub purse: Arc<WalletAllowance>,
    /// What is to be left of it.
    pub cost: Cost,
}

/// Asks the wallet's keeper, and admits the request again, until it is decided.
pub(super) async fn asked(
    gate: &Arc<Gate>,
    mut turned_away: Box<Rejected>,
    endpoint: Endpoint,
    scanned: &Scanned,
) -> Result<ActiveRequest, Box<Rejected>> {
    let Some(keeper) = &gate.keeper else { return Err(turned_away) };
    let start = MonotonicTime::now();
    loop {
        let Some(AllowanceNeeded { purse, cost }) = &turned_away.ask else { return Err(turned_away) };
        let trust = match keeper.request_allowance(purse.asking(*cost)).await {
            Ok(()) => StalePolicy::WhileItLasts,
            Err(refusal) => {
                tracing::debug!("no word on a wallet: {refusal}");
                StalePolicy::ForWantOfBetter
            }
        };
        let now = Now::read();
        match gate.admit_trusting(turned_away.visit, endpoint, scanned, trust, now).await {
            // Others may give back what they were granted and do not use.
            Err(again) if again.ask.is_some() && now.moment.saturating_since(start) < WAIT_FOR_OTHERS => {
                turned_away = again;
                tokio::time::sleep(ASK_AGAIN).await;
            }
            decided => return decided,
        }
    }
}

/// What a request may cost that reserves so many `tokens`. In the worst case no part of its prompt comes from a cache,
/// and each byte of it is a token.
pub(super) fn of(strategy: Strategy, admitted: &Admitted, scanned: &Scanned, demand: &Demand, tokens: u64) -> Cost {
    if !admitted.endpoint.takes_tokens() {
        return Cost::AtMost(Usd::ZERO);
    }
    let output = if demand.has_output { tokens.saturating_sub(demand.prompt) } else { 0 };
    match strategy {
        Strategy::Expected => Cost::Probably(cost(admitted, demand.prompt, output)),
        Strategy::WorstCase => {
            let bytes = scanned.prompt_text_bytes.saturating_add(scanned.prompt_tokens_given);
            Cost::AtMost(cost(admitted, demand.prompt.max(bytes), output))
        }
    }
}

/// The key's token limit, or, where the worst case is reserved and nothing says how long an answer may be, what the
/// wallet still pays for if that is less: so that the request's own maximum is set to that. Where it does not pay for what such answers
/// take, its keeper is asked for that much first.
pub(super) fn affordable(strategy: Strategy, admitted: &Admitted, demand: &Demand, now: MonotonicTime) -> Limit {
    let limit = admitted.limits.tokens_per_minute;
    let Some(purse) = &admitted.key.wallet else { return limit };
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
