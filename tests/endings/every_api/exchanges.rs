//! What is asked of each API, and what it answers, in parts.

use super::{Exchange, Kind};

const BASE: Exchange = Exchange {
    path: "",
    kind: Kind::Json,
    text: &[],
    usage: "",
    end: "",
    error: None,
    says: true,
    states_input: false,
};

const CHAT_ERROR: Option<&str> = Some(
    "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n",
);
const OPENAI_USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":50}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// Streams of events, and of lines.
#[rustfmt::skip]
pub(super) const STREAMS: &[Exchange] = &[
    Exchange { path: "/v1/chat/completions", kind: Kind::Sse,
        text: &["data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one \"}}]}\n\n",
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"two \"}}]}\n\n"],
        usage: OPENAI_USAGE, end: DONE, error: CHAT_ERROR, ..BASE },
    Exchange { path: "/v1/completions", kind: Kind::Sse,
        text: &["data: {\"choices\":[{\"index\":0,\"text\":\"one \"}]}\n\n", "data: {\"choices\":[{\"index\":0,\"text\":\"two \"}]}\n\n"],
        usage: OPENAI_USAGE, end: DONE, error: CHAT_ERROR, ..BASE },
    Exchange { path: "/v1/responses", kind: Kind::Sse,
        text: &["event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"one \"}\n\n",
                "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"two \"}\n\n"],
        usage: "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":7,\"output_tokens\":50}}}\n\n",
        error: Some("event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"out of memory\"}\n\n"), ..BASE },
    Exchange { path: "/v1/messages", kind: Kind::Sse, states_input: true,
        text: &["event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n",
                "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"one two \"}}\n\n"],
        usage: "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":50}}\n\n",
        end: "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        error: Some("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"out of memory\"}}\n\n"), ..BASE },
    Exchange { path: "/api/chat", kind: Kind::Ndjson,
        text: &["{\"message\":{\"role\":\"assistant\",\"content\":\"one \"},\"done\":false}\n",
                "{\"message\":{\"role\":\"assistant\",\"content\":\"two \"},\"done\":false}\n"],
        usage: "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"prompt_eval_count\":7,\"eval_count\":50}\n",
        error: Some("{\"error\":\"out of memory\"}\n"), ..BASE },
    Exchange { path: "/api/generate", kind: Kind::Ndjson,
        text: &["{\"response\":\"one \",\"done\":false}\n", "{\"response\":\"two \",\"done\":false}\n"],
        usage: "{\"response\":\"\",\"done\":true,\"prompt_eval_count\":7,\"eval_count\":50}\n",
        error: Some("{\"error\":\"out of memory\"}\n"), ..BASE },
    Exchange { path: "/v1beta/models/m:streamGenerateContent?alt=sse", kind: Kind::Sse,
        text: &["data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"one \"}]}}]}\r\n\r\n",
                "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"two \"}]}}]}\r\n\r\n"],
        usage: "data: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":7,\"candidatesTokenCount\":50}}\r\n\r\n",
        error: Some("data: {\"error\":{\"code\":500,\"message\":\"out of memory\",\"status\":\"INTERNAL\"}}\r\n\r\n"), ..BASE },
    Exchange { path: "/v1/audio/transcriptions", kind: Kind::Sse,
        text: &["data: {\"type\":\"transcript.text.delta\",\"delta\":\"one \"}\n\n", "data: {\"type\":\"transcript.text.delta\",\"delta\":\"two \"}\n\n"],
        usage: "data: {\"type\":\"transcript.text.done\",\"text\":\"one two \",\"usage\":{\"type\":\"tokens\",\"input_tokens\":7,\"output_tokens\":50}}\n\n",
        ..BASE },
];

/// Single documents. A number is whole when what follows it is there.
#[rustfmt::skip]
pub(super) const DOCUMENTS: &[Exchange] = &[
    Exchange { path: "/v1/chat/completions",
        text: &["{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"one two \"}}],"],
        usage: "\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":50}", end: "}", ..BASE },
    Exchange { path: "/v1/responses",
        text: &["{\"object\":\"response\",\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"one two \"}]}],"],
        usage: "\"usage\":{\"input_tokens\":7,\"output_tokens\":50}", end: "}", ..BASE },
    Exchange { path: "/v1/messages",
        text: &["{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"one two \"}],"],
        usage: "\"usage\":{\"input_tokens\":7,\"output_tokens\":50}", end: "}", ..BASE },
    Exchange { path: "/v1beta/models/m:streamGenerateContent",
        text: &["[{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"one \"}]}}]}\r\n",
                ",{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"two \"}]}}]}\r\n"],
        usage: ",{\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":7,\"candidatesTokenCount\":50}}",
        end: "]", ..BASE },
    Exchange { path: "/v1beta/models/m:generateContent",
        text: &["{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"one two \"}]}}],"],
        usage: "\"usageMetadata\":{\"promptTokenCount\":7,\"candidatesTokenCount\":50}", end: "}", ..BASE },
    Exchange { path: "/v1/embeddings", says: false,
        text: &["{\"data\":[{\"embedding\":[0.1]}],"], usage: "\"usage\":{\"prompt_tokens\":7}", end: "}", ..BASE },
    Exchange { path: "/v1/rerank", says: false,
        text: &["{\"results\":[{\"index\":0}],"], usage: "\"usage\":{\"total_tokens\":7}", end: "}", ..BASE },
    Exchange { path: "/api/embed", says: false,
        text: &["{\"embeddings\":[[0.1]],"], usage: "\"prompt_eval_count\":7 ", end: "}", ..BASE },
];
