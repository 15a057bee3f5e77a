//! The paths that are served: what a method and a path ask for.

use http::Method;
use percent_encoding::percent_decode_str;

use super::{Call, Endpoint};
use crate::model_name;

/// Every path of an endpoint that names no model.
pub(super) const ENDPOINTS: [(&str, Endpoint); 26] = [
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
    ("/api/embeddings", Endpoint::OllamaEmbeddings),
    ("/api/show", Endpoint::OllamaShow),
    ("/v1/score", Endpoint::Score),
    ("/score", Endpoint::Score),
    ("/rerank", Endpoint::Rerank),
    ("/v2/rerank", Endpoint::Rerank),
    ("/pooling", Endpoint::Pooling),
    ("/classify", Endpoint::Classify),
    ("/tokenize", Endpoint::Tokenize),
    ("/detokenize", Endpoint::Detokenize),
];

/// Gemini's endpoints with what follows the model and a colon.
pub(super) const METHODS: [(&str, Endpoint); 5] = [
    ("generateContent", Endpoint::GenerateContent),
    ("streamGenerateContent", Endpoint::StreamGenerateContent),
    ("embedContent", Endpoint::EmbedContent),
    ("batchEmbedContents", Endpoint::BatchEmbedContents),
    ("countTokens", Endpoint::GeminiCountTokens),
];

/// Where models are listed, and below which Gemini's endpoints are: the first is `OpenAI`'s and Anthropic's too.
pub(super) const MODELS: [&str; 2] = ["/v1/models", "/v1beta/models"];

/// What else is answered here.
const OWN: [(&str, Call); 3] =
    [("/v1/usage", Call::Usage), ("/api/tags", Call::Models), ("/api/version", Call::Version)];

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
    let (call, allowed) = known(path).ok_or(Unrecognised::Path)?;
    if method.as_str() != allowed {
        // It is no model that was asked for, but a method of Gemini's that is not served.
        let is_method = method == Method::POST && matches!(&call, Call::Model(name) if name.contains(':'));
        return Err(if is_method { Unrecognised::Path } else { Unrecognised::Method(allowed) });
    }
    match &call {
        Call::Inference { model: Some(model), .. } | Call::Model(model) if !model_name::is_valid(model) => {
            Err(Unrecognised::ModelName)
        }
        _ => Ok(call),
    }
}

/// What a path asks for, and its one method.
pub(super) fn known(path: &str) -> Option<(Call, &'static str)> {
    match inference(path) {
        Some((endpoint, model)) => Some((Call::Inference { endpoint, model }, "POST")),
        None => Some((catalogue(path)?, "GET")),
    }
}

/// The endpoint that a path is, and the model that it names.
fn inference(path: &str) -> Option<(Endpoint, Option<String>)> {
    if let Some((_, endpoint)) = ENDPOINTS.iter().find(|(known, _)| *known == path) {
        return Some((*endpoint, None));
    }
    let (model, endpoint) = method_of(below_models(path)?)?;
    Some((endpoint, Some(path_model(model)?)))
}

/// The model and the method of Gemini's API that a segment names. A model's name may have a colon, as Ollama's tags do; a
/// method's has none.
fn method_of(segment: &str) -> Option<(&str, Endpoint)> {
    let (model, method) = segment.rsplit_once(':')?;
    let (_, endpoint) = METHODS.iter().find(|(known, _)| *known == method)?;
    Some((model, *endpoint))
}

/// Whether a path below `/v1/` is one of Gemini's methods.
pub(super) fn is_geminis(rest: &str) -> bool {
    let segment = rest.strip_prefix("models/").filter(|segment| !segment.contains('/'));
    segment.and_then(method_of).is_some()
}

/// Whether a path is that of a list of models, or of one of them.
pub(super) fn is_of_models(path: &str) -> bool {
    MODELS.contains(&path) || below_models(path).is_some()
}

/// What follows the path of a list of models.
fn below_models(path: &str) -> Option<&str> {
    MODELS.iter().find_map(|models| path.strip_prefix(models)?.strip_prefix('/'))
}

/// The model that a segment of a path names, if one may be called so. Where two programs could decode the segment or
/// divide the path differently, it names none.
fn path_model(segment: &str) -> Option<String> {
    let model = percent_decode_str(segment).decode_utf8().ok().filter(|_| is_well_escaped(segment))?;
    (!model.contains(['/', '\\'])).then(|| model.into_owned())
}

fn catalogue(path: &str) -> Option<Call> {
    if let Some((_, call)) = OWN.iter().find(|(known, _)| *known == path) {
        return Some(call.clone());
    }
    if MODELS.contains(&path) {
        return Some(Call::Models);
    }
    below_models(path).filter(|name| !name.is_empty()).map(|name| Call::Model(percent_decoded(name)))
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
