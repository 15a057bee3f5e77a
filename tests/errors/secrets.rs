//! Secrets stay where they are: whatever happens, none is in an answer, a log or a metric.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
};

use super::{CHAT, keys};
use crate::support::{
    client::{Client, PATIENCE},
    gateway::SECRET,
    scene::{chat, configuration},
    script::{Script, Step, completion},
    upstream::ScriptedUpstream,
};

/// The secret of a key other than the test's own.
const OTHER_SECRET: &str = "sk-another-secret-that-nobody-may-see";

/// A `keymeter serve` with everything that it writes.
struct Process {
    child: Child,
    lines: Receiver<String>,
    _directory: tempfile::TempDir,
}

impl Process {
    /// With the log turned up as far as it goes.
    fn start(configuration: &str, keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keymeter.yaml");
        std::fs::write(&path, configuration).unwrap();
        std::fs::write(directory.path().join("keys.yaml"), keys).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_keymeter"))
            .args(["serve", "--config"])
            .arg(&path)
            .env("RUST_LOG", "trace")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    // A test that is over no longer reads.
                    let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                }
            });
        }
        Self { child, lines, _directory: directory }
    }

    /// The addresses that it says it listens on: for clients, and for operators.
    fn addresses(&self, seen: &mut Vec<String>) -> [SocketAddr; 2] {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("it says where it listens");
            seen.push(line.clone());
            let Some((_, rest)) = line.split_once("listening on ") else { continue };
            let (client, _) = rest.split_once(' ').unwrap();
            let (_, admin) = rest.rsplit_once(' ').unwrap();
            return [client, admin].map(|address| address.parse().unwrap());
        }
    }

    /// Ends it, and gives all that it still wrote.
    fn end(mut self, seen: &mut Vec<String>) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        seen.extend(self.lines.iter());
    }
}

impl Drop for Process {
    /// Of a test that failed, too, nothing is left running.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_an_answer_a_log_or_a_metric() {
    const UPSTREAM_SECRET: &str = "sk-credential-for-the-upstream";
    let upstream = ScriptedUpstream::start(|request| match request.json()["model"].as_str().unwrap_or_default() {
        "reset" => Script::hang().then(Step::Reset),
        "401" => Script::error(401, "invalid_request_error", &format!("Incorrect API key: {UPSTREAM_SECRET}")),
        _ => Script::json(200, &completion("m", 1)),
    });
    let upstream = upstream.await;
    let entry = format!(r#"{{name: scripted, url: "{}", api_key: {UPSTREAM_SECRET}}}"#, upstream.url());
    let limits = ", limits: {requests_per_minute: 1}";
    let keys = keys(&[
        ("key_test", SECRET, ""),
        ("key_off", OTHER_SECRET, ", enabled: false"),
        ("key_one", "sk-the-one-and-only", limits),
    ]);
    let process = Process::start(&configuration(&entry, "", ""), &keys);
    let mut written = Vec::new();
    let [address, admin] = process.addresses(&mut written);
    let secrets = [SECRET, OTHER_SECRET, "sk-the-one-and-only", "sk-unknown-to-us", UPSTREAM_SECRET];
    for secret in &secrets[..4] {
        for header in ["authorization", "x-api-key", "api-key", "x-goog-api-key"] {
            let value = if header == "authorization" { format!("Bearer {secret}") } else { (*secret).to_owned() };
            for model in ["m", "reset", "401"] {
                let mut client = Client::connect(address).await;
                let body = chat(model, "", false).to_string();
                let response = client.request("POST", CHAT, &[(header, &value)], body.as_bytes()).await;
                written.push(format!("{:?} {}", response.headers, response.text()));
            }
        }
        written.push(malformed(address, secret));
        written.push(over_h2(address, secret).await);
    }
    for path in ["/metrics", "/-/ready"] {
        written.push(Client::connect(admin).await.request("GET", path, &[], b"").await.text());
    }
    for request in upstream.received() {
        assert_eq!(request.header("authorization"), Some(format!("Bearer {UPSTREAM_SECRET}").as_str()));
        let all = format!("{:?} {}", request.headers, request.path);
        assert!(
            secrets[..4].iter().all(|secret| !all.contains(secret)),
            "a client's secret reached the upstream: {all}"
        );
    }
    process.end(&mut written);
    assert!(written.iter().any(|line| line.contains("\"key_id\":\"key_test\"")), "the access log is among them");
    for line in &written {
        for secret in secrets {
            assert!(!line.contains(secret), "{secret} is in {line}");
        }
    }
}

/// Asks over HTTP/2, whose library has a log of its own.
async fn over_h2(address: SocketAddr, secret: &str) -> String {
    let client = reqwest::Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().unwrap();
    let response = client.get(format!("http://{address}/v1/models")).bearer_auth(secret).send().await.unwrap();
    format!("{:?} {}", response.headers().clone(), response.text().await.unwrap())
}

/// Sends a head that is no HTTP, and gives the answer.
fn malformed(address: SocketAddr, secret: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nauthorization: Bearer {secret}\r\nno header\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
