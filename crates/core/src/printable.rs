//! Texts of others in a form that is safe on a terminal and in a log: a name can neither control the terminal nor look
//! like another line of the log.

use std::fmt::{self, Write as _};

/// A text that is written without what steers a terminal: each such character as `\n` or `\u0085`, as JSON has it.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'text>(pub &'text str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\n' => formatter.write_str("\\n")?,
                '\r' => formatter.write_str("\\r")?,
                '\t' => formatter.write_str("\\t")?,
                _ if steers(character) => write!(formatter, "\\u{:04x}", u32::from(character))?,
                _ => formatter.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Whether a character does something else than to be seen: those of C0 and C1, DEL, those that change the direction of
/// what follows, and those that end a line.
#[must_use]
pub fn steers(character: char) -> bool {
    character.is_control() || misleads(character)
}

/// The same of those that JSON leaves as they are in a string: C1, the directions, and the ends of lines beside LF and CR.
#[must_use]
pub fn misleads(character: char) -> bool {
    matches!(
        character,
        '\u{80}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// JSON that says the same, with nothing in it that misleads: such characters stand within strings alone.
#[must_use]
pub fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for character in json.chars() {
        if misleads(character) {
            // Writing to a `String` does not fail.
            let _ = write!(plain, "\\u{:04x}", u32::from(character));
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_steers_is_told_and_what_is_seen_stays() {
        let text = "a\u{1b}[2J\u{7f}\u{85}\u{202e}b\u{2066}\u{200f}\u{2028}\n é漢🦀\u{200d}";
        let told = r"a\u001b[2J\u007f\u0085\u202eb\u2066\u200f\u2028\n é漢🦀";
        assert_eq!(Printable(text).to_string(), format!("{told}\u{200d}"));
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left(text: String) {
            let told = Printable(&text).to_string();
            prop_assert!(!told.contains(steers));
            prop_assert_eq!(told == text, !text.contains(steers));
        }

        #[test]
        fn json_says_the_same(text: String, tail in "[\u{80}-\u{9f}\u{2020}-\u{2070}]{0,4}") {
            let value = Value::from(text + &tail);
            let plain = plain_json(&value.to_string());
            prop_assert!(!plain.contains(misleads));
            prop_assert_eq!(serde_json::from_str::<Value>(&plain).unwrap(), value);
        }
    }
}
