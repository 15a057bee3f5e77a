//! Puts questions to the service, with or without what they need, and notes how long it takes.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use keymeter_config::keys::Http;
use reqwest::{Client, RequestBuilder, Response};

use super::{TOKEN, report::Verdict};
use crate::keys::http::{ClientError, Failure, body, client, plainly};

/// How a service refuses whoever has no right to ask.
pub(super) const REFUSALS: [u16; 2] = [401, 403];

/// Somebody who asks a service.
pub(super) struct Asking {
    pub(super) service: Http,
    client: Client,
    slowest: Cell<Duration>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Asking {
    pub(super) fn new(service: Http) -> Result<Self, ClientError> {
        Ok(Self { client: client(&service)?, service, slowest: Cell::default() })
    }

    /// The service's token.
    pub(super) fn token(&self) -> Option<&str> {
        self.service.token.as_ref().map(|token| token.0.reveal())
    }

    /// How long the slowest answer took.
    pub(super) fn slowest(&self) -> Duration {
        self.slowest.get()
    }

    /// Asks as a gateway does, with the tag of what is known.
    pub(super) async fn ask(
        &self,
        url: &str,
        token: Option<&str>,
        known: Option<&HeaderValue>,
    ) -> Result<Reply, String> {
        let mut request = self.request(url, "application/json", token);
        if let Some(tag) = known {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        self.in_time(async {
            let response = request.send().await.map_err(|error| plainly(&error))?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok(Reply { status, headers, body: body(response).await.map_err(Failure::why)? })
        })
        .await
    }

    /// Asks for events, after the one with an id.
    pub(super) async fn listen(
        &self,
        url: &str,
        token: Option<&str>,
        last_id: Option<&str>,
    ) -> Result<Response, String> {
        let mut request = self.request(url, "text/event-stream", token);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        self.in_time(async { request.send().await.map_err(|error| plainly(&error)) }).await
    }

    fn request(&self, url: &str, accept: &str, token: Option<&str>) -> RequestBuilder {
        let request = self.client.get(url).header(header::ACCEPT, accept);
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        let (start, timeout) = (Instant::now(), self.service.timeout);
        let answer = tokio::time::timeout(timeout, answer).await;
        self.slowest.set(self.slowest.get().max(start.elapsed()));
        answer.unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs_f64())))
    }
}

/// Whether an answer has one of these statuses.
pub(super) fn has_status(reply: Result<Reply, String>, accepted: &[u16]) -> Verdict {
    match reply.map(|reply| reply.status) {
        Ok(status) if accepted.contains(&status.as_u16()) => Verdict::Right(status.as_str().to_owned()),
        status => Verdict::wrong(&any_of(accepted), came(status)),
    }
}

fn any_of(statuses: &[u16]) -> String {
    let statuses: Vec<_> = statuses.iter().map(ToString::to_string).collect();
    statuses.join(" or ")
}

/// What came in the place of something else.
pub(super) fn came(status: Result<StatusCode, String>) -> String {
    match status {
        Ok(status) if REFUSALS.contains(&status.as_u16()) => {
            format!("{} (set {TOKEN} to the service's token)", status.as_str())
        }
        Ok(status) => status.as_str().to_owned(),
        Err(why) => why,
    }
}
