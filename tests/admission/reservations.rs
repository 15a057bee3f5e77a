//! What a request reserves, what is given back of it, and how its own maximum is held to what fits.

use serde_json::{Value, json};

use super::{answering, chat, is_settled, limited};
use crate::support::{
    gateway::{Gateway, SECRET, config, one_key},
    script::{Script, completion, usage},
    upstream::ScriptedUpstream,
};

/// What is left of the test's key now, in requests and tokens. Asking takes nothing.
async fn left(gateway: &Gateway) -> (u64, u64) {
    let authorization = format!("Bearer {SECRET}");
    let headers = [("authorization", authorization.as_str())];
    let answer = gateway.connect().await.request("GET", "/v1/models", &headers, b"").await;
    let number = |name| answer.header(name).unwrap().parse().unwrap();
    (number("x-ratelimit-remaining-requests"), number("x-ratelimit-remaining-tokens"))
}

/// A gateway with one model, so that it lists it without asking, and limits of 100 and 10,000.
fn gateway(upstream: &ScriptedUpstream) -> Gateway {
    let configuration = config(upstream, "").replace("name: scripted,", "name: scripted, models: [m],");
    Gateway::start(&configuration, &one_key(", limits: {requests_per_minute: 100, tokens_per_minute: 10_000}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reserved_and_not_used_is_given_back_and_overuse_is_owed() {
    let stated = |prompt, output| {
        let mut body = completion("m", 3);
        body["usage"] = usage(prompt, output);
        Script::json(200, &body)
    };
    let cases = [
        ("less than reserved", stated(7, 5), (99, 10_000 - 12)),
        ("more than reserved", stated(7, 5000), (99, 10_000 - 5007)),
        ("more than the limit", stated(7, 20_000), (99, 0)),
        ("a failure", Script::error(500, "server_error", "broken"), (99, 10_000)),
        ("the upstream's own 429", Script::error(429, "server_error", "busy"), (99, 10_000)),
    ];
    for (name, script, expected) in cases {
        let upstream = ScriptedUpstream::start(move |_| script.clone()).await;
        let gateway = gateway(&upstream);
        assert_eq!(left(&gateway).await, (100, 10_000));
        let answer = gateway.chat(&chat()).await;
        let reserved: u64 = answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        assert!((8900..=8976).contains(&reserved), "1024 and the prompt are reserved: {reserved} are left");
        is_settled(&gateway).await;
        assert_eq!(left(&gateway).await, expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_owes_tokens_waits() {
    let upstream = answering(3000).await;
    let gateway = limited(&upstream, "tokens_per_minute: 2000");
    assert_eq!(gateway.chat(&chat()).await.status, 200);
    is_settled(&gateway).await;
    let refusal = gateway.chat(&json!({"model": "m", "messages": [], "max_tokens": 1})).await;
    super::is_refusal(&refusal, "tokens");
    let message = refusal.json()["error"]["message"].to_string();
    assert!(message.contains("3007 of the 2000"), "{message}");
    assert_eq!(refusal.header("x-ratelimit-remaining-tokens"), Some("0"));
    gateway
        .metric_becomes(r#"keymeter_rejections_total{key_id="key_test",reason="tokens_per_minute",scope="key"}"#, 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_upstream_cannot_be_reached_has_been_made_and_used_nothing() {
    let upstream = answering(5).await;
    let gateway = gateway(&upstream);
    drop(upstream);
    let answer = gateway.chat(&chat()).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &"upstream_error".into()));
    is_settled(&gateway).await;
    assert_eq!(left(&gateway).await, (99, 10_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_expected_is_at_most_what_the_request_allows() {
    let upstream = answering(5).await;
    let gateway = limited(&upstream, "tokens_per_minute: 10_000");
    for (fields, most, least) in [
        (json!({"max_tokens": 10}), 40, 10),
        (json!({"max_completion_tokens": 10, "n": 3}), 60, 30),
        (json!({"max_tokens": 1_000_000}), 1060, 1024),
        (json!({}), 1060, 1024),
    ] {
        let answer = gateway.chat(&merged(&fields)).await;
        assert_eq!(answer.status, 200);
        is_settled(&gateway).await;
        let used_before = 12 * (upstream.received().len() as u64 - 1);
        let left: u64 = answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        let reserved = 10_000 - left - used_before;
        assert!((least..=most).contains(&reserved), "{fields}: {reserved}");
        assert_eq!(upstream.received().last().unwrap().json(), merged(&fields), "`expected` rewrites nothing");
    }
}

fn merged(fields: &Value) -> Value {
    let mut body = chat();
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// What `worst_case` made of a request under a limit of 1000 tokens: its body at the upstream, and
/// the tokens that were left while it ran.
async fn under_worst_case(body: &Value, models: &str) -> (Value, u64) {
    let upstream = answering(5).await;
    let extra = format!("limits: {{reservation: worst_case}}\n{models}");
    let gateway = Gateway::start(&config(&upstream, &extra), &one_key(", limits: {tokens_per_minute: 1000}"));
    let answer = gateway.chat(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let left = answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
    (upstream.received()[0].json(), left)
}

#[tokio::test(flavor = "multi_thread")]
async fn worst_case_sets_or_lowers_the_maximum_to_what_fits() {
    let model = "models: [{name: m, max_output_tokens: 100}]";
    for (fields, models, field, choices, most) in [
        (json!({}), "", "max_tokens", 1, 1000),
        (json!({"max_tokens": 5000}), "", "max_tokens", 1, 1000),
        (json!({"max_completion_tokens": 5000}), "", "max_completion_tokens", 1, 1000),
        (json!({"max_tokens": null}), "", "max_tokens", 1, 1000),
        (json!({"max_tokens": 5000, "n": 4}), "", "max_tokens", 4, 250),
        (json!({}), model, "max_tokens", 1, 100),
        (json!({"max_tokens": 101}), model, "max_tokens", 1, 100),
    ] {
        let (mut seen, left) = under_worst_case(&merged(&fields), models).await;
        let maximum = seen[field].as_u64().unwrap_or_else(|| panic!("{fields}: {seen}"));
        let (floor, reserved) = (most - 20 / choices, 1000 - left);
        assert!(maximum <= most && (maximum == 100 || maximum >= floor), "{fields}: {maximum}");
        assert!(reserved > maximum * choices && reserved <= maximum * choices + 20, "{fields}: {reserved}");
        seen.as_object_mut().unwrap().remove(field);
        let mut rest = merged(&fields);
        rest.as_object_mut().unwrap().remove(field);
        assert_eq!(seen, rest, "nothing else is changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn worst_case_leaves_a_maximum_that_fits_as_it_is() {
    for fields in [json!({"max_tokens": 10}), json!({"max_completion_tokens": 900}), json!({"max_tokens": 200, "n": 4})]
    {
        let (seen, left) = under_worst_case(&merged(&fields), "").await;
        assert_eq!(seen, merged(&fields));
        assert!(left < 1000, "{left}");
    }
}
