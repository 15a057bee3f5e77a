//! A server that lost its data gets back what each gateway added to quotas, and counts none of it twice.

use std::path::Path;

use tempfile::TempDir;

use super::{
    scopes::{sharing, used, used_at},
    *,
};
use crate::support::process::{Process, Signal};

const LIMIT: u64 = 12;

fn quotas() -> String {
    let teams = "teams: [{id: research, limits: {quotas: [{requests: 100, per: week}]}}]\n";
    let model = "models: {\"m*\": {quotas: [{requests: 50, per: day}]}}";
    let own = format!("quotas: [{{requests: {LIMIT}, per: month, zone: Europe/Berlin}}, {{requests: 40, per: 5h}}]");
    format!("{teams}{}", keys(1, &format!("team: research, limits: {{{own}, {model}}}")))
}

/// What each of the quotas says.
const ALL: [(&str, &str); 4] = [
    ("key", "requests_per_month"),
    ("key", "requests_per_5h"),
    ("model", "requests_per_day"),
    ("team", "requests_per_week"),
];

async fn all_become(gateway: &Gateway, count: u64) {
    for (scope, limit) in ALL {
        let start = Instant::now();
        while used(gateway, scope, limit).await != count {
            assert!(start.elapsed() < PATIENCE, "{limit}: {} and not {count}", used(gateway, scope, limit).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_run_give_back_what_they_added() {
    let (mut redis, upstream) = (Redis::start(), upstream().await);
    let gateways = gateways(2, &upstream, &format!("url: \"{}\"", redis.url()), &quotas()).await;
    let mut count = 0;
    for (gateway, requests) in [(0, 3), (1, 4), (0, 2)] {
        let mut client = gateways[gateway].connect().await;
        for _ in 0..requests {
            assert_eq!(ask(&mut client, 0).await.status, 200);
        }
        count += requests;
        for gateway in &gateways {
            all_become(gateway, count).await;
        }
        redis.kill();
        for gateway in &gateways {
            gateway.metric_becomes("keymeter_shared_limits_reachable", 0.0).await;
        }
        redis.restart();
        for gateway in &gateways {
            gateway.metric_becomes("keymeter_shared_limits_reachable", 1.0).await;
        }
        for gateway in &gateways {
            all_become(gateway, count).await;
        }
    }
    let mut client = gateways[1].connect().await;
    for _ in count..LIMIT {
        assert_eq!(ask(&mut client, 0).await.status, 200);
    }
    let refused = ask(&mut client, 0).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (429, Some("insufficient_quota")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_added_before_a_restart_is_given_back_and_no_more() {
    let (mut redis, upstream) = (Redis::start(), upstream().await);
    let folder = tempfile::tempdir().unwrap();
    let text = sharing(&upstream, &format!("url: \"{}\"", redis.url()));
    std::fs::write(folder.path().join("keymeter.yaml"), text).unwrap();
    std::fs::write(folder.path().join("keys.yaml"), quotas()).unwrap();
    let mut count = 0;
    for (requests, loses, end) in [
        (4, true, Signal::TERM),
        (3, false, Signal::TERM),
        (1, true, Signal::KILL),
        (1, false, Signal::KILL),
        (0, false, Signal::TERM),
    ] {
        let (mut process, address) = start(&folder).await;
        let mut client = Client::connect(address).await;
        for _ in 0..requests {
            assert_eq!(ask(&mut client, 0).await.status, 200);
        }
        count += requests;
        for (scope, limit) in ALL {
            let start = Instant::now();
            while used_at(&mut client, scope, limit).await != count {
                let used = used_at(&mut client, scope, limit).await;
                assert!(start.elapsed() < PATIENCE, "{limit}: {used} and not {count}");
            }
        }
        process.signal(end);
        process.ended().await;
        if loses {
            redis.kill();
            redis.restart();
        }
    }
}

async fn start(folder: &TempDir) -> (Process, std::net::SocketAddr) {
    let path: &Path = &folder.path().join("keymeter.yaml");
    let process = Process::serve(path);
    let (address, _) = process.addresses().await;
    process.stderr.line("limits are shared with").await;
    (process, address)
}
