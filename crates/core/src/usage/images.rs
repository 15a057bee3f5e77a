//! How image generations and edits state usage.
//!
//! Source: `OpenAI`'s API reference (`ImagesResponse`, `image_generation.completed`, `image_edit.completed`). Models that
//! are billed by the picture state none.

use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Field, Stated, Statement};
use super::word::Word;

/// What was read of a response.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    stated: Stated,
}

/// What is known of one event.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    kind: Word<32>,
    /// The object itself, which says what it is as errors of vLLM do.
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
        self.stated.of_answer(false)
    }

    fn is_last(&self) -> bool {
        matches!(self.record.event.kind.bytes(), b"image_generation.completed" | b"image_edit.completed" | b"error")
    }
}

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    Root,
    /// What stands in a list in place of an answer.
    Listed,
    Type,
    Object,
    Error,
    Usage(Field),
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"type") => Role::Type,
            (Role::Root, b"usage") => Role::Usage(Field::Usage),
            (Role::Root | Role::Listed, b"error") | (Role::Root, b"errors") | (Role::Error, _) => Role::Error,
            (Role::Root, b"object") => Role::Object,
            (Role::Usage(field), key) => field.member(key).map_or(Role::Nothing, Role::Usage),
            _ => Role::Nothing,
        }
    }

    fn is_number(&self, role: Role) -> bool {
        matches!(role, Role::Usage(field) if field.is_number())
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Root => Role::Listed,
            Role::Error => Role::Error,
            _ => Role::Nothing,
        }
    }

    fn begin(&mut self, role: Role, first: u8, _: usize) {
        match role {
            Role::Usage(Field::Usage) => self.stated.begin(),
            Role::Error => drop(self.record.note_error(first)),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Type => self.record.event.kind.push(piece),
            Role::Object => self.record.event.object.push(piece),
            Role::Error => self.record.note_error_text(piece),
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        if let Role::Usage(field) = role {
            self.stated.number(field, value);
        }
    }

    fn end(&mut self, role: Role) {
        match role {
            Role::Usage(Field::Usage) => {
                self.stated.end();
                self.record.note_usage(self.is_last());
            }
            Role::Root => {
                let Event { kind, object } = self.record.event;
                self.record.failed |= kind.bytes() == b"error" || object.bytes() == b"error";
            }
            _ => {}
        }
    }
}
