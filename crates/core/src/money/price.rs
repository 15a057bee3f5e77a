//! What a model's requests cost. All parts of a cost are added before it is rounded, once for each request.

use std::time::Duration;

use super::{Rate, Usd};

/// What a model's requests cost. What has no price costs nothing, but for the two kinds of cached
/// input, which then cost what input does.
///
/// What is written to a cache for an hour costs 1.6 times what is written for minutes, unless it has a price: Anthropic
/// takes 2 and 1.25 times the input's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// For one million tokens of prompt that came from no cache.
    pub input: Option<Rate>,
    /// For one million tokens of prompt read from a cache.
    pub cached_input: Option<Rate>,
    /// For one million tokens of prompt written to a cache.
    pub cache_write: Option<Rate>,
    /// For one million tokens of prompt written to a cache for an hour.
    pub cache_write_1h: Option<Rate>,
    /// For one million tokens of output.
    pub output: Option<Rate>,
    /// For one minute of audio.
    pub audio_minute: Option<Rate>,
    /// For one request.
    pub request: Option<Rate>,
}

/// Tokens by what they cost. Each token counts as one kind only, but for `cache_write_1h`: `input` has none of the cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Of the prompt, from no cache.
    pub input: u64,
    /// Of the prompt, read from a cache.
    pub cached_input: u64,
    /// Of the prompt, written to a cache.
    pub cache_write: u64,
    /// Those of `cache_write` that are kept for an hour.
    pub cache_write_1h: u64,
    /// Of the answer, reasoning included.
    pub output: u64,
}

/// The share of a price that its smallest unit takes: a minute is this many nanoseconds, and a
/// million tokens divide it too, so that all parts of a cost are added before it is rounded.
const SHARES: u128 = 60_000_000_000;
const SHARES_OF_A_TOKEN: u128 = SHARES / 1_000_000;

impl Price {
    /// Whether there is no price at all, so that nothing is charged whatever is used.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        *self == Self::default()
    }

    /// What one request costs that took these tokens and this much audio, rounded once, half up,
    /// to the nano-dollar. It saturates at the largest amount.
    #[must_use]
    pub fn cost(&self, tokens: &TokenCounts, audio: Duration) -> Usd {
        let for_an_hour = tokens.cache_write_1h.min(tokens.cache_write);
        let for_minutes = tokens.cache_write - for_an_hour; // it is no more than that
        let (an_hour, its_share) = self.hour();
        let shares = [
            shares(self.input, tokens.input.into(), SHARES_OF_A_TOKEN),
            shares(self.cached_input.or(self.input), tokens.cached_input.into(), SHARES_OF_A_TOKEN),
            shares(self.cache_write.or(self.input), for_minutes.into(), SHARES_OF_A_TOKEN),
            shares(an_hour, for_an_hour.into(), its_share),
            shares(self.output, tokens.output.into(), SHARES_OF_A_TOKEN),
            shares(self.audio_minute, audio.as_nanos(), 1),
            shares(self.request, 1, SHARES),
        ];
        let nanos = shares.into_iter().fold(SHARES / 2, u128::saturating_add) / SHARES;
        Usd::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// The rate of what is written to a cache for an hour, and the share of it that one token takes.
    fn hour(&self) -> (Option<Rate>, u128) {
        match (self.cache_write_1h, self.cache_write) {
            (None, Some(for_minutes)) => (Some(for_minutes), SHARES_OF_A_TOKEN * 8 / 5),
            (for_an_hour, _) => (for_an_hour.or(self.input), SHARES_OF_A_TOKEN),
        }
    }
}

fn shares(rate: Option<Rate>, units: u128, shares_of_a_unit: u128) -> u128 {
    rate.map_or(0, |rate| rate.nanos().saturating_mul(units).saturating_mul(shares_of_a_unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usd(text: &str) -> Usd {
        text.parse().unwrap()
    }

    fn rate(text: &str) -> Option<Rate> {
        text.parse().ok()
    }

    fn llama() -> Price {
        Price {
            input: rate("0.20"),
            cached_input: rate("0.05"),
            cache_write: rate("0.25"),
            output: rate("0.60"),
            ..Price::default()
        }
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        let tokens = TokenCounts { input: 1000, cached_input: 200, cache_write: 40, cache_write_1h: 0, output: 500 };
        // 0.0002 + 0.00001 + 0.00001 + 0.0003
        assert_eq!(llama().cost(&tokens, Duration::ZERO), usd("0.00052"));
    }

    #[test]
    fn cached_tokens_without_a_price_cost_what_input_does() {
        let tokens = TokenCounts { input: 1, cached_input: 10, cache_write: 100, cache_write_1h: 0, output: 1000 };
        let price = Price { input: rate("1"), ..Price::default() };
        assert_eq!(price.cost(&tokens, Duration::ZERO), usd("0.000111"), "and output has no price");
        let free = Price { cached_input: rate("0"), ..price };
        assert_eq!(free.cost(&tokens, Duration::ZERO), usd("0.000101"), "a price of 0 is a price");
        assert_eq!(Price::default().cost(&tokens, Duration::from_mins(1)), Usd::ZERO);
    }

    #[test]
    fn what_is_written_for_an_hour_has_a_price_of_its_own() {
        let tokens = TokenCounts { cache_write: 1000, cache_write_1h: 400, ..TokenCounts::default() };
        let cost = |price: Price| price.cost(&tokens, Duration::ZERO);
        // 600 at 0.25, and 400 at 1.6 times that, at its own price, and at 0.
        assert_eq!(cost(llama()), usd("0.00031"));
        assert_eq!(cost(Price { cache_write_1h: rate("0.5"), ..llama() }), usd("0.00035"));
        assert_eq!(cost(Price { cache_write_1h: rate("0"), ..llama() }), usd("0.00015"), "a price of 0 is a price");
        assert_eq!(
            cost(Price { cache_write: None, ..llama() }),
            usd("0.0002"),
            "without a price it costs what input does"
        );
        let its_own = Price { cache_write_1h: rate("0.5"), cache_write: None, ..llama() };
        assert_eq!(cost(its_own), usd("0.00032"));
        let more = TokenCounts { cache_write: 10, cache_write_1h: 1000, ..TokenCounts::default() };
        assert_eq!(llama().cost(&more, Duration::ZERO), usd("0.000004"), "a part is no more than the whole");
    }

    #[test]
    fn a_price_for_an_hour_is_not_rounded() {
        // A token costs 0.8 nano-dollars for an hour.
        let price = Price { cache_write: rate("0.0005"), ..Price::default() };
        let cost = |all, hour| {
            let tokens = TokenCounts { cache_write: all, cache_write_1h: hour, ..TokenCounts::default() };
            price.cost(&tokens, Duration::ZERO).nanos()
        };
        assert_eq!([cost(1, 1), cost(5, 5), cost(6, 5), cost(10, 5)], [1, 4, 5, 7]);
    }

    #[test]
    fn audio_is_charged_by_the_time_and_requests_by_the_piece() {
        let price = Price { audio_minute: rate("0.006"), request: rate("0.002"), ..Price::default() };
        assert_eq!(price.cost(&TokenCounts::default(), Duration::ZERO), usd("0.002"));
        assert_eq!(price.cost(&TokenCounts::default(), Duration::from_millis(90_500)), usd("0.01105"));
    }

    #[test]
    fn the_whole_is_rounded_once_half_up() {
        // A token costs half a nano-dollar of each kind.
        let half = rate("0.0005");
        let price = Price { input: half, output: half, ..Price::default() };
        let cost = |input, output| price.cost(&TokenCounts { input, output, ..TokenCounts::default() }, Duration::ZERO);
        assert_eq!(cost(1, 0), Usd::from_nanos(1), "half is rounded up");
        assert_eq!(cost(1, 1), Usd::from_nanos(1), "two halves are one, not two");
        assert_eq!(cost(2, 1), Usd::from_nanos(2));
        let less = Price { input: rate("0.000499999"), ..Price::default() };
        assert_eq!(less.cost(&TokenCounts { input: 1, ..TokenCounts::default() }, Duration::ZERO), Usd::ZERO);
    }

    #[test]
    fn huge_numbers_saturate() {
        let most = rate("9223372036.854775807");
        let price = Price { input: most, output: most, audio_minute: most, request: most, ..Price::default() };
        let most_tokens = u64::MAX;
        let tokens = TokenCounts {
            input: most_tokens,
            cached_input: most_tokens,
            cache_write: most_tokens,
            cache_write_1h: most_tokens,
            output: most_tokens,
        };
        assert_eq!(price.cost(&tokens, Duration::MAX), Usd::from_nanos(i64::MAX));
    }

    fn rate_of(nanos: i64) -> Rate {
        Usd::from_nanos(nanos).to_string().parse().unwrap()
    }

    fn any_rate() -> impl Strategy<Value = Option<Rate>> {
        proptest::option::of((0_i64..1_000_000_000_000).prop_map(rate_of))
    }

    fn any_price() -> impl Strategy<Value = Price> {
        (any_rate(), any_rate(), any_rate(), any_rate(), any_rate(), any_rate()).prop_map(
            |(input, cached_input, cache_write, cache_write_1h, output, audio_minute)| Price {
                input,
                cached_input,
                cache_write,
                cache_write_1h,
                output,
                audio_minute,
                request: None,
            },
        )
    }

    /// Tokens of five kinds, the last kept for an hour, and milliseconds.
    type Use = ([u64; 5], u32);

    fn any_use() -> impl Strategy<Value = Use> {
        (prop::array::uniform5(0_u64..1_000_000), 0_u32..10_000_000)
    }

    fn cost(price: &Price, ([input, cached_input, for_minutes, output, for_an_hour], millis): Use) -> i64 {
        let cache_write = for_minutes + for_an_hour;
        let tokens = TokenCounts { input, cached_input, cache_write, cache_write_1h: for_an_hour, output };
        price.cost(&tokens, Duration::from_millis(millis.into())).nanos()
    }

    proptest! {
        #[test]
        fn costs_add_up_but_for_rounding(price in any_price(), one in any_use(), other in any_use()) {
            let both = (std::array::from_fn(|kind| one.0[kind] + other.0[kind]), one.1 + other.1);
            let apart = cost(&price, one) + cost(&price, other);
            prop_assert!((cost(&price, both) - apart).abs() <= 1);
        }

        #[test]
        fn more_never_costs_less(price in any_price(), some in any_use(), kind in 0_usize..5, more in 0_u64..1000) {
            let mut larger = some;
            larger.0[kind] += more;
            larger.1 += u32::try_from(more).unwrap();
            prop_assert!(cost(&price, larger) >= cost(&price, some));
        }

        #[test]
        fn the_cost_is_the_exact_one_rounded(nanos in 0_i64..1_000_000_000_000, input in 0_u64..1_000_000) {
            let price = Price { input: Some(rate_of(nanos)), ..Price::default() };
            let exact_millionths = i128::from(nanos) * i128::from(input);
            let stated = i128::from(cost(&price, ([input, 0, 0, 0, 0], 0))) * 1_000_000;
            let rounding = stated - exact_millionths;
            prop_assert!(-500_000 < rounding && rounding <= 500_000, "{rounding}");
        }
    }
}
