//! Whom a request for an operator's address was meant for, and which page sent it. A browser can be made to send requests
//! to an address on loopback by any page that it shows: one whose own name resolves to that address (its `Host` says so),
//! or one that posts across sites (`Origin` and `Sec-Fetch-Site` say so).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, Uri, Version, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The name of a host, or its address, without a port; in lower case, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(Box<str>);

impl HostName {
    /// `None` where the text is no such name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !text.is_empty() && text.len() <= 253 && text.bytes().all(plain)
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = address.parse::<IpAddr>() {
            return Some(Self(address.to_string().into()));
        }
        is_name(name).then(|| Self(name.to_ascii_lowercase().into()))
    }

    fn is_loopback(&self) -> bool {
        let is_address = |address: IpAddr| address.to_canonical().is_loopback();
        &*self.0 == "localhost" || self.0.parse().is_ok_and(is_address)
    }
}

/// A request that a page of somebody else's may have sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignRequestError {
    /// `Host` names none of ours.
    Host,
    /// It comes from a page of another site.
    Site,
}

/// Whether a request that came in at `listen` names a host of ours: on loopback that is `localhost`, a loopback address or
/// one of `allowed`, elsewhere any.
///
/// # Errors
/// When it does not, says it twice, or not at all where HTTP demands it.
pub fn check_host(
    listen: SocketAddr,
    allowed: &[HostName],
    request: (&Uri, &HeaderMap, Version),
) -> Result<(), ForeignRequestError> {
    if !listen.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let (uri, headers, version) = request;
    let is_ours =
        |authority: &str| split(authority).is_some_and(|(name, _)| name.is_loopback() || allowed.contains(&name));
    let mut named = headers.get_all(header::HOST).iter();
    let host = named.next();
    let host_is_ours = match host {
        Some(host) => host.to_str().is_ok_and(is_ours),
        // No browser leaves it out: those who do are programs that speak HTTP/1.0, or name it as HTTP/2 does.
        None => version < Version::HTTP_11 || uri.authority().is_some(),
    };
    let target_is_ours = uri.authority().is_none_or(|authority| is_ours(authority.as_str()));
    if host_is_ours && target_is_ours && named.next().is_none() { Ok(()) } else { Err(ForeignRequestError::Host) }
}

/// Whether a request that may change something comes from no page at all, or from one of the address that it is sent to.
///
/// # Errors
/// When it comes from another's.
pub fn check_site(request: (&Uri, &HeaderMap)) -> Result<(), ForeignRequestError> {
    let (uri, headers) = request;
    let is_own_site = |site: &http::HeaderValue| site == "same-origin" || site == "none";
    let here = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => headers.get(header::HOST).and_then(|host| host.to_str().ok()),
    };
    let is_here = |origin: &http::HeaderValue| {
        let (Ok(origin), Some(here)) = (origin.to_str(), here) else { return false };
        is_origin_of(origin, here)
    };
    let is_own =
        headers.get_all(SEC_FETCH_SITE).iter().all(is_own_site) && headers.get_all(header::ORIGIN).iter().all(is_here);
    if is_own { Ok(()) } else { Err(ForeignRequestError::Site) }
}

/// Whether `origin`, such as `http://localhost:9090`, is that of pages at `authority`. TLS may end before it comes to us.
fn is_origin_of(origin: &str, authority: &str) -> bool {
    let (scheme_port, rest) = match origin.split_once("://") {
        Some(("http", rest)) => (80, rest),
        Some(("https", rest)) => (443, rest),
        _ => return false,
    };
    let with_port = |(name, port): (HostName, Option<u16>)| (name, port.unwrap_or(scheme_port));
    match (split(rest), split(authority)) {
        (Some(origin), Some(here)) => with_port(origin) == with_port(here),
        _ => false,
    }
}

/// The name and the port of an authority such as `localhost:9090` or `[::1]:9090`.
fn split(authority: &str) -> Option<(HostName, Option<u16>)> {
    let end_of_name = authority.find(']').map_or(0, |bracket| bracket + 1);
    let (name, port) = match authority.get(end_of_name..)?.find(':') {
        Some(colon) => {
            let (name, port) = authority.split_at_checked(end_of_name + colon)?;
            (name, port.strip_prefix(':')?)
        }
        None => (authority, ""),
    };
    let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
    Some((HostName::parse(name)?, port))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn host_on(listen: &str, target: &str, hosts: &[&str], version: Version) -> bool {
        let allowed = [HostName::parse("Metrics.Example.").unwrap(), HostName::parse("192.0.2.7").unwrap()];
        let fields: Vec<_> = hosts.iter().map(|host| (header::HOST, *host)).collect();
        let (uri, headers) = (target.parse().unwrap(), headers(&fields));
        check_host(listen.parse().unwrap(), &allowed, (&uri, &headers, version)).is_ok()
    }

    #[test]
    fn on_loopback_a_host_is_ours_or_refused() {
        let ours = [
            "localhost",
            "localhost:9090",
            "LOCALHOST:9090",
            "localhost.",
            "localhost.:1",
            "127.0.0.1",
            "127.0.0.1:9090",
            "127.9.9.9",
            "[::1]",
            "[::1]:9090",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]:80",
            "metrics.example",
            "METRICS.example.:443",
            "192.0.2.7:1",
            "localhost:",
        ];
        let foreign = [
            "",
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "evil.localhost",
            "127.0.0.1.evil.example",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0.0.0.0",
            "10.0.0.1",
            "[::2]",
            "[::1",
            "::1]",
            "localhost:99999",
            "localhost:x",
            "localhost@evil.example",
            "user@localhost",
            "evil.example#localhost",
            "localhost/..",
            "a b",
            "localhost, evil.example",
            "notmetrics.example",
            "x.metrics.example",
            "localhost..",
        ];
        for listen in ["127.0.0.1:9090", "[::1]:9090", "[::ffff:127.0.0.1]:9090"] {
            for host in ours {
                assert!(host_on(listen, "/", &[host], Version::HTTP_11), "{host}");
            }
            for host in foreign {
                assert!(!host_on(listen, "/", &[host], Version::HTTP_11), "{host}");
                assert!(host_on("0.0.0.0:9090", "/", &[host], Version::HTTP_11), "{host} elsewhere");
            }
        }
    }

    #[test]
    fn whoever_names_no_host_or_two_is_no_browser_of_ours() {
        let on = |target, hosts: &[&str], version| host_on("127.0.0.1:9090", target, hosts, version);
        assert!(on("/", &[], Version::HTTP_10));
        assert!(!on("/", &[], Version::HTTP_11));
        assert!(!on("/", &["localhost", "localhost"], Version::HTTP_11));
        assert!(!on("/", &["localhost", "evil.example"], Version::HTTP_10));
        assert!(on("http://localhost:9090/", &["localhost:9090"], Version::HTTP_11));
        assert!(!on("http://evil.example/", &["localhost:9090"], Version::HTTP_11));
        assert!(!on("http://localhost/", &["evil.example"], Version::HTTP_11));
        assert!(on("http://localhost/", &[], Version::HTTP_2));
        assert!(!on("http://evil.example/", &[], Version::HTTP_2));
        assert!(!on("http://evil.example/", &[], Version::HTTP_10));
    }

    fn site(host: &str, fields: &[(HeaderName, &str)]) -> bool {
        let mut headers = headers(fields);
        headers.insert(header::HOST, host.parse().unwrap());
        check_site((&Uri::from_static("/-/reload"), &headers)).is_ok()
    }

    #[test]
    fn a_page_of_another_site_is_foreign() {
        let origin = |origin| [(header::ORIGIN, origin)];
        assert!(site("127.0.0.1:9090", &[]));
        assert!(site("127.0.0.1:9090", &origin("http://127.0.0.1:9090")));
        assert!(site("Metrics.example", &origin("https://metrics.example")));
        assert!(site("metrics.example:443", &origin("https://metrics.example")));
        assert!(site("[::1]:9090", &origin("http://[::1]:9090")));
        for foreign in [
            "null",
            "",
            "http://evil.example",
            "http://127.0.0.1",
            "http://127.0.0.1:9091",
            "127.0.0.1:9090",
            "file://127.0.0.1:9090",
            "http://127.0.0.1:9090, http://evil.example",
        ] {
            assert!(!site("127.0.0.1:9090", &origin(foreign)), "{foreign}");
        }
        let twice = [(header::ORIGIN, "http://127.0.0.1:9090"), (header::ORIGIN, "http://evil.example")];
        assert!(!site("127.0.0.1:9090", &twice));
        for (from, is_own) in
            [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false), ("", false)]
        {
            assert_eq!(site("127.0.0.1:9090", &[(SEC_FETCH_SITE, from)]), is_own, "{from}");
        }
    }
}
