//! Sizes and lengths of time, which are written with their units.

use std::{fmt, time::Duration};

use serde_json::json;

use super::FromScalar;

/// A size in memory, such as `32MiB`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl FromScalar for Size {
    fn from_text(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text);
        let bytes = SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes);
        let size = bytes.and_then(|bytes| number.parse::<u64>().ok()?.checked_mul(bytes)).filter(|size| *size > 0);
        size.map(Self).ok_or_else(|| {
            "a size is a whole number of at least 1 and a unit, such as 32MiB; units: B, KB, KiB, MB, MiB, GB, GiB"
                .to_owned()
        })
    }

    fn schema() -> serde_json::Value {
        json!({"title": "a size", "type": "string", "pattern": "^[0-9]+(B|KB|KiB|MB|MiB|GB|GiB)$", "examples": ["32MiB"]})
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = SIZE_UNITS.iter().filter(|(_, bytes)| self.0.is_multiple_of(*bytes));
        // Bytes, the last unit, always fit.
        let (unit, bytes) = whole.max_by_key(|(_, bytes)| *bytes).copied().unwrap_or(("B", 1));
        write!(formatter, "{}{unit}", self.0 / bytes)
    }
}

/// A length of time, such as `10m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

const SPAN_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A year: what is meant to be for ever is safe to add to any clock.
const LONGEST: Duration = Duration::from_hours(8_760);

impl FromScalar for Span {
    fn from_text(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text);
        let milliseconds = SPAN_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, milliseconds)| *milliseconds);
        let total = milliseconds.and_then(|milliseconds| number.parse::<u64>().ok()?.checked_mul(milliseconds));
        let span = total.map(Duration::from_millis).filter(|span| *span <= LONGEST);
        span.map(Self).ok_or_else(|| {
            "a duration is a whole number and a unit, such as 60s, at most 8760h; units: ms, s, m, h".to_owned()
        })
    }

    fn schema() -> serde_json::Value {
        json!({"title": "a length of time", "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "examples": ["60s"]})
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_millis();
        let whole = SPAN_UNITS.iter().find(|(_, milliseconds)| total.is_multiple_of(u128::from(*milliseconds)));
        // Milliseconds, the last unit, always fit.
        let (unit, milliseconds) = whole.copied().unwrap_or(("ms", 1));
        write!(formatter, "{}{unit}", total / u128::from(milliseconds))
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// A [`Span`] that is not zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Duration);

impl FromScalar for Timeout {
    fn from_text(text: &str) -> Result<Self, String> {
        let Span(span) = Span::from_text(text)?;
        if span.is_zero() { Err("must be longer than 0".to_owned()) } else { Ok(Self(span)) }
    }

    fn schema() -> serde_json::Value {
        Span::schema()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let expected = [
            ("1B", 1),
            ("1KB", 1_000),
            ("1KiB", 1_024),
            ("3MB", 3_000_000),
            ("32MiB", 33_554_432),
            ("2GB", 2_000_000_000),
            ("1GiB", 1_073_741_824),
        ];
        for (text, bytes) in expected {
            assert_eq!(Size::from_text(text), Ok(Size(bytes)), "{text}");
        }
        for text in
            ["", "1", "MiB", "1mib", "1 MiB", "-1B", "1.5MiB", "0MiB", "99999999999999999999B", "9999999999999GiB"]
        {
            assert!(Size::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
        let expected = [("50ms", 50), ("60s", 60_000), ("10m", 600_000), ("1h", 3_600_000), ("0s", 0)];
        for (text, milliseconds) in expected {
            assert_eq!(Span::from_text(text), Ok(Span(Duration::from_millis(milliseconds))), "{text}");
        }
        for text in ["", "60", "s", "1 s", "1S", "-1s", "1.5s", "1h30m", "8761h", "18446744073709551615h"] {
            assert!(Span::from_text(text).is_err(), "{text}");
        }
        assert_eq!(Timeout::from_text("0ms").unwrap_err(), "must be longer than 0");
        assert!(Timeout::from_text("1ms").is_ok());
    }

    proptest! {
        #[test]
        fn sizes_read_back_as_they_are_written(number in 1_u64..5_000, unit in 0_usize..7, more in 0_u64..3) {
            let size = Size(number * SIZE_UNITS[unit].1 + more);
            prop_assert_eq!(Size::from_text(&size.to_string()), Ok(size));
        }

        #[test]
        fn durations_read_back_as_they_are_written(number in 0_u64..8_760, unit in 0_usize..4) {
            let span = Span(Duration::from_millis(number * SPAN_UNITS[unit].1));
            prop_assert_eq!(Span::from_text(&span.to_string()), Ok(span));
        }

        #[test]
        fn any_text_is_understood_or_refused(text in "[0-9]{0,20}(ms|[KMG]i?B|h|é)?") {
            let _ = (Size::from_text(&text), Span::from_text(&text), Timeout::from_text(&text));
        }
    }
}
