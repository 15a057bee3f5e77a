//! What a response used, counted while it passes: the upstream's own statement, or else a tokenizer's estimate.

mod anthropic;
mod audio;
mod beside;
mod delivered;
mod dialect;
mod documents;
mod estimate;
mod free;
mod gemini;
mod images;
mod input_only;
mod json;
mod meter;
mod ollama;
mod openai;
mod opening;
mod response;
mod responses;
mod sse;
mod stated;
mod stream;
mod template;
mod word;

use std::time::Duration;

pub use estimate::{count_sample, count_tokens};
pub use meter::Meter;

/// A response's tokens. They do not overlap, but for `cache_write_1h` and `reasoning`, which are parts of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input that was not read from a cache.
    pub input: u64,
    /// Input that was read from a cache.
    pub cached_input: u64,
    /// Input that was written to a cache.
    pub cache_write: u64,
    /// The part of `cache_write` that is kept for an hour, which costs more.
    pub cache_write_1h: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// The part of the output that is reasoning.
    pub reasoning: u64,
}

impl Usage {
    /// All tokens together.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.input, self.cached_input, self.cache_write, self.output].into_iter().fold(0, u64::saturating_add)
    }
}

/// Where a usage comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UsageSource {
    /// The upstream stated it.
    Upstream,
    /// At least a part of it is what a tokenizer found.
    Estimated,
    /// There is none.
    None,
}

impl UsageSource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Upstream, Self::Estimated, Self::None];

    /// As metrics, the log and the ledger have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Estimated => "estimated",
            Self::None => "none",
        }
    }
}

/// A usage and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metered {
    /// The tokens.
    pub usage: Usage,
    /// How long the audio was that a transcription or a translation heard, where the upstream says so; else zero.
    pub audio: Duration,
    /// Who says so.
    pub source: UsageSource,
}

impl Metered {
    /// Of a response that used nothing, or does not say what.
    #[must_use]
    pub fn none() -> Self {
        Self { usage: Usage::default(), audio: Duration::ZERO, source: UsageSource::None }
    }
}

/// How a response is framed, as its Content-Type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Server-sent events.
    Sse,
    /// One JSON document.
    Json,
    /// JSON documents, one a line.
    Ndjson,
    /// Plain text, or subtitles.
    Text,
    /// Sound, pictures, films.
    Media,
    /// Anything else, or nothing.
    Other,
}

impl Form {
    /// What a Content-Type says (RFC 9110, section 8.3.1; `+json` is RFC 6839's); an empty one says nothing.
    #[must_use]
    pub fn of_content_type(content_type: &str) -> Self {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "text/event-stream" => Self::Sse,
            "application/json" | "text/json" => Self::Json,
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonl"
            | "application/jsonlines"
            | "application/x-jsonlines" => Self::Ndjson,
            "text/plain" | "text/vtt" | "text/srt" | "application/x-subrip" => Self::Text,
            other if other.starts_with("application/") && other.ends_with("+json") => Self::Json,
            other if ["audio/", "image/", "video/"].iter().any(|kind| other.starts_with(kind)) => Self::Media,
            _ => Self::Other,
        }
    }
}

/// How a response ended, as its connections saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its last byte came.
    Complete,
    /// It was cut: the client left, the upstream broke, the key was revoked.
    Early,
    /// The upstream refused the request or could not answer it; it used nothing unless its bytes say otherwise.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_type_says_the_form() {
        let forms = [
            ("text/event-stream", Form::Sse),
            ("Text/Event-Stream; charset=utf-8", Form::Sse),
            ("application/json", Form::Json),
            ("application/json;charset=utf-8", Form::Json),
            ("application/problem+json", Form::Json),
            ("application/x-ndjson", Form::Ndjson),
            ("application/jsonl; charset=utf-8", Form::Ndjson),
            ("text/plain; charset=utf-8", Form::Text),
            ("text/vtt", Form::Text),
            ("audio/mpeg", Form::Media),
            ("Image/PNG", Form::Media),
            ("text/html", Form::Other),
            ("application/octet-stream", Form::Other),
            ("", Form::Other),
        ];
        for (content_type, form) in forms {
            assert_eq!(Form::of_content_type(content_type), form, "{content_type:?}");
        }
    }

    #[test]
    fn the_total_counts_parts_once_and_never_overflows() {
        let usage =
            Usage { input: 1, cached_input: 20, cache_write: 300, cache_write_1h: 200, output: 4000, reasoning: 3000 };
        assert_eq!(usage.total(), 4321);
        assert_eq!(Usage { input: u64::MAX, output: 1, ..Usage::default() }.total(), u64::MAX);
    }
}
