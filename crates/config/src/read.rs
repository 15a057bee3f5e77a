//! From the text of a file to what is written in it. A faulty value is reported and taken out, and the rest is read
//! again, so that one reading finds every fault.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::{Mapping, Value};

use super::{
    expand::{Environment, expand},
    nearest::suggestion,
    report::{ConfigError, Place},
};
use crate::yaml::{Marks, Node, PathStep, SyntaxError};

/// The text of a file.
///
/// # Errors
/// When it cannot be read or is not UTF-8; the message names neither the file nor a place within it.
pub(super) fn text_of(file: &Path) -> Result<String, String> {
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        format!("line {} is not UTF-8", before.split(|byte| *byte == b'\n').count())
    })
}

/// The values of a text, with the places where they stand.
///
/// # Errors
/// When it is no YAML, or has a field twice.
pub(super) fn document(text: &str, file: &Path) -> Result<(Value, Marks), Vec<ConfigError>> {
    let of_syntax = |error| vec![ConfigError::of_syntax(file, error)];
    let marks = Marks::parse(text).map_err(of_syntax)?;
    let mut repeated = Vec::new();
    marks.root().into_iter().for_each(|root| repeated_fields(root, &mut repeated));
    if !repeated.is_empty() {
        return Err(repeated.into_iter().map(|error| ConfigError::of_syntax(file, error)).collect());
    }
    let mut value: Value = plain_data(text).map_err(|error| of_syntax(unreadable(&error)))?;
    value.apply_merge().map_err(|error| of_syntax(unreadable(&error)))?;
    Ok((value, marks))
}

/// The values of a text that may begin with a byte order mark, which the reader takes for the first field's indentation.
pub(super) fn plain_data(text: &str) -> Result<Value, serde_yaml::Error> {
    serde_yaml::from_str(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn repeated_fields(node: &Node, faults: &mut Vec<SyntaxError>) {
    let mut lines = std::collections::HashMap::new();
    for (key, value) in node.fields() {
        let line = key.as_scalar().and_then(|name| Some((name, lines.insert(name, key.start.line)?)));
        if let Some((name, line)) = line {
            let message = format!("the field `{name}` is already given on line {line}");
            faults.push(SyntaxError { line: key.start.line, column: key.start.column, message });
        }
        repeated_fields(value, faults);
    }
    node.elements().iter().for_each(|element| repeated_fields(element, faults));
}

fn unreadable(error: &serde_yaml::Error) -> SyntaxError {
    let (line, column) = error.location().map_or((1, 1), |location| (location.line(), location.column()));
    let message = error.to_string();
    let said = message.split(" at line ").next().unwrap_or_default();
    SyntaxError { line, column, message: format!("no valid YAML: {said}") }
}

/// Expands the variables in all values here; values that cannot be expanded are reported and taken out.
pub(super) fn expand_all(value: &mut Value, place: &Place<'_>, environment: &Environment<'_>) {
    match value {
        Value::String(text) => match expand(text, environment) {
            Ok(expanded) => *text = expanded,
            Err(error) => {
                place.drop_with(error.to_string());
                *value = Value::Null;
            }
        },
        Value::Sequence(elements) => {
            for (index, element) in elements.iter_mut().enumerate() {
                expand_all(element, &place.element(index), environment);
            }
        }
        Value::Mapping(fields) => expand_fields(fields, place, environment),
        Value::Tagged(_) => {
            place.drop_with("a tag (`!…`) is not accepted");
            *value = Value::Null;
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

const NO_NAME: &str = "the name of a field must be text";

fn expand_fields(fields: &mut Mapping, place: &Place<'_>, environment: &Environment<'_>) {
    fields.retain(|name, value| {
        match name {
            Value::String(name) => expand_all(value, &place.field(name), environment),
            Value::Number(name) => place.field(&name.to_string()).fault_of_name(NO_NAME),
            _ => place.error(NO_NAME),
        }
        name.is_string()
    });
}

/// Reads what is written here. `None` if it is nothing of the kind.
pub(super) fn read<T: DeserializeOwned>(mut value: Value, place: &Place<'_>) -> Option<T> {
    loop {
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let path: Vec<PathStep> = error.path().iter().filter_map(step).collect();
        let said = error.inner().to_string();
        // Each turn takes one value or field out, so that the turns come to an end.
        let Some((last, parents)) = path.split_last() else {
            place.drop_with(plainly(&said));
            return None;
        };
        let parent = parents.iter().fold(place.clone(), |place, step| place.step(step.clone()));
        let siblings = parents.iter().try_fold(&mut value, child)?;
        if let (PathStep::Key(name), Some(accepted)) = (last, accepted_fields(&said)) {
            let hint = suggestion(name, &accepted);
            parent.field(name).fault_of_name(format!("unknown field `{name}`{};{hint}", parent.inside()));
            siblings.as_mapping_mut()?.remove(name.as_str())?;
        } else {
            parent.step(last.clone()).drop_with(plainly(&said));
            let faulty = child(siblings, last).filter(|faulty| !faulty.is_null())?;
            *faulty = Value::Null;
        }
    }
}

fn step(segment: &Segment) -> Option<PathStep> {
    match segment {
        Segment::Seq { index } => Some(PathStep::Index(*index)),
        Segment::Map { key } => Some(PathStep::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn child<'a>(value: &'a mut Value, step: &PathStep) -> Option<&'a mut Value> {
    match step {
        PathStep::Key(name) => value.get_mut(name.as_str()),
        PathStep::Index(index) => value.get_mut(*index),
    }
}

/// The names in backquotes behind serde's "unknown field `a`, expected one of `b`, `c`".
fn accepted_fields(said: &str) -> Option<Vec<&str>> {
    let (_, accepted) = said.strip_prefix("unknown field `")?.rsplit_once("`, expected ")?;
    Some(accepted.split('`').skip(1).step_by(2).collect())
}

/// Serde's "invalid type: found, expected this" without its jargon, and without the value: it may be a secret.
fn plainly(said: &str) -> String {
    let parts = said.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "));
    let Some((found, expected)) = parts else { return said.to_owned() };
    let found = match found.split([' ', ',']).next() {
        Some("sequence") => "a list",
        Some("map") => "fields",
        Some("unit") => "nothing",
        _ => "a single value",
    };
    let expected = if expected == "a sequence" { "a list in brackets" } else { expected };
    format!("expected {expected}, found {found}")
}
