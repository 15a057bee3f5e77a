//! Clients that ask over and over and look at every response whole.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::upstream::{FEW, FEW_SECRET, content_length};

/// What is asked, and what has to come of it.
#[derive(Clone)]
pub(super) struct Question {
    pub body: Arc<Vec<u8>>,
    /// How many keys take turns; 0: one that there is not; `FEW`: one that may make one request a minute.
    pub keys: usize,
    /// 0: any.
    pub status: u16,
    /// What the body has to be; `None`: anything.
    pub expected: Option<Arc<Vec<u8>>>,
}

impl Question {
    fn request(&self, number: usize) -> Vec<u8> {
        let length = self.body.len();
        let key = match self.keys {
            0 => "sk-nobody".to_owned(),
            FEW => FEW_SECRET.to_owned(),
            keys => format!("sk-bench-{}", number % keys),
        };
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), &self.body].concat()
    }
}

/// Asks `count` times over so many connections, each asking again when it was answered. Returns how long each took.
pub(super) async fn ask(address: SocketAddr, question: &Question, connections: usize, count: usize) -> Vec<Duration> {
    let next = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (question, next) = (question.clone(), next.clone());
            tokio::spawn(async move {
                let (mut client, mut times) = (Client::connect(address).await, Vec::new());
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return times;
                    }
                    let start = Instant::now();
                    client.ask(&question, number).await;
                    times.push(start.elapsed());
                }
            })
        })
        .collect();
    let mut times = Vec::with_capacity(count);
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times
}

/// A kept connection.
pub(super) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::with_capacity(64 * 1024) }
    }

    pub(super) async fn send(&mut self, question: &Question, number: usize) {
        self.stream.write_all(&question.request(number)).await.unwrap();
    }

    pub(super) async fn ask(&mut self, question: &Question, number: usize) {
        self.send(question, number).await;
        self.answer(question).await;
    }

    pub(super) async fn answer(&mut self, question: &Question) {
        let head = loop {
            if let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await;
        };
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        let status: u16 = text[9..12].parse().unwrap();
        let is_expected = question.status == 0 || status == question.status;
        assert!(is_expected, "{text}{}", String::from_utf8_lossy(&self.buffer[head..]));
        let body = if text.contains("transfer-encoding: chunked") {
            self.chunks(head).await
        } else {
            let length = content_length(&self.buffer[..head]);
            while self.buffer.len() < head + length {
                self.more().await;
            }
            let body = self.buffer[head..head + length].to_vec();
            self.buffer.drain(..head + length);
            body
        };
        if let Some(expected) = &question.expected {
            assert_eq!(body.len(), expected.len(), "{}", String::from_utf8_lossy(&body));
            assert!(body == **expected, "it is not what the upstream sent");
        }
    }

    async fn chunks(&mut self, mut at: usize) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = memmem::find(&self.buffer[at..], b"\r\n") {
                    break end;
                }
                self.more().await;
            };
            let size = std::str::from_utf8(&self.buffer[at..at + line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            at += line + 2;
            while self.buffer.len() < at + size + 2 {
                self.more().await;
            }
            body.extend_from_slice(&self.buffer[at..at + size]);
            at += size + 2;
            if size == 0 {
                self.buffer.drain(..at);
                return body;
            }
        }
    }

    async fn more(&mut self) {
        assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the connection was closed");
    }
}
