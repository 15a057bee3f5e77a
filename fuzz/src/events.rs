//! Server-sent events (WHATWG HTML, section 9.2.6) as a reader sees them that has them all before it.

use serde_json::Value;

use crate::json::has_twins;

/// A part of a stream: an event with all its lines and the blank one after it, or a line between two events.
#[derive(Debug, Default)]
pub struct Event<'a> {
    /// All of its bytes.
    pub bytes: &'a [u8],
    /// Its data, the lines joined with line feeds; nothing between two events.
    pub data: Option<Vec<u8>>,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The events of a stream and what is between them, in their order. White space and byte order marks before the first of them
/// are no part of it.
#[must_use]
pub fn events(stream: &[u8]) -> Vec<Event<'_>> {
    let mut events = Vec::new();
    let mut start = blank_length(stream);
    events.push(Event { bytes: &stream[..start], data: None });
    let (mut at, mut data, mut in_event) = (start, None::<Vec<u8>>, false);
    while at < stream.len() {
        let (line, end) = line(stream, at);
        at = end;
        if !line.is_empty() && line[0] != b':' {
            in_event = true;
            read_field(line, &mut data);
        }
        if line.is_empty() || !in_event {
            events.push(Event { bytes: &stream[start..at], data: data.take() });
            (start, in_event) = (at, false);
        }
    }
    events.push(Event { bytes: &stream[start..], data });
    events
}

fn blank_length(stream: &[u8]) -> usize {
    let mut rest = stream.trim_ascii_start();
    while let Some(after) = rest.strip_prefix(BYTE_ORDER_MARK) {
        rest = after.trim_ascii_start();
    }
    stream.len() - rest.len()
}

/// The line that begins at `start`, without its end, and where the next one begins.
fn line(stream: &[u8], start: usize) -> (&[u8], usize) {
    let rest = &stream[start..];
    let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
    let end = if rest[length..].starts_with(b"\r\n") { 2 } else { usize::from(length < rest.len()) };
    (&rest[..length], start + length + end)
}

fn read_field(line: &[u8], data: &mut Option<Vec<u8>>) {
    let Some(value) = line.strip_prefix(b"data:") else { return };
    let value = value.strip_prefix(b" ").unwrap_or(value);
    match data {
        Some(data) => {
            data.push(b'\n');
            data.extend_from_slice(value);
        }
        None => *data = Some(value.to_vec()),
    }
}

/// What an event is to whoever takes out what the client did not ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It goes.
    Usage,
    /// It stays.
    Other,
    /// It is no JSON, or says something twice, and nobody can tell.
    Unclear,
}

impl Event<'_> {
    fn kind(&self) -> Kind {
        let Some(data) = &self.data else { return Kind::Other };
        let Ok(members @ Value::Object(_)) = serde_json::from_slice(data) else { return Kind::Unclear };
        if has_twins(data) {
            return Kind::Unclear;
        }
        let has_none = match members.get("choices") {
            Some(Value::Array(choices)) => choices.is_empty(),
            None | Some(Value::Null) => FOREIGN.iter().all(|name| members[*name].is_null()),
            Some(_) => false,
        };
        let counts = COUNTS.map(|name| is_count(&members["usage"][name]));
        match (has_none, counts) {
            (false, _) => Kind::Other,
            (true, counts) if counts.contains(&Some(true)) => Kind::Usage,
            (true, counts) if counts.contains(&None) => Kind::Unclear,
            (true, _) => Kind::Other,
        }
    }
}

/// What a usage that was asked for states.
const COUNTS: [&str; 5] = ["prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"];

/// What no chunk of a chat says: without choices it is something else.
const FOREIGN: [&str; 12] = [
    "error",
    "message",
    "type",
    "event",
    "delta",
    "content",
    "text",
    "response",
    "output",
    "data",
    "result",
    "candidates",
];

/// Whether it is a number of tokens that somebody could have used; of a number that is no whole one, its value does not
/// tell whether it was written with an exponent.
fn is_count(value: &Value) -> Option<bool> {
    let is_believable = |count: u64| count <= 1_000_000_000_000;
    match value {
        Value::Number(number) if number.is_f64() => None,
        Value::Number(number) => Some(number.as_u64().is_some_and(is_believable)),
        Value::String(text) => {
            let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
            let are_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            let whole = whole.parse().ok().filter(|_| are_digits(whole) && are_digits(decimals));
            Some(whole.is_some_and(is_believable))
        }
        _ => Some(false),
    }
}

/// Checks that `forwarded` is `stream` without some of its events, each of them whole and one that tells of usage alone.
/// What begins as JSON is no stream, whatever it is called.
pub fn assert_only_usage_events_are_gone(stream: &[u8], forwarded: &[u8]) {
    if matches!(stream.get(blank_length(stream)), Some(b'{' | b'[')) {
        assert_eq!(forwarded, stream, "a document passes whole");
        return;
    }
    let mut reached = vec![0];
    for event in events(stream) {
        let kind = event.kind();
        let mut next = Vec::new();
        for at in reached {
            if kind != Kind::Usage && forwarded[at..].starts_with(event.bytes) {
                next.push(at + event.bytes.len());
            }
            if kind != Kind::Other {
                next.push(at);
            }
        }
        next.sort_unstable();
        next.dedup();
        reached = next;
        assert!(!reached.is_empty(), "{event:?} should be {kind:?}");
    }
    assert!(reached.contains(&forwarded.len()), "more is forwarded than came");
}
