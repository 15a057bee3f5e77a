//! A text's words, as the vocabulary was made from them: no token goes from one into the next.
//!
//! The published definition is a regular expression of seven alternatives, of which the first that fits is taken:
//!
//! ```text
//! [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
//! [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
//! \p{N}{1,3}
//! ` ?[^\s\p{L}\p{N}]+[\r\n/]*`
//! \s*[\r\n]+
//! \s+(?!\S)
//! \s+
//! ```

use crate::format::{BLOCK, LETTER, LINE_END, LOWER, NUMBER, SLASH, SPACE, UPPER};

static INDEX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/index"));
/// The first block is that of the first characters.
static BLOCKS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/blocks"));

/// The words of a text, which are all of it.
pub(crate) fn all(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (word, tail) = rest.split_at_checked(first(rest)?)?;
        rest = tail;
        Some(word)
    })
}

/// Where the first word ends.
fn first(text: &str) -> Option<usize> {
    let begin = text.chars().next()?;
    let is_before_letters = of(begin) & (LETTER | NUMBER | LINE_END) == 0;
    let before = if is_before_letters { begin.len_utf8() } else { 0 };
    let small = small_letters(text, before).or_else(|| small_letters(text, 0));
    let letters = small.or_else(|| capitals(text, before)).map(|end| contracted(text, end));
    letters.or_else(|| number(text)).or_else(|| signs(text)).or_else(|| Some(space(text).max(begin.len_utf8())))
}

/// Where a word ends that is capitals, if any, and then small letters.
fn small_letters(text: &str, from: usize) -> Option<usize> {
    let capitals = run(text, from, |class| class & UPPER != 0);
    let end = run(text, capitals, |class| class & LOWER != 0);
    if end > capitals {
        return Some(end);
    }
    // Of what has no case the last is taken for a small letter.
    let (at, letter) = text.get(from..capitals)?.char_indices().rfind(|(_, letter)| of(*letter) & LOWER != 0)?;
    Some(from + at + letter.len_utf8())
}

/// Where a word ends that is capitals alone.
fn capitals(text: &str, from: usize) -> Option<usize> {
    Some(run(text, from, |class| class & UPPER != 0)).filter(|end| *end > from)
}

/// Where the word ends with what is contracted to its end.
fn contracted(text: &str, end: usize) -> usize {
    let rest = text.get(end..).unwrap_or_default();
    let mut letters = rest.chars().take(3);
    if letters.next() != Some('\'') {
        return end;
    }
    // The long s is one without its case.
    let mut next = || letters.next().unwrap_or_default();
    let length = match next() {
        letter @ ('s' | 'S' | 't' | 'T' | 'm' | 'M' | 'd' | 'D' | 'ſ') => letter.len_utf8(),
        'r' | 'R' | 'v' | 'V' if matches!(next(), 'e' | 'E') => 2,
        'l' | 'L' if matches!(next(), 'l' | 'L') => 2,
        _ => return end,
    };
    end + 1 + length
}

/// Where a number ends, of three digits at most.
fn number(text: &str) -> Option<usize> {
    let digits = text.chars().take_while(|digit| of(*digit) & NUMBER != 0).take(3);
    Some(digits.map(char::len_utf8).sum()).filter(|end| *end > 0)
}

/// Where signs end, with a space before and lines' ends behind.
fn signs(text: &str) -> Option<usize> {
    let from = usize::from(text.starts_with(' '));
    let end = run(text, from, |class| class & (LETTER | NUMBER | SPACE) == 0);
    (end > from).then(|| run(text, end, |class| class & (LINE_END | SLASH) != 0))
}

/// Where white space ends: behind the last line's end in it; or before the space that belongs to what comes.
fn space(text: &str) -> usize {
    let end = run(text, 0, |class| class & SPACE != 0);
    let all = text.get(..end).unwrap_or_default();
    if let Some(at) = all.rfind(['\r', '\n']) {
        return at + 1;
    }
    let last = all.char_indices().next_back().filter(|(at, _)| end < text.len() && *at > 0);
    last.map_or(end, |(at, _)| at)
}

/// Where the characters end, from a place on, whose classes are such.
fn run(text: &str, from: usize, is_such: impl Fn(u8) -> bool) -> usize {
    let bytes = text.as_bytes().get(from..).unwrap_or_default();
    let ends = |byte: &u8| !byte.is_ascii() || !is_such(of_ascii(*byte));
    let Some(length) = bytes.iter().position(ends) else { return text.len() };
    if bytes.get(length).is_some_and(u8::is_ascii) {
        return from + length;
    }
    let rest = text.get(from + length..).unwrap_or_default();
    rest.find(|character| !is_such(of(character))).map_or(text.len(), |further| from + length + further)
}

/// The classes of a character.
fn of(character: char) -> u8 {
    let at = u32::from(character) as usize;
    let block = INDEX.get(at / BLOCK).copied().unwrap_or(0);
    BLOCKS.get(usize::from(block) * BLOCK + at % BLOCK).copied().unwrap_or(0)
}

/// The same for one of ASCII, which are at the beginning of the first block.
fn of_ascii(byte: u8) -> u8 {
    BLOCKS.get(usize::from(byte)).copied().unwrap_or(0)
}
