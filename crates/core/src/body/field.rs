//! The fields of a request that the gateway acts on, and how their names are recognised. A name
//! is decoded before it is compared, and one that differs in capitals only is refused, so that
//! no spelling means something to the upstream that it does not mean here.

pub(super) mod tables;

use super::{BodyError, json::Text, outline::Matter};

/// What a field is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Model,
    /// An answer that is made later, and fetched by other requests.
    Background,
    /// A list of requests, of which each has these fields.
    Requests(&'static [Known]),
    Stream,
    StreamOptions,
    IncludeUsage,
    /// The object that holds the maximum, with the fields that count in it.
    Options(&'static [Known]),
    Maximum(Maximum),
    /// How many tokens an answer has at least, where a server takes that.
    Minimum,
    /// An object that says how much the model may think, if it is an object.
    Thinking(&'static [Known]),
    /// How many tokens it may think, which its maximum has to be above.
    Budget,
    /// Whether it thinks at all, in a word.
    Mode,
    Choices,
    /// The answer that is gone on from.
    Previous,
    /// Which of the waiting requests goes first, where a server takes that.
    Priority,
    /// Text, or tokens as numbers.
    Prompt,
    /// A list of which each element is media.
    Media,
    Text(Matter),
}

/// The fields that bound the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maximum {
    /// The one in which the request's own API states it.
    Own,
    /// A chat's, where it is not the request's own.
    Tokens,
    CompletionTokens,
    /// llama.cpp's, which it heeds before the others.
    NPredict,
}

/// A field, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// Its place from the body's own object on: for errors.
    pub path: &'static str,
    /// Its names in the object that it is a member of. Most have one, which stands here twice.
    names: [&'static str; 2],
    pub field: Field,
}

/// The longest name that any field has, in bytes.
const LONGEST: usize = 24;

/// Which fields of an object have been met.
#[derive(Debug)]
pub(super) struct Seen {
    table: &'static [Known],
    bits: u32,
}

impl Seen {
    /// None of `table`, which has 32 fields at most.
    pub fn none_of(table: &'static [Known]) -> Self {
        Self { table, bits: 0 }
    }

    /// The field that `text`, which stands at `offset`, names, if it is one that matters.
    pub fn field(&mut self, text: Text<'_>, offset: usize) -> Result<Option<&'static Known>, BodyError> {
        let Some(spelling) = Spelling::new(text, offset)? else { return Ok(None) };
        let found = self.table.iter().enumerate().find_map(|(index, known)| {
            // Most names differ by their length.
            let is_its = |name: &&&str| name.len() == spelling.length && spelling.folds_into(name);
            let name = *known.names.iter().find(is_its)?;
            Some((1 << index, name, known))
        });
        let Some((bit, name, known)) = found else { return Ok(None) };
        if !spelling.is(name) {
            return Err(BodyError::MiscasedField { name: known.path, offset });
        }
        if self.bits & bit != 0 {
            return Err(BodyError::DuplicateField { name: known.path, offset });
        }
        self.bits |= bit;
        Ok(Some(known))
    }
}

/// A decoded name that is short enough to be a field's and folds into ASCII.
struct Spelling {
    letters: [u8; LONGEST],
    length: usize,
    is_ascii: bool,
}

impl Spelling {
    fn new(text: Text<'_>, offset: usize) -> Result<Option<Self>, BodyError> {
        let mut spelling = Self { letters: [0; LONGEST], length: 0, is_ascii: true };
        let plain = text.raw.as_bytes();
        if text.is_plain() && plain.is_ascii() {
            // As nearly all are.
            let Some(letters) = spelling.letters.get_mut(..plain.len()) else { return Ok(None) };
            letters.copy_from_slice(plain);
            spelling.length = plain.len();
            return Ok(Some(spelling));
        }
        for character in text.characters() {
            let character = character.map_err(|_| BodyError::LoneSurrogate { offset })?;
            let Some(letter) = to_ascii(character) else { return Ok(None) };
            let Some(place) = spelling.letters.get_mut(spelling.length) else { return Ok(None) };
            *place = letter;
            spelling.length += 1;
            spelling.is_ascii &= character.is_ascii();
        }
        Ok(Some(spelling))
    }

    fn letters(&self) -> &[u8] {
        self.letters.get(..self.length).unwrap_or_default()
    }

    fn folds_into(&self, name: &str) -> bool {
        // Nearly all are written as they should be.
        self.letters() == name.as_bytes() || self.letters().eq_ignore_ascii_case(name.as_bytes())
    }

    fn is(&self, name: &str) -> bool {
        self.is_ascii && self.letters() == name.as_bytes()
    }
}

/// The character as ASCII, if it is that or folds into it by Unicode's simple case folding: the
/// long s and the Kelvin sign are the only two outside ASCII that do.
fn to_ascii(character: char) -> Option<u8> {
    match character {
        '\u{17f}' => Some(b's'),
        '\u{212a}' => Some(b'k'),
        _ => u8::try_from(character).ok().filter(u8::is_ascii),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_what_has_an_ascii_lower_case_and_nothing_else() {
        for character in char::MIN..=char::MAX {
            let ascii = character.to_lowercase().all(|lower| lower.is_ascii());
            assert_eq!(to_ascii(character).is_some(), ascii || character == '\u{17f}', "{character:?}");
        }
    }
}
