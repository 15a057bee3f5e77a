//! Listens to the key service's events, so that a change there takes effect here at once. While the connection is lost,
//! changes may be missed, so all cached keys are stale after it.

pub(crate) mod events;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode, header};
use keymeter_config::keys::Http;
use keymeter_core::{clock::MonotonicTime, key::KeyHash};
use reqwest::Response;
use serde::Deserialize;

use self::events::{Event, EventReader};
use super::{
    Change, Resolver,
    circuit::pause,
    service::{EVENT_STREAM, ServiceClient, ServiceError, next_piece, send, within},
};
use crate::observe::metrics::Metrics;

/// A listener to a key service's events.
pub struct Push {
    client: ServiceClient,
    service: Http,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    is_connected: AtomicBool,
}

/// How long a service that sends comments may be silent before the connection counts as lost.
const SILENCE: Duration = Duration::from_mins(1);

impl Push {
    /// A listener for `resolver`.
    #[must_use]
    pub fn new(client: ServiceClient, service: Http, resolver: Arc<Resolver>, metrics: Arc<Metrics>) -> Self {
        Self { client, service, resolver, metrics, is_connected: AtomicBool::new(false) }
    }

    /// Whether the listener is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Acquire)
    }

    /// Whether the service has a stream of events.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.service.events_url.is_some()
    }

    /// Listens, and reconnects whenever the connection is lost.
    pub async fn run(&self) {
        let Some(url) = &self.service.events_url else { return std::future::pending().await };
        let (mut reader, mut failures) = (EventReader::default(), 0);
        loop {
            match self.connect(url, reader.last_id()).await {
                Ok(response) => {
                    failures = 0;
                    let why = self.listen(response, &mut reader).await;
                    tracing::warn!("the connection to the key service's events was lost: {why}; reconnecting");
                }
                Err(why) if failures % 32 == 0 => {
                    tracing::warn!("cannot connect to the key service's events: {why}; retrying");
                }
                Err(_) => {}
            }
            self.set_connected(false);
            reader.reconnect();
            let wait = reader.retry().unwrap_or_default().max(pause(failures, MonotonicTime::now().as_nanos()));
            failures = failures.saturating_add(1);
            tokio::time::sleep(wait).await;
        }
    }

    async fn connect(&self, url: &str, last_id: Option<&str>) -> Result<Response, ServiceError> {
        let mut request = self.client.get(url, EVENT_STREAM);
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let answer = within(self.service.timeout, send(request)).await?;
        let (status, is_stream) = (answer.status(), is_event_stream(answer.headers()));
        match (status, is_stream) {
            (StatusCode::OK, true) => Ok(answer),
            (StatusCode::OK, false) => Err(ServiceError::Invalid("its answer is not text/event-stream".to_owned())),
            (status, _) => Err(ServiceError::Unavailable(format!("status {status}"))),
        }
    }

    /// Applies events until the connection is lost. Returns why it was.
    async fn listen(&self, mut response: Response, reader: &mut EventReader) -> String {
        self.set_connected(true);
        // Changes may have been missed until here; from here on none is.
        self.resolver.mark_all_stale(MonotonicTime::now());
        loop {
            let silence = if reader.expects_comments() { SILENCE } else { Duration::MAX };
            let piece = match tokio::time::timeout(silence, next_piece(&mut response)).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => return "it was closed".to_owned(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("nothing came for {} s", SILENCE.as_secs()),
            };
            let received = MonotonicTime::now();
            let events = match reader.feed(&piece) {
                Ok(events) => events,
                Err(error) => return error.to_string(),
            };
            for event in events {
                if let Some(change) = change(&event) {
                    self.resolver.changed(change, received);
                } else if let Some(wallet) = recalled(&event) {
                    self.resolver.wallets().known(&wallet).into_iter().for_each(|wallet| wallet.recall());
                }
            }
        }
    }

    fn set_connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Release);
        self.metrics.events_connected(is_connected);
    }
}

/// Whether an answer is a stream of events.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with(EVENT_STREAM))
}

/// The change that an event's data, or the body of `POST /-/keys/invalidate`, states. An empty body, or one with neither an
/// id nor a hash, means every key.
///
/// # Errors
/// When the body is invalid.
pub fn parse_change(body: &str) -> Result<Change, String> {
    #[derive(Deserialize)]
    struct Body {
        id: Option<String>,
        hash: Option<String>,
    }
    if body.trim().is_empty() {
        return Ok(Change::All);
    }
    let Body { id, hash } = serde_json::from_str(body).map_err(|error| format!("not a JSON object: {error}"))?;
    let id = id.map(|id| id.parse().map_err(|error| format!("`id`: {error}"))).transpose()?;
    let hash = hash.map(|hash| parse_hash(&hash)).transpose()?;
    Ok(if id.is_none() && hash.is_none() { Change::All } else { Change::Key { id, hash } })
}

/// A hash, with or without `sha256:` before it.
fn parse_hash(text: &str) -> Result<KeyHash, String> {
    let stated = if text.starts_with("sha256:") { text.to_owned() } else { format!("sha256:{text}") };
    stated.parse().map_err(|error| format!("`hash`: {error}"))
}

/// The change that an event states. An invalid event may concern any key.
fn change(event: &Event) -> Option<Change> {
    match event.kind.as_str() {
        "all" => Some(Change::All),
        "key" => Some(parse_change(&event.data).unwrap_or_else(|why| {
            tracing::warn!("the key service sent an invalid event ({why}): every key is looked up again");
            Change::All
        })),
        _ => None,
    }
}

/// The wallet of which other gateways need the allowance that this one has and does not use.
fn recalled(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        id: String,
    }
    if event.kind != "wallet" {
        return None;
    }
    serde_json::from_str(&event.data).map(|Body { id }| id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, data: &str) -> Option<Change> {
        change(&Event { kind: kind.to_owned(), data: data.to_owned() })
    }

    #[test]
    fn an_event_says_which_key_changed() {
        let hash = KeyHash::digest(b"a");
        let key = |id: Option<&str>, hash| Some(Change::Key { id: id.map(|id| id.parse().unwrap()), hash });
        assert_eq!(event("key", r#"{"id":"key_a"}"#), key(Some("key_a"), None));
        assert_eq!(event("key", &format!(r#"{{"hash":"{hash}"}}"#)), key(None, Some(hash)));
        let both = format!(r#"{{"id":"key_a","hash":"{}","more":1}}"#, hash.to_hex());
        assert_eq!(event("key", &both), key(Some("key_a"), Some(hash)));
        assert_eq!(event("all", "{}"), Some(Change::All));
        for unreadable in ["", "{}", "[", r#"{"id":"A B"}"#, r#"{"hash":"12"}"#] {
            assert_eq!(event("key", unreadable), Some(Change::All), "{unreadable}: rather too much than too little");
        }
        assert_eq!(event("message", "hello"), None);
        let wallet = |kind: &str, data: &str| recalled(&Event { kind: kind.to_owned(), data: data.to_owned() });
        assert_eq!(wallet("wallet", r#"{"id":"ada"}"#), Some("ada".to_owned()));
        assert_eq!((wallet("key", r#"{"id":"ada"}"#), wallet("wallet", "ada")), (None, None));
    }
}
