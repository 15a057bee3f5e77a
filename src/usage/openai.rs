//! How `OpenAI`'s chat completions, completions and embeddings, and the servers that speak like them, state usage.
//!
//! Source: the API reference (`usage`, `chat.completion.chunk`) and what vLLM, `SGLang`, llama.cpp and Azure send.

use super::delivered::{Delivered, Kind, LaneIndex};
use super::json::Visitor;
use crate::api::Endpoint;

/// A larger count than this is a mistake, not a statement.
const BELIEVABLE: u64 = 1_000_000_000_000;

/// What was read of a response: usage as stated, text as delivered.
pub(super) struct Reader {
    endpoint: Endpoint,
    stated: Stated,
    /// The usage object that is being read.
    block: Stated,
    delivered: Delivered,
    place: Place,
    failed: bool,
}

/// How far the event is read that is under way.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    choice: Choice,
    event: Event,
}

/// The choice that is being read.
#[derive(Clone, Copy, Default)]
struct Choice {
    index: Option<u64>,
    /// Its place in the array, which stands for an index that never comes.
    place: u64,
    /// Which of the two names for reasoning this message uses; servers that send both say the same in both.
    reasoning: Option<Role>,
}

/// What is known of one event (or of one answer that is no stream).
#[derive(Clone, Copy, Default)]
struct Event {
    /// The document's first byte.
    first: Option<u8>,
    choices: Choices,
    usage: UsageObject,
    is_error: bool,
    texts: Texts,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Choices {
    #[default]
    Absent,
    Empty,
    Some,
}

/// Whether there is a usage object, and whether it counts anything.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum UsageObject {
    #[default]
    Absent,
    Empty,
    Counts,
}

/// The strings of an event that had text in them.
#[derive(Clone, Copy, Default)]
struct Texts {
    count: u32,
    /// Where the string that is being read, and where the last one with text, begins.
    reading_at: usize,
    last_at: usize,
    reading_is_counted: bool,
    lane: Option<LaneIndex>,
}

impl Reader {
    /// A reader before the first byte of a response of `endpoint`.
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            stated: Stated::default(),
            block: Stated::default(),
            delivered: Delivered::default(),
            place: Place::default(),
            failed: false,
        }
    }

    /// Forgets the event; the next document begins another.
    pub(super) fn next_event(&mut self) {
        self.place = Place::default();
    }

    /// How far the event is read.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Reads on as if an event had been read up to `place`.
    pub(super) fn resume(&mut self, place: Place) {
        self.place = place;
    }

    /// What was stated so far, in each field the last that counts.
    pub(super) fn stated(&self) -> Statement {
        match self.endpoint {
            Endpoint::ChatCompletions | Endpoint::Completions => self.stated.of_answer(self.delivered.any()),
            Endpoint::Embeddings => self.stated.of_embeddings(),
        }
    }

    /// The delivered text.
    pub(super) fn delivered(&self) -> &Delivered {
        &self.delivered
    }

    /// Whether the upstream answered with an error.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Whether the event, should it be complete, is the one that `stream_options.include_usage` adds.
    pub(super) fn is_usage_event(&self) -> bool {
        self.place.event.choices == Choices::Empty && self.place.event.usage == UsageObject::Counts
    }

    /// Whether the event may still turn out to be that one.
    pub(super) fn may_be_usage_event(&self) -> bool {
        self.place.event.choices != Choices::Some && self.place.event.first.is_none_or(|first| first == b'{')
    }

    /// Where the event's only string with text begins, and whose text it is; none where the event is about more.
    pub(super) fn only_text(&self) -> Option<(usize, LaneIndex)> {
        let Event { usage: UsageObject::Absent, is_error: false, texts, .. } = &self.place.event else { return None };
        let Texts { count: 1, last_at, lane: Some(lane), .. } = texts else { return None };
        Some((*last_at, *lane))
    }

    /// Adds text that was found without reading its event.
    pub(super) fn push_text(&mut self, lane: LaneIndex, piece: &[u8]) {
        self.delivered.push(lane, piece);
    }

    fn deliver(&mut self, kind: Kind, piece: &[u8]) {
        if !std::mem::replace(&mut self.place.event.texts.reading_is_counted, true) {
            self.place.event.texts.count += 1;
            self.place.event.texts.last_at = self.place.event.texts.reading_at;
        }
        if self.place.choice.index.is_none() && !self.delivered.wait(kind, piece) {
            self.found_index(self.place.choice.place);
        }
        if let Some(index) = self.place.choice.index {
            let lane = self.delivered.lane(index, kind);
            self.delivered.push(lane, piece);
            self.place.event.texts.lane = Some(lane);
        }
    }

    fn found_index(&mut self, index: u64) {
        self.place.choice.index = Some(index);
        if let Some(lane) = self.delivered.settle(index) {
            self.place.event.texts.lane = Some(lane);
        }
    }
}

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    Root,
    Error,
    Usage,
    PromptDetails,
    CompletionDetails,
    PromptTokens,
    CompletionTokens,
    TotalTokens,
    CachedTokens,
    ReasoningTokens,
    Choices,
    Choice,
    Index,
    Message,
    /// A string, or (Mistral) an array of parts.
    Content,
    Part,
    Reasoning,
    ReasoningContent,
    ToolCalls,
    ToolCall,
    Function,
    /// A string, or (some servers) the object itself.
    Arguments,
    Text,
}

impl Visitor for Reader {
    type Role = Role;
    const ROOT: Role = Role::Root;
    const NOTHING: Role = Role::Nothing;

    fn member(&self, object: Role, key: &[u8]) -> Role {
        match (object, key) {
            (Role::Root, b"choices") => Role::Choices,
            (Role::Root, b"usage") => Role::Usage,
            (Role::Root, b"error") => Role::Error,
            (Role::Choice, b"index") => Role::Index,
            (Role::Choice, b"delta" | b"message") => Role::Message,
            (Role::Choice | Role::Part, b"text") | (Role::Message, b"refusal") | (Role::Function, b"name") => {
                Role::Text
            }
            (Role::Message, b"content") | (Role::Part, b"thinking") => Role::Content,
            (Role::Message, b"reasoning") => Role::Reasoning,
            (Role::Message, b"reasoning_content") => Role::ReasoningContent,
            (Role::Message, b"tool_calls") => Role::ToolCalls,
            (Role::Message, b"function_call") | (Role::ToolCall, b"function" | b"custom") => Role::Function,
            (Role::Function, b"arguments" | b"input") | (Role::Arguments, _) => Role::Arguments,
            (Role::Usage, key) => usage_member(key),
            (Role::PromptDetails, b"cached_tokens") => Role::CachedTokens,
            (Role::CompletionDetails, b"reasoning_tokens") => Role::ReasoningTokens,
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Choices => Role::Choice,
            Role::Content => Role::Part,
            Role::ToolCalls => Role::ToolCall,
            Role::Arguments => Role::Arguments,
            _ => Role::Nothing,
        }
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        match role {
            Role::Root => self.place.event.first = Some(first),
            Role::Error if first != b'n' => {
                self.failed = true;
                self.place.event.is_error = true;
            }
            Role::Usage => self.block = Stated::default(),
            Role::Choices => self.place.event.choices = if first == b'[' { Choices::Empty } else { Choices::Absent },
            Role::Choice => {
                let next = if self.place.event.choices == Choices::Some { self.place.choice.place + 1 } else { 0 };
                self.place.choice = Choice { place: next, ..Choice::default() };
                self.place.event.choices = Choices::Some;
            }
            Role::Message => self.place.choice.reasoning = None,
            _ if first == b'"' => {
                self.place.event.texts.reading_at = at;
                self.place.event.texts.reading_is_counted = false;
            }
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Content | Role::Text | Role::Arguments => self.deliver(Kind::Answer, piece),
            Role::Reasoning | Role::ReasoningContent if *self.place.choice.reasoning.get_or_insert(role) == role => {
                self.deliver(Kind::Reasoning, piece);
            }
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        match role {
            Role::Index => self.found_index(value),
            _ if value > BELIEVABLE => {}
            Role::PromptTokens => self.block.prompt.state(value),
            Role::CompletionTokens => self.block.completion.state(value),
            Role::TotalTokens => self.block.total.state(value),
            Role::CachedTokens => self.block.cached.state(value),
            Role::ReasoningTokens => self.block.reasoning.state(value),
            _ => {}
        }
    }

    fn end(&mut self, role: Role) {
        match role {
            Role::Usage => {
                let counts = self.block.has_tokens() || self.place.event.usage == UsageObject::Counts;
                self.place.event.usage = if counts { UsageObject::Counts } else { UsageObject::Empty };
                self.stated.update(&self.block);
            }
            Role::Choice if self.place.choice.index.is_none() => self.found_index(self.place.choice.place),
            _ => {}
        }
    }
}

fn usage_member(key: &[u8]) -> Role {
    match key {
        b"prompt_tokens" => Role::PromptTokens,
        b"completion_tokens" => Role::CompletionTokens,
        b"total_tokens" => Role::TotalTokens,
        b"prompt_tokens_details" => Role::PromptDetails,
        b"completion_tokens_details" => Role::CompletionDetails,
        _ => Role::Nothing,
    }
}

/// What the upstream stated, in this project's terms; none where it said nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// Input that was not cached.
    pub(super) input: Option<u64>,
    /// Input that was.
    pub(super) cached_input: Option<u64>,
    /// All output.
    pub(super) output: Option<u64>,
    /// The part of the output that is reasoning.
    pub(super) reasoning: Option<u64>,
}

/// A `usage` object's fields, or the last statement of each.
#[derive(Default)]
struct Stated {
    prompt: Count,
    completion: Count,
    total: Count,
    cached: Count,
    reasoning: Count,
}

impl Stated {
    fn has_tokens(&self) -> bool {
        [&self.prompt, &self.completion, &self.total].into_iter().any(|count| count.last.is_some())
    }

    fn update(&mut self, newer: &Self) {
        self.prompt.update(newer.prompt);
        self.completion.update(newer.completion);
        self.total.update(newer.total);
        self.cached.update(newer.cached);
        self.reasoning.update(newer.reasoning);
    }

    /// A total that leaves more than the completion has, has reasoning in it that the completion lacks.
    fn of_answer(&self, delivered: bool) -> Statement {
        let prompt = self.prompt.believed(delivered);
        let completion = self.completion.believed(delivered);
        let total = self.total.believed(delivered);
        let beside_prompt = total.zip(prompt).map(|(total, prompt)| total.saturating_sub(prompt));
        let output = completion.max(beside_prompt.filter(|&output| output > 0 || !delivered));
        Statement { output, reasoning: self.reasoning.last, ..self.of_prompt(prompt) }
    }

    /// Embeddings have a prompt and no output.
    fn of_embeddings(&self) -> Statement {
        let prompt = self.prompt.last.or(self.total.last);
        Statement { output: prompt.map(|_| 0), ..self.of_prompt(prompt) }
    }

    /// The prompt's tokens include the cached ones.
    fn of_prompt(&self, prompt: Option<u64>) -> Statement {
        let cached_input = self.cached.last.filter(|_| prompt.is_some());
        let input = prompt.map(|prompt| prompt.saturating_sub(cached_input.unwrap_or(0)));
        Statement { input, cached_input, ..Statement::default() }
    }
}

/// One field's statements.
#[derive(Clone, Copy, Default)]
struct Count {
    last: Option<u64>,
    last_above_zero: Option<u64>,
}

impl Count {
    fn state(&mut self, value: u64) {
        *self = Self { last: Some(value), last_above_zero: Some(value).filter(|&value| value > 0) };
    }

    fn update(&mut self, newer: Self) {
        self.last = newer.last.or(self.last);
        self.last_above_zero = newer.last_above_zero.or(self.last_above_zero);
    }

    /// Zero is a statement unless text was delivered, which cannot have taken none.
    fn believed(&self, delivered: bool) -> Option<u64> {
        if delivered { self.last_above_zero } else { self.last }
    }
}
