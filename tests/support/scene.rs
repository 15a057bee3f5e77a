//! What several scenes have in common: configurations with upstreams of one's own, streams written
//! event by event, and sums over a metric's series.

use serde_json::{Value, json};

use super::{
    client::{Client, PATIENCE, Response},
    gateway::Gateway,
    script::{Script, Step},
};

/// The end of a stream in OpenAI's API.
pub const DONE: &str = "data: [DONE]\n\n";

/// A configuration with these `upstreams` (in YAML's flow form), fields of `server`, and `extra` sections.
pub fn configuration(upstreams: &str, server: &str, extra: &str) -> String {
    format!(
        r#"
server: {{listen: ["127.0.0.1:0"]{server}}}
admin: {{listen: "127.0.0.1:0"}}
upstreams: [{upstreams}]
keys: {{yaml: {{path: keys.yaml}}}}
{extra}
"#
    )
}

/// A streamed response whose body is these pieces, one chunk each. What comes after them is the caller's to add.
pub fn stream<T: Into<String>>(pieces: impl IntoIterator<Item = T>) -> Script {
    let steps = pieces.into_iter().map(|piece| Step::Send(piece.into().into())).collect();
    Script { status: 200, headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())], steps }
}

/// An event with this data.
pub fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// A chat completion's event with this text.
pub fn says(text: &str) -> String {
    event(&json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}).to_string())
}

/// The extra event that states the usage.
pub fn uses(prompt: u64, completion: u64) -> String {
    event(&json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}).to_string())
}

/// The body of a streamed chat request, whose client asks for the usage event or does not.
pub fn chat(model: &str, prompt: &str, wants_usage: bool) -> Value {
    let mut body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": prompt}]});
    if wants_usage {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// Posts JSON with a key, and reads the response to its end.
pub async fn post(client: &mut Client, path: &str, key: &str, body: &Value) -> Response {
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
    client.request("POST", path, &headers, body.to_string().as_bytes()).await
}

/// Asks for something with a key.
pub async fn get(client: &mut Client, path: &str, key: &str) -> Response {
    client.request("GET", path, &[("authorization", &format!("Bearer {key}"))], b"").await
}

/// The sum of all series that begin so.
pub async fn sum(gateway: &Gateway, beginning: &str) -> f64 {
    let text = gateway.admin("GET", "/metrics").await.text();
    let series = text.lines().filter(|line| line.starts_with(beginning));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Waits until the series that begin so have this sum: settlement comes a moment after a response's end.
pub async fn sum_becomes(gateway: &Gateway, beginning: &str, value: f64) {
    let start = std::time::Instant::now();
    loop {
        let now = sum(gateway, beginning).await;
        if (now - value).abs() < 1e-9 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{beginning}… is {now} and does not become {value}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A text as a part of a path or a query, every byte of it escaped.
pub fn escaped(text: &str) -> String {
    text.bytes().flat_map(|byte| format!("%{byte:02X}").into_bytes()).map(char::from).collect()
}
