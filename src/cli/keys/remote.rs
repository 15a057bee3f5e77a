//! The same commands on the keys of a control plane.

use keymeter_core::key::KeyId;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    Clearable, Command, KeysError, Output, Source,
    limits::{merged, own},
    names::find_on,
    show::PRIORITY,
};
use crate::cli::remote::{Remote, RemoteError, print_one, print_rows, print_secret, segment};

const COLUMNS: [(&str, &str); 11] = [
    ("ID", "id"),
    ("NAME", "name"),
    ("SECRET", "masked"),
    ("STATE", "state"),
    ("OWNER", "owner"),
    ("TEAM", "team"),
    ("MODELS", "models"),
    ("REQUESTS/MIN", "limits.requests_per_minute"),
    ("TOKENS/MIN", "limits.tokens_per_minute"),
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
            let keys = remote.list("/api/v1/keys")?;
            print_rows(&keys, &columns(&keys), list.output)?;
        }
        Command::Show(show) => {
            let mut key = remote.call(Method::GET, &path(&show.key.id()?), None)?;
            if let Some(fields) = key.as_object_mut().filter(|_| show.output == Output::Text) {
                fields.retain(|name, value| name != "priority" || is_priority(value));
            }
            print_one(&key, show.output)?;
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
            | Clearable::Mode => {
                limits = Some(limits.map_or_else(|| own(remote, &path(id)), Ok)?);
                let name = match field {
                    Clearable::RequestsPerMinute => "requests_per_minute",
                    Clearable::TokensPerMinute => "tokens_per_minute",
                    Clearable::Quotas => "quotas",
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
