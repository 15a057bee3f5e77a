//! The fields of a request that the gateway acts on, and how their names are recognised. A name
//! is decoded before it is compared, and one that differs in capitals only is refused, so that
//! no spelling means something to the upstream that it does not mean here.

use super::{BodyFault, json::Text};

/// What a field is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Model,
    Stream,
    StreamOptions,
    Maximum(Maximum),
    Choices,
    Prompt,
    Embeddings,
    Text,
}

/// The fields that bound the output. `NPredict` is llama.cpp's, which heeds it before the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maximum {
    Tokens,
    CompletionTokens,
    NPredict,
}

/// `n_cmpl` is llama.cpp's word for `n`; `prompt_embeds`, `documents` and the chat templates are
/// vLLM's; the rest are the API's own.
const FIELDS: [(&str, Field); 21] = [
    ("model", Field::Model),
    ("stream", Field::Stream),
    ("stream_options", Field::StreamOptions),
    ("max_tokens", Field::Maximum(Maximum::Tokens)),
    ("max_completion_tokens", Field::Maximum(Maximum::CompletionTokens)),
    ("n_predict", Field::Maximum(Maximum::NPredict)),
    ("n", Field::Choices),
    ("n_cmpl", Field::Choices),
    ("best_of", Field::Choices),
    ("prompt", Field::Prompt),
    ("input", Field::Prompt),
    ("prompt_embeds", Field::Embeddings),
    ("messages", Field::Text),
    ("system", Field::Text),
    ("suffix", Field::Text),
    ("tools", Field::Text),
    ("functions", Field::Text),
    ("response_format", Field::Text),
    ("documents", Field::Text),
    ("chat_template", Field::Text),
    ("chat_template_kwargs", Field::Text),
];

/// The longest name above, in bytes.
const LONGEST: usize = 21;

/// Which fields have been met.
#[derive(Debug, Default)]
pub(super) struct Seen(u32);

impl Seen {
    /// The field that `text`, which stands at `offset`, names, if it is one that matters.
    pub fn field(&mut self, text: Text<'_>, offset: usize) -> Result<Option<(&'static str, Field)>, BodyFault> {
        let Some(spelling) = Spelling::of(text, offset)? else { return Ok(None) };
        let known = FIELDS.iter().enumerate().find(|(_, (name, _))| spelling.is(name));
        let Some((index, (name, field))) = known else { return Ok(None) };
        spelling.check(name, offset)?;
        let bit = 1 << index;
        if self.0 & bit != 0 {
            return Err(BodyFault::DuplicateField { name, offset });
        }
        self.0 |= bit;
        Ok(Some((name, *field)))
    }
}

/// Where in `stream_options` the usage is asked for.
pub(super) const INCLUDE_USAGE: &str = "stream_options.include_usage";

/// Whether `text`, which stands at `offset`, names `include_usage`.
pub(super) fn is_include_usage(text: Text<'_>, offset: usize) -> Result<bool, BodyFault> {
    match Spelling::of(text, offset)? {
        Some(spelling) if spelling.is("include_usage") => spelling.check(INCLUDE_USAGE, offset).map(|()| true),
        _ => Ok(false),
    }
}

/// A decoded name in lower case that is short enough to be a field's.
struct Spelling {
    folded: [u8; LONGEST],
    length: usize,
    miscased: bool,
}

impl Spelling {
    fn of(text: Text<'_>, offset: usize) -> Result<Option<Self>, BodyFault> {
        let mut spelling = Self { folded: [0; LONGEST], length: 0, miscased: false };
        for character in text.characters() {
            let character = character.map_err(|_| BodyFault::LoneSurrogate { offset })?;
            let Some(folded) = fold(character) else { return Ok(None) };
            let Some(place) = spelling.folded.get_mut(spelling.length) else { return Ok(None) };
            *place = folded;
            spelling.length += 1;
            spelling.miscased |= char::from(folded) != character;
        }
        Ok(Some(spelling))
    }

    fn is(&self, name: &str) -> bool {
        self.folded.get(..self.length) == Some(name.as_bytes())
    }

    fn check(&self, name: &'static str, offset: usize) -> Result<(), BodyFault> {
        if self.miscased { Err(BodyFault::MiscasedField { name, offset }) } else { Ok(()) }
    }
}

/// The character in lower case where that is ASCII, by Unicode's simple case folding: the long s
/// and the Kelvin sign are the only two outside ASCII that fold into it.
fn fold(character: char) -> Option<u8> {
    match character {
        '\u{17f}' => Some(b's'),
        '\u{212a}' => Some(b'k'),
        _ => u8::try_from(character).ok().filter(u8::is_ascii).map(|byte| byte.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_longer_than_the_longest() {
        assert_eq!(FIELDS.iter().map(|(name, _)| name.len()).max(), Some(LONGEST));
    }

    #[test]
    fn every_field_has_a_bit_and_a_lower_case_ascii_name() {
        assert!(FIELDS.len() <= u32::BITS as usize);
        for (name, _) in FIELDS {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn folds_what_has_an_ascii_lower_case_and_nothing_else() {
        for character in char::MIN..=char::MAX {
            let ascii = character.to_lowercase().all(|lower| lower.is_ascii());
            assert_eq!(fold(character).is_some(), ascii || character == '\u{17f}', "{character:?}");
        }
    }
}
