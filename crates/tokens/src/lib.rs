//! What a text is in tokens of `o200k_base`, in time that grows little faster than its length.
//!
//! A count needs the ranks of tokens, and nothing else of what a tokenizer has. They lie in the program's file as they are
//! read: nothing is unpacked, nothing has to be loaded before the first count, and of five megabytes only those pages are ever in
//! memory that a text's words are in.

mod format;
mod merge;
mod vocabulary;
mod words;

/// The tokens of `text`; what looks like a special token is ordinary text.
#[must_use]
pub fn count(text: &str) -> u64 {
    let mut merge = merge::Merge::default();
    words::all(text).map(|word| merge.count(word.as_bytes())).sum()
}

#[cfg(test)]
mod tests;
