//! Parts that are written as a percentage.

use crate::scalar::FromScalar;

/// A part of something, in hundredths: at most a half, as two gateways have a half each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percent(pub(crate) u8);

impl FromScalar for Percent {
    fn from_text(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
        number
            .filter(|part| *part <= 50)
            .map(Self)
            .ok_or_else(|| "a part is written as 0% to 50%, such as 5%".to_owned())
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({"title": "a percentage", "type": "string", "pattern": "^[0-9]+%$", "examples": ["10%"]})
    }
}

/// A part of all requests, in hundredths of a percent: 10,000 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRatio(u16);

impl SampleRatio {
    /// Every request.
    pub const ALL: Self = Self(10_000);

    /// From 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ALL.0)
    }
}

impl FromScalar for SampleRatio {
    fn from_text(text: &str) -> Result<Self, String> {
        let part = text.strip_suffix('%').and_then(hundredths).filter(|part| *part <= Self::ALL.0);
        part.map(Self).ok_or_else(|| "a part is written as 0% to 100%, such as 5% or 0.25%".to_owned())
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({
            "title": "a percentage",
            "type": "string",
            "pattern": r"^[0-9]+(\.[0-9]{1,2})?%$",
            "examples": ["10%"],
        })
    }
}

/// A decimal number with two places at most, times 100.
fn hundredths(text: &str) -> Option<u16> {
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    let is_plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !is_plain(whole) || !is_plain(places) || places.len() > 2 {
        return None;
    }
    let places: u16 = format!("{places:0<2}").parse().ok()?;
    whole.parse::<u16>().ok()?.checked_mul(100)?.checked_add(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_percentage() {
        for (text, hundredths) in
            [("0%", 0), ("0.01%", 1), ("0.5%", 50), ("7%", 700), ("100%", 10_000), ("100.0%", 10_000)]
        {
            assert_eq!(SampleRatio::from_text(text), Ok(SampleRatio(hundredths)), "{text}");
        }
        for text in ["", "%", "1", "101%", "100.01%", "-1%", "+1%", "1.%", ".5%", "1.234%", "1,5%", "99999%"] {
            assert!(SampleRatio::from_text(text).is_err(), "{text}");
        }
        assert!((SampleRatio(25).ratio() - 0.0025).abs() < 1e-12);
    }
}
