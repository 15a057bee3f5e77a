//! The gateways' calls: the protocol of a key service (docs/key-source.md), and usage records.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body as HttpBody,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, stream};
use jiff::Timestamp;
use keymeter_core::{
    key::{KeyHash, Priority},
    model_name::has_control,
    money::{AllowanceRequest, BalanceUpdate, Usd},
    record::{Record, Session, decimal, text},
    refusals::{MOST_IN_A_REPORT, RefusalReport},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};

use super::{body, refusals, usage::ask};
use crate::{
    Plane,
    caller::Gateway,
    error::{ApiError, RefusedRecord},
    store::{
        StoreError,
        changes::KeyChange,
        keys::Key,
        limits::ScopeLimits,
        usage::{self, UsageFilter},
        wallets,
    },
};

/// The life of a gateway's process, by which it is granted allowances.
const GATEWAY: &str = "x-keymeter-gateway";

/// How long a record may be believed without asking: changes are told at once.
const MAX_AGE: &str = "max-age=60";

pub(super) fn router(stop: watch::Receiver<bool>) -> Router<Arc<Plane>> {
    let events = move |plane, gateway, headers| events(plane, gateway, headers, stop.clone());
    Router::new()
        .route("/v1/keys/{hash}", get(look_up))
        .route("/v1/keys/{hash}/usage", get(totals))
        .route("/v1/keys/events", get(events))
        .route("/v1/usage/records", post(take_records))
}

async fn look_up(
    State(plane): State<Arc<Plane>>,
    _: Gateway,
    Path(hash): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let unknown = || ApiError::not_found("key of the secret with the hash", &hash);
    let parsed: KeyHash = format!("sha256:{hash}").parse().map_err(|_| unknown())?;
    let now = Timestamp::now();
    let Some(key) = plane.store.key_by_hash(&parsed, now).await?.filter(|key| key.deleted_at.is_none()) else {
        return Err(unknown());
    };
    let mut record = record(&key, now);
    let tag = tag(&record);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag) {
        return Ok((StatusCode::NOT_MODIFIED, about(tag)).into_response());
    }
    if let Some(wallet) = &key.wallet
        && let Some(word) = word_for(&plane, wallet, gateway_of(&headers), now).await?
    {
        put(&mut record, "wallet", wallet_json(wallet, &word));
    }
    Ok((StatusCode::OK, about(tag), Json(record)).into_response())
}

/// What is on record of a key, for its holder to see.
async fn totals(
    State(plane): State<Arc<Plane>>,
    _: Gateway,
    Path(hash): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unknown = || ApiError::not_found("key of the secret with the hash", &hash);
    let parsed: KeyHash = format!("sha256:{hash}").parse().map_err(|_| unknown())?;
    let key = plane.store.key_by_hash(&parsed, Timestamp::now()).await?.ok_or_else(unknown)?;
    let filter = UsageFilter { key: Some(key.id.clone()), ..UsageFilter::default() };
    let total = ask(&plane, None, BTreeSet::new(), filter).await?.into_iter().next().unwrap_or_default();
    let mut told = json!({"total": total});
    if let Some(wallet) = &key.wallet {
        let balance = plane.store.balance(wallet).await?;
        put(&mut told, "balance_usd", json!(balance.map(|balance| balance.to_string())));
    }
    Ok(Json(told))
}

fn gateway_of(headers: &HeaderMap) -> Option<Session> {
    headers.get(GATEWAY)?.to_str().ok()?.parse().ok()
}

/// What is said of a wallet: to a gateway that says which it is, with an allowance.
async fn word_for(
    plane: &Plane,
    wallet: &str,
    gateway: Option<Session>,
    now: Timestamp,
) -> Result<Option<BalanceUpdate>, ApiError> {
    let Some(gateway) = gateway else {
        return Ok(plane.store.balance(wallet).await?.map(|balance| BalanceUpdate { balance, allowance: None }));
    };
    if let Some(word) = plane.store.word(wallet, gateway.as_str(), now).await? {
        return Ok(Some(word));
    }
    let mut tx = plane.store.begin().await?;
    let word = wallets::grant(&mut tx, wallet, gateway.as_str(), None, now).await?;
    plane.store.commit(tx).await?;
    Ok(word)
}

fn about(tag: HeaderValue) -> [(header::HeaderName, HeaderValue); 2] {
    [(header::ETAG, tag), (header::CACHE_CONTROL, HeaderValue::from_static(MAX_AGE))]
}

/// The key as a gateway reads it.
fn record(key: &Key, now: Timestamp) -> Value {
    let sha256 = |hash: &str| format!("sha256:{hash}");
    let retiring = key.retiring.iter().filter(|retiring| retiring.not_after >= now);
    let retiring: Vec<_> =
        retiring.map(|retiring| json!({"hash": sha256(&retiring.hash), "not_after": retiring.not_after})).collect();
    let mut record = json!({"id": key.id, "name": key.name, "hash": key.hash.as_deref().map(sha256),
        "state": key.state, "limits": key.limits, "retiring": retiring});
    // A gateway of an earlier version takes no record with a field that it does not know.
    let priority = Some(key.priority).filter(|priority| *priority != Priority::default());
    let of_holder = |limits: &ScopeLimits| json!(Some(limits).filter(|limits| **limits != ScopeLimits::default()));
    for (field, value) in [
        ("owner", json!(key.owner)),
        ("team", json!(key.team)),
        ("models", json!(key.models)),
        ("allow_from", json!(key.allow_from)),
        ("team_limits", of_holder(&key.team_limits)),
        ("owner_limits", of_holder(&key.owner_limits)),
        ("priority", json!(priority)),
        ("expires_at", json!(key.expires_at)),
    ] {
        if !value.is_null() {
            put(&mut record, field, value);
        }
    }
    record
}

/// Of what is in the record but for the wallet, which changes with every request.
fn tag(record: &Value) -> HeaderValue {
    let digest = KeyHash::digest(record.to_string().as_bytes()).to_hex();
    HeaderValue::try_from(format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Adds a field to an object.
fn put(object: &mut Value, field: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(field.to_owned(), value);
    }
}

fn wallet_json(wallet: &str, word: &BalanceUpdate) -> Value {
    let mut said = json!({"id": wallet, "balance_usd": word.balance.to_string()});
    if let Some(allowance) = word.allowance {
        let allowance = json!({
            "version": allowance.version,
            "granted_usd": allowance.granted.to_string(),
            "counted_usd": allowance.counted.to_string(),
            "expires_in_ms": u64::try_from(allowance.lasts.as_millis()).unwrap_or(u64::MAX),
        });
        put(&mut said, "allowance", allowance);
    }
    said
}

/// Changes of keys, from the one after `Last-Event-ID` on, or from now on.
async fn events(
    State(plane): State<Arc<Plane>>,
    _: Gateway,
    headers: HeaderMap,
    stop: watch::Receiver<bool>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let last = headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    let changed = plane.store.changed();
    let seq = match last {
        // What is no number of ours was never given.
        Some(seq) => seq.unwrap_or(-1),
        None => plane.store.last_change().await?,
    };
    let recalls = plane.store.recalls();
    let stream = Changes { plane, changed, recalls, seq, waiting: VecDeque::new(), is_open: false, stop };
    let stream = stream::unfold(stream, |mut changes| async { changes.next().await.map(|event| (Ok(event), changes)) });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))))
}

/// One gateway's view of the changes.
struct Changes {
    plane: Arc<Plane>,
    changed: watch::Receiver<u64>,
    recalls: broadcast::Receiver<String>,
    /// The last that was told.
    seq: i64,
    waiting: VecDeque<KeyChange>,
    is_open: bool,
    stop: watch::Receiver<bool>,
}

/// Changes read at once.
const BATCH: i64 = 500;

impl Changes {
    /// The next event. The stream ends when the process does, or the database fails: then the gateway comes back.
    async fn next(&mut self) -> Option<Event> {
        if !std::mem::replace(&mut self.is_open, true) {
            // So that the gateway knows at once that it is listened to, and from where to resume.
            return Some(Event::default().id(self.seq.max(0).to_string()).comment("listening"));
        }
        loop {
            if let Some(change) = self.waiting.pop_front() {
                self.seq = change.seq;
                return Some(event(&change));
            }
            self.changed.mark_unchanged();
            match self.plane.store.changes_after(self.seq, BATCH).await {
                Ok(Some(changes)) if changes.is_empty() => {
                    if let Some(wallet) = self.wait().await? {
                        return Some(Event::default().event("wallet").data(json!({"id": wallet}).to_string()));
                    }
                }
                Ok(Some(changes)) => self.waiting = changes.into(),
                Ok(None) => {
                    self.seq = self.plane.store.last_change().await.ok()?;
                    return Some(Event::default().id(self.seq.to_string()).event("all").data("{}"));
                }
                Err(error) => {
                    tracing::error!("a gateway's event stream ends: {error}");
                    return None;
                }
            }
        }
    }

    /// Waits until there may be changes, or a wallet is recalled.
    #[allow(clippy::option_option, reason = "the outer one ends the stream")]
    async fn wait(&mut self) -> Option<Option<String>> {
        let patience = async {
            match self.plane.store.longest_wait() {
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.changed.changed() => changed.ok().map(|()| None),
            // One that is behind looks again.
            recalled = self.recalls.recv() => Some(recalled.ok()),
            () = patience => Some(None),
            _ = self.stop.wait_for(|stop| *stop) => None,
        }
    }
}

fn event(change: &KeyChange) -> Event {
    let mut data = json!({"id": change.key_id});
    if let Some(hash) = &change.hash {
        put(&mut data, "hash", json!(hash));
    }
    Event::default().id(change.seq.to_string()).event("key").data(data.to_string())
}

/// A batch of records, and what the gateway wants to be granted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    #[serde(deserialize_with = "text::deserialize")]
    gateway: Session,
    #[serde(default)]
    records: Vec<Value>,
    #[serde(default)]
    wallets: Vec<Asked>,
    /// What was refused: a gateway sends it apart from records, so that neither holds up the other.
    #[serde(default)]
    refusals: Option<RefusalReport>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    id: String,
    /// The last grant that the gateway knows; 0: none.
    version: u64,
    /// All that shall be granted and not counted yet.
    #[serde(with = "decimal")]
    wanted_usd: Usd,
    /// All that was ever granted, as the gateway knows it: less than that is given back.
    #[serde(with = "decimal")]
    granted_usd: Usd,
}

/// Whether a gateway is granted less than it wants, and others hold some.
fn is_elsewhere(word: &BalanceUpdate, wanted: Usd) -> bool {
    let own = word.allowance.and_then(|allowance| allowance.granted.checked_sub(allowance.counted)).unwrap_or(wanted);
    own < wanted && own < word.balance
}

/// 500 records of the longest names.
const LONGEST_BATCH: usize = 4 << 20;
const MOST_RECORDS: usize = 1000;

/// The most records that are told to be at fault at once: without them the batch comes again.
const MOST_REFUSED: usize = 100;

/// What is said of a record at fault, in characters: some of it is the record's own.
const LONGEST_MESSAGE: usize = 256;

async fn take_records(State(plane): State<Arc<Plane>>, _: Gateway, body: HttpBody) -> Result<Json<Value>, ApiError> {
    let body = body::read(body, LONGEST_BATCH).await?;
    let batch = batch(&body)?;
    let records = readable(&batch.records)?;
    let now = Timestamp::now();
    match keep(&plane, &batch, &records, now).await {
        Err(error) if error.is_of_data() => Err(at_fault(&plane, &records, error, now).await?),
        kept => {
            let wallets = kept?;
            if let Some(report) = &batch.refusals {
                refusals::take(&plane, &batch.gateway, report, now).await?;
            }
            Ok(Json(json!({"accepted": records.len(), "wallets": wallets, "takes_refusals": true})))
        }
    }
}

fn batch(body: &[u8]) -> Result<Batch, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let batch: Batch = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { "body".to_owned() } else { field };
        ApiError::unreadable(field, shortened(&error.into_inner().to_string()))
    })?;
    reader.end().map_err(|error| ApiError::unreadable("body", error.to_string()))?;
    if batch.records.len() > MOST_RECORDS {
        return Err(ApiError::unreadable("records", format!("more than {MOST_RECORDS} records at once")));
    }
    if batch.refusals.as_ref().is_some_and(|report| report.sums.len() > MOST_IN_A_REPORT) {
        let message = format!("more than {MOST_IN_A_REPORT} sums of refusals at once");
        return Err(ApiError::unreadable("refusals.sums", message));
    }
    if let Some(index) = batch.wallets.iter().position(|asked| has_control(&asked.id)) {
        return Err(ApiError::unreadable(format!("wallets[{index}].id"), "no wallet's id has a control character"));
    }
    Ok(batch)
}

/// The records of a batch, all of which can be read.
fn readable(batch: &[Value]) -> Result<Vec<Record>, ApiError> {
    let (mut records, mut refused) = (Vec::with_capacity(batch.len()), Vec::new());
    for (index, json) in batch.iter().enumerate() {
        match Record::read(json.clone()) {
            Ok(record) => records.push(record),
            Err(error) if refused.len() < MOST_REFUSED => {
                let id = json.get("id").and_then(Value::as_str).map(shortened);
                refused.push(RefusedRecord { index, id, message: shortened(&error.to_string()) });
            }
            Err(_) => {}
        }
    }
    if refused.is_empty() { Ok(records) } else { Err(ApiError::refused_records(refused)) }
}

/// Which of the records the store cannot take, where it does not take all of them for `fault`.
async fn at_fault(
    plane: &Plane,
    records: &[Record],
    error: StoreError,
    now: Timestamp,
) -> Result<ApiError, StoreError> {
    let refused = usage::unstorable(&plane.store, records, now).await?;
    if refused.is_empty() {
        // They are, taken together.
        return Err(error);
    }
    let refused = refused.into_iter().take(MOST_REFUSED).map(|(index, error)| {
        let id = records.get(index).map(|record| record.id.to_string());
        RefusedRecord { index, id, message: shortened(&error.to_string()) }
    });
    Ok(ApiError::refused_records(refused.collect()))
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_MESSAGE).collect()
}

/// Takes records in, and says what is granted of each wallet that was asked for.
async fn keep(plane: &Plane, batch: &Batch, records: &[Record], now: Timestamp) -> Result<Vec<Value>, StoreError> {
    let mut tx = plane.store.begin().await?;
    // In one order, so that two gateways do not wait for each other.
    let charged = records.iter().filter_map(|record| record.wallet.as_deref());
    let wanted = batch.wallets.iter().map(|request| request.id.as_str());
    for wallet in charged.chain(wanted).collect::<BTreeSet<_>>() {
        wallets::hold(&mut tx, wallet).await?;
    }
    usage::take_in(&mut tx, records, now).await?;
    let (mut words, mut recalled) = (Vec::with_capacity(batch.wallets.len()), Vec::new());
    for Asked { id, version, wanted_usd: wanted, granted_usd: granted } in &batch.wallets {
        let (version, wanted, granted) = (*version, *wanted, *granted);
        let request = AllowanceRequest { wallet: id.as_str().into(), version, wanted, granted };
        if let Some(word) =
            wallets::grant(&mut tx, &request.wallet, batch.gateway.as_str(), Some(&request), now).await?
        {
            words.push(wallet_json(&request.wallet, &word));
            if is_elsewhere(&word, wanted) {
                recalled.push(request.wallet.to_string());
            }
        }
    }
    plane.store.commit(tx).await?;
    for wallet in recalled {
        plane.store.recall(&wallet).await;
    }
    Ok(words)
}
