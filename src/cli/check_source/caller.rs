//! The calls to the service, with or without a token, and their durations.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use keymeter_config::keys::Http;
use keymeter_core::key::Secret;
use reqwest::Response;

use super::{TOKEN, report::Verdict};
use crate::keys::service::{ClientError, EVENT_STREAM, JSON, ServiceClient, ServiceError, read_body, send, within};

/// The statuses by which a service refuses a call without the right token.
pub(super) const REFUSALS: [u16; 2] = [401, 403];

/// A caller of the service.
pub(super) struct Caller {
    pub(super) service: Http,
    client: ServiceClient,
    slowest: Cell<Duration>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Caller {
    pub(super) fn new(service: Http) -> Result<Self, ClientError> {
        Ok(Self { client: ServiceClient::new(&service)?, service, slowest: Cell::default() })
    }

    /// The service's token.
    pub(super) fn token(&self) -> Option<&str> {
        self.service.token.as_ref().map(|token| token.0.reveal())
    }

    /// How long the slowest answer took.
    pub(super) fn slowest(&self) -> Duration {
        self.slowest.get()
    }

    /// Looks a key up as a gateway does, with the tag of a known record.
    pub(super) async fn ask(
        &self,
        url: &str,
        token: Option<&str>,
        known: Option<&HeaderValue>,
    ) -> Result<Reply, String> {
        let mut request = self.with_token(token).get(url, JSON);
        if let Some(tag) = known {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        self.in_time(async {
            let response = send(request).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok(Reply { status, headers, body: read_body(response).await? })
        })
        .await
    }

    /// Asks for events, after the one with `last_id`.
    pub(super) async fn listen(
        &self,
        url: &str,
        token: Option<&str>,
        last_id: Option<&str>,
    ) -> Result<Response, String> {
        let mut request = self.with_token(token).get(url, EVENT_STREAM);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        self.in_time(send(request)).await
    }

    fn with_token(&self, token: Option<&str>) -> ServiceClient {
        self.client.with_token(token.map(Secret::new))
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, ServiceError>>) -> Result<T, String> {
        let start = Instant::now();
        let answer = within(self.service.timeout, answer).await;
        self.slowest.set(self.slowest.get().max(start.elapsed()));
        answer.map_err(|error| error.to_string())
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

/// A description of an unexpected status.
pub(super) fn came(status: Result<StatusCode, String>) -> String {
    match status {
        Ok(status) if REFUSALS.contains(&status.as_u16()) => {
            format!("{} (set {TOKEN} to the service's token)", status.as_str())
        }
        Ok(status) => status.as_str().to_owned(),
        Err(why) => why,
    }
}
