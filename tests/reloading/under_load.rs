//! Requests that run while the configuration is reloaded over and over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinSet;

use super::{chat, reload, reload_keys, two_keys, upstream};
use crate::support::{
    client::Client,
    gateway::{Gateway, SECRET, config, one_key},
    soak::scaled,
};

/// Requests that are made while the test does something else.
struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn on(gateway: &Gateway, clients: usize) -> Self {
        let mut load = Self { stop: Arc::default(), made: Arc::default(), clients: JoinSet::new() };
        for number in 0..clients {
            let (stop, made, address) = (load.stop.clone(), load.made.clone(), gateway.address());
            load.clients.spawn(async move {
                let mut failures = Vec::new();
                let mut client = Client::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let body = json!({"model": "m", "stream": number % 2 == 0, "messages": []});
                    let answer = client.chat(SECRET, &body).await;
                    let whole = answer.text().trim_end().ends_with(if number % 2 == 0 { "[DONE]" } else { "}" });
                    if answer.status != 200 || !whole {
                        failures.push(format!("{} {}", answer.status, answer.text()));
                    }
                    made.fetch_add(1, Ordering::Relaxed);
                }
                failures
            });
        }
        load
    }

    /// How many requests were made, none of which may have failed.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.clients.join_all().await.concat();
        assert!(failures.is_empty(), "{failures:#?}");
        self.made.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_and_no_count_is_lost_however_often_it_is_reloaded() {
    const LIMIT: u64 = 10_000_000;
    let upstream = upstream().await;
    let limits = format!(", limits: {{requests_per_minute: {LIMIT}}}");
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(&limits));
    let start = Instant::now();
    let load = Load::on(&gateway, 4);
    let reloads = scaled(60, 1000);
    for number in 0..reloads {
        let (keys, status) = match number % 3 {
            0 => (two_keys(&limits, ""), 200),
            1 => (one_key(&limits), 200),
            _ => (one_key(", limits: 7"), 422),
        };
        gateway.write_keys(&keys);
        gateway.write_config(&config(&upstream, &format!("key_cache: {{ttl: {}s}}", 60 + number)));
        let answer = reload(&gateway).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let made = load.end().await;
    assert!(made > 0);
    for (status, count) in [("200", made), ("401", 0), ("502", 0)] {
        let series = format!(r#"keymeter_requests_total{{key_id="key_test",model="other",status="{status}"}}"#);
        gateway.metric_becomes(&series, count as f64).await;
    }
    gateway
        .metric_becomes(r#"keymeter_tokens_total{key_id="key_test",model="other",type="input"}"#, (7 * made) as f64)
        .await;
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
    reload_keys(&gateway, &one_key(&limits)).await;
    let left = gateway.chat(&chat()).await.header("x-ratelimit-remaining-requests").unwrap().to_owned();
    if start.elapsed() < Duration::from_mins(1) {
        assert_eq!(left.parse(), Ok(LIMIT - made - 1), "the limit's window forgot requests");
    }
    let lines = (0..=made).map(|_| gateway.next_line()).filter(|line| line["status"] == 200).count();
    assert_eq!(lines as u64, made + 1);
}
