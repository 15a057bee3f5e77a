//! What a prompt and an answer are made of: the parts of which each takes its tokens.

use super::template::Family;
use crate::{api::Endpoint, body::Outline};

/// A prompt, whatever its text is counted in.
#[derive(Clone, Copy, Debug)]
pub struct Prompt {
    endpoint: Endpoint,
    messages: u64,
    has_instructions: bool,
    calls: u64,
    tools: u64,
    has_tools: bool,
    has_format: bool,
    json_parts: u64,
}

/// The text of an answer that was delivered, in tokens of `o200k_base`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Of content, refusals and reasoning.
    pub prose: u64,
    /// The part of it that is reasoning.
    pub reasoning: u64,
    /// Of tools' names, and of what they are called with.
    pub json: u64,
    /// How many tools are called.
    pub calls: u64,
    /// Whether its end was seen, and with it the tags that are not delivered.
    pub is_whole: bool,
}

/// Factors of a prompt: for the whole of it, for each message, for prose, for JSON, and where there are tools.
pub(super) const PROMPT: usize = 5;
/// Factors of an answer: for the whole of it, for each call, for prose, and for JSON.
pub(super) const ANSWER: usize = 4;

/// What the table knows of a text, and the parts that factors correct.
pub(super) struct Parts<const N: usize> {
    pub known: f64,
    pub varying: [f64; N],
}

impl Prompt {
    /// A prompt of this makeup.
    #[must_use]
    pub fn new(endpoint: Endpoint, outline: &Outline) -> Self {
        // A generation's prompt is put into the template as one message.
        let messages = if endpoint == Endpoint::OllamaGenerate { 1 } else { outline.messages };
        Self {
            endpoint,
            messages,
            has_instructions: outline.instructions > 0,
            calls: outline.calls,
            tools: outline.tools,
            has_tools: outline.has_tools,
            has_format: outline.has_format,
            json_parts: outline.json_parts,
        }
    }

    /// Its parts, where so many tokens of `o200k_base` are in its prose and its JSON.
    pub(super) fn parts(&self, family: &Family, prose: f64, json: f64) -> Parts<PROMPT> {
        let template = &family.template(self.endpoint).prompt;
        let prose = prose * template.prose;
        let json = json * template.json + real(self.json_parts) * template.part;
        if !is_conversation(self.endpoint) {
            return Parts { known: 0.0, varying: [1.0, 0.0, prose, json, 0.0] };
        }
        let where_there = |is_there: bool, tokens: f64| if is_there { tokens } else { 0.0 };
        let known = template.all
            + real(self.messages) * template.message
            + where_there(self.has_instructions, template.instructions)
            + real(self.calls) * template.call
            + where_there(self.has_tools, template.tools)
            + real(self.tools) * template.tool
            + where_there(self.has_format, template.format);
        Parts { known, varying: [1.0, real(self.messages), prose, json, where_there(self.has_tools, 1.0)] }
    }
}

impl Answer {
    pub(super) fn parts(&self, family: &Family, endpoint: Endpoint) -> Parts<ANSWER> {
        let template = &family.template(endpoint).answer;
        let (prose, json) = (real(self.prose) * template.prose, real(self.json) * template.json);
        if !self.is_whole || !is_conversation(endpoint) {
            return Parts { known: 0.0, varying: [0.0, 0.0, prose, json] };
        }
        let several = if self.calls > 1 { template.several } else { 0.0 };
        let known = template.turn + real(self.calls) * template.call + several;
        Parts { known, varying: [1.0, real(self.calls), prose, json] }
    }
}

/// Whether a chat template is applied there.
fn is_conversation(endpoint: Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::ChatCompletions
            | Endpoint::Responses
            | Endpoint::Messages
            | Endpoint::CountTokens
            | Endpoint::OllamaChat
            | Endpoint::OllamaGenerate
            | Endpoint::GenerateContent
            | Endpoint::StreamGenerateContent
    )
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "an estimate of over 2^53 tokens may be one off")]
pub(super) fn real(count: u64) -> f64 {
    count as f64
}

/// The whole tokens of a number; none of one below zero.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates, as it should")]
pub(super) fn whole(tokens: f64) -> u64 {
    tokens as u64
}
