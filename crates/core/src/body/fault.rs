//! Why a body is refused: each way in which it is no JSON or no form, or in which two programs could
//! read it differently and the gateway would enforce one thing while the upstream does another.

use std::{error::Error, fmt};

use super::MAX_DEPTH;
use crate::model_name;

/// Why a request's body was refused. Offsets count bytes from the body's start, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// JSON, or a form's field that the gateway acts on, is not UTF-8 from `offset` on.
    NotUtf8 {
        /// The first byte that is not part of a character.
        offset: usize,
    },
    /// The body begins with U+FEFF, which RFC 8259 section 8.1 forbids and some parsers skip.
    ByteOrderMark,
    /// The body is empty, or is something other than a JSON object.
    NotAnObject,
    /// The body breaks the grammar of RFC 8259.
    Syntax {
        /// Where the grammar is broken; the body's length where it ends too early.
        offset: usize,
        /// What is wrong there, as a phrase.
        problem: &'static str,
    },
    /// Something other than whitespace follows the object.
    TrailingBytes {
        /// The first such byte.
        offset: usize,
    },
    /// Objects and arrays lie more than 128 deep in one another.
    TooDeep {
        /// The bracket or brace that is one too many.
        offset: usize,
    },
    /// A field that the gateway acts on is there twice, however its names are escaped.
    DuplicateField {
        /// The field, as the API writes it.
        name: &'static str,
        /// The second occurrence.
        offset: usize,
    },
    /// A name that differs from a field's in capitals only, which some parsers take for it
    /// (Go's `encoding/json` does).
    MiscasedField {
        /// The field, as the API writes it.
        name: &'static str,
        /// The miscased name.
        offset: usize,
    },
    /// A field that the gateway acts on has a value of the wrong type.
    WrongType {
        /// The field, as the API writes it.
        name: &'static str,
        /// What is accepted, as a noun phrase.
        expected: &'static str,
        /// The value.
        offset: usize,
    },
    /// The model or a field's name has one half of a surrogate pair, which no two parsers
    /// decode alike.
    LoneSurrogate {
        /// The string.
        offset: usize,
    },
    /// What the request's path has for a model's name has no or over 256 bytes, or control characters.
    ModelName,
    /// The body names another model than the request's path.
    OtherModel,
    /// The request's Content-Type is not that of a form, or its boundary can be read in two ways.
    ContentType {
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// The body breaks the grammar of RFC 7578 or RFC 2046, or could be divided in two ways.
    Form {
        /// The part or the boundary that is at fault.
        offset: usize,
        /// What is wrong there, and what to do.
        problem: &'static str,
    },
    /// A form's field that the gateway acts on is sent as a file.
    FileField {
        /// The field.
        name: &'static str,
        /// Its part.
        offset: usize,
    },
}

impl BodyError {
    /// The field at fault, where it is one: the `param` of an error answer.
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::DuplicateField { name, .. }
            | Self::MiscasedField { name, .. }
            | Self::WrongType { name, .. }
            | Self::FileField { name, .. } => Some(name),
            Self::ModelName | Self::OtherModel => Some("model"),
            _ => None,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 { offset } => write!(to, "the body is not UTF-8 at byte {offset}: send its text in UTF-8"),
            Self::ByteOrderMark => write!(to, "the body begins with a byte order mark: send JSON without one"),
            Self::NotAnObject => write!(to, "the body is no JSON object: send one that begins with a brace"),
            Self::Syntax { offset, problem } => {
                write!(to, "the body is not valid JSON at byte {offset}: {problem}")
            }
            Self::TrailingBytes { offset } => {
                write!(to, "the body goes on after the JSON object at byte {offset}: send one object and no more")
            }
            Self::TooDeep { offset } => {
                write!(to, "the body is nested too deeply at byte {offset}: {MAX_DEPTH} levels are accepted")
            }
            Self::DuplicateField { name, offset } => {
                write!(to, "the field {name} is there a second time at byte {offset}: send it once")
            }
            Self::MiscasedField { name, offset } => {
                write!(to, "the name at byte {offset} differs from {name} in capitals only: write {name}")
            }
            Self::WrongType { name, expected, offset } => {
                write!(to, "the field {name} at byte {offset} has the wrong type: send {expected}")
            }
            Self::LoneSurrogate { offset } => {
                write!(to, "the string at byte {offset} has half of a surrogate pair: send both halves or neither")
            }
            Self::ModelName => {
                let longest = model_name::LONGEST;
                write!(
                    to,
                    "the model in the path has no or over {longest} bytes, or control characters: name one that may be"
                )
            }
            Self::OtherModel => {
                write!(to, "the field model names another model than the path: send the path's or none")
            }
            Self::ContentType { problem } => write!(to, "the content-type {problem}"),
            Self::Form { offset, problem } => {
                write!(to, "the form cannot be read in one way only at byte {offset}: {problem}")
            }
            Self::FileField { name, offset } => {
                write!(to, "the field {name} at byte {offset} is sent as a file: send it without a filename")
            }
        }
    }
}

impl Error for BodyError {}
