//! Runs the gateway with the plugin and its services. Sockets are bound before the first request is served, so that a port in
//! use is a start error. All tasks run on the runtime that calls `start`; a process or a test may run several servers.

pub mod admin;
#[cfg(feature = "control")]
pub mod control_plane;
pub mod gateway;
pub mod handover;
pub mod plugin;
pub mod reload;
pub mod tls;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use keymeter_config::{self as config, Loaded};
use keymeter_core::clock::MonotonicTime;
use parking_lot::Mutex;
use pingora::{
    apps::HttpServerOptions,
    listeners::tls::{Acceptor, TlsSettings},
    protocols::http::v2::server::default_h2_options,
    proxy::{HttpProxy, http_proxy},
    server::configuration::ServerConf,
    services::background::BackgroundService,
};
use thiserror::Error;
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    connection::{
        Connections,
        app::TimedApp,
        descriptors::{most_of_admin, most_of_gateway},
        listener::Listener,
    },
    drain::drain,
    keys::service::ServiceClient,
    observe::{access_log::AccessLog, traces::Traces},
    proxy::Gated,
    server::{
        gateway::Gateway,
        handover::Sockets,
        plugin::{Plugin, PluginError},
        reload::Reloader,
        tls::{Certificate, Pair},
    },
    upstream::authorities,
};

/// A running gateway with its admin address.
pub struct Server {
    /// The addresses for clients, with the actual ports.
    pub addresses: Vec<SocketAddr>,
    /// The address for operators.
    pub admin_address: SocketAddr,
    plugin: Plugin,
    connections: Arc<Connections>,
    /// The task that accepts connections.
    listening: Mutex<Option<JoinHandle<()>>>,
    /// Further handles of the sockets, for a handover.
    kept: Mutex<Sockets>,
    stop_gateway: watch::Sender<bool>,
    stop_admin: watch::Sender<bool>,
    stop_rest: watch::Sender<bool>,
}

/// The send buffer of an HTTP/2 stream, where h2's default is 400 KiB. Pingora fills it only as far as the client's window is
/// open, and holds what it has read meanwhile: 64 KiB at a time, in at most 14 pieces.
const H2_SEND_BUFFER: usize = 64 << 10;

/// How long the last records may take to be sent. The next process sends the rest.
const LAST_RECORDS: Duration = Duration::from_secs(5);

impl Server {
    /// Starts the gateway of `loaded`, on those of `sockets` that it needs. `path` is the file that it was loaded from. Changes
    /// of the files are loaded.
    ///
    /// # Errors
    /// When an address cannot be bound or a certificate cannot be used.
    pub fn start(loaded: Loaded, path: PathBuf, log: AccessLog, sockets: &mut Sockets) -> Result<Self, StartError> {
        let plugin = Plugin::new(loaded, path, log)?;
        let config = plugin.reloader().config();
        let bound = Bound::new(&config, sockets)?;
        let connections = Connections::new(config.server.timeouts, most_of_gateway(config.server.max_connections));
        let (stop_gateway, gateway_stopped) = watch::channel(false);
        let (stop_admin, admin_stopped) = watch::channel(false);
        let (stop_rest, rest_stopped) = watch::channel(false);

        let certificate = certificate(&config)?;
        if let Some(certificate) = &certificate {
            plugin.reloader().set_certificate(certificate.clone());
        }
        let proxy = plugin.gated(Gateway::default());
        let tls = certificate.map(tls_settings).transpose()?.map(|settings| Arc::new(settings.build()));
        let Bound { gateway, admin, kept } = bound;
        let (addresses, admin_address) = (gateway.iter().map(|bound| bound.0).collect(), admin.0);
        let upkeep = plugin.upkeep();
        let gate = plugin.gate().clone();
        let app = TimedApp::new(gateway_app(proxy), connections.clone()).on_malformed(move |peer| gate.malformed(peer));
        let gateway = Gateways::new(gateway, tls, app, &connections)?;
        let of_admin = Connections::new(config.server.timeouts, most_of_admin());
        let admin = Listener::new(admin.1, of_admin.clone()).map_err(|error| StartError::Bind(admin_address, error))?;
        let answers = Arc::new(TimedApp::new(plugin.admin(admin_address), of_admin));
        let listening = tokio::spawn(gateway.listen(gateway_stopped));
        tokio::spawn(answers.listen(admin.with_reserve(), None, admin_stopped));
        tokio::spawn(async move { upkeep.start(rest_stopped).await });
        let (listening, kept) = (Mutex::new(Some(listening)), Mutex::new(kept));
        Ok(Self { addresses, admin_address, plugin, connections, listening, kept, stop_gateway, stop_admin, stop_rest })
    }

    /// The reloader of the configuration.
    #[must_use]
    pub fn reloader(&self) -> &Arc<Reloader> {
        self.plugin.reloader()
    }

    /// The traces of requests, if they are traced.
    #[must_use]
    pub fn traces(&self) -> Option<&Arc<Traces>> {
        self.plugin.gate().traces()
    }

    /// The bytes of buffered request bodies.
    #[must_use]
    pub fn buffered_body_bytes(&self) -> u64 {
        self.plugin.gate().in_flight().body_bytes()
    }

    /// Stops accepting requests, and returns when the running ones have ended and are recorded, or after `limit`. The admin
    /// address continues to answer meanwhile.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.plugin.gate().in_flight().drain();
        self.stop_listening();
        self.finish(limit, |server| server.plugin.gate().in_flight().present()).await
    }

    /// Leaves the sockets to another process, and returns when the connections of this one are closed, or after `limit`. A
    /// request on an open connection is answered, and the connection is then closed.
    pub async fn retire(&self, limit: Duration) -> Drained {
        self.connections.linger();
        self.stop_listening();
        let _ = self.stop_admin.send(true);
        let listening = self.listening.lock().take();
        if let Some(listening) = listening {
            // All accepted connections are counted from then on. A task that failed accepts no more either.
            let _ = listening.await;
        }
        // Not every connection of HTTP/2 ends with its last request.
        self.finish(limit, |server| server.plugin.gate().in_flight().present().max(server.connections.open())).await
    }

    /// The sockets for another process; none if a handover is not configured.
    ///
    /// # Errors
    /// When the system has no handles left.
    pub fn sockets(&self) -> io::Result<Sockets> {
        self.kept.lock().duplicate()
    }

    fn stop_listening(&self) {
        *self.kept.lock() = Sockets::none();
        // An error means that the service has stopped already.
        let _ = self.stop_gateway.send(true);
    }

    async fn finish(&self, limit: Duration, left: impl Fn(&Self) -> usize) -> Drained {
        let start = MonotonicTime::now();
        if !drain(limit, || left(self) == 0).await {
            return Drained::Cut(self.plugin.gate().in_flight().present());
        }
        self.plugin.finish().await;
        if let Some(ledger) = self.plugin.gate().ledger() {
            ledger.drain(LAST_RECORDS.min(limit.saturating_sub(MonotonicTime::now().saturating_since(start)))).await;
        }
        Drained::Empty
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop_gateway.send(true);
        let _ = self.stop_admin.send(true);
        let _ = self.stop_rest.send(true);
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request had ended.
    Empty,
    /// This many requests were still running.
    Cut(usize),
}

/// The gateway at all of its addresses.
struct Gateways {
    app: Arc<TimedApp<HttpProxy<Gated<Gateway>>>>,
    listeners: Vec<Listener>,
    tls: Option<Arc<Acceptor>>,
}

impl Gateways {
    fn new(
        sockets: Vec<(SocketAddr, TcpListener)>,
        tls: Option<Arc<Acceptor>>,
        app: TimedApp<HttpProxy<Gated<Gateway>>>,
        connections: &Arc<Connections>,
    ) -> Result<Self, StartError> {
        let listener = |(address, socket)| {
            Listener::new(socket, connections.clone()).map_err(|error| StartError::Bind(address, error))
        };
        let listeners = sockets.into_iter().map(listener).collect::<Result<_, _>>()?;
        Ok(Self { app: Arc::new(app), listeners, tls })
    }

    /// Serves connections until it is stopped.
    async fn listen(self, stop: watch::Receiver<bool>) {
        let Self { app, listeners, tls } = self;
        let listening = listeners.into_iter().map(|listener| app.clone().listen(listener, tls.clone(), stop.clone()));
        join_all(listening).await;
        app.close_idle().await;
    }
}

fn gateway_app(gateway: Gated<Gateway>) -> HttpProxy<Gated<Gateway>> {
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    let conf = ServerConf { ca_file: authorities::file(), ..ServerConf::default() };
    let mut proxy = http_proxy(&Arc::new(conf), gateway);
    proxy.server_options = Some(options);
    let mut streams = default_h2_options();
    streams.max_send_buffer_size(H2_SEND_BUFFER);
    proxy.h2_options = Some(streams);
    proxy
}

/// Checks what `config` names besides addresses, as `serve` would use it.
///
/// # Errors
/// When the certificate or its key is not one, or they do not belong together, or the certificates of the key service or
/// of the collector of traces cannot be used.
pub fn rehearse(config: &config::Config) -> Result<(), StartError> {
    if let config::Source::Http(service) = &config.keys.source {
        ServiceClient::new(service).map_err(PluginError::from)?;
    }
    if let Some(terms) = &config.tracing {
        Traces::rehearse(terms).map_err(PluginError::from)?;
    }
    certificate(config).map(drop)
}

/// The certificate for clients, if TLS is configured.
fn certificate(config: &config::Config) -> Result<Option<Arc<Certificate>>, StartError> {
    let Some(tls) = &config.server.tls else { return Ok(None) };
    Pair::read(tls).map(|pair| Some(Certificate::new(pair))).map_err(StartError::Tls)
}

/// The TLS settings: TLS 1.2 and 1.3, and HTTP/2 for clients that offer it.
fn tls_settings(certificate: Arc<Certificate>) -> Result<TlsSettings, StartError> {
    // The paths are read only without a resolver.
    let mut settings = TlsSettings::intermediate("", "").map_err(|error| StartError::Tls(error.to_string()))?;
    settings.set_cert_resolver(certificate);
    settings.enable_h2();
    Ok(settings)
}

/// Bound sockets, with their actual addresses.
struct Bound {
    gateway: Vec<(SocketAddr, TcpListener)>,
    admin: (SocketAddr, TcpListener),
    kept: Sockets,
}

impl Bound {
    fn new(config: &config::Config, sockets: &mut Sockets) -> Result<Self, StartError> {
        let mut kept = Sockets::none();
        let mut bind = |address: SocketAddr| {
            let mut attempt = || {
                let socket = sockets.listen(address)?;
                if config.server.upgrade_socket.is_some() {
                    kept.keep(&socket)?;
                }
                Ok((socket.local_addr()?, socket))
            };
            attempt().map_err(|error| StartError::Bind(address, error))
        };
        let gateway = config.server.listen.iter().map(|address| bind(*address)).collect::<Result<_, _>>()?;
        let admin = bind(config.admin.listen)?;
        Ok(Self { gateway, admin, kept })
    }
}

/// Why the gateway did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {}: {}", .0, bind_reason(.1))]
    Bind(SocketAddr, io::Error),
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate of `server.tls`: {0}")]
    Tls(String),
    /// The plugin cannot be built.
    #[error(transparent)]
    Plugin(#[from] PluginError),
}

fn bind_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program uses it; stop that program or choose another port".to_owned(),
        _ => error.to_string(),
    }
}
