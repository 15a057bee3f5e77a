//! The admin address: metrics, health and reload, for operators and their tools.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession, services::listening::Service as Listening};
use serde_json::json;
use subtle::ConstantTimeEq;

use crate::{
    gate::{Gate, Now},
    levels,
    limit::Moment,
    reload::Reloader,
    resolve::{
        Resolver,
        push::{Push, parse_change},
    },
};

/// The admin address' service, on the socket that goes by `name`.
#[must_use]
pub fn service(
    gate: Arc<Gate>,
    reloader: Arc<Reloader>,
    resolver: Arc<Resolver>,
    push: Option<Arc<Push>>,
    name: &str,
) -> Listening<Admin> {
    let admin = Admin { gate, reloader, resolver, push };
    let mut service = Listening::new("admin".to_owned(), admin);
    service.add_tcp(name);
    service
}

/// Answers operators.
pub struct Admin {
    gate: Arc<Gate>,
    reloader: Arc<Reloader>,
    resolver: Arc<Resolver>,
    /// Where keys come from a service that may tell of changes.
    push: Option<Arc<Push>>,
}

type Answer = Response<Vec<u8>>;

const NO_PATH: &str =
    "there are /metrics, /-/healthy, /-/ready, /-/log, POST /-/reload, POST /-/keys/invalidate and POST /-/log\n";

/// The largest body: an id and a hash, or levels.
const LARGEST_BODY: usize = 4096;

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Answer {
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        match (&method, path.as_str()) {
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics().await,
            (&Method::GET | &Method::HEAD, "/-/healthy") => text(StatusCode::OK, "ok\n"),
            (&Method::GET | &Method::HEAD, "/-/ready") => self.ready(),
            (&Method::POST, "/-/reload") if self.is_authorized(session) => self.reload().await,
            (&Method::POST, "/-/keys/invalidate") if self.is_authorized(session) => self.invalidate(session).await,
            (&Method::GET | &Method::HEAD, "/-/log") => text(StatusCode::OK, &format!("{}\n", levels::current())),
            (&Method::POST, "/-/log") if self.is_authorized(session) => log(session).await,
            (&Method::POST, "/-/reload" | "/-/keys/invalidate" | "/-/log") => {
                text(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer` with the token of `admin.token`\n")
            }
            (_, "/metrics" | "/-/healthy" | "/-/ready") => not_allowed("GET"),
            (_, "/-/reload" | "/-/keys/invalidate") => not_allowed("POST"),
            (_, "/-/log") => not_allowed("GET, POST"),
            _ => text(StatusCode::NOT_FOUND, NO_PATH),
        }
    }
}

impl Admin {
    /// A hundred thousand keys take a while, in which no request shall wait.
    async fn metrics(&self) -> Answer {
        let gate = self.gate.clone();
        let failed = |fault: &dyn std::fmt::Display| {
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("the metrics cannot be written: {fault}\n"))
        };
        match tokio::task::spawn_blocking(move || gate.scrape(Now::read())).await {
            Ok(Ok(text)) => answer(StatusCode::OK, prometheus::TEXT_FORMAT, text.into_bytes()),
            Ok(Err(fault)) => failed(&fault),
            Err(fault) => failed(&fault),
        }
    }

    fn ready(&self) -> Answer {
        let may_wait = self.reloader.config().keys.ready_without_source;
        let (status, word) = match (self.gate.traffic().is_draining(), self.resolver.has_answered()) {
            (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
            (false, false) if !may_wait => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the key source"),
            (false, _) => (StatusCode::OK, "ok"),
        };
        text(status, &format!("{word}\n{}", self.state_of_source()))
    }

    /// What is known of a key service, for people.
    fn state_of_source(&self) -> String {
        let Some(push) = &self.push else { return String::new() };
        let source = if self.resolver.has_answered() { "has answered" } else { "has not answered yet" };
        let events = match (push.is_configured(), push.is_connected()) {
            (false, _) => "not configured",
            (true, false) => "not connected",
            (true, true) => "connected",
        };
        format!("key source: {source}\nkey events: {events}\n")
    }

    async fn invalidate(&self, session: &mut ServerSession) -> Answer {
        let received = Moment::now();
        let Some(body) = body(session).await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {LARGEST_BODY} bytes\n"));
        };
        match parse_change(&String::from_utf8_lossy(&body)) {
            Ok(change) => {
                self.resolver.changed(change, received);
                answer(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", Vec::new())
            }
            Err(fault) => text(StatusCode::BAD_REQUEST, &format!("{fault}; send {{\"id\"}}, {{\"hash\"}} or both\n")),
        }
    }

    async fn reload(&self) -> Answer {
        let reloader = self.reloader.clone();
        match tokio::task::spawn_blocking(move || reloader.reload()).await {
            Ok(Ok(done)) => json(StatusCode::OK, &json!({"keys": done.keys, "restart_needed": done.restart_needed})),
            Ok(Err(faults)) => {
                let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                json(StatusCode::UNPROCESSABLE_ENTITY, &json!({"faults": faults}))
            }
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the reload broke off; the log says why\n"),
        }
    }

    /// Whether a request that changes something bears the token, where there is one.
    fn is_authorized(&self, session: &ServerSession) -> bool {
        let Some(token) = self.reloader.config().admin.token else { return true };
        let stated = session.get_header_bytes(header::AUTHORIZATION).strip_prefix(b"Bearer ").unwrap_or_default();
        stated.ct_eq(token.0.reveal().as_bytes()).into()
    }
}

/// Changes what is logged for people, to what the body says.
async fn log(session: &mut ServerSession) -> Answer {
    let Some(body) = body(session).await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {LARGEST_BODY} bytes\n"));
    };
    match levels::change(&String::from_utf8_lossy(&body)) {
        Ok(()) => {
            tracing::warn!("what is logged was changed to {}", levels::current());
            answer(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", Vec::new())
        }
        Err(fault) => {
            text(StatusCode::BAD_REQUEST, &format!("{fault}; send what RUST_LOG may be, such as info,keymeter=debug\n"))
        }
    }
}

async fn body(session: &mut ServerSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = session.read_request_body().await {
        body.extend_from_slice(&piece);
        if body.len() > LARGEST_BODY {
            return None;
        }
    }
    Some(body)
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, &format!("this path is asked with {allowed} only\n"));
    answer.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(allowed));
    answer
}

fn json(status: StatusCode, body: &serde_json::Value) -> Answer {
    answer(status, "application/json", body.to_string().into_bytes())
}

fn text(status: StatusCode, body: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", body.as_bytes().to_vec())
}

fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let length = body.len();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    answer
}
