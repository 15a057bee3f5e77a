//! Why a keys file is not edited.

use keymeter_core::key::KeyId;
use thiserror::Error;

use crate::yaml::{Mark, SyntaxError};

/// Why a change is not made. Nothing has been written then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EditError {
    /// The text is no YAML.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// The text is YAML that cannot be read as plain data, such as a field that is there twice.
    #[error("the file cannot be read: {0}; correct it by hand")]
    Unreadable(String),
    /// The text holds something, but no list `keys`.
    #[error("the file has no list `keys`, so it is not a keys file; name another")]
    NoKeys,
    /// No key has this id.
    #[error("no key has the id `{0}`; `keymeter keys list` shows all ids")]
    Unknown(KeyId),
    /// More than one key has this id, or one has it already that a new key was to have.
    #[error("a key has the id `{0}` already; each needs one of its own")]
    Duplicate(KeyId),
    /// More than one team or owner is listed by this name.
    #[error("`{id}` stands in the list `{list}` more than once; leave one of them by hand")]
    ListedTwice {
        /// The list.
        list: &'static str,
        /// The name.
        id: String,
    },
    /// Something else than a limit was to be given to a team or an owner.
    #[error("teams and owners have limits of a minute, of requests at once, and quotas only")]
    NoLimit,
    /// What is to be changed is written in a way that is not edited: an alias, an anchor, a merged mapping.
    #[error("{line}:{column}: {what} cannot be edited automatically; edit the file by hand")]
    ByHand {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What stands there.
        what: &'static str,
    },
    /// The change would have changed something else as well, or not what was wanted.
    #[error("the change would have altered other parts of the file too, so it was not made; edit the file by hand")]
    Entangled,
}

impl EditError {
    pub(super) fn by_hand(mark: Mark, what: &'static str) -> Self {
        Self::ByHand { line: mark.line, column: mark.column, what }
    }
}
