//! What a client sends, as far as it tells when the head of a request began and whether it is whole. HTTP/2 is known by its
//! preface; of its frames only the first nine bytes are read.

use tokio::time::Instant;

/// What a client that speaks HTTP/2 sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows the bytes of one connection.
#[derive(Debug, Default)]
pub(super) struct Heads {
    protocol: Protocol,
    /// Since when the head of a request of HTTP/2 is on its way.
    since: Option<Instant>,
}

#[derive(Debug)]
enum Protocol {
    /// So many bytes came, all of them as in the preface.
    Unknown(usize),
    Http1,
    Http2(Frames),
}

impl Default for Protocol {
    fn default() -> Self {
        Self::Unknown(0)
    }
}

/// Where in the frames the bytes are.
#[derive(Debug, Default)]
struct Frames {
    /// Of the frame that begins, and how much of it came.
    start: [u8; 9],
    came: usize,
    /// What is to come of the frame that began.
    rest: usize,
    /// Whether the head is whole with it.
    ends_head: bool,
}

impl Heads {
    /// Reads on.
    pub fn read(&mut self, bytes: &[u8], now: impl Fn() -> Instant) {
        match &mut self.protocol {
            Protocol::Http1 => {}
            Protocol::Http2(frames) => frames.read(bytes, &mut self.since, now),
            Protocol::Unknown(came) => {
                let (expected, length) = (PREFACE.get(*came..).unwrap_or_default(), bytes.len());
                let common = expected.len().min(length);
                if expected.get(..common) != bytes.get(..common) {
                    self.protocol = Protocol::Http1;
                } else if length < expected.len() {
                    *came += length;
                } else {
                    let mut frames = Frames::default();
                    frames.read(bytes.get(common..).unwrap_or_default(), &mut self.since, now);
                    self.protocol = Protocol::Http2(frames);
                }
            }
        }
    }

    /// Whether the client speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.protocol, Protocol::Http2(_))
    }

    /// Whether it is known already which protocol the client speaks.
    pub fn is_known(&self) -> bool {
        !matches!(self.protocol, Protocol::Unknown(_))
    }

    /// Since when the head of a request of HTTP/2 is on its way, whatever else goes on.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8], since: &mut Option<Instant>, now: impl Fn() -> Instant) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let taken = self.rest.min(bytes.len());
                self.rest -= taken;
                bytes = bytes.get(taken..).unwrap_or_default();
            } else {
                let taken = (self.start.len() - self.came).min(bytes.len());
                let (these, others) = bytes.split_at_checked(taken).unwrap_or((bytes, &[]));
                if let Some(place) = self.start.get_mut(self.came..self.came + taken) {
                    place.copy_from_slice(these);
                }
                self.came += taken;
                bytes = others;
                if self.came == self.start.len() {
                    self.begin(since, &now);
                }
            }
            if self.rest == 0 && std::mem::take(&mut self.ends_head) {
                *since = None;
            }
        }
    }

    /// The nine bytes are here.
    fn begin(&mut self, since: &mut Option<Instant>, now: impl Fn() -> Instant) {
        let [high, middle, low, kind, flags, ..] = self.start;
        self.came = 0;
        self.rest = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if kind == HEADERS {
            since.get_or_insert_with(now);
        }
        self.ends_head = matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[tokio::test]
    async fn a_head_begins_with_its_frame_and_ends_with_the_last_of_its_bytes_however_they_are_cut() {
        let start = Instant::now();
        let data = frame(0, 0, &[HEADERS; 700]);
        let pieces: [(&[u8], bool); 8] = [
            (PREFACE, false),
            (&frame(4, 0, &[0; 18]), false),
            (&data, false),
            (&frame(HEADERS, 1, b"half"), true),
            (&frame(CONTINUATION, 0, b"more"), true),
            (&frame(CONTINUATION, END_HEADERS, b"rest"), false),
            (&frame(HEADERS, END_HEADERS, b""), false),
            (&frame(6, 0, &[0; 8]), false),
        ];
        for cut in [1, 3, 7, 9, 1000] {
            let mut heads = Heads::default();
            for (number, (bytes, is_on_its_way)) in pieces.iter().enumerate() {
                let now = start + Duration::from_secs(number as u64);
                for piece in bytes.chunks(cut) {
                    heads.read(piece, || now);
                }
                assert_eq!(heads.since().is_some(), *is_on_its_way, "after {number}, cut by {cut}");
                if *is_on_its_way {
                    assert_eq!(heads.since(), Some(start + Duration::from_secs(3)), "from its first byte on");
                }
            }
            assert!(heads.is_http2());
        }
    }

    #[tokio::test]
    async fn whatever_is_not_the_preface_is_http1() {
        for text in ["GET / HTTP/1.1\r\n", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
            let mut heads = Heads::default();
            text.bytes().for_each(|byte| heads.read(&[byte], Instant::now));
            assert!(!heads.is_http2(), "{text}");
            assert_eq!(heads.is_known(), text.starts_with('G') || text.contains('X'), "{text}");
        }
    }
}
