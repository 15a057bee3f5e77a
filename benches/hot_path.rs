//! What keymeter itself costs: admission from head to lease and back, the scan of a body, the meter
//! for each event and each KiB, and the windows, at 1, 1,000 and 100,000 keys.
//!
//! `cargo bench`, or `make bench`.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark stops at the first surprise"
)]

mod workload;

use std::{hint::black_box, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, header::AUTHORIZATION};
use keymeter::{
    account::Accounts,
    api::Endpoint,
    body::{Change, Shape, scan},
    config,
    gate::{AccessLog, Gate, Now, Outcome, Settings, Visit},
    key::{KeyHash, KeyRecord, KeyState, OwnLimits},
    ledger::{Record, Session, Spool},
    limit::{Counters, Limit, Limits, Moment},
    metrics::Metrics,
    resolve::{Resolver, YamlSource},
};

use workload::{ANSWERS, KINDS, STREAMS};

const KEYS: [usize; 3] = [1, 1_000, 100_000];

criterion_group!(benches, admission, windows, body, meter, ledger);
criterion_main!(benches);

/// Identify, admit and settle, without a socket: each request with the next key's secret.
fn admission(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut group = criterion.benchmark_group("admit_and_settle");
    for count in KEYS {
        let gate = gate(count);
        let heads: Vec<HeaderMap> = (0..count).map(head).collect();
        let body = scan(&chat(1024), Shape::Chat).expect("a good body");
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % count;
                let now = Now::read();
                let mut visit = Visit::new("/v1/chat/completions", gate.settings(), now);
                let from = Ipv4Addr::LOCALHOST.into();
                runtime.block_on(gate.identify(&mut visit, &heads[next], None, from, now)).expect("a known key");
                let admitted = gate.admit(visit, Endpoint::ChatCompletions, &body, now);
                let Ok(lease) = admitted else { panic!("refused") };
                lease.settle(&Outcome { status: Some(200), complete: true, ..Outcome::default() }, now);
            });
        });
    }
    group.finish();
}

/// Reserve and settle on one key's counters, when the window holds nothing and when every slot of it
/// is in use.
fn windows(criterion: &mut Criterion) {
    let limits = Limits {
        requests_per_minute: Limit::at(u64::MAX / 4).expect("not zero"),
        tokens_per_minute: Limit::at(u64::MAX / 4).expect("not zero"),
        concurrent_requests: Limit::at(1000).expect("not zero"),
    };
    let mut group = criterion.benchmark_group("reserve_and_settle");
    for (name, step) in [("sparse", Duration::from_secs(61)), ("every slot in use", Duration::from_millis(20))] {
        let counters = Arc::new(Counters::default());
        let mut now = Moment::from_nanos(0);
        for _ in 0..6_000 {
            now = now + step;
            counters.reserve(&limits, 100, now).expect("room").settle(50, now);
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                now = now + step;
                counters.reserve(&limits, 100, now).expect("room").settle(50, now);
            });
        });
    }
    group.finish();
}

/// Scanning a chat body, and splicing `include_usage` into it.
fn body(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("body");
    for size in [1 << 10, 200 << 10] {
        let body = chat(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("scan", size), |bencher| {
            bencher.iter(|| scan(black_box(&body), Shape::Chat).expect("a good body").prompt_text_bytes);
        });
        let scanned = scan(&body, Shape::Chat).expect("a good body");
        let change = Change { include_usage: true, maximum: None };
        group.bench_function(BenchmarkId::new("splice", size), |bencher| {
            bencher.iter(|| scanned.splice(black_box(&change)));
        });
    }
    group.finish();
}

/// The meter for each API: an event of its stream, and a KiB of its answer in one piece. `instructions` counts the same.
fn meter(criterion: &mut Criterion) {
    const EVENTS: usize = 1000;
    let mut group = criterion.benchmark_group("meter_event");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for stream in &STREAMS {
        for (name, kind) in KINDS {
            let events = stream.events(kind);
            group.bench_function(BenchmarkId::new(stream.name, name), |bencher| {
                bencher.iter(|| stream.meter(black_box(&events), EVENTS));
            });
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("meter_json");
    for answer in &ANSWERS {
        for kib in [1, 17] {
            let bytes = answer.of_length(kib << 10);
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_function(BenchmarkId::new(answer.name, format!("{kib} KiB")), |bencher| {
                bencher.iter(|| answer.meter(black_box(&bytes)));
            });
        }
    }
    group.finish();
}

fn gate(keys: usize) -> Arc<Gate> {
    let text = r#"{upstreams: [{name: a, url: "http://127.0.0.1:1"}], keys: {yaml: {path: none}},
        limits: {requests_per_minute: 1000000000, tokens_per_minute: 1000000000000, concurrent_requests: 100}}"#;
    let config = config::parse(text, Path::new("bench"), &|_| None).expect("a good configuration");
    let metrics = Arc::new(Metrics::new(100_000).expect("metrics"));
    let accounts = Arc::new(Accounts::new(metrics.clone()));
    let source = Arc::new(YamlSource::new((0..keys).map(record).collect()));
    let resolver = Arc::new(Resolver::new(source, &config.key_cache, accounts, metrics.clone(), Arc::default()));
    Arc::new(Gate::new(Settings::of(&config), resolver, metrics, AccessLog::none()))
}

fn record(number: usize) -> KeyRecord {
    KeyRecord {
        id: format!("key_{number}").parse().expect("an id"),
        name: "a key".parse().expect("a name"),
        hash: KeyHash::of(secret(number).as_bytes()),
        state: KeyState::Active,
        owner: None,
        team: None,
        models: None,
        limits: OwnLimits::default(),
        expires_at: None,
        retiring: Box::default(),
        wallet: None,
    }
}

fn secret(number: usize) -> String {
    format!("sk-{number:048}")
}

fn head(number: usize) -> HeaderMap {
    let value = format!("Bearer {}", secret(number)).parse().expect("a header");
    [(AUTHORIZATION, value)].into_iter().collect()
}

fn chat(size: usize) -> Bytes {
    let prompt = "how much of a question is needed for an answer? ".repeat(size / 48 + 1);
    let prompt = &prompt[..size];
    format!(r#"{{"model":"llama-3.1-8b","stream":true,"messages":[{{"role":"user","content":"{prompt}"}}]}}"#).into()
}

/// A record into the spool, which is on the disk of the temporary directory.
fn ledger(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let session = Session::generate().expect("randomness");
    let spool = Spool::open(directory.path(), &session).expect("a spool");
    let mut reader = spool.reader();
    let record = Record::parse(RECORD.as_bytes()).expect("a record");
    let mut appended = 0;
    criterion.bench_function("append a record", |bencher| {
        bencher.iter(|| {
            spool.append(&record).expect("room");
            appended += 1;
            // As a sender does; it takes a part of the time that is measured.
            if appended % 5_000 == 0 {
                while let batch = reader.next(500).expect("records")
                    && !batch.payloads.is_empty()
                {
                    reader.acknowledge(&batch).expect("room");
                }
            }
        });
    });
}

const RECORD: &str = r#"{"id":"req_5b1f0c8a2d3e4f60800000000000002a","gateway":"9a3c5e7f01b2d4c6",
    "time":"2026-07-01T12:00:00.000001Z","key_id":"key_prod","key_name":"Production API","owner":"ada","team":"research",
    "wallet":"research","model":"llama-3","input_tokens":7,"cached_input_tokens":0,"cache_write_tokens":0,
    "output_tokens":5,"reasoning_tokens":0,"cost_usd":"0.000034","status":200,"usage_source":"upstream"}"#;
