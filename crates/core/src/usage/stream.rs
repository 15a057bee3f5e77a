//! One event stream on its way to the client: every event is read as it passes, and the usage event that the client
//! did not ask for is taken out.

use bytes::{Bytes, BytesMut};

use super::dialect::{Dialect, Place};
use super::json::Scanner;
use super::sse::{self, Part};
use super::template::{Known, Template};

/// How much of an event may be held back while it could be the one to take out.
const HELD: usize = 8 * 1024;
const DONE: &[u8] = b"[DONE]";

/// What of the stream is under way.
pub(super) struct Stream<D: Dialect> {
    lines: sse::Reader,
    json: Scanner<D>,
    template: Template,
    beginning: Option<Box<Beginning<D>>>,
    /// How often calls had been named when the template was last known to be right.
    names: u64,
    event: Option<Event>,
    removes_usage_event: bool,
    /// The beginning of an event that may have to be taken out: it has not been forwarded.
    held: Vec<u8>,
    removed_last: bool,
    ended: bool,
}

/// The template's event, read up to its text.
struct Beginning<D: Dialect> {
    /// Where its data begins.
    data: usize,
    json: Scanner<D>,
    place: Place<D::Event>,
}

/// The event that is being read.
#[derive(Default)]
struct Event {
    /// Where it begins in the chunk that is being read; none if it began before.
    start: Option<usize>,
    /// Where its data begins in that chunk.
    data: Option<usize>,
    /// In how many pieces the data came; a piece of which the template knew the beginning is one.
    pieces: u32,
    /// How many bytes of `[DONE]` its data has; none if it is something else.
    done: Option<usize>,
    /// Some of it has been forwarded.
    passed: bool,
}

impl<D: Dialect> Stream<D> {
    pub(super) fn new(removes_usage_event: bool) -> Self {
        Self {
            lines: sse::Reader::new(),
            json: Scanner::new(),
            template: Template::default(),
            beginning: None,
            names: 0,
            event: None,
            removes_usage_event,
            held: Vec::new(),
            removed_last: false,
            ended: false,
        }
    }

    /// Whether the API's terminal event was seen.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The bytes that are kept, as they are allocated.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.capacity()
            + self.template.held_bytes()
            + self.beginning.as_ref().map_or(0, |_| size_of::<Beginning<D>>())
    }

    /// Reads the next bytes; gives back what of them, and of what was held, is to be forwarded now.
    pub(super) fn feed(&mut self, chunk: Bytes, reader: &mut D) -> Bytes {
        let mut edit = Edit::default();
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            if self.lines.is_between_events()
                && let Some(known) = self.read_known(rest, at, reader)
            {
                at += known;
                continue;
            }
            let (part, taken) = self.lines.next(rest);
            let start = at;
            at += taken;
            match part {
                Part::Begin => self.begin(start, reader),
                Part::Data(piece) => self.data(piece, start, reader),
                Part::End => self.end(&chunk, at, reader, &mut edit),
                Part::Error => reader.record_mut().failed = true,
                Part::Rest if self.removed_last => edit.cut(&chunk, start, at),
                Part::Rest | Part::Other => self.removed_last = false,
            }
        }
        self.hold(&chunk, reader, &mut edit);
        edit.apply(chunk)
    }

    /// What was held of an event that never became complete. The usage event lacks no more than its blank line.
    pub(super) fn flush(&mut self, reader: &D) -> Option<Bytes> {
        let is_extra = self.event.as_ref().is_some_and(|event| self.is_extra(event, reader));
        let held = std::mem::take(&mut self.held);
        (!held.is_empty() && !is_extra).then(|| Bytes::from(held))
    }

    /// Reads as much of the next event as is like the last ones; says how many bytes that was.
    fn read_known(&mut self, bytes: &[u8], start: usize, reader: &mut D) -> Option<usize> {
        match self.template.read(bytes, &mut reader.record_mut().delivered) {
            Known::All(length) => {
                self.lines.passed_event();
                Some(length)
            }
            Known::Beginning(length) => {
                let beginning = self.beginning.as_ref()?;
                self.lines.resume_in_data();
                self.json.clone_from(&beginning.json);
                reader.record_mut().resume(beginning.place);
                self.event = Some(Event { start: Some(start), data: Some(start + beginning.data), ..Event::default() });
                Some(length)
            }
            Known::Nothing => None,
        }
    }

    fn begin(&mut self, start: usize, reader: &mut D) {
        self.event = Some(Event { start: Some(start), done: Some(0), ..Event::default() });
        self.json.reset();
        reader.record_mut().next_event();
    }

    fn data(&mut self, piece: &[u8], start: usize, reader: &mut D) {
        if let Some(event) = &mut self.event {
            event.pieces += 1;
            event.data.get_or_insert(start);
            event.match_done(piece);
            self.ended |= event.done == Some(DONE.len());
        }
        self.json.feed(piece, reader);
        self.ended |= self.json.is_closed() && reader.is_last();
    }

    fn end(&mut self, chunk: &[u8], end: usize, reader: &mut D, edit: &mut Edit) {
        let Some(event) = self.event.take() else { return };
        if std::mem::replace(&mut self.names, reader.names()) != reader.names() {
            (self.template, self.beginning) = (Template::default(), None);
        }
        self.removed_last = self.is_extra(&event, reader);
        let held = std::mem::take(&mut self.held);
        if self.removed_last {
            edit.cut(chunk, event.start.unwrap_or(0), end);
        } else {
            edit.put_before(held);
            self.learn(&event, chunk, end, reader);
        }
    }

    fn is_extra(&self, event: &Event, reader: &D) -> bool {
        self.removes_usage_event && !event.passed && self.json.is_closed() && reader.is_usage_event()
    }

    fn learn(&mut self, event: &Event, chunk: &[u8], end: usize, reader: &mut D) {
        if let Some(start) = event.start
            && let Some(data) = event.data.filter(|_| event.pieces == 1).map(|data| data - start)
            && reader.is_only_text()
            && let Some((quote, lane)) = reader.record().only_text()
            && let Some(bytes) = chunk.get(start..end)
            && self.template.learn(bytes, data + quote, lane)
            && let Some(before_text) = bytes.get(data..=data + quote)
        {
            self.json.reset();
            reader.record_mut().next_event();
            self.json.feed(before_text, reader);
            self.beginning =
                Some(Box::new(Beginning { data, json: self.json.clone(), place: reader.record().place() }));
        }
    }

    /// At the chunk's end: holds back the event that is under way if it may be the one to take out.
    fn hold(&mut self, chunk: &[u8], reader: &D, edit: &mut Edit) {
        let Some(event) = &mut self.event else { return };
        let start = event.start.take().unwrap_or(0);
        let bytes = chunk.get(start..).unwrap_or_default();
        let may_be_extra = self.removes_usage_event && !event.passed && reader.may_be_usage_event();
        if may_be_extra && self.held.len() + bytes.len() <= HELD {
            self.held.reserve_exact(bytes.len());
            self.held.extend_from_slice(bytes);
            edit.keep_back(start);
        } else {
            event.passed = true;
            edit.put_before(std::mem::take(&mut self.held));
        }
    }
}

impl Event {
    fn match_done(&mut self, piece: &[u8]) {
        for &byte in piece {
            match self.done {
                Some(matched) if DONE.get(matched) == Some(&byte) => self.done = Some(matched + 1),
                Some(0) if byte == b' ' => {}
                Some(matched) if matched < DONE.len() => self.done = None,
                _ => return,
            }
        }
    }
}

/// What is to be forwarded of a chunk; nothing is copied unless something is taken out or put before it.
#[derive(Default)]
struct Edit {
    /// What goes out before the rest of the chunk.
    before: Option<BytesMut>,
    /// Up to where the chunk is dealt with.
    from: usize,
    /// From where on it is kept back.
    to: Option<usize>,
}

impl Edit {
    /// Takes out what is between `start` and `end`.
    fn cut(&mut self, chunk: &[u8], start: usize, end: usize) {
        if self.from < start {
            let kept = chunk.get(self.from..start).unwrap_or_default();
            self.before.get_or_insert_default().extend_from_slice(kept);
        }
        self.from = end;
    }

    /// Held bytes are always older than the chunk.
    fn put_before(&mut self, held: Vec<u8>) {
        if !held.is_empty() {
            self.before = Some(BytesMut::from(Bytes::from(held)));
        }
    }

    fn keep_back(&mut self, from: usize) {
        self.to = Some(from);
    }

    fn apply(self, chunk: Bytes) -> Bytes {
        let rest = self.from..self.to.unwrap_or(chunk.len());
        let Some(mut before) = self.before else {
            return if rest.len() == chunk.len() { chunk } else { chunk.slice(rest) };
        };
        before.extend_from_slice(chunk.get(rest).unwrap_or_default());
        before.freeze()
    }
}

#[cfg(test)]
mod tests;
