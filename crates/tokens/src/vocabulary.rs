//! The vocabulary: a token's rank, by its bytes.

use crate::format::{RANK_BITS, SLOTS, hash, home, mark};

static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/slots"));
static STARTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/starts"));
static TEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/text"));

/// No token is longer, in bytes.
const LONGEST: usize = 128;

/// The rank of the token that has these bytes, if there is one. Of two pairs that could be merged, the lower rank is first.
pub(crate) fn rank(bytes: &[u8]) -> Option<u32> {
    if bytes.len() > LONGEST {
        return None;
    }
    let hash = hash(bytes);
    let mut at = home(hash);
    loop {
        let slot = number(TABLE, at)?;
        if slot == 0 {
            return None;
        }
        let rank = (slot & ((1 << RANK_BITS) - 1)) - 1;
        if slot >> RANK_BITS == mark(hash) >> RANK_BITS && token(rank) == Some(bytes) {
            return Some(rank);
        }
        at = (at + 1) % SLOTS;
    }
}

fn token(rank: u32) -> Option<&'static [u8]> {
    let at = usize::try_from(rank).ok()?;
    let place = |at: usize| number(STARTS, at).and_then(|place| usize::try_from(place).ok());
    TEXT.get(place(at)?..place(at + 1)?)
}

/// The number at a place of a table of them.
fn number(table: &[u8], at: usize) -> Option<u32> {
    table.get(4 * at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_found_by_its_bytes_and_nothing_else_is() {
        let published = &bpe_openai::o200k_base().bpe;
        let count = u32::try_from(published.num_tokens()).unwrap();
        let mut longest = 0;
        for expected in 0..count {
            let bytes = published.token_bytes(expected);
            longest = longest.max(bytes.len());
            assert_eq!(rank(bytes), Some(expected), "{bytes:?}");
        }
        assert_eq!(longest, LONGEST);
        for other in ["", "no token has such a long text", "\u{fffd}\u{fffd}\u{fffd}x"] {
            assert_eq!(rank(other.as_bytes()), None, "{other}");
        }
        assert_eq!(rank(&[b' '; LONGEST + 1]), None);
    }
}
