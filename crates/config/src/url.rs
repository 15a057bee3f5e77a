//! The base URL of an upstream.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use http::uri::{Scheme, Uri};
use thiserror::Error;

/// The base URL of an upstream, in the parts that a connection and a request need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// Whether it is spoken to with TLS (`https`).
    pub tls: bool,
    /// The name or the IP address, without brackets: for resolving and for TLS.
    pub host: Arc<str>,
    /// The stated port, or that of the scheme.
    pub port: u16,
    /// For the `Host` header: the host, with brackets where it is an IPv6 address, and a port that is not the scheme's.
    pub authority: Arc<str>,
    /// What is put before the path of a request: empty, or begins with `/` and does not end with one.
    pub path: Arc<str>,
}

/// Why a text is no URL of an upstream. The text is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Not a URL with a scheme and a host.
    #[error(
        "the URL must have a scheme and a host; accepted: http:// or https://, a host, a port and a path if need be"
    )]
    Form,
    /// Neither `http` nor `https`.
    #[error("the scheme of the URL must be http or https")]
    Scheme,
    /// `user:password@`.
    #[error("the URL must hold no user and password; a credential has a field of its own, `api_key` or `token`")]
    UserInfo,
    /// `?…`.
    #[error("the URL must hold no query (`?…`)")]
    Query,
    /// `#…`.
    #[error("the URL must hold no fragment (`#…`)")]
    Fragment,
    /// Not 1 to 65535.
    #[error("the port of the URL must be a number from 1 to 65535")]
    Port,
}

impl UpstreamUrl {
    /// Its host, if that is an address and no name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for UpstreamUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Form)?;
        let scheme = uri.scheme().ok_or(UrlError::Form)?;
        let tls = *scheme == Scheme::HTTPS;
        if !tls && *scheme != Scheme::HTTP {
            return Err(UrlError::Scheme);
        }
        if uri.query().is_some() {
            return Err(UrlError::Query);
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(UrlError::Form)?.to_ascii_lowercase();
        let scheme_port = if tls { 443 } else { 80 };
        let port = stated_port(&uri)?.unwrap_or(scheme_port);
        let authority = if port == scheme_port { host.clone() } else { format!("{host}:{port}") };
        let host = host.trim_start_matches('[').trim_end_matches(']').into();
        let path = uri.path().trim_end_matches('/').into();
        Ok(Self { tls, host, port, authority: authority.into(), path })
    }
}

/// Whether what is at `url` comes without TLS from another machine, so that somebody on the way could put something else in
/// its place.
pub(crate) fn comes_without_tls(url: &str) -> bool {
    let base = url.split('?').next().unwrap_or_default();
    base.parse::<UpstreamUrl>().is_ok_and(|url| {
        let is_here = url.ip().map_or(&*url.host == "localhost", |ip| ip.is_loopback());
        !url.tls && !is_here
    })
}

/// The port that is written, if one is.
fn stated_port(uri: &Uri) -> Result<Option<u16>, UrlError> {
    let authority = uri.authority().ok_or(UrlError::Form)?;
    let after_host = authority.as_str().strip_prefix(authority.host());
    let after_host = after_host.ok_or(UrlError::UserInfo)?;
    if after_host.is_empty() {
        return Ok(None);
    }
    let port = after_host.strip_prefix(':').ok_or(UrlError::UserInfo)?;
    port.parse().ok().filter(|port| *port > 0).map(Some).ok_or(UrlError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_url() {
        let expected = [
            ("http://127.0.0.1:8000", (false, "127.0.0.1", 8000, "127.0.0.1:8000", "")),
            ("https://API.example", (true, "api.example", 443, "api.example", "")),
            ("HTTPS://api.example:443/", (true, "api.example", 443, "api.example", "")),
            ("http://[::1]:80/base/v1/", (false, "::1", 80, "[::1]", "/base/v1")),
            ("http://[::1]:11434", (false, "::1", 11434, "[::1]:11434", "")),
        ];
        for (text, parts) in expected {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!((url.tls, &*url.host, url.port, &*url.authority, &*url.path), parts, "{text}");
        }
    }

    #[test]
    fn what_is_no_url_of_an_upstream_is_refused() {
        let refused = [
            ("", UrlError::Form),
            ("127.0.0.1:8000", UrlError::Form),
            ("/v1", UrlError::Form),
            ("http://", UrlError::Form),
            ("http:///v1", UrlError::Form),
            ("http://a b", UrlError::Form),
            ("ftp://host", UrlError::Scheme),
            ("http://ada:geheim@host", UrlError::UserInfo),
            ("http://ada@host:80", UrlError::UserInfo),
            ("http://host@host", UrlError::UserInfo),
            ("http://host/?key=1", UrlError::Query),
            ("http://host#top", UrlError::Fragment),
            ("http://host:0", UrlError::Port),
            ("http://host:", UrlError::Port),
            ("http://host:99999", UrlError::Port),
        ];
        for (text, error) in refused {
            assert_eq!(text.parse::<UpstreamUrl>(), Err(error), "{text}");
        }
    }
}
