//! Values as YAML on one line. A scalar is plain only where no YAML reader could take it for anything but itself.

use std::fmt::Write;

use jiff::Timestamp;
use serde_yaml::Value;

/// `value` on one line, its collections in brackets and braces; with `quoted` all texts are in quotes, as in JSON.
pub(super) fn flow(value: &Value, quoted: bool) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => scalar(text, quoted),
        Value::Sequence(elements) => {
            let elements: Vec<String> = elements.iter().map(|element| flow(element, quoted)).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Mapping(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| field(name, value, quoted)).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Tagged(tagged) => flow(&tagged.value, quoted),
    }
}

/// A field of a mapping: `name: value`.
pub(super) fn field(name: &Value, value: &Value, quoted: bool) -> String {
    format!("{}: {}", flow(name, quoted), flow(value, quoted))
}

fn scalar(text: &str, quoted: bool) -> String {
    if !quoted && (is_plain_word(text) || is_time(text)) { text.to_owned() } else { double_quoted(text) }
}

/// Words that some reader of YAML 1.1 or 1.2 takes for a truth value or for nothing.
const RESERVED: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// Whether a text is one that needs no quotes.
pub(super) fn is_plain_word(text: &str) -> bool {
    let safe = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | ' ');
    text.starts_with(char::is_alphabetic)
        && !text.ends_with(' ')
        && text.chars().all(safe)
        && !RESERVED.contains(&text.to_lowercase().as_str())
}

/// Times are written plain, as people do; the colons in them are followed by digits.
fn is_time(text: &str) -> bool {
    let safe = |character: char| character.is_ascii_digit() || matches!(character, '-' | ':' | '.' | 'T' | 'Z');
    text.starts_with(|character: char| character.is_ascii_digit())
        && text.chars().all(safe)
        && text.parse::<Timestamp>().is_ok()
}

/// In double quotes, with the escapes of JSON.
fn double_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            _ if is_printable(character) => quoted.push(character),
            // Writing to a `String` cannot fail. All that is not printable lies below U+10000.
            _ => drop(write!(quoted, "\\u{:04x}", u32::from(character))),
        }
    }
    quoted.push('"');
    quoted
}

/// What may stand in a YAML text as it is (YAML 1.2, production 1), without line breaks and byte order marks.
fn is_printable(character: char) -> bool {
    let special = matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    matches!(character, ' '..='~' | '\u{a0}'..) && !special
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_yaml::Mapping;

    use super::*;

    #[test]
    fn only_what_is_safe_is_plain() {
        for plain in ["ada", "Production API", "Ключ продакшена", "key_1", "llama-3.1-8b", "2027-01-01T00:00:00Z"]
        {
            assert_eq!(scalar(plain, false), plain);
        }
        let quoted =
            ["", "yes", "No", "NULL", "1.0", "0x1f", "a: b", "#x", "x #y", "- a", " a", "a ", "*", "sha256:ab"];
        for text in quoted {
            assert_eq!(scalar(text, false), format!("\"{text}\""));
        }
        assert_eq!(scalar("a\"\\\n\u{7f}\u{2028}", false), r#""a\"\\\n\u007f\u2028""#);
        assert_eq!(scalar("ada", true), "\"ada\"");
    }

    proptest! {
        #[test]
        fn every_text_reads_back(text in "\\PC{0,12}|[a-z :#,'\"\\[\\]{}&*!|>%@`~?.0-9\\t\\n\\-]{0,8}|.{0,8}", quoted: bool) {
            let value = Value::from(text.as_str());
            let fields = Mapping::from_iter([(Value::from("a"), value.clone()), (value.clone(), vec![value].into())]);
            let fields = Value::from(fields);
            prop_assert_eq!(&serde_yaml::from_str::<Value>(&flow(&fields, quoted)).unwrap(), &fields);
            let block = format!("x: {}\n", scalar(&text, quoted));
            let marks = crate::yaml::Marks::parse(&block).unwrap();
            prop_assert_eq!(marks.root().unwrap().field("x").unwrap().as_scalar(), Some(text.as_str()));
        }
    }
}
