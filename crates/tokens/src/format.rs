//! How the tables are laid out: what the build writes, and the program reads.

/// How many slots the table of tokens has: more than twice as many as tokens, so that what is no token is soon known to be none.
pub const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 19;

/// The bits of a slot that say a token's rank, plus 1. The others are a mark of its bytes. An empty slot is 0.
pub const RANK_BITS: u32 = 18;

/// So many characters' classes are in a block.
pub const BLOCK: usize = 512;

/// A character that a word of capitals may have: upper case, title case, no case, a mark.
pub const UPPER: u8 = 1;
/// One that a word of small letters may have: lower case, no case, a mark.
pub const LOWER: u8 = 2;
/// A letter.
pub const LETTER: u8 = 4;
/// A digit, or what else means a number.
pub const NUMBER: u8 = 8;
/// White space.
pub const SPACE: u8 = 16;
/// What ends a line.
pub const LINE_END: u8 = 32;
/// A slash.
pub const SLASH: u8 = 64;

/// A hash of a token's bytes, of which both halves are used.
pub fn hash(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let mixed = (hash ^ word).wrapping_mul(FACTOR);
        mixed ^ (mixed >> 32)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u64::from(*byte));
    mix(mix(hash, last), 1)
}

/// The slot that a token is looked for from on.
pub fn home(hash: u64) -> usize {
    // The shift leaves 19 bits.
    usize::try_from(hash >> (64 - SLOT_BITS)).unwrap_or(0)
}

/// What of the hash stands beside the rank.
pub fn mark(hash: u64) -> u32 {
    // Only the low bits are meant.
    #[allow(clippy::cast_possible_truncation, reason = "the mark is made of the lower half")]
    let low = hash as u32;
    low << RANK_BITS
}
