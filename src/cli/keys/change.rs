//! The commands that change a keys file.

use std::path::Path;

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use keymeter_config::{
    Environment,
    keyfile::{self, Edit, EditError, Holder, LockedFile, Setting},
};
use keymeter_core::key::{KeyId, Retiring, Secret};

use super::{ClearableLimit, Create, Io, KeysError, LimitOptions, One, Regenerate, Update, options::Grace, read};

pub(super) fn create(create: Create, io: &mut Io<'_>) -> Result<(), KeysError> {
    let id = create.id.map_or_else(KeyId::generate, Ok)?;
    let secret = if create.hash.is_none() { Some(Secret::generate()?) } else { None };
    let hash = create.hash.or_else(|| secret.as_ref().map(Secret::hash));
    let settings = [Some(Setting::Name(create.name)), hash.map(Setting::Hash)].into_iter().flatten();
    let settings = settings.chain(create.options.settings()).collect();
    let path = create.source.file();
    let change = Edit::Create { id: id.clone(), settings };
    let file = LockedFile::open(path)?;
    let text = file.read()?.unwrap_or_default();
    write(file, path, &text, &[change], io.environment)?;
    match &secret {
        Some(secret) => show_secret("created", path, &id, secret, io),
        None => Ok(writeln!(io.stderr, "created {id}")?),
    }
}

pub(super) fn update(update: Update, io: &mut Io<'_>) -> Result<(), KeysError> {
    update.must_make_sense()?;
    let (id, source) = (update.key.id()?, update.key.source);
    let settings: Vec<_> = update.name.map(Setting::Name).into_iter().chain(update.options.settings()).collect();
    let cleared: Vec<_> = update.clear.into_iter().map(super::Clearable::field).collect();
    if settings.is_empty() && cleared.is_empty() {
        return Err(KeysError::NothingToChange(id));
    }
    let clear = cleared.into_iter().map(|field| Edit::Clear { id: id.clone(), field });
    let set = settings.into_iter().map(|setting| Edit::Set { id: id.clone(), setting });
    edit(source.file(), &clear.chain(set).collect::<Vec<_>>(), io)?;
    Ok(writeln!(io.stderr, "updated {id}")?)
}

/// Sets the limits of a team or an owner.
pub(super) fn limits(
    holder: &Holder,
    path: &Path,
    limits: LimitOptions,
    clear: &[ClearableLimit],
    io: &mut Io<'_>,
) -> Result<(), KeysError> {
    let clear = clear.iter().map(|cleared| Edit::ClearLimit { of: holder.clone(), field: cleared.field() });
    let set = limits.settings().into_iter().map(|limit| Edit::SetLimit { of: holder.clone(), limit });
    edit(path, &clear.chain(set).collect::<Vec<_>>(), io)
}

pub(super) fn enable(key: &One, enabled: bool, io: &mut Io<'_>) -> Result<(), KeysError> {
    let (id, source) = (key.id()?, &key.source);
    edit(source.file(), &[Edit::Set { id: id.clone(), setting: Setting::Enabled(enabled) }], io)?;
    Ok(writeln!(io.stderr, "{} {id}", if enabled { "enabled" } else { "disabled" })?)
}

pub(super) fn delete(key: &One, io: &mut Io<'_>) -> Result<(), KeysError> {
    let (id, source) = (key.id()?, &key.source);
    edit(source.file(), &[Edit::Delete { id: id.clone() }], io)?;
    Ok(writeln!(io.stderr, "deleted {id}")?)
}

pub(super) fn regenerate(regenerate: &Regenerate, io: &mut Io<'_>) -> Result<(), KeysError> {
    let id = &regenerate.key.id()?;
    let (path, secret) = (regenerate.key.source.file(), Secret::generate()?);
    let (file, text) = existing(path)?;
    if keyfile::gives_secret(&text, id).map_err(|error| KeysError::Edit(path.to_owned(), error))? {
        return Err(KeysError::GivesSecret(path.to_owned(), id.clone()));
    }
    let retire = regenerate.grace.map(|grace| retire(&text, path, id, grace, io)).transpose()?;
    let set = Edit::Set { id: id.clone(), setting: Setting::Hash(secret.hash()) };
    let drop = Edit::DropEnded { id: id.clone(), now: io.now };
    let changes: Vec<_> = [drop, set].into_iter().chain(retire).collect();
    write(file, path, &text, &changes, io.environment)?;
    show_secret("regenerated", path, id, &secret, io)
}

/// Lets the present secret of a key go on working for a while.
fn retire(text: &str, path: &Path, id: &KeyId, grace: Grace, io: &Io<'_>) -> Result<Edit, KeysError> {
    let known = read::known(text, path, io.environment).map_err(KeysError::Faulty)?;
    let record = known.records.into_iter().find(|record| record.id == *id);
    let record = record.ok_or_else(|| KeysError::Edit(path.to_owned(), EditError::Unknown(id.clone())))?;
    let old = Retiring { hash: record.hash, not_after: end(io.now, grace) };
    Ok(Edit::Retire { id: id.clone(), old })
}

/// When the grace is over, rounded up to whole seconds.
fn end(now: Timestamp, Grace(grace): Grace) -> Timestamp {
    let end = now.saturating_add(grace).unwrap_or(Timestamp::MAX);
    end.round(TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Ceil)).unwrap_or(end)
}

/// Changes a file that exists.
fn edit(path: &Path, changes: &[Edit], io: &Io<'_>) -> Result<(), KeysError> {
    let (file, text) = existing(path)?;
    write(file, path, &text, changes, io.environment)
}

fn existing(path: &Path) -> Result<(LockedFile, String), KeysError> {
    let file = LockedFile::open(path)?;
    let text = file.read()?.ok_or_else(|| KeysError::Missing(path.to_owned()))?;
    Ok((file, text))
}

/// Makes the changes if the file is without a fault afterwards, and gives the lock up.
fn write(
    file: LockedFile,
    path: &Path,
    text: &str,
    changes: &[Edit],
    environment: &Environment<'_>,
) -> Result<(), KeysError> {
    let edited = keyfile::apply(text, changes).map_err(|error| KeysError::Edit(path.to_owned(), error))?;
    if let Err(faults) = read::known(&edited, path, environment) {
        let before = read::known(text, path, environment).err();
        return Err(before.map_or(KeysError::WouldBreak(faults), KeysError::Faulty));
    }
    file.write(&edited)?;
    drop(file);
    Ok(())
}

/// Prints a new secret alone on standard output.
fn show_secret(done: &str, path: &Path, id: &KeyId, secret: &Secret, io: &mut Io<'_>) -> Result<(), KeysError> {
    let shown = writeln!(io.stdout, "{}", secret.reveal()).and_then(|()| io.stdout.flush());
    shown.map_err(|error| KeysError::SecretLost(path.to_owned(), id.clone(), error))?;
    Ok(writeln!(io.stderr, "{done} {id}; this secret is shown once")?)
}
