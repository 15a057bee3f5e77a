//! The JSON body of a request to `/v1/chat/completions`, `/v1/completions` or `/v1/embeddings`:
//! read once for what admission must know, kept as the bytes that came, and changed, where the
//! gateway must, by splicing. No tree is built, and a body that two parsers could read differently
//! is refused.

mod fault;
mod field;
mod json;
mod maximum;
mod splice;
mod walk;

use std::{fmt, ops::Range};

use bytes::Bytes;

use field::{Field, Seen};
use json::{Kind, Reader, Text, Token};
use maximum::Stated;
use splice::{Opening, Places, UsageOption};

pub use fault::BodyFault;
pub use splice::Change;

/// Which request a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
}

/// What a body says, with the body itself. See [`scan`].
#[derive(Clone)]
pub struct Scanned {
    /// `model`, its escapes decoded; `None` where the body names none.
    pub model: Option<String>,
    /// Whether a stream is asked for: `stream`, false unless stated.
    pub stream: bool,
    /// The most output tokens that one choice may have, by the API's own fields: for chat
    /// `max_completion_tokens` or `max_tokens`, for completions `max_tokens`. Where more than one
    /// is stated (llama.cpp's `n_predict` included) it is the greatest of them, for servers
    /// differ in which they heed. A chat's zero is no maximum, since some servers read it so.
    pub maximum: Option<u64>,
    /// How many outputs are asked for, at least 1: the greatest of `n`, `best_of` and llama.cpp's
    /// `n_cmpl`, for completions times the number of prompts.
    pub choices: u64,
    /// Bytes of UTF-8, once decoded, of all strings and names below `messages`, `prompt`, `input`,
    /// `system`, `suffix`, `tools`, `functions`, `response_format`, `documents`, `chat_template`
    /// and `chat_template_kwargs`, without [`media`](Self::media).
    pub prompt_text_bytes: u64,
    /// The beginning of that text, some 4 KiB at most.
    pub prompt_sample: String,
    /// How many strings below those fields are media rather than text: `data:` URLs where an API
    /// takes a URL (`url`, `image_url` and the like, and `input` of embeddings), `file_data`, the
    /// `data` of an `input_audio`, and each of vLLM's `prompt_embeds`.
    pub media: u64,
    /// How many tokens the prompt gives as numbers: those below `prompt` and `input`.
    pub prompt_tokens_given: u64,
    /// Whether the client itself asks for usage in the stream: `stream_options.include_usage`.
    pub client_wants_usage: bool,
    body: Bytes,
    shape: Shape,
    places: Places,
}

/// The body is left out: prompts do not belong in logs.
impl fmt::Debug for Scanned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Scanned")
            .field("model", &self.model)
            .field("stream", &self.stream)
            .field("maximum", &self.maximum)
            .field("choices", &self.choices)
            .field("prompt_text_bytes", &self.prompt_text_bytes)
            .field("media", &self.media)
            .field("prompt_tokens_given", &self.prompt_tokens_given)
            .field("client_wants_usage", &self.client_wants_usage)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// Reads `body`, which is kept in what is returned. It must be a JSON object by RFC 8259 in which
/// each field that matters here occurs once at most, spelled as the API spells it, with a value
/// of its type or null (`model` must be a string). Numbers over `u64::MAX` are taken for it.
///
/// # Errors
/// When the body is anything else: see [`BodyFault`].
pub fn scan(body: &Bytes, shape: Shape) -> Result<Scanned, BodyFault> {
    let mut scan = Scan::new(text(body)?, body.clone(), shape);
    scan.members()?;
    let Scan { reader, mut scanned, prompts, .. } = scan;
    reader.finish()?;
    scanned.maximum = scanned.places.maximums.greatest(shape);
    if shape == Shape::Completions {
        scanned.choices = scanned.choices.saturating_mul(prompts.max(1));
    }
    Ok(scanned)
}

/// The body as text that begins with an object.
fn text(body: &Bytes) -> Result<&str, BodyFault> {
    let text = std::str::from_utf8(body).map_err(|error| BodyFault::NotUtf8 { offset: error.valid_up_to() })?;
    match text.trim_start_matches([' ', '\t', '\n', '\r']).chars().next() {
        Some('{') => Ok(text),
        Some('\u{feff}') => Err(BodyFault::ByteOrderMark),
        _ => Err(BodyFault::NotAnObject),
    }
}

/// Longer names would be copied into errors, logs and records; no file system allows longer paths.
const LONGEST_MODEL: u64 = 4096;

const INTEGER: &str = "a non-negative integer or null";
const BOOLEAN: &str = "true, false or null";

/// A scan under way.
struct Scan<'a> {
    reader: Reader<'a>,
    seen: Seen,
    scanned: Scanned,
    prompts: u64,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str, body: Bytes, shape: Shape) -> Self {
        let scanned = Scanned {
            model: None,
            stream: false,
            maximum: None,
            choices: 1,
            prompt_text_bytes: 0,
            prompt_sample: String::new(),
            media: 0,
            prompt_tokens_given: 0,
            client_wants_usage: false,
            body,
            shape,
            places: Places::default(),
        };
        Self { reader: Reader::new(text), seen: Seen::default(), scanned, prompts: 0 }
    }

    fn members(&mut self) -> Result<(), BodyFault> {
        let brace = self.reader.token()?;
        let mut token = self.reader.token()?;
        self.scanned.places.members = Opening { at: brace.span.end, empty: token.kind == Kind::ObjectEnd };
        while let Kind::Name(name) = token.kind {
            match self.seen.field(name, token.span.start)? {
                Some((name, field)) => self.member(name, field)?,
                None => self.skip()?,
            }
            token = self.reader.token()?;
        }
        Ok(())
    }

    fn member(&mut self, name: &'static str, field: Field) -> Result<(), BodyFault> {
        match field {
            Field::Model => self.model(name),
            Field::Stream => {
                self.scanned.stream = self.boolean(name)?.0;
                Ok(())
            }
            Field::StreamOptions => self.stream_options(name),
            Field::Maximum(maximum) => {
                *self.scanned.places.maximums.of(maximum) = self.integer(name)?;
                Ok(())
            }
            Field::Choices => {
                self.scanned.choices = self.integer(name)?.value().unwrap_or(1).max(self.scanned.choices);
                Ok(())
            }
            Field::Prompt | Field::Embeddings | Field::Text => self.prompt(field),
        }
    }

    fn skip(&mut self) -> Result<(), BodyFault> {
        let depth = self.reader.depth();
        self.reader.token()?;
        self.reader.skip_to(depth)
    }

    fn model(&mut self, name: &'static str) -> Result<(), BodyFault> {
        let Token { span, kind } = self.reader.token()?;
        let offset = span.start;
        let Kind::String(text @ Text { length: 0..=LONGEST_MODEL, .. }) = kind else {
            return Err(BodyFault::WrongType { name, expected: "a string of at most 4096 bytes", offset });
        };
        self.scanned.model = Some(text.decode().map_err(|_| BodyFault::LoneSurrogate { offset })?);
        Ok(())
    }

    /// A boolean or null, which is false, and its place.
    fn boolean(&mut self, name: &'static str) -> Result<(bool, Range<usize>), BodyFault> {
        let Token { span, kind } = self.reader.token()?;
        match kind {
            Kind::True => Ok((true, span)),
            Kind::False | Kind::Null => Ok((false, span)),
            _ => Err(BodyFault::WrongType { name, expected: BOOLEAN, offset: span.start }),
        }
    }

    fn integer(&mut self, name: &'static str) -> Result<Stated, BodyFault> {
        let Token { span, kind } = self.reader.token()?;
        match kind {
            Kind::Null => Ok(Stated::Null(span)),
            // The grammar is checked, so that digits alone can fail to parse only by being too many.
            Kind::Number(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Stated::Number(digits.parse().unwrap_or(u64::MAX), span))
            }
            _ => Err(BodyFault::WrongType { name, expected: INTEGER, offset: span.start }),
        }
    }

    fn stream_options(&mut self, name: &'static str) -> Result<(), BodyFault> {
        let Token { span, kind } = self.reader.token()?;
        self.scanned.places.usage = match kind {
            Kind::Null => UsageOption::NullOptions(span),
            Kind::ObjectStart => self.include_usage(span.end)?,
            _ => {
                return Err(BodyFault::WrongType { name, expected: "an object or null", offset: span.start });
            }
        };
        Ok(())
    }

    /// The members of `stream_options`, whose brace ends at `at`.
    fn include_usage(&mut self, at: usize) -> Result<UsageOption, BodyFault> {
        let mut token = self.reader.token()?;
        let mut place = None;
        let empty = token.kind == Kind::ObjectEnd;
        while let Kind::Name(name) = token.kind {
            let offset = token.span.start;
            if !field::is_include_usage(name, offset)? {
                self.skip()?;
            } else if place.is_some() {
                return Err(BodyFault::DuplicateField { name: field::INCLUDE_USAGE, offset });
            } else {
                let (value, span) = self.boolean(field::INCLUDE_USAGE)?;
                self.scanned.client_wants_usage = value;
                place = Some(span);
            }
            token = self.reader.token()?;
        }
        Ok(place.map_or(UsageOption::Missing(Opening { at, empty }), UsageOption::Stated))
    }

    fn prompt(&mut self, field: Field) -> Result<(), BodyFault> {
        let urls_in_input = field == Field::Prompt && self.scanned.shape == Shape::Embeddings;
        let walked = walk::walk(&mut self.reader, urls_in_input, &mut self.scanned.prompt_sample)?;
        if field == Field::Embeddings {
            self.scanned.media += walked.items;
            self.prompts += walked.items;
            return Ok(());
        }
        self.scanned.prompt_text_bytes += walked.text_bytes;
        self.scanned.media += walked.media;
        if field == Field::Prompt {
            self.scanned.prompt_tokens_given += walked.numbers;
            self.prompts += walked.items;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
