//! The addresses that the gateway listens on, and the bounds of connections and bodies.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use keymeter_core::hosts::HostName;

use super::{
    client_address::ClientAddress,
    cors::Cors,
    credential::{Credential, long_enough},
    files,
    origin::Heartbeat,
    raw,
    report::Place,
    scalar::{Scalar, Size, Span, Timeout},
};

/// The data plane: what clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// At least one address; port 0 is any free one.
    pub listen: Vec<SocketAddr>,
    /// With it HTTPS, without it plain HTTP.
    pub tls: Option<Tls>,
    /// At most 1024; `None`: one for each core.
    pub threads: Option<NonZeroUsize>,
    /// The largest body of a request, in bytes; not more than `max_buffered_bodies`.
    pub max_request_body: u64,
    /// The bodies of all requests that may be held at once, in bytes.
    pub max_buffered_bodies: u64,
    /// For a whole body to arrive; not zero.
    pub body_timeout: Duration,
    /// How long a connection may be silent.
    pub timeouts: ConnectionTimeouts,
    /// The most connections at once; `None`: as many as nine tenths of the file descriptors.
    pub max_connections: Option<NonZeroUsize>,
    /// For running responses to finish when the process is told to stop.
    pub drain_timeout: Duration,
    /// Where a new process finds this one to take over its sockets; `None`: none can.
    pub upgrade_socket: Option<PathBuf>,
    /// Whom to believe about the client's address; `None`: nobody, the peer's counts.
    pub client_address: Option<ClientAddress>,
    /// Whose pages may call from a browser; `None`: nobody's.
    pub cors: Option<Cors>,
    /// After how long a silence a stream of events gets a comment; `None`: never.
    pub heartbeat: Option<Duration>,
}

/// How long a client's connection may be silent; none is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTimeouts {
    /// From the accept, or the first byte of a further request, to the request's whole head.
    pub head: Duration,
    /// Between requests.
    pub keep_alive: Duration,
    /// For a client that reads nothing of what is there for it.
    pub write: Duration,
}

/// The certificate of the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// A chain of certificates in PEM form.
    pub cert: PathBuf,
    /// Its private key in PEM form.
    pub key: PathBuf,
}

/// The admin address: metrics, health, reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Port 0 is any free one.
    pub listen: SocketAddr,
    /// What its POSTs must present; there is one wherever `listen` is not loopback.
    pub token: Option<Credential>,
    /// What `Host` may say where `listen` is loopback, beside `localhost` and loopback addresses.
    pub hosts: Vec<HostName>,
}

const MOST_THREADS: u64 = 1024;
const MINUTE: Duration = Duration::from_mins(1);

impl Server {
    pub(super) fn check(raw: raw::Server, place: &Place<'_>, file: &Path) -> Option<Self> {
        let listen = listen(raw.listen, &place.field("listen"));
        let tls = raw.tls.map(|raw| Tls::check(raw, &place.field("tls"), file));
        let threads = threads(raw.threads, &place.field("threads"));
        let bodies = bodies(raw.max_request_body, raw.max_buffered_bodies, place);
        let client_address = raw.client_address.map(|raw| ClientAddress::check(raw, &place.field("client_address")));
        let cors = raw.cors.map(|raw| Cors::check(raw, &place.field("cors")));
        let (max_request_body, max_buffered_bodies) = bodies?;
        let timeouts = ConnectionTimeouts::new(raw.head_timeout, raw.keep_alive, raw.write_timeout);
        let max_connections = raw.max_connections.and_then(|Scalar(most)| usize::try_from(most).ok());
        let upgrade_socket = raw.upgrade_socket.map(|Scalar(path)| files::beside(file, &path));
        Some(Self {
            listen: listen?,
            tls: transposed(tls)?,
            threads: threads?,
            max_request_body,
            max_buffered_bodies,
            body_timeout: raw.body_timeout.map_or(MINUTE, |Scalar(Timeout(timeout))| timeout),
            timeouts,
            max_connections: max_connections.and_then(NonZeroUsize::new),
            drain_timeout: raw.drain_timeout.map_or(10 * MINUTE, |Scalar(Span(timeout))| timeout),
            upgrade_socket,
            client_address: transposed(client_address)?,
            cors: transposed(cors)?,
            heartbeat: raw.heartbeat.and_then(|Scalar(Heartbeat(every))| every),
        })
    }
}

impl ConnectionTimeouts {
    fn new(head: Option<Scalar<Timeout>>, keep_alive: Option<Scalar<Timeout>>, write: Option<Scalar<Timeout>>) -> Self {
        let or = |written: Option<Scalar<Timeout>>, default| written.map_or(default, |Scalar(Timeout(time))| time);
        let default = Self::default();
        Self {
            head: or(head, default.head),
            keep_alive: or(keep_alive, default.keep_alive),
            write: or(write, default.write),
        }
    }
}

impl Default for ConnectionTimeouts {
    fn default() -> Self {
        let [head, keep_alive, write] = [10, 75, 60].map(Duration::from_secs);
        Self { head, keep_alive, write }
    }
}

/// `None` only where something is there and was refused.
#[allow(clippy::option_option, reason = "absent, refused and good are three cases")]
pub(super) fn transposed<T>(checked: Option<Option<T>>) -> Option<Option<T>> {
    checked.map_or(Some(None), |checked| checked.map(Some))
}

fn listen(written: Option<raw::List<Scalar<SocketAddr>>>, place: &Place<'_>) -> Option<Vec<SocketAddr>> {
    let Some(written) = written else { return Some(vec![(Ipv4Addr::LOCALHOST, 8080).into()]) };
    if written.is_empty() {
        place.error("at least one address is needed, such as 127.0.0.1:8080");
        return None;
    }
    let mut addresses = Vec::with_capacity(written.len());
    for (place, Scalar(address)) in place.elements(written) {
        if address.port() != 0 && addresses.contains(&address) {
            place.error(format!("`{address}` is already in the list"));
        }
        addresses.push(address);
    }
    Some(addresses)
}

#[allow(clippy::option_option, reason = "the inner one is a value: one for each core")]
fn threads(written: Option<Scalar<u64>>, place: &Place<'_>) -> Option<Option<NonZeroUsize>> {
    let Some(Scalar(threads)) = written else { return Some(None) };
    if threads > MOST_THREADS {
        place.error(format!("at most {MOST_THREADS} threads; 0 is one for each core"));
        return None;
    }
    usize::try_from(threads).ok().map(NonZeroUsize::new)
}

/// The largest body of one request and of all together.
fn bodies(one: Option<Scalar<Size>>, all: Option<Scalar<Size>>, place: &Place<'_>) -> Option<(u64, u64)> {
    let largest = one.as_ref().map_or(Size(32 << 20), |Scalar(size)| *size);
    let together = all.as_ref().map_or(Size(1 << 30), |Scalar(size)| *size);
    if largest > together {
        let culprit = if one.is_some() { "max_request_body" } else { "max_buffered_bodies" };
        place.field(culprit).error(format!(
            "`max_request_body` ({largest}) is more than `max_buffered_bodies` ({together}): such a request \
             could never be taken"
        ));
        return None;
    }
    Some((largest.0, together.0))
}

impl Tls {
    fn check(raw: raw::Tls, place: &Place<'_>, file: &Path) -> Option<Self> {
        let cert = place.required("cert", raw.cert, "the file of the certificate, in PEM form");
        let key = place.required("key", raw.key, "the file of the certificate's private key, in PEM form");
        let cert = cert.and_then(|Scalar(name)| files::pem(&place.field("cert"), file, &name, "CERTIFICATE-----"));
        let key = key.and_then(|Scalar(name)| files::pem(&place.field("key"), file, &name, "PRIVATE KEY-----"));
        Some(Self { cert: cert?, key: key? })
    }
}

impl Admin {
    pub(super) fn check(raw: raw::Admin, place: &Place<'_>) -> Self {
        let listen = raw.listen.map_or((Ipv4Addr::LOCALHOST, 9090).into(), |Scalar(address)| address);
        if raw.token.is_none() && !place.dropped("token") && !listen.ip().is_loopback() {
            place.field("listen").error(format!("a `token` is required, as {listen} is not loopback"));
        }
        let hosts = hosts(raw.hosts, &place.field("hosts"));
        Self { listen, token: raw.token.map(|token| long_enough(token, &place.field("token"))), hosts }
    }
}

/// Names that `Host` may say; those that are none are reported.
pub(super) fn hosts(written: Option<raw::List<Scalar<HostName>>>, place: &Place<'_>) -> Vec<HostName> {
    place.elements(written.unwrap_or_default()).into_iter().map(|(_, Scalar(name))| name).collect()
}
