use super::*;
use proptest::prelude::*;

/// Writes down all it is told about members `a`, `b` and what is in them.
#[derive(Default, Debug, PartialEq)]
struct Scribe {
    text: Vec<u8>,
    numbers: Vec<u64>,
    decimals: Vec<(u64, u32)>,
    begun: Vec<(Place, char, usize)>,
    ended: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nothing,
    Root,
    Asked,
    Written,
}

impl Visitor for Scribe {
    type Role = Place;
    const ROOT: Place = Place::Root;
    const NOTHING: Place = Place::Nothing;

    fn member(&self, object: Place, key: &[u8]) -> Place {
        if key == b"w" && object != Place::Nothing {
            return Place::Written;
        }
        let asked = key == b"a" || key == "é\"".as_bytes();
        if asked && object != Place::Nothing { Place::Asked } else { Place::Nothing }
    }
    fn element(&self, array: Place) -> Place {
        array
    }
    fn is_written(&self, role: Place) -> bool {
        role == Place::Written
    }
    fn begin(&mut self, role: Place, first: u8, at: usize) {
        self.begun.push((role, char::from(first), at));
    }
    fn text(&mut self, _: Place, piece: &[u8]) {
        self.text.extend_from_slice(piece);
    }
    fn number(&mut self, _: Place, value: u64) {
        self.numbers.push(value);
    }
    fn decimal(&mut self, _: Place, whole: u64, nanos: u32) {
        self.decimals.push((whole, nanos));
    }
    fn end(&mut self, role: Place) {
        self.ended.push(role);
    }
}

fn read(parts: &[&[u8]]) -> (Scribe, bool) {
    let (mut scanner, mut scribe) = (Scanner::new(), Scribe::default());
    for part in parts {
        scanner.feed(part, &mut scribe);
    }
    let closed = scanner.is_closed();
    (scribe, closed)
}

fn read_in_every_cut(document: &str) -> (Scribe, bool) {
    let bytes = document.as_bytes();
    let whole = read(&[bytes]);
    for at in 0..=bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(read(&[first, second]), whole, "{document} cut at {at}");
    }
    assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), whole, "{document} byte by byte");
    whole
}

#[test]
fn values_are_told_by_their_path() {
    let document =
        r#" {"x": {"a": "no", "y": [1, "]}", {"a": 2}]}, "a" : {"z": 3, "a": [4, "yes", {"a": 5}]}, "a": 6 } "#;
    let (scribe, closed) = read_in_every_cut(document);
    assert_eq!(scribe.text, b"yes");
    assert_eq!(scribe.numbers, [4, 5, 6]);
    assert_eq!(scribe.ended, [Place::Asked, Place::Asked, Place::Asked, Place::Root]);
    assert_eq!(scribe.begun[0], (Place::Root, '{', 1));
    assert!(closed);
}

#[test]
fn strings_and_keys_are_unescaped() {
    let document = r#"{"\u00e9\"":"\"\\\/\b\f\n\r\t\u0041\ud83d\ude00 \ud83dx\ude00 \"a\":1","\u0061":7}"#;
    let (scribe, _) = read_in_every_cut(document);
    assert_eq!(String::from_utf8(scribe.text).unwrap(), "\"\\/\u{8}\u{c}\n\r\tA😀 x\u{fffd} \"a\":1");
    assert_eq!(scribe.numbers, [7]);
}

#[test]
fn what_is_written_is_text_as_compact_as_it_goes() {
    let document = r#"{"a":{"w" : { "city": "\u00c5 \"b\"", "a": [1, -2.5e3 , true,null, {}, "]}"] } , "a": "!"},
        "w": {}, "a": "?", "w": [ ], "w": "plain", "w": 5, "a": {"w": [[]]}}"#;
    let (scribe, closed) = read_in_every_cut(document);
    let text = r#"{"city":"Å "b"","a":[1,-2.5e3,true,null,{},"]}"]}!?plain[[]]"#;
    assert_eq!(String::from_utf8(scribe.text).unwrap(), text);
    assert_eq!((scribe.numbers.as_slice(), closed), (&[5][..], true));
}

#[test]
fn what_is_written_may_be_as_deep_as_it_likes() {
    let deep = format!("{}7{}", "[".repeat(1000), "]".repeat(1000));
    let (scribe, closed) = read(&[format!("{{\"w\":{deep},\"a\":\"b\"}}").as_bytes()]);
    assert_eq!((String::from_utf8(scribe.text).unwrap(), closed), (format!("{deep}b"), true));
}

#[test]
fn only_whole_numbers_that_fit_are_numbers() {
    let document = r#"{"a":[0,-1,1.5,1e99,18446744073709551615,18446744073709551616,99999999999999999999999,12]}"#;
    assert_eq!(read_in_every_cut(document).0.numbers, [0, u64::MAX, 12]);
}

#[test]
fn decimals_are_cut_off_at_a_billionth() {
    let document = r#"{"a":[8.5,0.000000001,8.470000267028809,1.,3.0,-1.5,1.5e3,1.2.3,99999999999999999999.5]}"#;
    let (scribe, _) = read_in_every_cut(document);
    assert_eq!(scribe.decimals, [(8, 500_000_000), (0, 1), (8, 470_000_267), (1, 0), (3, 0), (1500, 0)]);
    assert_eq!(scribe.numbers, [0; 0]);
}

#[test]
fn a_number_is_none_before_it_ends() {
    assert_eq!(read(&[b"{\"a\":12"]).0.numbers, [0; 0]);
    assert_eq!(read(&[b"{\"a\":12", b"3}"]).0.numbers, [123]);
}

#[test]
fn what_is_deeper_than_any_answer_is_passed_over() {
    let deep = format!("{{\"a\":{}\"no\"{},\"a\":1}}", "[".repeat(100_000), "]".repeat(100_000));
    let (scribe, closed) = read(&[deep.as_bytes()]);
    assert_eq!((scribe.text.as_slice(), scribe.numbers.as_slice(), closed), (&[][..], &[1][..], true));
}

#[test]
fn a_reset_scanner_begins_anew() {
    let (mut scanner, mut scribe) = (Scanner::new(), Scribe::default());
    for broken in [r#"{"a":"\ud8"#, r#"{"x":[[{"a"#, r#"{"a":[[[1"#, r#"{"a":tru"#] {
        scanner.feed(broken.as_bytes(), &mut scribe);
        scanner.reset();
    }
    scribe = Scribe::default();
    scanner.feed(br#"{"a":"b"}"#, &mut scribe);
    assert_eq!((scribe.text.as_slice(), scanner.is_closed()), (b"b".as_slice(), true));
}

/// Any document, and the texts that are to be found in it.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let key = prop_oneof![Just("a".to_string()), Just("b".to_string()), any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// What a tree walk finds where the scanner looks.
fn expected(value: &serde_json::Value, text: &mut String, numbers: &mut Vec<u64>) {
    match value {
        serde_json::Value::String(string) => text.push_str(string),
        serde_json::Value::Number(number) => numbers.extend(number.as_u64()),
        serde_json::Value::Array(elements) => elements.iter().for_each(|value| expected(value, text, numbers)),
        serde_json::Value::Object(members) => {
            members.iter().filter(|(key, _)| *key == "a").for_each(|(_, value)| expected(value, text, numbers));
        }
        _ => {}
    }
}

/// A value as it comes where it is text.
fn written(value: &serde_json::Value) -> String {
    let list = |parts: Vec<String>| parts.join(",");
    match value {
        serde_json::Value::String(string) => format!("\"{string}\""),
        serde_json::Value::Array(elements) => format!("[{}]", list(elements.iter().map(written).collect())),
        serde_json::Value::Object(members) => {
            format!(
                "{{{}}}",
                list(members.iter().map(|(key, value)| format!("\"{key}\":{}", written(value))).collect())
            )
        }
        other => other.to_string(),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_what_a_tree_writes(value in any_value(), size in 1_usize..40, pretty in any::<bool>()) {
        let value = serde_json::json!([value]);
        let document = serde_json::json!({"w": value, "x": {"w": 1}});
        let bytes = if pretty { serde_json::to_vec_pretty(&document) } else { serde_json::to_vec(&document) }.unwrap();
        let (scribe, closed) = read(&bytes.chunks(size).collect::<Vec<_>>());
        prop_assert_eq!(String::from_utf8(scribe.text).unwrap(), written(&value));
        prop_assert!(closed);
    }

    #[test]
    fn agrees_with_a_tree_however_it_is_cut(value in any_value(), size in 1_usize..40, pretty in any::<bool>()) {
        let document = serde_json::json!({"a": value});
        let bytes = if pretty { serde_json::to_vec_pretty(&document) } else { serde_json::to_vec(&document) }.unwrap();
        let (mut text, mut numbers) = (String::new(), Vec::new());
        expected(&document, &mut text, &mut numbers);
        let (scribe, closed) = read(&bytes.chunks(size).collect::<Vec<_>>());
        prop_assert_eq!(String::from_utf8(scribe.text).unwrap(), text);
        prop_assert_eq!(scribe.numbers, numbers);
        prop_assert!(closed);
    }

    #[test]
    fn nothing_makes_it_fail(parts in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
        read(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_like_json_makes_it_fail(soup in "[\\[\\]{}\",:\\\\u0-9a n]{0,200}", size in 1_usize..20) {
        let parts: Vec<&[u8]> = soup.as_bytes().chunks(size).collect();
        prop_assert_eq!(read(&parts), read(&[soup.as_bytes()]));
    }

    #[test]
    fn what_is_nearly_json_is_read_the_same_in_one_piece_and_byte_by_byte(pieces in prop::collection::vec(piece(), 0..40)) {
        let document = format!("{{{}", pieces.concat());
        let bytes: Vec<&[u8]> = document.as_bytes().chunks(1).collect();
        prop_assert_eq!(read(&bytes), read(&[document.as_bytes()]), "{}", document);
    }
}

/// What JSON consists of, whole and broken.
fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\"",
        "\"a\":",
        "\"a\":",
        "\"b\":",
        "\"w\":",
        ",\"a\":",
        ",\"b\":",
        "\"a\" : ",
        "\"\\u0061\":",
        "\"x\"",
        "\"\"",
        "\"x\\\"y\"",
        "\"a string of some length\"",
        "0",
        "-1",
        "180",
        "1.5e3",
        "9999999999999999999",
        "12345678901234567890",
        "null",
        "true",
        "false",
        "nu\"ll",
        "\"a key that is longer than any that is asked for\":",
    ])
}
