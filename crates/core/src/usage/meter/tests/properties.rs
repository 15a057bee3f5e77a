//! What holds of any response beside that no cut makes a difference: what the fuzz targets look for, at a smaller size.

use super::apis::fixture;
use super::every_api::ALL;
use super::*;

/// An event of a chat stream or what is between two, and whether it is the one that nobody asked for.
fn any_event() -> impl Strategy<Value = (String, bool)> {
    const USAGES: [(&str, bool); 4] = [
        ("null", false),
        ("{}", false),
        ("{\"prompt_tokens\":3,\"completion_tokens\":2}", true),
        ("{\"total_tokens\":9}", true),
    ];
    let choices = prop::sample::select(vec![String::new(), says("a"), says("\\\"b"), "{\"delta\":{}}".to_owned()]);
    let others = [
        "data: [DONE]\n\n",
        "event: x\ndata:\n\n",
        "data: {\"choices\":[]\n\n",
        "data: {\"response\":\"\",\"usage\":{\"total_tokens\":9}}\n\n",
    ];
    let without_choices =
        ["data: {\"usage\":{\"total_tokens\":9}}\n\n", "data: {\"choices\":null,\"usage\":{\"total_tokens\":9}}\n\n"];
    prop_oneof![
        6 => (choices, prop::sample::select(&USAGES[..])).prop_map(|(choices, (usage, counts))| {
            (chunk(&choices, usage), counts && choices.is_empty())
        }),
        1 => prop::sample::select(others.to_vec()).prop_map(|event| (event.to_owned(), false)),
        1 => prop::sample::select(without_choices.to_vec()).prop_map(|event| (event.to_owned(), true)),
        1 => Just((": comment\n\n".to_owned(), false)),
    ]
}

fn lines(fixture: &'static str) -> impl Iterator<Item = &'static str> {
    fixture.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line)).filter(|line| line.starts_with('{'))
}

fn some_of(documents: impl Iterator<Item = &'static str>) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(documents.collect::<Vec<_>>()), 1..8)
}

fn ollama() -> impl Strategy<Value = Vec<&'static str>> {
    let fixtures = [fixture!("ollama/chat.ndjson"), fixture!("ollama/tools.ndjson"), fixture!("ollama/error.ndjson")];
    some_of(fixtures.into_iter().flat_map(lines))
}

fn gemini() -> impl Strategy<Value = Vec<&'static str>> {
    some_of(lines(fixture!("gemini/stream.sse")))
}

proptest! {
    #[test]
    fn nothing_but_the_usage_event_is_taken_out(
        events in prop::collection::vec(any_event(), 0..12),
        end in prop::sample::select(&["\n", "\r\n", "\r"][..]),
    ) {
        let all: String = events.iter().map(|(event, _)| event.as_str()).collect();
        let asked_for: String = events.iter().filter(|(_, is_extra)| !is_extra).map(|(event, _)| event.as_str()).collect();
        let outcome = REMOVING.meter([all.replace('\n', end).as_bytes()]);
        prop_assert_eq!(String::from_utf8_lossy(&outcome.forwarded), asked_for.replace('\n', end));
        prop_assert_eq!(outcome.metered, STREAM.meter([all.as_bytes()]).metered);
    }

    #[test]
    fn ollamas_documents_need_no_lines(documents in ollama()) {
        let case = Case { endpoint: Endpoint::OllamaChat, form: Form::Ndjson, ..EARLY };
        let lines = case.meter([documents.join("\n").as_bytes()]);
        let joined = Case { form: Form::Json, ..case }.meter([documents.concat().as_bytes()]);
        prop_assert_eq!((lines.metered, lines.ended), (joined.metered, joined.ended));
    }

    #[test]
    fn geminis_array_counts_as_its_events_do(documents in gemini()) {
        let case = Case { endpoint: Endpoint::StreamGenerateContent, ..STREAM };
        let events = format!("data: {}\r\n\r\n", documents.join("\r\n\r\ndata: "));
        let array = format!("[{}\n]\n", documents.join(",\r\n"));
        let array = Case { form: Form::Json, ..case }.meter([array.as_bytes()]);
        prop_assert_eq!(array.metered, case.meter([events.as_bytes()]).metered);
        prop_assert!(array.ended);
    }

    #[test]
    fn whoever_leaves_after_the_end_has_not_left_early(
        (endpoint, form, response) in prop::sample::select(&ALL[..]),
        end in any::<prop::sample::Index>(),
    ) {
        let bytes = &response.as_bytes()[..=end.index(response.len())];
        let early = Case { endpoint, form, ..EARLY }.meter([bytes]);
        if early.ended {
            prop_assert_eq!(early, Case { endpoint, form, ..STREAM }.meter([bytes]));
        }
    }
}
