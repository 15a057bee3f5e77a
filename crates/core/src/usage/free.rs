//! Answers that cost nothing, whatever they state: counts of tokens, and what a model is. Only a failure is looked for; every
//! API tells one in its document's `error`.

use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::Statement;
use super::word::Word;

/// What was read of an answer.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
}

/// What is known of the answer itself.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    /// What it says that it is, as errors of vLLM do.
    object: Word<8>,
}

impl Dialect for Reader {
    type Event = Event;

    fn record(&self) -> &Record<Event> {
        &self.record
    }

    fn record_mut(&mut self) -> &mut Record<Event> {
        &mut self.record
    }

    fn stated(&self) -> Statement {
        Statement::default()
    }

    fn is_last(&self) -> bool {
        true
    }

    fn is_free(&self) -> bool {
        true
    }
}

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    Root,
    /// What stands in a list in place of an answer.
    Listed,
    Object,
    Error,
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root | Role::Listed, b"error") | (Role::Root, b"errors") | (Role::Error, _) => Role::Error,
            (Role::Root, b"object") => Role::Object,
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Root => Role::Listed,
            Role::Error => Role::Error,
            _ => Role::Nothing,
        }
    }

    fn begin(&mut self, role: Role, first: u8, _: usize) {
        if role == Role::Error {
            self.record.note_error(first);
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Object => self.record.event.object.push(piece),
            Role::Error => self.record.note_error_text(piece),
            _ => {}
        }
    }

    fn number(&mut self, _: Role, _: u64) {}

    fn end(&mut self, role: Role) {
        if role == Role::Root {
            self.record.failed |= self.record.event.object.bytes() == b"error";
        }
    }
}
