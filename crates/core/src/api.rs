//! Which API a path belongs to. Every path that reaches an upstream is named here; what is
//! not named is refused, so that there is no way around admission.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::{body::Shape, model_name};

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
    /// What the key itself may use and has used.
    Usage,
    /// One of them.
    Model(String),
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
    /// `POST /v1/rerank`
    Rerank,
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
    /// `POST /v1beta/models/{model}:generateContent`
    GenerateContent,
    /// `POST /v1beta/models/{model}:streamGenerateContent`
    StreamGenerateContent,
    /// `POST /v1beta/models/{model}:embedContent`
    EmbedContent,
}

/// Every endpoint whose path names no model, with its path.
const ENDPOINTS: [(&str, Endpoint); 16] = [
    ("/v1/chat/completions", Endpoint::ChatCompletions),
    ("/v1/completions", Endpoint::Completions),
    ("/v1/responses", Endpoint::Responses),
    ("/v1/embeddings", Endpoint::Embeddings),
    ("/v1/moderations", Endpoint::Moderations),
    ("/v1/rerank", Endpoint::Rerank),
    ("/v1/images/generations", Endpoint::ImageGenerations),
    ("/v1/images/edits", Endpoint::ImageEdits),
    ("/v1/audio/speech", Endpoint::Speech),
    ("/v1/audio/transcriptions", Endpoint::Transcriptions),
    ("/v1/audio/translations", Endpoint::Translations),
    ("/v1/messages", Endpoint::Messages),
    ("/v1/messages/count_tokens", Endpoint::CountTokens),
    ("/api/chat", Endpoint::OllamaChat),
    ("/api/generate", Endpoint::OllamaGenerate),
    ("/api/embed", Endpoint::OllamaEmbed),
];

/// Gemini's endpoints with what follows the model and a colon.
const METHODS: [(&str, Endpoint); 3] = [
    ("generateContent", Endpoint::GenerateContent),
    ("streamGenerateContent", Endpoint::StreamGenerateContent),
    ("embedContent", Endpoint::EmbedContent),
];

const MODELS: &str = "/v1/models";
const USAGE: &str = "/v1/usage";
const GEMINI_MODELS: &str = "/v1beta/models/";

impl Api {
    /// Whose path it is, as far as its beginning tells: what an error on an unknown path is
    /// written for.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let under = |room: &str| path.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match () {
            () if under("/v1/messages") => Self::Anthropic,
            () if under("/api") => Self::Ollama,
            () if under("/v1beta") => Self::Gemini,
            () => Self::OpenAi,
        }
    }
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
            | Self::ImageGenerations
            | Self::ImageEdits
            | Self::Speech
            | Self::Transcriptions
            | Self::Translations => Api::OpenAi,
            Self::Messages | Self::CountTokens => Api::Anthropic,
            Self::OllamaChat | Self::OllamaGenerate | Self::OllamaEmbed => Api::Ollama,
            Self::GenerateContent | Self::StreamGenerateContent | Self::EmbedContent => Api::Gemini,
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
            Self::ImageGenerations => Shape::Images,
            Self::Speech => Shape::Speech,
            Self::ImageEdits | Self::Transcriptions | Self::Translations => Shape::Form,
            Self::Messages => Shape::Messages,
            Self::CountTokens => Shape::CountTokens,
            Self::OllamaChat => Shape::OllamaChat,
            Self::OllamaGenerate => Shape::OllamaGenerate,
            Self::OllamaEmbed => Shape::OllamaEmbed,
            Self::GenerateContent | Self::StreamGenerateContent => Shape::GenerateContent,
            Self::EmbedContent => Shape::EmbedContent,
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
            | Self::Speech
            | Self::CountTokens
            | Self::OllamaEmbed
            | Self::EmbedContent => false,
        }
    }

    /// Whether the endpoint costs tokens at all; counting them does not.
    #[must_use]
    pub fn takes_tokens(self) -> bool {
        self != Self::CountTokens
    }

    /// Whether a stream of the endpoint states its usage only if `stream_options` asks for it.
    #[must_use]
    pub fn injects_usage(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }
}

/// Why a request asks for nothing that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrecognised {
    /// No API has the path.
    Path,
    /// The path is known, under the method named here.
    Method(&'static str),
    /// The path is one that names a model, and what stands there can be none's name.
    ModelName,
}

/// What `method` and `path` (without its query) ask for.
///
/// # Errors
/// When the path is none of an API, the method is not the path's, or no model can have the name in it.
pub fn recognise(method: &Method, path: &str) -> Result<Call, Unrecognised> {
    let (call, allowed) = match inference(path) {
        Some((endpoint, model)) => (Call::Inference { endpoint, model }, "POST"),
        None => (catalogue(path).ok_or(Unrecognised::Path)?, "GET"),
    };
    if method.as_str() != allowed {
        return Err(Unrecognised::Method(allowed));
    }
    match &call {
        Call::Inference { model: Some(model), .. } | Call::Model(model) if !model_name::is_valid(model) => {
            Err(Unrecognised::ModelName)
        }
        _ => Ok(call),
    }
}

/// The endpoint that a path is, and the model that it names.
fn inference(path: &str) -> Option<(Endpoint, Option<String>)> {
    if let Some((_, endpoint)) = ENDPOINTS.iter().find(|(known, _)| *known == path) {
        return Some((*endpoint, None));
    }
    // A model's name may have a colon, as Ollama's tags do; a method's has none.
    let (model, method) = path.strip_prefix(GEMINI_MODELS)?.rsplit_once(':')?;
    let (_, endpoint) = METHODS.iter().find(|(known, _)| *known == method)?;
    Some((*endpoint, Some(path_model(model)?)))
}

/// The model that a segment of a path names, if one may be called so. Where two programs could decode the segment or
/// divide the path differently, it names none.
fn path_model(segment: &str) -> Option<String> {
    let model = percent_decode_str(segment).decode_utf8().ok().filter(|_| is_well_escaped(segment))?;
    (!model.contains(['/', '\\'])).then(|| model.into_owned())
}

fn catalogue(path: &str) -> Option<Call> {
    if path == USAGE {
        return Some(Call::Usage);
    }
    match path.strip_prefix(MODELS)? {
        "" => Some(Call::Models),
        rest => rest.strip_prefix('/').filter(|name| !name.is_empty()).map(|name| Call::Model(percent_decoded(name))),
    }
}

/// A path's segment as its characters (RFC 3986, section 2.1). What is no escape stays as it is.
#[must_use]
pub fn percent_decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// Whether each percent sign begins an escape.
fn is_well_escaped(segment: &str) -> bool {
    let mut escapes = segment.split('%').skip(1);
    escapes.all(|rest| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

#[cfg(test)]
mod tests;
