//! What upstreams state: a count for each field, of which the last that can be true wins; and the `usage` object of
//! `OpenAI`'s APIs, which many others have too.

use std::time::Duration;

use super::beside::{Details, Whole};

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
    /// What of that is kept for an hour.
    pub(super) cache_write_1h: Option<u64>,
    /// All output.
    pub(super) output: Option<u64>,
    /// The part of the output that is reasoning.
    pub(super) reasoning: Option<u64>,
    /// How long the audio was that was heard.
    pub(super) audio: Option<Duration>,
    /// The output is of the first choice only.
    pub(super) output_is_part: bool,
    /// A zero came after this output that cannot be true. So it may be what was there before there was text.
    pub(super) output_is_belied: bool,
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

    /// The same is stated by another name: the larger of both.
    pub(super) fn state_also(&mut self, value: u64) {
        self.state(value.max(self.or_zero()));
    }

    /// A part of the same is stated.
    pub(super) fn add(&mut self, value: u64) {
        self.state(value.saturating_add(self.or_zero()));
    }

    /// What was stated last, zero or not.
    pub(super) fn last(self) -> Option<u64> {
        self.last
    }

    /// The same, or zero where nothing is stated.
    pub(super) fn or_zero(self) -> u64 {
        self.last.unwrap_or(0)
    }

    /// Whether the last statement is of more than none.
    pub(super) fn is_above_zero(self) -> bool {
        self.or_zero() > 0
    }

    /// Whether the last statement is a zero which the text that was `delivered` belies, and one of more came before.
    pub(super) fn is_belied(self, delivered: bool) -> bool {
        delivered && self.last == Some(0) && self.above_zero > 0
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

/// Whether what `newer` states of a prompt replaces what `older` does. Whoever states zeros only, after more than that,
/// says nothing of the prompt (Anthropic's `message_delta` behind some gateways).
pub(super) fn restates(newer: &[Count], older: &[Count]) -> bool {
    let states_any = |counts: &[Count]| counts.iter().any(|count| count.is_above_zero());
    states_any(newer) || !states_any(older)
}

/// A place in a `usage` object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The object itself.
    Usage,
    PromptDetails,
    OutputDetails,
    /// What was written to a cache, by how long it is kept.
    Writes,
    Prompt,
    Output,
    Total,
    Cached,
    CacheWrite,
    ShortWrite,
    HourWrite,
    /// Pictures, sound and video of the prompt.
    Media,
    /// Sources that were looked up and read.
    Sources,
    AudioSeconds,
    Reasoning,
    OutputMedia,
}

impl Field {
    /// The place of a member. Each of chat's names and of responses' is known everywhere: there are servers that say one
    /// for the other, or both.
    #[inline]
    pub(super) fn member(self, key: &[u8]) -> Option<Self> {
        match self {
            Self::Usage => Self::of_usage(key).or_else(|| Self::of_prompt(key)),
            Self::PromptDetails => match key {
                b"audio_tokens" | b"image_tokens" | b"video_tokens" => Some(Self::Media),
                _ => Self::of_prompt(key),
            },
            Self::OutputDetails => match key {
                b"reasoning_tokens" => Some(Self::Reasoning),
                b"audio_tokens" | b"image_tokens" | b"video_tokens" => Some(Self::OutputMedia),
                _ => None,
            },
            Self::Writes => match key {
                b"ephemeral_5m_input_tokens" => Some(Self::ShortWrite),
                b"ephemeral_1h_input_tokens" => Some(Self::HourWrite),
                _ => None,
            },
            _ => None,
        }
    }

    fn of_usage(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"prompt_tokens" | b"input_tokens" | b"promptTokens" | b"inputTokens" => Self::Prompt,
            b"completion_tokens" | b"output_tokens" | b"completionTokens" | b"outputTokens" => Self::Output,
            b"total_tokens" | b"totalTokens" => Self::Total,
            b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details" => Self::PromptDetails,
            b"completion_tokens_details" | b"output_tokens_details" | b"output_token_details" => Self::OutputDetails,
            b"reasoning_tokens" => Self::Reasoning,
            b"citation_tokens" => Self::Sources,
            b"prompt_audio_seconds" => Self::AudioSeconds,
            _ => return None,
        })
    }

    /// What is told of the prompt among its details, or (`DeepSeek`, Moonshot, Anthropic behind a gateway) beside it.
    fn of_prompt(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"cached_tokens" | b"prompt_cache_hit_tokens" | b"cache_read_input_tokens" | b"cacheReadInputTokens" => {
                Self::Cached
            }
            b"cache_write_tokens"
            | b"cache_creation_tokens"
            | b"cached_creation_tokens"
            | b"cache_creation_input_tokens"
            | b"cacheWriteInputTokens" => Self::CacheWrite,
            b"cache_creation" | b"cache_creation_token_details" => Self::Writes,
            b"claude_cache_creation_5_m_tokens" => Self::ShortWrite,
            b"claude_cache_creation_1_h_tokens" => Self::HourWrite,
            _ => return None,
        })
    }

    /// Whether it is a number.
    pub(super) fn is_number(self) -> bool {
        !matches!(self, Self::Usage | Self::PromptDetails | Self::OutputDetails | Self::Writes)
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
    cached: Count,
    cache_write: Count,
    short_write: Count,
    hour_write: Count,
    media: Count,
    sources: Count,
    audio_seconds: Count,
    output: Count,
    total: Count,
    reasoning: Count,
    output_media: Count,
}

impl Block {
    fn update(&mut self, newer: &mut Self) {
        let prompt = newer.of_prompt().map(|count| *count);
        if restates(&prompt, &self.of_prompt().map(|count| *count)) {
            self.of_prompt().into_iter().zip(prompt).for_each(|(count, newer)| count.update(newer));
        }
        self.of_answer().into_iter().zip(newer.of_answer()).for_each(|(count, newer)| count.update(*newer));
    }

    fn of_prompt(&mut self) -> [&mut Count; 7] {
        [
            &mut self.prompt,
            &mut self.cached,
            &mut self.cache_write,
            &mut self.hour_write,
            &mut self.media,
            &mut self.sources,
            &mut self.audio_seconds,
        ]
    }

    fn of_answer(&mut self) -> [&mut Count; 4] {
        [&mut self.output, &mut self.total, &mut self.reasoning, &mut self.output_media]
    }

    fn details(&self) -> Details {
        Details {
            cached: self.cached.or_zero(),
            cache_write: self.cache_write.or_zero(),
            media: self.media.or_zero(),
            sources: self.sources.or_zero(),
            reasoning: self.reasoning.or_zero(),
            output_media: self.output_media.or_zero(),
        }
    }
}

impl Stated {
    /// A `usage` object begins.
    pub(super) fn begin(&mut self) {
        self.block = Block::default();
    }

    /// The object states a number.
    pub(super) fn number(&mut self, field: Field, value: u64) {
        let block = &mut self.block;
        match field {
            Field::Prompt => block.prompt.state_also(value),
            Field::Output => block.output.state_also(value),
            Field::Total => block.total.state_also(value),
            Field::Cached => block.cached.state_also(value),
            Field::CacheWrite => block.cache_write.state_also(value),
            Field::ShortWrite => block.short_write.state_also(value),
            Field::HourWrite => block.hour_write.state_also(value),
            Field::Media => block.media.add(value),
            Field::Sources => block.sources.state_also(value),
            Field::AudioSeconds => block.audio_seconds.state_also(value),
            Field::Reasoning => block.reasoning.state_also(value),
            Field::OutputMedia => block.output_media.add(value),
            Field::Usage | Field::PromptDetails | Field::OutputDetails | Field::Writes => {}
        }
    }

    /// The object is complete. Says whether it counts any tokens.
    pub(super) fn end(&mut self) -> bool {
        let Block { cache_write, short_write, hour_write, .. } = &mut self.block;
        if short_write.last().or(hour_write.last()).is_some() {
            cache_write.state_also(short_write.or_zero() + hour_write.or_zero());
        }
        let mut block = self.block;
        self.all.update(&mut block);
        [block.prompt, block.output, block.total].into_iter().any(|count| count.last.is_some())
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

    /// What it says of an answer. What a total has beyond prompt and output, and no detail explains, is reasoning that
    /// nobody tells of, but where sound was heard that is told in seconds only.
    pub(super) fn of_answer(&self, delivered: bool) -> Statement {
        let (details, total) = (self.all.details(), self.all.total.believed(delivered));
        let output_is_belied = self.all.output.is_belied(delivered);
        // All of the prompt may be cached, and none of it counted beside that.
        let from_cache = details.cached + details.cache_write > 0;
        let output = self.all.output.believed(delivered);
        let prompt = self.all.prompt.believed(delivered && !from_cache).or_else(|| self.implied_prompt(output));
        let Some(prompt) = prompt else {
            let whole = details.complete(0, output.unwrap_or(0), None);
            return Statement {
                output: output.map(|_| whole.output),
                reasoning: self.reasoning(),
                output_is_belied,
                ..Statement::default()
            };
        };
        let Whole { prompt, output: whole, unexplained } = details.complete(prompt, output.unwrap_or(0), total);
        let (heard, thought) = if self.all.audio_seconds.is_above_zero() { (unexplained, 0) } else { (0, unexplained) };
        let whole = whole.saturating_add(thought);
        let found = total.map(|_| whole).filter(|&output| output > 0 || !delivered);
        Statement {
            output: output.map(|_| whole).or(found),
            reasoning: self.reasoning(),
            output_is_belied,
            ..self.of_prompt(Some(prompt.saturating_add(heard)))
        }
    }

    /// What a total has beyond the output is the prompt, where nothing else is said of it.
    fn implied_prompt(&self, output: Option<u64>) -> Option<u64> {
        let (Some(total), Some(output), None) = (self.all.total.last, output, self.all.prompt.last) else {
            return None;
        };
        let output = self.all.details().complete(0, output, None).output;
        Some(total.saturating_sub(output)).filter(|&prompt| prompt > 0)
    }

    /// What it says of what has a prompt, and no output unless one is stated. What a total has beyond both is prompt where
    /// `all_is_prompt`.
    pub(super) fn of_input(&self, all_is_prompt: bool) -> Statement {
        let (prompt, total) = (self.all.prompt.last, self.all.total.last);
        let output = self.all.output.or_zero();
        let prompt = prompt.filter(|&prompt| prompt > 0).or(total.map(|total| total.saturating_sub(output))).or(prompt);
        let whole = prompt.map(|prompt| self.all.details().complete(prompt, output, total));
        let beyond = |whole: Whole| if all_is_prompt { whole.unexplained } else { 0 };
        let prompt = whole.map(|whole| whole.prompt.saturating_add(beyond(whole)));
        Statement { output: whole.map(|whole| whole.output), ..self.of_prompt(prompt) }
    }

    fn reasoning(&self) -> Option<u64> {
        self.all.reasoning.last
    }

    /// The prompt's tokens have those in them that were read from a cache and written to one.
    fn of_prompt(&self, prompt: Option<u64>) -> Statement {
        let Block { cached, cache_write, hour_write, .. } = self.all;
        let from_cache = cached.or_zero() + cache_write.or_zero();
        let if_counted = |count: Count| count.last.filter(|_| prompt.is_some());
        Statement {
            input: prompt.map(|prompt| prompt.saturating_sub(from_cache)),
            cached_input: if_counted(cached),
            cache_write: if_counted(cache_write),
            cache_write_1h: if_counted(hour_write),
            ..Statement::default()
        }
    }
}
