//! Writes one JSON object on one line, for what is written of every request: the access log and the ledger. Names of
//! fields are ours and need no escaping, and most texts none; a general writer looks at each of their bytes.

use std::{fmt, io::Write as _, net::IpAddr};

use jiff::Timestamp;

use crate::{money::Usd, printable::misleads};

/// The name of a field as it stands in a line behind another field, which [`field!`](crate::field) makes when the program is
/// built.
#[derive(Clone, Copy, Debug)]
pub struct FieldName(&'static str);

impl FieldName {
    /// `written` is the comma before the field, its name in quotes and the colon.
    #[must_use]
    pub const fn new(written: &'static str) -> Self {
        Self(written)
    }
}

/// The name of a field of a line: `field!("status")`.
#[macro_export]
macro_rules! field {
    ($name:literal) => {
        $crate::json_line::FieldName::new(concat!(",\"", $name, "\":"))
    };
}

/// An object that is being written.
pub struct JsonLine {
    bytes: Vec<u8>,
}

/// Room for most lines, so that they are not moved as they grow.
const ROOM: usize = 640;

impl JsonLine {
    /// An object without fields yet.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = Vec::with_capacity(ROOM);
        bytes.push(b'{');
        Self { bytes }
    }

    /// A field with a text.
    pub fn text(&mut self, name: FieldName, text: &str) {
        self.name(name);
        self.bytes.push(b'"');
        self.escaped(text);
        self.bytes.push(b'"');
    }

    /// A field with what a value writes of itself: plain ASCII without quotes, such as a number or a time.
    pub fn plain(&mut self, name: FieldName, value: impl fmt::Display) {
        self.name(name);
        // Memory takes all that is written.
        let _ = write!(self.bytes, "\"{value}\"");
    }

    /// A field with an amount of money, a decimal number in quotes.
    pub fn money(&mut self, name: FieldName, amount: Usd) {
        self.name(name);
        self.bytes.extend_from_slice(if amount < Usd::ZERO { b"\"-" } else { b"\"" });
        self.bytes.extend_from_slice(amount.digits().as_bytes());
        self.bytes.push(b'"');
    }

    /// A field with an address.
    pub fn address(&mut self, name: FieldName, address: IpAddr) {
        let IpAddr::V4(address) = address else { return self.plain(name, address) };
        self.name(name);
        let mut before = b'"';
        for octet in address.octets() {
            self.bytes.push(before);
            self.digits(octet.into());
            before = b'.';
        }
        self.bytes.push(b'"');
    }

    /// A field with a time to the microsecond, in UTC (RFC 3339).
    pub fn time(&mut self, name: FieldName, time: Timestamp) {
        let Some((date, since_midnight)) = date_and_time(time) else {
            return self.plain(name, format_args!("{time:.6}"));
        };
        self.name(name);
        let ([year, month, day], micros) = (date, since_midnight);
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        let (years, [month, day]) = ([year / 100, year % 100].map(pair), [month, day].map(pair));
        let [hour, minute, second] = [seconds / 3600, seconds / 60 % 60, seconds % 60].map(pair);
        let fraction = [fraction / 10_000, fraction / 100 % 100, fraction % 100].map(pair);
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(years.as_flattened());
        for (before, digits) in [(b'-', month), (b'-', day), (b'T', hour), (b':', minute), (b':', second)] {
            let [tens, ones] = digits;
            self.bytes.extend_from_slice(&[before, tens, ones]);
        }
        self.bytes.push(b'.');
        self.bytes.extend_from_slice(fraction.as_flattened());
        self.bytes.extend_from_slice(b"Z\"");
    }

    /// A field with a text, or `null`.
    pub fn optional(&mut self, name: FieldName, text: Option<&str>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.null(name),
        }
    }

    /// A field with `null`.
    pub fn null(&mut self, name: FieldName) {
        self.name(name);
        self.bytes.extend_from_slice(b"null");
    }

    /// A field with a whole number.
    pub fn number(&mut self, name: FieldName, number: u64) {
        self.name(name);
        self.digits(number);
    }

    /// A field with milliseconds and their thousandths, from microseconds.
    pub fn millis(&mut self, name: FieldName, micros: u64) {
        self.name(name);
        self.digits(micros / 1000);
        let fraction = [micros / 100 % 10, micros / 10 % 10, micros % 10];
        let [_, second, third] = fraction;
        let places = if third > 0 {
            3
        } else if second > 0 {
            2
        } else {
            1
        };
        self.bytes.push(b'.');
        // Each is a single digit.
        self.bytes.extend(fraction.iter().take(places).map(|digit| b'0' + (digit % 10) as u8));
    }

    /// A field that is true or not.
    pub fn truth(&mut self, name: FieldName, is_true: bool) {
        self.name(name);
        self.bytes.extend_from_slice(if is_true { b"true" } else { b"false" });
    }

    /// The whole object.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.bytes.push(b'}');
        self.bytes
    }

    fn name(&mut self, FieldName(written): FieldName) {
        let is_first = self.bytes.len() == 1;
        let written = if is_first { written.trim_start_matches(',') } else { written };
        self.bytes.extend_from_slice(written.as_bytes());
    }

    fn digits(&mut self, number: u64) {
        self.bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Text as it stands within quotes (RFC 8259, section 7), with nothing in it that a terminal obeys: lines are read there.
    fn escaped(&mut self, text: &str) {
        // Without a way out at the first that is not, so that the compiler can use vectors.
        if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
            self.bytes.extend_from_slice(text.as_bytes());
            return;
        }
        for character in text.chars() {
            match character {
                '"' => self.bytes.extend_from_slice(b"\\\""),
                '\\' => self.bytes.extend_from_slice(b"\\\\"),
                '\n' => self.bytes.extend_from_slice(b"\\n"),
                '\r' => self.bytes.extend_from_slice(b"\\r"),
                '\t' => self.bytes.extend_from_slice(b"\\t"),
                '\u{8}' => self.bytes.extend_from_slice(b"\\b"),
                '\u{c}' => self.bytes.extend_from_slice(b"\\f"),
                _ if character < ' ' || misleads(character) => {
                    let _ = write!(self.bytes, "\\u{:04x}", u32::from(character));
                }
                _ => self.bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

impl Default for JsonLine {
    fn default() -> Self {
        Self::new()
    }
}

/// The two digits of a number below 100.
fn pair(number: u64) -> [u8; 2] {
    // Both are single digits.
    [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]
}

/// Microseconds of a day.
const DAY: u64 = 86_400_000_000;

/// The year, month and day of a time in UTC, and the microseconds since midnight, cut to whole ones. `None`: before 1970, which no
/// time of a request is. The calendar is counted from the 1st of March of the year 0, in eras of 400 years: so the leap day is a
/// year's last, and the days before a month are a line (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date_and_time(time: Timestamp) -> Option<([u64; 3], u64)> {
    let micros = u64::try_from(time.as_microsecond()).ok()?;
    let (days, since_midnight) = (micros / DAY + 719_468, micros % DAY);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    Some(([year, month, day], since_midnight))
}

/// Whether no character with this byte needs an escape. Those that mislead begin with the three of the end.
#[allow(clippy::needless_bitwise_bool, reason = "a branch for each would cost what this is to save")]
fn is_plain(byte: u8) -> bool {
    let is_ascii_plain = (byte >= 0x20) & (byte != b'"') & (byte != b'\\');
    is_ascii_plain & (byte != 0xc2) & (byte != 0xd8) & (byte != 0xe2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    proptest! {
        #[test]
        fn every_object_is_what_was_written(
            text in any::<String>(), number: u64, micros in 0_u64..1 << 50, truth: bool, nanos: i64, address: IpAddr,
        ) {
            let money = Usd::from_nanos(nanos);
            let mut line = JsonLine::new();
            line.text(field!("text"), &text);
            line.number(field!("number"), number);
            line.millis(field!("millis"), micros);
            line.truth(field!("truth"), truth);
            line.optional(field!("some"), Some(&text));
            line.optional(field!("none"), None);
            line.plain(field!("plain"), 1.5);
            line.money(field!("money"), money);
            line.address(field!("address"), address);
            let written = line.end();
            prop_assert!(!written.contains(&b'\n') && !written.contains(&0));
            prop_assert!(!String::from_utf8(written.clone()).unwrap().contains(misleads));
            let millis = format!("{}.{:03}", micros / 1000, micros % 1000).parse::<f64>().unwrap();
            let expected = json!({"text": text, "number": number, "millis": millis, "truth": truth, "some": text,
                "none": null, "plain": "1.5", "money": money.to_string(), "address": address.to_string()});
            prop_assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn times_are_written_as_the_calendar_has_them(nanos in -1_i128 << 56..i128::from(Timestamp::MAX.as_second()) * 1_000_000_000) {
            let time = Timestamp::from_nanosecond(nanos).unwrap();
            prop_assert_eq!(written(time), format!(r#"{{"a":"{time:.6}"}}"#));
        }
    }

    #[test]
    fn times_at_the_ends_of_days_months_and_years_are_right() {
        for time in [
            "1970-01-01T00:00:00Z",
            "1999-12-31T23:59:59.9999999Z",
            "2000-02-29T00:00:00.000001Z",
            "2000-03-01T12:00:00Z",
            "2100-02-28T23:59:59Z",
            "2100-03-01T00:00:00Z",
            "2026-11-30T05:37:27.5Z",
            "9999-12-30T21:59:59.9Z",
        ] {
            let time: Timestamp = time.parse().unwrap();
            assert_eq!(written(time), format!(r#"{{"a":"{time:.6}"}}"#));
        }
    }

    fn written(time: Timestamp) -> String {
        let mut line = JsonLine::new();
        line.time(field!("a"), time);
        String::from_utf8(line.end()).unwrap()
    }

    #[test]
    fn an_object_without_fields_is_one() {
        assert_eq!(JsonLine::default().end(), b"{}");
    }

    #[test]
    fn what_misleads_whoever_reads_a_log_is_escaped() {
        for character in ('\0'..='\u{ffff}').filter(|character| misleads(*character)) {
            let mut line = JsonLine::new();
            line.text(field!("a"), &format!("m{character}x"));
            assert_eq!(
                String::from_utf8(line.end()).unwrap(),
                format!(r#"{{"a":"m\u{:04x}x"}}"#, u32::from(character))
            );
        }
    }

    #[test]
    fn texts_are_escaped_as_serde_json_does() {
        for text in ["plain", "\"\\\u{8}\u{c}\n\r\t\u{1}\u{1f}\u{7f}é漢🦀", ""] {
            let mut line = JsonLine::new();
            line.text(field!("a"), text);
            assert_eq!(line.end(), serde_json::to_vec(&json!({"a": text})).unwrap());
        }
    }
}
