//! Content codings (RFC 9110, section 8.4.1) are undone here, as bytes come and in bounded memory: of responses beside the
//! bytes that pass, and no further than is believable, so that little that stands for very much holds up nobody; of requests
//! piece by piece, whose taker bounds what they come to.

mod codec;
mod layers;

use http::{HeaderMap, header};

use self::codec::{Codec, Step};
pub use self::layers::Layers;

/// How a body is encoded, by its Content-Encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCoding {
    /// It is not.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950; or RFC 1951 alone, as some send it.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// In a way that nobody here undoes, or in several.
    Unknown,
}

impl ContentCoding {
    /// What a message's headers say.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut codings = Self::all(headers);
        match (codings.next(), codings.next()) {
            (None, _) => Self::Identity,
            (Some(only), None) => only,
            (Some(_), Some(_)) => Self::Unknown,
        }
    }

    /// The codings that a message's headers name, in the order in which they were applied.
    fn all(headers: &HeaderMap) -> impl Iterator<Item = Self> {
        let lines = headers.get_all(header::CONTENT_ENCODING).iter();
        let codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        codings.map(Self::named).filter(|coding| *coding != Self::Identity)
    }

    /// Those of them that can be undone.
    #[must_use]
    pub fn known(headers: &HeaderMap) -> Vec<Self> {
        Self::all(headers).filter(|coding| *coding != Self::Unknown).collect()
    }

    fn named(name: &[u8]) -> Self {
        match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Self::Identity,
            b"gzip" | b"x-gzip" => Self::Gzip,
            b"deflate" => Self::Deflate,
            b"br" => Self::Brotli,
            b"zstd" => Self::Zstd,
            _ => Self::Unknown,
        }
    }
}

/// Why a body is not read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not encoded as it says.
    #[error("the body is not encoded as its content-encoding says")]
    Broken,
    /// It is more than its size makes believable.
    #[error("the body is too large for its encoded size: more than {FREE} bytes and {RATIO} times as much")]
    TooLarge,
}

/// How much is decoded at a time.
const STEP: usize = 16 * 1024;
/// So much may come of however little,
const FREE: u64 = 4 * 1024 * 1024;
/// and so many bytes more of each that came. Streams of events that are compressed as a whole come to some 30.
const RATIO: u64 = 64;

/// Undoes one coding. It keeps what that looks back at, as far as a body fills it: 32 KiB of gzip and deflate, at most
/// 8 MiB of zstd (RFC 9659) and 16 MiB of brotli.
pub struct Decoder {
    codec: Codec,
    output: Box<[u8]>,
    taken: u64,
    given: u64,
    /// Whether there is more to give of what was taken.
    has_more: bool,
    /// Whether something came after the end.
    has_trailing: bool,
}

impl Decoder {
    /// A decoder before a body's first byte; none where there is nothing to undo, or nobody knows how.
    #[must_use]
    pub fn new(coding: ContentCoding) -> Option<Self> {
        let codec = Codec::new(coding)?;
        let output = vec![0; STEP].into_boxed_slice();
        Some(Self { codec, output, taken: 0, given: 0, has_more: false, has_trailing: false })
    }

    /// Takes the next bytes, and gives what they stand for, piece by piece.
    ///
    /// # Errors
    /// When they are not encoded so, or stand for too much. What was given stands; no more will come.
    pub fn feed(&mut self, bytes: &[u8], mut give: impl FnMut(&[u8])) -> Result<(), DecodeError> {
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        let mut rest = bytes;
        while let Some(written) = self.step(&mut rest)? {
            self.given = self.given.saturating_add(written as u64);
            if self.given > FREE.saturating_add(self.taken.saturating_mul(RATIO)) {
                return Err(DecodeError::TooLarge);
            }
            give(self.output.get(..written).unwrap_or_default());
        }
        Ok(())
    }

    /// Takes some of `rest`, and gives a piece of what came; `None`: all of it is given. Whoever takes the pieces bounds them.
    ///
    /// # Errors
    /// When it is not encoded so.
    pub fn next_piece(&mut self, rest: &mut &[u8]) -> Result<Option<&[u8]>, DecodeError> {
        let written = self.step(rest)?;
        Ok(written.and_then(|written| self.output.get(..written)))
    }

    fn step(&mut self, rest: &mut &[u8]) -> Result<Option<usize>, DecodeError> {
        if rest.is_empty() && !self.has_more {
            return Ok(None);
        }
        let Step { read, written, has_more, is_trailing } = self.codec.step(rest, &mut self.output)?;
        *rest = rest.get(read..).unwrap_or_default();
        self.has_more = has_more;
        self.has_trailing |= is_trailing;
        Ok(Some(written))
    }

    /// Whether any bytes came.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.taken > 0
    }

    /// Whether the body has come to the end that its coding knows.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.codec.is_whole()
    }

    /// Whether something came after that end which is no part of the body.
    #[must_use]
    pub fn has_trailing(&self) -> bool {
        self.has_trailing
    }
}

#[cfg(test)]
pub(crate) mod tests;
