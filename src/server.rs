//! Puts the parts together and runs them: metrics, keys, gate, gateway and the admin address,
//! on sockets that are bound before anything else, so that a port in use is an error in words.
//! Everything runs on the runtime that calls `start`; a process or a test may run several.

use std::{
    fmt,
    net::{SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use pingora::{
    apps::HttpServerOptions,
    listeners::tls::TlsSettings,
    proxy::ProxyServiceBuilder,
    server::{Fds, ListenFds, configuration::ServerConf},
    services::Service,
};
use tokio::sync::watch;

use crate::{
    account::Accounts,
    admin,
    config::{self, Loaded, Tls},
    gate::{AccessLog, Gate, Settings},
    gateway::Gateway,
    limit::Moment,
    metrics::Metrics,
    proxy::Gated,
    reload::Reloader,
    resolve::{Resolver, YamlSource},
    usage::warm_up,
};

/// A running gateway with its admin address.
pub struct Server {
    /// Where clients connect, with the ports that were really taken.
    pub addresses: Vec<SocketAddr>,
    /// Where operators connect.
    pub admin_address: SocketAddr,
    gate: Arc<Gate>,
    reloader: Arc<Reloader>,
    stop_gateway: watch::Sender<bool>,
    stop_admin: watch::Sender<bool>,
}

/// How often accounts of deleted keys are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Downstream connections of HTTP/2 that are idle for this long are closed.
const H2_IDLE: Duration = Duration::from_secs(300);

impl Server {
    /// Starts what `loaded` describes. `path` is the file that it was loaded from, and is loaded
    /// from again on a reload.
    ///
    /// # Errors
    /// When an address cannot be bound or a certificate cannot be used.
    pub fn start(loaded: Loaded, path: PathBuf, log: AccessLog) -> Result<Self, StartFault> {
        let Loaded { config, keys, files } = loaded;
        // The tokenizer's tables take a moment to unpack: now, and not in somebody's request.
        tokio::task::spawn_blocking(warm_up);
        let metrics = Arc::new(Metrics::new(config.metrics.max_key_series).map_err(StartFault::Metrics)?);
        let accounts = Arc::new(Accounts::new(metrics.clone()));
        let source = Arc::new(YamlSource::new(keys));
        let resolver = Arc::new(Resolver::new(source.clone(), &config.key_cache, accounts.clone(), metrics.clone()));
        let gate = Arc::new(Gate::new(Settings::of(&config), resolver.clone(), metrics.clone(), log));
        let sockets = Sockets::bind(&config)?;
        let (stop_gateway, gateway_stopped) = watch::channel(false);
        let (stop_admin, admin_stopped) = watch::channel(false);

        let mut gateway = gateway_service(gate.clone(), &config)?;
        let fds = sockets.fds.clone();
        tokio::spawn(async move { gateway.start_service(Some(fds), gateway_stopped, 1).await });

        let (addresses, admin_address) = (sockets.gateway, sockets.admin);
        let reloader =
            Arc::new(Reloader::new(path, files, config, gate.clone(), source.clone(), resolver, metrics.clone()));
        let mut admin = admin::service(metrics, gate.traffic().clone(), reloader.clone(), &admin_address.to_string());
        tokio::spawn(async move { admin.start_service(Some(sockets.fds), admin_stopped, 1).await });
        tokio::spawn(sweep(accounts, source));
        Ok(Self { addresses, admin_address, gate, reloader, stop_gateway, stop_admin })
    }

    /// What loads the configuration anew.
    #[must_use]
    pub fn reloader(&self) -> &Arc<Reloader> {
        &self.reloader
    }

    /// Stops accepting requests, and comes back when the running ones have ended, or after `limit`.
    /// The admin address goes on answering meanwhile.
    pub async fn drain(&self, limit: Duration) -> Drained {
        self.gate.traffic().drain();
        // Nobody listens any more where the service has ended by itself: then it has stopped.
        let _ = self.stop_gateway.send(true);
        let start = Moment::now();
        while self.gate.traffic().present() > 0 {
            if Moment::now().saturating_since(start) >= limit {
                return Drained::Cut(self.gate.traffic().present());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Drained::Empty
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop_gateway.send(true);
        let _ = self.stop_admin.send(true);
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every request had ended.
    Empty,
    /// So many were still running.
    Cut(usize),
}

/// Closes the accounts of deleted keys, as long as there is somebody to hold accounts.
async fn sweep(accounts: Arc<Accounts>, source: Arc<YamlSource>) {
    let accounts = Arc::downgrade(&accounts);
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(accounts) = accounts.upgrade() else { return };
        accounts.sweep(|id| source.has(id), Moment::now());
    }
}

fn gateway_service(gate: Arc<Gate>, config: &config::Config) -> Result<impl Service + use<>, StartFault> {
    let conf = Arc::new(ServerConf::default());
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(H2_IDLE);
    let mut service = ProxyServiceBuilder::new(&conf, Gated::new(gate, Gateway::default()))
        .name("gateway")
        .server_options(options)
        .build();
    for (index, _) in config.server.listen.iter().enumerate() {
        let name = Sockets::name(index);
        match &config.server.tls {
            None => service.add_tcp(&name),
            Some(tls) => service.add_tls_with_settings(&name, None, tls_settings(tls)?),
        }
    }
    Ok(service)
}

fn tls_settings(tls: &Tls) -> Result<TlsSettings, StartFault> {
    let paths = (tls.cert.to_str(), tls.key.to_str());
    let (Some(cert), Some(key)) = paths else { return Err(StartFault::Tls("its path is not UTF-8".to_owned())) };
    let mut settings = TlsSettings::intermediate(cert, key).map_err(|fault| StartFault::Tls(fault.to_string()))?;
    settings.enable_h2();
    Ok(settings)
}

/// Bound sockets, under the names by which the services find them.
struct Sockets {
    gateway: Vec<SocketAddr>,
    admin: SocketAddr,
    fds: ListenFds,
}

impl Sockets {
    fn bind(config: &config::Config) -> Result<Self, StartFault> {
        let mut fds = Fds::new();
        let mut gateway = Vec::new();
        for (index, address) in config.server.listen.iter().enumerate() {
            let (socket, bound) = bind(*address)?;
            fds.add(Self::name(index), socket.into_raw_fd());
            gateway.push(bound);
        }
        let (socket, admin) = bind(config.admin.listen)?;
        fds.add(admin.to_string(), socket.into_raw_fd());
        Ok(Self { gateway, admin, fds: Arc::new(Mutex::new(fds)) })
    }

    /// The gateway's sockets go by their place in the configuration: two of them may ask for any
    /// free port.
    fn name(index: usize) -> String {
        format!("gateway-{index}")
    }
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartFault> {
    let attempt = || {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    attempt().map_err(|fault| StartFault::Bind(address, fault))
}

/// Why nothing was started.
#[derive(Debug)]
pub enum StartFault {
    /// An address cannot be listened on.
    Bind(SocketAddr, std::io::Error),
    /// The certificate or its key cannot be used.
    Tls(String),
    /// Two metrics share a name.
    Metrics(prometheus::Error),
}

impl fmt::Display for StartFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, fault) if fault.kind() == std::io::ErrorKind::AddrInUse => {
                write!(formatter, "cannot listen on {address}: another program does; stop it or choose another port")
            }
            Self::Bind(address, fault) => write!(formatter, "cannot listen on {address}: {fault}"),
            Self::Tls(fault) => write!(formatter, "cannot use the certificate of `server.tls`: {fault}"),
            Self::Metrics(fault) => write!(formatter, "cannot register the metrics: {fault}"),
        }
    }
}

impl std::error::Error for StartFault {}
