//! What is counted is what the published tokenizer counts: it is asked beside ours for every text.

use proptest::prelude::*;

use super::*;

fn published(text: &str) -> u64 {
    bpe_openai::o200k_base().count(text) as u64
}

fn same(text: &str) {
    let words: Vec<_> = bpe_openai::o200k_base().split(text).collect();
    assert_eq!(words::all(text).collect::<Vec<_>>(), words, "the words of {text:?}");
    assert_eq!(count(text), published(text), "the tokens of {text:?}");
}

#[test]
fn texts_of_many_kinds_are_counted_as_published() {
    for text in [
        "",
        " ",
        "a",
        "hello world",
        "tiktoken is great!",
        "お誕生日おめでとう",
        "<|endoftext|>",
        "It's THEIR'S, they'll; WE'VE'RE I'M you'd o'clock 'tis x'ſ y'ſt",
        "XMLHttpRequest getElementByID HTML5 ABCdefGHI ǅ ǅa aǅ",
        "1234567 12 ٣٤٥٦ ½ Ⅷ",
        "  two\t\ttabs \n\n  and\r\n lines  \r\r end  ",
        "//// \n/\n // a/b //\r\n/",
        "\u{301}ABC \u{301}abc A\u{301}B e\u{301} \u{301}\u{301}",
        "fn main() { println!(\"hi\"); }\n\n\n    // comment",
        "\u{a0}nbsp\u{a0}\u{a0}x\u{2003}y\u{85}z",
        "😀😀 👩‍👩‍👧‍👦 é€",
    ] {
        same(text);
    }
}

#[test]
fn long_words_are_counted_as_published() {
    for unit in [" ", "\n", "a", "A", "!", "é", "ab", "=-", "今天天气很好", "QmFzZTY0IQ", "\u{301}", "0"] {
        for length in [1, 2, 3, 31, 63, 64, 65, 127, 128, 129, 1000, 20_000] {
            same(&unit.repeat(length));
        }
    }
}

/// Texts of pieces at which words and tokens begin and end.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z]{1,9}",
        2 => "[ \t\r\n\u{a0}\u{2028}]{1,4}",
        2 => "['’.,;!?/(){}\\[\\]<>=_*#-]{1,5}",
        1 => "'(s|S|t|re|RE|ve|m|ll|LL|d|D|ſ|x)",
        1 => "[0-9٣½]{1,5}",
        1 => "[а-яА-Яé日本語ǅʰªא\u{301}\u{483}]{1,6}",
        1 => "\\PC{1,4}",
        1 => "(?s:.){1,4}",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_counted_as_published(text in text()) {
        same(&text);
    }

    #[test]
    fn any_long_word_is_counted_as_published(text in "[a-f]{60,400}|[A-Za-z]{60,300}|[а-я]{40,90}|[!-/]{60,200}") {
        same(&text);
    }
}
