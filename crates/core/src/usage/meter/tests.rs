use std::fmt::Write as _;

use super::super::estimate::{self, count_tokens};
use super::*;
use proptest::prelude::*;

mod apis;
mod every_api;
mod failures;
mod final_usage;
mod items;
mod labels;
mod properties;
mod servers;
mod stated;

/// What a client would have to ask for to get it all: nothing is taken out.
const OPENAI: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","system_fingerprint":"fp","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":" \"wörld\" \ud83d\ude00"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","system_fingerprint":"fp","choices":[{"index":0,"delta":{"content":" \"usage\":{\"prompt_tokens\":999}}\n\n"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","system_fingerprint":"fp","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","system_fingerprint":"fp","choices":[],"usage":{"prompt_tokens":31,"completion_tokens":22,"total_tokens":53,"prompt_tokens_details":{"cached_tokens":11,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":4,"audio_tokens":0}}}

data: [DONE]

"#;
const OPENAI_TEXT: &str = "Hello \"wörld\" 😀 \"usage\":{\"prompt_tokens\":999}}\n\n";
const OPENAI_USAGE: Usage =
    Usage { input: 20, cached_input: 11, cache_write: 0, cache_write_1h: 0, output: 22, reasoning: 4 };

/// Cumulative usage on every chunk, comments, reasoning, and a last event with no choices.
const VLLM: &str = r#": ping

data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":{"prompt_tokens":9,"total_tokens":9,"completion_tokens":0}}

data: {"id":"c","choices":[{"index":0,"delta":{"reasoning":"Let me","reasoning_content":"Let me"}}],"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2}}

: ping

data: {"id":"c","choices":[{"index":0,"delta":{"content":"Four"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}

data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"total_tokens":13,"completion_tokens":4}}

data: [DONE]

"#;

/// A first event without choices or usage, and members in alphabetical order.
const AZURE: &str = r#"data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false}}}]}

data: {"choices":[{"content_filter_results":{},"delta":{"content":"Good"},"finish_reason":null,"index":0,"logprobs":null}],"created":1,"id":"c","usage":null}

data: {"choices":[{"content_filter_results":{},"delta":{"content":" day"},"finish_reason":null,"index":0,"logprobs":null}],"created":1,"id":"c","usage":null}

data: {"choices":[{"content_filter_results":{},"delta":{"content":" sir"},"finish_reason":"stop","index":0,"logprobs":null}],"created":1,"id":"c","usage":null}

data: {"choices":[],"created":1,"id":"c","usage":{"completion_tokens":3,"prompt_tokens":5,"total_tokens":8}}

data: [DONE]

"#;

/// Two choices by turns, tool calls, and usage on the last chunk with choices.
const SGLANG: &str = r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"Look"}}]}

data: {"id":"c","choices":[{"index":1,"delta":{"content":"Under"}}]}

data: {"id":"c","choices":[{"index":0,"delta":{"content":"ing"}}]}

data: {"id":"c","choices":[{"index":1,"delta":{"content":"standing"}}]}

data: {"id":"c","choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"city\""}}]}}]}

data: {"id":"c","choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"function":{"arguments":":\"Oslo\"}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":40,"completion_tokens":12,"total_tokens":52}}

data: [DONE]

"#;

/// No usage at all, and the end of the stream in the middle of its last line end.
const SILENT: &str = "data:{\"choices\":[{\"text\":\"One two\",\"index\":0}]}\n\n\
    data:{\"choices\":[{\"text\":\" three\",\"index\":0}]}\n\ndata:[DONE]\n";

/// Answers in one piece.
const ANSWER: &str = r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"The \"usage\": {\"prompt_tokens\": 1}","reasoning_content":"Hm, well"},"logprobs":{"content":[{"token":"The"}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12},"service_tier":{"usage":{"prompt_tokens":3}}}"#;
const EMBEDDINGS: &str = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2e-3,[{}]]},{"embedding":"q80="}],"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}"#;

/// What a call of a tool takes beyond its text in a chat, and what an object that it is called with is as text.
const CALL: u64 = 7;
const CALLED: &str = "f{\"a\":\"x y\",\"b\":[-1.5,true]}";

struct Case {
    endpoint: Endpoint,
    form: Form,
    removes: bool,
    ending: Ending,
    prompt: u64,
    /// How many prompts the request has.
    prompts: u64,
}

const STREAM: Case = Case {
    endpoint: Endpoint::ChatCompletions,
    form: Form::Sse,
    removes: false,
    ending: Ending::Complete,
    prompt: 1000,
    prompts: 1,
};
const REMOVING: Case = Case { removes: true, ..STREAM };
const EARLY: Case = Case { ending: Ending::Early, ..STREAM };
const JSON: Case = Case { form: Form::Json, ..STREAM };

#[derive(Debug, PartialEq)]
struct Outcome {
    metered: Metered,
    forwarded: Vec<u8>,
    ended: bool,
    text_delivered: bool,
    failed: bool,
}

impl Case {
    fn meter<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut meter = Meter::new(self.endpoint, self.form, self.removes).of_prompts(self.prompts);
        let mut forwarded = Vec::new();
        for part in parts {
            forwarded.extend_from_slice(&meter.feed(Bytes::copy_from_slice(part)));
            assert!(meter.held_bytes() <= 64 * 1024, "{} bytes held", meter.held_bytes());
        }
        forwarded.extend_from_slice(&meter.flush().unwrap_or_default());
        let (ended, text_delivered, failed) = (meter.ended(), meter.text_delivered(), meter.failed());
        Outcome { metered: meter.finish(self.ending, || self.prompt), forwarded, ended, text_delivered, failed }
    }

    /// Meters the response whole, cut in two at every place, and byte by byte: there must be no difference.
    fn in_every_cut(&self, response: &str) -> Outcome {
        let bytes = response.as_bytes();
        let whole = self.meter([bytes]);
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(self.meter([first, second]), whole, "cut at {at}");
        }
        assert_eq!(self.meter(bytes.chunks(1)), whole, "byte by byte");
        whole
    }

    /// The same, for a response that is to be forwarded as it is.
    fn usage_unchanged(&self, response: &str) -> Metered {
        let outcome = self.in_every_cut(response);
        assert_eq!(String::from_utf8_lossy(&outcome.forwarded), response);
        outcome.metered
    }
}

fn upstream(input: u64, output: u64) -> Metered {
    let usage = Usage { input, output, ..Usage::default() };
    Metered { usage, source: UsageSource::Upstream, ..Metered::none() }
}

fn estimated(input: u64, output: u64) -> Metered {
    Metered { source: UsageSource::Estimated, ..upstream(input, output) }
}

/// The same with the tags around a complete answer.
fn framed(mut metered: Metered, tokens: u64) -> Metered {
    metered.usage.output += tokens;
    metered
}

/// A chunk of a chat stream.
fn chunk(choices: &str, usage: &str) -> String {
    format!("data: {{\"id\":\"c\",\"choices\":[{choices}],\"usage\":{usage}}}\n\n")
}

fn says(text: &str) -> String {
    format!("{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}")
}

#[test]
fn a_stream_states_its_usage() {
    let stated = Metered { usage: OPENAI_USAGE, source: UsageSource::Upstream, ..Metered::none() };
    assert_eq!(STREAM.usage_unchanged(OPENAI), stated);
    assert_eq!(STREAM.usage_unchanged(AZURE), upstream(5, 3));
    assert_eq!(STREAM.usage_unchanged(SGLANG), upstream(40, 12));
}

#[test]
fn usage_on_every_chunk_is_cumulative() {
    assert_eq!(STREAM.usage_unchanged(VLLM), upstream(9, 4));
}

#[test]
fn a_response_in_one_piece_states_its_usage() {
    assert_eq!(JSON.usage_unchanged(ANSWER), upstream(7, 5));
    let embeddings = Case { endpoint: Endpoint::Embeddings, ..JSON };
    assert_eq!(embeddings.usage_unchanged(EMBEDDINGS), upstream(8, 0));
    assert_eq!(embeddings.usage_unchanged(&EMBEDDINGS.replace("\"prompt_tokens\":8,", "")), upstream(8, 0));
}

#[test]
fn line_ends_make_no_difference() {
    for end in ["\r\n", "\r"] {
        for stream in [OPENAI, VLLM, AZURE, SGLANG, SILENT] {
            let other = stream.replace('\n', end);
            assert_eq!(STREAM.usage_unchanged(&other), STREAM.usage_unchanged(stream));
        }
    }
}

#[test]
fn the_usage_event_nobody_asked_for_is_taken_out() {
    let extra = |line: &&str| !(line.contains("\"choices\":[],") && line.contains("_tokens"));
    for stream in [OPENAI, VLLM, AZURE] {
        let expected = stream.split_inclusive("\n\n").filter(extra).collect::<String>();
        assert!(expected.len() < stream.len());
        for end in ["\n", "\r\n", "\r"] {
            let outcome = REMOVING.in_every_cut(&stream.replace('\n', end));
            assert_eq!(String::from_utf8_lossy(&outcome.forwarded), expected.replace('\n', end));
            assert_eq!(outcome.metered, STREAM.meter([stream.as_bytes()]).metered);
            assert!(outcome.ended && outcome.text_delivered);
        }
    }
}

#[test]
fn an_event_is_taken_out_whole_wherever_it_stands() {
    let extra =
        "event: chunk\nid: 7\n: its comment\ndata: {\"usage\":{\"total_tokens\":3},\ndata:\"choices\" : [ ] }\n";
    let (before, after) = (format!("{}: note\n\n\n", chunk(&says("a"), "null")), "\n: bye\n\ndata: [DONE]\n\n");
    for end in ["\n", "\r\n", "\r"] {
        let outcome = REMOVING.in_every_cut(&format!("{before}{extra}\n{after}").replace('\n', end));
        assert_eq!(String::from_utf8_lossy(&outcome.forwarded), format!("{before}{after}").replace('\n', end));
        let outcome = REMOVING.in_every_cut(&format!("{extra}\n").replace('\n', end));
        assert_eq!(outcome.forwarded, b"");
    }
    for incomplete in [extra, extra.trim_end()] {
        let outcome = REMOVING.in_every_cut(&format!("{before}{incomplete}"));
        assert_eq!(String::from_utf8_lossy(&outcome.forwarded), before);
    }
}

#[test]
fn events_that_only_resemble_it_pass() {
    let usage = "{\"prompt_tokens\":5,\"completion_tokens\":3}";
    let similar = [
        chunk("", "null"),
        chunk("", "{}"),
        chunk("", "{\"prompt_tokens\":null}"),
        chunk(&says("a"), usage),
        chunk("{}", usage),
        chunk("null", usage),
        format!("data: {{\"choices\":{{}},\"usage\":{usage}}}\n\n"),
        "data: {\"choices\":null,\"usage\":{}}\n\n".to_string(),
        format!("data: {{\"error\":{{\"message\":\"no\"}},\"usage\":{usage}}}\n\n"),
        format!("data: {{\"type\":\"message_delta\",\"usage\":{usage}}}\n\n"),
        format!("data: {{\"response\":\"\",\"usage\":{usage}}}\n\n"),
        format!("data: {{\"usage\":{usage},\"delta\":{{\"content\":\"a\"}}}}\n\n"),
        format!("data: {{\"x_groq\":{{\"usage\":{usage}}}}}\n\n"),
        format!("data: {{\"x\":{{\"choices\":[],\"usage\":{usage}}}}}\n\n"),
        format!("data: [{{\"choices\":[],\"usage\":{usage}}}]\n\n"),
        format!("data: {{\"choices\":[],\"usage\":{usage}\n\n"),
        format!("data: {{\"choices\":[{}],\"choices\":[],\"usage\":{usage}}}\n\n", says("a")),
        format!(": {{\"choices\":[],\"usage\":{usage}}}\n\n"),
        "data: {\"error\":{\"message\":\"no\"}}\n\n".to_string(),
        "event: error\n\ndata:\n\n\n".to_string(),
        chunk("", "null").trim_end().to_string(),
    ];
    for event in similar {
        let stream = format!("{}{event}", chunk(&says("a"), "null"));
        REMOVING.usage_unchanged(&stream);
        REMOVING.usage_unchanged(&format!("{event}data: [DONE]\n\n"));
    }
}

#[test]
fn a_usage_event_may_have_null_or_nothing_for_choices() {
    let usage = "{\"prompt_tokens\":5,\"completion_tokens\":3}";
    let (before, after) = (chunk(&says("a"), "null"), "data: [DONE]\n\n");
    for extra in [
        format!("{{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":null,\"usage\":{usage}}}"),
        format!("{{\"id\":\"c\",\"created\":1,\"model\":\"m\",\"usage\":{usage}}}"),
        format!("{{\"usage\":{usage},\"choices\":null}}"),
        format!("{{\"usage\":{usage}}}"),
        format!("{{\"usage\":{usage},\"type\":null,\"error\":null,\"time_info\":{{\"total_time\":0.5}}}}"),
        format!("{{\"choices\":[],\"usage\":{}}}", usage.replace(":5", ":\"5\"")),
    ] {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("{before}data: {extra}\n\n{after}").replace('\n', end);
            let outcome = REMOVING.in_every_cut(&stream);
            assert_eq!(String::from_utf8_lossy(&outcome.forwarded), format!("{before}{after}").replace('\n', end));
            assert_eq!(outcome.metered, upstream(5, 3), "{extra}");
            STREAM.usage_unchanged(&stream);
        }
        let completions = Case { endpoint: Endpoint::Completions, ..REMOVING };
        assert_eq!(completions.in_every_cut(&format!("data: {extra}\n\n")).forwarded, b"");
    }
}

#[test]
fn nothing_is_held_that_cannot_be_the_usage_event() {
    let held = |case: &Case, parts: &[&str]| {
        let mut meter = Meter::new(case.endpoint, case.form, case.removes);
        let fed = parts.iter().map(|part| part.len()).sum::<usize>();
        let passed = parts.iter().map(|part| meter.feed(Bytes::copy_from_slice(part.as_bytes())).len()).sum::<usize>();
        fed - passed
    };
    assert_eq!(held(&STREAM, &["data: {\"id\":1,"]), 0);
    assert_eq!(held(&REMOVING, &["data: {\"id\":1,"]), 14);
    assert_eq!(held(&REMOVING, &["data: {\"id\":1,", "\"choices\":["]), 25);
    assert_eq!(held(&REMOVING, &["data: {\"id\":1,", "\"choices\":[", "{"]), 0);
    assert_eq!(held(&REMOVING, &[&chunk(&says("a"), "null"), "da"]), 2);
    assert_eq!(held(&REMOVING, &["data: [DONE]\n"]), 0);
    assert_eq!(held(&REMOVING, &[": half a comm"]), 0);
    assert_eq!(held(&REMOVING, &["data: {\"x\":\"", &"x".repeat(60_000)]), 0);
}

#[test]
fn an_event_too_long_to_be_held_passes_whole() {
    let long = chunk("", "{\"prompt_tokens\":5,\"completion_tokens\":3}")
        .replace(":\"c\"", &format!(":\"{}\"", "c".repeat(9000)));
    for at in [8500, 9000, long.len() - 1] {
        let (first, second) = long.as_bytes().split_at(at);
        let outcome = REMOVING.meter([first, second]);
        assert_eq!(outcome.metered, upstream(5, 3));
        assert!(outcome.forwarded == long.as_bytes(), "cut at {at}");
    }
}

#[test]
fn chunks_are_forwarded_without_copying() {
    let stream = Bytes::from(AZURE);
    let forwarded = Meter::new(Endpoint::ChatCompletions, Form::Sse, false).feed(stream.clone());
    assert_eq!((forwarded.as_ptr(), forwarded.len()), (stream.as_ptr(), stream.len()));
}

#[test]
fn an_unstated_output_is_what_was_delivered() {
    let completions = Case { endpoint: Endpoint::Completions, ..STREAM };
    assert_eq!(completions.usage_unchanged(SILENT), estimated(1000, count_tokens("One two three")));
    let only_prompt = ANSWER.replace("\"completion_tokens\":5,\"total_tokens\":12", "\"completion_tokens\":null");
    let reasoning = count_tokens("Hm, well");
    let mut expected = estimated(7, count_tokens("The \"usage\": {\"prompt_tokens\": 1}") + reasoning);
    expected.usage.reasoning = reasoning;
    assert_eq!(JSON.usage_unchanged(&only_prompt), expected);
}

#[test]
fn a_response_cut_early_is_charged_for_what_was_delivered() {
    let cut = |stream: &'static str, mark: &str| &stream[..stream.find(mark).unwrap()];
    let delivered = count_tokens(OPENAI_TEXT);
    assert_eq!(EARLY.usage_unchanged(cut(OPENAI, "\"finish_reason\":\"stop\"")), estimated(1000, delivered));
    assert_eq!(EARLY.usage_unchanged(cut(OPENAI, "ello\"")), estimated(1000, count_tokens("H")));
    assert_eq!(EARLY.usage_unchanged(cut(OPENAI, "Hello")), estimated(1000, 0));
    let with_reasoning = Usage { input: 9, output: 3, reasoning: 2, ..Usage::default() };
    let expected = Metered { usage: with_reasoning, source: UsageSource::Estimated, ..Metered::none() };
    assert_eq!(EARLY.usage_unchanged(cut(VLLM, "data: {\"id\":\"c\",\"choices\":[]")), expected);
    let answer = Case { form: Form::Json, ..EARLY };
    assert_eq!(answer.usage_unchanged(cut(ANSWER, " {\\\"prompt")), estimated(1000, count_tokens("The \"usage\":")));
    assert_eq!(JSON.usage_unchanged(cut(ANSWER, " {\\\"prompt")), estimated(1000, count_tokens("The \"usage\":")));
}

#[test]
fn a_stated_output_above_the_delivered_one_holds_when_cut_early() {
    let stream = chunk(&says("hello world"), "{\"prompt_tokens\":5,\"completion_tokens\":50}");
    assert_eq!(EARLY.usage_unchanged(&stream), estimated(5, 50));
    let stream = chunk(&says("hello world"), "{\"prompt_tokens\":5,\"completion_tokens\":1}");
    assert_eq!(EARLY.usage_unchanged(&stream), estimated(5, 2));
}

#[test]
fn a_client_that_leaves_after_the_end_has_not_aborted() {
    assert_eq!(EARLY.usage_unchanged(AZURE), upstream(5, 3));
    assert_eq!(EARLY.usage_unchanged(AZURE.trim_end()), upstream(5, 3));
    assert_eq!(Case { form: Form::Json, ..EARLY }.usage_unchanged(ANSWER), upstream(7, 5));
    let ended = |stream: &str| STREAM.in_every_cut(stream).ended;
    assert!(ended("data:[DONE]") && ended("data: [DONE]\r\n") && ended("data:   [DONE]  \n\n"));
    assert!(!ended("data: [DONE\n\n") && !ended("data: \"[DONE]\"\n\n") && !ended("x: [DONE]\n\n"));
    assert!(!ended("data: [DON\ndata: E]\n\n"));
}

#[test]
fn choices_and_kinds_of_text_are_counted_apart() {
    let stream = SGLANG.replace(",\"usage\":{\"prompt_tokens\":40,\"completion_tokens\":12,\"total_tokens\":52}", "");
    let texts = ["Looking", "Understandingweather{\"city\":\"Oslo\"}"];
    let expected: u64 = texts.iter().map(|text| count_tokens(text)).sum();
    assert_eq!(STREAM.usage_unchanged(&stream), estimated(1000, expected + CALL));
}

#[test]
fn every_kind_of_text_counts_once() {
    let deltas = [
        (r#"{"refusal":"I cannot"}"#, "I cannot", 0),
        (r#"{"function_call":{"name":"f","arguments":"{}"}}"#, "f{}", CALL),
        (r#"{"tool_calls":[{"id":"no","custom":{"name":"f","input":"x y"}}]}"#, "fx y", CALL),
        (r#"{"tool_calls":[{"function":{"name":"f","arguments":{"a" : "x y", "b":[-1.5,true]}}}]}"#, CALLED, CALL),
        (r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"a b"}]},{"text":" c"}]}"#, "a b c", 0),
        (r#"{"reasoning":"","reasoning_content":"","content":"a b","role":"assistant","name":"x"}"#, "a b", 0),
        (r#"{"annotations":[{"text":"no"}],"audio":{"id":"no"}}"#, "", 0),
    ];
    for (delta, text, around) in deltas {
        for choice in [format!(r#"{{"index":3,"delta":{delta}}}"#), format!(r#"{{"message":{delta},"index":3}}"#)] {
            let (stream, tokens) = (chunk(&choice, "null"), count_tokens(text));
            assert_eq!(STREAM.usage_unchanged(&stream), estimated(1000, tokens), "no end: {delta}");
            let stream = stream + "data: [DONE]\n\n";
            assert_eq!(STREAM.usage_unchanged(&stream), estimated(1000, tokens + around), "{delta}");
        }
    }
    let mut expected = estimated(1000, count_tokens("Let me see"));
    expected.usage.reasoning = expected.usage.output;
    for keys in [["reasoning", "reasoning_content"], ["reasoning_content", "reasoning"]] {
        let delta = |text: &str| format!(r#"{{"index":0,"delta":{{"{}":"{text}","{}":"{text}"}}}}"#, keys[0], keys[1]);
        let stream = chunk(&delta("Let me"), "null") + &chunk(&delta(" see"), "null");
        assert_eq!(STREAM.usage_unchanged(&stream), expected);
    }
}

#[test]
fn zero_is_a_statement_unless_text_was_delivered() {
    let zero = "{\"prompt_tokens\":0,\"completion_tokens\":0,\"total_tokens\":0}";
    assert_eq!(STREAM.usage_unchanged(&chunk("", zero)), upstream(0, 0));
    assert_eq!(STREAM.usage_unchanged(&chunk(&says("hello world"), zero)), estimated(1000, 2));
    let stated = "{\"prompt_tokens\":4,\"completion_tokens\":7}";
    let stream = chunk(&says("a"), stated) + &chunk("", zero);
    assert_eq!(STREAM.usage_unchanged(&stream), upstream(4, 7));
    let stream = chunk("{\"delta\":{}}", zero) + &chunk("", "null") + &chunk("", "{\"completion_tokens\":0}");
    assert_eq!(STREAM.usage_unchanged(&stream), upstream(0, 0));
}

#[test]
fn the_last_statement_of_each_field_wins() {
    let first = "{\"prompt_tokens\":4,\"completion_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":3}}";
    let second = "{\"completion_tokens\":9,\"prompt_tokens\":null,\"prompt_tokens_details\":null}";
    let mut expected = upstream(1, 9);
    expected.usage.cached_input = 3;
    for later in ["null", "{}", "[1]", "\"none\""] {
        let stream = chunk(&says("a"), first) + &chunk("", second) + &chunk("", later);
        assert_eq!(STREAM.usage_unchanged(&stream), expected);
    }
}

#[test]
fn an_event_seen_before_states_its_usage_again() {
    let usage = |output: u64| format!("{{\"prompt_tokens\":4,\"completion_tokens\":{output}}}");
    let event = chunk(&says("a"), &usage(5));
    let stream = [&event, &chunk("{}", &usage(9)), &event, &event].map(String::as_str).concat();
    assert_eq!(STREAM.usage_unchanged(&stream), upstream(4, 5));
}

#[test]
fn counts_that_cannot_be_are_ignored() {
    let strings = ["\"\"", "\"-5\"", "\"1e\"", "\"7 \"", "\"x7\"", "\"7.0.0\"", "\"1000000000001\""];
    let others = ["-5", "-1.5", "1e13", "1.5e14", "99999999999999999999", "1000000000001", "[7]", "{\"a\":7}", "true"];
    for count in others.iter().chain(&strings) {
        let usage = format!("{{\"prompt_tokens\":6,\"completion_tokens\":{count}}}");
        assert_eq!(STREAM.usage_unchanged(&chunk(&says("hello world"), &usage)), estimated(6, 2), "{count}");
    }
    let usage =
        "{\"prompt_tokens\":6,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":1000000000001}}";
    assert_eq!(STREAM.usage_unchanged(&chunk("", usage)), upstream(6, 2));
}

#[test]
fn reasoning_that_only_the_total_has_is_output() {
    let usage = "{\"prompt_tokens\":10,\"completion_tokens\":2,\"total_tokens\":42,\
        \"completion_tokens_details\":{\"reasoning_tokens\":30}}";
    let mut expected = upstream(10, 32);
    expected.usage.reasoning = 30;
    assert_eq!(STREAM.usage_unchanged(&chunk(&says("a"), usage)), expected);
    let usage = "{\"prompt_tokens\":10,\"completion_tokens\":20,\"total_tokens\":12}";
    assert_eq!(STREAM.usage_unchanged(&chunk(&says("a"), usage)), upstream(10, 20));
    let usage = "{\"prompt_tokens\":10,\"total_tokens\":12}";
    assert_eq!(STREAM.usage_unchanged(&chunk(&says("a"), usage)), upstream(10, 2));
}

#[test]
fn an_error_used_nothing_unless_something_was_delivered() {
    let nothing = Metered::none();
    let error = "{\"error\":{\"message\":\"overloaded\",\"choices\":[{\"text\":\"no\"}]}}";
    assert_eq!(STREAM.usage_unchanged(&format!("event: error\ndata: {error}\n\n")), nothing);
    assert_eq!(JSON.usage_unchanged(error), nothing);
    let failed = Case { ending: Ending::Failed, ..JSON };
    assert_eq!(failed.usage_unchanged("{\"detail\":\"no\"}"), nothing);
    assert_eq!(failed.usage_unchanged(ANSWER), upstream(7, 5));
    let stream = format!("{}data: {error}\n\n", chunk(&says("hello world"), "null"));
    assert_eq!(STREAM.usage_unchanged(&stream), estimated(1000, 2));
    let no_error = chunk(&says("hello world"), "null").replace("{\"id\"", "{\"error\":null,\"id\"");
    assert_eq!(STREAM.usage_unchanged(&no_error), estimated(1000, 2));
}

#[test]
fn the_first_text_is_noticed() {
    let mut meter = Meter::new(Endpoint::ChatCompletions, Form::Sse, false);
    let events: Vec<&str> = OPENAI.split_inclusive("\n\n").collect();
    let seen = events.iter().map(|event| {
        let _ = meter.feed(Bytes::copy_from_slice(event.as_bytes()));
        meter.text_delivered()
    });
    assert_eq!(seen.collect::<Vec<_>>(), [false, true, true, true, true, true, true]);
}

/// A stream of `events` events in the manner of real ones; sometimes with reasoning, a new `created`, or padding.
fn long_stream(events: u64, choices: u64) -> (String, Vec<String>) {
    let words = ["The", " meter", " looks", " at", " \\\"bytes\\\"", ",\\n", "\\n\\n", " caf\\u00e9", " 1", "23", "."];
    let (mut stream, mut texts) = (String::new(), vec![String::new(); 2 * usize::try_from(choices).unwrap()]);
    for event in 0..events {
        let word = words[usize::try_from(event * 7 % 11).unwrap()];
        let choice = event % choices;
        let (key, kind) = if event / choices < 40 { ("reasoning_content", 1) } else { ("content", 0) };
        let created = event / 50;
        let padding = "x".repeat(usize::try_from(event / 100 % 2 * (event % 5)).unwrap());
        writeln!(stream, "data: {{\"id\":\"c\",\"created\":{created},\"choices\":[{{\"index\":{choice},\"delta\":{{\"{key}\":\"{word}\"}},\"logprobs\":null}}],\"padding\":\"{padding}\"}}\n").unwrap();
        let unescaped: String = serde_json::from_str(&format!("\"{word}\"")).unwrap();
        texts[usize::try_from(2 * choice).unwrap() + kind] += &unescaped;
    }
    (stream, texts)
}

#[test]
fn the_text_of_like_events_is_found_in_any_reads() {
    for (choices, size) in [(1, 16_384), (1, 1000), (1, 97), (3, 16_384), (3, 700)] {
        let (stream, texts) = long_stream(3000, choices);
        let outcome = STREAM.meter(stream.as_bytes().chunks(size));
        let tokens = |kind: usize| texts.iter().skip(kind).step_by(2).map(|text| count_tokens(text)).sum::<u64>();
        let usage = Usage { input: 1000, output: tokens(0) + tokens(1), reasoning: tokens(1), ..Usage::default() };
        let expected = Metered { usage, source: UsageSource::Estimated, ..Metered::none() };
        assert_eq!(outcome.metered, expected, "{choices} choices, reads of {size}");
        assert_eq!(outcome.forwarded, stream.as_bytes());
    }
}

#[test]
fn a_stream_longer_than_what_is_kept_is_counted_to_its_end() {
    let (stream, texts) = long_stream(30_000, 1);
    let whole = texts.iter().map(|text| count_tokens(text)).sum::<u64>();
    let found = STREAM.meter(stream.as_bytes().chunks(65_536)).metered.usage.output;
    assert!(found.abs_diff(whole) * 100 <= whole, "{found} instead of {whole}");
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let megabytes = if std::env::var_os("KEYMETER_SOAK").is_some() { 1024 } else { 64 };
    let usage = br#""}}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    let lines: [(&Case, &[u8], &[u8]); 4] = [
        (&REMOVING, b"data: {\"id\":\"", br#"","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#),
        (&REMOVING, b"data: {\"choices\":[{\"index\":0,\"x\":{\"content\":\"", usage),
        (&JSON, b"{\"choices\":[{\"index\":0,\"x\":{\"content\":\"", usage),
        (&STREAM, b": comment", b"\ndata: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n"),
    ];
    let filler = Bytes::from(vec![b'x'; 1 << 20]);
    for (case, head, tail) in lines {
        let mut meter = Meter::new(case.endpoint, case.form, case.removes);
        let mut forwarded = meter.feed(Bytes::copy_from_slice(head)).len();
        for _ in 0..megabytes {
            forwarded += meter.feed(filler.clone()).len();
            assert!(meter.held_bytes() <= 64 * 1024, "{} bytes held", meter.held_bytes());
        }
        forwarded += meter.feed(Bytes::copy_from_slice(tail)).len();
        assert_eq!(forwarded, head.len() + megabytes * filler.len() + tail.len());
        assert_eq!(meter.finish(Ending::Complete, || 1000), upstream(3, 4));
    }
}

#[test]
fn text_without_end_takes_no_memory() {
    let megabytes = if std::env::var_os("KEYMETER_SOAK").is_some() { 64 } else { 2 };
    let text = "All work and no play makes a dull meter. ".repeat(400);
    for head in ["{\"choices\":[{\"message\":{\"content\":\"", "{\"choices\":[{\"index\":5,\"message\":{\"content\":\""]
    {
        let mut meter = Meter::new(Endpoint::ChatCompletions, Form::Json, false);
        let _ = meter.feed(Bytes::copy_from_slice(head.as_bytes()));
        let rounds = (megabytes << 20) / text.len();
        for _ in 0..rounds {
            let _ = meter.feed(Bytes::copy_from_slice(text.as_bytes()));
            assert!(meter.held_bytes() <= 64 * 1024, "{} bytes held", meter.held_bytes());
        }
        let (found, expected) = (meter.finish(Ending::Early, || 0).usage.output, count_tokens(&text) * rounds as u64);
        assert!(found.abs_diff(expected) * 100 <= expected, "{found} instead of {expected}");
    }
}

#[test]
fn text_is_tokenized_at_the_end_and_only_where_usage_is_missing() {
    let usage = chunk("", "{\"prompt_tokens\":3,\"completion_tokens\":4}");
    let (text, _) = long_stream(500, 1);
    let (stated, partly) = (text.clone() + &usage, chunk("", "{\"prompt_tokens\":3}") + &text);
    for (stream, ending, is_needed) in [
        (&stated, Ending::Complete, false),
        (&stated, Ending::Early, false),
        (&text, Ending::Complete, true),
        (&partly, Ending::Complete, true),
    ] {
        let mut meter = Meter::new(Endpoint::ChatCompletions, Form::Sse, false);
        let _ = (estimate::take_counted(), meter.feed(Bytes::copy_from_slice(stream.as_bytes())));
        assert_eq!(estimate::take_counted(), 0, "nothing while it passes");
        let metered = meter.finish(ending, || 1000);
        assert_eq!((estimate::take_counted() > 0, metered.usage.output > 4), (is_needed, is_needed));
    }
}

#[test]
fn no_read_waits_for_more_than_a_step_of_counting() {
    let text = "All work and no play makes a dull meter. ".repeat(100);
    let mut meter = Meter::new(Endpoint::ChatCompletions, Form::Json, false);
    let _ = meter.feed(Bytes::from_static(b"{\"choices\":[{\"index\":0,\"message\":{\"content\":\""));
    let mut all = estimate::take_counted();
    for _ in 0..100 {
        let _ = meter.feed(Bytes::copy_from_slice(text.as_bytes()));
        let counted = estimate::take_counted();
        assert!(counted <= 2 * 8192, "{counted} bytes");
        all += counted;
    }
    assert!(all > 0, "what is not kept is counted in passing");
}

fn any_response() -> impl Strategy<Value = String> {
    const USAGES: [&str; 4] = ["null", "{}", "{\"prompt_tokens\":3,\"completion_tokens\":2}", "{\"total_tokens\":9}"];
    let choices = prop_oneof![
        Just(String::new()),
        Just("{\"index\":1,\"delta\":{\"content\":\"b\\\\\\\"\"}}".to_string()),
        "[a-z é]{0,6}".prop_map(|text| says(&text)),
        "[a-z]{0,6}".prop_map(|text| format!("{{\"delta\":{{\"reasoning\":\"{text}\"}},\"index\":0}}")),
    ];
    let event = prop_oneof![
        8 => (choices, prop::sample::select(&USAGES[..])).prop_map(|(choices, usage)| chunk(&choices, usage)),
        1 => Just(": comment\n\n".to_string()),
        1 => Just("event: x\ndata: {\n".to_string()),
        1 => Just("data: [DONE]\n\n".to_string()),
        1 => "[\\PC\n:]{0,20}",
    ];
    (prop::collection::vec(event, 0..12), prop::sample::select(&["\n", "\r\n", "\r"][..]))
        .prop_map(|(events, end)| events.concat().replace('\n', end))
}

proptest! {
    #[test]
    fn no_cut_makes_a_difference(
        response in any_response(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        removes in any::<bool>(),
        form in prop::sample::select(&[Form::Sse, Form::Json][..]),
    ) {
        let case = Case { form, removes, ..STREAM };
        let bytes = response.as_bytes();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let whole = case.meter([bytes]);
        prop_assert_eq!(&case.meter(places.windows(2).map(|pair| &bytes[pair[0]..pair[1]])), &whole);
        prop_assert_eq!(&case.meter(bytes.chunks(1)), &whole);
        if !removes {
            prop_assert_eq!(whole.forwarded, bytes);
        }
    }

    #[test]
    fn no_bytes_make_it_fail(parts in prop::collection::vec(any::<Vec<u8>>(), 0..8), removes in any::<bool>()) {
        for form in [Form::Sse, Form::Json] {
            let outcome = Case { form, removes, ..STREAM }.meter(parts.iter().map(Vec::as_slice));
            prop_assert_eq!(outcome.forwarded, parts.concat());
        }
    }
}
