//! Amounts as other programs write them: money as a decimal number with any number of decimals or with an exponent, and
//! lengths of time. No float is ever made of them.

use std::{num::NonZeroU64, time::Duration};

use keymeter_core::{
    limit::{QuotaName, QuotaSpan, QuotaUnit, SlidingLength},
    money::Usd,
};

/// Digits and where the point is: `digits` × 10^`exponent`.
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i32,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{decimals}");
        let is_number = !digits.is_empty() && digits.len() <= 64 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let exponent = exponent.checked_sub(i32::try_from(decimals.len()).ok()?)?;
        (is_number && exponent.abs() <= 64).then_some(Self { is_negative, digits, exponent })
    }

    /// So many times 10^-`places`, rounded down; `None` where that is too large.
    fn units(&self, places: i32) -> Option<i64> {
        let shift = self.exponent + places;
        let digits = self.digits.trim_start_matches('0');
        let whole = match usize::try_from(shift) {
            Ok(zeros) if digits.is_empty() => return (zeros <= 200).then_some(0),
            Ok(zeros) => format!("{digits}{}", "0".repeat(zeros)),
            Err(_) => {
                let kept = digits.len().saturating_sub(shift.unsigned_abs() as usize);
                digits.get(..kept).unwrap_or_default().to_owned()
            }
        };
        let number: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        Some(if self.is_negative { -number } else { number })
    }
}

/// US dollars, rounded down to the nano-dollar.
pub(super) fn usd(text: &str) -> Option<Usd> {
    Decimal::parse(text)?.units(9).map(Usd::from_nanos)
}

/// The price of a million tokens, of one's price: to the nano-dollar, as a configuration writes it.
pub(super) fn price_of_million(text: &str) -> Option<String> {
    let nanos = Decimal::parse(text)?.units(9 + 6)?;
    (nanos >= 0).then(|| Usd::from_nanos(nanos).to_string())
}

/// A quota of US dollars over what another program calls `duration`, such as `30d` or `1mo`; `None` where there is none here.
/// What it resets each day, week or month is reset by the calendar here.
pub(super) fn usd_quota(duration: &str) -> Option<QuotaName> {
    let digits = duration.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = duration.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "s" => number,
        "m" => number.checked_mul(60)?,
        "h" => number.checked_mul(3600)?,
        "d" => number.checked_mul(86_400)?,
        "w" => number.checked_mul(7 * 86_400)?,
        "mo" if number == 1 => 30 * 86_400,
        _ => return None,
    };
    let span = match seconds {
        86_400 => QuotaSpan::Day,
        604_800 => QuotaSpan::Week,
        2_592_000 => QuotaSpan::Month,
        seconds => QuotaSpan::Length(SlidingLength::new(Duration::from_secs(seconds))?),
    };
    Some(QuotaName { unit: QuotaUnit::Usd, span })
}

/// An amount above zero, as a quota has it.
pub(super) fn above_zero(amount: Usd) -> Option<NonZeroU64> {
    u64::try_from(amount.nanos()).ok().and_then(NonZeroU64::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_read_to_the_nano_dollar() {
        for (text, expected) in [
            ("12.5", Some("12.5")),
            ("0", Some("0")),
            ("100", Some("100")),
            ("1e2", Some("100")),
            ("1.5E-3", Some("0.0015")),
            ("0.12345678999", Some("0.123456789")),
            ("1e-12", Some("0")),
            ("-3.25", Some("-3.25")),
            ("+1", Some("1")),
            ("1e30", None),
            ("NaN", None),
            ("Infinity", None),
            ("", None),
            ("1.2.3", None),
            ("e5", None),
        ] {
            assert_eq!(usd(text).map(|usd| usd.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn prices_of_a_token_are_told_of_a_million() {
        for (text, expected) in
            [("1.5e-07", Some("0.15")), ("0.000003", Some("3")), ("6e-7", Some("0.6")), ("0", Some("0")), ("-1", None)]
        {
            assert_eq!(price_of_million(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn durations_become_spans() {
        for (duration, expected) in [
            ("1d", Some("usd_per_day")),
            ("24h", Some("usd_per_day")),
            ("7d", Some("usd_per_week")),
            ("1w", Some("usd_per_week")),
            ("30d", Some("usd_per_month")),
            ("1mo", Some("usd_per_month")),
            ("5h", Some("usd_per_5h")),
            ("14d", Some("usd_per_14d")),
            ("30m", Some("usd_per_30m")),
            ("30s", None),
            ("60d", None),
            ("2mo", None),
            ("1y", None),
            ("d", None),
            ("", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(usd_quota(duration).map(|name| name.to_string()).as_deref(), expected, "{duration}");
        }
    }
}
