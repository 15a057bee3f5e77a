//! The same commands on the keys of a control plane.

use keymeter_config::keys::parse_limits;
use keymeter_core::key::KeyId;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Clearable, Command, KeysError, Output, Source,
    defaults::{Defaults, limit},
    limits::{merged, own},
    names::find_on,
    show::{self, PRIORITY},
};
use crate::cli::remote::{Remote, RemoteError, print_fields, print_one, print_rows, print_secret, segment};

const COLUMNS: [(&str, &str); 12] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("STATE", "state"),
    ("SECRET", "masked"),
    ("OWNER", "owner"),
    ("TEAM", "team"),
    ("MODELS", "models"),
    ("REQUESTS/MIN", "limits.requests_per_minute"),
    ("TOKENS/MIN", "limits.tokens_per_minute"),
    ("CONCURRENT", "limits.concurrent_requests"),
    (PRIORITY, "priority"),
    ("EXPIRES", "expires_at"),
];

/// Runs a command on the control plane at `url`.
pub(super) fn run(mut command: Command, url: &str, source: &Source) -> Result<(), KeysError> {
    let remote = Remote::new(url, source.ca.as_ref())?;
    if let Some(key) = command.key() {
        find_on(&remote, key)?;
    }
    match command {
        Command::Create(create) => {
            if create.id.is_some() {
                return Err(RemoteError::Unfit("a control plane chooses ids itself: leave out --id").into());
            }
            let mut body = create.options.json();
            body.insert("name".to_owned(), create.name.as_str().into());
            body.extend(create.hash.map(|hash| ("hash".to_owned(), hash.to_string().into())));
            let made = remote.call(Method::POST, "/api/v1/keys", Some(&body.into()))?;
            let id = made.get("id").and_then(Value::as_str).unwrap_or_default();
            if create.hash.is_some() {
                eprintln!("created {id}");
            } else {
                print_secret(&made, "secret", &format!("created {id}"))?;
            }
        }
        Command::List(list) => {
            let mut keys = remote.list("/api/v1/keys")?;
            if list.output == Output::Text {
                let defaults = Defaults::of_control(&remote);
                for key in &mut keys {
                    say_what_holds(key, &defaults);
                }
            }
            print_rows(&keys, &columns(&keys), list.output)?;
        }
        Command::Show(show) => {
            let mut key = remote.call(Method::GET, &path(&show.key.id()?), None)?;
            if show.output == Output::Text {
                say_what_holds(&mut key, &Defaults::of_control(&remote));
                print_fields(&described(&key))?;
            } else {
                print_one(&key, show.output)?;
            }
        }
        Command::Update(update) => {
            update.must_make_sense()?;
            let id = update.key.id()?;
            let mut options = update.options.json();
            if let Some(name) = update.name {
                options.insert("name".to_owned(), name.as_str().into());
            }
            let changes = changes(&remote, &id, options, &update.clear)?;
            remote.call(Method::PATCH, &path(&id), Some(&changes.into()))?;
            eprintln!("updated {id}");
        }
        Command::Enable(key) => enable(&remote, &key.id()?, true)?,
        Command::Disable(key) => enable(&remote, &key.id()?, false)?,
        Command::Regenerate(regenerate) => {
            let id = regenerate.key.id()?;
            let grace = regenerate.grace.map(|grace| json!({"grace": format!("{}s", grace.0.as_secs())}));
            let made = remote.call(Method::POST, &format!("{}/regenerate", path(&id)), grace.as_ref())?;
            print_secret(&made, "secret", &format!("regenerated {id}"))?;
        }
        Command::Delete(key) => {
            remote.call(Method::DELETE, &path(&key.id()?), None)?;
            eprintln!("deleted {}", key.id);
        }
        // It needs neither a file nor a control plane, and does not come here.
        Command::Hash(_) => {}
    }
    Ok(())
}

/// The columns of a list of keys.
fn columns(keys: &[Value]) -> Vec<(&'static str, &'static str)> {
    let has_priorities = keys.iter().filter_map(|key| key.get("priority")).any(is_priority);
    COLUMNS.into_iter().filter(|(title, _)| has_priorities || *title != PRIORITY).collect()
}

/// Puts the words that a keys file is told in into the place of what a key does not set.
fn say_what_holds(key: &mut Value, defaults: &Defaults) {
    let Some(fields) = key.as_object_mut() else { return };
    if fields.get("models").is_none_or(Value::is_null) {
        fields.insert("models".to_owned(), "all".into());
    }
    let limits = fields.entry("limits").or_insert_with(|| json!({}));
    let Some(limits) = limits.as_object_mut() else { return };
    let own = |name: &str| limits.get(name).and_then(limit);
    let words = [
        ("requests_per_minute", defaults.requests_per_minute(own("requests_per_minute"))),
        ("tokens_per_minute", defaults.tokens_per_minute(own("tokens_per_minute"))),
        ("concurrent_requests", defaults.concurrent_requests(own("concurrent_requests"))),
    ];
    limits.extend(words.map(|(name, words)| (name.to_owned(), words.into())));
}

/// What is told of one key: first what a keys file tells too, in its order and with its names.
fn described(key: &Value) -> Vec<(String, Value)> {
    const FIRST: [&str; 7] = ["id", "name", "state", "masked", "owner", "team", "models"];
    let Some(fields) = key.as_object() else { return Vec::new() };
    let mut told: Vec<_> =
        FIRST.iter().filter_map(|name| Some(((*name).to_owned(), fields.get(*name)?.clone()))).collect();
    if let Some(limits) = fields.get("limits").and_then(Value::as_object) {
        const MINUTE: [&str; 3] = ["requests_per_minute", "tokens_per_minute", "concurrent_requests"];
        told.extend(MINUTE.iter().filter_map(|name| Some(((*name).to_owned(), limits.get(*name)?.clone()))));
        let further: Map<_, _> =
            limits.clone().into_iter().filter(|(name, _)| !MINUTE.contains(&name.as_str())).collect();
        match parse_limits(further.clone().into()) {
            Ok((_, terms)) => {
                told.extend(show::further(&terms).into_iter().map(|(name, words)| (name.to_owned(), words.into())));
            }
            // What a control plane of a later version has beside them.
            Err(_) => told.extend(further),
        }
    }
    let is_told = |name: &str, value: &Value| {
        name != "limits" && !FIRST.contains(&name) && (name != "priority" || is_priority(value))
    };
    told.extend(fields.iter().filter(|(name, value)| is_told(name, value)).map(|(name, value)| {
        let value = if name == "retiring" { until(value) } else { value.clone() };
        (name.clone(), value)
    }));
    told
}

/// Until when old secrets work, of which a control plane shows no more.
fn until(retiring: &Value) -> Value {
    let times = retiring.as_array().into_iter().flatten().filter_map(|old| old.get("not_after")?.as_str());
    let words: Vec<_> = times.map(|time| format!("until {time}")).collect();
    if words.is_empty() { Value::Null } else { words.join(", ").into() }
}

/// Whether a priority is one that was set.
fn is_priority(value: &Value) -> bool {
    value.as_i64() != Some(0)
}

fn path(id: &KeyId) -> String {
    format!("/api/v1/keys/{}", segment(id.as_str()))
}

fn enable(remote: &Remote, id: &KeyId, enabled: bool) -> Result<(), RemoteError> {
    remote.call(Method::PATCH, &path(id), Some(&json!({"enabled": enabled})))?;
    eprintln!("{} {id}", if enabled { "enabled" } else { "disabled" });
    Ok(())
}

/// What is to be changed. A key's limits are changed all together, so those that are not named stay as they are.
fn changes(
    remote: &Remote,
    id: &KeyId,
    mut changes: Map<String, Value>,
    cleared: &[Clearable],
) -> Result<Map<String, Value>, KeysError> {
    if changes.is_empty() && cleared.is_empty() {
        return Err(KeysError::NothingToChange(id.clone()));
    }
    if changes.contains_key("owner") || changes.contains_key("team") {
        return Err(RemoteError::Unfit("a key's owner and team do not change: create another key for them").into());
    }
    let mut limits = None;
    for field in cleared {
        match field {
            Clearable::Owner | Clearable::Team => {
                return Err(
                    RemoteError::Unfit("a key's owner and team do not change: create another key for them").into()
                );
            }
            Clearable::Models => drop(changes.insert("models".to_owned(), Value::Null)),
            Clearable::Priority => drop(changes.insert("priority".to_owned(), Value::Null)),
            Clearable::ExpiresAt => drop(changes.insert("expires_at".to_owned(), Value::Null)),
            Clearable::AllowFrom => drop(changes.insert("allow_from".to_owned(), Value::Null)),
            Clearable::Limits => limits = Some(Map::new()),
            Clearable::RequestsPerMinute
            | Clearable::TokensPerMinute
            | Clearable::ConcurrentRequests
            | Clearable::Quotas
            | Clearable::ModelLimits
            | Clearable::Mode => {
                limits = Some(limits.map_or_else(|| own(remote, &path(id)), Ok)?);
                let name = match field {
                    Clearable::RequestsPerMinute => "requests_per_minute",
                    Clearable::TokensPerMinute => "tokens_per_minute",
                    Clearable::Quotas => "quotas",
                    Clearable::ModelLimits => "models",
                    Clearable::Mode => "mode",
                    _ => "concurrent_requests",
                };
                if let Some(limits) = &mut limits {
                    limits.remove(name);
                }
            }
        }
    }
    if let Some(Value::Object(named)) = changes.remove("limits") {
        let all = limits.map_or_else(|| own(remote, &path(id)), Ok)?;
        limits = Some(merged(all, named));
    }
    if let Some(limits) = limits {
        changes.insert("limits".to_owned(), limits.into());
    }
    Ok(changes)
}
