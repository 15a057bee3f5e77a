//! A fast inference server with canned answers, and what a gateway asks beside it: keys, and where records go.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use keymeter_core::key::Secret;
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Events of a stream, apart from the last.
pub(super) const EVENTS: usize = 100;
/// Between two of a paced one.
pub(super) const PACE: Duration = Duration::from_millis(10);
/// Events of a flat one that are written at once.
const AT_ONCE: usize = 16;

/// The number of keys that stands for one which may make one request a minute; and its secret.
pub(super) const FEW: usize = usize::MAX;
pub(super) const FEW_SECRET: &str = "sk-bench-few";

/// What is answered.
pub(super) struct Answers {
    whole: Vec<u8>,
    /// The body of a whole answer, and of a stream.
    pub(super) body: Vec<u8>,
    pub(super) stream: Vec<u8>,
    events: Vec<Vec<u8>>,
    usage: Vec<u8>,
}

impl Answers {
    pub(super) fn new() -> Arc<Self> {
        let text = "word ".repeat(150);
        let body = format!(
            "{{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{{\
             \"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}],\
             \"usage\":{{\"prompt_tokens\":180,\"completion_tokens\":150,\"total_tokens\":330}}}}"
        );
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        let event = |number: usize| {
            format!(
                "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\
                 \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word{number}\"}},\"finish_reason\":null}}]}}\n\n"
            )
        };
        let usage = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\
                     \"choices\":[],\"usage\":{\"prompt_tokens\":180,\"completion_tokens\":100,\"total_tokens\":280}}\n\n";
        let mut stream = String::new();
        (0..EVENTS).for_each(|number| stream.push_str(&event(number)));
        stream.push_str("data: [DONE]\n\n");
        Arc::new(Self {
            whole: [head.as_bytes(), body.as_bytes()].concat(),
            body: body.into_bytes(),
            stream: stream.into_bytes(),
            events: (0..EVENTS).map(|number| chunk(event(number).as_bytes())).collect(),
            usage: chunk(usage.as_bytes()),
        })
    }
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// Answers on a free port.
pub(super) async fn start(answers: Arc<Answers>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let answers = answers.clone();
            tokio::spawn(async move { serve(stream, &answers).await });
        }
    });
    address
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> Option<()> {
    let mut buffer = Vec::with_capacity(256 * 1024);
    loop {
        let head = loop {
            if let Some(end) = memmem::find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            more(&mut stream, &mut buffer).await?;
        };
        let length = content_length(&buffer[..head]);
        while buffer.len() < head + length {
            more(&mut stream, &mut buffer).await?;
        }
        let (request, body) = buffer[..head + length].split_at(head);
        if request.starts_with(b"GET /v1/keys/") {
            let hash = String::from_utf8_lossy(&request[13..77]).into_owned();
            stream.write_all(&key(&hash)).await.ok()?;
        } else if request.starts_with(b"POST /v1/usage") {
            let count = memmem::find_iter(body, b"\"key_id\"").count();
            stream.write_all(&json(&format!("{{\"accepted\":{count},\"wallets\":[]}}"))).await.ok()?;
        } else if memmem::find(body, b"\"model\":\"paced\"").is_some() {
            let wants_usage = memmem::find(body, b"include_usage").is_some();
            events(&mut stream, answers, wants_usage, 1, Some(PACE)).await?;
        } else if memmem::find(body, b"\"model\":\"flat\"").is_some() {
            let wants_usage = memmem::find(body, b"include_usage").is_some();
            events(&mut stream, answers, wants_usage, AT_ONCE, None).await?;
        } else {
            stream.write_all(&answers.whole).await.ok()?;
        }
        buffer.drain(..head + length);
    }
}

async fn events(
    stream: &mut TcpStream,
    answers: &Answers,
    wants_usage: bool,
    at_once: usize,
    pace: Option<Duration>,
) -> Option<()> {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await.ok()?;
    for events in answers.events.chunks(at_once) {
        if let Some(pace) = pace {
            tokio::time::sleep(pace).await;
        }
        stream.write_all(&events.concat()).await.ok()?;
    }
    let mut end = Vec::new();
    if wants_usage {
        end.extend_from_slice(&answers.usage);
    }
    end.extend_from_slice(&chunk(b"data: [DONE]\n\n"));
    end.extend_from_slice(b"0\r\n\r\n");
    stream.write_all(&end).await.ok()
}

/// A key whose limits are never reached, but for that of `FEW`; or none, for one that there is not.
fn key(hash: &str) -> Vec<u8> {
    let of = |secret: &str| Secret::new(secret).hash().to_hex();
    if hash == of("sk-nobody") {
        return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec();
    }
    let requests = if hash == of(FEW_SECRET) { 1 } else { 1_000_000_000 };
    let mut record = String::new();
    let _ = write!(
        record,
        "{{\"id\":\"key_{}\",\"name\":\"Some key\",\"hash\":\"sha256:{hash}\",\"limits\":{{\"requests_per_minute\":{requests},\
         \"tokens_per_minute\":1000000000000,\"concurrent_requests\":1000000}}}}",
        &hash[..32]
    );
    json(&record)
}

fn json(text: &str) -> Vec<u8> {
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{text}").into_bytes()
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    (stream.read_buf(buffer).await.ok()? > 0).then_some(())
}

pub(super) fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length: ";
    let lower = head.to_ascii_lowercase();
    let Some(at) = memmem::find(&lower, NAME) else { return 0 };
    let digits = lower[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
