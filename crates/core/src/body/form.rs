//! The fields of a form that the gateway acts on.

use bytes::Bytes;

use super::{
    BodyError, Scanned, Shape,
    multipart::{Head, Part, Parts, error},
};
use crate::model_name;

/// A field that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Model,
    Stream,
    Prompt,
    Choices,
}

const FIELDS: [(&str, Field); 4] =
    [("model", Field::Model), ("stream", Field::Stream), ("prompt", Field::Prompt), ("n", Field::Choices)];

const MODEL: &str = "a name of 1 to 256 bytes with no control character and no space around it";
const BOOLEAN: &str = "true or false";
const INTEGER: &str = "a non-negative integer";

/// Reads a form with the boundary in `content_type`.
pub(super) fn read(body: &Bytes, content_type: &str) -> Result<Scanned, BodyError> {
    let mut scanned = Scanned::new(body.clone(), Shape::Form);
    let mut seen = Vec::with_capacity(FIELDS.len());
    for part in Parts::new(body, content_type)? {
        let part = part?;
        let Some((name, field)) = known(&part)? else {
            scanned.media += u64::from(part.head.is_file());
            continue;
        };
        if seen.contains(&name) {
            return Err(BodyError::DuplicateField { name, offset: part.offset });
        }
        seen.push(name);
        take(&mut scanned, name, field, &part)?;
    }
    Ok(scanned)
}

/// The field that a part is, if it counts. Frameworks that make lists of what has brackets take
/// `model[]` for `model`, and `_charset_` changes how all the others are read (RFC 7578 section 4.6).
fn known(part: &Part<'_>) -> Result<Option<(&'static str, Field)>, BodyError> {
    let name = part.head.name;
    if name.eq_ignore_ascii_case("_charset_") {
        return Err(error(part.offset, "it names a charset of its own: send UTF-8 and no _charset_"));
    }
    let stem = name.split('[').next().unwrap_or_default();
    match FIELDS.into_iter().find(|(known, _)| stem.eq_ignore_ascii_case(known)) {
        Some((known, field)) if name == known => Ok(Some((known, field))),
        Some(_) if name != stem => {
            Err(error(part.offset, "a field that is no list is named with brackets: leave them out"))
        }
        Some((name, _)) => Err(BodyError::MiscasedField { name, offset: part.offset }),
        None => Ok(None),
    }
}

fn take(scanned: &mut Scanned, name: &'static str, field: Field, part: &Part<'_>) -> Result<(), BodyError> {
    let text = text(name, part)?;
    let wrong = |expected| BodyError::WrongType { name, expected, offset: part.content_offset };
    match field {
        Field::Model if is_model(text) => {
            scanned.model = Some(text.to_owned());
            scanned.places.models.push(part.content_offset..part.content_offset + text.len());
        }
        Field::Model => return Err(wrong(MODEL)),
        Field::Stream => scanned.stream = boolean(text).ok_or(wrong(BOOLEAN))?,
        Field::Choices => scanned.choices = integer(text).ok_or(wrong(INTEGER))?.max(1),
        Field::Prompt => {
            scanned.prompt_text_bytes = text.len() as u64;
            scanned.outline.prose.add(text, text.len() as u64, |part, kept| kept.push_str(part));
        }
    }
    Ok(())
}

/// The content of a part that is plain text in UTF-8, whoever reads it.
fn text<'a>(name: &'static str, part: &Part<'a>) -> Result<&'a str, BodyError> {
    if part.head.has_filename {
        return Err(BodyError::FileField { name, offset: part.offset });
    }
    if part.head.has_others || !is_plain_text(&part.head, part.content) {
        return Err(error(
            part.offset,
            "a field has headers that may change how it is read: send its content-disposition alone",
        ));
    }
    std::str::from_utf8(part.content)
        .map_err(|error| BodyError::NotUtf8 { offset: part.content_offset + error.valid_up_to() })
}

/// Whether a part's Content-Type, if it has one, is that of text whose bytes are UTF-8.
fn is_plain_text(head: &Head<'_>, content: &[u8]) -> bool {
    let Some(written) = head.content_type else { return true };
    let written: String = written.chars().filter(|character| !matches!(character, ' ' | '\t' | '"')).collect();
    match written.to_ascii_lowercase().as_str() {
        "text/plain" | "text/plain;charset=utf-8" => true,
        // Java's older clients state these.
        "text/plain;charset=us-ascii" | "text/plain;charset=iso-8859-1" => content.is_ascii(),
        _ => false,
    }
}

/// Whether a model may be called so, and nobody cuts or trims it.
fn is_model(text: &str) -> bool {
    model_name::is_valid(text) && text.trim() == text && !text.contains('\u{feff}')
}

/// An empty field is one that is not stated.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "" | "false" | "0" => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<u64> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    // Digits alone fail to parse only by being none, or too many.
    is_digits.then(|| text.parse().unwrap_or(if text.is_empty() { 1 } else { u64::MAX }))
}

#[cfg(test)]
mod tests;
