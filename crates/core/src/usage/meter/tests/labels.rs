//! Responses whose Content-Type is wrong or missing: what they are, their first bytes say.

use super::apis::{fixture, found};
use super::every_api::ALL;
use super::*;

const LABELS: [Form; 6] = [Form::Sse, Form::Json, Form::Ndjson, Form::Text, Form::Media, Form::Other];
/// What may stand before a response and means nothing.
const BEFORE: [&str; 5] = ["", "\n\n", " \t", "\u{feff}", "\r\n\u{feff} \n"];

/// Further responses that other tests have, each of its own form.
const MORE: [(Endpoint, Form, &str); 12] = [
    (Endpoint::ChatCompletions, Form::Sse, OPENAI),
    (Endpoint::ChatCompletions, Form::Sse, VLLM),
    (Endpoint::ChatCompletions, Form::Json, ANSWER),
    (Endpoint::Completions, Form::Sse, fixture!("completions/stream.sse")),
    (Endpoint::Completions, Form::Json, fixture!("completions/answer.json")),
    (Endpoint::Embeddings, Form::Json, EMBEDDINGS),
    (Endpoint::Moderations, Form::Json, fixture!("moderations/mistral.json")),
    (Endpoint::Speech, Form::Sse, fixture!("audio/speech.sse")),
    (Endpoint::OllamaGenerate, Form::Ndjson, fixture!("ollama/generate.ndjson")),
    (Endpoint::OllamaChat, Form::Json, fixture!("ollama/answer.json")),
    (Endpoint::GenerateContent, Form::Json, fixture!("gemini/answer.json")),
    (Endpoint::EmbedContent, Form::Json, fixture!("gemini/embed.json")),
];

impl Case {
    /// Meters the response whole, cut within its first bytes, and byte by byte: there must be no difference.
    fn in_early_cuts(&self, response: &str) -> Outcome {
        let bytes = response.as_bytes();
        let whole = self.meter([bytes]);
        for at in 0..=bytes.len().min(24) {
            let (first, second) = bytes.split_at(at);
            assert_eq!(self.meter([first, second]), whole, "cut at {at}");
        }
        assert_eq!(self.meter(bytes.chunks(1)), whole, "byte by byte");
        whole
    }
}

#[test]
fn every_response_is_counted_alike_under_every_label() {
    for (endpoint, form, response) in ALL.into_iter().chain(MORE) {
        for removes in [false, true] {
            let case = |form| Case { endpoint, form, removes, ..STREAM };
            let own = case(form).meter([response.as_bytes()]);
            assert_ne!(own.metered, Metered::none(), "{endpoint:?}");
            for label in LABELS {
                for before in BEFORE {
                    let outcome = case(label).in_early_cuts(&format!("{before}{response}"));
                    let name = format!("{endpoint:?} of {form:?} as {label:?} after {before:?}");
                    assert_eq!(outcome.metered, own.metered, "{name}");
                    let forwarded = [before.as_bytes(), &own.forwarded].concat();
                    assert!(outcome.forwarded == forwarded, "{name}: {}", String::from_utf8_lossy(&outcome.forwarded));
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_response_is_seen_under_every_label() {
    for (endpoint, form, response) in ALL.into_iter().chain(MORE) {
        let case = |form| Case { endpoint, form, ..EARLY };
        let own = case(form).meter([response.as_bytes()]);
        for label in LABELS.into_iter().filter(|label| *label != Form::Ndjson || form != Form::Json) {
            let outcome = case(label).meter([response.as_bytes()]);
            assert_eq!(
                (outcome.ended, outcome.metered),
                (own.ended, own.metered),
                "{endpoint:?}: {form:?} as {label:?}"
            );
        }
    }
}

#[test]
fn nothing_has_ended_before_its_end() {
    for (endpoint, form, response) in ALL.into_iter().chain(MORE) {
        let mut own = Meter::new(endpoint, form, false);
        let last = response.bytes().position(|byte| {
            let _ = own.feed(Bytes::copy_from_slice(&[byte]));
            own.ended()
        });
        let begun = &response[..last.unwrap_or(response.len())];
        for label in LABELS {
            let outcome = Case { endpoint, form: label, ..EARLY }.meter(begun.as_bytes().chunks(100));
            assert!(!outcome.ended, "{endpoint:?}: {form:?} as {label:?}");
        }
    }
}

#[test]
fn whether_it_is_a_stream_its_first_bytes_say() {
    let is_stream = |label, bytes: &'static str| {
        let mut meter = Meter::new(Endpoint::ChatCompletions, label, false);
        let _ = meter.feed(Bytes::from(bytes));
        meter.is_stream()
    };
    for label in LABELS {
        assert_eq!(is_stream(label, ""), matches!(label, Form::Sse | Form::Ndjson), "{label:?}");
        assert_eq!(is_stream(label, "\n d"), matches!(label, Form::Sse | Form::Ndjson), "{label:?}");
        assert!(is_stream(label, "data: {\"choices\""), "{label:?}");
        assert!(!is_stream(label, "[{\"choices\""), "{label:?}");
        assert_eq!(is_stream(label, "{\"choices\""), label == Form::Ndjson, "{label:?}");
    }
}

#[test]
fn one_document_over_several_lines_is_no_line_of_its_own() {
    for answer in
        [ANSWER, fixture!("anthropic/message.json"), "{\"model\":\"m\",\n\"usage\":{\"prompt_tokens\":7,\n}\n}"]
    {
        let set_out = serde_json::from_str::<serde_json::Value>(answer).map(|json| format!("{json:#}"));
        for answer in [answer, set_out.as_deref().unwrap_or(answer)] {
            let endpoint = if answer.contains("claude") { Endpoint::Messages } else { Endpoint::ChatCompletions };
            let json = Case { endpoint, ..JSON }.usage_unchanged(answer);
            assert_eq!(Case { endpoint, form: Form::Ndjson, ..STREAM }.usage_unchanged(answer), json, "{answer}");
        }
    }
}

#[test]
fn what_nobody_can_read_is_charged_as_estimated() {
    let page = "<html><body>Bad gateway, and more of it</body></html>";
    let written = [
        Endpoint::ChatCompletions,
        Endpoint::Completions,
        Endpoint::Responses,
        Endpoint::Messages,
        Endpoint::OllamaChat,
        Endpoint::OllamaGenerate,
        Endpoint::GenerateContent,
        Endpoint::Transcriptions,
        Endpoint::Translations,
    ];
    for endpoint in written {
        for form in [Form::Json, Form::Text, Form::Other] {
            let outcome = Case { endpoint, form, ..STREAM }.in_every_cut(page);
            assert_eq!(outcome.metered, found(1000, &[page], &[]), "{endpoint:?} {form:?}");
            assert_eq!((outcome.ended, outcome.forwarded.as_slice()), (false, page.as_bytes()));
            let early = Case { endpoint, form, ..EARLY }.usage_unchanged(page);
            assert_eq!(early, found(1000, &[page], &[]), "{endpoint:?} {form:?} cut");
        }
        let events = Case { endpoint, form: Form::Sse, ..STREAM }.usage_unchanged(page);
        assert_eq!(events, estimated(1000, 0), "{endpoint:?}: a stream of events that has none delivers nothing");
    }
    let unwritten = [Endpoint::Embeddings, Endpoint::Moderations, Endpoint::Rerank, Endpoint::ImageEdits];
    for endpoint in unwritten.into_iter().chain([Endpoint::Speech, Endpoint::OllamaEmbed, Endpoint::EmbedContent]) {
        for form in LABELS {
            let metered = Case { endpoint, form, ..STREAM }.usage_unchanged(page);
            assert_eq!(metered, estimated(1000, 0), "{endpoint:?} {form:?}");
        }
    }
    for form in LABELS {
        let counted = Case { endpoint: Endpoint::CountTokens, form, ..STREAM }.usage_unchanged(page);
        assert_eq!(counted, Metered::none(), "{form:?}");
    }
}

#[test]
fn media_are_never_counted_as_text() {
    let all = [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::OllamaChat, Endpoint::Transcriptions];
    let binary: [&[u8]; 4] =
        [b"ID3\x04\x00\x00", b"RIFF\x24\x08\x00\x00WAVEfmt ", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", b"\x89PNG\r\n"];
    for endpoint in all {
        for bytes in binary {
            for form in [Form::Json, Form::Other, Form::Media] {
                for size in [1, 3, 100] {
                    let outcome = Case { endpoint, form, ..STREAM }.meter(bytes.chunks(size));
                    assert_eq!(outcome.metered, estimated(1000, 0), "{endpoint:?} {form:?} {bytes:?} by {size}");
                    assert_eq!((outcome.forwarded.as_slice(), outcome.text_delivered), (bytes, false));
                }
            }
        }
        let named = Case { endpoint, form: Form::Media, ..STREAM }.usage_unchanged("#EXTM3U\nfirst.mp3\n");
        assert_eq!(named, estimated(1000, 0), "{endpoint:?}");
    }
    let sound = Case { endpoint: Endpoint::Speech, form: Form::Media, ..EARLY };
    for bytes in ["{\u{1}\u{2}}", "[\u{7f}]]", ":\n\n"] {
        let outcome = sound.in_every_cut(bytes);
        assert_eq!((outcome.metered, outcome.ended), (estimated(1000, 0), false), "{bytes:?} is sound by its label");
    }
}

#[test]
fn a_transcript_may_begin_as_others_do() {
    for text in ["[Music] and a voice", "{laughs} well", "data: the word for it", ": a smile", "event: none\nhere"] {
        for form in [Form::Text, Form::Other] {
            let outcome = Case { endpoint: Endpoint::Transcriptions, form, ..STREAM }.in_every_cut(text);
            assert_eq!((outcome.metered, outcome.ended), (found(1000, &[text], &[]), false), "{text:?} {form:?}");
            assert_eq!(outcome.forwarded, text.as_bytes());
        }
    }
}

#[test]
fn a_response_that_is_over_before_it_says_what_it_is_passes_whole() {
    for beginning in ["d", "dat", "retry", "\u{feff}", "\n", "\u{feff}i"] {
        for (form, removes) in LABELS.into_iter().flat_map(|form| [(form, false), (form, true)]) {
            let outcome = Case { form, removes, ..STREAM }.in_every_cut(beginning);
            assert_eq!(String::from_utf8_lossy(&outcome.forwarded), beginning, "{form:?}");
            assert_ne!(outcome.metered, Metered::none(), "{form:?}");
        }
    }
    for half in [&b"\xef"[..], b"\xef\xbb"] {
        let outcome = STREAM.meter(half.chunks(1));
        assert_eq!((outcome.metered, outcome.forwarded.as_slice()), (estimated(1000, 0), half));
    }
}
