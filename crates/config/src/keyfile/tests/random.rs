//! Random files and random changes, against a model of their own.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

/// What a key says: the values of its fields, those of its limits by their own names.
type Said = BTreeMap<&'static str, Value>;

/// A key as it is written.
#[derive(Clone, Debug)]
struct Item {
    fields: Vec<(&'static str, Value)>,
    style: Style,
    blank_above: bool,
    comments: Vec<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Style {
    flow: bool,
    block_lists: bool,
    quote: &'static str,
}

/// A line, and the key and the field that it belongs to; a comment between fields belongs to the key alone.
type Line = (String, Option<(usize, Option<&'static str>)>);

const HASH: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const TEXTS: [&str; 8] = ["plain", "two words", "yes", "a: b", "#x y", "Ключ №1", "1.0", "it's \\ \"so\""];
const TIMES: [&str; 3] = ["2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z", "2027-01-01T00:00:00.5Z"];

fn text() -> impl Strategy<Value = String> {
    select(&TEXTS[..]).prop_map(str::to_owned)
}

fn value(field: &'static str) -> BoxedStrategy<Value> {
    match field {
        "enabled" => any::<bool>().prop_map(Value::from).boxed(),
        "models" => vec(text().prop_map(Value::from), 1..3).prop_map(Value::from).boxed(),
        "limits" => {
            let limit =
                |name: &'static str| option::of(1..9_u64).prop_map(move |limit| limit.map(|limit| (name, limit)));
            let limits = (limit("tokens_per_minute"), limit("requests_per_minute"));
            let mapping = |limits: Vec<(&str, u64)>| limits.into_iter().map(|(n, l)| (n.into(), l.into())).collect();
            limits.prop_map(move |(a, b)| Value::Mapping(mapping(a.into_iter().chain(b).collect()))).boxed()
        }
        "priority" => (-100..=100_i64).prop_map(Value::from).boxed(),
        "expires_at" => select(&TIMES[..]).prop_map(Value::from).boxed(),
        "retiring" => vec(select(&TIMES[..]), 0..3).prop_map(|ends| ends.into_iter().map(retired).collect()).boxed(),
        _ => text().prop_map(Value::from).boxed(),
    }
}

/// A replaced secret.
fn retired(end: &str) -> Value {
    let fields = [("hash", HASH), ("not_after", end)].map(|(name, text)| (name.into(), text.into()));
    Value::Mapping(fields.into_iter().collect())
}

const FIELDS: [&str; 9] =
    ["name", "hash", "enabled", "owner", "models", "limits", "priority", "expires_at", "retiring"];

fn fields() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let some = proptest::sample::subsequence(&FIELDS[..], 0..=FIELDS.len()).prop_shuffle();
    some.prop_flat_map(|names| {
        names.into_iter().map(|name| value(name).prop_map(move |value| (name, value))).collect::<Vec<_>>()
    })
}

fn item() -> impl Strategy<Value = Item> {
    let style = (any::<bool>(), any::<bool>(), select(vec!["", "'", "\""]));
    let style = style.prop_map(|(flow, block_lists, quote)| Style { flow, block_lists, quote });
    (fields(), style, any::<bool>(), vec(any::<bool>(), 20)).prop_map(|(fields, style, blank_above, comments)| Item {
        fields,
        style,
        blank_above,
        comments,
    })
}

/// A file: its keys, how they are indented, its line break, whether the last line has one.
#[derive(Clone, Debug)]
struct Sample {
    items: Vec<Item>,
    indentation: usize,
    line_break: &'static str,
    ends: bool,
}

fn sample() -> impl Strategy<Value = Sample> {
    (vec(item(), 0..4), 0..5_usize, 0..3_usize, select(vec!["\n", "\r\n"]), any::<bool>()).prop_map(
        |(mut items, indentation, id_at, line_break, ends)| {
            for (number, item) in items.iter_mut().enumerate() {
                let id = ("id", Value::from(format!("key_{number}")));
                item.fields.insert(id_at.min(item.fields.len()), id);
            }
            Sample { items, indentation, line_break, ends }
        },
    )
}

impl Sample {
    fn lines(&self) -> Vec<Line> {
        let empty = if self.items.is_empty() { " []" } else { "" };
        let mut lines = vec![("# all of them".to_owned(), None), (format!("keys:{empty}  # list"), Some((99, None)))];
        for (number, item) in self.items.iter().enumerate() {
            if item.blank_above {
                lines.push((String::new(), None));
            }
            lines.push((format!("{}# above {number}", " ".repeat(self.indentation)), None));
            lines.extend(item.lines(number, self.indentation));
        }
        lines.push(("# the end: é".to_owned(), None));
        lines
    }

    fn text(&self) -> String {
        let lines: Vec<String> = self.lines().into_iter().map(|(line, _)| line).collect();
        lines.join(self.line_break) + if self.ends { self.line_break } else { "" }
    }

    fn said(&self) -> Vec<Said> {
        self.items.iter().map(|item| said(&item.fields)).collect()
    }
}

fn said(fields: &[(&'static str, Value)]) -> Said {
    let mut said = Said::new();
    for (name, value) in fields {
        match (*name, value) {
            ("limits", Value::Mapping(limits)) => {
                let named = |name| limits.get(name).map(|limit: &Value| (name, limit.clone()));
                said.extend(["requests_per_minute", "tokens_per_minute"].into_iter().filter_map(named));
            }
            ("retiring", Value::Sequence(list)) if list.is_empty() => {}
            _ => drop(said.insert(name, value.clone())),
        }
    }
    said
}

impl Item {
    fn lines(&self, number: usize, indentation: usize) -> Vec<Line> {
        let outer = " ".repeat(indentation);
        if self.style.flow {
            let fields: Vec<_> = self.fields.iter().map(|(name, value)| self.inline(name, value)).collect();
            return vec![(format!("{outer}- {{{}}} # in a line", fields.join(", ")), Some((number, Some(""))))];
        }
        let mut lines = Vec::new();
        for (place, (name, value)) in self.fields.iter().enumerate() {
            let dash = if place == 0 { "- " } else { "  " };
            if place > 0 && self.comments[place] {
                lines.push((format!("{outer}  # about {name} of {number}"), Some((number, None))));
            }
            let owner = Some((number, Some(*name)));
            let mut written = self.block(name, value).into_iter();
            lines.extend(written.next().map(|line| (format!("{outer}{dash}{line}"), owner)));
            lines.extend(written.map(|line| (format!("{outer}  {line}"), owner)));
        }
        lines
    }

    fn quoted(&self, name: &str) -> String {
        format!("{0}{name}{0}", self.style.quote)
    }

    /// `name: value`, written in another way than the code under test does.
    fn inline(&self, name: &str, value: &Value) -> String {
        format!("{}: {}", self.quoted(name), serde_json::to_string(value).unwrap())
    }

    fn block(&self, name: &str, value: &Value) -> Vec<String> {
        let comment = if self.comments[10 + name.len() % 9] { "  # beside" } else { "" };
        let json = |value: &Value| serde_json::to_string(value).unwrap();
        let entries: Vec<String> = match value {
            Value::Sequence(list) => list.iter().map(|element| format!("- {}{comment}", json(element))).collect(),
            Value::Mapping(fields) => fields
                .iter()
                .map(|(name, value)| format!("  {}: {}{comment}", self.quoted(name.as_str().unwrap()), json(value)))
                .collect(),
            _ => Vec::new(),
        };
        if entries.is_empty() || !self.style.block_lists {
            return vec![format!("{}{comment}", self.inline(name, value))];
        }
        std::iter::once(format!("{}:{comment}", self.quoted(name))).chain(entries).collect()
    }
}

#[derive(Clone, Debug)]
enum RandomEdit {
    Create(Vec<Setting>),
    Set(usize, Setting),
    Clear(usize, Field),
    Retire(usize, &'static str),
    DropEnded(usize, &'static str),
    Delete(usize),
}

fn setting() -> impl Strategy<Value = Setting> {
    let name = text().prop_filter_map("too short", |text| text.parse().ok().map(Setting::Name));
    let globs = vec(text(), 1..3).prop_map(|globs| Setting::Models(globs.iter().map(|glob| Glob::new(glob)).collect()));
    prop_oneof![
        name,
        Just(Setting::Hash(KeyHash::digest(b""))),
        any::<bool>().prop_map(Setting::Enabled),
        text().prop_map(Setting::Owner),
        globs,
        (1..9_u64).prop_map(|number| Setting::RequestsPerMinute(limit(&number.to_string()))),
        Just(Setting::TokensPerMinute(Limit::Unlimited)),
        (-100..=100_i64).prop_map(|number| Setting::Priority(number.try_into().unwrap())),
        select(&TIMES[..]).prop_map(|time| Setting::ExpiresAt(time.parse().unwrap())),
    ]
}

fn edit() -> impl Strategy<Value = RandomEdit> {
    use Field::{ExpiresAt, Limits, Models, Owner, Priority, RequestsPerMinute, Retiring, TokensPerMinute};
    let fields = vec![Owner, Models, Limits, RequestsPerMinute, TokensPerMinute, Priority, ExpiresAt, Retiring];
    prop_oneof![
        vec(setting(), 0..4).prop_map(RandomEdit::Create),
        (0..4_usize, setting()).prop_map(|(key, setting)| RandomEdit::Set(key, setting)),
        (0..4_usize, select(fields)).prop_map(|(key, field)| RandomEdit::Clear(key, field)),
        (0..4_usize, select(&TIMES[..])).prop_map(|(key, end)| RandomEdit::Retire(key, end)),
        (0..4_usize, select(&TIMES[..])).prop_map(|(key, now)| RandomEdit::DropEnded(key, now)),
        (0..4_usize).prop_map(RandomEdit::Delete),
    ]
}

impl RandomEdit {
    fn change(&self, keys: &[Said]) -> Option<Edit> {
        let of = |key: &usize| keys.get(*key)?.get("id")?.as_str().map(id);
        Some(match self {
            Self::Create(settings) => Edit::Create { id: Self::fresh(keys), settings: settings.clone() },
            Self::Set(key, setting) => Edit::Set { id: of(key)?, setting: setting.clone() },
            Self::Clear(key, field) => Edit::Clear { id: of(key)?, field: *field },
            Self::Retire(key, end) => {
                let old = Retiring { hash: KeyHash::digest(b""), not_after: end.parse().unwrap() };
                Edit::Retire { id: of(key)?, old }
            }
            Self::DropEnded(key, now) => Edit::DropEnded { id: of(key)?, now: now.parse().unwrap() },
            Self::Delete(key) => Edit::Delete { id: of(key)? },
        })
    }

    fn fresh(keys: &[Said]) -> KeyId {
        let taken = |id: &String| keys.iter().any(|key| key["id"] == id.as_str());
        id(&(10..99).map(|number| format!("key_{number}")).find(|id| !taken(id)).unwrap())
    }

    /// What the keys are to say afterwards.
    fn model(&self, keys: &mut Vec<Said>) {
        match self {
            Self::Create(settings) => {
                let mut key = Said::from([("id", Value::from(Self::fresh(keys).as_str()))]);
                for setting in settings {
                    put(&mut key, setting);
                }
                keys.push(key);
            }
            Self::Set(key, setting) => put(&mut keys[*key], setting),
            Self::Clear(key, Field::Limits) => {
                keys[*key].retain(|name, _| !name.ends_with("_per_minute"));
            }
            Self::Clear(key, field) => drop(keys[*key].remove(field.path().last().unwrap())),
            Self::Retire(key, end) => {
                let list = keys[*key].entry("retiring").or_insert_with(|| Value::Sequence(Vec::new()));
                list.as_sequence_mut().unwrap().push(retired(end));
            }
            Self::DropEnded(key, now) => {
                let Some(list) = keys[*key].get_mut("retiring").and_then(Value::as_sequence_mut) else { return };
                list.retain(|old| old["not_after"].as_str().unwrap() > *now);
                if list.is_empty() {
                    keys[*key].remove("retiring");
                }
            }
            Self::Delete(key) => drop(keys.remove(*key)),
        }
    }

    /// Whether the line may differ afterwards.
    fn touches(&self, line: &Line) -> bool {
        let Some((owner, field)) = line.1 else { return false };
        let (key, touched) = match self {
            Self::Create(_) => return owner == 99,
            Self::Delete(key) => return owner == *key || owner == 99,
            Self::Set(key, setting) => (key, setting.path()[0]),
            Self::Clear(key, field) => (key, field.path()[0]),
            Self::Retire(key, _) | Self::DropEnded(key, _) => (key, "retiring"),
        };
        owner == *key && field.is_some_and(|field| field.is_empty() || field == touched)
    }
}

fn put(key: &mut Said, setting: &Setting) {
    key.insert(setting.path().last().unwrap(), setting.value());
}

/// What a file says, read without the code under test.
fn read(text: &str) -> Vec<Said> {
    let file: Value = serde_yaml::from_str(text).unwrap();
    let names = FIELDS.into_iter().chain(["id"]);
    let fields =
        |key: &Value| names.clone().filter_map(|name| Some((name, key.get(name)?.clone()))).collect::<Vec<_>>();
    file["keys"].as_sequence().unwrap().iter().map(|key| said(&fields(key))).collect()
}

/// A line without the dash that it may get from the one above it.
fn bare(line: &str) -> &str {
    line.trim_start().trim_start_matches("- ").trim_start()
}

proptest! {
    #[test]
    fn an_edit_does_what_it_is_for_and_leaves_all_other_lines(sample in sample(), edit in edit()) {
        let (text, mut keys) = (sample.text(), sample.said());
        let Some(change) = edit.change(&keys) else { return Ok(()) };
        let edited = match apply(&text, &[change]) {
            Ok(edited) => edited,
            Err(error) => panic!("{error:?}\n{text}"),
        };
        edit.model(&mut keys);
        prop_assert_eq!(read(&edited), keys, "{}\n{}", text, edited);
        let mut rest = edited.lines();
        for line in sample.lines().iter().filter(|line| !edit.touches(line)) {
            let found = rest.any(|new| bare(new) == bare(&line.0));
            prop_assert!(found, "`{}` is gone from\n{}\nwhich is now\n{}", line.0, text, edited);
        }
        prop_assert_eq!(edited.matches('\n').count() == edited.matches("\r\n").count(), sample.line_break == "\r\n");
    }

    #[test]
    fn edits_may_follow_one_another(sample in sample(), edits in vec(edit(), 1..12)) {
        let (mut text, mut keys) = (sample.text(), sample.said());
        for edit in edits {
            let Some(change) = edit.change(&keys) else { continue };
            text = match apply(&text, &[change]) {
                Ok(edited) => edited,
                Err(error) => panic!("{error:?}\n{edit:?}\n{text}"),
            };
            edit.model(&mut keys);
            prop_assert_eq!(&read(&text), &keys);
        }
    }

    #[test]
    fn any_text_is_edited_or_refused(begun in any::<bool>(), tokens in vec(select(&TOKENS[..]), 0..16)) {
        let text = if begun { "keys:\n- id: a\n  " } else { "" }.to_owned() + &tokens.concat();
        for change in [
            create("new"),
            set("a", name("New")),
            set("a", Setting::RequestsPerMinute(limit("5"))),
            set("a", priority("-5")),
            clear("a", Field::Limits),
            retire("a", TIMES[0]),
            Edit::DropEnded { id: id("a"), now: Timestamp::MAX },
            Edit::Delete { id: id("a") },
        ] {
            if let Ok(edited) = apply(&text, std::slice::from_ref(&change)) {
                // What was written can be read, and the next change is made in it or refused.
                serde_yaml::from_str::<Value>(&edited).unwrap();
                let _ = apply(&edited, &[create("newer")]);
            }
        }
    }
}

const TOKENS: [&str; 30] = [
    "keys:",
    "- ",
    "id: a",
    "name: b",
    "limits:",
    "retiring:",
    "requests_per_minute: 1",
    "\n",
    "\n  ",
    "\n    ",
    "\r\n",
    " ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    ",",
    ": ",
    "# c",
    "'",
    "\"",
    "é",
    "&x ",
    "*x",
    "!t ",
    "|",
    ">-",
    "? ",
    "---\n",
];
