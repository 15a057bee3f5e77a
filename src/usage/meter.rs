//! Looks at a response while it passes, and says at the end what it used.

use bytes::Bytes;

use crate::api::Endpoint;

use super::json::Scanner;
use super::openai::{Reader, Statement};
use super::stream::Stream;
use super::{Ending, Form, Metered, Source, Usage};

/// One response's meter. Give it each chunk as it comes; it keeps at most 64 KiB, whatever comes.
pub struct Meter {
    body: Body,
    reader: Reader,
}

/// How the response is framed.
enum Body {
    Sse(Stream),
    Json(Scanner<Reader>),
    Other,
}

impl Meter {
    /// A meter for a response of `endpoint` whose Content-Type says `form`. With `remove_usage_event`, the extra event
    /// that `stream_options.include_usage` brings is taken out: it was not the client who asked for it.
    #[must_use]
    pub fn new(endpoint: Endpoint, form: Form, remove_usage_event: bool) -> Self {
        let body = match form {
            Form::Sse => Body::Sse(Stream::new(remove_usage_event)),
            Form::Json => Body::Json(Scanner::new()),
            Form::Other => Body::Other,
        };
        Self { body, reader: Reader::new(endpoint) }
    }

    /// Looks at the next bytes and gives back what is to be forwarded now: the same bytes, not copied, unless a usage
    /// event that is to be taken out is, or may be, among them.
    #[must_use]
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        match &mut self.body {
            Body::Sse(stream) => stream.feed(chunk, &mut self.reader),
            Body::Json(scanner) => {
                scanner.feed(&chunk, &mut self.reader);
                chunk
            }
            Body::Other => chunk,
        }
    }

    /// After the last chunk: what was held back and is to be forwarded after all.
    pub fn flush(&mut self) -> Option<Bytes> {
        match &mut self.body {
            Body::Sse(stream) => stream.flush(&self.reader),
            Body::Json(_) | Body::Other => None,
        }
    }

    /// Whether the response's end was seen in its bytes: `[DONE]`, or the closing brace of a JSON answer.
    #[must_use]
    pub fn ended(&self) -> bool {
        match &self.body {
            Body::Sse(stream) => stream.ended(),
            Body::Json(scanner) => scanner.is_closed(),
            Body::Other => false,
        }
    }

    /// Whether the response is a stream of server-sent events.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.body, Body::Sse(_))
    }

    /// Whether any text has passed; the first time is the time to first token.
    #[must_use]
    pub fn text_delivered(&self) -> bool {
        self.reader.delivered().any()
    }

    /// The bytes this meter keeps of the response at the moment.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let framing = match &self.body {
            Body::Sse(stream) => stream.held_bytes(),
            Body::Json(_) | Body::Other => 0,
        };
        size_of::<Self>() + framing + self.reader.delivered().held_bytes()
    }

    /// The usage: what was stated, or where nothing was or the response ended early, what the delivered text is in
    /// tokens (or what was stated, if that is more). `prompt_estimate`, in tokens, stands for an input nobody stated.
    #[must_use]
    pub fn finish(self, ending: Ending, prompt_estimate: impl FnOnce() -> u64) -> Metered {
        let stated = self.reader.stated();
        if self.used_nothing(&stated, ending) {
            return Metered { usage: Usage::default(), source: Source::None };
        }
        if let (true, Some(input), Some(output)) = (self.is_whole(ending), stated.input, stated.output) {
            return Metered { usage: usage(&stated, input, output, 0), source: Source::Upstream };
        }
        let found = self.reader.delivered().estimate();
        let output = stated.output.unwrap_or(0).max(found.output);
        let usage = usage(&stated, stated.input.unwrap_or_else(prompt_estimate), output, found.reasoning);
        Metered { usage, source: Source::Estimated }
    }

    fn used_nothing(&self, stated: &Statement, ending: Ending) -> bool {
        let failed = ending == Ending::Failed || self.reader.failed();
        let says_nothing = *stated == Statement::default() && !self.text_delivered();
        matches!(self.body, Body::Other) || failed && says_nothing
    }

    fn is_whole(&self, ending: Ending) -> bool {
        match &self.body {
            Body::Sse(stream) => ending == Ending::Complete || stream.ended(),
            Body::Json(scanner) => scanner.is_closed(),
            Body::Other => false,
        }
    }
}

/// Reasoning is part of the output, so it is never more.
fn usage(stated: &Statement, input: u64, output: u64, reasoning_found: u64) -> Usage {
    Usage {
        input,
        cached_input: stated.cached_input.unwrap_or(0),
        cache_write: 0,
        output,
        reasoning: stated.reasoning.unwrap_or(reasoning_found).min(output),
    }
}

#[cfg(test)]
mod tests;
