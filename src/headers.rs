//! Changes to a message's head. Beside the headers Pingora keeps a second map, of how each name was spelled, and a change
//! goes through both by way of names that it parses anew. Names compare without regard to case (RFC 9110, section 5.1), so
//! the spelling is let go of, and headers are put straight into the one map: for a seventh of the instructions.

use http::{HeaderMap, HeaderName, HeaderValue, header, request, response};
use pingora::{
    http::{RequestHeader, ResponseHeader},
    prelude::Result,
};

/// Changes the headers of a request; everything else of it stays.
///
/// # Errors
/// Never, as far as we know: its target was accepted before.
pub fn change_request(head: &mut RequestHeader, change: impl FnOnce(&mut HeaderMap)) -> Result<()> {
    // Two things that Pingora keeps beside the parts.
    let written = head.uri.path_and_query().map(|target| target.as_str().as_bytes());
    let target = (written != Some(head.raw_path())).then(|| head.raw_path().to_vec());
    let ends_stream = head.send_end_stream();
    let empty = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts = request::Parts::from(std::mem::replace(head, empty));
    change(&mut parts.headers);
    *head = parts.into();
    if let Some(ends_stream) = ends_stream {
        head.set_send_end_stream(ends_stream);
    }
    target.map_or(Ok(()), |target| head.set_raw_path(&target))
}

/// Changes the headers of a response; everything else of it stays.
///
/// # Errors
/// Never, as far as we know: its reason was accepted before.
pub fn change_response(head: &mut ResponseHeader, change: impl FnOnce(&mut HeaderMap)) -> Result<()> {
    let reason = head.get_reason_phrase().filter(|reason| head.status.canonical_reason() != Some(*reason));
    let reason = reason.map(str::to_owned);
    let empty = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let mut parts = response::Parts::from(std::mem::replace(head, empty));
    change(&mut parts.headers);
    *head = parts.into();
    reason.map_or(Ok(()), |reason| head.set_reason_phrase(Some(&reason)))
}

/// What concerns one connection alone, beside what `Connection` names (RFC 9110, section 7.6.1; the last is of RFC 7540).
static OF_ONE_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
];

/// Where a message goes and where it ends: whoever names one of these in `Connection` does not get rid of it.
static OF_THE_MESSAGE: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

/// Takes out of a request what concerns the client's connection alone, and whatever else `is_unwanted`.
pub fn remove_hop_by_hop(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let named =
        headers.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let named = named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    let named = named.filter(|name| !OF_THE_MESSAGE.contains(name));
    // Each header is looked at once: looking for each that is not there takes longer.
    let found = headers.keys().filter(|name| OF_ONE_CONNECTION.contains(name) || is_unwanted(name)).cloned();
    let unwanted: Vec<_> = named.chain(found).collect();
    for name in &unwanted {
        headers.remove(name);
    }
}

/// Text of our own as a header's value: it is visible ASCII, and were it not, the value would be empty.
#[must_use]
pub fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(const { HeaderValue::from_static("") })
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    #[test]
    fn a_request_keeps_what_is_no_header() {
        for target in ["/v1/chat?a=b", "http://other.example/v1/chat", "*", "/\u{ff}"] {
            let mut head = RequestHeader::build("PATCH", target.as_bytes(), None).unwrap();
            head.insert_header("X-Mine", "1").unwrap();
            head.set_version(Version::HTTP_11);
            head.extensions_mut().insert(7_u8);
            let before = head.clone();
            change_request(&mut head, |headers| drop(headers.insert(header::HOST, HeaderValue::from_static("h"))))
                .unwrap();
            assert_eq!(head.raw_path(), before.raw_path());
            assert_eq!((&head.method, &head.uri, head.version), (&before.method, &before.uri, before.version));
            assert_eq!(head.extensions.get::<u8>(), Some(&7));
            assert_eq!(head.headers.len(), 2);
            assert!(!head.has_case());
        }
    }

    #[test]
    fn a_request_that_is_not_utf8_goes_on_as_it_came() {
        let mut head = RequestHeader::build("GET", b"/\xff", None).unwrap();
        change_request(&mut head, |_| {}).unwrap();
        assert_eq!(head.raw_path(), b"/\xff");
        assert!(!head.raw_path_is_utf8());
    }

    #[test]
    fn a_stream_of_http2_that_goes_on_is_not_ended() {
        let mut head = RequestHeader::build_no_case("POST", b"/", None).unwrap();
        head.set_version(Version::HTTP_2);
        head.set_send_end_stream(false);
        change_request(&mut head, |_| {}).unwrap();
        assert_eq!(head.send_end_stream(), Some(false));
    }

    #[test]
    fn what_concerns_one_connection_does_not_go_on_and_what_ends_the_message_stays() {
        let lines = [
            ("connection", "close, X-One ,,x-two"),
            ("connection", "\u{e9}, x-three, upgrade, content-length, host, transfer-encoding"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("proxy-connection", "close"),
            ("proxy-authorization", "Basic eA=="),
            ("x-one", "1"),
            ("x-one", "again"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("x-four", "4"),
            ("x-unwanted", "5"),
            ("host", "h"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
        ];
        let lines = lines
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        let mut headers: HeaderMap = lines.into_iter().collect();
        remove_hop_by_hop(&mut headers, |name| name == "x-unwanted");
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "transfer-encoding", "x-four"]);
    }

    #[test]
    fn a_response_keeps_its_status_and_reason() {
        for (reason, kept) in [(Some("Quite Fine"), "Quite Fine"), (None, "OK")] {
            let mut head = ResponseHeader::build(200, None).unwrap();
            head.set_reason_phrase(reason).unwrap();
            head.append_header("Set-Cookie", "a=1").unwrap();
            head.append_header("Set-Cookie", "b=2").unwrap();
            change_response(&mut head, |headers| drop(headers.remove("none"))).unwrap();
            assert_eq!(head.get_reason_phrase(), Some(kept));
            let cookies: Vec<_> = head.headers.get_all(header::SET_COOKIE).iter().collect();
            assert_eq!(cookies, ["a=1", "b=2"]);
            assert!(!head.has_case());
        }
    }
}
