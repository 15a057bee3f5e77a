//! What the readers of all APIs have in common. An API differs from the others in what its documents say where; how
//! they are framed, and what is done with what was read, is the same for all.

use super::delivered::{Delivered, Kind, LaneIndex};
use super::json::Visitor;
use super::stated::Statement;

/// The reader of one API's responses: it visits their documents and remembers what they state and deliver.
pub(super) trait Dialect: Visitor + Send + Sync + 'static {
    /// What is known of the event (or the document) that is under way.
    type Event: Copy + Default + Send + Sync;

    /// What is remembered of the response.
    fn record(&self) -> &Record<Self::Event>;

    /// The same, to add to it.
    fn record_mut(&mut self) -> &mut Record<Self::Event>;

    /// The request has several prompts, each with choices of its own.
    fn of_prompts(&mut self, _prompts: u64) {}
    /// How often another call was named than before, whose name is text: an event like the one before is no longer one whose
    /// name was counted.
    fn names(&self) -> u64 {
        0
    }

    /// What was stated so far.
    fn stated(&self) -> Statement;

    /// Whether the event, which is complete, is the one with which the API ends its responses.
    fn is_last(&self) -> bool;

    /// Whether an answer that is one JSON document states its usage once, and of the whole of it.
    fn states_once(&self) -> bool {
        true
    }

    /// Whether the event says nothing but its text: another that differs in its text only means the same.
    fn is_only_text(&self) -> bool {
        false
    }

    /// Whether the event, should it be complete, is the one that `stream_options.include_usage` adds.
    fn is_usage_event(&self) -> bool {
        false
    }

    /// Whether the event may still turn out to be that one.
    fn may_be_usage_event(&self) -> bool {
        false
    }

    /// The answer's id, where requests can go on from it.
    fn answer_id(&self) -> Option<&str> {
        None
    }

    /// Whether the API gives its responses for nothing.
    fn is_free(&self) -> bool {
        false
    }
}

/// What is remembered of a response, and of the event that is under way.
pub(super) struct Record<E> {
    /// The event.
    pub(super) event: E,
    /// All text.
    pub(super) delivered: Delivered,
    /// Whether the upstream said that it failed.
    pub(super) failed: bool,
    /// How much text there was when usage was stated for the whole of it.
    whole_at: Option<u64>,
    texts: Texts,
}

/// How far the event is read that is under way.
#[derive(Clone, Copy, Default)]
pub(super) struct Place<E> {
    event: E,
    texts: Texts,
}

/// The strings of an event that had text in them.
#[derive(Clone, Copy, Default)]
struct Texts {
    count: u32,
    /// Where the string that is being read, and where the last one with text, begins.
    reading_at: usize,
    last_at: usize,
    reading_is_counted: bool,
    lane: Option<LaneIndex>,
}

impl<E: Default> Default for Record<E> {
    fn default() -> Self {
        Self {
            event: E::default(),
            delivered: Delivered::default(),
            failed: false,
            whole_at: None,
            texts: Texts::default(),
        }
    }
}

impl<E: Copy + Default> Record<E> {
    /// Forgets the event; the next document begins another.
    pub(super) fn next_event(&mut self) {
        self.resume(Place::default());
    }

    /// How far the event is read.
    pub(super) fn place(&self) -> Place<E> {
        Place { event: self.event, texts: self.texts }
    }

    /// Reads on as if an event had been read up to `place`.
    pub(super) fn resume(&mut self, place: Place<E>) {
        self.event = place.event;
        self.texts = place.texts;
    }

    /// A value of what tells of a failure begins, and says whether it tells. `null`, `false` and zero say nothing; a string
    /// does by its text, and an object or an array by what is in it: servers have empty ones beside good answers.
    pub(super) fn note_error(&mut self, first: u8) -> bool {
        let tells = matches!(first, b't' | b'-' | b'1'..=b'9');
        self.failed |= tells;
        tells
    }

    /// The next piece of a text in what tells of a failure.
    pub(super) fn note_error_text(&mut self, piece: &[u8]) {
        self.failed |= !piece.is_empty();
    }

    /// Usage is stated. It `is_final` if it is that of the whole response: nothing but the end of it is to come.
    pub(super) fn note_usage(&mut self, is_final: bool) {
        self.whole_at = is_final.then(|| self.delivered.bytes());
    }

    /// Whether the usage that was stated last is that of the whole response. More text says that it was not.
    pub(super) fn has_final_usage(&self) -> bool {
        self.whole_at.is_some_and(|bytes| bytes == self.delivered.bytes())
    }

    /// A string begins at this place in the document.
    pub(super) fn begin_text(&mut self, at: usize) {
        self.texts.reading_at = at;
        self.texts.reading_is_counted = false;
    }

    /// An object begins that is text: no event that has one is like another.
    pub(super) fn begin_written(&mut self) {
        self.texts.count += 2;
        self.texts.reading_is_counted = true;
    }

    /// The string has text in it, and is the name of a tool that is called.
    pub(super) fn note_call(&mut self) {
        if !self.texts.reading_is_counted {
            self.texts.count += 1;
            self.delivered.add_call();
        }
    }

    /// The string has text in it.
    pub(super) fn note_text(&mut self) {
        if !std::mem::replace(&mut self.texts.reading_is_counted, true) {
            self.texts.count += 1;
            self.texts.last_at = self.texts.reading_at;
        }
    }

    /// It is this lane's text.
    pub(super) fn note_lane(&mut self, lane: LaneIndex) {
        self.texts.lane = Some(lane);
    }

    /// Adds a piece of the string to what `choice` delivered.
    pub(super) fn deliver(&mut self, choice: u64, kind: Kind, piece: &[u8]) {
        self.note_text();
        let lane = self.delivered.lane(choice, kind);
        self.delivered.push(lane, piece);
        self.note_lane(lane);
    }

    /// Where the event's only string with text begins, and whose text it is.
    pub(super) fn only_text(&self) -> Option<(usize, LaneIndex)> {
        let Texts { count: 1, last_at, lane: Some(lane), .. } = self.texts else { return None };
        Some((last_at, lane))
    }
}
