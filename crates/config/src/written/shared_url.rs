//! The URL of the server on which several gateways count one limit together.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;

use crate::scalar::FromScalar;

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedUrl {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Which servers are to be asked.
    pub servers: Servers,
    /// The number of the database.
    pub database: u32,
}

/// The servers that a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// There is one.
    One(ServerAddress),
    /// They say which is the primary.
    Sentinels {
        /// At least one.
        nodes: Vec<ServerAddress>,
        /// What the primary is called among them.
        primary: Arc<str>,
    },
    /// They share the keys out among themselves.
    Cluster(Vec<ServerAddress>),
}

/// A server's name or address, and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Without brackets, where it is an IPv6 address.
    pub host: Arc<str>,
    /// 1 to 65535.
    pub port: u16,
}

/// Why a text is no URL of such a server. The text is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SharedUrlError {
    /// None of the schemes.
    #[error(
        "the URL must begin with redis://, redis-cluster:// or redis-sentinel://, with TLS rediss://, \
         rediss-cluster:// or rediss-sentinel://"
    )]
    Scheme,
    /// `user:password@`.
    #[error("the URL must hold no user and password; they have the fields `username` and `password`")]
    UserInfo,
    /// No host, a bad port, or several hosts where there is to be one.
    #[error(
        "the URL must name a host and may name a port, such as redis://10.0.0.5:6379; a cluster's and sentinels' are \
         separated by commas"
    )]
    Hosts,
    /// A path that says nothing.
    #[error("after the host there may be the number of the database, such as redis://10.0.0.5:6379/1")]
    Path,
    /// Sentinels without the name of what they watch.
    #[error("sentinels need the name of the primary that they watch, as in redis-sentinel://10.0.0.5:26379/mymaster")]
    Primary,
    /// `?…` or `#…`.
    #[error("the URL must hold no `?…` and no `#…`")]
    Query,
}

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl FromStr for SharedUrl {
    type Err = SharedUrlError;

    fn from_str(text: &str) -> Result<Self, SharedUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(SharedUrlError::Scheme)?;
        let (server, kind) = scheme.split_once('-').unwrap_or((scheme, ""));
        let tls = match server {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(SharedUrlError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(SharedUrlError::Query);
        }
        if rest.contains('@') {
            return Err(SharedUrlError::UserInfo);
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let nodes = |port| hosts.split(',').map(|host| node(host, port)).collect::<Result<Vec<_>, _>>();
        let (servers, database) = match kind {
            "" => (Servers::One(node(hosts, PORT)?), number(path)?),
            "cluster" if path.is_empty() => (Servers::Cluster(nodes(PORT)?), 0),
            "cluster" => return Err(SharedUrlError::Path),
            "sentinel" => {
                let (primary, database) = path.split_once('/').unwrap_or((path, ""));
                if primary.is_empty() {
                    return Err(SharedUrlError::Primary);
                }
                (Servers::Sentinels { nodes: nodes(SENTINEL_PORT)?, primary: primary.into() }, number(database)?)
            }
            _ => return Err(SharedUrlError::Scheme),
        };
        Ok(Self { tls, servers, database })
    }
}

/// As it is written in the configuration, with its ports.
impl fmt::Display for SharedUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.tls { "rediss" } else { "redis" })?;
        let (kind, nodes, primary) = match &self.servers {
            Servers::One(node) => ("", std::slice::from_ref(node), None),
            Servers::Sentinels { nodes, primary } => ("-sentinel", nodes.as_slice(), Some(primary)),
            Servers::Cluster(nodes) => ("-cluster", nodes.as_slice(), None),
        };
        write!(formatter, "{kind}://")?;
        for (index, ServerAddress { host, port }) in nodes.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let [before, behind] = if host.contains(':') { ["[", "]"] } else { ["", ""] };
            write!(formatter, "{comma}{before}{host}{behind}:{port}")?;
        }
        primary.map_or(Ok(()), |primary| write!(formatter, "/{primary}"))?;
        if self.database > 0 { write!(formatter, "/{}", self.database) } else { Ok(()) }
    }
}

impl FromScalar for SharedUrl {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: SharedUrlError| error.to_string())
    }
}

fn number(path: &str) -> Result<u32, SharedUrlError> {
    if path.is_empty() { Ok(0) } else { path.parse().map_err(|_| SharedUrlError::Path) }
}

fn node(text: &str, port: u16) -> Result<ServerAddress, SharedUrlError> {
    let authority: http::uri::Authority = text.parse().map_err(|_| SharedUrlError::Hosts)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stated = text.strip_prefix(authority.host()).ok_or(SharedUrlError::Hosts)?;
    let port = match stated.strip_prefix(':') {
        Some(stated) => stated.parse().ok().filter(|port| *port > 0).ok_or(SharedUrlError::Hosts)?,
        None if stated.is_empty() => port,
        None => return Err(SharedUrlError::Hosts),
    };
    if host.is_empty() || host.contains(',') {
        Err(SharedUrlError::Hosts)
    } else {
        Ok(ServerAddress { host: host.into(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(host: &str, port: u16) -> ServerAddress {
        ServerAddress { host: host.into(), port }
    }

    #[test]
    fn a_server_sentinels_and_a_cluster_are_told_apart() {
        let sentinels = |nodes: Vec<ServerAddress>| Servers::Sentinels { nodes, primary: "main".into() };
        for (text, tls, servers, database) in [
            ("redis://10.0.0.5", false, Servers::One(one("10.0.0.5", 6379)), 0),
            ("valkey://h:1/2", false, Servers::One(one("h", 1)), 2),
            ("rediss://[::1]:7000", true, Servers::One(one("::1", 7000)), 0),
            ("redis-cluster://a,b:7", false, Servers::Cluster(vec![one("a", 6379), one("b", 7)]), 0),
            ("rediss-sentinel://a,b:7/main", true, sentinels(vec![one("a", 26379), one("b", 7)]), 0),
            ("redis-sentinel://a/main/3", false, sentinels(vec![one("a", 26379)]), 3),
        ] {
            let url = SharedUrl { tls, servers, database };
            assert_eq!(url.to_string().parse(), Ok(url.clone()), "{text} as it is written");
            assert_eq!(text.parse(), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_is_no_such_url_is_refused() {
        for (text, error) in [
            ("", SharedUrlError::Scheme),
            ("10.0.0.5:6379", SharedUrlError::Scheme),
            ("http://a", SharedUrlError::Scheme),
            ("redis-ring://a", SharedUrlError::Scheme),
            ("redis://:geheim@a", SharedUrlError::UserInfo),
            ("redis://", SharedUrlError::Hosts),
            ("redis://a,b", SharedUrlError::Hosts),
            ("redis://a:0", SharedUrlError::Hosts),
            ("redis-cluster://a,", SharedUrlError::Hosts),
            ("redis://a/x", SharedUrlError::Path),
            ("redis-cluster://a/1", SharedUrlError::Path),
            ("redis-sentinel://a", SharedUrlError::Primary),
            ("redis://a?db=1", SharedUrlError::Query),
        ] {
            assert_eq!(text.parse::<SharedUrl>(), Err(error), "{text}");
        }
    }
}
