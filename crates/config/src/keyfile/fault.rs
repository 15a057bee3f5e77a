//! Why a keys file is not edited.

use std::{error::Error, fmt};

use keymeter_core::key::KeyId;

use crate::yaml::{Mark, SyntaxError};

/// Why a change is not made. Nothing has been written then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The text is no YAML.
    Syntax(SyntaxError),
    /// The text is YAML that cannot be read as plain data, such as a field that is there twice.
    Unreadable(String),
    /// The text holds something, but no list `keys`.
    NoKeys,
    /// No key has this id.
    Unknown(KeyId),
    /// More than one key has this id, or one has it already that a new key was to have.
    Duplicate(KeyId),
    /// What is to be changed is written in a way that is not edited: an alias, an anchor, a merged mapping.
    ByHand {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What stands there.
        what: &'static str,
    },
    /// The change would have changed something else as well, or not what was wanted.
    Entangled,
}

impl EditError {
    pub(super) fn by_hand(mark: Mark, what: &'static str) -> Self {
        Self::ByHand { line: mark.line, column: mark.column, what }
    }
}

impl fmt::Display for EditError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(fault) => fault.fmt(formatter),
            Self::Unreadable(reason) => write!(formatter, "cannot be read: {reason}; mend it by hand"),
            Self::NoKeys => formatter.write_str("it has no list `keys`, so it is no keys file; name another"),
            Self::Unknown(id) => {
                write!(formatter, "no key has the id `{id}`; `keymeter keys list` shows those there are")
            }
            Self::Duplicate(id) => write!(formatter, "a key has the id `{id}` already; each needs one of its own"),
            Self::ByHand { line, column, what } => {
                write!(formatter, "{line}:{column}: {what} stands here, which is not edited; edit the file by hand")
            }
            Self::Entangled => formatter.write_str(
                "the change would have touched something else in the file too, so it was not made; edit it by hand",
            ),
        }
    }
}

impl Error for EditError {}

impl From<SyntaxError> for EditError {
    fn from(fault: SyntaxError) -> Self {
        Self::Syntax(fault)
    }
}
