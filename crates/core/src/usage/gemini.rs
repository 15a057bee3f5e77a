//! How Gemini states usage: in `usageMetadata`, which every part of a stream restates up to itself.
//!
//! Source: the API reference (`GenerateContentResponse.UsageMetadata`, `EmbedContentResponse`). The prompt's tokens
//! include those of cached content; those of tools' results are beside them; thoughts are beside the candidates. Without
//! `alt=sse` a stream is one JSON array of responses.

use super::beside::{Details, Whole};
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
    /// The object that is being read.
    block: Block,
    is_embedding: bool,
}

/// What is known of one part of a stream.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    candidate: Option<u64>,
    /// How many candidates are complete with it.
    finishes: u64,
    states_usage: bool,
    /// Whether the part of content that is being read is a thought; it may say so after its text.
    is_thought: bool,
    /// What the part of the prompt is that is being counted, and its tokens.
    modality: Word<8>,
    modality_tokens: u64,
}

/// The fields of `usageMetadata`.
#[derive(Clone, Copy, Default)]
struct Block {
    prompt: Count,
    cached: Count,
    tools: Count,
    /// All that the prompt is made of, by what it is, and what of that is no text.
    modalities: Count,
    media: Count,
    candidates: Count,
    thoughts: Count,
    total: Count,
}

impl Block {
    fn update(&mut self, newer: &Self) {
        if restates(&newer.of_prompt(), &self.of_prompt()) {
            self.prompt.update(newer.prompt);
            self.cached.update(newer.cached);
            self.tools.update(newer.tools);
            self.modalities.update(newer.modalities);
            self.media.update(newer.media);
        }
        self.candidates.update(newer.candidates);
        self.thoughts.update(newer.thoughts);
        self.total.update(newer.total);
    }

    fn of_prompt(&self) -> [Count; 5] {
        [self.prompt, self.cached, self.tools, self.modalities, self.media]
    }

    /// Zeros are left out: what is not stated of a total is the output, unless the prompt's details explain it.
    fn whole(&self, delivered: bool) -> (Option<u64>, Option<u64>) {
        let parts = [self.candidates, self.thoughts].map(|count| count.believed(delivered));
        let output = parts.iter().flatten().copied().reduce(u64::saturating_add);
        let (cached, total) = (self.cached.or_zero(), self.total.believed(delivered));
        let Some(prompt) = self.prompt.believed(delivered && cached == 0) else { return (None, output) };
        let beyond = self.modalities.or_zero().saturating_sub(prompt);
        let details = Details { cached, media: self.media.or_zero(), sources: beyond, ..Details::default() };
        let beside_tools = total.map(|total| total.saturating_sub(self.tools.or_zero()));
        let Whole { prompt, unexplained, .. } = details.complete(prompt, output.unwrap_or(0), beside_tools);
        let found = total.map(|_| unexplained).filter(|&output| output > 0 || !delivered);
        (Some(prompt), output.map(|output| output.saturating_add(unexplained)).or(found))
    }
}

impl Reader {
    /// Of `embedContent`, which has no output.
    pub(super) fn of_embeddings() -> Self {
        Self { is_embedding: true, ..Self::default() }
    }

    /// Usage beside candidates that all end is that of the whole answer.
    fn note_usage(&mut self) {
        let Event { candidate, finishes, states_usage, .. } = self.record.event;
        if states_usage {
            self.record.note_usage(candidate.is_some_and(|last| finishes > last));
        }
    }

    fn end_modality(&mut self) {
        let Event { modality, modality_tokens, .. } = self.record.event;
        self.block.modalities.add(modality_tokens);
        if modality.bytes() != b"TEXT" {
            self.block.media.add(modality_tokens);
        }
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
        let Block { cached, tools, candidates, thoughts, total, .. } = self.stated;
        let (prompt, output) = self.stated.whole(delivered);
        let prompt = prompt.or(total.last().filter(|_| self.is_embedding));
        let input = prompt.map(|prompt| prompt.saturating_sub(cached.or_zero()) + tools.or_zero());
        let output = if self.is_embedding { prompt.map(|_| 0) } else { output };
        let cached_input = cached.last().filter(|_| prompt.is_some());
        let output_is_belied = candidates.is_belied(delivered);
        Statement { input, cached_input, output, reasoning: thoughts.last(), output_is_belied, ..Statement::default() }
    }

    /// There is no such event: a stream ends with its last byte.
    fn is_last(&self) -> bool {
        false
    }

    /// A stream in one array restates it.
    fn states_once(&self) -> bool {
        self.is_embedding
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
    /// The prompt's parts by what they are.
    Modalities,
    Modality,
    ModalityKind,
    ModalityTokens,
    CandidatesTokens,
    Thoughts,
    Total,
    Candidates,
    Candidate,
    Finish,
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
            (Role::Root, b"error" | b"errors") | (Role::Error, _) => Role::Error,
            (Role::Usage, b"promptTokenCount") => Role::Prompt,
            (Role::Usage, b"cachedContentTokenCount") => Role::Cached,
            (Role::Usage, b"toolUsePromptTokenCount") => Role::Tools,
            (Role::Usage, b"candidatesTokenCount") => Role::CandidatesTokens,
            (Role::Usage, b"thoughtsTokenCount") => Role::Thoughts,
            (Role::Usage, b"totalTokenCount") => Role::Total,
            (Role::Usage, b"promptTokensDetails") => Role::Modalities,
            (Role::Modality, b"modality") => Role::ModalityKind,
            (Role::Modality, b"tokenCount") => Role::ModalityTokens,
            (Role::Candidate, b"content") => Role::Content,
            (Role::Candidate, b"finishReason") => Role::Finish,
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
            Role::Error => Role::Error,
            Role::Root => Role::Root,
            Role::Candidates => Role::Candidate,
            Role::Modalities => Role::Modality,
            Role::Parts => Role::Part,
            _ => Role::Nothing,
        }
    }

    fn is_written(&self, role: Role) -> bool {
        role == Role::CallText
    }

    fn is_number(&self, role: Role) -> bool {
        let is_of_prompt = matches!(role, Role::Prompt | Role::Cached | Role::Tools | Role::ModalityTokens);
        is_of_prompt || matches!(role, Role::CandidatesTokens | Role::Thoughts | Role::Total)
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        let event = &mut self.record.event;
        match role {
            Role::Root => self.record.next_event(),
            Role::Error => drop(self.record.note_error(first)),
            Role::Usage => self.block = Block::default(),
            Role::Candidate => event.candidate = Some(event.candidate.map_or(0, |place| place + 1)),
            Role::Finish => event.finishes += u64::from(first == b'"'),
            Role::Part => event.is_thought = false,
            Role::Modality => (event.modality, event.modality_tokens) = (Word::default(), 0),
            Role::Thought => event.is_thought = first == b't',
            _ if first == b'"' => self.record.begin_text(at),
            Role::CallText if matches!(first, b'{' | b'[') => self.record.begin_written(),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        let candidate = self.record.event.candidate.unwrap_or(0);
        match role {
            Role::Error => self.record.note_error_text(piece),
            Role::ModalityKind => self.record.event.modality.push(piece),
            Role::Text if !self.record.delivered.wait(Kind::Answer, piece) => {
                self.record.delivered.settle_as(Some(self.kind()));
                self.record.deliver(candidate, self.kind(), piece);
            }
            Role::Name => {
                self.record.note_call();
                self.record.deliver(candidate, Kind::Call, piece);
            }
            Role::CallText => self.record.deliver(candidate, Kind::Call, piece),
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
            Role::ModalityTokens => return self.record.event.modality_tokens = value,
            _ => return,
        };
        count.state(value);
    }

    fn end(&mut self, role: Role) {
        match role {
            Role::Part => self.record.delivered.settle_as(Some(self.kind())),
            Role::Modality => self.end_modality(),
            Role::Usage => {
                self.stated.update(&self.block);
                self.record.event.states_usage = true;
                self.note_usage();
            }
            Role::Root => self.note_usage(),
            _ => {}
        }
    }
}
