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

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::HeaderMap;
use jiff::Timestamp;
use keymeter::accounting::Outbox;
use keymeter_core::{
    body::{Change, Shape, scan},
    clock::{MonotonicTime, Now},
    limit::{Amounts, Counters, Limit, Limits, RequestLimits, Reservation, Scopes},
    record::{Record, Session},
};

use workload::{
    ANSWERS, KINDS, STREAMS,
    requests::{RECORD, chat, exchange, gate, head},
};

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
        let mut body = Some(Box::new(scan(&chat(1024), Shape::Chat).expect("a good body")));
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % count;
                body = body.take().map(|body| runtime.block_on(exchange(&gate, &heads[next], body)));
            });
        });
    }
    group.finish();
}

/// Reserve and settle on one key's counters, when the window holds nothing and when every slot of it
/// is in use.
fn windows(criterion: &mut Criterion) {
    let limits = Arc::new(RequestLimits::from(Limits {
        requests_per_minute: Limit::at(u64::MAX / 4).expect("not zero"),
        tokens_per_minute: Limit::at(u64::MAX / 4).expect("not zero"),
        concurrent_requests: Limit::at(1000).expect("not zero"),
    }));
    let exchange = |counters: &Scopes<Arc<Counters>>, moment| {
        let now = Now { moment, date: Timestamp::UNIX_EPOCH };
        let reserved = Reservation::take(counters.clone(), &limits, Amounts::tokens(100), now).expect("room");
        reserved.settle(Amounts::tokens(50), now)
    };
    let mut group = criterion.benchmark_group("reserve_and_settle");
    for (name, step) in [("sparse", Duration::from_secs(61)), ("every slot in use", Duration::from_millis(20))] {
        let counters = Scopes::of_key(Arc::default());
        let mut now = MonotonicTime::from_nanos(0);
        for _ in 0..6_000 {
            now = now + step;
            exchange(&counters, now);
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                now = now + step;
                exchange(&counters, now)
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
        let change = Change { include_usage: true, ..Change::default() };
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

/// A record into the spool, which is on the disk of the temporary directory.
fn ledger(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let session = Session::generate().expect("randomness");
    let spool = Outbox::open(directory.path(), &session).expect("a spool");
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
