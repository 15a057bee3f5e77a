//! What upstreams state: a count for each field, of which the last that can be true wins; and the `usage` object of
//! `OpenAI`'s APIs, which many others have too.

use std::time::Duration;

/// A larger count than this is a mistake, not a statement.
const BELIEVABLE: u64 = 1_000_000_000_000;

/// What the upstream stated, in this project's terms; none where it said nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// Input that neither came from a cache nor was written to one.
    pub(super) input: Option<u64>,
    /// Input that was read from a cache.
    pub(super) cached_input: Option<u64>,
    /// Input that was written to a cache.
    pub(super) cache_write: Option<u64>,
    /// All output.
    pub(super) output: Option<u64>,
    /// The part of the output that is reasoning.
    pub(super) reasoning: Option<u64>,
    /// How long the audio was that was heard.
    pub(super) audio: Option<Duration>,
    /// It is of the first choice only.
    pub(super) is_part: bool,
}

/// One field's statements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    last: Option<u64>,
    /// The last that was not zero; zero where there is none.
    above_zero: u64,
}

impl Count {
    /// The upstream states `value`.
    pub(super) fn state(&mut self, value: u64) {
        if value <= BELIEVABLE {
            *self = Self { last: Some(value), above_zero: value };
        }
    }

    /// What is stated in `newer` wins.
    pub(super) fn update(&mut self, newer: Self) {
        self.last = newer.last.or(self.last);
        self.above_zero = if newer.above_zero > 0 { newer.above_zero } else { self.above_zero };
    }

    /// What was stated last, zero or not.
    pub(super) fn last(self) -> Option<u64> {
        self.last
    }

    /// Zero is a statement unless text was delivered, which cannot have taken none.
    pub(super) fn believed(self, delivered: bool) -> Option<u64> {
        if delivered { Some(self.above_zero).filter(|&value| value > 0) } else { self.last }
    }
}

/// How long a stated audio is.
pub(super) fn seconds(whole: u64, nanos: u32) -> Option<Duration> {
    (whole <= BELIEVABLE).then(|| Duration::new(whole, nanos))
}

/// A place in a `usage` object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The object itself.
    Usage,
    PromptDetails,
    OutputDetails,
    Prompt,
    Output,
    Total,
    Cached,
    CacheWrite,
    Reasoning,
}

impl Field {
    /// The place of a member of a `usage` of chat completions, completions and embeddings. `DeepSeek` and Moonshot name
    /// cached tokens beside the prompt's, `OpenRouter` those written to a cache among its details.
    #[inline]
    pub(super) fn of_chat(self, key: &[u8]) -> Option<Self> {
        Some(match (self, key) {
            (Self::Usage, b"prompt_tokens") => Self::Prompt,
            (Self::Usage, b"completion_tokens") => Self::Output,
            (Self::Usage, b"total_tokens") => Self::Total,
            (Self::Usage, b"prompt_tokens_details") => Self::PromptDetails,
            (Self::Usage, b"completion_tokens_details") => Self::OutputDetails,
            (Self::Usage, b"prompt_cache_hit_tokens") => Self::Cached,
            _ => return self.of_details(key),
        })
    }

    /// The place of a member of a `usage` of responses, images and audio.
    pub(super) fn of_responses(self, key: &[u8]) -> Option<Self> {
        Some(match (self, key) {
            (Self::Usage, b"input_tokens") => Self::Prompt,
            (Self::Usage, b"output_tokens") => Self::Output,
            (Self::Usage, b"total_tokens") => Self::Total,
            (Self::Usage, b"input_tokens_details") => Self::PromptDetails,
            (Self::Usage, b"output_tokens_details") => Self::OutputDetails,
            _ => return self.of_details(key),
        })
    }

    fn of_details(self, key: &[u8]) -> Option<Self> {
        match (self, key) {
            (Self::PromptDetails | Self::Usage, b"cached_tokens") => Some(Self::Cached),
            (Self::PromptDetails, b"cache_write_tokens") => Some(Self::CacheWrite),
            (Self::OutputDetails, b"reasoning_tokens") => Some(Self::Reasoning),
            _ => None,
        }
    }
}

/// What `usage` objects state: of each field the last statement.
#[derive(Default)]
pub(super) struct Stated {
    all: Block,
    /// The object that is being read.
    block: Block,
}

#[derive(Clone, Copy, Default)]
struct Block {
    prompt: Count,
    output: Count,
    total: Count,
    cached: Count,
    cache_write: Count,
    reasoning: Count,
}

impl Stated {
    /// A `usage` object begins.
    pub(super) fn begin(&mut self) {
        self.block = Block::default();
    }

    /// The object states a number.
    pub(super) fn number(&mut self, field: Field, value: u64) {
        let count = match field {
            Field::Prompt => &mut self.block.prompt,
            Field::Output => &mut self.block.output,
            Field::Total => &mut self.block.total,
            Field::Cached => &mut self.block.cached,
            Field::CacheWrite => &mut self.block.cache_write,
            Field::Reasoning => &mut self.block.reasoning,
            Field::Usage | Field::PromptDetails | Field::OutputDetails => return,
        };
        count.state(value);
    }

    /// The object is complete. Says whether it counts any tokens.
    pub(super) fn end(&mut self) -> bool {
        let Block { prompt, output, total, cached, cache_write, reasoning } = self.block;
        self.all.prompt.update(prompt);
        self.all.output.update(output);
        self.all.total.update(total);
        self.all.cached.update(cached);
        self.all.cache_write.update(cache_write);
        self.all.reasoning.update(reasoning);
        [prompt, output, total].into_iter().any(|count| count.last.is_some())
    }

    /// The output that the object states that was read last.
    pub(super) fn last_output(&self) -> Option<u64> {
        self.block.output.last
    }

    /// The object that was read last counts some of the choices only: `others` is what was counted of the others. Gives
    /// back the sum.
    pub(super) fn add_to_output(&mut self, others: u64) -> u64 {
        let sum = self.block.output.last.unwrap_or(0).saturating_add(others);
        if others > 0 {
            self.all.output.state(sum);
        }
        sum
    }

    /// What it says of an answer. A total that leaves more than the output has, has reasoning in it that the output
    /// lacks (xAI).
    pub(super) fn of_answer(&self, delivered: bool) -> Statement {
        let prompt = self.all.prompt.believed(delivered);
        let output = self.all.output.believed(delivered);
        let total = self.all.total.believed(delivered);
        let beside_prompt = total.zip(prompt).map(|(total, prompt)| total.saturating_sub(prompt));
        let output = output.max(beside_prompt.filter(|&output| output > 0 || !delivered));
        Statement { output, reasoning: self.all.reasoning.last, ..self.of_prompt(prompt) }
    }

    /// What it says of what has a prompt and no output.
    pub(super) fn of_input(&self) -> Statement {
        let prompt = self.all.prompt.last.or(self.all.total.last);
        Statement { output: prompt.map(|_| 0), ..self.of_prompt(prompt) }
    }

    /// The prompt's tokens include those read from a cache and those written to one.
    fn of_prompt(&self, prompt: Option<u64>) -> Statement {
        let cached_input = self.all.cached.last.filter(|_| prompt.is_some());
        let cache_write = self.all.cache_write.last.filter(|_| prompt.is_some());
        let cached = cached_input.unwrap_or(0) + cache_write.unwrap_or(0);
        Statement {
            input: prompt.map(|prompt| prompt.saturating_sub(cached)),
            cached_input,
            cache_write,
            ..Statement::default()
        }
    }
}
