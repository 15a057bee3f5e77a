//! How a request bounds its output. Besides an API's own field there are others' that servers
//! read as well, and they differ in which they know and which they heed first.

use std::ops::Range;

use super::{Shape, field::Maximum};

/// How a number is written.
#[derive(Debug, Clone, Default)]
pub(super) enum Stated {
    #[default]
    Nowhere,
    /// As none: null, or a number that the API takes for none.
    Nothing(Range<usize>),
    Number(u64, Range<usize>),
}

impl Stated {
    pub fn value(&self) -> Option<u64> {
        match self {
            Self::Number(value, _) => Some(*value),
            Self::Nowhere | Self::Nothing(_) => None,
        }
    }
}

/// What each field states.
#[derive(Debug, Clone, Default)]
pub(super) struct Maximums {
    pub own: Stated,
    tokens: Stated,
    completion_tokens: Stated,
    n_predict: Stated,
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

    /// The greatest number that the API's own fields state, of which a chat has two. Others bound
    /// nothing on a server that does not know them, nor does a zero that some take for none.
    pub fn own(&self, shape: Shape) -> Option<u64> {
        shape.maximum_field()?;
        let second = if shape == Shape::Chat { self.completion_tokens.value() } else { None };
        self.own.value().max(second).filter(|maximum| *maximum > 0 || shape.takes_zero())
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

    fn all(&self) -> [&Stated; 4] {
        [&self.own, &self.tokens, &self.completion_tokens, &self.n_predict]
    }
}
