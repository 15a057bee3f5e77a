//! The demo: everything that `serve` runs, in front of an upstream with canned answers, with
//! one fresh key, and nothing of it on disk.

pub mod upstream;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    path::PathBuf,
    sync::Arc,
};

use parking_lot::Mutex;
use pingora::{
    server::Fds,
    services::{Service, listening::Service as Listening},
};
use tokio::sync::watch;

use self::upstream::DemoUpstream;
use crate::{
    config::{self, Loaded},
    gate::AccessLog,
    key::{KeyRecord, KeyState, OwnLimits, Secret},
    server::{Server, StartFault},
    usage::count_tokens,
};

/// A running demo. It ends when it is dropped.
pub struct Demo {
    /// The gateway.
    pub server: Server,
    /// The fresh key's secret.
    pub secret: Secret,
    _stop_upstream: watch::Sender<bool>,
}

impl Demo {
    /// Starts on loopback, on these ports; 0: any free one.
    ///
    /// # Errors
    /// When a port is in use.
    pub fn start(port: u16, admin_port: u16, log: AccessLog) -> Result<Self, DemoFault> {
        let (upstream, stop_upstream) = start_upstream().map_err(DemoFault::Upstream)?;
        let secret = Secret::generate().map_err(DemoFault::Randomness)?;
        let path = PathBuf::from("the demo's built-in configuration");
        let text = configuration(port, admin_port, upstream);
        let config = config::parse(&text, &path, &|_| None).map_err(DemoFault::Configuration)?;
        let loaded = Loaded { config, keys: vec![key(&secret)?], files: Vec::new() };
        let server = Server::start(loaded, path, log).map_err(DemoFault::Start)?;
        Ok(Self { server, secret, _stop_upstream: stop_upstream })
    }

    /// What somebody who sees it for the first time wants to know.
    #[must_use]
    pub fn introduction(&self) -> String {
        let gateway = self.server.addresses.first().map(ToString::to_string).unwrap_or_default();
        let (admin, secret) = (self.server.admin_address, self.secret.reveal());
        format!(
            r#"keymeter demo: a gateway in front of a demo upstream. Nothing is kept; stop it with Ctrl-C.

  API key   {secret}
  API       http://{gateway}/v1
  metrics   http://{admin}/metrics

Try it:

  curl -N http://{gateway}/v1/chat/completions -H "Authorization: Bearer {secret}" -H "Content-Type: application/json" -d '{{"model": "qwen3-8b", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'

  curl -s http://{admin}/metrics | grep keymeter_tokens_total

The key may make 60 requests and use 200000 tokens a minute, 4 at once. One line a request follows.
"#
        )
    }
}

fn configuration(port: u16, admin_port: u16, upstream: SocketAddr) -> String {
    format!(
        r#"
server: {{listen: ["127.0.0.1:{port}"], drain_timeout: 5s}}
admin: {{listen: "127.0.0.1:{admin_port}"}}
upstreams:
  - {{name: demo, url: "http://{upstream}"}}
keys: {{yaml: {{path: none}}}}
limits: {{requests_per_minute: 60, tokens_per_minute: 200000, concurrent_requests: 4}}
models:
  - {{name: "llama-*", input: "0.20", cached_input: "0.05", output: "0.60"}}
  - {{name: "qwen3-*", input: "0.10", cached_input: "0.02", output: "0.40"}}
  - {{name: "demo-embedding", input: "0.02"}}
"#
    )
}

fn key(secret: &Secret) -> Result<KeyRecord, DemoFault> {
    Ok(KeyRecord {
        id: "key_demo".parse().map_err(DemoFault::Key)?,
        name: "Demo key".parse().map_err(DemoFault::Key)?,
        hash: secret.hash(),
        state: KeyState::Active,
        owner: None,
        team: None,
        models: None,
        limits: OwnLimits::default(),
        expires_at: None,
        retiring: Vec::new(),
        wallet: None,
    })
}

/// The upstream on a free port, until the sender is dropped.
fn start_upstream() -> std::io::Result<(SocketAddr, watch::Sender<bool>)> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let mut fds = Fds::new();
    fds.add(address.to_string(), socket.into_raw_fd());
    let mut service = Listening::new("demo upstream".to_owned(), DemoUpstream::new(count_tokens));
    service.add_tcp(&address.to_string());
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move { service.start_service(Some(Arc::new(Mutex::new(fds))), stopped, 1).await });
    Ok((address, stop))
}

/// Why there is no demo.
#[derive(Debug)]
pub enum DemoFault {
    /// Its upstream has no port.
    Upstream(std::io::Error),
    /// The operating system gives no randomness.
    Randomness(getrandom::Error),
    /// Its own configuration is faulty, which a test would have shown.
    Configuration(Vec<config::Fault>),
    /// Its own key is faulty, which a test would have shown.
    Key(crate::key::KeyFault),
    /// The gateway does not start.
    Start(StartFault),
}

impl fmt::Display for DemoFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(fault) => write!(formatter, "the demo's upstream does not start: {fault}"),
            Self::Randomness(fault) => write!(formatter, "no randomness for a key: {fault}"),
            Self::Configuration(faults) => write!(formatter, "the demo's configuration is faulty: {faults:?}"),
            Self::Key(fault) => write!(formatter, "the demo's key is faulty: {fault}"),
            Self::Start(fault) => write!(formatter, "{fault}; `--port 0 --admin-port 0` takes any free ones"),
        }
    }
}

impl std::error::Error for DemoFault {}
