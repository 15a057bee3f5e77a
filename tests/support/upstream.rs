//! An inference server for tests that does what a script says: every byte, when it goes out, and how the
//! connection ends. It keeps what it was asked and when connections closed, for the test to look at.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use serde_json::Value;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::{
    client::within,
    script::{Left, Script},
    wire::{self, Framing, Head, Wire, WireError},
};

/// A server on a free port of loopback. It stops, with all its connections, when it is dropped.
pub struct ScriptedUpstream {
    pub address: SocketAddr,
    seen: watch::Receiver<Seen>,
    accepting: AbortHandle,
}

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Connections are numbered from 0 in the order they were opened.
    pub connection: usize,
    /// When it had come whole.
    pub at: Instant,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Closed {
    pub connection: usize,
    /// Whether the peer went first, not the script.
    pub by_peer: bool,
    /// Whether a request had been read whole and its response was not complete.
    pub mid_response: bool,
    pub at: Instant,
}

#[derive(Default)]
struct Seen {
    received: Vec<Received>,
    closed: Vec<Closed>,
    opened: usize,
    malformed: Vec<String>,
}

type Answer = Arc<dyn Fn(&Received) -> Script + Send + Sync>;

/// One connection, while its requests are answered.
struct Connection {
    number: usize,
    stream: TcpStream,
    wire: Wire,
    seen: Arc<watch::Sender<Seen>>,
}

impl ScriptedUpstream {
    /// Starts a server that answers each request with the script that `script` makes of it.
    pub async fn start(script: impl Fn(&Received) -> Script + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (sender, seen) = watch::channel(Seen::default());
        let accepting = tokio::spawn(accept(listener, Arc::new(script), Arc::new(sender))).abort_handle();
        Self { address, seen, accepting }
    }

    /// The base URL, as a configuration names it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests seen so far, in the order they came.
    pub fn received(&self) -> Vec<Received> {
        self.seen.borrow().received.clone()
    }

    /// The same, without the first `seen` of them.
    pub fn received_from(&self, seen: usize) -> Vec<Received> {
        self.seen.borrow().received.get(seen..).map(<[Received]>::to_vec).unwrap_or_default()
    }

    /// The connections that have ended so far, in that order.
    pub fn closed(&self) -> Vec<Closed> {
        self.seen.borrow().closed.clone()
    }

    /// How many connections have ended.
    pub fn connections_closed(&self) -> usize {
        self.seen.borrow().closed.len()
    }

    /// How many connections were ever accepted.
    pub fn connections_opened(&self) -> usize {
        self.seen.borrow().opened
    }

    /// What came that was no HTTP/1.1 request. Each was answered with 400 and a close.
    pub fn malformed(&self) -> Vec<String> {
        self.seen.borrow().malformed.clone()
    }

    /// Waits until `count` requests have come in all, and gives the last of them.
    pub async fn wait_for_request(&self, count: usize) -> Received {
        let what = format!("request {count} to come to the upstream");
        self.wait(&what, |seen| count.checked_sub(1).and_then(|last| seen.received.get(last)).cloned()).await
    }

    /// Waits until `count` connections have ended in all, and gives the end of the last of them.
    pub async fn wait_for_closed(&self, count: usize) -> Closed {
        let what = format!("connection {count} of the upstream to close");
        self.wait(&what, |seen| count.checked_sub(1).and_then(|last| seen.closed.get(last)).copied()).await
    }

    async fn wait<T>(&self, what: &str, find: impl Fn(&Seen) -> Option<T>) -> T {
        let mut seen = self.seen.clone();
        let found = within(what, seen.wait_for(|seen| find(seen).is_some())).await.expect("the upstream is running");
        find(&found).expect("it was there a moment ago, and nothing is taken away")
    }
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Received {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        wire::header(&self.headers, name)
    }

    /// The body as JSON; `null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Whether it asks for the event that states the usage.
    pub fn asks_for_usage(&self) -> bool {
        self.json().pointer("/stream_options/include_usage") == Some(&Value::Bool(true))
    }
}

async fn accept(listener: TcpListener, answer: Answer, seen: Arc<watch::Sender<Seen>>) {
    // Owned here, so that the connections end with this task.
    let mut connections = JoinSet::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        seen.send_modify(|seen| seen.opened += 1);
        let connection = Connection { number, stream, wire: Wire::default(), seen: Arc::clone(&seen) };
        connections.spawn(connection.serve(Arc::clone(&answer)));
    }
}

impl Connection {
    async fn serve(mut self, answer: Answer) {
        self.stream.set_nodelay(true).expect("the socket takes the option");
        loop {
            let request = match self.request().await {
                Ok(request) => request,
                Err(WireError::Closed(_)) => return self.closed(true, false),
                Err(WireError::Malformed(what)) => return self.refuse(what).await,
            };
            self.seen.send_modify(|seen| seen.received.push(request.clone()));
            match self.run(&answer(&request)).await {
                Left::ForNextRequest => {}
                Left::Closed | Left::Reset => return self.closed(false, true),
                Left::ByPeer => return self.closed(true, true),
            }
        }
    }

    async fn request(&mut self) -> Result<Received, WireError> {
        let head = self.wire.head(&mut self.stream).await?;
        let body = match head.framing()? {
            Framing::Unstated => Vec::new(),
            Framing::Length(length) => self.wire.exactly(&mut self.stream, length).await?.into(),
            Framing::Chunked => self.wire.chunks(&mut self.stream).await?,
        };
        received(head, body, self.number)
    }

    async fn run(&mut self, script: &Script) -> Left {
        let (mut reader, mut writer) = self.stream.split();
        let left = tokio::select! {
            left = script.run(&mut writer) => left,
            () = self.wire.watch_for_close(&mut reader) => Left::ByPeer,
        };
        if matches!(left, Left::Reset) {
            // The close that follows then sends RST, whatever was still to be sent.
            self.stream.set_zero_linger().expect("the socket takes the option");
        }
        left
    }

    async fn refuse(mut self, what: String) {
        self.seen.send_modify(|seen| seen.malformed.push(what));
        let _ =
            self.stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        self.closed(false, false);
    }

    fn closed(self, by_peer: bool, mid_response: bool) {
        let Self { number: connection, stream, seen, .. } = self;
        drop(stream);
        seen.send_modify(|seen| seen.closed.push(Closed { connection, by_peer, mid_response, at: Instant::now() }));
    }
}

fn received(head: Head, body: Vec<u8>, connection: usize) -> Result<Received, WireError> {
    let mut parts = head.start_line.split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1"), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(WireError::Malformed(format!("request line: {:?}", head.start_line)));
    };
    let (method, path) = (method.to_owned(), path.to_owned());
    Ok(Received { method, path, headers: head.headers, body, connection, at: Instant::now() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{
        super::{
            client::{Arrival, Client, events},
            script::{Gate, Step, completion, usage},
        },
        *,
    };

    fn chat(include_usage: bool) -> Value {
        json!({"model": "m", "stream": true, "stream_options": {"include_usage": include_usage}})
    }

    #[tokio::test]
    async fn requests_are_kept_and_answered_on_one_connection() {
        let upstream =
            ScriptedUpstream::start(|_| Script::json(200, &completion("m", 2)).with_header("x-a", "b")).await;
        let mut client = Client::connect(upstream.address).await;
        let first = client.chat("sk-1", &json!({"model": "m"})).await;
        assert_eq!((first.status, first.header("x-a")), (200, Some("b")));
        assert_eq!(first.json()["usage"], usage(7, 2));
        client.send_raw(b"PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n").await;
        client.response().await;
        let second = upstream.wait_for_request(2).await;
        assert_eq!((second.method.as_str(), second.path.as_str(), &second.body[..]), ("PUT", "/b", &b"abcd"[..]));
        let first = &upstream.received()[0];
        assert_eq!((first.header("Authorization"), first.json()), (Some("Bearer sk-1"), json!({"model": "m"})));
        assert!(first.at <= second.at);
        assert_eq!((first.connection, second.connection, upstream.connections_opened()), (0, 0, 1));
        assert_eq!(upstream.connections_closed(), 0);
        client.close().await;
        let closed = upstream.wait_for_closed(1).await;
        assert!(closed.by_peer && !closed.mid_response && closed.connection == 0);
        assert!(second.at <= closed.at);
    }

    #[tokio::test]
    async fn the_usage_event_comes_only_to_who_asks() {
        let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 2, &usage(3, 2))).await;
        let mut client = Client::connect(upstream.address).await;
        client.chat_stream("sk-1", &chat(true)).await;
        let Arrival::Chunk { data, .. } = client.next_chunk().await else { panic!("a chunk") };
        let first: Value = serde_json::from_str(&events(&data)[0]).unwrap();
        assert_eq!((&first["model"], &first["choices"][0]["delta"]["content"]), (&json!("m"), &json!("word0 ")));
        let rest = events(&client.rest().await.0);
        let usage_event: Value = serde_json::from_str(&rest[2]).unwrap();
        assert_eq!((&usage_event["choices"], &usage_event["usage"]), (&json!([]), &usage(3, 2)));
        assert_eq!((rest.len(), rest[3].as_str()), (4, "[DONE]"));

        let without = client.chat("sk-1", &chat(false)).await;
        let without = events(&without.body);
        assert_eq!((without.len(), without.iter().any(|event| event.contains("usage"))), (4, false));
        let text = client.request("POST", "/v1/completions", &[], chat(false).to_string().as_bytes()).await;
        assert!(events(&text.body)[1].contains(r#""text":"word1 ""#), "{}", text.text());
    }

    #[tokio::test]
    async fn a_gate_holds_each_step_until_the_test_lets_it_pass() {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = ScriptedUpstream::start(move |_| Script::sse(&["a", "b"]).gated(1, &held).gated(9, &held)).await;
        let mut client = Client::connect(upstream.address).await;
        client.chat_stream("sk-1", &chat(false)).await;
        assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
        let early = tokio::time::timeout(Duration::from_millis(20), client.next_chunk()).await;
        assert!(early.is_err(), "{early:?}");
        gate.pass_one();
        assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
        gate.open();
        assert_eq!(client.next_chunk().await, Arrival::End);
    }

    #[tokio::test]
    async fn a_client_that_goes_away_in_mid_response_is_seen_at_once() {
        let upstream = ScriptedUpstream::start(|request| match request.path.as_str() {
            "/hang" => Script::hang(),
            _ => Script::hang().then(Step::Head),
        });
        let upstream = upstream.await;
        let mut client = Client::connect(upstream.address).await;
        client.send("GET", "/hang", &[], b"").await;
        upstream.wait_for_request(1).await;
        client.abort();
        let closed = upstream.wait_for_closed(1).await;
        assert!(closed.by_peer && closed.mid_response);
        let mut client = Client::connect(upstream.address).await;
        assert_eq!(client.open_stream("GET", "/head", &[], b"").await.status, 200);
        client.close().await;
        assert_eq!(upstream.wait_for_closed(2).await.connection, 1);
        assert!(upstream.closed().iter().all(|closed| closed.mid_response));
    }

    #[tokio::test]
    async fn a_script_may_break_off_in_every_way() {
        let upstream = ScriptedUpstream::start(|request| match request.path.as_str() {
            "/truncated" => Script::truncated(request, 2),
            "/reset" => Script::hang().then(Step::Head).then(Step::Reset).paced(Duration::from_millis(1)),
            _ => Script::hang().then(Step::Raw("HTTP/1.1 200 OK\r\n\r\nraw".into())).then(Step::Close),
        });
        let upstream = upstream.await;
        let ways = [("/truncated", 2, "closed"), ("/reset", 0, "reset"), ("/raw", 0, "")];
        for (number, (path, length, how_it_ends)) in ways.into_iter().enumerate() {
            let mut client = Client::connect(upstream.address).await;
            client.send("POST", path, &[], b"{}").await;
            if path == "/raw" {
                assert_eq!(client.response().await.text(), "raw");
            } else {
                client.head().await;
                let (body, end) = client.rest().await;
                assert_eq!(events(&body).len(), length);
                assert!(matches!(&end, Arrival::Cut(how) if how.contains(how_it_ends)), "{path}: {end:?}");
            }
            assert!(!upstream.wait_for_closed(number + 1).await.by_peer);
        }
    }

    #[tokio::test]
    async fn what_is_no_http_is_refused_and_kept() {
        let upstream = ScriptedUpstream::start(|_| Script::error(500, "server_error", "never")).await;
        assert_eq!(upstream.url(), format!("http://{}", upstream.address));
        let mut client = Client::connect(upstream.address).await;
        let both = [("content-length", "3"), ("transfer-encoding", "chunked")];
        assert_eq!(client.request("POST", "/", &both, b"abc").await.status, 400);
        assert!(client.closed_by_server().await.is_empty());
        assert!(upstream.malformed()[0].contains("beside"), "{:?}", upstream.malformed());
        assert!(upstream.received().is_empty());
    }

    #[tokio::test]
    async fn dropping_it_closes_its_connections() {
        let upstream = ScriptedUpstream::start(|_| Script::error(503, "server_error", "busy")).await;
        let mut client = Client::connect(upstream.address).await;
        let refused = client.chat("sk-1", &json!({})).await;
        assert_eq!((refused.status, &refused.json()["error"]["message"]), (503, &json!("busy")));
        drop(upstream);
        assert!(client.closed_by_server().await.is_empty());
    }
}
