//! How embeddings and moderations state usage: a prompt, and no output.
//!
//! Source: `OpenAI`'s API reference (`CreateEmbeddingResponse`); moderations state nothing there, but do elsewhere
//! (Mistral, vLLM).

use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Field, Stated, Statement};

/// What was read of an answer.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<()>,
    stated: Stated,
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
        self.stated.of_input()
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    Root,
    Error,
    Usage(Field),
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"usage") => Role::Usage(Field::Usage),
            (Role::Root, b"error") | (Role::Error, _) => Role::Error,
            (Role::Usage(field), key) => field.member(key).map_or(Role::Nothing, Role::Usage),
            _ => Role::Nothing,
        }
    }

    fn is_number(&self, role: Role) -> bool {
        matches!(role, Role::Usage(field) if field.is_number())
    }

    fn element(&self, array: Role) -> Role {
        if array == Role::Error { Role::Error } else { Role::Nothing }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        if role == Role::Error {
            self.record.note_error_text(piece);
        }
    }

    fn begin(&mut self, role: Role, first: u8, _: usize) {
        match role {
            Role::Usage(Field::Usage) => self.stated.begin(),
            Role::Error => drop(self.record.note_error(first)),
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        if let Role::Usage(field) = role {
            self.stated.number(field, value);
        }
    }

    fn end(&mut self, role: Role) {
        if role == Role::Usage(Field::Usage) {
            self.stated.end();
        }
    }
}
