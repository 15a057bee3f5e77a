//! A request of each API, and what is refused of each.

use super::super::*;
use super::{
    generate::{SHAPES, layout},
    scan_text,
};

/// What an example says: model, stream, maximum, choices, bytes of text, media, tokens given.
type Said = (Option<&'static str>, bool, Option<u64>, u64, u64, u64, u64);

fn said(scanned: &Scanned) -> (Option<&str>, bool, Option<u64>, u64, u64, u64, u64) {
    let Scanned { stream, maximum, choices, prompt_text_bytes, media, prompt_tokens_given, .. } = *scanned;
    (scanned.model.as_deref(), stream, maximum, choices, prompt_text_bytes, media, prompt_tokens_given)
}

const EXAMPLES: [(Shape, &str, Said); 29] = [
    (
        Shape::Chat,
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":9,"n":2}"#,
        (Some("m"), false, Some(9), 2, 17, 0, 0),
    ),
    (Shape::Completions, r#"{"model":"m","prompt":["ab","c"],"stream":true}"#, (Some("m"), true, None, 2, 3, 0, 0)),
    (Shape::Embeddings, r#"{"model":"m","input":[[1,2],[3]]}"#, (Some("m"), false, None, 1, 0, 0, 3)),
    (
        Shape::Responses,
        r#"{"model":"m","instructions":"be","input":"hi","stream":true,"max_output_tokens":50,"tools":[{"type":"f"}]}"#,
        (Some("m"), true, Some(50), 1, 2 + 2 + 5, 0, 0),
    ),
    (
        Shape::Responses,
        r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:,A"},{"x":7}]}]}"#,
        (Some("m"), false, None, 1, 4 + 4 + 7 + 4 + 11 + 9 + 1, 1, 0),
    ),
    (Shape::Moderations, r#"{"model":"m","input":["ab",{"text":"c"}]}"#, (Some("m"), false, None, 1, 7, 0, 0)),
    (Shape::Moderations, r#"{"input":"ab"}"#, (None, false, None, 1, 2, 0, 0)),
    (
        Shape::Rerank,
        r#"{"model":"m","query":"ab","documents":["c",{"text":"d"}],"top_n":3}"#,
        (Some("m"), false, None, 1, 2 + 1 + 5, 0, 0),
    ),
    (
        Shape::Score,
        r#"{"model":"m","text_1":"ab","text_2":["c",{"content":[{"type":"image_url","image_url":{"url":"data:,A"}}]}]}"#,
        (Some("m"), false, None, 1, 2 + 1 + 7 + 4 + 9 + 9 + 3, 1, 0),
    ),
    (
        Shape::Score,
        r#"{"queries":"ab","documents":["c"],"data_1":[1,2],"data_2":"d"}"#,
        (None, false, None, 1, 4, 0, 2),
    ),
    (Shape::Pooling, r#"{"model":"m","input":["ab",[1,2]],"n":"x"}"#, (Some("m"), false, None, 1, 2, 0, 2)),
    (Shape::Pooling, r#"{"model":"m","messages":[{"content":"hi"}]}"#, (Some("m"), false, None, 1, 9, 0, 0)),
    (Shape::Tokenize, r#"{"model":"m","prompt":"hi","tokens":[1,2,3]}"#, (Some("m"), false, None, 1, 2, 0, 3)),
    (Shape::OllamaEmbed, r#"{"model":"m","prompt":"hi"}"#, (Some("m"), false, None, 1, 2, 0, 0)),
    (Shape::OllamaShow, r#"{"name":"m","verbose":true}"#, (Some("m"), false, None, 1, 0, 0, 0)),
    (
        Shape::BatchEmbedContents,
        r#"{"requests":[{"model":"models/m","content":{"parts":[{"text":"ab"}]},"title":"c"},{"content":{"parts":[]}}]}"#,
        (Some("models/m"), false, None, 1, 5 + 4 + 2 + 1 + 5, 0, 0),
    ),
    (
        Shape::GeminiCountTokens,
        r#"{"generateContentRequest":{"model":"m","contents":[{"text":"ab"}],"system_instruction":"c"},"contents":"d"}"#,
        (Some("m"), false, None, 1, 4 + 2 + 1 + 1, 0, 0),
    ),
    (Shape::Images, r#"{"model":"m","prompt":"a cat","n":4,"size":"1x1"}"#, (Some("m"), false, None, 4, 5, 0, 0)),
    (
        Shape::Speech,
        r#"{"model":"m","input":"hello","voice":"v","instructions":"slow"}"#,
        (Some("m"), false, None, 1, 9, 0, 0),
    ),
    (
        Shape::Messages,
        r#"{"model":"m","max_tokens":5,"system":"s","stream":true,"messages":[{"role":"user","content":[
            {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}"#,
        (Some("m"), true, Some(5), 1, 1 + 4 + 4 + 7 + 4 + 5 + 6 + 4 + 6 + 10 + 9 + 4, 1, 0),
    ),
    (Shape::Messages, r#"{"model":"m","max_tokens":0}"#, (Some("m"), false, None, 1, 0, 0, 0)),
    (
        Shape::CountTokens,
        r#"{"model":"m","messages":[{"content":"hi"}],"max_tokens":5}"#,
        (Some("m"), false, None, 1, 9, 0, 0),
    ),
    (
        Shape::OllamaChat,
        r#"{"model":"m","messages":[{"role":"user","content":"hi","images":["AAAA"]}],"options":{"num_predict":7}}"#,
        (Some("m"), true, Some(7), 1, 4 + 4 + 7 + 2 + 6, 1, 0),
    ),
    (
        Shape::OllamaGenerate,
        r#"{"model":"m","prompt":"ab","system":"c","images":["A","B"],"context":[1,2],"stream":false,"options":null}"#,
        (Some("m"), false, None, 1, 3, 2, 2),
    ),
    (Shape::OllamaGenerate, r#"{"model":"m","stream":null}"#, (Some("m"), true, None, 1, 0, 0, 0)),
    (Shape::OllamaEmbed, r#"{"model":"m","input":["ab","c"]}"#, (Some("m"), false, None, 1, 3, 0, 0)),
    (
        Shape::GenerateContent,
        r#"{"systemInstruction":{"parts":[{"text":"s"}]},"contents":[{"parts":[{"text":"hi"},
            {"inlineData":{"mimeType":"image/png","data":"AAAA"}}]}],
            "generationConfig":{"maxOutputTokens":9,"candidateCount":3,"responseSchema":{"type":"x"}}}"#,
        (None, false, Some(9), 3, (5 + 4 + 1) + (5 + 4 + 2) + (10 + 8 + 9 + 4) + 5, 1, 0),
    ),
    (
        Shape::GenerateContent,
        r#"{"system_instruction":{"text":"s"},"contents":{"text":"hi"},
            "generation_config":{"max_output_tokens":9,"candidate_count":2}}"#,
        (None, false, Some(9), 2, 5 + 6, 0, 0),
    ),
    (
        Shape::EmbedContent,
        r#"{"model":"models/m","content":{"parts":[{"text":"hi"}]},"title":"t"}"#,
        (Some("models/m"), false, None, 1, 5 + 4 + 2 + 1, 0, 0),
    ),
];

#[test]
fn every_api_is_read_as_its_reference_writes_it() {
    for (shape, body, expected) in EXAMPLES {
        let scanned = scan_text(body, shape).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(said(&scanned), expected, "{body}");
    }
    for shape in SHAPES {
        assert!(EXAMPLES.iter().any(|(of, ..)| *of == shape), "{shape:?}");
    }
}

/// Every field that a shape acts on, with the objects that it is within.
fn fields(shape: Shape) -> Vec<Vec<&'static str>> {
    let layout = layout(shape);
    let mut fields = vec![vec!["model"]];
    fields.extend(
        [layout.texts, layout.prompts, layout.media, layout.foreign].concat().into_iter().map(|name| vec![name]),
    );
    fields.extend(layout.own.iter().chain(layout.choices).map(|path| path.to_vec()));
    fields.extend(layout.object.map(|name| vec![name]));
    fields.extend(layout.streams.then_some(vec!["stream"]));
    fields.sort();
    fields.dedup();
    fields
}

/// An object with these members, within the objects that lead to `path`.
fn within(path: &[&str], members: &str) -> String {
    path[..path.len() - 1].iter().rev().fold(format!("{{{members}}}"), |inner, name| format!("{{\"{name}\":{inner}}}"))
}

fn value(path: &[&str]) -> &'static str {
    if path == ["model"] { r#""a""# } else { "null" }
}

#[test]
fn no_field_of_any_api_may_be_there_twice_or_be_written_otherwise() {
    for shape in SHAPES {
        for path in fields(shape) {
            let (name, value) = (path.last().unwrap(), value(&path));
            let full = path.join(".");
            let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
            for twin in [name, escaped.as_str()] {
                let body = within(&path, &format!("\"{name}\":{value},\"{twin}\":{value}"));
                let error = scan_text(&body, shape).unwrap_err();
                assert!(matches!(error, BodyError::DuplicateField { .. }), "{shape:?} {body}: {error}");
                assert_eq!(error.field(), Some(full.as_str()), "{shape:?} {body}");
            }
            let swapped = name.replacen(name.chars().next().unwrap(), &name[..1].to_uppercase(), 1);
            for odd in [name.to_uppercase(), swapped] {
                let body = within(&path, &format!("\"{odd}\":{value}"));
                let error = scan_text(&body, shape).unwrap_err();
                assert!(matches!(error, BodyError::MiscasedField { .. }), "{shape:?} {body}: {error}");
                assert_eq!(error.field(), Some(full.as_str()), "{shape:?} {body}");
            }
            scan_text(&within(&path, &format!("\"{name}\":{value},\"{name}_\":1,\"{name}_\":2")), shape).unwrap();
        }
    }
}

#[test]
fn both_of_geminis_spellings_at_once_are_one_field_twice() {
    for (body, name) in [
        (r#"{"systemInstruction":{},"system_instruction":{}}"#, "systemInstruction"),
        (r#"{"generation_config":{},"generationConfig":{}}"#, "generationConfig"),
        (r#"{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":9}}"#, "generationConfig.maxOutputTokens"),
        (r#"{"generation_config":{"candidate_count":1,"candidateCount":9}}"#, "generationConfig.candidateCount"),
    ] {
        let error = scan_text(body, Shape::GenerateContent).unwrap_err();
        assert!(matches!(error, BodyError::DuplicateField { .. }), "{body}: {error}");
        assert_eq!(error.field(), Some(name));
    }
    for body in
        [r#"{"Generation_Config":{}}"#, r#"{"generationconfig":{}}"#, r#"{"generationConfig":{"MAX_OUTPUT_TOKENS":1}}"#]
    {
        let error = scan_text(body, Shape::GenerateContent).unwrap_err();
        assert!(matches!(error, BodyError::MiscasedField { .. }), "{body}: {error}");
    }
}

#[test]
fn wrong_types_of_every_api_are_refused_by_name() {
    let integers = ["1.5", "1e3", "\"5\"", "[5]", "{}", "true"];
    let objects = ["1", "[]", "\"\"", "true"];
    let mut refused = 0;
    for shape in SHAPES {
        let layout = layout(shape);
        let mut cases: Vec<(Vec<&str>, &[&str])> = vec![(vec!["model"], &["1", "null", "[]"])];
        cases.extend(layout.own.iter().chain(layout.choices).map(|path| (path.to_vec(), &integers[..])));
        cases.extend(layout.foreign.iter().map(|name| (vec![*name], &integers[..])));
        cases.extend(layout.object.map(|name| (vec![name], &objects[..])));
        cases.extend(layout.streams.then_some((vec!["stream"], &["1", "\"true\"", "{}"][..])));
        for (path, values) in cases {
            for value in values {
                let body = within(&path, &format!("\"{}\":{value}", path.last().unwrap()));
                let error = scan_text(&body, shape).unwrap_err();
                assert!(matches!(error, BodyError::WrongType { .. }), "{shape:?} {body}: {error}");
                assert_eq!(error.field(), Some(path.join(".").as_str()));
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_negative_maximum_is_none() {
    for shape in SHAPES {
        let layout = layout(shape);
        let foreign = layout.foreign.iter().map(|name| vec![*name]);
        for path in layout.own.iter().map(|path| path.to_vec()).chain(foreign) {
            for number in ["-1", "-2", "-0", "-99999999999999999999"] {
                let body = within(&path, &format!("\"{}\":{number}", path.last().unwrap()));
                assert_eq!(scan_text(&body, shape).unwrap().maximum, None, "{shape:?} {body}");
            }
            for number in ["-1.5", "-1e3", "-1.0"] {
                let body = within(&path, &format!("\"{}\":{number}", path.last().unwrap()));
                assert!(matches!(scan_text(&body, shape), Err(BodyError::WrongType { .. })), "{shape:?} {body}");
            }
        }
    }
}

#[test]
fn what_an_api_demands_of_a_maximum_is_read() {
    for (shape, body, least, useful) in [
        (Shape::Chat, "{}", None, None),
        (Shape::Responses, "{}", Some(16), None),
        (Shape::Responses, r#"{"reasoning":{"effort":"low","max_tokens":9}}"#, Some(16), None),
        (Shape::Responses, r#"{"reasoning":{"max_tokens":2000}}"#, Some(2001), None),
        (Shape::Messages, r#"{"thinking":{"type":"enabled","budget_tokens":1024}}"#, Some(1025), None),
        (Shape::Messages, r#"{"thinking":{"budget_tokens":1024,"type":"disabled"}}"#, None, None),
        (Shape::Messages, r#"{"thinking":{"type":"d\u0069sabled","budget_tokens":1024}}"#, None, None),
        (Shape::Messages, r#"{"thinking":{"type":"adaptive"}}"#, None, None),
        (Shape::Messages, r#"{"thinking":{"budget_tokens":18446744073709551615}}"#, Some(u64::MAX), None),
        (Shape::Messages, r#"{"think\u0069ng":{"budget\u005ftokens":1024}}"#, Some(1025), None),
        (Shape::Chat, r#"{"thinking":{"type":"enabled","budget_tokens":2000}}"#, Some(2001), None),
        (Shape::Chat, r#"{"reasoning":{"max_tokens":3000},"thinking":{"budget_tokens":2000}}"#, Some(3001), None),
        (Shape::Chat, r#"{"reasoning":{"max_tokens":3000},"min_tokens":4000}"#, Some(4000), None),
        (Shape::Completions, r#"{"min_tokens":40}"#, Some(40), None),
        (Shape::Completions, r#"{"min_tokens":1}"#, None, None),
        (
            Shape::GenerateContent,
            r#"{"generationConfig":{"thinkingConfig":{"thinkingBudget":1024}}}"#,
            None,
            Some(1025),
        ),
        (Shape::GenerateContent, r#"{"generation_config":{"thinking_config":{"thinking_budget":7}}}"#, None, Some(8)),
        (Shape::GenerateContent, r#"{"generationConfig":{"thinkingConfig":{"thinkingBudget":-1}}}"#, None, None),
        (Shape::OllamaChat, r#"{"think":true,"thinking":{"budget_tokens":1024}}"#, None, None),
    ] {
        let scanned = scan_text(body, shape).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!((scanned.least_maximum, scanned.useful_maximum), (least, useful), "{shape:?} {body}");
    }
}

#[test]
fn whatever_else_is_said_of_thinking_is_the_upstreams_to_judge() {
    let values = ["null", "true", "\"high\"", "7", "-1", "1.5", "[{\"budget_tokens\":9}]", "{}", "{\"a\":[{}]}"];
    for value in values {
        for body in [
            format!(r#"{{"thinking":{value},"reasoning":{value},"min_tokens":null,"max_tokens":5}}"#),
            format!(r#"{{"thinking":{{"budget_tokens":null,"type":{value}}},"max_tokens":5}}"#),
        ] {
            for shape in [Shape::Chat, Shape::Messages] {
                let scanned = scan_text(&body, shape).unwrap_or_else(|error| panic!("{body}: {error}"));
                assert_eq!((scanned.least_maximum, scanned.maximum), (None, Some(5)), "{shape:?} {body}");
            }
        }
    }
    for odd in ["[]", "{\"x\":1}", "\"1024\"", "1024.0", "-5", "true"] {
        let body = format!(r#"{{"thinking":{{"budget_tokens":{odd}}},"max_tokens":5}}"#);
        assert_eq!(scan_text(&body, Shape::Messages).unwrap().least_maximum, None, "{body}");
    }
    for (body, name) in [
        (r#"{"thinking":{},"thinking":{}}"#, "thinking"),
        (r#"{"thinking":{"budget_tokens":1,"budget_tokens":2}}"#, "thinking.budget_tokens"),
        (r#"{"thinking":{"Budget_Tokens":1}}"#, "thinking.budget_tokens"),
    ] {
        assert_eq!(scan_text(body, Shape::Messages).unwrap_err().field(), Some(name), "{body}");
    }
}

#[test]
fn a_field_of_one_api_means_nothing_in_another() {
    for (shape, body) in [
        (Shape::Messages, r#"{"max_output_tokens":"x","options":1,"generationConfig":2,"stream_options":3,"n":"x"}"#),
        (Shape::OllamaChat, r#"{"max_tokens":"x","num_predict":"y","n":[],"input":[1]}"#),
        (Shape::GenerateContent, r#"{"max_tokens":"x","stream":1,"options":"y","maxOutputTokens":"z"}"#),
        (Shape::Rerank, r#"{"stream":"x","prompt":[1],"n":"y"}"#),
        (Shape::Moderations, r#"{"stream":"x","messages":["abc"]}"#),
    ] {
        let scanned = scan_text(body, shape).unwrap_or_else(|error| panic!("{body}: {error}"));
        let by_default = shape == Shape::OllamaChat;
        assert_eq!(said(&scanned), (None, by_default, None, 1, 0, 0, 0), "{body}");
    }
}

#[test]
fn the_path_names_the_model_and_a_body_may_repeat_it() {
    let named = |body, path: &str| scan_text(body, Shape::EmbedContent).unwrap().with_model(path.to_owned());
    for (body, path) in [
        ("{}", "gemini"),
        (r#"{"model":"gemini"}"#, "gemini"),
        (r#"{"model":"models/gemini"}"#, "gemini"),
        (r#"{"model":"models\/gemini"}"#, "gemini"),
    ] {
        assert_eq!(named(body, path).unwrap().model.as_deref(), Some("gemini"), "{body}");
    }
    for (body, path) in [
        (r#"{"model":"other"}"#, "gemini"),
        (r#"{"model":"models/models/gemini"}"#, "gemini"),
        (r#"{"model":"tunedModels/gemini"}"#, "gemini"),
        (r#"{"model":"Gemini"}"#, "gemini"),
    ] {
        let error = named(body, path).unwrap_err();
        assert_eq!((error, error.field()), (BodyError::OtherModel, Some("model")), "{body}");
    }
    let kept = named(r#"{"content":{"text":"hi"}}"#, "m").unwrap();
    assert_eq!((kept.prompt_text_bytes, kept.body().len()), (6, 25));
}

/// Of two names one is checked, and an upstream may heed the other.
#[test]
fn a_body_names_one_model_however_often() {
    for (shape, body) in [
        (Shape::OllamaShow, r#"{"model":"m","name":"m"}"#),
        (Shape::OllamaShow, r#"{"name":"m","model":"m"}"#),
        (Shape::BatchEmbedContents, r#"{"requests":[{"model":"m"},{},{"model":"models/m"}],"model":"m"}"#),
        (Shape::BatchEmbedContents, r#"{"model":"models/m","requests":null}"#),
        (Shape::GeminiCountTokens, r#"{"model":"m","generateContentRequest":{"model":"models/m"}}"#),
    ] {
        assert!(scan_text(body, shape).unwrap().model.is_some(), "{body}");
    }
    for (shape, body) in [
        (Shape::OllamaShow, r#"{"model":"m","name":"x"}"#),
        (Shape::OllamaShow, r#"{"model":"models/m","name":"m"}"#),
        (Shape::BatchEmbedContents, r#"{"requests":[{"model":"m"},{"model":"x"}]}"#),
        (Shape::BatchEmbedContents, r#"{"requests":[{"model":"x"}],"model":"m"}"#),
        (Shape::GeminiCountTokens, r#"{"model":"m","generate_content_request":{"model":"x"}}"#),
    ] {
        assert_eq!(scan_text(body, shape).unwrap_err(), BodyError::OtherModel, "{body}");
    }
    let batch = |body| scan_text(body, Shape::BatchEmbedContents).unwrap().with_model("m".to_owned());
    assert!(batch(r#"{"requests":[{"model":"models/m"}]}"#).is_ok());
    assert_eq!(batch(r#"{"requests":[{"model":"models/x"}]}"#).unwrap_err(), BodyError::OtherModel);
}

#[test]
fn a_list_of_requests_is_one_of_objects() {
    for body in
        [r#"{"requests":{}}"#, r#"{"requests":[1]}"#, r#"{"requests":[[{"model":"m"}]]}"#, r#"{"requests":"m"}"#]
    {
        let error = scan_text(body, Shape::BatchEmbedContents).unwrap_err();
        assert!(matches!(error, BodyError::WrongType { name: "requests", .. }), "{body}: {error}");
    }
    for body in [r#"{"requests":[{"model":"m","model":"m"}]}"#, r#"{"requests":[{"Model":"m"}]}"#] {
        assert_eq!(scan_text(body, Shape::BatchEmbedContents).unwrap_err().field(), Some("requests.model"), "{body}");
    }
}

#[test]
fn no_answer_is_made_in_the_background() {
    let scan = |value: &str| scan_text(&format!(r#"{{"model":"m","background":{value}}}"#), Shape::Responses);
    assert!(scan("false").is_ok() && scan("null").is_ok());
    let error = scan("true").unwrap_err();
    assert_eq!((error, error.field()), (BodyError::Background { offset: 26 }, Some("background")));
    // Some servers take these for `true`.
    for value in [r#""true""#, "1", "[true]"] {
        assert!(matches!(scan(value), Err(BodyError::WrongType { name: "background", .. })), "{value}");
    }
    assert!(scan_text(r#"{"model":"m","background":true}"#, Shape::Chat).is_ok(), "it means nothing there");
}

#[test]
fn json_is_no_form() {
    let error = scan_text(r#"{"model":"m"}"#, Shape::Form).unwrap_err();
    assert_eq!(error.to_string(), "the content-type is not that of a form: send multipart/form-data");
}
