//! How Ollama's own API states usage: on the last line, the one that says it is done.
//!
//! Source: its API document (`POST /api/chat`, `/api/generate`, `/api/embed`) and its source: a count of zero is left
//! out, and so is that of a prompt that was wholly cached.

use super::delivered::Kind;
use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Count, Statement};

/// What was read of a response.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    prompt: Count,
    output: Count,
    is_done: bool,
    is_embedding: bool,
}

/// What is known of one line.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    is_done: bool,
}

impl Reader {
    /// Of `/api/embed`, which has no output and is no stream.
    pub(super) fn of_embeddings() -> Self {
        Self { is_embedding: true, ..Self::default() }
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
        if self.is_embedding {
            let input = self.prompt.last();
            return Statement { input, output: input.map(|_| 0), ..Statement::default() };
        }
        let delivered = self.record.delivered.any();
        let (input, output) = (self.prompt.believed(delivered), self.output.believed(delivered));
        let nothing = (self.is_done && !delivered).then_some(0);
        // A model that is only loaded or unloaded states nothing at all.
        let input = input.or(nothing.filter(|_| output.is_none()));
        let output_is_belied = self.output.is_belied(delivered);
        Statement { input, output: output.or(nothing), output_is_belied, ..Statement::default() }
    }

    fn is_last(&self) -> bool {
        self.record.event.is_done || self.is_embedding
    }
}

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    Root,
    /// What stands in a list in place of an answer.
    Listed,
    Done,
    Error,
    PromptCount,
    OutputCount,
    Message,
    Text,
    Thinking,
    ToolCalls,
    ToolCall,
    Function,
    Name,
    /// What a tool is given.
    Arguments,
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"done") => Role::Done,
            (Role::Root | Role::Listed, b"error") | (Role::Root, b"errors") | (Role::Error, _) => Role::Error,
            (Role::Root, b"prompt_eval_count") => Role::PromptCount,
            (Role::Root, b"eval_count") => Role::OutputCount,
            (Role::Root, b"message") => Role::Message,
            (Role::Root, b"response") | (Role::Message, b"content") => Role::Text,
            (Role::Function, b"name") => Role::Name,
            (Role::Root | Role::Message, b"thinking") => Role::Thinking,
            (Role::Message, b"tool_calls") => Role::ToolCalls,
            (Role::ToolCall, b"function") => Role::Function,
            (Role::Function, b"arguments") => Role::Arguments,
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Root => Role::Listed,
            Role::ToolCalls => Role::ToolCall,
            Role::Error => Role::Error,
            _ => Role::Nothing,
        }
    }

    fn is_written(&self, role: Role) -> bool {
        role == Role::Arguments
    }

    fn is_number(&self, role: Role) -> bool {
        matches!(role, Role::PromptCount | Role::OutputCount)
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        match role {
            Role::Done => self.record.event.is_done = first == b't',
            Role::Error => drop(self.record.note_error(first)),
            _ if first == b'"' => self.record.begin_text(at),
            Role::Arguments if matches!(first, b'{' | b'[') => self.record.begin_written(),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Error => self.record.note_error_text(piece),
            Role::Name => {
                self.record.note_call();
                self.record.deliver(0, Kind::Call, piece);
            }
            Role::Text => self.record.deliver(0, Kind::Answer, piece),
            Role::Arguments => self.record.deliver(0, Kind::Call, piece),
            Role::Thinking => self.record.deliver(0, Kind::Reasoning, piece),
            _ => {}
        }
    }

    /// Only the last line counts, and says first that it is the last.
    fn number(&mut self, role: Role, value: u64) {
        match role {
            Role::PromptCount => self.prompt.state(value),
            Role::OutputCount => self.output.state(value),
            _ => return,
        }
        self.record.note_usage(self.record.event.is_done);
    }

    fn end(&mut self, role: Role) {
        if role == Role::Root {
            self.is_done |= self.record.event.is_done;
        }
    }
}
