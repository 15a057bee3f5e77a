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
        gateway::Gateway,
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

/// A client that has sent half of a body of `size` bytes, for which there is room: it was told to go on.
async fn half_sent(gateway: &Gateway, size: usize) -> Interim {
    let mut client = Interim::to(gateway).await;
    client.send(&head(&format!("expect: 100-continue\r\ncontent-length: {size}"))).await;
    assert_eq!(client.next().await, "HTTP/1.1 100 Continue");
    client.send(&chat_of(size)[..size / 2]).await;
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
    let gateway = with_server(&upstream, "max_request_body: 10KiB, max_buffered_bodies: 10KiB");
    let mut first = half_sent(&gateway, 9500).await;
    is_nearly_full(&gateway).await;
    first.send(&chat_of(9500)[9500 / 2..]).await;
    assert!(first.next().await.starts_with("HTTP/1.1 200"), "who was there first is served");
    finds_room(&gateway, 10 << 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_keeps_its_room_until_the_upstream_answers() {
    let gate = Gate::new();
    let upstream = answering_behind(&gate).await;
    let gateway = with_server(&upstream, "max_request_body: 10KiB, max_buffered_bodies: 10KiB");
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
    let gateway = with_server(&upstream, "max_request_body: 10KiB, max_buffered_bodies: 10KiB");
    let mut first = gateway.connect().await;
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
    let gateway = with_server(&upstream, "max_request_body: 10KiB, max_buffered_bodies: 10KiB");
    for polite in [false, true] {
        let client = half_sent(&gateway, 9500).await;
        is_nearly_full(&gateway).await;
        if !polite {
            client.stream.get_ref().set_zero_linger().unwrap();
        }
        drop(client);
        finds_room(&gateway, 10 << 10).await;
    }
    assert_eq!(gateway.server.drain(Duration::from_secs(10)).await, Drained::Empty);
    assert!(upstream.received().iter().all(|seen| seen.body.len() != 9500), "half a body went upstream");
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_in_time_is_refused_and_leaves_nothing() {
    let upstream = answering(5).await;
    let options = "body_timeout: 200ms, max_request_body: 200KiB, max_buffered_bodies: 200KiB";
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
    assert_eq!(client.chat(crate::support::gateway::SECRET, &json!({"model": "m"})).await.status, 200);
    assert_eq!(gateway.server.drain(Duration::from_secs(10)).await, Drained::Empty);
}
