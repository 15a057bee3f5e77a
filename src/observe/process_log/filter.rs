//! The filter of the process log. It drops lines beyond the first few of a kind within a second, and lines about clients' faults
//! unless `debug` is logged.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use crate::observe::levels;

/// Lines of one kind in one second.
const MOST: u64 = 10;

const SECOND: Duration = Duration::from_secs(1);

/// As much of a line as is kept to say which kind was left out.
const SAMPLE: usize = 200;

/// Kinds that are told apart. There are fewer places that log; the bound holds whatever is linked.
const MOST_KINDS: usize = 4096;

/// The filter of the log's lines.
pub(super) struct LineFilter {
    repeated: Arc<RepeatedLines>,
}

impl LineFilter {
    /// A filter that notes in `repeated` what it leaves out.
    pub fn new(repeated: Arc<RepeatedLines>) -> Self {
        Self { repeated }
    }
}

/// A layer of its own, not the filter of one: such a filter keeps a state between its questions, which libraries that ask
/// whether a level is enabled, and then log nothing, bring out of order.
impl<S: Subscriber> Layer<S> for LineFilter {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        // Lines above the usual levels were asked for, so all of them are written.
        if *event.metadata().level() > Level::INFO {
            return true;
        }
        let kind = Kind::from(event);
        if kind.is_pingoras() && !levels::shows_debug() && is_about_client(&message(event)) {
            return false;
        }
        self.repeated.admit(kind, Instant::now(), || message(event))
    }
}

/// The place in a program that logs a line.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    target: String,
    line: u32,
}

impl From<&Event<'_>> for Kind {
    /// Lines that come by way of the `log` crate have their place in fields.
    fn from(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        if metadata.target() != "log" {
            return Self { target: metadata.target().to_owned(), line: metadata.line().unwrap_or(0) };
        }
        let mut place = Place::default();
        event.record(&mut place);
        Self { target: place.target, line: place.line }
    }
}

impl Kind {
    fn is_pingoras(&self) -> bool {
        self.target.starts_with("pingora")
    }
}

#[derive(Default)]
struct Place {
    target: String,
    line: u32,
}

impl Visit for Place {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            value.clone_into(&mut self.target);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "log.line" {
            self.line = u32::try_from(value).unwrap_or(u32::MAX);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Whether a line of Pingora's is about the client's side of a request: it says so in its first words. What follows them may
/// be a client's own text, which must not hide a line.
fn is_about_client(message: &str) -> bool {
    const FIRST_WORDS: usize = 64;
    let end = (0..=FIRST_WORDS.min(message.len())).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    let first_words = message.get(..end).unwrap_or_default();
    first_words.contains("ownstream") || first_words.starts_with("H2 handshake error")
}

/// The first words of an event.
fn message(event: &Event<'_>) -> String {
    let mut message = Message(String::new());
    event.record(&mut message);
    message.0
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // What does not fit ends the writing.
            let _ = write!(Bounded(&mut self.0), "{value:?}");
        }
    }
}

/// Takes the first `SAMPLE` bytes, and nothing that would begin another line.
struct Bounded<'text>(&'text mut String);

impl fmt::Write for Bounded<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() + character.len_utf8() > SAMPLE {
                return Err(fmt::Error);
            }
            self.0.push(if character.is_control() { ' ' } else { character });
        }
        Ok(())
    }
}

/// How many lines of each kind there were in its current second.
#[derive(Default)]
pub(super) struct RepeatedLines {
    kinds: Mutex<HashMap<Kind, Second>>,
}

struct Second {
    start: Instant,
    lines: u64,
    /// The first line that was left out.
    sample: String,
}

/// Lines of one kind that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub count: u64,
    pub text: String,
}

impl RepeatedLines {
    /// Counts a line, and says whether it is to be written.
    fn admit(&self, kind: Kind, now: Instant, text: impl FnOnce() -> String) -> bool {
        let mut kinds = self.kinds.lock();
        if kinds.len() >= MOST_KINDS && !kinds.contains_key(&kind) {
            return false;
        }
        let second = kinds.entry(kind).or_insert_with(|| Second { start: now, lines: 0, sample: String::new() });
        if second.lines <= MOST && now.saturating_duration_since(second.start) >= SECOND {
            *second = Second { start: now, lines: 0, sample: String::new() };
        }
        second.lines += 1;
        if second.lines == MOST + 1 {
            second.sample = text();
        }
        second.lines <= MOST
    }

    /// What was left out in seconds that are over. Their kinds begin anew.
    pub fn drain_finished(&self) -> Vec<LeftOut> {
        self.drain_finished_at(Instant::now())
    }

    fn drain_finished_at(&self, now: Instant) -> Vec<LeftOut> {
        let mut left_out = Vec::new();
        self.kinds.lock().retain(|_, second| {
            let is_over = now.saturating_duration_since(second.start) >= SECOND;
            if is_over && second.lines > MOST {
                left_out.push(LeftOut { count: second.lines - MOST, text: std::mem::take(&mut second.sample) });
            }
            !is_over
        });
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: u32) -> Kind {
        Kind { target: "pingora_proxy".to_owned(), line }
    }

    #[test]
    fn ten_lines_of_a_kind_pass_in_a_second_and_the_rest_are_counted() {
        let repeated = RepeatedLines::default();
        let start = Instant::now();
        let admitted = |line, at, times: usize| {
            (0..times).filter(|_| repeated.admit(kind(line), at, || "again".to_owned())).count()
        };
        assert_eq!(admitted(1, start, 1000), 10);
        assert_eq!(admitted(2, start, 3), 3, "another kind has its own");
        assert_eq!(repeated.drain_finished_at(start), [], "the second is not over");
        let later = start + SECOND;
        assert_eq!(repeated.drain_finished_at(later), [LeftOut { count: 990, text: "again".to_owned() }]);
        assert_eq!(admitted(1, later, 11), 10, "it begins anew");
        assert_eq!(admitted(2, later, 20), 10);
    }

    #[test]
    fn a_count_is_told_before_the_kind_begins_anew() {
        let repeated = RepeatedLines::default();
        let start = Instant::now();
        let admit = |at| repeated.admit(kind(1), at, || "again".to_owned());
        assert_eq!((0..11).filter(|_| admit(start)).count(), 10);
        assert!(!admit(start + SECOND), "what was left out has not been told yet");
        assert_eq!(repeated.drain_finished_at(start + SECOND).first().map(|left_out| left_out.count), Some(2));
        assert!(admit(start + SECOND));
    }

    #[test]
    fn kinds_are_bounded() {
        let repeated = RepeatedLines::default();
        let start = Instant::now();
        for line in 0..10_000 {
            repeated.admit(kind(line), start, String::new);
        }
        assert_eq!(repeated.kinds.lock().len(), MOST_KINDS);
        repeated.drain_finished_at(start + SECOND);
        assert!(repeated.kinds.lock().is_empty());
    }

    #[test]
    fn lines_about_clients_are_told_from_those_about_upstreams() {
        for line in [
            "Fail to proxy: Downstream ReadError context: connection reset",
            "failed to send error response to downstream: broken pipe",
            "Downstream handshake error from 127.0.0.1:4: bad certificate",
            "H2 handshake error: not a preface",
        ] {
            assert!(is_about_client(line), "{line}");
        }
        let clients_text = format!("Fail to proxy: Upstream ConnectRefused context: {} downstream", "x".repeat(64));
        for line in ["Fail to proxy: Upstream ConnectRefused context: Peer", "Accept() failed", &clients_text] {
            assert!(!is_about_client(line), "{line}");
        }
    }
}
