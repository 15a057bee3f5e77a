//! Bodies whose length nobody states, of any length up to the maximum: those that Pingora can replay, and those that it cannot.

use std::time::{Duration, Instant};

use h2::Reason;
use serde_json::{Value, json};

use super::{Interim, chat_of, chunked, goes_on, head, refused, refused_early, request, with_server};
use crate::{
    admission::answering,
    support::{
        client::{Arrival, events},
        gateway::{Gateway, SECRET, config, one_key},
        h2c::H2c,
        script::{Gate, Script, Step, usage},
        upstream::ScriptedUpstream,
    },
};

/// Around what Pingora replays, and far over it.
const SIZES: [usize; 7] = [65_535, 65_536, 65_537, 70_000, 131_073, 1 << 20, 30 << 20];

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_chunks_of_any_length_reaches_the_upstream_with_its_length() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for size in SIZES {
        let body = chat_of(size);
        // The largest takes its time.
        let pieces: &[usize] = if size < 1 << 24 { &[size, 16_384, 60_001] } else { &[60_001] };
        for piece in pieces.iter().copied() {
            client.send_raw(&chunked(&body, piece, "x-checksum: 12\r\n")).await;
            let answer = client.response().await;
            assert_eq!(answer.status, 200, "{size} in chunks of {piece}: {}", answer.text());
            let seen = upstream.received().pop().unwrap();
            assert!(seen.body == body, "{size} in chunks of {piece}");
            assert_eq!(seen.header("content-length"), Some(size.to_string().as_str()));
            assert_eq!((seen.header("transfer-encoding"), seen.header("x-checksum")), (None, None));
        }
    }
    goes_on(&mut client).await;
    gateway.holds_of_bodies(0).await;
    assert!(upstream.malformed().is_empty(), "{:?}", upstream.malformed());
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_over_http2() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let client = H2c::connect(gateway.address()).await;
    for size in SIZES {
        let body = chat_of(size);
        for ends_apart in [false, true] {
            let mut exchange = client.open(SECRET, &[]).await;
            exchange.data(&body, !ends_apart);
            if ends_apart {
                exchange.data(b"", true);
            }
            let (answer, rest) = exchange.whole().await;
            assert_eq!(answer.status, 200, "{size}: {}", String::from_utf8_lossy(&rest));
            let seen = upstream.received().pop().unwrap();
            assert!(seen.body == body, "{size}");
            assert_eq!(seen.header("content-length"), Some(size.to_string().as_str()));
        }
    }
    gateway.holds_of_bodies(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_held_to_the_maximum_to_the_byte() {
    const MOST: usize = 300_000;
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, &format!("max_request_body: {MOST}B"));
    let http2 = H2c::connect(gateway.address()).await;
    for piece in [1 << 20, 4096] {
        let mut client = gateway.connect().await;
        client.send_raw(&chunked(&chat_of(MOST), piece, "")).await;
        assert_eq!(client.response().await.status, 200, "the maximum itself is taken");
        goes_on(&mut client).await;
        for over in [1, 70_000] {
            let answer = refused_early(&gateway, chunked(&chat_of(MOST + over), piece, "")).await;
            assert!(answer.starts_with("HTTP/1.1 413") && answer.contains(&MOST.to_string()), "{answer}");
        }
    }
    for (size, status) in [(MOST, 200), (MOST + 1, 413), (MOST, 200)] {
        let mut exchange = http2.open(SECRET, &[]).await;
        exchange.data(&chat_of(size), true);
        assert_eq!(exchange.whole().await.0.status, status, "{size}");
    }
    gateway.holds_of_bodies(0).await;
    assert_eq!(upstream.received().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_room_is_counted_as_its_bytes_come_and_freed_when_it_breaks_off() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let bytes = chunked(&chat_of(200_000), 50_000, "");
    let mut client = gateway.connect().await;
    client.send_raw(&bytes[..bytes.len() - 10]).await;
    let held = 200_000 - 3;
    gateway.holds_of_bodies(held).await;
    client.abort();
    gateway.holds_of_bodies(0).await;
    let http2 = H2c::connect(gateway.address()).await;
    let mut exchange = http2.open(SECRET, &[]).await;
    exchange.data(&chat_of(200_000)[..150_000], false);
    gateway.holds_of_bodies(150_000).await;
    exchange.body.send_reset(Reason::CANCEL);
    gateway.holds_of_bodies(0).await;
    for _ in 0..2 {
        assert_eq!(gateway.next_line()["reason"], "invalid_request");
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_its_time_in_total() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "body_timeout: 1s");
    let mut client = gateway.connect().await;
    let bytes = chunked(&chat_of(200_000), 50_000, "");
    client.send_raw(&bytes[..150_000]).await;
    let start = Instant::now();
    refused(&mut client, &bytes[150_000..160_000], 408, "request_timeout").await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    gateway.holds_of_bodies(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = Interim::to(&gateway).await;
    client.send(&head("expect: 100-continue\r\ntransfer-encoding: chunked")).await;
    assert_eq!(client.next().await, "HTTP/1.1 100 Continue");
    let body = chat_of(100_000);
    let bytes = chunked(&body, 30_000, "");
    let at = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    client.send(&bytes[at..]).await;
    assert!(client.next().await.starts_with("HTTP/1.1 200"));
    assert!(upstream.received().pop().unwrap().body == body);
}

/// A chat of more than Pingora replays that asks for a stream.
fn streamed() -> Vec<u8> {
    let text = "word ".repeat(20_000);
    json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": text}]}).to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_answer_streams_and_is_metered_and_its_client_may_leave() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream =
        ScriptedUpstream::start(move |request| Script::stream_of(request, 3, &usage(7, 3)).gated(2, &held)).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    client.send_raw(&chunked(&streamed(), 9000, "")).await;
    assert_eq!(client.head().await.status, 200);
    assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }), "it comes before the stream's end");
    gate.open();
    let (rest, end) = client.rest().await;
    assert_eq!((events(&rest).last().map(String::as_str), end), (Some("[DONE]"), Arrival::End));
    let line = gateway.next_line();
    assert_eq!((&line["output_tokens"], &line["usage_source"]), (&json!(3), &json!("upstream")), "{line}");
    goes_on_with(&mut client, &upstream).await;

    let left = ScriptedUpstream::start(|_| Script::hang().then(Step::Head)).await;
    let gateway = Gateway::before(&left);
    let mut client = gateway.connect().await;
    client.send_raw(&chunked(&streamed(), 9000, "")).await;
    client.head().await;
    client.abort();
    assert!(left.wait_for_closed(1).await.mid_response, "its exchange ends with it");
    assert_eq!(gateway.next_line()["client_aborted"], true);
}

/// The connection takes another long one.
async fn goes_on_with(client: &mut crate::support::client::Client, upstream: &ScriptedUpstream) {
    let body = streamed();
    client.send_raw(&chunked(&body, 9000, "")).await;
    assert_eq!(client.response().await.status, 200);
    let seen: Value = upstream.received().pop().unwrap().json();
    assert_eq!(seen["messages"], serde_json::from_slice::<Value>(&body).unwrap()["messages"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_of_it_is_sent_again() {
    // The first time what we added is refused.
    let upstream = ScriptedUpstream::start(|request| {
        let refuses = request.asks_for_usage();
        if refuses {
            Script::error(400, "invalid_request_error", "no")
        } else {
            Script::stream_of(request, 2, &usage(7, 2))
        }
    });
    let upstream = upstream.await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    client.send_raw(&chunked(&streamed(), 9000, "")).await;
    assert_eq!(client.response().await.status, 200);
    let sizes: Vec<_> = upstream.received().iter().map(|seen| seen.body.len()).collect();
    assert!(sizes.len() == 2 && sizes[0] > sizes[1], "{sizes:?}");
    assert!(upstream.received()[1].body == streamed());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_it_depends_on_what_else_needs_an_exchange_apart() {
    for extra in ["on_revoke: finish", "on_client_abort: drain"] {
        let upstream = answering(5).await;
        let gateway = Gateway::start(&config(&upstream, extra), &one_key(""));
        let mut client = gateway.connect().await;
        for size in [65_536, 65_537, 1 << 20] {
            let body = chat_of(size);
            client.send_raw(&chunked(&body, 20_000, "")).await;
            assert_eq!(client.response().await.status, 200, "{extra}: {size}");
            assert!(upstream.received().pop().unwrap().body == body, "{extra}: {size}");
        }
        client.send_raw(&request(&chat_of(100_000))).await;
        assert_eq!(client.response().await.status, 200);
        let mut exchange = H2c::connect(gateway.address()).await.open(SECRET, &[]).await;
        exchange.data(&chat_of(100_000), true);
        assert_eq!(exchange.whole().await.0.status, 200, "{extra}");
    }
}
