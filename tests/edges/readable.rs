//! An answer that comes while a client still sends is there to be read: the connection is half closed, and what is sent is
//! passed over for a moment.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    admission::answering,
    bodies::{chat_of, head, with_server},
    support::{
        client::within,
        gateway::{Gateway, SECRET},
        h2c::H2c,
    },
};

/// Sends all of a request, as clients do that write first and read then, and gives the answer's first line.
async fn write_first(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    within("the write of all of it", stream.write_all(bytes)).await.expect("no write fails");
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer)).await.expect("the answer is there");
    String::from_utf8(answer).unwrap().lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_writes_all_of_a_large_body_reads_its_refusal() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 1MiB");
    let body = chat_of(12 << 20);
    let of = |lines: &str| String::from_utf8(head(lines)).unwrap();
    let stated = of(&format!("content-length: {}", body.len()));
    let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    for (head, body, status) in [
        (stated.replace(SECRET, "sk-nobody"), &body, "401"),
        (stated.replace("/v1/chat", "/v1/chess"), &body, "404"),
        (stated.replace("POST", "PUT"), &body, "405"),
        (stated.clone(), &body, "413"),
        (of("transfer-encoding: chunked"), &chunk, "413"),
        (of("transfer-encoding: chunked").replace(SECRET, "sk-nobody"), &chunk, "401"),
        (stated.replace("content-length", "content-encoding: compress\r\ncontent-length"), &body, "415"),
    ] {
        for _ in 0..5 {
            let line = write_first(&gateway, &[head.as_bytes(), body].concat()).await;
            assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{status}: {line:?}");
        }
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_over_http2() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 1MiB");
    let body = chat_of(12 << 20);
    let client = H2c::connect(gateway.address()).await;
    for (secret, length, status) in [
        ("sk-nobody", Some(body.len()), 401),
        ("sk-nobody", None, 401),
        (SECRET, Some(body.len()), 413),
        (SECRET, None, 413),
    ] {
        for _ in 0..5 {
            let length = length.map(|length| length.to_string());
            let headers: Vec<_> = length.iter().map(|length| ("content-length", length.as_str())).collect();
            let mut exchange = client.open(secret, &headers).await;
            exchange.data(&body, true);
            let (answer, text) = exchange.whole().await;
            assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&text));
            assert!(text.starts_with(b"{\"error\""), "its body is there too");
        }
    }
    // The connection takes others.
    let mut exchange = client.open(SECRET, &[]).await;
    exchange.data(&chat_of(100), true);
    assert_eq!(exchange.whole().await.0.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_stops_sending_is_cut_off() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 1MiB");
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(&head("content-length: 99999999999")).await.unwrap();
    let start = Instant::now();
    let mut answer = Vec::new();
    within("the end of what the gateway says", stream.read_to_end(&mut answer)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "it says at once that it says no more");
    assert!(answer.starts_with(b"HTTP/1.1 413"));
    let piece = vec![b'a'; 64 << 10];
    while stream.write_all(&piece).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(8), "it is listened to without end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "for a moment it is");
}
