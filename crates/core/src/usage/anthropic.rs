//! How Anthropic's messages state usage: the input in `message_start`, the output in `message_delta`, each cumulative.
//!
//! Source: the API reference (`Usage`, `MessageDeltaUsage`, the streaming events). The counts of input, of cache reads
//! and of cache writes do not overlap. Some responses are made in several runs of the model (compaction, an advisor, a
//! fallback): then `iterations` lists each run that is billed, while the counts beside it leave out the runs that did
//! not write the message; what is billed is the sum over `iterations` ("Compaction: understanding usage", "Advisor
//! tool: usage and billing", "Refusals and fallback: how server-side fallback is billed"). Some servers that take such
//! requests answer with `OpenAI`'s names, whose prompt has what was cached in it, or state the usage within the message or the
//! delta of an event.

use super::delivered::Kind;
use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Count, Statement, restates};
use super::word::Word;

/// What was read of a response.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    stated: Block,
    /// All runs together, where the last usage lists them.
    runs: Option<Block>,
    /// The output so far that `message_start` states is none.
    output_is_final: bool,
    /// Why the message is complete was said.
    is_stopped: bool,
    /// The usage object that is being read, its runs, and the last of those.
    block: Block,
    block_runs: Option<Block>,
    run: Block,
}

/// What is known of one event.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    kind: Word<32>,
    /// The object itself, which says what it is as errors of vLLM do.
    object: Word<8>,
    states_usage: bool,
    /// The usage of the message in the event states output.
    message_states_output: bool,
    stops: bool,
}

/// One usage object's counts.
#[derive(Clone, Copy, Default)]
struct Block {
    input: Count,
    /// The same and what was cached of it, by `OpenAI`'s names.
    prompt: Count,
    cache_read: Count,
    cache_write: Count,
    short_write: Count,
    hour_write: Count,
    output: Count,
    thinking: Count,
}

impl Block {
    fn update(&mut self, newer: &Self) {
        if restates(&newer.of_prompt(), &self.of_prompt()) {
            self.input.update(newer.input);
            self.cache_read.update(newer.cache_read);
            self.cache_write.update(newer.cache_write);
            self.hour_write.update(newer.hour_write);
        }
        self.output.update(newer.output);
        self.thinking.update(newer.thinking);
    }

    fn of_prompt(&self) -> [Count; 4] {
        [self.input, self.cache_read, self.cache_write, self.hour_write]
    }

    /// The object is complete. What was written to a cache may be told by how long it is kept, only.
    fn end(&mut self) {
        if self.short_write.last().or(self.hour_write.last()).is_some() {
            self.cache_write.state_also(self.short_write.or_zero() + self.hour_write.or_zero());
        }
        if let (None, Some(prompt)) = (self.input.last(), self.prompt.last()) {
            let from_cache = self.cache_read.or_zero() + self.cache_write.or_zero();
            self.input.state(prompt.checked_sub(from_cache).unwrap_or(prompt));
        }
    }

    fn add(&mut self, run: &Self) {
        let add = |sum: &mut Count, count: Count| {
            if let Some(count) = count.last() {
                sum.state(sum.last().unwrap_or(0) + count);
            }
        };
        add(&mut self.input, run.input);
        add(&mut self.cache_read, run.cache_read);
        add(&mut self.cache_write, run.cache_write);
        add(&mut self.hour_write, run.hour_write);
        add(&mut self.output, run.output);
        add(&mut self.thinking, run.thinking);
    }

    fn number(&mut self, count: Tokens, value: u64) {
        let count = match count {
            Tokens::Input => &mut self.input,
            Tokens::Prompt => &mut self.prompt,
            Tokens::CacheRead => &mut self.cache_read,
            Tokens::CacheWrite => &mut self.cache_write,
            Tokens::ShortWrite => &mut self.short_write,
            Tokens::HourWrite => &mut self.hour_write,
            Tokens::Output => &mut self.output,
            Tokens::Thinking => &mut self.thinking,
        };
        count.state_also(value);
    }
}

impl Reader {
    fn end_usage(&mut self) {
        self.block.end();
        self.stated.update(&self.block);
        self.runs = self.block_runs.take();
        self.record.event.states_usage = true;
    }

    /// The usage with which the message is said to be complete is that of all of it.
    fn end_event(&mut self) {
        let Event { kind, object, states_usage, message_states_output, stops } = self.record.event;
        self.record.failed |= kind.bytes() == b"error" || object.bytes() == b"error";
        self.output_is_final |= message_states_output && kind.bytes() == b"message_delta";
        self.is_stopped |= stops;
        if states_usage || stops {
            self.record.note_usage(self.is_stopped && self.output_is_final);
        }
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
        let delivered = self.record.delivered.any();
        let counts = self.runs.as_ref().unwrap_or(&self.stated);
        let Block { input, cache_read, cache_write, output, thinking, .. } = counts;
        let hour_write = self.runs.map(|runs| runs.hour_write).unwrap_or_default();
        let from_cache = cache_read.is_above_zero() || cache_write.is_above_zero();
        // Thinking that is more than the output is no part of it.
        let beside = |output: u64| if thinking.or_zero() > output { thinking.or_zero() } else { 0 };
        let output = output.believed(delivered).filter(|_| self.output_is_final);
        Statement {
            // All of the input may be cached.
            input: input.believed(delivered && !from_cache),
            cached_input: cache_read.last(),
            cache_write: cache_write.last(),
            cache_write_1h: hour_write.last().or(self.stated.hour_write.last()),
            output: output.map(|output| output + beside(output)),
            reasoning: thinking.last(),
            output_is_belied: counts.output.is_belied(delivered),
            ..Statement::default()
        }
    }

    fn is_last(&self) -> bool {
        matches!(self.record.event.kind.bytes(), b"message_stop" | b"error")
    }

    fn is_only_text(&self) -> bool {
        self.record.event.kind.bytes() == b"content_block_delta" && !self.record.event.states_usage
    }
}

/// What a count counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    Input,
    Prompt,
    CacheRead,
    CacheWrite,
    ShortWrite,
    HourWrite,
    Output,
    Thinking,
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
    /// What `message_start` carries.
    Message,
    /// The usage of a message that begins, and of one that is complete or goes on.
    FirstUsage,
    Usage,
    UsageDetails,
    UsagePrompt,
    UsageWrites,
    Stated(Tokens),
    Runs,
    Run,
    RunDetails,
    RunWrites,
    OfRun(Tokens),
    Content,
    /// What an event changes of the message or adds to a block.
    Delta,
    /// A block of content, or what is added to one.
    Block,
    Text,
    /// Of a tool.
    Name,
    Thinking,
    /// What a tool is given.
    Input,
    StopReason,
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"type") => Role::Type,
            (Role::Root, b"object") => Role::Object,
            (Role::Root, b"delta") => Role::Delta,
            (Role::Root, b"content_block") => Role::Block,
            (Role::Root, b"message") => Role::Message,
            (Role::Root | Role::Listed, b"error") | (Role::Root, b"errors") | (Role::Error, _) => Role::Error,
            (Role::Root | Role::Delta, b"usage") => Role::Usage,
            (Role::Message, b"usage") => Role::FirstUsage,
            (Role::Root | Role::Message, b"content") => Role::Content,
            (Role::Block | Role::Delta, b"text" | b"content") => Role::Text,
            (Role::Block | Role::Delta, b"name") => Role::Name,
            (Role::Block | Role::Delta, b"thinking") => Role::Thinking,
            (Role::Block | Role::Delta, b"input" | b"partial_json") => Role::Input,
            (Role::Block | Role::Delta, b"stop_reason") => Role::StopReason,
            (Role::Usage | Role::FirstUsage, b"iterations") => Role::Runs,
            (Role::Usage | Role::FirstUsage, b"output_tokens_details") => Role::UsageDetails,
            (Role::Usage | Role::FirstUsage, b"prompt_tokens_details") => Role::UsagePrompt,
            (Role::Usage | Role::FirstUsage, b"cache_creation") => Role::UsageWrites,
            (Role::Usage | Role::FirstUsage, key) => tokens(key).map_or(Role::Nothing, Role::Stated),
            (Role::UsageDetails, b"thinking_tokens") => Role::Stated(Tokens::Thinking),
            (Role::UsagePrompt, b"cached_tokens") => Role::Stated(Tokens::CacheRead),
            (Role::UsageWrites, key) => writes(key).map_or(Role::Nothing, Role::Stated),
            (Role::Run, b"output_tokens_details") => Role::RunDetails,
            (Role::Run, b"cache_creation") => Role::RunWrites,
            (Role::Run, key) => tokens(key).map_or(Role::Nothing, Role::OfRun),
            (Role::RunDetails, b"thinking_tokens") => Role::OfRun(Tokens::Thinking),
            (Role::RunWrites, key) => writes(key).map_or(Role::Nothing, Role::OfRun),
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Root => Role::Listed,
            Role::Error => Role::Error,
            Role::Content => Role::Block,
            Role::Runs => Role::Run,
            _ => Role::Nothing,
        }
    }

    fn is_written(&self, role: Role) -> bool {
        role == Role::Input
    }

    fn is_number(&self, role: Role) -> bool {
        matches!(role, Role::Stated(_) | Role::OfRun(_))
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        match role {
            Role::Error => drop(self.record.note_error(first)),
            Role::Usage | Role::FirstUsage => {
                self.block = Block::default();
                self.block_runs = None;
            }
            Role::Run => self.run = Block::default(),
            Role::StopReason => self.record.event.stops |= first == b'"',
            _ if first == b'"' => self.record.begin_text(at),
            Role::Input if matches!(first, b'{' | b'[') => self.record.begin_written(),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Error => self.record.note_error_text(piece),
            Role::Type => self.record.event.kind.push(piece),
            Role::Object => self.record.event.object.push(piece),
            Role::Name => {
                self.record.note_call();
                self.record.deliver(0, Kind::Call, piece);
            }
            Role::Text => self.record.deliver(0, Kind::Answer, piece),
            Role::Input => self.record.deliver(0, Kind::Call, piece),
            Role::Thinking => self.record.deliver(0, Kind::Reasoning, piece),
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        match role {
            Role::Stated(count) => self.block.number(count, value),
            Role::OfRun(count) => self.run.number(count, value),
            _ => {}
        }
    }

    fn end(&mut self, role: Role) {
        match role {
            Role::Run => {
                self.run.end();
                self.block_runs.get_or_insert_default().add(&self.run);
            }
            Role::FirstUsage => {
                self.record.event.message_states_output = self.block.output.last().is_some();
                self.end_usage();
            }
            Role::Usage => {
                self.output_is_final |= self.block.output.last().is_some();
                self.end_usage();
            }
            Role::Root => self.end_event(),
            _ => {}
        }
    }
}

fn writes(key: &[u8]) -> Option<Tokens> {
    match key {
        b"ephemeral_5m_input_tokens" => Some(Tokens::ShortWrite),
        b"ephemeral_1h_input_tokens" => Some(Tokens::HourWrite),
        _ => None,
    }
}

fn tokens(key: &[u8]) -> Option<Tokens> {
    match key {
        b"input_tokens" => Some(Tokens::Input),
        b"prompt_tokens" => Some(Tokens::Prompt),
        b"cache_read_input_tokens" => Some(Tokens::CacheRead),
        b"cache_creation_input_tokens" => Some(Tokens::CacheWrite),
        b"output_tokens" | b"completion_tokens" => Some(Tokens::Output),
        _ => None,
    }
}
