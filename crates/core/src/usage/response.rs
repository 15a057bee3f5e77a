//! One response on its way to the client: its framing, and the reader of its API.

use bytes::{Bytes, BytesMut};

use super::delivered::{Delivered, Kind};
use super::dialect::Dialect;
use super::documents::Documents;
use super::json::Scanner;
use super::opening::{Beginning, Evidence, Opening, TextCheck};
use super::stated::Statement;
use super::stream::Stream;
use super::{Ending, Form};

/// A response of any API.
pub(super) trait Response: Send + Sync {
    /// The request has several prompts, each with choices of its own.
    fn of_prompts(&mut self, prompts: u64);
    /// Looks at the next bytes; gives back what is to be forwarded.
    fn feed(&mut self, chunk: Bytes) -> Bytes;
    /// What was held back and is to be forwarded after all.
    fn flush(&mut self) -> Option<Bytes>;
    /// Whether its end was seen in its bytes.
    fn ended(&self) -> bool;
    /// Whether it came to its end.
    fn is_whole(&self, ending: Ending) -> bool;
    /// Whether what was stated is the usage of all of it, though its end may be missing.
    fn has_final_usage(&self) -> bool;
    /// Whether it is a stream of events.
    fn is_stream(&self) -> bool;
    /// Whether any byte of it came.
    fn has_begun(&self) -> bool;
    /// Whether the API gives it for nothing.
    fn is_free(&self) -> bool;
    /// What was stated so far.
    fn stated(&self) -> Statement;
    /// What was delivered so far.
    fn delivered(&self) -> &Delivered;
    /// Whether the upstream said that it failed.
    fn failed(&self) -> bool;
    /// The answer's id, where requests can go on from it.
    fn answer_id(&self) -> Option<&str>;
    /// The bytes that are kept.
    fn held_bytes(&self) -> usize;
}

/// A response whose reader has a fault that nobody thought of.
#[cfg(any(test, feature = "test-util"))]
pub(super) struct Broken;

#[cfg(any(test, feature = "test-util"))]
#[rustfmt::skip]
#[allow(clippy::panic, reason = "panics are what it is for")]
impl Response for Broken {
    fn of_prompts(&mut self, _: u64) {}
    fn feed(&mut self, _: Bytes) -> Bytes { panic!("broken") }
    fn flush(&mut self) -> Option<Bytes> { panic!("broken") }
    fn ended(&self) -> bool { panic!("broken") }
    fn is_whole(&self, _: Ending) -> bool { panic!("broken") }
    fn has_final_usage(&self) -> bool { panic!("broken") }
    fn is_stream(&self) -> bool { panic!("broken") }
    fn has_begun(&self) -> bool { panic!("broken") }
    fn is_free(&self) -> bool { panic!("broken") }
    fn stated(&self) -> Statement { panic!("broken") }
    fn delivered(&self) -> &Delivered { panic!("broken") }
    fn failed(&self) -> bool { panic!("broken") }
    fn answer_id(&self) -> Option<&str> { panic!("broken") }
    fn held_bytes(&self) -> usize { panic!("broken") }
}

/// What an endpoint answers, beside one JSON document or a stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// What a model wrote: bytes that nobody can read are its text.
    Written,
    /// The same, and JSON may be several documents.
    Documents,
    /// Plain text is what was asked for.
    Transcript,
    /// Numbers or pictures: bytes that nobody can read say nothing.
    Data,
    /// Sound.
    Sound,
}

/// A response of one API.
pub(super) struct Read<D: Dialect> {
    framing: Framing<D>,
    reader: D,
    expected: Expected,
    has_begun: bool,
}

/// What is known of a response before its first byte.
#[derive(Clone, Copy)]
struct Expected {
    answer: Answer,
    /// What its Content-Type says.
    label: Form,
    removes_usage_event: bool,
}

/// How the response is framed.
enum Framing<D: Dialect> {
    /// That is still to be seen.
    Unseen(Opening),
    Sse(Stream<D>),
    Json(Scanner<D>),
    Documents(Documents<D>),
    /// All of it is what was asked for, or what nobody can read, as long as that is text.
    Text(Option<TextCheck>),
    /// It passes unread.
    Other,
}

impl Expected {
    /// How much a bracket or a field's name proves: a transcript may begin with one, and sound by chance.
    fn evidence(self) -> Evidence {
        let is_labelled = matches!(self.label, Form::Sse | Form::Json | Form::Ndjson);
        match self.answer {
            _ if self.label == Form::Media => Evidence::Proof,
            Answer::Transcript | Answer::Sound if !is_labelled => Evidence::Proof,
            _ => Evidence::First,
        }
    }

    fn framing<D: Dialect>(self, beginning: Beginning) -> Framing<D> {
        match beginning {
            Beginning::Events => self.events(),
            Beginning::Object if self.label == Form::Ndjson => Framing::Documents(Documents::new(true)),
            Beginning::Object if self.answer == Answer::Documents => Framing::Documents(Documents::new(false)),
            Beginning::Object | Beginning::Array => Framing::Json(Scanner::new()),
            Beginning::Other => self.unlike_any(),
        }
    }

    fn events<D: Dialect>(self) -> Framing<D> {
        Framing::Sse(Stream::new(self.removes_usage_event))
    }

    /// What begins like nothing that the API sends. A stream may all the same be one, whose first line is broken or is
    /// llama.cpp's `error:`; no JSON can.
    fn unlike_any<D: Dialect>(self) -> Framing<D> {
        match (self.label, self.answer) {
            (Form::Sse, _) => self.events(),
            (Form::Ndjson, _) => Framing::Documents(Documents::new(true)),
            (Form::Media, _) | (_, Answer::Data | Answer::Sound) => Framing::Other,
            (Form::Text, Answer::Transcript) => Framing::Text(None),
            (Form::Json | Form::Text | Form::Other, Answer::Written | Answer::Documents | Answer::Transcript) => {
                Framing::Text(Some(TextCheck::default()))
            }
        }
    }
}

impl<D: Dialect> Read<D> {
    /// A response before its first byte, whose Content-Type says `label`. With `removes_usage_event`, that event is taken
    /// out.
    pub(super) fn new(reader: D, answer: Answer, label: Form, removes_usage_event: bool) -> Box<Self> {
        let expected = Expected { answer, label, removes_usage_event };
        let framing = Framing::Unseen(Opening::new(expected.evidence()));
        Box::new(Self { framing, reader, expected, has_begun: false })
    }

    /// Reads bytes of a response of which it is known how it is framed.
    fn read(&mut self, chunk: Bytes) -> Bytes {
        match &mut self.framing {
            Framing::Sse(stream) => return stream.feed(chunk, &mut self.reader),
            Framing::Json(scanner) => {
                scanner.feed(&chunk, &mut self.reader);
            }
            Framing::Documents(documents) => documents.feed(&chunk, &mut self.reader),
            Framing::Text(check) => {
                if check.as_mut().is_none_or(|check| check.is_text(&chunk)) {
                    self.reader.record_mut().deliver(0, Kind::Answer, &chunk);
                } else {
                    self.reader.record_mut().delivered = Delivered::default();
                    self.framing = Framing::Other;
                }
            }
            Framing::Unseen(_) | Framing::Other => {}
        }
        chunk
    }
}

impl<D: Dialect> Response for Read<D> {
    fn of_prompts(&mut self, prompts: u64) {
        self.reader.of_prompts(prompts);
    }

    fn feed(&mut self, chunk: Bytes) -> Bytes {
        self.has_begun |= !chunk.is_empty();
        let Framing::Unseen(opening) = &mut self.framing else { return self.read(chunk) };
        let opened = opening.look(chunk);
        let Some((beginning, bytes)) = opened.response else { return opened.blank };
        self.framing = self.expected.framing(beginning);
        joined(opened.blank, self.read(bytes))
    }

    fn flush(&mut self) -> Option<Bytes> {
        let mut held = Bytes::new();
        if let Framing::Unseen(opening) = &mut self.framing {
            let bytes = opening.take_held();
            self.framing = self.expected.framing(Beginning::Other);
            held = self.read(bytes);
        }
        if let Framing::Sse(stream) = &mut self.framing {
            held = joined(held, stream.flush(&self.reader).unwrap_or_default());
        }
        (!held.is_empty()).then_some(held)
    }

    fn ended(&self) -> bool {
        match &self.framing {
            Framing::Sse(stream) => stream.ended(),
            Framing::Json(scanner) => scanner.is_closed(),
            Framing::Documents(documents) => documents.ended(),
            Framing::Unseen(_) | Framing::Text(_) | Framing::Other => false,
        }
    }

    fn is_whole(&self, ending: Ending) -> bool {
        let may_end_anywhere = !matches!(self.framing, Framing::Json(_));
        self.ended() || may_end_anywhere && ending == Ending::Complete
    }

    fn has_final_usage(&self) -> bool {
        let is_one_document = matches!(self.framing, Framing::Json(_)) && self.reader.states_once();
        is_one_document || self.reader.record().has_final_usage()
    }

    fn is_stream(&self) -> bool {
        match &self.framing {
            Framing::Unseen(_) => matches!(self.expected.label, Form::Sse | Form::Ndjson),
            Framing::Sse(_) => true,
            Framing::Documents(documents) => documents.is_stream(),
            Framing::Json(_) | Framing::Text(_) | Framing::Other => false,
        }
    }

    fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn is_free(&self) -> bool {
        self.reader.is_free()
    }

    fn stated(&self) -> Statement {
        self.reader.stated()
    }

    fn delivered(&self) -> &Delivered {
        &self.reader.record().delivered
    }

    fn failed(&self) -> bool {
        self.reader.record().failed
    }

    fn answer_id(&self) -> Option<&str> {
        self.reader.answer_id()
    }

    fn held_bytes(&self) -> usize {
        let framing = match &self.framing {
            Framing::Unseen(opening) => opening.held_bytes(),
            Framing::Sse(stream) => stream.held_bytes(),
            _ => 0,
        };
        size_of::<Self>() + framing + self.delivered().held_bytes()
    }
}

/// One after the other; nothing is copied unless there is something of both.
fn joined(one: Bytes, other: Bytes) -> Bytes {
    if one.is_empty() {
        return other;
    }
    if other.is_empty() {
        return one;
    }
    let mut both = BytesMut::from(one);
    both.extend_from_slice(&other);
    both.freeze()
}
