//! Bodies that a client compresses: they are undone before anything is read of them, and go upstream plain.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{chat_of, chunked, goes_on, head, refused, request, with_server};
use crate::{
    admission::answering,
    apis::encodings::WAYS,
    support::{
        gateway::{Gateway, SECRET},
        h2c::H2c,
        script::Script,
        upstream::{Received, ScriptedUpstream},
    },
};

/// The bytes in the way of that number.
fn packed(way: usize, plain: &[u8]) -> Vec<u8> {
    WAYS[way].1(&[str::from_utf8(plain).unwrap()])
}

/// A whole request of a stated length.
fn coded(coding: &str, body: &[u8]) -> Vec<u8> {
    let lines = format!("content-encoding: {coding}\r\ncontent-length: {}", body.len());
    [head(&lines), body.to_vec()].concat()
}

fn coded_in_chunks(coding: &str, body: &[u8]) -> Vec<u8> {
    let whole = chunked(body, 1000, "");
    let at = whole.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    [&whole[..at], format!("\r\ncontent-encoding: {coding}").as_bytes(), &whole[at..]].concat()
}

fn is_plain(seen: &Received, plain: &[u8], what: &str) {
    assert!(seen.body == plain, "{what}: {} bytes reached the upstream, or others", seen.body.len());
    assert_eq!(seen.header("content-length"), Some(plain.len().to_string().as_str()), "{what}");
    assert_eq!((seen.header("content-encoding"), seen.header("transfer-encoding")), (None, None), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_goes_upstream_plain_however_it_comes() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let http2 = H2c::connect(gateway.address()).await;
    for size in [13, 1000, 65_536, 65_537, 1 << 20] {
        let plain = chat_of(size);
        for (number, (coding, _)) in WAYS.iter().enumerate() {
            let what = format!("{size} bytes in {coding}");
            let body = packed(number, &plain);
            for bytes in [coded(coding, &body), coded_in_chunks(coding, &body)] {
                client.send_raw(&bytes).await;
                let answer = client.response().await;
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
                is_plain(&upstream.received().pop().unwrap(), &plain, &what);
            }
            let mut exchange = http2.open(SECRET, &[("content-encoding", coding)]).await;
            exchange.data(&body, true);
            assert_eq!(exchange.whole().await.0.status, 200, "{what}");
            is_plain(&upstream.received().pop().unwrap(), &plain, &what);
        }
    }
    assert!(upstream.malformed().is_empty(), "{:?}", upstream.malformed());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_cut_into_pieces_at_every_byte() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let plain = chat_of(300);
    for (number, (coding, _)) in WAYS.iter().enumerate() {
        let bytes = coded(coding, &packed(number, &plain));
        for piece in bytes.chunks(1) {
            client.send_raw(piece).await;
        }
        assert_eq!(client.response().await.status, 200, "{coding}");
        is_plain(&upstream.received().pop().unwrap(), &plain, coding);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_counts_as_its_plain_twin() {
    let answer = json!({"choices": [{"message": {"role": "assistant", "content": "one two three"}}]});
    let upstream = ScriptedUpstream::start(move |_| Script::json(200, &answer)).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let plain = chat_of(5000);
    let counts = |line: &Value| ["input_tokens", "output_tokens", "usage_source"].map(|field| line[field].clone());
    client.send_raw(&request(&plain)).await;
    client.response().await;
    let twin = counts(&gateway.next_line());
    assert_eq!(twin[2], "estimated");
    for (number, (coding, _)) in WAYS.iter().enumerate() {
        client.send_raw(&coded(coding, &packed(number, &plain))).await;
        client.response().await;
        assert_eq!(counts(&gateway.next_line()), twin, "{coding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_form_is_read() {
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &json!({"text": "hello"}))).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let form = b"--X\r\ncontent-disposition: form-data; name=model\r\n\r\nm\r\n--X--";
    let body = packed(0, form);
    let headers =
        [("x-api-key", SECRET), ("content-type", "multipart/form-data; boundary=X"), ("content-encoding", "gzip")];
    let answer = client.request("POST", "/v1/audio/transcriptions", &headers, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    is_plain(&upstream.received().pop().unwrap(), form, "a form");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sizes_are_held_to_the_maximum_to_the_byte() {
    const MOST: usize = 200_000;
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, &format!("max_request_body: {MOST}B"));
    let mut client = gateway.connect().await;
    for (number, (coding, _)) in WAYS.iter().enumerate() {
        client.send_raw(&coded(coding, &packed(number, &chat_of(MOST)))).await;
        assert_eq!(client.response().await.status, 200, "{coding}: the maximum itself is taken");
        let over = packed(number, &chat_of(MOST + 1));
        let answer = refused(&mut client, &coded(coding, &over), 413, "request_too_large").await;
        assert!(answer.text().contains(&MOST.to_string()), "{}", answer.text());
        client = gateway.connect().await;
        refused(&mut client, &coded_in_chunks(coding, &over), 413, "request_too_large").await;
        client = gateway.connect().await;
    }
    // Small once it is undone, and large as it comes: empty members of gzip.
    let padded = [packed(0, &chat_of(100)), packed(0, b"").repeat(MOST / 20)].concat();
    assert!(padded.len() > MOST);
    refused(&mut client, &coded("gzip", &padded), 413, "request_too_large").await;
    client = gateway.connect().await;
    refused(&mut client, &coded_in_chunks("gzip", &padded), 413, "request_too_large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn little_that_stands_for_very_much_is_refused_soon_and_takes_no_more_than_is_taken() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 1MiB, max_buffered_bodies: 8MiB");
    let zeros = "0".repeat(32 << 20);
    for (coding, encode) in WAYS {
        let bomb = encode(&[&zeros]);
        assert!(bomb.len() < 60_000, "{coding}: {}", bomb.len());
        let mut client = gateway.connect().await;
        let start = Instant::now();
        let answer = refused(&mut client, &coded(coding, &bomb), 413, "request_too_large").await;
        assert!(start.elapsed() < Duration::from_secs(5), "{coding}: {:?}", start.elapsed());
        assert!(answer.text().contains("1048576"), "{coding}");
    }
    gateway.holds_of_bodies(0).await;
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_coding_is_refused_and_the_connection_goes_on() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let plain = chat_of(2000);
    for (number, (coding, _)) in WAYS.iter().enumerate() {
        let whole = packed(number, &plain);
        let cut = whole[..whole.len() - 1].to_vec();
        let longer = [whole.clone(), b"{}".to_vec()].concat();
        let mut other = whole.clone();
        other[0] ^= 0x5a;
        for body in [cut, longer, other, plain.clone(), b"{".to_vec()] {
            let answer = refused(&mut client, &coded(coding, &body), 400, "invalid_json").await;
            assert!(answer.text().contains("content-encoding"), "{coding}: {}", answer.text());
        }
        // What is undone has to be JSON all the same.
        refused(&mut client, &coded(coding, &packed(number, b"{\"model\":")), 400, "invalid_json").await;
    }
    goes_on(&mut client).await;
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_taken_for_what_it_comes_to() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 100KiB, max_buffered_bodies: 100KiB");
    let mut client = gateway.connect().await;
    let bytes = coded("gzip", &packed(0, &chat_of(50_000)));
    client.send_raw(&bytes[..bytes.len() - 1]).await;
    gateway.holds_of_bodies(50_000).await;
    client.send_raw(&bytes[bytes.len() - 1..]).await;
    assert_eq!(client.response().await.status, 200);
    gateway.holds_of_bodies(0).await;
}
