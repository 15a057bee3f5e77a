//! What happens to a response on its way back, and what a client is told when there is none or
//! when it breaks off.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use keymeter_core::{api::Api, rejection::Rejection};
use pingora::{
    ErrorSource, ErrorType,
    http::ResponseHeader,
    prelude::{Error, Result},
    proxy::{FailToProxy, Session},
};

use super::{
    RequestState, Running, dispatch,
    ends::{ADDITION_REFUSED, CREDENTIAL_REFUSED, ELSEWHERE, KEY_REVOKED, LEDGER_UNAVAILABLE, NO_REPLICA},
    respond::{self, Reply, id_headers, rate_headers},
};
use crate::{
    admission::{Gate, Now},
    encoding::ContentCoding,
    headers::{change_response, header_value},
};

/// Looks at an upstream's head before anything else does: its 401 and 403 are about our
/// credential and not for the client, but for a 403 about what the request says, which passes as a 400; and a refusal of what
/// we added calls for another try.
pub(super) fn judge_head(state: &mut RequestState, head: &mut ResponseHeader) -> Result<()> {
    let status = head.status.as_u16();
    if let Some(trace) = state.trace_mut() {
        trace.upstream_answered(status);
    }
    if status == 101 {
        // Nobody asked for it: what asks is not passed on.
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "the upstream switched protocols").into_up());
    }
    if let RequestState::Running(running) = state
        && running.request.try_otherwise(status)
    {
        dispatch::begin_again(running);
        running.rewrite_body();
        return Err(Error::explain(ADDITION_REFUSED, format!("status {status}")).into_up());
    }
    if let RequestState::Running(running) = state
        && !head.status.is_informational()
        && dispatch::goes_elsewhere(running, status, &head.headers)
    {
        return Err(Error::explain(ELSEWHERE, format!("status {status}")).into_up());
    }
    if status == 403 && is_about_content(state, head) {
        head.set_status(StatusCode::BAD_REQUEST)?;
        return head.set_reason_phrase(None);
    }
    if matches!(status, 401 | 403) {
        return Err(Error::explain(CREDENTIAL_REFUSED, format!("status {status}")).into_up());
    }
    Ok(())
}

/// Whether an upstream's 403 is about the content of the request: it took our credential lately, and says more in JSON.
fn is_about_content(state: &RequestState, head: &ResponseHeader) -> bool {
    let RequestState::Running(running) = state else { return false };
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = content_type.is_some_and(is_json) && !has_no_body(head);
    is_json && running.request.admitted().route.has_taken_credential(Now::read().moment)
}

/// Whether a media type is JSON, or made of it (RFC 6839, section 3.1).
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type == "text/json" || media_type.ends_with("+json")
}

/// Headers of ours in an answer, and as many as an upstream's may have had room for before.
const OURS: usize = 8;

/// Whether a header of an upstream speaks of its limits, which are not the key's.
fn is_of_limits(name: &str) -> bool {
    name.starts_with("x-ratelimit-") || name.starts_with("anthropic-ratelimit-")
}

/// Begins the metering, and puts our headers in place of the upstream's.
pub(super) fn begin(session: &Session, state: &mut RequestState, head: &mut ResponseHeader) -> Result<()> {
    if head.status.is_informational() {
        return Ok(());
    }
    match state {
        RequestState::Running(running) => {
            // Nothing will be sent again: the body's memory is free for others.
            running.body = None;
            let text = |name| head.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
            let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
            running.request.answered(head.status.as_u16(), content_type, ContentCoding::known(&head.headers));
            let has_no_body = has_no_body(head);
            let (api, now) = (running.request.admitted().endpoint.api(), Now::read());
            running.request.learn_additions(head.status.as_u16(), now);
            let ours = rate_headers(&running.request.standing(now), api, now);
            let ours = ours.chain(id_headers(api, running.request.request_id().as_str()));
            change_response(head, |headers| {
                let named: Vec<_> = headers.keys().filter(|name| is_of_limits(name.as_str())).cloned().collect();
                for name in named {
                    headers.remove(name);
                }
                // So that they grow once. No head has so many headers that there is no room.
                let _ = headers.try_reserve(OURS);
                for (name, value) in ours {
                    headers.insert(name, value);
                }
                if running.request.may_shorten() && !has_no_body && headers.remove(header::CONTENT_LENGTH).is_some() {
                    chunk(session, headers);
                }
            })?;
            if has_no_body { close(running, now) } else { Ok(()) }
        }
        RequestState::Identified(request) => change_response(head, |headers| {
            headers.insert(respond::X_REQUEST_ID, header_value(request.context.id.as_str().to_owned()));
        }),
        RequestState::New | RequestState::Refused(_) | RequestState::Settled => Ok(()),
    }
}

/// Whether a response ends with its head.
fn has_no_body(head: &ResponseHeader) -> bool {
    let is_empty = head.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    is_empty || matches!(head.status.as_u16(), 204 | 304)
}

/// A stream from which an event may be taken out has no length that can be stated in advance.
fn chunk(session: &Session, headers: &mut HeaderMap) {
    if session.req_header().version == Version::HTTP_11 {
        headers.insert(header::TRANSFER_ENCODING, const { HeaderValue::from_static("chunked") });
    }
}

/// A response without a length to a client of HTTP/1.0, which knows no chunks, ends with its connection (RFC 9112, section
/// 6.3).
pub(super) fn end_with_connection(session: &mut Session, head: &mut ResponseHeader) -> Result<()> {
    let is_old = session.req_header().version == Version::HTTP_10;
    if is_old && !head.status.is_informational() && !head.headers.contains_key(header::CONTENT_LENGTH) {
        session.set_keepalive(None);
        change_response(head, |headers| drop(headers.remove(header::TRANSFER_ENCODING)))?;
    }
    Ok(())
}

/// Whether a request runs whose key is revoked, and whose response has not come to its end.
pub(super) fn is_revoked(state: &RequestState) -> bool {
    matches!(state, RequestState::Running(running) if running.request.revoked().is_some() && !running.request.has_ended())
}

/// Meters a response's next bytes, and leaves in `body` what is to be forwarded.
pub(super) fn pass(state: &mut RequestState, body: &mut Option<Bytes>, end_of_stream: bool) -> Result<()> {
    if is_revoked(state) {
        return Err(Error::explain(KEY_REVOKED, "the key is revoked").into_in());
    }
    let RequestState::Running(running) = state else { return Ok(()) };
    let earlier = running.request.first_token();
    if let Some(chunk) = body.take() {
        *body = Some(running.request.pass(chunk));
    }
    if end_of_stream || running.request.has_ended() {
        if let Some(held) = running.request.flush() {
            *body = Some(joined(body.take(), held));
        }
        // An answer in one piece ends as it begins.
        let begins = running.request.first_token().filter(|_| earlier.is_none());
        let now = begins.unwrap_or_else(Now::read);
        close(running, now)?;
    }
    if let Some(forwarded) = body {
        running.tail.saw(forwarded);
    }
    if let Some(subrequest) = &running.subrequest {
        subrequest.give(body.as_deref().unwrap_or_default(), running.request.has_ended());
    }
    Ok(())
}

/// The response has come to its end.
fn close(running: &mut Running, now: Now) -> Result<()> {
    if let Some(answer) = running.request.answer_id() {
        running.dispatch.made(answer);
    }
    let closed = running.request.close(now);
    closed.map_err(|error| Error::explain(LEDGER_UNAVAILABLE, error.to_string()).into_in())
}

/// What was held back of a response that ends with trailers, and then what the proxy within adds.
pub(super) fn before_trailers(state: &mut RequestState, theirs: Option<Bytes>) -> Result<Option<Bytes>> {
    let RequestState::Running(running) = state else { return Ok(theirs) };
    let held = running.request.flush();
    close(running, Now::read())?;
    Ok(match (held, theirs) {
        (Some(held), Some(theirs)) => Some(joined(Some(held), theirs)),
        (held, theirs) => held.or(theirs),
    })
}

fn joined(first: Option<Bytes>, second: Bytes) -> Bytes {
    match first {
        Some(first) if !first.is_empty() => {
            let mut both = BytesMut::from(first);
            both.extend_from_slice(&second);
            both.freeze()
        }
        _ => second,
    }
}

/// The last bytes that were forwarded: they tell whether a stream stands between two events.
#[derive(Default)]
pub(super) struct Tail {
    bytes: [u8; 4],
    any: bool,
}

impl Tail {
    pub fn saw(&mut self, forwarded: &[u8]) {
        if forwarded.is_empty() {
            return;
        }
        self.any = true;
        let last = forwarded.last_chunk::<4>().map_or(forwarded, <[u8; 4]>::as_slice);
        self.bytes.rotate_left(last.len() % 4);
        for (place, byte) in self.bytes.iter_mut().rev().zip(last.iter().rev()) {
            *place = *byte;
        }
    }

    /// Whether an event of `api` may begin here. Ollama's are lines, the others' end with an empty line.
    pub fn is_between_events(&self, api: Api) -> bool {
        let bytes = &self.bytes;
        if api == Api::Ollama {
            return !self.any || bytes.ends_with(b"\n");
        }
        !self.any || bytes.ends_with(b"\n\n") || bytes.ends_with(b"\r\r") || bytes.ends_with(b"\r\n\r\n")
    }
}

/// Answers for a request that failed: in the API's form if nothing was answered yet, by an error
/// event in a stream that stands between two events, and else by closing the connection.
/// `None`: it is the inner proxy's own failure, and its own to answer.
pub(super) async fn fail(
    gate: &Gate,
    session: &mut Session,
    state: &mut RequestState,
    error: &Error,
) -> Option<FailToProxy> {
    let rejection = verdict(state, error)?;
    if is_behind_the_end(state, &rejection) {
        return Some(FailToProxy { error_code: 0, can_reuse_downstream: false });
    }
    let status = rejection.status().as_u16();
    if let RequestState::Running(running) = state {
        let answered = session.response_written().map(|head| head.status).filter(|status| !status.is_informational());
        running.request.give_up(answered.map_or(status, |status| status.as_u16()), Now::read());
    }
    let can_reuse = match session.response_written() {
        Some(head) if !head.status.is_informational() => {
            write_error_event(session, state, &rejection).await;
            false
        }
        _ => {
            // Pingora closes the connection after a failure, whatever it is told: the client has to know.
            session.set_keepalive(None);
            let reply = Reply::to(gate, state, &rejection, Now::read());
            respond::write(session, reply).await.is_ok() && session.is_body_done()
        }
    };
    state.fail(rejection);
    Some(FailToProxy { error_code: status, can_reuse_downstream: can_reuse })
}

/// Whether the upstream failed behind the end of its response: it said that more was to come, and the client has all that
/// there is.
fn is_behind_the_end(state: &RequestState, rejection: &Rejection) -> bool {
    let RequestState::Running(running) = state else { return false };
    let is_of_upstream = matches!(rejection, Rejection::Upstream { .. } | Rejection::UpstreamTimeout { .. });
    is_of_upstream && running.request.has_ended()
}

/// What a failure means to the client; `None`: nothing that we should say.
fn verdict(state: &RequestState, error: &Error) -> Option<Rejection> {
    let upstream = match state {
        RequestState::Running(running) if is_revoked(state) => return running.request.revoked(),
        RequestState::Running(running) => running.request.admitted().route.name.to_string(),
        _ => "upstream".to_owned(),
    };
    match (error.esource(), error.etype()) {
        (_, kind) if *kind == LEDGER_UNAVAILABLE => Some(Rejection::LedgerUnavailable),
        (_, kind) if *kind == NO_REPLICA => match state {
            RequestState::Running(running) => running.rejection.clone(),
            _ => None,
        },
        (ErrorSource::Downstream, _) | (_, ErrorType::HTTPStatus(_)) => None,
        (_, kind) if *kind == CREDENTIAL_REFUSED => Some(Rejection::UpstreamCredential { upstream }),
        (
            _,
            ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::TLSHandshakeTimedout,
        ) => Some(Rejection::UpstreamTimeout { upstream }),
        _ => Some(Rejection::Upstream { upstream }),
    }
}

/// Ends a broken stream of events with an event that says so. A stream that broke within an event
/// is left as it is: whatever followed would be taken for a part of that event.
async fn write_error_event(session: &mut Session, state: &RequestState, rejection: &Rejection) {
    let RequestState::Running(running) = state else { return };
    let Running { request, tail, .. } = &**running;
    // The end of what could not be recorded was not passed on.
    let has_ended = request.has_ended() && *rejection != Rejection::LedgerUnavailable;
    if !request.takes_events() || has_ended || !tail.is_between_events(request.admitted().endpoint.api()) {
        return;
    }
    let event = rejection.event(request.admitted().endpoint, request.request_id().as_str());
    if room_left(session).is_some_and(|room| event.len() > room) {
        return;
    }
    // The client may be gone by now: then there is nobody to tell.
    let _ = respond::write_last(session, event.into()).await;
}

/// What may still be written of a response whose head states its length. An event that is cut is worse than none.
fn room_left(session: &Session) -> Option<usize> {
    let length = session.response_written()?.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    Some(length.parse::<usize>().ok()?.saturating_sub(session.body_bytes_sent()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_known_by_its_media_type() {
        for (written, is) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("application/jsonl", false),
            ("text/html; x=application/json", false),
            ("", false),
        ] {
            assert_eq!(is_json(written), is, "{written:?}");
        }
    }

    #[test]
    fn an_event_may_begin_only_between_events() {
        for (parts, between) in [
            (vec!["data: a\n\n"], true),
            (vec!["data: a\n", "\n"], true),
            (vec!["data: a\r\n\r", "\n"], true),
            (vec!["data: a\n"], false),
            (vec!["data: a\r\n"], false),
            (vec!["data: {\"a"], false),
            (vec!["data: a\n\n", "d"], false),
            (vec![], true),
            (vec!["data: a\n\n", ""], true),
        ] {
            let mut tail = Tail::default();
            for part in &parts {
                tail.saw(part.as_bytes());
            }
            assert_eq!(tail.is_between_events(Api::OpenAi), between, "{parts:?}");
        }
    }
}
