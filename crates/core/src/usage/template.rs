//! The shortest way through a stream: its events differ in nothing but their text, so whoever has read one knows the
//! next by comparing bytes. Reading is deterministic: the same bytes before and after a text mean the same.

use super::delivered::{Delivered, LaneIndex};
use super::json::StringBody;

/// Longer beginnings and endings are not worth keeping.
const LONGEST: usize = 1024;
/// So many events that begin otherwise, one after the other, and the next is learned instead: a stream of several
/// choices comes back to the one that is known.
const PATIENCE: u32 = 4;

/// An event that has been read, without its text.
#[derive(Default)]
pub(super) struct Template {
    before: Vec<u8>,
    after: Vec<u8>,
    lane: Option<LaneIndex>,
    unlike: u32,
}

/// How much of an event a template knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The whole of it; so many bytes are read, and its text is delivered.
    All(usize),
    /// So many bytes, up to its text.
    Beginning(usize),
    Nothing,
}

impl Template {
    /// Takes an event's bytes, with its blank line, as the pattern for those to come; the string that is its only text
    /// begins after the quote at `quote`. Says whether a new beginning was learned.
    pub(super) fn learn(&mut self, event: &[u8], quote: usize, lane: LaneIndex) -> bool {
        let known = self.lane.is_some();
        let Some((before, rest)) = event.split_at_checked(quote + 1) else { return false };
        let Some(after) = string_length(rest).and_then(|length| rest.get(length..)) else { return false };
        // A carriage return at the end may have a line feed still to come.
        if before.len().max(after.len()) > LONGEST || after.last() == Some(&b'\r') {
            return false;
        }
        let begins_alike = known && self.before == before;
        self.unlike = if begins_alike { 0 } else { self.unlike + 1 };
        if known && !begins_alike && self.unlike < PATIENCE {
            return false;
        }
        self.unlike = 0;
        self.lane = Some(lane);
        overwrite(&mut self.after, after);
        if !begins_alike {
            overwrite(&mut self.before, before);
        }
        !begins_alike
    }

    /// Says how much of the event with which `bytes` begin is like the one learned; if it is all, adds its text to what
    /// is `delivered`.
    pub(super) fn read(&mut self, bytes: &[u8], delivered: &mut Delivered) -> Known {
        let Some((lane, rest)) = self.lane.zip(bytes.strip_prefix(self.before.as_slice())) else {
            return Known::Nothing;
        };
        self.unlike = 0;
        let Some((text, after)) = string_length(rest).and_then(|length| rest.split_at_checked(length)) else {
            return Known::Beginning(self.before.len());
        };
        if !after.starts_with(&self.after) {
            return Known::Beginning(self.before.len());
        }
        if text.contains(&b'\\') {
            StringBody::default().read(text, |piece| delivered.push(lane, piece));
        } else {
            delivered.push(lane, text);
        }
        Known::All(self.before.len() + text.len() + self.after.len())
    }

    /// The bytes that are kept, as they are allocated.
    pub(super) fn held_bytes(&self) -> usize {
        self.before.capacity() + self.after.capacity()
    }
}

fn overwrite(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.clear();
    kept.reserve_exact(bytes.len());
    kept.extend_from_slice(bytes);
}

/// How far it is to the string's closing quote; none if the line or the bytes end before it.
fn string_length(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            ..0x20 => return None,
            _ if escaped => escaped = false,
            b'"' => return Some(at),
            b'\\' => escaped = true,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::delivered::Kind;
    use super::*;

    const EVENT: &[u8] = b"data: {\"t\":\"one\",\"n\":1}\n\n";
    const QUOTE: usize = 11;

    fn learned(event: &[u8]) -> (Template, Delivered) {
        let (mut template, mut delivered) = (Template::default(), Delivered::default());
        template.learn(event, QUOTE, delivered.lane(0, Kind::Answer));
        (template, delivered)
    }

    #[test]
    fn an_event_that_differs_in_its_text_only_is_read_whole() {
        let (mut template, mut delivered) = learned(EVENT);
        for text in ["", "two", "\\\"quoted\\\"", "\\\\", "\\u00e9"] {
            let event = String::from_utf8_lossy(EVENT).replace("one", text);
            assert_eq!(
                template.read(format!("{event}data").as_bytes(), &mut delivered),
                Known::All(event.len()),
                "{event}"
            );
        }
    }

    #[test]
    fn an_event_that_ends_otherwise_is_known_up_to_its_text() {
        let (mut template, mut delivered) = learned(EVENT);
        let others: [&[u8]; 5] = [
            b"data: {\"t\":\"one\",\"n\":2}\n\n",
            b"data: {\"t\":\"o\ne\",\"n\":1}\n\n",
            b"data: {\"t\":\"one\\\",\"n\":1}\n\n",
            b"data: {\"t\":\"one\",\"n\":1}\n",
            b"data: {\"t\":\"on",
        ];
        for other in others {
            assert_eq!(template.read(other, &mut delivered), Known::Beginning(QUOTE + 1));
        }
        assert!(!delivered.any());
    }

    #[test]
    fn an_event_that_begins_otherwise_is_not_known() {
        let (mut template, mut delivered) = learned(EVENT);
        for other in [&b"data: {\"u\":\"one\",\"n\":1}\n\n"[..], b"data: {\"t\":", b""] {
            assert_eq!(template.read(other, &mut delivered), Known::Nothing);
        }
    }

    #[test]
    fn only_a_new_beginning_is_news() {
        let (mut template, mut delivered) = (Template::default(), Delivered::default());
        let lane = delivered.lane(0, Kind::Answer);
        assert!(template.learn(EVENT, QUOTE, lane));
        assert!(!template.learn(b"data: {\"t\":\"\",\"n\":2}\n\n", QUOTE, lane));
        let other = b"data: {\"u\":\"\",\"n\":2}\n\n";
        let news: Vec<bool> = (0..=PATIENCE).map(|_| template.learn(other, QUOTE, lane)).collect();
        assert_eq!(news, [false, false, false, true, false]);
    }

    #[test]
    fn what_may_go_on_or_is_too_long_is_not_learned() {
        let (mut template, mut delivered) = learned(b"data: {\"t\":\"one\",\"n\":1}\r\r");
        assert_eq!(template.read(b"data: {\"t\":\"one\",\"n\":1}\r\r", &mut delivered), Known::Nothing);
        let long = [EVENT, &[b' '; LONGEST]].concat();
        let (mut template, mut delivered) = learned(&long);
        assert_eq!(template.read(&long, &mut delivered), Known::Nothing);
    }
}
