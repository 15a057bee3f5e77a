//! The form of models' names. Names appear in errors, logs, metrics and records, and databases refuse some texts.

/// The longest name, in bytes.
pub const LONGEST: usize = 256;

/// Whether `text` may be the name of a model: 1 to 256 bytes without control characters.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len()) && !has_control(text)
}

/// Whether a control character stands in `text`: of C0, of C1, or DEL.
#[must_use]
pub fn has_control(text: &str) -> bool {
    // U+0080 to U+009F begin with 0xC2.
    let may_be_control = |byte: u8| byte < 0x20 || matches!(byte, 0x7f | 0xc2);
    text.bytes().any(may_be_control) && text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_some_bytes_and_no_control_characters() {
        for name in ["m", "org/model:8b", "千", "a b", "²", "\u{a0}", &"m".repeat(256)] {
            assert!(is_valid(name), "{name:?}");
        }
        for name in ["", "m1\0x", "\u{1b}[2J", "a\nb", "\u{7f}", "\u{80}", "\u{9f}", &"m".repeat(257), &"é".repeat(129)]
        {
            assert!(!is_valid(name), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn control_characters_are_those_of_unicode(text: String) {
            prop_assert_eq!(has_control(&text), text.chars().any(char::is_control));
        }
    }
}
