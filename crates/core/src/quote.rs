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
    let word = u64::from_le_bytes(word);
    let found = zero_bytes(word ^ (ONES * u64::from(b'"'))) | zero_bytes(word ^ (ONES * u64::from(b'\\')));
    // A word has 64 bits.
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
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
    }
}
