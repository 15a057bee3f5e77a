//! The patterns that name models: `*` stands for any characters, `?` for one. Matching runs
//! on the path of every request, so it allocates nothing and never backtracks twice.

use std::{fmt, sync::Arc};

/// A pattern over a model's name, compared byte for byte apart from `*` and `?`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob(Arc<str>);

impl Glob {
    /// A pattern; every text is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern names exactly one model.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether `name` fits the pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, name)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, formatter)
    }
}

/// Greedy matching with one point of return: when a literal part does not fit, the last `*`
/// takes one character more.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    let mut retry = None;
    loop {
        let (mut next_pattern, mut next_name) = (pattern.clone(), name.clone());
        match (next_pattern.next(), next_name.next()) {
            (Some('*'), _) => {
                retry = Some((next_pattern.clone(), name.clone()));
                pattern = next_pattern;
            }
            (Some(expected), Some(found)) if expected == '?' || expected == found => {
                (pattern, name) = (next_pattern, next_name);
            }
            (None, None) => return true,
            _ => {
                let Some((after_star, mut taken)) = retry else { return false };
                if taken.next().is_none() {
                    return false;
                }
                (pattern, name) = (after_star.clone(), taken.clone());
                retry = Some((after_star, taken));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, slow and plain.
    fn by_definition(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', rest @ ..], _) => (0..=name.len()).any(|taken| by_definition(rest, &name[taken..])),
            (['?', pattern @ ..], [_, name @ ..]) => by_definition(pattern, name),
            ([expected, pattern @ ..], [found, name @ ..]) => expected == found && by_definition(pattern, name),
            _ => false,
        }
    }

    #[test]
    fn names_of_models() {
        assert!(Glob::new("llama-3*").matches("llama-3.1-8b"));
        assert!(Glob::new("*").matches(""));
        assert!(Glob::new("gpt-?o").matches("gpt-4o"));
        assert!(!Glob::new("llama-3*").matches("llama-2"));
        assert!(!Glob::new("qwen3").matches("qwen3-coder"));
        assert!(Glob::new("qwen3").is_literal() && !Glob::new("qwen*").is_literal());
    }

    proptest! {
        #[test]
        fn it_is_what_its_definition_says(pattern in "[ab*?é]{0,8}", name in "[abé]{0,8}") {
            let (characters, letters): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(Glob::new(&pattern).matches(&name), by_definition(&characters, &letters));
        }
    }
}
