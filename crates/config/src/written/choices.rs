//! Fields that take one of a few names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderName, header};

use crate::scalar::Choice;

/// Whether the upstream finishes a response that nobody reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClientAbort {
    #[default]
    Stop,
    Drain,
}

impl Choice for ClientAbort {
    const CHOICES: &[(&str, Self)] = &[("stop", Self::Stop), ("drain", Self::Drain)];
}

/// What becomes of a response whose key is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRevoke {
    /// It ends, with an event that says why where one can be written.
    #[default]
    Cut,
    /// It goes on to its end.
    Finish,
}

impl Choice for OnRevoke {
    const CHOICES: &[(&str, Self)] = &[("cut", Self::Cut), ("finish", Self::Finish)];
}

/// How much of a client's address the access log tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoggedAddress {
    /// All of it.
    #[default]
    Full,
    /// The network that it is in, which is nobody's alone.
    Network,
    /// Nothing.
    Off,
}

impl Choice for LoggedAddress {
    const CHOICES: &[(&str, Self)] = &[("full", Self::Full), ("network", Self::Network), ("off", Self::Off)];
}

impl LoggedAddress {
    /// What is told of `address`: of a network its first 24 bits (IPv4) or 48 (IPv6, what one site is commonly given).
    #[must_use]
    pub fn told(self, address: IpAddr) -> Option<IpAddr> {
        match (self, address) {
            (Self::Off, _) => None,
            (Self::Full, address) => Some(address),
            (Self::Network, IpAddr::V4(address)) => {
                Some(Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into())
            }
            (Self::Network, IpAddr::V6(address)) => {
                Some(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)).into())
            }
        }
    }
}

/// Whether all secrets bear their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretChecksum {
    Off,
    Required,
}

impl Choice for SecretChecksum {
    const CHOICES: &[(&str, Self)] = &[("off", Self::Off), ("required", Self::Required)];
}

/// What a request is held to while the server does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenUnreachable {
    /// A part of the limit: as many gateways as were seen last have one each.
    #[default]
    LocalShare,
    /// It is refused.
    Refuse,
}

impl Choice for WhenUnreachable {
    const CHOICES: &[(&str, Self)] = &[("local_share", Self::LocalShare), ("refuse", Self::Refuse)];
}

/// The header that bears an upstream's credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApiKeyHeader {
    /// `Authorization: Bearer …` (RFC 6750).
    #[default]
    Authorization,
    /// `x-api-key`.
    XApiKey,
    /// `api-key`.
    ApiKey,
    /// `x-goog-api-key`.
    XGoogApiKey,
}

impl ApiKeyHeader {
    /// The header's name.
    #[must_use]
    pub const fn name(self) -> HeaderName {
        match self {
            Self::Authorization => header::AUTHORIZATION,
            Self::XApiKey => HeaderName::from_static("x-api-key"),
            Self::ApiKey => HeaderName::from_static("api-key"),
            Self::XGoogApiKey => HeaderName::from_static("x-goog-api-key"),
        }
    }
}

impl Choice for ApiKeyHeader {
    const CHOICES: &[(&str, Self)] = &[
        ("authorization", Self::Authorization),
        ("x-api-key", Self::XApiKey),
        ("api-key", Self::ApiKey),
        ("x-goog-api-key", Self::XGoogApiKey),
    ];
}

/// Whether a stream's request is made to ask for usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InjectUsage {
    /// Until the upstream refuses the request because of it.
    #[default]
    Auto,
    /// Whatever the upstream answers.
    Always,
    /// Not at all.
    Never,
}

impl Choice for InjectUsage {
    const CHOICES: &[(&str, Self)] = &[("auto", Self::Auto), ("always", Self::Always), ("never", Self::Never)];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_as_much_is_told_as_is_asked_for() {
        for (choice, address, told) in [
            (LoggedAddress::Full, "192.0.2.77", Some("192.0.2.77")),
            (LoggedAddress::Network, "192.0.2.77", Some("192.0.2.0")),
            (LoggedAddress::Network, "2001:db8:7:8:9::1", Some("2001:db8:7::")),
            (LoggedAddress::Full, "2001:db8:7:8:9::1", Some("2001:db8:7:8:9::1")),
            (LoggedAddress::Off, "192.0.2.77", None),
        ] {
            let told: Option<IpAddr> = told.map(|told| told.parse().unwrap());
            assert_eq!(choice.told(address.parse().unwrap()), told, "{choice:?} of {address}");
        }
    }
}
