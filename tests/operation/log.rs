//! The log on standard error: it holds up nobody, and no stranger decides how many lines it has.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, Stdio},
};

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{Files, chat, set_levels, upstream};
use crate::support::{
    client::{Client, within},
    gateway::{Gateway, SECRET, config, one_key},
    h2c::H2c,
    process::{Process, answer_becomes, ask, keymeter},
    script::{Gate, Script, Step},
    upstream::ScriptedUpstream,
};

/// What is logged without `RUST_LOG`.
const USUAL: &str = "info,pingora=warn,pingora_core=warn,pingora_proxy=warn";

/// A gateway whose standard error is a pipe that nobody reads once it has started.
struct Unread {
    child: Child,
    _stderr: BufReader<ChildStderr>,
    gateway: SocketAddr,
    admin: SocketAddr,
}

impl Unread {
    fn start(files: &Files, levels: &str) -> Self {
        let mut command = keymeter(&["serve", "--config", files.path.to_str().unwrap()]);
        let mut child = command.env("RUST_LOG", levels).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before it listened");
        }
        let mut addresses = line.split([' ', ',', ';', '\n']).filter_map(|word| word.parse().ok());
        let (gateway, admin) = (addresses.next().unwrap(), addresses.next_back().unwrap());
        Self { child, _stderr: stderr, gateway, admin }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_reads_stops_no_request_and_what_is_dropped_is_counted() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(", limits: {requests_per_minute: unlimited}"));
    // Each request over HTTP/2 makes dozens of lines at this level.
    let process = Unread::start(&files, "info,h2=trace");
    let connection = H2c::connect(process.gateway).await;
    let dropped = || async {
        let metrics = ask(process.admin, "GET", "/metrics").await.text();
        let line = metrics.lines().find(|line| line.starts_with("keymeter_log_lines_dropped_total{log=\"process\"}"));
        line.unwrap().rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
    };
    let mut requests = 0;
    while dropped().await == 0 {
        assert!(requests < 5000, "nothing is dropped after {requests} requests");
        for _ in 0..50 {
            let (answer, _) = connection.chat(SECRET, &chat()).await;
            assert_eq!(answer.status, 200);
            requests += 1;
        }
    }
    let (answer, _) = connection.chat(SECRET, &chat()).await;
    assert_eq!(answer.status, 200, "and it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_one_kind_are_few_in_a_second_and_the_rest_are_counted() {
    let gone = ScriptedUpstream::start(|_| unreachable!("nobody gets there")).await;
    let configuration = config(&gone, "");
    drop(gone);
    let files = Files::new(&configuration, &one_key(", limits: {requests_per_minute: unlimited}"));
    let process = Process::serve(&files.path);
    let (gateway, admin) = process.addresses().await;
    assert_eq!(set_levels(admin, USUAL).await.0, 204);
    for _ in 0..200 {
        assert_eq!(Client::connect(gateway).await.chat(SECRET, &chat()).await.status, 502);
    }
    process.stderr.line("more lines like this were left out").await;
    let told = || {
        let lines = process.stderr.all();
        let failures =
            lines.iter().filter(|line| line.contains("connection refused") && !line.contains("left out")).count();
        let counted: usize = lines
            .iter()
            .filter(|line| line.contains("left out") && line.contains("connection refused"))
            .filter_map(|line| line.split(" more lines").next()?.rsplit(' ').next()?.parse::<usize>().ok())
            .sum();
        (failures, counted)
    };
    within("all to be counted", async {
        while told().0 + told().1 < 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let (failures, counted) = told();
    assert_eq!(failures + counted, 200);
    assert!(failures < 150, "{failures} lines were written, {counted} counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_request_is_one_line_with_whose_server_what_and_which_request() {
    let gone = ScriptedUpstream::start(|_| unreachable!("nobody gets there")).await;
    let broken = ScriptedUpstream::start(|_| Script { steps: vec![Step::Reset], ..Script::hang() }).await;
    let [refusing, breaking] = [&gone, &broken].map(|upstream| upstream.url().trim_start_matches("http://").to_owned());
    drop(gone);
    let upstreams = format!(
        "[{{name: alone, url: \"http://{refusing}\", models: [a]}}, {{name: pool, models: [p], attempts: 2, replicas: \
         [{{name: one, url: \"http://{refusing}\"}}, {{name: two, url: \"http://{breaking}\"}}]}}]"
    );
    let configuration = config(&broken, "");
    let (start, rest) = configuration.split_once("upstreams: ").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    let files = Files::new(&format!("{start}upstreams: {upstreams}\n{rest}"), &one_key(""));
    let process = Process::serve(&files.path);
    let (gateway, _) = process.addresses().await;
    let ask = async |model: &str| {
        let mut body = chat();
        body["model"] = model.into();
        let answer = Client::connect(gateway).await.chat(SECRET, &body).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        answer.header("x-request-id").unwrap().to_owned()
    };
    let id = ask("a").await;
    process.stderr.line(&format!("ERROR upstream alone: connection refused ({refusing}), {id}")).await;
    let id = ask("p").await;
    let of_request = |lines: Vec<String>| lines.into_iter().filter(|line| line.contains(&id)).collect::<Vec<_>>();
    within("both attempts", async {
        while of_request(process.stderr.all()).len() < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let lines = of_request(process.stderr.all());
    assert!(
        lines[0].contains(" WARN upstream pool: ") && lines[0].ends_with("; the request goes elsewhere"),
        "{lines:#?}"
    );
    assert!(lines[1].contains(" ERROR upstream pool: ") && lines[1].ends_with(&id), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains(&format!("connection refused (one, {refusing})"))), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains(&format!("(two, {breaking})"))), "{lines:#?}");
    assert!(!process.stderr.all().iter().any(|line| line.contains("Fail to proxy")), "{:#?}", process.stderr.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_wrong_is_shown_at_debug_only() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    let process = Process::serve(&files.path);
    let (gateway, admin) = process.addresses().await;
    let misbehave = async || {
        for bytes in [&b"GET /v1/models HTTP/1.1\r\nhost: a"[..], b"\0\0\0\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n"] {
            let mut stream = tokio::net::TcpStream::connect(gateway).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = within("its end", tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer)).await;
        }
        let mut preface = tokio::net::TcpStream::connect(gateway).await.unwrap();
        preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame of settings at all").await.unwrap();
        let mut answer = Vec::new();
        let _ = within("its end", tokio::io::AsyncReadExt::read_to_end(&mut preface, &mut answer)).await;
    };
    assert_eq!(set_levels(admin, USUAL).await.0, 204);
    let before = process.stderr.all().len();
    misbehave().await;
    assert_eq!(set_levels(admin, "debug").await.0, 204);
    process.stderr.line("the log levels were changed to debug").await;
    let lines = process.stderr.all();
    let said: Vec<_> = lines[before..].iter().filter(|line| !line.contains("the log levels were changed")).collect();
    assert!(said.is_empty(), "{said:#?}");
    misbehave().await;
    process.stderr.line("ownstream").await;
    answer_becomes(gateway, "/v1/models", "refused as usual", |answer| answer.status == 401).await;
    assert_eq!(json!(ask(admin, "GET", "/-/healthy").await.status), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_heads_are_counted_and_throttle_their_address_as_bad_keys_do() {
    let upstream = upstream(&Gate::new()).await;
    let gateway = Gateway::before(&upstream);
    let malformed = async |bytes: &[u8]| {
        let mut stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = within("its end", tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer)).await;
    };
    malformed(b"").await;
    assert_eq!(gateway.chat(&chat()).await.status, 200);
    let mut kept = gateway.connect().await;
    assert_eq!(kept.chat(SECRET, &chat()).await.status, 200);
    drop(kept);
    gateway.metric_becomes("keymeter_malformed_requests_total", 0.0).await;
    for bytes in [&b"GET /v1/models HTTP/1.1\r\nhost: a"[..], b"\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"] {
        malformed(bytes).await;
    }
    gateway.metric_becomes("keymeter_malformed_requests_total", 3.0).await;
    let is_throttled = async || gateway.connect().await.chat("sk-nobodys", &chat()).await.status == 429;
    let mut sent = 3;
    while !is_throttled().await {
        assert!(sent < 10_000, "nobody is throttled for malformed heads");
        for _ in 0..30 {
            malformed(b"no head\r\n\r\n").await;
        }
        sent += 30;
    }
    assert_eq!(gateway.chat(&chat()).await.status, 200, "a key of the file is not concerned");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_where_all_is_kept_and_which_server_does_not_answer() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let upstream = upstream(&Gate::new()).await;
    let control = "control: {listen: \"127.0.0.1:0\", token: operator-0123456789-0123456789-0123456789}";
    let limits = format!("limits: {{shared: {{url: \"redis://{nobody}/2\"}}}}");
    let service = "keys: {http: {url: \"http://127.0.0.1:1/v1/keys/{hash}\", usage_url: \"http://127.0.0.1:1/usage\"}}";
    let text = config(&upstream, &format!("{control}\n{limits}")).replace("keys: {yaml: {path: keys.yaml}}", service);
    let files = Files::new(&text, &one_key(""));
    let folder = files.path.parent().unwrap().canonicalize().unwrap();
    let mut command = keymeter(&["serve", "--config", "keymeter.yaml"]);
    command.current_dir(&folder);
    let process = Process::start(command);
    process.addresses().await;
    let number = format!("this is process {}; SIGHUP reloads it", process.id());
    process.stderr.line(&number).await;
    for (what, path) in [
        ("the control plane's database is", "data/keymeter.db"),
        ("usage records wait in", "data/spool"),
        ("quotas, where keys have any, are kept in", "data/limits"),
    ] {
        process.stderr.line(&format!("{what} {}", folder.join(path).display())).await;
    }
    process.stderr.line(&format!("the shared-limits server redis://{nobody}/2 is unavailable: cannot connect: ")).await;
}

/// As in an image that holds nothing but the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_system_without_certificates_is_warned_of_and_served() {
    let upstream = upstream(&Gate::new()).await;
    let files = Files::new(&config(&upstream, ""), &one_key(""));
    let nowhere = files.path.with_file_name("none").display().to_string();
    let environment = [("SSL_CERT_FILE", nowhere.as_str()), ("SSL_CERT_DIR", nowhere.as_str())];
    let command = keymeter(&["serve", "--config", files.path.to_str().unwrap()]);
    let process = Process::start_with(command, &environment);
    let warning = process.stderr.line("the certificates of this system cannot be read").await;
    assert!(warning.contains("install ca-certificates"), "{warning}");
    let (address, _) = process.addresses().await;
    let answer = Client::connect(address).await.chat(SECRET, &chat()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}
