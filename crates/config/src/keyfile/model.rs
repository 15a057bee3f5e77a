//! The content of a keys file as plain data, before and after a change. Every edit of the text is compared with it.

use jiff::Timestamp;
use keymeter_core::{
    key::{KeyId, Retiring},
    limit::{QuotaName, QuotaSpan},
};
use serde_yaml::{Mapping, Value};

use super::{
    Edit, EditError, Entry, Field, Holder, KEYS, PathStep, Setting,
    fields::{RETIRING, literal},
};
use crate::read::plain_data;

/// The data of a keys file; null for one that is empty.
pub(super) fn read(text: &str) -> Result<Value, EditError> {
    plain_data(text).map_err(|error| EditError::Unreadable(error.to_string()))
}

/// What is to be done for `change`; `None` where nothing is.
pub(super) fn step<'change>(file: &Value, change: &'change Edit) -> Result<Option<PathStep<'change>>, EditError> {
    Ok(Some(match change {
        Edit::Create { id, settings } => create(file, id, settings)?,
        Edit::Set { id, setting } => set(file, key(file, id)?, setting),
        Edit::Clear { id, field } => return Ok(clear_step(file, key(file, id)?, *field)),
        Edit::Retire { id, old } => {
            PathStep::Push { entry: key(file, id)?, path: RETIRING.to_vec(), element: retired(old) }
        }
        Edit::DropEnded { id, now } => return Ok(drop_ended(file, key(file, id)?, *now)),
        Edit::Delete { id } => PathStep::Delete(key(file, id)?),
        Edit::SetLimit { of, limit } => set_limit(file, of, limit)?,
        Edit::ClearLimit { of, field } => return clear_limit(file, of, *field),
    }))
}

/// `file` as it is to be after `step`; `None` where the step does not fit it.
pub(super) fn after(mut file: Value, step: &PathStep<'_>) -> Option<Value> {
    if file.is_null() {
        *field_mut(&mut file, KEYS)? = Value::Sequence(Vec::new());
    }
    match step {
        PathStep::Create { list, entry } => push(field_mut(&mut file, list)?, entry.clone()),
        PathStep::Append { list, entries } => {
            field_mut(&mut file, list)?.as_sequence_mut()?.extend(entries.iter().cloned());
        }
        PathStep::Set { entry, path, value } => *field_at_mut(entry.of_mut(&mut file)?, path)? = value.clone(),
        PathStep::Clear { entry, path } => clear(entry.of_mut(&mut file)?, path),
        PathStep::Push { entry, path, element } => {
            push(field_at_mut(entry.of_mut(&mut file)?, path)?, element.clone());
        }
        PathStep::Replace { entry, path, element, value } => {
            *field_at_mut(entry.of_mut(&mut file)?, path)?.get_mut(element)? = value.clone();
        }
        PathStep::Drop { entry, path, element } => {
            let entry = entry.of_mut(&mut file)?;
            let list = field_at_mut(entry, path)?.as_sequence_mut()?;
            // The place is one that was found in this list.
            list.remove(*element);
            if list.is_empty() {
                clear(entry, path);
            }
        }
        // As is this.
        PathStep::Delete(Entry { list, place }) => drop(field_mut(&mut file, list)?.as_sequence_mut()?.remove(*place)),
    }
    Some(file)
}

impl Entry {
    fn of(self, file: &Value) -> Option<&Value> {
        file.get(self.list)?.get(self.place)
    }

    fn of_mut(self, file: &mut Value) -> Option<&mut Value> {
        file.get_mut(self.list)?.get_mut(self.place)
    }
}

/// Whether the one key with that id has a field of that name.
pub(super) fn has_field(file: &Value, id: &KeyId, name: &str) -> Result<bool, EditError> {
    let key = key(file, id)?;
    Ok(at(file, key, &[name]).is_some_and(|value| !value.is_null()))
}

fn create(file: &Value, id: &KeyId, settings: &[Setting]) -> Result<PathStep<'static>, EditError> {
    match key(file, id) {
        Err(EditError::Unknown(_)) => created(KEYS, id.as_str(), settings),
        _ => Err(EditError::Duplicate(id.clone())),
    }
}

/// A further entry of a list, with what `settings` say of it.
fn created(list: &'static str, id: &str, settings: &[Setting]) -> Result<PathStep<'static>, EditError> {
    entry(list, id, settings).map(|entry| PathStep::Create { list, entry })
}

/// An entry of a list, with what `settings` say of it.
pub(super) fn entry(list: &'static str, id: &str, settings: &[Setting]) -> Result<Value, EditError> {
    let alone = Entry { list, place: 0 };
    let id = Mapping::from_iter([(Value::from("id"), literal(id))]);
    let mut file = Value::from(Mapping::from_iter([(Value::from(list), Value::from(vec![Value::from(id)]))]));
    for setting in settings {
        let step = set(&file, alone, setting);
        file = after(file, &step).ok_or(EditError::Entangled)?;
    }
    alone.of(&file).cloned().ok_or(EditError::Entangled)
}

fn set<'change>(file: &Value, entry: Entry, setting: &'change Setting) -> PathStep<'change> {
    let (path, mut value) = (setting.path(), setting.value());
    let Some(quota) = setting.quota() else { return PathStep::Set { entry, path, value } };
    let Some((element, old)) = quota_of(file, entry, &path, quota.name) else {
        return PathStep::Push { entry, path, element: value };
    };
    if quota.carried.is_none()
        && let Some(fields) = value.as_mapping_mut()
    {
        let carried = ["carried", "until"].into_iter().filter_map(|name| Some((name.into(), old.get(name)?.clone())));
        fields.extend(carried);
    }
    PathStep::Replace { entry, path, element, value }
}

fn clear_step(file: &Value, entry: Entry, field: Field) -> Option<PathStep<'static>> {
    let path = field.path().to_vec();
    if let Field::Quota(name) = field {
        let (element, _) = quota_of(file, entry, &path, name)?;
        return Some(PathStep::Drop { entry, path, element });
    }
    at(file, entry, &path).map(|_| PathStep::Clear { entry, path })
}

fn set_limit<'change>(file: &Value, of: &Holder, limit: &'change Setting) -> Result<PathStep<'change>, EditError> {
    if matches!(limit, Setting::Mode(_) | Setting::ModelLimit(_)) || limit.path().first() != Some(&"limits") {
        return Err(EditError::NoLimit);
    }
    match listed(file, of)? {
        Some(entry) => Ok(set(file, entry, limit)),
        None => created(of.list(), of.id(), std::slice::from_ref(limit)),
    }
}

fn clear_limit(file: &Value, of: &Holder, field: Field) -> Result<Option<PathStep<'static>>, EditError> {
    let Some(entry) = listed(file, of)? else { return Ok(None) };
    if matches!(field, Field::Mode | Field::ModelLimits) || field.path().first() != Some(&"limits") {
        return Err(EditError::NoLimit);
    }
    let Some(step) = clear_step(file, entry, field) else { return Ok(None) };
    let has_others = after(file.clone(), &step).is_some_and(|file| at(&file, entry, &["limits"]).is_some());
    Ok(Some(if has_others { step } else { PathStep::Delete(entry) }))
}

/// The quota of that name, and its place in the list at `path`. One whose span or unit is not written plainly is not found.
fn quota_of<'file>(file: &'file Value, entry: Entry, path: &[&str], name: QuotaName) -> Option<(usize, &'file Value)> {
    let has_name = |quota: &Value| {
        let span = quota.get("per").and_then(Value::as_str).and_then(|span| span.parse::<QuotaSpan>().ok());
        quota.get(name.unit.as_str()).is_some_and(|amount| !amount.is_null()) && span == Some(name.span)
    };
    at(file, entry, path)?.as_sequence()?.iter().enumerate().find(|(_, quota)| has_name(quota))
}

/// The first replaced secret of a key that has ended by `now`. One whose end is not written plainly stays.
fn drop_ended(file: &Value, entry: Entry, now: Timestamp) -> Option<PathStep<'static>> {
    let list = at(file, entry, RETIRING)?.as_sequence()?;
    let end = |old: &Value| old.get("not_after")?.as_str()?.parse::<Timestamp>().ok();
    let ended = list.iter().position(|old| end(old).is_some_and(|end| end <= now));
    ended.map(|element| PathStep::Drop { entry, path: RETIRING.to_vec(), element })
}

fn retired(old: &Retiring) -> Value {
    let fields = [("hash", old.hash.to_string()), ("not_after", old.not_after.to_string())];
    Mapping::from_iter(fields.map(|(name, text)| (name.into(), text.into()))).into()
}

/// The key with this id.
fn key(file: &Value, id: &KeyId) -> Result<Entry, EditError> {
    match place(file, KEYS, id.as_str()) {
        Ok(Some(place)) => Ok(Entry { list: KEYS, place }),
        Ok(None) => Err(EditError::Unknown(id.clone())),
        Err(Ambiguous) => Err(EditError::Duplicate(id.clone())),
    }
}

/// The entry of a team or an owner, where there is one.
fn listed(file: &Value, of: &Holder) -> Result<Option<Entry>, EditError> {
    let list = of.list();
    match place(file, list, of.id()) {
        Ok(place) => Ok(place.map(|place| Entry { list, place })),
        Err(Ambiguous) => Err(EditError::ListedTwice { list, id: of.id().to_owned() }),
    }
}

/// More than one entry has the same id.
struct Ambiguous;

/// Where in a list the one with this id stands.
fn place(file: &Value, list: &str, id: &str) -> Result<Option<usize>, Ambiguous> {
    let entries = file.get(list).and_then(Value::as_sequence).into_iter().flatten().enumerate();
    let mut places = entries.filter(|(_, entry)| has_id(entry, id)).map(|(place, _)| place);
    match (places.next(), places.next()) {
        (place, None) => Ok(place),
        _ => Err(Ambiguous),
    }
}

fn has_id(entry: &Value, id: &str) -> bool {
    match entry.get("id") {
        Some(text @ Value::String(_)) => *text == literal(id),
        Some(Value::Number(number)) => number.to_string() == id,
        Some(Value::Bool(flag)) => flag.to_string() == id,
        _ => false,
    }
}

fn at<'file>(file: &'file Value, entry: Entry, path: &[&str]) -> Option<&'file Value> {
    path.iter().try_fold(entry.of(file)?, |value, name| value.get(name))
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
