//! Why a body is refused: each way in which it is no JSON or no form, or in which two programs could
//! read it differently and the gateway would enforce one thing while the upstream does another.

use thiserror::Error;

use super::MAX_DEPTH;
use crate::model_name::LONGEST;

/// Why a request's body was refused. Offsets count bytes from the body's start, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// JSON, or a form's field that the gateway acts on, is not UTF-8 from `offset` on.
    #[error("the body is not UTF-8 at byte {offset}: send its text in UTF-8")]
    NotUtf8 {
        /// The first byte that is not part of a character.
        offset: usize,
    },
    /// The body is not compressed as its Content-Encoding says, or not to its end.
    #[error("the body is not encoded as its content-encoding says: send it whole, or without that header")]
    ContentCoding,
    /// The body begins with U+FEFF, which RFC 8259 section 8.1 forbids and some parsers skip.
    #[error("the body begins with a byte order mark: send JSON without one")]
    ByteOrderMark,
    /// The body is empty, or is something other than a JSON object.
    #[error("the body is not a JSON object: send one that begins with a brace")]
    NotAnObject,
    /// The body breaks the grammar of RFC 8259.
    #[error("the body is not valid JSON at byte {offset}: {problem}")]
    Syntax {
        /// Where the grammar is broken; the body's length where it ends too early.
        offset: usize,
        /// What is wrong there, as a phrase.
        problem: &'static str,
    },
    /// Something other than whitespace follows the object.
    #[error("the body goes on after the JSON object at byte {offset}: send one object and no more")]
    TrailingBytes {
        /// The first such byte.
        offset: usize,
    },
    /// Objects and arrays lie more than 128 deep in one another.
    #[error("the body is nested too deeply at byte {offset}: {MAX_DEPTH} levels are accepted")]
    TooDeep {
        /// The bracket or brace that is one too many.
        offset: usize,
    },
    /// A field that the gateway acts on is there twice, however its names are escaped.
    #[error("the field {name} appears a second time at byte {offset}: send it once")]
    DuplicateField {
        /// The field, as the API writes it.
        name: &'static str,
        /// The second occurrence.
        offset: usize,
    },
    /// A name that differs from a field's in capitals only, which some parsers take for it
    /// (Go's `encoding/json` does).
    #[error("the name at byte {offset} differs from {name} in capitals only: write {name}")]
    MiscasedField {
        /// The field, as the API writes it.
        name: &'static str,
        /// The miscased name.
        offset: usize,
    },
    /// A field that the gateway acts on has a value of the wrong type.
    #[error("the field {name} at byte {offset} has the wrong type: send {expected}")]
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
    #[error("the string at byte {offset} has half of a surrogate pair: send both halves or neither")]
    LoneSurrogate {
        /// The string.
        offset: usize,
    },
    /// The model's name in the request's path is empty, longer than 256 bytes, or has control characters.
    #[error(
        "the model in the path is empty, longer than {LONGEST} bytes, or has control characters: name another model"
    )]
    ModelName,
    /// The body names another model than the request's path, or two of them.
    #[error("the field model names another model than the path or another field: name one")]
    OtherModel,
    /// The answer is to be made in the background: what it uses after its request could not be counted.
    #[error(
        "the field background at byte {offset} asks for an answer that is made later, which could not be counted: leave it out, or send false"
    )]
    Background {
        /// The value.
        offset: usize,
    },
    /// The request's Content-Type is not that of a form, or its boundary can be read in two ways.
    #[error("the content-type {problem}")]
    ContentType {
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// The body breaks the grammar of RFC 7578 or RFC 2046, or could be divided in two ways.
    #[error("the form is malformed or ambiguous at byte {offset}: {problem}")]
    Form {
        /// The part or the boundary that is at fault.
        offset: usize,
        /// What is wrong there, and what to do.
        problem: &'static str,
    },
    /// A form's field that the gateway acts on is sent as a file.
    #[error("the field {name} at byte {offset} is sent as a file: send it without a filename")]
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
            Self::Background { .. } => Some("background"),
            _ => None,
        }
    }
}
