//! A client for tests that shows what really comes over the wire: HTTP/1.1 on one kept TCP connection,
//! each chunk with the moment it came, and every way of going away. Whatever takes longer than 10 s
//! fails the test and says what was being waited for.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::wire::{self, Framing, Head, Wire, WireError};

/// The longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One kept connection.
pub struct Client {
    stream: TcpStream,
    wire: Wire,
    body: Body,
    /// Whether the last request was a HEAD, whose response has no body whatever its headers say.
    asked_for_head: bool,
}

/// A response that was read to its end.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// The head of a response whose body is still to come.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// What came next of a response's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// One HTTP chunk (the whole body where a length was stated), and when it had come.
    Chunk { data: Bytes, at: Instant },
    /// The body is complete.
    End,
    /// The connection ended before the body did; the text says how.
    Cut(String),
}

/// What is left of the body of the response that is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Done,
    Chunks,
    Exactly(usize),
    UntilClosed,
}

impl Client {
    /// Connects, without delay of small packets.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.expect("the server accepts");
        stream.set_nodelay(true).expect("the socket takes the option");
        Self { stream, wire: Wire::default(), body: Body::Done, asked_for_head: false }
    }

    /// Our own address, by which a server sees us.
    pub fn address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// Sends these bytes and nothing else.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        within("a write", self.stream.write_all(bytes)).await.expect("the server takes what we send");
    }

    /// Sends one request with a stated length (none without a body). `host` is added.
    pub async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.asked_for_head = method == "HEAD";
        self.send_raw(&request_bytes(method, path, headers, body)).await;
    }

    /// Sends a request and reads its response to the end.
    pub async fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(method, path, headers, body).await;
        self.response().await
    }

    /// Reads the next response to its end; the test fails if it is cut.
    pub async fn response(&mut self) -> Response {
        let ResponseHead { status, headers } = self.head().await;
        let (body, end) = self.rest().await;
        assert_eq!(end, Arrival::End, "the response ended early, after {:?}", String::from_utf8_lossy(&body));
        Response { status, headers, body: body.into() }
    }

    /// Sends a request and reads the head of its response; `next_chunk` and `rest` read the body.
    pub async fn open_stream(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> ResponseHead {
        self.send(method, path, headers, body).await;
        self.head().await
    }

    /// Reads the head of the next response. Interim ones (1xx) are passed over.
    pub async fn head(&mut self) -> ResponseHead {
        loop {
            let head = within("a response's head", self.wire.head(&mut self.stream)).await.expect("a response");
            let status = status(&head.start_line);
            if status >= 200 {
                self.body = if self.asked_for_head { Body::Done } else { body_of(&head, status) };
                return ResponseHead { status, headers: head.headers };
            }
        }
    }

    /// The next chunk of the body, when it comes.
    pub async fn next_chunk(&mut self) -> Arrival {
        let read = match self.body {
            Body::Done => return Arrival::End,
            Body::Chunks => within("a chunk", self.wire.chunk(&mut self.stream)).await,
            Body::Exactly(length) => within("the body", self.wire.exactly(&mut self.stream, length)).await,
            Body::UntilClosed => Ok(within("the end", self.wire.until_closed(&mut self.stream)).await),
        };
        self.arrival(read)
    }

    /// All that is left of the body, and how it ended: `End` or `Cut`.
    pub async fn rest(&mut self) -> (Vec<u8>, Arrival) {
        let mut body = Vec::new();
        loop {
            match self.next_chunk().await {
                Arrival::Chunk { data, .. } => body.extend_from_slice(&data),
                end => return (body, end),
            }
        }
    }

    /// Posts a chat completion and reads the response to its end.
    pub async fn chat(&mut self, key: &str, body: &Value) -> Response {
        self.open_chat(key, body).await;
        self.response().await
    }

    /// Posts a chat completion and reads the head of the response.
    pub async fn chat_stream(&mut self, key: &str, body: &Value) -> ResponseHead {
        self.open_chat(key, body).await;
        self.head().await
    }

    /// Waits until the server closes the connection, and gives what it had still sent.
    pub async fn closed_by_server(mut self) -> Bytes {
        within("the server to close", self.wire.until_closed(&mut self.stream)).await
    }

    /// Goes away with a reset: the server's next read or write fails.
    pub fn abort(self) {
        self.stream.set_zero_linger().expect("the socket takes the option");
    }

    /// Goes away politely, as a program that exits does.
    pub async fn close(mut self) {
        // A server that has closed before us makes this fail, and is closed all the same.
        let _ = self.stream.shutdown().await;
    }

    async fn open_chat(&mut self, key: &str, body: &Value) {
        let authorization = format!("Bearer {key}");
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        self.send("POST", "/v1/chat/completions", &headers, body.to_string().as_bytes()).await;
    }

    fn arrival(&mut self, read: Result<Bytes, WireError>) -> Arrival {
        let data = match read {
            Ok(data) => data,
            Err(WireError::Closed(how)) => return Arrival::Cut(how),
            Err(WireError::Malformed(what)) => panic!("the server sent no HTTP/1.1: {what}"),
        };
        if self.body != Body::Chunks || data.is_empty() {
            self.body = Body::Done;
        }
        if data.is_empty() { Arrival::End } else { Arrival::Chunk { data, at: Instant::now() } }
    }
}

impl Response {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::header(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("the body is UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {:?}", self.text()))
    }
}

impl ResponseHead {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::header(&self.headers, name)
    }
}

/// The `data` of each server-sent event in a body, in order.
pub fn events(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8(body.to_vec()).expect("the events are UTF-8");
    text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// Waits for something, and fails the test where it takes longer than `PATIENCE`.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    within_limit(PATIENCE, what, future).await
}

pub async fn within_limit<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    timeout(limit, future).await.unwrap_or_else(|_| panic!("waited {limit:?} in vain for {what}"))
}

fn request_bytes(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    let length = body.len().to_string();
    let own = [("host", "localhost"), ("content-length", length.as_str())];
    let own = if body.is_empty() { &own[..1] } else { &own[..] };
    for (name, value) in own.iter().filter(|(name, _)| !headers.iter().any(|(given, _)| given == name)).chain(headers) {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

fn status(start_line: &str) -> u16 {
    let code = start_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no status line: {start_line:?}"))
}

fn body_of(head: &Head, status: u16) -> Body {
    match head.framing().expect("a response's framing is clear") {
        Framing::Length(0) => Body::Done,
        Framing::Length(length) => Body::Exactly(length),
        Framing::Chunked => Body::Chunks,
        Framing::Unstated if matches!(status, 204 | 304) => Body::Done,
        Framing::Unstated => Body::UntilClosed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    /// A server that reads what comes once, answers with these bytes, and closes.
    async fn server_of(answer: &'static [u8]) -> (Client, tokio::task::JoinHandle<(SocketAddr, Vec<u8>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::connect(listener.local_addr().unwrap()).await;
        let server = tokio::spawn(async move {
            let (mut stream, peer) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            request.truncate(length);
            stream.write_all(answer).await.unwrap();
            (peer, request)
        });
        (client, server)
    }

    #[tokio::test]
    async fn a_request_states_its_length_and_a_response_is_read_by_its_own() {
        let (mut client, server) = server_of(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nX-A: b\r\ncontent-length: 2\r\n\r\n{}rest",
        )
        .await;
        let response = client.request("PUT", "/x", &[("x-k", "v")], b"body").await;
        assert_eq!((response.status, response.header("x-a")), (201, Some("b")));
        assert_eq!(response.json(), json!({}));
        let address = client.address();
        assert_eq!(client.closed_by_server().await, "rest");
        let request = b"PUT /x HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\nx-k: v\r\n\r\nbody".to_vec();
        assert_eq!(server.await.unwrap(), (address, request));
    }

    #[tokio::test]
    async fn a_streams_chunks_come_one_by_one_and_a_cut_is_told_from_an_end() {
        let (mut client, _server) = server_of(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n",
        )
        .await;
        let head = client.chat_stream("sk-1", &json!({"stream": true})).await;
        assert_eq!((head.status, head.header("Transfer-Encoding")), (200, Some("chunked")));
        assert!(matches!(client.next_chunk().await, Arrival::Chunk { data, .. } if data == "data: a\n\n"));
        let (rest, end) = client.rest().await;
        assert_eq!((events(&rest), end), (vec!["b".to_owned()], Arrival::End));
        client.close().await;

        let (mut client, _server) = server_of(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
        client.open_stream("GET", "/", &[], b"").await;
        let (rest, end) = client.rest().await;
        assert!(rest == b"a" && matches!(end, Arrival::Cut(_)), "{end:?}");
    }

    #[tokio::test]
    async fn a_response_to_head_has_no_body_though_it_states_a_length() {
        let (mut client, _server) = server_of(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
        assert!(client.request("HEAD", "/", &[], b"").await.body.is_empty());
    }

    #[tokio::test]
    async fn a_chat_bears_the_key_and_a_body_without_framing_lasts_until_the_close() {
        let (mut client, server) = server_of(b"HTTP/1.1 429 Too Many\r\n\r\nlong").await;
        let response = client.chat("sk-2", &json!({"model": "m"})).await;
        assert_eq!((response.status, response.text().as_str()), (429, "long"));
        client.abort();
        let request = String::from_utf8(server.await.unwrap().1).unwrap();
        assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
        assert!(
            request.contains("\r\nauthorization: Bearer sk-2\r\n") && request.ends_with("\r\n\r\n{\"model\":\"m\"}")
        );
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for the moon")]
    async fn a_wait_in_vain_fails_the_test_and_says_for_what() {
        within_limit(Duration::from_millis(1), "the moon", std::future::pending::<()>()).await;
    }

    #[test]
    fn a_header_that_the_test_gives_replaces_our_own() {
        let bytes = request_bytes("POST", "/", &[("content-length", "9")], b"body");
        assert_eq!(bytes, b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nbody");
    }
}
