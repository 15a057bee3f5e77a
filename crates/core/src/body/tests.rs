mod apis;
pub(super) mod generate;
mod properties;

use super::*;

pub(super) fn scan_text(text: &str, shape: Shape) -> Result<Scanned, BodyError> {
    scan(&Bytes::copy_from_slice(text.as_bytes()), shape)
}

fn chat(text: &str) -> Scanned {
    scan_text(text, Shape::Chat).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error(text: &str) -> BodyError {
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
        (r#"a\"b\u00a0"#, "a\"b\u{a0}"),
        ("Qwen/千问", "Qwen/千问"),
    ] {
        assert_eq!(chat(&format!(r#"{{"model":"{written}"}}"#)).model.as_deref(), Some(meant));
    }
}

#[test]
fn a_model_without_a_name_with_a_long_one_or_with_control_characters_is_refused() {
    for written in ["", r"m1\u0000x", r"\n", r"a\u001b[2J", r"\u007f", "\u{7f}", r"\u0085", "\u{9f}"] {
        assert_eq!(error(&format!(r#"{{"model":"{written}"}}"#)).field(), Some("model"), "{written:?}");
    }
    let longest = r"\u00e9".repeat(128);
    assert_eq!(chat(&format!(r#"{{"model":"{longest}"}}"#)).model.map(|model| model.len()), Some(256));
    assert!(chat("{}").model.is_none(), "some APIs need none");
    assert!(chat(&format!(r#"{{"model":"{}"}}"#, "m".repeat(256))).model.is_some());
    assert_eq!(error(&format!(r#"{{"model":"{}"}}"#, "m".repeat(257))).field(), Some("model"));
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
        (r#"{"max_tokens":0,"max_completion_tokens":3}"#, None, Some(3)),
        (r#"{"max_tokens":null,"max_completion_tokens":3}"#, Some(3), None),
        (r#"{"max_tokens":-1}"#, None, None),
        (r#"{"max_tokens":-2,"max_completion_tokens":3}"#, None, None),
        (r#"{"max_tokens":3,"max_completion_tokens":-1}"#, None, None),
        (r#"{"max_tokens":3,"n_predict":-1}"#, None, None),
        (r#"{"max_tokens":3,"n_predict":0}"#, Some(3), Some(3)),
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
        (r#"{"n":0}"#, (1, 1), 1),
        (r#"{"n":3,"prompt":"a"}"#, (3, 1), 3),
        (r#"{"n":3,"n_cmpl":4,"prompt":["a","b"]}"#, (8, 2), 4),
        (r#"{"prompt":[[1,2],[3],[4]]}"#, (3, 3), 1),
        (r#"{"prompt":[1,2,3],"best_of":2}"#, (2, 1), 2),
        (r#"{"prompt":["a"],"prompt_embeds":["b","c"]}"#, (3, 3), 1),
        (r#"{"n":99999999999999999999,"prompt":["a","b"]}"#, (u64::MAX, 2), u64::MAX),
    ];
    for (body, of_completions, of_chat) in cases {
        let scanned = scan_text(body, Shape::Completions).unwrap();
        assert_eq!((scanned.choices, scanned.prompts), of_completions, "{body}");
        assert_eq!((chat(body).choices, chat(body).prompts), (of_chat, 1), "{body}");
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
        assert_eq!(error(body), BodyError::NotAnObject, "{body:?}");
    }
    assert_eq!(error("\u{feff}{}"), BodyError::ByteOrderMark);
    let bytes = Bytes::from_static(b"{\"a\":\"\xff\"}");
    assert_eq!(scan(&bytes, Shape::Chat).unwrap_err(), BodyError::NotUtf8 { offset: 6 });
    let overlong = Bytes::from_static(b"{\"\xc1\xad\":1}");
    assert_eq!(scan(&overlong, Shape::Chat).unwrap_err(), BodyError::NotUtf8 { offset: 2 });
}

#[test]
fn what_follows_the_object_is_refused() {
    for (body, offset) in [("{}{}", 2), ("{} x", 3), ("{},", 2), ("{}\0", 2), ("{}\u{a0}", 2)] {
        assert_eq!(error(body), BodyError::TrailingBytes { offset }, "{body:?}");
    }
    chat("{} \t\r\n");
}

#[test]
fn a_field_that_counts_may_be_there_once_however_it_is_escaped() {
    for name in ["model", "mod\\u0065l", "\\u006d\\u006F\\u0064\\u0065\\u006c"] {
        let body = format!(r#"{{"model":"a","{name}":"b"}}"#);
        assert_eq!(error(&body), BodyError::DuplicateField { name: "model", offset: 13 });
    }
    for name in
        ["stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of", "prompt", "messages"]
    {
        let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
        let error = error(&format!(r#"{{"{name}":null,"{escaped}":null}}"#));
        assert!(matches!(error, BodyError::DuplicateField { .. }), "{error}");
        assert_eq!(error.field(), Some(name));
    }
    let nested = r#"{"stream_options":{"include_usage":true,"x":1,"include\u005fusage":false}}"#;
    assert_eq!(error(nested).field(), Some("stream_options.include_usage"));
    assert_eq!(chat(r#"{"a":1,"a":2,"mod\u0065l":"m","b":{"model":1,"model":2}}"#).model.as_deref(), Some("m"));
}

#[test]
fn a_name_that_some_parsers_take_for_a_field_is_refused() {
    for (spelling, name) in
        [("Model", "model"), ("\\u004dodel", "model"), ("max_to\u{212a}ens", "max_tokens"), ("\u{17f}tream", "stream")]
    {
        assert_eq!(error(&format!(r#"{{"{spelling}":null}}"#)), BodyError::MiscasedField { name, offset: 1 });
    }
    let nested = r#"{"stream_options":{"Include_Usage":true}}"#;
    assert_eq!(error(nested), BodyError::MiscasedField { name: "stream_options.include_usage", offset: 19 });
    chat(r#"{"models":1,"mod":1,"model ":1,"MODEL\u0000":1,"max_completion_tokens_":1,"strёam":1}"#);
}

#[test]
fn wrong_types_are_refused_by_name() {
    let cases = [
        ("model", &["null", "1", "[\"a\"]", "{}", "true"][..]),
        ("stream", &["1", "\"true\"", "[]", "{}"]),
        ("stream_options", &["true", "[]", "\"\"", "1"]),
        ("max_tokens", &["16.0", "1e3", "-1.5", "-1e3", "\"5\"", "true", "[5]", "{}"]),
        ("max_completion_tokens", &["0.5", "-0.5"]),
        ("n_predict", &["-1.0"]),
        ("n", &["1.0", "\"1\""]),
        ("best_of", &["-2", "[]"]),
    ];
    for (name, values) in cases {
        for value in values {
            let error = error(&format!(r#"{{"{name}":{value}}}"#));
            assert!(matches!(error, BodyError::WrongType { offset, .. } if offset == name.len() + 4), "{name}:{value}");
            assert_eq!(error.field(), Some(name));
        }
    }
    assert_eq!(error(r#"{"stream_options":{"include_usage":1}}"#).field(), Some("stream_options.include_usage"));
}

#[test]
fn half_a_surrogate_pair_is_refused_where_it_would_be_compared() {
    for half in ["\\ud800", "\\udc00", "\\ud800\\ud800", "\\ud800x", "\\ude00\\ud83d"] {
        assert_eq!(error(&format!(r#"{{"model":"a{half}"}}"#)), BodyError::LoneSurrogate { offset: 9 });
        assert_eq!(error(&format!(r#"{{"model{half}":1}}"#)), BodyError::LoneSurrogate { offset: 1 });
        chat(&format!(r#"{{"messages":[{{"content":"cut{half}"}}]}}"#));
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    chat(&nested(127));
    assert_eq!(error(&nested(128)), BodyError::TooDeep { offset: 132 });
    assert_eq!(error(&format!("{{\"messages\":{}", "[".repeat(1_000_000))), BodyError::TooDeep { offset: 139 });
    assert_eq!(error(&"{\"a\":".repeat(1_000_000)), BodyError::TooDeep { offset: 640 });
    assert_eq!(error(&"[".repeat(1_000_000)), BodyError::NotAnObject);
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
        ("", "the body is not a JSON object: send one that begins with a brace"),
        ("{} {}", "the body goes on after the JSON object at byte 3: send one object and no more"),
        (r#"{"n":01}"#, "the body is not valid JSON at byte 6: a number may not begin with a zero"),
        (r#"{"n":1,"n":1}"#, "the field n appears a second time at byte 7: send it once"),
        (r#"{"N":1}"#, "the name at byte 1 differs from n in capitals only: write n"),
        (r#"{"n":1.5}"#, "the field n at byte 5 has the wrong type: send a non-negative integer or null"),
        (r#"{"model":"\ud800"}"#, "the string at byte 9 has half of a surrogate pair: send both halves or neither"),
    ];
    for (body, message) in cases {
        assert_eq!(error(body).to_string(), message);
    }
}
