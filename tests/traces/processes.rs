//! What a whole process shows: a collector that is away, hangs or comes back, its certificate, the environment and the end.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{CHAT, ask, completing};
use crate::support::{
    client::Client,
    collector::Collector,
    gateway::{SECRET, config, one_key},
    process::{Process, Signal, answer_becomes, keymeter},
    scene::configuration,
    script::Script,
    upstream::ScriptedUpstream,
};

/// A configuration with traces that go to a URL.
fn written(upstream: &ScriptedUpstream, collector: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    std::fs::write(&path, config(upstream, &format!("tracing: {{otlp: \"{collector}\"}}"))).unwrap();
    std::fs::write(directory.path().join("keys.yaml"), one_key("")).unwrap();
    (directory, path)
}

async fn ask_once(process: &Process) -> Duration {
    let start = Instant::now();
    let mut client = Client::connect(process.addresses().await.0).await;
    assert_eq!(client.chat(SECRET, &ask()).await.status, 200);
    start.elapsed()
}

fn warnings(process: &Process) -> Vec<String> {
    process.stderr.all().into_iter().filter(|line| line.contains("spans are lost until")).collect()
}

async fn failed(process: &Process, spans: u64) {
    let series = format!("keymeter_trace_spans_total{{outcome=\"failed\"}} {spans}\n");
    let admin = process.addresses().await.1;
    answer_becomes(admin, "/metrics", "such a count", |answer| answer.text().contains(&series)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_is_told_of_once_and_found_again() {
    let upstream = completing().await;
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let (_directory, path) = written(&upstream, &format!("http://{address}"));
    let process = Process::serve(&path);
    for round in 1..=2 {
        ask_once(&process).await;
        failed(&process, 2 * round).await;
    }
    assert_eq!(warnings(&process).len(), 1, "{:#?}", process.stderr.all());
    let Ok(listener) = TcpListener::bind(address).await else {
        eprintln!("SKIPPED: the port was taken meanwhile");
        return;
    };
    let collector = Collector::on(listener);
    ask_once(&process).await;
    collector.spans(2).await;
    process.stderr.line("again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_up_no_request_and_no_stop() {
    let upstream = completing().await;
    // It accepts connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_directory, path) = written(&upstream, &format!("http://{}", silent.local_addr().unwrap()));
    let mut process = Process::serve(&path);
    ask_once(&process).await;
    let _connection = silent.accept().await.unwrap();
    for _ in 0..20 {
        assert!(ask_once(&process).await < Duration::from_secs(2));
    }
    process.signal(Signal::TERM);
    let (status, took) = process.ended().await;
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    process.stderr.line("the last spans were not sent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_is_sent_before_the_process_ends() {
    let (collector, upstream) = (Collector::start().await, completing().await);
    let (_directory, path) = written(&upstream, &format!("http://{}", collector.address));
    let mut command = keymeter(&["serve", "--config", path.to_str().unwrap()]);
    command
        .env("RUST_LOG", "trace")
        .env("OTEL_SERVICE_NAME", "our-gateway")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a-secret-of-the-collector");
    let mut process = Process::start(command);
    ask_once(&process).await;
    process.signal(Signal::TERM);
    assert!(process.ended().await.0.success());
    collector.spans(2).await;
    let taken = collector.taken();
    let resource = &taken.resources[0];
    assert_eq!(resource["service.name"], "our-gateway");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert!(!resource["service.instance.id"].is_empty());
    assert!(taken.calls[0].contains("a-secret-of-the-collector"), "the collector is told");
    let lines = [process.stdout.to_the_end().await, process.stderr.to_the_end().await].concat();
    for secret in ["a-secret-of-the-collector", SECRET] {
        let line = lines.iter().find(|line| line.contains(secret));
        assert_eq!(line, None, "nobody else");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_collector_is_known_by_the_systems_certificates() {
    let upstream = completing().await;
    let (collector, certificate) = Collector::start_with_tls().await;
    let (directory, path) = written(&upstream, &format!("https://127.0.0.1:{}", collector.address.port()));
    let file = directory.path().join("system.pem");
    std::fs::write(&file, certificate).unwrap();
    let serve = || keymeter(&["serve", "--config", path.to_str().unwrap()]);
    let stranger = Process::start(serve());
    ask_once(&stranger).await;
    let warning = stranger.stderr.line("spans are lost until").await;
    assert!(warning.contains("certificate"), "{warning}");
    let mut command = serve();
    command.env("SSL_CERT_FILE", &file);
    let process = Process::start(command);
    ask_once(&process).await;
    collector.spans(2).await;
    let mut check = keymeter(&["check", "--config", path.to_str().unwrap()]);
    let nothing = directory.path().join("nothing");
    std::fs::write(&nothing, "").unwrap();
    let checked = check.env("SSL_CERT_FILE", &nothing).env("SSL_CERT_DIR", nothing.with_extension("d"));
    let checked = checked.output().unwrap();
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.code() == Some(1) && told.contains("`tracing.otlp`"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_end_of_the_process_cuts_off_is_traced() {
    let (collector, upstream) = (Collector::start().await, ScriptedUpstream::start(|_| Script::hang()).await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let text = configuration(&upstreams, ", drain_timeout: 0s", &collector.section(""));
    std::fs::write(&path, text).unwrap();
    std::fs::write(directory.path().join("keys.yaml"), one_key("")).unwrap();
    let mut process = Process::serve(&path);
    let mut client = Client::connect(process.addresses().await.0).await;
    let body = ask().to_string();
    client.send("POST", CHAT, &[("authorization", &format!("Bearer {SECRET}"))], body.as_bytes()).await;
    upstream.wait_for_request(1).await;
    process.signal(Signal::TERM);
    assert!(process.ended().await.0.success());
    let (server, client) = collector.request().await;
    assert_eq!((&client.parent, server.is_error, server.get("keymeter.key.id")), (&server.id, true, Some("key_test")));
}
