//! Divides a form into its parts (RFC 7578, and RFC 2046 section 5.1) without copying any. Parsers
//! differ in what they forgive, so nothing is forgiven here: what one of them might take for a
//! boundary, a header or a name is either exactly that or a fault.

mod boundary;
mod head;
mod parameter;

use memchr::memmem::{self, Finder};

use super::BodyError;

pub(super) use self::{boundary::NOT_A_FORM, head::Head};

/// One part of a form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// Where it begins in the body, after its boundary's line.
    pub offset: usize,
    pub head: Head<'a>,
    /// Where its content begins in the body.
    pub content_offset: usize,
    pub content: &'a [u8],
}

/// The parts of a form, in their order. After a fault there are no more.
pub(super) struct Parts<'a> {
    body: &'a [u8],
    /// Two hyphens and the boundary.
    delimiter: Finder<'static>,
    /// Where the next part begins; `None` after the last.
    next: Option<usize>,
    count: usize,
}

/// The most parts that a form may have: each costs more time than its bytes do.
const MOST_PARTS: usize = 1000;

/// The longest headers that a part may have, in bytes.
const LONGEST_HEAD: usize = 16 * 1024;

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

impl<'a> Parts<'a> {
    /// The parts of `body`, whose boundary `content_type` states.
    pub fn new(body: &'a [u8], content_type: &str) -> Result<Self, BodyError> {
        let boundary = boundary::parse(content_type).map_err(|problem| BodyError::ContentType { problem })?;
        // A parser that takes the quotes for a part of the boundary must find nothing.
        if let Some(offset) = memmem::find(body, format!("--\"{boundary}\"").as_bytes()) {
            return Err(error(offset, STRAY_BOUNDARY));
        }
        let delimiter = Finder::new(&format!("--{boundary}")).into_owned();
        let mut parts = Self { body, delimiter, next: None, count: 0 };
        if !body.starts_with(parts.delimiter.needle()) {
            return Err(error(0, "it does not begin with its boundary: send nothing before it"));
        }
        parts.next = parts.after_delimiter(0)?;
        Ok(parts)
    }

    /// What comes after the delimiter at `at`: a part there, or the end.
    fn after_delimiter(&self, at: usize) -> Result<Option<usize>, BodyError> {
        let end = at + self.delimiter.needle().len();
        match self.body.get(end..).unwrap_or_default() {
            [b'\r', b'\n', ..] => Ok(Some(end + 2)),
            [b'-', b'-'] | [b'-', b'-', b'\r', b'\n'] => Ok(None),
            [b'-', b'-', ..] => Err(error(end, "it goes on after its closing boundary: end it there")),
            _ => Err(error(end, "a boundary is followed by something other than CRLF: end its line there")),
        }
    }

    fn part(&mut self, start: usize) -> Result<Part<'a>, BodyError> {
        self.count += 1;
        if self.count > MOST_PARTS {
            return Err(error(start, "it has more than 1000 parts: send fewer"));
        }
        let rest = self.body.get(start..).unwrap_or_default();
        let Some(length) = self.delimiter.find(rest) else {
            return Err(error(self.body.len(), "it ends without its closing boundary: send it whole"));
        };
        let end = start + length;
        // Whatever stands before a boundary is content but for one CRLF (RFC 2046, section 5.1.1).
        let part = rest.get(..length).and_then(|part| part.strip_suffix(b"\r\n"));
        let part = Part::read(part.ok_or(error(end, STRAY_BOUNDARY))?, start)?;
        self.next = self.after_delimiter(end)?;
        Ok(part)
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.next.take()?;
        Some(self.part(start))
    }
}

const STRAY_BOUNDARY: &str = "a boundary stands within a line: choose one that occurs in no part";

impl<'a> Part<'a> {
    /// A part whose headers and content are `bytes`, which stand at `offset`.
    fn read(bytes: &'a [u8], offset: usize) -> Result<Self, BodyError> {
        let start = bytes.get(..LONGEST_HEAD + END_OF_HEAD.len()).unwrap_or(bytes);
        let Some(end) = memmem::find(start, END_OF_HEAD) else {
            let problem = if bytes.len() > LONGEST_HEAD {
                "a part's headers are over 16 KiB: shorten them"
            } else {
                "no empty line follows a part's headers: end each line with CRLF and send one"
            };
            return Err(error(offset, problem));
        };
        let head = bytes.get(..end).unwrap_or_default();
        let content_offset = end + END_OF_HEAD.len();
        let content = bytes.get(content_offset..).unwrap_or_default();
        let head = Head::read(head).map_err(|problem| error(offset, problem))?;
        if head.length.is_some_and(|stated| stated != content.len().to_string()) {
            return Err(error(offset, "a part's content-length is not its length: leave it out"));
        }
        Ok(Self { offset, head, content_offset: offset + content_offset, content })
    }
}

/// The fault of a form.
pub(super) fn error(offset: usize, problem: &'static str) -> BodyError {
    BodyError::Form { offset, problem }
}

#[cfg(test)]
mod tests;
