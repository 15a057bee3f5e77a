//! Answers that an upstream compresses though nobody asked for it. They pass unchanged, and are counted all the same.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use serde_json::json;

use super::{CASES, JSON, SSE, gateway};
use crate::support::{
    client::Arrival,
    gateway::{Gateway, SECRET},
    scene::{DONE, chat, says, uses},
    script::{Gate, Script, Step, completion},
    upstream::ScriptedUpstream,
};

/// What Content-Encoding says of each way.
pub const WAYS: [(&str, Encode); 6] =
    [("gzip", gzip), ("x-gzip", gzip), ("deflate", zlib), ("deflate", deflate), ("br", brotli), ("zstd", zstd)];

pub type Encode = fn(&[&str]) -> Vec<u8>;

/// Each piece is flushed, as a server sends its events.
fn written<W: Write>(mut encoder: W, pieces: &[&str]) -> W {
    for piece in pieces {
        encoder.write_all(piece.as_bytes()).unwrap();
        encoder.flush().unwrap();
    }
    encoder
}

fn gzip(pieces: &[&str]) -> Vec<u8> {
    written(GzEncoder::new(Vec::new(), Compression::default()), pieces).finish().unwrap()
}

fn zlib(pieces: &[&str]) -> Vec<u8> {
    written(ZlibEncoder::new(Vec::new(), Compression::default()), pieces).finish().unwrap()
}

fn deflate(pieces: &[&str]) -> Vec<u8> {
    written(DeflateEncoder::new(Vec::new(), Compression::default()), pieces).finish().unwrap()
}

fn brotli(pieces: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(written(::brotli::CompressorWriter::new(&mut bytes, 4096, 5, 22), pieces));
    bytes
}

fn zstd(pieces: &[&str]) -> Vec<u8> {
    written(::zstd::Encoder::new(Vec::new(), 3).unwrap(), pieces).finish().unwrap()
}

fn encoded(content_type: &str, coding: &str, steps: Vec<Step>) -> Script {
    let headers = [("content-type", content_type), ("content-encoding", coding)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Script { status: 200, headers, steps }
}

/// The body in pieces of so many bytes.
fn in_pieces(body: &[u8], size: usize) -> Vec<Step> {
    body.chunks(size).map(|piece| Step::Send(piece.to_vec().into())).chain([Step::Finish]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_of_any_api_counts_as_its_plain_twin_and_passes_unchanged() {
    let upstream = ScriptedUpstream::start(|request| {
        let number = |name: &str| request.header(name).unwrap().parse::<usize>().unwrap();
        let (case, (coding, encode)) = (&CASES[number("x-case")], WAYS[number("x-way")]);
        encoded(case.content_type, coding, in_pieces(&encode(case.answer), number("x-pieces")))
    });
    let upstream = upstream.await;
    let gateway = gateway(&upstream, "");
    let mut client = gateway.connect().await;
    for (number, case) in CASES.iter().enumerate() {
        for (way, (coding, encode)) in WAYS.iter().enumerate() {
            for size in ["1", "50", "100000"] {
                let numbers = [number, way].map(|number| number.to_string());
                let headers = [
                    ("x-api-key", SECRET),
                    ("content-type", JSON),
                    ("x-case", &numbers[0]),
                    ("x-way", &numbers[1]),
                    ("x-pieces", size),
                ];
                let response = client.request("POST", case.path, &headers, case.body.as_bytes()).await;
                let name = format!("{} in {coding} by {size}", case.path);
                assert_eq!(response.body, encode(case.answer), "{name}");
                assert_eq!(response.header("content-encoding"), Some(*coding), "{name}");
                case.is_counted(&name, &gateway.next_line());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_usage_event_stays_in_a_compressed_stream() {
    let events = [says("one "), uses(40, 132), DONE.to_owned()];
    for (coding, encode) in WAYS {
        for label in [SSE, JSON, ""] {
            let body = encode(&events.each_ref().map(String::as_str));
            let script =
                encoded(label, coding, in_pieces(&body, 40)).with_header("content-length", &body.len().to_string());
            let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
            let gateway = Gateway::before(&upstream);
            let response = gateway.chat(&chat("m", "", false)).await;
            assert!(upstream.received()[0].asks_for_usage());
            assert_eq!(response.body, body, "{coding} as {label:?}");
            assert_eq!(
                response.header("content-length"),
                Some(body.len().to_string().as_str()),
                "{coding} as {label:?}"
            );
            let line = gateway.next_line();
            assert_eq!((&line["input_tokens"], &line["output_tokens"]), (&40.into(), &132.into()), "{coding}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_stream_holds_its_place_to_its_end_and_no_longer() {
    let events = [says("one "), says("two "), uses(7, 5), DONE.to_owned()];
    for (coding, encode) in WAYS {
        let events = events.each_ref().map(String::as_str);
        let (body, begun) = (encode(&events), encode(&events[..2]).len() - 16);
        let (one, other) = body.split_at(begun);
        let gate = Gate::new();
        let send = |piece: &[u8]| Step::Send(piece.to_vec().into());
        let script = encoded(SSE, coding, vec![send(one), Step::Wait(gate.clone()), send(other)]);
        let upstream = ScriptedUpstream::start(move |request| match request.json()["model"].as_str() {
            Some("next") => Script::json(200, &completion("next", 1)),
            _ => script.clone(),
        });
        let upstream = upstream.await;
        let gateway = Gateway::start(
            &crate::support::gateway::config(&upstream, ""),
            &crate::support::gateway::one_key(", limits: {concurrent_requests: 1}"),
        );
        let mut client = gateway.connect().await;
        assert_eq!(client.chat_stream(SECRET, &chat("m", "", true)).await.status, 200);
        let mut had = Vec::new();
        while had.len() < body.len() {
            let Arrival::Chunk { data, .. } = client.next_chunk().await else { panic!("{coding} ended") };
            had.extend_from_slice(&data);
            if had.len() == begun {
                let second = gateway.chat(&json!({"model": "next", "messages": []})).await;
                assert_eq!(second.status, 429, "{coding}");
                gate.open();
            }
        }
        assert_eq!(had, body, "{coding}");
        let next = gateway.chat(&json!({"model": "next", "messages": []})).await;
        assert_eq!(next.status, 200, "{coding}: its last event was there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_encoded_as_it_says_is_not_free() {
    let answer = completion("m", 4).to_string();
    let (words, _) = answer.split_at(answer.len() / 2);
    for (coding, body, source, output) in [
        ("br", answer.clone().into_bytes(), "upstream", Some(4)),
        ("compress", vec![0x1f, 0x9d, 0x90, 0xff], "estimated", Some(0)),
        ("gzip, br", brotli(&[&answer]), "upstream", Some(4)),
        ("utf-8", gzip(&[&answer]), "upstream", Some(4)),
        ("gzip", brotli(&[&answer]), "estimated", None),
        ("zstd", vec![0xff; 100], "estimated", Some(0)),
        ("gzip", gzip(&[words])[..30].to_vec(), "estimated", None),
        ("utf-8", answer.clone().into_bytes(), "upstream", Some(4)),
        ("identity", answer.clone().into_bytes(), "upstream", Some(4)),
    ] {
        let script = encoded(JSON, coding, in_pieces(&body, 20));
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = Gateway::before(&upstream);
        let response =
            gateway.chat(&json!({"model": "m", "messages": [{"role": "user", "content": "Hello there"}]})).await;
        assert_eq!(response.body, body, "{coding}");
        let line = gateway.next_line();
        assert_eq!(line["usage_source"], source, "{coding}: {line}");
        assert!(line["input_tokens"].as_u64() > Some(0), "{coding}: {line}");
        assert!(output.is_none_or(|output| line["output_tokens"] == output), "{coding}: {line}");
    }
}

/// A document that is nearly nothing but one letter, so many million times.
fn bomb<W: Write>(mut encoder: W, megabytes: usize) -> W {
    let letters = vec![b'x'; 1_000_000];
    encoder.write_all(b"{\"choices\":[{\"index\":0,\"message\":{\"content\":\"").unwrap();
    for _ in 0..megabytes {
        encoder.write_all(&letters).unwrap();
    }
    encoder.write_all(b"\"}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9}}").unwrap();
    encoder
}

/// The most memory that this process ever had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn little_that_stands_for_very_much_hurts_nobody() {
    let gzipped = bomb(GzEncoder::new(Vec::new(), Compression::best()), 300).finish().unwrap();
    let zstandard = bomb(::zstd::Encoder::new(Vec::new(), 1).unwrap(), 300).finish().unwrap();
    let mut brotlied = Vec::new();
    drop(bomb(::brotli::CompressorWriter::new(&mut brotlied, 4096, 1, 22), 300));
    for (coding, body) in [("gzip", gzipped), ("zstd", zstandard), ("br", brotlied)] {
        let script = encoded(JSON, coding, in_pieces(&body, 65_536));
        let upstream = ScriptedUpstream::start(move |request| match request.json()["model"].as_str() {
            Some("next") => Script::json(200, &completion("next", 1)),
            _ => script.clone(),
        });
        let upstream = upstream.await;
        let gateway = Gateway::before(&upstream);
        let before = peak_memory();
        let start = Instant::now();
        let response = gateway.chat(&json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})).await;
        let took = start.elapsed();
        let grown = peak_memory() - before;
        println!("{coding}: {} bytes in {took:?}, {grown} KiB", body.len());
        assert!(response.body == body, "{coding}: it passes unchanged");
        let line = gateway.next_line();
        assert_eq!(line["usage_source"], "estimated", "{coding}: {line}");
        assert!(line["input_tokens"].as_u64() > Some(0), "{coding}: {line}");
        assert!(grown < 48 * 1024 && took < Duration::from_secs(20), "{coding}: {grown} KiB in {took:?}");
        assert_eq!(gateway.chat(&json!({"model": "next", "messages": []})).await.status, 200, "{coding}");
    }
}
