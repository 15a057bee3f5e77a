//! What a key may use: its limits, the counters that hold it to them exactly, and how much a
//! request reserves before it runs.

pub mod counters;
mod model_limit;
pub mod quota;
mod scopes;
mod window;

#[cfg(test)]
mod tests;

use std::{fmt, num::NonZeroU64, str::FromStr};

use thiserror::Error;

pub use counters::{
    Amounts, CONCURRENCY_WAIT, LimitLine, LimitName, MOST_TOKENS, QuotaUse, Room, lines, room_left, status,
};
pub use counters::{Counters, LimitKind, LimitStatus, Place, Refusal, Reservation, WindowStatus};
pub use model_limit::{ModelLimit, ModelLimitError, ScopeLimit};
pub use quota::{
    Carried, Division, Quota, QuotaCounter, QuotaError, QuotaName, QuotaSpan, QuotaUnit, Quotas, SlidingLength, Slot,
    Zone,
};
pub use scopes::{LimitMode, ModelLimits, RequestLimits, Scope, ScopeLimits, Scopes};
pub use window::SPAN;

/// How much of something is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As much as comes.
    Unlimited,
    /// At most this much.
    At(NonZeroU64),
}

impl Limit {
    /// A limit of `number`; `None` for 0, which would allow nothing.
    #[must_use]
    pub const fn at(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self::At(number)),
            None => None,
        }
    }

    /// The number, where there is one.
    #[must_use]
    pub const fn number(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::At(number) => Some(number.get()),
        }
    }

    /// The lower of the two.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(one), Self::At(another)) => Self::At(one.min(another)),
            (Self::Unlimited, limit) | (limit, Self::Unlimited) => limit,
        }
    }

    /// `amount`, cut to the limit.
    #[must_use]
    pub fn cut(self, amount: u64) -> u64 {
        self.number().map_or(amount, |number| amount.min(number))
    }
}

impl FromStr for Limit {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let spelled = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
        if !spelled || text.is_empty() || text.starts_with('_') || text.ends_with('_') {
            return Err(LimitError::Form);
        }
        let number = text.replace('_', "").parse().map_err(|_| LimitError::TooLarge)?;
        Self::at(number).ok_or(LimitError::Zero)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => formatter.write_str("unlimited"),
            Self::At(number) => number.fmt(formatter),
        }
    }
}

/// Why a text is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// Neither `unlimited` nor a whole number.
    #[error("a limit is `unlimited` or a whole number of at least 1, such as 600 or 5_000_000")]
    Form,
    /// The number 0.
    #[error("a limit of 0 would allow nothing: to disable a key, write `enabled: false`")]
    Zero,
    /// More than a `u64` holds.
    #[error("a limit is at most 18446744073709551615: for no limit, write `unlimited`")]
    TooLarge,
}

/// The limits that hold for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests admitted in any 60 seconds.
    pub requests_per_minute: Limit,
    /// Tokens reserved, or used beyond what was reserved, in any 60 seconds.
    pub tokens_per_minute: Limit,
    /// Requests running at once.
    pub concurrent_requests: Limit,
}

impl Limits {
    /// None.
    pub const UNLIMITED: Self = Self {
        requests_per_minute: Limit::Unlimited,
        tokens_per_minute: Limit::Unlimited,
        concurrent_requests: Limit::Unlimited,
    };

    /// Whether nothing is limited.
    #[must_use]
    pub fn are_unlimited(&self) -> bool {
        let Self { requests_per_minute, tokens_per_minute, concurrent_requests } = self;
        [requests_per_minute, tokens_per_minute, concurrent_requests].into_iter().all(|limit| limit.number().is_none())
    }

    /// What one of so many gateways may use by itself: together no more than the limits, but for limits that are
    /// below their number, of which each has one.
    #[must_use]
    pub fn share(&self, gateways: u64) -> Self {
        let share = |limit: Limit| match limit.number() {
            Some(number) => Limit::at((number / gateways.max(1)).max(1)).unwrap_or(limit),
            None => limit,
        };
        Self {
            requests_per_minute: share(self.requests_per_minute),
            tokens_per_minute: share(self.tokens_per_minute),
            concurrent_requests: share(self.concurrent_requests),
        }
    }
}

/// How much output a request reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// What the model's answers lately took; more may be used, and is then owed.
    Expected,
    /// The most that the request may produce; its own maximum is lowered to what fits.
    WorstCase,
}

/// What is known of a request before it runs. All numbers but `choices` are tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The prompt, estimated.
    pub prompt: u64,
    /// What the prompt takes at the very least.
    pub certain_prompt: u64,
    /// The maximum for one answer that the request states.
    pub stated_maximum: Option<u64>,
    /// The least that its API lets that maximum be set to; `None`: whatever is over 0.
    pub least_maximum: Option<u64>,
    /// The least that leaves room for an answer, where the API takes less.
    pub useful_maximum: Option<u64>,
    /// Answers asked for, over all prompts; 0 counts as 1.
    pub choices: u64,
    /// The most that the model is configured to answer.
    pub max_output_tokens: Option<u64>,
    /// What one of the model's answers lately took.
    pub expected_output: u64,
    /// What of the limit is free at this moment, if it is known and may be all that is reserved.
    pub free: Option<u64>,
    /// Whether there is output at all; embeddings have none.
    pub has_output: bool,
}

/// The fewest tokens that a text of `bytes` bytes can take: the longest tokens of `o200k_base`
/// have 128 bytes.
#[must_use]
pub const fn certain_prompt(bytes: u64) -> u64 {
    bytes.div_ceil(128)
}

/// What to do with a request before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tokens to reserve: at least 1, so that a key that owes tokens cannot pass with an empty
    /// request, and within the limit.
    pub tokens: u64,
    /// What to set the request's own maximum to; `None`: leave it as it is.
    pub set_maximum: Option<u64>,
}

/// The request certainly never fits: waiting does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TooLarge {
    /// The prompt alone is over the limit.
    #[error("the prompt takes at least {certain_prompt} tokens and the limit is {limit}: shorten it")]
    Prompt {
        /// What the prompt takes at the very least, in tokens.
        certain_prompt: u64,
        /// Tokens allowed in any 60 seconds.
        limit: u64,
    },
    /// The prompt and the shortest answers that the API lets it be held to are.
    #[error(
        "the request takes at least {certain} tokens, with answers of {answer}, and the limit is {limit}: ask for less"
    )]
    Answer {
        /// What the request takes at the very least, in tokens.
        certain: u64,
        /// The shortest answer, in tokens.
        answer: u64,
        /// Tokens allowed in any 60 seconds.
        limit: u64,
    },
    /// The model is configured to answer less than the shortest answer that the API lets it be held to.
    #[error("no answer may be held to less than {answer} tokens and the model's have {most} at most: ask for less")]
    Model {
        /// The shortest answer, in tokens.
        answer: u64,
        /// The longest that the model is configured to give.
        most: u64,
    },
}

/// How many tokens a request of this `demand` reserves under `limit`, and what becomes of its
/// own maximum.
///
/// # Errors
/// When the prompt is certainly over the limit, or with the shortest answers to which the request could be held.
pub fn plan(strategy: Strategy, limit: Limit, demand: &Demand) -> Result<Plan, TooLarge> {
    let certain_prompt = demand.certain_prompt;
    if let Some(limit) = limit.number().filter(|limit| certain_prompt > *limit) {
        return Err(TooLarge::Prompt { certain_prompt, limit });
    }
    let (answer, set_maximum) = match (strategy, limit) {
        _ if !demand.has_output => (0, None),
        (Strategy::Expected, _) => (demand.expected_answer(), None),
        (Strategy::WorstCase, Limit::Unlimited) => (demand.longest_answer(), None),
        (Strategy::WorstCase, Limit::At(limit)) => {
            demand.fits_at_its_least(limit.get())?;
            demand.longest_answer_within(limit.get())
        }
    };
    Ok(Plan { tokens: limit.cut(demand.total(answer)).max(1), set_maximum })
}

impl Demand {
    /// What the request takes at the very least, if its maximum may be lowered: its prompt, and answers of the least
    /// length that its API demands.
    #[must_use]
    pub fn certain(&self) -> u64 {
        let answer = self.least_maximum.map_or(0, |_| self.shortest_answer());
        answer.saturating_mul(self.choices.max(1)).saturating_add(self.certain_prompt)
    }

    /// What the maximum can be at the least. A smaller one that was stated is the client's, and is left as it is.
    fn shortest_answer(&self) -> u64 {
        self.least_maximum.unwrap_or(1).max(1).min(self.stated_maximum.unwrap_or(u64::MAX))
    }

    fn fits_at_its_least(&self, limit: u64) -> Result<(), TooLarge> {
        let (certain, answer) = (self.certain(), self.shortest_answer());
        match self.max_output_tokens {
            _ if self.least_maximum.is_none() => Ok(()),
            Some(most) if most < answer => Err(TooLarge::Model { answer, most }),
            _ if certain > limit => Err(TooLarge::Answer { certain, answer, limit }),
            _ => Ok(()),
        }
    }

    fn total(&self, answer: u64) -> u64 {
        answer.saturating_mul(self.choices.max(1)).saturating_add(self.prompt)
    }

    fn expected_answer(&self) -> u64 {
        [self.stated_maximum, self.max_output_tokens].into_iter().flatten().fold(self.expected_output, u64::min)
    }

    /// Nothing is rewritten where nothing is limited: it is counted as it was asked for.
    fn longest_answer(&self) -> u64 {
        self.stated_maximum.or(self.max_output_tokens).unwrap_or(self.expected_output)
    }

    /// The longest answer that keeps the whole request within `limit`, and the maximum to set where the request states
    /// none or one that never fits. That is what fits into what is free at this moment, so that a key need not wait until all
    /// of its minute is; but not less than answers lately took, which would cut them short, nor than leaves room for one. It
    /// is at least what the API takes; a smaller one that was stated is left as it is.
    fn longest_answer_within(&self, limit: u64) -> (u64, Option<u64>) {
        let least = self.shortest_answer();
        let most = self.max_output_tokens.unwrap_or(u64::MAX).min(self.answer_in(limit)).max(least);
        let wanted = self.expected_output.max(self.useful_maximum.unwrap_or(0));
        let at_once = self.free.map_or(most, |free| self.answer_in(free).max(wanted));
        match self.stated_maximum {
            Some(stated) if stated <= most => (stated, None),
            _ => {
                let allowed = at_once.clamp(least, most);
                (allowed, Some(allowed))
            }
        }
    }

    /// How long an answer may be for the whole request to fit into so many tokens.
    fn answer_in(&self, tokens: u64) -> u64 {
        tokens.saturating_sub(self.prompt) / self.choices.max(1)
    }
}
