//! The client's address behind a proxy: which header states it, and which peers may set that header.

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use super::{raw, report::Place, scalar::Scalar};

/// Which header tells the client's address, and which peers may set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// Such as `x-forwarded-for`.
    pub header: HeaderName,
    /// At least one network.
    pub trusted: Vec<IpNet>,
}

impl ClientAddress {
    /// Where a request comes from: the peer, or whom a trusted peer says that it forwards for. An IPv4 address that a socket
    /// of both families shows as an IPv6 one is the IPv4 address.
    #[must_use]
    pub fn client(&self, headers: &http::HeaderMap, peer: IpAddr) -> IpAddr {
        forwarded(self, headers, peer.to_canonical())
    }

    pub(super) fn check(raw: raw::ClientAddress, place: &Place<'_>) -> Option<Self> {
        let header = place.required("header", raw.header, "such as x-forwarded-for");
        let trusted = place.required("trusted", raw.trusted, "the networks of the proxies that set the header");
        if trusted.as_ref().is_some_and(Vec::is_empty) {
            place.field("trusted").error("at least one network is needed, such as 10.0.0.0/8");
        }
        let trusted = place.field("trusted").elements(trusted?);
        let Scalar(header) = header?;
        Some(Self { header, trusted: trusted.into_iter().map(|(_, Scalar(network))| network).collect() })
    }
}

/// The last address in the header that is not a trusted proxy's. Each proxy appends the
/// address that it was spoken to by, so whatever stands further left is hearsay: also left of what cannot be read.
fn forwarded(from: &ClientAddress, headers: &http::HeaderMap, peer: IpAddr) -> IpAddr {
    let is_trusted = |address: &IpAddr| from.trusted.iter().any(|network| is_within(network, address));
    if !is_trusted(&peer) {
        return peer;
    }
    let values: Vec<_> = headers.get_all(&from.header).iter().map(http::HeaderValue::as_bytes).collect();
    let parts = values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
    let mut nearest = peer;
    for address in parts.map_while(|part| parse_address(part.trim_ascii())) {
        nearest = address;
        if !is_trusted(&address) {
            break;
        }
    }
    nearest
}

/// A network of IPv4 addresses may also be written as the IPv6 one that they are mapped to.
fn is_within(network: &IpNet, address: &IpAddr) -> bool {
    let mapped = match address {
        IpAddr::V4(four) => IpAddr::V6(four.to_ipv6_mapped()),
        IpAddr::V6(_) => *address,
    };
    network.contains(address) || network.contains(&mapped)
}

/// An address, with or without a port.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let address: Option<IpAddr> = text.parse().ok();
    let address = address.or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    /// Where a request from `peer` comes from, whose header has these lines.
    fn found(peer: &str, lines: &[&[u8]]) -> String {
        let name = HeaderName::from_static("x-forwarded-for");
        let trusted =
            ["10.0.0.0/8", "fd00::/8", "::ffff:172.16.0.0/108"].map(|network| network.parse().unwrap()).to_vec();
        let from = ClientAddress { header: name.clone(), trusted };
        let lines = lines.iter().map(|line| (name.clone(), HeaderValue::from_bytes(line).unwrap()));
        let headers: HeaderMap = lines.collect();
        from.client(&headers, peer.parse().unwrap()).to_string()
    }

    #[test]
    fn the_last_that_is_not_trusted_is_the_client() {
        for (peer, lines, client) in [
            ("192.0.2.9", &[&b"192.0.2.1"[..]][..], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[b"192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &[b"198.51.100.1, 192.0.2.1:443, 10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &[b"198.51.100.1", b"192.0.2.1,10.0.0.2 "], "192.0.2.1"),
            ("fd00::1", &[b"[2001:db8::1]:80"], "2001:db8::1"),
        ] {
            assert_eq!(found(peer, lines), client, "{lines:?}");
        }
    }

    #[test]
    fn ipv4_is_the_same_as_a_part_of_ipv6() {
        assert_eq!(found("::ffff:10.0.0.1", &[b"192.0.2.1"]), "192.0.2.1");
        assert_eq!(found("10.0.0.1", &[b"192.0.2.1, ::ffff:10.0.0.2"]), "192.0.2.1");
        assert_eq!(found("10.0.0.1", &[b"::ffff:192.0.2.1"]), "192.0.2.1");
        assert_eq!(found("::ffff:192.0.2.9", &[b"192.0.2.1"]), "192.0.2.9");
        assert_eq!(found("172.16.0.1", &[b"192.0.2.1"]), "192.0.2.1", "a network may be written so, too");
    }

    #[test]
    fn what_stands_left_of_what_cannot_be_read_is_not_believed() {
        for (lines, client) in [
            (&[&b"192.0.2.1"[..], b"\xff"][..], "10.0.0.1"),
            (&[b"192.0.2.1", b"caf\xc3\xa9"], "10.0.0.1"),
            (&[b"192.0.2.1", b""], "10.0.0.1"),
            (&[b"192.0.2.1", b"unknown"], "10.0.0.1"),
            (&[b"192.0.2.1", b"192.0.2.2, \xe9"], "10.0.0.1"),
            (&[b"192.0.2.1", b"\xe9, 10.0.0.3"], "10.0.0.3"),
            (&[b"192.0.2.1, \xe9", b"10.0.0.3"], "10.0.0.3"),
            (&[b"\xe9, 192.0.2.1"], "192.0.2.1"),
        ] {
            assert_eq!(found("10.0.0.1", lines), client, "{lines:?}");
        }
    }
}
