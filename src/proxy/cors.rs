//! Pages of other origins in browsers (CORS, as the Fetch standard has it): what a preflight is told, and what lets a page
//! read an answer.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use keymeter_config::Cors;
use pingora::{
    http::{RequestHeader, ResponseHeader},
    prelude::{Error, Result},
    proxy::Session,
};

use super::respond::{self, X_REQUEST_ID};
use crate::{
    admission::RequestId,
    headers::{change_response, header_value},
};

/// Who may read the answers to a request: it stands in the extensions of the request's header, where pages may call at all.
#[derive(Clone)]
pub(super) struct Readers(Option<HeaderValue>);

impl Readers {
    /// Those that `cors` allows of what `head` says.
    pub fn of(cors: &Cors, head: &RequestHeader) -> Self {
        let origin = head.headers.get(header::ORIGIN);
        Self(origin.filter(|origin| cors.allows(origin.as_bytes())).cloned())
    }

    /// What an answer says to their browsers, in place of what an upstream does.
    pub fn write(&self, headers: &mut HeaderMap) {
        let theirs: Vec<_> = headers.keys().filter(|name| is_of_cors(name)).cloned().collect();
        for name in theirs {
            headers.remove(name);
        }
        headers.append(header::VARY, const { HeaderValue::from_static("origin") });
        if let Some(origin) = &self.0 {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, const { HeaderValue::from_static(EXPOSED) });
        }
    }
}

fn is_of_cors(name: &HeaderName) -> bool {
    name.as_str().starts_with("access-control-")
}

/// What a page may read beside what browsers let it read of any answer.
const EXPOSED: &str = "x-request-id, request-id, retry-after, retry-after-ms, x-should-retry, \
    x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, \
    anthropic-ratelimit-requests-limit, anthropic-ratelimit-requests-remaining, anthropic-ratelimit-requests-reset, \
    anthropic-ratelimit-tokens-limit, anthropic-ratelimit-tokens-remaining, anthropic-ratelimit-tokens-reset";

/// Lets those read the response to the request of `session` who may.
pub(super) fn expose(session: &Session, response: &mut ResponseHeader) -> Result<()> {
    match session.req_header().extensions.get::<Readers>() {
        Some(readers) => change_response(response, |headers| readers.write(headers)),
        None => Ok(()),
    }
}

/// Whether a browser asks what a page may send, before it lets it.
pub(super) fn is_preflight(head: &RequestHeader) -> bool {
    head.method == Method::OPTIONS
        && head.headers.contains_key(header::ORIGIN)
        && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Tells it. No key is sent with such a question.
pub(super) async fn answer_preflight(session: &mut Session, cors: &Cors) -> Result<()> {
    let readers = Readers::of(cors, session.req_header());
    let asked = session.req_header().headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = StatusCode::NO_CONTENT;
    let headers = &mut parts.headers;
    headers.insert(X_REQUEST_ID, header_value(RequestId::next().as_str().to_owned()));
    readers.write(headers);
    if readers.0.is_some() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, const { HeaderValue::from_static("GET, POST") });
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs().into());
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
    }
    respond::prepare_connection(session).await;
    session.write_response_header(Box::new(ResponseHeader::from(parts)), true).await.map_err(Error::into_down)
}
