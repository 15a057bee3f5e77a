//! How transcriptions, translations and speech state usage: by tokens, or by seconds of the audio that was heard.
//!
//! Source: `OpenAI`'s API reference (`usage` of `Transcription` with the types `tokens` and `duration`, `duration` of
//! `verbose_json`, `transcript.text.done`, `speech.audio.done`); Mistral's (`transcription.text.delta`,
//! `transcription.done`, `prompt_audio_seconds`); vLLM streams transcriptions as chat chunks.

use std::time::Duration;

use super::delivered::Kind;
use super::dialect::{Dialect, Record};
use super::json::Visitor;
use super::stated::{Field, Stated, Statement, seconds};
use super::word::Word;

/// What was read of a response.
#[derive(Default)]
pub(super) struct Reader {
    record: Record<Event>,
    stated: Stated,
    /// What is billed, and what was measured.
    billed: Option<Duration>,
    measured: Option<Duration>,
    /// Text has come piece by piece: the whole of it at the end is no more.
    in_pieces: bool,
}

/// What is known of one event.
#[derive(Clone, Copy, Default)]
pub(super) struct Event {
    kind: Word<32>,
    /// The object itself, which says what it is as errors of vLLM do.
    object: Word<8>,
    has_choice: bool,
}

impl Dialect for Reader {
    type Event = Event;

    fn record(&self) -> &Record<Event> {
        &self.record
    }

    fn record_mut(&mut self) -> &mut Record<Event> {
        &mut self.record
    }

    /// What is billed by the second takes no tokens.
    fn stated(&self) -> Statement {
        let tokens = self.stated.of_answer(self.record.delivered.any());
        let audio = self.billed.or(self.measured);
        let counts = tokens.input.is_some() || tokens.output.is_some();
        let none = audio.filter(|_| !counts).map(|_| 0);
        Statement { input: tokens.input.or(none), output: tokens.output.or(none), audio, ..tokens }
    }

    fn is_last(&self) -> bool {
        let last: [&[u8]; 4] = [b"transcript.text.done", b"transcription.done", b"speech.audio.done", b"error"];
        last.contains(&self.record.event.kind.bytes())
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
    Seconds,
    Duration,
    Text,
    Delta,
    Choices,
    Choice,
    Message,
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
            (Role::Root, b"text") => Role::Text,
            (Role::Root, b"delta") | (Role::Message, b"content") => Role::Delta,
            (Role::Root, b"duration") => Role::Duration,
            (Role::Root, b"choices") => Role::Choices,
            (Role::Choice, b"delta" | b"message") => Role::Message,
            (Role::Usage(Field::Usage), b"seconds") => Role::Seconds,
            (Role::Usage(field), key) => field.member(key).map_or(Role::Nothing, Role::Usage),
            _ => Role::Nothing,
        }
    }

    fn element(&self, array: Role) -> Role {
        match array {
            Role::Root => Role::Listed,
            Role::Choices => Role::Choice,
            Role::Error => Role::Error,
            _ => Role::Nothing,
        }
    }

    fn is_number(&self, role: Role) -> bool {
        match role {
            Role::Usage(field) => field.is_number(),
            _ => matches!(role, Role::Seconds | Role::Duration),
        }
    }

    fn begin(&mut self, role: Role, first: u8, at: usize) {
        match role {
            Role::Usage(Field::Usage) => self.stated.begin(),
            Role::Choice => self.record.event.has_choice = true,
            Role::Error => drop(self.record.note_error(first)),
            Role::Text | Role::Delta => self.record.begin_text(at),
            _ => {}
        }
    }

    fn text(&mut self, role: Role, piece: &[u8]) {
        match role {
            Role::Error => self.record.note_error_text(piece),
            Role::Type => self.record.event.kind.push(piece),
            Role::Object => self.record.event.object.push(piece),
            Role::Text => {
                let is_piece = self.record.event.kind.bytes().ends_with(b".delta");
                self.in_pieces |= is_piece;
                if is_piece || !self.in_pieces {
                    self.record.deliver(0, Kind::Answer, piece);
                }
            }
            Role::Delta => {
                self.in_pieces = true;
                self.record.deliver(0, Kind::Answer, piece);
            }
            _ => {}
        }
    }

    fn number(&mut self, role: Role, value: u64) {
        self.decimal(role, value, 0);
    }

    fn decimal(&mut self, role: Role, whole: u64, nanos: u32) {
        match role {
            Role::Seconds | Role::Usage(Field::AudioSeconds) => self.billed = seconds(whole, nanos).or(self.billed),
            Role::Duration => self.measured = seconds(whole, nanos).or(self.measured),
            _ => {}
        }
        if let Role::Usage(field) = role {
            self.stated.number(field, whole);
        }
    }

    fn end(&mut self, role: Role) {
        match role {
            Role::Usage(Field::Usage) => {
                self.stated.end();
                let Event { kind, has_choice, .. } = self.record.event;
                self.record.note_usage(self.is_last() || kind.bytes().is_empty() && !has_choice);
            }
            Role::Root => {
                let Event { kind, object, .. } = self.record.event;
                self.record.failed |= kind.bytes() == b"error" || object.bytes() == b"error";
            }
            _ => {}
        }
    }
}
