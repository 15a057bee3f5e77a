//! What requests ask for, and of which API they are. Every path that reaches an upstream is named in `path.rs`; what is
//! not named there is refused, so that there is no way around admission.

mod path;
mod spelling;

use http::{HeaderMap, HeaderName};

pub use self::path::{Unrecognised, percent_decoded, recognise};
pub use self::spelling::{base_url_end, right_spelling};
use crate::body::Shape;

/// The family of paths, errors and headers that a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// OpenAI's, as every inference server offers it.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Ollama's own.
    Ollama,
    /// Google's Gemini.
    Gemini,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Something that an upstream answers, and that is metered.
    Inference {
        /// What it is.
        endpoint: Endpoint,
        /// The model, where the path names it and not the body.
        model: Option<String>,
    },
    /// The models that the key may call.
    Models,
    /// One of them.
    Model(String),
    /// The version of the server, as Ollama tells it.
    Version,
    /// What the key itself may use and has used.
    Usage,
}

/// A path that an upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/moderations`
    Moderations,
    /// `POST /v1/rerank`, and vLLM's `/rerank` and `/v2/rerank`
    Rerank,
    /// vLLM's `POST /v1/score` and `/score`
    Score,
    /// vLLM's `POST /pooling`
    Pooling,
    /// vLLM's `POST /classify`
    Classify,
    /// vLLM's `POST /tokenize`
    Tokenize,
    /// vLLM's `POST /detokenize`
    Detokenize,
    /// `POST /v1/images/generations`
    ImageGenerations,
    /// `POST /v1/images/edits`
    ImageEdits,
    /// `POST /v1/audio/speech`
    Speech,
    /// `POST /v1/audio/transcriptions`
    Transcriptions,
    /// `POST /v1/audio/translations`
    Translations,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountTokens,
    /// `POST /api/chat`
    OllamaChat,
    /// `POST /api/generate`
    OllamaGenerate,
    /// `POST /api/embed`
    OllamaEmbed,
    /// `POST /api/embeddings`, as it was before `/api/embed`
    OllamaEmbeddings,
    /// `POST /api/show`
    OllamaShow,
    /// `POST /v1beta/models/{model}:generateContent`; each of Gemini's is at `/v1/models/` too
    GenerateContent,
    /// `POST /v1beta/models/{model}:streamGenerateContent`
    StreamGenerateContent,
    /// `POST /v1beta/models/{model}:embedContent`
    EmbedContent,
    /// `POST /v1beta/models/{model}:batchEmbedContents`
    BatchEmbedContents,
    /// `POST /v1beta/models/{model}:countTokens`
    GeminiCountTokens,
}

/// Every client of Anthropic's sends it.
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// Google's clients send their key so.
const GOOGLE_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

impl Api {
    /// Whose request it is. The paths of models are `OpenAI`'s, Anthropic's and Gemini's: there the headers tell, or
    /// Gemini's `?key=`.
    #[must_use]
    pub fn of_request(path: &str, query: Option<&str>, headers: &HeaderMap) -> Self {
        let api = Self::of_path(path);
        if api != Self::OpenAi || !path::is_of_models(path) {
            return api;
        }
        let has_key = |query: &str| query.split('&').any(is_key);
        if headers.contains_key(GOOGLE_KEY) || query.is_some_and(has_key) {
            Self::Gemini
        } else if headers.contains_key(ANTHROPIC_VERSION) {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }

    /// Whose path it is, as far as its beginning tells: what an error on an unknown path is
    /// written for.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let under = |rest: &str, room: &str| {
            rest.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match path.strip_prefix("/v1/") {
            Some(rest) if under(rest, "messages") => Self::Anthropic,
            Some(rest) if path::is_geminis(rest) => Self::Gemini,
            None if under(path, "/api") => Self::Ollama,
            None if under(path, "/v1beta") => Self::Gemini,
            _ => Self::OpenAi,
        }
    }
}

/// Whether a pair of a query gives Gemini's key.
#[must_use]
pub fn is_key(pair: &str) -> bool {
    percent_decoded(pair.split('=').next().unwrap_or_default()) == "key"
}

impl Endpoint {
    /// The API that the endpoint is part of.
    #[must_use]
    pub fn api(self) -> Api {
        match self {
            Self::ChatCompletions
            | Self::Completions
            | Self::Responses
            | Self::Embeddings
            | Self::Moderations
            | Self::Rerank
            | Self::Score
            | Self::Pooling
            | Self::Classify
            | Self::Tokenize
            | Self::Detokenize
            | Self::ImageGenerations
            | Self::ImageEdits
            | Self::Speech
            | Self::Transcriptions
            | Self::Translations => Api::OpenAi,
            Self::Messages | Self::CountTokens => Api::Anthropic,
            Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed | Self::OllamaEmbeddings | Self::OllamaShow => {
                Api::Ollama
            }
            Self::GenerateContent
            | Self::StreamGenerateContent
            | Self::EmbedContent
            | Self::BatchEmbedContents
            | Self::GeminiCountTokens => Api::Gemini,
        }
    }

    /// How the endpoint's request body is laid out.
    #[must_use]
    pub fn shape(self) -> Shape {
        match self {
            Self::ChatCompletions => Shape::Chat,
            Self::Completions => Shape::Completions,
            Self::Responses => Shape::Responses,
            Self::Embeddings => Shape::Embeddings,
            Self::Moderations => Shape::Moderations,
            Self::Rerank => Shape::Rerank,
            Self::Score => Shape::Score,
            Self::Pooling | Self::Classify => Shape::Pooling,
            Self::Tokenize | Self::Detokenize => Shape::Tokenize,
            Self::ImageGenerations => Shape::Images,
            Self::Speech => Shape::Speech,
            Self::ImageEdits | Self::Transcriptions | Self::Translations => Shape::Form,
            Self::Messages => Shape::Messages,
            Self::CountTokens => Shape::CountTokens,
            Self::OllamaChat => Shape::OllamaChat,
            Self::OllamaGenerate => Shape::OllamaGenerate,
            Self::OllamaEmbed | Self::OllamaEmbeddings => Shape::OllamaEmbed,
            Self::OllamaShow => Shape::OllamaShow,
            Self::GenerateContent | Self::StreamGenerateContent => Shape::GenerateContent,
            Self::EmbedContent => Shape::EmbedContent,
            Self::BatchEmbedContents => Shape::BatchEmbedContents,
            Self::GeminiCountTokens => Shape::GeminiCountTokens,
        }
    }

    /// Whether the endpoint's answer costs output tokens.
    #[must_use]
    pub fn has_output(self) -> bool {
        match self {
            Self::ChatCompletions
            | Self::Completions
            | Self::Responses
            | Self::ImageGenerations
            | Self::ImageEdits
            | Self::Transcriptions
            | Self::Translations
            | Self::Messages
            | Self::OllamaChat
            | Self::OllamaGenerate
            | Self::GenerateContent
            | Self::StreamGenerateContent => true,
            Self::Embeddings
            | Self::Moderations
            | Self::Rerank
            | Self::Score
            | Self::Pooling
            | Self::Classify
            | Self::Tokenize
            | Self::Detokenize
            | Self::Speech
            | Self::CountTokens
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OllamaShow
            | Self::EmbedContent
            | Self::BatchEmbedContents
            | Self::GeminiCountTokens => false,
        }
    }

    /// Whether the endpoint costs tokens at all; counting them does not, nor does what a model is asked about itself.
    #[must_use]
    pub fn takes_tokens(self) -> bool {
        !matches!(
            self,
            Self::CountTokens | Self::GeminiCountTokens | Self::Tokenize | Self::Detokenize | Self::OllamaShow
        )
    }

    /// Whether a stream of the endpoint states its usage only if `stream_options` asks for it.
    #[must_use]
    pub fn injects_usage(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }
}

#[cfg(test)]
mod tests;
