//! Amounts of US dollars: integer nano-dollars inside and a decimal string outside, never a float.

use std::{fmt, iter::Sum, str::FromStr};

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
    pub(crate) fn digits(self) -> Digits<20> {
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

    pub(super) fn nanos(self) -> u128 {
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
    }
}
