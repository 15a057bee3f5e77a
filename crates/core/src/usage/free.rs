//! Answers that cost nothing, whatever they state: counts of tokens, and what a model is. Only a failure is looked for; every
//! API tells one in its document's `error`.

use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::Statement;

/// What was read of an answer.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<()>,
}

impl Dialect for Reader {
    type Event = ();

    fn record(&self) -> &Record<()> {
        &self.record
    }

    fn record_mut(&mut self) -> &mut Record<()> {
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
    Error,
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        let is_error = object == Role::Error || (object == Role::Root && key == b"error");
        if is_error { Role::Error } else { Role::Nothing }
    }

    fn element(&self, array: Role) -> Role {
        if array == Role::Error { Role::Error } else { Role::Nothing }
    }

    fn begin(&mut self, role: Role, first: u8, _: usize) {
        if role == Role::Error {
            self.record.note_error(first);
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        if role == Role::Error {
            self.record.note_error_text(piece);
        }
    }

    fn number(&mut self, _: Role, _: u64) {}

    fn end(&mut self, _: Role) {}
}
