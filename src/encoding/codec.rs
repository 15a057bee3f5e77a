//! The codings themselves, each behind the same step.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

use super::{ContentCoding, DecodeError};

/// What a step did.
pub(super) struct Step {
    /// How many bytes it took.
    pub read: usize,
    /// How many it gave.
    pub written: usize,
    /// Whether it can give more though no more comes.
    pub has_more: bool,
    /// Whether what it took stands after the body's end, and for nothing.
    pub is_trailing: bool,
}

impl Step {
    /// It took `read` bytes, and gave as many as were `written`.
    fn new(read: usize, written: usize, has_more: bool) -> Self {
        Self { read, written, has_more, is_trailing: false }
    }

    /// All of `input` is passed over.
    fn past_the_end(input: &[u8]) -> Self {
        Self { is_trailing: !input.is_empty(), ..Self::new(input.len(), 0, false) }
    }
}

/// One coding, while it is undone.
pub(super) enum Codec {
    Inflate(Inflate),
    /// It shows in the first two bytes what is meant by `deflate`; so many of them are here.
    Deflate(Vec<u8>),
    Brotli(Box<Brotli>),
    Zstd(Zstd),
}

impl Codec {
    pub fn new(coding: ContentCoding) -> Option<Self> {
        match coding {
            ContentCoding::Identity | ContentCoding::Unknown => None,
            ContentCoding::Gzip => Some(Self::Inflate(Inflate::new(Wrapping::Gzip))),
            ContentCoding::Deflate => Some(Self::Deflate(Vec::new())),
            ContentCoding::Brotli => Some(Self::Brotli(Box::new(Brotli::new()))),
            ContentCoding::Zstd => Zstd::new().map(Self::Zstd),
        }
    }

    /// Takes of `input` what it can, and gives into `output` what that is.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        match self {
            Self::Inflate(inflate) => inflate.step(input, output),
            Self::Brotli(brotli) => brotli.step(input, output),
            Self::Zstd(zstd) => zstd.step(input, output),
            Self::Deflate(begun) => {
                let missing = input.get(..2 - begun.len().min(2)).unwrap_or(input);
                begun.extend_from_slice(missing);
                let [first, second] = *begun.as_slice() else {
                    return Ok(Step::new(input.len(), 0, false));
                };
                let mut inflate = Inflate::new(Wrapping::of_deflate(first, second));
                // Two bytes are a header, or too few for more than one symbol.
                let Step { written, .. } = inflate.step(&[first, second], output)?;
                let read = missing.len();
                *self = Self::Inflate(inflate);
                Ok(Step::new(read, written, false))
            }
        }
    }

    pub fn is_whole(&self) -> bool {
        match self {
            Self::Inflate(inflate) => inflate.is_whole,
            Self::Deflate(_) => false,
            Self::Brotli(brotli) => brotli.is_whole,
            Self::Zstd(zstd) => zstd.is_between_frames && zstd.has_begun,
        }
    }
}

/// What is around deflated data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrapping {
    Gzip,
    Zlib,
    None,
}

impl Wrapping {
    /// By the first two bytes: those of zlib name its method, and are a multiple of 31 (RFC 1950, section 2.2).
    fn of_deflate(first: u8, second: u8) -> Self {
        let is_zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31);
        if is_zlib { Self::Zlib } else { Self::None }
    }
}

pub(super) struct Inflate {
    wrapping: Wrapping,
    state: Decompress,
    is_whole: bool,
    /// Whether something followed the end that is no member: then none comes any more.
    is_over: bool,
}

/// The first byte of a member of gzip.
const MEMBER: u8 = 0x1f;
/// As far as deflate looks back: 2¹⁵ bytes.
const WINDOW_BITS: u8 = 15;

impl Inflate {
    fn new(wrapping: Wrapping) -> Self {
        let state = match wrapping {
            Wrapping::Gzip => Decompress::new_gzip(WINDOW_BITS),
            Wrapping::Zlib => Decompress::new(true),
            Wrapping::None => Decompress::new(false),
        };
        Self { wrapping, state, is_whole: false, is_over: false }
    }

    /// What follows the end is another member, or nothing that counts.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        if self.is_whole {
            let is_member = self.wrapping == Wrapping::Gzip && input.first() == Some(&MEMBER);
            self.is_over |= !is_member && !input.is_empty();
            if self.is_over || !is_member {
                return Ok(Step::past_the_end(input));
            }
            *self = Self::new(self.wrapping);
        }
        let (read, written) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(input, output, FlushDecompress::None).map_err(|_| DecodeError::Broken)?;
        let read = difference(self.state.total_in(), read);
        let written = difference(self.state.total_out(), written);
        self.is_whole = status == Status::StreamEnd;
        let is_full = written == output.len();
        if read == 0 && written == 0 && !input.is_empty() && !self.is_whole {
            return Err(DecodeError::Broken);
        }
        Ok(Step::new(read, written, is_full && !self.is_whole))
    }
}

/// Of two counts of what fits into memory.
fn difference(after: u64, before: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX)
}

pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    is_whole: bool,
}

impl Brotli {
    /// One that takes windows of RFC 7932, and no larger ones.
    fn new() -> Self {
        let alloc = StandardAlloc::default;
        Self { state: BrotliState::new_strict(alloc(), alloc(), alloc()), is_whole: false }
    }

    /// What follows the end is nothing that counts.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        if self.is_whole {
            return Ok(Step::past_the_end(input));
        }
        let (mut left, mut read) = (input.len(), 0);
        let (mut room, mut written, mut total) = (output.len(), 0, 0);
        let result = BrotliDecompressStream(
            &mut left,
            &mut read,
            input,
            &mut room,
            &mut written,
            output,
            &mut total,
            &mut self.state,
        );
        let has_more = match result {
            BrotliResult::ResultSuccess => {
                self.is_whole = true;
                false
            }
            BrotliResult::NeedsMoreInput => false,
            BrotliResult::NeedsMoreOutput => true,
            BrotliResult::ResultFailure => return Err(DecodeError::Broken),
        };
        if read == 0 && written == 0 && !input.is_empty() && !self.is_whole {
            return Err(DecodeError::Broken);
        }
        Ok(Step::new(read, written, has_more))
    }
}

pub(super) struct Zstd {
    state: ZstdDecoder<'static>,
    has_begun: bool,
    is_between_frames: bool,
    /// Whether something followed a frame that is none: then none comes any more.
    is_over: bool,
}

/// As far as zstd may look back on the web: 2²³ bytes (RFC 9659).
const ZSTD_WINDOW_BITS: u32 = 23;

impl Zstd {
    /// None: there is no memory for it.
    fn new() -> Option<Self> {
        let mut state = ZstdDecoder::new().ok()?;
        state.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_BITS)).ok()?;
        Some(Self { state, has_begun: false, is_between_frames: true, is_over: false })
    }

    /// What follows a frame is another one, or nothing that counts.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, DecodeError> {
        if self.is_between_frames {
            match input.first() {
                Some(first) if begins_frame(*first) && !self.is_over => self.has_begun = true,
                Some(_) if !self.has_begun => return Err(DecodeError::Broken),
                first => {
                    self.is_over |= first.is_some();
                    return Ok(Step::past_the_end(input));
                }
            }
        }
        let status = self.state.run_on_buffers(input, output).map_err(|_| DecodeError::Broken)?;
        let (read, written) = (status.bytes_read, status.bytes_written);
        self.is_between_frames = status.remaining == 0;
        if read == 0 && written == 0 && !input.is_empty() {
            return Err(DecodeError::Broken);
        }
        Ok(Step::new(read, written, written == output.len() && !self.is_between_frames))
    }
}

/// Whether a frame may begin so, or one to be skipped; the forms from before RFC 8878 begin otherwise.
fn begins_frame(first: u8) -> bool {
    matches!(first, 0x28 | 0x50..=0x5f)
}
