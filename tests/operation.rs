//! The program in its operator's hands: start, signals, logs, and the way it stops.

mod log;
mod tokens;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::support::{
    client::{Arrival, Client, events, within},
    gateway::{SECRET, config, one_key, replace},
    process::{Process, Signal, answer_becomes, ask, keymeter},
    script::{Gate, Script, completion, usage},
    upstream::ScriptedUpstream,
};

/// A configuration on disk.
struct Files {
    directory: TempDir,
    path: PathBuf,
}

impl Files {
    fn new(configuration: &str, keys: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keymeter.yaml");
        std::fs::write(&path, configuration).unwrap();
        std::fs::write(directory.path().join("keys.yaml"), keys).unwrap();
        Self { directory, path }
    }

    fn write_keys(&self, keys: &str) {
        replace(&self.directory.path().join("keys.yaml"), keys);
    }
}

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
}

/// Answers at once, but for streams, which wait at the gate after their first words.
async fn upstream(gate: &Gate) -> ScriptedUpstream {
    let gate = gate.clone();
    ScriptedUpstream::start(move |request| match request.json()["stream"] {
        Value::Bool(true) => Script::stream_of(request, 3, &usage(7, 3)).gated(1, &gate),
        _ => Script::json(200, &completion("m", 5)),
    })
    .await
}

/// Asks for other levels, and gives the status and what was said.
async fn set_levels(admin: SocketAddr, levels: &str) -> (u16, String) {
    let answer = Client::connect(admin).await.request("POST", "/-/log", &[], levels.as_bytes()).await;
    (answer.status, answer.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_is_changed_while_the_process_runs_and_no_level_shows_a_secret() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    let process = Process::serve(&files.path);
    let (gateway, admin) = process.addresses().await;
    let levels = async || ask(admin, "GET", "/-/log").await.text();
    // All tests may be run at trace.
    let usual = if std::env::var_os("KEYMETER_CANARY").is_some() { "trace" } else { "pingora=warn" };
    assert!(levels().await.contains(usual), "{}", levels().await);

    assert_eq!(set_levels(admin, "error").await.0, 204);
    assert_eq!(levels().await, "error\n");
    assert_eq!(ask(admin, "POST", "/-/reload").await.status, 200);
    let (status, said) = set_levels(admin, "a=b=c").await;
    assert!(status == 400 && said.contains("RUST_LOG"), "{status} {said}");
    assert_eq!(levels().await, "error\n", "a faulty one changes nothing");

    assert_eq!(set_levels(admin, "trace").await.0, 204);
    process.stderr.line("the log levels were changed to trace").await;
    for secret in [SECRET, "sk-nobody-has-this-one"] {
        Client::connect(gateway).await.chat(secret, &chat()).await;
    }
    process.signal(Signal::HUP);
    process.stderr.line("reloaded: nothing is other than before (keys: 1)").await;
    let lines = process.stderr.all();
    let reloads = lines.iter().filter(|line| line.contains("reloaded: ")).count();
    assert_eq!(reloads, 1, "the one under `error` was not logged: {lines:#?}");
    assert!(!lines.iter().any(|line| line.contains(SECRET) || line.contains("sk-nobody")), "{lines:#?}");
}

/// What systemd reads of a `Type=notify-reload` service.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_of_the_start_each_reload_and_the_stop() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    let name = files.directory.path().join("notify");
    let manager = tokio::net::UnixDatagram::bind(&name).unwrap();
    let told = async || {
        let mut words = vec![0; 512];
        let length = within("word of the service", manager.recv(&mut words)).await.unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    };
    let mut command = keymeter(&["serve", "--config", files.path.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &name);
    let mut process = Process::start(command);
    assert_eq!(told().await.trim(), "READY=1");
    process.addresses().await;
    for configuration in [config(&upstream, ""), "no: configuration".to_owned()] {
        replace(&files.path, &configuration);
        process.signal(Signal::HUP);
        let reloading = told().await;
        let moment = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
        assert!(reloading.starts_with("RELOADING=1\n") && moment.unwrap().parse::<u64>().is_ok(), "{reloading}");
        assert_eq!(told().await.trim(), "READY=1", "it goes on, whatever the file says");
    }
    process.signal(Signal::TERM);
    assert_eq!(told().await.trim(), "STOPPING=1");
    assert!(process.ended().await.0.success());
}

/// A stream that has begun and does not end before the gate is opened.
async fn running_stream(gateway: SocketAddr) -> Client {
    let mut client = Client::connect(gateway).await;
    assert_eq!(client.chat_stream(SECRET, &json!({"model": "m", "stream": true, "messages": []})).await.status, 200);
    assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
    client
}

async fn refuses_connections(address: SocketAddr) {
    let start = std::time::Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5), "{address} goes on accepting");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_and_a_faulty_file_is_reported_where_people_read() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), "keys: []\n");
    let mut process = Process::serve(&files.path);
    let (gateway, admin) = process.addresses().await;
    assert_eq!(Client::connect(gateway).await.chat(SECRET, &chat()).await.status, 401);

    // Nothing has changed on disk: only the signal can be the cause.
    process.signal(Signal::HUP);
    process.stderr.line("reloaded: nothing is other than before (keys: 0)").await;
    files.write_keys(&one_key(""));
    process.signal(Signal::HUP);
    process.stderr.line("reloaded: keys +1 −0 ~0 (keys: 1)").await;
    assert_eq!(Client::connect(gateway).await.chat(SECRET, &chat()).await.status, 200);
    // The watcher may come before the signal: each change is told once.
    files.write_keys(&one_key(", enabled: true, priority: 3"));
    process.signal(Signal::HUP);
    process.stderr.line("reloaded: keys +0 −0 ~1 (keys: 1)").await;
    let configuration = std::fs::read_to_string(&files.path).unwrap();
    std::fs::write(&files.path, format!("{configuration}\nmodels: [{{name: m, input: \"1\"}}]\n")).unwrap();
    process.signal(Signal::HUP);
    process.stderr.line("reloaded: models (keys: 1)").await;

    files.write_keys("keys: [{id: key_test}]\n");
    process.signal(Signal::HUP);
    let line = process.stderr.line("keys.yaml:1:8: ").await;
    assert!(line.contains("ERROR") && line.contains("not reloaded"), "{line}");
    let metrics = ask(admin, "GET", "/metrics").await.text();
    assert!(metrics.contains("\nkeymeter_config_last_reload_successful 0\n"), "{metrics}");
    assert_eq!(Client::connect(gateway).await.chat(SECRET, &chat()).await.status, 200);
    assert!(process.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_noticed_by_itself() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), "keys: []\n");
    let process = Process::serve(&files.path);
    let (gateway, _) = process.addresses().await;
    files.write_keys(&one_key(""));
    process.stderr.line("reloaded").await;
    assert_eq!(Client::connect(gateway).await.chat(SECRET, &chat()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_stream_finishes_before_the_process_stops() {
    let gate = Gate::new();
    let upstream = upstream(&gate).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    let mut process = Process::serve(&files.path);
    let (gateway, admin) = process.addresses().await;
    let mut idle = Client::connect(gateway).await;
    assert_eq!(idle.chat(SECRET, &chat()).await.status, 200);
    let mut stream = running_stream(gateway).await;
    assert_eq!(ask(admin, "GET", "/-/ready").await.status, 200);

    process.signal(Signal::TERM);
    answer_becomes(admin, "/-/ready", "unready", |answer| answer.status == 503).await;
    refuses_connections(gateway).await;
    assert!(idle.closed_by_server().await.is_empty());
    assert_eq!(ask(admin, "GET", "/-/healthy").await.status, 200);
    assert!(ask(admin, "GET", "/metrics").await.text().contains("keymeter_requests_in_flight{key_id=\"key_test\"} 1"));
    assert!(process.is_running());

    gate.open();
    let (body, end) = stream.rest().await;
    assert_eq!((end, events(&body).last().map(String::as_str)), (Arrival::End, Some("[DONE]")));
    assert!(process.ended().await.0.success());
    let lines: Vec<Value> =
        process.stdout.to_the_end().await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((&lines[1]["status"], &lines[1]["output_tokens"]), (&json!(200), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_process_is_gone_within_two_seconds() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    for signal in [Signal::TERM, Signal::INT] {
        let mut took = time_to_stop(&files, signal).await;
        // A machine that is busy with other tests may be what is slow.
        for _ in 0..2 {
            if took >= Duration::from_secs(2) {
                took = time_to_stop(&files, signal).await;
            }
        }
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

/// How long a process takes to stop that serves nobody, but to which connections are open.
async fn time_to_stop(files: &Files, signal: Signal) -> Duration {
    let mut process = Process::serve(&files.path);
    let (gateway, admin) = process.addresses().await;
    let mut kept = Client::connect(gateway).await;
    assert_eq!(kept.chat(SECRET, &chat()).await.status, 200);
    let _silent = Client::connect(gateway).await;
    let mut scraper = Client::connect(admin).await;
    assert_eq!(scraper.request("GET", "/metrics", &[], b"").await.status, 200);
    process.signal(signal);
    let (status, took) = process.ended().await;
    assert!(status.success(), "{status}");
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once_and_what_was_delivered_is_logged() {
    let upstream = upstream(&Gate::new()).await;
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::TERM, Signal::INT), (Signal::INT, Signal::TERM)] {
        let files = Files::new(&config(&upstream, ""), &one_key(""));
        let mut process = Process::serve(&files.path);
        let (gateway, _) = process.addresses().await;
        let mut stream = running_stream(gateway).await;
        process.signal(first);
        process.stderr.line("stopping").await;
        refuses_connections(gateway).await;
        assert!(process.is_running());
        process.signal(second);
        let (_, took) = process.ended().await;
        assert!(took < Duration::from_secs(5), "{took:?}: the drain may take 10 minutes");
        assert!(matches!(stream.rest().await.1, Arrival::Cut(_)));
        expect_cut_line(&process).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_outlasts_the_drain_is_cut_and_logged() {
    let upstream = upstream(&Gate::new()).await;
    let configuration = config(&upstream, "").replace("server: {", "server: {drain_timeout: 300ms, ");
    let files = Files::new(&configuration, &one_key(""));
    let mut process = Process::serve(&files.path);
    let (gateway, _) = process.addresses().await;
    let mut stream = running_stream(gateway).await;
    process.signal(Signal::TERM);
    let (status, took) = process.ended().await;
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(5), "{status} after {took:?}");
    assert!(matches!(stream.rest().await.1, Arrival::Cut(_)));
    process.stderr.line("cut off: 1").await;
    expect_cut_line(&process).await;
}

/// The one line of a process whose one stream was cut after its first word.
async fn expect_cut_line(process: &Process) {
    let lines = process.stdout.to_the_end().await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!((&line["key_id"], &line["usage_source"]), (&json!("key_test"), &json!("estimated")));
    assert!(line["output_tokens"].as_u64() > Some(0), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_its_line_when_the_process_has_stopped() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    let mut process = Process::serve(&files.path);
    let (gateway, _) = process.addresses().await;
    let mut client = Client::connect(gateway).await;
    for _ in 0..200 {
        assert_eq!(client.request("GET", "/v1/nothing", &[("x-api-key", SECRET)], b"").await.status, 404);
    }
    process.signal(Signal::TERM);
    process.ended().await;
    assert_eq!(process.stdout.to_the_end().await.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_in_words() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let upstream = upstream(&Gate::new()).await;
    for place in ["server: {listen: [\"127.0.0.1:0\"", "admin: {listen: \"127.0.0.1:0\""] {
        let configuration = config(&upstream, "");
        assert!(configuration.contains(place));
        let files = Files::new(&configuration.replace(place, &place.replace("127.0.0.1:0", &address)), &one_key(""));
        let mut process = Process::serve(&files.path);
        assert_eq!(process.ended().await.0.code(), Some(1));
        let said = process.stderr.to_the_end().await;
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(&address) && said[0].contains("another program"), "{said:?}");
        assert_eq!(process.stdout.to_the_end().await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_configuration_starts_nothing_and_names_every_place() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, "limits: {requests_per_minute: 0}"), "keys: [{id: KEY}]\n");
    let mut process = Process::serve(&files.path);
    assert_eq!(process.ended().await.0.code(), Some(1));
    let said = process.stderr.to_the_end().await;
    for place in ["keymeter.yaml:6:31: ", "keys.yaml:1:13: "] {
        assert!(said.iter().any(|line| line.contains(place)), "{place} is not in {said:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_json_on_one_side_and_plain_words_on_the_other() {
    let upstream = upstream(&Gate::new()).await;
    let extra = "models: [{name: m, input: \"1\", output: \"2\"}]";
    let files = Files::new(&config(&upstream, extra), &one_key(", limits: {requests_per_minute: 2}"));
    let process = Process::serve(&files.path);
    let (gateway, _) = process.addresses().await;
    let mut client = Client::connect(gateway).await;
    let id = client.chat(SECRET, &chat()).await.header("x-request-id").unwrap().to_owned();
    client.chat(SECRET, &json!({"model": "a\u{202e}b \\\"", "messages": []})).await;
    client.chat(SECRET, &chat()).await;
    client.chat("sk-nobody", &chat()).await;
    client.request("GET", "/nothing?key=value", &[], b"").await;
    let lines: Vec<Value> =
        process.stdout.first(5).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["request_id"], json!(id));
    let upstreams = upstream.received()[0].header("x-request-id").unwrap().to_owned();
    let groups: Vec<&str> = upstreams.split('-').collect();
    assert_eq!(format!("req_{}", groups.concat()), id, "the upstream gets the same digits");
    assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "as a UUID");
    lines[0]["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    for duration in ["duration_ms", "time_to_first_token_ms"] {
        assert!(lines[0][duration].as_f64() > Some(0.0), "{duration} in {}", lines[0]);
    }
    assert_eq!(lines[0]["pid"], json!(process.id()));
    let mut first = lines[0].clone();
    for varying in ["pid", "time", "request_id", "duration_ms", "time_to_first_token_ms", "replica"] {
        first.as_object_mut().unwrap().remove(varying).unwrap();
    }
    assert_eq!(
        first,
        json!({
            "key_id": "key_test", "key_name": "Test key", "model": "m", "upstream": "scripted", "attempts": 1, "queued_ms": 0.0,
            "client_address": "127.0.0.1", "path": "/v1/chat/completions", "status": 200, "reason": null, "input_tokens": 7,
            "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 5, "reasoning_tokens": 0,
            "usage_source": "upstream", "cost_usd": "0.000017", "client_aborted": false,
        })
    );
    assert_eq!(lines[1]["model"], "a\u{202e}b \\\"");
    let rest: Vec<_> = lines[2..].iter().map(|line| (&line["status"], &line["reason"], &line["key_id"])).collect();
    let (limited, unknown) = (json!("rate_limit_exceeded"), json!("invalid_api_key"));
    assert_eq!(
        rest,
        [
            (&json!(429), &limited, &json!("key_test")),
            (&json!(401), &unknown, &Value::Null),
            (&json!(401), &unknown, &Value::Null)
        ]
    );
    assert_eq!(lines[4]["path"], "/nothing");
    assert_eq!((&lines[2]["limit"], &lines[2]["limit_scope"]), (&json!("requests_per_minute"), &json!("key")));
    assert!(lines.iter().all(|line| line["client_address"] == "127.0.0.1"), "{lines:?}");
    for line in process.stderr.all() {
        assert!(!line.contains('\u{1b}'), "colours in a file: {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_a_line_of_the_access_log_and_no_error() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    let mut process = Process::serve(&files.path);
    let (gateway, _) = process.addresses().await;
    running_stream(gateway).await.abort();
    running_stream(gateway).await.close().await;
    let lines = process.stdout.first(2).await.concat();
    assert_eq!(lines.matches(r#""client_aborted":true"#).count(), 2, "{lines}");
    process.signal(Signal::TERM);
    process.ended().await;
    let said = process.stderr.to_the_end().await;
    assert!(said.iter().all(|line| line.contains("INFO")), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_printed() {
    let gate = Gate::new();
    gate.open();
    let upstream = upstream(&gate).await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = format!(
        "upstreams: [{{name: dead, url: \"http://{nobody}\", models: [dead]}}, {{models: [m], api_key: \"${{UPSTREAM}}\", "
    );
    let configuration =
        config(&upstream, "").replace("admin: {", "admin: {token: \"${ADMIN}\", ").replace("upstreams: [{", &dead);
    for level in ["info", "trace"] {
        let files = Files::new(&configuration, "keys: [{id: key_test, name: Test key, secret: \"${CLIENT}\"}]\n");
        let mut command = keymeter(&["serve", "--config", files.path.to_str().unwrap()]);
        command
            .env("ADMIN", "canary-of-admin-0123456789-0123456789")
            .env("UPSTREAM", "canary-of-upstream")
            .env("CLIENT", "canary-of-client");
        command.env("RUST_LOG", level);
        let mut process = Process::start(command);
        let (gateway, admin) = process.addresses().await;
        use_and_misuse_secrets(gateway, admin, &files).await;
        process.signal(Signal::TERM);
        process.ended().await;
        let said = [process.stdout.to_the_end().await, process.stderr.to_the_end().await].concat();
        assert!(said.len() > 20, "{said:#?}");
        let leaks: Vec<_> = said.iter().filter(|line| line.contains("canary")).collect();
        assert!(leaks.is_empty(), "{leaks:#?}");
    }
    let credentials: Vec<_> =
        upstream.received().iter().map(|request| request.header("authorization").map(str::to_owned)).collect();
    assert!(!credentials.is_empty() && credentials.iter().all(|it| it.as_deref() == Some("Bearer canary-of-upstream")));
}

/// Sends every secret in every place, in good requests and in broken ones.
async fn use_and_misuse_secrets(gateway: SocketAddr, admin: SocketAddr, files: &Files) {
    for (secret, status) in [("canary-of-client", 502), ("canary-of-nobody", 401)] {
        let bearer = format!("Bearer {secret}");
        for header in [("authorization", bearer.as_str()), ("x-api-key", secret), ("api-key", secret)] {
            let path = format!("/v1/chat/completions?key={secret}");
            let mut client = Client::connect(gateway).await;
            client.request("GET", "/v1/models", &[header], b"").await;
            for model in ["m", "dead"] {
                let body = json!({"model": model, "messages": []}).to_string();
                let answer = client.request("POST", &path, &[header], body.as_bytes()).await;
                assert_eq!(answer.status, if model == "dead" || status == 401 { status } else { 200 });
                assert!(!answer.text().contains("canary"), "{}", answer.text());
            }
        }
    }
    for address in [gateway, admin] {
        let mut broken = Client::connect(address).await;
        broken
            .send_raw(
                b"GET / HTTP/1.1\r\nauthorization: Bearer canary-of-admin-0123456789-0123456789\r\nno header\r\n\r\n",
            )
            .await;
        broken.closed_by_server().await;
    }
    let mut operator = Client::connect(admin).await;
    for token in ["Bearer canary-of-admin-0123456789-0123456789", "canary-of-nobody"] {
        let answer = operator.request("POST", "/-/reload", &[("authorization", token)], b"").await;
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    }
    for error in ["hash: canary-of-file", "secret: canary-of-file, hash: 7", "secrets: canary-of-file"] {
        files.write_keys(&format!("keys: [{{id: key_test, name: Test key, {error}}}]\n"));
        let answer = operator
            .request("POST", "/-/reload", &[("authorization", "Bearer canary-of-admin-0123456789-0123456789")], b"")
            .await;
        assert!(answer.status == 422 && !answer.text().contains("canary"), "{}", answer.text());
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_process_leaves_no_core_dump() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    let process = Process::serve(&files.path);
    process.addresses().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}
