//! A gate over keys of a test's own, without a proxy before it.

use std::{
    io::Write,
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use keymeter_config::{self as config, KeyCache};
use keymeter_core::{
    api::{Api, Endpoint},
    body::scan,
    clock::MonotonicTime,
    key::{KeyRecord, OwnLimits, Priority, Secret},
    limit::Limit,
    rejection::Rejection,
};

use super::super::*;
use crate::{
    keys::{Resolver, YamlSource},
    limits::account::Accounts,
    observe::{access_log::AccessLog, metrics::Metrics},
    upstream::Pools,
};

const HOUR: Duration = Duration::from_hours(1);
const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A gate with what it stands between: keys, and the log and the metrics that it writes to.
pub struct Fixture {
    pub gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    pub resolver: Arc<Resolver>,
    log: Receiver<Vec<u8>>,
}

impl Fixture {
    /// With these keys, further sections of the configuration, and room for so many keys in the cache.
    pub fn new(records: Vec<KeyRecord>, sections: &str, capacity: u64) -> Self {
        let metrics = Arc::new(Metrics::new(100).unwrap());
        let cache = KeyCache { capacity, ttl: HOUR, unknown_ttl: HOUR, stale_for: HOUR };
        let accounts = Arc::new(Accounts::new(metrics.clone()));
        let source = Arc::new(YamlSource::new(records));
        let resolver = Arc::new(Resolver::new(source, &cache, accounts, metrics.clone(), Arc::default()));
        let (sender, log) = channel();
        let log_to = AccessLog::to(Lines(sender)).unwrap();
        let gate = Arc::new(Gate::new(settings(sections), resolver.clone(), metrics.clone(), log_to));
        Self { gate, metrics, resolver, log }
    }

    pub fn of(record: KeyRecord) -> Self {
        Self::new(vec![record], "", 1000)
    }

    pub async fn identify(&self, secret: &str, now: Now) -> Result<Identified, Rejection> {
        let context = RequestContext::new("/v1/chat/completions", Api::OpenAi, HOME, self.gate.settings(), now);
        let value = HeaderValue::try_from(secret).unwrap();
        let headers = [(HeaderName::from_static("x-api-key"), value)].into_iter().collect();
        let credentials = Credentials { headers: &headers, in_query: None };
        self.gate.identify(context, credentials, now).await.map_err(|rejected| rejected.rejection)
    }

    pub async fn ask(&self, secret: &str, body: &'static str, now: Now) -> Result<Box<ActiveRequest>, Rejection> {
        let request = self.identify(secret, now).await?;
        let admitted = admit(&self.gate, request, Endpoint::ChatCompletions, body.as_bytes(), now).await;
        admitted.map_err(|rejected| {
            assert!(rejected.key.is_some(), "what is known of the request comes back whole");
            rejected.rejection
        })
    }

    pub async fn admitted(&self, body: &'static str) -> Box<ActiveRequest> {
        self.ask("sk-key_a", body, now()).await.unwrap_or_else(|rejection| panic!("{}", rejection.message()))
    }

    /// Asserts that a series has a value; 0 is also one that is not there.
    pub fn counts(&self, series: &str, value: &str) {
        let text = self.metrics.encode().unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        assert_eq!(found.unwrap_or("0"), value, "{series}");
    }

    pub fn in_flight(&self, value: &str) {
        self.counts(r#"keymeter_requests_in_flight{key_id="key_a"}"#, value);
    }

    /// All lines of the log, when nobody writes any more.
    pub fn lines(self) -> Vec<serde_json::Value> {
        let Self { gate, log, .. } = self;
        drop(gate);
        log.iter().map(|line| serde_json::from_slice(&line).unwrap()).collect()
    }
}

/// Admits a request whose body this is.
pub async fn admit(
    gate: &Arc<Gate>,
    request: Identified,
    endpoint: Endpoint,
    body: &'static [u8],
    now: Now,
) -> Result<Box<ActiveRequest>, Box<Rejected>> {
    let read_body = async |_| Ok(scan(&Bytes::from_static(body), endpoint.shape()));
    gate.admit(request, endpoint, read_body, || now).await.map(|(request, _)| request)
}

/// Gives each line of the access log to the test.
struct Lines(std::sync::mpsc::Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            // A test that is over no longer reads.
            let _ = self.0.send(line.to_vec());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub fn settings(sections: &str) -> Settings {
    settings_with("", sections)
}

pub fn settings_with(option: &str, sections: &str) -> Settings {
    let upstream = format!("upstreams: [{{name: up, url: \"http://127.0.0.1:1\"{option}}}]");
    let text = format!("{upstream}\nkeys: {{yaml: {{path: keys.yaml}}}}\n{sections}\n");
    let pools = Pools::new(Metrics::new(1).unwrap().pools().clone());
    Settings::new(&config::parse(&text, Path::new("/keymeter.yaml"), &|_| None).unwrap(), &pools)
}

pub fn record(id: &str) -> KeyRecord {
    KeyRecord {
        id: id.parse().unwrap(),
        name: "some key".parse().unwrap(),
        hash: Secret::new(format!("sk-{id}")).hash(),
        state: keymeter_core::key::KeyState::Active,
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

pub fn limited(id: &str, requests: u64, tokens: u64, concurrent: u64) -> KeyRecord {
    let limits = OwnLimits {
        requests_per_minute: Limit::at(requests),
        tokens_per_minute: Limit::at(tokens),
        concurrent_requests: Limit::at(concurrent),
    };
    KeyRecord { limits, ..record(id) }
}

pub fn now() -> Now {
    at(Duration::ZERO)
}

/// So long after the test's beginning. A request that is dropped reads the clock itself, so that is where time begins.
pub fn at(later: Duration) -> Now {
    thread_local! {
        static START: MonotonicTime = MonotonicTime::now();
    }
    let date = "2026-06-01T00:00:00Z".parse::<Timestamp>().unwrap();
    Now { moment: START.with(|start| *start) + later, date: date + later }
}
