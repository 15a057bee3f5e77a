//! Some of a prompt's text, taken evenly from all of it: enough to tell what a byte of it takes in tokens, and little
//! enough to be kept while a request runs.

use std::fmt;

/// The most text that is kept, in bytes.
const MOST: usize = 4096;
/// Text is kept or left out by windows of so many bytes, as they are written.
const WINDOW: u64 = 256;
/// A window goes on for so many bytes at most until a word ends.
const LONGEST_WORD: usize = 32;
/// What stands between two pieces; a prompt hardly has it.
const SEAM: char = '\0';

/// All text of a prompt, of which some is kept: all, where that is no more than 4 KiB.
#[derive(Clone, Default)]
pub struct Sample {
    bytes: u64,
    kept: String,
    /// The windows of which something is kept, each with the end of that in `kept`.
    windows: Vec<(u64, usize)>,
    /// One window is kept of two to this power.
    thinned: u32,
    /// How many bytes were looked at, as they are written.
    position: u64,
}

impl Sample {
    /// How long all of the text is, in bytes of UTF-8.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is kept, in pieces that have nothing to do with each other.
    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        self.kept.split(SEAM).filter(|piece| !piece.is_empty())
    }

    /// Adds a text that is `bytes` bytes long once it is decoded, which `decode` does with a part of it where that is shorter.
    pub(super) fn add(&mut self, written: &str, bytes: u64, decode: impl Fn(&str, &mut String)) {
        self.bytes += bytes;
        // No more than a window and its last word is added before something is left out.
        self.kept.reserve((MOST + 2 * LONGEST_WORD).saturating_sub(self.kept.len()).min(written.len() + 1));
        let is_plain = written.len() as u64 == bytes;
        let mut rest = written;
        while !rest.is_empty() {
            let (window, step) = (self.position / WINDOW, 1 << self.thinned);
            let is_kept = window.is_multiple_of(step);
            let next = if is_kept { window + 1 } else { (window / step + 1) * step };
            let (piece, after) = rest.split_at(end_of_word(rest, next * WINDOW - self.position));
            if is_kept {
                if is_plain {
                    self.kept.push_str(piece);
                } else {
                    decode(piece, &mut self.kept);
                }
                if after.is_empty() || step > 1 {
                    self.kept.push(SEAM);
                }
                self.end_window(window);
            }
            self.position += piece.len() as u64;
            rest = after;
        }
    }

    fn end_window(&mut self, window: u64) {
        match self.windows.last_mut() {
            Some((last, end)) if *last == window => *end = self.kept.len(),
            _ => self.windows.push((window, self.kept.len())),
        }
        while self.kept.len() > MOST && self.windows.len() > 1 {
            self.thin();
        }
    }

    /// Leaves out every second window.
    fn thin(&mut self) {
        self.thinned += 1;
        let (kept, windows) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.windows));
        let mut start = 0;
        for (window, end) in windows {
            if window.is_multiple_of(1 << self.thinned) {
                self.kept.push_str(kept.get(start..end).unwrap_or_default());
                if !self.kept.ends_with(SEAM) {
                    self.kept.push(SEAM);
                }
                self.windows.push((window, self.kept.len()));
            }
            start = end;
        }
    }
}

/// The text is left out: prompts do not belong in logs.
impl fmt::Debug for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sample").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Where the word ends that is under way `after` so many bytes: before a space, since there the tokens of both parts add
/// up to the whole's, and no escape is cut. What has no spaces is cut between two characters.
fn end_of_word(text: &str, after: u64) -> usize {
    let after = usize::try_from(after).unwrap_or(usize::MAX);
    let Some(rest) = text.as_bytes().get(after..) else { return text.len() };
    let word = rest.iter().take(LONGEST_WORD).position(|byte| *byte == b' ');
    let end = word.map(|length| after + length).filter(|end| *end > 0);
    end.or_else(|| (after.max(1)..text.len()).find(|at| text.is_char_boundary(*at))).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn sample(texts: &[&str]) -> Sample {
        let mut sample = Sample::default();
        for text in texts {
            sample.add(text, text.len() as u64, |piece, kept| kept.push_str(piece));
        }
        sample
    }

    #[test]
    fn what_is_short_is_kept_whole_and_text_by_text() {
        let long = "A sentence of some words, and then another one. ".repeat(70);
        let sample = sample(&["user", "", "é", &long, "end"]);
        assert_eq!(sample.pieces().collect::<Vec<_>>(), ["user", "é", &long, "end"]);
        assert_eq!(sample.bytes(), 9 + long.len() as u64);
    }

    #[test]
    fn what_is_long_is_kept_from_beginning_to_end() {
        let mut text = String::new();
        (0..200_000).for_each(|number| write!(text, "{number:06} ").unwrap());
        let sample = sample(&[&text]);
        let numbers: Vec<u32> =
            sample.pieces().flat_map(str::split_whitespace).map(|word| word.parse().unwrap()).collect();
        assert!(numbers.len() > 250, "{}", numbers.len());
        let widest = numbers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(numbers[0] == 0 && numbers[numbers.len() - 1] + widest >= 200_000 && widest < 30_000, "{widest}");
        assert!(sample.pieces().all(|piece| piece.trim().len() % 7 == 6), "whole words");
    }

    #[test]
    fn each_kind_of_text_has_its_share() {
        let texts: Vec<String> = (0..4).map(|kind: u8| char::from(b'a' + kind).to_string().repeat(30_000)).collect();
        let sample = sample(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        for kind in "abcd".chars() {
            let share = sample.pieces().flat_map(str::chars).filter(|found| *found == kind).count();
            let all: usize = sample.pieces().map(str::len).sum();
            assert!((2..=8).contains(&(share * 16 / all)), "{share} of {all} are {kind}");
        }
    }

    #[test]
    fn prompts_stay_out_of_logs() {
        assert_eq!(format!("{:?}", sample(&["confidential"])), "Sample { bytes: 12, .. }");
    }

    proptest! {
        #[test]
        fn whatever_comes_little_is_kept_and_in_whole_characters(
            texts in prop::collection::vec((prop::sample::select(vec!["a", "é", "😀", "word ", "\0", "\\u00e9"]), 0..3000_usize), 0..12),
        ) {
            let texts: Vec<String> = texts.into_iter().map(|(piece, times)| piece.repeat(times)).collect();
            let sample = sample(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            let length: usize = texts.iter().map(String::len).sum();
            prop_assert_eq!(sample.bytes(), length as u64);
            prop_assert!(sample.kept.len() <= MOST && sample.windows.len() <= 1 + MOST / 32, "{}", sample.kept.len());
            prop_assert!(length + texts.len() > MOST || sample.pieces().collect::<String>() == texts.concat().replace('\0', ""));
            prop_assert!(length == 0 || !sample.kept.is_empty());
        }
    }
}
