//! The body of a request: read once for what admission must know, kept as the bytes that came,
//! and changed, where the gateway must, by splicing. No tree is built, no file of a form is copied,
//! and a body that two parsers could read differently is refused.

mod error;
mod field;
mod form;
mod json;
mod least;
mod maximum;
mod multipart;
mod outline;
mod prefix;
mod sample;
mod scan;
mod shape;
mod splice;
mod walk;

use std::fmt;

use bytes::Bytes;

use splice::Places;

pub use error::BodyError;
pub use maximum::MaximumName;
pub use outline::Outline;
pub use sample::Sample;
pub use shape::Shape;
pub use splice::{Change, OpenMaximum};

/// How deep objects and arrays may lie in one another. The reader keeps one bit of a `u128` for each level.
const MAX_DEPTH: u32 = 128;

/// What a body says, with the body itself. See [`scan()`] and [`scan_form`].
#[derive(Clone)]
pub struct Scanned {
    /// `model`, its escapes decoded; `None` where the body names none.
    pub model: Option<String>,
    /// Whether a stream is asked for: `stream`, and where that is not stated, what the API does by
    /// itself. Of Gemini's requests the path says it, and this is false.
    pub stream: bool,
    /// The most output tokens that one choice may have, by the API's own fields: for chat
    /// `max_completion_tokens` or `max_tokens`, for completions and Anthropic's messages
    /// `max_tokens`, for responses `max_output_tokens`, for Ollama `options.num_predict`, for Gemini
    /// `generationConfig.maxOutputTokens`. Where others that some servers heed are stated beside
    /// it (llama.cpp's `n_predict` among them) it is the greatest of all. A negative number is no maximum, and a zero none
    /// but for completions, since some servers read them so, whatever else is stated.
    pub maximum: Option<u64>,
    /// The least that its maximum may be set to, where the API demands that: 16 for responses; more than
    /// `thinking.budget_tokens` for Anthropic's models, or openrouter.ai's `reasoning.max_tokens`; vLLM's `min_tokens`.
    pub least_maximum: Option<u64>,
    /// The least that leaves room for an answer, where the model may think within its maximum: more than Gemini's
    /// `thinkingBudget`, which nobody demands.
    pub useful_maximum: Option<u64>,
    /// How many outputs are asked for, at least 1: the greatest of `n`, `best_of` and llama.cpp's
    /// `n_cmpl`, for completions times the number of prompts; Gemini's `candidateCount`.
    pub choices: u64,
    /// How many prompts there are, at least 1: several only for completions.
    pub prompts: u64,
    /// Bytes of UTF-8, once decoded, of all strings and names below the fields that are part of the
    /// prompt, such as `messages`, `input`, `contents` or `tools`, without [`media`](Self::media).
    pub prompt_text_bytes: u64,
    /// What of that text the model reads, and what it is made of.
    pub outline: Outline,
    /// How many strings below those fields are media rather than text: `data:` URLs where an API
    /// takes a URL (`url`, `image_url` and the like, and `input` of embeddings), `file_data`, the
    /// `data` of an `input_audio`, of Anthropic's `source` in base64 and of Gemini's `inlineData`,
    /// Ollama's `images`, each of vLLM's `prompt_embeds`, and each file of a form.
    pub media: u64,
    /// How many tokens the prompt gives as numbers: those below `prompt` and `input` of completions
    /// and embeddings, and Ollama's `context`.
    pub prompt_tokens_given: u64,
    /// Whether the client itself asks for usage in the stream: `stream_options.include_usage`.
    pub client_wants_usage: bool,
    /// `previous_response_id` of responses: the answer that the request goes on from.
    pub previous_response_id: Option<String>,
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
            .field("least_maximum", &self.least_maximum)
            .field("useful_maximum", &self.useful_maximum)
            .field("choices", &self.choices)
            .field("prompts", &self.prompts)
            .field("prompt_text_bytes", &self.prompt_text_bytes)
            .field("media", &self.media)
            .field("prompt_tokens_given", &self.prompt_tokens_given)
            .field("client_wants_usage", &self.client_wants_usage)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

/// Reads `body`, which is kept in what is returned. It must be a JSON object by RFC 8259 in which
/// each field that matters for its `shape` occurs once at most, spelled as the API spells it, with
/// a value of its type or null (`model` must be a string that may name one: see [`crate::model_name`]). Numbers over `u64::MAX` are taken for it.
///
/// # Errors
/// When the body is anything else, or the shape is a form's: see [`BodyError`].
pub fn scan(body: &Bytes, shape: Shape) -> Result<Scanned, BodyError> {
    match shape {
        Shape::Form => Err(BodyError::ContentType { problem: multipart::NOT_A_FORM }),
        _ => scan::read(text(body)?, body, shape),
    }
}

/// Reads `body`, which is kept in what is returned, as the multipart form (RFC 7578) that a
/// request's `content_type` says it is. Each of `model`, `stream`, `prompt` and `n` occurs in it
/// once at most, as a field in UTF-8; every other part is passed over, a file for one piece of media.
///
/// # Errors
/// When the body is anything else, or could be divided into parts in two ways: see [`BodyError`].
pub fn scan_form(body: &Bytes, content_type: &str) -> Result<Scanned, BodyError> {
    form::read(body, content_type)
}

/// The body as text that begins with an object.
fn text(body: &Bytes) -> Result<&str, BodyError> {
    // Many bytes at a time; where the first wrong one stands is worth another look.
    let text = simdutf8::basic::from_utf8(body).or_else(|_| std::str::from_utf8(body));
    let text = text.map_err(|error| BodyError::NotUtf8 { offset: error.valid_up_to() })?;
    match text.trim_start_matches([' ', '\t', '\n', '\r']).chars().next() {
        Some('{') => Ok(text),
        Some('\u{feff}') => Err(BodyError::ByteOrderMark),
        _ => Err(BodyError::NotAnObject),
    }
}

impl Scanned {
    /// What a body says in which nothing is stated.
    fn new(body: Bytes, shape: Shape) -> Self {
        Self {
            model: None,
            stream: shape.streams_by_default(),
            maximum: None,
            least_maximum: None,
            useful_maximum: None,
            choices: 1,
            prompts: 1,
            prompt_text_bytes: 0,
            outline: Outline::default(),
            media: 0,
            prompt_tokens_given: 0,
            client_wants_usage: false,
            previous_response_id: None,
            body,
            shape,
            places: Places::default(),
        }
    }

    /// A number that requests have in common whose model is the same and whose prompts begin alike: by the model and all text
    /// through the first user message, of which the first 64 KiB count.
    #[must_use]
    pub fn prefix_hash(&self) -> u64 {
        prefix::hash(self.model.as_deref().unwrap_or_default(), &self.body)
    }

    /// The same with the model that the request's path names. The body may repeat it, with or
    /// without Gemini's `models/` before it.
    ///
    /// # Errors
    /// When the body names another one, which an upstream might heed.
    pub fn with_model(self, model: String) -> Result<Self, BodyError> {
        let repeats = |stated: &String| self.shape.bare_model(stated) == model;
        if self.model.as_ref().is_none_or(repeats) {
            Ok(Self { model: Some(model), ..self })
        } else {
            Err(BodyError::OtherModel)
        }
    }
}

#[cfg(test)]
mod tests;
