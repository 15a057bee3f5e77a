use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use pingora::{apps::ServerApp, protocols::l4::stream::Stream};

use super::*;

/// Counts a token for every four characters of a word, and one for its space: words may be several.
fn count(text: &str) -> u64 {
    text.split(' ').map(|word| word.chars().count().div_ceil(4) as u64).sum()
}

fn stamp() -> Stamp {
    Stamp { id: "abc".into(), created: 7 }
}

fn completion(api: Api, body: &Value) -> Completion {
    Completion::answer(api, body.to_string().as_bytes(), &stamp(), count).unwrap()
}

fn refused(api: Api, body: &str) -> Value {
    let failure = Completion::answer(api, body.as_bytes(), &stamp(), count).unwrap_err();
    assert_eq!(failure.status(), StatusCode::BAD_REQUEST);
    failure.body()["error"].clone()
}

fn chat(prompt: &str) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": prompt}]})
}

fn with(mut body: Value, name: &str, value: impl Into<Value>) -> Value {
    body[name] = value.into();
    body
}

/// The `data` of the events, and the JSON of all but the last.
fn parsed(events: &[String]) -> Vec<Value> {
    let data: Vec<&str> =
        events.iter().map(|event| event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap()).collect();
    let (last, others) = data.split_last().unwrap();
    assert_eq!(*last, "[DONE]");
    others.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn text_of(events: &[Value], pointer: &str) -> String {
    events.iter().filter_map(|event| event.pointer(pointer)?.as_str()).collect()
}

#[test]
fn a_whole_chat_completion_states_what_it_delivers() {
    let whole = completion(Api::Chat, &chat("hello world")).whole();
    assert_eq!((&whole["id"], &whole["object"]), (&json!("chatcmpl-abc"), &json!("chat.completion")));
    assert_eq!((&whole["created"], &whole["model"]), (&json!(7), &json!("m")));
    let choice = &whole["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["role"]), (&json!("stop"), &json!("assistant")));
    let text = choice["message"]["content"].as_str().unwrap();
    assert!(text.len() > 100);
    assert_eq!(whole["usage"]["prompt_tokens"], 4);
    assert_eq!(whole["usage"]["completion_tokens"], count(text));
    assert_eq!(whole["usage"]["total_tokens"], 4 + count(text));
}

#[test]
fn a_stream_says_the_same_as_the_whole_for_every_paragraph() {
    for prompt in (0..40).map(|number| number.to_string()) {
        let whole = completion(Api::Chat, &chat(&prompt)).whole();
        let events: Vec<String> = completion(Api::Chat, &with(chat(&prompt), "stream", true)).events().collect();
        let events = parsed(&events);
        assert_eq!(text_of(&events, "/choices/0/delta/content"), whole["choices"][0]["message"]["content"]);
        assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
        assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk" && event.get("usage").is_none()));
    }
}

#[test]
fn the_prompt_chooses_the_text() {
    let texts: std::collections::HashSet<String> = (0..100)
        .map(|number| completion(Api::Chat, &chat(&number.to_string())).whole()["choices"].to_string())
        .collect();
    assert!(texts.len() > 10, "{}", texts.len());
    assert_eq!(completion(Api::Chat, &chat("a")).whole(), completion(Api::Chat, &chat("a")).whole());
}

#[test]
fn usage_comes_as_an_event_of_its_own_only_when_asked_for() {
    let body = with(with(chat("a"), "stream", true), "stream_options", json!({"include_usage": true}));
    let events: Vec<String> = completion(Api::Chat, &body).events().collect();
    let events = parsed(&events);
    let (last, others) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], count(&text_of(others, "/choices/0/delta/content")));
    assert!(others.iter().all(|event| event.get("usage") == Some(&Value::Null)));
}

#[test]
fn a_maximum_is_used_up_to_the_token() {
    for (name, maximum) in (1..60).flat_map(|maximum| [("max_tokens", maximum), ("max_completion_tokens", maximum)]) {
        let whole = completion(Api::Chat, &with(chat("a"), name, maximum)).whole();
        assert_eq!(whole["choices"][0]["finish_reason"], "length");
        assert_eq!(whole["usage"]["completion_tokens"], maximum);
        assert_eq!(count(whole["choices"][0]["message"]["content"].as_str().unwrap()), maximum);
    }
    let both = with(with(chat("a"), "max_tokens", 9), "max_completion_tokens", 5);
    assert_eq!(completion(Api::Chat, &both).whole()["usage"]["completion_tokens"], 5);
    let ample = completion(Api::Chat, &with(chat("a"), "max_tokens", 1_000_000)).whole();
    assert_eq!(ample["choices"][0]["finish_reason"], "stop");
}

#[test]
fn a_cut_may_end_within_a_word_or_a_space_and_what_is_counted_is_delivered() {
    let characters = |text: &str| text.chars().count() as u64;
    for maximum in 1..200 {
        let body = with(with(chat("a"), "max_tokens", maximum), "stream", true).to_string();
        let completion = Completion::answer(Api::Chat, body.as_bytes(), &stamp(), characters).unwrap();
        assert_eq!(completion.whole()["usage"]["completion_tokens"], maximum);
        let events: Vec<String> = completion.events().collect();
        assert_eq!(characters(&text_of(&parsed(&events), "/choices/0/delta/content")), maximum);
    }
}

#[test]
fn a_text_completion_has_its_own_form_and_16_tokens_by_default() {
    let body = json!({"model": "m", "prompt": ["one two"]});
    let whole = completion(Api::Text, &body).whole();
    assert_eq!((&whole["id"], &whole["object"]), (&json!("cmpl-abc"), &json!("text_completion")));
    assert_eq!((&whole["usage"]["prompt_tokens"], &whole["usage"]["completion_tokens"]), (&json!(2), &json!(16)));
    let events: Vec<String> = completion(Api::Text, &with(body, "stream", true)).events().collect();
    assert_eq!(text_of(&parsed(&events), "/choices/0/text"), whole["choices"][0]["text"]);
}

#[test]
fn messages_may_be_of_parts_and_all_of_them_count() {
    let messages = json!([
        {"role": "system", "content": "abcd"},
        {"role": "user", "content": [{"type": "text", "text": "ab"}, {"type": "image_url"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": null},
    ]);
    let whole = completion(Api::Chat, &json!({"model": "m", "messages": messages})).whole();
    assert_eq!(whole["usage"]["prompt_tokens"], count("abcd\nabc\n"));
}

#[test]
fn what_cannot_be_served_is_refused_in_openais_form() {
    let not_json = refused(Api::Chat, "{");
    assert_eq!((&not_json["code"], &not_json["type"]), (&json!("invalid_json"), &json!("invalid_request_error")));
    assert!(refused(Api::Chat, r#"{"messages": []}"#)["message"].as_str().unwrap().contains("`model`"));
    let text = |name: &str, value: Value| with(json!({"model": "m", "prompt": "a"}), name, value);
    for (api, body, param) in [
        (Api::Chat, with(chat("a"), "n", 2), "n"),
        (Api::Chat, with(chat("a"), "max_tokens", 0), "max_tokens"),
        (Api::Chat, with(chat("a"), "max_completion_tokens", 0), "max_completion_tokens"),
        (Api::Chat, with(chat("a"), "stream_options", json!({"include_usage": true})), "stream_options"),
        (Api::Chat, json!({"model": "m"}), "messages"),
        (Api::Chat, json!({"model": "m", "messages": []}), "messages"),
        (Api::Text, json!({"model": "m"}), "prompt"),
        (Api::Text, text("prompt", json!(["a", "b"])), "prompt"),
    ] {
        assert_eq!(refused(api, &body.to_string())["param"], param, "{body}");
    }
}

/// The upstream on one loopback connection, until it gives the connection up.
async fn connected(pace: Duration) -> (TcpStream, JoinHandle<()>) {
    serving(DemoUpstream { pace, ..DemoUpstream::new(count) }).await
}

async fn serving(app: DemoUpstream) -> (TcpStream, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let app = Arc::new(app);
    let serving = tokio::spawn(async move {
        let (_keep, shutdown) = watch::channel(false);
        assert!(app.process_new(Box::new(Stream::from(server)), &shutdown).await.is_none());
    });
    (client, serving)
}

async fn send(client: &mut TcpStream, line: &str, headers: &str, body: &str) {
    let request = format!("{line} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
    client.write_all(request.as_bytes()).await.unwrap();
}

async fn read_until(client: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        assert_ne!(client.read_buf(&mut bytes).await.unwrap(), 0, "{}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8(bytes).unwrap()
}

async fn read_to_end(client: &mut TcpStream) -> String {
    let mut text = String::new();
    timeout(Duration::from_secs(10), client.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

#[tokio::test]
async fn one_connection_serves_a_stream_a_refusal_and_the_models() {
    let (mut client, serving) = connected(Duration::ZERO).await;
    let body = with(chat("hello"), "stream", true).to_string();
    send(&mut client, "POST /v1/chat/completions?a=b", "", &body).await;
    let stream = read_until(&mut client, "0\r\n\r\n").await;
    assert!(stream.starts_with("HTTP/1.1 200 OK\r\n") && stream.contains("data: [DONE]\n\n"), "{stream}");
    assert!(stream.to_lowercase().contains("content-type: text/event-stream"), "{stream}");

    send(&mut client, "POST /v1/nothing", "", "{}").await;
    let refused = read_until(&mut client, "}}").await;
    assert!(refused.starts_with("HTTP/1.1 404") && refused.contains(r#""code":"unknown_url""#), "{refused}");
    send(&mut client, "GET /v1/embeddings", "", "").await;
    let refused = read_until(&mut client, "}}").await;
    assert!(refused.starts_with("HTTP/1.1 405") && refused.to_lowercase().contains("\r\nallow: post\r\n"), "{refused}");

    send(&mut client, "GET /v1/models", "connection: close\r\n", "").await;
    let models = read_to_end(&mut client).await;
    assert!(MODELS.iter().all(|model| models.contains(model)), "{models}");
    serving.await.unwrap();
}

#[tokio::test]
async fn whole_answers_state_their_length_and_are_told_apart_by_id() {
    let (mut client, _serving) = connected(Duration::from_millis(1)).await;
    send(&mut client, "POST /v1/embeddings", "", r#"{"model": "e", "input": "a"}"#).await;
    assert!(read_until(&mut client, "}}").await.contains(r#""object":"embedding""#));
    let mut ids = Vec::new();
    for last in ["", "connection: close\r\n"] {
        send(&mut client, "POST /v1/completions", last, r#"{"model": "m", "prompt": "a"}"#).await;
        let response =
            if last.is_empty() { read_until(&mut client, "}}").await } else { read_to_end(&mut client).await };
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains(&format!("content-length: {}", body.len())), "{head}");
        ids.push(serde_json::from_str::<Value>(body).unwrap()["id"].clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_body_over_the_maximum_is_refused_and_ends_the_connection() {
    let (mut client, serving) = serving(DemoUpstream { maximum_body: 9, ..DemoUpstream::new(count) }).await;
    send(&mut client, "POST /v1/embeddings", "", "0123456789").await;
    let refused = read_to_end(&mut client).await;
    assert!(refused.starts_with("HTTP/1.1 413") && refused.contains("more than 9 bytes"), "{refused}");
    serving.await.unwrap();
}

#[tokio::test]
async fn a_stream_over_http_1_0_ends_with_its_connection_and_has_no_chunks() {
    let (mut client, _serving) = connected(Duration::ZERO).await;
    let body = with(chat("a"), "stream", true).to_string();
    let request = format!("POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    client.write_all(request.as_bytes()).await.unwrap();
    let response = read_to_end(&mut client).await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert!(body.starts_with("data: {") && body.ends_with("data: [DONE]\n\n"), "{body}");
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_its_body_gets_it() {
    let (mut client, _serving) = connected(Duration::ZERO).await;
    let body = chat("a").to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(read_until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    client.write_all(body.as_bytes()).await.unwrap();
    assert!(read_to_end(&mut client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_stream_stops_when_its_client_goes_away() {
    // A whole answer would take longer than we are ready to wait.
    let (mut client, serving) = connected(Duration::from_millis(200)).await;
    send(&mut client, "POST /v1/chat/completions", "", &with(chat("a"), "stream", true).to_string()).await;
    read_until(&mut client, "\n\n\r\n").await;
    drop(client);
    timeout(Duration::from_secs(5), serving).await.expect("it stops by itself").unwrap();
}
