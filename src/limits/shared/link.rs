//! The connection to the server: one for all requests, or one for each server of a cluster.

use std::{fs, path::PathBuf, time::Duration};

use keymeter_config::{ServerAddress, Servers, Shared};
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
use tokio::time::Instant;

use crate::patience::{self, Patience, Watch};

/// How to reach the server, and the connection while there is one.
pub(super) struct Link {
    terms: Shared,
    connection: RwLock<Option<ServerConnection>>,
    /// What all waits for the server see.
    watch: Watch,
}

/// How long the server may be silent if no request waits for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long connecting to one server may take, and to several behind a sentinel or in a cluster, of which some may be away.
const CONNECTING: Duration = Duration::from_millis(500);
const CONNECTING_TO_ALL: Duration = Duration::from_secs(5);

/// The most commands that wait to be written.
const QUEUE: usize = 16_384;

impl Link {
    pub(super) fn new(terms: Shared) -> Self {
        Self { terms, connection: RwLock::default(), watch: Watch::default() }
    }

    /// The connection, if there is one.
    pub(super) fn current(&self) -> Option<ServerConnection> {
        self.connection.read().clone()
    }

    /// Closes the connection. The next one is made anew, and finds its server anew.
    pub(super) fn disconnect(&self) {
        *self.connection.write() = None;
        self.watch.end();
    }

    /// The number of the current connection.
    pub(super) fn generation(&self) -> u64 {
        self.watch.ends()
    }

    /// The connection, made if there is none.
    pub(super) async fn connect_if_needed(&self) -> Result<ServerConnection, LinkError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let limit = match self.terms.url.servers {
            Servers::One(_) => CONNECTING,
            Servers::Sentinels { .. } | Servers::Cluster(_) => CONNECTING_TO_ALL,
        };
        let connection = self.wait_for(limit, self.connect()).await?;
        *self.connection.write() = Some(connection.clone());
        Ok(connection)
    }

    /// Patience with an answer of the server, which may be silent for `limit`.
    pub(super) fn patience(&self, limit: Duration) -> Patience<'_> {
        Patience::on(limit, &self.watch)
    }

    /// An answer of the server, which may be silent for `limit`.
    pub(super) async fn wait_for<T, E: Into<LinkError>>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, LinkError> {
        self.patience(limit).wait_for(answer).await.ok_or(LinkError::Slow(limit))?.map_err(Into::into)
    }

    /// An answer of the server that no request waits for.
    pub(super) async fn answer<T>(&self, answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, LinkError> {
        self.wait_for(self.silence(), answer).await
    }

    /// How long the server may be silent if no request waits for it: no less than if one does.
    fn silence(&self) -> Duration {
        PATIENCE.max(self.terms.timeout)
    }

    /// Records that something that was due at `due` happens now: this process may be late.
    pub(super) fn record_due(&self, due: Instant) {
        self.watch.record_due(due, Instant::now());
    }

    /// Whether what is sent first arrives first.
    pub(super) fn keeps_order(&self) -> bool {
        !matches!(self.terms.url.servers, Servers::Cluster(_))
    }

    async fn connect(&self) -> Result<ServerConnection, LinkError> {
        let certificates = self.certificates()?;
        // The client has no timers for answers: they would take our own lateness for the server's.
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        Ok(match &self.terms.url.servers {
            Servers::One(node) => {
                let server = self.info(node)?;
                let client = match certificates {
                    Some(certificates) => Client::build_with_tls(server, certificates)?,
                    None => Client::open(server)?,
                };
                ServerConnection::One(client.get_multiplexed_async_connection_with_config(&config).await?)
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
                // One of them may be away, and then the next is asked.
                let config = config.set_connection_timeout(Some(CONNECTING));
                ServerConnection::One(builder.build()?.get_async_connection_with_config(&config).await?)
            }
            Servers::Cluster(nodes) => {
                let nodes = nodes.iter().map(|node| self.info(node)).collect::<Result<Vec<_>, _>>()?;
                let mut builder = ClusterClientBuilder::new(nodes)
                    .tcp_settings(tcp())
                    .connection_timeout(CONNECTING)
                    // Nobody waits for the client any longer than that.
                    .response_timeout(patience::longest(self.silence()))
                    // Keys that moved are followed. Every call may be sent twice.
                    .retries(3)
                    .min_retry_wait(1)
                    .max_retry_wait(20);
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates);
                }
                ServerConnection::Cluster(builder.build()?.get_async_connection().await?)
            }
        })
    }

    fn info(&self, node: &ServerAddress) -> Result<ConnectionInfo, RedisError> {
        let mut account = RedisConnectionInfo::default().set_db(self.terms.url.database.into());
        if let Some(name) = &self.terms.username {
            account = account.set_username(name);
        }
        if let Some(password) = &self.terms.password {
            account = account.set_password(password.0.reveal());
        }
        Ok(self.address(node).into_connection_info()?.set_redis_settings(account).set_tcp_settings(tcp()))
    }

    fn address(&self, node: &ServerAddress) -> ConnectionAddr {
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

/// Requests wait for each answer, so sending less often gains nothing.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// A connection that requests share.
#[derive(Clone)]
pub(super) enum ServerConnection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for ServerConnection {
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

/// Why the server is unavailable.
#[derive(Debug, Error)]
pub(super) enum LinkError {
    /// It answered with an error, or could not be reached.
    #[error(transparent)]
    Server(RedisError),
    /// It did not answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// Its answer is not one of the scripts'.
    #[error("it does not run scripts as Redis and Valkey do")]
    Unreadable,
    /// The connection was closed.
    #[error("the connection was closed")]
    Disconnected,
    /// `limits.shared.ca` cannot be read.
    #[error("cannot read the certificates of `limits.shared.ca` ({}): {}", .0.display(), .1)]
    Certificates(PathBuf, std::io::Error),
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() { Self::Slow(PATIENCE) } else { Self::Server(error) }
    }
}
