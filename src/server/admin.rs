//! The admin address: metrics, health and reload, for operators and their tools.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use jiff::Timestamp;
use keymeter_core::{
    clock::MonotonicTime,
    hosts::{ForeignRequestError, check_host, check_site},
};
use percent_encoding::percent_decode_str;
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};
use serde_json::json;
use subtle::ConstantTimeEq;

use crate::{
    admission::{Gate, Now},
    connection::Connection,
    keys::{
        Resolver,
        push::{Push, parse_change},
    },
    observe::levels,
    server::reload::Reloader,
    upstream::{Pools, status},
};

/// Answers operators.
pub struct Admin {
    gate: Arc<Gate>,
    pools: Pools,
    reloader: Arc<Reloader>,
    resolver: Arc<Resolver>,
    /// The listener to events, if keys come from a service.
    push: Option<Arc<Push>>,
    /// The admin address.
    listen: SocketAddr,
}

type Answer = Response<Vec<u8>>;

const NO_PATH: &str = "there are /metrics, /-/healthy, /-/ready, /-/log, /-/upstreams, POST /-/reload, POST /-/keys/invalidate, \
                       POST /-/log and POST /-/upstreams/{upstream}/{replica}/drain or /undrain\n";

/// The largest body: an id and a hash, or levels.
const LARGEST_BODY: usize = 4096;

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Answer {
        if let Some(connection) = Connection::current() {
            connection.begin_request();
        }
        keep_as_asked(session);
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        if let Err(error) = self.check_sender(session) {
            // The rest of the request is not read.
            session.set_keepalive(None);
            return text(StatusCode::FORBIDDEN, refusal_of(error));
        }
        match (&method, path.as_str()) {
            (&Method::GET | &Method::HEAD, "/metrics") => self.metrics().await,
            (&Method::GET | &Method::HEAD, "/-/healthy") => text(StatusCode::OK, "ok\n"),
            (&Method::GET | &Method::HEAD, "/-/ready") => self.ready(),
            (&Method::GET | &Method::HEAD, "/-/log") => text(StatusCode::OK, &format!("{}\n", levels::current())),
            (&Method::GET | &Method::HEAD, "/-/upstreams") => self.upstreams(),
            (&Method::POST, _) if is_order(&path) && !self.is_authorized(session) => {
                text(StatusCode::UNAUTHORIZED, "send `Authorization: Bearer` with the token of `admin.token`\n")
            }
            (&Method::POST, _) if is_order(&path) => self.obey(session, &path).await,
            (_, "/metrics" | "/-/healthy" | "/-/ready" | "/-/upstreams") => not_allowed("GET"),
            (_, "/-/log") => not_allowed("GET, POST"),
            _ if is_order(&path) => not_allowed("POST"),
            _ => text(StatusCode::NOT_FOUND, NO_PATH),
        }
    }
}

impl Admin {
    /// What answers at `listen`.
    #[must_use]
    pub fn new(
        gate: Arc<Gate>,
        pools: Pools,
        reloader: Arc<Reloader>,
        resolver: Arc<Resolver>,
        push: Option<Arc<Push>>,
        listen: SocketAddr,
    ) -> Self {
        Self { gate, pools, reloader, resolver, push, listen }
    }

    /// Checks that a request was meant for this address and, if it may change something, was not sent by another site's page.
    fn check_sender(&self, session: &ServerSession) -> Result<(), ForeignRequestError> {
        let head = session.req_header();
        check_host(self.listen, &self.reloader.config().admin.hosts, (&head.uri, &head.headers, head.version))?;
        match head.method {
            Method::GET | Method::HEAD => Ok(()),
            _ => check_site((&head.uri, &head.headers)),
        }
    }

    /// Carries out a POST once its body is read.
    async fn obey(&self, session: &mut ServerSession, path: &str) -> Answer {
        let received = MonotonicTime::now();
        let limit = self.reloader.config().server.body_timeout;
        let body = match read_body(session, limit).await {
            Ok(body) => body,
            Err(error) => {
                session.set_keepalive(None);
                return error.answer();
            }
        };
        match path {
            "/-/reload" => self.reload().await,
            "/-/keys/invalidate" => self.invalidate(&body, received),
            "/-/log" => log(&body),
            _ => self.drain(path, received),
        }
    }

    /// Every upstream, its queue and its replicas.
    fn upstreams(&self) -> Answer {
        let told = status::describe(&self.pools.all(), MonotonicTime::now(), Timestamp::now());
        answer(StatusCode::OK, "application/json", told.to_string().into_bytes())
    }

    /// Lets nothing new go to a replica, or lets it take part again.
    fn drain(&self, path: &str, now: MonotonicTime) -> Answer {
        let Some((upstream, replica, drains)) = replica_in(path) else { return text(StatusCode::NOT_FOUND, NO_PATH) };
        let Some(pool) = self.pools.find(&upstream) else {
            return text(
                StatusCode::NOT_FOUND,
                &format!("there is no upstream `{upstream}`; GET /-/upstreams lists them\n"),
            );
        };
        let members = pool.members();
        let Some(replica) = members.replicas.iter().find(|other| *other.name == replica) else {
            let message =
                format!("the upstream `{upstream}` has no replica `{replica}`; GET /-/upstreams lists them\n");
            return text(StatusCode::NOT_FOUND, &message);
        };
        replica.set_drained(drains);
        tracing::info!(
            "upstream {upstream}: replica {} is {}",
            replica.name,
            if drains { "drained" } else { "undrained" }
        );
        pool.serve(now);
        self.upstreams()
    }

    /// Encodes the metrics on another thread, since a hundred thousand keys take a while.
    async fn metrics(&self) -> Answer {
        let gate = self.gate.clone();
        let failed = |error: &dyn std::fmt::Display| {
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("cannot encode the metrics: {error}\n"))
        };
        match tokio::task::spawn_blocking(move || gate.scrape(Now::read())).await {
            Ok(Ok(text)) => answer(StatusCode::OK, prometheus::TEXT_FORMAT, text.into_bytes()),
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }

    fn ready(&self) -> Answer {
        let may_wait = self.reloader.config().keys.ready_without_source;
        let (status, word) = match (self.gate.in_flight().is_draining(), self.resolver.has_answered()) {
            (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
            (false, false) if !may_wait => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the key source"),
            (false, _) => (StatusCode::OK, "ok"),
        };
        text(status, &format!("{word}\n{}", self.state_of_source()))
    }

    /// The state of a key service, in words.
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

    fn invalidate(&self, body: &[u8], received: MonotonicTime) -> Answer {
        match parse_change(&String::from_utf8_lossy(body)) {
            Ok(change) => {
                self.resolver.changed(change, received);
                answer(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", Vec::new())
            }
            Err(error) => text(StatusCode::BAD_REQUEST, &format!("{error}; send {{\"id\"}}, {{\"hash\"}} or both\n")),
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
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the reload was aborted; the log says why\n"),
        }
    }

    /// Whether a request that changes something has the token, if one is configured.
    fn is_authorized(&self, session: &ServerSession) -> bool {
        let Some(token) = self.reloader.config().admin.token else { return true };
        let stated = session.get_header_bytes(header::AUTHORIZATION).strip_prefix(b"Bearer ").unwrap_or_default();
        stated.ct_eq(token.0.reveal().as_bytes()).into()
    }
}

/// Keeps the connection only if its client counts on that: Pingora would keep every one, and a client of HTTP/1.0 waits for
/// the end of it.
fn keep_as_asked(session: &mut ServerSession) {
    if session.get_keepalive().is_some()
        && let ServerSession::H1(session) = session
    {
        session.respect_keepalive();
    }
}

/// Sets the log levels that the body states.
fn log(body: &[u8]) -> Answer {
    match levels::change(&String::from_utf8_lossy(body)) {
        Ok(()) => {
            tracing::warn!("the log levels were changed to {}", levels::current());
            answer(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", Vec::new())
        }
        Err(error) => {
            text(StatusCode::BAD_REQUEST, &format!("{error}; send what RUST_LOG may be, such as info,keymeter=debug\n"))
        }
    }
}

/// The whole body.
async fn read_body(session: &mut ServerSession, limit: Duration) -> Result<Vec<u8>, PostBodyError> {
    let reading = async {
        let mut body = Vec::new();
        while let Some(piece) = session.read_request_body().await.map_err(|_| PostBodyError::Incomplete)? {
            body.extend_from_slice(&piece);
            if body.len() > LARGEST_BODY {
                return Err(PostBodyError::TooLarge);
            }
        }
        Ok(body)
    };
    tokio::time::timeout(limit, reading).await.unwrap_or(Err(PostBodyError::TooSlow))
}

/// Why a body cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PostBodyError {
    TooLarge,
    TooSlow,
    /// It broke off, or cannot be told from what follows it.
    Incomplete,
}

impl PostBodyError {
    fn answer(self) -> Answer {
        match self {
            Self::TooLarge => {
                text(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body has more than {LARGEST_BODY} bytes\n"))
            }
            Self::TooSlow => text(StatusCode::REQUEST_TIMEOUT, "the body did not come within `server.body_timeout`\n"),
            Self::Incomplete => text(StatusCode::BAD_REQUEST, "the body broke off; nothing was changed\n"),
        }
    }
}

/// Whether a POST there changes something.
fn is_order(path: &str) -> bool {
    matches!(path, "/-/reload" | "/-/keys/invalidate" | "/-/log") || replica_in(path).is_some()
}

/// The upstream and the replica that a path names, and whether that is to be drained.
fn replica_in(path: &str) -> Option<(String, String, bool)> {
    let (names, order) = path.strip_prefix("/-/upstreams/")?.rsplit_once('/')?;
    let drains = match order {
        "drain" => true,
        "undrain" => false,
        _ => return None,
    };
    let (upstream, replica) = names.split_once('/')?;
    let decoded = |name: &str| percent_decode_str(name).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    Some((decoded(upstream)?, decoded(replica)?, drains))
}

fn refusal_of(error: ForeignRequestError) -> &'static str {
    match error {
        ForeignRequestError::Host => {
            "`Host` names no host of this address: use localhost or a loopback address, or list the name in `admin.hosts`\n"
        }
        ForeignRequestError::Site => {
            "a page of another site sent this (`Origin` or `Sec-Fetch-Site`); pages may change nothing here\n"
        }
    }
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
