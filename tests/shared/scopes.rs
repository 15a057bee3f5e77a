//! Limits of teams and models, and quotas, over all gateways.

use std::{net::SocketAddr, path::PathBuf};

use tempfile::TempDir;

use super::*;
use crate::support::{
    line::{Fault, Line},
    process::Process,
    scene::get,
};

/// Gateways that are processes of their own.
struct Processes {
    running: Vec<Process>,
    addresses: Vec<SocketAddr>,
    _folders: Vec<TempDir>,
}

impl Processes {
    async fn start(count: usize, text: &str, keys: &str) -> Self {
        let (mut processes, mut folders) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let folder = tempfile::tempdir().unwrap();
            let path: PathBuf = folder.path().join("keymeter.yaml");
            std::fs::write(&path, text).unwrap();
            std::fs::write(folder.path().join("keys.yaml"), keys).unwrap();
            processes.push(Process::serve(&path));
            folders.push(folder);
        }
        let mut addresses = Vec::new();
        for process in &processes {
            addresses.push(process.addresses().await.0);
        }
        for process in &processes {
            process.stderr.line("limits are shared with").await;
        }
        Self { running: processes, addresses, _folders: folders }
    }
}

pub(super) fn sharing(upstream: &ScriptedUpstream, shared: &str) -> String {
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    configuration(&upstreams, "", &format!("limits: {{shared: {{{shared}}}}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_team_of_50_keys_exactly_10_of_200_requests_through_each_of_4_processes_are_admitted() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let text = sharing(&upstream, &format!("url: \"{}\", timeout: 5s", redis.url()));
    let limits = ["requests_per_minute: 10", "quotas: [{requests: 10, per: 5h}]", "quotas: [{requests: 10, per: day}]"];
    for round in 0..scaled(3, 100) {
        let limits = limits[round % limits.len()];
        let teams = format!("teams: [{{id: research, limits: {{{limits}}}}}]\n");
        let keys = format!("{teams}{}", keys(50, "team: research, limits: {requests_per_minute: 100}"));
        let mut gateways = Processes::start(4, &text, &keys).await;
        let mut clients = Vec::new();
        for address in &gateways.addresses {
            for _ in 0..200 {
                clients.push(Client::connect(*address).await);
            }
        }
        let together = std::sync::Arc::new(tokio::sync::Barrier::new(clients.len()));
        let tasks = clients.into_iter().enumerate().map(|(number, mut client)| {
            let together = together.clone();
            tokio::spawn(async move {
                together.wait().await;
                ask(&mut client, number % 50).await
            })
        });
        let (tasks, mut admitted): (Vec<_>, _) = (tasks.collect(), 0);
        for task in tasks {
            let answer = task.await.unwrap();
            match answer.status {
                200 => admitted += 1,
                429 => assert!(answer.text().contains("the team research of the API key"), "{}", answer.text()),
                status => panic!("{status}: {}", answer.text()),
            }
        }
        assert_eq!(admitted, 10, "{limits}");
        assert!(gateways.running.iter_mut().all(Process::is_running));
        redis.ask(&["FLUSHALL"]);
    }
}

/// What `GET /v1/usage` tells of one limit.
pub(super) async fn used(gateway: &Gateway, scope: &str, limit: &str) -> u64 {
    used_at(&mut gateway.connect().await, scope, limit).await
}

/// The same over a connection.
pub(super) async fn used_at(client: &mut Client, scope: &str, limit: &str) -> u64 {
    let told = get(client, "/v1/usage", &secret(0)).await.json();
    let all = told["all"].as_array().unwrap();
    let line = all.iter().find(|line| line["scope"] == scope && line["limit"] == limit);
    line.unwrap_or_else(|| panic!("no {limit} of {scope} in {told}"))["used"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_from_the_server_of_all_scopes() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let keys = format!(
        "teams: [{{id: research, limits: {{requests_per_minute: 6, quotas: [{{tokens: 100000, per: day}}]}}}}]\n{}",
        keys(
            2,
            "team: research, limits: {quotas: [{requests: 50, per: 5h}], models: {\"m*\": {requests_per_minute: 30}}}"
        )
    );
    let gateways = gateways(2, &upstream, &format!("url: \"{}\"", redis.url()), &keys).await;
    for (gateway, key) in [(0, 0), (1, 0), (1, 1)] {
        let answer = ask(&mut gateways[gateway].connect().await, key).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        gateways[gateway].metric_becomes(&format!("keymeter_requests_in_flight{{key_id=\"key_{key}\"}}"), 0.0).await;
    }
    let left =
        ask(&mut gateways[0].connect().await, 1).await.header("x-ratelimit-remaining-requests").map(str::to_owned);
    assert_eq!(left.as_deref(), Some("2"), "of the tightest, which is the team's");
    gateways[0].metric_becomes("keymeter_requests_in_flight{key_id=\"key_1\"}", 0.0).await;
    let tokens = 4 * completion("m", 3)["usage"]["total_tokens"].as_u64().unwrap();
    for gateway in &gateways {
        let start = Instant::now();
        while used(gateway, "team", "tokens_per_day").await != tokens {
            assert!(start.elapsed() < PATIENCE);
        }
        assert_eq!(used(gateway, "team", "requests_per_minute").await, 4);
        assert_eq!(
            (used(gateway, "key", "requests_per_5h").await, used(gateway, "model", "requests_per_minute").await),
            (2, 2)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_shared_out_while_the_server_is_away_and_what_was_used_is_said_to_it_afterwards() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let keys = keys(1, "limits: {quotas: [{requests: 12, per: day}]}");
    let (mut lines, mut gateways) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let line = Line::to(([127, 0, 0, 1], redis.port).into()).await;
        gateways.push(Gateway::start(&sharing(&upstream, &format!("url: \"redis://{}\"", line.address)), &keys));
        lines.push(line);
    }
    for gateway in &gateways {
        gateway.metric_becomes("keymeter_shared_limits_gateways", 2.0).await;
    }
    // The other knows of 8 that were left, and the first of 7.
    for gateway in [0, 0, 0, 1, 0] {
        assert_eq!(ask(&mut gateways[gateway].connect().await, 0).await.status, 200);
    }
    for line in &lines {
        line.set(Fault::Cut);
    }
    for gateway in &gateways {
        gateway.metric_becomes("keymeter_shared_limits_reachable", 0.0).await;
    }
    let mut admitted = Vec::new();
    for gateway in &gateways {
        let mut client = gateway.connect().await;
        let mut count = 0;
        for _ in 0..12 {
            let answer = ask(&mut client, 0).await;
            count += u64::from(answer.status == 200);
            assert!(answer.status == 200 || answer.text().contains("insufficient_quota"), "{}", answer.text());
        }
        admitted.push(count);
    }
    assert_eq!(admitted, [3, 4], "half of what was left");
    for line in &lines {
        line.set(Fault::None);
    }
    for gateway in &gateways {
        gateway.metric_becomes("keymeter_shared_limits_reachable", 1.0).await;
    }
    for gateway in &gateways {
        let start = Instant::now();
        while used(gateway, "key", "requests_per_day").await != 12 {
            assert!(start.elapsed() < PATIENCE, "{} are used", used(gateway, "key", "requests_per_day").await);
        }
        assert_eq!(ask(&mut gateway.connect().await, 0).await.status, 429);
    }
}
