use keymeter_core::limit::Carried;

use super::*;

mod limits;
mod model_limits;
mod random;

const FILE: &str = "# who may call us
keys:
  # the first
  - id: key_a   # do not change
    name: 'First key'
    hash: \"sha256:aa\"
    # limits were agreed on
    limits:
      requests_per_minute: 60   # one a second

  - {id: key_b, name: Second, hash: x} # in one line

  # last
  - name: Третий
    id: \"key_c\"
    models:
    - a
    - b
    retiring:
      - {hash: one, not_after: 2026-01-01T00:00:00Z} # one
      - hash: two # two
        not_after: 2026-03-01T00:00:00Z
# - id: an_example
";

fn id(text: &str) -> KeyId {
    text.parse().unwrap()
}

fn name(text: &str) -> Setting {
    Setting::Name(text.parse().unwrap())
}

fn limit(number: &str) -> Limit {
    number.parse().unwrap()
}

fn priority(number: &str) -> Setting {
    Setting::Priority(number.parse().unwrap())
}

fn set(key: &str, setting: Setting) -> Edit {
    Edit::Set { id: id(key), setting }
}

fn clear(key: &str, field: Field) -> Edit {
    Edit::Clear { id: id(key), field }
}

fn retire(key: &str, not_after: &str) -> Edit {
    Edit::Retire { id: id(key), old: Retiring { hash: KeyHash::digest(b""), not_after: not_after.parse().unwrap() } }
}

fn create(key: &str) -> Edit {
    let limits = [Setting::RequestsPerMinute(limit("5")), Setting::ConcurrentRequests(limit("unlimited"))];
    let settings = [name("a: b"), Setting::Models(vec![Glob::new("llama-*"), Glob::new("qwen3")])];
    Edit::Create { id: id(key), settings: settings.into_iter().chain(limits).collect() }
}

/// The changed text, given as what was replaced by what in the old one, in order.
fn assert_edit(text: &str, change: &Edit, replaced: &[(&str, &str)]) {
    let mut expected = String::new();
    let mut rest = text;
    for (old, new) in replaced {
        let (before, after) = rest.split_once(old).unwrap_or_else(|| panic!("{old} in {rest}"));
        expected.extend([before, new]);
        rest = after;
    }
    expected.push_str(rest);
    assert_eq!(apply(text, std::slice::from_ref(change)), Ok(expected), "{change:?}");
}

fn error(text: &str, change: &Edit) -> EditError {
    apply(text, std::slice::from_ref(change)).unwrap_err()
}

#[test]
fn values_are_replaced_where_they_stand() {
    assert_edit(FILE, &set("key_a", name("yes")), &[("'First key'", "\"yes\"")]);
    assert_edit(FILE, &set("key_b", name("Other")), &[("Second", "Other")]);
    assert_edit(FILE, &set("key_c", name("Two words")), &[("Третий", "Two words")]);
    assert_edit(
        FILE,
        &set("key_c", Setting::Models(vec![Glob::new("*"), Glob::new("c")])),
        &[("- a\n    - b", "- \"*\"\n    - c")],
    );
    assert_edit(FILE, &set("key_a", Setting::RequestsPerMinute(limit("70"))), &[("60", "70")]);
    assert_edit("keys: [{id: a, priority: 5}]", &set("a", priority("-100")), &[("5", "-100")]);
    assert_edit(
        "keys:\n- id: a\n  owner:  # none\n",
        &set("a", Setting::Owner("me".into())),
        &[("owner:", "owner: me")],
    );
    assert_edit("keys: [{id: a, owner: }]", &set("a", Setting::Owner("me".into())), &[("owner: ", "owner: me ")]);
    assert_edit(
        "keys:\n- id: a\n  name: >\n    b\n    c\n\n# d",
        &set("a", name("bcd")),
        &[(">\n    b\n    c", "bcd")],
    );
}

#[test]
fn new_fields_get_lines_of_their_own() {
    assert_edit(
        FILE,
        &set("key_a", Setting::Enabled(false)),
        &[("\"sha256:aa\"\n", "\"sha256:aa\"\n    enabled: false\n")],
    );
    assert_edit(
        FILE,
        &set("key_a", Setting::TokensPerMinute(limit("unlimited"))),
        &[("# one a second", "# one a second\n      tokens_per_minute: unlimited")],
    );
    assert_edit(
        FILE,
        &set("key_c", Setting::ConcurrentRequests(limit("2"))),
        &[("    - b\n", "    - b\n    limits: {concurrent_requests: 2}\n")],
    );
    assert_edit(FILE, &set("key_b", Setting::Owner("ada".into())), &[("hash: x", "hash: x, owner: ada")]);
    assert_edit(FILE, &set("key_b", priority("-5")), &[("hash: x", "hash: x, priority: -5")]);
    assert_edit(FILE, &set("key_c", priority("7")), &[("    - b\n", "    - b\n    priority: 7\n")]);
    let expires_at = Setting::ExpiresAt("2027-01-01T00:00:00Z".parse().unwrap());
    assert_edit("keys: [{id: a}]", &set("a", expires_at), &[("id: a", "id: a, expires_at: 2027-01-01T00:00:00Z")]);
}

#[test]
fn fields_are_taken_away_with_their_lines() {
    let limits = "    limits:\n      requests_per_minute: 60   # one a second\n";
    assert_edit(FILE, &clear("key_a", Field::Limits), &[(limits, "")]);
    assert_edit(FILE, &clear("key_a", Field::RequestsPerMinute), &[(limits, "")]);
    assert_edit(FILE, &clear("key_c", Field::Models), &[("    models:\n    - a\n    - b\n", "")]);
    assert_edit(FILE, &clear("key_c", Field::Team), &[]);
    assert_edit("keys: [{id: a, priority: -5}]", &clear("a", Field::Priority), &[(", priority: -5", "")]);
    assert_edit("keys:\n- owner: x # y\n  id: a\n", &clear("a", Field::Owner), &[("owner: x # y\n  id", "id")]);
    assert_edit("keys:\n- owner: x # y\n  # z\n  id: a\n", &clear("a", Field::Owner), &[(" owner: x # y", "")]);
    assert_edit("keys: [{id: a, team: b, owner: c}]", &clear("a", Field::Team), &[("team: b, ", "")]);
    assert_edit("keys: [{id: a, team: b, owner: c}]", &clear("a", Field::Owner), &[(", owner: c", "")]);
    assert_edit("keys: [{\n  id: a, # b\n  owner: c\n}]", &clear("a", Field::Owner), &[("  owner: c\n", "")]);
}

#[test]
fn replaced_secrets_come_and_go() {
    let entry = format!("{{hash: \"{}\", not_after: 2026-05-01T00:00:00Z}}", KeyHash::digest(b""));
    let (end, written) = ("2026-05-01T00:00:00Z", format!("retiring: [{entry}]"));
    let last = "        not_after: 2026-03-01T00:00:00Z";
    assert_edit(FILE, &retire("key_c", end), &[(last, &format!("{last}\n      - {entry}"))]);
    assert_edit(FILE, &retire("key_b", end), &[("hash: x", &format!("hash: x, {written}"))]);
    assert_edit("keys:\n- id: a\n  retiring: []", &retire("a", end), &[("retiring: []", &written)]);
    assert_edit("keys: [{id: a, retiring: [b, c]}]", &retire("a", end), &[("c]", &format!("c, {entry}]"))]);

    let drop = |now: &str| Edit::DropEnded { id: id("key_c"), now: now.parse().unwrap() };
    let (_, entries) = FILE.split_once("    retiring:\n").unwrap();
    let (both, _) = entries.split_once("# - id").unwrap();
    let (first, second) = both.split_at(both.find("      - hash: two").unwrap());
    assert_edit(FILE, &drop("2025-12-31T23:59:59Z"), &[]);
    assert_edit(FILE, &drop("2026-01-01T00:00:00Z"), &[(first, "")]);
    assert_edit(FILE, &drop("2026-04-01T00:00:00Z"), &[(&format!("    retiring:\n{first}{second}"), "")]);
}

#[test]
fn keys_are_taken_away_and_comments_around_them_stay() {
    let (_, from_first) = FILE.split_once("  # the first\n").unwrap();
    let (first, _) = from_first.split_once("\n  - {id").unwrap();
    assert_edit(FILE, &Edit::Delete { id: id("key_a") }, &[(first, "")]);
    assert_edit(
        FILE,
        &Edit::Delete { id: id("key_b") },
        &[("  - {id: key_b, name: Second, hash: x} # in one line\n", "")],
    );
    let (_, from_last) = FILE.split_once("  # last\n").unwrap();
    let (last, _) = from_last.split_once("# - id").unwrap();
    assert_edit(FILE, &Edit::Delete { id: id("key_c") }, &[(last, "")]);
    let only = Edit::Delete { id: id("a") };
    assert_edit(
        "keys: # all\n  # of a\n  - id: a\n    x: 1\n# b\n",
        &only,
        &[("keys:", "keys: []"), ("  - id: a\n    x: 1\n", "")],
    );
    assert_edit("keys: [{id: a}, {id: b}]", &only, &[("{id: a}, ", "")]);
    assert_edit("keys: [{id: a}]", &only, &[("{id: a}", "")]);
}

const CREATED: [&str; 4] = [
    "id: new",
    "name: \"a: b\"",
    "models: [\"llama-*\", qwen3]",
    "limits: {requests_per_minute: 5, concurrent_requests: unlimited}",
];

#[test]
fn new_keys_look_like_the_others() {
    let flow = CREATED.join(", ");
    let item = format!("\n\n  - {}", CREATED.join("\n    "));
    let last = "        not_after: 2026-03-01T00:00:00Z";
    assert_edit(FILE, &create("new"), &[(last, &format!("{last}{item}"))]);
    let wide = format!("id: a\n-   {}", CREATED.join("\n    "));
    assert_edit("keys:\n-   id: a", &create("new"), &[("id: a", &wide)]);
    assert_edit("keys: [{id: a}]\n", &create("new"), &[("{id: a}", &format!("{{id: a}}, {{{flow}}}"))]);
    let lines = format!("{{id: a}},\n  {{{flow}}}");
    assert_edit("keys: [\n  {id: a},\n]\n", &create("new"), &[("{id: a}", &lines)]);
    let json = apply("{\"keys\": [{\"id\": \"a\"}]}", &[create("new")]).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
}

#[test]
fn the_first_key_makes_the_list() {
    let item = format!("  - {}", CREATED.join("\n    "));
    for (empty, before, after) in [
        ("", "keys:\n", "\n"),
        ("# none yet", "# none yet\nkeys:\n", "\n"),
        ("\u{feff}# none\n", "\u{feff}# none\nkeys:\n", "\n"),
        ("---\n", "---\nkeys:\n", "\n"),
        ("keys:", "keys:\n", ""),
        ("keys: # all\n# of them\n", "keys: # all\n", "\n# of them\n"),
        ("keys: []  # all\n", "keys:  # all\n", "\n"),
        ("keys: null\n", "keys:\n", "\n"),
        ("keys: [ # none\n ]\n", "keys:\n", "\n"),
    ] {
        assert_eq!(apply(empty, &[create("new")]).unwrap(), format!("{before}{item}{after}"));
    }
    assert_edit("{keys: []}", &create("new"), &[("[]", &format!("[{{{}}}]", CREATED.join(", ")))]);
    let crlf = apply("keys: []\r\n", &[create("new")]).unwrap();
    assert_eq!(crlf, format!("keys:\n{item}\n").replace('\n', "\r\n"));
}

#[test]
fn windows_line_breaks_stay() {
    let text = FILE.replace('\n', "\r\n");
    let changes = [
        create("new"),
        set("key_a", Setting::Enabled(true)),
        clear("key_a", Field::Limits),
        retire("key_c", "2027-01-01T00:00:00Z"),
        Edit::DropEnded { id: id("key_c"), now: "2026-04-01T00:00:00Z".parse().unwrap() },
        Edit::Delete { id: id("key_b") },
    ];
    let edited = apply(&text, &changes).unwrap();
    assert_eq!(edited, apply(FILE, &changes).unwrap().replace('\n', "\r\n"));
}

#[test]
fn what_looks_like_a_variable_is_written_so_that_it_is_not_one() {
    let written = |text: &str| apply("keys: [{id: a}]", &[set("a", Setting::Team(text.into()))]).unwrap();
    assert_eq!(written("${HOME}"), "keys: [{id: a, team: \"$${HOME}\"}]");
    assert_eq!(written("5$"), "keys: [{id: a, team: \"5$\"}]");
}

#[test]
fn keys_that_give_their_secret_are_told_apart() {
    let text = "keys: [{id: a, secret: '${A}'}, {id: b, hash: x}]";
    assert_eq!((gives_secret(text, &id("a")), gives_secret(text, &id("b"))), (Ok(true), Ok(false)));
    assert_eq!(gives_secret(text, &id("c")), Err(EditError::Unknown(id("c"))));
}

#[test]
fn what_is_shared_or_strange_is_left_to_people() {
    let rename = set("a", name("New"));
    let by_hand = |text: &str, line, column| {
        let error = error(text, &rename);
        assert!(matches!(error, EditError::ByHand { line: l, column: c, .. } if (l, c) == (line, column)), "{error:?}");
        assert!(error.to_string().ends_with("; edit the file by hand"), "{error}");
    };
    by_hand("keys:\n- id: a\n  name: &n Old\n- id: b\n  name: *n\n", 3, 9);
    by_hand("keys:\n- id: b\n  name: &n Old\n- id: a\n  name: *n\n", 5, 9);
    by_hand("keys:\n- &base\n  id: b\n- id: a\n  <<: *base\n", 5, 3);
    by_hand("keys: [{id: a, name: !tag Old}]\n", 1, 22);
    let shared = "keys:\n- &base\n  id: a\n  name: Old\n- id: b\n  <<: *base\n";
    by_hand(shared, 2, 3);
    let kept = "keys:\n- id: a\n  name: |+\n    x\n\n";
    assert_eq!(error(kept, &set("a", Setting::Enabled(true))), EditError::Entangled);
    assert!(matches!(
        error("keys:\n- id: a\n  limits: &l {x: 1}\n", &clear("a", Field::Limits)),
        EditError::ByHand { .. }
    ));
    let number = "keys: [{id: a, limits: 5}]";
    assert!(matches!(error(number, &set("a", Setting::RequestsPerMinute(limit("1")))), EditError::ByHand { .. }));
    assert!(matches!(error("keys: 5", &create("a")), EditError::ByHand { .. } | EditError::Entangled));
}

#[test]
fn what_is_no_keys_file_or_has_no_such_key_is_refused() {
    let delete = Edit::Delete { id: id("a") };
    assert!(matches!(error("keys: [", &delete), EditError::Syntax(_)));
    assert!(matches!(error("keys: []\nkeys: []\n", &delete), EditError::Unreadable(_)));
    assert_eq!(error("upstreams: []", &create("a")), EditError::NoKeys);
    assert_eq!(error("keys: []", &delete), EditError::Unknown(id("a")));
    assert_eq!(error("keys: [{id: a}]", &create("a")), EditError::Duplicate(id("a")));
    assert_eq!(error("keys: [{id: 7}]", &create("7")), EditError::Duplicate(id("7")));
    assert_eq!(error("keys: [{id: a}, {id: a}]", &delete), EditError::Duplicate(id("a")));
}

#[test]
fn a_field_that_is_null_is_absent_to_an_edit_too() {
    let block = "keys:\n  - id: a\n    secret: null\n    enabled: ~\n    limits:\n    team: null\n    retiring: null\n";
    let flow = "keys: [{id: a, secret: null, enabled: ~, limits: ~, team: null, retiring: null}]";
    for text in [block, flow] {
        assert_eq!(gives_secret(text, &id("a")), Ok(false));
        let limit: Limit = "5".parse().unwrap();
        let changes = [
            set("a", Setting::Enabled(false)),
            set("a", Setting::RequestsPerMinute(limit)),
            set("a", Setting::Team("t".to_owned())),
            retire("a", "2027-01-01T00:00:00Z"),
        ];
        let edited = apply(text, &changes).unwrap_or_else(|error| panic!("{text}: {error}"));
        let key: Value = serde_yaml::from_str::<Value>(&edited).unwrap()["keys"][0].clone();
        assert_eq!((&key["enabled"], &key["team"]), (&Value::from(false), &Value::from("t")), "{edited}");
        assert_eq!(key["limits"]["requests_per_minute"], Value::from(5), "{edited}");
        assert_eq!(key["retiring"].as_sequence().unwrap().len(), 1, "{edited}");
        let cleared = apply(text, &[clear("a", Field::Limits), clear("a", Field::Team)]).unwrap();
        assert!(!cleared.contains("limits") && !cleared.contains("team"), "{cleared}");
    }
}

#[test]
fn many_are_added_at_once_as_one_after_the_other() {
    let hash = |number: usize| KeyHash::digest(&number.to_be_bytes());
    let keys: Vec<_> = (0..50)
        .map(|number| {
            let id: KeyId = format!("key_{number}").parse().unwrap();
            (id, vec![Setting::Name("A key".parse().unwrap()), Setting::Hash(hash(number))])
        })
        .collect();
    let limit = || vec![Setting::RequestsPerMinute(Limit::at(5).unwrap())];
    let holders: Vec<_> = (0..5)
        .map(|number| (Holder::Team(format!("team-{number}")), limit()))
        .chain([(Holder::Owner("ada".into()), limit())])
        .collect();
    for before in [
        "",
        "# Ours\nkeys: []\n",
        "keys:\n\n- id: a\n  name: first\n  hash: b\n\n- id: b\n  name: two\nteams: [{id: x}]\n",
        "{\"keys\": [{\"id\": \"a\"}]}\n",
    ] {
        let one_by_one = keys.iter().map(|(id, settings)| Edit::Create { id: id.clone(), settings: settings.clone() });
        let limits = holders.iter().map(|(of, limits)| Edit::SetLimit { of: of.clone(), limit: limits[0].clone() });
        let expected = apply(before, &one_by_one.chain(limits).collect::<Vec<_>>()).unwrap();
        assert_eq!(append(before, &keys, &holders).unwrap(), expected, "{before}");
        assert_eq!(append(before, &[], &[]).unwrap(), before);
    }
}
