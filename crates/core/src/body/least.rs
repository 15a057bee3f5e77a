//! How small the maximum of a request may be: what its API demands of it, and what leaves room for an answer.

use super::Shape;

/// What a request says of how short its answer may be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Demands {
    /// Tokens that the model may think.
    pub budget: Option<u64>,
    /// Whether it does not think at all, whatever it may.
    pub is_off: bool,
    /// Tokens that the answer has at least.
    pub minimum: Option<u64>,
}

impl Demands {
    /// The least maximum that the API takes, if it demands any but 1.
    pub fn least(&self, shape: Shape) -> Option<u64> {
        let above = if shape.thinks_within_any_maximum() { None } else { self.above_budget() };
        [shape.least_maximum(), above, self.minimum].into_iter().max().flatten().filter(|least| *least > 1)
    }

    /// The least maximum under which the model may answer after it has thought, where the API would take less.
    pub fn useful(&self, shape: Shape) -> Option<u64> {
        self.above_budget().filter(|_| shape.thinks_within_any_maximum())
    }

    fn above_budget(&self) -> Option<u64> {
        self.budget.filter(|budget| *budget > 0 && !self.is_off).map(|budget| budget.saturating_add(1))
    }
}
