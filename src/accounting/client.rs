//! Carries records to whoever keeps the ledger, and the keeper's words on wallets back.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{StatusCode, header};
use keymeter_config::keys::{Http, parse_wallet};
use keymeter_core::record::Session;
use keymeter_core::{
    clock::MonotonicTime,
    key::{KeyHash, Secret},
    wallet::{AllowanceRequest, AllowanceRequestGuard, WalletAllowance, WalletAllowances},
};
use parking_lot::Mutex;
use reqwest::{Client, Response};
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;

use crate::keys::http::{body, plainly};

/// The way to whoever keeps the ledger.
pub struct AccountingClient {
    client: Client,
    url: Arc<str>,
    service: Http,
    token: Option<Secret>,
    timeout: Duration,
    /// How long a request waits for a word.
    patience: Duration,
    session: Session,
    purses: Arc<WalletAllowances>,
    /// Whether the last exchange failed.
    is_failing: AtomicBool,
    /// The wallets of requests that wait for a word, and who asks for all of them.
    waiting: Mutex<Vec<Arc<WalletAllowance>>>,
    turn: tokio::sync::Mutex<()>,
}

/// The keeper writes what it is sent to its disk before it answers.
const LEAST_TIMEOUT: Duration = Duration::from_secs(10);

/// Wallets that are asked for at once; further ones take the next turn.
const MOST_WALLETS: usize = 100;

impl AccountingClient {
    /// The way to the `usage_url` of `service`.
    #[must_use]
    pub fn new(
        client: Client,
        usage_url: Arc<str>,
        service: &Http,
        session: Session,
        purses: Arc<WalletAllowances>,
    ) -> Self {
        Self {
            client,
            url: usage_url,
            service: service.clone(),
            token: service.token.as_ref().map(|token| token.0.clone()),
            timeout: service.timeout.max(LEAST_TIMEOUT),
            patience: service.timeout,
            session,
            purses,
            is_failing: AtomicBool::new(false),
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Hands records over, which are JSON, and asks for what wallets are short of. When this comes back, the records are
    /// where they should be, and the purses have heard.
    ///
    /// # Errors
    /// Why that is not so.
    pub async fn hand_over(&self, records: &[Bytes]) -> Result<(), Refusal> {
        let asked = MonotonicTime::now();
        let wishes: Vec<_> = self.purses.wishes(asked).into_iter().take(MOST_WALLETS).collect();
        // A keeper that is away is asked whether it is back, for those who would ask it for more.
        if records.is_empty() && wishes.is_empty() && !self.is_failing.load(Ordering::Acquire) {
            return Ok(());
        }
        self.send(records, &wishes, asked).await
    }

    /// Hands over a record alone that may be what the keeper fails at: that it does says nothing of the keeper.
    ///
    /// # Errors
    /// As those of `hand_over`.
    pub async fn hand_over_alone(&self, record: &Bytes) -> Result<(), Refusal> {
        self.exchange(std::slice::from_ref(record), &[]).await.map(drop)
    }

    /// Asks for a wallet of which a request needs more than is left. The request does not wait for a keeper that is
    /// away, and not longer than for its key. Those that come while the keeper answers are asked for together.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, asking: AllowanceRequestGuard) -> Result<(), Refusal> {
        if self.is_failing.load(Ordering::Acquire) {
            return Err(Refusal::Away("the ledger's keeper does not answer".to_owned()));
        }
        let (purse, start) = (asking.purse(), MonotonicTime::now());
        self.waiting.lock().push(purse.clone());
        let exchange = async {
            let _turn = self.turn.lock().await;
            if purse.was_asked_since(start) {
                return Ok(());
            }
            let (asked, mut purses) = (MonotonicTime::now(), std::mem::take(&mut *self.waiting.lock()));
            purses.sort_by(|one, other| one.id().cmp(other.id()));
            purses.dedup_by(|one, other| one.id() == other.id());
            let wishes: Vec<_> = purses.iter().map(|purse| purse.question()).collect();
            self.send(&[], &wishes, asked).await
        };
        let asked = tokio::time::timeout(self.patience, exchange).await;
        asked.unwrap_or_else(|_| Err(Refusal::Away("the ledger's keeper does not answer in time".to_owned())))
    }

    /// What is on record of a key in all: what the service says at the key's address and `/usage`.
    pub async fn totals(&self, hash: &KeyHash) -> Option<serde_json::Map<String, serde_json::Value>> {
        if self.is_failing.load(Ordering::Acquire) {
            return None;
        }
        let mut request = self.client.get(format!("{}/usage", self.service.url_of(hash))).timeout(self.patience);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        let response = request.send().await.ok().filter(|response| response.status() == StatusCode::OK)?;
        let body = body(response).await.ok()?;
        serde_json::from_slice(&body).ok()
    }

    async fn send(&self, records: &[Bytes], wishes: &[AllowanceRequest], asked: MonotonicTime) -> Result<(), Refusal> {
        let answer = self.exchange(records, wishes).await;
        let is_failing = matches!(answer, Err(Refusal::Away(_) | Refusal::Failed(_)));
        self.is_failing.store(is_failing, Ordering::Release);
        self.hear(answer?.wallets, wishes, asked);
        Ok(())
    }

    async fn exchange(&self, records: &[Bytes], wishes: &[AllowanceRequest]) -> Result<Accepted, Refusal> {
        let exchange = async {
            let mut request = self.client.post(&*self.url).header(header::CONTENT_TYPE, "application/json");
            if let Some(token) = &self.token {
                request = request.bearer_auth(token.reveal());
            }
            let request = request.body(written(&self.session, records, wishes));
            let response = request.send().await.map_err(|error| Refusal::Away(plainly(&error)))?;
            accepted(response, records.len()).await
        };
        let timeout = || Err(Refusal::Away(format!("no answer within {} s", self.timeout.as_secs())));
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| timeout())
    }

    fn hear(&self, words: Vec<serde_json::Value>, wishes: &[AllowanceRequest], asked: MonotonicTime) {
        for word in words {
            match parse_wallet(word) {
                Ok((id, word)) => {
                    let wish = wishes.iter().find(|wish| wish.wallet == id);
                    if let Some((purse, wish)) = self.purses.known(&id).zip(wish) {
                        purse.hear_answer(&word, asked, wish);
                    }
                }
                Err(why) => tracing::warn!("the ledger's keeper said of a wallet what cannot be read: {why}"),
            }
        }
    }
}

/// What is sent. The records go as they are in the spool.
fn written(session: &Session, records: &[Bytes], wishes: &[AllowanceRequest]) -> Vec<u8> {
    let wallets: Vec<_> = wishes
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

/// Why records are not where they should be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// There is no answer, or one that has nothing to do with what was sent: they are to be sent again.
    #[error("{0}")]
    Away(String),
    /// Somebody answers, and does not take them. They are to be sent again; if others are taken meanwhile, and these are
    /// not, it is due to them.
    #[error("{0}")]
    Failed(String),
    /// These of them will never be taken; none: it is not said which.
    #[error("{}", describe(.0))]
    Faulty(Vec<Faulty>),
}

/// A record that is at fault; without it the others may be taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Faulty {
    /// Its place among those that were sent.
    pub index: usize,
    /// What is wrong with it.
    pub why: String,
}

/// Which records are refused, and why the first of them is.
fn describe(faulty: &[Faulty]) -> String {
    match faulty.first() {
        Some(Faulty { why, .. }) => format!("{} records are refused; the first: {why}", faulty.len()),
        None => "records are refused, but the service does not say which".to_owned(),
    }
}

#[derive(Deserialize)]
struct Accepted {
    accepted: usize,
    #[serde(default)]
    wallets: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Refused {
    error: ServiceError,
    /// All that are at fault, where the keeper tells more than one.
    #[serde(default)]
    refused: Vec<RefusedRecord>,
}

#[derive(Deserialize)]
struct RefusedRecord {
    index: usize,
    #[serde(default)]
    message: String,
}

/// What the keeper says is wrong, in OpenAI's form.
#[derive(Deserialize)]
struct ServiceError {
    /// Such as `records[3]` or `records[3].cost_usd`.
    param: Option<String>,
    #[serde(default)]
    message: String,
}

async fn accepted(response: Response, count: usize) -> Result<Accepted, Refusal> {
    let status = response.status();
    let body = body(response).await.map_err(|failure| Refusal::Away(failure.why()));
    match status {
        StatusCode::OK => {
            let answer: Accepted = serde_json::from_slice(&body?)
                .map_err(|error| Refusal::Away(format!("the answer is not understood: {error}")))?;
            let all = answer.accepted == count;
            let why = || Refusal::Failed(format!("{} of {count} records were accepted", answer.accepted));
            if all { Ok(answer) } else { Err(why()) }
        }
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE if count > 0 => {
            Err(Refusal::Faulty(body.map(|body| faulty(&body, count)).unwrap_or_default()))
        }
        status if may_be_due_to_records(status) => Err(Refusal::Failed(format!("status {status}; 200 is expected"))),
        status => Err(Refusal::Away(format!("status {status}; 200 is expected"))),
    }
}

/// Whether a keeper that does not say that a record is at fault may answer one with this: not where it says something of
/// us, of the address or of the time, or is a proxy that does not reach the keeper.
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

/// Which records are at fault, as far as that is said, each once and in their order.
fn faulty(body: &[u8], count: usize) -> Vec<Faulty> {
    let Ok(Refused { error: ServiceError { param, message }, refused }) = serde_json::from_slice(body) else {
        return Vec::new();
    };
    let first = param.as_deref().and_then(place).map(|index| (index, message));
    let all = refused.into_iter().map(|RefusedRecord { index, message }| (index, message));
    let by_place: BTreeMap<usize, String> = first.into_iter().chain(all).filter(|(index, _)| *index < count).collect();
    by_place.into_iter().map(|(index, why)| Faulty { index, why }).collect()
}

/// The place that `records[3]` or `records[3].cost_usd` tells.
fn place(param: &str) -> Option<usize> {
    let (index, _) = param.strip_prefix("records[")?.split_once(']')?;
    index.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_as_they_are_and_wallets_beside_them() {
        let session: Session = "00000000000000ff".parse().unwrap();
        let wishes = [AllowanceRequest {
            wallet: "team_x".into(),
            version: 7,
            wanted: "1.50".parse().unwrap(),
            granted: "0.5".parse().unwrap(),
        }];
        let records = [br#"{"id":"a"}"#, br#"{"id":"b"}"#].map(|record| Bytes::from_static(record));
        let body = written(&session, &records, &wishes);
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let wallets = json!([{"id": "team_x", "version": 7, "wanted_usd": "1.5", "granted_usd": "0.5"}]);
        assert_eq!(
            value,
            json!({"gateway": session.as_str(), "records": [{"id": "a"}, {"id": "b"}], "wallets": wallets})
        );
        let empty: serde_json::Value = serde_json::from_slice(&written(&session, &[], &[])).unwrap();
        assert_eq!(empty["records"], json!([]));
    }

    #[test]
    fn who_is_at_fault_is_told_within_bounds() {
        let body = |param: &str| format!(r#"{{"error":{{"message":"no","type":"x","param":{param},"code":"y"}}}}"#);
        let of = |param: &str| faulty(body(param).as_bytes(), 3);
        let second = vec![Faulty { index: 1, why: "no".to_owned() }];
        assert_eq!((of(r#""records[1]""#), of(r#""records[1].cost_usd""#)), (second, of(r#""records[1]""#)));
        for param in ["null", "7", r#""records""#, r#""records[3]""#, r#""records[-1]""#, r#""records[1""#] {
            assert_eq!(of(param), [], "{param}");
        }
        assert_eq!(faulty(b"", 3), []);
        let all = br#"{"error":{"message":"first","param":"records[1]"},
            "refused":[{"index":2,"id":"b","message":"b"},{"index":1,"id":"a","message":"a"},{"index":3}]}"#;
        let faulty: Vec<_> = faulty(all, 3).into_iter().map(|Faulty { index, why }| (index, why)).collect();
        assert_eq!(faulty, [(1, "a".to_owned()), (2, "b".to_owned())], "each once, in their order");
    }
}
