//! Keys from an HTTP service. Each look-up is one request, over connections that are kept. An answer that is not clear is a
//! failure, and a service that fails several times in a row is asked less often.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode, header};
use keymeter_config::keys::{Http, parse_record};
use keymeter_core::{
    clock::MonotonicTime,
    key::{KeyHash, KeyRecord},
    money::BalanceUpdate,
    record::Session,
};
use parking_lot::Mutex;
use reqwest::Response;
use tokio::sync::Semaphore;

use super::{
    Answer, EntityTag, Found, KeySource, SourceError,
    circuit::Circuit,
    service::{ClientError, JSON, ServiceClient, ServiceError, max_age, read_body, send, within},
};

/// A key service as a source of keys.
pub struct HttpSource {
    client: ServiceClient,
    service: Http,
    /// By which the service tells this gateway's allowances from others'.
    session: Option<Session>,
    circuit: Mutex<Circuit>,
    permits: Semaphore,
    has_answered: AtomicBool,
}

/// The most look-ups at once. Further ones wait for their turn, within their time.
const AT_ONCE: usize = 256;

impl HttpSource {
    /// A source that asks `service`.
    ///
    /// # Errors
    /// When its certificates cannot be used.
    pub fn new(service: Http) -> Result<Self, ClientError> {
        Ok(Self {
            client: ServiceClient::new(&service)?,
            service,
            session: None,
            circuit: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            has_answered: AtomicBool::new(false),
        })
    }

    /// The same, which tells the service which gateway asks.
    #[must_use]
    pub fn with_session(self, session: Session) -> Self {
        Self { session: Some(session), ..self }
    }

    /// The client, for the service's other calls.
    #[must_use]
    pub fn client(&self) -> &ServiceClient {
        &self.client
    }

    async fn ask(&self, hash: &KeyHash, known: Option<&EntityTag>) -> Result<Answer, ServiceError> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let mut request = self.client.get(&self.service.url_of(hash), JSON);
        if let Some(session) = &self.session {
            request = request.header("x-keymeter-gateway", session.as_str());
        }
        if let Some(EntityTag(tag)) = known {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let response = send(request).await?;
        let believed_for = max_age(response.headers());
        match response.status() {
            StatusCode::OK => found(response, hash, believed_for).await,
            StatusCode::NOT_MODIFIED if known.is_some() => Ok(Answer::Same(believed_for)),
            StatusCode::NOT_FOUND => Ok(Answer::Unknown),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(ServiceError::Unavailable(format!("status {status}")))
            }
            status => Err(ServiceError::Invalid(format!("status {status}; 200, 304 or 404 is expected"))),
        }
    }
}

#[async_trait]
impl KeySource for HttpSource {
    async fn look_up(&self, hash: &KeyHash, known: Option<&EntityTag>) -> Result<Answer, SourceError> {
        let timeout = self.service.timeout;
        if !self.circuit.lock().admits(MonotonicTime::now(), timeout) {
            return Err(SourceError("it failed several times in a row and will be asked again in a moment".to_owned()));
        }
        let answer = within(timeout, self.ask(hash, known)).await;
        let now = MonotonicTime::now();
        match &answer {
            Err(ServiceError::Unavailable(_)) => self.circuit.lock().failed(hash, now, now.as_nanos()),
            // An invalid answer for one key is an answer of the service.
            Ok(_) | Err(ServiceError::Invalid(_)) => self.circuit.lock().answered(),
        }
        if answer.is_ok() {
            self.has_answered.store(true, Ordering::Release);
        }
        answer.map_err(|error| SourceError(error.to_string()))
    }

    fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Acquire)
    }
}

async fn found(response: Response, hash: &KeyHash, believed_for: Option<Duration>) -> Result<Answer, ServiceError> {
    let tag = tag(response.headers());
    let (record, balance) = record(&read_body(response).await?, hash).map_err(ServiceError::Invalid)?;
    Ok(Answer::Key(Found { record: Arc::new(record), tag, believed_for, balance }))
}

/// The tag of an answer, if it is short enough to be sent back.
pub(crate) fn tag(headers: &HeaderMap) -> Option<EntityTag> {
    headers.get(header::ETAG).filter(|tag| tag.len() <= 256).cloned().map(EntityTag)
}

/// The record in an answer's body, if it is that of the key with `hash`.
pub(crate) fn record(body: &[u8], hash: &KeyHash) -> Result<(KeyRecord, Option<BalanceUpdate>), String> {
    let (record, balance) = parse_record(body).map_err(|why| format!("the record is invalid: {why}"))?;
    if record.hash == *hash || record.retiring.iter().any(|retiring| retiring.hash == *hash) {
        return Ok((record, balance));
    }
    Err(format!("the record of {} has the requested hash neither as `hash` nor in `retiring`", record.id))
}
