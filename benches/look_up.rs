//! What a look-up of a key costs, at 1, 1,000 and 1,000,000 keys: of one that is known, and of a secret that is remembered
//! as nobody's. What it costs to find whose request it is, by a secret, by a token that was checked before, and by one that is
//! checked.
//!
//! `cargo bench --bench look_up`, or `make bench`.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../tests/support/signer.rs"]
#[allow(dead_code, reason = "it is a tool of tests, too")]
mod signer;
mod tokens;
#[allow(dead_code, reason = "it is of other benches, too")]
mod workload;

use std::{sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use keymeter::{
    admission::Now,
    keys::{Resolver, YamlSource},
    limits::account::Accounts,
    observe::metrics::Metrics,
};
use keymeter_config::KeyCache;
use keymeter_core::{
    clock::MonotonicTime,
    key::{KeyHash, KeyRecord, KeyState, OwnLimits, Priority},
};

const KEYS: [usize; 3] = [1, 1_000, 1_000_000];

criterion_group!(benches, look_ups, identities);
criterion_main!(benches);

fn look_ups(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut group = criterion.benchmark_group("look_up");
    for count in KEYS {
        let resolver = resolver(count);
        let now = MonotonicTime::now();
        let mut ask = |name, first: usize| {
            let hashes: Vec<_> = (first..first + count.min(50_000)).map(hash).collect();
            for hash in &hashes {
                drop(runtime.block_on(resolver.resolve(*hash, now)));
            }
            let mut next = 0;
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    next = (next + 7919) % hashes.len();
                    runtime.block_on(resolver.resolve(hashes[next], now)).is_ok()
                });
            });
        };
        // All are known; so many of them are asked for, far apart.
        (0..count).for_each(|number| drop(runtime.block_on(resolver.resolve(hash(number), now))));
        ask("known", 0);
        ask("unknown", count);
    }
    group.finish();
}

fn identities(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("identify");
    for key in [signer::Signer::ec("c"), signer::Signer::rsa("r")] {
        let gate = tokens::gate(&key);
        let token = tokens::head(&key.token(&tokens::claims(0)));
        let secret = tokens::head(tokens::SECRET);
        let identify =
            |head: &http::HeaderMap| drop(runtime.block_on(workload::requests::identified(&gate, head, Now::read())));
        group.bench_function(BenchmarkId::new("a secret", key.algorithm()), |bencher| {
            bencher.iter(|| identify(&secret));
        });
        group.bench_function(BenchmarkId::new("a known token", key.algorithm()), |bencher| {
            bencher.iter(|| identify(&token));
        });
        let mut number = 0;
        group.bench_function(BenchmarkId::new("a new token", key.algorithm()), |bencher| {
            let another = || {
                number += 1;
                tokens::head(&key.token(&tokens::claims(number)))
            };
            bencher.iter_batched(another, |head| identify(&head), criterion::BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn resolver(keys: usize) -> Arc<Resolver> {
    let metrics = Arc::new(Metrics::new(100_000).expect("metrics"));
    let day = Duration::from_hours(24);
    let terms = KeyCache { capacity: 1_000_000, ttl: day, unknown_ttl: day, stale_for: Duration::ZERO };
    let source = Arc::new(YamlSource::new((0..keys).map(record).collect()));
    Arc::new(Resolver::new(source, &terms, Arc::new(Accounts::new(metrics.clone())), metrics, Arc::default()))
}

fn record(number: usize) -> KeyRecord {
    KeyRecord {
        id: format!("key_{number}").parse().expect("an id"),
        name: "a key".parse().expect("a name"),
        hash: hash(number),
        state: KeyState::Active,
        owner: None,
        team: None,
        models: None,
        limits: OwnLimits::default(),
        expires_at: None,
        retiring: Box::default(),
        wallet: None,
        priority: Priority::default(),
        terms: None,
    }
}

fn hash(number: usize) -> KeyHash {
    KeyHash::digest(&number.to_le_bytes())
}
