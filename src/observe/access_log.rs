//! The access log: one JSON line a request. A slow terminal or pipe never holds up a request: if it falls far behind, lines are
//! dropped and their number is reported.

use std::{io::Write, time::Duration};

use keymeter_core::json_line::JsonLine;

use crate::observe::line_writer::{LineWriter, WriterReport};

/// What is logged of one request.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct Line<'request> {
    /// When the request's head arrived, RFC 3339 in UTC.
    pub time: String,
    /// As in the response's `x-request-id`.
    pub request_id: &'request str,
    /// The request's trace, where requests are traced.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub trace_id: Option<&'request str>,
    /// The key, where it is known.
    pub key_id: Option<&'request str>,
    /// The key's name.
    pub key_name: Option<&'request str>,
    /// As the client named it, 128 bytes at most.
    pub model: Option<&'request str>,
    /// The configured name of the upstream.
    pub upstream: Option<&'request str>,
    /// Without its query.
    pub path: &'request str,
    /// The response's.
    pub status: u16,
    /// Why the request was refused or failed.
    pub reason: Option<&'static str>,
    /// What came of the upstream, as `keymeter_upstream_responses_total` counts it, where that is no success.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub outcome: Option<&'static str>,
    /// From the head to the first piece of the answer, in milliseconds.
    pub time_to_first_token_ms: Option<f64>,
    /// From the head to the end, in milliseconds.
    pub duration_ms: f64,
    /// Not cached.
    pub input_tokens: u64,
    /// Read from the prompt cache.
    pub cached_input_tokens: u64,
    /// Written to the prompt cache.
    pub cache_write_tokens: u64,
    /// Reasoning included.
    pub output_tokens: u64,
    /// Part of the output.
    pub reasoning_tokens: u64,
    /// Where the counts came from.
    pub usage_source: &'static str,
    /// In US dollars, exactly.
    pub cost_usd: String,
    /// Whether the client went away before the response's end.
    pub client_aborted: bool,
}

impl Line<'_> {
    fn to_json(&self) -> Vec<u8> {
        let mut line = JsonLine::new();
        line.text("time", &self.time);
        line.text("request_id", self.request_id);
        if let Some(trace) = self.trace_id {
            line.text("trace_id", trace);
        }
        line.optional("key_id", self.key_id);
        line.optional("key_name", self.key_name);
        line.optional("model", self.model);
        line.optional("upstream", self.upstream);
        line.text("path", self.path);
        line.number("status", self.status.into());
        line.optional("reason", self.reason);
        if let Some(outcome) = self.outcome {
            line.text("outcome", outcome);
        }
        match self.time_to_first_token_ms {
            Some(time) => line.millis("time_to_first_token_ms", micros(time)),
            None => line.null("time_to_first_token_ms"),
        }
        line.millis("duration_ms", micros(self.duration_ms));
        line.number("input_tokens", self.input_tokens);
        line.number("cached_input_tokens", self.cached_input_tokens);
        line.number("cache_write_tokens", self.cache_write_tokens);
        line.number("output_tokens", self.output_tokens);
        line.number("reasoning_tokens", self.reasoning_tokens);
        line.text("usage_source", self.usage_source);
        line.text("cost_usd", &self.cost_usd);
        line.truth("client_aborted", self.client_aborted);
        line.end()
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a whole number of microseconds")]
fn micros(millis: f64) -> u64 {
    (millis * 1e3).round() as u64
}

/// Where lines go.
#[derive(Clone)]
pub struct AccessLog {
    lines: Option<LineWriter>,
}

impl AccessLog {
    /// A log that keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { lines: None }
    }

    /// A log on `output`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn to(output: impl Write + Send + 'static) -> std::io::Result<Self> {
        LineWriter::start("access-log", output, report).map(|lines| Self { lines: Some(lines) })
    }

    /// Hands a line over.
    pub fn write(&self, line: &Line<'_>) {
        let Some(lines) = &self.lines else { return };
        let mut text = line.to_json();
        text.push(b'\n');
        lines.write(text);
    }

    /// Lines that were dropped so far, because their reader is too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lines.as_ref().map_or(0, LineWriter::dropped)
    }

    /// Waits until all lines are written, `limit` at most: a process that ends takes with it what is not.
    pub fn flush(&self, limit: Duration) {
        if let Some(lines) = &self.lines {
            lines.flush(limit);
        }
    }
}

/// Reports about the access log go to the process log, since the access log has lines of one form.
fn report(report: WriterReport) -> Vec<u8> {
    match report {
        WriterReport::Dropped(missing) => {
            tracing::warn!("the reader of the access log is too slow: {missing} lines were dropped");
        }
        WriterReport::Failed(error) => tracing::error!("cannot write the access log: {error}"),
        WriterReport::Tick => {}
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    #[test]
    fn a_line_has_all_that_is_known() {
        let known = Line {
            time: "2026-06-01T00:00:00.123456Z".to_owned(),
            request_id: "req_1",
            trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
            key_id: Some("key_a"),
            key_name: Some("My \"key\" \\ ü"),
            model: Some("a\nb"),
            outcome: Some("upstream_error"),
            time_to_first_token_ms: Some(0.619),
            duration_ms: 43.9,
            output_tokens: u64::MAX,
            client_aborted: true,
            ..Line::default()
        };
        for line in [known, Line { duration_ms: 12.0, ..Line::default() }] {
            assert_eq!(String::from_utf8(line.to_json()), String::from_utf8(serde_json::to_vec(&line).unwrap()));
        }
    }

    struct Sent(Sender<u8>);

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            for byte in bytes {
                self.0.send(*byte).unwrap();
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_json_object() {
        let (sender, written) = channel();
        let log = AccessLog::to(Sent(sender)).unwrap();
        log.write(&Line { request_id: "req_1", model: Some("a\n\"b"), status: 200, ..Line::default() });
        drop(log);
        let bytes: Vec<u8> = written.iter().collect();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["model"], &line["status"]), (&"a\n\"b".into(), &200.into()));
    }
}
