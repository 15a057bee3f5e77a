//! Keys by their names: a command that is given one looks for the id.

use std::path::Path;

use keymeter_core::key::KeyId;
use serde_json::Value;

use super::{Io, KeysError, One, read};
use crate::cli::remote::Remote;

/// Puts the id in the place of a name, for a key of a file. What is neither stays, and is refused where it is used.
pub(super) fn find_in_file(key: &mut One, path: &Path, io: &Io<'_>) -> Result<(), KeysError> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let Ok(known) = read::known(&text, path, io.environment) else { return Ok(()) };
    let keys = known.records.iter().map(|record| (record.id.as_str(), record.name.as_str()));
    find(key, keys)
}

/// The same for a key of a control plane, whose ids look like no name that people give.
pub(super) fn find_on(remote: &Remote, key: &mut One) -> Result<(), KeysError> {
    if key.id.starts_with(PREFIX) && key.id.parse::<KeyId>().is_ok() {
        return Ok(());
    }
    let keys = remote.list("/api/v1/keys")?;
    let text = |key: &Value, field| key.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let keys: Vec<_> = keys.iter().map(|key| (text(key, "id"), text(key, "name"))).collect();
    find(key, keys.iter().map(|(id, name)| (id.as_str(), name.as_str())))
}

/// What generated ids begin with.
const PREFIX: &str = "key_";

fn find<'keys>(key: &mut One, keys: impl Iterator<Item = (&'keys str, &'keys str)> + Clone) -> Result<(), KeysError> {
    if keys.clone().any(|(id, _)| id == key.id) {
        return Ok(());
    }
    let named: Vec<_> = keys.filter(|(_, name)| *name == key.id).map(|(id, _)| id.to_owned()).collect();
    match &named[..] {
        [] if key.id.parse::<KeyId>().is_ok() => Ok(()),
        [] => Err(KeysError::NoSuchKey(key.id.clone())),
        [id] => {
            key.id.clone_from(id);
            Ok(())
        }
        _ => Err(KeysError::Ambiguous(key.id.clone(), named.join(", "))),
    }
}
