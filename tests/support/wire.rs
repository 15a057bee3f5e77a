//! HTTP/1.1 as either end of a test reads it from a socket: heads, and bodies framed by a length or
//! by chunks (RFC 9112). The parsing is pure and takes only whole elements out of the buffer, so that
//! a read may be cancelled at any moment without losing a byte.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What was read from one connection and not yet taken.
#[derive(Default)]
pub struct Wire {
    buffer: BytesMut,
}

/// The start line of a request or a response, and its headers in the order and case they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub start_line: String,
    pub headers: Vec<(String, String)>,
}

/// How the end of a body is told (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    /// Neither header is there: a request has no body, a response lasts until the connection closes.
    Unstated,
}

/// Why an element could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The peer closed or reset the connection within or before the element.
    Closed(String),
    /// These bytes are not HTTP/1.1.
    Malformed(String),
}

impl Wire {
    /// The next head.
    pub async fn head(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Result<Head, WireError> {
        loop {
            if let Some(head) = take_head(&mut self.buffer)? {
                return Ok(head);
            }
            self.fill(from).await?;
        }
    }

    /// The next chunk of a chunked body; empty when it was the last one, with its trailers.
    pub async fn chunk(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, WireError> {
        loop {
            if let Some(chunk) = take_chunk(&mut self.buffer)? {
                return Ok(chunk);
            }
            self.fill(from).await?;
        }
    }

    /// Exactly so many bytes.
    pub async fn exactly(&mut self, from: &mut (impl AsyncRead + Unpin), length: usize) -> Result<Bytes, WireError> {
        while self.buffer.len() < length {
            self.fill(from).await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    /// All chunks to the last one, joined.
    pub async fn chunks(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, WireError> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk(from).await?;
            if chunk.is_empty() {
                return Ok(body);
            }
            body.extend_from_slice(&chunk);
        }
    }

    /// Waits until the peer closes or resets the connection, and gives all that came before.
    pub async fn until_closed(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Bytes {
        while self.fill(from).await.is_ok() {}
        self.buffer.split().freeze()
    }

    /// As `until_closed`, but keeps what comes for later reads.
    pub async fn watch_for_close(&mut self, from: &mut (impl AsyncRead + Unpin)) {
        while self.fill(from).await.is_ok() {}
    }

    /// Whether nothing of a further element has been read.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Result<(), WireError> {
        match from.read_buf(&mut self.buffer).await {
            Ok(0) => Err(WireError::Closed("the peer closed the connection".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(WireError::Closed(format!("the connection broke: {error}"))),
        }
    }
}

impl Head {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// How the body that follows is framed. Both headers at once, or one that cannot be read, are malformed.
    pub fn framing(&self) -> Result<Framing, WireError> {
        match (self.header("content-length"), self.header("transfer-encoding")) {
            (None, None) => Ok(Framing::Unstated),
            (Some(length), None) => {
                length.parse().map(Framing::Length).map_err(|_| malformed("content-length", length))
            }
            (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            (None, Some(coding)) => Err(malformed("transfer-encoding", coding)),
            (Some(length), Some(_)) => Err(malformed("content-length beside transfer-encoding", length)),
        }
    }
}

/// The first header of that name, in any case.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn take_head(buffer: &mut BytesMut) -> Result<Option<Head>, WireError> {
    let Some(end) = find(buffer, b"\r\n\r\n") else { return Ok(None) };
    let bytes = buffer.split_to(end + 4);
    let text = str::from_utf8(&bytes[..end]).map_err(|_| malformed("head", &String::from_utf8_lossy(&bytes)))?;
    let mut lines = text.split("\r\n");
    let start_line = lines.next().unwrap_or_default().to_owned();
    let headers = lines.map(|line| match line.split_once(':') {
        Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
        None => Err(malformed("header line", line)),
    });
    Ok(Some(Head { start_line, headers: headers.collect::<Result<_, _>>()? }))
}

fn take_chunk(buffer: &mut BytesMut) -> Result<Option<Bytes>, WireError> {
    let Some(line_end) = find(buffer, b"\r\n") else { return Ok(None) };
    let line = String::from_utf8_lossy(&buffer[..line_end]).into_owned();
    let digits = line.split(';').next().unwrap_or_default().trim();
    let size = usize::from_str_radix(digits, 16).map_err(|_| malformed("chunk size", &line))?;
    if size == 0 {
        // Trailers, if any, end with an empty line; without any, that line follows at once.
        let end = find(&buffer[line_end..], b"\r\n\r\n");
        return Ok(end.map(|end| buffer.split_to(line_end + end + 4)).map(|_| Bytes::new()));
    }
    let start = line_end + 2;
    if buffer.len() < start + size + 2 {
        return Ok(None);
    }
    buffer.advance(start);
    let chunk = buffer.split_to(size).freeze();
    if &buffer.split_to(2)[..] != b"\r\n" {
        return Err(malformed("chunk: no line end after its data, of size", &line));
    }
    Ok(Some(chunk))
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

fn malformed(what: &str, text: &str) -> WireError {
    WireError::Malformed(format!("{what}: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_only_when_it_is_whole() {
        let mut buffer = BytesMut::from(&b"POST /v1 HTTP/1.1\r\nHost:  a \r\nX-Empty:\r\n\r"[..]);
        assert_eq!(take_head(&mut buffer), Ok(None));
        buffer.extend_from_slice(b"\nrest");
        let head = take_head(&mut buffer).unwrap().unwrap();
        assert_eq!(head.start_line, "POST /v1 HTTP/1.1");
        assert_eq!(head.headers, [("Host".into(), "a".into()), ("X-Empty".into(), String::new())]);
        assert_eq!(head.header("hOST"), Some("a"));
        assert_eq!(&buffer[..], b"rest");
    }

    #[test]
    fn chunks_are_taken_whole_whatever_the_cuts() {
        let wire = b"5;note=1\r\nhello\r\n2\r\n\r\n\r\n0\r\nTrailer: x\r\n\r\nnext";
        let (mut buffer, mut chunks) = (BytesMut::new(), Vec::new());
        for byte in wire {
            buffer.extend_from_slice(&[*byte]);
            chunks.extend(take_chunk_unless_done(&mut buffer, &chunks));
        }
        assert_eq!(chunks, [&b"hello"[..], b"\r\n", b""]);
        assert_eq!(&buffer[..], b"next");
    }

    fn take_chunk_unless_done(buffer: &mut BytesMut, before: &[Bytes]) -> Option<Bytes> {
        if before.last().is_some_and(Bytes::is_empty) { None } else { take_chunk(buffer).unwrap() }
    }

    #[test]
    fn what_is_no_http_is_malformed() {
        assert!(matches!(take_chunk(&mut BytesMut::from("xyz\r\n")), Err(WireError::Malformed(_))));
        assert!(matches!(take_chunk(&mut BytesMut::from("2\r\nabcd\r\n")), Err(WireError::Malformed(_))));
        assert!(matches!(take_head(&mut BytesMut::from("GET / HTTP/1.1\r\nno\r\n\r\n")), Err(WireError::Malformed(_))));
    }

    #[test]
    fn framing_is_what_the_headers_say_and_never_both() {
        let framing = |headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Head { start_line: String::new(), headers }.framing()
        };
        assert_eq!(framing(&[]), Ok(Framing::Unstated));
        assert_eq!(framing(&[("Content-Length", "12")]), Ok(Framing::Length(12)));
        assert_eq!(framing(&[("Transfer-Encoding", "Chunked")]), Ok(Framing::Chunked));
        for bad in [
            &[("Content-Length", "-1")][..],
            &[("Transfer-Encoding", "gzip")],
            &[("Content-Length", "1"), ("Transfer-Encoding", "chunked")],
        ] {
            assert!(matches!(framing(bad), Err(WireError::Malformed(_))), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn the_end_of_the_connection_is_told_from_the_end_of_a_body() {
        let mut wire = Wire::default();
        assert_eq!(wire.chunks(&mut &b"1\r\na\r\n0\r\n\r\n"[..]).await, Ok(b"a".to_vec()));
        assert!(wire.is_empty());
        assert!(matches!(wire.chunks(&mut &b"1\r\na\r\n"[..]).await, Err(WireError::Closed(_))));
        assert!(matches!(wire.exactly(&mut &b"ab"[..], 3).await, Err(WireError::Closed(_))));
        assert_eq!(wire.until_closed(&mut &b"c"[..]).await, "abc");
        wire.watch_for_close(&mut &b"kept"[..]).await;
        assert_eq!(wire.exactly(&mut &b""[..], 4).await, Ok(Bytes::from("kept")));
    }
}
