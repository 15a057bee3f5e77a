//! What concerns the client's connection alone does not go on to the upstream, and nobody's protocol is switched.

use bytes::Bytes;

use super::{chat_of, head, refused};
use crate::{
    admission::answering,
    support::{
        gateway::{Gateway, SECRET},
        h2c::H2c,
        script::{Script, Step},
        upstream::ScriptedUpstream,
    },
};

fn asking(lines: &str) -> Vec<u8> {
    [head(&format!("content-length: 100\r\n{lines}")), chat_of(100)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_the_connection_does_not_go_on() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    for (lines, gone) in [
        ("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13", &["upgrade"][..]),
        ("upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__", &["upgrade", "http2-settings"]),
        ("connection: x-mine, X-Other\r\nx-mine: 1\r\nx-other: 2", &["x-mine", "x-other"]),
        ("connection: keep-alive\r\nconnection: x-mine\r\nx-mine: 1\r\nx-mine: 2", &["x-mine"]),
        ("connection: \u{e9}, \"x\"\r\nx-mine: 1", &[]),
        ("te: trailers\r\ntrailer: x-sum\r\nkeep-alive: timeout=5", &["te", "trailer", "keep-alive"]),
        (
            "proxy-connection: keep-alive\r\nproxy-authorization: Basic eA==",
            &["proxy-connection", "proxy-authorization"],
        ),
    ] {
        let mut client = gateway.connect().await;
        client.send_raw(&asking(lines)).await;
        let answer = client.response().await;
        assert_eq!(answer.status, 200, "{lines:?}: {}", answer.text());
        let seen = upstream.received().pop().unwrap();
        for name in gone {
            assert_eq!(seen.header(name), None, "{lines:?}");
        }
        let connection = seen.header("connection").unwrap_or_default().to_lowercase();
        assert!(!connection.contains("upgrade") && !connection.contains("x-"), "{connection}");
    }
    // Whoever names the length or the host does not get rid of them.
    let mut client = gateway.connect().await;
    client.send_raw(&asking("connection: content-length, host, content-type\r\ncontent-type: text/plain")).await;
    assert_eq!(client.response().await.status, 200);
    let seen = upstream.received().pop().unwrap();
    assert_eq!((seen.header("content-length"), seen.header("content-type")), (Some("100"), None));
    assert!(seen.header("host").is_some());
    assert!(upstream.malformed().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_switches_protocols_is_an_error() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x01\x02";
    let upstream = ScriptedUpstream::start(move |_| Script {
        status: 200,
        headers: vec![],
        steps: vec![Step::Raw(Bytes::from(switched)), Step::Close],
    })
    .await;
    let gateway = Gateway::before(&upstream);
    for lines in ["x-mine: 1", "connection: upgrade\r\nupgrade: websocket"] {
        let mut client = gateway.connect().await;
        refused(&mut client, &asking(lines), 502, "upstream_error").await;
    }
    let client = H2c::connect(gateway.address()).await;
    let (answer, body) = client.send(SECRET, &chat_of(100)).await.whole().await;
    assert_eq!((answer.status, body.len().to_string().as_str()), (502, answer.header("content-length").unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_that_says_how_a_body_is_encoded_is_read() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for lines in [
        "content-encoding: identity\r\ncontent-encoding: compress",
        "content-encoding: gzip\r\ncontent-encoding: br",
        "content-encoding: identity, gzip, br",
    ] {
        refused(&mut client, &asking(lines), 415, "unsupported_encoding").await;
    }
    client.send_raw(&asking("content-encoding: Identity\r\ncontent-encoding: identity")).await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(upstream.received().len(), 1);
}
