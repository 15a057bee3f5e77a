//! How `OpenAI`'s chat completions and completions, and the servers that speak like them, state usage.
//!
//! Source: the API reference (`usage`, `chat.completion.chunk`) and what vLLM, `SGLang`, llama.cpp, Groq and Azure send.

mod event;
mod timings;

use self::event::{Choices, Event, Likeness, UsageObject, is_foreign};
use self::timings::{Timed, Timings};
use super::delivered::Kind;
use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Field, Stated, Statement};

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
    /// What choices state of themselves (Moonshot), and the output of those that were complete.
    of_choices: Stated,
    counted_in_choices: u64,
    /// How many choices said that they are complete, and whether any usage was stated before the first of them.
    finishes: usize,
    is_continuous: bool,
    /// The call that was named last: its choice, and its place among that choice's calls.
    named: Option<(u64, u64)>,
    /// How often another call was named than before.
    names: u64,
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
        self.names += u64::from(!choice.is_named);
        self.named = call;
    }

    /// llama.cpp counts each choice apart, in a usage event after its last text, or of an answer the first one only; the
    /// others count all choices in one.
    fn end_event(&mut self) {
        if self.record.event.is_bare_error() {
            self.record.event.likeness = Likeness::Error;
            self.record.failed = true;
        }
        let Event { choice, choices, is_finish, has_timings, .. } = self.record.event;
        self.finished |= is_finish;
        if self.is_usage_event() && std::mem::take(&mut self.finished) {
            self.counted = self.stated.add_to_output(self.counted);
        }
        if self.record.event.states_usage() {
            self.is_continuous |= self.finishes == 0;
            self.record.note_usage(self.is_final());
        }
        if has_timings && (is_finish || choices == Choices::Empty) {
            self.timed.add(&self.timings);
            self.is_part |= choice.place > 0 && self.stated.last_output().is_none_or(|stated| self.timings.is(stated));
        }
    }

    fn end_choice(&mut self) {
        let choice = self.record.event.choice;
        if choice.index.is_none() {
            self.found_index(choice.place);
        }
        self.finishes += usize::from(choice.is_finished);
        if choice.states_usage {
            let sum = self.of_choices.add_to_output(self.counted_in_choices);
            self.counted_in_choices = if choice.is_finished { sum } else { self.counted_in_choices };
        }
    }

    /// Whether the usage that the event states is that of the whole answer. Of usage on every chunk it is only that of
    /// the usage event.
    fn is_final(&self) -> bool {
        let all_finished = self.finishes >= self.record.delivered.choices().max(1);
        if self.is_usage_event() { self.finishes == 0 || all_finished } else { all_finished && !self.is_continuous }
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

    fn names(&self) -> u64 {
        self.names
    }

    fn of_prompts(&mut self, prompts: u64) {
        self.prompts = prompts;
    }

    fn stated(&self) -> Statement {
        let delivered = self.record.delivered.any();
        let of_all = self.stated.of_answer(delivered);
        let is_said = of_all.input.or(of_all.output).is_some();
        let stated = if is_said { of_all } else { self.of_choices.of_answer(delivered) };
        if self.is_part && self.prompts > 1 {
            return Statement { output: stated.output, output_is_part: true, ..Statement::default() };
        }
        Statement { output_is_part: self.is_part, ..self.timed.complete(stated, self.prompts, delivered) }
    }

    /// `[DONE]` is no document.
    fn is_last(&self) -> bool {
        false
    }

    fn is_only_text(&self) -> bool {
        let Event { usage, likeness, has_timings, is_finish, .. } = self.record.event;
        usage == UsageObject::Absent && likeness != Likeness::Error && !has_timings && !is_finish
    }

    fn is_usage_event(&self) -> bool {
        self.record.event.is_usage_event()
    }

    /// llama.cpp's answers of several choices state the first one's.
    fn states_once(&self) -> bool {
        self.record.event.choice.place == 0
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
    /// What stands in a list in place of an answer (Google).
    Listed,
    Error,
    /// A message beside the choices, or in place of them.
    BareMessage,
    /// A member that no chunk has.
    Foreign,
    Usage(Field),
    ChoiceUsage(Field),
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
            (Role::Root | Role::Listed | Role::Choice | Role::Groq, b"error")
            | (Role::Root, b"errors")
            | (Role::Error, _) => Role::Error,
            (Role::Root, b"message") => Role::BareMessage,
            (Role::Root, b"timings") => Role::Timings,
            (Role::Root, b"x_groq") => Role::Groq,
            (Role::Root, key) => {
                if is_foreign(key) {
                    Role::Foreign
                } else {
                    Role::Nothing
                }
            }
            (Role::Choice | Role::Message, b"usage") => Role::ChoiceUsage(Field::Usage),
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
            (Role::Usage(field), key) => field.member(key).map_or(Role::Nothing, Role::Usage),
            (Role::ChoiceUsage(field), key) => field.member(key).map_or(Role::Nothing, Role::ChoiceUsage),
            (Role::Groq, b"usage") => Role::GroqUsage,
            (Role::GroqUsage, key) => Field::Usage.member(key).map_or(Role::Nothing, Role::Usage),
            (Role::Timings, b"prompt_n") => Role::TimedPrompt,
            (Role::Timings, b"cache_n") => Role::TimedCache,
            (Role::Timings, b"predicted_n") => Role::TimedOutput,
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Root => Role::Listed,
            Role::Choices => Role::Choice,
            Role::Error => Role::Error,
            Role::Content => Role::Part,
            Role::ToolCalls => Role::ToolCall,
            _ => Role::Nothing,
        }
    }

    fn is_written(&self, role: Role) -> bool {
        role == Role::Arguments
    }

    fn is_number(&self, role: Role) -> bool {
        match role {
            Role::Usage(field) | Role::ChoiceUsage(field) => field.is_number(),
            Role::TimedPrompt | Role::TimedCache | Role::TimedOutput => true,
            _ => false,
        }
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        if role == Role::Error && self.record.note_error(first) {
            self.record.event.likeness = Likeness::Error;
        }
        let event = &mut self.record.event;
        match role {
            Role::Root => event.first = Some(first),
            Role::Foreign if first != b'n' => event.likeness = event.likeness.max(Likeness::Foreign),
            Role::Usage(Field::Usage) | Role::GroqUsage => self.stated.begin(),
            Role::ChoiceUsage(Field::Usage) => self.of_choices.begin(),
            Role::Timings => {
                event.has_timings = true;
                self.timings = Timings::default();
            }
            Role::Choices => event.begin_choices(first),
            Role::Choice => event.begin_choice(),
            Role::Finish if first == b'"' => (event.is_finish, event.choice.is_finished) = (true, true),
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
            Role::Error => {
                self.record.event.likeness = Likeness::Error;
                self.record.note_error_text(piece);
            }
            Role::BareMessage => self.record.event.has_bare_message |= !piece.is_empty(),
            Role::Name if self.record.event.choice.is_named => {}
            Role::Name => {
                self.record.note_call();
                self.deliver(Kind::Call, piece);
            }
            Role::Content | Role::Text => self.deliver(Kind::Answer, piece),
            Role::Arguments => self.deliver(Kind::Call, piece),
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
            Role::ChoiceUsage(field) => self.of_choices.number(field, value),
            Role::TimedPrompt => self.timings.prompt.state(value),
            Role::TimedCache => self.timings.cache.state(value),
            Role::TimedOutput => self.timings.predicted.state(value),
            _ => {}
        }
    }

    fn end(&mut self, role: Role) {
        let event = &mut self.record.event;
        match role {
            Role::Usage(Field::Usage) => event.note_usage(self.stated.end(), UsageObject::Counts),
            Role::GroqUsage => event.note_usage(self.stated.end(), UsageObject::Other),
            Role::ChoiceUsage(Field::Usage) => {
                event.choice.states_usage = self.of_choices.end();
                event.note_usage(event.choice.states_usage, UsageObject::Other);
            }
            Role::ToolCall => event.choice.call += 1,
            Role::Choice => self.end_choice(),
            Role::Root => self.end_event(),
            _ => {}
        }
    }
}
