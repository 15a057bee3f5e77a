//! The way to the server: one connection for all requests, or one for each server of a cluster.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use keymeter_config::{Node, Servers, Shared};
use parking_lot::RwLock;
use redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError,
    RedisFuture, TlsCertificates, TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use thiserror::Error;

/// How to reach the server, and the connection while there is one.
pub(super) struct Link {
    terms: Shared,
    connection: RwLock<Option<Connection>>,
    /// How many connections were let go of.
    cuts: AtomicU64,
}

/// How long an answer may take that no request waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a connection to one server may take. Those behind a sentinel or in a cluster are several, of which some may
/// be away: so all of it may take longer.
const CONNECTING: Duration = Duration::from_millis(500);
const CONNECTING_TO_ALL: Duration = Duration::from_secs(5);

/// So much may wait to be written before whoever sends more has to wait.
const QUEUE: usize = 16_384;

impl Link {
    pub(super) fn new(terms: Shared) -> Self {
        Self { terms, connection: RwLock::default(), cuts: AtomicU64::new(0) }
    }

    /// The connection, if there is one.
    pub(super) fn current(&self) -> Option<Connection> {
        self.connection.read().clone()
    }

    /// Lets go of the connection: the next is made anew, and asks anew which server it is to be.
    pub(super) fn cut(&self) {
        *self.connection.write() = None;
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }

    /// What tells the connection that is used now from those before it.
    pub(super) fn generation(&self) -> u64 {
        self.cuts.load(Ordering::Acquire)
    }

    /// The connection, made if there is none.
    pub(super) async fn connected(&self) -> Result<Connection, LinkError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let made = tokio::time::timeout(CONNECTING_TO_ALL, self.connect()).await;
        let connection = made.map_err(|_| LinkError::Slow(CONNECTING_TO_ALL))??;
        *self.connection.write() = Some(connection.clone());
        Ok(connection)
    }

    /// Whether what is sent first is heard first.
    pub(super) fn keeps_order(&self) -> bool {
        !matches!(self.terms.url.servers, Servers::Cluster(_))
    }

    /// Whether one script may touch several keys: those of a cluster are on different servers.
    pub(super) fn takes_many_keys(&self) -> bool {
        !matches!(self.terms.url.servers, Servers::Cluster(_))
    }

    async fn connect(&self) -> Result<Connection, LinkError> {
        let certificates = self.certificates()?;
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(Some(self.patience()))
            .set_pipeline_buffer_size(QUEUE);
        Ok(match &self.terms.url.servers {
            Servers::One(node) => {
                let server = self.info(node)?;
                let client = match certificates {
                    Some(certificates) => Client::build_with_tls(server, certificates)?,
                    None => Client::open(server)?,
                };
                Connection::One(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Servers::Sentinels { nodes, primary } => {
                let addresses: Vec<_> = nodes.iter().map(|node| self.address(node)).collect();
                let mut builder = SentinelClientBuilder::new(addresses, primary, SentinelServerType::Master)?
                    .set_client_to_redis_db(self.terms.url.database.into())
                    .set_client_to_redis_tcp_settings(tcp())
                    .set_client_to_sentinel_tcp_settings(tcp());
                if self.terms.url.tls {
                    builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
                }
                if let Some(certificates) = certificates {
                    builder = builder
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates);
                }
                if let Some(name) = &self.terms.username {
                    builder = builder.set_client_to_redis_username(name);
                }
                if let Some(password) = &self.terms.password {
                    builder = builder.set_client_to_redis_password(password.0.reveal());
                }
                if let Some(password) = &self.terms.sentinel_password {
                    builder = builder.set_client_to_sentinel_password(password.0.reveal());
                }
                Connection::One(builder.build()?.get_async_connection_with_config(&config).await?)
            }
            Servers::Cluster(nodes) => {
                let nodes = nodes.iter().map(|node| self.info(node)).collect::<Result<Vec<_>, _>>()?;
                let mut builder = ClusterClientBuilder::new(nodes)
                    .tcp_settings(tcp())
                    .connection_timeout(CONNECTING)
                    .response_timeout(self.patience())
                    // A key that moved is followed. All that is sent may be sent twice.
                    .retries(3)
                    .min_retry_wait(1)
                    .max_retry_wait(20);
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates);
                }
                Connection::Cluster(builder.build()?.get_async_connection().await?)
            }
        })
    }

    /// No request is to be given up here before its own time is over.
    fn patience(&self) -> Duration {
        PATIENCE.max(self.terms.timeout)
    }

    fn info(&self, node: &Node) -> Result<ConnectionInfo, RedisError> {
        let mut account = RedisConnectionInfo::default().set_db(self.terms.url.database.into());
        if let Some(name) = &self.terms.username {
            account = account.set_username(name);
        }
        if let Some(password) = &self.terms.password {
            account = account.set_password(password.0.reveal());
        }
        Ok(self.address(node).into_connection_info()?.set_redis_settings(account).set_tcp_settings(tcp()))
    }

    fn address(&self, node: &Node) -> ConnectionAddr {
        let (host, port) = (node.host.to_string(), node.port);
        if self.terms.url.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    fn certificates(&self) -> Result<Option<TlsCertificates>, LinkError> {
        let Some(path) = &self.terms.ca else { return Ok(None) };
        let root_cert = fs::read(path).map_err(|error| LinkError::Certificates(path.clone(), error))?;
        Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) }))
    }
}

/// Each answer is waited for, so nothing is gained by sending less often.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// A connection that any number of requests use at once.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Why the server was of no use.
#[derive(Debug, Error)]
pub(super) enum LinkError {
    /// It said so, or could not be reached.
    #[error(transparent)]
    Server(RedisError),
    /// It did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// Its answer is none that the scripts give.
    #[error("it is no Redis or Valkey server that runs scripts as they are")]
    Unreadable,
    /// The connection was let go of.
    #[error("the connection was closed")]
    Cut,
    /// `limits.shared.ca` cannot be read.
    #[error("cannot read the certificates of `limits.shared.ca` ({}): {}", .0.display(), .1)]
    Certificates(PathBuf, std::io::Error),
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() { Self::Slow(PATIENCE) } else { Self::Server(error) }
    }
}
