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

use crate::format::{BLOCK, LETTER, LOWER, NUMBER, SPACE, UPPER};

static INDEX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/index"));
static BLOCKS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/blocks"));

/// The words of a text, which are all of it.
pub(crate) fn of(text: &str) -> impl Iterator<Item = &str> {
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
    let is_before_letters = !is(begin, LETTER | NUMBER) && !is_line_end(begin);
    let before = if is_before_letters { begin.len_utf8() } else { 0 };
    let small = small_letters(text, before).or_else(|| small_letters(text, 0));
    let letters = small.or_else(|| capitals(text, before)).map(|end| contracted(text, end));
    letters.or_else(|| number(text)).or_else(|| signs(text)).or_else(|| Some(space(text).max(begin.len_utf8())))
}

/// Where a word ends that is capitals, if any, and then small letters.
fn small_letters(text: &str, from: usize) -> Option<usize> {
    let capitals = run(text, from, |letter| is(letter, UPPER));
    let end = run(text, capitals, |letter| is(letter, LOWER));
    if end > capitals {
        return Some(end);
    }
    // Of what has no case the last is taken for a small letter.
    let (at, letter) = text.get(from..capitals)?.char_indices().rfind(|(_, letter)| is(*letter, LOWER))?;
    Some(from + at + letter.len_utf8())
}

/// Where a word ends that is capitals alone.
fn capitals(text: &str, from: usize) -> Option<usize> {
    Some(run(text, from, |letter| is(letter, UPPER))).filter(|end| *end > from)
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
    let digits = text.chars().take_while(|digit| is(*digit, NUMBER)).take(3);
    Some(digits.map(char::len_utf8).sum()).filter(|end| *end > 0)
}

/// Where signs end, with a space before and lines' ends behind.
fn signs(text: &str) -> Option<usize> {
    let from = usize::from(text.starts_with(' '));
    let end = run(text, from, |sign| !is(sign, LETTER | NUMBER | SPACE));
    (end > from).then(|| run(text, end, |end| is_line_end(end) || end == '/'))
}

/// Where white space ends: behind the last line's end in it; or before the space that belongs to what comes.
fn space(text: &str) -> usize {
    let end = run(text, 0, |space| is(space, SPACE));
    let all = text.get(..end).unwrap_or_default();
    if let Some(at) = all.rfind(is_line_end) {
        return at + 1;
    }
    let last = all.char_indices().next_back().filter(|(at, _)| end < text.len() && *at > 0);
    last.map_or(end, |(at, _)| at)
}

/// Where the characters end, from a place on, that are such.
fn run(text: &str, from: usize, is_such: impl Fn(char) -> bool) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.find(|character| !is_such(character)).map_or(text.len(), |length| from + length)
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// Whether a character is of one of these classes.
fn is(character: char, classes: u8) -> bool {
    let at = u32::from(character) as usize;
    let block = INDEX.get(at / BLOCK).copied().unwrap_or(0);
    BLOCKS.get(usize::from(block) * BLOCK + at % BLOCK).is_some_and(|found| found & classes != 0)
}
