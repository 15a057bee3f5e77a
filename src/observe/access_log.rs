//! The access log: one JSON line a request. A slow terminal or pipe never holds up a request: if it falls far behind, lines are
//! dropped and their number is reported.

use std::{io::Write, net::IpAddr, sync::OnceLock, time::Duration};

use jiff::Timestamp;
use keymeter_core::{field, json_line::JsonLine, money::Usd, rejection::ReachedLimit};

use crate::observe::line_writer::{LineWriter, WriterReport};

/// What is logged of one request.
#[derive(Debug, Default)]
pub struct Line<'request> {
    /// When the request's head arrived.
    pub time: Timestamp,
    /// As in the response's `x-request-id`.
    pub request_id: &'request str,
    /// The request's trace, where requests are traced.
    pub trace_id: Option<&'request str>,
    /// Where the request came from, as far as that is told.
    pub client_address: Option<IpAddr>,
    /// The key, where it is known.
    pub key_id: Option<&'request str>,
    /// The key's name.
    pub key_name: Option<&'request str>,
    /// As the client named it, 128 bytes at most.
    pub model: Option<&'request str>,
    /// The configured name of the upstream.
    pub upstream: Option<&'request str>,
    /// The replica that answered, or was asked last.
    pub replica: Option<&'request str>,
    /// How many replicas were asked.
    pub attempts: u32,
    /// How long it waited for a place on one.
    pub queued: Duration,
    /// Without its query.
    pub path: &'request str,
    /// The response's.
    pub status: u16,
    /// Why the request was refused or failed.
    pub reason: Option<&'static str>,
    /// Which limit refused the request, if one did.
    pub limit: Option<ReachedLimit<'request>>,
    /// What would have refused the request, if limits were enforced.
    pub would_reject: Option<&'static str>,
    /// What came of the upstream, as `keymeter_upstream_responses_total` counts it, where that is no success.
    pub outcome: Option<&'static str>,
    /// From the head to the first piece of the answer.
    pub time_to_first_token: Option<Duration>,
    /// From the head to the end.
    pub duration: Duration,
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
    /// What it cost.
    pub cost: Usd,
    /// Whether the client went away before the response's end.
    pub client_aborted: bool,
}

impl Line<'_> {
    fn to_json(&self) -> Vec<u8> {
        let mut line = JsonLine::new();
        line.time(field!("time"), self.time);
        line.text(field!("request_id"), self.request_id);
        if let Some(trace) = self.trace_id {
            line.text(field!("trace_id"), trace);
        }
        if let Some(address) = self.client_address {
            line.address(field!("client_address"), address);
        }
        line.optional(field!("key_id"), self.key_id);
        line.optional(field!("key_name"), self.key_name);
        line.optional(field!("model"), self.model);
        line.optional(field!("upstream"), self.upstream);
        if let Some(replica) = self.replica {
            line.text(field!("replica"), replica);
        }
        if self.replica.is_some() || self.queued > Duration::ZERO {
            line.number(field!("attempts"), self.attempts.into());
            line.millis(field!("queued_ms"), micros(self.queued));
        }
        line.text(field!("path"), self.path);
        line.number(field!("status"), self.status.into());
        line.optional(field!("reason"), self.reason);
        if let Some(limit) = &self.limit {
            line.plain(field!("limit"), limit.name);
            line.text(field!("limit_scope"), limit.scope.as_str());
            if let Some(id) = limit.id {
                line.text(field!("limit_id"), id);
            }
        }
        if let Some(reason) = self.would_reject {
            line.text(field!("would_reject"), reason);
        }
        if let Some(outcome) = self.outcome {
            line.text(field!("outcome"), outcome);
        }
        match self.time_to_first_token {
            Some(time) => line.millis(field!("time_to_first_token_ms"), micros(time)),
            None => line.null(field!("time_to_first_token_ms")),
        }
        line.millis(field!("duration_ms"), micros(self.duration));
        line.number(field!("input_tokens"), self.input_tokens);
        line.number(field!("cached_input_tokens"), self.cached_input_tokens);
        line.number(field!("cache_write_tokens"), self.cache_write_tokens);
        line.number(field!("output_tokens"), self.output_tokens);
        line.number(field!("reasoning_tokens"), self.reasoning_tokens);
        line.text(field!("usage_source"), self.usage_source);
        line.money(field!("cost_usd"), self.cost);
        line.truth(field!("client_aborted"), self.client_aborted);
        line.number(field!("pid"), process());
        line.end()
    }
}

/// The number of this process, which tells its lines from those of the one that it took over from.
fn process() -> u64 {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    *PROCESS.get_or_init(|| std::process::id().into())
}

/// A duration in microseconds, to the nearest.
fn micros(duration: Duration) -> u64 {
    let nearest = duration.saturating_add(Duration::from_nanos(500));
    u64::try_from(nearest.as_micros()).unwrap_or(u64::MAX)
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

    use keymeter_core::limit::{LimitName, Scope};

    use super::*;

    #[test]
    fn a_line_has_all_that_is_known() {
        let known = Line {
            time: "2026-06-01T00:00:00.123456Z".parse().unwrap(),
            request_id: "req_1",
            trace_id: Some("0af7651916cd43dd8448eb211c80319c"),
            key_id: Some("key_a"),
            key_name: Some("My \"key\" \\ ü"),
            model: Some("a\nb"),
            status: 429,
            reason: Some("rate_limit_exceeded"),
            outcome: Some("upstream_error"),
            time_to_first_token: Some(Duration::from_nanos(618_500)),
            duration: Duration::from_nanos(43_900_499),
            output_tokens: u64::MAX,
            usage_source: "upstream",
            cost: "0.25".parse().unwrap(),
            client_aborted: true,
            client_address: Some("2001:db8::7".parse().unwrap()),
            limit: Some(ReachedLimit {
                name: "usd_per_month".parse().map(LimitName::Quota).unwrap(),
                scope: Scope::Team,
                id: Some("research"),
            }),
            ..Line::default()
        };
        let (known, nothing) = (known.to_json(), Line::default().to_json());
        let own = format!(",\"pid\":{}}}", std::process::id());
        assert_eq!(
            String::from_utf8(known).unwrap().strip_suffix(&own).unwrap(),
            concat!(
                r#"{"time":"2026-06-01T00:00:00.123456Z","request_id":"req_1","trace_id":"0af7651916cd43dd8448eb211c80319c","client_address":"2001:db8::7","#,
                r#""key_id":"key_a","key_name":"My \"key\" \\ ü","model":"a\nb","upstream":null,"path":"","status":429,"#,
                r#""reason":"rate_limit_exceeded","limit":"usd_per_month","limit_scope":"team","limit_id":"research","outcome":"upstream_error","time_to_first_token_ms":0.619,"duration_ms":43.9,"input_tokens":0,"#,
                r#""cached_input_tokens":0,"cache_write_tokens":0,"output_tokens":18446744073709551615,"reasoning_tokens":0,"#,
                r#""usage_source":"upstream","cost_usd":"0.25","client_aborted":true"#
            )
        );
        let nothing: serde_json::Value = serde_json::from_slice(&nothing).unwrap();
        assert_eq!(nothing["time_to_first_token_ms"], serde_json::Value::Null);
        assert!(nothing.get("trace_id").is_none(), "there is none where nothing is traced");
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
