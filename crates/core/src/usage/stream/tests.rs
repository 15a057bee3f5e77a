//! That finding that an event has no usage takes no JSON to be read, where it is like the one before.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{anthropic, dialect::Record, json::Visitor, openai, stated::Statement};
use super::*;

/// A reader that counts how often it is told of something in a document.
#[derive(Default)]
struct Watched<D> {
    reader: D,
    told: AtomicUsize,
}

impl<D> Watched<D> {
    fn hear(&self) -> &D {
        self.told.fetch_add(1, Ordering::Relaxed);
        &self.reader
    }

    fn hear_mut(&mut self) -> &mut D {
        *self.told.get_mut() += 1;
        &mut self.reader
    }
}

#[rustfmt::skip]
impl<D: Dialect> Visitor for Watched<D> {
    type Role = D::Role;
    const ROOT: D::Role = D::ROOT;
    const NOTHING: D::Role = D::NOTHING;

    fn member(&self, object: D::Role, key: &[u8]) -> D::Role { self.hear().member(object, key) }
    fn element(&self, array: D::Role) -> D::Role { self.hear().element(array) }
    fn begin(&mut self, role: D::Role, first: u8, at: usize) { self.hear_mut().begin(role, first, at); }
    fn text(&mut self, role: D::Role, piece: &[u8]) { self.hear_mut().text(role, piece); }
    fn number(&mut self, role: D::Role, value: u64) { self.hear_mut().number(role, value); }
    fn decimal(&mut self, role: D::Role, whole: u64, nanos: u32) { self.hear_mut().decimal(role, whole, nanos); }
    fn end(&mut self, role: D::Role) { self.hear_mut().end(role); }
}

#[rustfmt::skip]
impl<D: Dialect> Dialect for Watched<D> {
    type Event = D::Event;

    fn record(&self) -> &Record<D::Event> { self.reader.record() }
    fn record_mut(&mut self) -> &mut Record<D::Event> { self.reader.record_mut() }
    fn names(&self) -> u64 { self.reader.names() }
    fn stated(&self) -> Statement { self.reader.stated() }
    fn is_last(&self) -> bool { self.reader.is_last() }
    fn is_only_text(&self) -> bool { self.reader.is_only_text() }
    fn is_usage_event(&self) -> bool { self.reader.is_usage_event() }
    fn may_be_usage_event(&self) -> bool { self.reader.may_be_usage_event() }
    fn is_free(&self) -> bool { self.reader.is_free() }
}

const CHAT: &str = "data: {\"id\":\"c\",\"created\":1,\"choices\":[{\"index\":0,\"delta\":{\"content\":\"TEXT\"},\
    \"logprobs\":null,\"finish_reason\":null}]}\n\n";
const COMPLETION: &str =
    "data: {\"id\":\"c\",\"choices\":[{\"text\":\"TEXT\",\"index\":0,\"finish_reason\":null}]}\r\n\r\n";
const MESSAGE: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
    \"delta\":{\"type\":\"text_delta\",\"text\":\"TEXT\"}}\n\n";

/// How often the reader is told of something in 100 events that come by so many, after one that is like them.
fn told_of<D: Dialect + Default>(event: &str, at_once: usize) -> usize {
    let (mut stream, mut reader) = (Stream::new(true), Watched::<D>::default());
    let mut feed = |events: String, reader: &mut Watched<D>| {
        assert_eq!(stream.feed(Bytes::from(events.clone()), reader), events.as_bytes());
        *reader.told.get_mut()
    };
    let of_first = feed(event.replace("TEXT", "first"), &mut reader);
    assert!(of_first > 0, "the first event is read as JSON");
    for number in 0..100 / at_once {
        feed(event.replace("TEXT", &format!(" \\\"{number}")).repeat(at_once), &mut reader);
    }
    assert!(reader.record().delivered.count().output > 100, "and still all text is counted");
    *reader.told.get_mut() - of_first
}

#[test]
fn an_event_like_the_one_before_is_not_read_as_json() {
    for at_once in [1, 10] {
        assert_eq!(told_of::<openai::Reader>(CHAT, at_once), 0);
        assert_eq!(told_of::<openai::Reader>(COMPLETION, at_once), 0);
        assert_eq!(told_of::<anthropic::Reader>(MESSAGE, at_once), 0);
    }
}

#[test]
fn an_event_that_differs_in_more_than_its_text_is_read() {
    let usage = CHAT.replace("]}\n", "],\"usage\":{\"total_tokens\":1}}\n");
    assert!(told_of::<openai::Reader>(&usage, 1) > 100);
}
