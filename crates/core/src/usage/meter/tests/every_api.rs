//! What holds for the responses of every API: no cut makes a difference, no bytes make it fail, nothing takes memory.

use super::apis::{fixture, found};
use super::*;

/// One response of each API and form, with all kinds of events that there are.
pub(super) const ALL: [(Endpoint, Form, &str); 16] = [
    (Endpoint::Responses, Form::Sse, fixture!("responses/completed.sse")),
    (Endpoint::Responses, Form::Sse, fixture!("responses/tool-call.sse")),
    (Endpoint::Responses, Form::Json, fixture!("responses/answer.json")),
    (Endpoint::Rerank, Form::Json, fixture!("rerank/cohere.json")),
    (Endpoint::ImageEdits, Form::Sse, fixture!("images/edit.sse")),
    (Endpoint::Transcriptions, Form::Json, fixture!("audio/verbose-billed.json")),
    (Endpoint::Transcriptions, Form::Sse, fixture!("audio/vllm.sse")),
    (Endpoint::Messages, Form::Sse, fixture!("anthropic/stream.sse")),
    (Endpoint::Messages, Form::Sse, fixture!("anthropic/tools.sse")),
    (Endpoint::Messages, Form::Json, fixture!("anthropic/advisor.json")),
    (Endpoint::OllamaChat, Form::Ndjson, fixture!("ollama/chat.ndjson")),
    (Endpoint::OllamaChat, Form::Json, fixture!("ollama/tools.ndjson")),
    (Endpoint::OllamaEmbed, Form::Json, fixture!("ollama/embed.json")),
    (Endpoint::StreamGenerateContent, Form::Sse, fixture!("gemini/stream.sse")),
    (Endpoint::StreamGenerateContent, Form::Json, fixture!("gemini/stream.json")),
    (Endpoint::ChatCompletions, Form::Sse, fixture!("servers/llama-cpp-choices.sse")),
];

proptest! {
    #[test]
    fn no_cuts_make_a_difference_to_any_api(
        (endpoint, form, response) in prop::sample::select(&ALL[..]),
        times in 1_usize..4,
        end in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let response = response.repeat(times);
        let bytes = &response.as_bytes()[..end.index(response.len() + 1)];
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let case = Case { endpoint, form, ..EARLY };
        let whole = case.meter([bytes]);
        prop_assert_eq!(&case.meter(places.windows(2).map(|pair| &bytes[pair[0]..pair[1]])), &whole);
        prop_assert_eq!(&case.meter(bytes.chunks(1)), &whole);
        prop_assert_eq!(whole.forwarded, bytes);
    }

    #[test]
    fn no_bytes_make_any_api_fail(
        (endpoint, _, response) in prop::sample::select(&ALL[..]),
        form in prop::sample::select(&[Form::Sse, Form::Json, Form::Ndjson, Form::Text, Form::Other][..]),
        noise in any::<Vec<u8>>(),
        at in any::<prop::sample::Index>(),
    ) {
        let (before, after) = response.as_bytes().split_at(at.index(response.len()));
        let outcome = Case { endpoint, form, ..REMOVING }.meter([before, noise.as_slice(), after]);
        prop_assert!(endpoint == Endpoint::ChatCompletions || outcome.forwarded == [before, &noise, after].concat());
    }
}

#[test]
fn text_without_end_takes_no_memory_in_any_api() {
    let heads = [
        (Endpoint::Responses, Form::Sse, "data: {\"delta\":\""),
        (Endpoint::Responses, Form::Json, "{\"output\":[{\"content\":[{\"text\":\""),
        (Endpoint::Transcriptions, Form::Text, ""),
        (Endpoint::Messages, Form::Sse, "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\""),
        (Endpoint::OllamaChat, Form::Ndjson, "{\"message\":{\"content\":\""),
        (Endpoint::GenerateContent, Form::Json, "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\""),
    ];
    let text = "All work and no play makes a dull meter. ".repeat(400);
    for (endpoint, form, head) in heads {
        let mut meter = Meter::new(endpoint, form, false);
        let _ = meter.feed(Bytes::from(head));
        for _ in 0..30 {
            let _ = meter.feed(Bytes::copy_from_slice(text.as_bytes()));
            assert!(meter.held_bytes() <= 64 * 1024, "{} bytes held", meter.held_bytes());
        }
        let (found, expected) = (meter.finish(Ending::Early, || 0).usage.output, 30 * count_tokens(&text));
        assert!(found.abs_diff(expected) * 100 <= expected, "{found} instead of {expected}");
    }
}

#[test]
fn like_events_of_a_message_are_counted_in_any_reads() {
    let words = ["The", " meter", " looks", " at", " \\\"bytes\\\"", ",\\n", " caf\\u00e9", "."];
    let (mut stream, mut text) = (String::new(), String::new());
    for event in 0..2000 {
        let word = words[event * 5 % 8];
        write!(
            stream,
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{word}\"}}}}\n\n"
        )
        .unwrap();
        text += &serde_json::from_str::<String>(&format!("\"{word}\"")).unwrap();
    }
    let case = Case { endpoint: Endpoint::Messages, ..EARLY };
    for size in [97, 1000, 16_384] {
        assert_eq!(case.meter(stream.as_bytes().chunks(size)).metered, found(1000, &[&text], &[]), "reads of {size}");
    }
}
