//! Every API, streamed and not: its credentials, its way to state usage, its headers and its errors.

pub mod encodings;
mod labels;

use serde_json::{Value, json};

use crate::support::{
    client::Response,
    gateway::{Gateway, SECRET, one_key},
    scene::{configuration, sum_becomes},
    script::{Script, Step},
    upstream::ScriptedUpstream,
};

/// One request with what its upstream answers, and the tokens that it states: input, cached input,
/// cache write, output.
struct Case {
    path: &'static str,
    body: &'static str,
    content_type: &'static str,
    answer: &'static [&'static str],
    tokens: [u64; 4],
}

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream; charset=utf-8";
const NDJSON: &str = "application/x-ndjson";

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { path: "/v1/responses", body: r#"{"model":"m","input":"Hello"}"#, content_type: JSON,
        answer: &[r#"{"id":"resp_1","object":"response","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"Hi"}]}],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":6},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":80},"total_tokens":123}}"#],
        tokens: [30, 6, 0, 87] },
    Case { path: "/v1/responses", body: r#"{"model":"m","input":"Hello","stream":true}"#, content_type: SSE,
        answer: &[
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"usage\":{\"input_tokens\":11,\"output_tokens\":5,\"total_tokens\":16}}}\n\n"],
        tokens: [11, 0, 0, 5] },
    Case { path: "/v1/embeddings", body: r#"{"model":"m","input":["a","b"]}"#, content_type: JSON,
        answer: &[r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1]}],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#],
        tokens: [8, 0, 0, 0] },
    Case { path: "/v1/rerank", body: r#"{"model":"m","query":"q","documents":["a","b"]}"#, content_type: JSON,
        answer: &[r#"{"model":"m","results":[{"index":0,"relevance_score":0.9}],"usage":{"total_tokens":15}}"#],
        tokens: [15, 0, 0, 0] },
    Case { path: "/v1/messages", body: r#"{"model":"m","max_tokens":64,"messages":[{"role":"user","content":"Hello"}]}"#, content_type: JSON,
        answer: &[r#"{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"text","text":"Hi"}],"stop_reason":"end_turn","usage":{"input_tokens":21,"cache_creation_input_tokens":100,"cache_read_input_tokens":50,"output_tokens":9}}"#],
        tokens: [21, 50, 100, 9] },
    Case { path: "/v1/messages", body: r#"{"model":"m","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"Hello"}]}"#, content_type: SSE,
        answer: &[
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"content\":[],\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":7,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\n\n",
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n",
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"],
        tokens: [25, 3, 7, 15] },
    Case { path: "/v1/messages/count_tokens", body: r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#, content_type: JSON,
        answer: &[r#"{"input_tokens":14}"#], tokens: [0, 0, 0, 0] },
    Case { path: "/api/chat", body: r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#, content_type: NDJSON,
        answer: &[
            "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"Hi\"},\"done\":false}\n",
            "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"prompt_eval_count\":26,\"eval_count\":12}\n"],
        tokens: [26, 0, 0, 12] },
    Case { path: "/api/generate", body: r#"{"model":"m","prompt":"Hello","stream":false}"#, content_type: JSON,
        answer: &[r#"{"model":"m","response":"Hi","done":true,"prompt_eval_count":5,"eval_count":3}"#],
        tokens: [5, 0, 0, 3] },
    Case { path: "/api/embed", body: r#"{"model":"m","input":"Hello"}"#, content_type: JSON,
        answer: &[r#"{"model":"m","embeddings":[[0.1,0.2]],"prompt_eval_count":8}"#],
        tokens: [8, 0, 0, 0] },
    Case { path: "/v1beta/models/m:generateContent", body: r#"{"contents":[{"parts":[{"text":"Hello"}]}]}"#, content_type: JSON,
        answer: &[r#"{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}],"usageMetadata":{"promptTokenCount":10,"cachedContentTokenCount":4,"candidatesTokenCount":6,"thoughtsTokenCount":20,"totalTokenCount":36}}"#],
        tokens: [6, 4, 0, 26] },
    Case { path: "/v1beta/models/m:streamGenerateContent?alt=sse", body: r#"{"contents":[{"parts":[{"text":"Hello"}]}]}"#, content_type: SSE,
        answer: &[
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"H\"}]}}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":1,\"totalTokenCount\":5}}\r\n\r\n",
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"i\"}]}}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":2,\"totalTokenCount\":6}}\r\n\r\n"],
        tokens: [4, 0, 0, 2] },
    Case { path: "/v1beta/models/m:streamGenerateContent", body: r#"{"contents":[{"parts":[{"text":"Hello"}]}]}"#, content_type: JSON,
        answer: &[
            "[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"H\"}]}}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":1}}\r\n",
            ",{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"i\"}]}}],\"usageMetadata\":{\"promptTokenCount\":4,\"candidatesTokenCount\":3}}]"],
        tokens: [4, 0, 0, 3] },
];

impl Case {
    /// The access log has what the answer states.
    fn is_counted(&self, name: &str, line: &Value) {
        let fields = ["input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"];
        assert_eq!(fields.map(|field| &line[field]), self.tokens.map(Value::from).each_ref(), "{name}: {line}");
        let source = if self.tokens == [0; 4] { "none" } else { "upstream" };
        assert_eq!(line["usage_source"], source, "{name}: {line}");
    }
}

/// A gateway before an upstream that speaks every API and answers with `case`'s answer.
async fn scene(case: &'static Case) -> (ScriptedUpstream, Gateway) {
    let upstream = ScriptedUpstream::start(|_| {
        let steps = case.answer.iter().map(|piece| Step::Send((*piece).into())).chain([Step::Finish]).collect();
        Script { status: 200, headers: vec![("content-type".to_owned(), case.content_type.to_owned())], steps }
    })
    .await;
    let gateway = gateway(&upstream, "");
    (upstream, gateway)
}

fn gateway(upstream: &ScriptedUpstream, extra: &str) -> Gateway {
    let upstreams =
        format!("{{name: all, url: \"{}\", models: [m], apis: [openai, anthropic, ollama, gemini]}}", upstream.url());
    Gateway::start(&configuration(&upstreams, "", ""), &one_key(extra))
}

async fn ask(gateway: &Gateway, path: &str, credential: (&str, &str), body: &str) -> Response {
    gateway.connect().await.request("POST", path, &[credential, ("content-type", JSON)], body.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_apis_usage_is_counted_as_it_is_stated_and_its_bytes_pass_unchanged() {
    for case in CASES {
        let (upstream, gateway) = scene(case).await;
        let response = ask(&gateway, case.path, ("x-api-key", SECRET), case.body).await;
        assert_eq!(response.status, 200, "{}: {}", case.path, response.text());
        assert_eq!(response.text(), case.answer.concat(), "{}", case.path);
        assert_eq!(String::from_utf8(upstream.received()[0].body.clone()).unwrap(), case.body, "{}", case.path);
        sum_becomes(&gateway, "keymeter_requests_total{", 1.0).await;
        let line = gateway.next_line();
        case.is_counted(case.path, &line);
        assert_eq!(line["model"], "m", "{}", case.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_gets_only_what_it_speaks() {
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &json!({}))).await;
    let upstreams = format!("{{name: a, url: \"{}\", apis: [anthropic]}}", upstream.url());
    let gateway = Gateway::start(&configuration(&upstreams, "", ""), &one_key(""));
    for case in CASES {
        let expected = if case.path.starts_with("/v1/messages") { 200 } else { 404 };
        let response = ask(&gateway, case.path, ("x-api-key", SECRET), case.body).await;
        assert_eq!(response.status, expected, "{}", case.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_written_in_the_apis_own_form() {
    let upstream = ScriptedUpstream::start(|_| Script::json(200, &json!({}))).await;
    let gateway = gateway(&upstream, "");
    let refused = |path: &'static str| ask(&gateway, path, ("x-api-key", "sk-nobody"), "{}");

    let anthropic = refused("/v1/messages").await;
    let body = anthropic.json();
    assert_eq!((anthropic.status, &body["type"]), (401, &"error".into()));
    assert_eq!(body["error"]["type"], "authentication_error");
    assert_eq!(body["request_id"].as_str(), anthropic.header("request-id"));
    assert_eq!(anthropic.header("x-request-id"), anthropic.header("request-id"));

    let gemini = refused("/v1beta/models/m:generateContent").await.json();
    assert_eq!((&gemini["error"]["code"], &gemini["error"]["status"]), (&401.into(), &"UNAUTHENTICATED".into()));

    let ollama = refused("/api/chat").await.json();
    assert!(ollama["error"].is_string() && ollama.as_object().unwrap().len() == 1);

    let openai = refused("/v1/responses").await.json();
    assert_eq!(openai["error"]["code"], "invalid_api_key");
    assert_eq!(refused("/v1/messages/nothing").await.json()["type"], "error", "unknown paths too");
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_paths_have_anthropics_limit_headers() {
    let upstream = ScriptedUpstream::start(|_| {
        Script::json(200, &json!({"type": "message", "usage": {"input_tokens": 1, "output_tokens": 1}}))
            .with_header("anthropic-ratelimit-requests-limit", "4000")
            .with_header("request-id", "req_upstream")
    })
    .await;
    let gateway = gateway(&upstream, ", limits: {requests_per_minute: 1, tokens_per_minute: 5000}");
    let body = r#"{"model":"m","max_tokens":10,"messages":[]}"#;
    let first = ask(&gateway, "/v1/messages", ("x-api-key", SECRET), body).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("anthropic-ratelimit-requests-limit"), Some("1"));
    assert_eq!(first.header("anthropic-ratelimit-requests-remaining"), Some("0"));
    assert!(first.header("anthropic-ratelimit-tokens-reset").unwrap().ends_with('Z'));
    assert!(first.header("x-ratelimit-limit-requests").is_none());
    assert_ne!(first.header("request-id"), Some("req_upstream"));
    let second = ask(&gateway, "/v1/messages", ("x-api-key", SECRET), body).await;
    assert_eq!((second.status, &second.json()["error"]["type"]), (429, &"rate_limit_error".into()));
    assert!(second.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn geminis_key_in_the_query_goes_no_further() {
    let (upstream, gateway) = scene(&CASES[10]).await;
    let path = format!("/v1beta/models/m:generateContent?key={SECRET}&b=1");
    let body = CASES[10].body.as_bytes();
    let response = gateway.connect().await.request("POST", &path, &[], body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(upstream.received()[0].path, "/v1beta/models/m:generateContent?b=1");
    let elsewhere = gateway.connect().await.request("POST", &format!("/v1/messages?key={SECRET}"), &[], body).await;
    assert_eq!(elsewhere.status, 401, "only Gemini's clients send it so");
    let logged = [gateway.next_line(), gateway.next_line()].map(|line| line.to_string()).concat();
    assert!(!logged.contains(SECRET), "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_ends_with_an_event_in_the_apis_own_form() {
    for (path, body, content_type, begun, event) in [
        ("/v1/messages", CASES[5].body, SSE, CASES[5].answer[0], "event: error\ndata: {"),
        ("/v1/responses", CASES[1].body, SSE, CASES[1].answer[0], "event: error\ndata: {"),
        ("/api/chat", CASES[7].body, NDJSON, CASES[7].answer[0], "{\"error\":"),
        (
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            CASES[11].body,
            SSE,
            CASES[11].answer[0],
            "data: {\"error\":",
        ),
    ] {
        let upstream = ScriptedUpstream::start(move |_| Script {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            steps: vec![Step::Send(begun.into()), Step::Reset],
        })
        .await;
        let gateway = gateway(&upstream, "");
        let mut client = gateway.connect().await;
        let head = client.open_stream("POST", path, &[("x-api-key", SECRET)], body.as_bytes()).await;
        assert_eq!(head.status, 200);
        let (bytes, _) = client.rest().await;
        let text = String::from_utf8(bytes).unwrap();
        let rest = text.strip_prefix(begun).unwrap_or_else(|| panic!("{path}: {text}"));
        assert!(rest.starts_with(event), "{path}: {rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_is_priced_by_the_minute() {
    for (answer, cost) in [
        (json!({"text": "hello", "usage": {"type": "duration", "seconds": 90}}), 0.009),
        (json!({"text": "hello", "duration": "120.0"}), 0.012),
        (json!({"text": "hello", "usage": {"prompt_audio_seconds": 30}}), 0.003),
    ] {
        let upstream = ScriptedUpstream::start(move |_| Script::json(200, &answer)).await;
        let upstreams = format!("{{name: a, url: \"{}\"}}", upstream.url());
        let models = "models: [{name: whisper-1, audio_minute: \"0.006\"}]";
        let gateway = Gateway::start(&configuration(&upstreams, "", models), &one_key(""));
        let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b--\r\n";
        let headers = [("x-api-key", SECRET), ("content-type", "multipart/form-data; boundary=b")];
        let mut client = gateway.connect().await;
        let response = client.request("POST", "/v1/audio/transcriptions", &headers, form.as_bytes()).await;
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(upstream.received()[0].body, form.as_bytes());
        gateway.metric_becomes(r#"keymeter_cost_usd_total{key_id="key_test",model="whisper-1"}"#, cost).await;
        assert_eq!(gateway.next_line()["model"], "whisper-1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_price_is_noticed() {
    let (_upstream, gateway) = scene(&CASES[4]).await;
    assert_eq!(ask(&gateway, CASES[4].path, ("x-api-key", SECRET), CASES[4].body).await.status, 200);
    gateway.metric_becomes(r#"keymeter_unpriced_responses_total{model="other"}"#, 1.0).await;
}
