//! Keys from an HTTP service. One request a look-up, over connections that are kept; whatever is no clear answer is a
//! failure, and a service that fails in a row is spared.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use keymeter_config::keys::{Http, parse_record};
use keymeter_core::{
    clock::MonotonicTime,
    key::{KeyHash, KeyRecord},
    record::Session,
    wallet::BalanceUpdate,
};
use parking_lot::Mutex;
use reqwest::{Client, Response, redirect};
use thiserror::Error;
use tokio::sync::Semaphore;

use super::{Answer, EntityTag, Found, KeySource, SourceError, circuit::Circuit};

/// A key service.
pub struct HttpSource {
    client: Client,
    service: Http,
    /// By which the service tells our allowances from others'.
    session: Option<Session>,
    circuit: Mutex<Circuit>,
    places: Semaphore,
    has_answered: AtomicBool,
}

/// The largest answer that is read: a record has some hundred bytes.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Look-ups at once; further ones wait for their turn within their time.
const AT_ONCE: usize = 256;

/// A service that is gone is noticed on its idle connections after 20 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_RETRIES: u32 = 2;

/// A client for the key service, by its `ca` if it has one of its own.
///
/// # Errors
/// When the file of certificates cannot be used.
pub fn client(service: &Http) -> Result<Client, ClientError> {
    let mut builder = Client::builder()
        .user_agent(concat!("keymeter/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(service.timeout)
        .redirect(redirect::Policy::none())
        // The bearer's token goes to the service alone, whatever proxy the environment names.
        .no_proxy()
        .tcp_nodelay(true)
        .tcp_keepalive(KEEP_ALIVE)
        .tcp_keepalive_interval(KEEP_ALIVE_INTERVAL)
        .tcp_keepalive_retries(KEEP_ALIVE_RETRIES);
    if let Some(path) = &service.ca {
        let fault = |why: String| ClientError { path: path.clone(), why };
        let text = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&text).map_err(|error| fault(error.to_string()))?;
        builder = builder.tls_built_in_root_certs(false);
        builder = certificates.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
    }
    let path = service.ca.clone().unwrap_or_default();
    builder.build().map_err(|error| ClientError { path, why: error.to_string() })
}

/// Why there is no client for a key service.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("cannot use the certificates of `keys.http.ca` ({}): {why}", .path.display())]
pub struct ClientError {
    path: PathBuf,
    why: String,
}

impl HttpSource {
    /// The service that `service` describes.
    ///
    /// # Errors
    /// When its certificates cannot be used.
    pub fn new(service: Http) -> Result<Self, ClientError> {
        Ok(Self {
            client: client(&service)?,
            service,
            session: None,
            circuit: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
            has_answered: AtomicBool::new(false),
        })
    }

    /// The service, which is told which run of a gateway asks.
    #[must_use]
    pub fn with_session(self, session: Session) -> Self {
        Self { session: Some(session), ..self }
    }

    /// The client, for what else is asked of the service.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn ask(&self, hash: &KeyHash, known: Option<&EntityTag>) -> Result<Answer, Failure> {
        // The places are never closed.
        let _place = self.places.acquire().await;
        let mut request = self.client.get(self.service.url_of(hash)).header(header::ACCEPT, "application/json");
        if let Some(token) = &self.service.token {
            request = request.bearer_auth(token.0.reveal());
        }
        if let Some(session) = &self.session {
            request = request.header("x-keymeter-gateway", session.as_str());
        }
        if let Some(EntityTag(tag)) = known {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let response = request.send().await.map_err(|error| Failure::Unreachable(plainly(&error)))?;
        let believed_for = max_age(response.headers());
        match response.status() {
            StatusCode::OK => found(response, hash, believed_for).await,
            StatusCode::NOT_MODIFIED if known.is_some() => Ok(Answer::Same(believed_for)),
            StatusCode::NOT_FOUND => Ok(Answer::Unknown),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Unreachable(format!("status {status}")))
            }
            status => Err(Failure::NoAnswer(format!("status {status}; 200, 304 or 404 is expected"))),
        }
    }
}

#[async_trait]
impl KeySource for HttpSource {
    async fn look_up(&self, hash: &KeyHash, known: Option<&EntityTag>) -> Result<Answer, SourceError> {
        let timeout = self.service.timeout;
        if !self.circuit.lock().admits(MonotonicTime::now(), timeout) {
            return Err(SourceError("it failed several times in a row and is asked again in a moment".to_owned()));
        }
        let answer = tokio::time::timeout(timeout, self.ask(hash, known)).await;
        let answer = answer
            .unwrap_or_else(|_| Err(Failure::Unreachable(format!("no answer within {}s", timeout.as_secs_f64()))));
        let now = MonotonicTime::now();
        match &answer {
            Err(Failure::Unreachable(_)) => self.circuit.lock().failed(now, now.as_nanos()),
            // What it says of one key may be nonsense: it answers.
            Ok(_) | Err(Failure::NoAnswer(_)) => self.circuit.lock().answered(),
        }
        if answer.is_ok() {
            self.has_answered.store(true, Ordering::Release);
        }
        answer.map_err(|failure| SourceError(failure.why()))
    }

    fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Acquire)
    }
}

/// Why a look-up failed: with the service as a whole, or with its answer.
pub(crate) enum Failure {
    Unreachable(String),
    NoAnswer(String),
}

impl Failure {
    pub(crate) fn why(self) -> String {
        match self {
            Self::Unreachable(why) | Self::NoAnswer(why) => why,
        }
    }
}

async fn found(response: Response, hash: &KeyHash, believed_for: Option<Duration>) -> Result<Answer, Failure> {
    let tag = tag(response.headers());
    let (record, word) = record(&body(response).await?, hash).map_err(Failure::NoAnswer)?;
    Ok(Answer::Key(Found { record: Arc::new(record), tag, believed_for, word }))
}

/// The tag of an answer, if it is one that is sent back.
pub(crate) fn tag(headers: &HeaderMap) -> Option<EntityTag> {
    headers.get(header::ETAG).filter(|tag| tag.len() <= 256).cloned().map(EntityTag)
}

/// The record in an answer's body, if it is one of the key that was asked for by `hash`.
pub(crate) fn record(body: &[u8], hash: &KeyHash) -> Result<(KeyRecord, Option<BalanceUpdate>), String> {
    let (record, word) = parse_record(body).map_err(|why| format!("the record is faulty: {why}"))?;
    if record.hash == *hash || record.retiring.iter().any(|retiring| retiring.hash == *hash) {
        return Ok((record, word));
    }
    Err(format!("the record of {} has neither as `hash` nor in `retiring` what was asked for", record.id))
}

/// The body of an answer, as far as it is not too large for one.
pub(crate) async fn body(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| Failure::Unreachable(plainly(&error)))? {
        if body.len() + piece.len() > LARGEST_ANSWER {
            return Err(Failure::NoAnswer(format!("the answer has more than {LARGEST_ANSWER} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// What is wrong, without the URL: that bears the hash, and may bear more.
pub(crate) fn plainly(error: &reqwest::Error) -> String {
    let mut said = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        said = error.to_string();
        cause = error.source();
    }
    if said.is_empty() { "the connection failed".to_owned() } else { said }
}

/// How long an answer may be believed (RFC 9111, section 5.2.2).
pub(crate) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
    let directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let ages = directives.filter_map(|directive| match directive.split_once('=') {
        Some((name, age)) if name.eq_ignore_ascii_case("max-age") => age.trim_matches('"').parse().ok(),
        None if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache") => Some(0),
        _ => None,
    });
    ages.min().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_life_that_is_stated_counts() {
        for (values, seconds) in [
            (vec![], None),
            (vec!["max-age=30"], Some(30)),
            (vec!["private, Max-Age=\"5\""], Some(5)),
            (vec!["max-age=60", "max-age=7, must-revalidate"], Some(7)),
            (vec!["no-store"], Some(0)),
            (vec!["max-age=10, no-cache"], Some(0)),
            (vec!["max-age=soon"], None),
            (vec!["s-maxage=9"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(header::CACHE_CONTROL, value.parse().unwrap());
            }
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{values:?}");
        }
    }
}
