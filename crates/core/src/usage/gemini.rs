//! How Gemini states usage: in `usageMetadata`, which every part of a stream restates up to itself.
//!
//! Source: the API reference (`GenerateContentResponse.UsageMetadata`, `EmbedContentResponse`). The prompt's tokens
//! include those of cached content; those of tools' results are beside them; thoughts are beside the candidates. Without
//! `alt=sse` a stream is one JSON array of responses.

use super::delivered::Kind;
use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Count, Statement};

/// What was read of a response.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    stated: Block,
    /// The object that is being read.
    block: Block,
    is_embedding: bool,
}

/// What is known of one part of a stream.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    candidate: Option<u64>,
    /// Whether the part of content that is being read is a thought; it may say so after its text.
    is_thought: bool,
}

/// The fields of `usageMetadata`.
#[derive(Clone, Copy, Default)]
struct Block {
    prompt: Count,
    cached: Count,
    tools: Count,
    candidates: Count,
    thoughts: Count,
    total: Count,
}

impl Block {
    fn update(&mut self, newer: &Self) {
        self.prompt.update(newer.prompt);
        self.cached.update(newer.cached);
        self.tools.update(newer.tools);
        self.candidates.update(newer.candidates);
        self.thoughts.update(newer.thoughts);
        self.total.update(newer.total);
    }

    /// Zeros are left out: what is not stated of a total is the output.
    fn output(&self, delivered: bool) -> Option<u64> {
        let parts = [self.candidates, self.thoughts].map(|count| count.believed(delivered));
        let stated = parts.iter().flatten().copied().reduce(u64::saturating_add);
        let input = self.prompt.believed(delivered).map(|prompt| prompt + self.tools.last().unwrap_or(0));
        let rest = self.total.believed(delivered).zip(input).map(|(total, input)| total.saturating_sub(input));
        stated.max(rest.filter(|&rest| rest > 0 || !delivered))
    }
}

impl Reader {
    /// Of `embedContent`, which has no output.
    pub(super) fn of_embeddings() -> Self {
        Self { is_embedding: true, ..Self::default() }
    }

    fn kind(&self) -> Kind {
        if self.record.event.is_thought { Kind::Reasoning } else { Kind::Answer }
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
        let Block { prompt, cached, tools, thoughts, total, .. } = self.stated;
        let prompt = prompt.believed(delivered).or(total.last().filter(|_| self.is_embedding));
        let input = prompt.map(|prompt| prompt.saturating_sub(cached.last().unwrap_or(0)) + tools.last().unwrap_or(0));
        let output = if self.is_embedding { prompt.map(|_| 0) } else { self.stated.output(delivered) };
        let cached_input = cached.last().filter(|_| prompt.is_some());
        Statement { input, cached_input, output, reasoning: thoughts.last(), ..Statement::default() }
    }

    /// There is no such event: a stream ends with its last byte.
    fn is_last(&self) -> bool {
        false
    }
}

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    /// A response, or the array of those.
    Root,
    Error,
    Usage,
    Prompt,
    Cached,
    Tools,
    CandidatesTokens,
    Thoughts,
    Total,
    Candidates,
    Candidate,
    Content,
    Parts,
    Part,
    Thought,
    Text,
    /// What a part says otherwise than by text: code, or a call of a function.
    Call,
    Name,
    CallText,
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"candidates") => Role::Candidates,
            (Role::Root, b"usageMetadata") => Role::Usage,
            (Role::Root, b"error") => Role::Error,
            (Role::Usage, b"promptTokenCount") => Role::Prompt,
            (Role::Usage, b"cachedContentTokenCount") => Role::Cached,
            (Role::Usage, b"toolUsePromptTokenCount") => Role::Tools,
            (Role::Usage, b"candidatesTokenCount") => Role::CandidatesTokens,
            (Role::Usage, b"thoughtsTokenCount") => Role::Thoughts,
            (Role::Usage, b"totalTokenCount") => Role::Total,
            (Role::Candidate, b"content") => Role::Content,
            (Role::Content, b"parts") => Role::Parts,
            (Role::Part, b"text") => Role::Text,
            (Role::Part, b"thought") => Role::Thought,
            (Role::Part, b"functionCall" | b"executableCode") => Role::Call,
            (Role::Call, b"name") => Role::Name,
            (Role::Call, b"args" | b"code") => Role::CallText,
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Root => Role::Root,
            Role::Candidates => Role::Candidate,
            Role::Parts => Role::Part,
            _ => Role::Nothing,
        }
    }

    fn is_written(&self, role: Role) -> bool {
        role == Role::CallText
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        let event = &mut self.record.event;
        match role {
            Role::Root => self.record.next_event(),
            Role::Error => self.record.note_error(first),
            Role::Usage => self.block = Block::default(),
            Role::Candidate => event.candidate = Some(event.candidate.map_or(0, |place| place + 1)),
            Role::Part => event.is_thought = false,
            Role::Thought => event.is_thought = first == b't',
            _ if first == b'"' => self.record.begin_text(at),
            Role::CallText if matches!(first, b'{' | b'[') => self.record.begin_written(),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        let candidate = self.record.event.candidate.unwrap_or(0);
        match role {
            Role::Text if !self.record.delivered.wait(Kind::Answer, piece) => {
                self.record.delivered.settle_as(Some(self.kind()));
                self.record.deliver(candidate, self.kind(), piece);
            }
            Role::Name => {
                self.record.note_call();
                self.record.deliver(candidate, Kind::Answer, piece);
            }
            Role::CallText => self.record.deliver(candidate, Kind::Answer, piece),
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        let count = match role {
            Role::Prompt => &mut self.block.prompt,
            Role::Cached => &mut self.block.cached,
            Role::Tools => &mut self.block.tools,
            Role::CandidatesTokens => &mut self.block.candidates,
            Role::Thoughts => &mut self.block.thoughts,
            Role::Total => &mut self.block.total,
            _ => return,
        };
        count.state(value);
    }

    fn end(&mut self, role: Role) {
        match role {
            Role::Part => self.record.delivered.settle_as(Some(self.kind())),
            Role::Usage => self.stated.update(&self.block),
            _ => {}
        }
    }
}
