//! An object's members that lie in one piece, as answers are written: without white space, and names without escapes. They
//! are read at once, and told as the scanner tells what it reads byte by byte, which reads whatever is not written so.

use super::{KEY, Scanner, State, Visitor};
use crate::quote::quote_or_backslash;

/// So many digits fit into a number.
const DIGITS: usize = 19;
/// Longer literals and numbers that nobody asked for are read byte by byte.
const LITERAL: usize = 24;

impl<V: Visitor> Scanner<V> {
    /// Reads members from behind the opening quote of a name on, as long as they lie in `rest` whole; says how many bytes that
    /// was. The scanner goes on behind them: at a name, before a value, or after one.
    pub(super) fn members(&mut self, rest: &[u8], visitor: &mut V) -> usize {
        if !self.string.is_at_start() {
            return 0;
        }
        let mut object = self.innermost().role;
        let mut at = 0;
        while let Some(named) = name(rest.get(at..).unwrap_or_default()) {
            let name = rest.get(at..at + named).filter(|name| name.len() <= KEY).unwrap_or_default();
            self.role = visitor.member(object, name);
            at += named + 2; // the quote and the colon
            let value = rest.get(at..).unwrap_or_default();
            let Some(length) = self.scalar(value, at, visitor) else {
                self.state = State::Value;
                return at;
            };
            at += length;
            match rest.get(at..) {
                Some([b',', b'"', ..]) => {
                    at += 2;
                    continue;
                }
                Some([b'}', behind @ ..]) => {
                    self.close(visitor);
                    at += 1 + self.go_on(behind, visitor);
                }
                _ => self.state = State::After,
            }
            if self.state != State::Key {
                return at;
            }
            object = self.innermost().role;
        }
        at
    }

    /// Tells a string, a number or a literal that `value` begins with, so far behind the scanner's position, and says how long
    /// it is, if it is whole and simple.
    #[inline]
    fn scalar(&self, value: &[u8], offset: usize, visitor: &mut V) -> Option<usize> {
        let (role, at) = (self.role, self.position + offset);
        let (first, behind) = value.split_first()?;
        if role == V::NOTHING {
            return match first {
                b'"' => plain_string(behind).map(|length| length + 2),
                b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => value.iter().take(LITERAL).position(|byte| is_end(*byte)),
                _ => None,
            };
        }
        match first {
            b'"' if !visitor.is_number(role) => {
                let length = plain_string(behind)?;
                visitor.begin(role, *first, at);
                if let Some(text) = behind.get(..length).filter(|text| !text.is_empty()) {
                    visitor.text(role, text);
                }
                Some(length + 2)
            }
            b'0'..=b'9' => {
                let (number, length) = whole_number(value)?;
                visitor.begin(role, *first, at);
                visitor.number(role, number);
                Some(length)
            }
            b't' | b'f' | b'n' => {
                let length = value.iter().take(LITERAL).position(|byte| is_end(*byte))?;
                visitor.begin(role, *first, at);
                Some(length)
            }
            _ => None,
        }
    }
}

/// How long a name is that `rest` begins with, behind its quote, if a colon follows it at once.
#[inline]
fn name(rest: &[u8]) -> Option<usize> {
    let length = plain_string(rest)?;
    (rest.get(length + 1) == Some(&b':')).then_some(length)
}

/// How long a string without escapes is, from behind its opening quote on.
#[inline]
fn plain_string(rest: &[u8]) -> Option<usize> {
    let length = quote_or_backslash(rest)?;
    (rest.get(length) == Some(&b'"')).then_some(length)
}

/// A whole number that ends within `value`, and its length.
#[inline]
fn whole_number(value: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (length, byte) in value.iter().enumerate().take(DIGITS + 1) {
        if !byte.is_ascii_digit() {
            return is_end(*byte).then_some((number, length));
        }
        // One more than fit is not told.
        number = number.wrapping_mul(10).wrapping_add(u64::from(byte & 0xf));
    }
    None
}

fn is_end(byte: u8) -> bool {
    matches!(byte, b',' | b'}' | b']')
}
