//! JSON as `serde_json` reads it, and the same document written otherwise.

use std::{collections::HashSet, fmt, io};

use serde::{
    Deserialize,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{
    Deserializer, Value,
    ser::{CharEscape, Formatter, Serializer},
};

/// Deeper documents than this lie, in an array of Gemini's, below the depth to which the meter reads.
const SHALLOW: usize = 12;

/// The lines of `text`, if each is a JSON object of which a server-sent event can be made.
#[must_use]
pub fn objects(text: &[u8]) -> Option<Vec<&[u8]>> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    let is_object = |line: &&[u8]| {
        !line.contains(&b'\r')
            && matches!(serde_json::from_slice(line), Ok(value @ Value::Object(_)) if is_shallow(&value, SHALLOW))
    };
    (!lines.is_empty() && lines.iter().all(is_object)).then_some(lines)
}

fn is_shallow(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => depth > 0 && items.iter().all(|item| is_shallow(item, depth - 1)),
        Value::Object(members) => depth > 0 && members.values().all(|member| is_shallow(member, depth - 1)),
        _ => true,
    }
}

/// The same document without blanks, and with every character escaped. There is none where the document is no JSON,
/// or has a name twice, a number that would be written otherwise, or a tool's arguments, which are text as they are written.
#[must_use]
pub fn rewritten(text: &[u8]) -> Option<[Vec<u8>; 2]> {
    let value: Value = serde_json::from_slice(text).ok()?;
    if has_twins(text) || !is_same_however_written(&value) {
        return None;
    }
    let (mut short, mut escaped) = (Vec::new(), Vec::new());
    transcode(text, &mut Serializer::new(&mut short))?;
    transcode(text, &mut Serializer::with_formatter(&mut escaped, Escaping))?;
    Some([short, escaped])
}

fn transcode<F: Formatter>(text: &[u8], to: &mut Serializer<&mut Vec<u8>, F>) -> Option<()> {
    serde_transcode::transcode(&mut Deserializer::from_slice(text), to).ok()
}

fn is_same_however_written(value: &Value) -> bool {
    let is_text = |name: &str, value: &Value| WRITTEN.contains(&name) && (value.is_object() || value.is_array());
    match value {
        Value::Number(number) => number.is_u64(),
        Value::Array(items) => items.iter().all(is_same_however_written),
        Value::Object(members) => {
            members.iter().all(|(name, value)| !is_text(name, value) && is_same_however_written(value))
        }
        _ => true,
    }
}

/// What the APIs call the arguments of a tool.
const WRITTEN: [&str; 4] = ["arguments", "input", "args", "code"];

/// Whether an object in the document has a name twice.
#[must_use]
pub fn has_twins(text: &[u8]) -> bool {
    serde_json::from_slice::<Twins>(text).is_ok_and(|twins| twins.0)
}

/// Writes every character of a string as `\uXXXX`.
struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        fragment.encode_utf16().try_for_each(|unit| write!(writer, "\\u{unit:04x}"))
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        let byte = match escape {
            CharEscape::Quote => b'"',
            CharEscape::ReverseSolidus => b'\\',
            CharEscape::Solidus => b'/',
            CharEscape::Backspace => 0x08,
            CharEscape::FormFeed => 0x0c,
            CharEscape::LineFeed => b'\n',
            CharEscape::CarriageReturn => b'\r',
            CharEscape::Tab => b'\t',
            CharEscape::AsciiControl(byte) => byte,
        };
        write!(writer, "\\u{byte:04X}")
    }
}

struct Twins(bool);

impl<'de> Deserialize<'de> for Twins {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TwinsVisitor)
    }
}

struct TwinsVisitor;

#[rustfmt::skip]
impl<'de> Visitor<'de> for TwinsVisitor {
    type Value = Twins;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result { formatter.write_str("any JSON") }
    fn visit_unit<E>(self) -> Result<Twins, E> { Ok(Twins(false)) }
    fn visit_bool<E>(self, _: bool) -> Result<Twins, E> { Ok(Twins(false)) }
    fn visit_i64<E>(self, _: i64) -> Result<Twins, E> { Ok(Twins(false)) }
    fn visit_u64<E>(self, _: u64) -> Result<Twins, E> { Ok(Twins(false)) }
    fn visit_f64<E>(self, _: f64) -> Result<Twins, E> { Ok(Twins(false)) }
    fn visit_str<E>(self, _: &str) -> Result<Twins, E> { Ok(Twins(false)) }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Twins, A::Error> {
        let mut found = false;
        while let Some(Twins(within)) = items.next_element()? {
            found |= within;
        }
        Ok(Twins(found))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Twins, A::Error> {
        let (mut names, mut found) = (HashSet::new(), false);
        while let Some((name, Twins(within))) = members.next_entry::<String, Twins>()? {
            found |= within | !names.insert(name);
        }
        Ok(Twins(found))
    }
}
