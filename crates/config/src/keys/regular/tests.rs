//! What this reader understands is what the library reads, for any text: it is asked beside ours.

use std::path::Path;

use proptest::{collection::vec, prelude::*, sample::select};
use serde_yaml::{Mapping, Value as Yaml};

use super::*;
use crate::read;

fn as_yaml(value: &Value<'_>) -> Yaml {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::Unsigned(number) => (*number).into(),
        Value::Signed(number) => (*number).into(),
        Value::Text(text) => (&**text).into(),
        Value::List(elements) => Yaml::Sequence(elements.iter().map(as_yaml).collect()),
        Value::Fields(fields) => fields_as_yaml(fields.iter().map(|(name, value)| (&**name, value))),
    }
}

fn fields_as_yaml<'a>(fields: impl IntoIterator<Item = (&'a str, &'a Value<'a>)>) -> Yaml {
    let mut mapping = Mapping::new();
    for (name, value) in fields {
        assert!(mapping.insert(name.into(), as_yaml(value)).is_none(), "{name} twice");
    }
    Yaml::Mapping(mapping)
}

fn understood(text: &str) -> Result<Vec<(&str, Value<'_>)>, Irregular> {
    sections(text)?.into_iter().map(|section| Ok((section.name, section.value()?))).collect()
}

/// Whether a text is understood. If it is, the library must read the same.
fn is_understood_as_read(text: &str) -> bool {
    let Ok(fields) = understood(text) else { return false };
    let (read, _) = match read::document(text, Path::new("keys.yaml")) {
        Ok(read) => read,
        Err(faults) => panic!("understood {fields:?} of a faulty text, {faults:?}:\n{text}"),
    };
    assert_eq!(fields_as_yaml(fields.iter().map(|(name, value)| (*name, value))), read, "of:\n{text}");
    for (section, (name, value)) in sections(text).unwrap().into_iter().zip(&fields) {
        let mut elements = Vec::new();
        let looked_at = section.each_element(|element| {
            elements.push(element);
            Ok(())
        });
        match value {
            Value::List(list) => assert_eq!((looked_at, &elements), (Ok(()), list), "{name} of:\n{text}"),
            _ => assert_eq!(looked_at, Err(Irregular), "{name} of:\n{text}"),
        }
    }
    true
}

const USUAL: &str = r#"# Keys — of production
teams:
- id: research
  limits: {requests_per_minute: 6000, quotas: [{usd: "500", per: month}]}

keys:
  - id: key_prod      # the first
    name: "Production: API #1"
    hash: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    enabled: true
    team: research
    models: ["*", 'llama-3*', gpt-4o]
    limits:
      requests_per_minute: 600
      quotas:
        - {tokens: 50000000, per: day, zone: Europe/Berlin}
        - requests: 1000
          per: 5h
      models:
        "text-embedding-*": {requests_per_minute: 3000}
    expires_at: 2027-01-01T00:00:00Z
    priority: -5

  # Another.
  - {id: key_b, name: Ключ 1, secret: "${B_KEY}", allow_from: [10.0.0.0/8, "::1/128"]}
  -   id: key_c
      name: it is ${WHOSE}'s, (really) a < b
      models: []
"#;

#[test]
fn usual_files_are_understood() {
    assert!(is_understood_as_read(USUAL));
    for text in ["keys: []", "keys: []   # none\n", "keys:\n- id: a\n", "keys:\n  - a\n  - 1\n", "a: b\n\n# end"] {
        assert!(is_understood_as_read(text), "{text}");
    }
}

#[test]
fn what_is_not_understood_is_left_to_the_library() {
    for text in [
        "",
        "# nothing",
        "a",
        "- a",
        "a:",
        "a: |\n  b\n",
        "a: >\n  b\n",
        "a: b\n  c\n",
        "a: &x b",
        "a: *x",
        "a: !t b",
        "---\na: b\n",
        "a: b\n---\na: b\n",
        "a: b\n...\n",
        "a:\tb",
        "a: \"\\n\"",
        "a: 'it''s'",
        "a: null",
        "a: ~",
        "a: 1.5",
        "a: 0x1F",
        "a: 007",
        "a: 1e3",
        "a: -0",
        "a: +1",
        "a: .5",
        "a: [a,\n b]",
        "a: [b, ]",
        "a: {b}",
        "a: {b: }",
        "a: b: c",
        "a: b:",
        "a: \"b\" c",
        "a: b\na: c",
        "a: {b: 1, b: 2}",
        "a: [[b]",
        "? a\n: b\n",
        "<<: {a: b}",
        "true: b",
        "1: b",
        " a: b",
        "a: b\n c: d\n",
        "a:\n  - b\n c: d",
        "a:\n  -\n    b: c\n",
        "a:\n - - b\n",
        "a: b\r\n",
        "\u{feff}a: b",
        "a: \"b\u{85}c\"",
        "a: @b",
        "a: `b`",
        "%a: b",
    ] {
        assert_eq!(understood(text), Err(Irregular), "{text}");
    }
    let deep = (0..40).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<Vec<_>>().concat();
    assert_eq!(understood(&format!("{deep}{}a: b", " ".repeat(40))), Err(Irregular));
    assert_eq!(understood(&format!("a: {}{}", "[".repeat(40), "]".repeat(40))), Err(Irregular));
    assert_eq!(understood(&format!("\"{}\": b", "a".repeat(2000))), Err(Irregular));
}

/// Parts of lines, of which some mean something else than they look like.
const PARTS: [&str; 72] = [
    "a",
    "b: c",
    "a: ",
    "a:",
    "- ",
    "-",
    "- a: b",
    "keys:",
    "\"",
    "'",
    "\"x\"",
    "'x'",
    "[",
    "]",
    "{",
    "}",
    "[a, b]",
    "{a: b}",
    ", ",
    ",",
    ": ",
    ":",
    " ",
    "  ",
    "#",
    " # c",
    "&a",
    "*a",
    "!t",
    "|",
    ">",
    "?",
    "? ",
    "<<: ",
    "---",
    "...",
    "null",
    "Null",
    "~",
    "true",
    "True",
    "false",
    "yes",
    "1",
    "-1",
    "0",
    "-0",
    "+1",
    "007",
    "1.5",
    "1e3",
    "0x1F",
    "0o7",
    "1_000",
    ".5",
    ".inf",
    "5h",
    "1d",
    "2027-01-01T00:00:00Z",
    "10.0.0.0/8",
    "a:b",
    "${A}",
    "$",
    "é",
    "№",
    "\t",
    "\\",
    "%",
    "@",
    "`",
    "\u{85}",
    "=",
];

fn line() -> impl Strategy<Value = String> {
    (0..5_usize, vec(select(&PARTS[..]), 0..5))
        .prop_map(|(indentation, parts)| " ".repeat(indentation) + &parts.concat())
}

/// A value, written in some way.
fn written(depth: u32) -> BoxedStrategy<String> {
    let scalar = prop_oneof![
        select(&PARTS[..]).prop_map(str::to_owned),
        "[a-z][a-zA-Z0-9 _./+@:*()-]{0,12}",
        "[0-9a-fx.:/_+-]{1,8}",
        "\"[^\"\\\\\n]{0,8}\"",
        "'[^'\n]{0,8}'",
    ];
    if depth == 0 {
        return scalar.boxed();
    }
    let name = prop_oneof![4 => "[a-z][a-z_0-9-]{0,6}", 1 => select(&PARTS[..]).prop_map(str::to_owned), 1 => "\"[a-z* ]{1,5}\""];
    let list = vec(written(depth - 1), 0..3).prop_map(|all| format!("[{}]", all.join(", ")));
    let fields = vec((name, written(depth - 1)), 0..3);
    let fields = fields.prop_map(|all| {
        let all: Vec<_> = all.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        format!("{{{}}}", all.join(", "))
    });
    prop_oneof![3 => scalar, 1 => list, 1 => fields].boxed()
}

/// A file of fields and lists in block style, mostly indented as it should be.
fn blocks() -> impl Strategy<Value = String> {
    let line = (
        0..4_usize,
        any::<bool>(),
        "[a-c]{1,2}",
        proptest::option::of(written(2)),
        select(vec!["", "", "", " ", " # c"]),
    );
    vec(line, 1..12).prop_map(|lines| {
        let line = |(depth, is_element, name, value, end): (usize, bool, String, Option<String>, &str)| {
            let dash = if is_element { "- " } else { "" };
            let value = value.map(|value| format!(" {value}")).unwrap_or_default();
            format!("{}{dash}{name}:{value}{end}\n", "  ".repeat(depth))
        };
        lines.into_iter().map(line).collect::<Vec<_>>().concat()
    })
}

proptest! {
    #[test]
    fn of_any_lines_what_is_understood_is_what_is_read(lines in vec(line(), 1..8)) {
        is_understood_as_read(&lines.join("\n"));
    }

    #[test]
    fn of_any_blocks_what_is_understood_is_what_is_read(text in blocks()) {
        is_understood_as_read(&text);
    }

    #[test]
    fn of_any_value_what_is_understood_is_what_is_read(value in written(3), end in select(vec!["", " ", " # c", "\nb: c"])) {
        is_understood_as_read(&format!("a: {value}{end}"));
        is_understood_as_read(&format!("a:\n  - {value}{end}"));
    }

    #[test]
    fn of_a_usual_file_with_changes_what_is_understood_is_what_is_read(
        changes in vec((any::<proptest::sample::Index>(), 0..3_usize, select(&PARTS[..])), 1..4),
    ) {
        let mut text = USUAL.to_owned();
        for (at, removed, part) in changes {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let start = at.index(places.len());
            let end = places.get(start + removed).copied().unwrap_or(text.len());
            text.replace_range(places[start]..end, part);
        }
        is_understood_as_read(&text);
    }

    #[test]
    fn of_any_text_what_is_understood_is_what_is_read(text in "a: (?s:.){0,12}") {
        is_understood_as_read(&text);
    }
}
