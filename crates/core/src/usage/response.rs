//! One response on its way to the client: its framing, and the reader of its API.

use bytes::Bytes;

use super::delivered::{Delivered, Kind};
use super::dialect::{Charge, Dialect};
use super::documents::Documents;
use super::json::Scanner;
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
    /// Whether it is a stream of events.
    fn is_stream(&self) -> bool;
    /// Whether any byte of it came.
    fn has_begun(&self) -> bool;
    /// When it is charged for: never, if its form is not known and it is text.
    fn charge(&self) -> Charge;
    /// What was stated so far.
    fn stated(&self) -> Statement;
    /// What was delivered so far.
    fn delivered(&self) -> &Delivered;
    /// Whether the upstream said that it failed.
    fn failed(&self) -> bool;
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
    fn is_stream(&self) -> bool { panic!("broken") }
    fn has_begun(&self) -> bool { panic!("broken") }
    fn charge(&self) -> Charge { panic!("broken") }
    fn stated(&self) -> Statement { panic!("broken") }
    fn delivered(&self) -> &Delivered { panic!("broken") }
    fn failed(&self) -> bool { panic!("broken") }
    fn held_bytes(&self) -> usize { panic!("broken") }
}

/// A response of one API.
pub(super) struct Read<D: Dialect> {
    framing: Framing<D>,
    reader: D,
    has_begun: bool,
}

/// How the response is framed.
enum Framing<D: Dialect> {
    Sse(Stream<D>),
    Json(Scanner<D>),
    Documents(Documents<D>),
    /// All of it is what was asked for.
    Text,
    /// It passes unread.
    Other,
}

impl<D: Dialect> Read<D> {
    /// A response before its first byte. With `remove_usage_event`, that event is taken out.
    pub(super) fn new(reader: D, form: Form, remove_usage_event: bool) -> Box<Self> {
        Self::framed(
            reader,
            match form {
                Form::Sse => Framing::Sse(Stream::new(remove_usage_event)),
                Form::Json => Framing::Json(Scanner::new()),
                Form::Ndjson => Framing::Documents(Documents::new(true)),
                Form::Text | Form::Other => Framing::Other,
            },
        )
    }

    /// The same, where an answer of plain text is what was asked for.
    pub(super) fn or_text(reader: D, form: Form) -> Box<Self> {
        if form == Form::Text { Self::framed(reader, Framing::Text) } else { Self::new(reader, form, false) }
    }

    /// The same, where JSON may be several documents.
    pub(super) fn or_documents(reader: D, form: Form) -> Box<Self> {
        let documents = Framing::Documents(Documents::new(false));
        if form == Form::Json { Self::framed(reader, documents) } else { Self::new(reader, form, false) }
    }

    fn framed(reader: D, framing: Framing<D>) -> Box<Self> {
        Box::new(Self { framing, reader, has_begun: false })
    }
}

impl<D: Dialect> Response for Read<D> {
    fn of_prompts(&mut self, prompts: u64) {
        self.reader.of_prompts(prompts);
    }

    fn feed(&mut self, chunk: Bytes) -> Bytes {
        self.has_begun |= !chunk.is_empty();
        match &mut self.framing {
            Framing::Sse(stream) => return stream.feed(chunk, &mut self.reader),
            Framing::Json(scanner) => {
                scanner.feed(&chunk, &mut self.reader);
            }
            Framing::Documents(documents) => documents.feed(&chunk, &mut self.reader),
            Framing::Text => self.reader.record_mut().deliver(0, Kind::Answer, &chunk),
            Framing::Other => {}
        }
        chunk
    }

    fn flush(&mut self) -> Option<Bytes> {
        match &mut self.framing {
            Framing::Sse(stream) => stream.flush(&self.reader),
            _ => None,
        }
    }

    fn ended(&self) -> bool {
        match &self.framing {
            Framing::Sse(stream) => stream.ended(),
            Framing::Json(scanner) => scanner.is_closed(),
            Framing::Documents(documents) => documents.ended(),
            Framing::Text | Framing::Other => false,
        }
    }

    fn is_whole(&self, ending: Ending) -> bool {
        let may_end_anywhere = !matches!(self.framing, Framing::Json(_));
        self.ended() || may_end_anywhere && ending == Ending::Complete
    }

    fn is_stream(&self) -> bool {
        match &self.framing {
            Framing::Sse(_) => true,
            Framing::Documents(documents) => documents.is_stream(),
            _ => false,
        }
    }

    fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn charge(&self) -> Charge {
        match self.reader.charge() {
            Charge::IfRead if matches!(self.framing, Framing::Other) => Charge::Never,
            charge => charge,
        }
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

    fn held_bytes(&self) -> usize {
        let framing = if let Framing::Sse(stream) = &self.framing { stream.held_bytes() } else { 0 };
        size_of::<Self>() + framing + self.delivered().held_bytes()
    }
}
