//! Nobody holds a connection by doing nothing: not before a request, not between two, not by reading nothing; and however
//! many there are, operators are answered.

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use keymeter::{
    connection::descriptors::raise_limit,
    server::control_plane,
    server::{Drained, handover::Sockets},
};
use keymeter_config::{self as config};
use keymeter_control::ControlPlane;
use keymeter_core::limit::{Limit, Limits};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

use crate::admission::answering_behind;
use crate::support::{
    client::{Arrival, Client, PATIENCE, within},
    gateway::{Gateway, SECRET, config, one_key},
    h2c::H2c,
    process::{Process, Signal},
    script::{Script, Step, completion, usage},
    upstream::ScriptedUpstream,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
}

async fn answering() -> ScriptedUpstream {
    ScriptedUpstream::start(|request| match request.json()["stream"] {
        Value::Bool(true) => Script::stream_of(request, 12, &usage(7, 12)).paced(Duration::from_millis(100)),
        _ => Script::json(200, &completion("m", 5)),
    })
    .await
}

/// A gateway with these fields of `server`.
fn gateway(upstream: &ScriptedUpstream, fields: &str, key: &str, sections: &str) -> Gateway {
    let configuration = config(upstream, sections).replace("server: {", &format!("server: {{{fields}, "));
    Gateway::start(&configuration, &one_key(key))
}

async fn connected(address: SocketAddr, sent: &[u8]) -> TcpStream {
    let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

/// Reads until the other side has closed, and says what came and how long that took.
async fn closed(stream: &mut TcpStream) -> (Vec<u8>, Duration) {
    let (start, mut all, mut piece) = (Instant::now(), Vec::new(), [0; 4096]);
    loop {
        match within("the end of the connection", stream.read(&mut piece)).await {
            Ok(0) | Err(_) => return (all, start.elapsed()),
            Ok(length) => all.extend_from_slice(&piece[..length]),
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A head's first frame, which says that more are to come.
fn half_a_head() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 1, 1, &[0x83])].concat()
}

/// A control plane with these fields of `server`.
async fn control(fields: &str) -> (ControlPlane, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "server: {{{fields}}}\nupstreams: [{{name: a, url: 'http://127.0.0.1:1'}}]\n\
         keys: {{yaml: {{path: keys.yaml}}}}\ncontrol: {{listen: '127.0.0.1:0', token: operator-of-the-tests-0123456789-0123456789}}"
    );
    let path = folder.path().join("keymeter.yaml");
    let settings = config::parse(&text, Path::new(&path), &|_| None).unwrap().control.unwrap();
    let unlimited = Limit::Unlimited;
    let limits =
        Limits { requests_per_minute: unlimited, tokens_per_minute: unlimited, concurrent_requests: unlimited };
    (control_plane::start(&settings, limits, &mut Sockets::none()).await.unwrap(), folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_no_whole_head_is_cut_at_every_address() {
    let upstream = answering().await;
    let fields = "head_timeout: 400ms, keep_alive: 60s";
    let gateway = gateway(&upstream, fields, "", "");
    let (control, _folder) = control(fields).await;
    let endless = [half_a_head(), frame(9, 0, 1, b""), frame(9, 0, 1, b"")].concat();
    let settings = [PREFACE, &frame(4, 0, 0, &[])].concat();
    let half = half_a_head();
    let beginnings: [&[u8]; 8] = [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx-long: ",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        PREFACE,
        &settings,
        &half,
        &endless,
    ];
    for address in [gateway.address(), gateway.server.admin_address, control.address] {
        let mut connections = Vec::new();
        for beginning in beginnings {
            connections.push((beginning, Instant::now(), connected(address, beginning).await));
        }
        for (beginning, start, mut connection) in connections {
            closed(&mut connection).await;
            let (took, what) = (start.elapsed(), String::from_utf8_lossy(beginning));
            // What is none of the protocols that are spoken there is refused at once.
            assert!(took < Duration::from_secs(5), "{address}: {what:?} took {took:?}");
        }
        let mut dribbling = connected(address, b"GET /-/healthy HTTP/1.1\r\nx: ").await;
        let start = Instant::now();
        while dribbling.write_all(b"y").await.is_ok() {
            assert!(start.elapsed() < Duration::from_secs(5), "{address}: a head that dribbles goes on");
            sleep(Duration::from_millis(50)).await;
        }
    }
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_between_requests_for_its_time_and_streams_for_theirs() {
    let upstream = answering().await;
    let fields = "head_timeout: 500ms, keep_alive: 900ms, write_timeout: 300ms";
    let gateway = gateway(&upstream, fields, "", "");
    let (control, _folder) = control(fields).await;
    let mut client = gateway.connect().await;
    // Longer than every one of them, with a client that reads.
    assert_eq!(client.chat_stream(SECRET, &json!({"model": "m", "stream": true, "messages": []})).await.status, 200);
    assert_eq!(client.rest().await.1, Arrival::End);
    assert_eq!(client.chat(SECRET, &chat()).await.status, 200);
    let start = Instant::now();
    assert!(client.closed_by_server().await.is_empty());
    let took = start.elapsed();
    assert!(took > Duration::from_millis(600) && took < Duration::from_secs(6), "{took:?}");

    for (address, path) in [(gateway.server.admin_address, "/-/healthy"), (control.address, "/healthz")] {
        let mut client = Client::connect(address).await;
        for _ in 0..2 {
            assert_eq!(client.request("GET", path, &[], b"").await.status, 200);
            sleep(Duration::from_millis(300)).await;
        }
        let start = Instant::now();
        client.closed_by_server().await;
        assert!(start.elapsed() < Duration::from_secs(6), "{address}");
    }
    control.stop().await;
}

/// Such a client reads until the connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_need_not_wait_for_the_end_unless_it_wants_more() {
    let upstream = answering().await;
    let gateway = gateway(&upstream, "keep_alive: 60s", "", "");
    let (control, _folder) = control("keep_alive: 60s").await;
    let addresses = [
        (gateway.address(), "/v1/models"),
        (gateway.server.admin_address, "/-/healthy"),
        (control.address, "/healthz"),
    ];
    for (address, path) in addresses {
        let mut client = connected(address, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await;
        let (answer, took) = closed(&mut client).await;
        assert!(answer.starts_with(b"HTTP/1."), "{path}: {}", String::from_utf8_lossy(&answer));
        assert!(took < Duration::from_secs(5), "{path}: {took:?}");
    }
    for (address, path) in addresses.into_iter().take(2) {
        let mut client = Client::connect(address).await;
        for _ in 0..2 {
            client.send_raw(format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").as_bytes()).await;
            assert!([200, 401].contains(&client.response().await.status), "{path}");
        }
    }
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_http2_without_streams_is_told_and_closed() {
    let upstream = answering().await;
    let gateway = gateway(&upstream, "head_timeout: 400ms, keep_alive: 400ms", "", "");
    let stream = TcpStream::connect(gateway.address()).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = |path| http::Request::get(format!("http://gateway{path}")).body(()).unwrap();
    let (answer, _) = sender.send_request(request("/v1/models"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 401);
    // A polite end is none that the client's library calls an error.
    within("the end of the connection", connection).await.unwrap().unwrap();

    // One that goes on to ping, and hears nothing, is closed all the same.
    let mut deaf = connected(gateway.address(), &[PREFACE, &frame(4, 0, 0, &[])].concat()).await;
    let head = [0x82, 0x84, 0x86, 0x41, 1, b'g'];
    deaf.write_all(&frame(1, 5, 1, &head)).await.unwrap();
    let start = Instant::now();
    while deaf.write_all(&frame(6, 0, 0, &[0; 8])).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(6), "it pings for ever");
        sleep(Duration::from_millis(50)).await;
    }
}

/// More than any buffer between the upstream and a client holds.
fn large() -> Script {
    let event = format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": "x".repeat(60_000)}}]}));
    let mut script = Script::sse(&[]);
    script.steps = std::iter::repeat_n(Step::Send(Bytes::from(event)), 400).chain([Step::Finish]).collect();
    script
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut_charged_and_not_waited_for() {
    for on_abort in ["stop", "drain"] {
        let upstream = ScriptedUpstream::start(|request| match request.json()["stream"] {
            Value::Bool(true) => large(),
            _ => Script::json(200, &completion("m", 5)),
        })
        .await;
        let sections = format!("on_client_abort: {on_abort}\ndrain_limit: 1s");
        let one = ", limits: {concurrent_requests: 1}";
        let gateway = gateway(&upstream, "write_timeout: 600ms", one, &sections);
        let body = json!({"model": "m", "stream": true, "messages": []});

        let mut deaf = gateway.connect().await;
        assert_eq!(deaf.chat_stream(SECRET, &body).await.status, 200);
        let line = gateway.next_line();
        assert!(line["client_aborted"] == true && line["output_tokens"].as_u64() > Some(1000), "{on_abort}: {line}");
        assert_eq!(gateway.chat(&chat()).await.status, 200, "{on_abort}: its place is free");
        gateway.next_line();
        deaf.close().await;

        // The same over HTTP/2, by a client whose connection lives, and whose window is empty.
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let (sender, connection) =
            h2::client::Builder::new().initial_window_size(1000).handshake::<_, Bytes>(stream).await.unwrap();
        tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        let request = http::Request::post("http://gateway/v1/chat/completions");
        let request = request.header("authorization", format!("Bearer {SECRET}")).body(()).unwrap();
        let (answer, mut sending) = sender.send_request(request, false).unwrap();
        sending.send_data(body.to_string().into(), true).unwrap();
        let answer = within("a head", answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        let line = gateway.next_line();
        assert_eq!(line["client_aborted"], true, "{on_abort}: {line}");
        assert_eq!(gateway.chat(&chat()).await.status, 200, "{on_abort}: its place is free");

        let _deaf = {
            let mut deaf = gateway.connect().await;
            assert_eq!(deaf.chat_stream(SECRET, &body).await.status, 200);
            deaf
        };
        let start = Instant::now();
        assert_eq!(gateway.server.drain(Duration::from_mins(1)).await, Drained::Empty, "{on_abort}");
        assert!(start.elapsed() < Duration::from_secs(10), "{on_abort}: {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_is_served() {
    let upstream = ScriptedUpstream::start(|_| large()).await;
    let gateway = gateway(&upstream, "write_timeout: 200ms", "", "");
    let mut client = gateway.connect().await;
    let body = json!({"model": "m", "stream": true, "messages": []});
    assert_eq!(client.chat_stream(SECRET, &body).await.status, 200);
    let start = Instant::now();
    loop {
        match client.next_chunk().await {
            Arrival::Chunk { .. } => sleep(Duration::from_millis(15)).await,
            end => break assert_eq!(end, Arrival::End, "after {:?}: {}", start.elapsed(), gateway.next_line()),
        }
    }
    assert!(start.elapsed() > Duration::from_secs(2), "it was in no hurry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_within_the_time_of_the_head() {
    let upstream = answering().await;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let tls = format!("tls: {{cert: {}, key: {}}}, head_timeout: 500ms", certificate.display(), key.display());
    let gateway = gateway(&upstream, &tls, "", "");
    let address = gateway.address();
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut silent = connected(address, beginning).await;
        assert!(closed(&mut silent).await.1 < Duration::from_secs(5));
    }
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    for protocol in ["http/1.1", "h2"] {
        let mut config = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![protocol.into()];
        let stream = TcpStream::connect(address).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let connector = TlsConnector::from(std::sync::Arc::new(config));
        let mut silent = within("the handshake", connector.connect(name, stream)).await.unwrap();
        let start = Instant::now();
        // An end without a word of TLS' own is an end, too.
        let _ = within("the end", silent.read_to_end(&mut Vec::new())).await;
        assert!(start.elapsed() < Duration::from_secs(5), "{protocol}: {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_idle_connection_makes_room_and_else_new_ones_wait() {
    let gate = crate::support::script::Gate::new();
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |request| match request.json()["stream"] {
        Value::Bool(true) => Script::stream_of(request, 3, &usage(7, 3)).gated(1, &held),
        _ => Script::json(200, &completion("m", 5)),
    })
    .await;
    let gateway = gateway(&upstream, "max_connections: 2", "", "");
    let (mut first, mut second) = (gateway.connect().await, gateway.connect().await);
    assert_eq!(first.chat(SECRET, &chat()).await.status, 200);
    assert_eq!(second.chat(SECRET, &chat()).await.status, 200);
    assert_eq!(first.chat(SECRET, &chat()).await.status, 200);
    let mut third = gateway.connect().await;
    assert_eq!(third.chat(SECRET, &chat()).await.status, 200);
    second.closed_by_server().await;
    let stream = json!({"model": "m", "stream": true, "messages": []});
    for client in [&mut first, &mut third] {
        assert_eq!(client.chat_stream(SECRET, &stream).await.status, 200);
    }
    let mut fourth = gateway.connect().await;
    assert!(timeout(Duration::from_millis(300), fourth.chat(SECRET, &chat())).await.is_err(), "both are at work");
    assert_eq!(gateway.admin("GET", "/-/healthy").await.status, 200);
    gate.open();
    // It has waited with its request; this reads the answer to it.
    assert_eq!(within("its turn", fourth.response()).await.status, 200);
}

/// Whoever waits takes the place of a connection as soon as nothing runs on it, and not before what ran is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_makes_room_is_answered_before() {
    const PLACES: usize = 4;
    for _ in 0..5 {
        let gate = crate::support::script::Gate::new();
        let upstream = answering_behind(&gate).await;
        let gateway = gateway(&upstream, &format!("max_connections: {PLACES}"), "", "");
        let mut running = Vec::new();
        for _ in 0..PLACES {
            let client = H2c::connect(gateway.address()).await;
            running.push(client.send(SECRET, chat().to_string().as_bytes()).await);
        }
        upstream.wait_for_request(PLACES).await;
        let mut waiting = Vec::new();
        for _ in 0..PLACES {
            let mut client = gateway.connect().await;
            client.send("GET", "/v1/models", &[("authorization", &format!("Bearer {SECRET}"))], b"").await;
            waiting.push(client);
        }
        gate.open();
        for exchange in running {
            assert_eq!(exchange.whole().await.0.status, 200);
        }
        for mut client in waiting {
            assert_eq!(client.response().await.status, 200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eleven_hundred_silent_connections_shut_nobody_out_of_a_process_with_a_thousand_descriptors() {
    raise_limit();
    let upstream = answering().await;
    let directory = tempfile::tempdir().unwrap();
    let configuration = config(&upstream, "").replace("server: {", "server: {head_timeout: 2s, ");
    let path = directory.path().join("keymeter.yaml");
    std::fs::write(&path, configuration).unwrap();
    std::fs::write(directory.path().join("keys.yaml"), one_key("")).unwrap();
    let mut command = std::process::Command::new("sh");
    command.arg("-c").arg("ulimit -n 1024; exec \"$0\" serve --config \"$1\"");
    command.arg(env!("CARGO_BIN_EXE_keymeter")).arg(&path).env_remove("RUST_LOG");
    let mut process = Process::start(command);
    let (gateway, admin) = process.addresses().await;
    let mut silent = Vec::new();
    for number in 0..1100 {
        let beginning: &[u8] = if number % 2 == 0 { b"" } else { b"GET / HTTP/1.1\r\n" };
        silent.push(connected(gateway, beginning).await);
    }
    for path in ["/-/healthy", "/-/ready", "/metrics"] {
        let answer = timeout(Duration::from_secs(2), Client::connect(admin).await.request("GET", path, &[], b"")).await;
        assert_eq!(answer.expect("an answer at once").status, 200, "{path}");
    }
    let mut client = Client::connect(gateway).await;
    assert_eq!(timeout(PATIENCE, client.chat(SECRET, &chat())).await.expect("an answer").status, 200);
    process.signal(Signal::TERM);
    assert!(process.ended().await.0.success());
    let lines = process.stderr.to_the_end().await;
    assert!(!lines.iter().any(|line| line.contains("Too many open files")), "{lines:#?}");
}
