//! The checks of the service's events.

use std::time::Instant;

use http::StatusCode;
use reqwest::Response;

use super::{
    Examiner, TOKEN,
    caller::{REFUSALS, came},
    report::{Report, Verdict},
};
use crate::keys::{
    push::{events::EventReader, is_event_stream},
    service::next_piece,
};

const STRANGER: &str = "events, no token";
const STREAM: &str = "events";
const RESUMED: &str = "events, a Last-Event-ID that the service never gave";

impl Examiner {
    pub(super) async fn examine_events(&self, report: &mut Report) {
        let Some(url) = &self.events_url else {
            let skipped = || Verdict::Skipped("pass the URL of the events with --events".to_owned());
            return [STRANGER, STREAM, RESUMED].into_iter().for_each(|check| report.line(check, &skipped()));
        };
        report.line(STRANGER, &self.hides_events(url).await);
        let stream = self.stream(url, None).await;
        let verdict = match stream {
            Ok(stream) => self.first_sign(stream).await,
            Err(wrong) => wrong,
        };
        report.line(STREAM, &verdict);
        let resumed = self.stream(url, Some("keymeter-check")).await;
        report.line(RESUMED, &resumed.map_or_else(|wrong| wrong, |_| Verdict::Right("200".to_owned())));
    }

    async fn hides_events(&self, url: &str) -> Verdict {
        if self.caller.token().is_none() {
            return Verdict::Skipped(format!("set {TOKEN} to the service's token"));
        }
        match self.caller.listen(url, None, None).await.map(|response| response.status()) {
            Ok(status) if REFUSALS.contains(&status.as_u16()) => Verdict::Right(status.as_str().to_owned()),
            status => Verdict::wrong("401 or 403", came(status)),
        }
    }

    /// A stream of events as a gateway asks for it.
    async fn stream(&self, url: &str, last_id: Option<&str>) -> Result<Response, Verdict> {
        let expected = "200 with text/event-stream";
        let answer = self.caller.listen(url, self.caller.token(), last_id).await;
        match answer {
            Ok(answer) if answer.status() != StatusCode::OK => Err(Verdict::wrong(expected, came(Ok(answer.status())))),
            Ok(answer) if is_event_stream(answer.headers()) => Ok(answer),
            Ok(_) => Err(Verdict::wrong(expected, "200 with another Content-Type")),
            Err(why) => Err(Verdict::wrong(expected, why)),
        }
    }

    /// Waits until the stream shows that it lives.
    async fn first_sign(&self, stream: Response) -> Verdict {
        let start = Instant::now();
        match tokio::time::timeout(self.silence, first_sign(stream)).await {
            Ok(Ok(sign)) => {
                let after = start.elapsed().as_secs_f64();
                Verdict::Right(format!("text/event-stream, and {sign} after {after:.1} s"))
            }
            Ok(Err(why)) => Verdict::wrong("a stream that stays open", why),
            Err(_) => Verdict::Doubtful(format!(
                "nothing came for {} s: without a comment every 15 s a quiet stream cannot be told from a dead one",
                self.silence.as_secs_f64()
            )),
        }
    }
}

async fn first_sign(mut stream: Response) -> Result<&'static str, String> {
    let mut reader = EventReader::default();
    while let Some(piece) = next_piece(&mut stream).await.map_err(|error| error.to_string())? {
        if !reader.feed(&piece).map_err(|error| error.to_string())?.is_empty() {
            return Ok("an event");
        }
        if reader.expects_comments() {
            return Ok("a comment");
        }
    }
    Err("its end".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::cli::check_source::SourceArgs;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

    /// What is found of a service that sends this and then nothing; its connection stays open, or does not.
    async fn found(sent: &'static str, stays: bool) -> Verdict {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let service = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let asked = connection.read(&mut [0; 4096]).await.unwrap();
            assert!(asked > 0, "the check left");
            connection.write_all(sent.as_bytes()).await.unwrap();
            if stays {
                std::future::pending::<()>().await;
            }
        });
        let arguments =
            SourceArgs { source: "http://127.0.0.1/{hash}".to_owned(), events: Some(url.clone()), ca: None };
        let mut examiner = Examiner::new(&arguments, &|_| None).unwrap();
        (examiner.silence, examiner.caller.service.timeout) = (Duration::from_millis(50), Duration::from_millis(50));
        let verdict = match examiner.stream(&url, None).await {
            Ok(stream) => examiner.first_sign(stream).await,
            Err(wrong) => wrong,
        };
        service.abort();
        verdict
    }

    #[tokio::test]
    async fn a_stream_that_shows_nothing_of_itself_is_doubtful() {
        for sent in [HEAD.to_owned(), format!("{HEAD}retry: 100\n\n")] {
            let said = found(sent.leak(), true).await;
            assert!(matches!(&said, Verdict::Doubtful(why) if why.starts_with("nothing came for 0.05 s")), "{said:?}");
        }
        for (sent, sign) in [(": here\n\n", "a comment"), ("event: all\ndata\n\n", "an event")] {
            let said = found(format!("{HEAD}{sent}").leak(), true).await;
            assert!(matches!(&said, Verdict::Right(said) if said.contains(sign)), "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_or_never_begins_is_wrong() {
        assert_eq!(found(HEAD, false).await, Verdict::wrong("a stream that stays open", "its end"));
        assert_eq!(found("", true).await, Verdict::wrong("200 with text/event-stream", "no answer within 0.05 s"));
    }
}
