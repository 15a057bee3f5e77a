//! What a browser asks before it lets a page of another origin send (a preflight, as the Fetch standard has it).

use http::{HeaderValue, Method, StatusCode, header};
use keymeter_config::Cors;
use pingora::{
    http::{RequestHeader, ResponseHeader},
    prelude::{Error, Result},
    proxy::Session,
};

use super::{
    cors::Readers,
    respond::{self, X_REQUEST_ID},
};
use crate::{admission::RequestId, headers::header_value};

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
    if readers.is_any() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, const { HeaderValue::from_static("GET, POST") });
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs().into());
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
    }
    respond::prepare_connection(session).await;
    session.write_response_header(Box::new(ResponseHeader::from(parts)), true).await.map_err(Error::into_down)
}
