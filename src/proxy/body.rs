//! Reads a request's body, whole and once. It is read before it is known what the request asks for, so
//! its size, its time and the memory of all of them together are bounded here, as the bytes arrive.

mod plain;

use bytes::Bytes;
use http::{Version, header};
use keymeter_core::{
    api::Endpoint,
    body::{BodyError, Change, Scanned, Shape, scan, scan_form},
    rejection::Rejection,
};
use pingora::{http::RequestHeader, proxy::Session};

use self::plain::PlainBody;
use crate::{
    admission::{BodyRoom, Settings},
    encoding::{ContentCoding, Decoder},
};

/// A body, and the room that it takes.
pub(super) struct BufferedBody {
    pub bytes: Bytes,
    room: BodyRoom,
    is_replayed: bool,
}

/// A body on its way upstream.
pub(super) struct Outgoing {
    scanned: Box<Scanned>,
    bytes: Bytes,
    _room: BodyRoom,
    is_replayed: bool,
}

impl Outgoing {
    /// What was received and scanned, with `change` written into it.
    pub fn new(scanned: Box<Scanned>, change: &Change, held: BufferedBody) -> Self {
        let BufferedBody { bytes: received, mut room, is_replayed } = held;
        let bytes = scanned.splice(change);
        if bytes.as_ptr() != received.as_ptr() {
            room.grow(bytes.len() as u64);
        }
        Self { scanned, bytes, _room: room, is_replayed }
    }

    /// Whether Pingora sends it to an upstream. It waits for ever for the body of a request that it cannot replay: the exchange
    /// of such a request has to run apart, as a subrequest.
    pub fn is_replayed(&self) -> bool {
        self.is_replayed
    }

    /// The body as it goes upstream. It may be asked for again when the request is.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// What stands in it.
    pub fn scanned(&self) -> &Scanned {
        &self.scanned
    }

    /// Writes another change into what was received.
    pub fn rewrite(&mut self, change: &Change) {
        self.bytes = self.scanned.splice(change);
    }
}

/// What the body of a request to `endpoint` says, whose path names `model` where the body does not.
pub(super) fn scan_request(
    head: &RequestHeader,
    endpoint: Endpoint,
    model: Option<String>,
    body: &Bytes,
) -> Result<Scanned, BodyError> {
    let scanned = match endpoint.shape() {
        Shape::Form => scan_form(body, content_type(head)?)?,
        shape => scan(body, shape)?,
    };
    match model {
        Some(model) => scanned.with_model(model),
        None => Ok(scanned),
    }
}

/// The Content-Type of a form, on which its division depends: there must be one.
fn content_type(head: &RequestHeader) -> Result<&str, BodyError> {
    let mut values = head.headers.get_all(header::CONTENT_TYPE).iter();
    let problem = match (values.next().map(|value| value.to_str()), values.next()) {
        (Some(Ok(only)), None) => return Ok(only),
        (_, Some(_)) => "is there twice: send it once",
        (Some(Err(_)), None) => "has characters beyond ASCII: leave them out",
        (None, None) => "is missing: send multipart/form-data with a boundary",
    };
    Err(BodyError::ContentType { problem })
}

/// Bytes that Pingora keeps to send a body again. It replays what it kept, and waits for ever for a
/// body that was read and not kept: so keeping begins just before what is left fits. Where that is not known it begins at
/// once, and is of no use once more than that has come.
const RETRY_BUFFER: u64 = 65_536;

/// Reads the body of a request, and counts it in `room`. It is plain then, whatever its coding was, and its head says so.
pub(super) async fn receive(
    session: &mut Session,
    mut room: BodyRoom,
    settings: &Settings,
) -> Result<BufferedBody, Rejection> {
    let length = Length::of(session)?;
    let decoder = match ContentCoding::of(&session.req_header().headers) {
        ContentCoding::Identity => None,
        coding => Some(Decoder::new(coding).ok_or(Rejection::UnsupportedEncoding)?),
    };
    let is_encoded = decoder.is_some();
    let most = match length {
        Length::Stated(bytes) if bytes > settings.max_request_body => {
            return Err(Rejection::BodyTooLarge { max: settings.max_request_body });
        }
        Length::Stated(bytes) => bytes,
        Length::Open => {
            session.enable_retry_buffering();
            settings.max_request_body
        }
    };
    let mut body = PlainBody::new(decoder, most, settings.max_request_body, &mut room);
    let reading = tokio::time::timeout(settings.body_timeout, read(session, most, &mut body));
    let came = reading.await.map_err(|_| Rejection::BodyTimeout(settings.body_timeout))??;
    let bytes = body.finish()?;
    if is_encoded {
        session.req_header_mut().remove_header(&header::CONTENT_ENCODING);
    }
    let is_replayed = length != Length::Open || came <= RETRY_BUFFER;
    Ok(BufferedBody { bytes, room, is_replayed })
}

/// Whether a request's body may turn out to be longer than what Pingora can replay, and nobody knows before.
pub(super) fn may_be_long(head: &RequestHeader) -> bool {
    !head.headers.contains_key(header::CONTENT_LENGTH) && is_open(head)
}

fn is_open(head: &RequestHeader) -> bool {
    head.version == Version::HTTP_2 || head.headers.contains_key(header::TRANSFER_ENCODING)
}

/// What a request's head says of its body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Stated(u64),
    Open,
}

impl Length {
    fn of(session: &Session) -> Result<Self, Rejection> {
        let head = session.req_header();
        if head.headers.contains_key(header::TRANSFER_ENCODING) && states_length(&session.to_h1_raw()) {
            return Err(Rejection::AmbiguousFraming);
        }
        let Some(stated) = head.headers.get(header::CONTENT_LENGTH) else {
            return Ok(if is_open(head) { Self::Open } else { Self::Stated(0) });
        };
        let stated = stated.to_str().ok().and_then(|digits| digits.parse().ok());
        stated.map(Self::Stated).ok_or(Rejection::AmbiguousFraming)
    }
}

/// Whether a head as it came states a length. Pingora drops the length of a request that also
/// states a transfer coding (RFC 9112, section 6.3), so the parsed head does not tell.
fn states_length(head: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    head.split(|byte| *byte == b'\n')
        .any(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
}

/// Reads `most` bytes at most, and says how many came.
async fn read(session: &mut Session, most: u64, body: &mut PlainBody<'_>) -> Result<u64, Rejection> {
    if session.req_header().headers.contains_key(header::EXPECT) && session.req_header().version != Version::HTTP_2 {
        invite(session).await?;
    }
    let mut left = most;
    let mut is_kept = false;
    loop {
        if !is_kept && left <= RETRY_BUFFER {
            session.enable_retry_buffering();
            is_kept = true;
        }
        let chunk = session.read_request_body().await;
        let Some(chunk) = chunk.map_err(|_| Rejection::BodyCut)? else {
            return Ok(most - left);
        };
        let Some(rest) = left.checked_sub(chunk.len() as u64) else {
            return Err(Rejection::BodyTooLarge { max: most });
        };
        left = rest;
        body.add(&chunk).await?;
    }
}

/// Tells a client that waits for it to send its body. Pingora closes a connection after a response
/// that goes out before the body is read, and takes this one for such.
async fn invite(session: &mut Session) -> Result<(), Rejection> {
    session.set_close_on_response_before_downstream_finish(false);
    let invited = session.write_continue_response().await;
    session.set_close_on_response_before_downstream_finish(true);
    invited.map_err(|_| Rejection::BodyCut)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &[u8] = b"--X\r\ncontent-disposition: form-data; name=model\r\n\r\nm\r\n--X--";

    fn model(endpoint: Endpoint, path: Option<&str>, types: &[&str], body: &'static [u8]) -> Result<String, BodyError> {
        let mut head = RequestHeader::build("POST", b"/", None).unwrap();
        for kind in types {
            head.append_header(header::CONTENT_TYPE, *kind).unwrap();
        }
        let scanned = scan_request(&head, endpoint, path.map(str::to_owned), &Bytes::from_static(body))?;
        Ok(scanned.model.unwrap())
    }

    #[test]
    fn the_model_is_found_where_the_endpoint_has_it() {
        let form = &["multipart/form-data; boundary=X"];
        assert_eq!(model(Endpoint::Messages, None, &[], br#"{"model":"m"}"#).unwrap(), "m");
        assert_eq!(model(Endpoint::Transcriptions, None, form, FORM).unwrap(), "m");
        assert_eq!(model(Endpoint::GenerateContent, Some("m"), &[], b"{}").unwrap(), "m");
        let other = model(Endpoint::GenerateContent, Some("m"), &[], br#"{"model":"x"}"#);
        assert_eq!(other, Err(BodyError::OtherModel));
    }

    #[test]
    fn a_form_has_one_content_type() {
        let form = "multipart/form-data; boundary=X";
        for types in [&[][..], &[form, form], &["application/json"], &["multipart/form-data; boundary=\u{fc}"]] {
            let error = model(Endpoint::ImageEdits, None, types, FORM).unwrap_err();
            assert!(matches!(error, BodyError::ContentType { .. }), "{types:?}: {error}");
        }
    }

    #[test]
    fn a_stated_length_is_found_in_a_raw_head() {
        assert!(states_length(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nCONTENT-Length: 4\r\n\r\n"));
        assert!(states_length(b"POST / HTTP/1.1\r\ncontent-length : 4\r\n\r\n"));
        assert!(!states_length(b"POST / HTTP/1.1\r\nx-content-length: 4\r\n\r\n"));
    }
}
