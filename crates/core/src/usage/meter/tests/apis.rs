//! Every API's responses as their references show them, streamed and not: what is stated, and what is found where
//! nothing is.

use super::*;

macro_rules! fixture {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/usage/", $path))
    };
}
pub(super) use fixture;

/// What the meter says of a response that came to its end.
struct Row {
    endpoint: Endpoint,
    form: Form,
    response: &'static str,
    expected: Metered,
}

fn sse(endpoint: Endpoint, response: &'static str, expected: Metered) -> Row {
    Row { endpoint, form: Form::Sse, response, expected }
}

fn json(endpoint: Endpoint, response: &'static str, expected: Metered) -> Row {
    Row { endpoint, form: Form::Json, response, expected }
}

fn ndjson(endpoint: Endpoint, response: &'static str, expected: Metered) -> Row {
    Row { endpoint, form: Form::Ndjson, response, expected }
}

impl Row {
    fn case(&self, ending: Ending) -> Case {
        Case { endpoint: self.endpoint, form: self.form, removes: true, ending, prompt: 1000, prompts: 1 }
    }

    /// A response that its API ended is the same whenever its client leaves after that.
    fn holds(&self, ends: bool) {
        let outcome = self.case(Ending::Complete).in_every_cut(self.response);
        assert_eq!(String::from_utf8_lossy(&outcome.forwarded), self.response);
        assert_eq!((outcome.metered, outcome.ended), (self.expected, ends), "{}", self.response);
        let left = self.case(Ending::Early).in_every_cut(self.response.trim_end());
        assert!(!ends || left.metered == self.expected, "{:?} of {}", left.metered, self.response);
    }
}

fn all_end(rows: impl IntoIterator<Item = Row>) {
    rows.into_iter().for_each(|row| row.holds(true));
}

fn stated(usage: Usage) -> Metered {
    Metered { usage, source: UsageSource::Upstream, ..Metered::none() }
}

pub(super) fn found(input: u64, answer: &[&str], reasoning: &[&str]) -> Metered {
    let tokens = |texts: &[&str]| texts.iter().map(|text| count_tokens(text)).sum::<u64>();
    let reasoning = tokens(reasoning);
    let usage = Usage { input, output: tokens(answer) + reasoning, reasoning, ..Usage::default() };
    Metered { usage, source: UsageSource::Estimated, ..Metered::none() }
}

#[test]
fn responses_state_usage_in_their_last_event() {
    let usage = Usage { input: 26, cached_input: 11, output: 98, reasoning: 64, ..Usage::default() };
    all_end([
        sse(Endpoint::Responses, fixture!("responses/completed.sse"), stated(usage)),
        sse(Endpoint::Responses, fixture!("responses/done.sse"), upstream(9, 3)),
        sse(Endpoint::Responses, fixture!("responses/incomplete.sse"), upstream(12, 16)),
    ]);
}

#[test]
fn a_response_in_one_piece_states_its_usage_too() {
    let usage = Usage { input: 228, cached_input: 100, output: 52, reasoning: 10, ..Usage::default() };
    all_end([json(Endpoint::Responses, fixture!("responses/answer.json"), stated(usage))]);
}

#[test]
fn a_response_that_failed_is_charged_for_what_it_delivered() {
    all_end([
        sse(Endpoint::Responses, fixture!("responses/failed.sse"), found(1000, &["Once upon"], &[])),
        sse(Endpoint::Responses, fixture!("responses/error.sse"), Metered::none()),
    ]);
}

#[test]
fn deltas_of_responses_count_once() {
    let call = found(1000, &["weather{\"city\":\"Oslo\"}"], &["Hm, the city"]);
    all_end([sse(Endpoint::Responses, fixture!("responses/tool-call.sse"), framed(call, 1 + 7))]);
    let texts = ["Two and two: four"];
    let (stream, _) = fixture!("responses/completed.sse").split_once("event: response.completed").unwrap();
    let early = Case { endpoint: Endpoint::Responses, ..EARLY };
    assert_eq!(early.usage_unchanged(stream), found(1000, &texts, &["Adding numbers"]));
    let answer = fixture!("responses/answer.json").replace("\"usage\"", "\"unusual\"");
    let case = Case { endpoint: Endpoint::Responses, ..JSON };
    let texts = ["Two and two: fourweather{\"city\":\"Oslo\"}"];
    assert_eq!(case.usage_unchanged(&answer), framed(found(1000, &texts, &["Let me see"]), 1 + 7));
}

#[test]
fn text_of_a_response_is_counted_wherever_its_type_stands() {
    let text = "All work and no play makes a dull meter. ".repeat(100);
    let events = [
        format!("data: {{\"type\":\"response.output_text.delta\",\"delta\":\"{text}\"}}\n\n"),
        format!("data: {{\"delta\":\"{text}\",\"type\":\"response.output_text.delta\"}}\n\n"),
    ];
    let case = Case { endpoint: Endpoint::Responses, ..EARLY };
    for event in events {
        assert_eq!(case.meter(event.as_bytes().chunks(100)).metered, found(1000, &[&text], &[]));
    }
    let audio = "data: {\"delta\":\"SUQzBAAAAAAA\",\"type\":\"response.audio.delta\"}\n\n";
    let outcome = case.in_every_cut(audio);
    assert_eq!((outcome.metered, outcome.text_delivered), (estimated(1000, 0), false));
}

#[test]
fn completions_state_usage() {
    let (stream, answer) = (fixture!("completions/stream.sse"), fixture!("completions/answer.json"));
    assert_eq!(Case { endpoint: Endpoint::Completions, ..STREAM }.usage_unchanged(stream), upstream(2, 3));
    all_end([json(Endpoint::Completions, answer, upstream(5, 7))]);
}

#[test]
fn embeddings_and_moderations_are_input() {
    let cached = Usage { input: 18, ..Usage::default() };
    all_end([
        json(Endpoint::Embeddings, fixture!("embeddings/openai.json"), upstream(8, 0)),
        json(Endpoint::Embeddings, fixture!("embeddings/jina.json"), upstream(13, 0)),
        json(Endpoint::Moderations, fixture!("moderations/openai.json"), estimated(1000, 0)),
        json(Endpoint::Moderations, fixture!("moderations/mistral.json"), stated(cached)),
    ]);
}

#[test]
fn rerankers_state_usage_in_three_places() {
    all_end([
        json(Endpoint::Rerank, fixture!("rerank/jina.json"), upstream(815, 0)),
        json(Endpoint::Rerank, fixture!("rerank/cohere.json"), upstream(412, 0)),
        json(Endpoint::Rerank, fixture!("rerank/billed-tokens.json"), upstream(58, 0)),
        json(Endpoint::Rerank, fixture!("rerank/search-units.json"), estimated(1000, 0)),
        json(Endpoint::Rerank, fixture!("rerank/tei.json"), estimated(1000, 0)),
    ]);
}

#[test]
fn what_a_reranker_read_comes_before_what_it_bills() {
    let answer =
        fixture!("rerank/cohere.json").replace("\"search_units\":1", "\"input_tokens\":400,\"search_units\":1");
    assert_eq!(Case { endpoint: Endpoint::Rerank, ..JSON }.usage_unchanged(&answer), upstream(412, 0));
}

#[test]
fn an_image_may_be_stated_to_cost_nothing() {
    let answer = "{\"data\":[],\"usage\":{\"input_tokens\":0,\"output_tokens\":0,\"total_tokens\":0}}";
    assert_eq!(Case { endpoint: Endpoint::ImageEdits, ..JSON }.usage_unchanged(answer), upstream(0, 0));
}

#[test]
fn images_state_usage_unless_they_are_billed_by_the_picture() {
    all_end([
        json(Endpoint::ImageGenerations, fixture!("images/generation.json"), upstream(50, 1056)),
        json(Endpoint::ImageGenerations, fixture!("images/by-the-picture.json"), estimated(1000, 0)),
        sse(Endpoint::ImageEdits, fixture!("images/edit.sse"), upstream(60, 40)),
    ]);
}

#[test]
fn transcriptions_state_tokens_or_seconds() {
    let lasts = |millis| Metered { audio: Duration::from_millis(millis), ..upstream(0, 0) };
    let measured = Metered { audio: Duration::new(8, 470_000_267), ..upstream(0, 0) };
    all_end([
        json(Endpoint::Transcriptions, fixture!("audio/tokens.json"), upstream(14, 45)),
        json(Endpoint::Transcriptions, fixture!("audio/duration.json"), lasts(26_000)),
        json(Endpoint::Translations, fixture!("audio/verbose.json"), measured),
        json(Endpoint::Transcriptions, fixture!("audio/verbose-billed.json"), lasts(9000)),
        sse(Endpoint::Transcriptions, fixture!("audio/transcript.sse"), upstream(14, 31)),
        sse(Endpoint::Transcriptions, fixture!("audio/vllm.sse"), upstream(201, 5)),
    ]);
}

#[test]
fn a_transcript_that_states_nothing_is_counted() {
    let text = found(1000, &["Imagine the wildest idea"], &[]);
    let skies = found(1000, &["I see skies"], &[]);
    all_end([
        json(Endpoint::Transcriptions, fixture!("audio/text-only.json"), text),
        sse(Endpoint::Transcriptions, fixture!("audio/transcript-unstated.sse"), skies),
    ]);
    let plain = fixture!("audio/transcript.txt");
    let row = Row {
        endpoint: Endpoint::Translations,
        form: Form::Text,
        response: plain,
        expected: found(1000, &[plain], &[]),
    };
    row.holds(false);
}

#[test]
fn speech_costs_its_text_even_where_only_sound_comes_back() {
    all_end([sse(Endpoint::Speech, fixture!("audio/speech.sse"), upstream(14, 101))]);
    let sound = Case { endpoint: Endpoint::Speech, form: Form::Media, ..STREAM };
    assert_eq!(sound.usage_unchanged("ID3\u{4}"), estimated(1000, 0));
    assert_eq!(sound.usage_unchanged(""), Metered::none());
    assert_eq!(Case { ending: Ending::Failed, ..sound }.usage_unchanged("no"), Metered::none());
}

#[test]
fn messages_state_usage_at_both_ends() {
    let usage = Usage { input: 25, cached_input: 2000, cache_write: 300, cache_write_1h: 0, output: 15, reasoning: 0 };
    let tools = Usage { input: 472, output: 89, reasoning: 40, ..Usage::default() };
    let answer =
        Usage { input: 2095, cached_input: 1500, cache_write: 2051, cache_write_1h: 0, output: 503, reasoning: 0 };
    all_end([
        sse(Endpoint::Messages, fixture!("anthropic/stream.sse"), stated(usage)),
        sse(Endpoint::Messages, fixture!("anthropic/tools.sse"), stated(tools)),
        json(Endpoint::Messages, fixture!("anthropic/message.json"), stated(answer)),
    ]);
}

#[test]
fn the_last_statement_of_each_of_a_messages_counts_wins() {
    let usage = Usage { input: 6500, cached_input: 400, output: 12, ..Usage::default() };
    all_end([sse(Endpoint::Messages, fixture!("anthropic/restated.sse"), stated(usage))]);
}

#[test]
fn usage_on_like_events_of_a_message_is_stated_by_each() {
    let delta = |output: u64| {
        format!(
            "data: {{\"type\":\"content_block_delta\",\"delta\":{{\"text\":\"a\"}},\"usage\":{{\"input_tokens\":4,\"output_tokens\":{output}}}}}\n\n"
        )
    };
    let stream = [delta(5), delta(9), delta(5), delta(5)].concat();
    assert_eq!(Case { endpoint: Endpoint::Messages, ..STREAM }.usage_unchanged(&stream), upstream(4, 5));
}

#[test]
fn every_run_of_the_model_that_a_message_took_is_billed() {
    let advised =
        Usage { input: 2583, cached_input: 412, cache_write: 7, cache_write_1h: 0, output: 2143, ..Usage::default() };
    all_end([
        sse(Endpoint::Messages, fixture!("anthropic/compaction.sse"), upstream(203_000, 4500)),
        json(Endpoint::Messages, fixture!("anthropic/advisor.json"), stated(advised)),
    ]);
    let without = fixture!("anthropic/compaction.sse").replace("\"iterations\":[", "\"iterations\":null,\"x\":[");
    let case = Case { endpoint: Endpoint::Messages, ..STREAM };
    assert_eq!(case.usage_unchanged(&without), upstream(23_000, 1000));
}

#[test]
fn a_message_that_breaks_off_is_charged_for_what_it_delivered() {
    all_end([sse(Endpoint::Messages, fixture!("anthropic/error.sse"), found(25, &["Hello there"], &[]))]);
    let case = Case { endpoint: Endpoint::Messages, ..EARLY };
    let (stream, _) = fixture!("anthropic/stream.sse").split_once("event: message_delta").unwrap();
    let mut expected = found(25, &["Hello there \"you\"!"], &[]);
    expected.usage = Usage { cached_input: 2000, cache_write: 300, ..expected.usage };
    assert_eq!(case.usage_unchanged(stream), expected);
    let (stream, _) = fixture!("anthropic/tools.sse").split_once("event: message_delta").unwrap();
    let answer = ["weather{\"city\":\"Oslo\"}"];
    assert_eq!(case.usage_unchanged(stream), found(472, &answer, &["Which city"]));
    let answer = fixture!("anthropic/message.json").replace("\"usage\": {\"input_tokens\": 2", "\"x\": {\"x\": 2");
    let texts = ["I look: \"usage\": {\"input_tokens\": 1}weather{\"city\":\"Oslo\",\"days\":3}"];
    let case = Case { endpoint: Endpoint::Messages, ..JSON };
    assert_eq!(case.usage_unchanged(&answer), framed(found(1000, &texts, &["Which city"]), 3 + 30));
}

#[test]
fn all_of_a_messages_input_may_be_cached() {
    let stream = fixture!("anthropic/restated.sse").replace("\"input_tokens\":6500", "\"input_tokens\":0");
    let case = Case { endpoint: Endpoint::Messages, ..STREAM };
    let usage = Usage { input: 0, cached_input: 400, output: 12, ..Usage::default() };
    assert_eq!(case.usage_unchanged(&stream), stated(usage));
    let stream = stream.replace("_read_input_tokens\":400", "_read_input_tokens\":0");
    let first = Usage { input: 7000, cached_input: 120, output: 12, ..Usage::default() };
    assert_eq!(case.usage_unchanged(&stream), stated(first), "zeros only say nothing of the prompt");
}

#[test]
fn counting_tokens_is_free() {
    all_end([json(Endpoint::CountTokens, fixture!("anthropic/count-tokens.json"), Metered::none())]);
    let early = Case { endpoint: Endpoint::CountTokens, form: Form::Json, ..EARLY };
    assert_eq!(early.usage_unchanged("{\"input_tokens\":1"), Metered::none());
    for (endpoint, answer) in [
        (
            Endpoint::GeminiCountTokens,
            r#"{"totalTokens":31,"promptTokensDetails":[{"modality":"TEXT","tokenCount":31}]}"#,
        ),
        (Endpoint::Tokenize, r#"{"count":3,"max_model_len":4096,"tokens":[1,2,3],"token_strs":null}"#),
        (Endpoint::Detokenize, r#"{"prompt":"Hello there","usage":{"prompt_tokens":5}}"#),
        (Endpoint::OllamaShow, r#"{"modelfile":"FROM x","template":"{{ .Prompt }}","prompt_eval_count":5}"#),
    ] {
        all_end([json(endpoint, answer, Metered::none())]);
        assert!(!Case { endpoint, ..JSON }.in_every_cut(answer).failed, "{answer}");
        let failed = Case { endpoint, ..JSON }.in_every_cut(r#"{"error":"no such model"}"#);
        assert!(failed.failed && failed.metered == Metered::none(), "{endpoint:?}");
    }
}

#[test]
fn scores_pools_and_classes_are_input() {
    let usage = r#""usage":{"prompt_tokens":17,"total_tokens":17,"completion_tokens":0,"prompt_tokens_details":null}"#;
    let cases = [
        (Endpoint::Score, r#"[{"index":0,"object":"score","score":0.9}]"#),
        (Endpoint::Pooling, r#"[{"index":0,"object":"pooling","data":[[0.1,0.2],[0.3,0.4]]}]"#),
        (Endpoint::Pooling, r#"[{"index":0,"object":"pooling","data":"AACAPw=="}]"#),
        (Endpoint::Classify, r#"[{"index":0,"label":"LABEL_1","probs":[0.1,0.9],"num_classes":2}]"#),
    ];
    for (endpoint, data) in cases {
        let case = Case { endpoint, ..JSON };
        let answer = format!(r#"{{"id":"x-1","object":"list","created":1,"model":"m","data":{data},{usage}}}"#);
        assert_eq!(case.usage_unchanged(&answer), upstream(17, 0), "{answer}");
        let silent = format!(r#"{{"id":"x-1","object":"list","model":"m","data":{data},"usage":{{}}}}"#);
        assert_eq!(case.usage_unchanged(&silent), estimated(1000, 0), "{silent}");
    }
}

#[test]
fn what_embeds_several_or_states_nothing_is_input_too() {
    let batch = Case { endpoint: Endpoint::BatchEmbedContents, ..JSON };
    let embeddings = r#""embeddings":[{"values":[0.1]},{"values":[0.2]}]"#;
    let stated = format!(r#"{{{embeddings},"usageMetadata":{{"promptTokenCount":9,"totalTokenCount":9}}}}"#);
    assert_eq!(batch.usage_unchanged(&stated), upstream(9, 0));
    assert_eq!(batch.usage_unchanged(&format!("{{{embeddings}}}")), estimated(1000, 0));
    let old = Case { endpoint: Endpoint::OllamaEmbeddings, ..JSON };
    assert_eq!(old.usage_unchanged(r#"{"embedding":[0.5,0.25]}"#), estimated(1000, 0));
}

#[test]
fn ollama_states_usage_on_its_last_line() {
    all_end([
        ndjson(Endpoint::OllamaChat, fixture!("ollama/chat.ndjson"), upstream(26, 282)),
        json(Endpoint::OllamaChat, fixture!("ollama/chat.ndjson"), upstream(26, 282)),
        ndjson(Endpoint::OllamaGenerate, fixture!("ollama/generate.ndjson"), upstream(26, 259)),
        json(Endpoint::OllamaChat, fixture!("ollama/answer.json"), upstream(26, 298)),
        json(Endpoint::OllamaEmbed, fixture!("ollama/embed.json"), upstream(8, 0)),
    ]);
}

#[test]
fn ollama_leaves_out_what_is_zero() {
    let call = framed(found(1000, &["weather{\"city\":\"Oslo\",\"days\":3}"], &["Which city"]), 1 + 7);
    all_end([
        ndjson(Endpoint::OllamaChat, fixture!("ollama/no-output.ndjson"), upstream(11, 0)),
        json(Endpoint::OllamaGenerate, fixture!("ollama/load.json"), upstream(0, 0)),
        ndjson(Endpoint::OllamaChat, fixture!("ollama/tools.ndjson"), call),
    ]);
}

#[test]
fn ollama_that_fails_or_is_cut_is_charged_for_what_it_delivered() {
    let case = Case { endpoint: Endpoint::OllamaChat, form: Form::Ndjson, ..STREAM };
    assert_eq!(case.usage_unchanged(fixture!("ollama/error.ndjson")), found(1000, &["The sky"], &[]));
    assert_eq!(case.usage_unchanged("{\"error\":\"model not found\"}\n"), Metered::none());
    let (stream, _) = fixture!("ollama/chat.ndjson").split_once(" blue").unwrap();
    let early = Case { ending: Ending::Early, ..case };
    let outcome = early.in_every_cut(stream);
    assert_eq!((outcome.metered, outcome.ended), (found(1000, &["The sky\nis"], &[]), false));
}

#[test]
fn a_broken_line_does_not_reach_into_the_next() {
    let case = Case { endpoint: Endpoint::OllamaChat, form: Form::Ndjson, ..STREAM };
    let (first, rest) = fixture!("ollama/chat.ndjson").split_once('\n').unwrap();
    for broken in ["{\"message\":{\"x\":\"", "{\"x\":[[", "data: {", "true", "}}]", "\r"] {
        let stream = format!("{first}\n{broken}\n\n{rest}");
        assert_eq!(case.usage_unchanged(&stream), upstream(26, 282), "{broken}");
    }
    for broken in ["{\"message\":{\"x\":\"", "{\"mess", "true", "}}]", "\r"] {
        let stream = format!("{broken}\n\n{}", fixture!("ollama/chat.ndjson"));
        assert_eq!(case.usage_unchanged(&stream), upstream(26, 282), "{broken} at the beginning");
    }
}

#[test]
fn json_of_ollama_is_a_stream_once_there_is_more_to_come() {
    let is_stream = |form, bytes: &'static str| {
        let mut meter = Meter::new(Endpoint::OllamaChat, form, false);
        let _ = meter.feed(Bytes::from(bytes));
        meter.is_stream()
    };
    assert!(is_stream(Form::Ndjson, ""));
    assert!(!is_stream(Form::Json, "{\"message\":{}"));
    assert!(is_stream(Form::Json, "{\"message\":{},\"done\":false}"));
    assert!(!is_stream(Form::Json, fixture!("ollama/answer.json")));
}

#[test]
fn gemini_restates_its_usage_in_every_part() {
    let usage = Usage { input: 50, cached_input: 60, output: 74, reasoning: 65, ..Usage::default() };
    let tools = Usage { input: 27 + 10_309, output: 45 + 31, reasoning: 31, ..Usage::default() };
    sse(Endpoint::StreamGenerateContent, fixture!("gemini/stream.sse"), stated(usage)).holds(false);
    all_end([
        json(Endpoint::StreamGenerateContent, fixture!("gemini/stream.json"), stated(usage)),
        json(Endpoint::GenerateContent, fixture!("gemini/answer.json"), stated(tools)),
        json(Endpoint::GenerateContent, fixture!("gemini/blocked.json"), upstream(4, 0)),
        json(Endpoint::EmbedContent, fixture!("gemini/embed.json"), upstream(9, 0)),
    ]);
}

#[test]
fn a_part_of_a_gemini_stream_counts_up_to_itself() {
    for (form, name) in [(Form::Sse, "stream.sse"), (Form::Json, "stream.json")] {
        let stream = if form == Form::Sse { fixture!("gemini/stream.sse") } else { fixture!("gemini/stream.json") };
        let (begun, _) = stream.split_once(" two: ").unwrap();
        let case = Case { endpoint: Endpoint::StreamGenerateContent, form, ..EARLY };
        let expected = Usage { input: 40, cached_input: 60, output: 68, reasoning: 65, ..Usage::default() };
        let expected = Metered { source: UsageSource::Estimated, ..stated(expected) };
        assert_eq!(case.usage_unchanged(begun), expected, "{name}");
    }
}

#[test]
fn text_of_gemini_is_counted_where_nothing_is_stated() {
    let expected = found(1000, &["I lookweather{\"city\":\"Oslo\"}print(1)"], &["Which city"]);
    all_end([json(Endpoint::GenerateContent, fixture!("gemini/unstated.json"), framed(expected, 6))]);
    let long = "All work and no play makes a dull meter. ".repeat(100);
    let response = fixture!("gemini/unstated.json").replace("I look", &long);
    let case = Case { endpoint: Endpoint::GenerateContent, ..JSON };
    let outcome = case.meter(response.as_bytes().chunks(100));
    let expected = found(1000, &[&format!("{long}weather{{\"city\":\"Oslo\"}}print(1)")], &["Which city"]);
    assert_eq!(outcome.metered, framed(expected, 6));
    let error = "{\"error\":{\"code\":429,\"message\":\"Quota\",\"status\":\"RESOURCE_EXHAUSTED\"}}";
    assert_eq!(case.usage_unchanged(error), Metered::none());
}

#[test]
fn usage_events_are_taken_out_of_chats_and_completions_only() {
    let extra = uc_event();
    for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions] {
        let outcome = Case { endpoint, ..REMOVING }.in_every_cut(&extra);
        assert_eq!(outcome.forwarded, b"");
    }
    for endpoint in [Endpoint::Responses, Endpoint::Messages, Endpoint::Transcriptions, Endpoint::OllamaChat] {
        Case { endpoint, ..REMOVING }.usage_unchanged(&extra);
    }
}

fn uc_event() -> String {
    chunk("", "{\"prompt_tokens\":5,\"completion_tokens\":3}")
}
