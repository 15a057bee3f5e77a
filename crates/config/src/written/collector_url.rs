//! The URL of a collector of traces.

use std::{str::FromStr, sync::Arc};

use thiserror::Error;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CollectorUrlError {
    /// It is no plain URL.
    #[error("{}", problem(*.0))]
    Url(UrlError),
    /// Something follows the host and the port.
    #[error("the URL must end with the port: OTLP is spoken over gRPC, commonly on port 4317, which has no such path")]
    Path,
}

/// What is wrong with a collector's URL, which has fields of its own for nothing.
fn problem(error: UrlError) -> String {
    match error {
        UrlError::UserInfo => {
            "the URL must hold no user and password; the variable OTEL_EXPORTER_OTLP_HEADERS has what \
                               the collector wants"
                .to_owned()
        }
        UrlError::Form => {
            "the URL must have a scheme and a host; accepted: http:// or https://, a host and a port".to_owned()
        }
        other => other.to_string(),
    }
}

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
        text.parse().map_err(|error: CollectorUrlError| error.to_string())
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
        for (text, error) in [
            ("127.0.0.1:4317", CollectorUrlError::Url(UrlError::Form)),
            ("grpc://host:4317", CollectorUrlError::Url(UrlError::Scheme)),
            ("http://ada:geheim@host:4317", CollectorUrlError::Url(UrlError::UserInfo)),
            ("http://host:4318/v1/traces", CollectorUrlError::Path),
            ("http://host:4317?token=geheim", CollectorUrlError::Url(UrlError::Query)),
        ] {
            assert_eq!(text.parse::<CollectorUrl>(), Err(error), "{text}");
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }
}
