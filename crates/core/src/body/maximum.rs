//! How a request bounds its output. Besides an API's own field there are others' that servers
//! read as well, and they differ in which they know and which they heed first.

use std::ops::Range;

use super::{Shape, field::Maximum};

/// How a maximum is written.
#[derive(Debug, Clone, Default)]
pub(super) enum Stated {
    #[default]
    Nowhere,
    Null(Range<usize>),
    Number(u64, Range<usize>),
    /// A number below zero, which servers that know it take for no maximum at all: llama.cpp's and Ollama's -1 and -2,
    /// LM Studio's -1, and all of them for llama-cpp-python.
    Unbounded(Range<usize>),
}

impl Stated {
    pub fn value(&self) -> Option<u64> {
        match self {
            Self::Number(value, _) => Some(*value),
            Self::Nowhere | Self::Null(_) | Self::Unbounded(_) => None,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Nowhere | Self::Null(_))
    }

    fn is_there(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }
}

/// The field in which a chat states its maximum. Servers differ in which of the two they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum MaximumName {
    /// `max_tokens`: the older, which most servers know.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`: the one that OpenAI's reasoning models take.
    MaxCompletionTokens,
}

impl MaximumName {
    /// The field as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::MaxTokens => Self::MaxCompletionTokens,
            Self::MaxCompletionTokens => Self::MaxTokens,
        }
    }
}

/// What each field states.
#[derive(Debug, Clone, Default)]
pub(super) struct Maximums {
    own: Stated,
    tokens: Stated,
    completion_tokens: Stated,
    n_predict: Stated,
    /// Where the names of the fields stand that a chat has of its own.
    own_name: Range<usize>,
    completion_tokens_name: Range<usize>,
}

impl Maximums {
    pub fn of(&mut self, field: Maximum) -> &mut Stated {
        match field {
            Maximum::Own => &mut self.own,
            Maximum::Tokens => &mut self.tokens,
            Maximum::CompletionTokens => &mut self.completion_tokens,
            Maximum::NPredict => &mut self.n_predict,
        }
    }

    /// The field's name stands there.
    pub fn note_name(&mut self, field: Maximum, span: Range<usize>) {
        match field {
            Maximum::Own => self.own_name = span,
            Maximum::CompletionTokens => self.completion_tokens_name = span,
            Maximum::Tokens | Maximum::NPredict => {}
        }
    }

    /// Where the name of a chat's field stands.
    pub fn name_span(&self, name: MaximumName) -> &Range<usize> {
        match name {
            MaximumName::MaxTokens => &self.own_name,
            MaximumName::MaxCompletionTokens => &self.completion_tokens_name,
        }
    }

    /// The one of a chat's fields that is there, and states no maximum; none where both are there, or neither.
    pub fn only_open(&self, shape: Shape) -> Option<MaximumName> {
        let is_there = |name| self.named(name, shape).is_there();
        let name = match (is_there(MaximumName::MaxTokens), is_there(MaximumName::MaxCompletionTokens)) {
            (true, false) => MaximumName::MaxTokens,
            (false, true) => MaximumName::MaxCompletionTokens,
            _ => return None,
        };
        let stated = self.named(name, shape);
        (stated.is_open() || is_none(stated, true, shape)).then_some(name)
    }

    /// The greatest number that any field states, if one of the API's own is among them, and none says that there is no
    /// maximum: others' fields bound nothing on a server that does not know them.
    pub fn greatest(&self, shape: Shape) -> Option<u64> {
        let fields = self.fields(shape);
        let is_bounded = fields.iter().any(|(stated, is_own)| *is_own && stated.value().is_some());
        if !is_bounded || fields.iter().any(|(stated, is_own)| is_none(stated, *is_own, shape)) {
            return None;
        }
        fields.into_iter().filter_map(|(stated, _)| stated.value()).max()
    }

    /// Where something stands that allows more than `maximum`.
    pub fn over(&self, maximum: u64, shape: Shape) -> impl Iterator<Item = &Range<usize>> {
        self.fields(shape).into_iter().filter_map(move |(stated, is_own)| match stated {
            Stated::Number(value, span) if *value > maximum || is_none(stated, is_own, shape) => Some(span),
            Stated::Unbounded(span) => Some(span),
            Stated::Nowhere | Stated::Null(_) | Stated::Number(..) => None,
        })
    }

    /// Whether one of the API's own fields says anything, be it that there is no maximum.
    pub fn is_stated(&self, shape: Shape) -> bool {
        self.fields(shape).into_iter().any(|(stated, is_own)| is_own && !stated.is_open())
    }

    /// What stands in the field of that name; where the API has one only, in that.
    pub fn named(&self, name: MaximumName, shape: Shape) -> &Stated {
        match (shape, name) {
            (Shape::Chat, MaximumName::MaxCompletionTokens) => &self.completion_tokens,
            _ => &self.own,
        }
    }

    /// Every field, and whether it is the API's own, of which a chat has two.
    fn fields(&self, shape: Shape) -> [(&Stated, bool); 4] {
        let has_own = shape.maximum_field().is_some();
        [
            (&self.own, has_own),
            (&self.tokens, false),
            (&self.completion_tokens, shape == Shape::Chat),
            (&self.n_predict, false),
        ]
    }
}

/// Whether a field says that there is no maximum. In the API's own, some servers take a zero for that.
fn is_none(stated: &Stated, is_own: bool, shape: Shape) -> bool {
    match stated {
        Stated::Unbounded(_) => true,
        Stated::Number(0, _) => is_own && !shape.takes_zero(),
        Stated::Nowhere | Stated::Null(_) | Stated::Number(..) => false,
    }
}
