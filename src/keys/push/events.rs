//! A reader of server-sent events (WHATWG HTML, section 9.2). It takes pieces of any size, and needs bounded memory.

use std::time::Duration;

use thiserror::Error;

/// A server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name; `message` if none is stated.
    pub(crate) kind: String,
    /// Its lines of data, joined.
    pub(crate) data: String,
}

/// A reader of one stream over several connections.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    line: Vec<u8>,
    after_return: bool,
    has_begun: bool,
    kind: String,
    data: Option<String>,
    id: Option<String>,
    last_id: Option<String>,
    retry: Option<Duration>,
    expects_comments: bool,
}

/// The largest event that is read.
const LARGEST_EVENT: usize = 64 * 1024;
/// The longest pause before reconnecting that a source may ask for.
const LONGEST_RETRY: Duration = Duration::from_secs(4);

/// The error for an event that is too large.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("an event has more than {LARGEST_EVENT} bytes")]
pub(crate) struct TooLarge;

impl EventReader {
    /// Reads the next bytes, and returns the events that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let ends_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if ends_return => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.end_line(&line));
                }
                _ if self.line.len() + self.data.as_ref().map_or(0, String::len) >= LARGEST_EVENT => {
                    return Err(TooLarge);
                }
                _ => self.line.push(byte),
            }
        }
        Ok(events)
    }

    /// The id of the last event that had one.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// How long to wait before reconnecting, if the source said so.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Whether the source sends comments to show that it is alive.
    pub(crate) fn expects_comments(&self) -> bool {
        self.expects_comments
    }

    /// Drops the incomplete event of a lost connection.
    pub(crate) fn reconnect(&mut self) {
        *self = Self { last_id: self.last_id.take(), retry: self.retry, ..Self::default() };
    }

    fn end_line(&mut self, line: &[u8]) -> Option<Event> {
        let first = !std::mem::replace(&mut self.has_begun, true);
        let line = if first { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if line.is_empty() {
            return self.end_event();
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.expects_comments = true,
            "event" => value.clone_into(&mut self.kind),
            "data" => match &mut self.data {
                Some(data) => data.extend(["\n", value]),
                None => self.data = Some(value.to_owned()),
            },
            // An id that no header can carry cannot be sent back.
            "id" if value.bytes().all(|byte| byte.is_ascii_graphic()) => self.id = Some(value.to_owned()),
            "retry" => {
                let millis = value.parse().ok().map(Duration::from_millis);
                self.retry = millis.map(|retry| retry.min(LONGEST_RETRY)).or(self.retry);
            }
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<Event> {
        let kind = std::mem::take(&mut self.kind);
        if let Some(id) = self.id.take() {
            self.last_id = Some(id).filter(|id| !id.is_empty());
        }
        match (kind.is_empty(), self.data.take()) {
            // Browsers ignore an event without data; `event: all` needs none.
            (true, data) => data.map(|data| Event { kind: "message".to_owned(), data }),
            (false, data) => Some(Event { kind, data: data.unwrap_or_default() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> (Vec<(String, String)>, EventReader) {
        let mut reader = EventReader::default();
        let events = pieces.iter().flat_map(|piece| reader.feed(piece).unwrap());
        (events.map(|event| (event.kind, event.data)).collect(), reader)
    }

    const STREAM: &str = "\u{feff}: hello\n\nevent: key\ndata: {\"id\":\ndata: \"key_a\"}\nid: 7\n\n\
        retry: 90000\r\n\r\ndata:x\rid: 8\r\revent: all\n\ndata\n\nid: no spaces\n\ndata: half";

    #[test]
    fn events_have_a_kind_and_data_and_ids_are_kept() {
        let (events, reader) = read(&[STREAM.as_bytes()]);
        let pair = |kind: &str, data: &str| (kind.to_owned(), data.to_owned());
        assert_eq!(
            events,
            [pair("key", "{\"id\":\n\"key_a\"}"), pair("message", "x"), pair("all", ""), pair("message", "")]
        );
        assert_eq!((reader.last_id(), reader.retry()), (Some("8"), Some(LONGEST_RETRY)));
        assert!(reader.expects_comments());
    }

    #[test]
    fn what_was_half_there_is_not_completed_by_the_next_connection() {
        let (_, mut reader) = read(&[STREAM.as_bytes()]);
        reader.reconnect();
        assert_eq!(reader.feed(b"data: new\n\n").unwrap(), [Event { kind: "message".into(), data: "new".into() }]);
        assert_eq!(reader.last_id(), Some("8"));
    }

    #[test]
    fn an_event_without_end_is_not_kept_without_end() {
        let mut reader = EventReader::default();
        let fed = (0..100).map(|_| reader.feed(&[b'a'; 1024])).find(Result::is_err);
        assert_eq!(fed, Some(Err(TooLarge)));
        let mut reader = EventReader::default();
        let fed = (0..100).map(|_| reader.feed(&[b"data:", &[b'a'; 1024][..], b"\n"].concat())).find(Result::is_err);
        assert_eq!(fed, Some(Err(TooLarge)));
    }

    proptest! {
        #[test]
        fn any_division_says_the_same(cuts in prop::collection::vec(0..STREAM.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &STREAM.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces).0, read(&[STREAM.as_bytes()]).0);
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = EventReader::default().feed(&bytes);
        }
    }
}
