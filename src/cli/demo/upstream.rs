//! The demo's inference server: it speaks OpenAI's API and answers with canned text, at the pace and with
//! the usage of a real one, so that the gateway in front of it can be tried without a model.

mod completion;
mod embedding;
mod failure;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora::{
    Result,
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream},
    http::ResponseHeader,
    protocols::http::ServerSession,
    server::ShutdownWatch,
};
use serde_json::{Value, json};

use completion::{Api, Completion, Stamp};
use failure::Failure;

/// The models that `GET /v1/models` lists. Any other name is served too, and echoed.
pub const MODELS: [&str; 3] = ["llama-3.1-8b-instruct", "qwen3-8b", "demo-embedding"];

/// How long generating one piece of text takes.
const PACE: Duration = Duration::from_millis(20);

/// How long a kept connection may be idle, in seconds.
const KEEP_ALIVE: u64 = 60;

/// The largest request body, in bytes.
const MAXIMUM_BODY: usize = 64 * 1024 * 1024;

/// A Pingora application for HTTP/1.1 that serves `POST /v1/chat/completions`, `/v1/completions` and
/// `/v1/embeddings`, and `GET /v1/models`, as in OpenAI's API reference.
pub struct DemoUpstream {
    count_tokens: CountTokens,
    pace: Duration,
    maximum_body: usize,
    completions: AtomicU64,
}

/// How many tokens a text is.
type CountTokens = fn(&str) -> u64;

enum Reply {
    Json(Value),
    Completion(Completion),
}

impl DemoUpstream {
    /// An upstream whose usage counts prompts and answers with `count_tokens`, each as one whole text.
    #[must_use]
    pub fn new(count_tokens: fn(&str) -> u64) -> Self {
        Self { count_tokens, pace: PACE, maximum_body: MAXIMUM_BODY, completions: AtomicU64::new(0) }
    }

    /// Reads the request's body and writes the whole response. An error means that the client has gone.
    async fn serve(&self, session: &mut ServerSession) -> Result<()> {
        let Some(body) = read_body(session, self.maximum_body).await? else {
            session.set_keepalive(None);
            return write_failure(session, &Failure::BodyTooLarge { maximum: self.maximum_body }).await;
        };
        let head = session.req_header();
        match self.reply(&head.method, head.uri.path(), &body) {
            Ok(Reply::Json(value)) => write_ok(session, &value).await,
            Ok(Reply::Completion(completion)) if completion.is_stream() => self.stream(session, &completion).await,
            Ok(Reply::Completion(completion)) => {
                tokio::time::sleep(self.pace * completion.pieces()).await;
                write_ok(session, &completion.whole()).await
            }
            Err(failure) => write_failure(session, &failure).await,
        }
    }

    fn reply(&self, method: &Method, path: &str, body: &[u8]) -> Result<Reply, Failure> {
        let expected = if path == "/v1/models" { Method::GET } else { Method::POST };
        let complete = |api| Completion::answer(api, body, &self.stamp(), self.count_tokens).map(Reply::Completion);
        match path {
            "/v1/models" | "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" if *method != expected => {
                Err(Failure::MethodNotAllowed { allowed: expected.to_string() })
            }
            "/v1/models" => Ok(Reply::Json(models())),
            "/v1/chat/completions" => complete(Api::Chat),
            "/v1/completions" => complete(Api::Text),
            "/v1/embeddings" => embedding::answer(body, self.count_tokens).map(Reply::Json),
            _ => Err(Failure::UnknownUrl { method: method.to_string(), path: path.to_owned() }),
        }
    }

    fn stamp(&self) -> Stamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = self.completions.fetch_add(1, Ordering::Relaxed);
        Stamp { id: format!("{:08x}{:08x}{number:08x}", now.as_secs(), now.subsec_nanos()), created: now.as_secs() }
    }

    async fn stream(&self, session: &mut ServerSession, completion: &Completion) -> Result<()> {
        let mut head = ResponseHeader::build(StatusCode::OK, Some(4))?;
        head.insert_header(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")?;
        head.insert_header(header::CACHE_CONTROL, "no-cache")?;
        // HTTP/1.0 knows no chunks: there the end of the connection is the end of the body.
        if session.req_header().version != Version::HTTP_10 {
            head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        session.write_response_header(Box::new(head)).await?;
        for event in completion.events() {
            tokio::time::sleep(self.pace).await;
            session.write_response_body(Bytes::from(event), false).await?;
        }
        session.write_response_body(Bytes::new(), true).await
    }
}

#[async_trait]
impl HttpServerApp for DemoUpstream {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        match session.read_request().await {
            Ok(true) => limit_keep_alive(&mut session, *shutdown.borrow()),
            Ok(false) => return None,
            Err(error) => {
                tracing::debug!(%error, "the demo upstream could not read a request");
                return None;
            }
        }
        if let Err(error) = self.serve(&mut session).await {
            tracing::debug!(%error, "the demo upstream's client went away");
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}

/// Bounds what the client asked for: a `connection: close` stays, and nothing is kept through a shutdown.
fn limit_keep_alive(session: &mut ServerSession, shutting_down: bool) {
    let wanted = session.get_keepalive().is_some() && !shutting_down;
    session.set_keepalive(wanted.then_some(KEEP_ALIVE));
}

/// The whole body, or nothing where it is over the maximum.
async fn read_body(session: &mut ServerSession, maximum: usize) -> Result<Option<Vec<u8>>> {
    if session.get_header(header::EXPECT).is_some() {
        session.write_continue_response().await?;
    }
    let mut body = Vec::new();
    while let Some(bytes) = session.read_request_body().await? {
        if body.len() + bytes.len() > maximum {
            return Ok(None);
        }
        body.extend_from_slice(&bytes);
    }
    Ok(Some(body))
}

async fn write_failure(session: &mut ServerSession, failure: &Failure) -> Result<()> {
    let mut head = ResponseHeader::build(failure.status(), Some(5))?;
    if let Some(allow) = failure.allow() {
        head.insert_header(header::ALLOW, allow)?;
    }
    write_json(session, head, &failure.body()).await
}

async fn write_ok(session: &mut ServerSession, value: &Value) -> Result<()> {
    write_json(session, ResponseHeader::build(StatusCode::OK, Some(4))?, value).await
}

async fn write_json(session: &mut ServerSession, mut head: ResponseHeader, value: &Value) -> Result<()> {
    let body = value.to_string();
    head.insert_header(header::CONTENT_TYPE, "application/json")?;
    head.insert_header(header::CONTENT_LENGTH, body.len().to_string())?;
    session.write_response_header(Box::new(head)).await?;
    session.write_response_body(Bytes::from(body), true).await
}

fn models() -> Value {
    let model = |id| json!({"id": id, "object": "model", "created": 1_767_225_600, "owned_by": "keymeter-demo"});
    json!({"object": "list", "data": MODELS.map(model)})
}
