//! The client of the accounting service, which keeps the ledger and the wallets: it delivers usage records and asks for
//! allowances.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use keymeter_config::keys::{Http, parse_wallet};
use keymeter_core::{
    clock::MonotonicTime,
    key::KeyHash,
    money::{AllowanceRequest, AllowanceRequestGuard, WalletAllowance, WalletAllowances},
    record::Session,
    refusals::RefusalReport,
};
use parking_lot::Mutex;
use reqwest::Response;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::keys::service::{JSON, ServiceClient, ServiceError, read_body, send, within};

/// The client of one accounting service.
pub struct AccountingClient {
    client: ServiceClient,
    usage_url: Arc<str>,
    service: Http,
    /// How long a delivery may take.
    timeout: Duration,
    session: Session,
    wallets: Arc<WalletAllowances>,
    /// Whether the last exchange failed.
    is_failing: AtomicBool,
    /// Whether the service has said that it takes reports of refusals.
    takes_refusals: AtomicBool,
    /// The wallets of requests that wait for an allowance. The request whose turn it is asks for all of them.
    waiting: Mutex<Vec<Arc<WalletAllowance>>>,
    turn: tokio::sync::Mutex<()>,
}

/// The service writes records to its disk before it answers.
const LEAST_TIMEOUT: Duration = Duration::from_secs(10);

/// The most wallets that one exchange asks for; further ones take the next.
const MOST_WALLETS: usize = 100;

impl AccountingClient {
    /// A client that delivers records to the `usage_url` of `service`.
    #[must_use]
    pub fn new(
        client: ServiceClient,
        usage_url: Arc<str>,
        service: &Http,
        session: Session,
        wallets: Arc<WalletAllowances>,
    ) -> Self {
        Self {
            client,
            usage_url,
            service: service.clone(),
            timeout: service.timeout.max(LEAST_TIMEOUT),
            session,
            wallets,
            is_failing: AtomicBool::new(false),
            takes_refusals: AtomicBool::new(false),
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Delivers records, which are JSON, and asks for the allowances that wallets are short of. On success the service
    /// has the records, and the wallets have its answer.
    ///
    /// # Errors
    /// When the service did not take the records.
    pub async fn deliver(&self, records: &[Bytes]) -> Result<(), DeliveryError> {
        let asked = MonotonicTime::now();
        let requests: Vec<_> = self.wallets.requests(asked).into_iter().take(MOST_WALLETS).collect();
        // A failing service is asked whether it is back, for the requests that need an allowance.
        if records.is_empty() && requests.is_empty() && !self.is_failing.load(Ordering::Acquire) {
            return Ok(());
        }
        self.exchange_noted(records, &requests, asked).await
    }

    /// Delivers one record that may be the reason why the service fails. Its failure does not count as the service's.
    ///
    /// # Errors
    /// As those of `deliver`.
    pub async fn deliver_alone(&self, record: &Bytes) -> Result<(), DeliveryError> {
        self.exchange(std::slice::from_ref(record), &[]).await.map(drop)
    }

    /// Whether the service takes reports of refusals. One that has not said so is sent none: it would not know what they are.
    pub fn takes_refusals(&self) -> bool {
        self.takes_refusals.load(Ordering::Acquire)
    }

    /// Asks the service, by a delivery of nothing, what it takes.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ask_what_it_takes(&self) -> Result<(), DeliveryError> {
        self.exchange(&[], &[]).await.map(drop)
    }

    /// Sends a report of refusals, apart from all records: it is on the service's disk then, or the service will never take it,
    /// and there is nothing that could be done about that.
    ///
    /// # Errors
    /// When it is to be sent again.
    pub async fn report_refusals(&self, report: &RefusalReport) -> Result<(), DeliveryError> {
        let body = json!({"gateway": self.session.as_str(), "records": [], "refusals": report}).to_string();
        let request = self.client.post(&self.usage_url, body.into_bytes());
        let status = within(self.timeout, async { Ok::<_, DeliveryError>(send(request).await?.status()) }).await?;
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                tracing::warn!("the accounting service does not take a report of refusals: status {status}");
                Ok(())
            }
            status => Err(DeliveryError::Unavailable(format!("status {status}; 200 is expected"))),
        }
    }

    /// Asks for an allowance for a wallet of which a request needs more than is left. The request does not wait for a
    /// failing service, and not longer than for its key. Requests that come while the service answers share an exchange.
    ///
    /// # Errors
    /// When the service did not answer.
    pub async fn request_allowance(&self, needed: AllowanceRequestGuard) -> Result<(), DeliveryError> {
        if self.is_failing.load(Ordering::Acquire) {
            return Err(DeliveryError::Unavailable("the accounting service does not answer".to_owned()));
        }
        let (wallet, start) = (needed.wallet(), MonotonicTime::now());
        self.waiting.lock().push(wallet.clone());
        let exchange = async {
            let _turn = self.turn.lock().await;
            if wallet.was_asked_since(start) {
                return Ok(());
            }
            let (asked, mut wallets) = (MonotonicTime::now(), std::mem::take(&mut *self.waiting.lock()));
            wallets.sort_by(|one, other| one.id().cmp(other.id()));
            wallets.dedup_by(|one, other| one.id() == other.id());
            let requests: Vec<_> = wallets.iter().map(|wallet| wallet.question()).collect();
            self.exchange_noted(&[], &requests, asked).await
        };
        within(self.service.timeout, exchange).await
    }

    /// The service's totals for a key, which are at the key's address and `/usage`.
    pub async fn totals(&self, hash: &KeyHash) -> Option<serde_json::Map<String, serde_json::Value>> {
        if self.is_failing.load(Ordering::Acquire) {
            return None;
        }
        let request = self.client.get(&format!("{}/usage", self.service.url_of(hash)), JSON);
        let answer = within(self.service.timeout, async {
            let response = send(request).await?;
            let status = response.status();
            Ok::<_, ServiceError>((status, read_body(response).await?))
        });
        let (_, body) = answer.await.ok().filter(|(status, _)| *status == StatusCode::OK)?;
        serde_json::from_slice(&body).ok()
    }

    /// An exchange whose outcome says whether the service is failing, and whose answer is applied to the wallets.
    async fn exchange_noted(
        &self,
        records: &[Bytes],
        requests: &[AllowanceRequest],
        asked: MonotonicTime,
    ) -> Result<(), DeliveryError> {
        let answer = self.exchange(records, requests).await;
        let is_failing = matches!(answer, Err(DeliveryError::Unavailable(_) | DeliveryError::Failed(_)));
        self.is_failing.store(is_failing, Ordering::Release);
        self.apply(answer?.wallets, requests, asked);
        Ok(())
    }

    async fn exchange(&self, records: &[Bytes], requests: &[AllowanceRequest]) -> Result<Answer, DeliveryError> {
        let request = self.client.post(&self.usage_url, body(&self.session, records, requests));
        let answer = within(self.timeout, async { read_answer(send(request).await?, records.len()).await }).await?;
        self.takes_refusals.store(answer.takes_refusals, Ordering::Release);
        Ok(answer)
    }

    fn apply(&self, updates: Vec<serde_json::Value>, requests: &[AllowanceRequest], asked: MonotonicTime) {
        for update in updates {
            match parse_wallet(update) {
                Ok((id, update)) => {
                    let request = requests.iter().find(|request| request.wallet == id);
                    if let Some((wallet, request)) = self.wallets.known(&id).zip(request) {
                        wallet.update_answered(&update, asked, request);
                    }
                }
                Err(why) => tracing::warn!("the accounting service sent an invalid wallet: {why}"),
            }
        }
    }
}

/// The body of a delivery. The records go as they are in the outbox.
fn body(session: &Session, records: &[Bytes], requests: &[AllowanceRequest]) -> Vec<u8> {
    let wallets: Vec<_> = requests
        .iter()
        .map(|AllowanceRequest { wallet, version, wanted, granted }| {
            let (wanted, granted) = (wanted.to_string(), granted.to_string());
            json!({"id": wallet, "version": version, "wanted_usd": wanted, "granted_usd": granted})
        })
        .collect();
    let beginning = format!(r#"{{"gateway":"{session}","records":["#);
    let end = format!(r#"],"wallets":{}}}"#, serde_json::Value::from(wallets));
    [beginning.as_bytes(), &records.join(&b','), end.as_bytes()].concat()
}

/// Why the service did not take records.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeliveryError {
    /// There is no answer, or one that has nothing to do with the records: they are to be sent again.
    #[error("{0}")]
    Unavailable(String),
    /// The service answers and does not take the records. They are to be sent again. If it takes others meanwhile and not
    /// these, the records are the reason.
    #[error("{0}")]
    Failed(String),
    /// The service will never take these of the records. If the list is empty, it does not say which.
    #[error("{}", describe(.0))]
    Rejected(Vec<RejectedRecord>),
}

impl From<ServiceError> for DeliveryError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Unavailable(why) | ServiceError::Invalid(why) => Self::Unavailable(why),
        }
    }
}

/// A record that the service rejects. Without it the others may be taken.
#[derive(Debug, PartialEq, Eq)]
pub struct RejectedRecord {
    /// Its place among those that were sent.
    pub index: usize,
    /// What is wrong with it.
    pub why: String,
}

/// How many records are rejected, and why the first of them is.
fn describe(rejected: &[RejectedRecord]) -> String {
    match rejected.first() {
        Some(RejectedRecord { why, .. }) => format!("{} records are refused; the first: {why}", rejected.len()),
        None => "records are refused, but the service does not say which".to_owned(),
    }
}

#[derive(Deserialize)]
struct Answer {
    accepted: usize,
    #[serde(default)]
    wallets: Vec<serde_json::Value>,
    #[serde(default)]
    takes_refusals: bool,
}

#[derive(Deserialize)]
struct Refused {
    error: ErrorBody,
    /// All records that are refused, where the service names more than one.
    #[serde(default)]
    refused: Vec<RefusedEntry>,
}

#[derive(Deserialize)]
struct RefusedEntry {
    index: usize,
    #[serde(default)]
    message: String,
}

/// What the service says is wrong, in OpenAI's form.
#[derive(Deserialize)]
struct ErrorBody {
    /// Such as `records[3]` or `records[3].cost_usd`.
    param: Option<String>,
    #[serde(default)]
    message: String,
}

async fn read_answer(response: Response, count: usize) -> Result<Answer, DeliveryError> {
    let status = response.status();
    let body = read_body(response).await;
    match status {
        StatusCode::OK => {
            let answer: Answer = serde_json::from_slice(&body?)
                .map_err(|error| DeliveryError::Unavailable(format!("the answer is invalid: {error}")))?;
            let is_complete = answer.accepted == count;
            let why = || DeliveryError::Failed(format!("{} of {count} records were accepted", answer.accepted));
            if is_complete { Ok(answer) } else { Err(why()) }
        }
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE if count > 0 => {
            Err(DeliveryError::Rejected(body.map(|body| rejected(&body, count)).unwrap_or_default()))
        }
        status if may_be_due_to_records(status) => {
            Err(DeliveryError::Failed(format!("status {status}; 200 is expected")))
        }
        status => Err(DeliveryError::Unavailable(format!("status {status}; 200 is expected"))),
    }
}

/// Whether a service that does not name the record at fault may answer with this status because of one. It may not where the
/// status concerns the gateway, the address or the time, or comes from a proxy that does not reach the service.
fn may_be_due_to_records(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::CONFLICT
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::NOT_IMPLEMENTED
            | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// The records that the service names as refused, each once and in their order.
fn rejected(body: &[u8], count: usize) -> Vec<RejectedRecord> {
    let Ok(Refused { error: ErrorBody { param, message }, refused }) = serde_json::from_slice(body) else {
        return Vec::new();
    };
    let first = param.as_deref().and_then(record_index).map(|index| (index, message));
    let all = refused.into_iter().map(|RefusedEntry { index, message }| (index, message));
    let by_index: BTreeMap<usize, String> = first.into_iter().chain(all).filter(|(index, _)| *index < count).collect();
    by_index.into_iter().map(|(index, why)| RejectedRecord { index, why }).collect()
}

/// The index in `records[3]` or `records[3].cost_usd`.
fn record_index(param: &str) -> Option<usize> {
    let (index, _) = param.strip_prefix("records[")?.split_once(']')?;
    index.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_as_they_are_and_wallets_beside_them() {
        let session: Session = "00000000000000ff".parse().unwrap();
        let requests = [AllowanceRequest {
            wallet: "team_x".into(),
            version: 7,
            wanted: "1.50".parse().unwrap(),
            granted: "0.5".parse().unwrap(),
        }];
        let records = [br#"{"id":"a"}"#, br#"{"id":"b"}"#].map(|record| Bytes::from_static(record));
        let written = body(&session, &records, &requests);
        let value: serde_json::Value = serde_json::from_slice(&written).unwrap();
        let wallets = json!([{"id": "team_x", "version": 7, "wanted_usd": "1.5", "granted_usd": "0.5"}]);
        assert_eq!(
            value,
            json!({"gateway": session.as_str(), "records": [{"id": "a"}, {"id": "b"}], "wallets": wallets})
        );
        let empty: serde_json::Value = serde_json::from_slice(&body(&session, &[], &[])).unwrap();
        assert_eq!(empty["records"], json!([]));
    }

    #[test]
    fn who_is_at_fault_is_told_within_bounds() {
        let body = |param: &str| format!(r#"{{"error":{{"message":"no","type":"x","param":{param},"code":"y"}}}}"#);
        let of = |param: &str| rejected(body(param).as_bytes(), 3);
        let second = vec![RejectedRecord { index: 1, why: "no".to_owned() }];
        assert_eq!((of(r#""records[1]""#), of(r#""records[1].cost_usd""#)), (second, of(r#""records[1]""#)));
        for param in ["null", "7", r#""records""#, r#""records[3]""#, r#""records[-1]""#, r#""records[1""#] {
            assert_eq!(of(param), [], "{param}");
        }
        assert_eq!(rejected(b"", 3), []);
        let all = br#"{"error":{"message":"first","param":"records[1]"},
            "refused":[{"index":2,"id":"b","message":"b"},{"index":1,"id":"a","message":"a"},{"index":3}]}"#;
        let rejected: Vec<_> = rejected(all, 3).into_iter().map(|RejectedRecord { index, why }| (index, why)).collect();
        assert_eq!(rejected, [(1, "a".to_owned()), (2, "b".to_owned())], "each once, in their order");
    }
}
