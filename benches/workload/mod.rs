//! What is measured. Here that is what the meter gets: of each API the events of a stream and the answer in one piece, as servers write
//! them.

pub mod requests;

use bytes::Bytes;
use keymeter_core::{
    api::Endpoint,
    usage::{Ending, Form, Meter, Metered},
};

/// An API's stream.
pub struct Stream {
    pub name: &'static str,
    pub endpoint: Endpoint,
    pub form: Form,
    /// Writes its event with this text; in one that is `Unlike` the one before, this number stands before it.
    event: fn(text: &str, number: usize) -> String,
    /// Its event that states usage.
    usage: fn(number: usize) -> String,
}

/// Which of a stream's events come over and over.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Each differs from the one before in its text only.
    Alike,
    /// Each differs from the one before in a number before its text.
    Unlike,
    /// Each states usage.
    Usage,
}

pub const KINDS: [(&str, Kind); 3] =
    [("like the one before", Kind::Alike), ("unlike it", Kind::Unlike), ("with usage", Kind::Usage)];

pub const STREAMS: [Stream; 9] = [
    Stream {
        name: "chat completions",
        endpoint: Endpoint::ChatCompletions,
        form: Form::Sse,
        event: |text, number| {
            format!("data: {}{CHAT}\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n", head(number))
        },
        usage: |number| {
            format!("data: {}{CHAT}\"delta\":{{\"content\":\" word\"}}}}],{}}}\n\n", head(1), chat_usage(number))
        },
    },
    Stream {
        name: "completions",
        endpoint: Endpoint::Completions,
        form: Form::Sse,
        event: |text, number| {
            format!("data: {}{CHAT}\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":null}}]}}\n\n", head(number))
        },
        usage: |number| format!("data: {}{CHAT}\"text\":\" word\"}}],{}}}\n\n", head(1), chat_usage(number)),
    },
    Stream {
        name: "responses",
        endpoint: Endpoint::Responses,
        form: Form::Sse,
        event: |text, number| {
            format!(
                "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"sequence_number\":{number},\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\"{text}\",\"logprobs\":[]}}\n\n"
            )
        },
        usage: |number| {
            format!(
                "event: response.completed\ndata: {{\"type\":\"response.completed\",\"sequence_number\":{number},\"response\":{{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"completed\",\"error\":null,\"output\":[],\"usage\":{}}}}}\n\n",
                usage(number)
            )
        },
    },
    Stream {
        name: "image generations",
        endpoint: Endpoint::ImageGenerations,
        form: Form::Sse,
        event: |text, number| {
            format!(
                "event: image_generation.partial_image\ndata: {{\"type\":\"image_generation.partial_image\",\"partial_image_index\":{number},\"b64_json\":\"{text}\"}}\n\n"
            )
        },
        usage: |number| {
            format!(
                "event: image_generation.completed\ndata: {{\"type\":\"image_generation.completed\",\"b64_json\":\"AAAA\",\"usage\":{}}}\n\n",
                usage(number)
            )
        },
    },
    Stream {
        name: "speech",
        endpoint: Endpoint::Speech,
        form: Form::Sse,
        event: |text, number| {
            format!("data: {{\"type\":\"speech.audio.delta\",\"n\":{number},\"audio\":\"{text}\"}}\n\n")
        },
        usage: |number| format!("data: {{\"type\":\"speech.audio.done\",\"usage\":{}}}\n\n", usage(number)),
    },
    Stream {
        name: "transcriptions",
        endpoint: Endpoint::Transcriptions,
        form: Form::Sse,
        event: |text, number| {
            format!("data: {{\"type\":\"transcript.text.delta\",\"n\":{number},\"delta\":\"{text}\"}}\n\n")
        },
        usage: |number| {
            format!("data: {{\"type\":\"transcript.text.done\",\"text\":\"a\",\"usage\":{}}}\n\n", usage(number))
        },
    },
    Stream {
        name: "Anthropic messages",
        endpoint: Endpoint::Messages,
        form: Form::Sse,
        event: |text, number| {
            format!(
                "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{number},\"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
            )
        },
        usage: |number| {
            format!(
                "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\",\"stop_sequence\":null}},\"usage\":{{\"input_tokens\":9,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0,\"output_tokens\":{number}}}}}\n\n"
            )
        },
    },
    Stream {
        name: "Ollama chat",
        endpoint: Endpoint::OllamaChat,
        form: Form::Ndjson,
        event: |text, number| {
            format!(
                "{{\"model\":\"llama3.2\",\"created_at\":\"2026-01-01T00:00:00.{number}Z\",\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"done\":false}}\n"
            )
        },
        usage: |number| {
            format!(
                "{{\"model\":\"llama3.2\",\"created_at\":\"2026-01-01T00:00:00.1Z\",\"message\":{{\"role\":\"assistant\",\"content\":\"\"}},\"done_reason\":\"stop\",\"done\":true,\"total_duration\":4883583458,\"load_duration\":1334875,\"prompt_eval_count\":26,\"prompt_eval_duration\":342546000,\"eval_count\":{number},\"eval_duration\":4535599000}}\n"
            )
        },
    },
    Stream {
        name: "Gemini",
        endpoint: Endpoint::StreamGenerateContent,
        form: Form::Sse,
        event: |text, number| format!("data: {{\"n\":{number},{}}}\n\n", candidate(text)),
        usage: |number| format!("data: {{{},{}}}\n\n", candidate(" word"), gemini_usage(number)),
    },
];

const CHAT: &str = "\"object\":\"chat.completion.chunk\",\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,";

fn head(number: usize) -> String {
    format!("{{\"id\":\"chatcmpl-8b1f\",\"created\":179542747{number},")
}

fn chat_usage(number: usize) -> String {
    format!("\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{number},\"total_tokens\":{}}}", 9 + number)
}

fn usage(number: usize) -> String {
    format!(
        "{{\"input_tokens\":9,\"input_tokens_details\":{{\"cached_tokens\":3}},\"output_tokens\":{number},\"output_tokens_details\":{{\"reasoning_tokens\":1}},\"total_tokens\":{}}}",
        9 + number
    )
}

fn candidate(text: &str) -> String {
    format!("\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{text}\"}}],\"role\":\"model\"}},\"index\":0}}]")
}

fn gemini_usage(number: usize) -> String {
    format!(
        "\"usageMetadata\":{{\"promptTokenCount\":9,\"candidatesTokenCount\":{number},\"totalTokenCount\":{}}}",
        9 + number
    )
}

/// What texts are made of: 5 bytes each, as tokens are.
const TEXTS: [&str; 8] = [" word", " meat", "-love", ", say", " what", " goes", " here", " for "];

impl Stream {
    /// Eight events, to come over and over; and last one that states usage, so that none need be estimated.
    pub fn events(&self, kind: Kind) -> (Vec<Bytes>, Bytes) {
        let event = |(number, text): (usize, &&str)| match kind {
            Kind::Alike => (self.event)(text, 1),
            Kind::Unlike => (self.event)(text, number),
            Kind::Usage => (self.usage)(number + 1),
        };
        (TEXTS.iter().enumerate().map(event).map(Bytes::from).collect(), (self.usage)(9).into())
    }

    /// Meters a stream of so many events, each of which comes by itself.
    pub fn meter(&self, (events, last): &(Vec<Bytes>, Bytes), count: usize) -> Metered {
        let mut meter = Meter::new(self.endpoint, self.form, true);
        for event in events.iter().cycle().take(count).chain([last]) {
            std::hint::black_box(meter.feed(event.clone()));
        }
        meter.finish(Ending::Complete, || 9)
    }
}

/// An API's answer in one piece.
pub struct Answer {
    pub name: &'static str,
    pub endpoint: Endpoint,
    /// What stands before and after what makes it long, and what that is made of.
    around: [&'static str; 2],
    filling: &'static str,
}

const WORDS: &str = "so many words ";
const BASE64: &str = "iVBORw0KGgoAAA";
const VECTOR: &str = "0.0023064255,-0.009327292,";

pub const ANSWERS: [Answer; 10] = [
    Answer {
        name: "chat completions",
        endpoint: Endpoint::ChatCompletions,
        around: [
            r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":""#,
            r#""},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}"#,
        ],
        filling: WORDS,
    },
    Answer {
        name: "responses",
        endpoint: Endpoint::Responses,
        around: [
            r#"{"id":"r","object":"response","status":"completed","error":null,"output":[{"type":"message","id":"msg_1","content":[{"type":"output_text","annotations":[],"text":""#,
            r#""}],"role":"assistant"}],"usage":{"input_tokens":9,"output_tokens":12,"total_tokens":21}}"#,
        ],
        filling: WORDS,
    },
    Answer {
        name: "embeddings",
        endpoint: Endpoint::Embeddings,
        around: [
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":["#,
            r#"0]}],"model":"m","usage":{"prompt_tokens":9,"total_tokens":9}}"#,
        ],
        filling: VECTOR,
    },
    Answer {
        name: "rerank",
        endpoint: Endpoint::Rerank,
        around: [r#"{"model":"m","results":["#, r#"{}],"usage":{"total_tokens":9}}"#],
        filling: r#"{"index":2,"relevance_score":0.71,"document":{"text":"so many words"}},"#,
    },
    Answer {
        name: "image generations",
        endpoint: Endpoint::ImageGenerations,
        around: [
            r#"{"created":1,"data":[{"b64_json":""#,
            r#""}],"usage":{"total_tokens":21,"input_tokens":9,"output_tokens":12}}"#,
        ],
        filling: BASE64,
    },
    Answer {
        name: "transcriptions",
        endpoint: Endpoint::Transcriptions,
        around: [
            r#"{"text":""#,
            r#"","usage":{"type":"tokens","input_tokens":9,"output_tokens":12,"total_tokens":21}}"#,
        ],
        filling: WORDS,
    },
    Answer {
        name: "Anthropic messages",
        endpoint: Endpoint::Messages,
        around: [
            r#"{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"text","text":""#,
            r#""}],"stop_reason":"end_turn","usage":{"input_tokens":9,"cache_read_input_tokens":0,"output_tokens":12}}"#,
        ],
        filling: WORDS,
    },
    Answer {
        name: "Ollama chat",
        endpoint: Endpoint::OllamaChat,
        around: [
            r#"{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""#,
            r#""},"done":true,"prompt_eval_count":9,"eval_count":12}"#,
        ],
        filling: WORDS,
    },
    Answer {
        name: "Gemini",
        endpoint: Endpoint::GenerateContent,
        around: [
            r#"{"candidates":[{"content":{"parts":[{"text":""#,
            r#""}],"role":"model"},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":12,"totalTokenCount":21}}"#,
        ],
        filling: WORDS,
    },
    Answer {
        name: "Gemini, as an array",
        endpoint: Endpoint::StreamGenerateContent,
        around: [
            "[",
            r#"{"candidates":[],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":12,"totalTokenCount":21}}]"#,
        ],
        filling: r#"{"candidates":[{"content":{"parts":[{"text":" word"}],"role":"model"},"index":0}]},"#,
    },
];

impl Answer {
    /// The answer, some `bytes` long.
    pub fn of_length(&self, bytes: usize) -> Bytes {
        let [before, after] = self.around;
        let room = bytes.saturating_sub(before.len() + after.len());
        [before, &self.filling.repeat(room / self.filling.len()), after].concat().into()
    }

    /// Meters it.
    pub fn meter(&self, answer: &Bytes) -> Metered {
        let mut meter = Meter::new(self.endpoint, Form::Json, false);
        std::hint::black_box(meter.feed(answer.clone()));
        meter.finish(Ending::Complete, || 9)
    }
}
