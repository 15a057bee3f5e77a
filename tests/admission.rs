//! A key's limits are held exactly, whatever comes at once, and every answer says where the key stands.

mod credentials;
mod maxima;
mod reservations;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::Barrier,
    task::{JoinHandle, JoinSet},
};

use crate::support::{
    client::{Arrival, Client, Response},
    gateway::{Gateway, SECRET, config, one_key},
    script::{Gate, Script, completion, usage},
    upstream::ScriptedUpstream,
};

/// How many requests come at once.
const CROWD: usize = 200;

/// How often something is repeated: `normally`, or as often as `KEYMETER_SOAK` says.
pub fn repetitions(normally: usize) -> usize {
    let soak = std::env::var("KEYMETER_SOAK").ok();
    soak.map_or(normally, |times| times.parse().expect("KEYMETER_SOAK is a number"))
}

/// A small chat request.
pub fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
}

/// An upstream that answers at once, with 7 tokens in and `words` out.
pub async fn answering(words: u64) -> ScriptedUpstream {
    ScriptedUpstream::start(move |_| Script::json(200, &completion("m", words))).await
}

/// An upstream that answers when `gate` lets it.
pub async fn answering_behind(gate: &Gate) -> ScriptedUpstream {
    let gate = gate.clone();
    ScriptedUpstream::start(move |_| Script::json(200, &completion("m", 5)).gated(0, &gate)).await
}

/// A gateway whose one key has these `limits`.
fn limited(upstream: &ScriptedUpstream, limits: &str) -> Gateway {
    Gateway::start(&config(upstream, ""), &one_key(&format!(", limits: {{{limits}}}")))
}

/// Waits until nothing of the test's key runs any more.
async fn is_settled(gateway: &Gateway) {
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 0.0).await;
}

async fn crowd(gateway: &Gateway) -> Vec<Client> {
    let mut crowd = Vec::with_capacity(CROWD);
    for _ in 0..CROWD {
        crowd.push(gateway.connect().await);
    }
    crowd
}

/// All of them send the same request at the same moment.
fn at_once(crowd: Vec<Client>, secret: &str) -> JoinSet<(Client, Response)> {
    let start = Arc::new(Barrier::new(crowd.len()));
    let each = |mut client: Client| {
        let (start, secret) = (start.clone(), secret.to_owned());
        async move {
            start.wait().await;
            let response = client.chat(&secret, &chat()).await;
            (client, response)
        }
    };
    crowd.into_iter().map(each).collect()
}

fn is_refusal(response: &Response, kind: &str) {
    assert_eq!(response.status, 429, "{}", response.text());
    let error = &response.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&kind.into(), &"rate_limit_exceeded".into()));
    assert!(error["param"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_requests_at_once_exactly_as_many_are_admitted_as_a_minute_allows() {
    let upstream = answering(5).await;
    let times = repetitions(3);
    let secret = |time: usize| format!("sk-crowd-{time}");
    let keys = (0..times).map(|time| {
        let hash = keymeter_core::key::Secret::new(secret(time)).hash();
        format!("  - {{id: key_{time}, name: Test key, hash: \"{hash}\", limits: {{requests_per_minute: 10}}}}\n")
    });
    let gateway = Gateway::start(&config(&upstream, ""), &format!("keys:\n{}", keys.collect::<String>()));
    let mut crowd = crowd(&gateway).await;
    for time in 0..times {
        let answers = at_once(std::mem::take(&mut crowd), &secret(time)).join_all().await;
        let (admitted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(_, response)| response.status == 200);
        assert_eq!(admitted.len(), 10, "the {time}th time");
        for (_, response) in refused {
            is_refusal(response, "requests");
        }
        crowd = answers.into_iter().map(|(client, _)| client).collect();
    }
    assert_eq!(upstream.received().len(), 10 * times);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_requests_at_once_exactly_as_many_run_as_may_and_the_others_take_nothing() {
    let gate = Gate::new();
    let upstream = answering_behind(&gate).await;
    let times = repetitions(3);
    let gateway = limited(&upstream, "concurrent_requests: 10, requests_per_minute: 1_000_000");
    let mut crowd = crowd(&gateway).await;
    for time in 1..=times {
        let mut running = at_once(std::mem::take(&mut crowd), SECRET);
        upstream.wait_for_request(10 * time).await;
        while running.len() > 10 {
            let (client, response) = running.join_next().await.unwrap().unwrap();
            is_refusal(&response, "requests");
            assert_eq!((response.header("retry-after"), response.header("retry-after-ms")), (Some("1"), Some("1000")));
            crowd.push(client);
        }
        gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="key_test"}"#, 10.0).await;
        (0..10).for_each(|_| gate.pass_one());
        for (client, response) in running.join_all().await {
            assert_eq!(response.status, 200);
            crowd.push(client);
        }
        is_settled(&gateway).await;
    }
    assert_eq!(upstream.received().len(), 10 * times);
    let refused = r#"keymeter_rejections_total{key_id="key_test",reason="concurrent_requests",scope="key"}"#;
    gateway.metric_becomes(refused, f64::from(u32::try_from((CROWD - 10) * times).unwrap())).await;
    gate.open();
    let last = gateway.chat(&chat()).await;
    let left: usize = last.header("x-ratelimit-remaining-requests").unwrap().parse().unwrap();
    // Equal, unless the whole took more than a minute.
    assert!(left >= 1_000_000 - 10 * times - 1, "refusals took something: {left} are left");
}

/// A reset as OpenAI writes it: `120ms`, `1s`, `6m0s`.
fn parsed(reset: &str) -> Duration {
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("no number in {reset:?}: {text:?}"));
    let (written, duration) = if let Some(millis) = reset.strip_suffix("ms") {
        (format!("{}ms", number(millis)), Duration::from_millis(number(millis)))
    } else {
        let text = reset.strip_suffix('s').unwrap_or_else(|| panic!("no unit: {reset:?}"));
        match text.split_once('m') {
            Some((minutes, seconds)) => {
                assert!(number(seconds) < 60, "{reset}");
                let (minutes, seconds) = (number(minutes), number(seconds));
                (format!("{minutes}m{seconds}s"), Duration::from_secs(60 * minutes + seconds))
            }
            None => (format!("{}s", number(text)), Duration::from_secs(number(text))),
        }
    };
    assert_eq!(written, reset);
    duration
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_refusals_say_what_is_allowed_what_is_left_and_when_all_of_it_is_back() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "requests_per_minute: 2, tokens_per_minute: 10_000");
    let mut client = gateway.connect().await;
    for (status, left) in [(200, "1"), (200, "0"), (429, "0")] {
        let answer = client.chat(SECRET, &chat()).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let named = |name: &str| answer.header(&format!("x-ratelimit-{name}")).unwrap().to_owned();
        assert_eq!((named("limit-requests").as_str(), named("remaining-requests").as_str()), ("2", left));
        assert_eq!(named("limit-tokens"), "10000");
        assert!(named("remaining-tokens").parse::<u64>().unwrap() < 10_000);
        for written in [named("reset-requests"), named("reset-tokens")] {
            let reset = parsed(&written);
            assert!(reset > Duration::from_secs(30) && reset <= Duration::from_secs(61), "{reset:?}");
        }
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_how_long_to_wait_and_names_the_key_and_the_limit() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "requests_per_minute: 1");
    assert_eq!(gateway.chat(&chat()).await.status, 200);
    let refusal = gateway.chat(&chat()).await;
    is_refusal(&refusal, "requests");
    let number = |name| refusal.header(name).unwrap().parse::<u64>().unwrap();
    let (seconds, millis) = (number("retry-after"), number("retry-after-ms"));
    assert_eq!(seconds, millis.div_ceil(1000), "rounded up");
    assert!((30_000..=60_000).contains(&millis), "{millis}");
    assert_eq!(refusal.header("x-should-retry"), None, "a minute may be waited for");
    let message = refusal.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("key_test") && message.contains("1 of the 1 requests"), "{message}");
    assert!(!message.contains(SECRET));
    assert_eq!(refusal.header("content-type"), Some("application/json"));
    gateway
        .metric_becomes(r#"keymeter_rejections_total{key_id="key_test",reason="requests_per_minute",scope="key"}"#, 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waiting_cannot_mend_bears_no_retry_after() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "requests_per_minute: 5, tokens_per_minute: 10");
    let prompt = "a".repeat(128 * 11);
    let refusal = gateway.chat(&json!({"model": "m", "messages": [{"role": "user", "content": prompt}]})).await;
    assert_eq!(refusal.status, 429);
    let error = &refusal.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&"tokens".into(), &"request_too_large".into()));
    assert_eq!((refusal.header("retry-after"), refusal.header("retry-after-ms")), (None, None));
    assert_eq!(refusal.header("x-should-retry"), Some("false"));
    assert_eq!(refusal.header("x-ratelimit-remaining-requests"), Some("5"), "it took a request");
    assert_eq!(refusal.header("x-ratelimit-remaining-tokens"), Some("10"), "it took tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unlimited_has_no_headers() {
    let upstream = answering(5).await;
    let one = |what: &str| format!("{what}_per_minute: 100, {}_per_minute: unlimited", other(what));
    for (limits, requests, tokens) in
        [(one("requests"), true, false), (one("tokens"), false, true), ("concurrent_requests: 5".into(), false, false)]
    {
        let answer = limited(&upstream, &limits).chat(&chat()).await;
        for what in ["limit", "remaining", "reset"] {
            let has = |of: &str| answer.header(&format!("x-ratelimit-{what}-{of}")).is_some();
            assert_eq!((has("requests"), has("tokens")), (requests, tokens), "{limits}: {:?}", answer.headers);
        }
    }
}

fn other(what: &str) -> &'static str {
    if what == "tokens" { "requests" } else { "tokens" }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstreams_own_rate_headers_are_replaced_and_its_own_429_passes() {
    let upstream = ScriptedUpstream::start(|_| {
        Script::error(429, "overloaded_error", "the engine is full")
            .with_header("retry-after", "17")
            .with_header("x-ratelimit-limit-requests", "999")
            .with_header("x-ratelimit-remaining-tokens", "999")
            .with_header("X-RateLimit-Reset-Images", "999")
            .with_header("x-other", "kept")
    })
    .await;
    let gateway = limited(&upstream, "requests_per_minute: 5");
    let answer = gateway.chat(&chat()).await;
    assert_eq!(
        (answer.status, answer.header("retry-after"), answer.header("x-other")),
        (429, Some("17"), Some("kept"))
    );
    assert_eq!(answer.json()["error"]["message"], "the engine is full");
    let rates = answer.headers.iter().filter(|(name, _)| name.to_lowercase().starts_with("x-ratelimit-"));
    let mut rates: Vec<_> = rates.map(|(name, value)| (name.to_lowercase(), value.clone())).collect();
    rates.sort();
    let names: Vec<_> = rates.iter().map(|(name, _)| name.as_str()).collect();
    let ours = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
    assert_eq!(names, ours);
    assert_eq!((rates[0].1.as_str(), rates[1].1.as_str()), ("5", "4"), "what the upstream failed has been made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_over_one_limit_takes_nothing_of_the_others() {
    let gate = Gate::new();
    let upstream = answering_behind(&gate).await;
    let gateway = limited(&upstream, "requests_per_minute: 5, tokens_per_minute: 1500, concurrent_requests: 2");
    let first: JoinHandle<Response> = {
        let mut client = gateway.connect().await;
        tokio::spawn(async move { client.chat(SECRET, &chat()).await })
    };
    upstream.wait_for_request(1).await;
    for _ in 0..20 {
        let refusal = gateway.chat(&chat()).await;
        is_refusal(&refusal, "tokens");
        assert_eq!(refusal.header("x-ratelimit-remaining-requests"), Some("4"));
        assert!(refusal.header("retry-after").is_some());
    }
    gate.open();
    assert_eq!(first.await.unwrap().status, 200);
    is_settled(&gateway).await;
    let next = gateway.chat(&chat()).await;
    assert_eq!((next.status, next.header("x-ratelimit-remaining-requests")), (200, Some("3")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_unknown_or_not_the_keys_is_not_found_and_takes_nothing() {
    let upstream = answering(5).await;
    let configuration = config(&upstream, "").replace("name: scripted,", "name: scripted, models: [m, \"q*\"],");
    let keys = one_key(", models: [m, other], limits: {requests_per_minute: 5, tokens_per_minute: 5000}");
    let gateway = Gateway::start(&configuration, &keys);
    for (model, why) in
        [("nobody-has-it", "unknown"), ("qwen3", "not the key's"), ("other", "no upstream's"), ("M", "case")]
    {
        let refusal = gateway.chat(&json!({"model": model, "messages": []})).await;
        assert_eq!(refusal.status, 404, "{why}");
        let error = &refusal.json()["error"];
        assert_eq!((&error["type"], &error["code"]), (&"invalid_request_error".into(), &"model_not_found".into()));
        assert!(error["message"].as_str().unwrap().contains(model));
        assert_eq!(refusal.header("x-ratelimit-remaining-requests"), Some("5"));
        assert_eq!(refusal.header("x-ratelimit-remaining-tokens"), Some("5000"));
    }
    assert!(upstream.received().is_empty());
    gateway.metric_becomes(r#"keymeter_rejections_total{key_id="key_test",reason="model",scope="key"}"#, 4.0).await;
    assert_eq!(gateway.chat(&chat()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_outlive_a_new_secret_and_a_reload() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "requests_per_minute: 3");
    assert_eq!(gateway.chat(&chat()).await.header("x-ratelimit-remaining-requests"), Some("2"));
    let keys = one_key(", limits: {requests_per_minute: 3}").replace("Test key", "Another name");
    let hash = |secret: &str| keymeter_core::key::Secret::new(secret).hash().to_string();
    gateway.write_keys(&keys.replace(&hash(SECRET), &hash("sk-new")));
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    let mut client = gateway.connect().await;
    assert_eq!(client.chat(SECRET, &chat()).await.status, 401);
    let next = client.chat("sk-new", &chat()).await;
    assert_eq!((next.status, next.header("x-ratelimit-remaining-requests")), (200, Some("1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_its_answer_may_ask_again_at_once_though_one_may_run() {
    let upstream = ScriptedUpstream::start(|request| Script::stream_of(request, 3, &usage(7, 3))).await;
    let gateway = Gateway::start(&config(&upstream, ""), &one_key(", limits: {concurrent_requests: 1}"));
    let body = json!({"model": "m", "stream": true});
    for round in 0..100 {
        let mut client = gateway.connect().await;
        assert_eq!(client.chat_stream(SECRET, &body).await.status, 200, "round {round}");
        // As soon as the last event is there, on another connection: nothing of the first is waited for.
        let mut text = String::new();
        while !text.contains("[DONE]") {
            let Arrival::Chunk { data, .. } = client.next_chunk().await else { panic!("a chunk") };
            text.push_str(&String::from_utf8_lossy(&data));
        }
    }
}
