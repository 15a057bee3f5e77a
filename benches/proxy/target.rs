//! The programs that are compared: each a process on a core of its own.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use keymeter_core::key::Secret;
use tempfile::TempDir;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Pingora as it comes.
    Bare,
    /// Pingora, built and configured as keymeter is.
    Alike,
    Nginx,
    Keymeter,
    /// keymeter with so many threads, on all cores.
    Threads(usize),
    /// keymeter with so many keys in a file.
    File(usize),
    /// keymeter before the replicas, with this `balance`.
    Pool(&'static str),
    /// HAProxy before them.
    HaProxy(&'static str),
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare Pingora",
            Self::Alike => "bare Pingora, built alike",
            Self::Nginx => "nginx, key map and limit_req",
            Self::Keymeter => "keymeter, everything on",
            Self::Threads(_) => "keymeter, several threads",
            Self::File(_) => "keymeter, keys in a file",
            Self::Pool("least_tokens") => "keymeter, least_tokens",
            Self::Pool("least_requests") => "keymeter, least_requests",
            Self::Pool(_) => "keymeter, round_robin",
            Self::HaProxy("leastconn") => "HAProxy, leastconn",
            Self::HaProxy(_) => "HAProxy, roundrobin",
        }
    }

    /// Whether it knows keys, and refuses what has none.
    pub(super) fn knows_keys(self) -> bool {
        matches!(self, Self::Keymeter | Self::Threads(_) | Self::File(_) | Self::Pool(_))
    }

    /// The cores that it runs on.
    fn cores(self) -> &'static str {
        if matches!(self, Self::Threads(_)) { "0-1" } else { CORE }
    }
}

/// Where the programs are.
#[derive(Clone)]
pub(super) struct Programs {
    pub keymeter: PathBuf,
    /// This program, built as Pingora comes.
    pub bare: PathBuf,
    /// What pools are of.
    pub replicas: Vec<SocketAddr>,
}

/// A running one.
pub(super) struct Target {
    pub kind: Kind,
    pub address: SocketAddr,
    /// How long it took until it could be connected to.
    pub started_in: Duration,
    child: Child,
    folder: TempDir,
}

/// The core that most targets run on; everything else runs on core 0.
const CORE: &str = "1";

impl Target {
    /// Starts it, under `wrapper` if there is one.
    pub(super) fn start(kind: Kind, programs: &Programs, upstream: SocketAddr, wrapper: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut words: Vec<String> = ["taskset", "-c", kind.cores()].map(str::to_owned).to_vec();
        words.extend(wrapper.iter().map(|word| (*word).to_owned()));
        words.extend(command(kind, programs, address, upstream, folder.path()));
        let mut command = Command::new(&words[0]);
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        command.args(&words[1..]).env("PATH", path).env_remove("RUST_LOG").stdout(Stdio::null());
        let log = std::fs::File::create(folder.path().join("stderr")).unwrap();
        let start = Instant::now();
        let child = command.stderr(log).spawn().unwrap();
        let mut target = Self { kind, address, started_in: Duration::ZERO, child, folder };
        target.wait();
        target.started_in = start.elapsed();
        target
    }

    fn wait(&self) {
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(start.elapsed() < Duration::from_mins(1), "{} does not start: {}", self.kind.name(), self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it printed for people.
    pub(super) fn said(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// Processor time so far, user and system, of all its threads.
    pub(super) fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = tasks.filter_map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// The same to the hundredth of a second, with threads that have ended.
    pub(super) fn whole_cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the program's name, which may have spaces, the 12th and 13th field are ticks (proc_pid_stat(5)).
        let (_, fields) = text.rsplit_once(')').unwrap();
        let ticks = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Memory in use, in KiB.
    pub(super) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that was in use, in KiB.
    pub(super) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Changes one key in its file, which is replaced as editors do.
    pub(super) fn change_key(&self, number: usize) {
        let (file, beside) = (self.folder.path().join("keys.yaml"), self.folder.path().join("keys.new"));
        let text = std::fs::read_to_string(&file).unwrap();
        let name = format!("name: \"Key {number}\"");
        assert!(text.contains(&name), "there is no key {number}");
        std::fs::write(&beside, text.replacen(&name, &format!("name: \"Another {number}\""), 1)).unwrap();
        std::fs::rename(beside, file).unwrap();
    }

    /// How often it has reloaded what changed.
    pub(super) fn reloads(&self) -> usize {
        self.said().matches("reloaded: keys").count()
    }

    /// Ends it in good order.
    pub(super) fn stop(&mut self) {
        let signal = if self.kind == Kind::Bare { "INT" } else { "TERM" };
        let id = self.child.id().to_string();
        Command::new("kill").args(["-s", signal, &id]).status().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(kind: Kind, programs: &Programs, address: SocketAddr, upstream: SocketAddr, folder: &Path) -> Vec<String> {
    let (path, text) = (|program: &Path| program.to_str().unwrap().to_owned(), folder.display());
    match kind {
        Kind::Bare => vec![path(&programs.bare), "bare".into(), address.to_string(), upstream.to_string()],
        Kind::Alike => {
            let this = std::env::current_exe().unwrap();
            vec![path(&this), "alike".into(), address.to_string(), upstream.to_string()]
        }
        Kind::Nginx => {
            let config = folder.join("nginx.conf");
            std::fs::write(&config, nginx(address, upstream, folder)).unwrap();
            vec!["nginx".into(), "-e".into(), format!("{text}/error.log"), "-c".into(), path(&config)]
        }
        Kind::Keymeter => {
            let config = folder.join("keymeter.yaml");
            let to = format!("url: \"http://{upstream}\"");
            std::fs::write(&config, keymeter(address, &to, upstream)).unwrap();
            vec![path(&programs.keymeter), "serve".into(), "--config".into(), path(&config)]
        }
        Kind::Threads(threads) => {
            let config = folder.join("keymeter.yaml");
            let text = keymeter(address, &format!("url: \"http://{upstream}\""), upstream);
            std::fs::write(&config, text.replace("threads: 1", &format!("threads: {threads}"))).unwrap();
            vec![path(&programs.keymeter), "serve".into(), "--config".into(), path(&config)]
        }
        Kind::File(keys) => {
            let config = folder.join("keymeter.yaml");
            std::fs::write(folder.join("keys.yaml"), keys_file(keys)).unwrap();
            let text = keymeter(address, &format!("url: \"http://{upstream}\""), upstream);
            let from = text.lines().find(|line| line.starts_with("keys:")).unwrap();
            std::fs::write(&config, text.replace(from, "keys: {yaml: {path: keys.yaml}}")).unwrap();
            vec![path(&programs.keymeter), "serve".into(), "--config".into(), path(&config)]
        }
        Kind::Pool(balance) => {
            let config = folder.join("keymeter.yaml");
            let replicas: Vec<_> =
                programs.replicas.iter().map(|address| format!("{{url: \"http://{address}\"}}")).collect();
            let to = format!("balance: {balance}, replicas: [{}]", replicas.join(", "));
            std::fs::write(&config, keymeter(address, &to, upstream)).unwrap();
            vec![path(&programs.keymeter), "serve".into(), "--config".into(), path(&config)]
        }
        Kind::HaProxy(balance) => {
            let config = folder.join("haproxy.cfg");
            std::fs::write(&config, haproxy(address, balance, &programs.replicas)).unwrap();
            vec!["haproxy".into(), "-f".into(), path(&config)]
        }
    }
}

/// Everything on: keys from a service, a ledger, an access log, limits, metrics, one thread.
fn keymeter(address: SocketAddr, to: &str, upstream: SocketAddr) -> String {
    format!(
        "server: {{listen: [\"{address}\"], threads: 1}}
admin: {{listen: \"127.0.0.1:0\"}}
upstreams: [{{name: bench, {to}}}]
keys: {{http: {{url: \"http://{upstream}/v1/keys/{{hash}}\", usage_url: \"http://{upstream}/v1/usage\", token: bench}}}}
key_cache: {{capacity: 1000000, ttl: 24h}}
models: [{{name: \"*\", input: \"0.20\", output: \"0.60\"}}]
"
    )
}

/// So many keys, as a program writes them.
fn keys_file(keys: usize) -> String {
    let key = |number| {
        let hash = Secret::new(format!("sk-bench-{number}")).hash();
        format!(
            "  - id: key_{number}
    name: \"Key {number}\"
    hash: \"{hash}\"
    team: team_{}
    limits:
      requests_per_minute: 1000000
      tokens_per_minute: 1000000000
      concurrent_requests: 1000
",
            number % 100
        )
    };
    std::iter::once("keys:\n".to_owned()).chain((0..keys).map(key)).collect()
}

fn haproxy(address: SocketAddr, balance: &str, replicas: &[SocketAddr]) -> String {
    let servers = replicas.iter().enumerate();
    let servers: Vec<_> = servers.map(|(number, to)| format!("  server replica{number} {to} check\n")).collect();
    let servers = servers.concat();
    format!(
        "global
  nbthread 1
defaults
  mode http
  option http-no-delay
  timeout connect 5s
  timeout client 5m
  timeout server 5m
frontend bench
  bind {address}
  default_backend replicas
backend replicas
  balance {balance}
{servers}"
    )
}

fn nginx(address: SocketAddr, upstream: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 32m;
  client_body_buffer_size 512k;
  keepalive_requests 1000000;
  map $http_authorization $key {{ default \"\"; ~^Bearer\\ (?<secret>sk-bench-.*)$ $secret; }}
  limit_req_zone $key zone=keys:64m rate=1000000r/s;
  upstream bench {{ server {upstream}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen {address};
    location / {{
      if ($key = \"\") {{ return 401; }}
      limit_req zone=keys burst=1000000 nodelay;
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Authorization \"\";
      proxy_buffering off;
    }}
  }}
}}
"
    )
}
