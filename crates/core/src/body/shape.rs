//! Which request a body is, and what differs from one to another: the fields that count, the one
//! that bounds the output, and where media may be.

use super::{
    field::{
        Known,
        tables::{
            BATCH_EMBED_CONTENTS, EMBED_CONTENT, GEMINI_COUNT_TOKENS, GENERATE_CONTENT, IMAGES, MESSAGES, MODERATIONS,
            OLLAMA_CHAT, OLLAMA_EMBED, OLLAMA_GENERATE, OLLAMA_SHOW, POOLING, RERANK, RESPONSES, SCORE, SPEECH, TEXT,
            TOKENIZE,
        },
    },
    walk::Media,
};

/// Which request a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/moderations`
    Moderations,
    /// `POST /v1/rerank`
    Rerank,
    /// vLLM's `POST /v1/score`
    Score,
    /// vLLM's `POST /pooling` and `/classify`
    Pooling,
    /// vLLM's `POST /tokenize` and `/detokenize`
    Tokenize,
    /// `POST /v1/images/generations`
    Images,
    /// `POST /v1/audio/speech`
    Speech,
    /// A multipart form: `POST /v1/audio/transcriptions`, `/v1/audio/translations` and
    /// `/v1/images/edits`. [`scan_form`](super::scan_form) reads it.
    Form,
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountTokens,
    /// `POST /api/chat`
    OllamaChat,
    /// `POST /api/generate`
    OllamaGenerate,
    /// `POST /api/embed` and `/api/embeddings`
    OllamaEmbed,
    /// `POST /api/show`
    OllamaShow,
    /// `POST /v1beta/models/{model}:generateContent` and `:streamGenerateContent`
    GenerateContent,
    /// `POST /v1beta/models/{model}:embedContent`
    EmbedContent,
    /// `POST /v1beta/models/{model}:batchEmbedContents`
    BatchEmbedContents,
    /// `POST /v1beta/models/{model}:countTokens`
    GeminiCountTokens,
}

/// The field in which an API states the most output tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MaximumField {
    /// The object in the body that it is a member of; `None`: the body itself.
    pub object: Option<&'static str>,
    pub name: &'static str,
}

impl Shape {
    /// The fields that count.
    pub(super) fn fields(self) -> &'static [Known] {
        match self {
            Self::Chat | Self::Completions | Self::Embeddings => &TEXT,
            Self::Responses => &RESPONSES,
            Self::Moderations => &MODERATIONS,
            Self::Rerank => &RERANK,
            Self::Score => &SCORE,
            Self::Pooling => &POOLING,
            Self::Tokenize => &TOKENIZE,
            Self::Images => &IMAGES,
            Self::Speech => &SPEECH,
            Self::Form => &[],
            Self::Messages | Self::CountTokens => &MESSAGES,
            Self::OllamaChat => &OLLAMA_CHAT,
            Self::OllamaGenerate => &OLLAMA_GENERATE,
            Self::OllamaEmbed => &OLLAMA_EMBED,
            Self::OllamaShow => &OLLAMA_SHOW,
            Self::GenerateContent => &GENERATE_CONTENT,
            Self::EmbedContent => &EMBED_CONTENT,
            Self::BatchEmbedContents => &BATCH_EMBED_CONTENTS,
            Self::GeminiCountTokens => &GEMINI_COUNT_TOKENS,
        }
    }

    /// Whether vLLM takes a `priority` with it.
    pub(super) fn has_priority(self) -> bool {
        matches!(self, Self::Chat | Self::Completions | Self::Responses | Self::Embeddings)
    }

    /// The API's own field for the most output tokens, if the request has one.
    pub(super) fn maximum_field(self) -> Option<MaximumField> {
        let (object, name) = match self {
            Self::Chat | Self::Completions | Self::Messages => (None, "max_tokens"),
            Self::Responses => (None, "max_output_tokens"),
            Self::OllamaChat | Self::OllamaGenerate => (Some("options"), "num_predict"),
            Self::GenerateContent => (Some("generationConfig"), "maxOutputTokens"),
            Self::Embeddings
            | Self::Moderations
            | Self::Rerank
            | Self::Score
            | Self::Pooling
            | Self::Tokenize
            | Self::Images
            | Self::Speech
            | Self::Form
            | Self::CountTokens
            | Self::OllamaEmbed
            | Self::OllamaShow
            | Self::EmbedContent
            | Self::BatchEmbedContents
            | Self::GeminiCountTokens => return None,
        };
        Some(MaximumField { object, name })
    }

    /// The least that the API takes in that field, where that is more than 1.
    pub(super) fn least_maximum(self) -> Option<u64> {
        (self == Self::Responses).then_some(16)
    }

    /// Whether the API takes a maximum that leaves nothing but thought: Gemini's ends such an answer without a word, where
    /// Anthropic's refuses the request.
    pub(super) fn thinks_within_any_maximum(self) -> bool {
        self == Self::GenerateContent
    }

    /// Whether a zero in that field is one. Some servers take it for none, but for completions,
    /// where it asks for the prompt's own probabilities.
    pub(super) fn takes_zero(self) -> bool {
        self == Self::Completions
    }

    /// Whether `stream_options` asks for usage in the stream.
    pub(super) fn has_stream_options(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }

    /// Whether the answer is a stream unless the request says otherwise.
    pub(super) fn streams_by_default(self) -> bool {
        matches!(self, Self::OllamaChat | Self::OllamaGenerate)
    }

    /// The model that is meant where a body names one so: Gemini's bodies may write `models/` before it.
    pub(super) fn bare_model(self, named: &str) -> &str {
        if self.media() == Media::Gemini { named.strip_prefix("models/").unwrap_or(named) } else { named }
    }

    /// Where media may be.
    pub(super) fn media(self) -> Media {
        match self {
            Self::Responses => Media::Responses,
            Self::Messages | Self::CountTokens => Media::Anthropic,
            Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed | Self::OllamaShow => Media::Ollama,
            Self::GenerateContent | Self::EmbedContent | Self::BatchEmbedContents | Self::GeminiCountTokens => {
                Media::Gemini
            }
            _ => Media::OpenAi,
        }
    }
}
