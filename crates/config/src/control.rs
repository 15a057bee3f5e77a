//! The control plane's section: its address, its database, its tokens, who signs in to its page, and its bounds.

mod oidc;

use std::{net::Ipv4Addr, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use keymeter_core::hosts::HostName;

pub use self::oidc::Oidc;
use super::{
    client_address::ClientAddress,
    credential::{Credential, long_enough},
    database::Database,
    files, raw,
    report::Place,
    scalar::{Scalar, Span},
    server::{ConnectionTimeouts, Server, hosts, transposed},
    url::UpstreamUrl,
};

/// The control plane that `serve` runs beside the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Port 0 is any free one.
    pub listen: SocketAddr,
    /// What `Host` may say where `listen` is loopback, beside `localhost` and loopback addresses.
    pub hosts: Vec<HostName>,
    /// Those of `server`, which hold here too.
    pub timeouts: ConnectionTimeouts,
    /// For a whole body to arrive: that of `server`.
    pub body_timeout: Duration,
    /// Where it remembers.
    pub database: Database,
    /// The operator's; `None`, with SQLite alone: the control plane makes one.
    pub token: Option<Credential>,
    /// That of gateways; `None`: with SQLite the control plane makes one, for a gateway in the same process; else none may ask.
    pub gateway_token: Option<Credential>,
    /// Secrets that a user may make or replace in an hour.
    pub key_operations_per_hour: u32,
    /// Everything else that a user may change in an hour.
    pub changes_per_hour: u32,
    /// Whom to believe about the client's address; `None`: nobody, the peer's counts.
    pub client_address: Option<ClientAddress>,
    /// Where programs reach the gateway, without a path, as the page tells them; `None`: where it listens.
    pub gateway_url: Option<Arc<str>>,
    /// Where browsers reach the page, without a path; `None`: nobody needs to know.
    pub page_url: Option<Arc<str>>,
    /// By whom people sign in to the page, beside tokens.
    pub oidc: Option<Oidc>,
    /// How long records of single requests are kept; their sums stay.
    pub usage_retention: Duration,
}

/// How long records are kept where nothing is configured: a year.
const RETENTION: Duration = Duration::from_hours(365 * 24);

const HOW_TO_MAKE_ONE: &str = "the operator's; `openssl rand -hex 32` makes one, and `${KEYMETER_CONTROL_TOKEN}` reads \
                               it from the environment";

impl Control {
    pub(super) fn check(raw: raw::Control, server: Option<&Server>, place: &Place<'_>, file: &Path) -> Option<Self> {
        let mut hosts = hosts(raw.hosts, &place.field("hosts"));
        let page_url = transposed(raw.page_url.map(|Scalar(url)| oidc::page_url(&url, &place.field("page_url"))));
        // Whoever is sent back there says it as `Host`.
        hosts.extend(
            page_url.iter().flatten().filter_map(|url| HostName::parse(&url.parse::<UpstreamUrl>().ok()?.host)),
        );
        let oidc = match &page_url {
            Some(page_url) => transposed(raw.oidc.map(|raw| Oidc::check(raw, page_url.clone(), place, file))),
            None => None,
        };
        let database = match &raw.database {
            None => Some(Database::Sqlite(files::beside(file, "data/keymeter.db"))),
            Some(Scalar(url)) => database(url, file).or_else(|| {
                let message =
                    "`sqlite://` and the path of a file, or `postgres://…` as PostgreSQL's own clients take it";
                place.field("database").error(message);
                None
            }),
        };
        let client_address = raw.client_address.map(|raw| ClientAddress::check(raw, &place.field("client_address")));
        let gateway_token = raw.gateway_token.map(|token| long_enough(token, &place.field("gateway_token")));
        let token = raw.token.map(|token| long_enough(token, &place.field("token")));
        if matches!(database, Some(Database::Postgres(_))) && token.is_none() {
            // Several machines share it, and a token in a file of one is none of the others'.
            place.required("token", None::<()>, HOW_TO_MAKE_ONE)?;
        }
        if gateway_token.is_some() && gateway_token == token {
            place
                .field("gateway_token")
                .error("the gateways' token must differ from the operator's `token`: gateways have fewer rights");
        }
        Some(Self {
            listen: raw.listen.map_or((Ipv4Addr::LOCALHOST, 9091).into(), |Scalar(address)| address),
            hosts,
            // Without a good `server` there is no configuration.
            timeouts: server.map(|server| server.timeouts).unwrap_or_default(),
            body_timeout: server.map_or(Duration::from_mins(1), |server| server.body_timeout),
            database: database?,
            token,
            gateway_token,
            key_operations_per_hour: an_hour(raw.key_operations_per_hour, 15),
            changes_per_hour: an_hour(raw.changes_per_hour, 600),
            client_address: transposed(client_address)?,
            gateway_url: transposed(raw.gateway_url.map(|Scalar(url)| gateway_url(&url, &place.field("gateway_url"))))?,
            page_url: page_url?,
            oidc: oidc?,
            usage_retention: raw.usage_retention.map_or(RETENTION, |Scalar(Span(time))| time),
        })
    }
}

fn an_hour(written: Option<Scalar<u64>>, default: u32) -> u32 {
    written.map_or(default, |Scalar(number)| u32::try_from(number).unwrap_or(u32::MAX))
}

fn database(url: &str, file: &Path) -> Option<Database> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Some(Database::Postgres(url.into()));
    }
    let path = url.strip_prefix("sqlite://")?;
    (!path.is_empty()).then(|| Database::Sqlite(files::beside(file, path)))
}

/// With the path that a proxy before the gateway may add, and without the `/v1` that is a part of every path.
fn gateway_url(url: &str, place: &Place<'_>) -> Option<Arc<str>> {
    match url.parse::<UpstreamUrl>() {
        Ok(UpstreamUrl { tls, authority, path, .. }) => {
            let path = path.strip_suffix("/v1").unwrap_or(&path);
            Some(format!("{}://{authority}{path}", if tls { "https" } else { "http" }).into())
        }
        Err(error) => {
            place.error(error.to_string());
            None
        }
    }
}
