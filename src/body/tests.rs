use super::*;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

pub(super) fn scan_text(text: &str, shape: Shape) -> Result<Scanned, BodyFault> {
    scan(&Bytes::copy_from_slice(text.as_bytes()), shape)
}

fn chat(text: &str) -> Scanned {
    scan_text(text, Shape::Chat).unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn fault(text: &str) -> BodyFault {
    scan_text(text, Shape::Chat).expect_err(text)
}

#[test]
fn reads_what_admission_needs() {
    let body = r#" {"model":"llama-3","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":7,
        "n":2,"best_of":3,"stream_options":{"x":[{}],"include_usage":true},"other":{"model":1,"stream":"x"}} "#;
    let scanned = chat(body);
    assert_eq!(scanned.model.as_deref(), Some("llama-3"));
    assert!(scanned.stream && scanned.client_wants_usage);
    assert_eq!((scanned.maximum, scanned.choices), (Some(7), 3));
    assert_eq!((scanned.prompt_text_bytes, scanned.media, scanned.prompt_tokens_given), (17, 0, 0));
    assert_eq!(scanned.body(), body.as_bytes());
}

#[test]
fn what_is_not_stated_has_its_default() {
    for body in ["{}", "{ }", r#"{"stream":null,"max_tokens":null,"n":null,"stream_options":null,"x":1}"#] {
        let scanned = chat(body);
        assert_eq!((scanned.model, scanned.stream, scanned.client_wants_usage), (None, false, false), "{body}");
        assert_eq!((scanned.maximum, scanned.choices, scanned.prompt_text_bytes), (None, 1, 0), "{body}");
    }
}

#[test]
fn the_model_is_decoded() {
    for (written, meant) in [
        (r"m\u006f\u00e9\u20AC", "moé€"),
        (r"\ud83d\ude00 \\u0041 \/", "😀 \\u0041 /"),
        (r#"a\"b\n\t\r\b\f"#, "a\"b\n\t\r\u{8}\u{c}"),
        ("Qwen/千问", "Qwen/千问"),
        ("", ""),
    ] {
        assert_eq!(chat(&format!(r#"{{"model":"{written}"}}"#)).model.as_deref(), Some(meant));
    }
}

#[test]
fn a_model_longer_than_any_path_is_refused() {
    assert!(chat(&format!(r#"{{"model":"{}"}}"#, "m".repeat(4096))).model.is_some());
    assert_eq!(fault(&format!(r#"{{"model":"{}"}}"#, "m".repeat(4097))).field(), Some("model"));
}

#[test]
fn the_maximum_is_the_greatest_stated_where_one_of_the_apis_own_is() {
    let cases = [
        (r#"{"max_tokens":5}"#, Some(5), Some(5)),
        (r#"{"max_completion_tokens":5}"#, Some(5), None),
        (r#"{"max_tokens":5,"max_completion_tokens":9}"#, Some(9), Some(9)),
        (r#"{"max_tokens":9,"max_completion_tokens":5}"#, Some(9), Some(9)),
        (r#"{"max_tokens":5,"n_predict":70}"#, Some(70), Some(70)),
        (r#"{"n_predict":70}"#, None, None),
        (r#"{"max_tokens":0}"#, None, Some(0)),
        (r#"{"max_tokens":0,"max_completion_tokens":3}"#, Some(3), Some(3)),
        (r#"{"max_tokens":18446744073709551616}"#, Some(u64::MAX), Some(u64::MAX)),
    ];
    for (body, of_chat, of_completions) in cases {
        assert_eq!(chat(body).maximum, of_chat, "{body}");
        assert_eq!(scan_text(body, Shape::Completions).unwrap().maximum, of_completions, "{body}");
        assert_eq!(scan_text(body, Shape::Embeddings).unwrap().maximum, None, "{body}");
    }
}

#[test]
fn choices_are_multiplied_by_prompts_for_completions_only() {
    let cases = [
        (r#"{"n":0}"#, 1, 1),
        (r#"{"n":3,"prompt":"a"}"#, 3, 3),
        (r#"{"n":3,"n_cmpl":4,"prompt":["a","b"]}"#, 8, 4),
        (r#"{"prompt":[[1,2],[3],[4]]}"#, 3, 1),
        (r#"{"prompt":[1,2,3],"best_of":2}"#, 2, 2),
        (r#"{"prompt":["a"],"prompt_embeds":["b","c"]}"#, 3, 1),
        (r#"{"n":99999999999999999999,"prompt":["a","b"]}"#, u64::MAX, u64::MAX),
    ];
    for (body, of_completions, of_chat) in cases {
        assert_eq!(scan_text(body, Shape::Completions).unwrap().choices, of_completions, "{body}");
        assert_eq!(chat(body).choices, of_chat, "{body}");
    }
}

#[test]
fn the_prompt_is_weighed_by_field() {
    let cases = [
        (r#"{"prompt":"abcd","suffix":"ef","user":"x","metadata":{"y":"z"}}"#, (6, 0, 0)),
        (r#"{"prompt":[[1,2],[3]],"input":[4,5]}"#, (0, 0, 5)),
        (r#"{"messages":[{"content":"a"}],"tools":[{"b":"c"}],"functions":["d"],"response_format":"e"}"#, (12, 0, 0)),
        (r#"{"system":"a","documents":["b"],"chat_template":"c","chat_template_kwargs":{"d":1}}"#, (4, 0, 0)),
        (r#"{"prompt_embeds":["AAAA","BBBB"]}"#, (0, 2, 0)),
        (r#"{"messages":[{"image_url":{"url":"data:,AAAA"}}]}"#, (12, 1, 0)),
        (r#"{"input":["data:image/png;base64,AAAA"]}"#, (26, 0, 0)),
    ];
    for (body, expected) in cases {
        let Scanned { prompt_text_bytes, media, prompt_tokens_given, .. } = chat(body);
        assert_eq!((prompt_text_bytes, media, prompt_tokens_given), expected, "{body}");
    }
    let image = scan_text(r#"{"input":["data:image/png;base64,AAAA"]}"#, Shape::Embeddings).unwrap();
    assert_eq!((image.prompt_text_bytes, image.media), (0, 1));
}

#[test]
fn what_is_no_object_is_refused() {
    for body in ["", " \n", "[]", "null", "\"{}\"", "x", "1", "\u{a0}{}"] {
        assert_eq!(fault(body), BodyFault::NotAnObject, "{body:?}");
    }
    assert_eq!(fault("\u{feff}{}"), BodyFault::ByteOrderMark);
    let bytes = Bytes::from_static(b"{\"a\":\"\xff\"}");
    assert_eq!(scan(&bytes, Shape::Chat).unwrap_err(), BodyFault::NotUtf8 { offset: 6 });
    let overlong = Bytes::from_static(b"{\"\xc1\xad\":1}");
    assert_eq!(scan(&overlong, Shape::Chat).unwrap_err(), BodyFault::NotUtf8 { offset: 2 });
}

#[test]
fn what_follows_the_object_is_refused() {
    for (body, offset) in [("{}{}", 2), ("{} x", 3), ("{},", 2), ("{}\0", 2), ("{}\u{a0}", 2)] {
        assert_eq!(fault(body), BodyFault::TrailingBytes { offset }, "{body:?}");
    }
    chat("{} \t\r\n");
}

#[test]
fn a_field_that_counts_may_be_there_once_however_it_is_escaped() {
    for name in ["model", "mod\\u0065l", "\\u006d\\u006F\\u0064\\u0065\\u006c"] {
        let body = format!(r#"{{"model":"a","{name}":"b"}}"#);
        assert_eq!(fault(&body), BodyFault::DuplicateField { name: "model", offset: 13 });
    }
    for name in
        ["stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of", "prompt", "messages"]
    {
        let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
        let fault = fault(&format!(r#"{{"{name}":null,"{escaped}":null}}"#));
        assert!(matches!(fault, BodyFault::DuplicateField { .. }), "{fault}");
        assert_eq!(fault.field(), Some(name));
    }
    let nested = r#"{"stream_options":{"include_usage":true,"x":1,"include\u005fusage":false}}"#;
    assert_eq!(fault(nested).field(), Some("stream_options.include_usage"));
    assert_eq!(chat(r#"{"a":1,"a":2,"mod\u0065l":"m","b":{"model":1,"model":2}}"#).model.as_deref(), Some("m"));
}

#[test]
fn a_name_that_some_parsers_take_for_a_field_is_refused() {
    for (spelling, name) in
        [("Model", "model"), ("\\u004dodel", "model"), ("max_to\u{212a}ens", "max_tokens"), ("\u{17f}tream", "stream")]
    {
        assert_eq!(fault(&format!(r#"{{"{spelling}":null}}"#)), BodyFault::MiscasedField { name, offset: 1 });
    }
    let nested = r#"{"stream_options":{"Include_Usage":true}}"#;
    assert_eq!(fault(nested), BodyFault::MiscasedField { name: "stream_options.include_usage", offset: 19 });
    chat(r#"{"models":1,"mod":1,"model ":1,"MODEL\u0000":1,"max_completion_tokens_":1,"strёam":1}"#);
}

#[test]
fn wrong_types_are_refused_by_name() {
    let cases = [
        ("model", &["null", "1", "[\"a\"]", "{}", "true"][..]),
        ("stream", &["1", "\"true\"", "[]", "{}"]),
        ("stream_options", &["true", "[]", "\"\"", "1"]),
        ("max_tokens", &["16.0", "1e3", "-1", "-0", "\"5\"", "true", "[5]", "{}"]),
        ("max_completion_tokens", &["0.5", "-5"]),
        ("n_predict", &["-1"]),
        ("n", &["1.0", "\"1\""]),
        ("best_of", &["-2", "[]"]),
    ];
    for (name, values) in cases {
        for value in values {
            let fault = fault(&format!(r#"{{"{name}":{value}}}"#));
            assert!(matches!(fault, BodyFault::WrongType { offset, .. } if offset == name.len() + 4), "{name}:{value}");
            assert_eq!(fault.field(), Some(name));
        }
    }
    assert_eq!(fault(r#"{"stream_options":{"include_usage":1}}"#).field(), Some("stream_options.include_usage"));
}

#[test]
fn half_a_surrogate_pair_is_refused_where_it_would_be_compared() {
    for half in ["\\ud800", "\\udc00", "\\ud800\\ud800", "\\ud800x", "\\ude00\\ud83d"] {
        assert_eq!(fault(&format!(r#"{{"model":"a{half}"}}"#)), BodyFault::LoneSurrogate { offset: 9 });
        assert_eq!(fault(&format!(r#"{{"model{half}":1}}"#)), BodyFault::LoneSurrogate { offset: 1 });
        chat(&format!(r#"{{"messages":[{{"content":"cut{half}"}}]}}"#));
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    chat(&nested(127));
    assert_eq!(fault(&nested(128)), BodyFault::TooDeep { offset: 132 });
    assert_eq!(fault(&format!("{{\"messages\":{}", "[".repeat(1_000_000))), BodyFault::TooDeep { offset: 139 });
    assert_eq!(fault(&"{\"a\":".repeat(1_000_000)), BodyFault::TooDeep { offset: 640 });
    assert_eq!(fault(&"[".repeat(1_000_000)), BodyFault::NotAnObject);
}

#[test]
fn prompts_stay_out_of_logs() {
    let printed = format!("{:?}", chat(r#"{"model":"m","messages":[{"content":"confidential"}]}"#));
    assert!(printed.contains("\"m\"") && !printed.contains("confidential"), "{printed}");
}

#[test]
fn long_strings_are_read_whole() {
    let long = "ab c\u{e9}\\n".repeat(1 << 20); // 8 MiB
    let scanned = chat(&format!(r#"{{"messages":[{{"content":"{long}"}}],"model":"m"}}"#));
    assert_eq!(scanned.prompt_text_bytes, 7 + 7 * (1 << 20));
    assert_eq!(scanned.model.as_deref(), Some("m"));
}

#[test]
fn faults_say_what_where_and_what_to_do() {
    let cases = [
        ("", "the body is no JSON object: send one that begins with a brace"),
        ("{} {}", "the body goes on after the JSON object at byte 3: send one object and no more"),
        (r#"{"n":01}"#, "the body is not valid JSON at byte 6: a number may not begin with a zero"),
        (r#"{"n":1,"n":1}"#, "the field n is there a second time at byte 7: send it once"),
        (r#"{"N":1}"#, "the name at byte 1 differs from n in capitals only: write n"),
        (r#"{"n":1.5}"#, "the field n at byte 5 has the wrong type: send a non-negative integer or null"),
        (r#"{"model":"\ud800"}"#, "the string at byte 9 has half of a surrogate pair: send both halves or neither"),
    ];
    for (body, message) in cases {
        assert_eq!(fault(body).to_string(), message);
    }
}

/// Text with what JSON escapes, what it may, and what lies outside the basic plane.
pub(super) fn any_text() -> impl Strategy<Value = String> {
    let pieces = ["a", "data:", "\"", "\\", "/", "\n", "\u{0}", "\u{1f}", "é", "€", "😀", "\u{7f}", "{", "]", ","];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..6).prop_map(|pieces| pieces.concat())
}

fn any_value() -> impl Strategy<Value = Value> {
    let names = ["model", "include_usage", "url", "data", "input_audio", "content", "x", "é"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i16>().prop_map(|quarters| Value::from(f64::from(quarters) / 4.0)),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let member = (prop::sample::select(names.to_vec()).prop_map(str::to_owned), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            prop::collection::vec(member, 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), (0..9_u64).prop_map(Value::from), any::<u64>().prop_map(Value::from)]
}

fn boolean() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from)]
}

fn stream_options() -> impl Strategy<Value = Value> {
    let usage = prop::option::of(boolean()).prop_map(|usage| usage.map(|usage| ("include_usage".to_owned(), usage)));
    let other = prop::option::of(any_value()).prop_map(|other| other.map(|other| ("other".to_owned(), other)));
    let object = (usage, other).prop_map(|(usage, other)| Value::Object(usage.into_iter().chain(other).collect()));
    prop_oneof![1 => Just(Value::Null), 4 => object]
}

fn member() -> impl Strategy<Value = (String, Value)> {
    let numbers = &["max_tokens", "max_completion_tokens", "n_predict", "n", "best_of"][..];
    let values = &["messages", "prompt", "input", "tools", "prompt_embeds", "a", "é\n", "temperature"][..];
    prop_oneof![
        1 => any_text().prop_map(|model| ("model".to_owned(), Value::from(model))),
        1 => boolean().prop_map(|stream| ("stream".to_owned(), stream)),
        2 => stream_options().prop_map(|options| ("stream_options".to_owned(), options)),
        4 => (prop::sample::select(numbers), number()).prop_map(|(name, value)| (name.to_owned(), value)),
        4 => (prop::sample::select(values), any_value()).prop_map(|(name, value)| (name.to_owned(), value)),
    ]
}

/// A request's body: what it means and how it may be written.
pub(super) fn any_body() -> impl Strategy<Value = (Value, String)> {
    let object = prop::collection::vec(member(), 0..9).prop_map(|members| Value::Object(members.into_iter().collect()));
    (object, any::<bool>(), any::<bool>()).prop_map(|(value, pretty, escaped)| {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.unwrap();
        let text = if escaped { escape_beyond_ascii(&text) } else { text };
        (value, text)
    })
}

fn escape_beyond_ascii(text: &str) -> String {
    let mut units = [0; 2];
    let escape = |character: char| match character {
        ascii if ascii.is_ascii() => ascii.to_string(),
        other => other.encode_utf16(&mut units).iter().fold(String::new(), |text, unit| format!("{text}\\u{unit:04x}")),
    };
    text.chars().map(escape).collect()
}

pub(super) fn any_shape() -> impl Strategy<Value = Shape> {
    prop::sample::select(&[Shape::Chat, Shape::Completions, Shape::Embeddings][..])
}

fn expected_choices(value: &Value, shape: Shape) -> u64 {
    let stated = ["n", "best_of"].into_iter().filter_map(|name| value[name].as_u64()).max();
    let items = |value: &Value| match value {
        Value::Null => 0,
        Value::Array(items) => items.iter().filter(|item| !item.is_number()).count() as u64,
        _ => 1,
    };
    let prompts = ["prompt", "input", "prompt_embeds"].into_iter().map(|name| items(&value[name])).sum::<u64>();
    let prompts = if shape == Shape::Completions { prompts.max(1) } else { 1 };
    stated.unwrap_or(1).max(1).saturating_mul(prompts)
}

fn expected_maximum(value: &Value, shape: Shape) -> Option<u64> {
    let own = match shape {
        Shape::Chat => &["max_tokens", "max_completion_tokens"][..],
        Shape::Completions => &["max_tokens"],
        Shape::Embeddings => &[],
    };
    let own = own.iter().filter_map(|name| value[name].as_u64()).filter(|own| *own > 0 || shape != Shape::Chat).max();
    let foreign = ["max_completion_tokens", "n_predict"].into_iter().filter_map(|name| value[name].as_u64()).max();
    own.map(|own| own.max(foreign.unwrap_or(0)))
}

proptest! {
    #[test]
    fn agrees_with_a_parser_that_builds_a_tree((value, text) in any_body(), shape in any_shape()) {
        let scanned = scan_text(&text, shape).unwrap();
        prop_assert_eq!(scanned.model.as_deref(), value["model"].as_str());
        prop_assert_eq!(scanned.stream, value["stream"] == json!(true));
        prop_assert_eq!(scanned.client_wants_usage, value["stream_options"]["include_usage"] == json!(true));
        prop_assert_eq!(scanned.maximum, expected_maximum(&value, shape));
        prop_assert_eq!(scanned.choices, expected_choices(&value, shape));
    }

    #[test]
    fn weighs_the_decoded_text(text in any_text(), name in any_text()) {
        let value = Value::Object(Map::from_iter([(name.clone(), Value::from(text.clone()))]));
        let body = escape_beyond_ascii(&json!({"messages": [value]}).to_string());
        prop_assert_eq!(chat(&body).prompt_text_bytes, (text.len() + name.len()) as u64);
    }

    /// Whatever a stranger sends is read or refused, and what is read other parsers read as well.
    #[test]
    fn nothing_is_accepted_that_is_not_json(
        (_, text) in any_body(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), edit()), 1..4),
        shape in any_shape(),
    ) {
        let mut bytes = text.into_bytes();
        for (place, edit) in edits {
            let place = place.index(bytes.len() + 1);
            match edit {
                Edit::Cut => bytes.truncate(place),
                Edit::Drop => drop(bytes.splice(place..bytes.len().min(place + 1), [])),
                Edit::Put(byte) => bytes.insert(place, byte),
            }
        }
        let accepted = scan(&Bytes::from(bytes.clone()), shape).is_ok();
        let other = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok() && std::str::from_utf8(&bytes).is_ok();
        prop_assert!(!accepted || other);
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Cut,
    Drop,
    Put(u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let structural = prop::sample::select(&b"\"\\{}[],: 0-.e\n\x00tu\xef"[..]);
    prop_oneof![
        1 => Just(Edit::Cut),
        2 => Just(Edit::Drop),
        2 => structural.prop_map(Edit::Put),
        1 => any::<u8>().prop_map(Edit::Put),
    ]
}
