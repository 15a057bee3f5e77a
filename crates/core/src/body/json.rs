//! A strict reader of JSON (RFC 8259) that builds nothing: it walks the text once and tells
//! what it meets and where. Depth is a counter and a bit for each level, not the call stack,
//! so that what a stranger nests costs no memory.

mod text;

use std::ops::Range;

use super::{BodyError, MAX_DEPTH};
use crate::quote::{self, Run};
use text::code_unit;

pub(super) use text::Text;

/// One thing met, with its bytes' place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub span: Range<usize>,
    pub kind: Kind<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    /// A member's name; its value is the next token.
    Name(Text<'a>),
    String(Text<'a>),
    /// As written, its grammar checked.
    Number(&'a str),
    // A payload of one byte here makes copies of the whole unaligned, and twice as slow.
    True,
    False,
    Null,
}

/// What the grammar allows next.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Value,
    ValueOrEnd,
    NameOrEnd,
    CommaOrEnd,
}

/// The walk over one text.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    /// The lowest bit is the innermost open level's: 1 for an object, 0 for an array.
    objects: u128,
    expected: Expected,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, objects: 0, expected: Expected::Value }
    }

    /// How far the text is read, in bytes.
    pub fn position(&self) -> usize {
        self.at
    }

    /// How many objects and arrays are open.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The next token, which the grammar says must come.
    pub fn token(&mut self) -> Result<Token<'a>, BodyError> {
        self.skip_whitespace();
        match self.expected {
            Expected::ValueOrEnd if self.peek() == Some(b']') => self.close(),
            Expected::Value | Expected::ValueOrEnd => self.value(),
            Expected::NameOrEnd if self.peek() == Some(b'}') => self.close(),
            Expected::NameOrEnd => self.name(),
            Expected::CommaOrEnd if self.peek() == Some(b',') => self.after_comma(),
            Expected::CommaOrEnd => self.close(),
        }
    }

    /// Reads the rest of a value whose first token has been read when `depth` levels were open.
    pub fn skip_to(&mut self, depth: u32) -> Result<(), BodyError> {
        while self.depth > depth {
            self.token()?;
        }
        Ok(())
    }

    /// Checks that nothing but whitespace follows.
    pub fn finish(mut self) -> Result<(), BodyError> {
        self.skip_whitespace();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(BodyError::TrailingBytes { offset: self.at }),
        }
    }

    fn after_comma(&mut self) -> Result<Token<'a>, BodyError> {
        self.at += 1;
        self.skip_whitespace();
        if self.in_object() { self.name() } else { self.value() }
    }

    fn value(&mut self) -> Result<Token<'a>, BodyError> {
        let start = self.at;
        // Set first, for opening a level sets it otherwise.
        self.expected = Expected::CommaOrEnd;
        let kind = match self.peek() {
            Some(b'"') => Kind::String(self.string()?),
            Some(b'{') => self.open(Kind::ObjectStart)?,
            Some(b'[') => self.open(Kind::ArrayStart)?,
            Some(b't') => self.literal("true", Kind::True)?,
            Some(b'f') => self.literal("false", Kind::False)?,
            Some(b'n') => self.literal("null", Kind::Null)?,
            Some(b'-' | b'0'..=b'9') => Kind::Number(self.number()?),
            _ => return Err(self.error("expected a value")),
        };
        Ok(Token { span: start..self.at, kind })
    }

    fn name(&mut self) -> Result<Token<'a>, BodyError> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.error("expected a member's name in double quotes"));
        }
        let kind = Kind::Name(self.string()?);
        let span = start..self.at;
        self.skip_whitespace();
        if self.peek() != Some(b':') {
            return Err(self.error("expected a colon after the member's name"));
        }
        self.at += 1;
        self.expected = Expected::Value;
        Ok(Token { span, kind })
    }

    fn open(&mut self, kind: Kind<'a>) -> Result<Kind<'a>, BodyError> {
        if self.depth == MAX_DEPTH {
            return Err(BodyError::TooDeep { offset: self.at });
        }
        let object = kind == Kind::ObjectStart;
        self.at += 1;
        self.depth += 1;
        self.objects = (self.objects << 1) | u128::from(object);
        self.expected = if object { Expected::NameOrEnd } else { Expected::ValueOrEnd };
        Ok(kind)
    }

    fn close(&mut self) -> Result<Token<'a>, BodyError> {
        let kind = match (self.in_object(), self.peek()) {
            (true, Some(b'}')) => Kind::ObjectEnd,
            (false, Some(b']')) => Kind::ArrayEnd,
            (true, _) => return Err(self.error("expected a comma or a closing brace")),
            (false, _) => return Err(self.error("expected a comma or a closing bracket")),
        };
        self.at += 1;
        self.depth = self.depth.saturating_sub(1);
        self.objects >>= 1;
        self.expected = Expected::CommaOrEnd;
        Ok(Token { span: self.at - 1..self.at, kind })
    }

    fn literal(&mut self, word: &str, kind: Kind<'a>) -> Result<Kind<'a>, BodyError> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.error("expected true, false or null"));
        }
        self.at += word.len();
        Ok(kind)
    }

    fn number(&mut self) -> Result<&'a str, BodyError> {
        let start = self.at;
        self.take(b'-');
        if self.take(b'0') {
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return Err(self.error("a number may not begin with a zero"));
            }
        } else {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(self.slice(start..self.at))
    }

    fn digits(&mut self) -> Result<(), BodyError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.error("expected a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    /// Reads a string from its opening quote on.
    fn string(&mut self) -> Result<Text<'a>, BodyError> {
        self.at += 1;
        let start = self.at;
        let mut length = 0;
        loop {
            length += self.plain_run()?;
            if self.take(b'"') {
                return Ok(Text { raw: self.slice(start..self.at - 1), length });
            }
            length += self.escape()?;
        }
    }

    /// Reads up to the next quote or backslash, and says how many bytes that was.
    fn plain_run(&mut self) -> Result<u64, BodyError> {
        let rest = self.rest();
        // Next to another escape there is no run; the search's set-up would cost more.
        if matches!(rest.first(), Some(b'"' | b'\\')) {
            return Ok(0);
        }
        let Run { length, has_control } = quote::run(rest).ok_or(BodyError::Syntax {
            offset: self.text.len(),
            problem: "the text ends within a string, expected a double quote",
        })?;
        if has_control {
            self.at += rest.iter().position(|byte| *byte < b' ').unwrap_or(0);
            return Err(self.error("control characters in a string must be escaped"));
        }
        self.at += length;
        Ok(length as u64)
    }

    /// Reads an escape from its backslash on, and says how many bytes its character takes.
    fn escape(&mut self) -> Result<u64, BodyError> {
        match self.rest().get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(1)
            }
            Some(b'u') => self.unicode_escape(),
            _ => Err(self.error("unknown escape in a string")),
        }
    }

    fn unicode_escape(&mut self) -> Result<u64, BodyError> {
        let unit = code_unit(self.rest()).ok_or_else(|| self.error("expected four hexadecimal digits after \\u"))?;
        self.at += 6;
        Ok(match unit {
            0..0x80 => 1,
            0x80..0x800 => 2,
            0xd800..0xdc00 if matches!(code_unit(self.rest()), Some(0xdc00..0xe000)) => {
                self.at += 6;
                4
            }
            _ => 3,
        })
    }

    fn skip_whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Callers' ranges begin and end beside ASCII, so that this is never the empty default.
    fn slice(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).unwrap_or_default()
    }

    fn error(&self, problem: &'static str) -> BodyError {
        BodyError::Syntax { offset: self.at, problem }
    }
}

#[cfg(test)]
mod tests;
