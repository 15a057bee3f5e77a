//! A client for tests that speaks HTTP/2 in cleartext: one connection, any number of streams, and every frame of a
//! request under the test's control.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};
use serde_json::Value;
use tokio::net::TcpStream;

use super::client::within;

/// One connection.
pub struct H2c {
    sender: SendRequest<Bytes>,
}

/// A request whose body may still be sent.
pub struct Exchange {
    pub body: SendStream<Bytes>,
    response: ResponseFuture,
}

/// A response whose body may still come.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: RecvStream,
}

impl H2c {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with_window(address, 1 << 20).await
    }

    /// A connection of whose responses so many bytes are taken for each stream before anybody reads them.
    pub async fn with_window(address: SocketAddr, window: u32) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.expect("the server accepts");
        stream.set_nodelay(true).expect("the socket takes the option");
        let mut builder = Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(1 << 24);
        let (sender, connection) = within("the handshake", builder.handshake(stream)).await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends the head of a chat request. No length is stated but by `headers`.
    pub async fn open(&self, key: &str, headers: &[(&str, &str)]) -> Exchange {
        let mut request = Request::post("http://gateway.test/v1/chat/completions");
        request = request.header("authorization", format!("Bearer {key}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = within("a free stream", self.sender.clone().ready()).await.expect("the connection lives");
        let request = request.body(()).expect("the request is valid");
        let (response, body) = sender.send_request(request, false).expect("the connection takes a request");
        Exchange { body, response }
    }

    /// Sends a chat request of a stated length in one go.
    pub async fn send(&self, key: &str, body: &[u8]) -> Exchange {
        let mut exchange = self.open(key, &[("content-length", &body.len().to_string())]).await;
        exchange.data(body, true);
        exchange
    }

    /// Sends a chat request and reads its answer to the end.
    pub async fn chat(&self, key: &str, body: &Value) -> (Answer, Vec<u8>) {
        self.send(key, body.to_string().as_bytes()).await.whole().await
    }
}

impl Exchange {
    /// Sends a piece of the body, in as many frames as the peer's windows ask for; `end`: the last one.
    pub fn data(&mut self, piece: &[u8], end: bool) {
        // A server that has answered already may have closed the stream: then nobody wants the rest.
        let _ = self.body.send_data(Bytes::copy_from_slice(piece), end);
    }

    /// Waits for the head of the answer. What can still be sent of the body is lost.
    pub async fn head(self) -> Answer {
        let response = within("a response's head", self.response).await.expect("a response");
        let (head, body) = response.into_parts();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// Waits for the whole answer, and keeps the request's own stream open meanwhile.
    pub async fn whole(self) -> (Answer, Vec<u8>) {
        let Self { body: _kept, response } = self;
        let response = within("a response's head", response).await.expect("a response");
        let (head, body) = response.into_parts();
        let mut answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
        let body = answer.rest().await;
        (answer, body)
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub async fn piece(&mut self) -> Option<Bytes> {
        let piece = within("a piece of the body", self.body.data()).await?.expect("the stream is whole");
        self.body.flow_control().release_capacity(piece.len()).expect("it was received");
        Some(piece)
    }

    /// All that is left of the body.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await {
            body.extend_from_slice(&piece);
        }
        body
    }

    /// All that is left of the body, however it ends.
    pub async fn until_the_end(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(Ok(piece)) = self.body.data().await {
            body.extend_from_slice(&piece);
        }
        body
    }

    /// The header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is text"))
    }
}
