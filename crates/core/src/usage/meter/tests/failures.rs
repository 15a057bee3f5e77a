//! Errors within a response of status 200, in each API's form: the upstream failed, whatever was charged.

use super::apis::{fixture, found};
use super::*;

/// Errors in one piece, and in events, that come in place of an answer.
#[rustfmt::skip]
const ERRORS: &[(Endpoint, Form, &str)] = &[
    (Endpoint::ChatCompletions, Form::Json, r#"{"error":{"message":"no","type":"server_error","code":500}}"#),
    (Endpoint::ChatCompletions, Form::Json, r#"{"object":"error","message":"no","type":"BadRequestError","code":400}"#),
    (Endpoint::ChatCompletions, Form::Json, r#"{"choices":[{"index":0,"error":{"code":502,"message":"no"},"finish_reason":"error"}]}"#),
    (Endpoint::ChatCompletions, Form::Sse, fixture!("servers/error.sse")),
    (Endpoint::ChatCompletions, Form::Sse, fixture!("servers/error-bare.sse")),
    (Endpoint::ChatCompletions, Form::Sse, fixture!("servers/llama-cpp-error.sse")),
    (Endpoint::ChatCompletions, Form::Sse, "event: error\ndata: no\n\n"),
    (Endpoint::ChatCompletions, Form::Sse, "data: {\"choices\":[{\"delta\":{}}],\"x_groq\":{\"error\":\"over_capacity\"}}\n\n"),
    (Endpoint::ChatCompletions, Form::Json, "[{\n  \"error\": {\"code\": 503, \"status\": \"UNAVAILABLE\"}\n}]"),
    (Endpoint::ChatCompletions, Form::Json, r#"{"result":null,"success":false,"errors":[{"code":7,"message":"no"}],"messages":[]}"#),
    (Endpoint::Completions, Form::Json, r#"[{"error":{"message":"no"}}]"#),
    (Endpoint::Responses, Form::Json, r#"[{"error":{"message":"no"}}]"#),
    (Endpoint::Responses, Form::Json, r#"{"object":"error","message":"no","type":"BadRequestError","code":400}"#),
    (Endpoint::Responses, Form::Json, r#"{"success":false,"errors":[{"message":"no"}]}"#),
    (Endpoint::Embeddings, Form::Json, r#"[{"error":{"message":"no"}}]"#),
    (Endpoint::Embeddings, Form::Json, r#"{"object":"error","message":"no","type":"BadRequestError","code":400}"#),
    (Endpoint::Embeddings, Form::Json, r#"{"success":false,"errors":[{"message":"no"}]}"#),
    (Endpoint::Rerank, Form::Json, r#"{"object":"error","message":"no","code":400}"#),
    (Endpoint::ImageGenerations, Form::Json, r#"{"object":"error","message":"no","code":400}"#),
    (Endpoint::ImageGenerations, Form::Json, r#"[{"error":{"message":"no"}}]"#),
    (Endpoint::Transcriptions, Form::Json, r#"{"object":"error","message":"no","code":400}"#),
    (Endpoint::Transcriptions, Form::Json, r#"{"success":false,"errors":[{"message":"no"}]}"#),
    (Endpoint::Messages, Form::Json, r#"{"object":"error","message":"no","code":400}"#),
    (Endpoint::Messages, Form::Json, r#"[{"error":{"message":"no"}}]"#),
    (Endpoint::Messages, Form::Json, r#"{"success":false,"errors":["no"]}"#),
    (Endpoint::CountTokens, Form::Json, r#"{"object":"error","message":"no","code":400}"#),
    (Endpoint::OllamaChat, Form::Json, r#"{"success":false,"errors":["no"]}"#),
    (Endpoint::GenerateContent, Form::Json, r#"{"success":false,"errors":[{"message":"no"}]}"#),
    (Endpoint::Completions, Form::Json, r#"{"error":"no"}"#),
    (Endpoint::Completions, Form::Sse, "data: {\"error\":{\"message\":\"no\"}}\n\n"),
    (Endpoint::Responses, Form::Json, r#"{"object":"response","status":"failed","error":{"code":"server_error"},"output":[],"usage":null}"#),
    (Endpoint::Responses, Form::Json, r#"{"error":{"message":"no"}}"#),
    (Endpoint::Responses, Form::Sse, fixture!("responses/error.sse")),
    (Endpoint::Responses, Form::Sse, "data: {\"type\":\"response.failed\",\"response\":{\"error\":null}}\n\n"),
    (Endpoint::Responses, Form::Sse, "data: {\"error\":{\"message\":\"no\"}}\n\n"),
    (Endpoint::Embeddings, Form::Json, r#"{"error":{"message":"no"}}"#),
    (Endpoint::Moderations, Form::Json, r#"{"error":{"message":"no"}}"#),
    (Endpoint::Rerank, Form::Json, r#"{"error":"no","error_type":"overloaded"}"#),
    (Endpoint::ImageGenerations, Form::Json, r#"{"error":{"message":"no"}}"#),
    (Endpoint::ImageGenerations, Form::Sse, "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"no\"}}\n\n"),
    (Endpoint::ImageEdits, Form::Sse, "data: {\"type\":\"error\",\"message\":\"no\"}\n\n"),
    (Endpoint::Speech, Form::Json, r#"{"error":{"message":"no"}}"#),
    (Endpoint::Speech, Form::Sse, "event: error\ndata: {}\n\n"),
    (Endpoint::Transcriptions, Form::Json, r#"{"error":{"message":"no"}}"#),
    (Endpoint::Transcriptions, Form::Sse, "data: {\"error\":{\"message\":\"no\"}}\n\n"),
    (Endpoint::Translations, Form::Sse, "data: {\"type\":\"error\",\"message\":\"no\"}\n\n"),
    (Endpoint::Messages, Form::Json, r#"{"type":"error","error":{"type":"overloaded_error","message":"no"}}"#),
    (Endpoint::Messages, Form::Json, r#"{"type":"error","message":"no"}"#),
    (Endpoint::Messages, Form::Sse, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n"),
    (Endpoint::Messages, Form::Sse, "data: {\"type\":\"error\"}\n\n"),
    (Endpoint::OllamaChat, Form::Json, r#"{"error":"no"}"#),
    (Endpoint::OllamaChat, Form::Ndjson, "{\"error\":\"no\"}\n"),
    (Endpoint::OllamaGenerate, Form::Ndjson, "{\"error\":\"no\"}\n"),
    (Endpoint::OllamaEmbed, Form::Json, r#"{"error":"no"}"#),
    (Endpoint::GenerateContent, Form::Json, r#"{"error":{"code":503,"status":"UNAVAILABLE"}}"#),
    (Endpoint::StreamGenerateContent, Form::Json, "[{\n  \"error\": {\"code\": 503}\n}\n]"),
    (Endpoint::StreamGenerateContent, Form::Sse, "data: {\"error\":{\"code\":503}}\r\n\r\n"),
    (Endpoint::EmbedContent, Form::Json, r#"{"error":{"code":503}}"#),
];

#[test]
fn an_error_in_place_of_an_answer_is_a_failure_and_costs_nothing() {
    for &(endpoint, form, response) in ERRORS {
        let labels = [Form::Sse, Form::Json, Form::Text, Form::Other];
        let is_llamas = response.starts_with("error:");
        for label in [form].into_iter().chain(labels).filter(|label| !is_llamas || *label == Form::Sse) {
            let outcome = Case { endpoint, form: label, ..STREAM }.in_every_cut(response);
            let name = format!("{endpoint:?} as {label:?}: {response}");
            assert!(outcome.failed, "{name}");
            assert_eq!(outcome.metered, Metered::none(), "{name}");
            assert_eq!(outcome.forwarded, response.as_bytes(), "{name}");
        }
    }
}

#[test]
fn an_error_in_the_middle_is_a_failure_and_costs_what_came_before() {
    let hello = |input| found(input, &["hello world"], &[]);
    let sky = found(1000, &["The sky"], &[]);
    let part = r#"{"candidates":[{"content":{"parts":[{"text":"hello world"}]}}]}"#;
    let array = format!("[{part},\n{{\"error\":{{\"code\":500}}}}]");
    let events = format!("data: {part}\n\ndata: {{\"error\":{{\"code\":500}}}}\n\n");
    let delta = "data: {\"type\":\"transcript.text.delta\",\"delta\":\"hello world\"}\n\nevent: error\ndata: {}\n\n";
    for (endpoint, form, response, expected) in [
        (Endpoint::ChatCompletions, Form::Sse, fixture!("servers/error-late.sse"), hello(1000)),
        (Endpoint::ChatCompletions, Form::Sse, fixture!("servers/error-with-usage.sse"), upstream(7, 3)),
        (Endpoint::Responses, Form::Sse, fixture!("responses/failed.sse"), found(1000, &["Once upon"], &[])),
        (Endpoint::Messages, Form::Sse, fixture!("anthropic/error.sse"), found(25, &["Hello there"], &[])),
        (Endpoint::OllamaChat, Form::Ndjson, fixture!("ollama/error.ndjson"), sky),
        (Endpoint::StreamGenerateContent, Form::Json, array.as_str(), hello(1000)),
        (Endpoint::StreamGenerateContent, Form::Sse, events.as_str(), hello(1000)),
        (Endpoint::Transcriptions, Form::Sse, delta, hello(1000)),
    ] {
        let outcome = Case { endpoint, form, ..STREAM }.in_every_cut(response);
        assert!(outcome.failed, "{response}");
        assert_eq!(outcome.metered, expected, "{response}");
    }
}

#[test]
fn what_says_that_there_is_no_error_is_none() {
    for none in ["null", "false"] {
        for (endpoint, form, response) in every_api::ALL {
            let json = response.trim_start().strip_prefix('{').map(|rest| format!("{{\"error\":{none},{rest}"));
            let said = json.unwrap_or_else(|| response.replace("data: {", &format!("data: {{\"error\":{none},")));
            let case = Case { endpoint, form, ..STREAM };
            let (own, outcome) = (case.meter([response.as_bytes()]), case.meter([said.as_bytes()]));
            assert_eq!((outcome.failed, outcome.metered), (false, own.metered), "{said}");
        }
    }
}

#[test]
fn words_about_errors_are_none() {
    let talk =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"event: error\\ndata: {\\\"error\\\":1}\"}}]}\n\n";
    assert!(!STREAM.in_every_cut(talk).failed);
    let answer = ANSWER.replace("Hm, well", "{\\\"error\\\":{\\\"message\\\":\\\"no\\\"}}");
    assert!(!JSON.in_every_cut(&answer).failed);
    assert!(!Case { form: Form::Text, ..STREAM }.in_every_cut("error: no such thing").failed);
}

/// Good answers beside which their servers say that nothing failed.
#[rustfmt::skip]
const HEALTHY: &[(Endpoint, Form, &str)] = &[
    (Endpoint::ChatCompletions, Form::Json, r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":40,"completion_tokens":3},"error":""}"#),
    (Endpoint::ChatCompletions, Form::Json, r#"{"error":{},"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":40,"completion_tokens":3}}"#),
    (Endpoint::ChatCompletions, Form::Json, r#"{"error":[],"choices":[{"message":{"content":"x"},"error":0}],"usage":{"prompt_tokens":40,"completion_tokens":3}}"#),
    (Endpoint::ChatCompletions, Form::Json, r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":40,"completion_tokens":3},"error":{"code":null,"message":""}}"#),
    (Endpoint::ChatCompletions, Form::Json, r#"{"code":200,"message":"success","choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":40,"completion_tokens":3}}"#),
    (Endpoint::ChatCompletions, Form::Sse, "data: {\"code\":0,\"message\":\"\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: {\"error\":\"\",\"choices\":[],\"usage\":{\"prompt_tokens\":40,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n"),
    (Endpoint::ChatCompletions, Form::Json, r#"{"success":true,"errors":[],"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":40,"completion_tokens":3}}"#),
    (Endpoint::Embeddings, Form::Json, r#"{"object":"list","errors":null,"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":40,"total_tokens":40}}"#),
    (Endpoint::Responses, Form::Json, r#"{"object":"response","status":"completed","error":{},"output":[],"usage":{"input_tokens":40,"output_tokens":3}}"#),
    (Endpoint::Embeddings, Form::Json, r#"{"error":"","data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":40,"total_tokens":40}}"#),
    (Endpoint::Messages, Form::Json, r#"{"type":"message","error":"","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":40,"output_tokens":3}}"#),
    (Endpoint::OllamaChat, Form::Ndjson, "{\"message\":{\"content\":\"x\"},\"done\":true,\"error\":\"\",\"prompt_eval_count\":40,\"eval_count\":3}\n"),
    (Endpoint::GenerateContent, Form::Json, r#"{"error":{},"candidates":[{"content":{"parts":[{"text":"x"}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":40,"candidatesTokenCount":3}}"#),
];

#[test]
fn an_empty_error_beside_an_answer_is_none() {
    for &(endpoint, form, response) in HEALTHY {
        let outcome = Case { endpoint, form, ..STREAM }.in_every_cut(response);
        assert!(!outcome.failed, "{endpoint:?}: {response}");
        assert_eq!(outcome.metered.usage.input, 40, "{endpoint:?}: {response}");
    }
}
