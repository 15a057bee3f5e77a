//! Bodies are bounded in time and in memory, and whatever becomes of one, its room comes back.

use std::time::{Duration, Instant};

use keymeter::server::Drained;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Interim, additions::stream_of, chat_of, goes_on, head, refused, request, with_server};
use crate::{
    admission::{answering, answering_behind},
    support::{
        client::{Arrival, within},
        gateway::{Gateway, SECRET, config},
        script::{Gate, Script, completion, usage},
        upstream::ScriptedUpstream,
        wire::Wire,
    },
};

/// Waits until a request of `size` bytes finds room.
async fn finds_room(gateway: &Gateway, size: usize) {
    let start = Instant::now();
    loop {
        let mut client = gateway.connect().await;
        client.send_raw(&request(&chat_of(size))).await;
        match client.response().await.status {
            200 => return,
            503 => assert!(start.elapsed() < Duration::from_secs(10), "the room does not come back"),
            other => panic!("status {other}"),
        }
    }
}

/// Bodies of 10 KiB, and room for four of them, of which one key has a quarter.
const ROOM: &str = "max_request_body: 10KiB, max_buffered_bodies: 40KiB";

/// A client that has sent all but the last byte of a body of `size` bytes, which are the only ones that are held.
async fn almost_sent(gateway: &Gateway, size: usize) -> Interim {
    let mut client = Interim::to(gateway).await;
    client.send(&head(&format!("expect: 100-continue\r\ncontent-length: {size}"))).await;
    assert_eq!(client.next().await, "HTTP/1.1 100 Continue");
    client.send(&chat_of(size)[..size - 1]).await;
    gateway.holds_of_bodies(size as u64 - 1).await;
    client
}

/// Asserts that a body of 1000 bytes finds no room, and one of 100 does.
async fn is_nearly_full(gateway: &Gateway) {
    let mut client = gateway.connect().await;
    let answer = refused(&mut client, &request(&chat_of(1000)), 503, "overloaded").await;
    assert_eq!(answer.json()["error"]["type"], "server_error");
    assert_eq!(answer.header("retry-after"), Some("1"));
    goes_on(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_find_no_room_are_refused_until_there_is_some() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, ROOM);
    let mut first = almost_sent(&gateway, 9500).await;
    is_nearly_full(&gateway).await;
    first.send(&chat_of(9500)[9499..]).await;
    assert!(first.next().await.starts_with("HTTP/1.1 200"), "who was there first is served");
    finds_room(&gateway, 10 << 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_and_does_not_come_takes_no_room() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, ROOM);
    let mut announced = Vec::new();
    for _ in 0..32 {
        let mut client = Interim::to(&gateway).await;
        client.send(&head("expect: 100-continue\r\ncontent-length: 10240")).await;
        assert_eq!(client.next().await, "HTTP/1.1 100 Continue", "there is room for all of them");
        client.send(b"{").await;
        announced.push(client);
    }
    let mut other = gateway.connect().await;
    other.send_raw(&request(&chat_of(10_000))).await;
    assert_eq!(other.response().await.status, 200, "and for what comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_fills_a_quarter_of_the_room_and_is_refused_alone() {
    let upstream = answering(5).await;
    let secret = |number| format!("sk-of-key-{number}");
    let key = |number| format!("  - {{id: key_{number}, name: Key {number}, secret: {}}}\n", secret(number));
    let keys = (0..5).map(key).collect::<Vec<_>>().concat();
    let configuration = config(&upstream, "").replace("server: {", &format!("server: {{{ROOM}, "));
    let gateway = Gateway::start(&configuration, &format!("keys:\n{keys}"));
    let of = |number: usize, bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).unwrap().replace(SECRET, &secret(number)).into_bytes()
    };
    let small = async |number| {
        let mut client = gateway.connect().await;
        client.send_raw(&of(number, &request(&chat_of(1000)))).await;
        client.response().await.status
    };
    let (mut parts, mut sent) = (Vec::new(), 0);
    for full in 0..4 {
        assert_eq!(small(full).await, 200, "each has its quarter");
        gateway.holds_of_bodies(sent).await;
        // Several bodies of one key count together.
        for size in [5000, 4900] {
            let mut client = Interim::to(&gateway).await;
            client.send(&of(full, &head(&format!("expect: 100-continue\r\ncontent-length: {size}")))).await;
            assert_eq!(client.next().await, "HTTP/1.1 100 Continue");
            client.send(&chat_of(size)[..size - 1]).await;
            sent += size as u64 - 1;
            gateway.holds_of_bodies(sent).await;
            parts.push(client);
        }
        assert_eq!(small(full).await, 503);
    }
    // 39,592 of 40,960 bytes are taken.
    let mut last = gateway.connect().await;
    for (size, status) in [(1368, 200), (1369, 503), (1000, 200)] {
        last.send_raw(&of(4, &request(&chat_of(size)))).await;
        assert_eq!(last.response().await.status, status, "{size}");
        gateway.holds_of_bodies(sent).await;
    }
    drop(parts);
    gateway.holds_of_bodies(0).await;
    for number in 0..5 {
        assert_eq!(small(number).await, 200, "all of it comes back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_keeps_its_room_until_the_upstream_answers() {
    let gate = Gate::new();
    let upstream = answering_behind(&gate).await;
    let gateway = with_server(&upstream, ROOM);
    let mut first = gateway.connect().await;
    first.send_raw(&request(&chat_of(9500))).await;
    upstream.wait_for_request(1).await;
    let mut second = gateway.connect().await;
    refused(&mut second, &request(&chat_of(1000)), 503, "overloaded").await;
    gate.open();
    assert_eq!(first.response().await.status, 200);
    goes_on(&mut second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_begun_holds_no_body_any_more() {
    let (head, end) = (Gate::new(), Gate::new());
    let (of_head, of_end) = (head.clone(), end.clone());
    let upstream = ScriptedUpstream::start(move |request| match request.json()["stream"].as_bool() {
        Some(true) => Script::stream_of(request, 3, &usage(7, 3)).gated(1, &of_end).gated(0, &of_head),
        _ => Script::json(200, &completion("m", 1)),
    })
    .await;
    let gateway = with_server(&upstream, ROOM);
    let mut first = gateway.connect().await;
    // It is spliced, so it is held twice.
    first.send_raw(&request(&stream_of(6000))).await;
    upstream.wait_for_request(1).await;
    let mut second = gateway.connect().await;
    refused(&mut second, &request(&chat_of(100)), 503, "overloaded").await;
    head.open();
    assert_eq!(first.head().await.status, 200);
    finds_room(&gateway, 10 << 10).await;
    end.open();
    assert_eq!(first.rest().await.1, Arrival::End);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_mid_body_leaves_nothing() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, ROOM);
    for polite in [false, true] {
        let client = almost_sent(&gateway, 9500).await;
        is_nearly_full(&gateway).await;
        if !polite {
            client.stream.get_ref().set_zero_linger().unwrap();
        }
        drop(client);
        finds_room(&gateway, 10 << 10).await;
    }
    assert_eq!(gateway.server.drain(Duration::from_secs(10)).await, Drained::Empty);
    assert!(upstream.received().iter().all(|seen| seen.body.len() != 9500), "a part of a body went upstream");
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_in_time_is_refused_and_leaves_nothing() {
    let upstream = answering(5).await;
    let options = "body_timeout: 200ms, max_request_body: 200KiB, max_buffered_bodies: 800KiB";
    let gateway = with_server(&upstream, options);
    for size in [1000, 200 << 10] {
        let mut client = gateway.connect().await;
        let half = [head(&format!("content-length: {size}")), chat_of(size)[..size / 2].to_vec()].concat();
        let start = Instant::now();
        refused(&mut client, &half, 408, "request_timeout").await;
        assert!(start.elapsed() < Duration::from_millis(1900), "it is waited for beyond its time");
        assert!(client.closed_by_server().await.is_empty(), "what still comes cannot be told from a request");
    }
    let mut chunked = gateway.connect().await;
    chunked.send_raw(&[head("transfer-encoding: chunked"), b"5\r\n{\"mod\r\n".to_vec()].concat()).await;
    assert_eq!(chunked.response().await.status, 408);
    finds_room(&gateway, 200 << 10).await;
    assert_eq!(upstream.received().len(), 1);
}

/// The timeout is for the whole body: a byte now and then does not prolong it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_trickles_is_refused_too() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "body_timeout: 200ms");
    let (mut reader, mut writer) = TcpStream::connect(gateway.address()).await.unwrap().into_split();
    writer.write_all(&head("content-length: 100000")).await.unwrap();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let answer = within("the refusal", Wire::default().head(&mut reader)).await.unwrap();
    assert!(answer.start_line.starts_with("HTTP/1.1 408"), "{answer:?}");
    trickle.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_keeps_its_connection_holds_up_no_shutdown() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    assert_eq!(client.chat(SECRET, &json!({"model": "m"})).await.status, 200);
    assert_eq!(gateway.server.drain(Duration::from_secs(10)).await, Drained::Empty);
}
