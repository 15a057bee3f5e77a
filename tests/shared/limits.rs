//! One limit over all gateways, while the server is there.

use super::*;
use crate::support::{client::within, process, scene::get};

#[tokio::test(flavor = "multi_thread")]
async fn of_200_requests_at_once_through_each_of_4_gateways_exactly_10_are_admitted() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let rounds = scaled(3, 200);
    let keys = keys(rounds, "limits: {requests_per_minute: 10}");
    let gateways = gateways(4, &upstream, &format!("url: \"{}\", timeout: 5s", redis.url()), &keys).await;
    let mut clients = Vec::new();
    for gateway in &gateways {
        for _ in 0..200 {
            clients.push(gateway.connect().await);
        }
    }
    for round in 0..rounds {
        let together = std::sync::Arc::new(tokio::sync::Barrier::new(clients.len()));
        let tasks: Vec<_> = clients
            .drain(..)
            .map(|mut client| {
                let together = together.clone();
                tokio::spawn(async move {
                    together.wait().await;
                    let answer = ask(&mut client, round).await;
                    (client, answer)
                })
            })
            .collect();
        let mut admitted = 0;
        for task in tasks {
            let (client, answer) = task.await.unwrap();
            clients.push(client);
            match answer.status {
                200 => admitted += 1,
                429 => assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"), "{}", answer.text()),
                status => panic!("{status}: {}", answer.text()),
            }
        }
        assert_eq!(admitted, 10, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worst_case_is_never_overrun_over_all_gateways() {
    let redis = Redis::start();
    // Each answer is as long as its request allows.
    let upstream = ScriptedUpstream::start(|request| {
        let most = request.json()["max_tokens"].as_u64().unwrap();
        let answer = json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": most}});
        Script::json(200, &answer)
    })
    .await;
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let limits = format!(
        "limits: {{reservation: worst_case, shared: {{url: \"{}\", timeout: 5s}}}}\nmodels: [{{name: m, max_output_tokens: 40}}]",
        redis.url()
    );
    let text = configuration(&upstreams, "", &limits);
    let keys = keys(1, "limits: {tokens_per_minute: 1000}");
    let gateways: Vec<_> = (0..4).map(|_| Gateway::start(&text, &keys)).collect();
    for gateway in &gateways {
        gateway.metric_becomes("keymeter_shared_limits_reachable", 1.0).await;
    }
    let mut tasks = Vec::new();
    for number in 0..100 {
        let mut client = gateways[number % 4].connect().await;
        tasks.push(tokio::spawn(async move { ask(&mut client, 0).await.status }));
    }
    let mut admitted = 0;
    for task in tasks {
        admitted += u64::from(task.await.unwrap() == 200);
    }
    let used: u64 = upstream.received().iter().map(|request| 1 + request.json()["max_tokens"].as_u64().unwrap()).sum();
    assert!(admitted >= 20 && used <= 1000, "{admitted} admitted used {used}");
}

#[tokio::test]
async fn the_worst_case_without_a_maximum_gets_all_that_is_free_at_each_gateway() {
    let redis = Redis::start();
    let upstream = upstream().await;
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let limits = format!("limits: {{reservation: worst_case, shared: {{url: \"{}\", timeout: 5s}}}}", redis.url());
    let text = configuration(&upstreams, "", &limits);
    let keys = keys(1, "limits: {tokens_per_minute: 100000}");
    let gateways: Vec<_> = (0..2).map(|_| Gateway::start(&text, &keys)).collect();
    for gateway in &gateways {
        gateway.metric_becomes("keymeter_shared_limits_reachable", 1.0).await;
    }
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    for number in 0..6 {
        let mut client = gateways[number % 2].connect().await;
        let answer = post(&mut client, "/v1/chat/completions", &secret(0), &body).await;
        assert_eq!(answer.status, 200, "request {number}: {}", answer.text());
        // What ended is handed in a moment later.
        gateways[number % 2].metric_becomes("keymeter_requests_in_flight{key_id=\"key_0\"}", 0.0).await;
        let start = Instant::now();
        while get(&mut client, "/v1/usage", &secret(0)).await.json()["limits"]["tokens_per_minute"]["used"]
            .as_u64()
            .is_none_or(|used| used > 1000)
        {
            assert!(start.elapsed() < PATIENCE);
        }
    }
    let most: Vec<_> =
        upstream.received().iter().map(|request| request.json()["max_tokens"].as_u64().unwrap()).collect();
    assert!(most.iter().all(|most| *most > 99_000), "{most:?}");
}

#[tokio::test]
async fn what_one_gateway_admits_is_seen_at_all() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let keys = keys(1, "limits: {requests_per_minute: 10, tokens_per_minute: 100000, concurrent_requests: 3}");
    let gateways = gateways(2, &upstream, &format!("url: \"{}\"", redis.url()), &keys).await;
    let (mut first, mut second) = (gateways[0].connect().await, gateways[1].connect().await);
    for left in (5..10).rev() {
        let answer = ask(if left % 2 == 0 { &mut first } else { &mut second }, 0).await;
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left.to_string().as_str()));
        assert_eq!(answer.header("x-ratelimit-reset-requests"), Some("1m0s"));
    }
    gateways[0].metric_becomes("keymeter_requests_in_flight{key_id=\"key_0\"}", 0.0).await;
    let start = Instant::now();
    let used = loop {
        let usage = get(&mut first, "/v1/usage", &secret(0)).await.json()["limits"].clone();
        if usage["concurrent_requests"]["used"] == 0 {
            break usage;
        }
        assert!(start.elapsed() < PATIENCE, "{usage}");
    };
    assert_eq!(
        (&used["requests_per_minute"]["used"], &used["requests_per_minute"]["remaining"]),
        (&json!(5), &json!(5))
    );
    let tokens = used["tokens_per_minute"]["used"].as_u64().unwrap();
    assert_eq!(tokens, 5 * completion("m", 3)["usage"]["total_tokens"].as_u64().unwrap(), "what was really used");
}

#[tokio::test]
async fn a_place_that_one_gateway_frees_is_free_at_another() {
    let (redis, gate) = (Redis::start(), Gate::new());
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |_| Script::json(200, &completion("m", 3)).gated(0, &held)).await;
    let keys = keys(1, "limits: {concurrent_requests: 1}");
    let gateways = gateways(2, &upstream, &format!("url: \"{}\"", redis.url()), &keys).await;
    let mut first = gateways[0].connect().await;
    let running = tokio::spawn(async move { ask(&mut first, 0).await.status });
    upstream.wait_for_request(1).await;
    let mut second = gateways[1].connect().await;
    let refused = ask(&mut second, 0).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert!(refused.text().contains("has 1 of the 1 requests running"), "{}", refused.text());
    gate.open();
    assert_eq!(running.await.unwrap(), 200);
    let start = Instant::now();
    while ask(&mut second, 0).await.status != 200 {
        assert!(start.elapsed() < Duration::from_millis(scaled(3000, 500)), "the place stays taken");
    }
}

#[tokio::test]
async fn the_limits_survive_a_gateway() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let keys = keys(1, "limits: {requests_per_minute: 3}");
    let shared = format!("url: \"{}\"", redis.url());
    let before = gateways(1, &upstream, &shared, &keys).await;
    for _ in 0..3 {
        assert_eq!(ask(&mut before[0].connect().await, 0).await.status, 200);
    }
    drop(before);
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let text = configuration(&upstreams, "", &format!("limits: {{shared: {{{shared}, timeout: 5s}}}}"));
    let after = Gateway::start(&text, &keys);
    // The first request comes when the gateway has not met the server yet: it waits for that.
    assert_eq!(ask(&mut after.connect().await, 0).await.status, 429);
}

#[tokio::test]
async fn what_has_no_limit_needs_no_server() {
    let (mut redis, upstream) = (Redis::start(), upstream().await);
    let gateways =
        gateways(1, &upstream, &format!("url: \"{}\", when_unreachable: refuse", redis.url()), &keys(1, "")).await;
    redis.kill();
    let mut client = gateways[0].connect().await;
    for _ in 0..20 {
        assert_eq!(ask(&mut client, 0).await.status, 200);
    }
    assert_eq!(gateways[0].metric("keymeter_shared_limits_duration_seconds_count").await, 0.0);
}

#[tokio::test]
async fn a_change_of_the_server_is_said_to_need_a_restart() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keymeter.yaml");
    let upstreams = format!("{{name: scripted, url: \"{}\"}}", upstream.url());
    let text = |timeout| {
        configuration(&upstreams, "", &format!("limits: {{shared: {{url: \"{}\", timeout: {timeout}}}}}", redis.url()))
    };
    std::fs::write(directory.path().join("keys.yaml"), keys(1, "")).unwrap();
    std::fs::write(&path, text("50ms")).unwrap();
    let process = process::Process::serve(&path);
    process.addresses().await;
    process.stderr.line("limits are shared with 0 other gateways").await;
    crate::support::gateway::replace(&path, &text("60ms"));
    let line = process.stderr.line("restart").await;
    assert!(line.contains("limits.shared"), "{line}");
}

/// The place of a request whose body is still to come is taken at its own gateway, and nothing of the minute with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_takes_a_place_at_its_gateway_and_nothing_of_the_minute() {
    let (redis, upstream) = (Redis::start(), upstream().await);
    let keys = keys(1, "limits: {requests_per_minute: 5, concurrent_requests: 1}");
    let gateways = gateways(2, &upstream, &format!("url: \"{}\", timeout: 5s", redis.url()), &keys).await;
    let mut waiting = gateways[0].connect().await;
    let line = format!("authorization: Bearer {}", secret(0));
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n{line}\r\ncontent-length: 1000\r\n\r\n{{");
    waiting.send_raw(head.as_bytes()).await;
    gateways[0].holds_of_bodies(1).await;
    let refused = ask(&mut gateways[0].connect().await, 0).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{}", refused.text());
    let elsewhere = ask(&mut gateways[1].connect().await, 0).await;
    assert_eq!((elsewhere.status, elsewhere.header("x-ratelimit-remaining-requests")), (200, Some("4")));
    drop(waiting);
    gateways[0].holds_of_bodies(0).await;
    let mut left = 0;
    // The other gateway's request may still be there for a moment.
    within("the place to come back", async {
        let answer = loop {
            let answer = ask(&mut gateways[0].connect().await, 0).await;
            if answer.status == 200 {
                break answer;
            }
        };
        left = answer.header("x-ratelimit-remaining-requests").unwrap().parse().unwrap();
    })
    .await;
    assert_eq!(left, 3, "two were made");
}
