//! The demo: all that `serve` runs, in front of an upstream with canned answers, with a control plane and one new key. Its files are
//! in a temporary directory that is deleted at the end.

pub(super) mod run;
pub mod upstream;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    path::PathBuf,
    sync::Arc,
};

use keymeter_config::{self as config, Loaded};
use keymeter_control::{ControlError, ControlPlane};
use keymeter_core::{key::Secret, usage::count_tokens};
use parking_lot::Mutex;
use pingora::{
    server::Fds,
    services::{Service, listening::Service as Listening},
};
use thiserror::Error;
use tokio::sync::watch;

use self::upstream::DemoUpstream;
use crate::{
    observe::access_log::AccessLog,
    server::{Server, StartError, control_plane, handover::Sockets},
};

/// A running demo. It ends when it is dropped.
pub struct Demo {
    /// The gateway.
    pub server: Server,
    /// The fresh key's id and secret.
    pub key: (String, Secret),
    /// Where keys are made.
    pub control: ControlPlane,
    /// The operator's token for that.
    pub operator: Secret,
    _folder: Folder,
    _upstream: UpstreamGuard,
}

/// The demo upstream runs as long as this lives.
struct UpstreamGuard(watch::Sender<bool>);

impl Drop for UpstreamGuard {
    fn drop(&mut self) {
        // Nobody listens any more where it has ended by itself.
        let _ = self.0.send(true);
    }
}

impl Demo {
    /// Starts on loopback, on these ports; 0: any free one.
    ///
    /// # Errors
    /// When a port is in use.
    pub async fn start(ports: Ports, log: AccessLog) -> Result<Self, DemoError> {
        let (upstream, guard) = start_upstream().map_err(DemoError::Upstream)?;
        let folder = Folder::new().map_err(DemoError::Folder)?;
        let [operator, gateways] = [Secret::generate()?, Secret::generate()?];
        let path = folder.0.join("the demo's built-in configuration");
        let tokens = (operator.reveal(), gateways.reveal());
        // The gateway asks where the control plane has come to listen.
        let parse = |control: SocketAddr| {
            let text = configuration(ports, upstream, control, tokens);
            config::parse(&text, &path, &|_| None).map_err(DemoError::Configuration)
        };
        let first = parse((Ipv4Addr::LOCALHOST, 1).into())?;
        let settings = first.control.as_ref().ok_or(DemoError::Configuration(Vec::new()))?;
        let control = control_plane::start(settings, first.limits.limits, &mut Sockets::none()).await?;
        let key = make_key(&control, &operator).await.map_err(DemoError::Key)?;
        let config = parse(control.address)?;
        let loaded = Loaded { config, keys: Vec::new(), files: Vec::new() };
        let server = Server::start(loaded, path, log, &mut Sockets::none())?;
        control_plane::introduce(&control, &server);
        Ok(Self { server, key, control, operator, _folder: folder, _upstream: guard })
    }

    /// The text that introduces the demo: addresses, the key and commands to try.
    #[must_use]
    pub fn introduction(&self) -> String {
        let gateway = self.server.addresses.first().map(ToString::to_string).unwrap_or_default();
        let (admin, (id, secret)) = (self.server.admin_address, &self.key);
        let secret = secret.reveal();
        let (control, operator) = (self.control.address, self.operator.reveal());
        format!(
            r#"keymeter demo: a gateway in front of a demo upstream. Nothing is kept; stop it with Ctrl-C.

  API key         {secret}
  its id          {id}
  API             http://{gateway}/v1
  metrics         http://{admin}/metrics
  control plane   http://{control}/api/v1
  page for keys   http://{control}/
  their token     {operator}

Try it:

  curl -N http://{gateway}/v1/chat/completions -H "Authorization: Bearer {secret}" -H "Content-Type: application/json" -d '{{"model": "qwen3-8b", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'

  curl -s http://{admin}/metrics | grep keymeter_tokens_total

  curl -s 'http://{control}/api/v1/usage?group_by=key,model' -H "Authorization: Bearer {operator}"

The key may make 60 requests and use 200000 tokens a minute, 4 at once. One line a request follows.
"#
        )
    }
}

/// Where the demo listens on loopback; 0: on any free port.
#[derive(Clone, Copy)]
pub struct Ports {
    /// For clients.
    pub api: u16,
    /// For operators: metrics.
    pub admin: u16,
    /// The control plane's.
    pub control: u16,
}

fn configuration(
    Ports { api, admin, control: control_port }: Ports,
    upstream: SocketAddr,
    control: SocketAddr,
    (operator, gateways): (&str, &str),
) -> String {
    format!(
        r#"
server: {{listen: ["127.0.0.1:{api}"], drain_timeout: 5s}}
admin: {{listen: "127.0.0.1:{admin}"}}
upstreams:
  - {{name: demo, url: "http://{upstream}"}}
keys:
  http:
    url: "http://{control}/v1/keys/{{hash}}"
    events_url: "http://{control}/v1/keys/events"
    usage_url: "http://{control}/v1/usage/records"
    token: "{gateways}"
control: {{listen: "127.0.0.1:{control_port}", token: "{operator}", gateway_token: "{gateways}"}}
limits: {{requests_per_minute: 60, tokens_per_minute: 200000, concurrent_requests: 4}}
models:
  - {{name: "llama-*", input: "0.20", cached_input: "0.05", output: "0.60"}}
  - {{name: "qwen3-*", input: "0.10", cached_input: "0.02", output: "0.40"}}
  - {{name: "demo-embedding", input: "0.02"}}
"#
    )
}

/// Makes the one key, as anybody would.
async fn make_key(control: &ControlPlane, operator: &Secret) -> Result<(String, Secret), String> {
    let client = reqwest::Client::builder().no_proxy().build().map_err(|error| error.to_string())?;
    let call = client.post(format!("http://{}/api/v1/keys", control.address)).bearer_auth(operator.reveal());
    let answer = call.json(&serde_json::json!({"name": "Demo key"})).send().await.map_err(|error| error.to_string())?;
    let made: serde_json::Value = answer.json().await.map_err(|error| error.to_string())?;
    let text = |field| made.get(field).and_then(serde_json::Value::as_str);
    let key = text("id").zip(text("secret")).map(|(id, secret)| (id.to_owned(), Secret::new(secret)));
    key.ok_or_else(|| made.to_string())
}

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let mut name = [0_u8; 8];
        getrandom::fill(&mut name).map_err(|error| std::io::Error::other(error.to_string()))?;
        let path = std::env::temp_dir().join(format!("keymeter-demo-{:016x}", u64::from_be_bytes(name)));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot delete the demo's directory {}: {error}", self.0.display());
        }
    }
}

/// The upstream on a free port, until the sender is dropped.
fn start_upstream() -> std::io::Result<(SocketAddr, UpstreamGuard)> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let mut fds = Fds::new();
    fds.add(address.to_string(), socket.into_raw_fd());
    let mut service = Listening::new("demo upstream".to_owned(), DemoUpstream::new(count_tokens));
    service.add_tcp(&address.to_string());
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move { service.start_service(Some(Arc::new(Mutex::new(fds))), stopped, 1).await });
    Ok((address, UpstreamGuard(stop)))
}

/// Why the demo did not start.
#[derive(Debug, Error)]
pub enum DemoError {
    /// Its upstream has no port.
    #[error("cannot start the demo's upstream: {0}")]
    Upstream(std::io::Error),
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness for a key: {0}")]
    Randomness(#[from] getrandom::Error),
    /// Its own configuration is faulty, which a test would have shown.
    #[error("the demo's configuration is invalid: {0:?}")]
    Configuration(Vec<config::ConfigError>),
    /// There is no folder for what it writes.
    #[error("cannot create the demo's directory: {0}")]
    Folder(std::io::Error),
    /// Its control plane does not start.
    #[error("{0}; `--port 0 --admin-port 0 --control-port 0` takes any free ones")]
    Control(#[from] ControlError),
    /// Its key cannot be made.
    #[error("cannot create the demo's key: {0}")]
    Key(String),
    /// The gateway does not start.
    #[error("{0}; `--port 0 --admin-port 0 --control-port 0` takes any free ones")]
    Start(#[from] StartError),
}
