//! Who leaves between the usage and the end has seen the answer: what was stated counts, where it is of the whole answer.

use super::*;

/// What is charged, by a tokenizer's count of much more than was stated.
const TEXT: &str = "All work and no play makes a dull meter, and a meter that is dull counts what it should not.";

/// Cuts the response wherever its end is not yet seen after `from`: each time the tokens are the same, and marked as
/// those of a response that ended early.
fn holds_from(case: &Case, response: &str, from: &str, (input, output): (u64, u64)) {
    let first = response.rfind(from).expect("the place is in the response") + from.len();
    let as_stated = |outcome: Outcome| {
        let expected = if outcome.ended { upstream(input, output) } else { estimated(input, output) };
        assert_eq!(outcome.metered, expected);
        outcome.ended
    };
    let ends = (first..=response.len()).map(|at| as_stated(case.meter([&response.as_bytes()[..at]])));
    assert!(ends.filter(|ended| !ended).count() > 0, "it is left before its end at least once");
    as_stated(case.meter(response.as_bytes()[..first].chunks(1)));
    let before = &response[..response.rfind(from).unwrap_or_default()];
    assert_ne!(case.meter([before.as_bytes()]).metered, estimated(input, output), "before {from}, it is an estimate");
}

#[test]
fn a_message_is_complete_with_its_reason_to_stop() {
    let case = Case { endpoint: Endpoint::Messages, ..EARLY };
    let stream = |last: &str| {
        format!(
            "data: {{\"type\":\"message_start\",\"message\":{{\"usage\":{{\"input_tokens\":9,\"output_tokens\":1}}}}}}\n\n\
             data: {{\"type\":\"content_block_delta\",\"delta\":{{\"text\":\"{TEXT}\"}}}}\n\n{last}\
             data: {{\"type\":\"message_stop\"}}\n\n"
        )
    };
    let delta = |reason: &str| {
        format!(
            "data: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":{reason}}},\"usage\":{{\"output_tokens\":4}}}}\n\n"
        )
    };
    let complete = stream(&delta("\"end_turn\""));
    holds_from(&case, &complete, "\"usage\":{\"output_tokens\":4}}", (9, 4));
    let apart = stream(&(delta("null") + &delta("\"end_turn\"").replace(",\"usage\":{\"output_tokens\":4}", "")));
    holds_from(&case, &apart, "\"end_turn\"}}", (9, 4));

    let begun = complete.split_once("data: {\"type\":\"message_stop").unwrap().0;
    let goes_on = begun.replace("\"end_turn\"", "null");
    assert_eq!(case.usage_unchanged(&goes_on), estimated(9, count_tokens(TEXT)));
    let more = format!("{begun}data: {{\"type\":\"content_block_delta\",\"delta\":{{\"text\":\" And more\"}}}}\n\n");
    let all = format!("{TEXT} And more");
    assert_eq!(case.usage_unchanged(&more), estimated(9, count_tokens(&all)), "it was not complete");
}

#[test]
fn a_chat_is_complete_with_its_usage_event() {
    let usage = "{\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13}";
    let finish = chunk("{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}", "null");
    for (finish, event) in [
        (finish.as_str(), chunk("", usage)),
        ("", chunk("", usage)),
        (&finish, format!("data: {{\"choices\":null,\"usage\":{usage}}}\n\n")),
        (&finish, format!("data: {{\"usage\":{usage}}}\n\n")),
        // OpenRouter's has an empty choice.
        (&finish, chunk(&says(""), usage)),
    ] {
        let stream = chunk(&says(TEXT), "null") + finish + &event + "data: [DONE]\n\n";
        let end = event.trim_end();
        holds_from(&EARLY, &stream, end, (9, 4));
        let removing = Case { removes: true, ..EARLY };
        assert_eq!(removing.in_every_cut(stream.split_once("data: [DONE]").unwrap().0).metered, estimated(9, 4));
        let more = stream.replace("data: [DONE]", &(chunk(&says(" And more"), "null") + "data: [DON"));
        let all = format!("{TEXT} And more");
        assert_eq!(EARLY.usage_unchanged(&more), estimated(9, count_tokens(&all)), "it was not complete");
    }
}

#[test]
fn a_chat_is_complete_with_the_usage_on_its_last_chunk() {
    let usage = "{\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13}";
    let finish = "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}";
    for last in [chunk(finish, usage), chunk(&finish.replace("\"}", &format!("\",\"usage\":{usage}}}")), "null")] {
        let stream = chunk(&says(TEXT), "null") + &last + "data: [DONE]\n\n";
        holds_from(&EARLY, &stream, last.trim_end(), (9, 4));
        let continuous =
            chunk(&says(""), "{\"prompt_tokens\":9,\"completion_tokens\":0}") + &chunk(&says(TEXT), "null");
        let cumulative = continuous + &chunk(finish, usage);
        assert_eq!(
            EARLY.usage_unchanged(&cumulative),
            estimated(9, count_tokens(TEXT)),
            "usage on every chunk goes on"
        );
    }
}

#[test]
fn usage_of_one_choice_is_not_that_of_all() {
    let says_of =
        |index: u64, text: &str| chunk(&format!("{{\"index\":{index},\"delta\":{{\"content\":\"{text}\"}}}}"), "null");
    let finish = chunk("{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}", "null");
    let usage = chunk("", "{\"prompt_tokens\":9,\"completion_tokens\":4}");
    let begun = says_of(0, TEXT) + &says_of(1, TEXT) + &finish + &usage;
    assert_eq!(EARLY.usage_unchanged(&begun), estimated(9, 2 * count_tokens(TEXT)), "the other choice goes on");
    let both = begun + &finish.replace("\"index\":0", "\"index\":1") + &usage;
    assert_eq!(EARLY.usage_unchanged(&both), estimated(9, 8));
}

#[test]
fn an_answer_in_one_piece_states_its_usage_once() {
    let chat = format!(
        "{{\"choices\":[{{\"message\":{{\"content\":\"{TEXT}\"}}}}],\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":4}},\"service_tier\":\"default\"}}"
    );
    let early = Case { form: Form::Json, ..EARLY };
    holds_from(&early, &chat, "\"completion_tokens\":4}", (9, 4));
    let message = format!(
        "{{\"content\":[{{\"text\":\"{TEXT}\"}}],\"usage\":{{\"input_tokens\":9,\"output_tokens\":4}},\"x\":1}}"
    );
    holds_from(&Case { endpoint: Endpoint::Messages, ..early }, &message, "\"output_tokens\":4}", (9, 4));
    let response = format!(
        "{{\"output\":[{{\"type\":\"message\",\"content\":[{{\"text\":\"{TEXT}\"}}]}}],\"usage\":{{\"input_tokens\":9,\"output_tokens\":4}},\"user\":null}}"
    );
    holds_from(&Case { endpoint: Endpoint::Responses, ..early_json() }, &response, "\"output_tokens\":4}", (9, 4));
    let embedding = "{\"usage\":{\"prompt_tokens\":9},\"data\":[{\"embedding\":[0.1]}]}";
    holds_from(&Case { endpoint: Endpoint::Embeddings, ..early_json() }, embedding, "\"prompt_tokens\":9}", (9, 0));
}

fn early_json() -> Case {
    Case { form: Form::Json, ..EARLY }
}

#[test]
fn a_response_is_complete_with_the_usage_of_its_last_event() {
    let stream = format!(
        "data: {{\"type\":\"response.output_text.delta\",\"delta\":\"{TEXT}\"}}\n\n\
         data: {{\"type\":\"response.completed\",\"response\":{{\"usage\":{{\"input_tokens\":9,\"output_tokens\":4}},\"user\":null}}}}\n\n"
    );
    let case = Case { endpoint: Endpoint::Responses, ..EARLY };
    holds_from(&case, &stream, "\"output_tokens\":4}", (9, 4));
    let on_the_way = stream.split_once(",\"user\"").unwrap().0.replace("response.completed", "response.in_progress");
    assert_eq!(case.usage_unchanged(&on_the_way), estimated(9, count_tokens(TEXT)));
}

#[test]
fn geminis_answer_is_complete_with_a_reason_to_finish_and_usage() {
    let part = |finish: &str| {
        format!(
            "{{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{TEXT}\"}}]}}{finish}}}],\
             \"usageMetadata\":{{\"promptTokenCount\":9,\"candidatesTokenCount\":4,\"totalTokenCount\":13}},\"modelVersion\":\"g\"}}"
        )
    };
    let (last, usage) = (part(",\"finishReason\":\"STOP\""), "\"totalTokenCount\":13}");
    let events = Case { endpoint: Endpoint::StreamGenerateContent, ..EARLY };
    holds_from(&events, &format!("data: {last}\r\n\r\n"), usage, (9, 4));
    holds_from(&Case { form: Form::Json, ..events }, &format!("[{last}\n]\n"), usage, (9, 4));
    let whole = Case { endpoint: Endpoint::GenerateContent, form: Form::Json, ..EARLY };
    holds_from(&whole, &last, usage, (9, 4));
    let reordered = "{\"usageMetadata\":{\"promptTokenCount\":9,\"candidatesTokenCount\":4},\
        \"candidates\":[{\"finishReason\":\"STOP\"}]}";
    let text = format!("data: {}\n\n", part(""));
    let events = Case { endpoint: Endpoint::StreamGenerateContent, ..EARLY };
    assert_eq!(events.usage_unchanged(&format!("{text}data: {reordered}\n\n")), estimated(9, 4));
    assert_eq!(events.usage_unchanged(&text), estimated(9, count_tokens(TEXT)), "it goes on");
    let two = text.replace("}],\"usage", "},{\"finishReason\":\"STOP\"}],\"usage");
    assert_eq!(events.usage_unchanged(&two), estimated(9, count_tokens(TEXT)), "one of two candidates goes on");
}

#[test]
fn ollamas_last_line_counts_before_it_ends() {
    let stream = format!(
        "{{\"message\":{{\"content\":\"{TEXT}\"}},\"done\":false}}\n\
         {{\"message\":{{\"content\":\"\"}},\"done\":true,\"prompt_eval_count\":9,\"eval_count\":4,\"eval_duration\":1}}\n"
    );
    for form in [Form::Ndjson, Form::Json] {
        let case = Case { endpoint: Endpoint::OllamaChat, form, ..EARLY };
        holds_from(&case, &stream, "\"eval_count\":4,", (9, 4));
    }
}

#[test]
fn a_transcript_is_complete_with_its_usage() {
    let case = Case { endpoint: Endpoint::Transcriptions, ..EARLY };
    let usage = "\"usage\":{\"input_tokens\":9,\"output_tokens\":4,\"total_tokens\":13}";
    let stream = format!(
        "data: {{\"type\":\"transcript.text.delta\",\"delta\":\"{TEXT}\"}}\n\n\
         data: {{\"type\":\"transcript.text.done\",{usage},\"x\":1}}\n\n"
    );
    holds_from(&case, &stream, usage, (9, 4));
    let chunks = format!(
        "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{TEXT}\"}}}}]}}\n\ndata: {{\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n"
    );
    holds_from(&case, &chunks, usage, (9, 4));
    let continuous = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{TEXT}\"}}}}],{usage}}}\n\n");
    assert_eq!(case.usage_unchanged(&continuous), estimated(9, count_tokens(TEXT)));
}
