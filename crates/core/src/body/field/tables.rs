//! The fields that count in each request, as the references of the APIs name them: OpenAI's API
//! reference, Anthropic's Messages API, Ollama's `docs/api.md` and Google's Gemini API reference,
//! with what vLLM, llama.cpp and TEI read beside them.

use super::{Field, Known, Matter, Maximum};

const OWN: Field = Field::Maximum(Maximum::Own);
const SAID: Field = Field::Text(Matter::Said);
const INSTRUCTED: Field = Field::Text(Matter::Instructed);
const DECLARED: Field = Field::Text(Matter::Declared);
const FORMED: Field = Field::Text(Matter::Formed);
/// Templates; and Gemini counts no tokens for the schema of its answer.
const IMPOSED: Field = Field::Text(Matter::Imposed);

const MODEL: Known = known("model", Field::Model);
const STREAM: Known = known("stream", Field::Stream);
/// vLLM's.
const PRIORITY: Known = known("priority", Field::Priority);

/// A field of the body itself.
const fn known(name: &'static str, field: Field) -> Known {
    Known { path: name, names: [name, name], field }
}

/// A member of an object within the body.
const fn within(path: &'static str, name: &'static str, field: Field) -> Known {
    Known { path, names: [name, name], field }
}

/// A field that protobuf's JSON takes in camel case and as the schema writes it.
const fn both(path: &'static str, names: [&'static str; 2], field: Field) -> Known {
    Known { path, names, field }
}

/// Anthropic's; gateways to its models, and its own imitation of a chat, take it in a chat too.
const THINKING: Known = known("thinking", Field::Thinking(&THINKING_MEMBERS));
const THINKING_MEMBERS: [Known; 2] =
    [within("thinking.budget_tokens", "budget_tokens", Field::Budget), within("thinking.type", "type", Field::Mode)];

/// The number is what openrouter.ai reads; OpenAI's own object has none.
const REASONING: Known = known("reasoning", Field::Thinking(&REASONING_MEMBERS));
const REASONING_MEMBERS: [Known; 1] = [within("reasoning.max_tokens", "max_tokens", Field::Budget)];

/// Of chat completions, completions and embeddings. `n_cmpl` is llama.cpp's word for `n`; `min_tokens`,
/// `prompt_embeds`, `documents` and the chat templates are vLLM's; the rest are the API's own.
pub(in super::super) const TEXT: [Known; 25] = [
    MODEL,
    STREAM,
    PRIORITY,
    known("stream_options", Field::StreamOptions),
    known("max_tokens", OWN),
    known("max_completion_tokens", Field::Maximum(Maximum::CompletionTokens)),
    known("n_predict", Field::Maximum(Maximum::NPredict)),
    known("n", Field::Choices),
    known("n_cmpl", Field::Choices),
    known("best_of", Field::Choices),
    known("prompt", Field::Prompt),
    known("input", Field::Prompt),
    known("prompt_embeds", Field::Media),
    known("messages", SAID),
    known("system", INSTRUCTED),
    known("suffix", SAID),
    known("tools", DECLARED),
    known("functions", DECLARED),
    known("response_format", FORMED),
    known("documents", SAID),
    known("chat_template", IMPOSED),
    known("chat_template_kwargs", IMPOSED),
    known("min_tokens", Field::Minimum),
    THINKING,
    REASONING,
];

pub(in super::super) const STREAM_OPTIONS: [Known; 1] =
    [within("stream_options.include_usage", "include_usage", Field::IncludeUsage)];

/// llama.cpp turns the request into a chat's, and heeds what it finds of a chat's own fields.
pub(in super::super) const RESPONSES: [Known; 20] = [
    MODEL,
    PRIORITY,
    known("previous_response_id", Field::Previous),
    known("background", Field::Background),
    STREAM,
    known("max_output_tokens", OWN),
    known("max_tokens", Field::Maximum(Maximum::Tokens)),
    known("max_completion_tokens", Field::Maximum(Maximum::CompletionTokens)),
    known("n_predict", Field::Maximum(Maximum::NPredict)),
    known("n", Field::Choices),
    known("n_cmpl", Field::Choices),
    known("input", SAID),
    known("instructions", INSTRUCTED),
    known("prompt", SAID),
    known("tools", DECLARED),
    known("text", FORMED),
    known("response_format", FORMED),
    known("chat_template", IMPOSED),
    known("chat_template_kwargs", IMPOSED),
    REASONING,
];

pub(in super::super) const MODERATIONS: [Known; 2] = [MODEL, known("input", SAID)];

/// `texts` is TEI's word for `documents`.
pub(in super::super) const RERANK: [Known; 4] =
    [MODEL, known("query", SAID), known("documents", SAID), known("texts", SAID)];

/// vLLM takes a text and others to compare it with by any of these names.
pub(in super::super) const SCORE: [Known; 8] = [
    MODEL,
    known("text_1", Field::Prompt),
    known("text_2", Field::Prompt),
    known("data_1", Field::Prompt),
    known("data_2", Field::Prompt),
    known("queries", Field::Prompt),
    known("documents", Field::Prompt),
    known("items", Field::Prompt),
];

/// `data` is what a plug-in of vLLM's reads.
pub(in super::super) const POOLING: [Known; 7] = [
    MODEL,
    known("input", Field::Prompt),
    known("messages", SAID),
    known("data", SAID),
    known("prompt_embeds", Field::Media),
    known("chat_template", IMPOSED),
    known("chat_template_kwargs", IMPOSED),
];

/// `content` is llama.cpp's word for `prompt`.
pub(in super::super) const TOKENIZE: [Known; 8] = [
    MODEL,
    known("prompt", Field::Prompt),
    known("content", Field::Prompt),
    known("tokens", Field::Prompt),
    known("messages", SAID),
    known("tools", DECLARED),
    known("chat_template", IMPOSED),
    known("chat_template_kwargs", IMPOSED),
];

pub(in super::super) const IMAGES: [Known; 4] = [MODEL, STREAM, known("prompt", SAID), known("n", Field::Choices)];

pub(in super::super) const SPEECH: [Known; 4] = [MODEL, STREAM, known("input", SAID), known("instructions", SAID)];

/// Of Anthropic's messages and of counting their tokens. The chat template's are llama.cpp's.
pub(in super::super) const MESSAGES: [Known; 10] = [
    MODEL,
    STREAM,
    known("max_tokens", OWN),
    known("system", INSTRUCTED),
    known("messages", SAID),
    known("tools", DECLARED),
    known("output_config", FORMED),
    known("output_format", FORMED),
    known("chat_template_kwargs", IMPOSED),
    THINKING,
];

const OPTIONS: Known = known("options", Field::Options(&NUM_PREDICT));
const NUM_PREDICT: [Known; 1] = [within("options.num_predict", "num_predict", OWN)];

pub(in super::super) const OLLAMA_CHAT: [Known; 5] =
    [MODEL, STREAM, OPTIONS, known("messages", SAID), known("tools", DECLARED)];

/// `context` is an earlier conversation in tokens.
pub(in super::super) const OLLAMA_GENERATE: [Known; 9] = [
    MODEL,
    STREAM,
    OPTIONS,
    known("prompt", SAID),
    known("suffix", SAID),
    known("system", INSTRUCTED),
    known("template", IMPOSED),
    known("images", Field::Media),
    known("context", Field::Prompt),
];

/// `prompt` is the word of `/api/embeddings`.
pub(in super::super) const OLLAMA_EMBED: [Known; 3] = [MODEL, known("input", SAID), known("prompt", SAID)];

/// `name` is an older word for the model; some clients send both.
pub(in super::super) const OLLAMA_SHOW: [Known; 2] = [MODEL, known("name", Field::Model)];

/// The path names the model; a body may repeat it.
pub(in super::super) const GENERATE_CONTENT: [Known; 5] = [
    MODEL,
    known("contents", SAID),
    both("systemInstruction", ["systemInstruction", "system_instruction"], INSTRUCTED),
    known("tools", DECLARED),
    both("generationConfig", ["generationConfig", "generation_config"], Field::Options(&GENERATION_CONFIG)),
];

/// What begins with an underscore is an older name for the one without.
const GENERATION_CONFIG: [Known; 6] = [
    both("generationConfig.maxOutputTokens", ["maxOutputTokens", "max_output_tokens"], OWN),
    both("generationConfig.thinkingConfig", ["thinkingConfig", "thinking_config"], Field::Thinking(&GEMINI_THINKING)),
    both("generationConfig.candidateCount", ["candidateCount", "candidate_count"], Field::Choices),
    both("generationConfig.responseSchema", ["responseSchema", "response_schema"], IMPOSED),
    both("generationConfig.responseJsonSchema", ["responseJsonSchema", "response_json_schema"], IMPOSED),
    both("generationConfig._responseJsonSchema", ["_responseJsonSchema", "_response_json_schema"], IMPOSED),
];

const GEMINI_THINKING: [Known; 1] =
    [both("generationConfig.thinkingConfig.thinkingBudget", ["thinkingBudget", "thinking_budget"], Field::Budget)];

pub(in super::super) const EMBED_CONTENT: [Known; 3] = [MODEL, known("content", SAID), known("title", SAID)];

/// Each request names its model, too.
pub(in super::super) const BATCH_EMBED_CONTENTS: [Known; 2] =
    [MODEL, known("requests", Field::Requests(&EMBED_REQUEST))];
const EMBED_REQUEST: [Known; 3] = [
    within("requests.model", "model", Field::Model),
    within("requests.content", "content", SAID),
    within("requests.title", "title", SAID),
];

/// A whole request may be counted, which names its model.
pub(in super::super) const GEMINI_COUNT_TOKENS: [Known; 3] = [
    MODEL,
    known("contents", SAID),
    both(
        "generateContentRequest",
        ["generateContentRequest", "generate_content_request"],
        Field::Thinking(&COUNTED_REQUEST),
    ),
];
const COUNTED_REQUEST: [Known; 4] = [
    within("generateContentRequest.model", "model", Field::Model),
    within("generateContentRequest.contents", "contents", SAID),
    both("generateContentRequest.systemInstruction", ["systemInstruction", "system_instruction"], SAID),
    within("generateContentRequest.tools", "tools", DECLARED),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Every table, with those of objects within.
    fn all() -> Vec<&'static [Known]> {
        vec![
            &TEXT,
            &THINKING_MEMBERS,
            &REASONING_MEMBERS,
            &GEMINI_THINKING,
            &STREAM_OPTIONS,
            &RESPONSES,
            &MODERATIONS,
            &RERANK,
            &SCORE,
            &POOLING,
            &TOKENIZE,
            &IMAGES,
            &SPEECH,
            &MESSAGES,
            &OLLAMA_CHAT,
            &NUM_PREDICT,
            &OLLAMA_GENERATE,
            &OLLAMA_EMBED,
            &OLLAMA_SHOW,
            &BATCH_EMBED_CONTENTS,
            &EMBED_REQUEST,
            &GEMINI_COUNT_TOKENS,
            &COUNTED_REQUEST,
            &GENERATE_CONTENT,
            &GENERATION_CONFIG,
            &EMBED_CONTENT,
        ]
    }

    #[test]
    fn no_name_is_longer_than_the_longest() {
        let names = || all().into_iter().flatten().flat_map(|known| known.names);
        assert_eq!(names().map(str::len).max(), Some(super::super::LONGEST));
        assert!(names().all(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')));
    }

    #[test]
    fn every_field_has_a_bit_and_a_name_of_its_own() {
        for table in all() {
            assert!(table.len() <= u32::BITS as usize);
            for (index, known) in table.iter().enumerate() {
                let folded = |known: &Known| known.names.map(str::to_ascii_lowercase);
                let clash = |other: &Known| folded(known).iter().any(|name| folded(other).contains(name));
                assert!(!table[..index].iter().any(clash), "{}", known.path);
                assert!(known.path.ends_with(known.names[0]), "{}", known.path);
            }
        }
    }
}
