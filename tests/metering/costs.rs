//! What a response cost: its tokens by kind, at the configured prices, to the nano-dollar.

use serde_json::json;

use super::json_text;
use crate::support::{
    gateway::{Gateway, SECRET, config, one_key},
    scene::{DONE, configuration, event, post, says, stream},
    script::{Script, Step, completion},
    upstream::ScriptedUpstream,
};

const PRICES: &str = r#"
models:
  - {name: "llama-*", input: "0.20", cached_input: "0.05", cache_write: "0.25", output: "0.60"}
  - {name: tiny, input: "0.0005"}
  - {name: dear, input: "0.000001", output: "75", request: "0.002"}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_cost_is_what_the_prices_make_it_to_the_nano_dollar() {
    let upstream = ScriptedUpstream::start(|request| match request.json()["model"].as_str() {
        Some("broken") => Script::error(500, "server_error", "no"),
        model => priced(model.unwrap_or_default()),
    });
    let upstream = upstream.await;
    let gateway = Gateway::start(&config(&upstream, PRICES), &one_key(""));
    // (model asked for, label, requests, cost of one, cost of all)
    for (model, label, times, one, all) in [
        // 600 at 0.20, 400 at 0.05 and 333 at 0.60 for a million.
        ("llama-3", "llama-*", 3, "0.0003398", "0.0010194"),
        // Half a nano-dollar is rounded up, once a request.
        ("tiny", "tiny", 3, "0.000000001", "0.000000003"),
        ("dear", "dear", 10, "0.002075", "0.02075"),
        ("unknown", "other", 2, "0", "0"),
    ] {
        for _ in 0..times {
            gateway.chat(&json!({"model": model, "messages": []})).await;
            assert_eq!(gateway.next_line()["cost_usd"], one, "{model}");
        }
        let series = format!(r#"keymeter_cost_usd_total{{key_id="key_test",model="{label}"}}"#);
        gateway.metric_becomes(&series, all.parse().unwrap()).await;
    }
}

/// An answer that states what its model's case needs.
fn priced(model: &str) -> Script {
    let (prompt, cached, completion_tokens) = match model {
        "tiny" | "dear" => (1, 0, 1),
        _ => (1000, 400, 333),
    };
    let mut answer = completion(model, 1);
    answer["usage"] = json!({
        "prompt_tokens": prompt, "completion_tokens": completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    });
    Script::json(200, &answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_a_cache_for_an_hour_costs_more() {
    const MODELS: &str = r#"
models:
  - {name: own, input: "3", cached_input: "0.30", cache_write: "3.75", cache_write_1h: "7", output: "15"}
  - {name: "claude-*", input: "3", cached_input: "0.30", cache_write: "3.75", output: "15"}
  - {name: plain, input: "3", output: "15"}
"#;
    let usage = json!({
        "input_tokens": 10, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 600, "output_tokens": 20,
        "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 400},
    });
    let answer = json!({"type": "message", "content": [{"type": "text", "text": "Hi"}], "usage": usage});
    let upstream = ScriptedUpstream::start(move |_| Script::json(200, &answer)).await;
    let upstreams = format!("{{name: a, url: \"{}\", apis: [anthropic]}}", upstream.url());
    let gateway = Gateway::start(&configuration(&upstreams, "", MODELS), &one_key(""));
    // 10 at 3, 1000 at 0.30, 200 at 3.75, 20 at 15 for a million; and 400 at 6, at 7, or all as input.
    for (model, label, cost) in
        [("claude-x", "claude-*", "0.00378"), ("own", "own", "0.00418"), ("plain", "plain", "0.00513")]
    {
        let body = json!({"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]});
        let response = post(&mut gateway.connect().await, "/v1/messages", SECRET, &body).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let line = gateway.next_line();
        assert_eq!((&line["cost_usd"], &line["cache_write_tokens"]), (&cost.into(), &600.into()), "{line}");
        let labels = format!(r#"key_id="key_test",model="{label}""#);
        gateway.metric_becomes(&format!("keymeter_cost_usd_total{{{labels}}}"), cost.parse().unwrap()).await;
        gateway.metric_becomes(&format!(r#"keymeter_tokens_total{{{labels},type="cache_write"}}"#), 600.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_refuses_costs_nothing() {
    let upstream = ScriptedUpstream::start(|_| {
        let mut answer = completion("dear", 1);
        answer["error"] = json!({"message": "no"});
        Script::json(500, &answer)
    });
    let upstream = upstream.await;
    let gateway = Gateway::start(&config(&upstream, PRICES), &one_key(""));
    assert_eq!(gateway.chat(&json!({"model": "dear", "messages": []})).await.status, 500);
    let line = gateway.next_line();
    assert_eq!((&line["usage_source"], &line["output_tokens"]), (&"none".into(), &0.into()), "{line}");
    assert_eq!(line["cost_usd"], "0", "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_and_reasoning_tokens_are_told_apart() {
    let details = r#"{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":333,"total_tokens":1333,"prompt_tokens_details":{"cached_tokens":400},"completion_tokens_details":{"reasoning_tokens":300}}}"#;
    let upstream = ScriptedUpstream::start(move |request| {
        if request.json()["stream"] == true {
            stream([says("one "), event(details), DONE.to_owned()]).then(Step::Finish)
        } else {
            json_text(details)
        }
    });
    let upstream = upstream.await;
    let gateway = Gateway::start(&config(&upstream, PRICES), &one_key(""));
    let labels = r#"key_id="key_test",model="llama-*""#;
    for (asks_for_stream, times) in [(true, 1.0), (false, 2.0)] {
        gateway.chat(&json!({"model": "llama-3", "stream": asks_for_stream, "messages": []})).await;
        let line = gateway.next_line();
        let counts = ["input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"];
        assert_eq!(counts.map(|name| line[name].as_u64().unwrap()), [600, 400, 0, 333, 300], "{line}");
        for (kind, tokens) in [("input", 600.0), ("cached_input", 400.0), ("cache_write", 0.0), ("output", 333.0)] {
            let series = format!(r#"keymeter_tokens_total{{{labels},type="{kind}"}}"#);
            gateway.metric_becomes(&series, tokens * times).await;
        }
        gateway.metric_becomes(&format!("keymeter_reasoning_tokens_total{{{labels}}}"), 300.0 * times).await;
    }
}
