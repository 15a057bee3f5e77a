//! Listens to the key service's events, so that a key that is changed there is changed here at once. The connection is
//! kept; while it is lost, changes may be missed, so after that everything that is known is checked again.

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

use self::events::{Event, Reader};
use super::{
    Change, Resolver,
    circuit::pause,
    service::{EVENT_STREAM, ServiceClient, ServiceError, next_piece, send, within},
};
use crate::observe::metrics::Metrics;

/// A listener to the events of a key service.
pub struct Push {
    client: ServiceClient,
    service: Http,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    is_connected: AtomicBool,
}

/// A service that sends comments in between is taken for gone when nothing comes for so long.
const SILENCE: Duration = Duration::from_secs(60);

impl Push {
    /// A listener for `resolver`.
    #[must_use]
    pub fn new(client: ServiceClient, service: Http, resolver: Arc<Resolver>, metrics: Arc<Metrics>) -> Self {
        Self { client, service, resolver, metrics, is_connected: AtomicBool::new(false) }
    }

    /// Whether events would come.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Acquire)
    }

    /// Whether the service tells of changes at all.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.service.events_url.is_some()
    }

    /// Listens, and connects again whenever the connection is lost.
    pub async fn run(&self) {
        let Some(url) = &self.service.events_url else { return std::future::pending().await };
        let (mut reader, mut failures) = (Reader::default(), 0);
        loop {
            match self.connect(url, reader.last_id()).await {
                Ok(response) => {
                    failures = 0;
                    let why = self.listen(response, &mut reader).await;
                    tracing::warn!("the key source's events broke off: {why}; connecting again");
                }
                Err(why) if failures % 32 == 0 => tracing::warn!("no events from the key source: {why}; trying again"),
                Err(_) => {}
            }
            self.connected(false);
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

    /// Takes in events until the connection is lost. Says why it was.
    async fn listen(&self, mut response: Response, reader: &mut Reader) -> String {
        self.connected(true);
        // Whatever changed while nobody listened: only from here on is every change heard of.
        self.resolver.doubt_all(MonotonicTime::now());
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
                Err(fault) => return fault.to_string(),
            };
            for event in events {
                if let Some(change) = change(&event) {
                    self.resolver.changed(change, received);
                } else if let Some(wallet) = recalled(&event) {
                    self.resolver.purses().known(&wallet).into_iter().for_each(|purse| purse.recall());
                }
            }
        }
    }

    fn connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Release);
        self.metrics.events_connected(is_connected);
    }
}

/// Whether an answer says that events come.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with(EVENT_STREAM))
}

/// What a body says has changed, as an event's data or as the body of `POST /-/keys/invalidate`. Nothing, or neither an
/// id nor a hash, is every key.
///
/// # Errors
/// When it is none of these.
pub fn parse_change(body: &str) -> Result<Change, String> {
    #[derive(Deserialize)]
    struct Body {
        id: Option<String>,
        hash: Option<String>,
    }
    if body.trim().is_empty() {
        return Ok(Change::All);
    }
    let Body { id, hash } = serde_json::from_str(body).map_err(|fault| format!("no JSON object: {fault}"))?;
    let id = id.map(|id| id.parse().map_err(|fault| format!("`id`: {fault}"))).transpose()?;
    let hash = hash.map(|hash| parse_hash(&hash)).transpose()?;
    Ok(if id.is_none() && hash.is_none() { Change::All } else { Change::Key { id, hash } })
}

/// A hash, with or without `sha256:` before it.
fn parse_hash(text: &str) -> Result<KeyHash, String> {
    let stated = if text.starts_with("sha256:") { text.to_owned() } else { format!("sha256:{text}") };
    stated.parse().map_err(|fault| format!("`hash`: {fault}"))
}

/// What an event says has changed. One that cannot be read may concern any key.
fn change(event: &Event) -> Option<Change> {
    match event.kind.as_str() {
        "all" => Some(Change::All),
        "key" => Some(parse_change(&event.data).unwrap_or_else(|why| {
            tracing::warn!("an event of the key source cannot be read ({why}): every key is looked up again");
            Change::All
        })),
        _ => None,
    }
}

/// The wallet of which others need what is granted to us and not in use.
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
        let hash = KeyHash::of(b"a");
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
