//! Writes our own answers: refusals in the API's form, and what the gateway knows itself.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use jiff::Timestamp;
use keymeter_core::{
    api::{Api, Call, Unrecognised},
    body::BodyError,
    digits::Digits,
    limit::LimitStatus,
    rejection::Rejection,
};
use pingora::{
    http::{RequestHeader, ResponseHeader},
    prelude::{Error, Result},
    proxy::Session,
};

use super::{RequestInfo, RequestState, cors::Readers};
use crate::{
    admission::{Gate, Identified, Now, Rejected, RequestContext, RequestId},
    connection::Connection,
    headers::header_value,
    keys::Key,
};

/// What a request is called, as most look for it.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The same, on Anthropic's paths.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A refusal, ready to be written.
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Vec<u8>,
    /// Whether its connection takes no further request.
    pub closes: bool,
}

impl Reply {
    /// What the sender of a refused request is told.
    pub fn to_refused(gate: &Gate, rejected: &Rejected, now: Now) -> Self {
        let Rejected { context, key, rejection } = rejected;
        let status = key.as_ref().map(|key| limit_status(gate, context, key, now));
        Self::new(context.api, Some(&context.id), status, rejection, now)
    }

    /// What the sender of a request is told in place of a response.
    pub fn to(gate: &Gate, state: &RequestState, rejection: &Rejection, now: Now) -> Self {
        let (api, id, status) = match state {
            RequestState::Identified(Identified { context, key }) => {
                (context.api, Some(&context.id), Some(limit_status(gate, context, key, now)))
            }
            RequestState::Refused(rejected) => {
                let Rejected { context, key, .. } = &**rejected;
                (context.api, Some(&context.id), key.as_ref().map(|key| limit_status(gate, context, key, now)))
            }
            RequestState::Running(running) => {
                let request = &running.request;
                (request.admitted().endpoint.api(), Some(request.request_id()), Some(request.standing(now)))
            }
            RequestState::New | RequestState::Settled => (Api::OpenAi, None, None),
        };
        Self::new(api, id, status, rejection, now)
    }

    fn new(api: Api, id: Option<&RequestId>, status: Option<LimitStatus>, rejection: &Rejection, now: Now) -> Self {
        let id = id.map(RequestId::as_str).unwrap_or_default();
        let mut headers = Vec::with_capacity(12);
        headers.extend(id_headers(api, id));
        headers.extend(status.into_iter().flat_map(|status| rate_headers(&status, api, now)));
        headers.extend(retry_headers(rejection));
        headers.extend(advice(rejection));
        Self { status: rejection.status(), headers, body: rejection.body(api, id), closes: rejection.loses_the_end() }
    }
}

/// What would be taken in place of what was sent.
fn advice(rejection: &Rejection) -> Option<(HeaderName, HeaderValue)> {
    match rejection {
        Rejection::MethodNotAllowed { allowed } => Some((header::ALLOW, HeaderValue::from_static(allowed))),
        Rejection::UpgradeRequired => Some((header::UPGRADE, const { HeaderValue::from_static("HTTP/1.1") })),
        Rejection::UnsupportedEncoding => {
            Some((header::ACCEPT_ENCODING, const { HeaderValue::from_static("gzip, deflate, br, zstd") }))
        }
        _ => None,
    }
}

/// What is left of the limits of a request's key.
fn limit_status(gate: &Gate, context: &RequestContext, key: &Key, now: Now) -> LimitStatus {
    gate.standing(key, &context.settings.limits_of(key), now)
}

/// The name of the request, under the names that clients look for.
pub(super) fn id_headers(api: Api, id: &str) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let id = header_value(id.to_owned());
    let anthropic = (api == Api::Anthropic).then(|| (REQUEST_ID, id.clone()));
    std::iter::once((X_REQUEST_ID, id)).chain(anthropic)
}

/// Whether a request asks for a websocket (RFC 6455, section 4.1) on a path that is served.
pub(super) fn asks_for_websocket(head: &RequestHeader, call: &Result<Call, Unrecognised>) -> bool {
    if head.method != Method::GET || matches!(call, Err(Unrecognised::Path)) {
        return false;
    }
    let protocols = head.headers.get_all(header::UPGRADE).iter();
    let mut protocols = protocols.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    protocols.any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

/// Why a path or method is not served.
pub(super) fn unrecognised(why: Unrecognised, head: &RequestHeader) -> Rejection {
    match why {
        Unrecognised::Path => {
            Rejection::UnknownUrl { method: head.method.to_string(), path: head.uri.path().to_owned() }
        }
        Unrecognised::Method(allowed) => Rejection::MethodNotAllowed { allowed },
        Unrecognised::ModelName => Rejection::InvalidBody(BodyError::ModelName),
    }
}

/// What is left of what is limited: `x-ratelimit-*`, and `anthropic-ratelimit-*` on Anthropic's paths.
pub(super) fn rate_headers(
    standing: &LimitStatus,
    api: Api,
    now: Now,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let [requests, tokens] = match api {
        Api::Anthropic => &ANTHROPIC_RATES,
        Api::OpenAi | Api::Ollama | Api::Gemini => &OPENAI_RATES,
    };
    // All values stand in one buffer, of which each header has its part.
    let (mut text, mut ends) = (Vec::with_capacity(RATES), [0; 6]);
    for (level, ends) in [&standing.requests, &standing.tokens].into_iter().zip(ends.as_chunks_mut::<3>().0) {
        let Some(limit) = level.limit.number() else { continue };
        let [end_of_limit, end_of_remaining, end_of_reset] = ends;
        *end_of_limit = put_number(&mut text, limit);
        *end_of_remaining = put_number(&mut text, level.remaining().unwrap_or(0));
        *end_of_reset = match api {
            Api::Anthropic => put(&mut text, instant(level.reset, now).as_bytes()),
            Api::OpenAi | Api::Ollama | Api::Gemini => put(&mut text, compact(level.reset).as_bytes()),
        };
    }
    let (text, mut start) = (Bytes::from(text), 0);
    requests.iter().chain(tokens).zip(ends).filter(|(_, end)| *end > 0).map(move |(name, end)| {
        let value = HeaderValue::from_maybe_shared(text.slice(std::mem::replace(&mut start, end)..end));
        // Digits, letters, and what a time is written with can stand in a header.
        (name.clone(), value.unwrap_or(const { HeaderValue::from_static("") }))
    })
}

/// Room for the values of an answer's limits.
const RATES: usize = 96;

/// Puts a value behind the others, and says where it ends.
fn put(text: &mut Vec<u8>, value: &[u8]) -> usize {
    text.extend_from_slice(value);
    text.len()
}

fn put_number(text: &mut Vec<u8>, number: u64) -> usize {
    let mut digits = Digits::<20>::new();
    digits.number(number);
    put(text, digits.as_bytes())
}

/// Limit, remaining and reset, of requests and then of tokens.
type RateNames = [[HeaderName; 3]; 2];

static OPENAI_RATES: RateNames = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

static ANTHROPIC_RATES: RateNames = [
    [
        HeaderName::from_static("anthropic-ratelimit-requests-limit"),
        HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
        HeaderName::from_static("anthropic-ratelimit-requests-reset"),
    ],
    [
        HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
        HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
    ],
];

/// When a duration from now is over (RFC 3339), rounded up to the second as Anthropic writes it.
fn instant(duration: Duration, now: Now) -> String {
    let end = now.date.as_nanosecond() + i128::try_from(duration.as_nanos()).unwrap_or(0);
    let second = i64::try_from(end.div_euclid(1_000_000_000) + i128::from(end.rem_euclid(1_000_000_000) > 0));
    second.ok().and_then(|second| Timestamp::from_second(second).ok()).unwrap_or(now.date).to_string()
}

/// A duration as OpenAI writes it: `120ms`, `1s`, `6m0s`. Rounded up, so that waiting suffices.
fn compact(duration: Duration) -> Digits<24> {
    let millis = u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let mut digits = Digits::<24>::new();
    digits.put(b's');
    if millis < 1000 {
        digits.put(b'm');
        digits.number(millis);
        return digits;
    }
    let seconds = millis.div_ceil(1000);
    digits.number(seconds % 60);
    if seconds >= 60 {
        digits.put(b'm');
        digits.number(seconds / 60);
    }
    digits
}

fn retry_headers(rejection: &Rejection) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let wait = rejection.retry_after().map(|wait| {
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        [(header::RETRY_AFTER, millis.div_ceil(1000).into()), (RETRY_AFTER_MS, millis.into())]
    });
    let never = rejection.forbids_retry().then(|| (X_SHOULD_RETRY, HeaderValue::from_static("false")));
    wait.into_iter().flatten().chain(never)
}

/// A body up to this size is read to its end after a refusal, so that the connection lives.
const WORTH_READING: usize = 64 * 1024;
/// What is not here by then is not waited for.
const READING_TIME: Duration = Duration::from_secs(2);

/// Answers a request whose body may still be on its way.
pub(super) async fn before_body(session: &mut Session, reply: Reply) -> Result<()> {
    if reply.closes || is_refused_in_chunks(session, &reply) {
        // A body that broke off looks as if it had been read to its end, and one that has used up its time is not given more.
        close_after_answer(session);
    } else {
        prepare_connection(session).await;
    }
    write(session, reply).await?;
    if session.req_header().version == Version::HTTP_2 {
        pass_over(session).await;
    }
    Ok(())
}

/// Passes over what is left of a stream's body, for a moment. A stream that is dropped before its end is reset, and what of its
/// answer is not sent by then is lost.
async fn pass_over(session: &mut Session) {
    let reading = async { while matches!(session.read_request_body().await, Ok(Some(_))) {} };
    // Who goes on sending after that does not read its answer.
    let _ = tokio::time::timeout(READING_TIME, reading).await;
}

/// Has the connection of an answer that is about to be written go on, if that is worth reading what is left of the request.
pub(super) async fn prepare_connection(session: &mut Session) {
    match Rest::of(session) {
        Rest::Nothing => {}
        // Pingora reads the rest once the answer is out, if it is told that this is no reason to close.
        Rest::Little => {
            session.set_close_on_response_before_downstream_finish(false);
            session.set_total_drain_timeout(Some(READING_TIME));
        }
        Rest::Unknown if is_read_to_its_end(session).await => {}
        Rest::Unknown | Rest::Much => close_after_answer(session),
    }
}

/// Has the connection closed once the answer is written, and read on for a moment: a client that is still sending would
/// otherwise find its connection reset, and the answer lost.
fn close_after_answer(session: &mut Session) {
    session.set_keepalive(None);
    if let Some(connection) = Connection::current() {
        connection.linger();
    }
}

/// Whether a body in chunks was found to be wrong. Pingora takes a chunk's line without digits for the end of a body and any line after it for a trailer: such a body is often one whose end was misread.
fn is_refused_in_chunks(session: &mut Session, reply: &Reply) -> bool {
    reply.status == StatusCode::BAD_REQUEST && session.req_header().headers.contains_key(header::TRANSFER_ENCODING)
}

/// What of a request is left to come.
enum Rest {
    Nothing,
    /// No more than is worth reading.
    Little,
    /// More than that, or a body that waits for our invitation.
    Much,
    /// Its head does not say.
    Unknown,
}

impl Rest {
    fn of(session: &mut Session) -> Self {
        // A stream of HTTP/2 is not a connection: it ends by itself.
        if session.req_header().version == Version::HTTP_2 || session.is_body_done() {
            return Self::Nothing;
        }
        let headers = &session.req_header().headers;
        if headers.contains_key(header::EXPECT) {
            return Self::Much;
        }
        let stated = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        match stated {
            Some(length) if length <= WORTH_READING => Self::Little,
            Some(_) => Self::Much,
            None => Self::Unknown,
        }
    }
}

/// Reads a body whose length is not stated, as long as that is worth it. Pingora would read any length.
async fn is_read_to_its_end(session: &mut Session) -> bool {
    let reading = async {
        let mut read = 0;
        loop {
            match session.read_request_body().await {
                Ok(Some(chunk)) => read += chunk.len(),
                Ok(None) => return true,
                // Its end is not known, whatever Pingora says then.
                Err(_) => return false,
            }
            if read > WORTH_READING {
                return false;
            }
        }
    };
    tokio::time::timeout(READING_TIME, reading).await.unwrap_or(false)
}

/// Writes a whole answer of ours.
pub(super) async fn write(session: &mut Session, reply: Reply) -> Result<()> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = reply.status;
    parts.headers.reserve(reply.headers.len() + 4);
    parts.headers.insert(header::CONTENT_TYPE, const { HeaderValue::from_static("application/json") });
    parts.headers.insert(header::CONTENT_LENGTH, reply.body.len().into());
    parts.headers.extend(reply.headers);
    if let Some(readers) = session.req_header().extensions.get::<Readers>() {
        readers.write(&mut parts.headers);
    }
    let head = ResponseHeader::from(parts);
    session.write_response_header(Box::new(head), false).await.map_err(Error::into_down)?;
    write_last(session, reply.body.into()).await
}

/// Writes the last bytes of a response. That it fails is the client's doing, which Pingora does not always say. Of an exchange that runs apart, Pingora does not pass on by itself that they are the last.
pub(super) async fn write_last(session: &mut Session, bytes: Bytes) -> Result<()> {
    session.write_response_body(Some(bytes), true).await.map_err(Error::into_down)?;
    if session.downstream_session.as_subrequest().is_some() {
        session.downstream_session.finish_body().await.map_err(Error::into_down)?;
    }
    Ok(())
}

/// Answers a request with a JSON body of the proxy's own: for what a proxy within knows itself.
///
/// # Errors
/// When the client is gone.
pub async fn respond_json(session: &mut Session, info: &RequestInfo, status: StatusCode, body: Vec<u8>) -> Result<()> {
    let limits = info.settings.limits_of(&info.key);
    let now = Now::read();
    let mut headers: Vec<_> = id_headers(info.api, info.id.as_str()).collect();
    headers.extend(rate_headers(&info.gate.standing(&info.key, &limits, now), info.api, now));
    before_body(session, Reply { status, headers, body, closes: false }).await
}

/// Refuses a request that the gate let in and that the proxy within has no answer for.
///
/// # Errors
/// When the client is gone.
pub async fn respond_rejection(session: &mut Session, info: &RequestInfo, rejection: &Rejection) -> Result<()> {
    respond_json(session, info, rejection.status(), rejection.body(info.api, info.id.as_str())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_written_as_openai_does() {
        for (millis, written) in
            [(0, "0ms"), (120, "120ms"), (1000, "1s"), (1001, "2s"), (60_000, "1m0s"), (360_000, "6m0s")]
        {
            assert_eq!(compact(Duration::from_millis(millis)).as_str(), written);
        }
        assert_eq!(compact(Duration::from_nanos(1)).as_str(), "1ms", "rounded up");
    }

    #[test]
    fn resets_are_written_as_anthropic_does() {
        let now = Now {
            moment: keymeter_core::clock::MonotonicTime::from_nanos(0),
            date: "2026-01-01T00:00:00.5Z".parse().unwrap(),
        };
        for (millis, written) in
            [(0, "2026-01-01T00:00:01Z"), (500, "2026-01-01T00:00:01Z"), (501, "2026-01-01T00:00:02Z")]
        {
            assert_eq!(instant(Duration::from_millis(millis), now), written);
        }
    }
}
