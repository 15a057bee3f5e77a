//! A value as it is written, which borrows its text, and serde's reading of it.

use std::{borrow::Cow, fmt};

use serde::de::{
    self, Deserializer, IntoDeserializer, Visitor,
    value::{MapDeserializer, SeqDeserializer},
};

/// A value of a file.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::keys) enum Value<'text> {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Text(Cow<'text, str>),
    List(Vec<Value<'text>>),
    Fields(Vec<(Cow<'text, str>, Value<'text>)>),
}

impl<'text> Value<'text> {
    /// Looks at each text in it, names aside, and may change it.
    pub(in crate::keys) fn each_text<E>(
        &mut self,
        look: &mut impl FnMut(&mut Cow<'text, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Text(text) => look(text),
            Self::List(elements) => elements.iter_mut().try_for_each(|element| element.each_text(look)),
            Self::Fields(fields) => fields.iter_mut().try_for_each(|(_, value)| value.each_text(look)),
            Self::Bool(_) | Self::Unsigned(_) | Self::Signed(_) => Ok(()),
        }
    }
}

/// A value that is not what was to be read. What it is, the library says when it reads the file again.
#[derive(Clone, Copy, Debug)]
pub(in crate::keys) struct Unfit;

impl fmt::Display for Unfit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the value is not what is read here")
    }
}

impl std::error::Error for Unfit {}

impl de::Error for Unfit {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }

    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        Self
    }
}

impl<'de> IntoDeserializer<'de, Unfit> for Value<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self {
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Unsigned(number) => visitor.visit_u64(number),
            Self::Signed(number) => visitor.visit_i64(number),
            Self::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Self::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Self::List(elements) => visitor.visit_seq(SeqDeserializer::new(elements.into_iter())),
            Self::Fields(fields) => visitor.visit_map(MapDeserializer::new(fields.into_iter())),
        }
    }

    /// Whatever is written is something.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}
