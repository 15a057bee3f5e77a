//! The keys file `keys.yaml`: keys, and the limits of teams and owners.

use std::{collections::HashMap, path::Path, sync::Arc};

use keymeter_core::{key::KeyRecord, limit::ScopeLimits};
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml::Value;

use super::{
    limits::RawScopeLimits,
    record::{Listed, RawKey, Taken, record},
    regular::{self, Irregular, Section},
};
use crate::{
    expand::{Environment, expand},
    read,
    report::{ConfigError, Place, Report},
    scalar::{Party, Scalar},
    yaml::Marks,
};

/// Reads the keys in the text of a `keys.yaml`.
///
/// # Errors
/// All faults of the text, in its order.
pub fn parse(
    text: &str,
    file: &Path,
    secret_checksum_required: bool,
    environment: &Environment<'_>,
) -> Result<Vec<KeyRecord>, Vec<ConfigError>> {
    // Whatever is unusual or faulty is read again, with the places of all values.
    if let Ok(records) = regular_records(text, file, secret_checksum_required, environment) {
        return Ok(records);
    }
    let (mut value, marks) = read::document(text, file)?;
    if value.is_null() {
        let message = "the file is empty; for a file without keys write `keys: []`";
        return Err(vec![ConfigError::of_file(file, message.to_owned())]);
    }
    let report = Report::new(file, &marks);
    read::expand_all(&mut value, &report.root(), environment);
    let records = records(value, &report.root(), secret_checksum_required);
    let faults = report.into_faults();
    if faults.is_empty() { Ok(records) } else { Err(faults) }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the field `keys`, a list")]
struct RawFile {
    keys: Option<Vec<Value>>,
    teams: Option<Vec<Value>>,
    owners: Option<Vec<Value>>,
}

/// The same, for editors: there each key is looked at in its own place.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct WrittenFile {
    /// The keys.
    keys: Vec<RawKey>,
    /// The teams that have limits, each of all its keys together.
    teams: Option<Vec<RawScope>>,
    /// The owners that have limits, each of all their keys together.
    owners: Option<Vec<RawScope>>,
}

/// A team or an owner.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields `id` and `limits`")]
struct RawScope {
    /// What keys name in `team` or `owner`.
    #[schemars(required)]
    id: Option<Scalar<Party>>,
    /// What all of its keys may use together; what is left out is unlimited.
    limits: Option<RawScopeLimits>,
}

fn records(value: Value, root: &Place<'_>, checksum_required: bool) -> Vec<KeyRecord> {
    let Some(file) = read::read::<RawFile>(value, root) else { return Vec::new() };
    let keys = root.required("keys", file.keys, "the list of keys; for none write `keys: []`").unwrap_or_default();
    let listed = Listed {
        teams: listed("team", each(file.teams.unwrap_or_default(), &root.field("teams"))),
        owners: listed("owner", each(file.owners.unwrap_or_default(), &root.field("owners"))),
    };
    let mut taken = Taken::default();
    let placed: Vec<(Place<'_>, RawKey)> = each(keys, &root.field("keys"));
    placed.into_iter().filter_map(|(place, raw)| record(raw, &place, checksum_required, &listed, &mut taken)).collect()
}

/// The keys in a text that is written as most are and that has no fault.
fn regular_records(
    text: &str,
    file: &Path,
    checksum_required: bool,
    environment: &Environment<'_>,
) -> Result<Vec<KeyRecord>, Irregular> {
    let marks = Marks::default();
    let report = Report::new(file, &marks);
    let root = report.root();
    let (mut keys, mut listed_by_name) = (None, Listed::default());
    for section in regular::sections(text)? {
        match section.name {
            "keys" => keys = Some(section),
            "teams" => listed_by_name.teams = listed("team", scopes(section, &root, environment)?),
            "owners" => listed_by_name.owners = listed("owner", scopes(section, &root, environment)?),
            _ => return Err(Irregular),
        }
    }
    let (mut records, mut taken) = (Vec::new(), Taken::without_lines());
    let place = root.field("keys");
    keys.ok_or(Irregular)?.each_element(|value| {
        let raw = understood(value, environment)?;
        records.extend(record(raw, &place, checksum_required, &listed_by_name, &mut taken));
        if report.has_faults() { Err(Irregular) } else { Ok(()) }
    })?;
    if report.has_faults() { Err(Irregular) } else { Ok(records) }
}

fn scopes<'place>(
    section: Section<'_>,
    root: &Place<'place>,
    environment: &Environment<'_>,
) -> Result<Vec<(Place<'place>, RawScope)>, Irregular> {
    let mut scopes = Vec::new();
    section.each_element(|value| {
        scopes.push((root.clone(), understood(value, environment)?));
        Ok(())
    })?;
    Ok(scopes)
}

/// What a value is, with the variables in it expanded.
fn understood<'text, T: Deserialize<'text>>(
    mut value: regular::Value<'text>,
    environment: &Environment<'_>,
) -> Result<T, Irregular> {
    value.each_text(&mut |text| {
        if text.contains('$') {
            *text = expand(text, environment).map_err(|_| Irregular)?.into();
        }
        Ok(())
    })?;
    T::deserialize(value).map_err(|_| Irregular)
}

/// Those in a list that are limited.
fn listed(what: &str, list: Vec<(Place<'_>, RawScope)>) -> HashMap<Arc<str>, Arc<ScopeLimits>> {
    let mut lines = HashMap::new();
    let mut listed = HashMap::new();
    for (place, raw) in list {
        let limits = raw.limits.unwrap_or_default().check(&place.field("limits"));
        let Some(Scalar(Party(id))) = place.required("id", raw.id, "what keys name it by") else { continue };
        let of_id = place.field("id");
        if let Some(line) = lines.insert(id.clone(), of_id.line()) {
            of_id.error(format!("the {what} `{id}` is already given on line {line}"));
        }
        if !limits.are_unlimited() {
            listed.insert(id, Arc::new(limits));
        }
    }
    listed
}

/// What is in a list. Each is read by itself: reading all again for every fault would take long in a large file.
fn each<'place, T: DeserializeOwned>(list: Vec<Value>, place: &Place<'place>) -> Vec<(Place<'place>, T)> {
    let read = list.into_iter().enumerate();
    let read = read.map(|(index, value)| read::read(value, &place.element(index)).flatten()).collect();
    place.elements(read)
}
