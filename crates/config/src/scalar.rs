//! The single values of a file: how each is written, and what it means. Whatever notation YAML has for a value, it
//! is its text that is parsed, so that a variable's content may stand for any of them.

mod units;
mod values;

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};
use serde_json::json;

pub(super) use self::{
    units::{Size, Span, Timeout},
    values::{ModelName, Party, UpstreamName, Weight},
};
use super::nearest::suggestion;

/// The length of time that a text says.
///
/// # Errors
/// When it is none.
pub(super) fn span(text: &str) -> Result<std::time::Duration, String> {
    Span::from_text(text).map(|Span(time)| time)
}

/// What one value of a file means.
pub(super) trait FromScalar: Sized {
    /// Understands the text of a value.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Understands `true` and `false`.
    fn from_bool(_: bool) -> Result<Self, String> {
        Err("`true` and `false` are no value here; write it in quotes if it is meant as text".to_owned())
    }

    /// Understands a whole number that is not in quotes, in decimal notation.
    fn from_number(text: &str) -> Result<Self, String> {
        Self::from_text(text)
    }

    /// What is accepted, as a JSON Schema.
    fn schema() -> serde_json::Value {
        json!({"type": "string"})
    }

    /// What is said of a number with a point or an exponent that is not in quotes.
    const OF_FLOAT: &str = "a number with a point must be written in quotes, or it may lose digits";
}

/// A single value of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar<T>(pub(super) T);

impl<'de, T: FromScalar> Deserialize<'de> for Scalar<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor(PhantomData)).map(Self)
    }
}

/// A variable may stand in the place of any value, so that text with one is accepted wherever a value is.
impl<T: FromScalar> JsonSchema for Scalar<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let value = T::schema();
        let either = if value == json!({"type": "string"}) {
            value
        } else {
            json!({"anyOf": [value, {"type": "string", "pattern": r"\$\{"}]})
        };
        either.try_into().unwrap_or_default()
    }
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: FromScalar> de::Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a single value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        T::from_number(&number.to_string()).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        T::from_number(&number.to_string()).map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        T::from_bool(value).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Err(E::custom(T::OF_FLOAT))
    }
}

/// One of a few names.
pub(super) trait Choice: Copy + 'static {
    /// All names that are accepted, and what they stand for.
    const CHOICES: &[(&str, Self)];
}

impl<T: Choice> FromScalar for T {
    fn from_text(text: &str) -> Result<Self, String> {
        let chosen = T::CHOICES.iter().find(|(name, _)| *name == text);
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = T::CHOICES.iter().map(|(name, _)| *name).collect();
            format!("`{text}` is not accepted here;{}", suggestion(text, &names))
        })
    }

    fn from_bool(value: bool) -> Result<Self, String> {
        Self::from_text(if value { "true" } else { "false" })
    }

    fn schema() -> serde_json::Value {
        let names: Vec<&str> = T::CHOICES.iter().map(|(name, _)| *name).collect();
        // Written without quotes these are no text.
        if names == ["true", "false"] { json!({"type": "boolean"}) } else { json!({"enum": names}) }
    }
}

impl Choice for bool {
    const CHOICES: &[(&str, Self)] = &[("true", true), ("false", false)];
}
