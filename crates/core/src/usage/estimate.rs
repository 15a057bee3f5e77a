//! What a text would be in tokens, where nobody says: `o200k_base`, in time that grows little faster than the text's length.

pub use keymeter_tokens::count as count_tokens;

use crate::body::Sample;

/// The tokens of the text of which `sample` is a sample: of all of it, if it is all.
#[must_use]
pub fn count_sample(sample: &Sample) -> u64 {
    let (tokens, bytes) = sample
        .pieces()
        .fold((0, 0), |(tokens, bytes), piece| (tokens + count_tokens(piece), bytes + piece.len() as u64));
    let all = u128::from(sample.bytes()) * u128::from(tokens) / u128::from(bytes.max(1));
    u64::try_from(all).unwrap_or(u64::MAX)
}

/// The tokens of bytes that should be UTF-8; what is not counts as replacement characters.
pub(super) fn count_bytes(text: &[u8]) -> u64 {
    #[cfg(test)]
    COUNTED.set(COUNTED.get() + text.len());
    if text.is_empty() { 0 } else { count_tokens(&String::from_utf8_lossy(text)) }
}

/// Where a text may be cut, at most `limit` bytes from its start, so that both parts' tokens add up to the whole's.
///
/// The tokenizer splits a text into words first, and a word never runs from what is printed into a space. Where there
/// is no such place in the second half of what is allowed, the cut is between two characters, a token or two apart.
pub(super) fn cut(text: &[u8], limit: usize) -> usize {
    let limit = limit.min(text.len());
    let is_seam = |pair: &[u8]| match pair {
        [before, b' '] => before.is_ascii_graphic(),
        [before, b'\n'] => before.is_ascii_alphanumeric(),
        _ => false,
    };
    let from = limit / 2;
    let window = text.get(from..limit).unwrap_or_default();
    if let Some(at) = window.windows(2).rposition(is_seam) {
        return from + at + 1;
    }
    let is_start = |at: &usize| text.get(*at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000);
    (limit.saturating_sub(3).max(1)..=limit).rev().find(is_start).unwrap_or(limit)
}

#[cfg(test)]
thread_local! {
    /// How many bytes this thread has counted.
    static COUNTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many bytes this thread has counted since it was asked last.
#[cfg(test)]
pub(super) fn take_counted() -> usize {
    COUNTED.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROSE: &str = "The gateway's meter looks at bytes while they pass, and says 12,345 tokens at the end.\n\
        It is used by:\n\n  - one team (\"research\");\n  - another; and 3rd parties!\n\tfn main() { println!(\"hi\"); }\n";

    fn in_parts(text: &str, limit: usize) -> u64 {
        let (mut rest, mut sum) = (text.as_bytes(), 0);
        while rest.len() > limit {
            let (part, tail) = rest.split_at(cut(rest, limit));
            sum += count_bytes(part);
            rest = tail;
        }
        sum + count_bytes(rest)
    }

    #[test]
    fn counts_what_the_published_tokenizer_counts() {
        assert_eq!(count_tokens(""), 0);
        assert_eq!(count_tokens("hello world"), 2);
        assert_eq!(count_tokens("tiktoken is great!"), 6);
        assert_eq!(count_tokens("お誕生日おめでとう"), 8);
    }

    #[test]
    fn of_a_short_text_the_sample_is_all_and_of_a_long_one_enough() {
        let sample = |texts: &[&str]| {
            let messages: Vec<_> =
                texts.iter().map(|text| serde_json::json!({"role": "user", "content": text})).collect();
            let body = serde_json::json!({"messages": messages}).to_string();
            crate::body::scan(&body.into(), crate::body::Shape::Chat).unwrap().outline.prose
        };
        assert_eq!(count_sample(&sample(&[])), 0);
        let texts = [PROSE, "Hi!", "お誕生日おめでとう"];
        assert_eq!(count_sample(&sample(&texts)), texts.iter().map(|text| count_tokens(text)).sum::<u64>());
        let (prose, code) =
            (PROSE.repeat(200), "fn f(x: &[u8]) -> Vec<Option<u64>> { x.iter().map(g).collect() }\n".repeat(400));
        let whole = count_tokens(&prose) + count_tokens(&code);
        let found = count_sample(&sample(&[&prose, &code]));
        assert!(found.abs_diff(whole) * 100 <= 5 * whole, "{found} instead of {whole}");
    }

    #[test]
    fn prose_counted_in_parts_is_the_whole() {
        let text = PROSE.repeat(40);
        for limit in [256, 1000, 4096] {
            assert_eq!(in_parts(&text, limit), count_tokens(&text), "in parts of {limit}");
        }
    }

    #[test]
    fn text_without_spaces_counted_in_parts_is_within_one_percent() {
        for text in ["今天天气很好我们去公园散步。".repeat(400), "QmFzZTY0IQ/+9zA".repeat(900), "a".repeat(50_000)]
        {
            let (whole, parts) = (count_tokens(&text), in_parts(&text, 8192));
            assert!(whole.abs_diff(parts) * 100 <= whole, "{parts} instead of {whole}");
        }
    }

    #[test]
    fn no_character_is_cut_and_every_cut_advances() {
        let text = "é€😀".repeat(50);
        for limit in 4..text.len() {
            let at = cut(text.as_bytes(), limit);
            assert!(text.is_char_boundary(at) && at > 0 && at <= limit, "{at} of {limit}");
        }
        for limit in 1..4 {
            assert!((1..=limit).contains(&cut(&[0x80; 10], limit)));
        }
    }

    #[test]
    fn a_long_run_of_one_byte_is_counted_in_linear_time() {
        for byte in [" ", "\n", "a", "A", "!", "é"] {
            assert!(count_tokens(&byte.repeat(100_000)) > 0);
        }
    }
}
