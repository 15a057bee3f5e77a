//! Money and times in a readable form.

use jiff::Timestamp;
use keymeter_core::money::Usd;
use maud::{Markup, html};

/// An amount to the cent, with all its digits where a pointer rests on it.
pub fn money(amount: Usd) -> Markup {
    let (cents, exact) = (cents(amount), exact(amount));
    html! { span.money title=[(cents != exact).then_some(exact)] { (cents) } }
}

/// An amount to the cent, where there is no pointer.
pub fn cents(amount: Usd) -> String {
    const CENT: i64 = 10_000_000;
    let nanos = amount.nanos();
    if nanos > 0 && nanos < CENT {
        return "< $0.01".to_owned();
    }
    // Halves are rounded away from zero, as people round.
    let half = if nanos < 0 { -CENT / 2 } else { CENT / 2 };
    exact(Usd::from_nanos(nanos.saturating_add(half) / CENT * CENT))
}

/// An amount with all its digits, of which there are two after the point at least.
pub fn exact(amount: Usd) -> String {
    let text = amount.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("−", digits));
    let (whole, parts) = digits.split_once('.').unwrap_or((digits, ""));
    format!("{sign}${}.{parts:0<2}", grouped(whole))
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

/// A number of a thing, of which one has another word.
pub fn count(number_of: i64, one: &str, several: &str) -> String {
    format!("{} {}", number(number_of), if number_of == 1 { one } else { several })
}

/// The day of a time, of UTC.
pub fn day(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_has_cents_and_all_digits_on_hover() {
        for (amount, all, rounded) in [
            ("0", "$0.00", "$0.00"),
            ("12.5", "$12.50", "$12.50"),
            ("1234567.895", "$1,234,567.895", "$1,234,567.90"),
            ("0.123456789", "$0.123456789", "$0.12"),
            ("0.00001", "$0.00001", "< $0.01"),
            ("-0.125", "−$0.125", "−$0.13"),
            ("-1.5", "−$1.50", "−$1.50"),
        ] {
            let amount = amount.parse().unwrap();
            assert_eq!((exact(amount).as_str(), cents(amount).as_str()), (all, rounded));
        }
        assert_eq!(money("2".parse().unwrap()).into_string(), "<span class=\"money\">$2.00</span>");
        assert!(money("2.001".parse().unwrap()).into_string().contains("title=\"$2.001\""));
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
