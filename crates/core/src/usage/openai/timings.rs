//! llama.cpp's `timings`: what it says of each choice, whoever asked for usage.

use super::super::stated::{Count, Statement};

/// On the last event of each choice: what was read anew of the prompt,
/// what of it was cached, and what was generated for this one choice.
#[derive(Clone, Copy, Default)]
pub(super) struct Timings {
    pub(super) prompt: Count,
    pub(super) cache: Count,
    pub(super) predicted: Count,
}

/// What all of them together state.
#[derive(Clone, Copy, Default)]
pub(super) struct Timed {
    choices: u64,
    output: Option<u64>,
    /// Of the last choice, and of all of them.
    last: Prompt,
    all: Prompt,
}

#[derive(Clone, Copy, Default)]
struct Prompt {
    input: Option<u64>,
    cached: Option<u64>,
}

impl Timings {
    pub(super) fn is(&self, output: u64) -> bool {
        self.predicted.last() == Some(output)
    }
}

impl Timed {
    /// A choice is complete.
    pub(super) fn add(&mut self, timings: &Timings) {
        let (cached, all) = (timings.cache.last(), self.all);
        let input = timings.prompt.last().filter(|_| cached.is_some());
        let sum = |one: Option<u64>, all: Option<u64>| one.map(|one| one.saturating_add(all.unwrap_or(0)));
        self.choices += 1;
        self.output = sum(timings.predicted.last(), self.output);
        self.last = Prompt { input, cached };
        self.all = Prompt { input: sum(input, all.input), cached: sum(cached, all.cached) };
    }

    /// The prompts of all choices. As many of those are of one prompt as are of any other.
    fn of_prompts(&self, prompts: u64) -> Prompt {
        let share = |all: u64| u128::from(all) * u128::from(prompts) / u128::from(self.choices.max(1));
        let share = |all| u64::try_from(share(all)).unwrap_or(u64::MAX);
        Prompt { input: self.all.input.map(share), cached: self.all.cached.map(share) }
    }

    /// What of a stated prompt was cached, where only they tell that, of the one choice.
    fn told_apart(&self, input: u64, cached: Option<u64>) -> Prompt {
        let timed = self.last.cached.filter(|_| self.choices == 1 && cached.is_none());
        match timed.and_then(|timed| Some((input.checked_sub(timed)?, timed))) {
            Some((input, timed)) => Prompt { input: Some(input), cached: Some(timed) },
            None => Prompt { input: Some(input), cached },
        }
    }

    /// What they say where `usage` does not, and of several prompts, of which it states one.
    pub(super) fn complete(&self, stated: Statement, prompts: u64, delivered: bool) -> Statement {
        let several = self.of_prompts(prompts);
        let prompt = if prompts > 1 && several.input.is_some() {
            several
        } else if let Some(input) = stated.input {
            self.told_apart(input, stated.cached_input)
        } else {
            self.last
        };
        let output = stated.output.max(self.output.filter(|&output| output > 0 || !delivered));
        Statement { input: prompt.input, cached_input: prompt.cached, output, ..stated }
    }
}
