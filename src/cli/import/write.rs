//! Writes what is to be taken into a keys file, and upstreams into a new configuration. What is there already stays.

use std::{
    collections::HashSet,
    env,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use keymeter_config::{
    keyfile::{self, Holder, LockedFile, Setting},
    keys,
};
use keymeter_core::key::{KeyId, KeyRecord};
use serde_yaml::Value;

use super::{
    ImportError,
    model_list::Models,
    plan::{Plan, Row, balance_note},
};

/// Adds the keys and the limits of teams that the file does not have. Returns every row, with what became of it.
pub(super) fn keys(plan: Plan, path: &Path, dry_run: bool) -> Result<Vec<Row>, ImportError> {
    let file = LockedFile::open(path)?;
    let text = file.read()?.unwrap_or_default();
    let known = records(&text, path).map_err(ImportError::Faulty)?;
    let mut hashes: HashSet<_> = known.iter().map(|record| record.hash.to_hex()).collect();
    let listed = listed(&text);
    let Plan { keys, holders, others: mut rows, .. } = plan;
    let (mut new_keys, mut new_holders): (Vec<(KeyId, Vec<Setting>)>, Vec<_>) = (Vec::new(), Vec::new());
    for mut key in keys {
        if hashes.insert(key.hash.to_hex()) {
            key.left.into_iter().for_each(|left| key.row.note(balance_note(left)));
            let id = KeyId::generate()?;
            new_keys.push((id, key.settings));
            rows.push(key.row);
        } else {
            rows.push(key.row.here());
        }
    }
    for mut holder in holders {
        holder.left.into_iter().for_each(|left| holder.row.note(balance_note(left)));
        if holder.limits.is_empty() {
            rows.push(holder.row);
        } else if listed.contains(&name_of(&holder.holder)) {
            rows.push(holder.row.here());
        } else {
            new_holders.push((holder.holder, holder.limits));
            rows.push(holder.row);
        }
    }
    rows.sort_by_key(|row| (row.is_of_key, row.number()));
    if new_keys.is_empty() && new_holders.is_empty() {
        return Ok(rows);
    }
    let edited = keyfile::append(&text, &new_keys, &new_holders);
    let edited = edited.map_err(|error| ImportError::Edit(path.to_owned(), error))?;
    records(&edited, path).map_err(ImportError::WouldBreak)?;
    if !dry_run {
        file.write(&edited)?;
    }
    Ok(rows)
}

/// The keys of a file, which may be empty. A variable that is not set here may stand for anything.
fn records(text: &str, path: &Path) -> Result<Vec<KeyRecord>, Vec<keymeter_config::ConfigError>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    keys::parse(text, path, false, &|name| set(name).or_else(|| Some(format!("unset-{name}"))))
}

/// The teams and owners that a file lists.
fn listed(text: &str) -> HashSet<(&'static str, String)> {
    let file: Value = serde_yaml::from_str(text).unwrap_or_default();
    let ids = |list: &'static str| {
        let entries = file.get(list).and_then(Value::as_sequence).cloned().unwrap_or_default();
        entries.into_iter().filter_map(move |entry| Some((list, entry.get("id")?.as_str()?.to_owned())))
    };
    ids("teams").chain(ids("owners")).collect()
}

fn name_of(holder: &Holder) -> (&'static str, String) {
    match holder {
        Holder::Team(name) => ("teams", name.clone()),
        Holder::Owner(name) => ("owners", name.clone()),
    }
}

/// Writes a new configuration with upstreams and prices, and tells each model.
pub(super) fn configuration(
    models: &Models,
    path: &Path,
    dry_run: bool,
    told: &mut dyn Write,
) -> Result<(), ImportError> {
    for row in &models.rows {
        writeln!(told, "{row}")?;
    }
    let checked = keymeter_config::parse(&models.text, path, &|name| Some(format!("unset-{name}")));
    checked.map_err(ImportError::WouldBreak)?;
    match fs::read_to_string(path) {
        Ok(text) if text == models.text => {
            writeln!(told, "{} is here already", path.display())?;
            return Ok(());
        }
        Ok(_) => return Err(ImportError::Exists(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(ImportError::Unwritten(path.to_owned(), error)),
    }
    if dry_run {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(models.text.as_bytes()));
    written.map_err(|error| ImportError::Unwritten(path.to_owned(), error))?;
    Ok(writeln!(told, "{} is written", path.display())?)
}
