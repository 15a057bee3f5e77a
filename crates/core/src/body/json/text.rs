//! Strings as JSON writes them, decoded only where what they say matters.

/// A string as written between its quotes, its escapes checked but not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    pub raw: &'a str,
    /// Bytes of UTF-8 once decoded; a surrogate without its pair counts as 3.
    pub length: u64,
}

impl<'a> Text<'a> {
    /// Whether there are no escapes in it. Each is longer than what it stands for.
    pub fn is_plain(self) -> bool {
        self.raw.len() as u64 == self.length
    }

    /// The characters, escapes decoded.
    pub fn characters(self) -> Characters<'a> {
        Characters { rest: self.raw }
    }

    /// The text, escapes decoded.
    pub fn decode(self) -> Result<String, LoneSurrogate> {
        if self.is_plain() { Ok(self.raw.to_owned()) } else { self.characters().collect() }
    }
}

/// A `\uD800`-style escape that is half of a pair without the other half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoneSurrogate;

/// The decoded characters of a [`Text`].
#[derive(Debug, Clone)]
pub struct Characters<'a> {
    rest: &'a str,
}

impl Iterator for Characters<'_> {
    type Item = Result<char, LoneSurrogate>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.starts_with("\\u") {
            return Some(self.unicode());
        }
        let mut characters = self.rest.chars();
        let character = match characters.next()? {
            '\\' => match characters.next()? {
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                itself => itself,
            },
            plain => plain,
        };
        self.rest = characters.as_str();
        Some(Ok(character))
    }
}

impl Characters<'_> {
    fn unicode(&mut self) -> Result<char, LoneSurrogate> {
        let Some(unit) = self.unit() else {
            // A text that was cut within an escape ends with it; whole ones were checked.
            self.rest = "";
            return Err(LoneSurrogate);
        };
        if !(0xd800..0xdc00).contains(&unit) {
            // A low surrogate is no character, and comes here only where no high one preceded.
            return char::from_u32(unit).ok_or(LoneSurrogate);
        }
        let low = self.unit().filter(|low| (0xdc00..0xe000).contains(low)).ok_or(LoneSurrogate)?;
        char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).ok_or(LoneSurrogate)
    }

    fn unit(&mut self) -> Option<u32> {
        let unit = code_unit(self.rest.as_bytes())?;
        self.rest = self.rest.get(6..).unwrap_or_default();
        Some(unit)
    }
}

/// The UTF-16 code unit of the `\uXXXX` that `bytes` begins with.
pub fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_cut_within_an_escape_ends() {
        let written = "a\\ud83d\\ude00\\u00e9\\n";
        for end in 0..=written.len() {
            let cut = Text { raw: &written[..end], length: 0 };
            assert!(cut.characters().take(100).count() <= 4, "{end}");
        }
    }
}
