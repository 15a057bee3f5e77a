//! Counts as servers really state them: totals that have more in them than their parts, details beside their counts,
//! numbers with a fraction or in quotes, zeros that say nothing.

use super::*;

/// `[input, cached input, cache write, output]`, as the upstream states it.
fn tokens([input, cached_input, cache_write, output]: [u64; 4]) -> Metered {
    let usage = Usage { input, cached_input, cache_write, output, ..Usage::default() };
    Metered { usage, source: UsageSource::Upstream, ..Metered::none() }
}

/// The same without what tells parts apart.
fn counts(metered: Metered) -> Metered {
    let usage = Usage { cache_write_1h: 0, reasoning: 0, ..metered.usage };
    Metered { usage, ..metered }
}

/// What a `usage` says in each form that a chat, a completion and a response have.
fn in_each_form(usage: &str) -> Vec<Metered> {
    let answer = format!("{{\"choices\":[{{\"index\":0,\"message\":{{\"content\":\"a\"}}}}],\"usage\":{usage}}}");
    let stream = chunk(&says("a"), "null") + &chunk("", usage) + "data: [DONE]\n\n";
    let on_last = chunk(&says("a"), "null") + &chunk("{\"delta\":{},\"finish_reason\":\"stop\"}", usage);
    let groq = format!("data: {{\"choices\":[{{\"delta\":{{}}}}],\"x_groq\":{{\"usage\":{usage}}}}}\n\n");
    let groq = chunk(&says("a"), "null") + &groq;
    let completion = format!("{{\"choices\":[{{\"text\":\"a\"}}],\"usage\":{usage}}}");
    let (response, response_stream) = of_responses(usage);
    let completions = Case { endpoint: Endpoint::Completions, ..JSON };
    let responses = Case { endpoint: Endpoint::Responses, ..JSON };
    let removed = REMOVING.in_every_cut(&stream);
    assert!(!String::from_utf8_lossy(&removed.forwarded).contains("_tokens"), "{usage}");
    let all = vec![
        JSON.usage_unchanged(&answer),
        STREAM.usage_unchanged(&stream),
        STREAM.usage_unchanged(&on_last),
        STREAM.usage_unchanged(&groq),
        removed.metered,
        completions.usage_unchanged(&completion),
        responses.usage_unchanged(&response),
        Case { form: Form::Sse, ..responses }.usage_unchanged(&response_stream),
    ];
    all.into_iter().map(counts).collect()
}

/// A response with such a `usage`, its members named as they are there, whole and streamed.
fn of_responses(usage: &str) -> (String, String) {
    let usage = usage.replace("prompt_tokens", "input_tokens").replace("completion_tokens", "output_tokens");
    let response = format!(
        "{{\"output\":[{{\"type\":\"message\",\"content\":[{{\"type\":\"output_text\",\"text\":\"a\"}}]}}],\"usage\":{usage}}}"
    );
    let stream = format!(
        "data: {{\"type\":\"response.output_text.delta\",\"delta\":\"a\"}}\n\ndata: {{\"type\":\"response.completed\",\"response\":{response}}}\n\n"
    );
    (response, stream)
}

fn all_state(rows: &[(&str, [u64; 4])]) {
    for (usage, expected) in rows {
        for (form, metered) in in_each_form(usage).into_iter().enumerate() {
            assert_eq!(metered, tokens(*expected), "{usage} in form {form}");
        }
    }
}

#[test]
fn a_total_beyond_the_sum_goes_to_what_explains_it() {
    all_state(&[
        (
            r#"{"prompt_tokens":370,"completion_tokens":21,"total_tokens":10931,"cache_read_input_tokens":10540,"cache_creation_input_tokens":0}"#,
            [370, 10_540, 0, 21],
        ),
        (
            r#"{"prompt_tokens":370,"completion_tokens":21,"total_tokens":11431,"cache_read_input_tokens":10540,"cache_creation_input_tokens":500}"#,
            [370, 10_540, 500, 21],
        ),
        (
            r#"{"prompt_tokens":1000,"completion_tokens":21,"total_tokens":1321,"prompt_tokens_details":{"cached_tokens":300}}"#,
            [1000, 300, 0, 21],
        ),
        (
            r#"{"prompt_tokens":1000,"completion_tokens":21,"total_tokens":1321,"prompt_tokens_details":{"cached_tokens":200,"cache_write_tokens":300}}"#,
            [800, 200, 300, 21],
        ),
        (
            r#"{"prompt_tokens":17,"completion_tokens":5,"total_tokens":1022,"prompt_tokens_details":{"text_tokens":17,"image_tokens":1000}}"#,
            [1017, 0, 0, 5],
        ),
        (
            r#"{"prompt_tokens":50,"completion_tokens":5,"total_tokens":95,"prompt_tokens_details":{"audio_tokens":30,"video_tokens":10}}"#,
            [90, 0, 0, 5],
        ),
        // Mistral hears in tokens and tells them in seconds.
        (
            r#"{"prompt_tokens":4,"completion_tokens":635,"total_tokens":3264,"prompt_audio_seconds":203}"#,
            [2629, 0, 0, 635],
        ),
        (
            r#"{"prompt_tokens":100,"completion_tokens":50,"total_tokens":2450,"prompt_tokens_details":{"cached_tokens":2000},"completion_tokens_details":{"reasoning_tokens":300}}"#,
            [100, 2000, 0, 350],
        ),
    ]);
}

#[test]
fn a_total_beyond_the_sum_that_nothing_else_explains_is_output() {
    all_state(&[
        (
            r#"{"prompt_tokens":100,"completion_tokens":9,"total_tokens":409,"completion_tokens_details":{"reasoning_tokens":300}}"#,
            [100, 0, 0, 309],
        ),
        (r#"{"prompt_tokens":100,"completion_tokens":9,"total_tokens":409}"#, [100, 0, 0, 309]),
        (
            r#"{"prompt_tokens":100,"completion_tokens":9,"total_tokens":409,"prompt_tokens_details":{"cached_tokens":40,"image_tokens":30}}"#,
            [60, 40, 0, 309],
        ),
        (
            r#"{"prompt_tokens":100,"completion_tokens":9,"total_tokens":409,"prompt_tokens_details":{"cached_tokens":40},"completion_tokens_details":{"reasoning_tokens":300}}"#,
            [60, 40, 0, 309],
        ),
    ]);
}

#[test]
fn a_sum_that_is_the_total_has_its_details_in_it() {
    all_state(&[
        (
            r#"{"prompt_tokens":10910,"completion_tokens":21,"total_tokens":10931,"cache_read_input_tokens":10540,"cache_creation_input_tokens":100}"#,
            [270, 10_540, 100, 21],
        ),
        (
            r#"{"prompt_tokens":50,"completion_tokens":30,"total_tokens":80,"prompt_tokens_details":{"cached_tokens":20,"audio_tokens":30},"completion_tokens_details":{"reasoning_tokens":10,"audio_tokens":20}}"#,
            [30, 20, 0, 30],
        ),
        // One count by two names, of which one says nothing.
        (
            r#"{"prompt_tokens":900,"completion_tokens":21,"total_tokens":921,"cache_read_input_tokens":500,"prompt_tokens_details":{"cached_tokens":0}}"#,
            [400, 500, 0, 21],
        ),
        (
            r#"{"prompt_tokens":900,"completion_tokens":21,"total_tokens":921,"input_tokens":0,"output_tokens":0}"#,
            [900, 0, 0, 21],
        ),
        (r#"{"input_tokens":900,"output_tokens":21,"input_tokens_details":{"cached_tokens":4}}"#, [896, 4, 0, 21]),
        (r#"{"completion_tokens":5,"total_tokens":20}"#, [15, 0, 0, 5]),
    ]);
}

#[test]
fn a_prompt_excludes_what_is_more_than_it() {
    for name in ["cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"] {
        let beside = format!("{{\"prompt_tokens\":12,\"completion_tokens\":5,\"{name}\":5000}}");
        let within =
            format!("{{\"prompt_tokens\":12,\"completion_tokens\":5,\"prompt_tokens_details\":{{\"{name}\":5000}}}}");
        let totals = ["", ",\"total_tokens\":17", ",\"total_tokens\":5017"];
        for usage in [beside, within] {
            for total in totals {
                all_state(&[(&usage.replace(":5,", &format!(":5{total},")), [12, 5000, 0, 5])]);
            }
        }
    }
    all_state(&[
        (
            r#"{"prompt_tokens":12,"completion_tokens":5,"cache_read_input_tokens":8,"cache_creation_input_tokens":9}"#,
            [12, 8, 9, 5],
        ),
        (r#"{"prompt_tokens":0,"completion_tokens":5,"total_tokens":5005,"cached_tokens":5000}"#, [0, 5000, 0, 5]),
        (
            r#"{"prompt_tokens":17,"completion_tokens":5,"prompt_tokens_details":{"image_tokens":1000}}"#,
            [1017, 0, 0, 5],
        ),
    ]);
}

#[test]
fn reasoning_that_exceeds_the_completion_lies_beside_it() {
    let rows = [
        r#"{"prompt_tokens":33,"completion_tokens":3256,"reasoning_tokens":73248}"#,
        r#"{"prompt_tokens":33,"completion_tokens":3256,"total_tokens":3289,"citation_tokens":19857,"reasoning_tokens":73248}"#,
        r#"{"prompt_tokens":33,"completion_tokens":3256,"completion_tokens_details":{"reasoning_tokens":73248}}"#,
    ];
    all_state(&rows.map(|usage| (usage, [33, 0, 0, 76_504])));
    let whole = JSON.usage_unchanged(&format!("{{\"choices\":[{{\"text\":\"a\"}}],\"usage\":{}}}", rows[0]));
    assert_eq!(whole.usage.reasoning, 73_248);
    all_state(&[
        (
            r#"{"prompt_tokens":10,"completion_tokens":12,"completion_tokens_details":{"image_tokens":1290}}"#,
            [10, 0, 0, 1302],
        ),
        (r#"{"prompt_tokens":10,"completion_tokens":12,"reasoning_tokens":12}"#, [10, 0, 0, 12]),
        (r#"{"prompt_tokens":33,"completion_tokens":10,"total_tokens":63,"citation_tokens":20}"#, [53, 0, 0, 10]),
    ]);
    let message = |thinking: u64| {
        format!(
            "{{\"content\":[{{\"type\":\"text\",\"text\":\"a\"}}],\"usage\":{{\"input_tokens\":9,\"output_tokens\":10,\"output_tokens_details\":{{\"thinking_tokens\":{thinking}}}}}}}"
        )
    };
    let case = Case { endpoint: Endpoint::Messages, ..JSON };
    assert_eq!(counts(case.usage_unchanged(&message(90))), tokens([9, 0, 0, 100]));
    assert_eq!(counts(case.usage_unchanged(&message(10))), tokens([9, 0, 0, 10]));
}

#[test]
fn usage_may_be_inside_the_last_choice() {
    let usage = r#"{"prompt_tokens":1019,"completion_tokens":612,"total_tokens":1631,"cached_tokens":768}"#;
    let expected = tokens([251, 768, 0, 612]);
    let last = chunk(&format!("{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\",\"usage\":{usage}}}"), "null");
    for last in [last.clone(), last.replace(",\"usage\":null", "")] {
        let stream = chunk(&says("a"), "null") + &last + "data: [DONE]\n\n";
        assert_eq!(STREAM.usage_unchanged(&stream), expected);
        assert_eq!(REMOVING.usage_unchanged(&stream), expected, "it is not taken out");
        let both = stream.replace("data: [DONE]", &(chunk("", usage) + "data: [DONE]"));
        let removed = REMOVING.in_every_cut(&both);
        assert_eq!((removed.metered, String::from_utf8_lossy(&removed.forwarded)), (expected, stream.as_str().into()));
        assert_eq!(STREAM.usage_unchanged(&both.replace(":612", ":614")).usage.output, 614);
    }
    let answer = format!(
        "{{\"choices\":[{{\"usage\":{usage},\"index\":0,\"message\":{{\"content\":\"a\"}},\"finish_reason\":\"stop\"}}]}}"
    );
    assert_eq!(JSON.usage_unchanged(&answer), expected);
    let zeros = answer.replace("}]}", "}],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}");
    assert_eq!(JSON.usage_unchanged(&zeros), expected, "zeros are no statement where text was delivered");
}

#[test]
fn usage_inside_of_choices_is_of_each_choice() {
    let choice = |index: u64, output: u64, finish: &str| {
        format!(
            "{{\"index\":{index},\"delta\":{{\"content\":\"a\"}},\"finish_reason\":{finish},\"usage\":{{\"prompt_tokens\":9,\"completion_tokens\":{output}}}}}"
        )
    };
    let begun = [choice(0, 1, "null"), choice(1, 2, "null"), choice(0, 2, "null")].map(|choice| chunk(&choice, "null"));
    let ended = [choice(1, 5, "\"stop\""), choice(0, 7, "\"length\"")].map(|choice| chunk(&choice, "null"));
    assert_eq!(STREAM.usage_unchanged(&(begun.concat() + &ended.concat())), tokens([9, 0, 0, 12]));
    let answer = [choice(0, 7, "\"stop\""), choice(1, 5, "\"stop\"")].join(",").replace("delta", "message");
    assert_eq!(JSON.usage_unchanged(&format!("{{\"choices\":[{answer}]}}")), tokens([9, 0, 0, 12]));
}

fn message(first: &str, last: &str) -> Metered {
    let stream = format!(
        "data: {{\"type\":\"message_start\",\"message\":{{\"usage\":{first}}}}}\n\n\
         data: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"Hello\"}}}}\n\n\
         data: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\"}},\"usage\":{last}}}\n\n\
         data: {{\"type\":\"message_stop\"}}\n\n"
    );
    Case { endpoint: Endpoint::Messages, ..STREAM }.usage_unchanged(&stream)
}

#[test]
fn a_prompt_of_zeros_only_replaces_nothing() {
    let first =
        r#"{"input_tokens":9,"cache_read_input_tokens":5000,"cache_creation_input_tokens":200,"output_tokens":1}"#;
    for last in [
        r#"{"input_tokens":0,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":16}"#,
        r#"{"input_tokens":0,"output_tokens":16}"#,
        r#"{"input_tokens":0,"cache_read_input_tokens":null,"cache_creation":{"ephemeral_1h_input_tokens":0},"output_tokens":16}"#,
        r#"{"output_tokens":16}"#,
    ] {
        assert_eq!(message(first, last), tokens([9, 5000, 200, 16]), "{last}");
    }
    let read =
        r#"{"input_tokens":9,"cache_read_input_tokens":5200,"cache_creation_input_tokens":0,"output_tokens":16}"#;
    assert_eq!(message(first, read), tokens([9, 5200, 0, 16]), "a write that becomes a read does");
    let zeros = r#"{"input_tokens":0,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":0}"#;
    assert_eq!(message(zeros, read), tokens([9, 5200, 0, 16]));
}

#[test]
fn a_prompt_of_zeros_only_replaces_nothing_in_other_apis() {
    let first = r#"{"prompt_tokens":5209,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":5000,"cache_write_tokens":200}}"#;
    let last = r#"{"prompt_tokens":0,"completion_tokens":16,"total_tokens":16,"prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":0}}"#;
    let stream = chunk(&says("a"), first) + &chunk("", last);
    assert_eq!(STREAM.usage_unchanged(&stream), tokens([9, 5000, 200, 16]));
    let read = r#"{"prompt_tokens":5209,"completion_tokens":16,"prompt_tokens_details":{"cached_tokens":5200,"cache_write_tokens":0}}"#;
    assert_eq!(STREAM.usage_unchanged(&(chunk(&says("a"), first) + &chunk("", read))), tokens([9, 5200, 0, 16]));

    let part = |usage: &str| {
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"a\"}}]}}}}],\"usageMetadata\":{usage}}}\n\n"
        )
    };
    let first = part(r#"{"promptTokenCount":5009,"cachedContentTokenCount":5000,"totalTokenCount":5009}"#);
    let last =
        part(r#"{"promptTokenCount":0,"cachedContentTokenCount":0,"candidatesTokenCount":16,"totalTokenCount":16}"#);
    let gemini = Case { endpoint: Endpoint::StreamGenerateContent, ..STREAM };
    assert_eq!(gemini.usage_unchanged(&(first + &last)), tokens([9, 5000, 0, 16]));
}

#[test]
fn the_whole_part_of_a_number_counts() {
    all_state(&[
        (r#"{"prompt_tokens":1482.4,"completion_tokens":120.0}"#, [1482, 0, 0, 120]),
        (r#"{"prompt_tokens":1482.9,"completion_tokens":120.0,"total_tokens":1602.9}"#, [1482, 0, 0, 120]),
        (
            r#"{"prompt_tokens":9.5,"completion_tokens":2.25,"total_tokens":11.75,"prompt_tokens_details":{"cached_tokens":4.5}}"#,
            [5, 4, 0, 2],
        ),
    ]);
    let first = r#"{"input_tokens":1482.4,"cache_read_input_tokens":20736,"output_tokens":0.0}"#;
    assert_eq!(message(first, r#"{"output_tokens":16.0}"#), tokens([1482, 20_736, 0, 16]));
    let whole = r#"{"content":[{"type":"text","text":"a"}],"usage":{"input_tokens":1482.4,"cache_read_input_tokens":20736,"output_tokens":7.5}}"#;
    let messages = Case { endpoint: Endpoint::Messages, ..JSON };
    assert_eq!(messages.usage_unchanged(whole), tokens([1482, 20_736, 0, 7]));
}

#[test]
fn a_number_may_be_in_quotes() {
    all_state(&[
        (r#"{"prompt_tokens":"1482","completion_tokens":"120"}"#, [1482, 0, 0, 120]),
        (
            r#"{"prompt_tokens":"12.0","completion_tokens":"5","total_tokens":"17","prompt_tokens_details":{"cached_tokens":"4"}}"#,
            [8, 4, 0, 5],
        ),
        (r#"{"prompt_tokens":"\u0031\u0032","completion_tokens":5}"#, [12, 0, 0, 5]),
    ]);
    let first = r#"{"input_tokens":"9","cache_read_input_tokens":"5000","cache_creation_input_tokens":"200.0","output_tokens":"1"}"#;
    assert_eq!(message(first, r#"{"output_tokens":"16"}"#), tokens([9, 5000, 200, 16]));
}

#[test]
fn other_apis_numbers_are_read_too() {
    let rows = [
        (Endpoint::Embeddings, r#"{"data":[],"usage":{"prompt_tokens":8.0,"total_tokens":"8"}}"#, [8, 0, 0, 0]),
        (Endpoint::Embeddings, r#"{"data":[],"usage":{"prompt_tokens":0,"total_tokens":13}}"#, [13, 0, 0, 0]),
        (Endpoint::Embeddings, r#"{"data":[],"usage":{"input_tokens":"13"}}"#, [13, 0, 0, 0]),
        (
            Endpoint::Embeddings,
            r#"{"data":[],"usage":{"prompt_tokens":10,"total_tokens":1010,"prompt_tokens_details":{"image_tokens":1000}}}"#,
            [1010, 0, 0, 0],
        ),
        (Endpoint::Moderations, r#"{"results":[],"usage":{"prompt_tokens":"18","total_tokens":18.0}}"#, [18, 0, 0, 0]),
        (Endpoint::Rerank, r#"{"results":[],"usage":{"total_tokens":815.5}}"#, [815, 0, 0, 0]),
        (Endpoint::Rerank, r#"{"meta":{"tokens":{"input_tokens":412.0,"output_tokens":"3"}}}"#, [412, 0, 0, 3]),
        (Endpoint::Rerank, r#"{"meta":{"billed_units":{"input_tokens":"58"}}}"#, [58, 0, 0, 0]),
        (
            Endpoint::ImageGenerations,
            r#"{"data":[],"usage":{"input_tokens":"50","output_tokens":1056.0,"total_tokens":"1106","input_tokens_details":{"text_tokens":10,"image_tokens":40}}}"#,
            [50, 0, 0, 1056],
        ),
        (
            Endpoint::ImageEdits,
            r#"{"data":[],"usage":{"input_tokens":10,"output_tokens":1056,"total_tokens":1106,"input_tokens_details":{"text_tokens":10,"image_tokens":40}}}"#,
            [50, 0, 0, 1056],
        ),
        (
            Endpoint::OllamaChat,
            r#"{"message":{"content":"a"},"done":true,"prompt_eval_count":26.5,"eval_count":"298"}"#,
            [26, 0, 0, 298],
        ),
        (
            Endpoint::OllamaGenerate,
            r#"{"response":"a","done":true,"prompt_eval_count":"26","eval_count":7.0}"#,
            [26, 0, 0, 7],
        ),
        (Endpoint::OllamaEmbed, r#"{"embeddings":[],"prompt_eval_count":"8.0"}"#, [8, 0, 0, 0]),
        (
            Endpoint::GenerateContent,
            r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}],"usageMetadata":{"promptTokenCount":"27","candidatesTokenCount":45.5,"thoughtsTokenCount":"31.0","totalTokenCount":103}}"#,
            [27, 0, 0, 76],
        ),
    ];
    for (endpoint, answer, expected) in rows {
        let found = Case { endpoint, ..JSON }.usage_unchanged(answer);
        assert_eq!(counts(found), tokens(expected), "{answer}");
    }
}

#[test]
fn geminis_total_goes_to_what_explains_it() {
    let rows = [
        (
            r#"{"promptTokenCount":12,"cachedContentTokenCount":5000,"candidatesTokenCount":5,"totalTokenCount":5017}"#,
            [12, 5000, 0, 5],
        ),
        (r#"{"promptTokenCount":12,"cachedContentTokenCount":5000,"candidatesTokenCount":5}"#, [12, 5000, 0, 5]),
        (
            r#"{"promptTokenCount":5012,"cachedContentTokenCount":5000,"candidatesTokenCount":5,"totalTokenCount":5017}"#,
            [12, 5000, 0, 5],
        ),
        (
            r#"{"promptTokenCount":100,"candidatesTokenCount":9,"thoughtsTokenCount":300,"totalTokenCount":409}"#,
            [100, 0, 0, 309],
        ),
        (r#"{"promptTokenCount":100,"candidatesTokenCount":9,"totalTokenCount":409}"#, [100, 0, 0, 309]),
        (
            r#"{"promptTokenCount":100,"toolUsePromptTokenCount":50,"candidatesTokenCount":9,"thoughtsTokenCount":300,"totalTokenCount":459}"#,
            [150, 0, 0, 309],
        ),
        (
            r#"{"promptTokenCount":100,"toolUsePromptTokenCount":50,"cachedContentTokenCount":700,"candidatesTokenCount":9,"thoughtsTokenCount":300,"totalTokenCount":1159}"#,
            [150, 700, 0, 309],
        ),
        (
            r#"{"promptTokenCount":10,"candidatesTokenCount":5,"totalTokenCount":273,"promptTokensDetails":[{"modality":"TEXT","tokenCount":10},{"modality":"IMAGE","tokenCount":258}]}"#,
            [268, 0, 0, 5],
        ),
        (
            r#"{"promptTokenCount":268,"candidatesTokenCount":5,"totalTokenCount":280,"promptTokensDetails":[{"modality":"TEXT","tokenCount":10},{"modality":"IMAGE","tokenCount":258}]}"#,
            [268, 0, 0, 12],
        ),
    ];
    for (usage, expected) in rows {
        let part = format!(
            "{{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"a\"}}]}}}}],\"usageMetadata\":{usage}}}"
        );
        let whole = Case { endpoint: Endpoint::GenerateContent, ..JSON };
        let events = Case { endpoint: Endpoint::StreamGenerateContent, ..STREAM };
        let array = Case { form: Form::Json, ..events };
        assert_eq!(counts(whole.usage_unchanged(&part)), tokens(expected), "{usage}");
        assert_eq!(counts(events.usage_unchanged(&format!("data: {part}\n\n"))), tokens(expected), "{usage}");
        assert_eq!(counts(array.usage_unchanged(&format!("[{part}]"))), tokens(expected), "{usage}");
    }
}

#[test]
fn audio_is_heard_in_seconds_of_any_form() {
    let lasts = |seconds, expected| Metered { audio: Duration::from_secs(seconds), ..tokens(expected) };
    let rows = [
        (r#"{"text":"a","duration":"120.0"}"#, lasts(120, [0; 4])),
        (r#"{"text":"a","usage":{"type":"duration","seconds":"120"}}"#, lasts(120, [0; 4])),
        (r#"{"text":"a","usage":{"type":"duration","seconds":120.0},"duration":"119.4"}"#, lasts(120, [0; 4])),
        (r#"{"text":"a","usage":{"prompt_audio_seconds":2}}"#, lasts(2, [0; 4])),
        (
            r#"{"text":"a","usage":{"prompt_audio_seconds":203,"prompt_tokens":4,"total_tokens":3264,"completion_tokens":635}}"#,
            lasts(203, [2629, 0, 0, 635]),
        ),
        (
            r#"{"text":"a","usage":{"type":"tokens","input_tokens":4,"input_token_details":{"text_tokens":4,"audio_tokens":10},"output_tokens":"45","total_tokens":59}}"#,
            tokens([14, 0, 0, 45]),
        ),
    ];
    for (answer, expected) in rows {
        for endpoint in [Endpoint::Transcriptions, Endpoint::Translations] {
            assert_eq!(Case { endpoint, ..JSON }.usage_unchanged(answer), expected, "{answer}");
        }
    }
    for none in ["\"\"", "\"2 minutes\"", "\"-5\"", "null"] {
        let answer = format!("{{\"text\":\"a\",\"duration\":{none}}}");
        assert_eq!(Case { endpoint: Endpoint::Transcriptions, ..JSON }.usage_unchanged(&answer), estimated(1000, 1));
    }
}

#[test]
fn mistrals_transcripts_come_by_events_of_its_own() {
    let stream = "data: {\"type\":\"transcription.text.delta\",\"text\":\"I see\"}\n\n\
        data: {\"type\":\"transcription.text.delta\",\"text\":\" skies\"}\n\n\
        data: {\"type\":\"transcription.done\",\"text\":\"I see skies\",\"usage\":{\"prompt_audio_seconds\":3,\"prompt_tokens\":8,\"completion_tokens\":4}}\n\n";
    let case = Case { endpoint: Endpoint::Transcriptions, ..EARLY };
    let outcome = case.in_every_cut(stream);
    assert_eq!(outcome.metered, Metered { audio: Duration::from_secs(3), ..tokens([8, 0, 0, 4]) });
    assert!(outcome.ended);
    let unstated = stream.replace("\"usage\"", "\"x\"");
    assert_eq!(case.usage_unchanged(&unstated), estimated(1000, count_tokens("I see skies")));
}

#[test]
fn writes_for_an_hour_are_told_apart() {
    let expected = |write, hour| {
        let usage = Usage {
            input: 9,
            cached_input: 50,
            cache_write: write,
            cache_write_1h: hour,
            output: 16,
            ..Usage::default()
        };
        Metered { usage, source: UsageSource::Upstream, ..Metered::none() }
    };
    let first =
        |write: &str| format!("{{\"input_tokens\":9,\"cache_read_input_tokens\":50,{write},\"output_tokens\":1}}");
    let both = "\"cache_creation_input_tokens\":248,\"cache_creation\":{\"ephemeral_5m_input_tokens\":148,\"ephemeral_1h_input_tokens\":100}";
    let rows = [
        (both, "{\"output_tokens\":16}", 248, 100),
        (
            both,
            "{\"input_tokens\":9,\"cache_read_input_tokens\":50,\"cache_creation_input_tokens\":248,\"output_tokens\":16}",
            248,
            100,
        ),
        (both, "{\"cache_creation_input_tokens\":60,\"output_tokens\":16}", 60, 60),
        (
            both,
            "{\"input_tokens\":0,\"cache_creation\":{\"ephemeral_1h_input_tokens\":0},\"output_tokens\":16}",
            248,
            100,
        ),
        ("\"cache_creation_input_tokens\":248,\"cache_creation\":null", "{\"output_tokens\":16}", 248, 0),
        (
            "\"cache_creation\":{\"ephemeral_5m_input_tokens\":\"148\",\"ephemeral_1h_input_tokens\":100.0}",
            "{\"output_tokens\":16}",
            248,
            100,
        ),
        (
            "\"cache_creation_input_tokens\":0,\"cache_creation\":{\"ephemeral_1h_input_tokens\":100}",
            "{\"output_tokens\":16}",
            100,
            100,
        ),
    ];
    for (write, last, all, hour) in rows {
        assert_eq!(message(&first(write), last), expected(all, hour), "{write} and {last}");
    }
    let whole = format!("{{\"content\":[],\"usage\":{}}}", first(both).replace(":1}", ":16}"));
    assert_eq!(Case { endpoint: Endpoint::Messages, ..JSON }.usage_unchanged(&whole), expected(248, 100));
}

#[test]
fn writes_for_an_hour_of_each_run_of_the_model_are_added() {
    let run = |hour: u64| {
        format!(
            "{{\"input_tokens\":4,\"cache_creation_input_tokens\":100,\"cache_creation\":{{\"ephemeral_5m_input_tokens\":{},\"ephemeral_1h_input_tokens\":{hour}}},\"output_tokens\":8}}",
            100 - hour
        )
    };
    let (one, other) = (run(30), run(50));
    let whole = format!(
        "{{\"content\":[],\"usage\":{{\"input_tokens\":4,\"output_tokens\":8,\"iterations\":[{one},{other}]}}}}"
    );
    let usage = Usage { input: 8, cache_write: 200, cache_write_1h: 80, output: 16, ..Usage::default() };
    let found = Case { endpoint: Endpoint::Messages, ..JSON }.usage_unchanged(&whole);
    assert_eq!(found, Metered { usage, ..tokens([0; 4]) });
}

#[test]
fn a_chat_may_tell_writes_for_an_hour_too() {
    let usage = Usage { input: 90, cache_write: 10, cache_write_1h: 3, output: 5, ..Usage::default() };
    for details in [
        r#""prompt_tokens_details":{"cache_creation_tokens":10,"cache_creation_token_details":{"ephemeral_5m_input_tokens":7,"ephemeral_1h_input_tokens":3}}"#,
        r#""prompt_tokens_details":{"cached_tokens":0,"cache_creation_input_tokens":10,"cache_creation":{"ephemeral_5m_input_tokens":7,"ephemeral_1h_input_tokens":3}}"#,
        r#""cache_creation_input_tokens":10,"cache_creation":{"ephemeral_1h_input_tokens":3}"#,
        r#""claude_cache_creation_5_m_tokens":7,"claude_cache_creation_1_h_tokens":3"#,
    ] {
        let stated = format!("{{\"prompt_tokens\":100,\"completion_tokens\":5,\"total_tokens\":105,{details}}}");
        assert_eq!(
            STREAM.usage_unchanged(&(chunk(&says("a"), "null") + &chunk("", &stated))),
            Metered { usage, ..tokens([0; 4]) },
            "{details}"
        );
    }
}

#[test]
fn numbers_may_have_exponents() {
    all_state(&[
        (r#"{"prompt_tokens":1.2e2,"completion_tokens":5e0,"total_tokens":"1.25E+2"}"#, [120, 0, 0, 5]),
        (r#"{"prompt_tokens":12000e-2,"completion_tokens":0.05e2,"total_tokens":125}"#, [120, 0, 0, 5]),
        (r#"{"prompt_tokens":1.23456789012e11,"completion_tokens":5}"#, [123_456_789_012, 0, 0, 5]),
    ]);
}

#[test]
fn names_in_camel_case_are_the_same() {
    let cached =
        r#"{"inputTokens":10,"outputTokens":5,"totalTokens":125,"cacheReadInputTokens":80,"cacheWriteInputTokens":30}"#;
    all_state(&[
        (cached, [10, 80, 30, 5]),
        (r#"{"promptTokens":10,"completionTokens":5,"totalTokens":15}"#, [10, 0, 0, 5]),
    ]);
}

/// Text, with an output of one stated before it and of none behind it.
fn placeholders() -> Vec<(Case, String)> {
    let usage = |output: u64| format!("{{\"prompt_tokens\":40,\"completion_tokens\":{output}}}");
    let chat = chunk(&says(""), &usage(1)) + &chunk(&says("one two three"), "null") + &chunk("", &usage(0));
    let gemini = |text: &str, output: u64| {
        let usage = format!("{{\"promptTokenCount\":40,\"candidatesTokenCount\":{output}}}");
        format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{text}\"}}]}}}}],\"usageMetadata\":{usage}}}\n\n"
        )
    };
    let response = |kind: &str, output: u64| {
        let usage = format!("{{\"input_tokens\":40,\"output_tokens\":{output}}}");
        format!("data: {{\"type\":\"response.{kind}\",\"response\":{{\"usage\":{usage}}}}}\n\n")
    };
    let delta = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"one two three\"}\n\n";
    let messages = concat!(
        "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":40,\"output_tokens\":1}}}\n\n",
        "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"one two three\"}}\n\n",
        "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":0}}\n\n",
        "data: {\"type\":\"message_stop\"}\n\n",
    );
    vec![
        (STREAM, chat + "data: [DONE]\n\n"),
        (Case { endpoint: Endpoint::Messages, ..STREAM }, messages.to_owned()),
        (
            Case { endpoint: Endpoint::Responses, ..STREAM },
            response("in_progress", 1) + delta + &response("completed", 0),
        ),
        (Case { endpoint: Endpoint::StreamGenerateContent, ..STREAM }, gemini("one two three", 1) + &gemini("", 0)),
    ]
}

#[test]
fn a_zero_after_a_placeholder_leaves_the_text_to_be_counted() {
    for (case, response) in placeholders() {
        let metered = case.usage_unchanged(&response);
        let expected = super::apis::found(40, &["one two three"], &[]);
        assert_eq!(metered, expected, "{:?}", case.endpoint);
    }
}

#[test]
fn what_a_total_has_beyond_a_prompt_without_output_is_prompt() {
    let stated = |[input, cached, _, output]: [u64; 4]| tokens([input, cached, 0, output]);
    for endpoint in [Endpoint::Embeddings, Endpoint::Rerank, Endpoint::Score, Endpoint::Pooling] {
        for (usage, expected) in [
            (r#"{"prompt_tokens":10,"total_tokens":25}"#, [25, 0, 0, 0]),
            (r#"{"prompt_tokens":0,"total_tokens":25}"#, [25, 0, 0, 0]),
            (r#"{"total_tokens":25}"#, [25, 0, 0, 0]),
            (r#"{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13}"#, [10, 0, 0, 3]),
            (r#"{"prompt_tokens":10,"completion_tokens":3,"total_tokens":20}"#, [17, 0, 0, 3]),
            (r#"{"prompt_tokens":10,"total_tokens":25,"prompt_tokens_details":{"cached_tokens":15}}"#, [10, 15, 0, 0]),
        ] {
            let answer = format!("{{\"data\":[],\"usage\":{usage}}}");
            let case = Case { endpoint, ..JSON };
            assert_eq!(counts(case.usage_unchanged(&answer)), stated(expected), "{endpoint:?}: {usage}");
        }
        for (meta, expected) in [
            (r#"{"billed_units":{"input_tokens":7}}"#, [7, 0, 0, 0]),
            (r#"{"tokens":{"input_tokens":7,"total_tokens":9},"billed_units":{"search_units":1}}"#, [9, 0, 0, 0]),
            (r#"{"tokens":{"input_tokens":7,"output_tokens":2,"total_tokens":9}}"#, [7, 0, 0, 2]),
        ] {
            let answer = format!("{{\"results\":[],\"meta\":{meta}}}");
            let case = Case { endpoint, ..JSON };
            assert_eq!(counts(case.usage_unchanged(&answer)), stated(expected), "{endpoint:?}: {meta}");
        }
    }
}

#[test]
fn geminis_pictures_and_sound_may_lie_beside_its_prompt() {
    let message = |usage: &str| {
        let answer = format!(
            "{{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"a\"}}]}},\"finishReason\":\"STOP\"}}],\"usageMetadata\":{usage}}}"
        );
        counts(Case { endpoint: Endpoint::GenerateContent, ..JSON }.usage_unchanged(&answer))
    };
    for (usage, expected) in [
        (
            r#"{"promptTokenCount":100,"candidatesTokenCount":9,"totalTokenCount":367,"promptTokensDetails":[{"modality":"IMAGE","tokenCount":258}]}"#,
            [358, 0, 0, 9],
        ),
        (
            r#"{"promptTokenCount":100,"candidatesTokenCount":9,"totalTokenCount":367,"promptTokensDetails":[{"tokenCount":258,"modality":"AUDIO"},{"modality":"TEXT","tokenCount":100}]}"#,
            [358, 0, 0, 9],
        ),
        (
            r#"{"promptTokenCount":300,"candidatesTokenCount":9,"totalTokenCount":309,"promptTokensDetails":[{"modality":"IMAGE","tokenCount":258},{"modality":"TEXT","tokenCount":42}]}"#,
            [300, 0, 0, 9],
        ),
        (
            r#"{"promptTokenCount":300,"candidatesTokenCount":9,"totalTokenCount":359,"thoughtsTokenCount":50,"promptTokensDetails":[{"modality":"TEXT","tokenCount":300}]}"#,
            [300, 0, 0, 59],
        ),
    ] {
        assert_eq!(message(usage), tokens(expected), "{usage}");
    }
}

#[test]
fn an_anthropic_usage_is_read_wherever_servers_put_it_and_by_openais_names() {
    let start = |usage: &str| format!("data: {{\"type\":\"message_start\",\"message\":{{\"usage\":{usage}}}}}\n\n");
    let said = "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    let stop = "data: {\"type\":\"message_stop\"}\n\n";
    let (openai, anthropic) = (
        r#"{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,"prompt_tokens_details":{"cached_tokens":80}}"#,
        r#"{"input_tokens":20,"cache_read_input_tokens":80,"output_tokens":7}"#,
    );
    for usage in [openai, anthropic] {
        for delta in [
            format!("\"delta\":{{\"stop_reason\":\"end_turn\"}},\"usage\":{usage}"),
            format!("\"delta\":{{\"stop_reason\":\"end_turn\",\"usage\":{usage}}}"),
            format!("\"delta\":{{\"stop_reason\":\"end_turn\"}},\"message\":{{\"usage\":{usage}}}"),
        ] {
            for event in [
                format!("data: {{\"type\":\"message_delta\",{delta}}}\n\n"),
                format!("data: {{{delta},\"type\":\"message_delta\"}}\n\n"),
            ] {
                let stream = start(r#"{"input_tokens":3,"output_tokens":1}"#) + said + &event + stop;
                let metered = Case { endpoint: Endpoint::Messages, ..STREAM }.usage_unchanged(&stream);
                assert_eq!(counts(metered), tokens([20, 80, 0, 7]), "{stream}");
            }
        }
        let answer =
            format!("{{\"type\":\"message\",\"content\":[{{\"type\":\"text\",\"text\":\"a\"}}],\"usage\":{usage}}}");
        let metered = Case { endpoint: Endpoint::Messages, ..JSON }.usage_unchanged(&answer);
        assert_eq!(counts(metered), tokens([20, 80, 0, 7]), "{answer}");
    }
}

#[test]
fn usage_within_a_choices_delta_or_message_is_its_choices() {
    let usage = r#"{"prompt_tokens":100,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":80}}"#;
    let last = format!("{{\"index\":0,\"delta\":{{\"usage\":{usage}}},\"finish_reason\":\"stop\"}}");
    let stream = chunk(&says("a"), "null") + &chunk(&last, "null") + "data: [DONE]\n\n";
    assert_eq!(counts(STREAM.usage_unchanged(&stream)), tokens([20, 80, 0, 7]));
    let answer =
        format!("{{\"choices\":[{{\"message\":{{\"content\":\"a\",\"usage\":{usage}}},\"finish_reason\":\"stop\"}}]}}");
    assert_eq!(counts(JSON.usage_unchanged(&answer)), tokens([20, 80, 0, 7]));
}

#[test]
fn what_only_timings_say_is_cached_is_part_of_a_stated_prompt() {
    let usage = r#"{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107}"#;
    let answer = |timings: &str| {
        format!(
            "{{\"choices\":[{{\"index\":0,\"message\":{{\"content\":\"a\"}},\"finish_reason\":\"stop\"}}],\"usage\":{usage},\"timings\":{timings}}}"
        )
    };
    let timings = r#"{"cache_n":80,"prompt_n":20,"predicted_n":7}"#;
    assert_eq!(counts(JSON.usage_unchanged(&answer(timings))), tokens([20, 80, 0, 7]));
    let beyond = r#"{"cache_n":800,"prompt_n":20,"predicted_n":7}"#;
    assert_eq!(counts(JSON.usage_unchanged(&answer(beyond))), tokens([100, 0, 0, 7]), "no part of such a prompt");
}
