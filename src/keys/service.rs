//! The HTTP client of a key service. Each call to the service is made here: the look-up of a key, the stream of events,
//! the delivery of usage records and the totals of a key. Each carries the service's token, and each answer is read
//! within a time and up to a size.

use std::{path::Path, time::Duration};

use http::header;
use keymeter_config::keys::Http;
use keymeter_core::key::Secret;
pub use keymeter_issuer::client::ClientError;
pub(crate) use keymeter_issuer::client::{JSON, ServiceError, builder, max_age, next_piece, read_body, send};
use reqwest::{Client, RequestBuilder};

use crate::patience::{self, Patience};

/// A client of one key service. Clones share its connections.
#[derive(Clone)]
pub struct ServiceClient {
    client: Client,
    token: Option<Secret>,
}

/// The end of a service is noticed on idle connections after 20 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_RETRIES: u32 = 2;

impl ServiceClient {
    /// A client that trusts the `ca` of `service`, if it has one of its own.
    ///
    /// # Errors
    /// When the file of certificates cannot be used.
    pub fn new(service: &Http) -> Result<Self, ClientError> {
        let client = Self::trusting(service.ca.as_deref(), service.timeout, "keys.http.ca")?;
        Ok(client.with_token(service.token.as_ref().map(|token| token.0.clone())))
    }

    /// A client without a token, which trusts the certificates in `ca`, if it is given, as the field `field` of the
    /// configuration says. Who is silent for `timeout` is given up.
    ///
    /// # Errors
    /// When the file of certificates cannot be used.
    pub(crate) fn trusting(ca: Option<&Path>, timeout: Duration, field: &'static str) -> Result<Self, ClientError> {
        let error = |why| ClientError::new(ca, field, why);
        let builder = builder(ca)
            .map_err(error)?
            // `within` ends the waiting, which tells the service's silence from our own lateness.
            .connect_timeout(patience::longest(timeout))
            .tcp_nodelay(true)
            .tcp_keepalive(KEEP_ALIVE)
            .tcp_keepalive_interval(KEEP_ALIVE_INTERVAL)
            .tcp_keepalive_retries(KEEP_ALIVE_RETRIES);
        let client = builder.build().map_err(|why| error(why.to_string()))?;
        Ok(Self { client, token: None })
    }

    /// The same client with another token, or without one.
    #[must_use]
    pub fn with_token(&self, token: Option<Secret>) -> Self {
        Self { client: self.client.clone(), token }
    }

    /// A request for what is at `url`, as the media type `accept`.
    pub(crate) fn get(&self, url: &str, accept: &'static str) -> RequestBuilder {
        self.authorized(self.client.get(url).header(header::ACCEPT, accept))
    }

    /// A request that sends JSON to `url`.
    pub(crate) fn post(&self, url: &str, json: Vec<u8>) -> RequestBuilder {
        self.authorized(self.client.post(url).header(header::CONTENT_TYPE, JSON).body(json))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        }
    }
}

/// The media type of events.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// Waits for `answer` until the service has been silent for `limit`.
pub(crate) async fn within<T, E: From<ServiceError>>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = || ServiceError::Unavailable(format!("no answer within {} s", limit.as_secs_f64()));
    Patience::new(limit).wait_for(answer).await.unwrap_or_else(|| Err(late().into()))
}
