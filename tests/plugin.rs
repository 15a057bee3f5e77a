//! Somebody's own proxy behind the gate, run by Pingora's own server: the one in `examples/`. A binary of its own, which is
//! also built without the program's features: the plugin alone must do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test stops at the first surprise"
)]

#[allow(dead_code, unreachable_pub, reason = "other tests use the rest of it")]
mod support {
    pub mod canary;
    pub mod client;
    pub mod gateway;
    pub mod script;
    pub mod upstream;
    pub mod wire;
}

#[path = "../examples/metered_proxy.rs"]
#[allow(dead_code, reason = "its `main` is not called here")]
mod metered_proxy;

#[path = "../examples/pooled_proxy.rs"]
#[allow(dead_code, reason = "its `main` is not called here")]
mod pooled_proxy;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use clap::Parser;
use keymeter_config::{self as config, Purpose};
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::watch};

use self::metered_proxy::Options;
use crate::support::{
    client::{Arrival, Client, PATIENCE, events},
    gateway::{SECRET, one_key, replace},
    script::{Gate, Script, completion, usage},
    upstream::{Received, ScriptedUpstream},
};

const EXAMPLE: &str = include_str!("../examples/metered_proxy.rs");
const TOKENS: &str = r#"keymeter_tokens_total{key_id="key_test",model="other",type="output"}"#;

/// An example as a running process would have it, until it is dropped.
struct Metered {
    address: SocketAddr,
    admin: SocketAddr,
    directory: TempDir,
    stop: watch::Sender<bool>,
    running: Option<JoinHandle<()>>,
}

/// Stops a server at once when it is told to.
struct Stop(watch::Receiver<bool>);

#[async_trait]
impl ShutdownSignalWatch for Stop {
    async fn recv(&self) -> ShutdownSignal {
        // An error means that the test is over.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
        ShutdownSignal::FastShutdown
    }
}

impl Metered {
    async fn before(upstreams: &[&ScriptedUpstream], keys: &str) -> Self {
        Self::start(upstreams, keys, keys).await
    }

    /// With keys that change between the loading and the running.
    async fn start(upstreams: &[&ScriptedUpstream], keys: &str, later: &str) -> Self {
        let upstreams: Vec<_> = upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
        let server = |options: [&str; 5]| {
            let options = options.into_iter().chain(upstreams.iter().map(String::as_str));
            metered_proxy::server(Options::parse_from(options)).unwrap()
        };
        Self::run("", keys, later, server).await
    }

    /// With replicas that keymeter chooses among.
    async fn pooled(replicas: &[SocketAddr]) -> Self {
        let replicas: Vec<_> = replicas.iter().map(|address| format!("{{url: \"http://{address}\"}}")).collect();
        let upstreams = format!("upstreams: [{{name: fleet, replicas: [{}]}}]\n", replicas.join(", "));
        let server = |options: [&str; 5]| pooled_proxy::server(pooled_proxy::Options::parse_from(options)).unwrap();
        Self::run(&upstreams, &one_key(""), &one_key(""), server).await
    }

    async fn run(more: &str, keys: &str, later: &str, server: impl FnOnce([&str; 5]) -> Server) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (address, admin) = free_addresses();
        let configuration = directory.path().join("keymeter.yaml");
        let text = format!("admin: {{listen: \"{admin}\"}}\nkeys: {{yaml: {{path: keys.yaml}}}}\n{more}");
        std::fs::write(&configuration, text).unwrap();
        std::fs::write(directory.path().join("keys.yaml"), keys).unwrap();
        let listen = address.to_string();
        let server = server(["proxy", "--listen", &listen, "--keymeter", configuration.to_str().unwrap()]);
        replace(&directory.path().join("keys.yaml"), later);
        let (stop, stopped) = watch::channel(false);
        let run = move || server.run(RunArgs { shutdown_signal: Box::new(Stop(stopped)) });
        let running = Some(std::thread::spawn(run));
        for address in [address, admin] {
            wait_for("a listener", async || TcpStream::connect(address).await.is_ok()).await;
        }
        Self { address, admin, directory, stop, running }
    }

    async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    async fn status_of_chat(&self, secret: &str) -> u16 {
        self.connect().await.chat(secret, &json!({"model": "m"})).await.status
    }

    async fn metric_becomes(&self, series: &str, value: &str) {
        let line = format!("{series} {value}");
        wait_for(&line, async || {
            let metrics = Client::connect(self.admin).await.request("GET", "/metrics", &[], b"").await;
            metrics.text().lines().any(|shown| shown == line)
        })
        .await;
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(running) = self.running.take() {
            assert!(running.join().is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}

/// Two addresses that nobody listens on. A Pingora server binds its ports itself and does not say
/// which it took, so they are chosen before; each process has an address of loopback to itself,
/// where nobody else takes a port in between.
fn free_addresses() -> (SocketAddr, SocketAddr) {
    let own = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) | (std::process::id() & 0x3F_FFFF));
    let sockets = [(); 2].map(|()| TcpListener::bind((own, 0)).unwrap());
    let [address, admin] = sockets.map(|socket| socket.local_addr().unwrap());
    (address, admin)
}

async fn wait_for(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn chat(stream: bool) -> Value {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hello"}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_nobody_reaches_the_proxy_within() {
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 1))).await;
    let proxy = Metered::before(&[&upstream], &one_key("")).await;
    let body = chat(false).to_string();
    for headers in [&[][..], &[("authorization", "Bearer sk-unknown")]] {
        let refused = proxy.connect().await.request("POST", "/v1/chat/completions", headers, body.as_bytes()).await;
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (401, &json!("invalid_api_key")));
        assert_eq!(refused.header("x-served-by"), None);
    }
    assert!(upstream.received().is_empty());
    proxy.metric_becomes(r#"keymeter_unauthorized_total{reason="missing"}"#, "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_key_is_metered_and_goes_where_the_proxy_within_sends_it() {
    let answer = |_: &_| Script::json(200, &completion("m", 5));
    let (first, second) = (ScriptedUpstream::start(answer).await, ScriptedUpstream::start(answer).await);
    let proxy = Metered::before(&[&first, &second], &one_key(", limits: {requests_per_minute: 9}")).await;
    let mut client = proxy.connect().await;
    for (upstream, remaining) in [(&first, "8"), (&second, "7")] {
        let response = client.chat(SECRET, &chat(false)).await;
        assert_eq!((response.status, response.json()), (200, completion("m", 5)));
        assert_eq!(response.header("x-served-by"), Some(upstream.address.to_string().as_str()));
        assert_eq!(response.header("x-ratelimit-remaining-requests"), Some(remaining));
        let received = upstream.wait_for_request(1).await;
        assert_eq!(received.json(), chat(false));
        assert!(!received.headers.iter().any(|(_, value)| value.contains(SECRET)), "{:?}", received.headers);
    }
    proxy.metric_becomes(TOKENS, "10").await;
    let timed = r#"keymeter_request_duration_seconds_count{model="other",upstream="upstream"}"#;
    proxy.metric_becomes(timed, "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_asked_for_its_usage_until_the_upstream_refuses_that() {
    let upstream = ScriptedUpstream::start(|request| {
        if request.asks_for_usage() {
            Script::error(400, "invalid_request_error", "stream_options is not known here")
        } else {
            Script::stream_of(request, 3, &usage(7, 3))
        }
    });
    let upstream = upstream.await;
    let proxy = Metered::before(&[&upstream], &one_key("")).await;
    for asked in [&[true, false][..], &[true, false, true, false], &[true, false, true, false, false]] {
        let mut client = proxy.connect().await;
        assert_eq!(client.chat_stream(SECRET, &chat(true)).await.status, 200);
        let (body, end) = client.rest().await;
        assert_eq!((events(&body).last().map(String::as_str), end), (Some("[DONE]"), Arrival::End));
        let received: Vec<_> = upstream.received().iter().map(Received::asks_for_usage).collect();
        assert_eq!(received, asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_runs_no_more_requests_at_once_than_it_may() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |request| Script::stream_of(request, 2, &usage(7, 2)).gated(1, &held));
    let upstream = upstream.await;
    let proxy = Metered::before(&[&upstream], &one_key(", limits: {concurrent_requests: 1}")).await;
    let mut first = proxy.connect().await;
    assert_eq!(first.chat_stream(SECRET, &chat(true)).await.status, 200);

    let refused = proxy.connect().await.chat(SECRET, &chat(true)).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    assert_eq!(upstream.received().len(), 1);

    gate.open();
    assert_eq!(first.rest().await.1, Arrival::End);
    proxy.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, "0").await;
    assert_eq!(proxy.status_of_chat(SECRET).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_keys_is_noticed_and_the_configuration_still_needs_no_upstreams() {
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 1))).await;
    let proxy = Metered::start(&[&upstream], "keys: []\n", &one_key("")).await;
    wait_for("the new key to be known", async || proxy.status_of_chat(SECRET).await == 200).await;
    replace(&proxy.directory.path().join("keys.yaml"), &one_key(", enabled: false"));
    wait_for("the key to be disabled", async || proxy.status_of_chat(SECRET).await == 401).await;
    let reloaded = Client::connect(proxy.admin).await.request("POST", "/-/reload", &[], b"").await;
    assert_eq!((reloaded.status, &reloaded.json()["keys"]), (200, &json!(1)), "{}", reloaded.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_leaves_the_choice_to_a_pool_loses_nothing_to_a_dead_replica() {
    let answer = |_: &_| Script::json(200, &completion("m", 5));
    let (one, other) = (ScriptedUpstream::start(answer).await, ScriptedUpstream::start(answer).await);
    let (dead, _) = free_addresses();
    let proxy = Metered::pooled(&[dead, one.address, other.address]).await;
    for _ in 0..12 {
        let response = proxy.connect().await.chat(SECRET, &chat(false)).await;
        assert_eq!((response.status, response.json()), (200, completion("m", 5)));
        let served_by = response.header("x-served-by").unwrap_or_default();
        assert!(served_by != dead.to_string() && !served_by.is_empty(), "{served_by:?}");
    }
    let received = one.received().len() + other.received().len();
    assert!(received == 12 && !one.received().is_empty() && !other.received().is_empty(), "{received}");
    proxy.metric_becomes(TOKENS, "60").await;
}

#[test]
fn the_example_is_metered_by_less_than_15_lines() {
    let (added, own): (Vec<_>, Vec<_>) = EXAMPLE.lines().partition(|line| line.trim_end().ends_with("// metered"));
    assert!((1..15).contains(&added.len()), "{} lines", added.len());
    let code = own.into_iter().filter(|line| !line.trim_start().starts_with("//"));
    let unmarked: Vec<_> =
        code.filter(|line| ["keymeter", "plugin", "gate"].iter().any(|word| line.contains(word))).collect();
    assert_eq!(unmarked, [""; 0]);
}

#[test]
fn the_examples_configurations_can_be_loaded() {
    for (name, upstreams) in [("metered_proxy", 0), ("pooled_proxy", 1)] {
        let path = format!("{}/examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let loaded = config::load_for(Purpose::Plugin, Path::new(&path), &|_| None);
        let loaded = loaded.unwrap_or_else(|faults| panic!("{faults:?}"));
        assert_eq!(loaded.config.upstreams.len(), upstreams, "{name}");
    }
}

/// The page shows no line of code that is not compiled here, and names what there is.
#[test]
fn the_page_of_the_plugin_says_what_holds() {
    let page = repository("docs/plugin.md");
    let blocks = |language: &str| -> Vec<String> {
        let mut rest = page.as_str();
        let mut blocks = Vec::new();
        while let Some((_, behind)) = rest.split_once(&format!("```{language}\n")) {
            let (block, further) = behind.split_once("```").unwrap();
            // In a list a block is indented as its text is.
            let indent = block.len() - block.trim_start_matches(' ').len();
            blocks
                .push(block.lines().map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n"));
            rest = further;
        }
        blocks
    };
    let pooled = repository("examples/pooled_proxy.rs");
    let code: Vec<_> = [EXAMPLE, pooled.as_str()]
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| line.replace("// metered", ""))
        .collect();
    let rust = blocks("rust");
    assert_eq!(rust.len(), 3);
    for line in rust.iter().flat_map(|block| block.lines()).map(str::trim).filter(|line| !line.is_empty()) {
        assert!(code.iter().any(|written| written.trim() == line), "no example has: {line}");
    }

    let manifest = repository("Cargo.toml");
    for line in blocks("toml").iter().flat_map(|block| block.lines()).map(str::trim) {
        let dependency = line.starts_with("pingora ").then(|| line.split("features").next().unwrap());
        assert!(dependency.is_none_or(|named| manifest.contains(named)), "Cargo.toml has another {line}");
    }
    for feature in ["redis", "otlp"] {
        assert!(
            page.contains(&format!("| `{feature}` |")) && manifest.contains(&format!("\n{feature} = [")),
            "{feature}"
        );
    }

    let yaml = blocks("yaml");
    let loaded = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keymeter.yaml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("keys.yaml"), "keys: []").unwrap();
        config::load_for(Purpose::Plugin, &path, &|_| None).unwrap()
    };
    assert_eq!(loaded(&yaml[0]).keys, []);
    let settings = pingora::server::configuration::ServerConf::from_yaml(&yaml[1]).unwrap();
    assert_eq!(
        (settings.upgrade_sock.as_str(), settings.grace_period_seconds),
        ("/run/my-proxy/upgrade.sock", Some(600))
    );

    let commands = blocks("sh").concat();
    let ours = repository("examples/metered_proxy.rs");
    for command in commands.lines().filter(|line| line.starts_with("keymeter") || line.starts_with("cargo")) {
        assert!(ours.contains(command), "the example does not say: {command}");
    }
}

fn repository(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The walk of the page, with the program itself: a key by command, a request, a change, an upgrade, an end.
#[cfg(feature = "cli")]
mod walk {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// The command line of the example, where a process of this binary is to be the example.
    const AS_PROCESS: &str = "KEYMETER_METERED_PROXY";

    /// The example by itself, which the walk below starts in processes of their own; otherwise it has nothing to do.
    #[test]
    fn the_example_as_a_process() {
        let Ok(words) = std::env::var(AS_PROCESS) else { return };
        metered_proxy::server(Options::parse_from(words.split('\n'))).unwrap().run_forever();
    }

    struct Running(Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_key_by_command_serves_over_an_upgrade_and_until_the_end() {
        let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 5))).await;
        let (folder, (address, admin)) = (tempfile::tempdir().unwrap(), free_addresses());
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let made = Command::new(env!("CARGO_BIN_EXE_keymeter"))
            .args(["keys", "create", "--file", &file("keys.yaml"), "--name", "My first key"])
            .output()
            .unwrap();
        let secret = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let text = format!("admin: {{listen: \"{admin}\"}}\nkeys: {{yaml: {{path: keys.yaml}}}}\n");
        std::fs::write(file("keymeter.yaml"), text).unwrap();
        let settings = format!(
            "upgrade_sock: {}\npid_file: {}\ngrace_period_seconds: 1\ngraceful_shutdown_timeout_seconds: 1\n",
            file("upgrade.sock"),
            file("proxy.pid")
        );
        std::fs::write(file("pingora.yaml"), settings).unwrap();

        let start = |upgrade: &[&str]| {
            let mut words = vec!["metered_proxy"];
            words.extend(upgrade);
            let (conf, keymeter) = (file("pingora.yaml"), file("keymeter.yaml"));
            let (listen, behind) = (address.to_string(), upstream.address.to_string());
            words.extend(["--conf", &conf, "--keymeter", &keymeter, "--listen", &listen, &behind]);
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "walk::the_example_as_a_process", "--nocapture"])
                .env(AS_PROCESS, words.join("\n"));
            Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        };
        let status = async || Client::connect(address).await.chat(&secret, &json!({"model": "m"})).await.status;
        let first = start(&[]);
        wait_for("a listener", async || TcpStream::connect(address).await.is_ok()).await;
        wait_for("an answer", async || status().await == 200).await;

        let mut second = start(&["--upgrade"]);
        wait_for("the new process asks for the sockets", async || Path::new(&file("upgrade.sock")).exists()).await;
        signal(&first.0, "QUIT");
        let mut first = first;
        wait_for("the old process ends", async || {
            assert_eq!(status().await, 200, "somebody answers all the time");
            first.0.try_wait().unwrap().is_some()
        })
        .await;
        assert!(second.0.try_wait().unwrap().is_none(), "the new one serves");
        assert_eq!(status().await, 200);
        signal(&second.0, "TERM");
        wait_for("the end", async || second.0.try_wait().unwrap().is_some()).await;
    }

    fn signal(child: &Child, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}
