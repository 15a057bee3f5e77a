//! Splits server-sent events (WHATWG HTML, section 9.2.6) as their bytes pass, however they are cut, keeping none.

use memchr::memchr2;

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
const DATA: &[u8] = b"data";
const EVENT: &[u8] = b"event";
const NAMED: &[u8] = b"event: ";
const ERROR: &[u8] = b"error";

/// What some bytes of the stream are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// An event's first line begins here. No bytes are taken.
    Begin,
    /// The next piece of the event's data; a line end between two `data:` lines is a piece too.
    Data(&'a [u8]),
    /// An event named `error`, or a field of that name, which is no part of the format: so llama.cpp says that it failed.
    Error,
    /// The event is complete: its blank line was taken.
    End,
    /// The line feed that belonged to the carriage return with which the last event ended, when a cut was between them.
    Rest,
    /// A comment, another field, a line end: nothing that matters here.
    Other,
}

/// Where the next byte stands.
pub(super) struct Reader {
    state: State,
    after_return: bool,
    in_event: bool,
    has_data: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the stream's first line, with so many bytes of the byte order mark seen.
    Mark(usize),
    LineStart,
    /// In a field's name, of which so many bytes are those of `data`.
    Name(usize),
    /// In a field's name, of which so many bytes are those of `error`.
    ErrorName(usize),
    /// In a field's name, of which so many bytes are those of `event`.
    EventName(usize),
    /// In an event's name, of which so many bytes are those of `error`; before its first byte, one space is no part of it.
    Event {
        matched: usize,
        has_begun: bool,
    },
    /// After the name's colon, where one space is no part of the value.
    Colon,
    Data,
    Ignored,
}

impl Reader {
    /// A reader before the first byte of a stream.
    pub(super) fn new() -> Self {
        Self { state: State::Mark(0), after_return: false, in_event: false, has_data: false }
    }

    /// Whether the next byte can only begin an event, a comment or a blank line.
    pub(super) fn is_between_events(&self) -> bool {
        !self.in_event && self.state == State::LineStart
    }

    /// Tells the reader, between two events, that a whole event was read without it.
    pub(super) fn passed_event(&mut self) {
        self.after_return = false;
    }

    /// Tells the reader, between two events, that the next one was read into its data without it.
    pub(super) fn resume_in_data(&mut self) {
        *self = Self { state: State::Data, after_return: false, in_event: true, has_data: true };
    }

    /// Reads on in `bytes`, which must not be empty; says what was there and how many bytes that was.
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8]) -> (Part<'a>, usize) {
        let Some(&byte) = bytes.first() else { return (Part::Other, 0) };
        if std::mem::take(&mut self.after_return) && byte == b'\n' {
            return (if self.in_event { Part::Other } else { Part::Rest }, 1);
        }
        match self.state {
            State::Mark(seen) => self.mark(seen, byte),
            State::LineStart => self.line_start(byte, bytes),
            State::Event { matched, .. } if is_line_end(byte) => {
                let (end, taken) = self.line_end(bytes);
                (if matched == ERROR.len() { Part::Error } else { end }, taken)
            }
            _ if is_line_end(byte) => self.line_end(bytes),
            State::Name(0) if names_another_event(bytes) => {
                self.state = State::Ignored;
                (Part::Other, NAMED.len())
            }
            State::Name(matched) => self.name(matched, byte),
            State::ErrorName(matched) => self.error_name(matched, byte),
            State::EventName(matched) => self.event_name(matched, byte),
            State::Event { matched, has_begun } => self.event(matched, has_begun, byte),
            State::Colon => {
                self.state = State::Data;
                (Part::Other, usize::from(byte == b' '))
            }
            State::Data | State::Ignored => {
                let line = memchr2(b'\n', b'\r', bytes).and_then(|end| bytes.get(..end)).unwrap_or(bytes);
                (if self.state == State::Data { Part::Data(line) } else { Part::Other }, line.len())
            }
        }
    }

    fn mark(&mut self, seen: usize, byte: u8) -> (Part<'static>, usize) {
        let next = seen + 1;
        if BYTE_ORDER_MARK.get(seen) == Some(&byte) {
            self.state = if next == BYTE_ORDER_MARK.len() { State::LineStart } else { State::Mark(next) };
            return (Part::Other, 1);
        }
        // Half a mark is the beginning of a field's name that nobody knows.
        self.state = if seen == 0 { State::LineStart } else { State::Ignored };
        (Part::Other, 0)
    }

    fn line_start<'a>(&mut self, byte: u8, bytes: &'a [u8]) -> (Part<'a>, usize) {
        match byte {
            b'\n' | b'\r' => {
                let (_, taken) = self.line_end(bytes);
                self.has_data = false;
                (if std::mem::take(&mut self.in_event) { Part::End } else { Part::Other }, taken)
            }
            b':' => {
                self.state = State::Ignored;
                (Part::Other, 1)
            }
            _ if !self.in_event => {
                self.in_event = true;
                (Part::Begin, 0)
            }
            _ => {
                self.state = State::Name(0);
                (Part::Other, 0)
            }
        }
    }

    fn name(&mut self, matched: usize, byte: u8) -> (Part<'static>, usize) {
        if matched < DATA.len() && DATA.get(matched) == Some(&byte) {
            self.state = State::Name(matched + 1);
        } else if matched == DATA.len() && byte == b':' {
            self.state = State::Colon;
            if std::mem::replace(&mut self.has_data, true) {
                return (Part::Data(b"\n"), 1);
            }
        } else {
            self.state = if matched == 0 && byte == b'e' { State::ErrorName(1) } else { State::Ignored };
        }
        (Part::Other, 1)
    }

    fn error_name(&mut self, matched: usize, byte: u8) -> (Part<'static>, usize) {
        if ERROR.get(matched) == Some(&byte) {
            self.state = State::ErrorName(matched + 1);
            return (Part::Other, 1);
        }
        self.state = if matched == 1 && byte == b'v' { State::EventName(2) } else { State::Ignored };
        (if matched == ERROR.len() && byte == b':' { Part::Error } else { Part::Other }, 1)
    }

    fn event_name(&mut self, matched: usize, byte: u8) -> (Part<'static>, usize) {
        self.state = if EVENT.get(matched) == Some(&byte) {
            State::EventName(matched + 1)
        } else if matched == EVENT.len() && byte == b':' {
            State::Event { matched: 0, has_begun: false }
        } else {
            State::Ignored
        };
        (Part::Other, 1)
    }

    fn event(&mut self, matched: usize, has_begun: bool, byte: u8) -> (Part<'static>, usize) {
        self.state = if ERROR.get(matched) == Some(&byte) {
            State::Event { matched: matched + 1, has_begun: true }
        } else if byte == b' ' && !has_begun {
            State::Event { matched, has_begun: true }
        } else {
            State::Ignored
        };
        (Part::Other, 1)
    }

    /// Takes a line feed, a carriage return, or both, as far as they are there.
    fn line_end(&mut self, bytes: &[u8]) -> (Part<'static>, usize) {
        self.state = State::LineStart;
        let taken = if bytes.starts_with(b"\r\n") { 2 } else { 1 };
        self.after_return = taken == 1 && bytes.first() == Some(&b'\r');
        (Part::Other, taken)
    }
}

/// Whether an event's name begins here, and not as `error` does: so do those of most streams, and none is read further.
fn names_another_event(bytes: &[u8]) -> bool {
    let name = bytes.strip_prefix(NAMED).and_then(<[u8]>::first);
    name.is_some_and(|first| *first != b'e' && !is_line_end(*first))
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each complete event's data, and last what an incomplete one had.
    fn events(parts: &[&[u8]]) -> (Vec<String>, String) {
        let (mut reader, mut events, mut data) = (Reader::new(), Vec::new(), Vec::new());
        for part in parts {
            let mut at = 0;
            while at < part.len() {
                let (what, taken) = reader.next(&part[at..]);
                at += taken;
                match what {
                    Part::Data(piece) => data.extend_from_slice(piece),
                    Part::End => events.push(String::from_utf8(std::mem::take(&mut data)).unwrap()),
                    Part::Begin | Part::Error | Part::Rest | Part::Other => {}
                }
            }
        }
        (events, String::from_utf8(data).unwrap())
    }

    fn in_every_cut(stream: &str, expected: &[&str], left: &str) {
        let bytes = stream.as_bytes();
        let expected = (expected.iter().map(ToString::to_string).collect::<Vec<_>>(), left.to_string());
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            assert_eq!(events(&[first, second]), expected, "{stream:?} cut at {at}");
        }
        assert_eq!(events(&bytes.chunks(1).collect::<Vec<_>>()), expected, "{stream:?} byte by byte");
    }

    #[test]
    fn all_three_line_ends_end_lines() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("data: one{end}{end}data:two{end}{end}{end}data: three{end}");
            in_every_cut(&stream, &["one", "two"], "three");
        }
    }

    #[test]
    fn several_data_lines_are_one_event() {
        in_every_cut("data: a\ndata:b\ndata\ndata:  c\n\n", &["a\nb\n c"], "");
    }

    #[test]
    fn comments_other_fields_and_a_byte_order_mark_are_no_data() {
        let stream = "\u{feff}: hello\n\nevent: x\nid: 1\ndata: a\n: in between\nretry: 5\ndatabase: no\n\ndata: b";
        in_every_cut(stream, &["a"], "b");
    }

    #[test]
    fn an_error_is_a_field_or_an_events_name() {
        let errors = |parts: &[&[u8]]| {
            let (mut reader, mut errors) = (Reader::new(), 0);
            for part in parts {
                let mut rest = *part;
                while !rest.is_empty() {
                    let (what, taken) = reader.next(rest);
                    errors += usize::from(what == Part::Error);
                    rest = &rest[taken..];
                }
            }
            errors
        };
        for (stream, expected) in [
            ("event: error\ndata: x\n\n", 1),
            ("event:error\r\ndata: x\r\n\r\n", 1),
            ("data: x\revent: error\r\r", 1),
            ("error: {\"code\":500}\n\n", 1),
            ("event: errors\n\nevent: erro\n\nevent:  error\n\nevent:\n\nevent\n\nevents: error\n\n", 0),
            ("event: \n\nevent: \r\revent: response.error\n\nevent: event: error\n\n", 0),
            ("event: message\ndata: event: error\n\n: event: error\n\nevents\n\neventerror\n\n", 0),
        ] {
            let bytes = stream.as_bytes();
            for at in 0..=bytes.len() {
                let (first, second) = bytes.split_at(at);
                assert_eq!(errors(&[first, second]), expected, "{stream:?} cut at {at}");
            }
        }
    }

    #[test]
    fn a_line_feed_after_an_event_read_elsewhere_is_a_blank_line() {
        let mut reader = Reader::new();
        let mut rest = &b"data\r\r"[..];
        while !rest.is_empty() {
            rest = &rest[reader.next(rest).1..];
        }
        assert!(reader.is_between_events());
        reader.passed_event();
        assert_eq!(reader.next(b"\n"), (Part::Other, 1));
    }

    #[test]
    fn half_a_byte_order_mark_is_an_unknown_field() {
        let events = events(&[b"\xef\xbbdata: no\ndata: yes\n\n"]);
        assert_eq!(events.0, ["yes"]);
    }
}
