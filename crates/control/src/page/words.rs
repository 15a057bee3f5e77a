//! Money and times in a readable form.

use jiff::Timestamp;
use keymeter_core::money::Usd;
use maud::{Markup, html};

/// An amount to the cent, or as exactly as it is where it has parts of one.
pub fn money(amount: Usd) -> String {
    let text = amount.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("−", digits));
    let (whole, parts) = digits.split_once('.').unwrap_or((digits, ""));
    format!("{sign}${}.{parts:0<2}", grouped(whole))
}

/// An amount to a hundredth of a cent.
pub fn cost(amount: Usd) -> String {
    const STEP: i64 = 100_000;
    let nanos = amount.nanos();
    if nanos > 0 && nanos < STEP {
        return "< $0.0001".to_owned();
    }
    money(Usd::from_nanos(nanos.saturating_add(STEP / 2).div_euclid(STEP).saturating_mul(STEP)))
}

/// A number in groups of three digits.
pub fn number(number: i64) -> String {
    let text = number.unsigned_abs().to_string();
    format!("{}{}", if number < 0 { "−" } else { "" }, grouped(&text))
}

fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time to the minute, of UTC.
pub fn time(time: Timestamp) -> Markup {
    let exact = time.to_string();
    let (day, rest) = exact.split_once('T').unwrap_or((exact.as_str(), ""));
    let minute: String = rest.chars().take(5).collect();
    html! { time datetime=(exact) { (day) " " (minute) " UTC" } }
}

/// The day of a time, of UTC.
pub fn day(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_cents_and_no_more_than_there_are() {
        for (amount, exact, rounded) in [
            ("0", "$0.00", "$0.00"),
            ("12.5", "$12.50", "$12.50"),
            ("1234567.891", "$1,234,567.891", "$1,234,567.891"),
            ("0.123456789", "$0.123456789", "$0.1235"),
            ("0.00001", "$0.00001", "< $0.0001"),
        ] {
            let amount = amount.parse().unwrap();
            assert_eq!((money(amount).as_str(), cost(amount).as_str()), (exact, rounded));
        }
        assert_eq!(money(Usd::from_nanos(-1_500_000_000)), "−$1.50");
    }

    #[test]
    fn numbers_are_in_groups() {
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (-1_234_567, "−1,234,567")] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn times_are_to_the_minute() {
        let at: Timestamp = "2026-06-01T11:02:03.5Z".parse().unwrap();
        assert_eq!(day(at), "2026-06-01");
        assert!(time(at).into_string().ends_with(">2026-06-01 11:02 UTC</time>"));
    }
}
