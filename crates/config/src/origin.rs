//! What is written of pages from elsewhere, and of streams that are silent.

use std::time::Duration;

use super::scalar::{FromScalar, Span};

/// Where a page is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Anywhere.
    Any,
    /// There; in lower case, without the scheme's own port, as browsers write it.
    At(Box<str>),
}

/// The ports that browsers leave out.
const DEFAULT_PORTS: [(&str, &str); 2] = [("http", ":80"), ("https", ":443")];

impl FromScalar for Origin {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let origin = lower.split_once("://").filter(|(scheme, host)| is_scheme(scheme) && is_host(host));
        let Some((scheme, host)) = origin else {
            return Err("an origin is a scheme, a host and perhaps a port, such as https://app.example:8443, without \
                        a path; `*` is any"
                .to_owned());
        };
        let port = DEFAULT_PORTS.iter().find(|(name, _)| *name == scheme).map_or("", |(_, port)| *port);
        let host = host.strip_suffix(port).unwrap_or(host);
        Ok(Self::At(format!("{scheme}://{host}").into()))
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({
            "title": "an origin",
            "type": "string",
            "pattern": r"^(\*|[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#@\s]+)$",
            "examples": ["https://app.example"],
        })
    }
}

fn is_scheme(scheme: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte);
    scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(plain)
}

fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    !host.is_empty() && host.bytes().all(plain)
}

/// After how long a silence a stream gets a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heartbeat(pub(super) Option<Duration>);

/// Less would only be noise.
const SHORTEST: Duration = Duration::from_secs(1);

impl FromScalar for Heartbeat {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match Span::from_text(text) {
            Ok(Span(time)) if time >= SHORTEST => Ok(Self(Some(time))),
            _ => Err("a heartbeat is `off` or a duration of at least 1s, such as 15s".to_owned()),
        }
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({
            "title": "`off`, or a length of time",
            "type": "string",
            "pattern": "^(off|[0-9]+(ms|s|m|h))$",
            "examples": ["off", "15s"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_as_browsers_write_it() {
        for (written, expected) in [
            ("https://app.example", "https://app.example"),
            ("HTTPS://App.Example:443", "https://app.example"),
            ("http://app.example:80", "http://app.example"),
            ("http://app.example:443", "http://app.example:443"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ] {
            assert_eq!(Origin::from_text(written), Ok(Origin::At(expected.into())), "{written}");
        }
        assert_eq!(Origin::from_text("*"), Ok(Origin::Any));
        for written in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://a@b",
            "https://*.example",
            "://a",
            "a b://c",
        ] {
            assert!(Origin::from_text(written).is_err(), "{written}");
        }
    }

    #[test]
    fn a_heartbeat_is_off_or_a_second_at_least() {
        assert_eq!(Heartbeat::from_text("off"), Ok(Heartbeat(None)));
        assert_eq!(Heartbeat::from_text("15s"), Ok(Heartbeat(Some(Duration::from_secs(15)))));
        for written in ["", "on", "0s", "999ms", "15"] {
            assert!(Heartbeat::from_text(written).is_err(), "{written}");
        }
    }
}
