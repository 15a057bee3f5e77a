//! How answers state usage that are numbers: embeddings, moderations, scores, ranks. They have a prompt, and mostly no output.
//!
//! Source: `OpenAI`'s API reference (`CreateEmbeddingResponse`); moderations state nothing there, but do elsewhere
//! (Mistral, vLLM). Jina's rerankers do as embeddings do (`usage.total_tokens`); Cohere states all of its own in `meta`
//! (`meta.tokens`, `meta.billed_units`). What Cohere bills as search units is no tokens: `billed_units` counts only where it
//! counts those.

use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Count, Field, Stated, Statement};
use super::word::Word;

/// What was read of an answer.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    usage: Stated,
    tokens: Meta,
    billed: Meta,
    is_moderation: bool,
}

/// What is known of the answer itself.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    /// What it says that it is, as errors of vLLM do.
    object: Word<8>,
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
        let output = self.output.or_zero();
        let of_total = self.total.last().map(|total| total.saturating_sub(output));
        let input = self.input.last().max(of_total)?;
        Some(Statement { input: Some(input), output: Some(output), ..Statement::default() })
    }
}

impl Reader {
    /// Of moderations. Mistral's total has its own questions in it beside the prompt, which the prompt's count leaves out.
    pub(super) fn of_moderations() -> Self {
        Self { is_moderation: true, ..Self::default() }
    }
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
        let usage = self.usage.of_input(!self.is_moderation);
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
    /// What stands in a list in place of an answer.
    Listed,
    Object,
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
            (Role::Root, b"object") => Role::Object,
            (Role::Root | Role::Listed, b"error") | (Role::Root, b"errors") | (Role::Error, _) => Role::Error,
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
        match array {
            Role::Root => Role::Listed,
            Role::Error => Role::Error,
            _ => Role::Nothing,
        }
    }

    fn begin(&mut self, role: Role, first: u8, _: usize) {
        match role {
            Role::Usage(Field::Usage) => self.usage.begin(),
            Role::Error => drop(self.record.note_error(first)),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Object => self.record.event.object.push(piece),
            Role::Error => self.record.note_error_text(piece),
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
        match role {
            Role::Usage(Field::Usage) => drop(self.usage.end()),
            Role::Root => self.record.failed |= self.record.event.object.bytes() == b"error",
            _ => {}
        }
    }
}
