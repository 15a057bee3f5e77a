//! How a request bounds its output. There are three fields for it, and servers differ in which
//! they know and which they heed first.

use std::ops::Range;

use super::{Shape, field::Maximum};

/// How a number is written.
#[derive(Debug, Clone, Default)]
pub(super) enum Stated {
    #[default]
    Nowhere,
    Null(Range<usize>),
    Number(u64, Range<usize>),
}

impl Stated {
    pub fn value(&self) -> Option<u64> {
        match self {
            Self::Number(value, _) => Some(*value),
            Self::Nowhere | Self::Null(_) => None,
        }
    }
}

/// What each field states.
#[derive(Debug, Clone, Default)]
pub(super) struct Maximums {
    pub tokens: Stated,
    pub completion_tokens: Stated,
    pub n_predict: Stated,
}

impl Maximums {
    pub fn of(&mut self, field: Maximum) -> &mut Stated {
        match field {
            Maximum::Tokens => &mut self.tokens,
            Maximum::CompletionTokens => &mut self.completion_tokens,
            Maximum::NPredict => &mut self.n_predict,
        }
    }

    /// The greatest number that the API's own fields state. Others bound nothing on a server that
    /// does not know them, nor does a chat's zero: some take it for none.
    pub fn own(&self, shape: Shape) -> Option<u64> {
        match shape {
            Shape::Chat => self.tokens.value().max(self.completion_tokens.value()).filter(|maximum| *maximum > 0),
            Shape::Completions => self.tokens.value(),
            Shape::Embeddings => None,
        }
    }

    /// The greatest number that any field states, if one that counts everywhere is among them.
    pub fn greatest(&self, shape: Shape) -> Option<u64> {
        self.own(shape)?;
        self.all().into_iter().filter_map(Stated::value).max()
    }

    /// Where a number over `maximum` stands.
    pub fn over(&self, maximum: u64) -> impl Iterator<Item = &Range<usize>> {
        self.all().into_iter().filter_map(move |stated| match stated {
            Stated::Number(value, span) if *value > maximum => Some(span),
            _ => None,
        })
    }

    fn all(&self) -> [&Stated; 3] {
        [&self.tokens, &self.completion_tokens, &self.n_predict]
    }
}
