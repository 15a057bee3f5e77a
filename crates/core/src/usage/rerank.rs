//! How rerankers state usage: Jina and those that follow it as `OpenAI`'s embeddings do, Cohere in its `meta`.
//!
//! Source: the API references of Jina (`usage.total_tokens`) and Cohere (`meta.tokens`, `meta.billed_units`). What
//! Cohere bills as search units is no tokens: `billed_units` counts only where it counts those.

use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Count, Field, Stated, Statement};

/// What was read of an answer.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<()>,
    usage: Stated,
    tokens: Meta,
    billed: Meta,
}

/// One of the objects in Cohere's `meta`.
#[derive(Clone, Copy, Default)]
struct Meta {
    input: Count,
    output: Count,
    total: Count,
}

impl Meta {
    fn number(&mut self, field: Field, value: u64) {
        match field {
            Field::Prompt => self.input.state(value),
            Field::Output => self.output.state(value),
            Field::Total => self.total.state(value),
            _ => {}
        }
    }

    fn stated(&self) -> Option<Statement> {
        let input = self.input.last().or(self.total.last())?;
        Some(Statement { input: Some(input), output: self.output.last().or(Some(0)), ..Statement::default() })
    }
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
        let usage = self.usage.of_input();
        let meta = || self.tokens.stated().or(self.billed.stated()).unwrap_or_default();
        if usage.input.is_some() { usage } else { meta() }
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
    Meta,
    Tokens(Field),
    Billed(Field),
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"usage") => Role::Usage(Field::Usage),
            (Role::Root, b"error") | (Role::Error, _) => Role::Error,
            (Role::Root, b"meta") => Role::Meta,
            (Role::Meta, b"tokens") => Role::Tokens(Field::Usage),
            (Role::Meta, b"billed_units") => Role::Billed(Field::Usage),
            (Role::Usage(field), key) => field.member(key).map_or(Role::Nothing, Role::Usage),
            (Role::Tokens(field), key) => field.member(key).map_or(Role::Nothing, Role::Tokens),
            (Role::Billed(field), key) => field.member(key).map_or(Role::Nothing, Role::Billed),
            _ => Role::Nothing,
        }
    }

    fn is_number(&self, role: Role) -> bool {
        matches!(role, Role::Usage(field) | Role::Tokens(field) | Role::Billed(field) if field.is_number())
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
            Role::Usage(Field::Usage) => self.usage.begin(),
            Role::Error => drop(self.record.note_error(first)),
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        match role {
            Role::Usage(field) => self.usage.number(field, value),
            Role::Tokens(field) => self.tokens.number(field, value),
            Role::Billed(field) => self.billed.number(field, value),
            _ => {}
        }
    }

    fn end(&mut self, role: Role) {
        if role == Role::Usage(Field::Usage) {
            self.usage.end();
        }
    }
}
