//! The content of a keys file as plain data, before and after a change. Every edit of the text is compared with it.

use jiff::Timestamp;
use keymeter_core::key::{KeyId, Retiring};
use serde_yaml::{Mapping, Value};

use super::{Edit, EditError, PathStep, RETIRING, Setting};

/// The data of a keys file; null for one that is empty.
pub(super) fn read(text: &str) -> Result<Value, EditError> {
    serde_yaml::from_str(text).map_err(|error| EditError::Unreadable(error.to_string()))
}

/// What is to be done for `change`; `None` where nothing is.
pub(super) fn step(file: &Value, change: &Edit) -> Result<Option<PathStep>, EditError> {
    Ok(Some(match change {
        Edit::Create { id, settings } => create(file, id, settings)?,
        Edit::Set { id, setting } => {
            PathStep::Set { key: place(file, id)?, path: setting.path(), value: setting.value() }
        }
        Edit::Clear { id, field } => {
            let (key, path) = (place(file, id)?, field.path());
            if at(file, key, path).is_none() {
                return Ok(None);
            }
            PathStep::Clear { key, path }
        }
        Edit::Retire { id, old } => PathStep::Push { key: place(file, id)?, path: RETIRING, element: retired(old) },
        Edit::DropEnded { id, now } => return Ok(drop_ended(file, place(file, id)?, *now)),
        Edit::Delete { id } => PathStep::Delete { key: place(file, id)? },
    }))
}

/// `file` as it is to be after `step`; `None` where the step does not fit it.
pub(super) fn after(mut file: Value, step: &PathStep) -> Option<Value> {
    let keys = field_mut(&mut file, "keys")?;
    match step {
        PathStep::Create(fields) => push(keys, fields.clone()),
        PathStep::Set { key, path, value } => *field_at_mut(keys.get_mut(key)?, path)? = value.clone(),
        PathStep::Clear { key, path } => clear(keys.get_mut(key)?, path),
        PathStep::Push { key, path, element } => push(field_at_mut(keys.get_mut(key)?, path)?, element.clone()),
        PathStep::Drop { key, path, element } => {
            let key = keys.get_mut(key)?;
            let list = field_at_mut(key, path)?.as_sequence_mut()?;
            // The place is one that was found in this list.
            list.remove(*element);
            if list.is_empty() {
                clear(key, path);
            }
        }
        // As is this.
        PathStep::Delete { key } => drop(keys.as_sequence_mut()?.remove(*key)),
    }
    Some(file)
}

/// Whether the one key with that id has a field of that name.
pub(super) fn has_field(file: &Value, id: &KeyId, name: &str) -> Result<bool, EditError> {
    let key = place(file, id)?;
    Ok(at(file, key, &[name]).is_some_and(|value| !value.is_null()))
}

fn create(file: &Value, id: &KeyId, settings: &[Setting]) -> Result<PathStep, EditError> {
    if keys(file).any(|(_, key)| has_id(key, id)) {
        return Err(EditError::Duplicate(id.clone()));
    }
    let mut key = Value::from(Mapping::from_iter([(Value::from("id"), Value::from(id.as_str()))]));
    for setting in settings {
        if let Some(value) = field_at_mut(&mut key, setting.path()) {
            *value = setting.value();
        }
    }
    Ok(PathStep::Create(key))
}

/// The first replaced secret of a key that has ended by `now`. One whose end is not written plainly stays.
fn drop_ended(file: &Value, key: usize, now: Timestamp) -> Option<PathStep> {
    let list = at(file, key, RETIRING)?.as_sequence()?;
    let end = |old: &Value| old.get("not_after")?.as_str()?.parse::<Timestamp>().ok();
    let ended = list.iter().position(|old| end(old).is_some_and(|end| end <= now));
    ended.map(|element| PathStep::Drop { key, path: RETIRING, element })
}

fn retired(old: &Retiring) -> Value {
    let fields = [("hash", old.hash.to_string()), ("not_after", old.not_after.to_string())];
    Mapping::from_iter(fields.map(|(name, text)| (name.into(), text.into()))).into()
}

/// Where in the list of keys the one with this id stands.
fn place(file: &Value, id: &KeyId) -> Result<usize, EditError> {
    let mut places = keys(file).filter(|(_, key)| has_id(key, id)).map(|(place, _)| place);
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (None, _) => Err(EditError::Unknown(id.clone())),
        _ => Err(EditError::Duplicate(id.clone())),
    }
}

fn keys(file: &Value) -> impl Iterator<Item = (usize, &Value)> {
    file.get("keys").and_then(Value::as_sequence).into_iter().flatten().enumerate()
}

fn has_id(key: &Value, id: &KeyId) -> bool {
    match key.get("id") {
        Some(Value::String(text)) => text == id.as_str(),
        Some(Value::Number(number)) => number.to_string() == id.as_str(),
        Some(Value::Bool(flag)) => flag.to_string() == id.as_str(),
        _ => false,
    }
}

fn at<'file>(file: &'file Value, key: usize, path: &[&str]) -> Option<&'file Value> {
    path.iter().try_fold(file.get("keys")?.get(key)?, |value, name| value.get(name))
}

fn field_at_mut<'key>(key: &'key mut Value, path: &[&str]) -> Option<&'key mut Value> {
    path.iter().try_fold(key, |value, name| field_mut(value, name))
}

/// The field of that name, made if it is not there, as is the mapping around it.
fn field_mut<'value>(value: &'value mut Value, name: &str) -> Option<&'value mut Value> {
    if value.is_null() {
        *value = Mapping::new().into();
    }
    Some(value.as_mapping_mut()?.entry(name.into()).or_insert(Value::Null))
}

fn push(list: &mut Value, element: Value) {
    match list.as_sequence_mut() {
        Some(list) => list.push(element),
        None => *list = vec![element].into(),
    }
}

/// Takes a field away, and the mapping around it when it was the last one there.
fn clear(value: &mut Value, path: &[&str]) {
    let (Some((name, rest)), Some(fields)) = (path.split_first(), value.as_mapping_mut()) else { return };
    if let Some(inner) = fields.get_mut(name).filter(|_| !rest.is_empty()) {
        clear(inner, rest);
        if inner.as_mapping().is_some_and(|fields| !fields.is_empty()) {
            return;
        }
    }
    fields.shift_remove(name);
}
