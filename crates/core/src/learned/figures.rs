//! What is known of a model at one moment, for one key: read once, and used to its request's end.

use super::{
    DEFAULT_OUTPUT,
    fit::{Prior, dot},
    makeup::{ANSWER, Answer, PROMPT, Prompt, real, whole},
    template::Family,
};
use crate::api::Endpoint;

/// What is known of a model at one moment, for one key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    pub(super) family: &'static Family,
    pub(super) fitted: Fitted,
    pub(super) expected_output: u64,
}

/// Factors that were fitted to what was counted, or are what they were taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fitted {
    /// Of a prompt whose tokens are found.
    pub by_tokens: [f64; PROMPT],
    /// Of a prompt of which the length is known.
    pub by_length: [f64; PROMPT],
    pub answer: [f64; ANSWER],
}

/// What is taken for granted of each factor. Of a family whose template is known, its counts are off by little.
pub(super) struct Priors {
    pub by_tokens: Prior<PROMPT>,
    pub by_length: Prior<PROMPT>,
    pub answer: Prior<ANSWER>,
}

/// Beside what the table says: tokens for the whole, tokens for each message, factors for prose and JSON, tokens for tools.
const AS_IN_THE_TABLE: [f64; PROMPT] = [0.0, 0.0, 1.0, 1.0, 0.0];
const ANSWER_AS_IN_THE_TABLE: [f64; ANSWER] = [0.0, 0.0, 1.0, 1.0];
/// No system prompt of a model's own has over 2,000 tokens; vocabularies in use take half to three times as many tokens.
const BY_TOKENS: [(f64, f64); PROMPT] = [(-100.0, 2000.0), (-10.0, 100.0), (0.5, 3.0), (0.3, 4.0), (-700.0, 2000.0)];
/// No text takes more than a token for a byte; less than one for 64 is no text.
const BY_LENGTH: [(f64, f64); PROMPT] =
    [(-100.0, 2000.0), (-10.0, 100.0), (0.0625, 4.0), (0.0625, 4.0), (-700.0, 2000.0)];
const OF_ANSWERS: [(f64, f64); ANSWER] = [(-20.0, 100.0), (-50.0, 200.0), (0.5, 3.0), (0.3, 4.0)];

pub(super) static OF_KNOWN_FAMILIES: Priors = Priors {
    by_tokens: Prior { values: AS_IN_THE_TABLE, spread: [10.0, 2.0, 0.1, 0.3, 60.0], bounds: BY_TOKENS },
    by_length: Prior { values: AS_IN_THE_TABLE, spread: [10.0, 2.0, 0.25, 0.35, 60.0], bounds: BY_LENGTH },
    answer: Prior { values: ANSWER_AS_IN_THE_TABLE, spread: [2.0, 10.0, 0.1, 0.3], bounds: OF_ANSWERS },
};

pub(super) static OF_OTHERS: Priors = Priors {
    by_tokens: Prior { values: AS_IN_THE_TABLE, spread: [40.0, 4.0, 0.2, 0.5, 200.0], bounds: BY_TOKENS },
    by_length: Prior { values: AS_IN_THE_TABLE, spread: [40.0, 4.0, 0.3, 0.5, 200.0], bounds: BY_LENGTH },
    answer: Prior { values: ANSWER_AS_IN_THE_TABLE, spread: [4.0, 15.0, 0.2, 0.5], bounds: OF_ANSWERS },
};

impl Priors {
    /// What is taken for granted of a family.
    pub fn of(family: &Family) -> &'static Self {
        if family.is_known() { &OF_KNOWN_FAMILIES } else { &OF_OTHERS }
    }

    pub fn fitted(&self) -> Fitted {
        let Self { by_tokens, by_length, answer } = self;
        Fitted { by_tokens: by_tokens.values, by_length: by_length.values, answer: answer.values }
    }
}

impl Figures {
    /// What the table says of a model.
    #[must_use]
    pub fn of(model: &str) -> Self {
        Self::of_family(Family::of(model))
    }

    pub(super) fn of_family(family: &'static Family) -> Self {
        Self { family, fitted: Priors::of(family).fitted(), expected_output: DEFAULT_OUTPUT }
    }

    /// The 95th percentile of the last outputs, in tokens; 1024 before there are 20.
    #[must_use]
    pub fn expected_output(&self) -> u64 {
        self.expected_output
    }

    /// The tokens of a prompt of which nothing but the length of its prose and its JSON is known, in bytes; rounded up. A
    /// token of English has about 4 bytes.
    #[must_use]
    pub fn prompt_by_length(&self, prompt: &Prompt, prose: u64, json: u64) -> u64 {
        let parts = prompt.parts(self.family, by_length(prose), by_length(json));
        whole((parts.known + dot(&self.fitted.by_length, &parts.varying)).ceil())
    }

    /// The tokens of a prompt in whose prose and JSON `o200k_base` finds so many.
    #[must_use]
    pub fn prompt(&self, prompt: &Prompt, prose: u64, json: u64) -> u64 {
        let parts = prompt.parts(self.family, real(prose), real(json));
        whole((parts.known + dot(&self.fitted.by_tokens, &parts.varying)).round())
    }

    /// The tokens of an answer. Of one that is not whole nothing is counted that was not delivered, and no token that is not
    /// complete.
    #[must_use]
    pub fn answer(&self, answer: &Answer, endpoint: Endpoint) -> u64 {
        let parts = answer.parts(self.family, endpoint);
        let tokens = parts.known + dot(&self.fitted.answer, &parts.varying);
        whole(if answer.is_whole { tokens.round() } else { tokens })
    }

    /// The part of an answer that is reasoning.
    #[must_use]
    pub fn reasoning(&self, answer: &Answer, endpoint: Endpoint) -> u64 {
        let reasoning = Answer { prose: answer.reasoning, ..Answer::default() };
        self.answer(&reasoning, endpoint)
    }
}

/// What a text of so many bytes is taken to have in tokens of `o200k_base`.
pub(super) fn by_length(bytes: u64) -> f64 {
    real(bytes) / 4.0
}
