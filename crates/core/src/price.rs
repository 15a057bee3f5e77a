//! Money and what requests cost. It is integer nano-dollars inside and a decimal string outside,
//! never a float, and each request is rounded once.

use std::{fmt, iter::Sum, str::FromStr, time::Duration};

use thiserror::Error;

use crate::digits::Digits;

/// An amount of US dollars, to the nano-dollar; it may be negative. The largest is some 9.2
/// billion dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usd(i64);

const NANOS: u64 = 1_000_000_000;
const DECIMALS: usize = 9;

impl Usd {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// So many nano-dollars.
    #[must_use]
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The amount in nano-dollars.
    #[must_use]
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The sum; `None` where it is too large for the type.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference; `None` where it is too large for the type.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The sum, cut to the largest or smallest amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Saturates, as `saturating_add`.
impl Sum for Usd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

impl FromStr for Usd {
    type Err = UsdError;

    /// Reads a decimal number with up to 9 decimals, such as `0.20`, `3` or `-0.0000123`.
    fn from_str(text: &str) -> Result<Self, UsdError> {
        match text.strip_prefix('-') {
            Some(amount) => nanos(amount)?.checked_neg().map(Self).ok_or(UsdError::TooLarge),
            None => nanos(text).map(Self),
        }
    }
}

/// Reads an amount without a sign, as nano-dollars.
fn nanos(text: &str) -> Result<i64, UsdError> {
    let (whole, decimals) = match text.split_once('.') {
        Some((whole, decimals)) => (digits(whole)?, digits(decimals)?),
        None => (digits(text)?, "0"),
    };
    if decimals.len() > DECIMALS {
        return Err(UsdError::TooPrecise);
    }
    format!("{whole}{decimals:0<DECIMALS$}").parse().map_err(|_| UsdError::TooLarge)
}

fn digits(text: &str) -> Result<&str, UsdError> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then_some(text).ok_or(UsdError::Form)
}

impl Usd {
    /// The amount without its sign: at most 10 digits, the point and 9 decimals.
    fn digits(self) -> Digits<20> {
        let (whole, mut rest) = (self.0.unsigned_abs() / NANOS, self.0.unsigned_abs() % NANOS);
        let mut digits = Digits::new();
        let mut is_written = false;
        for _ in 0..DECIMALS {
            is_written |= rest % 10 != 0;
            if is_written {
                digits.digit(rest);
            }
            rest /= 10;
        }
        if is_written {
            digits.put(b'.');
        }
        digits.number(whole);
        digits
    }
}

impl fmt::Display for Usd {
    /// Writes as many decimals as there are, and no more: `0`, `3`, `0.0000123`, `-1.5`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad_integral(self.0 >= 0, "", self.digits().as_str())
    }
}

/// Why a text is no amount of money, or no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UsdError {
    /// Not a decimal number.
    #[error("an amount of US dollars is a decimal number such as \"0.20\"")]
    Form,
    /// More than 9 decimals.
    #[error("an amount of US dollars has at most 9 decimals")]
    TooPrecise,
    /// More than the type holds.
    #[error("an amount of US dollars is below 9223372036")]
    TooLarge,
    /// A price below zero.
    #[error("a price is at least 0")]
    Negative,
}

/// An amount of US dollars for a unit of something: never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(Usd);

impl Rate {
    /// The amount.
    #[must_use]
    pub const fn usd(self) -> Usd {
        self.0
    }

    fn nanos(self) -> u128 {
        // It is not negative: only `from_str` makes one.
        self.0.0.unsigned_abs().into()
    }
}

impl FromStr for Rate {
    type Err = UsdError;

    fn from_str(text: &str) -> Result<Self, UsdError> {
        let usd: Usd = text.parse()?;
        if usd < Usd::ZERO { Err(UsdError::Negative) } else { Ok(Self(usd)) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a model's requests cost. What has no price costs nothing, but for the two kinds of cached
/// input, which then cost what input does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// For one million tokens of prompt that came from no cache.
    pub input: Option<Rate>,
    /// For one million tokens of prompt read from a cache.
    pub cached_input: Option<Rate>,
    /// For one million tokens of prompt written to a cache.
    pub cache_write: Option<Rate>,
    /// For one million tokens of output.
    pub output: Option<Rate>,
    /// For one minute of audio.
    pub audio_minute: Option<Rate>,
    /// For one request.
    pub request: Option<Rate>,
}

/// Tokens by what they cost. Each token counts as one kind only: `input` has none of the cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Of the prompt, from no cache.
    pub input: u64,
    /// Of the prompt, read from a cache.
    pub cached_input: u64,
    /// Of the prompt, written to a cache.
    pub cache_write: u64,
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
        let shares = [
            shares(self.input, tokens.input.into(), SHARES_OF_A_TOKEN),
            shares(self.cached_input.or(self.input), tokens.cached_input.into(), SHARES_OF_A_TOKEN),
            shares(self.cache_write.or(self.input), tokens.cache_write.into(), SHARES_OF_A_TOKEN),
            shares(self.output, tokens.output.into(), SHARES_OF_A_TOKEN),
            shares(self.audio_minute, audio.as_nanos(), 1),
            shares(self.request, 1, SHARES),
        ];
        let nanos = shares.into_iter().fold(SHARES / 2, u128::saturating_add) / SHARES;
        Usd(i64::try_from(nanos).unwrap_or(i64::MAX))
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
    fn amounts_are_read_and_written_as_decimals() {
        for (text, nanos, written) in [
            ("0.20", 200_000_000, "0.2"),
            ("0.0000123", 12_300, "0.0000123"),
            ("0.000000001", 1, "0.000000001"),
            ("0", 0, "0"),
            ("-0", 0, "0"),
            ("00.000", 0, "0"),
            ("10", 10_000_000_000, "10"),
            ("100.50", 100_500_000_000, "100.5"),
            ("-0.05", -50_000_000, "-0.05"),
            ("-12", -12_000_000_000, "-12"),
            ("9223372036.854775807", i64::MAX, "9223372036.854775807"),
        ] {
            assert_eq!(usd(text), Usd::from_nanos(nanos), "{text}");
            assert_eq!(usd(text).to_string(), written);
        }
        assert_eq!(Usd(i64::MIN).to_string(), "-9223372036.854775808");
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in
            ["", "-", "--1", "+1", " 1", "1 ", ".5", "5.", ".", "1.2.3", "1e3", "0x1", "1_000", "1,5", "٣", "NaN"]
        {
            assert_eq!(text.parse::<Usd>(), Err(UsdError::Form), "{text}");
        }
        assert_eq!("0.0000000001".parse::<Usd>(), Err(UsdError::TooPrecise));
        assert_eq!("9223372036.854775808".parse::<Usd>(), Err(UsdError::TooLarge));
        assert_eq!("-0.01".parse::<Rate>(), Err(UsdError::Negative));
        assert_eq!(rate("0.20").map(|rate| rate.to_string()).as_deref(), Some("0.2"));
    }

    #[test]
    fn sums_are_checked_or_saturate() {
        assert_eq!(usd("0.1").checked_add(usd("0.2")), Some(usd("0.3")));
        assert_eq!(usd("0.1").checked_sub(usd("0.3")), Some(usd("-0.2")));
        assert_eq!(Usd(i64::MAX).checked_add(Usd(1)), None);
        assert_eq!(Usd(i64::MIN).checked_sub(Usd(1)), None);
        assert_eq!([Usd(i64::MAX), Usd(1)].into_iter().sum::<Usd>(), Usd(i64::MAX));
        assert_eq!(["0.1", "0.2", "-0.05"].map(usd).into_iter().sum::<Usd>(), usd("0.25"));
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        let tokens = TokenCounts { input: 1000, cached_input: 200, cache_write: 40, output: 500 };
        // 0.0002 + 0.00001 + 0.00001 + 0.0003
        assert_eq!(llama().cost(&tokens, Duration::ZERO), usd("0.00052"));
    }

    #[test]
    fn cached_tokens_without_a_price_cost_what_input_does() {
        let tokens = TokenCounts { input: 1, cached_input: 10, cache_write: 100, output: 1000 };
        let price = Price { input: rate("1"), ..Price::default() };
        assert_eq!(price.cost(&tokens, Duration::ZERO), usd("0.000111"), "and output has no price");
        let free = Price { cached_input: rate("0"), ..price };
        assert_eq!(free.cost(&tokens, Duration::ZERO), usd("0.000101"), "a price of 0 is a price");
        assert_eq!(Price::default().cost(&tokens, Duration::from_secs(60)), Usd::ZERO);
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
        assert_eq!(cost(1, 0), Usd(1), "half is rounded up");
        assert_eq!(cost(1, 1), Usd(1), "two halves are one, not two");
        assert_eq!(cost(2, 1), Usd(2));
        let less = Price { input: rate("0.000499999"), ..Price::default() };
        assert_eq!(less.cost(&TokenCounts { input: 1, ..TokenCounts::default() }, Duration::ZERO), Usd::ZERO);
    }

    #[test]
    fn huge_numbers_saturate() {
        let most = rate("9223372036.854775807");
        let price = Price { input: most, output: most, audio_minute: most, request: most, ..Price::default() };
        let tokens = TokenCounts { input: u64::MAX, cached_input: u64::MAX, cache_write: u64::MAX, output: u64::MAX };
        assert_eq!(price.cost(&tokens, Duration::MAX), Usd(i64::MAX));
    }

    fn any_rate() -> impl Strategy<Value = Option<Rate>> {
        proptest::option::of((0_i64..1_000_000_000_000).prop_map(|nanos| Rate(Usd(nanos))))
    }

    fn any_price() -> impl Strategy<Value = Price> {
        (any_rate(), any_rate(), any_rate(), any_rate(), any_rate()).prop_map(
            |(input, cached_input, cache_write, output, audio_minute)| Price {
                input,
                cached_input,
                cache_write,
                output,
                audio_minute,
                request: None,
            },
        )
    }

    fn any_use() -> impl Strategy<Value = ([u64; 4], u32)> {
        (prop::array::uniform4(0_u64..1_000_000), 0_u32..10_000_000)
    }

    fn cost(price: &Price, ([input, cached_input, cache_write, output], millis): ([u64; 4], u32)) -> i64 {
        let tokens = TokenCounts { input, cached_input, cache_write, output };
        price.cost(&tokens, Duration::from_millis(millis.into())).nanos()
    }

    proptest! {
        #[test]
        fn amounts_read_back_as_they_are_written(nanos: i64) {
            prop_assume!(nanos != i64::MIN);
            prop_assert_eq!(Usd(nanos).to_string().parse(), Ok(Usd(nanos)));
        }

        #[test]
        fn reading_never_panics(text in "[-+0-9._e ]{0,24}") {
            let _ = text.parse::<Usd>();
        }

        #[test]
        fn costs_add_up_but_for_rounding(price in any_price(), one in any_use(), other in any_use()) {
            let both = (std::array::from_fn(|kind| one.0[kind] + other.0[kind]), one.1 + other.1);
            let apart = cost(&price, one) + cost(&price, other);
            prop_assert!((cost(&price, both) - apart).abs() <= 1);
        }

        #[test]
        fn more_never_costs_less(price in any_price(), some in any_use(), kind in 0_usize..4, more in 0_u64..1000) {
            let mut larger = some;
            larger.0[kind] += more;
            larger.1 += u32::try_from(more).unwrap();
            prop_assert!(cost(&price, larger) >= cost(&price, some));
        }

        #[test]
        fn the_cost_is_the_exact_one_rounded(nanos in 0_i64..1_000_000_000_000, input in 0_u64..1_000_000) {
            let price = Price { input: Some(Rate(Usd(nanos))), ..Price::default() };
            let exact_millionths = i128::from(nanos) * i128::from(input);
            let stated = i128::from(cost(&price, ([input, 0, 0, 0], 0))) * 1_000_000;
            let rounding = stated - exact_millionths;
            prop_assert!(-500_000 < rounding && rounding <= 500_000, "{rounding}");
        }
    }
}
