//! The URL of a collector of traces.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    scalar::FromScalar,
    url::{UpstreamUrl, UrlError},
};

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
}
