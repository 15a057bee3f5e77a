//! Makes the tables that the program reads where they lie in its file: the vocabulary, to be found by a token's bytes, and what
//! each character is to the division of a text into words.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a build that fails says why, and a vocabulary has fewer than 2^18 tokens"
)]

use std::{collections::HashMap, env, fs, path::Path};

use regex_syntax::hir::{Class, HirKind};

#[path = "src/format.rs"]
mod format;

use format::{BLOCK, LETTER, LINE_END, LOWER, NUMBER, RANK_BITS, SLASH, SLOTS, SPACE, UPPER, hash, home, mark};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/format.rs");
    let directory = env::var("OUT_DIR").expect("cargo names the directory");
    let write = |name: &str, bytes: &[u8]| {
        fs::write(Path::new(&directory).join(name), bytes).expect("the directory can be written");
    };
    let tokens = tokens();
    let (starts, text) = texts(&tokens);
    write("slots", &numbers(&slots(&tokens)));
    write("starts", &numbers(&starts));
    write("text", &text);
    let (index, blocks) = characters();
    write("index", &index);
    write("blocks", &blocks);
}

fn tokens() -> Vec<Vec<u8>> {
    let vocabulary = &bpe_openai::o200k_base().bpe;
    let count = u32::try_from(vocabulary.num_tokens()).expect("a vocabulary is counted in 32 bits");
    assert!(count < (1 << RANK_BITS) - 1, "{count} tokens are too many for the table");
    (0..count).map(|rank| vocabulary.token_bytes(rank).to_vec()).collect()
}

/// Where each token's bytes begin, the end of the last beside; and the bytes.
fn texts(tokens: &[Vec<u8>]) -> (Vec<u32>, Vec<u8>) {
    let mut text = Vec::new();
    let mut starts = vec![0];
    for token in tokens {
        text.extend_from_slice(token);
        starts.push(text.len() as u32);
    }
    (starts, text)
}

/// The table that a token's rank is found in: each in the first free slot from its home on.
fn slots(tokens: &[Vec<u8>]) -> Vec<u32> {
    let mut slots = vec![0; SLOTS];
    for (rank, token) in tokens.iter().enumerate() {
        let hash = hash(token);
        let mut at = home(hash);
        while slots[at] != 0 {
            at = (at + 1) % SLOTS;
        }
        slots[at] = mark(hash) | (rank as u32 + 1);
    }
    slots
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// What each character is: which block of the second table is its, and the blocks.
fn characters() -> (Vec<u8>, Vec<u8>) {
    let mut all = vec![0u8; 0x0011_0000];
    let classes = [
        (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", UPPER),
        (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", LOWER),
        (r"\p{L}", LETTER),
        (r"\p{N}", NUMBER),
        (r"\s", SPACE),
    ];
    for (class, bit) in classes {
        let parsed = regex_syntax::parse(class).expect("the class is one");
        let HirKind::Class(Class::Unicode(class)) = parsed.kind() else { panic!("{class} is no class") };
        for range in class.ranges() {
            all[range.start() as usize..=range.end() as usize].iter_mut().for_each(|character| *character |= bit);
        }
    }
    for (character, bit) in [('\r', LINE_END), ('\n', LINE_END), ('/', SLASH)] {
        all[character as usize] |= bit;
    }
    let (mut known, mut index, mut blocks) = (HashMap::new(), Vec::new(), Vec::new());
    for block in all.chunks(BLOCK) {
        let number = *known.entry(block).or_insert_with(|| {
            blocks.extend_from_slice(block);
            blocks.len() / BLOCK - 1
        });
        index.push(u8::try_from(number).expect("there are at most 256 blocks"));
    }
    (index, blocks)
}
