//! Reads JSON (RFC 8259) as its bytes pass, however they are cut: keeps the path to where it is, never the document.

mod members;
mod number;

use self::number::{Number, Value};
use super::word::Word;
use crate::quote::quote_or_backslash;

/// Deeper containers than this are passed over; what the APIs state lies well above it.
const DEPTH: usize = 16;
/// Longer keys than this are nobody's.
const KEY: usize = 32;

/// Who is told what a document says. A role is what a value is for its reader (this number is the prompt's tokens).
pub(super) trait Visitor {
    /// A name for each place in the document that matters.
    type Role: Copy + PartialEq + Send + Sync;
    /// The document itself.
    const ROOT: Self::Role;
    /// A value nobody asks for: it and everything in it is passed over.
    const NOTHING: Self::Role;

    /// The role of an object's member.
    fn member(&self, object: Self::Role, key: &[u8]) -> Self::Role;
    /// Whether an object or an array is text: the model wrote it as JSON. Then it comes through [`text`](Self::text), as
    /// compact as it goes and its strings unescaped, and nothing in it has a role of its own.
    fn is_written(&self, _role: Self::Role) -> bool {
        false
    }
    /// Whether a value is a number: then a string that is one is told as that number.
    fn is_number(&self, _role: Self::Role) -> bool {
        false
    }
    /// The role of an array's elements.
    fn element(&self, _array: Self::Role) -> Self::Role {
        Self::NOTHING
    }
    /// A value begins: `first` is its first byte, `at` that byte's place in the document.
    fn begin(&mut self, role: Self::Role, first: u8, at: usize);
    /// The next piece of a string, unescaped; a character may be cut between two pieces.
    fn text(&mut self, _role: Self::Role, _piece: &[u8]) {}
    /// A number that is a whole one, not negative, and fits.
    fn number(&mut self, role: Self::Role, value: u64);
    /// A number with decimals, not negative: its whole part, and the rest in billionths, what is smaller cut off. Of
    /// what is counted by the piece, the whole part counts.
    fn decimal(&mut self, role: Self::Role, whole: u64, _nanos: u32) {
        self.number(role, whole);
    }
    /// An object or an array is complete.
    fn end(&mut self, role: Self::Role);
}

/// An incremental scanner; a clone of it reads on from the same place. It does not validate: what is no JSON is passed
/// over without harm.
pub(super) struct Scanner<V: Visitor> {
    state: State,
    /// Of the value that is next or being read.
    role: V::Role,
    open: [Container<V::Role>; DEPTH],
    depth: usize,
    /// Containers open inside a value nobody asked for, or one that is text.
    skipped: u64,
    /// The opening bracket of a value that is text, until there is something in it.
    unwritten: Option<u8>,
    key: Word<KEY>,
    number: Number,
    string: StringBody,
    position: usize,
}

impl<V: Visitor> Scanner<V> {
    /// A scanner before the first byte of a document.
    pub(super) fn new() -> Self {
        Self {
            state: State::Value,
            role: V::ROOT,
            open: [Container { role: V::NOTHING, object: false }; DEPTH],
            depth: 0,
            skipped: 0,
            unwritten: None,
            key: Word::default(),
            number: Number::default(),
            string: StringBody::default(),
            position: 0,
        }
    }

    /// Forgets the document; the next byte begins another.
    pub(super) fn reset(&mut self) {
        self.state = State::Value;
        self.role = V::ROOT;
        self.depth = 0;
        self.skipped = 0;
        self.unwritten = None;
        self.string = StringBody::default();
        self.position = 0;
    }

    /// Whether the document's outermost object or array is complete.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether the document has begun and is not complete.
    pub(super) fn is_open(&self) -> bool {
        self.depth > 0
    }

    /// Whether the next byte belongs to a string.
    pub(super) fn is_in_string(&self) -> bool {
        matches!(self.state, State::Key | State::Text | State::NumberText | State::SkippedText | State::WrittenText)
    }

    /// Reads the next bytes and tells `visitor` what they say, up to the end of the document; says how many bytes
    /// that was.
    pub(super) fn feed(&mut self, bytes: &[u8], visitor: &mut V) -> usize {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            let taken = match self.state {
                State::Key if self.key.is_empty() => match self.members(rest, visitor) {
                    0 => self.string(rest, visitor),
                    taken => taken,
                },
                State::Key | State::Text | State::NumberText | State::SkippedText | State::WrittenText => {
                    let taken = self.string(rest, visitor);
                    taken + self.go_on(rest.get(taken..).unwrap_or_default(), visitor)
                }
                State::Skipped => self.skip(rest),
                State::Written => self.written(rest, visitor),
                State::Number => {
                    let taken = self.number(rest, visitor);
                    taken + self.go_on(rest.get(taken..).unwrap_or_default(), visitor)
                }
                State::Literal => self.literal(rest),
                State::Closed => break,
                State::Value | State::Member | State::Colon | State::After => {
                    self.structure(byte, visitor);
                    1
                }
            };
            self.position += taken;
            rest = rest.get(taken..).unwrap_or_default();
        }
        bytes.len() - rest.len()
    }

    /// Takes what mostly follows at once: a colon without white space, and a comma with the quote of the next key.
    fn go_on(&mut self, rest: &[u8], visitor: &V) -> usize {
        match (self.state, rest) {
            (State::Colon, [b':', ..]) => {
                self.state = State::Value;
                1
            }
            (State::After, [b',', further @ ..]) => {
                self.next(visitor);
                if self.state != State::Member || further.first() != Some(&b'"') {
                    return 1;
                }
                self.key.clear();
                self.state = State::Key;
                2
            }
            _ => 0,
        }
    }

    fn structure(&mut self, byte: u8, visitor: &mut V) {
        match (self.state, byte) {
            (_, b' ' | b'\t' | b'\n' | b'\r') => {}
            (State::Value | State::Member | State::After, b'}' | b']') => self.close(visitor),
            (State::Value, _) => self.value(byte, visitor),
            (State::Member, b'"') => {
                self.key.clear();
                self.state = State::Key;
            }
            (State::Colon, b':') => self.state = State::Value,
            (State::After, b',') => self.next(visitor),
            _ => {}
        }
    }

    fn value(&mut self, first: u8, visitor: &mut V) {
        let asked = self.role != V::NOTHING;
        if asked {
            visitor.begin(self.role, first, self.position);
        }
        match first {
            b'{' | b'[' if asked && visitor.is_written(self.role) => {
                self.skipped = 1;
                self.unwritten = Some(first);
                self.state = State::Written;
            }
            b'{' | b'[' if asked && self.depth < DEPTH => self.open(first == b'{', visitor),
            b'{' | b'[' => {
                self.skipped = 1;
                self.state = State::Skipped;
            }
            b'"' if asked && visitor.is_number(self.role) => {
                self.number = Number::default();
                self.state = State::NumberText;
            }
            b'"' if asked => self.state = State::Text,
            b'"' => self.state = State::SkippedText,
            b'-' | b'0'..=b'9' if asked => {
                self.number = Number::default();
                self.number.push(first);
                self.state = State::Number;
            }
            _ => self.state = State::Literal,
        }
    }

    fn open(&mut self, object: bool, visitor: &V) {
        if let Some(container) = self.open.get_mut(self.depth) {
            *container = Container { role: self.role, object };
            self.depth += 1;
        }
        self.next(visitor);
    }

    fn next(&mut self, visitor: &V) {
        let container = self.innermost();
        if container.object {
            self.state = State::Member;
        } else {
            self.role = visitor.element(container.role);
            self.state = State::Value;
        }
    }

    fn close(&mut self, visitor: &mut V) {
        let container = self.innermost();
        self.depth = self.depth.saturating_sub(1);
        self.state = if self.depth == 0 { State::Closed } else { State::After };
        if container.role != V::NOTHING {
            visitor.end(container.role);
        }
    }

    fn innermost(&self) -> Container<V::Role> {
        let outside = Container { role: V::NOTHING, object: false };
        self.depth.checked_sub(1).and_then(|at| self.open.get(at)).copied().unwrap_or(outside)
    }

    fn string(&mut self, rest: &[u8], visitor: &mut V) -> usize {
        let (role, key, number) = (self.role, &mut self.key, &mut self.number);
        let (taken, closed) = match self.state {
            State::Key => self.string.read(rest, |piece| key.push(piece)),
            State::NumberText => self.string.read(rest, |piece| piece.iter().for_each(|&byte| number.push(byte))),
            State::Text | State::WrittenText => self.string.read(rest, |piece| visitor.text(role, piece)),
            _ => self.string.read(rest, |_| {}),
        };
        if closed {
            self.state = match self.state {
                State::Key => {
                    self.role = visitor.member(self.innermost().role, self.key.bytes());
                    State::Colon
                }
                State::NumberText => {
                    self.tell_number(visitor);
                    State::After
                }
                State::SkippedText if self.skipped > 0 => State::Skipped,
                State::WrittenText => {
                    visitor.text(role, b"\"");
                    State::Written
                }
                _ => State::After,
            };
        }
        taken
    }

    fn number(&mut self, rest: &[u8], visitor: &mut V) -> usize {
        for (at, &byte) in rest.iter().enumerate() {
            if !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E') {
                self.state = State::After;
                self.tell_number(visitor);
                return at;
            }
            self.number.push(byte);
        }
        rest.len()
    }

    fn tell_number(&self, visitor: &mut V) {
        match self.number.value() {
            Some(Value::Whole(value)) => visitor.number(self.role, value),
            Some(Value::Decimal(whole, nanos)) => visitor.decimal(self.role, whole, nanos),
            None => {}
        }
    }

    fn literal(&mut self, rest: &[u8]) -> usize {
        let Some(end) = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']')) else { return rest.len() };
        self.state = State::After;
        end
    }

    fn skip(&mut self, rest: &[u8]) -> usize {
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                b'{' | b'[' => self.skipped += 1,
                b'}' | b']' => self.skipped -= 1, // at least 1 in this state
                b'"' => self.state = State::SkippedText,
                _ => continue,
            }
            if self.skipped == 0 {
                self.state = State::After;
            }
            if self.state != State::Skipped {
                return at + 1;
            }
        }
        rest.len()
    }

    /// Passes on what is not white space, up to the next string or the end of the value. An empty value is no text:
    /// streams put one where the text is still to come.
    fn written(&mut self, rest: &[u8], visitor: &mut V) -> usize {
        let Some(&first) = rest.first() else { return 0 };
        if matches!(first, b' ' | b'\t' | b'\n' | b'\r') {
            return 1;
        }
        let is_empty = self.unwritten.is_some() && matches!(first, b'}' | b']');
        if let Some(opening) = self.unwritten.take().filter(|_| !is_empty) {
            visitor.text(self.role, &[opening]);
        }
        let mut taken = 0;
        for &byte in rest {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => break,
                b'{' | b'[' => self.skipped += 1,
                b'}' | b']' => self.skipped -= 1, // at least 1 in this state
                b'"' => self.state = State::WrittenText,
                _ => {}
            }
            taken += 1;
            if self.skipped == 0 {
                self.state = State::After;
            }
            if self.state != State::Written {
                break;
            }
        }
        if let Some(piece) = rest.get(..taken).filter(|_| !is_empty) {
            visitor.text(self.role, piece);
        }
        taken
    }
}

impl<V: Visitor> Clone for Scanner<V> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

/// Where in the grammar the next byte stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    Member,
    Colon,
    After,
    Key,
    Text,
    Number,
    /// In a string where a number is expected.
    NumberText,
    /// `true`, `false`, `null`, and numbers nobody asked for.
    Literal,
    Skipped,
    SkippedText,
    /// In a value that is text, and in a string of it.
    Written,
    WrittenText,
    Closed,
}

#[derive(Clone, Copy)]
struct Container<R> {
    role: R,
    object: bool,
}

/// What is between a string's quotes, unescaped as it passes.
#[derive(Clone, Copy, Default)]
pub(super) struct StringBody {
    escape: Escape,
    /// The first half of a surrogate pair, waiting for the second.
    high: Option<u32>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Backslash,
    Hex {
        digits: u8,
        value: u32,
    },
}

impl StringBody {
    /// Whether the next byte means what it means behind the opening quote.
    fn is_at_start(self) -> bool {
        self.escape == Escape::None && self.high.is_none()
    }

    /// Reads up to and with the closing quote; says how many bytes that took and whether the quote was there.
    pub(super) fn read(&mut self, bytes: &[u8], mut emit: impl FnMut(&[u8])) -> (usize, bool) {
        let mut rest = bytes;
        while let Some((&byte, tail)) = rest.split_first() {
            if self.escape != Escape::None {
                self.escaped(byte, &mut emit);
                rest = tail;
                continue;
            }
            let Some((plain, tail)) = quote_or_backslash(rest).and_then(|at| rest.split_at_checked(at)) else {
                self.plain(rest, &mut emit);
                return (bytes.len(), false);
            };
            self.plain(plain, &mut emit);
            rest = tail.get(1..).unwrap_or_default();
            if tail.first() == Some(&b'"') {
                self.high = None;
                return (bytes.len() - rest.len(), true);
            }
            self.escape = Escape::Backslash;
        }
        (bytes.len(), false)
    }

    fn plain(&mut self, piece: &[u8], emit: &mut impl FnMut(&[u8])) {
        if !piece.is_empty() {
            self.high = None;
            emit(piece);
        }
    }

    fn escaped(&mut self, byte: u8, emit: &mut impl FnMut(&[u8])) {
        match self.escape {
            Escape::Hex { digits, value } => self.hex(digits, value, byte, emit),
            _ if byte == b'u' => self.escape = Escape::Hex { digits: 0, value: 0 },
            _ => {
                self.escape = Escape::None;
                let plain = match byte {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    other => other,
                };
                self.plain(&[plain], emit);
            }
        }
    }

    fn hex(&mut self, digits: u8, value: u32, byte: u8, emit: &mut impl FnMut(&[u8])) {
        let value = value << 4 | char::from(byte).to_digit(16).unwrap_or(0);
        if digits < 3 {
            self.escape = Escape::Hex { digits: digits + 1, value };
            return;
        }
        self.escape = Escape::None;
        let character = match (value, self.high.take()) {
            (0xd800..=0xdbff, _) => {
                self.high = Some(value);
                return;
            }
            (0xdc00..=0xdfff, Some(high)) => char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (value - 0xdc00)),
            _ => char::from_u32(value),
        };
        let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
        emit(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests;
