//! A response whose coding is one thing and its Content-Encoding another: encoded twice or though nothing says so, or plain
//! under the name of a coding. What is undone is what the first bytes are, and a header decides where they leave that open.

use super::{ContentCoding, DecodeError, Decoder};

/// More codings around each other than this are no mistake any more.
const MOST: usize = 4;
/// What a body begins with (RFC 1952, section 2.3.1, with its only method; RFC 8878, section 3.1.1). One of zstd may also begin
/// with a frame that is to be skipped; that counts where a header says so.
const GZIP: &[u8] = &[0x1f, 0x8b, 8];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// How APIs' answers begin. As deflate or brotli these are empty, or begin with a letter that no answer begins with.
const PLAIN: [&[u8]; 8] = [b"{\"", b"{\n", b"{\r", b"{ ", b"{}", b"[{\"", b"data:", b"event:"];

/// A body, and the codings around it.
pub struct Layers {
    /// What its header says of the codings that are still to be undone: the one that was applied last stands last.
    labels: Vec<ContentCoding>,
    depth: usize,
    state: State,
}

enum State {
    /// What it is shows in bytes that are still to come.
    Unseen(Vec<u8>),
    Plain,
    Encoded(Box<(Decoder, Layers)>),
}

/// What the first bytes of a body say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Encoded(ContentCoding),
    Plain,
    /// Too few have come.
    Open,
}

impl Layers {
    /// A body before its first byte, whose header names these codings in the order in which they were applied.
    #[must_use]
    pub fn new(labels: Vec<ContentCoding>) -> Self {
        Self { labels, depth: 0, state: State::Unseen(Vec::new()) }
    }

    /// Whether a body without a coding by its header is what that says, by its first piece: then there is nothing to undo.
    #[must_use]
    pub fn is_plain(labels: &[ContentCoding], piece: &[u8]) -> bool {
        labels.is_empty() && first(None, piece) == First::Plain
    }

    /// Takes the next bytes, and gives what they stand for, piece by piece.
    ///
    /// # Errors
    /// When they are not what they began as, or stand for too much. What was given stands; no more will come.
    pub fn feed(&mut self, bytes: &[u8], give: &mut dyn FnMut(&[u8])) -> Result<(), DecodeError> {
        match &mut self.state {
            State::Plain => {
                give(bytes);
                Ok(())
            }
            State::Encoded(inner) => {
                let (decoder, layers) = inner.as_mut();
                let mut read = Ok(());
                decoder.feed(bytes, |plain| read = read.and_then(|()| layers.feed(plain, give)))?;
                read
            }
            State::Unseen(held) => {
                held.extend_from_slice(bytes);
                let first = if self.depth < MOST { first(self.labels.last().copied(), held) } else { First::Plain };
                if first == First::Open {
                    return Ok(());
                }
                let held = std::mem::take(held);
                self.state = self.state_of(first);
                self.feed(&held, give)
            }
        }
    }

    /// No more will come: bytes that left open what they are were plain.
    pub fn end(&mut self, give: &mut dyn FnMut(&[u8])) {
        match &mut self.state {
            State::Plain => {}
            State::Encoded(inner) => inner.1.end(give),
            State::Unseen(held) => {
                give(&std::mem::take(held));
                self.state = State::Plain;
            }
        }
    }

    /// Whether the body has come to the end that its codings know, or has none or no byte.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        match &self.state {
            State::Unseen(_) | State::Plain => true,
            State::Encoded(inner) => inner.0.is_whole() && inner.1.is_whole(),
        }
    }

    fn state_of(&mut self, first: First) -> State {
        let First::Encoded(coding) = first else { return State::Plain };
        let Some(decoder) = Decoder::new(coding) else { return State::Plain };
        let mut labels = std::mem::take(&mut self.labels);
        // A coding that nothing says lies outside of those that the header names.
        if labels.last() == Some(&coding) {
            labels.pop();
        }
        let layers = Self { labels, depth: self.depth + 1, state: State::Unseen(Vec::new()) };
        State::Encoded(Box::new((decoder, layers)))
    }
}

/// What a body is that begins with `bytes`, and should be `label`.
fn first(label: Option<ContentCoding>, bytes: &[u8]) -> First {
    let is_open = |beginning: &&[u8]| beginning.starts_with(bytes);
    if bytes.starts_with(GZIP) {
        return First::Encoded(ContentCoding::Gzip);
    }
    if bytes.starts_with(ZSTD) {
        return First::Encoded(ContentCoding::Zstd);
    }
    match label {
        _ if [GZIP, ZSTD].iter().any(is_open) => First::Open,
        Some(coding @ (ContentCoding::Deflate | ContentCoding::Brotli)) => {
            if PLAIN.iter().any(|beginning| bytes.starts_with(beginning)) {
                First::Plain
            } else if PLAIN.iter().any(is_open) {
                First::Open
            } else {
                First::Encoded(coding)
            }
        }
        Some(coding @ ContentCoding::Zstd) => match bytes {
            [0x50..=0x5f] => First::Open,
            [0x50..=0x5f, 0x2a, ..] => First::Encoded(coding),
            _ => First::Plain,
        },
        _ => First::Plain,
    }
}
