//! Everything that holds for HTTP/1.1 holds for HTTP/2, in cleartext and over TLS, and one stream does not harm another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use h2::Reason;
use keymeter::server::Drained;
use reqwest::{Certificate, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    admission::{answering, answering_behind, chat},
    bodies::{SIZES, chat_of, with_server},
    support::{
        client::{events, within},
        gateway::{Gateway, SECRET, config, one_key},
        h2c::H2c,
        script::{Gate, Script, Step, completion, usage},
        upstream::ScriptedUpstream,
    },
};

fn code(body: &[u8]) -> Value {
    serde_json::from_slice::<Value>(body).unwrap()["error"]["code"].clone()
}

/// An upstream whose streams stop after so many events until `gate` lets them go on.
async fn streaming(events: usize, gate: &Gate) -> ScriptedUpstream {
    let gate = gate.clone();
    ScriptedUpstream::start(move |request| Script::stream_of(request, 5, &usage(7, 5)).gated(events, &gate)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_reach_the_upstream_as_they_came() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let client = H2c::connect(gateway.address()).await;
    for size in SIZES {
        let body = chat_of(size);
        for pieces in [1, 3] {
            let mut exchange = client.open(SECRET, &[("content-length", &size.to_string())]).await;
            body.chunks(size.div_ceil(pieces)).for_each(|piece| exchange.data(piece, false));
            // An empty last frame: not every server takes it for no more than an end.
            exchange.data(b"", true);
            let (answer, rest) = exchange.whole().await;
            assert_eq!(answer.status, 200, "{size}: {}", String::from_utf8_lossy(&rest));
            assert_eq!(rest, completion("m", 5).to_string().as_bytes());
            let seen = upstream.received().pop().unwrap();
            assert!(seen.body == body, "{size}: {} bytes reached the upstream, or others", seen.body.len());
            assert_eq!(seen.header("content-length"), Some(size.to_string().as_str()));
        }
    }
    assert!(upstream.malformed().is_empty(), "{:?}", upstream.malformed());
    assert_eq!(upstream.received().len(), 2 * SIZES.len());
}

/// Nobody is left to be told why the request is refused, which is due to no upstream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_in_mid_body_is_no_upstreams_failure() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let client = H2c::connect(gateway.address()).await;
    let mut exchange = client.open(SECRET, &[("content-length", "1000")]).await;
    exchange.data(b"{", false);
    gateway.holds_of_bodies(1).await;
    exchange.body.send_reset(Reason::CANCEL);
    let line = gateway.next_line();
    assert_eq!((&line["status"], &line["reason"]), (&json!(499), &json!("invalid_request")), "{line}");
    let of_upstreams = gateway.metric(r#"keymeter_errors_total{code="upstream_error"}"#).await;
    assert!(of_upstreams < 0.5, "{of_upstreams}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_is_taken_up_to_the_maximum() {
    const MOST: usize = 1 << 20;
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 1MiB");
    let client = H2c::connect(gateway.address()).await;
    for (size, status) in
        [(13, 200), (1000, 200), (65_536, 200), (65_537, 200), (MOST, 200), (MOST + 1, 413), (65_535, 200)]
    {
        let body = chat_of(size);
        let mut exchange = client.open(SECRET, &[]).await;
        body.chunks(10_000).for_each(|piece| exchange.data(piece, false));
        exchange.data(b"", true);
        let (answer, rest) = exchange.whole().await;
        assert_eq!(answer.status, status, "{size}: {}", String::from_utf8_lossy(&rest));
        if status == 200 {
            let seen = upstream.received().pop().unwrap();
            assert!(seen.body == body, "{size}");
            assert_eq!(seen.header("content-length"), Some(size.to_string().as_str()));
        } else {
            assert_eq!(code(&rest), "request_too_large");
        }
    }
    assert_eq!(upstream.received().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_forwarded_event_by_event_and_metered() {
    let gate = Gate::new();
    let upstream = streaming(1, &gate).await;
    let gateway = Gateway::before(&upstream);
    let client = H2c::connect(gateway.address()).await;
    let body = json!({"model": "m", "stream": true}).to_string();
    let mut answer = client.send(SECRET, body.as_bytes()).await.head().await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    for name in ["transfer-encoding", "connection", "keep-alive"] {
        assert_eq!(answer.header(name), None, "HTTP/2 knows no {name}");
    }
    let first = answer.piece().await.unwrap();
    assert_eq!(events(&first).len(), 1, "it is there before the upstream goes on");
    gate.open();
    let rest = events(&answer.rest().await);
    assert_eq!((rest.len(), rest.last().map(String::as_str)), (6, Some("[DONE]")), "{rest:?}");
    assert!(upstream.received()[0].asks_for_usage());
    gateway.metric_becomes(r#"keymeter_tokens_total{key_id="key_test",model="other",type="output"}"#, 5.0).await;
    assert_eq!(gateway.next_line()["usage_source"], "upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_ends_its_stream_and_not_the_connection() {
    let upstream = answering(5).await;
    let options = "max_request_body: 2MiB, body_timeout: 200ms";
    let keys = one_key(", models: [m], limits: {requests_per_minute: 12}");
    let configuration = config(&upstream, "").replace("server: {", &format!("server: {{{options}, "));
    let gateway = Gateway::start(&configuration, &keys);
    let client = H2c::connect(gateway.address()).await;
    let (large, too_large) = (chat_of(1 << 20), chat_of((2 << 20) + 1));
    let other = json!({"model": "x"}).to_string().into_bytes();
    let cases = [
        ("sk-nobody", &chat_of(100), 401, "invalid_api_key"),
        ("sk-nobody", &large, 401, "invalid_api_key"),
        (SECRET, &other, 404, "model_not_found"),
        (SECRET, &too_large, 413, "request_too_large"),
        (SECRET, &b"{".to_vec(), 400, "invalid_json"),
    ];
    for (key, body, status, expected) in cases {
        for _ in 0..2 {
            let (answer, rest) = client.send(key, body).await.whole().await;
            assert_eq!((answer.status, code(&rest)), (status, expected.into()));
            assert!(answer.header("x-request-id").is_some());
        }
        let (answer, _) = client.chat(SECRET, &chat()).await;
        assert_eq!(answer.status, 200, "after {status}");
    }
    let mut slow = client.open(SECRET, &[("content-length", "1000")]).await;
    slow.data(b"{\"model\"", false);
    let (answer, rest) = slow.whole().await;
    assert_eq!((answer.status, code(&rest)), (408, "request_timeout".into()));
    for status in [200, 200, 200, 200, 200, 200, 200, 429, 429] {
        let (answer, rest) = client.chat(SECRET, &chat()).await;
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&rest));
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("12"));
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
    }
    assert_eq!(upstream.received().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_streams_run_at_once_on_one_connection() {
    let gate = Gate::new();
    let upstream = answering_behind(&gate).await;
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(", limits: {concurrent_requests: 100}"));
    let client = H2c::connect(gateway.address()).await;
    let mut running = Vec::new();
    for number in 0..100 {
        running.push(client.send(SECRET, &chat_of(1000 + number)).await);
    }
    upstream.wait_for_request(100).await;
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 100.0).await;
    let elsewhere = H2c::connect(gateway.address()).await;
    assert_eq!(elsewhere.chat(SECRET, &chat()).await.0.status, 429, "the 101st");
    gate.open();
    for (answer, body) in join_all(running.into_iter().map(crate::support::h2c::Exchange::whole)).await {
        assert_eq!((answer.status, body.len()), (200, completion("m", 5).to_string().len()));
    }
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
    let mut sizes: Vec<_> = upstream.received().iter().map(|seen| seen.body.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, (1000..1100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_its_stream_has_the_upstream_stopped_and_everything_settled() {
    let gate = Gate::new();
    let upstream = streaming(2, &gate).await;
    let gateway = Gateway::before(&upstream);
    let client = H2c::connect(gateway.address()).await;
    let body = json!({"model": "m", "stream": true}).to_string();
    let mut answer = client.send(SECRET, body.as_bytes()).await.head().await;
    assert!(answer.piece().await.is_some());
    drop(answer);
    let closed = upstream.wait_for_closed(1).await;
    assert!(closed.by_peer && closed.mid_response);
    let line = gateway.next_line();
    assert_eq!((&line["client_aborted"], &line["usage_source"]), (&true.into(), &"estimated".into()), "{line}");
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
    gateway.metric_becomes("keymeter_client_aborts_total", 1.0).await;
    gate.open();
    let (answer, rest) = client.chat(SECRET, &json!({"model": "m", "stream": true})).await;
    assert_eq!((answer.status, events(&rest).last().map(String::as_str)), (200, Some("[DONE]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_says_of_a_failed_upstream_comes_whole() {
    let (begun, closes) = (Script::sse(&["{}"]), Script::hang().then(Step::Close));
    let broken = Script { steps: vec![begun.steps[0].clone(), Step::Close], ..begun };
    for (script, status, ends) in
        [(closes, 502, "}"), (Script::error(401, "invalid_request_error", "bad key"), 502, "}"), (broken, 200, "}\n\n")]
    {
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = Gateway::before(&upstream);
        let client = H2c::connect(gateway.address()).await;
        let (answer, body) = client.chat(SECRET, &json!({"model": "m", "stream": true})).await;
        let text = String::from_utf8(body).unwrap();
        assert_eq!(answer.status, status, "{text}");
        assert!(text.contains(r#""code":"upstream_error""#) && text.ends_with(ends), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_its_stream_before_the_answer_is_settled_too() {
    let gate = Gate::new();
    let upstream = answering_behind(&gate).await;
    let gateway = Gateway::before(&upstream);
    let client = H2c::connect(gateway.address()).await;
    let mut exchange = client.send(SECRET, &chat_of(100)).await;
    upstream.wait_for_request(1).await;
    exchange.body.send_reset(Reason::CANCEL);
    assert!(upstream.wait_for_closed(1).await.mid_response);
    let line = gateway.next_line();
    assert_eq!((&line["client_aborted"], &line["status"]), (&true.into(), &499.into()), "{line}");
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_its_stream_in_mid_body_leaves_nothing() {
    let upstream = answering(5).await;
    let options = "server: {max_request_body: 10KiB, max_buffered_bodies: 40KiB, ";
    let keys = one_key(", limits: {concurrent_requests: 2}");
    let gateway = Gateway::start(&config(&upstream, "").replace("server: {", options), &keys);
    let client = H2c::connect(gateway.address()).await;
    let status = async |size| client.send(SECRET, &chat_of(size)).await.whole().await.0.status;
    for _ in 0..5 {
        let mut part = client.open(SECRET, &[("content-length", "9500")]).await;
        part.data(&chat_of(9500)[..9499], false);
        gateway.holds_of_bodies(9499).await;
        assert_eq!(status(1000).await, 503, "of 10,240 bytes 741 are left to the key");
        let mut second = client.open(SECRET, &[("content-length", "500")]).await;
        second.data(b"{", false);
        gateway.holds_of_bodies(9500).await;
        assert_eq!(status(100).await, 429, "both places are taken");
        for mut stream in [part, second] {
            stream.body.send_reset(Reason::CANCEL);
        }
        within("the room to come back", async { while status(10 << 10).await != 200 {} }).await;
    }
    assert_eq!(gateway.server.drain(Duration::from_secs(10)).await, Drained::Empty);
    assert!(upstream.received().iter().all(|seen| seen.body.len() != 9500), "a part of a body went upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_without_a_restart_and_a_bad_one_never() {
    let gate = Gate::new();
    gate.open();
    let upstream = streaming(1, &gate).await;
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let make = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let [first, second] = [make(), make()];
    std::fs::write(&cert, first.cert.pem()).unwrap();
    std::fs::write(&key, first.key_pair.serialize_pem()).unwrap();
    let tls = format!("tls: {{cert: {}, key: {}}}", cert.display(), key.display());
    let gateway = with_server(&upstream, &tls);
    let url = format!("https://{}/v1/models", gateway.address());
    let trusts = async |made: &rcgen::CertifiedKey| {
        let trusted = Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().tls_built_in_root_certs(false).add_root_certificate(trusted);
        client.build().unwrap().get(&url).bearer_auth("sk-nobody").send().await.is_ok()
    };
    assert!(trusts(&first).await && !trusts(&second).await);

    // Half of a renewal: the certificate is there, its key is not yet.
    std::fs::write(&cert, second.cert.pem()).unwrap();
    let faults = gateway.server.reloader().reload().unwrap_err();
    assert!(faults[0].to_string().contains("cannot use the certificate of `server.tls`"), "{}", faults[0]);
    assert!(trusts(&first).await, "what was shown is shown on");

    std::fs::write(&key, second.key_pair.serialize_pem()).unwrap();
    assert_eq!(gateway.server.reloader().reload().unwrap().restart_needed, Vec::<&str>::new());
    assert!(trusts(&second).await && !trusts(&first).await);
    assert!(gateway.server.reloader().files().contains(&cert), "a change of it is noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_client_chooses_between_http_1_1_and_http_2() {
    let gate = Gate::new();
    gate.open();
    let upstream = streaming(1, &gate).await;
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let tls = format!("tls: {{cert: {}, key: {}}}", cert.display(), key.display());
    let gateway = with_server(&upstream, &tls);
    let url = format!("https://{}/v1/chat/completions", gateway.address());
    let client = || {
        let trusted = Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
        reqwest::Client::builder().no_proxy().tls_built_in_root_certs(false).add_root_certificate(trusted)
    };
    for (client, version) in [(client(), Version::HTTP_2), (client().http1_only(), Version::HTTP_11)] {
        let client = client.build().unwrap();
        for size in [100, 65_537, 1 << 20] {
            let answer = client.post(&url).bearer_auth(SECRET).body(chat_of(size)).send();
            let answer = within("an answer", answer).await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (200, version), "{size}");
            let pieces = answer.bytes_stream().map(Result::unwrap).collect::<Vec<_>>();
            assert!(within("the stream", pieces).await.concat().ends_with(b"data: [DONE]\n\n"));
            assert!(upstream.received().pop().unwrap().body == chat_of(size), "{size}");
        }
        let refusal = client.post(&url).bearer_auth("sk-nobody").body(chat_of(100)).send().await.unwrap();
        assert_eq!(refusal.status().as_u16(), 401);
    }
}

/// Bytes of the connection between these ports that the kernel holds, on either side.
fn in_the_kernel(from: u16, to: u16) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let port = |address: &str| number(address.split_once(':').unwrap().1);
    let connections = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let queues = connections.map(|fields| (port(fields[1]), port(fields[2]), fields[4].split_once(':').unwrap()));
    let ours = queues.map(|(local, remote, (sent, received))| match (local, remote) {
        _ if (local, remote) == (from.into(), to.into()) => number(sent),
        _ if (local, remote) == (to.into(), from.into()) => number(received),
        _ => 0,
    });
    ours.sum()
}

/// An upstream whose responses never end: what it could send of each is counted, with the ports of its connection.
async fn endless(streams: usize) -> (std::net::SocketAddr, Vec<Arc<Endless>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let all: Vec<_> = (0..streams).map(|_| Arc::new(Endless::default())).collect();
    let serving = all.clone();
    tokio::spawn(async move {
        for endless in serving {
            let (mut stream, peer) = listener.accept().await.unwrap();
            endless.peer.store(peer.port(), Ordering::SeqCst);
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await.unwrap();
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\r\n";
                stream.write_all(head).await.unwrap();
                while let Ok(sent) = stream.write(&[b'x'; 16_384]).await {
                    endless.sent.fetch_add(sent as u64, Ordering::SeqCst);
                }
            });
        }
    });
    (address, all)
}

#[derive(Default)]
struct Endless {
    peer: AtomicU16,
    sent: AtomicU64,
}

/// A client that opens streams and takes nothing of them fills the gateway's memory so far and no further, however long its
/// upstream goes on: Pingora reads up to 64 KiB at once and passes at most 14 such pieces from one hand to the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_window_is_closed_holds_what_pingora_has_in_hand_and_no_more() {
    const STREAMS: usize = 10;
    const MOST: u64 = 14 * 65_536;
    let (address, all) = endless(STREAMS).await;
    let upstream = answering(5).await;
    let configuration = config(&upstream, "").replace(&upstream.address.to_string(), &address.to_string());
    let gateway = Gateway::start(&configuration, &one_key(""));
    let client = H2c::with_window(gateway.address(), 0).await;
    let mut answers = Vec::new();
    for _ in 0..STREAMS {
        answers.push(client.send(SECRET, &chat_of(100)).await.head().await);
    }
    let sent = || all.iter().map(|endless| endless.sent.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let stalled = async {
        let mut before = sent();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = std::mem::replace(&mut before, sent());
            if now == before && before.iter().all(|sent| *sent > 0) {
                return;
            }
        }
    };
    within("the upstream to be held up", stalled).await;
    for endless in &all {
        let kernel = in_the_kernel(address.port(), endless.peer.load(Ordering::SeqCst));
        let held = endless.sent.load(Ordering::SeqCst).saturating_sub(kernel);
        assert!(held <= MOST, "{held} bytes are held");
    }
}
