use proptest::prelude::*;

use super::*;

fn path(steps: &str) -> Vec<PathStep> {
    let step = |step: &str| step.parse().map_or_else(|_| PathStep::Key(step.to_owned()), PathStep::Index);
    steps.split('.').filter(|step| !step.is_empty()).map(step).collect()
}

/// What stands between a node's start and end.
fn written<'a>(text: &'a str, marks: &Marks, steps: &str) -> &'a str {
    let node = marks.node(&path(steps)).unwrap_or_else(|| panic!("{steps} in {text}"));
    &text[node.start.offset..node.end.offset]
}

fn place(mark: Option<Mark>) -> (usize, usize) {
    mark.map(|mark| (mark.line, mark.column)).unwrap()
}

const KEYS: &str = "\u{feff}# Schlüssel: ключи
keys:
- id: key_a          # the first
  name: \"Clé — ключ \\\" 1\"   # a name
  models: ['it''s', \"b\" , c]   # some
  limits: {requests_per_minute: 60}   # few

- id: key_b
  name: &anchor Zweiter Schlüssel
  note: |-   # long
    one
    two

  owner:
  team: *anchor
other:
  - !tag 'x' # c
  -
  - - 1
    - 2
# the end
";

#[test]
fn every_node_spans_what_is_written() {
    let marks = Marks::parse(KEYS).unwrap();
    let expected = [
        ("keys.0.id", "key_a"),
        ("keys.0.name", "\"Clé — ключ \\\" 1\""),
        ("keys.0.models", "['it''s', \"b\" , c]"),
        ("keys.0.models.0", "'it''s'"),
        ("keys.0.models.1", "\"b\""),
        ("keys.0.limits", "{requests_per_minute: 60}"),
        ("keys.1.name", "&anchor Zweiter Schlüssel"),
        ("keys.1.note", "|-   # long\n    one\n    two"),
        ("keys.1.owner", ""),
        ("keys.1.team", "*anchor"),
        ("other.0", "!tag 'x'"),
        ("other.1", ""),
        ("other.2", "- 1\n    - 2"),
        ("other", "- !tag 'x' # c\n  -\n  - - 1\n    - 2"),
    ];
    for (steps, text) in expected {
        assert_eq!(written(KEYS, &marks, steps), text, "{steps}");
    }
    assert!(written(KEYS, &marks, "keys").starts_with("- id: key_a"));
    assert!(written(KEYS, &marks, "keys").ends_with("team: *anchor"));
    assert!(written(KEYS, &marks, "keys.0").ends_with("{requests_per_minute: 60}"));
    assert!(written(KEYS, &marks, "").starts_with("keys:") && written(KEYS, &marks, "").ends_with("- 2"));
}

#[test]
fn values_and_keys_are_located() {
    let marks = Marks::parse(KEYS).unwrap();
    assert_eq!(place(marks.locate(&[])), (2, 1));
    assert_eq!(place(marks.locate(&path("keys"))), (3, 1));
    assert_eq!(place(marks.locate(&path("keys.0"))), (3, 3));
    assert_eq!(place(marks.locate(&path("keys.0.name"))), (4, 9));
    assert_eq!(place(marks.locate_key(&path("keys.0.name"))), (4, 3));
    assert_eq!(place(marks.locate(&path("keys.0.models.1"))), (5, 21));
    assert_eq!(place(marks.locate(&path("keys.1.note"))), (10, 9));
    assert_eq!(place(marks.locate(&path("keys.1.owner"))), (14, 8));
    assert_eq!(place(marks.locate_key(&path("keys.1"))), (8, 3));
    for missing in ["nothing", "keys.2", "keys.id", "keys.1.team.deeper", "keys.0.id.0"] {
        assert_eq!(marks.locate(&path(missing)), None, "{missing}");
        assert_eq!(marks.locate_key(&path(missing)), None, "{missing}");
    }
    assert_eq!(marks.locate_key(&[]), None);
}

#[test]
fn scalars_are_without_their_quotes_and_styles_are_told_apart() {
    let marks = Marks::parse(KEYS).unwrap();
    let first = marks.node(&path("keys.0")).unwrap();
    assert_eq!(first.field("name").and_then(Node::as_scalar), Some("Clé — ключ \" 1"));
    assert!(!first.flow && first.field("limits").unwrap().flow && first.field("models").unwrap().elements()[0].flow);
    assert!(!marks.node(&path("keys")).unwrap().flow && !first.field("name").unwrap().flow);
    assert_eq!(marks.node(&path("keys.1.note")).unwrap().as_scalar(), Some("one\ntwo"));
    assert_eq!(marks.node(&path("keys.1.team")).unwrap().kind, Kind::Alias);
}

#[test]
fn line_ends_of_windows_are_counted() {
    let text = "keys:\r\n- id: a\r\n  name: \"b\"\r\n- id: c\r\n";
    let marks = Marks::parse(text).unwrap();
    assert_eq!(written(text, &marks, "keys.0"), "id: a\r\n  name: \"b\"");
    assert_eq!(written(text, &marks, "keys"), "- id: a\r\n  name: \"b\"\r\n- id: c");
    assert_eq!(place(marks.locate(&path("keys.1.id"))), (4, 7));
}

#[test]
fn a_comment_may_stand_between_a_dash_and_its_element() {
    let text = "keys:\n# - none\n- # first\n  id: a\n";
    let marks = Marks::parse(text).unwrap();
    assert_eq!(written(text, &marks, "keys"), "- # first\n  id: a");
    assert_eq!(written(text, &marks, "keys.0"), "id: a");
}

#[test]
fn sequences_begin_with_their_first_dash() {
    let text = "keys:\n- - a\n  - b\n-\n  - c\n";
    let marks = Marks::parse(text).unwrap();
    assert_eq!(written(text, &marks, "keys"), "- - a\n  - b\n-\n  - c");
    assert_eq!(written(text, &marks, "keys.0"), "- a\n  - b");
    assert_eq!(written(text, &marks, "keys.1"), "- c");
}

#[test]
fn empty_collections_end_where_they_are_closed() {
    let text = "keys: []\nmore: { }  # none\nlong: &a # that\n  [ # this\n    1,\n  ] # end\n";
    let marks = Marks::parse(text).unwrap();
    assert_eq!((written(text, &marks, "keys"), written(text, &marks, "more")), ("[]", "{ }"));
    assert_eq!(written(text, &marks, "long"), "&a # that\n  [ # this\n    1,\n  ]");
    assert!(marks.node(&path("long")).unwrap().flow);
    assert!(Marks::parse("# nothing\n").unwrap().root().is_none());
}

#[test]
fn faults_say_where_and_what() {
    let error = |text: &str| Marks::parse(text).unwrap_err().to_string();
    assert_eq!(error("a:\n\tb: 1\n"), "2:1: a tab in the indentation; YAML allows only spaces there");
    assert_eq!(error("a: 1\n---\nb: 2\n"), "2:1: a second document starts here; the file may hold only one");
    assert_eq!(error(&"[".repeat(70)), "1:65: nested more than 64 levels deep");
    assert!(error("a: [1,\n").starts_with("2:1: no valid YAML: "));
    assert!(error("a: b: c\n").starts_with("1:5: no valid YAML: "));
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_and_spans_lie_within_it(text in "[-a:é \\n\\t\\[\\]{},\"'|>&*!#?\u{feff}]{0,40}") {
        fn check(text: &str, node: &Node) {
            assert!(node.start.offset <= node.end.offset, "{node:?}");
            assert!(text.get(node.start.offset..node.end.offset).is_some(), "{node:?}");
            node.elements().iter().for_each(|element| check(text, element));
            node.fields().iter().for_each(|(key, value)| { check(text, key); check(text, value); });
        }
        if let Ok(marks) = Marks::parse(&text) {
            marks.root().into_iter().for_each(|root| check(&text, root));
        }
    }
}
