//! Lists in brackets and fields in braces, within one line.

use std::borrow::Cow;

use super::{
    Irregular, Value, all_differ,
    scalar::{Style, plain, quoted},
};

/// Brackets within each other are for the library beyond this.
const DEEPEST: usize = 16;

/// The value that a text begins with, which is in brackets or braces, and what follows it.
pub(super) fn value(text: &str) -> Result<(Value<'_>, &str), Irregular> {
    collection(text, DEEPEST)
}

fn collection(text: &str, depth: usize) -> Result<(Value<'_>, &str), Irregular> {
    let depth = depth.checked_sub(1).ok_or(Irregular)?;
    if let Some(inner) = text.strip_prefix('[') {
        let mut elements = Vec::new();
        let rest = entries(inner, ']', |entry| {
            let (element, rest) = one(entry, depth)?;
            elements.push(element);
            Ok(rest)
        })?;
        return Ok((Value::List(elements), rest));
    }
    let inner = text.strip_prefix('{').ok_or(Irregular)?;
    let mut fields = Vec::new();
    let rest = entries(inner, '}', |entry| {
        let (name, rest) = name(entry)?;
        let (value, rest) = one(rest.trim_start_matches(' '), depth)?;
        fields.push((Cow::Borrowed(name), value));
        Ok(rest)
    })?;
    all_differ(&fields)?;
    Ok((Value::Fields(fields), rest))
}

/// Reads what stands between commas, up to the closing bracket, and says what follows that.
fn entries<'text>(
    inner: &'text str,
    closing: char,
    mut read: impl FnMut(&'text str) -> Result<&'text str, Irregular>,
) -> Result<&'text str, Irregular> {
    let mut rest = inner.trim_start_matches(' ');
    if let Some(rest) = rest.strip_prefix(closing) {
        return Ok(rest);
    }
    loop {
        rest = read(rest)?.trim_start_matches(' ');
        if let Some(rest) = rest.strip_prefix(closing) {
            return Ok(rest);
        }
        rest = rest.strip_prefix(',').ok_or(Irregular)?.trim_start_matches(' ');
    }
}

/// The name of a field, and what is behind its colon.
fn name(text: &str) -> Result<(&str, &str), Irregular> {
    super::scalar::field_name(text).filter(|(_, rest)| rest.starts_with(' ')).ok_or(Irregular)
}

/// One value, and what follows it.
fn one(text: &str, depth: usize) -> Result<(Value<'_>, &str), Irregular> {
    match text.as_bytes().first() {
        Some(b'[' | b'{') => collection(text, depth),
        Some(b'"' | b'\'') => {
            let (text, rest) = quoted(text)?;
            Ok((Value::Text(Cow::Borrowed(text)), rest))
        }
        _ => {
            let end = text.find([',', ']', '}']).ok_or(Irregular)?;
            let (text, rest) = text.split_at_checked(end).ok_or(Irregular)?;
            Ok((plain(text.trim_end_matches(' '), Style::Flow)?, rest))
        }
    }
}
