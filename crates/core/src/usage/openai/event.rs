//! One event of a chat's or a completion's stream, or an answer that is none, as far as it is read.

use super::Role;

/// What is known of one event (or of one answer that is no stream).
#[derive(Clone, Copy, Default)]
pub(in super::super) struct Event {
    /// The document's first byte.
    pub(super) first: Option<u8>,
    pub(super) choice: Choice,
    pub(super) choices: Choices,
    pub(super) usage: UsageObject,
    pub(super) likeness: Likeness,
    pub(super) has_timings: bool,
    pub(super) is_finish: bool,
    pub(super) has_bare_message: bool,
}

/// The choice that is being read.
#[derive(Clone, Copy, Default)]
pub(super) struct Choice {
    pub(super) index: Option<u64>,
    /// Its place in the array, which stands for an index that never comes.
    pub(super) place: u64,
    /// Which of the two names for reasoning this message uses; servers that send both say the same in both.
    pub(super) reasoning: Option<Role>,
    /// Which of the two names for calls it uses; llama-cpp-python says the same in both.
    pub(super) calls: Option<Role>,
    /// The call's place among those of the choice.
    pub(super) call: u64,
    /// The call was named before; llama-cpp-python names it in each of its events.
    pub(super) is_named: bool,
    pub(super) is_finished: bool,
    pub(super) states_usage: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Choices {
    #[default]
    Absent,
    Empty,
    Some,
}

/// Whether there is a usage object, and whether it counts anything.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum UsageObject {
    #[default]
    Absent,
    Empty,
    /// It counts, and is not the one that was asked for: the event is never taken out for it.
    Other,
    Counts,
}

/// What the event is like.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Likeness {
    #[default]
    Chunk,
    /// It says what no chunk of a chat does.
    Foreign,
    Error,
}

impl Event {
    /// Whether it is the usage event that was asked for. Other servers' have `null` for choices, or leave them out; so does
    /// what is no part of the chat.
    pub(super) fn is_usage_event(&self) -> bool {
        let has_no_choices = self.choices == Choices::Absent && self.likeness == Likeness::Chunk;
        self.usage == UsageObject::Counts && (self.choices == Choices::Empty || has_no_choices)
    }

    /// Whether a message stands where an answer should: beside one, some servers say that all is well.
    pub(super) fn is_bare_error(&self) -> bool {
        self.has_bare_message && self.choices == Choices::Absent && !self.states_usage()
    }

    pub(super) fn states_usage(&self) -> bool {
        self.usage >= UsageObject::Other
    }

    /// It has a usage object, which is such a one if it counts anything.
    pub(super) fn note_usage(&mut self, counts: bool, usage: UsageObject) {
        self.usage = self.usage.max(if counts { usage } else { UsageObject::Empty });
    }

    /// Its choices begin, with this byte.
    pub(super) fn begin_choices(&mut self, first: u8) {
        // Text that has passed is not taken back: a second `choices` makes it no usage event.
        if self.choices != Choices::Some {
            self.choices = match first {
                b'[' => Choices::Empty,
                b'n' => Choices::Absent,
                _ => Choices::Some,
            };
        }
    }

    pub(super) fn begin_choice(&mut self) {
        let place = if self.choices == Choices::Some { self.choice.place + 1 } else { 0 };
        self.choice = Choice { place, ..Choice::default() };
        self.choices = Choices::Some;
    }
}

/// Whether an event that says this is none of a chat's or a completion's.
pub(super) fn is_foreign(key: &[u8]) -> bool {
    matches!(
        key,
        b"type"
            | b"event"
            | b"delta"
            | b"content"
            | b"text"
            | b"response"
            | b"output"
            | b"data"
            | b"result"
            | b"candidates"
    )
}
