//! A real gateway on free ports, from a configuration in a directory of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
};

use keymeter::{
    observe::access_log::AccessLog,
    server::{Server, handover::Sockets},
};
use keymeter_config::{self as config};
use keymeter_core::key::Secret;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    canary,
    client::{Client, PATIENCE, Response},
    upstream::ScriptedUpstream,
};

/// A running gateway.
pub struct Gateway {
    pub server: Server,
    pub directory: TempDir,
    log: Receiver<Vec<u8>>,
}

/// The secret of the key `key_test` that most tests use.
pub const SECRET: &str = "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2P40Ol";

/// `keys.yaml` with the one key `key_test`, whose fields `extra` adds to.
pub fn one_key(extra: &str) -> String {
    format!("keys:\n  - {{id: key_test, name: Test key, hash: \"{}\"{extra}}}\n", Secret::new(SECRET).hash())
}

/// A configuration with `upstream` for all models, and `extra` sections.
pub fn config(upstream: &ScriptedUpstream, extra: &str) -> String {
    format!(
        r#"
server: {{listen: ["127.0.0.1:0"]}}
admin: {{listen: "127.0.0.1:0"}}
upstreams: [{{name: scripted, url: "{}"}}]
keys: {{yaml: {{path: keys.yaml}}}}
{extra}
"#,
        upstream.url()
    )
}

impl Gateway {
    /// With the configuration and keys that are given as texts.
    pub fn start(configuration: &str, keys: &str) -> Self {
        canary::watch();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keymeter.yaml");
        std::fs::write(&path, configuration).unwrap();
        std::fs::write(directory.path().join("keys.yaml"), keys).unwrap();
        let loaded = config::load(&path, &config::environment).unwrap_or_else(|faults| panic!("{faults:?}"));
        let (sender, log) = channel();
        let server = Server::start(loaded, path, AccessLog::to(Lines(sender)).unwrap(), &mut Sockets::none()).unwrap();
        Self { server, directory, log }
    }

    /// In front of `upstream`, with one key without limits.
    pub fn before(upstream: &ScriptedUpstream) -> Self {
        Self::start(&config(upstream, ""), &one_key(""))
    }

    pub fn address(&self) -> SocketAddr {
        self.server.addresses[0]
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("keymeter.yaml")
    }

    pub fn keys_path(&self) -> PathBuf {
        self.directory.path().join("keys.yaml")
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// A chat request of the test's key, on a connection of its own.
    pub async fn chat(&self, body: &Value) -> Response {
        self.connect().await.chat(SECRET, body).await
    }

    /// What the admin address answers.
    pub async fn admin(&self, method: &str, path: &str) -> Response {
        let answer = Client::connect(self.server.admin_address).await.request(method, path, &[], b"").await;
        canary::keep("admin", &answer.body);
        answer
    }

    /// The value of a series; 0 where there is none.
    pub async fn metric(&self, series: &str) -> f64 {
        let response = self.admin("GET", "/metrics").await;
        let text = response.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a series has a value: settlement comes a moment after the response's end.
    pub async fn metric_becomes(&self, series: &str, value: f64) {
        let start = std::time::Instant::now();
        loop {
            let now = self.metric(series).await;
            if (now - value).abs() < 1e-12 {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{series} is {now} and does not become {value}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many bytes of bodies are held.
    pub async fn holds_of_bodies(&self, bytes: u64) {
        let start = std::time::Instant::now();
        while self.server.buffered_body_bytes() != bytes {
            let now = self.server.buffered_body_bytes();
            assert!(start.elapsed() < PATIENCE, "{now} bytes of bodies are held and not {bytes}");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// The next line of the access log.
    pub fn next_line(&self) -> Value {
        serde_json::from_slice(&self.log.recv_timeout(PATIENCE).expect("a line of the access log")).unwrap()
    }

    /// The lines of the access log that came since somebody asked.
    pub fn lines(&self) -> Vec<Value> {
        self.log.try_iter().map(|line| serde_json::from_slice(&line).unwrap()).collect()
    }

    pub fn write_keys(&self, keys: &str) {
        replace(&self.keys_path(), keys);
    }

    pub fn write_config(&self, configuration: &str) {
        replace(&self.path(), configuration);
    }
}

/// Puts a file in another's place at once, as editors do.
pub fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Gives each line of the access log to the test.
struct Lines(std::sync::mpsc::Sender<Vec<u8>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        canary::keep("access", bytes);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            // A test that is over no longer reads.
            let _ = self.0.send(line.to_vec());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
