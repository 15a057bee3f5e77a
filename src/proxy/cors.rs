//! Pages of other origins in browsers (CORS, as the Fetch standard has it): what lets a page read an answer.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use keymeter_config::Cors;
use pingora::{
    http::{RequestHeader, ResponseHeader},
    prelude::Result,
    proxy::Session,
};

use crate::headers::change_response;

/// Who may read the answers to a request: it stands in the extensions of the request's header, where pages may call at all.
#[derive(Clone)]
pub(super) struct Readers(Option<HeaderValue>);

impl Readers {
    /// Those that `cors` allows of what `head` says.
    pub fn of(cors: &Cors, head: &RequestHeader) -> Self {
        let origin = head.headers.get(header::ORIGIN);
        Self(origin.filter(|origin| cors.allows(origin.as_bytes())).cloned())
    }

    /// Whether there are any.
    pub fn is_any(&self) -> bool {
        self.0.is_some()
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
