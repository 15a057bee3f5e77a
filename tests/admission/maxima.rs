//! The maximum that `worst_case` writes: in the field that the upstream takes, never below what its API demands, and not where
//! the client says that there is none but means it. Whatever is sent again counts as one request.

use serde_json::{Value, json};

use super::{answering, is_settled, limited};
use crate::support::{
    client::{Response, events},
    gateway::{Gateway, SECRET, config, one_key},
    h2c::H2c,
    scene::configuration,
    script::{Gate, Script, completion, usage},
    upstream::{Received, ScriptedUpstream},
};

const OLD: &str = "max_tokens";
const NEW: &str = "max_completion_tokens";
const SECOND_SECRET: &str = "sk-second";

/// An upstream that answers with `status` what names one of these fields, and with 3 words otherwise.
async fn refusing(status: u16, fields: &'static [&'static str]) -> ScriptedUpstream {
    ScriptedUpstream::start(move |request| answer(request, status, fields)).await
}

fn answer(request: &Received, status: u16, fields: &[&str]) -> Script {
    let body = request.json();
    if let Some(field) = fields.iter().find(|field| !body[**field].is_null()) {
        return Script::error(status, "invalid_request_error", &format!("unsupported parameter: {field}"));
    }
    if body["stream"] == true {
        return Script::stream_of(request, 3, &usage(7, 3));
    }
    Script::json(200, &completion("gpt-5", 3))
}

/// A gateway with two keys of a million tokens a minute, of which the worst case is reserved.
fn worst_case(upstream: &ScriptedUpstream) -> Gateway {
    let second = keymeter_core::key::Secret::new(SECOND_SECRET).hash();
    let limits = "limits: {requests_per_minute: 100, tokens_per_minute: 1_000_000}";
    let keys = format!(
        "{}  - {{id: key_second, name: Second key, hash: \"{second}\", {limits}}}\n",
        one_key(&format!(", {limits}"))
    );
    Gateway::start(&config(upstream, "limits: {reservation: worst_case}"), &keys)
}

fn gpt_5(fields: &Value) -> Value {
    let mut body = json!({"model": "gpt-5", "messages": [{"role": "user", "content": "hello"}]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// Which of our additions each request had that came to the upstream.
fn sent(upstream: &ScriptedUpstream) -> Vec<Vec<&'static str>> {
    let added = |request: &Received| {
        let body = request.json();
        ["stream_options", OLD, NEW].into_iter().filter(|field| !body[*field].is_null()).collect()
    };
    upstream.received().iter().map(added).collect()
}

fn is_whole(answer: &Response, is_stream: bool) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    if is_stream {
        let events = events(&answer.body);
        assert_eq!((events.len(), events.last().map(String::as_str)), (5, Some("[DONE]")), "{events:?}");
    } else {
        assert_eq!(answer.json(), completion("gpt-5", 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_refuses_max_tokens_gets_the_other_field_at_once_and_from_then_on() {
    for (fields, status) in [
        (json!({}), 400),
        (json!({"n": 3}), 422),
        (json!({"stream": true}), 400),
        (json!({"stream": true, "n": 2}), 422),
        (json!({"stream": true, "max_completion_tokens": null, "max_tokens": null}), 400),
    ] {
        let upstream = refusing(status, &[OLD]).await;
        let gateway = worst_case(&upstream);
        let is_stream = fields["stream"] == true;
        let with_options = |field| if is_stream { vec!["stream_options", field] } else { vec![field] };
        let answer = gateway.chat(&gpt_5(&fields)).await;
        is_whole(&answer, is_stream);
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("99"), "it is one request");
        assert_eq!(sent(&upstream), [with_options(OLD), with_options(NEW)], "{fields}");
        is_whole(&gateway.chat(&gpt_5(&fields)).await, is_stream);
        assert_eq!(sent(&upstream)[2..], [with_options(NEW)], "{fields}: it is remembered");
        let choices = fields["n"].as_u64().unwrap_or(1);
        let bodies: Vec<_> = upstream.received().iter().map(Received::json).collect();
        assert_eq!(bodies[1][NEW], bodies[0][OLD], "{fields}");
        assert!((1_000_000 - 100..=1_000_000).contains(&(bodies[0][OLD].as_u64().unwrap() * choices)), "{}", bodies[0]);
        gateway.metric_becomes(r#"keymeter_requests_total{key_id="key_test",model="other",status="200"}"#, 2.0).await;
        gateway.metric_becomes(r#"keymeter_tokens_total{key_id="key_test",model="other",type="output"}"#, 6.0).await;
        for _ in 0..2 {
            let line = gateway.next_line();
            let counted = (&line["status"], &line["input_tokens"], &line["output_tokens"], &line["usage_source"]);
            assert_eq!(counted, (&200.into(), &7.into(), &3.into(), &"upstream".into()), "{line}");
        }
        assert_eq!(gateway.lines().len(), 0, "one line a request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_over_http2() {
    for fields in [json!({}), json!({"stream": true})] {
        let upstream = refusing(400, &[OLD]).await;
        let gateway = worst_case(&upstream);
        let client = H2c::connect(gateway.address()).await;
        for _ in 0..2 {
            let (answer, body) = client.chat(SECRET, &gpt_5(&fields)).await;
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&body));
        }
        let fields: Vec<_> = sent(&upstream).into_iter().filter_map(|fields| fields.last().copied()).collect();
        assert_eq!(fields, [OLD, NEW, NEW]);
        gateway.metric_becomes(r#"keymeter_requests_total{key_id="key_test",model="other",status="200"}"#, 2.0).await;
        assert_eq!((0..2).map(|_| gateway.next_line()["output_tokens"].clone()).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(gateway.lines().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_sent_again_whole_whichever_way_it_goes() {
    for extra in ["", "on_client_abort: drain"] {
        let upstream = refusing(400, &[OLD]).await;
        let keys = one_key(", limits: {tokens_per_minute: 100_000_000}");
        let gateway =
            Gateway::start(&config(&upstream, &format!("limits: {{reservation: worst_case}}\n{extra}")), &keys);
        for size in [10, 65_536, 1 << 20] {
            let mut body = gpt_5(&json!({"max_tokens": null}));
            body["messages"][0]["content"] = "a".repeat(size).into();
            let seen = upstream.received().len();
            assert_eq!(gateway.chat(&body).await.status, 200, "{extra}, {size}");
            let mut last = upstream.received_from(seen).pop().unwrap().json();
            assert!(last.as_object_mut().unwrap().remove(NEW).is_some_and(|maximum| maximum.is_u64()));
            body.as_object_mut().unwrap().remove(OLD);
            assert_eq!(last, body, "{extra}, {size}: nothing else differs");
        }
        assert_eq!(upstream.received().len(), 4, "{extra}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_of_our_additions_is_refused_the_request_is_answered_and_each_is_learned_for_itself() {
    for refused in [&["stream_options"][..], &[OLD], &[NEW], &["stream_options", OLD], &["stream_options", NEW]] {
        let upstream = refusing(400, refused).await;
        let gateway = worst_case(&upstream);
        for _ in 0..4 {
            let seen = upstream.received().len();
            assert_eq!(gateway.chat(&gpt_5(&json!({"stream": true}))).await.status, 200, "{refused:?}");
            assert!(upstream.received().len() - seen <= 4, "{refused:?}");
        }
        let seen = upstream.received().len();
        assert_eq!(gateway.chat(&gpt_5(&json!({"stream": true}))).await.status, 200);
        let last = sent(&upstream)[seen..].to_vec();
        let expected: Vec<_> = ["stream_options", if refused.contains(&OLD) { NEW } else { OLD }]
            .into_iter()
            .filter(|field| !refused.contains(field))
            .collect();
        assert_eq!(last, [expected], "{refused:?}: at once, and with what is taken");
        let series = r#"keymeter_requests_total{key_id="key_test",model="other",status="200"}"#;
        gateway.metric_becomes(series, 5.0).await;
        (0..5).for_each(|_| drop(gateway.next_line()));
        assert_eq!(gateway.lines().len(), 0, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_what_the_client_wrote_passes_and_teaches_nothing() {
    let upstream = ScriptedUpstream::start(|request| match request.json()["messages"][0]["content"].as_str() {
        Some("bad") => Script::error(400, "invalid_request_error", "the picture cannot be fetched"),
        _ => answer(request, 400, &[]),
    })
    .await;
    let gateway = worst_case(&upstream);
    for (fields, attempts) in [(json!({}), 2), (json!({"stream": true}), 4)] {
        let mut bad = gpt_5(&fields);
        bad["messages"][0]["content"] = "bad".into();
        for _ in 0..3 {
            let seen = upstream.received().len();
            let answer = gateway.chat(&bad).await;
            assert_eq!(
                (answer.status, &answer.json()["error"]["message"]),
                (400, &"the picture cannot be fetched".into())
            );
            assert_eq!(upstream.received().len() - seen, attempts, "{fields}");
        }
        let seen = upstream.received().len();
        assert_eq!(gateway.chat(&gpt_5(&fields)).await.status, 200);
        let expected = if attempts == 4 { vec!["stream_options", OLD] } else { vec![OLD] };
        assert_eq!(sent(&upstream)[seen..], [expected], "{fields}");
    }
    gateway.metric_becomes(r#"keymeter_requests_total{key_id="key_test",model="other",status="400"}"#, 6.0).await;
    is_settled(&gateway).await;
    let authorization = format!("Bearer {SECRET}");
    let told = gateway.connect().await.request("GET", "/v1/usage", &[("authorization", &authorization)], b"").await;
    assert_eq!(told.json()["limits"]["tokens_per_minute"]["used"], 20, "refusals cost nothing: {}", told.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_switches_anything_for_another() {
    // What is about a picture is refused the first time and taken the second.
    let flips = std::sync::Mutex::new(false);
    let upstream = ScriptedUpstream::start(move |request| {
        let mut refuses = flips.lock().unwrap();
        if request.json()["messages"][0]["content"] == "picture" {
            *refuses = !*refuses;
            if *refuses {
                return Script::error(400, "invalid_request_error", "the picture cannot be fetched");
            }
        }
        answer(request, 400, &[])
    })
    .await;
    let gateway = worst_case(&upstream);
    for fields in [json!({}), json!({"stream": true})] {
        let mut picture = gpt_5(&fields);
        picture["messages"][0]["content"] = "picture".into();
        for _ in 0..6 {
            assert_eq!(gateway.connect().await.chat(SECOND_SECRET, &picture).await.status, 200);
        }
        let seen = upstream.received().len();
        assert_eq!(gateway.chat(&gpt_5(&fields)).await.status, 200);
        let expected = if fields["stream"] == true { vec!["stream_options", OLD] } else { vec![OLD] };
        assert_eq!(sent(&upstream)[seen..], [expected], "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_key_proves_it_for_all() {
    let upstream = refusing(400, &[OLD]).await;
    let gateway = worst_case(&upstream);
    for (secret, attempts) in [(SECRET, 2), (SECRET, 1), (SECOND_SECRET, 2), (SECOND_SECRET, 1), (SECRET, 1)] {
        let seen = upstream.received().len();
        assert_eq!(gateway.connect().await.chat(secret, &gpt_5(&json!({}))).await.status, 200);
        assert_eq!(upstream.received().len() - seen, attempts, "{secret}");
    }
}

/// A gateway with an upstream for every API, whose one key may use so many tokens a minute.
fn every_api(upstream: &ScriptedUpstream, tokens: u64) -> Gateway {
    let upstreams = format!("{{name: all, url: \"{}\", apis: [openai, anthropic, ollama, gemini]}}", upstream.url());
    let configuration = configuration(&upstreams, "", "limits: {reservation: worst_case}");
    Gateway::start(&configuration, &one_key(&format!(", limits: {{tokens_per_minute: {tokens}}}")))
}

async fn post(gateway: &Gateway, path: &str, body: &str) -> Response {
    let headers = [("x-api-key", SECRET), ("content-type", "application/json")];
    gateway.connect().await.request("POST", path, &headers, body.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_maximum_is_none_in_every_api() {
    for (path, body, pointer) in [
        ("/v1/chat/completions", r#"{"model":"m","max_tokens":-1}"#, "/max_tokens"),
        ("/v1/chat/completions", r#"{"model":"m","max_completion_tokens":-1}"#, "/max_completion_tokens"),
        ("/v1/chat/completions", r#"{"model":"m","max_tokens":10,"n_predict":-1}"#, "/n_predict"),
        ("/v1/completions", r#"{"model":"m","prompt":"a","max_tokens":-1}"#, "/max_tokens"),
        ("/v1/responses", r#"{"model":"m","input":"a","max_output_tokens":-1}"#, "/max_output_tokens"),
        ("/v1/messages", r#"{"model":"m","messages":[],"max_tokens":-2}"#, "/max_tokens"),
        ("/api/chat", r#"{"model":"m","messages":[],"options":{"num_predict":-2}}"#, "/options/num_predict"),
        ("/api/generate", r#"{"model":"m","prompt":"a","options":{"num_predict":-1}}"#, "/options/num_predict"),
        (
            "/v1beta/models/m:generateContent",
            r#"{"contents":[],"generationConfig":{"maxOutputTokens":-1}}"#,
            "/generationConfig/maxOutputTokens",
        ),
    ] {
        let upstream = answering(5).await;
        let gateway = every_api(&upstream, 1000);
        let answer = post(&gateway, path, body).await;
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        let seen = upstream.received()[0].json();
        let maximum = seen.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path}: {seen}"));
        assert!((900..=1000).contains(&maximum), "{path} {body}: {seen}");
        let unlimited = Gateway::start(
            &configuration(
                &format!("{{name: all, url: \"{}\", apis: [openai, anthropic, ollama, gemini]}}", upstream.url()),
                "",
                "",
            ),
            &one_key(""),
        );
        assert_eq!(post(&unlimited, path, body).await.status, 200, "{path} {body}");
        let as_it_came: Value = serde_json::from_str(body).unwrap();
        assert_eq!(upstream.received()[1].json(), as_it_came, "where nothing is lowered, it is the upstream's to read");
    }
}

/// What is left of the key's 400 tokens a minute.
async fn left(gateway: &Gateway) -> u64 {
    let told = gateway.connect().await.request("GET", "/v1/usage", &[("x-api-key", SECRET)], b"").await;
    told.json()["limits"]["tokens_per_minute"]["remaining"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_less_is_free_than_the_api_takes_it_is_waited_for() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = ScriptedUpstream::start(move |request| {
        let used = json!({"input_tokens": 1, "output_tokens": 1, "total_tokens": 2});
        let answer =
            Script::json(200, &json!({"object": "response", "status": "completed", "output": [], "usage": used}));
        if request.json()["max_output_tokens"] == 2 { answer } else { answer.gated(0, &held) }
    })
    .await;
    let gateway = every_api(&upstream, 400);
    let mut prompt = 0;
    for _ in 0..20 {
        // Answers are learned to be short: nothing keeps a maximum from being set to what is free but the API.
        let before = left(&gateway).await;
        let answer = post(&gateway, "/v1/responses", r#"{"model":"m","input":"a","max_output_tokens":2}"#).await;
        prompt = before - answer.header("x-ratelimit-remaining-tokens").unwrap().parse::<u64>().unwrap() - 2;
        is_settled(&gateway).await;
    }
    let maximum = left(&gateway).await - prompt - 10;
    let body = format!(r#"{{"model":"m","input":"a","max_output_tokens":{maximum}}}"#);
    let mut first = gateway.connect().await;
    let headers = [("x-api-key", SECRET), ("content-type", "application/json")];
    first.send("POST", "/v1/responses", &headers, body.as_bytes()).await;
    upstream.wait_for_request(21).await;
    // The estimate of a prompt may move by a token as it is learned.
    let free = left(&gateway).await;
    assert!((5..16).contains(&free), "{free}");
    for (path, body) in [
        ("/v1/responses", r#"{"model":"m","input":"a"}"#),
        ("/v1/responses", r#"{"model":"m","input":"a","max_output_tokens":5000}"#),
        (
            "/v1/messages",
            r#"{"model":"m","messages":[],"max_tokens":5000,"thinking":{"type":"enabled","budget_tokens":40}}"#,
        ),
        ("/v1/messages", r#"{"model":"m","messages":[],"thinking":{"type":"enabled","budget_tokens":40}}"#),
        ("/v1/chat/completions", r#"{"model":"m","messages":[],"reasoning":{"max_tokens":40}}"#),
        ("/v1/completions", r#"{"model":"m","prompt":"a","min_tokens":45}"#),
        (
            "/v1beta/models/m:generateContent",
            r#"{"contents":[],"generationConfig":{"thinkingConfig":{"thinkingBudget":40}}}"#,
        ),
    ] {
        let refused = post(&gateway, path, body).await;
        assert_eq!(refused.status, 429, "{path}: {}", refused.text());
        assert!(refused.header("retry-after").is_some(), "{path}: waiting helps");
        assert_eq!(upstream.received().len(), 21, "{path}");
    }
    gate.open();
    assert_eq!(first.response().await.status, 200);
    is_settled(&gateway).await;
    let answer = post(&gateway, "/v1/responses", r#"{"model":"m","input":"a","max_output_tokens":5000}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(upstream.received()[21].json()["max_output_tokens"].as_u64().unwrap() >= 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_fits_with_the_least_that_the_api_takes_is_refused_for_good() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "tokens_per_minute: 1000");
    let body = json!({"model": "m", "messages": [], "thinking": {"type": "enabled", "budget_tokens": 2000}});
    assert_eq!(gateway.chat(&body).await.status, 200, "`expected` writes nothing");
    let gateway = every_api(&upstream, 1000);
    for path in ["/v1/messages", "/v1/chat/completions"] {
        let refused = post(&gateway, path, &body.to_string()).await;
        assert_eq!((refused.status, refused.header("retry-after")), (429, None), "{path}: {}", refused.text());
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert!(refused.text().contains("2001 tokens"), "{}", refused.text());
    }
    let seen = upstream.received().len();
    let body = json!({"contents": [], "generationConfig": {"thinkingConfig": {"thinkingBudget": 2000}}});
    assert_eq!(post(&gateway, "/v1beta/models/m:generateContent", &body.to_string()).await.status, 200);
    let maximum = &upstream.received()[seen].json()["generationConfig"]["maxOutputTokens"];
    assert!((900..=1000).contains(&maximum.as_u64().unwrap()), "Gemini demands nothing: {maximum}");
}
