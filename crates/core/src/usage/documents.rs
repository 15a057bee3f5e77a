//! A stream of JSON documents, one after the other; as NDJSON, one a line.

use memchr::memchr;

use super::dialect::Dialect;
use super::json::Scanner;

/// What of the stream is under way.
pub(super) struct Documents<D: Dialect> {
    json: Scanner<D>,
    lines: Lines,
    is_stream: bool,
    ended: bool,
}

/// What line ends mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// There should be a document on each line; the first one will tell.
    Expected,
    /// There is: what is broken of one does not reach into the next.
    Documents,
    /// Nothing.
    Nothing,
}

impl<D: Dialect> Documents<D> {
    /// A stream before its first byte. There should be a document on each line (`by_line`), or else line ends mean
    /// nothing, and there may be one document only.
    pub(super) fn new(by_line: bool) -> Self {
        let lines = if by_line { Lines::Expected } else { Lines::Nothing };
        Self { json: Scanner::new(), lines, is_stream: by_line, ended: false }
    }

    /// Whether the API's last document was seen.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether more documents than one are to be expected.
    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Reads the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8], reader: &mut D) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let line_end = memchr(b'\n', rest).filter(|_| self.lines != Lines::Nothing);
            let (line, after) = rest.split_at(line_end.map_or(rest.len(), |at| at + 1));
            self.feed_line(line, reader);
            if line_end.is_some() {
                self.end_line(reader);
            }
            rest = after;
        }
    }

    fn feed_line(&mut self, line: &[u8], reader: &mut D) {
        let mut rest = line;
        while !rest.is_empty() {
            let taken = self.json.feed(rest, reader);
            rest = rest.get(taken..).unwrap_or_default();
            if self.json.is_closed() {
                self.lines = if self.lines == Lines::Expected { Lines::Documents } else { self.lines };
                self.ended |= reader.is_last();
                self.is_stream |= !reader.is_last();
                self.begin_next(reader);
            }
        }
    }

    /// A first line that ends within a document, and not within a string, which would be broken, is one document set out
    /// over several lines.
    fn end_line(&mut self, reader: &mut D) {
        if self.lines == Lines::Expected && self.json.is_open() && !self.json.is_in_string() {
            self.lines = Lines::Nothing;
            self.is_stream = false;
        } else {
            self.begin_next(reader);
        }
    }

    fn begin_next(&mut self, reader: &mut D) {
        self.json.reset();
        reader.record_mut().next_event();
    }
}
