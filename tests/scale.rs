//! Any number of keys: what each takes of memory, how fast a change of one is in force, and that strangers push out nobody.
//! `make soak` runs it at a million keys.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keymeter::{
    admission::{Gate, Now, Settings},
    keys::{
        Answer, Change, EntityTag, Found, KeySource, ResolveError, Resolver, SourceError,
        revocation::RevocationRegistry,
    },
    limits::account::Accounts,
    observe::{access_log::AccessLog, metrics::Metrics},
    upstream::Pools,
};
use keymeter_config::{self as config, KeyCache};
use keymeter_core::{
    clock::MonotonicTime,
    key::{KeyHash, KeyRecord, KeyState, OwnLimits, Priority},
    limit::{Limit, Limits},
};
use parking_lot::RwLock;

use crate::support::soak::scaled;

/// A source that has as many keys as there are numbers, and of which some are disabled.
struct Numbered {
    keys: u32,
    disabled: RwLock<std::collections::HashSet<KeyHash>>,
    by_hash: RwLock<std::collections::HashMap<KeyHash, u32>>,
}

fn hash(number: u32) -> KeyHash {
    KeyHash::digest(&number.to_le_bytes())
}

impl Numbered {
    fn new(keys: u32) -> Self {
        let by_hash = (0..keys).map(|number| (hash(number), number)).collect();
        Self { keys, disabled: RwLock::default(), by_hash: RwLock::new(by_hash) }
    }

    fn record(&self, number: u32, hash: KeyHash) -> KeyRecord {
        let state = if self.disabled.read().contains(&hash) { KeyState::Disabled } else { KeyState::Active };
        KeyRecord {
            id: format!("key_{number:016}").parse().unwrap(),
            name: format!("The key of number {number}").parse().unwrap(),
            hash,
            state,
            owner: Some("ada".into()),
            team: Some("research".into()),
            models: None,
            limits: OwnLimits { requests_per_minute: Some("600".parse().unwrap()), ..OwnLimits::default() },
            expires_at: None,
            retiring: Box::default(),
            wallet: None,
            priority: Priority::default(),
            terms: None,
        }
    }
}

#[async_trait]
impl KeySource for Numbered {
    async fn look_up(&self, hash: &KeyHash, _: Option<&EntityTag>) -> Result<Answer, SourceError> {
        let number = self.by_hash.read().get(hash).copied();
        Ok(number.map_or(Answer::Unknown, |number| {
            let record = Arc::new(self.record(number, *hash));
            Answer::Key(Found { record, tag: None, believed_for: None, balance: None })
        }))
    }

    fn has_answered(&self) -> bool {
        true
    }
}

struct House {
    source: Arc<Numbered>,
    metrics: Arc<Metrics>,
    resolver: Arc<Resolver>,
    runs: Arc<RevocationRegistry>,
}

impl House {
    fn with(keys: u32) -> Self {
        let metrics = Arc::new(Metrics::new(100_000).unwrap());
        let (source, runs) = (Arc::new(Numbered::new(keys)), Arc::new(RevocationRegistry::default()));
        let hour = Duration::from_hours(1);
        let terms = KeyCache { capacity: 1_000_000, ttl: hour, unknown_ttl: Duration::from_secs(5), stale_for: hour };
        let accounts = Arc::new(Accounts::new(metrics.clone()));
        let resolver = Arc::new(Resolver::new(source.clone(), &terms, accounts, metrics.clone(), runs.clone()));
        Self { source, metrics, resolver, runs }
    }

    fn gate(&self) -> Gate {
        let text = "{upstreams: [{name: one, url: 'http://127.0.0.1:1'}], keys: {yaml: {path: keys.yaml}}}";
        let config = config::parse(text, Path::new("/keymeter.yaml"), &|_| None).unwrap();
        Gate::new(
            Settings::new(&config, &Pools::new(self.metrics.pools().clone())),
            self.resolver.clone(),
            self.metrics.clone(),
            AccessLog::none(),
        )
    }

    async fn meet_all(&self) {
        for number in 0..self.source.keys {
            self.resolver
                .resolve(hash(number), MonotonicTime::now())
                .await
                .unwrap_or_else(|_| panic!("there is such a key"));
        }
        self.resolver.evict_expired(MonotonicTime::now());
    }
}

/// The process's resident memory in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn what_a_key_takes_is_bounded_and_strangers_push_out_nobody() {
    let (keys, strangers) = scaled((20_000, 50_000), (1_000_000, 10_000_000));
    let house = House::with(keys);
    // The source of this test holds its keys in memory too, and a gateway's does not.
    let before = resident();
    let start = Instant::now();
    house.meet_all().await;
    let taken = resident().saturating_sub(before);
    let each = taken / u64::from(keys);
    println!("{keys} keys take {} MiB, {each} bytes each; met in {:?}", taken >> 20, start.elapsed());
    assert!(each <= 6000, "{each} bytes for a key, series included");
    assert!(taken < 1 << 30, "{taken} bytes");
    for number in 0..strangers {
        let stranger = hash(keys + number);
        assert_eq!(house.resolver.resolve(stranger, MonotonicTime::now()).await.err(), Some(ResolveError::Unknown));
    }
    house.resolver.evict_expired(MonotonicTime::now());
    let known = (0..keys).filter(|number| house.resolver.known(&hash(*number)).is_some()).count();
    let grown = resident().saturating_sub(before + taken);
    println!(
        "after {strangers} strangers {known} of {keys} keys are known, and memory has grown by {} MiB",
        grown >> 20
    );
    assert!(known as u64 * 100 >= u64::from(keys) * 99, "{known} of {keys}");
    assert!(grown < 200 << 20, "{grown} bytes");
}

#[tokio::test]
async fn the_series_of_a_hundred_thousand_keys_are_scraped_in_seconds() {
    let keys = scaled(2_000, 100_000);
    let house = House::with(keys);
    let gate = house.gate();
    let (model, limit) = ("llama-3*".into(), Limit::at(600).unwrap());
    let limits = Limits { requests_per_minute: limit, tokens_per_minute: limit, concurrent_requests: limit };
    for number in 0..keys {
        let key = house.resolver.resolve(hash(number), MonotonicTime::now()).await.ok().unwrap();
        key.account.metrics.model(&model).answered(200);
        key.account.metrics.held_to(&limits.into());
    }
    let start = Instant::now();
    let text = gate.scrape(Now::read()).unwrap();
    println!("{keys} keys are scraped in {:?}, {} MiB", start.elapsed(), text.len() >> 20);
    assert_eq!(text.matches("keymeter_requests_total{key_id=").count(), keys as usize);
    assert_eq!(text.matches("keymeter_key_limit_used_ratio{key_id=").count(), keys as usize * 3);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_within_milliseconds_whatever_the_number_of_keys() {
    let (keys, runs, rounds) = scaled((10_000, 1000, 50), (1_000_000, 1000, 1000));
    let house = House::with(keys);
    house.meet_all().await;
    let mut running = Vec::new();
    for number in 0..runs {
        let key = house.resolver.resolve(hash(number), MonotonicTime::now()).await.ok().unwrap();
        running.push(house.runs.register(&key.record.id, *key.hash(), key.end()));
    }
    let mut lags = Vec::new();
    for running in running.iter().take(rounds) {
        let number = u32::try_from(lags.len()).unwrap();
        house.source.disabled.write().insert(hash(number));
        let id = format!("key_{number:016}").parse().unwrap();
        let start = Instant::now();
        house.resolver.changed(Change::Key { id: Some(id), hash: None }, MonotonicTime::now());
        std::future::poll_fn(|context| running.entry().poll_revoked(context)).await;
        lags.push(start.elapsed());
    }
    assert!(running.iter().skip(rounds).all(|running| running.entry().denial().is_none()), "the others go on");
    lags.sort_unstable();
    let at = |percent: usize| lags[(lags.len() * percent / 100).min(lags.len() - 1)];
    println!("{keys} keys, {runs} running: p50 {:?}, p99 {:?}, at most {:?}", at(50), at(99), at(100));
    assert!(at(99) < Duration::from_secs(1), "{:?}", at(99));
}
