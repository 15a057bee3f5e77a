//! What the servers that speak like `OpenAI` really send. Each fixture is metered as it is, in every cut, and with the
//! usage event taken out that the client did not ask for: nothing else is ever missing.

use super::apis::fixture;
use super::*;

struct Row {
    response: &'static str,
    expected: Metered,
    /// How many events are taken out.
    taken: usize,
    endpoint: Endpoint,
}

fn row(response: &'static str, expected: Metered, taken: usize) -> Row {
    Row { response, expected, taken, endpoint: Endpoint::ChatCompletions }
}

impl Row {
    fn holds(&self) {
        let case = Case { endpoint: self.endpoint, ..STREAM };
        assert_eq!(case.usage_unchanged(self.response), self.expected, "{}", self.response);
        let removing = Case { removes: true, ..case }.in_every_cut(self.response);
        assert_eq!(removing.metered, self.expected);
        let events = self.response.split_inclusive("\n\n");
        let (taken, left): (Vec<&str>, Vec<&str>) = events.partition(|event| event.contains("\"choices\":[],"));
        if self.taken == 0 {
            assert_eq!(String::from_utf8_lossy(&removing.forwarded), self.response);
        } else {
            assert_eq!(taken.len(), self.taken);
            assert_eq!(String::from_utf8_lossy(&removing.forwarded), left.concat());
        }
    }
}

fn all_hold(rows: impl IntoIterator<Item = Row>) {
    rows.into_iter().for_each(|row| row.holds());
}

fn stated(usage: Usage) -> Metered {
    Metered { usage, ..upstream(0, 0) }
}

fn found(input: u64, text: &str) -> Metered {
    estimated(input, count_tokens(text))
}

#[test]
fn vllm_with_and_without_continuous_usage() {
    all_hold([
        row(fixture!("servers/vllm.sse"), upstream(9, 4), 1),
        row(fixture!("servers/vllm-continuous.sse"), upstream(9, 4), 1),
    ]);
    let (begun, _) = fixture!("servers/vllm-continuous.sse").split_once(" is").unwrap();
    assert_eq!(EARLY.usage_unchanged(begun), estimated(9, 2), "what is delivered is more than what is stated");
}

#[test]
fn sglang_sends_a_chunk_with_neither_choices_nor_usage() {
    all_hold([row(fixture!("servers/sglang.sse"), upstream(9, 2), 1)]);
}

#[test]
fn azure_begins_with_a_chunk_without_choices() {
    let outcome = REMOVING.in_every_cut(AZURE);
    assert_eq!(outcome.metered, upstream(5, 3));
    let (kept, _) = AZURE.split_once("data: {\"choices\":[],\"created\":1").unwrap();
    assert_eq!(String::from_utf8_lossy(&outcome.forwarded), format!("{kept}data: [DONE]\n\n"));
}

#[test]
fn usage_on_a_chunk_with_choices_is_never_taken_out() {
    let deepseek = Usage { input: 4, cached_input: 16, output: 12, reasoning: 7, ..Usage::default() };
    let openrouter = Usage { input: 15, cached_input: 10, cache_write: 5, cache_write_1h: 0, output: 8, reasoning: 2 };
    all_hold([
        row(fixture!("servers/tgi.sse"), upstream(12, 4), 0),
        row(fixture!("servers/deepseek.sse"), stated(deepseek), 0),
        row(fixture!("servers/mistral.sse"), upstream(15, 5), 0),
        row(fixture!("servers/openrouter.sse"), stated(openrouter), 0),
        row(fixture!("servers/perplexity.sse"), upstream(6, 3), 0),
        row(fixture!("servers/groq.sse"), upstream(22, 6), 0),
    ]);
}

#[test]
fn cached_tokens_may_stand_beside_the_prompts() {
    let cached = Usage { input: 6, cached_input: 3, output: 4, ..Usage::default() };
    for name in ["prompt_cache_hit_tokens", "cached_tokens"] {
        let usage = format!("{{\"prompt_tokens\":9,\"completion_tokens\":4,\"{name}\":3}}");
        assert_eq!(STREAM.usage_unchanged(&chunk(&says("a"), &usage)), stated(cached), "{name}");
    }
}

#[test]
fn groqs_own_usage_is_not_the_one_that_was_asked_for() {
    let event = "data: {\"choices\":[],\"x_groq\":{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}}\n\n";
    assert_eq!(REMOVING.usage_unchanged(event), upstream(5, 3));
    let failed = "data: {\"choices\":[{\"delta\":{}}],\"x_groq\":{\"error\":\"over_capacity\"}}\n\n";
    assert_eq!(STREAM.usage_unchanged(failed), Metered::none());
}

#[test]
fn xais_total_has_the_reasoning_that_its_completion_lacks() {
    let usage = Usage { input: 6, cached_input: 4, output: 32, reasoning: 30, ..Usage::default() };
    all_hold([row(fixture!("servers/xai.sse"), stated(usage), 1)]);
}

#[test]
fn llama_cpp_counts_each_choice_apart() {
    let response = fixture!("servers/llama-cpp-choices.sse");
    all_hold([row(response, upstream(12, 6), 2)]);
    let without_timings: String =
        response.split("\n\n").map(|event| cut_timings(event) + "\n\n").collect::<Vec<_>>().concat();
    let outcome = REMOVING.in_every_cut(without_timings.trim_end());
    assert_eq!(outcome.metered, upstream(12, 6));
}

#[test]
fn llama_cpp_states_the_usage_of_completions_with_each_choice() {
    let (choices, prompts) = (fixture!("servers/llama-cpp-completions.sse"), fixture!("servers/llama-cpp-prompts.sse"));
    all_hold([Row { endpoint: Endpoint::Completions, ..row(choices, upstream(3, 6), 0) }]);
    let case = Case { endpoint: Endpoint::Completions, prompts: 2, ..STREAM };
    let cached = Usage { input: 6, cached_input: 2, output: 6, ..Usage::default() };
    assert_eq!(case.usage_unchanged(prompts), stated(cached), "each prompt is stated with its own choice");
    let four = prompts.replace("data: [DONE]", "") + &prompts.replace("data: null", "");
    let cached = Usage { output: 12, ..cached };
    assert_eq!(case.usage_unchanged(&four), stated(cached), "each of two prompts is stated with both its choices");
}

#[test]
fn llama_cpp_states_only_the_first_choice_of_an_answer() {
    let answer = fixture!("servers/llama-cpp-choices.json");
    let both = 2 * count_tokens(" to far other");
    assert_eq!(JSON.usage_unchanged(answer), estimated(26, both));
    let completions = Case { endpoint: Endpoint::Completions, prompts: 2, ..JSON };
    assert_eq!(completions.usage_unchanged(answer), estimated(1000, both), "nor is the second prompt stated");
    let of_all = answer.replace("\"completion_tokens\":3", "\"completion_tokens\":7");
    assert_eq!(JSON.usage_unchanged(&of_all), upstream(26, 7), "what is more than its timings is more than the first");
    let others = answer.replace("\"timings\"", "\"times\"");
    assert_eq!(JSON.usage_unchanged(&others), upstream(26, 3), "other servers count them all");
}

fn cut_timings(event: &str) -> String {
    event.find(",\"timings\":").map_or_else(|| event.to_string(), |at| event[..at].to_string() + "}")
}

#[test]
fn two_usage_events_for_the_same_choices_are_one_statement() {
    let usage = "{\"prompt_tokens\":5,\"completion_tokens\":3}";
    let finish = "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}";
    let stream = [chunk(&says("a"), "null"), chunk(finish, "null"), chunk("", usage), chunk("", usage)].concat();
    assert_eq!(STREAM.usage_unchanged(&stream), upstream(5, 3));
    let cumulative = [chunk("", "{\"prompt_tokens\":5,\"completion_tokens\":1}"), stream].concat();
    assert_eq!(STREAM.usage_unchanged(&cumulative), upstream(5, 3));
}

#[test]
fn a_choice_that_ends_like_the_last_one_is_counted_too() {
    let usage = chunk("", "{\"prompt_tokens\":5,\"completion_tokens\":3}");
    let finish = chunk("{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}", "null");
    let finish = finish.replace(",\"usage\":null", "");
    let stream = [&finish, &usage, &finish, &usage].map(String::as_str).concat();
    assert_eq!(STREAM.usage_unchanged(&stream), upstream(5, 6));
}

#[test]
fn llama_cpps_timings_count_where_nobody_asked_for_usage() {
    let usage = Usage { input: 7, cached_input: 5, output: 4, ..Usage::default() };
    all_hold([
        row(fixture!("servers/llama-cpp-timings.sse"), stated(usage), 0),
        row(fixture!("servers/llama-cpp-timings-per-token.sse"), stated(usage), 0),
    ]);
    let both = fixture!("servers/llama-cpp-choices.sse").replace("\"usage\":{\"prompt", "\"usages\":{\"prompt");
    let both_choices = Usage { input: 7, cached_input: 5, output: 6, ..Usage::default() };
    assert_eq!(STREAM.usage_unchanged(&both), stated(both_choices));
    let old = fixture!("servers/llama-cpp-timings.sse").replace("\"cache_n\":5,", "");
    assert_eq!(STREAM.usage_unchanged(&old), estimated(1000, 4), "what was cached of the prompt is not known");
}

#[test]
fn llama_cpp_says_error_in_a_field_of_its_own() {
    all_hold([
        row(fixture!("servers/llama-cpp-error.sse"), Metered::none(), 0),
        row(fixture!("servers/llama-cpp-late-error.sse"), found(1000, "Four"), 0),
    ]);
    for (field, failed) in
        [("error", true), ("errors", false), ("erro", false), ("event", false), ("error\ndata", false)]
    {
        let expected = if failed { Metered::none() } else { estimated(1000, 0) };
        assert_eq!(STREAM.usage_unchanged(&format!("id: 1\n{field}: {{\"code\":500}}\n\n")), expected, "{field}");
    }
}

#[test]
fn llama_cpps_messages_may_begin_without_a_beginning() {
    let case = Case { endpoint: Endpoint::Messages, ..STREAM };
    assert_eq!(case.usage_unchanged(fixture!("anthropic/llama-cpp.sse")), estimated(1000, 4));
    let cached = Usage { input: 1, cached_input: 311, output: 4, ..Usage::default() };
    assert_eq!(case.usage_unchanged(fixture!("anthropic/llama-cpp-cached.sse")), stated(cached));
}

#[test]
fn llama_cpp_python_never_states_usage() {
    all_hold([
        row(fixture!("servers/llama-cpp-python.sse"), found(1000, "Four it is"), 0),
        row(fixture!("servers/llama-cpp-python-busy.sse"), estimated(1000, 0), 0),
        row("", Metered::none(), 0),
    ]);
    assert_eq!(EARLY.usage_unchanged(""), estimated(1000, 0), "whoever leaves has had the prompt read");
}

#[test]
fn llama_cpp_python_says_each_call_twice_and_its_name_in_every_event() {
    // The call, and the 7 tokens that stand around one.
    let call = estimated(1000, count_tokens("weather{\"city\":\"Oslo\"}") + 7);
    all_hold([row(fixture!("servers/llama-cpp-python-tools.sse"), call, 0)]);
}

#[test]
fn two_calls_of_one_function_have_two_names() {
    let call = |index, arguments| {
        format!("{{\"index\":{index},\"function\":{{\"name\":\"weather\",\"arguments\":\"{arguments}\"}}}}")
    };
    let delta = |calls: &str| chunk(&format!("{{\"index\":0,\"delta\":{{\"tool_calls\":[{calls}]}}}}"), "null");
    let stream = [delta(&call(0, "1")), delta(&call(0, "2")), delta(&call(1, "3"))].concat();
    let together = delta(&[call(0, "12"), call(1, "3")].join(","));
    for stream in [stream, together] {
        assert_eq!(STREAM.usage_unchanged(&stream), found(1000, "weather12weather3"));
    }
    let unnumbered =
        delta(&call(0, "12").replace("\"index\":0,", "")) + &delta(&call(0, "3").replace("\"index\":0,", ""));
    assert_eq!(STREAM.usage_unchanged(&unnumbered), found(1000, "weather123"));
    let choices =
        [0, 1].map(|choice| delta(&call(0, "1")).replace("[{\"index\":0,", &format!("[{{\"index\":{choice},")));
    let weather = count_tokens("weather1");
    assert_eq!(STREAM.usage_unchanged(&choices.concat()), estimated(1000, 2 * weather));
}

#[test]
fn transformers_never_says_done() {
    all_hold([row(fixture!("servers/transformers.sse"), found(1000, "Four it is"), 0)]);
    let responses = fixture!("servers/transformers-responses.sse");
    let case = Case { endpoint: Endpoint::Responses, ..STREAM };
    let outcome = case.in_every_cut(responses);
    assert_eq!((outcome.metered, outcome.ended), (framed(found(1000, "Four"), 1), true));
}

#[test]
fn zeros_are_no_statement_where_text_was_delivered() {
    let completions = row(fixture!("servers/ollama-completions.sse"), upstream(8, 4), 1);
    all_hold([
        Row { endpoint: Endpoint::Completions, ..completions },
        row(fixture!("servers/ollama-error.sse"), found(1000, "Four it is"), 0),
        row(fixture!("servers/mock-zero.sse"), found(1000, "hello world"), 1),
    ]);
}

#[test]
fn pings_padding_and_missing_line_ends_make_no_difference() {
    let pings = fixture!("servers/sse-starlette.sse");
    assert_eq!(STREAM.usage_unchanged(pings), upstream(9, 4));
    let (before, after) = pings.split_once("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],").unwrap();
    let (_, done) = after.split_once("\r\n\r\n").unwrap();
    let outcome = REMOVING.in_every_cut(pings);
    assert_eq!(String::from_utf8_lossy(&outcome.forwarded), format!("{before}{done}"));

    let padded = REMOVING.in_every_cut(fixture!("servers/padded.sse"));
    assert_eq!((padded.metered, padded.ended), (upstream(9, 4), true));
    assert!(!String::from_utf8_lossy(&padded.forwarded).contains("usage"));

    let cut = REMOVING.in_every_cut(fixture!("servers/no-blank-line.sse"));
    assert_eq!(cut.metered, upstream(9, 4));
    assert!(cut.forwarded.ends_with(b"\"stop\"}]}\n\n"));
}

#[test]
fn lines_over_forty_kilobytes_are_read() {
    let long = "All work and no play makes a dull meter. ".repeat(1200);
    let usage = "{\"prompt_tokens\":9,\"completion_tokens\":4}";
    let stream = chunk(&says(&long), "null") + &chunk("", usage) + "data: [DONE]\n\n";
    for size in [100, 4096, 16_384, 65_536] {
        let outcome = REMOVING.meter(stream.as_bytes().chunks(size));
        assert_eq!(outcome.metered, upstream(9, 4), "reads of {size}");
        assert_eq!(outcome.forwarded.len(), stream.len() - chunk("", usage).len());
        let unstated = stream.replace(usage, "null");
        let found = STREAM.meter(unstated.as_bytes().chunks(size)).metered.usage.output;
        assert!(found.abs_diff(count_tokens(&long)) * 100 <= found, "{found} in reads of {size}");
    }
}

#[test]
fn errors_inside_a_stream_cost_what_was_stated_or_delivered() {
    all_hold([
        row(fixture!("servers/error.sse"), Metered::none(), 0),
        row(fixture!("servers/error-bare.sse"), Metered::none(), 0),
        row(fixture!("servers/error-late.sse"), found(1000, "hello world"), 0),
        row(fixture!("servers/error-with-usage.sse"), upstream(7, 3), 0),
    ]);
}

#[test]
fn tool_calls_and_reasoning_alone_are_output() {
    let mut reasoning = found(1000, "Let me see");
    reasoning.usage.reasoning = reasoning.usage.output;
    all_hold([
        row(fixture!("servers/tool-calls.sse"), framed(found(1000, "weather{\"city\":\"Oslo\"}"), CALL), 0),
        row(fixture!("servers/reasoning.sse"), reasoning, 0),
    ]);
}
