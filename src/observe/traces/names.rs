//! The names of OpenTelemetry's conventions for generative AI. Where the conventions have none, the name of the endpoint is used,
//! as they allow.

use std::borrow::Cow;

use http::Method;
use keymeter_core::api::{Api, Call, Endpoint};

/// `gen_ai.operation.name`
pub(super) fn operation(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Responses | Endpoint::Messages | Endpoint::OllamaChat => "chat",
        Endpoint::Completions | Endpoint::OllamaGenerate => "text_completion",
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent => "generate_content",
        Endpoint::Embeddings
        | Endpoint::OllamaEmbed
        | Endpoint::OllamaEmbeddings
        | Endpoint::EmbedContent
        | Endpoint::BatchEmbedContents => "embeddings",
        Endpoint::Moderations => "moderation",
        Endpoint::Rerank => "rerank",
        Endpoint::Score => "score",
        Endpoint::Pooling => "pooling",
        Endpoint::Classify => "classify",
        Endpoint::Tokenize => "tokenize",
        Endpoint::Detokenize => "detokenize",
        Endpoint::ImageGenerations => "image_generation",
        Endpoint::ImageEdits => "image_edit",
        Endpoint::Speech => "speech",
        Endpoint::Transcriptions => "transcription",
        Endpoint::Translations => "translation",
        Endpoint::CountTokens | Endpoint::GeminiCountTokens => "count_tokens",
        Endpoint::OllamaShow => "show",
    }
}

/// `gen_ai.provider.name`: the API of the request, whatever server answers.
pub(super) fn provider(api: Api) -> &'static str {
    match api {
        Api::OpenAi => "openai",
        Api::Anthropic => "anthropic",
        Api::Ollama => "ollama",
        Api::Gemini => "gcp.gemini",
    }
}

/// `http.request.method`: a known method, since clients may send any text.
pub(super) fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| method == *known).unwrap_or("_OTHER")
}

/// The name of a request's span while its model is unknown.
pub(super) fn span(request: &Method, api: Api, call: Option<&Call>) -> Cow<'static, str> {
    match call {
        Some(Call::Inference { endpoint, .. }) => operation(*endpoint).into(),
        Some(Call::Models) => list_of_models(api).into(),
        Some(Call::Model(_)) if api == Api::Gemini => "GET /v1beta/models/{id}".into(),
        Some(Call::Model(_)) => "GET /v1/models/{id}".into(),
        Some(Call::Version) => "GET /api/version".into(),
        Some(Call::Usage) => "GET /v1/usage".into(),
        None if method(request) == "_OTHER" => "HTTP".into(),
        None => method(request).into(),
    }
}

/// The path of an API's list of models; Gemini's may come by `/v1/models` too.
fn list_of_models(api: Api) -> &'static str {
    match api {
        Api::OpenAi | Api::Anthropic => "GET /v1/models",
        Api::Ollama => "GET /api/tags",
        Api::Gemini => "GET /v1beta/models",
    }
}
