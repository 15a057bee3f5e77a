//! The patterns that name models: `*` stands for any characters, `?` for one. Matching runs on the path of every request,
//! with names that strangers choose and patterns that users may: its work is linear in both, whatever they are. A pattern
//! without `?` is a row of literal parts, each of which is searched for once; one with both is run as an automaton whose
//! states are bits.

mod compare;

use std::{fmt, str::FromStr, sync::Arc};

use memchr::{memchr, memchr2, memmem};
use thiserror::Error;

use crate::model_name::{self, LONGEST};

/// The most patterns that a key may have.
pub const MOST: usize = 256;

/// A pattern over a model's name, compared character for character apart from `*` and `?`.
#[derive(Clone)]
pub struct Glob {
    pattern: Arc<str>,
    /// Of a pattern with both `*` and `?`.
    automaton: Option<Arc<Automaton>>,
}

impl Glob {
    /// A pattern; every text is one. Patterns that others write are parsed, and so held to the bounds of names.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        let has = |wildcard| memchr(wildcard, pattern.as_bytes()).is_some();
        let automaton = (has(b'*') && has(b'?')).then(|| Arc::new(Automaton::new(pattern)));
        Self { pattern: pattern.into(), automaton }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether the pattern names exactly one model.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        memchr2(b'*', b'?', self.pattern.as_bytes()).is_none()
    }

    /// Whether `name` fits the pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        if &*self.pattern == "*" {
            return true;
        }
        if let Some(automaton) = &self.automaton {
            return automaton.matches(name);
        }
        match self.pattern.split_once('*') {
            Some((start, rest)) => matches_parts(start, rest, name),
            None => matches_each(&self.pattern, name),
        }
    }
}

/// Whether `name` fits a pattern of our own that has no `?`.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, rest)) => matches_parts(start, rest, name),
        None => pattern == name,
    }
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        match text {
            "" => Err(GlobError::Empty),
            _ if model_name::is_valid(text) => Ok(Self::new(text)),
            _ => Err(GlobError::NoName),
        }
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for Glob {}

impl std::hash::Hash for Glob {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.pattern.hash(state);
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.pattern, formatter)
    }
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GlobError {
    /// There is nothing.
    #[error("a model's name or pattern must not be empty; `*` stands for all")]
    Empty,
    /// It is longer than any name, or has a character that none has.
    #[error("a model's name or pattern has {LONGEST} bytes at most and no control characters")]
    NoName,
}

/// Without `*`: each character fits the one in its place.
fn matches_each(pattern: &str, name: &str) -> bool {
    let mut name = name.chars();
    pattern.chars().all(|expected| name.next().is_some_and(|found| expected == '?' || expected == found))
        && name.next().is_none()
}

/// Without `?`: the name begins with `start`, ends with what follows the last `*` of `rest`, and has the parts between
/// in their order. The first place where a part stands leaves most to those after it, so that no other is ever tried.
fn matches_parts(start: &str, rest: &str, name: &str) -> bool {
    let (between, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let within = name.strip_prefix(start).and_then(|name| name.strip_suffix(end));
    let Some(mut within) = within.map(str::as_bytes) else { return false };
    between.split('*').all(|part| {
        let place = memmem::find(within, part.as_bytes());
        within = place.and_then(|place| within.get(place + part.len()..)).unwrap_or_default();
        place.is_some()
    })
}

/// A pattern as an automaton: its states are how many of its characters are matched, and all that a name can be in are
/// followed together, 64 to a word.
struct Automaton {
    /// How many characters there are beside `*`: the state in which the pattern is matched.
    length: usize,
    /// The states that a `*` follows, in which anything may come.
    waiting: Box<[u64]>,
    /// The states from which each character leads on, in the order of the characters.
    literal: Box<[(char, Box<[u64]>)]>,
    /// Those from which every other does: where `?` stands.
    any: Box<[u64]>,
}

impl Automaton {
    fn new(pattern: &str) -> Self {
        let length = pattern.chars().filter(|character| *character != '*').count();
        let none: Box<[u64]> = vec![0; length / 64 + 1].into();
        let (mut waiting, mut any) = (none.clone(), none.clone());
        let mut literal: Vec<(char, Box<[u64]>)> = Vec::new();
        let mut state = 0;
        for character in pattern.chars() {
            match character {
                '*' => add(&mut waiting, state),
                '?' => add(&mut any, state),
                _ => match literal.binary_search_by_key(&character, |(known, _)| *known) {
                    Ok(at) => literal.get_mut(at).into_iter().for_each(|(_, states)| add(states, state)),
                    Err(at) => {
                        let mut states = none.clone();
                        add(&mut states, state);
                        literal.insert(at, (character, states));
                    }
                },
            }
            state += usize::from(character != '*');
        }
        for (_, states) in &mut literal {
            states.iter_mut().zip(&any).for_each(|(states, any)| *states |= any);
        }
        Self { length, waiting, literal: literal.into(), any }
    }

    fn matches(&self, name: &str) -> bool {
        let mut states = vec![0_u64; self.any.len()];
        add(&mut states, 0);
        for character in name.chars() {
            let at = self.literal.binary_search_by_key(&character, |(known, _)| *known).ok();
            let leading_on = at.and_then(|at| self.literal.get(at)).map_or(&self.any, |(_, states)| states);
            let mut carried = 0;
            for ((states, leading_on), waiting) in states.iter_mut().zip(leading_on).zip(&self.waiting) {
                let advancing = *states & leading_on;
                *states = advancing << 1 | carried | *states & waiting;
                carried = advancing >> 63;
            }
        }
        states.get(self.length / 64).is_some_and(|word| word >> (self.length % 64) & 1 == 1)
    }
}

/// Adds a state to a set of them.
fn add(states: &mut [u64], state: usize) {
    if let Some(word) = states.get_mut(state / 64) {
        *word |= 1 << (state % 64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

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

    /// The definition in steps that can be made for long patterns.
    fn by_table(pattern: &[char], name: &[char]) -> bool {
        let mut fits = vec![false; name.len() + 1];
        fits[0] = true;
        for expected in pattern {
            if *expected == '*' {
                let first = fits.iter().position(|fits| *fits).unwrap_or(fits.len());
                fits[first..].fill(true);
            } else {
                let next = |at: usize| at > 0 && fits[at - 1] && (*expected == '?' || *expected == name[at - 1]);
                fits = (0..fits.len()).map(next).collect();
            }
        }
        fits[name.len()]
    }

    #[test]
    fn names_of_models() {
        assert!(Glob::new("llama-3*").matches("llama-3.1-8b"));
        assert!(Glob::new("*").matches(""));
        assert!(Glob::new("gpt-?o").matches("gpt-4o"));
        assert!(Glob::new("gpt-?o*").matches("gpt-4o-mini"));
        assert!(!Glob::new("a*a").matches("a"), "no character is matched twice");
        assert!(!Glob::new("llama-3*").matches("llama-2"));
        assert!(!Glob::new("qwen3").matches("qwen3-coder"));
        assert!(
            Glob::new("qwen3").is_literal() && !Glob::new("qwen*").is_literal() && !Glob::new("qwen?").is_literal()
        );
    }

    #[test]
    fn a_pattern_is_held_to_what_a_name_may_be() {
        for wrong in ["a\0b", "a\u{7f}", "a\u{85}*", &"a".repeat(257), &"é".repeat(129)] {
            assert_eq!(wrong.parse::<Glob>(), Err(GlobError::NoName), "{wrong:?}");
        }
        assert_eq!("".parse::<Glob>(), Err(GlobError::Empty));
        assert_eq!("*".repeat(256).parse::<Glob>().map(|glob| glob.matches("m")), Ok(true));
    }

    /// What is quadratic here takes 10¹¹ steps and more, which no machine makes in that time.
    #[test]
    fn the_work_is_linear_in_the_pattern_and_in_the_name() {
        let (part, name) = ("a".repeat(300_000), "a".repeat(600_000));
        let start = Instant::now();
        assert!(!Glob::new(&format!("*{}?b", "a".repeat(10_000))).matches(&name[..100_000]));
        for pattern in [
            format!("*{part}b"),
            format!("*{part}b*"),
            format!("b{part}*"),
            format!("*{}b", "a*".repeat(300_000)),
            format!("{part}*{part}*{part}"),
        ] {
            assert!(!Glob::new(&pattern).matches(&name));
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }

    /// With both wildcards the work is a word for 64 characters of the pattern, for each of the name: of the longest that
    /// are allowed, four.
    #[test]
    fn patterns_with_both_wildcards_go_over_the_name_once() {
        for pattern in ["*?".repeat(128), format!("*{}b", "?*a".repeat(85))] {
            let glob: Glob = pattern[..pattern.len().min(256)].parse().unwrap();
            assert!(glob.automaton.as_ref().is_some_and(|automaton| automaton.any.len() <= 4));
            let _ = glob.matches(&"a".repeat(256));
        }
    }

    proptest! {
        #[test]
        fn it_is_what_its_definition_says(pattern in "[ab*?é]{0,8}", name in "[abé]{0,8}") {
            let (characters, letters): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(by_table(&characters, &letters), by_definition(&characters, &letters));
            prop_assert_eq!(Glob::new(&pattern).matches(&name), by_definition(&characters, &letters));
        }

        #[test]
        fn long_ones_are_too(pattern in "(a{0,40}|b|é|\\*|\\?){0,40}", name in "(a{0,40}|b|é){0,20}") {
            let (characters, letters): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(Glob::new(&pattern).matches(&name), by_table(&characters, &letters));
        }

        #[test]
        fn what_a_pattern_was_made_from_fits_it(name in "\\PC{0,80}", at in prop::collection::vec((0_usize..80, any::<bool>()), 0..20)) {
            let mut pattern: Vec<char> = name.chars().filter(|character| !"*?".contains(*character)).collect();
            let name: String = pattern.iter().collect();
            for (place, is_star) in at {
                match pattern.get_mut(place) {
                    Some(character) if !is_star && *character != '*' => *character = '?',
                    Some(_) if is_star => pattern.insert(place, '*'),
                    _ => {}
                }
            }
            let pattern: String = pattern.into_iter().collect();
            prop_assert!(Glob::new(&pattern).matches(&name), "{} {}", pattern, name);
        }
    }
}
