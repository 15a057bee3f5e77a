//! Paths beside those of chats: lists of models in each API's form, what is asked of a model for nothing, vLLM's, and paths
//! that are spelled otherwise.

mod lists;
mod spelling;

use serde_json::{Value, json};

use crate::support::{
    client::Response,
    gateway::{Gateway, SECRET, one_key},
    scene::{configuration, sum_becomes},
    script::Script,
    upstream::ScriptedUpstream,
};

/// A request, what its upstream answers, and the tokens that this counts: input, or `None` where it is estimated.
struct Case {
    path: &'static str,
    body: &'static str,
    answer: &'static str,
    input: Option<u64>,
}

const USAGE: &str =
    r#"{"object":"list","data":[],"usage":{"prompt_tokens":17,"total_tokens":17,"completion_tokens":0}}"#;
const SILENT: &str = r#"{"object":"list","data":[],"usage":{}}"#;
const CONTENTS: &str = r#"{"contents":[{"parts":[{"text":"Hello"}]}]}"#;
const TOKENS: &str = r#"{"count":3,"max_model_len":9,"tokens":[1,2,3]}"#;
const GEMINIS: &str =
    r#"{"candidates":[],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":0,"totalTokenCount":10}}"#;
const BATCH: &str = r#"{"requests":[{"model":"models/m","content":{"parts":[{"text":"a"}]}}]}"#;

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { path: "/v1/score", body: r#"{"model":"m","text_1":"a","text_2":["b"]}"#, answer: USAGE, input: Some(17) },
    Case { path: "/score", body: r#"{"model":"m","queries":"a","documents":["b"]}"#, answer: USAGE, input: Some(17) },
    Case { path: "/score", body: r#"{"model":"m","text_1":"a","text_2":["b"]}"#, answer: SILENT, input: None },
    Case { path: "/rerank", body: r#"{"model":"m","query":"a","documents":["b"]}"#, answer: r#"{"results":[],"usage":{"total_tokens":17}}"#, input: Some(17) },
    Case { path: "/v2/rerank", body: r#"{"model":"m","query":"a","documents":["b"]}"#, answer: r#"{"results":[],"usage":{"total_tokens":17}}"#, input: Some(17) },
    Case { path: "/pooling", body: r#"{"model":"m","input":"Hello there"}"#, answer: USAGE, input: Some(17) },
    Case { path: "/pooling", body: r#"{"model":"m","input":"Hello there"}"#, answer: SILENT, input: None },
    Case { path: "/classify", body: r#"{"model":"m","input":["Hello"]}"#, answer: USAGE, input: Some(17) },
    Case { path: "/classify", body: r#"{"model":"m","input":["Hello"]}"#, answer: SILENT, input: None },
    Case { path: "/tokenize", body: r#"{"model":"m","prompt":"Hello there"}"#, answer: TOKENS, input: Some(0) },
    Case { path: "/detokenize", body: r#"{"model":"m","tokens":[1,2,3]}"#, answer: r#"{"prompt":"Hello"}"#, input: Some(0) },
    Case { path: "/api/embeddings", body: r#"{"model":"m","prompt":"Hello there"}"#, answer: r#"{"embedding":[0.5]}"#, input: None },
    Case { path: "/api/show", body: r#"{"model":"m"}"#, answer: r#"{"template":"{{ .Prompt }}","capabilities":["completion"]}"#, input: Some(0) },
    Case { path: "/api/show", body: r#"{"name":"m","model":"m"}"#, answer: r#"{"capabilities":[]}"#, input: Some(0) },
    Case { path: "/v1/models/m:generateContent", body: CONTENTS, answer: GEMINIS, input: Some(10) },
    Case { path: "/v1/models/m:embedContent", body: r#"{"content":{"parts":[{"text":"a"}]}}"#, answer: r#"{"embedding":{"values":[0.5]},"usageMetadata":{"promptTokenCount":4}}"#, input: Some(4) },
    Case { path: "/v1/models/m:countTokens", body: CONTENTS, answer: r#"{"totalTokens":31}"#, input: Some(0) },
    Case { path: "/v1beta/models/m:countTokens", body: r#"{"generateContentRequest":{"model":"models/m","contents":[]}}"#, answer: r#"{"totalTokens":31}"#, input: Some(0) },
    Case { path: "/v1/models/m:batchEmbedContents", body: BATCH, answer: r#"{"embeddings":[],"usageMetadata":{"promptTokenCount":9}}"#, input: Some(9) },
    Case { path: "/v1beta/models/m:batchEmbedContents", body: BATCH, answer: r#"{"embeddings":[{"values":[0.5]}]}"#, input: None },
];

/// A gateway before an upstream that speaks every API, and whose URL ends so.
fn gateway(upstream: &ScriptedUpstream, end: &str, extra: &str) -> Gateway {
    let url = format!("{}{end}", upstream.url());
    let upstreams = format!("{{name: all, url: \"{url}\", models: [m], apis: [openai, anthropic, ollama, gemini]}}");
    let models = "models: [{name: m, input: \"1\", output: \"1\", request: \"0.5\"}]";
    Gateway::start(&configuration(&upstreams, "", models), &one_key(extra))
}

async fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    gateway.connect().await.request(method, path, headers, body.as_bytes()).await
}

async fn post(gateway: &Gateway, path: &str, body: &str) -> Response {
    ask(gateway, "POST", path, &[("authorization", &format!("Bearer {SECRET}"))], body).await
}

async fn answering(answer: &'static str) -> ScriptedUpstream {
    ScriptedUpstream::start(move |_| Script::json(200, &serde_json::from_str(answer).unwrap())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_passed_on_unchanged_and_counted_or_free() {
    for Case { path, body, answer, input } in CASES {
        let upstream = answering(answer).await;
        let gateway = gateway(&upstream, "", "");
        let response = post(&gateway, path, body).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert_eq!(response.json(), serde_json::from_str::<Value>(answer).unwrap(), "{path}");
        let received = &upstream.received()[0];
        assert_eq!((received.path.as_str(), received.json()), (*path, serde_json::from_str(body).unwrap()));
        assert_eq!(received.header("authorization"), None, "{path}");
        sum_becomes(&gateway, "keymeter_requests_total{", 1.0).await;
        let line = gateway.next_line();
        assert_eq!((&line["model"], &line["path"]), (&json!("m"), &json!(path)), "{line}");
        let expected = match input {
            Some(0) => "none",
            Some(_) => "upstream",
            None => "estimated",
        };
        assert_eq!((&line["usage_source"], &line["output_tokens"]), (&json!(expected), &json!(0)), "{path}: {line}");
        match input {
            Some(stated) => assert_eq!(line["input_tokens"], json!(stated), "{path}"),
            None => assert!(line["input_tokens"].as_u64().unwrap() > 0, "{path}: {line}"),
        }
        assert_eq!(line["cost_usd"] == json!("0"), *input == Some(0), "what is free has no price a request: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_passes_the_same_admission() {
    for Case { path, body, answer, input } in CASES {
        let upstream = answering(answer).await;
        let limits = ", limits: {requests_per_minute: 1, tokens_per_minute: 100000}";
        let gateway = gateway(&upstream, "", limits);
        assert_eq!(ask(&gateway, "POST", path, &[], body).await.status, 401, "{path}");
        let other = body.replace("models/m", "models/other").replace(r#""m""#, r#""other""#);
        let of_other = post(&gateway, &path.replace("/m:", "/other:"), &other).await;
        assert_eq!(of_other.status, 404, "{path}: {}", of_other.text());
        let first = post(&gateway, path, body).await;
        assert_eq!(first.status, 200, "{path}");
        let left: u64 = first.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        assert_eq!(left == 100_000, *input == Some(0), "{path}: {left}");
        assert_eq!(post(&gateway, path, body).await.status, 429, "each takes a request: {path}");
        assert_eq!(upstream.received().len(), 1, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_paths_drop_the_v1_of_the_upstreams_url() {
    for (end, path, reached) in [
        ("/v1", "/tokenize", "/tokenize"),
        ("/v1/", "/detokenize", "/detokenize"),
        ("/vllm/v1", "/pooling", "/vllm/pooling"),
        ("/vllm", "/classify", "/vllm/classify"),
        ("/v1", "/score", "/score"),
        ("/v1", "/v1/score", "/v1/score"),
        ("/v1", "/v2/rerank", "/v2/rerank"),
        ("/v1", "/api/show", "/api/show"),
        ("/v1", "/v1/models/m:countTokens", "/v1/models/m:countTokens"),
    ] {
        let upstream = answering(USAGE).await;
        let gateway = gateway(&upstream, end, "");
        let body = if path.contains("m:") { "{}" } else { r#"{"model":"m"}"# };
        assert_eq!(post(&gateway, path, body).await.status, 200, "{path}");
        assert_eq!(upstream.received()[0].path, reached, "{end} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_model_is_reached_by_another_name_in_the_same_request() {
    let upstream = answering("{}").await;
    let gateway = gateway(&upstream, "", "");
    for (path, body) in [
        ("/api/show", r#"{"model":"m","name":"secret"}"#),
        ("/api/show", r#"{"name":"m","model":"secret"}"#),
        ("/v1/models/m:batchEmbedContents", r#"{"requests":[{"model":"models/m"},{"model":"models/secret"}]}"#),
        ("/v1beta/models/m:batchEmbedContents", r#"{"requests":[{"model":"models/secret"}]}"#),
        ("/v1beta/models/m:countTokens", r#"{"generateContentRequest":{"model":"models/secret"}}"#),
        ("/v1beta/models/m:countTokens", r#"{"generate_content_request":{"model":"models/secret"}}"#),
    ] {
        let response = post(&gateway, path, body).await;
        assert_eq!(response.status, 400, "{path} {body}: {}", response.text());
        assert!(response.text().contains("names another model"), "{}", response.text());
    }
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_the_background_is_refused_with_what_to_do() {
    let upstream = answering(r#"{"id":"resp_1","object":"response","status":"queued"}"#).await;
    let gateway = gateway(&upstream, "", "");
    let response = post(&gateway, "/v1/responses", r#"{"model":"m","input":"a","background":true}"#).await;
    let error = &response.json()["error"];
    assert_eq!((response.status, &error["param"]), (400, &json!("background")), "{error}");
    let said = (&error["type"], &error["code"]);
    assert_eq!(said, (&json!("invalid_request_error"), &json!("unsupported_parameter")));
    assert!(error["message"].as_str().unwrap().contains("background"), "{error}");
    assert!(upstream.received().is_empty());
    for body in [r#"{"model":"m","input":"a","background":false}"#, r#"{"model":"m","input":"a","background":null}"#] {
        assert_eq!(post(&gateway, "/v1/responses", body).await.status, 200, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn geminis_paths_are_geminis_below_v1_too() {
    let upstream = answering(GEMINIS).await;
    let gateway = gateway(&upstream, "", "");
    let path = format!("/v1/models/m:generateContent?key={SECRET}&alt=json");
    let response = ask(&gateway, "POST", &path, &[], CONTENTS).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(upstream.received()[0].path, "/v1/models/m:generateContent?alt=json");
    let refused = ask(&gateway, "POST", "/v1/models/m:countTokens", &[("x-goog-api-key", "sk-nobody")], "{}").await;
    assert_eq!((refused.status, &refused.json()["error"]["status"]), (401, &json!("UNAUTHENTICATED")));
    let wrong = ask(&gateway, "GET", "/v1/models/m:generateContent", &[("x-goog-api-key", SECRET)], "").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    let unknown = post(&gateway, "/v1/models/m:predict", "{}").await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
}
