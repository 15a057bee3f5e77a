//! A refusal costs a client its request and not its connection, and requests on one connection are answered in order.

use std::{
    collections::HashSet,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Mutex,
    thread,
};

use serde_json::json;

use crate::{
    admission::{answering, chat},
    bodies::{chat_of, head, refused_early, request},
    support::{
        client::{Arrival, events},
        gateway::{Gateway, SECRET, config, one_key},
        scene::configuration,
        script::{Gate, Script, Step, completion, usage},
        upstream::ScriptedUpstream,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_requests_connection_takes_the_next_one() {
    let upstream = answering(5).await;
    let configuration = config(&upstream, "").replace("name: scripted,", "name: scripted, models: [m],");
    let configuration = configuration.replace("server: {", "server: {max_request_body: 60KiB, ");
    let gateway = Gateway::start(&configuration, &one_key(""));
    let mut client = gateway.connect().await;
    let changed = |from: &str, to: &str| String::from_utf8(request(&chat_of(50_000))).unwrap().replacen(from, to, 1);
    let cases = [
        (changed(SECRET, "sk-nobody"), 401),
        (changed("authorization", "x-nothing"), 401),
        (changed("/v1/chat/completions", "/v1/nothing"), 404),
        (changed("/v1/chat/completions", "/v1/models/unknown"), 405),
        (changed("POST", "GET"), 405),
        (changed("\"model\":\"m\"", "\"model\":\"x\""), 404),
        (String::from_utf8(request(&chat_of((60 << 10) + 1))).unwrap(), 413),
        (changed("content-length", "content-encoding: compress\r\ncontent-length"), 415),
        (changed("{", "["), 400),
    ];
    for (bytes, status) in &cases {
        client.send_raw(bytes.as_bytes()).await;
        let answer = client.response().await;
        assert_eq!(answer.status, *status, "{}", answer.text());
        assert_ne!(answer.header("connection"), Some("close"));
        let good = client.chat(SECRET, &chat()).await;
        assert_eq!(good.status, 200, "after {status}");
    }
    assert_eq!(upstream.received().len(), cases.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_leaves_the_connection_as_it_is() {
    let upstream = answering(5).await;
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(", limits: {requests_per_minute: 1}"));
    let mut client = gateway.connect().await;
    for status in [200, 429, 429, 429] {
        client.send_raw(&request(&chat_of(200_000))).await;
        assert_eq!(client.response().await.status, status);
    }
    let models = client.request("GET", "/v1/models/none", &[("x-api-key", SECRET)], b"").await;
    assert_eq!(models.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_may_come_after_its_head() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let body = chat_of(1000);
    let bad = String::from_utf8(head("content-length: 1000")).unwrap().replace(SECRET, "sk-nobody");
    client.send_raw(bad.as_bytes()).await;
    client.send_raw(&body[..400]).await;
    assert_eq!(client.response().await.status, 401, "it does not wait for the rest");
    client.send_raw(&body[400..]).await;
    client.send_raw(&request(&body)).await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_rest_of_a_refused_body_is_not_waited_for() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    for (from, to, status) in [(SECRET, "sk-nobody", 401), ("/v1/chat/completions", "/v1/nothing", 404)] {
        let head = String::from_utf8(head("content-length: 65537")).unwrap().replace(from, to);
        let mut client = gateway.connect().await;
        client.send_raw(head.as_bytes()).await;
        let answer = client.response().await;
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        assert!(client.closed_by_server().await.is_empty());

        let whole = [head.replace("65537", "4194304").into_bytes(), vec![b' '; 4 << 20]].concat();
        let answer = refused_early(&gateway, whole).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}: who sends on regardless is told as well");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipelined_request_waits_for_the_running_stream() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |request| match request.json()["stream"].as_bool() {
        Some(true) => Script::stream_of(request, 5, &usage(7, 5)).gated(1, &held),
        _ => Script::json(200, &completion("m", 2)),
    })
    .await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let stream = json!({"model": "m", "stream": true}).to_string().into_bytes();
    client.send_raw(&request(&stream)).await;
    assert_eq!(client.head().await.status, 200);
    assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
    // In two pieces, so that the second comes while the first is already waiting.
    let second = request(&chat_of(70_000));
    client.send_raw(&second[..50]).await;
    client.send_raw(&second[50..]).await;
    gate.open();
    let (rest, end) = client.rest().await;
    assert_eq!((end, events(&rest).last().map(String::as_str)), (Arrival::End, Some("[DONE]")));
    let answer = client.response().await;
    assert_eq!((answer.status, &answer.json()["usage"]["completion_tokens"]), (200, &2.into()));
    assert!(upstream.received()[1].body == chat_of(70_000));
    assert_eq!(upstream.closed().iter().filter(|closed| closed.mid_response).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = ScriptedUpstream::start(|request| {
        let model = request.json()["model"].as_str().unwrap().to_owned();
        Script::json(200, &completion(&model, 1))
    })
    .await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let one = |number: usize| {
        let body = json!({"model": format!("m{number}"), "padding": "x".repeat(number * 1000)}).to_string();
        let bytes = request(body.as_bytes());
        // Every fourth is refused.
        if number % 4 == 3 {
            String::from_utf8(bytes).unwrap().replace(SECRET, "sk-nobody").into_bytes()
        } else {
            bytes
        }
    };
    let all: Vec<u8> = (0..20).flat_map(one).collect();
    client.send_raw(&all).await;
    for number in 0..20 {
        let answer = client.response().await;
        if number % 4 == 3 {
            assert_eq!(answer.status, 401, "{number}");
        } else {
            assert_eq!((answer.status, &answer.json()["model"]), (200, &format!("m{number}").into()), "{number}");
        }
    }
    assert_eq!(upstream.received().len(), 15);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_for_it_gets_its_connection_closed() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    for (secret, status) in [(SECRET, 200), ("sk-nobody", 401)] {
        let mut client = gateway.connect().await;
        let headers = [("connection", "close"), ("x-api-key", secret)];
        let answer = client.request("POST", "/v1/chat/completions", &headers, &chat_of(100)).await;
        assert_eq!(answer.status, status);
        assert!(client.closed_by_server().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_mid_stream_has_the_upstream_stopped_and_everything_settled() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream =
        ScriptedUpstream::start(move |request| Script::stream_of(request, 50, &usage(7, 50)).gated(10, &held)).await;
    let gateway = Gateway::before(&upstream);
    for (number, polite) in [false, true].into_iter().enumerate() {
        let mut client = gateway.connect().await;
        assert_eq!(client.chat_stream(SECRET, &json!({"model": "m", "stream": true})).await.status, 200);
        assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
        if polite {
            client.close().await;
        } else {
            client.abort();
        }
        let closed = upstream.wait_for_closed(number + 1).await;
        assert!(closed.by_peer && closed.mid_response);
        let line = gateway.next_line();
        assert_eq!((&line["client_aborted"], &line["usage_source"]), (&true.into(), &"estimated".into()), "{line}");
        gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
    }
    gateway.metric_becomes("keymeter_client_aborts_total", 2.0).await;
}

/// llama.cpp closes a connection after each stream, although it says that it keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_its_upstream_closes_costs_no_request() {
    for (last, size) in [(Step::Close, 100), (Step::Close, 200_000), (Step::Reset, 100), (Step::Reset, 200_000)] {
        let used = Mutex::new(HashSet::new());
        let refused = last.clone();
        let upstream = ScriptedUpstream::start(move |request| {
            let is_new = used.lock().unwrap().insert(request.connection);
            if is_new { Script::json(200, &completion("m", 5)) } else { Script::hang().then(refused.clone()) }
        })
        .await;
        let gateway = Gateway::before(&upstream);
        let mut client = gateway.connect().await;
        for _ in 0..3 {
            client.send_raw(&request(&chat_of(size))).await;
            let answer = client.response().await;
            assert_eq!(answer.status, 200, "{last:?} after {size} bytes: {}", answer.text());
            assert_eq!(gateway.next_line()["output_tokens"], 5);
        }
        let received = upstream.received();
        let connections: Vec<usize> = received.iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 0, 1, 1, 2], "{last:?} after {size} bytes");
        assert!(received.iter().all(|request| request.body == chat_of(size)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_connection_that_its_upstream_closes_is_not_tried_again() {
    for last in [Step::Close, Step::Reset] {
        let refused = last.clone();
        let upstream = ScriptedUpstream::start(move |_| Script::hang().then(refused.clone())).await;
        let gateway = Gateway::before(&upstream);
        assert_eq!(gateway.chat(&chat()).await.status, 502, "{last:?}");
        assert_eq!(upstream.received().len(), 1, "{last:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_closes_while_the_request_goes_out_costs_none() {
    let address = hanging_up();
    let upstream = format!("{{name: a, url: \"http://{address}\"}}");
    let gateway = Gateway::start(&configuration(&upstream, "", ""), &one_key(""));
    let mut client = gateway.connect().await;
    for size in [100, 8_000_000, 8_000_000] {
        client.send_raw(&request(&chat_of(size))).await;
        let answer = client.response().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// An upstream that serves one request a connection, keeps that, and closes it when the next one begins.
fn hanging_up() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().flatten().try_for_each(|connection| serve_once(&connection)));
    address
}

fn serve_once(mut connection: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        length =
            line.to_lowercase().strip_prefix("content-length: ").map_or(length, |text| text.trim().parse().unwrap());
        line.clear();
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    let answer = completion("m", 5).to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
    write!(connection, "{head}: {}\r\n\r\n{answer}", answer.len())?;
    connection.peek(&mut [0])?;
    Ok(())
}
