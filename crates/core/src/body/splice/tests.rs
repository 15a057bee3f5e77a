use super::*;
use crate::body::{
    Shape,
    tests::{
        generate::{SHAPES, any_body, any_request, at, layout, name_in},
        scan_text,
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

const USAGE: Change =
    Change { include_usage: true, maximum: None, name: MaximumName::MaxTokens, model: None, priority: None };

fn bound(maximum: u64) -> Change {
    Change { maximum: Some(maximum), ..Change::default() }
}

fn both(maximum: u64) -> Change {
    Change { maximum: Some(maximum), ..USAGE }
}

fn spliced(body: &str, shape: Shape, change: &Change) -> String {
    String::from_utf8(scan_text(body, shape).unwrap().splice(change).to_vec()).unwrap()
}

#[test]
fn usage_is_asked_for_however_the_client_put_it() {
    let cases = [
        ("{}", r#"{"stream_options":{"include_usage":true}}"#),
        (" { \"a\" : 1 } ", " {\"stream_options\":{\"include_usage\":true}, \"a\" : 1 } "),
        (r#"{"stream_options": null }"#, r#"{"stream_options": {"include_usage":true} }"#),
        (r#"{"stream_options": { } }"#, r#"{"stream_options": {"include_usage":true } }"#),
        (r#"{"stream_options":{"x":[]}}"#, r#"{"stream_options":{"include_usage":true,"x":[]}}"#),
        (r#"{"stream_options":{"include_usage": false}}"#, r#"{"stream_options":{"include_usage": true}}"#),
        (r#"{"stream_options":{"x":1,"include_usage":null}}"#, r#"{"stream_options":{"x":1,"include_usage":true}}"#),
        (r#"{"str\u0065am_options":null}"#, r#"{"str\u0065am_options":{"include_usage":true}}"#),
    ];
    for (body, expected) in cases {
        assert_eq!(spliced(body, Shape::Chat, &USAGE), expected);
    }
}

#[test]
fn the_maximum_is_lowered_or_stated() {
    let cases = [
        (Shape::Chat, "{}", r#"{"max_tokens":5}"#),
        (Shape::Chat, r#"{"n":1}"#, r#"{"max_tokens":5,"n":1}"#),
        (Shape::Chat, r#"{"max_tokens": 600 }"#, r#"{"max_tokens": 5 }"#),
        (Shape::Chat, r#"{"max_tokens":null}"#, r#"{"max_tokens":5}"#),
        (Shape::Chat, r#"{"max_tokens":0}"#, r#"{"max_tokens":5}"#),
        (Shape::Completions, r#"{"max_tokens":0}"#, r#"{"max_tokens":0}"#),
        (Shape::Chat, r#"{"max_completion_tokens":99}"#, r#"{"max_completion_tokens":5}"#),
        (Shape::Completions, r#"{"max_completion_tokens":99}"#, r#"{"max_tokens":5,"max_completion_tokens":5}"#),
        (
            Shape::Chat,
            r#"{"max_tokens":3,"max_completion_tokens":99}"#,
            r#"{"max_tokens":3,"max_completion_tokens":5}"#,
        ),
        (
            Shape::Chat,
            r#"{"max_completion_tokens":99,"max_tokens":null}"#,
            r#"{"max_completion_tokens":5,"max_tokens":null}"#,
        ),
        (Shape::Chat, r#"{"n_predict":99}"#, r#"{"max_tokens":5,"n_predict":5}"#),
        (Shape::Chat, r#"{"max_tokens":-1}"#, r#"{"max_tokens":5}"#),
        (Shape::Chat, r#"{"max_completion_tokens": -2 }"#, r#"{"max_tokens": 5 }"#),
        (
            Shape::Chat,
            r#"{"max_tokens":-1,"max_completion_tokens":3,"n_predict":-1}"#,
            r#"{"max_tokens":5,"max_completion_tokens":3,"n_predict":5}"#,
        ),
        (Shape::Chat, r#"{"max_tokens":0,"max_completion_tokens":3}"#, r#"{"max_tokens":5,"max_completion_tokens":3}"#),
        (Shape::Chat, r#"{"n_predict":-1}"#, r#"{"max_tokens":5,"n_predict":5}"#),
        (Shape::Completions, r#"{"max_tokens":-1}"#, r#"{"max_tokens":5}"#),
        (Shape::Chat, r#"{"max_tokens":99999999999999999999}"#, r#"{"max_tokens":5}"#),
    ];
    for (shape, body, expected) in cases {
        assert_eq!(spliced(body, shape, &bound(5)), expected);
    }
}

#[test]
fn a_maximum_of_ours_goes_where_it_is_told_to_unless_the_client_said_something() {
    let (old, new) = (MaximumName::MaxTokens, MaximumName::MaxCompletionTokens);
    assert_eq!((old.other(), new.other()), (new, old));
    for (body, open, in_old, in_new) in [
        ("{}", Some(OpenMaximum::Any), r#"{"max_tokens":5}"#, r#"{"max_completion_tokens":5}"#),
        (
            r#"{"max_tokens":null}"#,
            Some(OpenMaximum::Named(old)),
            r#"{"max_tokens":5}"#,
            r#"{"max_completion_tokens":5}"#,
        ),
        (
            r#"{"max_completion_tokens": null }"#,
            Some(OpenMaximum::Named(new)),
            r#"{"max_tokens": 5 }"#,
            r#"{"max_completion_tokens": 5 }"#,
        ),
        (
            r#"{"max_completion_tokens":null,"max_tokens":null}"#,
            Some(OpenMaximum::Any),
            r#"{"max_completion_tokens":null,"max_tokens":5}"#,
            r#"{"max_completion_tokens":5,"max_tokens":null}"#,
        ),
        (
            r#"{"n_predict":9}"#,
            Some(OpenMaximum::Any),
            r#"{"max_tokens":5,"n_predict":5}"#,
            r#"{"max_completion_tokens":5,"n_predict":5}"#,
        ),
        (r#"{"max_tokens":9}"#, None, r#"{"max_tokens":5}"#, r#"{"max_tokens":5}"#),
        (
            r#"{"max\u005ftokens":-1}"#,
            Some(OpenMaximum::Named(old)),
            r#"{"max\u005ftokens":5}"#,
            r#"{"max_completion_tokens":5}"#,
        ),
        (
            r#"{"max_completion_tokens" : 0,"n_predict":-1}"#,
            Some(OpenMaximum::Named(new)),
            r#"{"max_tokens" : 5,"n_predict":5}"#,
            r#"{"max_completion_tokens" : 5,"n_predict":5}"#,
        ),
        (
            r#"{"max_completion_tokens":-1,"max_tokens":-1}"#,
            None,
            r#"{"max_completion_tokens":5,"max_tokens":5}"#,
            r#"{"max_completion_tokens":5,"max_tokens":5}"#,
        ),
        (
            r#"{"max_completion_tokens":9,"max_tokens":null}"#,
            None,
            r#"{"max_completion_tokens":5,"max_tokens":null}"#,
            r#"{"max_completion_tokens":5,"max_tokens":null}"#,
        ),
        (r#"{"max_completion_tokens":9}"#, None, r#"{"max_completion_tokens":5}"#, r#"{"max_completion_tokens":5}"#),
    ] {
        assert_eq!(scan_text(body, Shape::Chat).unwrap().open_maximum(), open, "{body}");
        for (name, expected) in [(old, in_old), (new, in_new)] {
            assert_eq!(spliced(body, Shape::Chat, &Change { name, ..bound(5) }), expected, "{body}");
        }
    }
    for shape in SHAPES.into_iter().filter(|shape| *shape != Shape::Chat) {
        assert_eq!(scan_text("{}", shape).unwrap().open_maximum(), None, "{shape:?} has one field at most");
        assert_eq!(
            spliced("{}", shape, &Change { name: new, ..bound(5) }),
            spliced("{}", shape, &bound(5)),
            "{shape:?}"
        );
    }
}

#[test]
fn both_changes_are_made_at_once() {
    let both = both(5);
    let added = r#"{"stream_options":{"include_usage":true},"max_tokens":5"#;
    assert_eq!(spliced("{}", Shape::Chat, &both), format!("{added}}}"));
    assert_eq!(spliced("{\"a\":1}", Shape::Chat, &both), format!("{added},\"a\":1}}"));
    assert_eq!(
        spliced(r#"{"max_tokens":10,"b":"é","stream_options":{"include_usage":false}}"#, Shape::Completions, &both),
        r#"{"max_tokens":5,"b":"é","stream_options":{"include_usage":true}}"#
    );
}

#[test]
fn the_maximum_goes_into_each_apis_own_field() {
    let cases = [
        (Shape::Responses, "{}", r#"{"max_output_tokens":5}"#),
        (Shape::Responses, r#"{"max_output_tokens":600}"#, r#"{"max_output_tokens":5}"#),
        (
            Shape::Responses,
            r#"{"max_tokens":600,"n_predict":3}"#,
            r#"{"max_output_tokens":5,"max_tokens":5,"n_predict":3}"#,
        ),
        (Shape::Messages, r#"{"max_tokens":600,"system":"s"}"#, r#"{"max_tokens":5,"system":"s"}"#),
        (Shape::Messages, r#"{"system":"s"}"#, r#"{"max_tokens":5,"system":"s"}"#),
        (Shape::OllamaChat, "{}", r#"{"options":{"num_predict":5}}"#),
        (Shape::OllamaChat, r#"{"a":1}"#, r#"{"options":{"num_predict":5},"a":1}"#),
        (Shape::OllamaChat, r#"{"options": null }"#, r#"{"options": {"num_predict":5} }"#),
        (Shape::OllamaChat, r#"{"options": { } }"#, r#"{"options": {"num_predict":5 } }"#),
        (Shape::OllamaGenerate, r#"{"options":{"seed": 1}}"#, r#"{"options":{"num_predict":5,"seed": 1}}"#),
        (Shape::OllamaGenerate, r#"{"options":{"num_predict": -1 }}"#, r#"{"options":{"num_predict": 5 }}"#),
        (Shape::OllamaGenerate, r#"{"options":{"num_predict":-2}}"#, r#"{"options":{"num_predict":5}}"#),
        (Shape::OllamaGenerate, r#"{"options":{"num_predict":0}}"#, r#"{"options":{"num_predict":5}}"#),
        (Shape::OllamaGenerate, r#"{"options":{"num_predict":null}}"#, r#"{"options":{"num_predict":5}}"#),
        (Shape::OllamaGenerate, r#"{"options":{"num_predict":3}}"#, r#"{"options":{"num_predict":3}}"#),
        (Shape::GenerateContent, "{}", r#"{"generationConfig":{"maxOutputTokens":5}}"#),
        (
            Shape::GenerateContent,
            r#"{"generation_config":{"seed":1}}"#,
            r#"{"generation_config":{"maxOutputTokens":5,"seed":1}}"#,
        ),
        (
            Shape::GenerateContent,
            r#"{"generation_config":{"max_output_tokens":99}}"#,
            r#"{"generation_config":{"max_output_tokens":5}}"#,
        ),
        (Shape::GenerateContent, r#"{"generationConfig":null}"#, r#"{"generationConfig":{"maxOutputTokens":5}}"#),
    ];
    for (shape, body, expected) in cases {
        assert_eq!(spliced(body, shape, &bound(5)), expected);
    }
}

#[test]
fn nothing_is_copied_where_nothing_changes() {
    let body = Bytes::from_static(br#"{"max_tokens":5,"stream_options":{"include_usage":true}}"#);
    for (shape, change) in [(Shape::Chat, both(5)), (Shape::Completions, Change::default())] {
        let same = super::super::scan(&body, shape).unwrap().splice(&change);
        assert_eq!((same.as_ptr(), same.len()), (body.as_ptr(), body.len()));
    }
}

#[test]
fn what_cannot_be_bounded_and_need_not_be_asked_is_left_alone() {
    let body = Bytes::from_static(br#"{"model":"m","max_tokens":99,"input":"a"}"#);
    for shape in SHAPES {
        let scanned = super::super::scan(&body, shape).unwrap();
        let result = scanned.splice(&both(5));
        assert_eq!(result.as_ptr() == body.as_ptr(), layout(shape).own.is_empty(), "{shape:?}");
        let asks = matches!(shape, Shape::Chat | Shape::Completions);
        assert_eq!(String::from_utf8_lossy(&result).contains("include_usage"), asks, "{shape:?}");
    }
}

/// What a parser that builds a tree would make of the change.
fn changed(mut value: Value, shape: Shape, change: &Change) -> Value {
    let asks = matches!(shape, Shape::Chat | Shape::Completions);
    if change.include_usage && asks {
        if !value["stream_options"].is_object() {
            value["stream_options"] = json!({});
        }
        value["stream_options"]["include_usage"] = json!(true);
    }
    let (layout, Some(maximum)) = (layout(shape), change.maximum) else { return value };
    let Some(first) = layout.own.first() else { return value };
    let is_stated = layout.own.iter().any(|path| at(&value, path).is_number());
    let open = only_open(&value).filter(|_| shape == Shape::Chat);
    if let Some(named) = open {
        value.as_object_mut().unwrap().remove(named);
        value[change.name.as_str()] = json!(maximum);
    }
    let is_over = |stated: &Value| stated.as_u64().map_or(stated.is_i64(), |stated| stated > maximum);
    for path in layout.own {
        let stated = at(&value, path);
        if is_over(stated) || (stated == 0 && shape != Shape::Completions) {
            set(&mut value, path, maximum);
        }
    }
    for name in layout.foreign {
        if is_over(&value[*name]) {
            value[*name] = json!(maximum);
        }
    }
    if !is_stated && open.is_none() {
        let path = if shape == Shape::Chat { &[change.name.as_str()] } else { *first };
        set(&mut value, path, maximum);
    }
    value
}

/// The one of a chat's fields that is there, if it states no maximum.
fn only_open(value: &Value) -> Option<&'static str> {
    let fields = ["max_tokens", "max_completion_tokens"].into_iter().filter(|name| value.get(*name).is_some());
    let [only] = fields.collect::<Vec<_>>()[..] else { return None };
    let stated = &value[only];
    (stated.is_null() || stated.as_i64().is_some_and(|stated| stated <= 0)).then_some(only)
}

/// Sets what is at `path`, in whichever case, and makes the objects that lead there.
fn set(value: &mut Value, path: &[&'static str], number: u64) {
    let Some((first, rest)) = path.split_first() else { return *value = json!(number) };
    if !value.is_object() {
        *value = json!({});
    }
    let name = name_in(value, first);
    set(&mut value[name], rest, number);
}

fn any_change() -> impl Strategy<Value = Change> {
    let maximum = prop::option::of(prop_oneof![1..9_u64, 1..u64::MAX]);
    let name = prop::sample::select(vec![MaximumName::MaxTokens, MaximumName::MaxCompletionTokens]);
    (any::<bool>(), maximum, name).prop_map(|(include_usage, maximum, name)| Change {
        include_usage,
        maximum,
        name,
        ..Change::default()
    })
}

/// How many bytes of `old` went and how many of `new` came, in one run.
fn replaced(old: &str, new: &str) -> (usize, usize) {
    let before = old.bytes().zip(new.bytes()).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old.as_bytes()[before..], &new.as_bytes()[before..]);
    let after = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    (old.len() - after, new.len() - after)
}

proptest! {
    #[test]
    fn changes_what_it_should_and_nothing_else((shape, value, text) in any_request(), change in any_change()) {
        let scanned = scan_text(&text, shape).unwrap();
        let once = spliced(&text, shape, &change);
        let again = scan_text(&once, shape).unwrap();
        let asks = change.include_usage && matches!(shape, Shape::Chat | Shape::Completions);
        prop_assert_eq!(again.client_wants_usage, scanned.client_wants_usage || asks);
        if let (Some(maximum), false) = (change.maximum, layout(shape).own.is_empty()) {
            let expected = scanned.maximum.unwrap_or(maximum).min(maximum);
            prop_assert_eq!(again.maximum, Some(expected));
        }
        prop_assert_eq!(spliced(&once, shape, &change), once.clone());
        prop_assert_eq!(serde_json::from_str::<Value>(&once).unwrap(), changed(value, shape, &change));
    }

    /// One change is one run of bytes: at most `false` goes, at most a member comes.
    #[test]
    fn all_bytes_before_and_after_a_change_stay((_, text) in any_body(Shape::Chat)) {
        let result = spliced(&text, Shape::Chat, &USAGE);
        let (gone, come) = replaced(&text, &result);
        prop_assert!(gone <= "false".len(), "{text} -> {result}");
        prop_assert!(come <= r#""stream_options":{"include_usage":true},"#.len(), "{text} -> {result}");
    }

    /// The same for a maximum that has one place only.
    #[test]
    fn all_bytes_before_and_after_a_maximum_stay(
        (shape, text) in prop::sample::select(&[Shape::Messages, Shape::OllamaChat, Shape::GenerateContent][..])
            .prop_flat_map(|shape| any_body(shape).prop_map(move |(_, text)| (shape, text))),
        maximum in 1..99_u64,
    ) {
        let result = spliced(&text, shape, &bound(maximum));
        let (gone, come) = replaced(&text, &result);
        prop_assert!(gone <= u64::MAX.to_string().len(), "{text} -> {result}");
        prop_assert!(come <= r#""generationConfig":{"maxOutputTokens":99},"#.len(), "{text} -> {result}");
    }
}

#[test]
fn a_model_is_renamed_wherever_it_is_named() {
    let change = Change { model: Some("llama-3.1 \"x\"".into()), ..Change::default() };
    for (shape, body, expected) in [
        (Shape::Chat, r#"{"model": "gpt-4o","n":1}"#, r#"{"model": "llama-3.1 \"x\"","n":1}"#),
        (Shape::Embeddings, r#"{"m\u006fdel":"gpt\u002d4o"}"#, r#"{"m\u006fdel":"llama-3.1 \"x\""}"#),
        (Shape::OllamaShow, r#"{"model":"m","name":"m"}"#, r#"{"model":"llama-3.1 \"x\"","name":"llama-3.1 \"x\""}"#),
        (Shape::Messages, r#"{"messages":[{"model":"m"}]}"#, r#"{"messages":[{"model":"m"}]}"#),
    ] {
        assert_eq!(spliced(body, shape, &change), expected);
    }
    let form = "--X\r\ncontent-disposition: form-data; name=model\r\n\r\nwhisper-1\r\n--X--";
    let scanned = super::super::scan_form(&Bytes::from(form), "multipart/form-data; boundary=X").unwrap();
    let change = Change { model: Some("large-v3".into()), ..Change::default() };
    assert_eq!(scanned.splice(&change), form.replace("whisper-1", "large-v3"));
}

#[test]
fn a_priority_takes_the_place_of_the_clients() {
    let change = Change { priority: Some(-7), ..Change::default() };
    for (shape, body, expected) in [
        (Shape::Chat, r#"{"model":"m"}"#, r#"{"priority":-7,"model":"m"}"#),
        (Shape::Chat, r#"{"priority":{"a":[1]} ,"model":"m"}"#, r#"{"priority":-7 ,"model":"m"}"#),
        (Shape::Responses, r#"{"priority":null}"#, r#"{"priority":-7}"#),
        (Shape::Messages, r#"{"priority":3}"#, r#"{"priority":3}"#),
    ] {
        assert_eq!(spliced(body, shape, &change), expected);
    }
}
