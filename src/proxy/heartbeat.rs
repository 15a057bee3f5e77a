//! Signs of life in a stream whose upstream is silent, so that nothing on the way to the client takes it for dead.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use http::header;
use pingora::http::ResponseHeader;
use tokio::time::{Instant, Sleep, sleep};

/// A comment, which readers of server-sent events pass over.
pub(super) const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// When the next comment is due.
pub(super) struct Heartbeat {
    /// `None`: never.
    every: Option<Duration>,
    /// Since the head of a stream that takes comments.
    silence: Option<Pin<Box<Sleep>>>,
}

impl Heartbeat {
    /// One after each silence of `every`.
    pub fn new(every: Option<Duration>) -> Self {
        Self { every, silence: None }
    }

    /// The response begins.
    pub fn begin(&mut self, head: &ResponseHeader) {
        self.silence = self.every.filter(|_| takes_comments(head)).map(|every| Box::pin(sleep(every)));
    }

    /// Something was written: the silence begins anew.
    pub fn written(&mut self) {
        if let (Some(silence), Some(every)) = (&mut self.silence, self.every) {
            silence.as_mut().reset(Instant::now() + every);
        }
    }

    /// Whether there may be a comment at all.
    pub fn is_on(&self) -> bool {
        self.silence.is_some()
    }

    /// Waits until the next one is due.
    pub async fn due(&mut self) {
        match &mut self.silence {
            Some(silence) => silence.as_mut().await,
            None => std::future::pending().await,
        }
    }
}

/// Whether a response is a stream of events into which more may be written.
fn takes_comments(head: &ResponseHeader) -> bool {
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_stream = content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream");
    let is_plain = crate::encoding::ContentCoding::of(&head.headers) == crate::encoding::ContentCoding::Identity;
    is_stream && is_plain && head.status.is_success() && !head.headers.contains_key(header::CONTENT_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_stream_of_events_takes_comments() {
        for (status, lines, takes) in [
            (200, &[("content-type", "text/event-stream")][..], true),
            (200, &[("content-type", "Text/Event-Stream; charset=utf-8"), ("content-encoding", "identity")], true),
            (500, &[("content-type", "text/event-stream")], false),
            (200, &[("content-type", "application/json")], false),
            (200, &[], false),
            (200, &[("content-type", "text/event-stream"), ("content-encoding", "gzip")], false),
            (200, &[("content-type", "text/event-stream"), ("content-length", "10")], false),
        ] {
            let mut head = ResponseHeader::build(status, None).unwrap();
            for (name, value) in lines {
                head.insert_header(*name, *value).unwrap();
            }
            assert_eq!(takes_comments(&head), takes, "{status} {lines:?}");
        }
    }
}
