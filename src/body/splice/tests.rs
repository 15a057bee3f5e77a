use super::*;
use crate::body::tests::{any_body, any_shape, scan_text};
use proptest::prelude::*;
use serde_json::{Value, json};

const USAGE: Change = Change { include_usage: true, maximum: None };

fn bound(maximum: u64) -> Change {
    Change { include_usage: false, maximum: Some(maximum) }
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
        (Shape::Chat, r#"{"max_tokens":99999999999999999999}"#, r#"{"max_tokens":5}"#),
    ];
    for (shape, body, expected) in cases {
        assert_eq!(spliced(body, shape, &bound(5)), expected);
    }
}

#[test]
fn both_changes_are_made_at_once() {
    let both = Change { include_usage: true, maximum: Some(5) };
    let added = r#"{"stream_options":{"include_usage":true},"max_tokens":5"#;
    assert_eq!(spliced("{}", Shape::Chat, &both), format!("{added}}}"));
    assert_eq!(spliced("{\"a\":1}", Shape::Chat, &both), format!("{added},\"a\":1}}"));
    assert_eq!(
        spliced(r#"{"max_tokens":10,"b":"é","stream_options":{"include_usage":false}}"#, Shape::Completions, &both),
        r#"{"max_tokens":5,"b":"é","stream_options":{"include_usage":true}}"#
    );
}

#[test]
fn nothing_is_copied_where_nothing_changes() {
    let body = Bytes::from_static(br#"{"max_tokens":5,"stream_options":{"include_usage":true}}"#);
    let all = Change { include_usage: true, maximum: Some(5) };
    for (shape, change) in [(Shape::Chat, all), (Shape::Completions, Change::default())] {
        let same = super::super::scan(&body, shape).unwrap().splice(&change);
        assert_eq!((same.as_ptr(), same.len()), (body.as_ptr(), body.len()));
    }
    let input = Bytes::from_static(br#"{"input":"a"}"#);
    assert_eq!(super::super::scan(&input, Shape::Embeddings).unwrap().splice(&all).as_ptr(), input.as_ptr());
}

/// What a parser that builds a tree would make of the change.
fn changed(mut value: Value, shape: Shape, change: &Change) -> Value {
    if change.include_usage {
        if !value["stream_options"].is_object() {
            value["stream_options"] = json!({});
        }
        value["stream_options"]["include_usage"] = json!(true);
    }
    if let Some(maximum) = change.maximum {
        for name in ["max_tokens", "max_completion_tokens", "n_predict"] {
            if value[name].as_u64().is_some_and(|stated| stated > maximum) {
                value[name] = json!(maximum);
            }
        }
        let states = |name: &str| value[name].as_u64().is_some_and(|stated| stated > 0 || shape == Shape::Completions);
        let own: &[&str] =
            if shape == Shape::Chat { &["max_tokens", "max_completion_tokens"] } else { &["max_tokens"] };
        if !own.iter().any(|name| states(name)) {
            value["max_tokens"] = json!(maximum);
        }
    }
    value
}

fn any_change() -> impl Strategy<Value = Change> {
    let maximum = prop::option::of(prop_oneof![1..9_u64, 1..u64::MAX]);
    (any::<bool>(), maximum).prop_map(|(include_usage, maximum)| Change { include_usage, maximum })
}

proptest! {
    #[test]
    fn changes_what_it_should_and_nothing_else(
        (value, text) in any_body(),
        shape in any_shape(),
        change in any_change(),
    ) {
        let scanned = scan_text(&text, shape).unwrap();
        let once = spliced(&text, shape, &change);
        if shape == Shape::Embeddings {
            prop_assert_eq!(once, text);
            return Ok(());
        }
        let again = scan_text(&once, shape).unwrap();
        prop_assert!(again.client_wants_usage == scanned.client_wants_usage || change.include_usage);
        prop_assert!(again.client_wants_usage || !change.include_usage);
        if let Some(maximum) = change.maximum {
            let expected = scanned.maximum.unwrap_or(maximum).min(maximum);
            prop_assert_eq!(again.maximum, Some(expected));
        }
        prop_assert_eq!(spliced(&once, shape, &change), once.clone());
        prop_assert_eq!(serde_json::from_str::<Value>(&once).unwrap(), changed(value, shape, &change));
    }

    /// One change is one run of bytes: at most `false` goes, at most a member comes.
    #[test]
    fn all_bytes_before_and_after_a_change_stay((_, text) in any_body()) {
        let result = spliced(&text, Shape::Chat, &USAGE);
        let before = text.bytes().zip(result.bytes()).take_while(|(old, new)| old == new).count();
        let (old, new) = (&text.as_bytes()[before..], &result.as_bytes()[before..]);
        let after = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
        prop_assert!(old.len() - after <= "false".len(), "{text} -> {result}");
        prop_assert!(new.len() - after <= OPTIONS_MEMBER.len() + 1, "{text} -> {result}");
    }
}
