//! The time to the first byte before three inference servers of which one is slow: keymeter's ways to choose, beside those of
//! HAProxy.
//!
//! A server here runs so many requests at once, and lets others wait within itself, as real ones do; what it runs takes as long
//! as its answer has tokens. Clients come as they like, at two thirds of what the three can do, and say how many tokens they
//! want. All is in one process that does next to nothing else, so that what is measured is the choice.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};

use super::{
    target::{Kind, Programs, Target},
    upstream::content_length,
};

/// Requests that a server runs at once.
const SLOTS: usize = 8;
/// What a server takes for a prompt, and for a token; the slow one takes three times that.
const PREFILL: Duration = Duration::from_millis(10);
const TOKEN: Duration = Duration::from_micros(500);
const SLOWER: u32 = 3;
/// Requests a second, of some 87 that the three could do.
const RATE: f64 = 58.0;
const REQUESTS: usize = 1_200;
/// How often each target is measured, each time by other arrivals and lengths, which are the same for all targets.
const ROUNDS: u64 = 3;

/// Prints the table.
pub(super) async fn compare(programs: &Programs, upstream: SocketAddr) {
    let mut replicas = Vec::new();
    for slower in [1, 1, SLOWER] {
        replicas.push(replica(slower).await);
    }
    let programs = Programs { replicas, ..programs.clone() };
    let kinds = [
        Kind::Pool("least_tokens"),
        Kind::Pool("least_requests"),
        Kind::Pool("round_robin"),
        Kind::HaProxy("leastconn"),
        Kind::HaProxy("roundrobin"),
    ];
    println!("\n### Time to the first byte, one of three replicas slow, answers of 20 to 2,000 tokens, ms\n");
    println!("| | p50 | p90 | p99 | longest |\n|---|---|---|---|---|");
    for kind in kinds {
        let mut times = Vec::new();
        for round in 1..=ROUNDS {
            let target = Target::start(kind, &programs, upstream, &[]);
            times.extend(arrivals(target.address, round).await);
        }
        times.sort_unstable();
        let at = |part: usize| times[(times.len() * part / 1_000).min(times.len() - 1)].as_secs_f64() * 1e3;
        println!("| {} | {:.1} | {:.1} | {:.0} | {:.0} |", kind.name(), at(500), at(900), at(990), at(1_000));
    }
    println!();
}

/// Times to the first byte of requests that come at random.
async fn arrivals(address: SocketAddr, seed: u64) -> Vec<Duration> {
    let mut random = Random(seed);
    let mut at = Instant::now() + Duration::from_millis(200);
    let mut tasks = Vec::with_capacity(REQUESTS);
    for number in 0..REQUESTS {
        // Exponential gaps; lengths are as often from 20 to 200 as from 200 to 2,000.
        at += Duration::from_secs_f64(-random.next().ln() / RATE);
        let tokens = 20.0 * 100_f64.powf(random.next());
        let starts = at;
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep_until(starts).await;
            first_byte(address, number, tokens.round()).await
        }));
    }
    let mut times = Vec::with_capacity(REQUESTS);
    for task in tasks {
        times.push(task.await.unwrap());
    }
    times
}

async fn first_byte(address: SocketAddr, number: usize, tokens: f64) -> Duration {
    let body = format!(
        "{{\"model\":\"m\",\"stream\":true,\"max_tokens\":{tokens},\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}"
    );
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer sk-bench-{}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        number % 20,
        body.len()
    );
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = Vec::new();
    let mut first = None;
    while stream.read_buf(&mut buffer).await.unwrap() > 0 {
        first.get_or_insert_with(|| start.elapsed());
    }
    let text = String::from_utf8_lossy(&buffer);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("[DONE]"), "{text}");
    first.unwrap()
}

/// A server that takes so many times as long as a quick one.
async fn replica(slower: u32) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let slots = Arc::new(Semaphore::new(SLOTS));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let slots = slots.clone();
            tokio::spawn(async move { serve(stream, &slots, slower).await });
        }
    });
    address
}

async fn serve(mut stream: TcpStream, slots: &Semaphore, slower: u32) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = memmem::find(&buffer, b"\r\n\r\n") {
                break end + 4;
            }
            (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
        };
        let length = content_length(&buffer[..head]);
        while buffer.len() < head + length {
            (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
        }
        if buffer.starts_with(b"GET ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.ok()?;
        } else {
            answer(&mut stream, &buffer[head..head + length], slots, slower).await?;
        }
        buffer.drain(..head + length);
    }
}

async fn answer(stream: &mut TcpStream, body: &[u8], slots: &Semaphore, slower: u32) -> Option<()> {
    let at = memmem::find(body, b"\"max_tokens\":").unwrap() + 13;
    let digits = body[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let tokens = digits.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    let _slot = slots.acquire().await.ok()?;
    tokio::time::sleep(PREFILL * slower).await;
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let first = chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(format!("{head}{first}").as_bytes()).await.ok()?;
    tokio::time::sleep(TOKEN * tokens * slower).await;
    let all = tokens + 7;
    let usage = format!(
        "data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{tokens},\"total_tokens\":{all}}}}}\n\n"
    );
    let end = chunk(&usage) + &chunk("data: [DONE]\n\n") + "0\r\n\r\n";
    stream.write_all(end.as_bytes()).await.ok()
}

/// Numbers above 0 and up to 1, the same for a seed each time (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        ((mixed >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}
