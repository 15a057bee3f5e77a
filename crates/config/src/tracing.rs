//! Where traces of requests are sent, and of how many.

use std::{fmt, str::FromStr, sync::Arc};

use super::{
    fault::Place,
    raw,
    scalar::{FromScalar, Scalar},
    url::{UpstreamUrl, UrlError},
};

/// Traces of requests, by OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// The collector.
    pub otlp: CollectorUrl,
    /// Of the requests that come without a trace of their caller's, those that are traced.
    pub sample: Sample,
}

impl Tracing {
    pub(super) fn check(raw: raw::Tracing, place: &Place<'_>) -> Option<Self> {
        let example = "the collector that takes OTLP over gRPC, such as http://127.0.0.1:4317";
        let otlp = place.required("otlp", raw.otlp, example).map(|Scalar(url)| url);
        Some(Self { otlp: otlp?, sample: raw.sample.map_or(Sample::ALL, |Scalar(sample)| sample) })
    }
}

/// Where a collector is: a scheme, a host and a port. Calls of gRPC have paths of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorUrl {
    /// Whether the connection is encrypted.
    pub tls: bool,
    origin: Arc<str>,
}

impl CollectorUrl {
    /// Such as `http://127.0.0.1:4317`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.origin
    }
}

/// Why a text is no URL of a collector. The text is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectorUrlError {
    /// It is no plain URL.
    Url(UrlError),
    /// Something follows the host and the port.
    Path,
}

impl fmt::Display for CollectorUrlError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(UrlError::UserInfo) => formatter.write_str(
                "the URL must hold no user and password; the variable OTEL_EXPORTER_OTLP_HEADERS has what the collector wants",
            ),
            Self::Url(UrlError::Form) => {
                formatter.write_str("no URL with a host; accepted: http:// or https://, a host and a port")
            }
            Self::Url(fault) => fault.fmt(formatter),
            Self::Path => formatter.write_str(
                "the URL must end with the port: OTLP is spoken over gRPC, commonly on port 4317, which has no such path",
            ),
        }
    }
}

impl std::error::Error for CollectorUrlError {}

impl FromStr for CollectorUrl {
    type Err = CollectorUrlError;

    fn from_str(text: &str) -> Result<Self, CollectorUrlError> {
        let url: UpstreamUrl = text.parse().map_err(CollectorUrlError::Url)?;
        if !url.path.is_empty() {
            return Err(CollectorUrlError::Path);
        }
        let scheme = if url.tls { "https" } else { "http" };
        Ok(Self { tls: url.tls, origin: format!("{scheme}://{}", url.authority).into() })
    }
}

impl FromScalar for CollectorUrl {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|fault: CollectorUrlError| fault.to_string())
    }
}

/// A part of all requests, in hundredths of a percent: 10,000 at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(u16);

impl Sample {
    /// Every request.
    pub const ALL: Self = Self(10_000);

    /// From 0 to 1.
    #[must_use]
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(Self::ALL.0)
    }
}

impl FromScalar for Sample {
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
    fn a_collector_has_a_scheme_a_host_and_a_port() {
        for (text, tls, origin) in [
            ("http://127.0.0.1:4317", false, "http://127.0.0.1:4317"),
            ("http://[::1]:4317/", false, "http://[::1]:4317"),
            ("https://Collector.example", true, "https://collector.example"),
        ] {
            let url: CollectorUrl = text.parse().unwrap();
            assert_eq!((url.tls, url.as_str()), (tls, origin), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_and_not_repeated() {
        for (text, fault) in [
            ("127.0.0.1:4317", CollectorUrlError::Url(UrlError::Form)),
            ("grpc://host:4317", CollectorUrlError::Url(UrlError::Scheme)),
            ("http://ada:geheim@host:4317", CollectorUrlError::Url(UrlError::UserInfo)),
            ("http://host:4318/v1/traces", CollectorUrlError::Path),
            ("http://host:4317?token=geheim", CollectorUrlError::Url(UrlError::Query)),
        ] {
            assert_eq!(text.parse::<CollectorUrl>(), Err(fault), "{text}");
            assert!(!fault.to_string().contains("geheim"), "{fault}");
        }
    }

    #[test]
    fn a_sample_is_a_percentage() {
        for (text, hundredths) in
            [("0%", 0), ("0.01%", 1), ("0.5%", 50), ("7%", 700), ("100%", 10_000), ("100.0%", 10_000)]
        {
            assert_eq!(Sample::from_text(text), Ok(Sample(hundredths)), "{text}");
        }
        for text in ["", "%", "1", "101%", "100.01%", "-1%", "+1%", "1.%", ".5%", "1.234%", "1,5%", "99999%"] {
            assert!(Sample::from_text(text).is_err(), "{text}");
        }
        assert!((Sample(25).ratio() - 0.0025).abs() < 1e-12);
    }
}
