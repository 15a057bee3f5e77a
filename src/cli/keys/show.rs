//! The commands that only read: what keys there are, and the hash of a secret.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::Path,
};

use jiff::Timestamp;
use keymeter_config::keyfile::{self, EditError};
use keymeter_core::{
    glob::Glob,
    key::{KeyHash, KeyId, KeyRecord, KeyState, Priority, Terms},
    limit::{Limit, LimitMode, ModelLimits, ScopeLimits},
    printable::{plain_json, steers},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Io, KeysError, Output,
    defaults::Defaults,
    options::{model_limits, quota},
    read,
};
use crate::cli::remote::aligned;

pub(super) fn list(path: &Path, output: Output, io: &mut Io<'_>) -> Result<(), KeysError> {
    let (known, _) = known(path, io)?;
    let text = match output {
        Output::Text => table(&known.records, &Defaults::beside(path, io.environment), io.now),
        Output::Json => json_text(&known.records.iter().map(|record| summary(record, io.now)).collect()),
    };
    print(&text, io)
}

pub(super) fn show(path: &Path, id: &KeyId, output: Output, io: &mut Io<'_>) -> Result<(), KeysError> {
    let (known, text) = known(path, io)?;
    let record = known.records.into_iter().find(|record| record.id == *id);
    let record = record.ok_or_else(|| KeysError::Edit(path.to_owned(), EditError::Unknown(id.clone())))?;
    let hash_known = known.complete || !keyfile::gives_secret(&text, id).unwrap_or(true);
    let shown = match output {
        Output::Text => description(&record, hash_known, &Defaults::beside(path, io.environment), io.now),
        Output::Json => json_text(&everything(&record, hash_known, io.now)),
    };
    print(&shown, io)
}

/// More than any secret has.
const LONGEST_SECRET: u64 = 64 * 1024;

/// Prints the hash of the secret on standard input, or where an `issuer` is named, of the holder of its tokens whom standard
/// input names.
pub(super) fn hash(issuer: Option<&str>, io: &mut Io<'_>) -> Result<(), KeysError> {
    // With room for all, no copy of the secret is left where the buffer grew from.
    let mut input = Zeroizing::new(Vec::with_capacity(usize::try_from(LONGEST_SECRET).unwrap_or_default() + 1));
    let length = Read::take(&mut *io.stdin, LONGEST_SECRET + 1).read_to_end(&mut input)?;
    let secret = input.strip_suffix(b"\n").unwrap_or(&input);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.is_empty() || u64::try_from(length).is_ok_and(|length| length > LONGEST_SECRET) {
        return Err(KeysError::NoSecret);
    }
    let hash = match issuer {
        None => KeyHash::digest(secret),
        Some(issuer) => {
            let holder = std::str::from_utf8(secret).map_err(|_| KeysError::NoHolder)?;
            KeyHash::of_token_holder(issuer, holder)
        }
    };
    print(&format!("{hash}\n"), io)
}

fn known(path: &Path, io: &Io<'_>) -> Result<(read::Known, String), KeysError> {
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => KeysError::Missing(path.to_owned()),
        _ => KeysError::Unreadable(path.to_owned(), error),
    })?;
    let known = read::known(&text, path, io.environment).map_err(KeysError::Faulty)?;
    Ok((known, text))
}

fn print(text: &str, io: &mut Io<'_>) -> Result<(), KeysError> {
    io.stdout.write_all(text.as_bytes())?;
    Ok(io.stdout.flush()?)
}

/// A column's title, and what stands in it.
type Column = (&'static str, fn(&KeyRecord, &Defaults, Timestamp) -> String);

const COLUMNS: [Column; 11] = [
    ("ID", |record, _, _| record.id.to_string()),
    ("NAME", |record, _, _| record.name.as_str().to_owned()),
    ("STATE", |record, _, now| state(record, now).to_owned()),
    ("OWNER", |record, _, _| or_dash(record.owner.as_deref())),
    ("TEAM", |record, _, _| or_dash(record.team.as_deref())),
    ("MODELS", |record, _, _| models(record.models.as_deref())),
    ("REQUESTS/MIN", |record, defaults, _| defaults.requests_per_minute(record.limits.requests_per_minute)),
    ("TOKENS/MIN", |record, defaults, _| defaults.tokens_per_minute(record.limits.tokens_per_minute)),
    ("CONCURRENT", |record, defaults, _| defaults.concurrent_requests(record.limits.concurrent_requests)),
    (PRIORITY, |record, _, _| record.priority.to_string()),
    ("EXPIRES", |record, _, _| or_dash(record.expires_at)),
];

/// The column that is left out where no key has a priority that was set.
pub(super) const PRIORITY: &str = "PRIORITY";

fn table(records: &[KeyRecord], defaults: &Defaults, now: Timestamp) -> String {
    let has_priorities = records.iter().any(has_priority);
    let columns: Vec<_> = COLUMNS.iter().filter(|(title, _)| has_priorities || *title != PRIORITY).collect();
    let head = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let cells = |record| columns.iter().map(|(_, cell)| shown(&cell(record, defaults, now))).collect();
    let rows = records.iter().map(cells);
    aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn has_priority(record: &KeyRecord) -> bool {
    record.priority != Priority::default()
}

fn description(record: &KeyRecord, hash_known: bool, defaults: &Defaults, now: Timestamp) -> String {
    let limits = &record.limits;
    let hash =
        if hash_known { record.hash.to_string() } else { "of a secret whose variable is not set here".to_owned() };
    let retiring = record.retiring.iter().map(|old| ("retiring", format!("{} until {}", old.hash, old.not_after)));
    let priority = has_priority(record).then(|| ("priority", record.priority.to_string()));
    let fields = [
        ("id", record.id.to_string()),
        ("name", record.name.as_str().to_owned()),
        ("state", state(record, now).to_owned()),
        ("hash", hash),
        ("owner", or_dash(record.owner.as_deref())),
        ("team", or_dash(record.team.as_deref())),
        ("models", models(record.models.as_deref())),
        ("requests_per_minute", defaults.requests_per_minute(limits.requests_per_minute)),
        ("tokens_per_minute", defaults.tokens_per_minute(limits.tokens_per_minute)),
        ("concurrent_requests", defaults.concurrent_requests(limits.concurrent_requests)),
    ];
    let expires_at = ("expires_at", or_dash(record.expires_at));
    let further = record.terms.as_deref().map(further).unwrap_or_default();
    let line = |(name, value): (&str, String)| format!("{name:20} {}\n", shown(&value));
    fields.into_iter().chain(priority).chain([expires_at]).chain(further).chain(retiring).map(line).collect()
}

/// What few keys have.
pub(super) fn further(terms: &Terms) -> Vec<(&'static str, String)> {
    let mode = terms.mode.map(|mode| ("mode", mode_word(mode).to_owned()));
    let quotas = terms.quotas.iter().map(|quota| ("quota", quota.to_string()));
    let models = terms.models.iter().flat_map(ModelLimits::each).map(|limit| ("model_limit", limit.to_string()));
    let team = terms.team.as_deref().map(|limits| ("team_limits", scope_limits(limits)));
    let owner = terms.owner.as_deref().map(|limits| ("owner_limits", scope_limits(limits)));
    let networks = terms.allow_from.iter().map(|network| ("allow_from", network.to_string()));
    mode.into_iter().chain(quotas).chain(models).chain(team).chain(owner).chain(networks).collect()
}

fn mode_word(mode: LimitMode) -> &'static str {
    match mode {
        LimitMode::Enforce => "enforce",
        LimitMode::Observe => "observe",
    }
}

/// The limits that there are, in one line.
fn scope_limits(limits: &ScopeLimits) -> String {
    limits.each().map(|limit| limit.to_string()).collect::<Vec<_>>().join(", ")
}

fn summary(record: &KeyRecord, now: Timestamp) -> Value {
    let limit = |limit: Option<Limit>| limit.map(|limit| limit.number().map_or(json!("unlimited"), Value::from));
    let limits = &record.limits;
    json!({
        "id": record.id.as_str(),
        "name": record.name.as_str(),
        "state": state(record, now),
        "owner": record.owner.as_deref(),
        "team": record.team.as_deref(),
        "models": record.models.as_ref().map(|globs| globs.iter().map(Glob::as_str).collect::<Vec<_>>()),
        "limits": {
            "requests_per_minute": limit(limits.requests_per_minute),
            "tokens_per_minute": limit(limits.tokens_per_minute),
            "concurrent_requests": limit(limits.concurrent_requests),
        },
        "priority": record.priority,
        "expires_at": record.expires_at.map(|time| time.to_string()),
    })
}

fn everything(record: &KeyRecord, hash_known: bool, now: Timestamp) -> Value {
    let mut all = summary(record, now);
    let retiring = record.retiring.iter();
    let retiring = retiring.map(|old| json!({"hash": old.hash.to_string(), "not_after": old.not_after.to_string()}));
    if let Some(fields) = all.as_object_mut() {
        fields.insert("hash".to_owned(), hash_known.then(|| record.hash.to_string()).into());
        fields.insert("retiring".to_owned(), retiring.collect());
        if let Some(terms) = &record.terms {
            fields.insert("quotas".to_owned(), terms.quotas.iter().map(quota).collect());
            fields.insert("mode".to_owned(), terms.mode.map(mode_word).into());
            fields.insert(
                "allow_from".to_owned(),
                terms.allow_from.iter().map(|network| Value::from(network.to_string())).collect(),
            );
            let of_models: Vec<_> = terms.models.iter().flat_map(ModelLimits::each).collect();
            if let Some(limits) = fields.get_mut("limits").and_then(Value::as_object_mut) {
                limits.insert("models".to_owned(), model_limits(&of_models).into());
            }
        }
    }
    all
}

fn json_text(value: &Value) -> String {
    plain_json(&format!("{value:#}\n"))
}

fn state(record: &KeyRecord, now: Timestamp) -> &'static str {
    match record.state {
        KeyState::Active if record.expires_at.is_some_and(|end| end <= now) => "expired",
        KeyState::Active => "active",
        KeyState::Disabled => "disabled",
        KeyState::Archived => "archived",
        KeyState::NoBalance => "no_balance",
    }
}

fn models(globs: Option<&[Glob]>) -> String {
    let list = globs.map(|globs| globs.iter().map(Glob::as_str).collect::<Vec<_>>().join(","));
    list.unwrap_or_else(|| "all".to_owned())
}

/// Names may hold almost any character; those that steer a terminal are not shown to it.
fn shown(text: &str) -> String {
    text.replace(steers, "\u{fffd}")
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}
