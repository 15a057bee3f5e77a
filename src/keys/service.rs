//! The HTTP client of a key service. Each call to the service is made here: the look-up of a key, the stream of events,
//! the delivery of usage records and the totals of a key. Each carries the service's token, and each answer is read
//! within a time and up to a size.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::header;
use keymeter_config::keys::Http;
use keymeter_core::key::Secret;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, redirect};
use thiserror::Error;

use crate::patience::{self, Patience};

/// A client of one key service. Clones share its connections.
#[derive(Clone)]
pub struct ServiceClient {
    client: Client,
    token: Option<Secret>,
}

/// The largest answer that is read: a record has some hundred bytes.
const LARGEST_ANSWER: usize = 64 * 1024;

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
        let error = |why| ClientError { field, path: ca.map(Path::to_owned).unwrap_or_default(), why };
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

/// The media type of records.
pub(crate) const JSON: &str = "application/json";
/// The media type of events.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// Sends a request and waits for the head of its answer.
pub(crate) async fn send(request: RequestBuilder) -> Result<Response, ServiceError> {
    request.send().await.map_err(|error| ServiceError::Unavailable(cause(&error)))
}

/// The next piece of an answer's body; `None` at its end.
pub(crate) async fn next_piece(response: &mut Response) -> Result<Option<Bytes>, ServiceError> {
    response.chunk().await.map_err(|error| ServiceError::Unavailable(cause(&error)))
}

/// The whole body of an answer, up to a size.
pub(crate) async fn read_body(mut response: Response) -> Result<Vec<u8>, ServiceError> {
    let mut body = Vec::new();
    while let Some(piece) = next_piece(&mut response).await? {
        if body.len() + piece.len() > LARGEST_ANSWER {
            return Err(ServiceError::Invalid(format!("the answer has more than {LARGEST_ANSWER} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Waits for `answer` until the service has been silent for `limit`.
pub(crate) async fn within<T, E: From<ServiceError>>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = || ServiceError::Unavailable(format!("no answer within {} s", limit.as_secs_f64()));
    Patience::new(limit).wait_for(answer).await.unwrap_or_else(|| Err(late().into()))
}

/// Why a call to the service failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ServiceError {
    /// The service cannot be reached, says that it fails, or is too slow.
    #[error("{0}")]
    Unavailable(String),
    /// The service answers, but its answer is invalid.
    #[error("{0}")]
    Invalid(String),
}

/// Why there is no client for a key service, or for an issuer of tokens.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("cannot use the certificates of `{field}` ({}): {why}", .path.display())]
pub struct ClientError {
    field: &'static str,
    path: PathBuf,
    why: String,
}

/// What all clients of the program share: their name, no redirects, no proxy, and the certificates in `ca` in place of the
/// system's, if it is given.
///
/// # Errors
/// When the file of certificates cannot be used.
pub(crate) fn builder(ca: Option<&Path>) -> Result<ClientBuilder, String> {
    let builder = Client::builder()
        .user_agent(concat!("keymeter/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        // The bearer's token goes to the service alone, whatever proxy the environment names.
        .no_proxy();
    let Some(path) = ca else { return Ok(builder) };
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let certificates = reqwest::Certificate::from_pem_bundle(&text).map_err(|error| error.to_string())?;
    let builder = builder.tls_built_in_root_certs(false);
    Ok(certificates.into_iter().fold(builder, ClientBuilder::add_root_certificate))
}

/// The innermost cause of an error, without the URL: a look-up's URL contains the hash, and may contain more.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if text.is_empty() { "the connection failed".to_owned() } else { text }
}
