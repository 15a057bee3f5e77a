//! What happens to a response on its way back, and what a client is told when there is none or
//! when it breaks off.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Version, header};
use keymeter_core::{api::Api, rejection::Rejection};
use pingora::{
    ErrorSource, ErrorType,
    http::ResponseHeader,
    prelude::{Error, Result},
    proxy::{FailToProxy, Session},
};

use super::{
    RequestState, Running,
    body::is_encoded,
    respond::{self, Reply, id_headers, rate_headers},
};
use crate::{
    admission::{Gate, Now},
    headers::{change_response, header_value},
};

/// Why we ourselves end an exchange with an upstream.
pub(super) const CREDENTIAL_REFUSED: ErrorType = ErrorType::Custom("the upstream refused our credential");
/// See [`CREDENTIAL_REFUSED`].
pub(super) const KEY_REVOKED: ErrorType = ErrorType::Custom("the key was revoked");
/// See [`CREDENTIAL_REFUSED`].
pub(super) const ADDITION_REFUSED: ErrorType = ErrorType::Custom("the upstream refused stream_options");

/// See [`CREDENTIAL_REFUSED`].
pub(super) const LEDGER_UNAVAILABLE: ErrorType = ErrorType::Custom("the response could not be recorded");

/// Looks at an upstream's head before anything else does: its 401 and 403 are about our
/// credential and not for the client, and a refusal of what we added calls for another try.
pub(super) fn judge_head(stage: &mut RequestState, head: &ResponseHeader) -> Result<()> {
    let status = head.status.as_u16();
    if let Some(trace) = stage.trace_mut() {
        trace.upstream_answered(status);
    }
    if status == 101 {
        // Nobody asked for it: what asks is not passed on.
        return Err(Error::explain(ErrorType::InvalidHTTPHeader, "the upstream switched protocols").into_up());
    }
    if matches!(status, 401 | 403) {
        return Err(Error::explain(CREDENTIAL_REFUSED, format!("status {status}")).into_up());
    }
    if let RequestState::Running(running) = stage
        && running.lease.withdraw_addition(status)
    {
        running.rewrite_body();
        return Err(Error::explain(ADDITION_REFUSED, format!("status {status}")).into_up());
    }
    Ok(())
}

/// Headers of ours in an answer, and as many as an upstream's may have had room for before.
const OURS: usize = 8;

/// Whether a header of an upstream speaks of its limits, which are not the key's.
fn is_of_limits(name: &str) -> bool {
    name.starts_with("x-ratelimit-") || name.starts_with("anthropic-ratelimit-")
}

/// Begins the metering, and puts our headers in place of the upstream's.
pub(super) fn begin(session: &Session, stage: &mut RequestState, head: &mut ResponseHeader) -> Result<()> {
    if head.status.is_informational() {
        return Ok(());
    }
    match stage {
        RequestState::Running(running) => {
            // Nothing will be sent again: the body's memory is free for others.
            running.body = None;
            let text = |name| head.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
            let is_encoded = is_encoded(&head.headers);
            running.lease.answered(head.status.as_u16(), text(header::CONTENT_TYPE).unwrap_or_default(), is_encoded);
            let (api, now) = (running.lease.admitted().endpoint.api(), Now::read());
            let ours = rate_headers(&running.lease.standing(now), api, now);
            let ours = ours.chain(id_headers(api, running.lease.request_id().as_str()));
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
                if running.lease.may_shorten() && headers.remove(header::CONTENT_LENGTH).is_some() {
                    chunk(session, headers);
                }
            })?;
            if has_no_body(head) { close(running) } else { Ok(()) }
        }
        RequestState::Visiting(visit, _) => change_response(head, |headers| {
            headers.insert(respond::X_REQUEST_ID, header_value(visit.id.as_str().to_owned()));
        }),
        RequestState::New | RequestState::ExchangeEnd => Ok(()),
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

/// Whether a request runs whose key is revoked, and whose response has not come to its end.
pub(super) fn is_revoked(stage: &RequestState) -> bool {
    matches!(stage, RequestState::Running(running) if running.lease.revoked().is_some() && !running.lease.has_ended())
}

/// Meters a response's next bytes, and leaves in `body` what is to be forwarded.
pub(super) fn pass(stage: &mut RequestState, body: &mut Option<Bytes>, end_of_stream: bool) -> Result<()> {
    if is_revoked(stage) {
        return Err(Error::explain(KEY_REVOKED, "the key is revoked").into_in());
    }
    let RequestState::Running(running) = stage else { return Ok(()) };
    if let Some(chunk) = body.take() {
        *body = Some(running.lease.pass(chunk));
    }
    if end_of_stream || running.lease.has_ended() {
        if let Some(held) = running.lease.flush() {
            *body = Some(joined(body.take(), held));
        }
        close(running)?;
    }
    if let Some(forwarded) = body {
        running.tail.saw(forwarded);
    }
    if let Some(halves) = &running.halves {
        halves.give(body.as_deref().unwrap_or_default(), running.lease.has_ended());
    }
    Ok(())
}

/// The response has come to its end.
fn close(running: &mut Running) -> Result<()> {
    let closed = running.lease.close(Now::read());
    closed.map_err(|fault| Error::explain(LEDGER_UNAVAILABLE, fault.to_string()).into_in())
}

/// What was held back of a response that ends with trailers, and then what the proxy within adds.
pub(super) fn before_trailers(stage: &mut RequestState, theirs: Option<Bytes>) -> Result<Option<Bytes>> {
    let RequestState::Running(running) = stage else { return Ok(theirs) };
    let held = running.lease.flush();
    close(running)?;
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
    fn is_between_events(&self, api: Api) -> bool {
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
    stage: &mut RequestState,
    error: &Error,
) -> Option<FailToProxy> {
    let rejection = verdict(stage, error)?;
    let status = rejection.status().as_u16();
    if let RequestState::Running(running) = stage {
        let answered = session.response_written().map(|head| head.status).filter(|status| !status.is_informational());
        running.lease.give_up(answered.map_or(status, |status| status.as_u16()), Now::read());
    }
    let can_reuse = match session.response_written() {
        Some(head) if !head.status.is_informational() => {
            write_error_event(session, stage, &rejection).await;
            false
        }
        _ => {
            // Pingora closes the connection after a failure, whatever it is told: the client has to know.
            session.set_keepalive(None);
            let reply = Reply::to(gate, stage, &rejection, Now::read());
            respond::write(session, reply).await.is_ok() && session.is_body_done()
        }
    };
    match stage {
        RequestState::Running(running) => running.rejection = Some(rejection),
        RequestState::Visiting(_, reason) => *reason = Some(rejection),
        RequestState::New | RequestState::ExchangeEnd => {}
    }
    Some(FailToProxy { error_code: status, can_reuse_downstream: can_reuse })
}

/// What a failure means to the client; `None`: nothing that we should say.
fn verdict(stage: &RequestState, error: &Error) -> Option<Rejection> {
    let upstream = match stage {
        RequestState::Running(running) if is_revoked(stage) => return running.lease.revoked(),
        RequestState::Running(running) => running.lease.admitted().route.name.to_string(),
        _ => "upstream".to_owned(),
    };
    match (error.esource(), error.etype()) {
        (_, kind) if *kind == LEDGER_UNAVAILABLE => Some(Rejection::LedgerUnavailable),
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
async fn write_error_event(session: &mut Session, stage: &RequestState, rejection: &Rejection) {
    let RequestState::Running(running) = stage else { return };
    let Running { lease, tail, .. } = &**running;
    // The end of what could not be recorded was not passed on.
    let has_ended = lease.has_ended() && *rejection != Rejection::LedgerUnavailable;
    if !lease.is_stream() || has_ended || !tail.is_between_events(lease.admitted().endpoint.api()) {
        return;
    }
    let event = rejection.event(lease.admitted().endpoint, lease.request_id().as_str());
    // The client may be gone by now: then there is nobody to tell.
    let _ = respond::write_last(session, event.into()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

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
