//! The meter of one response, be it encoded or not. The bytes of an encoded one pass as they are, and what they stand for
//! is metered beside them.

use bytes::Bytes;
use keymeter_core::{
    learned::{Answer, Figures},
    usage::{Ending, Meter, Metered},
};

use crate::encoding::{ContentCoding, Layers};

/// A response's meter, and what it takes to read the response.
pub(super) struct ResponseMeter {
    meter: Meter,
    reading: Reading,
}

/// What a response is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ResponseKind {
    /// It comes in one piece, or nothing of it came.
    #[default]
    Document,
    /// Events, of which one may be added.
    Stream,
    /// Events that nobody can add to.
    EncodedStream,
}

/// How the response is read.
enum Reading {
    /// That shows in its first bytes. Its header names these codings.
    Unseen(Vec<ContentCoding>),
    /// As it is: then an event may be taken out of it, or added to it.
    Plain,
    Encoded(Box<Layers>),
    /// It turned out to be no such encoding, or too much. What was read until then is all that is known of it.
    Lost,
}

impl ResponseMeter {
    /// A meter for a response whose header names these codings, in the order in which they were applied.
    pub fn new(meter: Meter, codings: Vec<ContentCoding>) -> Self {
        Self { meter, reading: Reading::Unseen(codings) }
    }

    /// Looks at the next bytes, and says what of them is to be forwarded.
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        let layers = match &mut self.reading {
            Reading::Plain => return self.meter.feed(chunk),
            Reading::Encoded(layers) => layers,
            Reading::Unseen(codings) => {
                if !chunk.is_empty() {
                    self.reading = begin(std::mem::take(codings), &chunk);
                    return self.feed(chunk);
                }
                return chunk;
            }
            Reading::Lost => return chunk,
        };
        let meter = &mut self.meter;
        if let Err(error) = layers.feed(&chunk, &mut |plain| drop(meter.feed(Bytes::copy_from_slice(plain)))) {
            tracing::debug!("a response is not read to its end: {error}");
            self.reading = Reading::Lost;
        }
        chunk
    }

    /// At the response's end: what was held back and is to be forwarded after all.
    pub fn flush(&mut self) -> Option<Bytes> {
        let held = self.meter.flush();
        held.filter(|_| self.is_plain())
    }

    /// Whether the response is read as it is, as far as it has shown.
    pub fn is_plain(&self) -> bool {
        match &self.reading {
            Reading::Unseen(codings) => codings.is_empty(),
            Reading::Plain => true,
            Reading::Encoded(_) | Reading::Lost => false,
        }
    }

    /// Whether the response's end was seen in its bytes.
    pub fn ended(&self) -> bool {
        self.meter.ended()
    }

    /// What the response is, as far as it has shown.
    pub fn kind(&self) -> ResponseKind {
        match (self.meter.is_stream(), self.is_plain()) {
            (false, _) => ResponseKind::Document,
            (true, true) => ResponseKind::Stream,
            (true, false) => ResponseKind::EncodedStream,
        }
    }

    /// The answer's id, where requests can go on from it.
    pub fn answer_id(&self) -> Option<&str> {
        self.meter.answer_id()
    }

    /// Whether any text has passed.
    pub fn text_delivered(&self) -> bool {
        self.meter.text_delivered()
    }

    /// Whether the upstream said within its response that it failed.
    pub fn failed(&self) -> bool {
        self.meter.failed()
    }

    /// What the response used, which came to its end or did not, for a model of which these `figures` are known. What could not
    /// be read to its end counts as cut.
    pub fn finish(
        &mut self,
        complete: bool,
        prompt: impl FnOnce() -> u64,
        figures: impl FnOnce() -> Figures,
    ) -> Metered {
        let meter = &mut self.meter;
        let is_read = match &mut self.reading {
            Reading::Unseen(_) | Reading::Plain => true,
            Reading::Encoded(layers) => {
                layers.end(&mut |plain| drop(meter.feed(Bytes::copy_from_slice(plain))));
                layers.is_whole()
            }
            Reading::Lost => false,
        };
        let ending = if complete && is_read { Ending::Complete } else { Ending::Early };
        self.meter.finish_for(ending, prompt, figures)
    }

    /// What the tokenizer finds in a response that came to its end.
    pub fn answer(&self) -> Answer {
        self.meter.answer(Ending::Complete)
    }

    /// The bytes that are kept of the response.
    pub fn held_bytes(&self) -> usize {
        self.meter.held_bytes()
    }
}

/// How a response is read that begins with `piece`. One that is plain and says so is read as it is.
fn begin(codings: Vec<ContentCoding>, piece: &[u8]) -> Reading {
    if Layers::is_plain(&codings, piece) { Reading::Plain } else { Reading::Encoded(Box::new(Layers::new(codings))) }
}

#[cfg(test)]
mod tests {
    use keymeter_core::{
        api::Endpoint,
        usage::{Form, Usage, UsageSource, count_tokens},
    };

    use super::*;
    use crate::encoding::{
        ContentCoding,
        tests::{WAYS, encoded},
    };

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one two \"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":40,\"completion_tokens\":132}}\n\n",
        "data: [DONE]\n\n",
    );
    const ANSWER: &str =
        r#"{"choices":[{"message":{"content":"one two "}}],"usage":{"prompt_tokens":40,"completion_tokens":132}}"#;

    fn meter(label: Form, codings: &[ContentCoding]) -> ResponseMeter {
        ResponseMeter::new(Meter::new(Endpoint::ChatCompletions, label, false), codings.to_vec())
    }

    fn counted(metered: &Metered) -> (u64, u64, UsageSource) {
        let Usage { input, output, .. } = metered.usage;
        (input, output, metered.source)
    }

    fn finished(meter: &mut ResponseMeter) -> (u64, u64, UsageSource) {
        counted(&meter.finish(true, || 9, || Figures::of("")))
    }

    #[test]
    fn an_encoded_response_counts_as_its_plain_twin_in_every_cut() {
        for (way, coding) in WAYS {
            for (label, plain) in
                [(Form::Sse, STREAM), (Form::Json, STREAM), (Form::Json, ANSWER), (Form::Other, ANSWER)]
            {
                let body = encoded(way, plain.as_bytes());
                for at in 0..=body.len() {
                    let (one, other) = body.split_at(at);
                    let mut meter = meter(label, &[coding]);
                    for piece in [one, other].map(Bytes::copy_from_slice) {
                        assert_eq!(meter.feed(piece.clone()), piece, "{way}: the bytes are unchanged");
                    }
                    assert!(
                        meter.ended() && meter.text_delivered() && meter.kind() != ResponseKind::Stream,
                        "{way} cut at {at}"
                    );
                    assert_eq!(meter.flush(), None);
                    assert_eq!(finished(&mut meter), (40, 132, UsageSource::Upstream), "{way} cut at {at}");
                }
            }
        }
    }

    /// Bodies whose codings are not those that their header names.
    fn mislabelled(plain: &str) -> Vec<(String, Vec<ContentCoding>, Vec<u8>)> {
        use ContentCoding::{Brotli, Deflate, Gzip, Zstd};
        let gzip = encoded("gzip", plain.as_bytes());
        let twice = encoded("gzip", &gzip);
        let mut bodies = vec![
            ("gzip that nothing says".to_owned(), vec![], gzip.clone()),
            ("zstd that nothing says".to_owned(), vec![], encoded("zstd", plain.as_bytes())),
            ("gzip named br".to_owned(), vec![Brotli], gzip.clone()),
            ("gzip in gzip".to_owned(), vec![Gzip, Gzip], twice.clone()),
            ("gzip in gzip named once".to_owned(), vec![Gzip], twice.clone()),
            ("gzip in gzip that nothing says".to_owned(), vec![], twice),
            ("gzip named twice".to_owned(), vec![Gzip, Gzip], gzip.clone()),
            ("gzip, then deflate".to_owned(), vec![Gzip, Deflate], encoded("deflate", &gzip)),
            ("br, then gzip".to_owned(), vec![Brotli, Gzip], encoded("gzip", &encoded("br", plain.as_bytes()))),
            ("gzip around what is named deflate".to_owned(), vec![Deflate], {
                encoded("gzip", &encoded("deflate", plain.as_bytes()))
            }),
        ];
        for label in [Gzip, Deflate, Brotli, Zstd] {
            bodies.push((format!("plain named {label:?}"), vec![label], plain.as_bytes().to_vec()));
            bodies.push((format!("plain named {label:?} twice"), vec![label, label], plain.as_bytes().to_vec()));
        }
        bodies
    }

    #[test]
    fn what_a_body_is_its_first_bytes_say_whatever_its_header_names() {
        let spaced = ANSWER.replacen('{', "{\n  ", 1);
        for plain in [STREAM, ANSWER, &spaced] {
            for (name, codings, body) in mislabelled(plain) {
                for size in [1, 2, 3, 7, 10_000] {
                    let mut meter = meter(Form::Other, &codings);
                    for piece in body.chunks(size).map(Bytes::copy_from_slice) {
                        assert_eq!(meter.feed(piece.clone()), piece, "{name}: the bytes are unchanged");
                    }
                    assert!(meter.ended() && meter.kind() != ResponseKind::Stream, "{name} by {size}");
                    assert_eq!(finished(&mut meter), (40, 132, UsageSource::Upstream), "{name} by {size}");
                }
            }
        }
    }

    #[test]
    fn bytes_too_few_to_tell_are_plain() {
        for (codings, body) in
            [(&[][..], &b"\x1f"[..]), (&[ContentCoding::Brotli], b"d"), (&[ContentCoding::Gzip], b"{}")]
        {
            let mut meter = meter(Form::Json, codings);
            let _ = meter.feed(Bytes::copy_from_slice(body));
            assert_eq!(finished(&mut meter).0, 9, "{codings:?}: {body:?} is not free");
        }
    }

    #[test]
    fn what_cannot_be_read_to_its_end_is_charged_as_far_as_it_was_read() {
        let (words, _) = STREAM.split_once("data: {\"choices\":[],").unwrap();
        for (way, coding) in WAYS {
            let body = encoded(way, words.as_bytes());
            for (body, output) in [(body.as_slice(), count_tokens("one two ")), (&body[..body.len() / 2], 0)] {
                let mut meter = meter(Form::Sse, &[coding]);
                let _ = meter.feed(Bytes::copy_from_slice(body));
                let (input, found, source) = finished(&mut meter);
                assert_eq!((input, source), (9, UsageSource::Estimated), "{way}");
                assert!(found <= count_tokens("one two ") && found >= output, "{way}: {found}");
            }
            for noise in [&b"{\"usage\":{}}"[..], &[0xff; 30], &[0]] {
                let mut meter = meter(Form::Json, &[coding]);
                assert_eq!(meter.feed(Bytes::copy_from_slice(noise)), noise, "{way}");
                assert_eq!(finished(&mut meter).0, 9, "{way}: {noise:?} is not free");
            }
            let nothing = finished(&mut meter(Form::Json, &[coding]));
            assert_eq!(nothing, (0, 0, UsageSource::None), "{way}: an answer without a byte is an error's");
        }
    }

    #[test]
    fn an_encoding_that_nobody_knows_may_be_none_at_all() {
        let mut plain = meter(Form::Json, &[]);
        assert_eq!(plain.feed(Bytes::from(ANSWER)), ANSWER);
        assert!(plain.ended());
        assert_eq!(finished(&mut plain), (40, 132, UsageSource::Upstream));
        let mut other = meter(Form::Json, &[]);
        let _ = other.feed(Bytes::from_static(b"\x1f\x9d\x90binary"));
        assert_eq!(finished(&mut other), (9, 0, UsageSource::Estimated));
    }

    #[test]
    fn very_much_of_little_is_charged_as_far_as_it_was_read() {
        let plain = format!("{{\"choices\":[{{\"padding\":\"{}\"}}]}}", "x".repeat(64 << 20));
        for (way, coding) in WAYS {
            let mut meter = meter(Form::Json, &[coding]);
            let body = Bytes::from(encoded(way, plain.as_bytes()));
            for piece in body.chunks(65_536) {
                assert_eq!(meter.feed(Bytes::copy_from_slice(piece)), piece);
            }
            assert!(matches!(meter.reading, Reading::Lost), "{way}: what it kept is given back");
            assert!(!meter.ended(), "{way}");
            assert_eq!(finished(&mut meter), (9, 0, UsageSource::Estimated), "{way}");
        }
    }
}
