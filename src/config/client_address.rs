//! Whose request it is when a proxy stands before us: a header says so, and is believed of those only who may set it.

use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use super::{fault::Place, raw, scalar::Scalar};

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
            place.field("trusted").fault("at least one network is needed, such as 10.0.0.0/8");
        }
        let trusted = place.field("trusted").elements(trusted?);
        let Scalar(header) = header?;
        Some(Self { header, trusted: trusted.into_iter().map(|(_, Scalar(network))| network).collect() })
    }
}

/// The last address in the header that is not a trusted proxy's. Each proxy appends the
/// address that it was spoken to by, so whatever stands further left is hearsay.
fn forwarded(from: &ClientAddress, headers: &http::HeaderMap, peer: IpAddr) -> IpAddr {
    let is_trusted = |address: &IpAddr| from.trusted.iter().any(|network| is_within(network, address));
    if !is_trusted(&peer) {
        return peer;
    }
    let values: Vec<_> = headers.get_all(&from.header).iter().filter_map(|value| value.to_str().ok()).collect();
    let addresses =
        values.iter().rev().flat_map(|value| value.rsplit(',')).map_while(|part| parse_address(part.trim()));
    let mut nearest = peer;
    for address in addresses {
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
fn parse_address(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_believed_of_trusted_peers_and_no_further_than_they_can_know() {
        let trusted =
            vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap(), "::ffff:172.16.0.0/108".parse().unwrap()];
        let from = ClientAddress { header: HeaderName::from_static("x-forwarded-for"), trusted };
        for (peer, stated, expected) in [
            ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
            ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "1.2.3.4, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
            ("::ffff:10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
            ("172.16.0.1", "203.0.113.9", "203.0.113.9"),
            ("fd00::1", "[2001:db8::1]:443", "2001:db8::1"),
            ("10.0.0.1", "nonsense", "10.0.0.1"),
        ] {
            let headers = http::HeaderMap::from_iter([(from.header.clone(), stated.parse().unwrap())]);
            assert_eq!(
                from.client(&headers, peer.parse().unwrap()),
                expected.parse::<IpAddr>().unwrap(),
                "{peer} {stated}"
            );
        }
    }
}
