//! What holds of every response: no cut makes a difference, every byte passes but those of a usage event that is taken
//! out, memory is bounded, and whoever leaves after the end has not left early.

use bytes::Bytes;
use keymeter_core::{
    api::Endpoint,
    usage::{Ending, Form, Meter, Metered, UsageSource},
};

use crate::{Input, events};

/// One endpoint for each reader of responses.
const ENDPOINTS: [Endpoint; 14] = [
    Endpoint::ChatCompletions,
    Endpoint::Responses,
    Endpoint::Embeddings,
    Endpoint::Rerank,
    Endpoint::ImageGenerations,
    Endpoint::Speech,
    Endpoint::Transcriptions,
    Endpoint::Messages,
    Endpoint::CountTokens,
    Endpoint::OllamaChat,
    Endpoint::OllamaEmbed,
    Endpoint::StreamGenerateContent,
    Endpoint::EmbedContent,
    Endpoint::Completions,
];

/// The most bytes that a meter keeps, whatever comes.
const MOST_HELD: usize = 64 * 1024;

/// Longer responses are beyond what a cut makes no difference to: an event of more than 8 KiB is not held back, and
/// text of more than 40 KiB is counted in parts that depend on the reads.
const LONGEST: usize = 4096;

/// The prompt's estimate, which no statement in a fixture equals.
const PROMPT: u64 = 1_000_003;

/// A response, and the pieces in which it comes.
#[derive(Clone, Copy)]
pub struct ResponseInput<'a> {
    /// The whole of it.
    pub response: &'a [u8],
    /// How it ends.
    ending: Ending,
    /// How many prompts were asked for.
    prompts: u64,
    /// How often it is repeated to see what is kept of it.
    repeats: u8,
    /// How long the pieces are, over and over; a byte each where nothing says.
    lengths: &'a [u8],
}

/// How long the pieces are without a plan.
const UNPLANNED: [u8; 6] = [1, 2, 3, 5, 8, 13];

impl<'a> ResponseInput<'a> {
    fn of(input: &Input<'a>) -> Self {
        let flags = input.planned(1);
        Self {
            response: input.sent,
            ending: if flags & 1 == 0 { Ending::Early } else { Ending::Complete },
            prompts: u64::from(flags >> 1 & 3),
            repeats: flags & 0xf8,
            lengths: input.plan.map_or(&UNPLANNED, |plan| plan.get(2..).unwrap_or_default()),
        }
    }

    /// How the plan would have it metered.
    #[must_use]
    pub fn case(&self, endpoint: Endpoint, form: Form) -> Case {
        Case { endpoint, form, removes: false, ending: self.ending, prompts: self.prompts }
    }

    fn pieces(&self) -> Vec<&'a [u8]> {
        let ones = self.lengths.iter().all(|length| *length == 0);
        let mut lengths = if ones { &[1] } else { self.lengths }.iter().cycle();
        let (mut rest, mut pieces) = (self.response, Vec::new());
        while !rest.is_empty() {
            let length = lengths.next().map_or(1, |length| usize::from(*length)).min(rest.len());
            let (piece, after) = rest.split_at(length);
            pieces.push(piece);
            rest = after;
        }
        pieces
    }
}

/// How a response is metered.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Whose response it is.
    pub endpoint: Endpoint,
    /// How it is framed.
    pub form: Form,
    /// Whether the usage event is taken out.
    pub removes: bool,
    /// How it ends.
    pub ending: Ending,
    /// How many prompts were asked for; 0 where nobody says.
    pub prompts: u64,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was used.
    pub metered: Metered,
    /// What went on to the client.
    pub forwarded: Vec<u8>,
    /// Whether the end was seen.
    pub ended: bool,
    /// Whether any text was.
    pub text_delivered: bool,
    is_stream: bool,
}

impl Case {
    /// One that ends as it should, with nothing taken out.
    #[must_use]
    pub fn complete(endpoint: Endpoint, form: Form) -> Self {
        Self { endpoint, form, removes: false, ending: Ending::Complete, prompts: 0 }
    }

    /// Meters a response that comes in these pieces.
    #[must_use]
    pub fn meter(&self, pieces: &[&[u8]]) -> Outcome {
        let mut meter = Meter::new(self.endpoint, self.form, self.removes).of_prompts(self.prompts);
        let mut forwarded = Vec::new();
        for piece in pieces {
            forwarded.extend_from_slice(&meter.feed(Bytes::copy_from_slice(piece)));
            assert!(meter.held_bytes() <= MOST_HELD, "{self:?}: {} bytes held", meter.held_bytes());
        }
        forwarded.extend_from_slice(&meter.flush().unwrap_or_default());
        let (ended, text_delivered, is_stream) = (meter.ended(), meter.text_delivered(), meter.is_stream());
        Outcome { metered: meter.finish(self.ending, || PROMPT), forwarded, ended, text_delivered, is_stream }
    }

    fn holds(&self, input: &ResponseInput<'_>) -> Outcome {
        let whole = self.meter(&[input.response]);
        assert_eq!(self.meter(&input.pieces()), whole, "{self:?}: cut as planned, and whole");
        assert!(whole.metered.usage.reasoning <= whole.metered.usage.output, "{self:?}: {whole:?}");
        assert!(whole.metered.source != UsageSource::None || whole.metered == Metered::none(), "{self:?}: {whole:?}");
        if whole.ended {
            let other = if self.ending == Ending::Early { Ending::Complete } else { Ending::Early };
            assert_eq!(Self { ending: other, ..*self }.meter(&[input.response]).metered, whole.metered, "{self:?}");
        }
        if self.removes {
            events::assert_only_usage_events_are_gone(input.response, &whole.forwarded);
        } else {
            assert_eq!(whole.forwarded, input.response, "{self:?}: every byte passes");
        }
        whole
    }

    /// Repeats the response, one piece after the other, and sees that little is kept of it.
    fn keeps_little(&self, input: &ResponseInput<'_>) {
        let pieces = input.pieces();
        let repeated: Vec<&[u8]> = (0..input.repeats).flat_map(|_| pieces.iter().copied()).collect();
        let forwarded = self.meter(&repeated).forwarded.len();
        let sent = input.response.len() * usize::from(input.repeats);
        assert!(if self.removes { forwarded <= sent } else { forwarded == sent }, "{forwarded} of {sent} forwarded");
    }
}

/// Checks what holds of every response in this form, for the endpoint that the plan chooses, or for each; and then what
/// `more` says of it.
pub fn every_endpoint(data: &[u8], form: Form, more: impl Fn(Endpoint, &ResponseInput<'_>, &Outcome)) {
    let input = Input::of(data);
    let response = ResponseInput::of(&input);
    if input.sent.len() > LONGEST {
        return;
    }
    for endpoint in input.chosen(&ENDPOINTS) {
        let case = response.case(*endpoint, form);
        let outcome = case.holds(&response);
        let removing = Case { removes: true, ..case };
        if form == Form::Sse && endpoint.injects_usage() {
            assert_eq!(removing.holds(&response).metered, outcome.metered, "{removing:?}: what is taken out counts");
        }
        if response.repeats > 0 {
            removing.keeps_little(&response);
        }
        more(*endpoint, &response, &outcome);
    }
}
