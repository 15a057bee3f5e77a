//! Meters a response while it passes, and states at its end what it used.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    api::{Api, Endpoint},
    learned::{self, Figures},
};

use super::response::{Answer, Read, Response};
use super::stated::Statement;
use super::{Ending, Form, Metered, Usage, UsageSource};
use super::{anthropic, audio, free, gemini, images, input_only, ollama, openai, responses};

/// One response's meter. Give it each chunk as it comes; it keeps at most 64 KiB, whatever comes.
pub struct Meter {
    endpoint: Endpoint,
    response: Box<dyn Response>,
}

/// Who reads what an endpoint answers: one row for each API.
fn response(endpoint: Endpoint, label: Form, removes_usage_event: bool) -> Box<dyn Response> {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => {
            Read::new(openai::Reader::default(), Answer::Written, label, removes_usage_event)
        }
        Endpoint::Responses => Read::new(responses::Reader::default(), Answer::Written, label, false),
        Endpoint::Embeddings | Endpoint::Rerank | Endpoint::Score | Endpoint::Pooling | Endpoint::Classify => {
            Read::new(input_only::Reader::default(), Answer::Data, label, false)
        }
        Endpoint::Moderations => Read::new(input_only::Reader::of_moderations(), Answer::Data, label, false),
        Endpoint::ImageGenerations | Endpoint::ImageEdits => {
            Read::new(images::Reader::default(), Answer::Data, label, false)
        }
        Endpoint::Speech => Read::new(audio::Reader::default(), Answer::Sound, label, false),
        Endpoint::Transcriptions | Endpoint::Translations => {
            Read::new(audio::Reader::default(), Answer::Transcript, label, false)
        }
        Endpoint::Messages => Read::new(anthropic::Reader::default(), Answer::Written, label, false),
        Endpoint::CountTokens
        | Endpoint::GeminiCountTokens
        | Endpoint::Tokenize
        | Endpoint::Detokenize
        | Endpoint::OllamaShow => Read::new(free::Reader::default(), Answer::Data, label, false),
        Endpoint::OllamaChat | Endpoint::OllamaGenerate => {
            Read::new(ollama::Reader::default(), Answer::Documents, label, false)
        }
        Endpoint::OllamaEmbed | Endpoint::OllamaEmbeddings => {
            Read::new(ollama::Reader::of_embeddings(), Answer::Data, label, false)
        }
        Endpoint::GenerateContent | Endpoint::StreamGenerateContent => {
            Read::new(gemini::Reader::default(), Answer::Written, label, false)
        }
        Endpoint::EmbedContent | Endpoint::BatchEmbedContents => {
            Read::new(gemini::Reader::of_embeddings(), Answer::Data, label, false)
        }
    }
}

impl Meter {
    /// A meter for a response of `endpoint` whose Content-Type says `label`; what it is, its first bytes say. With
    /// `removes_usage_event`, the extra event that `stream_options.include_usage` brings is taken out of a chat's or a
    /// completion's stream: it was not the client who asked for it.
    #[must_use]
    pub fn new(endpoint: Endpoint, label: Form, removes_usage_event: bool) -> Self {
        Self { endpoint, response: response(endpoint, label, removes_usage_event) }
    }

    /// The same, for a request that has several prompts, as a completion's may: servers that state usage with each choice
    /// state the prompt that it belongs to.
    #[must_use]
    pub fn of_prompts(mut self, prompts: u64) -> Self {
        self.response.of_prompts(prompts);
        self
    }

    /// One that fails whatever is asked of it.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn broken() -> Self {
        Self { endpoint: Endpoint::ChatCompletions, response: Box::new(super::response::Broken) }
    }

    /// Looks at the next bytes and gives back what is to be forwarded now: the same bytes, not copied, unless a usage
    /// event that is to be taken out is, or may be, among them.
    #[must_use]
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        self.response.feed(chunk)
    }

    /// After the last chunk: what was held back and is to be forwarded after all.
    pub fn flush(&mut self) -> Option<Bytes> {
        self.response.flush()
    }

    /// Whether the response's end was seen in its bytes: its API's terminal event (`[DONE]`, `response.completed`,
    /// `message_stop`, `"done":true`, …), or the closing bracket of a JSON answer.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.response.ended()
    }

    /// Whether the response is a stream to which an event can be added between two others: server-sent events, or JSON
    /// documents one after the other. Gemini's stream in one JSON array is none.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.response.is_stream()
    }

    /// Whether the upstream said within its response that it failed, in whatever form its API has for that.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.response.failed()
    }

    /// The answer's id, where requests can go on from it: of a response of `OpenAI`'s.
    #[must_use]
    pub fn answer_id(&self) -> Option<&str> {
        self.response.answer_id()
    }

    /// Whether any text has passed; the first time is the time to first token.
    #[must_use]
    pub fn text_delivered(&self) -> bool {
        self.response.delivered().any()
    }

    /// The bytes this meter keeps of the response at the moment.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.response.held_bytes()
    }

    /// The usage: what was stated, or where nothing was or the response ended early, what the delivered text is in
    /// tokens of some model (or what was stated, if that is more, or is of the whole response though its end is
    /// missing), with the tags around it if it is complete.
    /// `prompt_estimate`, in tokens, stands for an input nobody stated.
    #[must_use]
    pub fn finish(&self, ending: Ending, prompt_estimate: impl FnOnce() -> u64) -> Metered {
        self.finish_for(ending, prompt_estimate, || Figures::of(""))
    }

    /// The same for a model of which these `figures` are known, where they are needed.
    #[must_use]
    pub fn finish_for(
        &self,
        ending: Ending,
        prompt_estimate: impl FnOnce() -> u64,
        figures: impl FnOnce() -> Figures,
    ) -> Metered {
        let stated = self.response.stated();
        if self.used_nothing(&stated, ending) {
            return Metered::none();
        }
        let audio = stated.audio.unwrap_or(Duration::ZERO);
        let is_whole = self.response.is_whole(ending);
        let is_of_all = (is_whole || self.response.has_final_usage()) && !stated.output_is_part;
        let as_stated = |input, output| {
            let source = if is_whole { UsageSource::Upstream } else { UsageSource::Estimated };
            Metered { usage: usage(&stated, input, output, 0), audio, source }
        };
        if let (true, false, Some(input), Some(output)) =
            (is_of_all, stated.output_is_belied, stated.input, stated.output)
        {
            return as_stated(input, output);
        }
        let (found, figures) = (self.answer(ending), figures());
        let part = || figures.answer(&learned::Answer { is_whole: false, ..found }, self.endpoint);
        let output = match (stated.input, stated.output) {
            (Some(input), Some(output)) if is_of_all && output >= part() => return as_stated(input, output),
            (_, Some(output)) => output.max(part()),
            (_, None) => figures.answer(&found, self.endpoint),
        };
        let input = stated.input.unwrap_or_else(prompt_estimate);
        let usage = usage(&stated, input, output, figures.reasoning(&found, self.endpoint));
        Metered { usage, audio, source: UsageSource::Estimated }
    }

    /// What the tokenizer finds in what was delivered. Takes time linear in what is kept of it, some milliseconds at most.
    #[must_use]
    pub fn answer(&self, ending: Ending) -> learned::Answer {
        let delivered = self.response.delivered();
        let found = delivered.count();
        let ends_silently = self.endpoint.api() == Api::Gemini && self.response.is_whole(ending);
        let has_ended = self.response.ended() || ends_silently;
        learned::Answer {
            prose: found.output - found.calls,
            reasoning: found.reasoning,
            json: found.calls,
            calls: delivered.calls(),
            is_whole: has_ended && delivered.any() && !self.response.failed(),
        }
    }

    /// An answer without a byte is an error's (llama-cpp-python).
    fn used_nothing(&self, stated: &Statement, ending: Ending) -> bool {
        let failed = ending == Ending::Failed || self.response.failed();
        let says_nothing = *stated == Statement::default() && !self.text_delivered();
        let is_empty = ending == Ending::Complete && !self.response.has_begun();
        self.response.is_free() || failed && says_nothing || is_empty
    }
}

/// A part of a count is never more than that.
fn usage(stated: &Statement, input: u64, output: u64, reasoning_found: u64) -> Usage {
    let cache_write = stated.cache_write.unwrap_or(0);
    Usage {
        input,
        cached_input: stated.cached_input.unwrap_or(0),
        cache_write,
        cache_write_1h: stated.cache_write_1h.unwrap_or(0).min(cache_write),
        output,
        reasoning: stated.reasoning.unwrap_or(reasoning_found).min(output),
    }
}

#[cfg(test)]
mod tests;
