//! A request's body is read once, whatever its size and however it comes, and reaches the upstream as it came.

pub mod additions;
mod broken;
mod coded;
mod connection;
mod long;
mod places;
mod room;

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufStream},
    net::TcpStream,
    time::sleep,
};

use crate::{
    admission::answering,
    support::{
        client::{Client, Response, within},
        gateway::{Gateway, SECRET, config, one_key},
        upstream::ScriptedUpstream,
        wire::Wire,
    },
};

/// Around every size at which something changes: Pingora's buffers, and what is read of a body.
pub const SIZES: [usize; 9] = [13, 60, 65_535, 65_536, 65_537, 131_072, (1 << 20) - 1, 1 << 20, 10 << 20];

/// The body of a chat request for the model `m`, of exactly `size` bytes, at least 13.
pub fn chat_of(size: usize) -> Vec<u8> {
    let (start, end) = (r#"{"model":"m","messages":[{"role":"user","content":""#, r#""}]}"#);
    let Some(text) = size.checked_sub(start.len() + end.len()) else {
        return format!("{:<size$}", r#"{"model":"m"}"#).into_bytes();
    };
    // No piece of it is like its neighbour, so that a piece in a wrong place is noticed.
    let text: Vec<u8> = (0..text).map(|index| b'a' + u8::try_from((index / 7 + index) % 26).unwrap()).collect();
    [start.as_bytes(), &text, end.as_bytes()].concat()
}

/// The head of a chat request with these further lines.
pub fn head(lines: &str) -> Vec<u8> {
    let authorization = format!("authorization: Bearer {SECRET}");
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: gateway.test\r\n{authorization}\r\n{lines}\r\n\r\n")
        .into_bytes()
}

/// A whole request with a stated length.
pub fn request(body: &[u8]) -> Vec<u8> {
    [head(&format!("content-length: {}", body.len())), body.to_vec()].concat()
}

/// A whole chunked request, in chunks of `piece` bytes, ending with these trailers.
fn chunked(body: &[u8], piece: usize, trailers: &str) -> Vec<u8> {
    let chunks =
        body.chunks(piece).flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    let mut bytes = head("transfer-encoding: chunked");
    bytes.extend(chunks);
    bytes.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    bytes
}

/// A gateway with these further options of `server`.
pub fn with_server(upstream: &ScriptedUpstream, options: &str) -> Gateway {
    Gateway::start(&config(upstream, "").replace("server: {", &format!("server: {{{options}, ")), &one_key(""))
}

/// Asserts that the connection takes another request.
async fn goes_on(client: &mut Client) {
    client.send_raw(&request(&chat_of(100))).await;
    assert_eq!(client.response().await.status, 200);
}

async fn refused(client: &mut Client, bytes: &[u8], status: u16, code: &str) -> Response {
    client.send_raw(bytes).await;
    let answer = client.response().await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (status, &code.into()), "{}", answer.text());
    assert!(answer.header("x-request-id").is_some());
    answer
}

/// The first answer to a request that the server may refuse before all of it is sent.
pub async fn refused_early(gateway: &Gateway, bytes: Vec<u8>) -> String {
    let (mut reader, mut writer) = TcpStream::connect(gateway.address()).await.unwrap().into_split();
    // The server may have closed the connection by then.
    let sending = tokio::spawn(async move { writer.write_all(&bytes).await.ok().map(|()| writer) });
    let mut wire = Wire::default();
    let head = within("a refusal", wire.head(&mut reader)).await.unwrap();
    let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
    let body = within("its body", wire.exactly(&mut reader, length)).await.unwrap();
    drop(sending);
    format!("{} {}", head.start_line, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_reach_the_upstream_as_they_came() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for size in SIZES {
        let body = chat_of(size);
        assert_eq!(body.len(), size);
        client.send_raw(&request(&body)).await;
        let answer = client.response().await;
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        let seen = upstream.received().pop().unwrap();
        assert!(seen.body == body, "{size}: {} bytes reached the upstream, or others", seen.body.len());
        assert_eq!(seen.header("content-length"), Some(size.to_string().as_str()));
        assert_eq!(seen.header("transfer-encoding"), None);
    }
    assert!(upstream.malformed().is_empty(), "{:?}", upstream.malformed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_come_in_any_pieces() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for (size, piece) in [(60, 1), (65_535, 997), (65_536, 997), (65_537, 997), (131_072, 4096), (1 << 20, 16_000)] {
        let body = chat_of(size);
        for piece in request(&body).chunks(piece) {
            client.send_raw(piece).await;
        }
        assert_eq!(client.response().await.status, 200, "{size} in pieces of {piece}");
        assert!(upstream.received().pop().unwrap().body == body, "{size} in pieces of {piece}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_pause_anywhere() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for size in SIZES {
        let body = chat_of(size);
        let bytes = request(&body);
        let of_head = bytes.len() - size;
        let mut sent = 0;
        // After the head, in the middle, and before the last byte.
        for until in [of_head, of_head + size / 2, bytes.len() - 1, bytes.len()] {
            client.send_raw(&bytes[sent..until]).await;
            sent = until;
            // Long enough that the gateway has read what there is; the test holds either way.
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(client.response().await.status, 200, "{size}");
        assert!(upstream.received().pop().unwrap().body == body, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_reaches_the_upstream_with_its_length() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for size in [13, 1000, 65_535, 65_536] {
        for piece in [size, 4096, 1001] {
            let body = chat_of(size);
            client.send_raw(&chunked(&body, piece, "")).await;
            assert_eq!(client.response().await.status, 200, "{size} in chunks of {piece}");
            let seen = upstream.received().pop().unwrap();
            assert!(seen.body == body, "{size} in chunks of {piece}");
            assert_eq!(seen.header("content-length"), Some(size.to_string().as_str()));
            assert_eq!(seen.header("transfer-encoding"), None);
        }
    }
    assert_eq!(upstream.received().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_chunked_body_is_no_part_of_it() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    let (first, second) = (chat_of(500), chat_of(70));
    let trailing = [chunked(&first, 99, "x-checksum: 12\r\nx-more: 1\r\n"), request(&second)].concat();
    client.send_raw(&trailing).await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(client.response().await.status, 200);
    let bodies: Vec<_> = upstream.received().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [first, second]);
    assert!(upstream.received().iter().all(|seen| seen.header("x-checksum").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_can_be_read_in_two_ways_is_refused() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    for lines in [
        "content-length: 13\r\ntransfer-encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 13",
        "transfer-encoding: chunked\r\ncontent-length: 0",
        "content-length: 13\r\ncontent-length: 14",
        "content-length: +13",
        "content-length: -1",
        "content-length: 0x0d",
        "content-length: 99999999999999999999999",
    ] {
        let mut client = gateway.connect().await;
        client.send_raw(&[head(lines), b"{\"model\":\"m\"}".to_vec()].concat()).await;
        let status = client.head().await.status;
        assert_eq!(status, 400, "{lines:?}");
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_object_is_refused_and_the_connection_goes_on() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for body in [
        &b"{"[..],
        b"1",
        b"[]",
        b"{\"model\":\"m\"",
        b"{\"model\":\"m\"}x",
        b"{\"model\":\"m\",\"model\":\"m\"}",
        b"{\"model\":\"\xff\"}",
        b"",
    ] {
        refused(&mut client, &request(body), 400, "invalid_json").await;
    }
    let mut large = chat_of(1 << 20);
    large.pop();
    refused(&mut client, &request(&large), 400, "invalid_json").await;
    goes_on(&mut client).await;
    assert_eq!(upstream.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_maximum_is_refused_at_its_stated_length() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 1KiB");
    let mut client = gateway.connect().await;
    client.send_raw(&request(&chat_of(1024))).await;
    assert_eq!(client.response().await.status, 200, "the maximum itself is taken");
    refused(&mut client, &request(&chat_of(1025)), 413, "request_too_large").await;
    goes_on(&mut client).await;
    refused(&mut client, &chunked(&chat_of(1025), 100, ""), 413, "request_too_large").await;
    let mut client = gateway.connect().await;
    refused(&mut client, &head("content-length: 1000000"), 413, "request_too_large").await;
    assert!(client.closed_by_server().await.is_empty(), "a large rest is not waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_a_coding_that_nobody_undoes_is_refused_and_the_connection_goes_on() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = gateway.connect().await;
    for encoding in ["compress", "utf-8", "gzip, br", "gzip, gzip", "aws-chunked"] {
        let compressed = head(&format!("content-encoding: {encoding}\r\ncontent-length: 5"));
        let bytes = [compressed, b"\x1f\x8b\x08\0\0".to_vec()].concat();
        let answer = refused(&mut client, &bytes, 415, "unsupported_encoding").await;
        assert_eq!(answer.header("accept-encoding"), Some("gzip, deflate, br, zstd"), "what would be taken is said");
    }
    goes_on(&mut client).await;
}

/// A connection whose interim responses the test sees.
struct Interim {
    stream: BufStream<TcpStream>,
    wire: Wire,
}

impl Interim {
    async fn to(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufStream::new(stream), wire: Wire::default() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        send(&mut self.stream, bytes).await;
    }

    /// The status line of the next response, an interim one or not; a body of a stated length is passed over.
    async fn next(&mut self) -> String {
        let head = within("a head", self.wire.head(&mut self.stream)).await.unwrap();
        let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
        within("a body", self.wire.exactly(&mut self.stream, length)).await.unwrap();
        head.start_line
    }

    async fn until_closed(mut self) -> usize {
        within("the close", self.wire.until_closed(&mut self.stream)).await.len()
    }
}

async fn send(to: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) {
    to.write_all(bytes).await.unwrap();
    to.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let upstream = answering(5).await;
    let gateway = Gateway::before(&upstream);
    let mut client = Interim::to(&gateway).await;
    for size in [13, 65_536, 65_537, 1 << 20] {
        let body = chat_of(size);
        client.send(&head(&format!("expect: 100-continue\r\ncontent-length: {size}"))).await;
        assert_eq!(client.next().await, "HTTP/1.1 100 Continue");
        client.send(&body).await;
        assert!(client.next().await.starts_with("HTTP/1.1 200"), "{size}");
        let seen = upstream.received().pop().unwrap();
        assert!(seen.body == body && seen.header("expect").is_none(), "{size}");
    }
    client.send(&head("Expect: 100-Continue\r\ntransfer-encoding: chunked")).await;
    assert_eq!(client.next().await, "HTTP/1.1 100 Continue");
    client.send(b"d\r\n{\"model\":\"m\"}\r\n0\r\n\r\n").await;
    assert!(client.next().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_that_waits_for_100_continue_is_told_at_once_and_need_not_send() {
    let upstream = answering(5).await;
    let gateway = with_server(&upstream, "max_request_body: 1KiB");
    let good = String::from_utf8(head("expect: 100-continue\r\ncontent-length: 1000")).unwrap();
    for (bytes, status) in [
        (good.replace(SECRET, "sk-nobody"), "401"),
        (good.replace("/v1/chat", "/v1/chess"), "404"),
        (good.replace("1000", "1025"), "413"),
        (good.replace("expect", "content-encoding: compress\r\nexpect"), "415"),
    ] {
        let mut client = Interim::to(&gateway).await;
        client.send(bytes.as_bytes()).await;
        assert!(client.next().await.starts_with(&format!("HTTP/1.1 {status}")), "{status}");
        assert_eq!(client.until_closed().await, 0, "the body cannot be told from another request");
    }
    assert!(upstream.received().is_empty());
}
