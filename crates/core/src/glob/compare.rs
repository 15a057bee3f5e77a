//! What two patterns have in common, for whoever judges a configuration: no request waits for it.

use super::Glob;

impl Glob {
    /// Whether some name fits both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self.is_literal(), other.is_literal()) {
            (true, _) => other.matches(self.as_str()),
            (_, true) => self.matches(other.as_str()),
            _ => reaches(self, other, |own, other| own == '*' || other == '*' || is_one(own, other), true),
        }
    }

    /// Whether every name that fits the other pattern fits this one. It is sure where it says so; of patterns that say the
    /// same in another order (`*?` and `?*`) it may say that they do not.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if other.is_literal() {
            return self.matches(other.as_str());
        }
        reaches(self, other, |own, other| own == '*' || other != '*' && (own == '?' || own == other), false)
    }
}

/// Whether one character of a name may stand for both.
fn is_one(own: char, other: char) -> bool {
    own == '?' || other == '?' || own == other
}

/// Whether both patterns can be used up together, a pair of places at a time. A star goes on without taking anything, where
/// both may (`both`) also the other's; or it takes what stands in the other, if the two `fit`.
fn reaches(own: &Glob, other: &Glob, fit: impl Fn(char, char) -> bool, both: bool) -> bool {
    let own: Vec<char> = own.as_str().chars().collect();
    let other: Vec<char> = other.as_str().chars().collect();
    // The places in `other` that are reached when so much of `own` is used up.
    let mut reached = vec![false; other.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    for index in 0..=own.len() {
        let here = own.get(index).copied();
        let mut next = vec![false; other.len() + 1];
        for place in 0..=other.len() {
            if !reached.get(place).copied().unwrap_or_default() {
                continue;
            }
            let there = other.get(place).copied();
            let reach = |row: &mut Vec<bool>, place: usize| row.get_mut(place).into_iter().for_each(|at| *at = true);
            if here == Some('*') {
                reach(&mut next, place);
            }
            if both && there == Some('*') {
                reach(&mut reached, place + 1);
            }
            if let (Some(here), Some(there)) = (here, there)
                && fit(here, there)
            {
                match (here, there) {
                    ('*', _) => reach(&mut reached, place + 1),
                    (_, '*') => reach(&mut next, place),
                    _ => reach(&mut next, place + 1),
                }
            }
        }
        if index == own.len() {
            break;
        }
        reached = next;
    }
    reached.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_of_models_are_compared() {
        for (one, other, overlaps, covers) in [
            ("*", "llama-3*", true, true),
            ("llama-3*", "*", true, false),
            ("llama-3*", "lama-3*", false, false),
            ("llama-*", "llama-3.1-70b", true, true),
            ("*-instruct", "llama-*", true, false),
            ("a*b", "a*c", false, false),
            ("a*b*", "a*b", true, true),
            ("gpt-?", "gpt-*", true, false),
            ("gpt-*", "gpt-?", true, true),
            ("?", "??", false, false),
            ("m", "m", true, true),
        ] {
            let (one, other) = (Glob::new(one), Glob::new(other));
            assert_eq!((one.overlaps(&other), other.overlaps(&one)), (overlaps, overlaps), "{one:?} {other:?}");
            assert_eq!(one.covers(&other), covers, "{one:?} {other:?}");
        }
    }

    proptest! {
        #[test]
        fn names_agree_with_what_is_said_of_patterns(
            one in "[ab*?]{1,5}", other in "[ab*?]{1,5}", names in prop::collection::vec("[abc]{0,6}", 60),
        ) {
            let (one, other) = (Glob::new(&one), Glob::new(&other));
            let (overlaps, covers) = (one.overlaps(&other), one.covers(&other));
            prop_assert_eq!(overlaps, other.overlaps(&one));
            prop_assert!(!covers || overlaps);
            for name in names {
                let fits = (one.matches(&name), other.matches(&name));
                prop_assert!(overlaps || fits != (true, true), "{}", name);
                prop_assert!(!covers || fits != (false, true), "{}", name);
            }
        }

        #[test]
        fn a_pattern_covers_and_overlaps_itself(pattern in "[ab*?]{1,8}") {
            let glob = Glob::new(&pattern);
            prop_assert!(glob.covers(&glob) && glob.overlaps(&glob));
        }
    }
}
