//! Random files and random changes, against a model of their own.

use std::collections::BTreeMap;

use keymeter_core::limit::ScopeLimit;
use proptest::{collection::vec, option, prelude::*, sample::select};

use self::change::{put, put_model_limit, take};
use self::sample::{HEADS, Line, TEAMS, said, sample, team_id};
use super::*;

mod change;
mod sample;

/// What a key says, or a team: the values of its fields, those of its limits by their own names.
type Said = BTreeMap<&'static str, Value>;

/// What a file says.
#[derive(Clone, Debug, PartialEq)]
struct AllSaid {
    keys: Vec<Said>,
    teams: Vec<Said>,
}

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
            let quotas = vec(quota(), 1..4).prop_map(|quotas| {
                // No two of one name.
                let quotas: BTreeMap<String, Value> =
                    quotas.into_iter().map(|quota| (quota.name.to_string(), Setting::Quota(quota).value())).collect();
                quotas.into_values().collect::<Vec<_>>().into()
            });
            let number = || option::of((1..9_u64).prop_map(Value::from));
            let mode = option::of(select(vec!["enforce", "observe"]).prop_map(Value::from));
            let limits = (number(), option::of(quotas), number(), mode, option::of(models())).prop_map(
                |(tokens, quotas, requests, mode, models)| {
                    let limits = [
                        ("tokens_per_minute", tokens),
                        ("models", models),
                        ("quotas", quotas),
                        ("requests_per_minute", requests),
                        ("mode", mode),
                    ];
                    limits.into_iter().filter_map(|(name, limit)| Some((Value::from(name), limit?))).collect()
                },
            );
            limits.prop_map(Value::Mapping).boxed()
        }
        "allow_from" => {
            vec(select(vec!["10.0.0.0/8", "::1/128"]).prop_map(Value::from), 1..3).prop_map(Value::from).boxed()
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

/// Limits of models, as a key has them.
fn models() -> impl Strategy<Value = Value> {
    vec(model_limit(), 1..5).prop_map(|limits| {
        let mut models = Value::Null;
        for limit in &limits {
            put_model_limit(&mut models, limit);
        }
        models
    })
}

fn model_limit() -> impl Strategy<Value = ModelLimit> {
    let limits = prop_oneof![
        quota().prop_map(ScopeLimit::Quota),
        (1..9_u64).prop_map(|number| ScopeLimit::RequestsPerMinute(limit(&number.to_string()))),
        Just(ScopeLimit::ConcurrentRequests(Limit::Unlimited)),
    ];
    (select(vec!["m", "llama3:8b", "gpt-4*", "id", "${x}", "quotas"]), limits)
        .prop_map(|(models, limit)| ModelLimit { models: Glob::new(models), limit })
}

fn quota() -> impl Strategy<Value = Quota> {
    let kinds = vec![
        "tokens=5/day",
        "tokens=6/day@Europe/Berlin,carried=7,until=2027-01-01",
        "usd=2.50/month",
        "requests=1/1h",
        "requests=2/60m",
    ];
    select(kinds).prop_map(|line| line.parse().unwrap())
}

const FIELDS: [&str; 10] =
    ["name", "hash", "enabled", "owner", "models", "allow_from", "limits", "priority", "expires_at", "retiring"];
/// The fields of limits, and by what name they are known beside those of the key.
const LIMITS: [(&str, &str); 5] = [
    ("requests_per_minute", "requests_per_minute"),
    ("tokens_per_minute", "tokens_per_minute"),
    ("mode", "mode"),
    ("quotas", "quotas"),
    ("models", MODEL_LIMITS),
];
const MODEL_LIMITS: &str = "limits.models";

fn fields() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let some = proptest::sample::subsequence(&FIELDS[..], 0..=FIELDS.len()).prop_shuffle();
    some.prop_flat_map(|names| {
        names.into_iter().map(|name| value(name).prop_map(move |value| (name, value))).collect::<Vec<_>>()
    })
}

#[derive(Clone, Debug)]
enum RandomEdit {
    Create(Vec<Setting>),
    Set(usize, Setting),
    Clear(usize, Field),
    Retire(usize, &'static str),
    DropEnded(usize, &'static str),
    Delete(usize),
    SetLimit(usize, Setting),
    ClearLimit(usize, Field),
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
        select(vec![LimitMode::Enforce, LimitMode::Observe]).prop_map(Setting::Mode),
        quota().prop_map(Setting::Quota),
        model_limit().prop_map(Setting::ModelLimit),
        select(vec!["10.0.0.0/8", "::1/128"]).prop_map(|network| Setting::AllowFrom(vec![network.parse().unwrap()])),
        (-100..=100_i64).prop_map(|number| Setting::Priority(number.try_into().unwrap())),
        select(&TIMES[..]).prop_map(|time| Setting::ExpiresAt(time.parse().unwrap())),
    ]
}

fn edit() -> impl Strategy<Value = RandomEdit> {
    use Field::{
        ExpiresAt, Limits, Mode, ModelLimits, Models, Owner, Priority, Quotas, RequestsPerMinute, Retiring,
        TokensPerMinute,
    };
    let quota_of = |name: &str| Field::Quota(name.parse().unwrap());
    let limits = vec![
        Limits,
        RequestsPerMinute,
        TokensPerMinute,
        Quotas,
        quota_of("tokens_per_day"),
        quota_of("requests_per_1h"),
    ];
    let mut fields = vec![Owner, Models, Field::AllowFrom, Mode, ModelLimits, Priority, ExpiresAt, Retiring];
    fields.extend(&limits);
    let limit = setting().prop_filter("a limit of a team", |setting| {
        setting.path()[0] == "limits" && !matches!(setting, Setting::Mode(_) | Setting::ModelLimit(_))
    });
    prop_oneof![
        (0..4_usize, limit).prop_map(|(team, limit)| RandomEdit::SetLimit(team, limit)),
        (0..4_usize, select(limits)).prop_map(|(team, field)| RandomEdit::ClearLimit(team, field)),
        vec(setting(), 0..4).prop_map(RandomEdit::Create),
        (0..4_usize, setting()).prop_map(|(key, setting)| RandomEdit::Set(key, setting)),
        (0..4_usize, select(fields)).prop_map(|(key, field)| RandomEdit::Clear(key, field)),
        (0..4_usize, select(&TIMES[..])).prop_map(|(key, end)| RandomEdit::Retire(key, end)),
        (0..4_usize, select(&TIMES[..])).prop_map(|(key, now)| RandomEdit::DropEnded(key, now)),
        (0..4_usize).prop_map(RandomEdit::Delete),
    ]
}

impl RandomEdit {
    fn change(&self, AllSaid { keys, .. }: &AllSaid) -> Option<Edit> {
        let team = |number: &usize| Holder::Team(team_id(*number).replace("$$", "$"));
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
            Self::SetLimit(number, limit) => Edit::SetLimit { of: team(number), limit: limit.clone() },
            Self::ClearLimit(number, field) => Edit::ClearLimit { of: team(number), field: *field },
        })
    }

    fn fresh(keys: &[Said]) -> KeyId {
        let taken = |id: &String| keys.iter().any(|key| key["id"] == id.as_str());
        id(&(10..99).map(|number| format!("key_{number}")).find(|id| !taken(id)).unwrap())
    }

    /// What the file is to say afterwards.
    fn model(&self, AllSaid { keys, teams }: &mut AllSaid) {
        let listed = |number: &usize| teams.iter().position(|team| team["id"] == team_id(*number).as_str());
        match self {
            Self::Create(settings) => {
                let mut key = Said::from([("id", Value::from(Self::fresh(keys).as_str()))]);
                for setting in settings {
                    put(&mut key, setting);
                }
                keys.push(key);
            }
            Self::Set(key, setting) => put(&mut keys[*key], setting),
            Self::Clear(key, field) => take(&mut keys[*key], *field),
            Self::SetLimit(number, limit) => {
                let place = listed(number).unwrap_or_else(|| {
                    teams.push(Said::from([("id", team_id(*number).into())]));
                    teams.len() - 1
                });
                put(&mut teams[place], limit);
            }
            Self::ClearLimit(number, field) => {
                let Some(place) = listed(number) else { return };
                take(&mut teams[place], *field);
                // It is not listed without limits.
                teams.retain(|team| team.len() > 1);
            }
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
            Self::Create(_) => return owner == HEADS[0],
            Self::Delete(key) => return owner == *key || owner == HEADS[0],
            Self::SetLimit(team, _) => (TEAMS + team, "limits"),
            // The entry may go with its last limit.
            Self::ClearLimit(team, _) => return owner == TEAMS + team || owner == HEADS[1],
            Self::Set(key, setting) => (*key, setting.path()[0]),
            Self::Clear(key, field) => (*key, field.path()[0]),
            Self::Retire(key, _) | Self::DropEnded(key, _) => (*key, "retiring"),
        };
        owner == key && field.is_some_and(|field| field.is_empty() || field == touched)
    }
}

/// What a file says, read without the code under test.
fn read(text: &str) -> AllSaid {
    let file: Value = serde_yaml::from_str(text).unwrap();
    let names = FIELDS.into_iter().chain(["id"]);
    let fields =
        |key: &Value| names.clone().filter_map(|name| Some((name, key.get(name)?.clone()))).collect::<Vec<_>>();
    let list = |name: &str| file.get(name).and_then(Value::as_sequence).cloned().unwrap_or_default();
    let of = |list: Vec<Value>| list.iter().map(|entry| said(&fields(entry))).collect();
    AllSaid { keys: of(list("keys")), teams: of(list("teams")) }
}

/// A line without the dash that it may get from the one above it.
fn bare(line: &str) -> &str {
    line.trim_start().trim_start_matches("- ").trim_start()
}

proptest! {
    #[test]
    fn an_edit_does_what_it_is_for_and_leaves_all_other_lines(sample in sample(), edit in edit()) {
        let (text, mut said) = (sample.text(), sample.said());
        let Some(change) = edit.change(&said) else { return Ok(()) };
        let edited = match apply(&text, &[change]) {
            Ok(edited) => edited,
            Err(error) => panic!("{error:?}\n{text}"),
        };
        edit.model(&mut said);
        prop_assert_eq!(read(&edited), said, "{}\n{}", text, edited);
        let mut rest = edited.lines();
        for line in sample.lines().iter().filter(|line| !edit.touches(line)) {
            let found = rest.any(|new| bare(new) == bare(&line.0));
            prop_assert!(found, "`{}` is gone from\n{}\nwhich is now\n{}", line.0, text, edited);
        }
        prop_assert_eq!(edited.matches('\n').count() == edited.matches("\r\n").count(), sample.line_break == "\r\n");
    }

    #[test]
    fn edits_may_follow_one_another(sample in sample(), edits in vec(edit(), 1..12)) {
        let (mut text, mut said) = (sample.text(), sample.said());
        for edit in edits {
            let Some(change) = edit.change(&said) else { continue };
            text = match apply(&text, &[change]) {
                Ok(edited) => edited,
                Err(error) => panic!("{error:?}\n{edit:?}\n{text}"),
            };
            edit.model(&mut said);
            prop_assert_eq!(&read(&text), &said);
        }
    }

    #[test]
    fn any_text_is_edited_or_refused(begun in any::<bool>(), tokens in vec(select(&TOKENS[..]), 0..16)) {
        let text = if begun { "keys:\n- id: a\n  " } else { "" }.to_owned() + &tokens.concat();
        for change in [
            create("new"),
            set("a", name("New")),
            set("a", Setting::RequestsPerMinute(limit("5"))),
            set("a", Setting::Quota("tokens=5/day".parse().unwrap())),
            set("a", Setting::ModelLimit("m:tokens=5/day".parse().unwrap())),
            set("a", Setting::ModelLimit("m:requests_per_minute=5".parse().unwrap())),
            clear("a", Field::ModelLimits),
            clear("a", Field::Quota("tokens_per_day".parse().unwrap())),
            Edit::SetLimit { of: Holder::Team("a".into()), limit: Setting::RequestsPerMinute(limit("5")) },
            Edit::ClearLimit { of: Holder::Team("a".into()), field: Field::Limits },
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

const TOKENS: [&str; 35] = [
    "keys:",
    "teams:",
    "quotas:",
    "models:",
    "m:",
    "{tokens: 1, per: day}",
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
