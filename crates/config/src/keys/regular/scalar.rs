//! Single values and names, as far as they are understood.

use std::borrow::Cow;

use super::{Irregular, Value};

/// Where a plain value stands: within brackets it may have less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Block,
    Flow,
}

/// The library takes no name of over 1,024 characters.
const LONGEST_NAME: usize = 256;

/// A field's name, and what is written behind its colon, from the space on.
pub(super) fn field_name(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = if text.starts_with(['"', '\'']) {
        quoted(text).ok()?
    } else {
        let (name, rest) = text.split_at_checked(memchr::memchr(b':', text.as_bytes())?)?;
        (name, Some(rest).filter(|_| is_name(name))?)
    };
    let rest = rest.strip_prefix(':')?;
    let is_name = name.len() <= LONGEST_NAME && (rest.is_empty() || rest.starts_with(' '));
    is_name.then_some((name, rest))
}

/// Whether it is a name that needs no quotes, and no value of another kind.
pub(super) fn is_name(text: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(is_of_name) && !is_reserved(text)
}

/// The text in quotes, without any escape, and what follows them.
pub(super) fn quoted(text: &str) -> Result<(&str, &str), Irregular> {
    let quote = if text.starts_with('"') { '"' } else { '\'' };
    let inner = text.get(1..).ok_or(Irregular)?;
    let (inner, rest) = inner.split_once(quote).ok_or(Irregular)?;
    // Two single quotes are one.
    let is_escaped = if quote == '"' { inner.contains('\\') } else { rest.starts_with('\'') };
    if is_escaped { Err(Irregular) } else { Ok((inner, rest)) }
}

/// What is written before a comment, without the spaces around it. Quotes and brackets must not be in it.
pub(super) fn without_comment(text: &str) -> &str {
    let begins = |at: &usize| *at == 0 || text.as_bytes().get(at - 1) == Some(&b' ');
    let comment = memchr::memchr_iter(b'#', text.as_bytes()).find(begins);
    comment.and_then(|at| text.get(..at)).unwrap_or(text).trim_matches(' ')
}

/// A value without quotes.
pub(super) fn plain(text: &str, style: Style) -> Result<Value<'_>, Irregular> {
    let begins = |first: char| first.is_alphanumeric() || matches!(first, '_' | '/' | '$');
    let first = text.chars().next().ok_or(Irregular)?;
    if first == '-' || first == '+' || first == '.' || first.is_ascii_digit() {
        return number_like(text, style);
    }
    if !begins(first) || !is_of_letters(text, style) {
        return Err(Irregular);
    }
    match text {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        _ if is_reserved(text) => Err(Irregular),
        _ => Ok(Value::Text(Cow::Borrowed(text))),
    }
}

/// What begins as numbers do: a whole number without a sign or zeros that it does not need; or text that is no number by any
/// of its letters.
fn number_like(text: &str, style: Style) -> Result<Value<'_>, Irregular> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_whole = (1..=18).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_whole && !digits.starts_with('0') {
        let number = if digits.len() == text.len() {
            text.parse().map(Value::Unsigned)
        } else {
            text.parse().map(Value::Signed)
        };
        return number.map_err(|_| Irregular);
    }
    if text == "0" {
        return Ok(Value::Unsigned(0));
    }
    let is_text = text.starts_with(|first: char| first.is_ascii_digit())
        && text.contains([':', '/'])
        && is_of_letters(text, style);
    let is_length = |text: &str| {
        let number = text.strip_suffix(['s', 'm', 'h', 'd']);
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    if is_text || is_length(text) { Ok(Value::Text(Cow::Borrowed(text))) } else { Err(Irregular) }
}

/// Whether all of a text that begins as text does is one.
fn is_of_letters(text: &str, style: Style) -> bool {
    let ends_name = |text: &str| text.contains(": ") || text.ends_with(':');
    // In brackets the places parser takes a dash for the beginning of something.
    let has_dash = |text: &str| text.contains(" -") || text.ends_with('-');
    text.chars().all(|character| may_be_in(character, style))
        && !ends_name(text)
        && !(style == Style::Flow && has_dash(text))
}

fn may_be_in(character: char, style: Style) -> bool {
    match character {
        '_' | '-' | '.' | '/' | '+' | '@' | ':' | '*' | '$' | '=' | '(' | ')' | ' ' => true,
        '{' | '}' | '?' | '\'' | '!' | '&' | ',' | '%' | ';' | '~' | '<' | '>' => style == Style::Block,
        _ => character.is_alphanumeric(),
    }
}

/// Words that are no text.
fn is_reserved(text: &str) -> bool {
    matches!(text, "null" | "Null" | "NULL" | "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}
