//! What a scripted upstream does: responses step by step, with constructors for what tests need most, in
//! the form of OpenAI's API (chat completions and text completions).

use std::{future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{Semaphore, watch},
    time::sleep,
};

use super::{upstream::Received, wire};

/// A response. Unless `headers` states a `content-length`, its body is chunked.
#[derive(Clone, Debug)]
pub struct Script {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// A script that has run out without `Finish`, `Close` or `Reset` is silent until the peer leaves.
    pub steps: Vec<Step>,
}

/// One thing that the upstream does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends the head now; otherwise it goes out with the first `Send` or `Finish`.
    Head,
    /// Sends a piece of the body: one HTTP chunk, or the bare bytes where the length is stated.
    Send(Bytes),
    /// Sends these bytes as they are. The head, where it has not gone out, still does with the next `Send` or `Finish`:
    /// so this may be an interim response, or with `Close` a whole one.
    Raw(Bytes),
    /// Waits until the test lets it pass.
    Wait(Gate),
    Pause(Duration),
    /// Sends what the test feeds it, piece by piece, until the test lets go of the other end.
    Feed(watch::Receiver<Vec<Bytes>>),
    /// Resets the connection (RST).
    Reset,
    /// Closes the connection without ending the body.
    Close,
    /// Ends the body; the connection takes the next request.
    Finish,
}

/// Where a script waits for its test. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

/// How a script has left its connection.
pub(super) enum Left {
    ForNextRequest,
    Closed,
    Reset,
    ByPeer,
}

impl Script {
    /// A response of a stated length, at once.
    pub fn json(status: u16, value: &Value) -> Self {
        let body = Bytes::from(value.to_string());
        let headers =
            vec![header("content-type", "application/json"), header("content-length", &body.len().to_string())];
        Self { status, headers, steps: vec![Step::Send(body), Step::Finish] }
    }

    /// A stream of server-sent events with these `data`, each as one chunk.
    pub fn sse(events: &[&str]) -> Self {
        let steps = events.iter().map(|event| Step::Send(format!("data: {event}\n\n").into())).chain([Step::Finish]);
        let headers = vec![header("content-type", "text/event-stream")];
        Self { status: 200, headers, steps: steps.collect() }
    }

    /// A completion of so many words, one an event, in the form of the request's API (chat or text); where the
    /// request asks for it, `usage` follows in an event of its own; then `[DONE]`.
    pub fn stream_of(request: &Received, words: u64, usage: &Value) -> Self {
        let end = if request.asks_for_usage() { vec![usage_event(request, usage)] } else { vec![] };
        let events = content_events(request, words).chain([finish_event(request)]).chain(end);
        let events: Vec<String> = events.map(|event| event.to_string()).chain(["[DONE]".to_owned()]).collect();
        Self::sse(&events.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The first words of a completion, after which the connection closes without an end of the body.
    pub fn truncated(request: &Received, words: u64) -> Self {
        let events: Vec<String> = content_events(request, words).map(|event| event.to_string()).collect();
        let mut script = Self::sse(&events.iter().map(String::as_str).collect::<Vec<_>>());
        script.steps.pop();
        script.then(Step::Close)
    }

    /// No answer, ever.
    pub fn hang() -> Self {
        Self { status: 200, headers: vec![], steps: vec![] }
    }

    /// An error in OpenAI's form.
    pub fn error(status: u16, kind: &str, message: &str) -> Self {
        Self::json(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": null}}))
    }

    /// Does the steps one by one. A write that fails means that the peer has gone.
    pub(super) async fn run(&self, writer: &mut (impl AsyncWrite + Unpin)) -> Left {
        let chunked = wire::header(&self.headers, "content-length").is_none();
        let mut head = Some(head_bytes(self, chunked));
        for step in &self.steps {
            let bytes = match step {
                Step::Send(piece) if chunked => chunk(piece),
                Step::Send(bytes) | Step::Raw(bytes) => bytes.to_vec(),
                Step::Finish if chunked => b"0\r\n\r\n".to_vec(),
                Step::Head | Step::Finish => vec![],
                Step::Wait(gate) => {
                    gate.passed().await;
                    continue;
                }
                Step::Pause(pause) => {
                    sleep(*pause).await;
                    continue;
                }
                Step::Feed(feed) => {
                    if follow(writer, feed.clone()).await.is_err() {
                        return Left::ByPeer;
                    }
                    continue;
                }
                Step::Reset => return Left::Reset,
                Step::Close => return Left::Closed,
            };
            let head = if matches!(step, Step::Raw(_)) { None } else { head.take() };
            let bytes = [head.unwrap_or_default(), bytes].concat();
            if writer.write_all(&bytes).await.is_err() {
                return Left::ByPeer;
            }
            if matches!(step, Step::Finish) {
                return Left::ForNextRequest;
            }
        }
        pending().await
    }

    /// The same with one more header.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(header(name, value));
        self
    }

    /// The same with one more step at the end.
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The same with a wait before the step of that number (from 0), or at the end if there are not so many.
    pub fn gated(mut self, before: usize, gate: &Gate) -> Self {
        self.steps.insert(before.min(self.steps.len()), Step::Wait(gate.clone()));
        self
    }

    /// The same with a pause before each step.
    pub fn paced(mut self, pause: Duration) -> Self {
        self.steps = self.steps.into_iter().flat_map(|step| [Step::Pause(pause), step]).collect();
        self
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets all pass, from now on.
    pub fn open(&self) {
        self.0.close();
    }

    /// Lets one pass: who waits, or else the next to come.
    pub fn pass_one(&self) {
        self.0.add_permits(1);
    }

    /// Waits until the test lets it pass.
    pub async fn passed(&self) {
        // An error means that the gate is open for good.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

/// A chat completion of so many words, of which each counts as one token beside 7 of the prompt.
pub fn completion(model: &str, words: u64) -> Value {
    let message = json!({"role": "assistant", "content": (0..words).map(word).collect::<String>()});
    json!({
        "id": "chatcmpl-scripted", "object": "chat.completion", "created": 1_700_000_000, "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}],
        "usage": usage(7, words),
    })
}

/// A `usage` object without cached or reasoning tokens.
pub fn usage(prompt_tokens: u64, completion_tokens: u64) -> Value {
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    })
}

fn content_events(request: &Received, words: u64) -> impl Iterator<Item = Value> {
    let chat = is_chat(request);
    let event = event_of(request);
    (0..words).map(word).map(move |word| {
        let content = if chat { json!({"delta": {"content": word}}) } else { json!({"text": word}) };
        event(&json!([merged(&json!({"index": 0, "finish_reason": null}), &content)]))
    })
}

fn finish_event(request: &Received) -> Value {
    let content = if is_chat(request) { json!({"delta": {}}) } else { json!({"text": ""}) };
    event_of(request)(&json!([merged(&json!({"index": 0, "finish_reason": "stop"}), &content)]))
}

fn usage_event(request: &Received, usage: &Value) -> Value {
    merged(&event_of(request)(&json!([])), &json!({"usage": usage}))
}

fn event_of(request: &Received) -> impl Fn(&Value) -> Value + use<> {
    let (id, object) = if is_chat(request) {
        ("chatcmpl-scripted", "chat.completion.chunk")
    } else {
        ("cmpl-scripted", "text_completion")
    };
    let model = request.json()["model"].clone();
    move |choices| json!({"id": id, "object": object, "created": 1_700_000_000, "model": model, "choices": choices})
}

fn is_chat(request: &Received) -> bool {
    request.path.contains("/chat/")
}

fn word(number: u64) -> String {
    format!("word{number} ")
}

fn merged(one: &Value, other: &Value) -> Value {
    let members = [one, other].into_iter().filter_map(Value::as_object).flatten();
    members.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into()
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn head_bytes(script: &Script, chunked: bool) -> Vec<u8> {
    let framing = chunked.then(|| ("transfer-encoding".to_owned(), "chunked".to_owned()));
    let lines = script.headers.iter().chain(&framing).map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("HTTP/1.1 {} Scripted\r\n{}\r\n", script.status, lines.collect::<String>()).into_bytes()
}

/// Sends the pieces of a feed as they come, each as one chunk.
async fn follow(writer: &mut (impl AsyncWrite + Unpin), mut feed: watch::Receiver<Vec<Bytes>>) -> std::io::Result<()> {
    let mut sent = 0;
    loop {
        let pieces = feed.borrow_and_update()[sent..].to_vec();
        sent += pieces.len();
        for piece in pieces {
            writer.write_all(&chunk(&piece)).await?;
        }
        if feed.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
