//! What Prometheus gets: every promised metric with exactly its labels, in a form that its own tool
//! finds nothing wrong with, and never a label value of a client's making.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::support::{
    client::Arrival,
    collector::Collector,
    gateway::{Gateway, SECRET, config},
    script::{Gate, Script, completion, usage},
    upstream::{Received, ScriptedUpstream},
};

/// Every metric that is promised for keys from a file and with traces, its type and its labels in alphabetical order.
const PROMISED: [(&str, &str, &[&str]); 47] = [
    ("keymeter_attempts_total", "counter", &["outcome", "replica", "upstream"]),
    ("keymeter_build_info", "gauge", &["revision", "version"]),
    ("keymeter_client_aborts_total", "counter", &[]),
    ("keymeter_config_last_reload_success_timestamp_seconds", "gauge", &[]),
    ("keymeter_config_last_reload_successful", "gauge", &[]),
    ("keymeter_cost_usd_total", "counter", &["key_id", "model"]),
    ("keymeter_errors_total", "counter", &["code"]),
    ("keymeter_key_cache_lookups_total", "counter", &["result"]),
    ("keymeter_key_events_connected", "gauge", &[]),
    ("keymeter_key_info", "gauge", &["key_id", "name", "team"]),
    ("keymeter_key_last_used_timestamp_seconds", "gauge", &["key_id"]),
    ("keymeter_key_limit_used_ratio", "gauge", &["key_id", "limit"]),
    ("keymeter_key_revocation_lag_seconds", "histogram", &[]),
    ("keymeter_key_series_folded_total", "counter", &[]),
    ("keymeter_key_source_duration_seconds", "histogram", &["outcome"]),
    ("keymeter_key_source_requests_total", "counter", &["outcome"]),
    ("keymeter_ledger_oldest_record_age_seconds", "gauge", &[]),
    ("keymeter_ledger_spooled_records", "gauge", &[]),
    ("keymeter_log_lines_dropped_total", "counter", &["log"]),
    ("keymeter_malformed_requests_total", "counter", &[]),
    ("keymeter_overhead_seconds", "histogram", &["model", "upstream"]),
    ("keymeter_queue_length", "gauge", &["upstream"]),
    ("keymeter_queue_wait_seconds", "histogram", &["upstream"]),
    ("keymeter_reasoning_tokens_total", "counter", &["key_id", "model"]),
    ("keymeter_rejections_total", "counter", &["key_id", "reason", "scope"]),
    ("keymeter_replica_ejections_total", "counter", &["replica", "upstream"]),
    ("keymeter_replica_in_flight", "gauge", &["replica", "upstream"]),
    ("keymeter_replica_load_tokens", "gauge", &["replica", "upstream"]),
    ("keymeter_replica_up", "gauge", &["replica", "upstream"]),
    ("keymeter_request_duration_seconds", "histogram", &["model", "upstream"]),
    ("keymeter_requests_in_flight", "gauge", &["key_id"]),
    ("keymeter_requests_total", "counter", &["key_id", "model", "status"]),
    ("keymeter_time_per_output_token_seconds", "histogram", &["model", "upstream"]),
    ("keymeter_time_to_first_token_seconds", "histogram", &["model", "upstream"]),
    ("keymeter_tokens_total", "counter", &["key_id", "model", "type"]),
    ("keymeter_trace_spans_total", "counter", &["outcome"]),
    ("keymeter_unauthorized_total", "counter", &["reason"]),
    ("keymeter_unpriced_responses_total", "counter", &["model"]),
    ("keymeter_upstream_responses_total", "counter", &["model", "outcome", "upstream"]),
    ("keymeter_usage_total", "counter", &["source"]),
    ("process_cpu_seconds_total", "counter", &[]),
    ("process_max_fds", "gauge", &[]),
    ("process_open_fds", "gauge", &[]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_start_time_seconds", "gauge", &[]),
    ("process_threads", "gauge", &[]),
    ("process_virtual_memory_bytes", "gauge", &[]),
];

/// The values that labels have after all sorts of traffic: all of these and no others.
const VALUES: [(&str, &str, &[&str]); 18] = [
    ("keymeter_requests_total", "key_id", &["key_busy", "key_off", "key_old", "key_one", "key_test"]),
    ("keymeter_requests_total", "model", &["llama-*", "other"]),
    ("keymeter_requests_total", "status", &["200", "400", "401", "404", "405", "429", "500"]),
    ("keymeter_tokens_total", "type", &["cache_write", "cached_input", "input", "output"]),
    ("keymeter_tokens_total", "model", &["llama-*", "other"]),
    (
        "keymeter_rejections_total",
        "reason",
        &["concurrent_requests", "disabled", "expired", "model", "requests_per_minute", "tokens_per_minute"],
    ),
    ("keymeter_unauthorized_total", "reason", &["malformed", "missing", "throttled", "unknown"]),
    ("keymeter_usage_total", "source", &["estimated", "none", "upstream"]),
    ("keymeter_key_info", "name", &["Busy key", "Expired key", "Key \"off\" \\ 1", "One request", "Test key"]),
    ("keymeter_key_info", "team", &["", "research"]),
    ("keymeter_key_cache_lookups_total", "result", &["hit", "miss", "stale", "unknown"]),
    ("keymeter_key_source_requests_total", "outcome", &["failed", "found", "unknown"]),
    ("keymeter_request_duration_seconds", "upstream", &["scripted"]),
    ("keymeter_log_lines_dropped_total", "log", &["access", "process"]),
    ("keymeter_trace_spans_total", "outcome", &["dropped", "exported", "failed"]),
    ("keymeter_key_limit_used_ratio", "key_id", &["key_busy", "key_one"]),
    ("keymeter_key_limit_used_ratio", "limit", &["concurrent_requests", "requests_per_minute", "tokens_per_minute"]),
    (
        "keymeter_upstream_responses_total",
        "outcome",
        &[
            "abandoned",
            "broken_off",
            "client_error",
            "credential_refused",
            "rate_limited",
            "server_error",
            "success",
            "timeout",
            "unreachable",
            "upstream_error",
        ],
    ),
];

const KEYS: &str = r#"keys:
  - {id: key_test, name: Test key, secret: sk-test-key-of-scraping, team: research}
  - {id: key_one, name: One request, secret: sk-one-key-of-scraping, limits: {requests_per_minute: 1}}
  - {id: key_busy, name: Busy key, secret: sk-busy-key-of-scraping, limits: {concurrent_requests: 1, tokens_per_minute: 500}}
  - {id: key_off, name: 'Key "off" \ 1', secret: sk-off-key-of-scraping, enabled: false}
  - {id: key_old, name: Expired key, secret: sk-old-key-of-scraping, expires_at: 2020-01-01T00:00:00Z}
"#;
const TEST: &str = "sk-test-key-of-scraping";
const ONE: &str = "sk-one-key-of-scraping";
const BUSY: &str = "sk-busy-key-of-scraping";

const SECTIONS: &str = r#"
models: [{name: "llama-*", input: "1", output: "2"}]
"#;

/// What an upstream does is chosen by the request's `user`.
fn script(request: &Received, gate: &Gate) -> Script {
    let body = request.json();
    match body["user"].as_str().unwrap_or_default() {
        "fail" => Script::error(500, "server_error", "broken"),
        "hold" => Script::stream_of(request, 3, &usage(7, 3)).gated(1, gate),
        "cut" => Script::truncated(request, 2),
        _ if body["stream"] == true => Script::stream_of(request, 3, &usage(7, 3)),
        _ => {
            let mut completion = completion("m", 5);
            completion["usage"]["completion_tokens_details"]["reasoning_tokens"] = json!(2);
            Script::json(200, &completion)
        }
    }
}

fn chat(model: &str, user: &str, stream: bool) -> Value {
    json!({"model": model, "user": user, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]})
}

/// A gateway to which about everything has happened that can happen to one.
async fn gateway_after_mixed_traffic() -> ((ScriptedUpstream, Collector), Gateway) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |request| script(request, &held)).await;
    let collector = Collector::start().await;
    let configuration = config(&upstream, &format!("{SECTIONS}\n{}", collector.section("")));
    let gateway = Gateway::start(&configuration.replace(" url:", " models: [\"*a*\", \"\\\"*\"], url:"), KEYS);
    answered_requests(&gateway).await;
    refused_requests(&gateway, &gate).await;
    strange_requests(&gateway).await;
    aborted_request(&gateway).await;
    gate.open();
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    status(&gateway, TEST, &chat("llama-3", "", false), 200).await;
    for id in ["key_test", "key_busy"] {
        gateway.metric_becomes(&format!("keymeter_requests_in_flight{{key_id=\"{id}\"}}"), 0.0).await;
    }
    ((upstream, collector), gateway)
}

async fn status(gateway: &Gateway, secret: &str, body: &Value, expected: u16) {
    let answer = gateway.connect().await.chat(secret, body).await;
    assert_eq!(answer.status, expected, "{body}: {}", answer.text());
}

async fn answered_requests(gateway: &Gateway) {
    status(gateway, TEST, &chat("llama-3", "", false), 200).await;
    status(gateway, TEST, &chat("llama-3", "", true), 200).await;
    status(gateway, TEST, &chat("llama-3", "fail", false), 500).await;
    let mut client = gateway.connect().await;
    assert_eq!(client.chat_stream(TEST, &chat("llama-3", "cut", true)).await.status, 200);
    client.rest().await;
}

async fn refused_requests(gateway: &Gateway, gate: &Gate) {
    status(gateway, ONE, &chat("llama-3", "", false), 200).await;
    status(gateway, ONE, &chat("llama-3", "", false), 429).await;
    status(gateway, "sk-off-key-of-scraping", &chat("llama-3", "", false), 401).await;
    status(gateway, "sk-old-key-of-scraping", &chat("llama-3", "", false), 401).await;
    let mut running = gateway.connect().await;
    let mut small = chat("llama-3", "hold", true);
    small["max_tokens"] = json!(5);
    assert_eq!(running.chat_stream(BUSY, &small).await.status, 200);
    status(gateway, BUSY, &small, 429).await;
    gate.pass_one();
    assert_eq!(running.rest().await.1, Arrival::End);
    let mut large = chat("llama-3", "", false);
    large["messages"][0]["content"] = json!("word ".repeat(4000));
    status(gateway, BUSY, &large, 429).await;
}

/// Whatever a client writes into its request.
async fn strange_requests(gateway: &Gateway) {
    let evil = "a\"} 1\u{2028}keymeter_evil_total{x=\"";
    status(gateway, TEST, &chat(evil, "", false), 200).await;
    status(gateway, TEST, &chat("\"evil\\", "", false), 200).await;
    status(gateway, TEST, &chat("not-served", "", false), 404).await;
    let mut client = gateway.connect().await;
    let bearer = format!("Bearer {TEST}");
    let credential = [("authorization", bearer.as_str()), ("x-request-id", "evil"), ("openai-organization", "evil")];
    for (method, path, body, expected) in [
        ("POST", "/v1/evil\"path", "{}", 404),
        ("GET", "/v1/chat/completions?evil", "", 405),
        ("POST", "/v1/chat/completions", "no json", 400),
    ] {
        let answer = client.request(method, path, &credential, body.as_bytes()).await;
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.text());
    }
    assert_eq!(client.request("GET", "/v1/models", &[], b"").await.status, 401);
    assert_eq!(client.request("GET", "/v1/models", &[("authorization", "evil")], b"").await.status, 401);
    let mut throttled = false;
    for number in 0..100 {
        throttled |= client.chat(&format!("sk-evil-{}", number / 2), &json!({})).await.status == 429;
    }
    assert!(throttled);
}

async fn aborted_request(gateway: &Gateway) {
    let mut client = gateway.connect().await;
    assert_eq!(client.chat_stream(TEST, &chat("llama-3", "hold", true)).await.status, 200);
    assert!(matches!(client.next_chunk().await, Arrival::Chunk { .. }));
    client.abort();
    gateway.metric_becomes("keymeter_client_aborts_total", 1.0).await;
}

/// The text format, as far as we write it.
#[derive(Default)]
struct Scrape {
    kinds: BTreeMap<String, String>,
    series: Vec<Series>,
}

struct Series {
    /// Without the `_bucket`, `_sum` and `_count` of histograms.
    metric: String,
    labels: BTreeMap<String, String>,
}

impl Scrape {
    fn of(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                scrape.kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let series = scrape.series(line);
                scrape.series.push(series);
            }
        }
        scrape
    }

    fn series(&self, line: &str) -> Series {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no series: {line:?}"));
        value.parse::<f64>().unwrap_or_else(|_| panic!("no value: {line:?}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let metric = of_histogram.filter(|name| self.kinds.contains_key(*name)).unwrap_or(name).to_owned();
        let mut labels = parse_labels(labels.strip_suffix('}').unwrap());
        if of_histogram.is_some() {
            labels.remove("le");
        }
        Series { metric, labels }
    }

    fn values(&self, metric: &str, label: &str) -> BTreeSet<&str> {
        let of_metric = self.series.iter().filter(|series| series.metric == metric);
        of_metric.map(|series| series.labels[label].as_str()).collect()
    }
}

fn parse_labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.trim_start_matches(',').split_once("=\"").expect("a label");
        let (mut value, mut characters) = (String::new(), rest.char_indices());
        let end = loop {
            match characters.next().expect("the value's end") {
                (place, '"') => break place,
                (_, '\\') => value.push(match characters.next().expect("an escaped character").1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        labels.insert(name.to_owned(), value);
        text = &rest[end + 1..];
    }
    labels
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promised_metric_is_there_with_exactly_its_labels() {
    let (_others, gateway) = gateway_after_mixed_traffic().await;
    let scrape = Scrape::of(&gateway.admin("GET", "/metrics").await.text());
    let names: BTreeSet<_> = scrape.kinds.keys().map(String::as_str).collect();
    assert_eq!(names, PROMISED.iter().map(|(name, ..)| *name).collect());
    for (name, kind, labels) in PROMISED {
        assert_eq!(scrape.kinds[name], kind, "{name}");
        let series: Vec<_> = scrape.series.iter().filter(|series| series.metric == name).collect();
        assert!(!series.is_empty(), "{name}");
        for Series { labels: found, .. } in series {
            assert_eq!(found.keys().collect::<Vec<_>>(), labels, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_label_value_is_a_clients() {
    let (_others, gateway) = gateway_after_mixed_traffic().await;
    let text = gateway.admin("GET", "/metrics").await.text();
    let scrape = Scrape::of(&text);
    for (metric, label, values) in VALUES {
        assert_eq!(scrape.values(metric, label), values.iter().copied().collect(), "{metric} {label}");
    }
    assert!(!text.contains("evil") && !text.contains("of-scraping"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_wrong() {
    let (_others, gateway) = gateway_after_mixed_traffic().await;
    let metrics = gateway.admin("GET", "/metrics").await;
    let tool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    if tool.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        eprintln!("SKIPPED: promtool is not installed (Debian: apt-get install prometheus)");
        return;
    }
    let mut tool = tool.unwrap();
    tool.stdin.take().unwrap().write_all(&metrics.body).unwrap();
    let verdict = tool.wait_with_output().unwrap();
    assert!(verdict.status.success() && verdict.stdout.is_empty(), "{}", String::from_utf8_lossy(&verdict.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_is_what_happened() {
    let (_others, gateway) = gateway_after_mixed_traffic().await;
    for (series, value) in [
        // Of two completions; streams state none.
        (r#"keymeter_reasoning_tokens_total{key_id="key_test",model="llama-*"}"#, 4.0),
        (r#"keymeter_tokens_total{key_id="key_one",model="llama-*",type="input"}"#, 7.0),
        (r#"keymeter_tokens_total{key_id="key_one",model="llama-*",type="output"}"#, 5.0),
        (r#"keymeter_cost_usd_total{key_id="key_one",model="llama-*"}"#, 0.000_017),
        (r#"keymeter_requests_total{key_id="key_one",model="llama-*",status="200"}"#, 1.0),
        (r#"keymeter_requests_total{key_id="key_one",model="llama-*",status="429"}"#, 1.0),
        (r#"keymeter_requests_total{key_id="key_test",model="other",status="200"}"#, 2.0),
        (r#"keymeter_requests_total{key_id="key_test",model="other",status="404"}"#, 2.0),
        (r#"keymeter_rejections_total{key_id="key_busy",reason="concurrent_requests",scope="key"}"#, 1.0),
        (r#"keymeter_rejections_total{key_id="key_busy",reason="tokens_per_minute",scope="key"}"#, 1.0),
        (r#"keymeter_rejections_total{key_id="key_test",reason="model",scope="key"}"#, 1.0),
        (r#"keymeter_unauthorized_total{reason="missing"}"#, 1.0),
        (r#"keymeter_unauthorized_total{reason="malformed"}"#, 1.0),
        (r#"keymeter_key_info{key_id="key_test",name="Test key",team="research"}"#, 1.0),
        // The stream that the upstream cut and the one that its client left.
        (r#"keymeter_usage_total{source="estimated"}"#, 2.0),
        (r#"keymeter_usage_total{source="none"}"#, 1.0),
        ("keymeter_client_aborts_total", 1.0),
        (r#"keymeter_upstream_responses_total{model="llama-*",outcome="success",upstream="scripted"}"#, 5.0),
        (r#"keymeter_upstream_responses_total{model="llama-*",outcome="server_error",upstream="scripted"}"#, 1.0),
        (r#"keymeter_upstream_responses_total{model="llama-*",outcome="broken_off",upstream="scripted"}"#, 1.0),
        (r#"keymeter_upstream_responses_total{model="llama-*",outcome="abandoned",upstream="scripted"}"#, 1.0),
        (r#"keymeter_upstream_responses_total{model="other",outcome="success",upstream="scripted"}"#, 2.0),
        // Whoever was refused, known or not, is in one counter.
        (r#"keymeter_errors_total{code="api_key_disabled"}"#, 1.0),
        (r#"keymeter_errors_total{code="model_not_found"}"#, 1.0),
        (r#"keymeter_errors_total{code="unknown_url"}"#, 1.0),
        (r#"keymeter_errors_total{code="invalid_json"}"#, 1.0),
        (r#"keymeter_errors_total{code="upstream_error"}"#, 1.0),
        (r#"keymeter_errors_total{code="key_source_unavailable"}"#, 0.0),
        (r#"keymeter_key_limit_used_ratio{key_id="key_one",limit="requests_per_minute"}"#, 1.0),
        (r#"keymeter_key_limit_used_ratio{key_id="key_busy",limit="concurrent_requests"}"#, 0.0),
        (r#"keymeter_key_limit_used_ratio{key_id="key_busy",limit="tokens_per_minute"}"#, 0.02),
        ("keymeter_key_series_folded_total", 0.0),
        // A stream has one time for each of its tokens; two ran to their ends.
        (r#"keymeter_time_per_output_token_seconds_count{model="llama-*",upstream="scripted"}"#, 2.0),
        // All that were admitted: of key_test six and of the other keys two.
        (r#"keymeter_request_duration_seconds_count{model="llama-*",upstream="scripted"}"#, 8.0),
        (r#"keymeter_overhead_seconds_count{model="llama-*",upstream="scripted"}"#, 8.0),
    ] {
        gateway.metric_becomes(series, value).await;
    }
    let sum =
        async |name: &str| gateway.metric(&format!("{name}_sum{{model=\"llama-*\",upstream=\"scripted\"}}")).await;
    let (overhead, duration) = (sum("keymeter_overhead_seconds").await, sum("keymeter_request_duration_seconds").await);
    assert!(0.0 < overhead && overhead < duration, "{overhead} of {duration}");
    let now = jiff::Timestamp::now().as_second() as f64;
    let last_used = gateway.metric(r#"keymeter_key_last_used_timestamp_seconds{key_id="key_test"}"#).await;
    assert!((now - 60.0..=now).contains(&last_used), "{last_used} at {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_cap_further_keys_share_their_series() {
    let upstream = ScriptedUpstream::start(|request| script(request, &Gate::new())).await;
    let keys = [0, 1, 2, 3]
        .map(|number| format!("  - {{id: key_{number}, name: Key {number}, secret: sk-number-{number}-of-scraping}}\n"))
        .concat();
    let gateway = Gateway::start(&config(&upstream, "metrics: {max_key_series: 2}"), &format!("keys:\n{keys}"));
    for number in 0..4 {
        status(&gateway, &format!("sk-number-{number}-of-scraping"), &chat("m", "", false), 200).await;
    }
    gateway.metric_becomes(r#"keymeter_requests_total{key_id="other",model="other",status="200"}"#, 2.0).await;
    gateway.metric_becomes(r#"keymeter_tokens_total{key_id="other",model="other",type="input"}"#, 14.0).await;
    gateway.metric_becomes(r#"keymeter_requests_in_flight{key_id="other"}"#, 0.0).await;
    let scrape = Scrape::of(&gateway.admin("GET", "/metrics").await.text());
    for metric in ["keymeter_requests_total", "keymeter_requests_in_flight", "keymeter_cost_usd_total"] {
        assert_eq!(scrape.values(metric, "key_id"), BTreeSet::from(["key_0", "key_1", "other"]), "{metric}");
    }
    assert_eq!(scrape.values("keymeter_key_info", "key_id"), BTreeSet::from(["key_0", "key_1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_key_has_its_new_name_only() {
    let upstream = ScriptedUpstream::start(|request| script(request, &Gate::new())).await;
    let gateway = Gateway::before(&upstream);
    let renamed = crate::support::gateway::one_key(", team: research").replace("Test key", "New name");
    status(&gateway, SECRET, &chat("m", "", false), 200).await;
    gateway.write_keys(&renamed);
    assert_eq!(gateway.admin("POST", "/-/reload").await.status, 200);
    status(&gateway, SECRET, &chat("m", "", false), 200).await;
    let scrape = Scrape::of(&gateway.admin("GET", "/metrics").await.text());
    assert_eq!(scrape.values("keymeter_key_info", "name"), BTreeSet::from(["New name"]));
    gateway.metric_becomes(r#"keymeter_requests_total{key_id="key_test",model="other",status="200"}"#, 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_address_speaks_plainly() {
    let upstream = ScriptedUpstream::start(|request| script(request, &Gate::new())).await;
    let gateway = Gateway::before(&upstream);
    let metrics = gateway.admin("GET", "/metrics").await;
    assert_eq!((metrics.status, metrics.header("content-type")), (200, Some("text/plain; version=0.0.4")));
    let head = gateway.admin("HEAD", "/metrics").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for (method, path, status) in [
        ("GET", "/-/healthy", 200),
        ("GET", "/-/ready", 200),
        ("POST", "/metrics", 405),
        ("GET", "/-/reload", 405),
        ("GET", "/", 404),
        ("GET", "/v1/models", 404),
        ("POST", "/v1/chat/completions", 404),
    ] {
        assert_eq!(gateway.admin(method, path).await.status, status, "{method} {path}");
    }
    let on_the_other_side = gateway.connect().await.request("GET", "/metrics", &[], b"").await;
    assert_eq!(on_the_other_side.status, 401, "metrics are not for clients");
}
