//! Whole connections as an attacker makes them, through a gateway to an upstream that takes nothing but plain HTTP/1.1.
//! After each of them: what reached the upstream was admitted, and was a request to whoever reads strictly, too.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Mutex,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    client::{PATIENCE, within},
    gateway::{Gateway, SECRET, one_key},
    script::{Script, completion},
    upstream::{Received, ScriptedUpstream},
};

/// A gateway and an upstream, for any number of connections.
pub struct Siege {
    gateway: Gateway,
    upstream: ScriptedUpstream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connections: u64,
    /// Requests of the upstream that were looked at.
    seen: usize,
    /// Hashes of the bodies of the requests on the last connections, as a strict reader finds them. A request may get to
    /// the upstream after its connection has ended.
    bodies: VecDeque<Vec<u64>>,
    /// Lines of the access log, by the request's id.
    lines: HashMap<String, Value>,
}

/// About as much as is sent on one connection.
const MOST_BYTES: usize = 1 << 20;

/// A pause between two pieces.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(3);

/// Connections whose requests may still be on their way.
const REMEMBERED: usize = 4096;

impl Siege {
    pub async fn start() -> Self {
        let upstream = ScriptedUpstream::start(|_| Script::json(200, &completion("m", 5))).await;
        let configuration = format!(
            r#"
server: {{listen: ["127.0.0.1:0"], max_request_body: 200KiB}}
admin: {{listen: "127.0.0.1:0"}}
upstreams: [{{name: scripted, url: "{}", models: [m], inject_usage: never}}]
keys: {{yaml: {{path: keys.yaml}}}}
limits: {{requests_per_minute: unlimited, tokens_per_minute: unlimited, concurrent_requests: unlimited}}
"#,
            upstream.url()
        );
        let gateway = Gateway::start(&configuration, &one_key(", models: [m]"));
        Self { gateway, upstream, state: Mutex::default() }
    }

    /// Makes a connection of what `input` stands for, and looks at what came of it.
    pub async fn endure(&self, input: &[u8]) {
        let pieces = {
            let mut state = self.state.lock().unwrap();
            state.connections += 1;
            let pieces = Snippets::new(state.connections).pieces(input);
            state.bodies.push_back(bodies(&pieces.concat()).iter().map(|body| hash(body)).collect());
            if state.bodies.len() > REMEMBERED {
                state.bodies.pop_front();
            }
            pieces
        };
        if pieces.concat().starts_with(b"PRI") {
            // That is another protocol, which has its own framing.
            return;
        }
        let mut stream = within("a connection", TcpStream::connect(self.gateway.address())).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut answer = Vec::new();
        for piece in pieces {
            // A gateway that has answered and closed takes no more.
            if stream.write_all(&piece).await.is_err() {
                break;
            }
            // What comes after an answer is read anew; an answer that does not come is not waited for long.
            let mut part = [0; 4096];
            let pause = tokio::time::timeout(PAUSE, stream.read(&mut part)).await;
            answer.extend_from_slice(&part[..pause.map_or(0, |read| read.unwrap_or(0))]);
        }
        let _ = stream.shutdown().await;
        // A reset is an end, too.
        let _ = within("the end of the connection", stream.read_to_end(&mut answer)).await;
        // No port is kept waiting for what was closed.
        let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO));
        drop(stream);
        self.check().await;
    }

    async fn check(&self) {
        assert_eq!(self.upstream.malformed(), Vec::<String>::new(), "the upstream was sent what is no request");
        let seen = self.state.lock().unwrap().seen;
        let received = self.upstream.received_from(seen);
        self.state.lock().unwrap().seen += received.len();
        for request in received {
            self.was_admitted(&request).await;
            let state = self.state.lock().unwrap();
            let body = hash(&request.body);
            let is_one = state.bodies.iter().flatten().any(|known| *known == body);
            let text = String::from_utf8_lossy(&request.body);
            assert!(is_one, "a strict reader finds no such request on {} connections: {text}", state.connections);
        }
        let mut state = self.state.lock().unwrap();
        if state.lines.len() > 10_000 {
            state.lines.clear();
        }
    }

    /// Looks for the request's line in the access log, which comes when it is over.
    async fn was_admitted(&self, request: &Received) {
        assert!(request.method == "POST" && request.path == "/v1/chat/completions", "{request:?}");
        for (name, value) in &request.headers {
            assert!(!value.contains(SECRET), "{name} has the client's secret");
        }
        let body: Value = serde_json::from_slice(&request.body).expect("what is admitted is JSON");
        assert_eq!(body["model"], "m");
        let id = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-request-id"));
        let id = format!("req_{}", id.expect("it has a name").1.replace('-', ""));
        let start = std::time::Instant::now();
        let line = loop {
            if let Some(line) = self.take_line(&id) {
                break line;
            }
            assert!(start.elapsed() < PATIENCE, "no admitted request has the name of {request:?}");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        };
        assert_eq!((&line["key_id"], &line["upstream"]), (&"key_test".into(), &"scripted".into()), "{line}");
    }

    /// The line of the request with that id, once it is written.
    fn take_line(&self, id: &str) -> Option<Value> {
        let mut state = self.state.lock().unwrap();
        for line in self.gateway.lines() {
            state.lines.insert(line["request_id"].as_str().unwrap().to_owned(), line);
        }
        state.lines.remove(id)
    }
}

/// What the bytes of an input stand for: those below 128 for themselves, the others for parts of requests.
struct Snippets(Vec<Vec<u8>>);

impl Snippets {
    /// The parts, with a number that tells one connection's bodies from another's.
    fn new(connection: u64) -> Self {
        let body = format!(r#"{{"model":"m","user":"{connection:016x}","messages":[]}}"#);
        let large = format!(r#"{{"model":"m","user":"{connection:016x}","messages":[]{}}}"#, " ".repeat(100_000));
        let (length, hex) = (body.len(), format!("{:x}", body.len()));
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n";
        let key = format!("authorization: Bearer {SECRET}\r\n");
        let bad = "authorization: Bearer sk-nobodys\r\n";
        let chunk = format!("{hex}\r\n{body}\r\n");
        let parts = [
            head.to_owned(),
            key.clone(),
            bad.to_owned(),
            format!("content-length: {length}\r\n"),
            "transfer-encoding: chunked\r\n".to_owned(),
            "\r\n".to_owned(),
            body.clone(),
            chunk.clone(),
            "0\r\n\r\n".to_owned(),
            format!("{head}{key}content-length: {length}\r\n\r\n{body}"),
            format!("{head}{key}transfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"),
            format!("{head}{bad}content-length: {length}\r\n\r\n{body}"),
            format!("{head}{bad}transfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"),
            format!("{head}{key}content-length: {}\r\n\r\n{large}", large.len()),
            format!("{head}{bad}content-length: {}\r\n\r\n{large}", large.len()),
            format!("{head}{key}transfer-encoding: chunked\r\n\r\n"),
            format!("{head}{key}content-length: {length}\r\n\r\n"),
            format!("{head}{key}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n"),
            format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{key}"),
            "GET / HTTP/1.1\r\n".to_owned(),
            "POST /v1/chat/completions HTTP/1.0\r\n".to_owned(),
            "content-length: 0\r\n".to_owned(),
            "content-length: 1\r\n".to_owned(),
            format!("content-length: +{length}\r\n"),
            format!("content-length: {length}, {length}\r\n"),
            "content-length : 3\r\n".to_owned(),
            "content-length: 99999999999999999999\r\n".to_owned(),
            "transfer-encoding : chunked\r\n".to_owned(),
            "transfer-encoding: identity\r\n".to_owned(),
            "transfer-encoding: gzip, chunked\r\n".to_owned(),
            "transfer-encoding: chunked, identity\r\n".to_owned(),
            "Transfer-Encoding:\tchunked\r\n".to_owned(),
            "content-encoding: gzip\r\n".to_owned(),
            "expect: 100-continue\r\n".to_owned(),
            "connection: close\r\n".to_owned(),
            "connection: keep-alive\r\n".to_owned(),
            "connection: transfer-encoding\r\n".to_owned(),
            "upgrade: websocket\r\nconnection: upgrade\r\n".to_owned(),
            format!("x-api-key: {SECRET}\r\n"),
            "x: y\r\n".to_owned(),
            " folded: line\r\n".to_owned(),
            "5\r\nabcde\r\n".to_owned(),
            "5\r\nab".to_owned(),
            "zz\r\n".to_owned(),
            "-1\r\n".to_owned(),
            "fffffffffffffffff\r\n".to_owned(),
            format!("{hex};extension=\"1\"\r\n{body}\r\n"),
            format!("{hex}\n{body}\n"),
            format!("{hex}\r\n{body}"),
            "0\r\nx: y\r\n\r\n".to_owned(),
            "0\r\n".to_owned(),
            "\n".to_owned(),
            "\0".to_owned(),
            "\u{e9}".to_owned(),
        ];
        Self(parts.into_iter().map(String::into_bytes).collect())
    }

    /// The bytes of a connection, in the pieces in which they are sent. The highest byte divides them.
    fn pieces(&self, input: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = vec![Vec::new()];
        let mut length = 0;
        for byte in input {
            if length > MOST_BYTES {
                break;
            }
            let piece = pieces.last_mut().expect("there is one");
            match byte.checked_sub(128) {
                None => piece.push(*byte),
                Some(127) => pieces.push(Vec::new()),
                Some(part) => {
                    let part = &self.0[usize::from(part) % self.0.len()];
                    length += part.len();
                    piece.extend_from_slice(part);
                }
            }
        }
        pieces
    }
}

/// The bodies of the requests that are in `bytes`, up to the first that is not written as it must be (RFC 9112).
fn bodies(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut bodies, mut bytes) = (Vec::new(), bytes.to_vec());
    loop {
        if let Some((body, rest)) = request(&bytes) {
            bodies.push(body);
            bytes = rest.to_vec();
        } else if let Some(escaped) = with_escaped_target(&bytes) {
            bytes = escaped;
        } else {
            return bodies;
        }
    }
}

/// Pingora escapes what may not stand in a request's target, such as a space, and takes the request: what its head says of
/// its body stays as it is.
fn with_escaped_target(bytes: &[u8]) -> Option<Vec<u8>> {
    let line = std::str::from_utf8(bytes.split(|byte| *byte == b'\n').next()?).ok()?;
    let start = line.find(' ')? + 1;
    let target = line.get(start..line.rfind(" HTTP/")?)?;
    let is_illegal = |byte: u8| !byte.is_ascii() || byte.is_ascii_control() || b" <>\"".contains(&byte);
    if !line.starts_with(char::is_alphanumeric) || !target.bytes().any(is_illegal) {
        return None;
    }
    let escaped =
        target.bytes().map(|byte| if is_illegal(byte) { format!("%{byte:02X}").into_bytes() } else { vec![byte] });
    let escaped: Vec<u8> = escaped.flatten().collect();
    Some([&bytes[..start], &escaped, &bytes[start + target.len()..]].concat())
}

fn hash(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// The body of the first request, and what comes after it.
fn request(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else { return None };
    let named = |name: &str| -> Vec<&[u8]> {
        head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value).collect()
    };
    let rest = &bytes[length..];
    match (named("transfer-encoding").as_slice(), named("content-length").as_slice()) {
        ([], []) => Some((Vec::new(), rest)),
        ([], [stated]) => {
            let digits = stated.iter().all(u8::is_ascii_digit).then_some(*stated)?;
            let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
            Some((rest.get(..length)?.to_vec(), &rest[length..]))
        }
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => chunks(rest),
        _ => None,
    }
}

/// A body in chunks. As lenient as Pingora in its last lines, which carry no bytes: a chunk's line without digits ends it, and a trailer is any line.
fn chunks(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((start, length)) = httparse::parse_chunk_size(bytes).ok()? else { return None };
        if length == 0 {
            let end = bytes.windows(4).skip(start - 2).position(|window| window == b"\r\n\r\n")?;
            return Some((body, &bytes[start + 2 + end..]));
        }
        let rest = bytes.get(start..)?;
        let length = usize::try_from(length).ok()?;
        body.extend_from_slice(rest.get(..length)?);
        bytes = rest.get(length..)?.strip_prefix(b"\r\n")?;
    }
}
