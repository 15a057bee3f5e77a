//! How `OpenAI`'s chat completions and completions, and the servers that speak like them, state usage.
//!
//! Source: the API reference (`usage`, `chat.completion.chunk`) and what vLLM, `SGLang`, llama.cpp, Groq and Azure send.

use super::delivered::Kind;
use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Count, Field, Stated, Statement};

/// What was read of a response: usage as stated, text as delivered.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    stated: Stated,
    /// The timings of the event, and all together.
    timings: Timings,
    timed: Timed,
    /// How many prompts the request has, if several.
    prompts: u64,
    /// An answer had several choices, and stated the first one's usage.
    is_part: bool,
    /// A choice is complete, and no usage event has come since.
    finished: bool,
    /// What usage events stated of choices that were complete.
    counted: u64,
    /// The call that was named last: its choice, and its place among that choice's calls.
    named: Option<(u64, u64)>,
}

/// What is known of one event (or of one answer that is no stream).
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    /// The document's first byte.
    first: Option<u8>,
    choice: Choice,
    choices: Choices,
    usage: UsageObject,
    has_timings: bool,
    is_finish: bool,
    is_error: bool,
}

/// The choice that is being read.
#[derive(Clone, Copy, Default)]
struct Choice {
    index: Option<u64>,
    /// Its place in the array, which stands for an index that never comes.
    place: u64,
    /// Which of the two names for reasoning this message uses; servers that send both say the same in both.
    reasoning: Option<Role>,
    /// Which of the two names for calls it uses; llama-cpp-python says the same in both.
    calls: Option<Role>,
    /// The call's place among those of the choice.
    call: u64,
    /// The call was named before; llama-cpp-python names it in each of its events.
    is_named: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Choices {
    #[default]
    Absent,
    Empty,
    Some,
}

/// Whether there is a usage object, and whether it counts anything.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum UsageObject {
    #[default]
    Absent,
    Empty,
    Counts,
}

/// llama.cpp's `timings`, on the last event of each choice, whoever asked for usage: what was read anew of the prompt,
/// what of it was cached, and what was generated for this one choice.
#[derive(Clone, Copy, Default)]
struct Timings {
    prompt: Count,
    cache: Count,
    predicted: Count,
}

/// What all of them together state.
#[derive(Clone, Copy, Default)]
struct Timed {
    choices: u64,
    output: Option<u64>,
    /// Of the last choice, and of all of them.
    last: Prompt,
    all: Prompt,
}

#[derive(Clone, Copy, Default)]
struct Prompt {
    input: Option<u64>,
    cached: Option<u64>,
}

impl Reader {
    fn deliver(&mut self, kind: Kind, piece: &[u8]) {
        let Record { event, delivered, .. } = &mut self.record;
        if event.choice.index.is_none() && !delivered.wait(kind, piece) {
            self.found_index(self.record.event.choice.place);
        }
        match self.record.event.choice.index {
            Some(index) => self.record.deliver(index, kind, piece),
            None => self.record.note_text(),
        }
    }

    fn found_index(&mut self, index: u64) {
        self.record.event.choice.index = Some(index);
        if let Some(lane) = self.record.delivered.settle(index) {
            self.record.note_lane(lane);
        }
    }

    /// This name for calls, if the message does not use the other one.
    fn calls_by(&self, name: Role) -> Role {
        if self.record.event.choice.calls.is_none_or(|used| used == name) { name } else { Role::Nothing }
    }

    /// A name begins, of the call that is being read.
    fn begin_name(&mut self) {
        let choice = &mut self.record.event.choice;
        let call = choice.index.map(|index| (index, choice.call));
        choice.is_named = call.is_some() && call == self.named;
        self.named = call;
    }

    /// llama.cpp counts each choice apart, in a usage event after its last text, or of an answer the first one only; the
    /// others count all choices in one.
    fn end_event(&mut self) {
        let Event { choice, choices, is_finish, has_timings, .. } = self.record.event;
        self.finished |= is_finish;
        if self.is_usage_event() && std::mem::take(&mut self.finished) {
            self.counted = self.stated.add_to_output(self.counted);
        }
        if has_timings && (is_finish || choices == Choices::Empty) {
            self.timed.add(&self.timings);
            self.is_part |= choice.place > 0 && self.stated.last_output().is_none_or(|stated| self.timings.is(stated));
        }
    }
}

impl Timings {
    fn is(&self, output: u64) -> bool {
        self.predicted.last() == Some(output)
    }
}

impl Timed {
    /// A choice is complete.
    fn add(&mut self, timings: &Timings) {
        let (cached, all) = (timings.cache.last(), self.all);
        let input = timings.prompt.last().filter(|_| cached.is_some());
        let sum = |one: Option<u64>, all: Option<u64>| one.map(|one| one.saturating_add(all.unwrap_or(0)));
        self.choices += 1;
        self.output = sum(timings.predicted.last(), self.output);
        self.last = Prompt { input, cached };
        self.all = Prompt { input: sum(input, all.input), cached: sum(cached, all.cached) };
    }

    /// The prompts of all choices. As many of those are of one prompt as are of any other.
    fn of_prompts(&self, prompts: u64) -> Prompt {
        let share = |all: u64| u128::from(all) * u128::from(prompts) / u128::from(self.choices.max(1));
        let share = |all| u64::try_from(share(all)).unwrap_or(u64::MAX);
        Prompt { input: self.all.input.map(share), cached: self.all.cached.map(share) }
    }

    /// What they say where `usage` does not, and of several prompts, of which it states one.
    fn complete(&self, stated: Statement, prompts: u64, delivered: bool) -> Statement {
        let several = self.of_prompts(prompts);
        let prompt = if prompts > 1 && several.input.is_some() {
            several
        } else if stated.input.is_some() {
            Prompt { input: stated.input, cached: stated.cached_input }
        } else {
            self.last
        };
        let output = stated.output.max(self.output.filter(|&output| output > 0 || !delivered));
        Statement { input: prompt.input, cached_input: prompt.cached, output, ..stated }
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

    fn of_prompts(&mut self, prompts: u64) {
        self.prompts = prompts;
    }

    fn stated(&self) -> Statement {
        let delivered = self.record.delivered.any();
        let stated = self.stated.of_answer(delivered);
        if self.is_part && self.prompts > 1 {
            return Statement { output: stated.output, is_part: true, ..Statement::default() };
        }
        Statement { is_part: self.is_part, ..self.timed.complete(stated, self.prompts, delivered) }
    }

    /// `[DONE]` is no document.
    fn is_last(&self) -> bool {
        false
    }

    fn is_only_text(&self) -> bool {
        let Event { usage, is_error, has_timings, is_finish, .. } = self.record.event;
        usage == UsageObject::Absent && !is_error && !has_timings && !is_finish
    }

    fn is_usage_event(&self) -> bool {
        self.record.event.choices == Choices::Empty && self.record.event.usage == UsageObject::Counts
    }

    fn may_be_usage_event(&self) -> bool {
        let Event { choices, first, .. } = self.record.event;
        choices != Choices::Some && first.is_none_or(|first| first == b'{')
    }
}

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Nothing,
    Root,
    Error,
    Usage(Field),
    /// Groq's own member, in which its usage may be.
    Groq,
    GroqUsage,
    Timings,
    TimedPrompt,
    TimedCache,
    TimedOutput,
    Choices,
    Choice,
    Index,
    Finish,
    Message,
    /// A string, or (Mistral) an array of parts.
    Content,
    Part,
    Reasoning,
    ReasoningContent,
    ToolCalls,
    ToolCall,
    CallIndex,
    Function,
    /// The form that calls had before there were tools.
    FunctionCall,
    Name,
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
            (Role::Root, b"usage") => Role::Usage(Field::Usage),
            (Role::Root, b"error" | b"message") | (Role::Choice | Role::Groq, b"error") => Role::Error,
            (Role::Root, b"timings") => Role::Timings,
            (Role::Root, b"x_groq") => Role::Groq,
            (Role::Choice, b"index") => Role::Index,
            (Role::Choice, b"finish_reason") => Role::Finish,
            (Role::Choice, b"delta" | b"message") => Role::Message,
            (Role::Choice | Role::Part, b"text") | (Role::Message, b"refusal") => Role::Text,
            (Role::Message, b"content") | (Role::Part, b"thinking") => Role::Content,
            (Role::Message, b"reasoning") => Role::Reasoning,
            (Role::Message, b"reasoning_content") => Role::ReasoningContent,
            (Role::Message, b"tool_calls") => self.calls_by(Role::ToolCalls),
            (Role::Message, b"function_call") => self.calls_by(Role::FunctionCall),
            (Role::ToolCall, b"index") => Role::CallIndex,
            (Role::ToolCall, b"function" | b"custom") => Role::Function,
            (Role::Function | Role::FunctionCall, b"name") => Role::Name,
            (Role::Function | Role::FunctionCall, b"arguments" | b"input") => Role::Arguments,
            (Role::Usage(field), key) => field.of_chat(key).map_or(Role::Nothing, Role::Usage),
            (Role::Groq, b"usage") => Role::GroqUsage,
            (Role::GroqUsage, key) => Field::Usage.of_chat(key).map_or(Role::Nothing, Role::Usage),
            (Role::Timings, b"prompt_n") => Role::TimedPrompt,
            (Role::Timings, b"cache_n") => Role::TimedCache,
            (Role::Timings, b"predicted_n") => Role::TimedOutput,
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Choices => Role::Choice,
            Role::Content => Role::Part,
            Role::ToolCalls => Role::ToolCall,
            _ => Role::Nothing,
        }
    }

    fn is_written(&self, role: Role) -> bool {
        role == Role::Arguments
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        let event = &mut self.record.event;
        match role {
            Role::Root => event.first = Some(first),
            Role::Error => {
                event.is_error |= first != b'n';
                self.record.note_error(first);
            }
            Role::Usage(Field::Usage) | Role::GroqUsage => self.stated.begin(),
            Role::Timings => {
                event.has_timings = true;
                self.timings = Timings::default();
            }
            // Text that has passed is not taken back: a second `choices` makes it no usage event.
            Role::Choices if event.choices == Choices::Some => {}
            Role::Choices => event.choices = if first == b'[' { Choices::Empty } else { Choices::Absent },
            Role::Choice => {
                let place = if event.choices == Choices::Some { event.choice.place + 1 } else { 0 };
                event.choice = Choice { place, ..Choice::default() };
                event.choices = Choices::Some;
            }
            Role::Finish => event.is_finish |= first == b'"',
            Role::Message => (event.choice.reasoning, event.choice.calls) = (None, None),
            Role::ToolCalls | Role::FunctionCall if first != b'n' => {
                event.choice.calls = Some(role);
                event.choice.call = 0;
            }
            Role::Name if first == b'"' => {
                self.begin_name();
                self.record.begin_text(at);
            }
            _ if first == b'"' => self.record.begin_text(at),
            Role::Arguments if matches!(first, b'{' | b'[') => self.record.begin_written(),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Name if self.record.event.choice.is_named => {}
            Role::Name => {
                self.record.note_call();
                self.deliver(Kind::Answer, piece);
            }
            Role::Content | Role::Text | Role::Arguments => self.deliver(Kind::Answer, piece),
            Role::Reasoning | Role::ReasoningContent
                if *self.record.event.choice.reasoning.get_or_insert(role) == role =>
            {
                self.deliver(Kind::Reasoning, piece);
            }
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        match role {
            Role::Index => self.found_index(value),
            Role::CallIndex => self.record.event.choice.call = value,
            Role::Usage(field) => self.stated.number(field, value),
            Role::TimedPrompt => self.timings.prompt.state(value),
            Role::TimedCache => self.timings.cache.state(value),
            Role::TimedOutput => self.timings.predicted.state(value),
            _ => {}
        }
    }

    fn end(&mut self, role: Role) {
        let event = &mut self.record.event;
        match role {
            Role::Usage(Field::Usage) => {
                let counts = self.stated.end() || event.usage == UsageObject::Counts;
                event.usage = if counts { UsageObject::Counts } else { UsageObject::Empty };
            }
            // Not the usage that was asked for: the event it is on is never taken out.
            Role::GroqUsage => {
                self.stated.end();
                event.usage = event.usage.max(UsageObject::Empty);
            }
            Role::ToolCall => event.choice.call += 1,
            Role::Choice if event.choice.index.is_none() => self.found_index(self.record.event.choice.place),
            Role::Root => self.end_event(),
            _ => {}
        }
    }
}
