//! Where a string of JSON ends, for those that read requests and answers.

use memchr::memchr2;

/// The place of the next quote or backslash. Names and most values end within a few bytes, which are looked at eight at a time:
/// setting a search up costs more than that.
#[inline]
pub(crate) fn quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    let Some((first, behind)) = bytes.split_first_chunk::<WORD>() else {
        return bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'));
    };
    in_word(*first).or_else(|| {
        let second = behind.first_chunk::<WORD>().and_then(|second| in_word(*second));
        second.or_else(|| memchr2(b'"', b'\\', behind)).map(|at| WORD + at)
    })
}

/// The place of the first of them in a word.
#[inline]
fn in_word(word: [u8; WORD]) -> Option<usize> {
    let found = ends_in(u64::from_le_bytes(word));
    // A word has 64 bits.
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// What stands before the next quote or backslash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// In bytes.
    pub length: usize,
    /// Whether there is a control character in it, which JSON allows only escaped.
    pub has_control: bool,
}

/// What stands before the next quote or backslash, if there is one.
#[inline]
pub(crate) fn run(bytes: &[u8]) -> Option<Run> {
    let Some((word, behind)) = bytes.split_first_chunk::<WORD>() else {
        let length = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        return Some(Run { length, has_control: bytes.iter().take(length).any(|byte| *byte < b' ') });
    };
    let word = u64::from_le_bytes(*word);
    let (found, control) = (ends_in(word), below_space(word));
    if found == 0 {
        let length = quote_or_backslash(behind)?;
        let least = behind.iter().take(length).fold(u8::MAX, |least, byte| least.min(*byte));
        return Some(Run { length: WORD + length, has_control: control != 0 || least < b' ' });
    }
    // The lowest bit that is set is the first that was found, and what is below it stands before.
    Some(Run {
        length: found.trailing_zeros() as usize / 8,
        has_control: control & (found ^ found.wrapping_sub(1)) != 0,
    })
}

/// A word whose lowest bit that is set lies in the first byte that is a quote or a backslash.
#[inline]
fn ends_in(word: u64) -> u64 {
    zero_bytes(word ^ (ONES * u64::from(b'"'))) | zero_bytes(word ^ (ONES * u64::from(b'\\')))
}

/// A word whose lowest bit that is set lies in the first byte that is below a space; zero, if none is.
#[inline]
fn below_space(word: u64) -> u64 {
    word.wrapping_sub(ONES * u64::from(b' ')) & !word & (ONES << 7)
}

const WORD: usize = 8;
const ONES: u64 = u64::MAX / 255;

/// A word whose lowest bit that is set lies in the lowest byte that is zero; zero, if none is (Mycroft's test: the borrow of a
/// byte that is zero may set bits above it only).
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_is_found_wherever_it_is(before in 0_usize..80, byte in prop_oneof![Just(b'"'), Just(b'\\')], after in "[a\"\\\\]{0,4}") {
            let text = [vec![b'a'; before], vec![byte], after.into_bytes()].concat();
            prop_assert_eq!(quote_or_backslash(&text), Some(before));
            prop_assert_eq!(quote_or_backslash(&text[..before]), None);
        }

        #[test]
        fn a_run_ends_there_and_tells_of_control_characters_before(
            before in prop::collection::vec(prop_oneof![9 => b' '..=b'!', 9 => b'#'..=b'[', 9 => b']'..=255_u8, 1 => 0..b' '], 0..40),
            byte in prop_oneof![Just(b'"'), Just(b'\\')],
            after in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let text = [before.clone(), vec![byte], after].concat();
            let has_control = before.iter().any(|byte| *byte < 0x20);
            prop_assert_eq!(run(&text), Some(Run { length: before.len(), has_control }));
            prop_assert_eq!(run(&before), None);
        }
    }
}
