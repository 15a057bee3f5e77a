//! One issuer: its keys, which are fetched in the background, and at once, but rarely, where a token names one that is not
//! known. One fetch is under way at a time, whoever waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use jsonwebtoken::Header;
use keymeter_config::keys::JwtIssuer;
use keymeter_core::clock::{MonotonicTime, Now};
use keymeter_issuer::{KeySet, by_name, header, install};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{TokenError, token::TokenHolder};
use crate::{
    keys::{
        circuit,
        service::{ClientError, JSON, ServiceClient, ServiceError, max_age, read_body, send, within},
    },
    observe::metrics::{IssuerSeries, Metrics},
};

/// An issuer, and what is known of its keys.
pub(super) struct Issuer {
    pub(super) terms: JwtIssuer,
    client: ServiceClient,
    /// `None`: they have never been fetched.
    keys: ArcSwapOption<KeySet>,
    /// Counts how often keys have gone, with which tokens may have been checked that are remembered.
    generation: AtomicU32,
    /// Whether its tokens are not taken any more.
    is_retired: AtomicBool,
    fetches: Mutex<Fetches>,
    /// Counts the fetches that have ended.
    ended: watch::Sender<u64>,
    series: IssuerSeries,
}

/// What fetches there were.
struct Fetches {
    is_running: bool,
    /// How many failed in a row.
    failures: u32,
    /// When keys were last fetched for a key that was not known.
    for_unknown: Option<MonotonicTime>,
    /// How long after the last one the next is due.
    pause: Duration,
    /// Before then none is begun for a token, where no keys are known.
    paused_until: MonotonicTime,
}

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often keys are fetched, unless the issuer says how long they are valid: within these bounds it is believed.
const RENEWAL: Duration = Duration::from_mins(10);
const SHORTEST_RENEWAL: Duration = Duration::from_mins(1);
const LONGEST_RENEWAL: Duration = Duration::from_hours(1);
/// How often keys are fetched because a token names one that is not known.
const FOR_UNKNOWN: Duration = Duration::from_secs(30);
/// An issuer whose keys are known is asked so many times more rarely after it failed.
const LESS_URGENT: u32 = 12;

impl Issuer {
    /// An issuer, whose keys are not known yet.
    pub(super) fn new(terms: JwtIssuer, metrics: &Metrics) -> Result<Self, ClientError> {
        install();
        Ok(Self {
            client: ServiceClient::trusting(terms.ca.as_deref(), TIMEOUT, "keys.jwt[].ca")?,
            series: metrics.issuer(&terms.issuer),
            terms,
            keys: ArcSwapOption::empty(),
            generation: AtomicU32::new(0),
            is_retired: AtomicBool::new(false),
            fetches: Mutex::new(Fetches {
                is_running: false,
                failures: 0,
                for_unknown: None,
                pause: Duration::ZERO,
                paused_until: MonotonicTime::from_nanos(0),
            }),
            ended: watch::Sender::default(),
        })
    }

    /// Fetches its keys, and renews them.
    pub(super) async fn run(self: &Arc<Self>) {
        let mut ended = self.ended.subscribe();
        if self.keys.load().is_none() {
            self.begin_fetch(&mut self.fetches.lock());
        }
        loop {
            let pause = self.fetches.lock().pause;
            // A fetch that ends meanwhile says anew when the next is due.
            if tokio::time::timeout(pause.max(circuit::pause(0, 0)), ended.changed()).await.is_err() {
                self.begin_fetch(&mut self.fetches.lock());
                // The sender is ours.
                let _ = ended.changed().await;
            }
        }
    }

    /// Checks a token, with keys that are fetched for it if need be.
    pub(super) async fn check(self: &Arc<Self>, token: &str, now: Now) -> Result<TokenHolder, TokenError> {
        let header = header(token).ok_or(TokenError::Invalid)?;
        // Nothing is fetched for a token that no key could make valid.
        let is_taken = self.terms.algorithms.iter().any(|taken| by_name(*taken) == header.alg);
        if !is_taken || !TokenHolder::is_stated(token, &self.terms.claim, now.date) {
            return Err(TokenError::Invalid);
        }
        if let Some(claims) = self.check_by_known(token, &header, now) {
            return Ok(claims);
        }
        if self.keys.load().as_ref().is_some_and(|keys| header.kid.as_ref().is_some_and(|id| keys.has(id))) {
            return Err(TokenError::Invalid);
        }
        if let Some(mut ended) = self.fetch_for_unknown(now.moment) {
            // The sender is ours.
            let _ = ended.changed().await;
        }
        // Where none was begun, another's may just have ended.
        if let Some(claims) = self.check_by_known(token, &header, now) {
            return Ok(claims);
        }
        let is_away = self.keys.load().is_none() || self.fetches.lock().failures > 0;
        Err(if is_away { TokenError::Unavailable } else { TokenError::Invalid })
    }

    fn check_by_known(&self, token: &str, header: &Header, now: Now) -> Option<TokenHolder> {
        let keys = self.keys.load_full()?;
        let candidates = keys.candidates(header.kid.as_deref(), header.alg);
        candidates.iter().find_map(|key| TokenHolder::checked(token, key, &self.terms, now.date))
    }

    /// Which of its keys hold now.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether every key is still trusted that was at `generation`.
    pub(super) fn trusts_since(&self, generation: u32) -> bool {
        generation == self.generation() && !self.is_retired.load(Ordering::Acquire)
    }

    /// From now on no token of its is remembered.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Release);
    }

    /// A fetch that may bring a key which is not known: the one under way, or one that is begun if that may be.
    fn fetch_for_unknown(self: &Arc<Self>, now: MonotonicTime) -> Option<watch::Receiver<u64>> {
        let mut fetches = self.fetches.lock();
        let is_due = if self.keys.load().is_none() {
            now >= fetches.paused_until
        } else {
            fetches.for_unknown.is_none_or(|last| now.saturating_since(last) >= FOR_UNKNOWN)
        };
        if !fetches.is_running && !is_due {
            return None;
        }
        if !fetches.is_running {
            fetches.for_unknown = Some(now);
        }
        let ended = self.ended.subscribe();
        self.begin_fetch(&mut fetches);
        Some(ended)
    }

    /// Begins a fetch, if none is under way. Whoever waits for it may leave: it goes on.
    fn begin_fetch(self: &Arc<Self>, fetches: &mut Fetches) {
        if !fetches.is_running {
            fetches.is_running = true;
            let running = RunningFetch(self.clone());
            tokio::spawn(async move { running.0.fetch().await });
        }
    }

    async fn fetch(&self) {
        let answer = within(TIMEOUT, self.ask()).await;
        let now = MonotonicTime::now();
        let mut fetches = self.fetches.lock();
        self.series.set_up(answer.is_ok());
        match answer {
            Ok((keys, valid_for)) => {
                if fetches.failures > 0 {
                    tracing::info!("the keys of the issuer {} are fetched again", self.terms.issuer);
                }
                self.show(keys);
                let life = valid_for.unwrap_or(RENEWAL).clamp(SHORTEST_RENEWAL, LONGEST_RENEWAL);
                fetches.failures = 0;
                // Gateways that began together do not fetch together.
                fetches.pause = life.mul_f64(1.0 - circuit::fraction(now.as_nanos()) / 8.0);
            }
            Err(error) => {
                let is_known = self.keys.load().is_some();
                if fetches.failures.is_multiple_of(32) {
                    let what =
                        if is_known { "those that are known go on to hold" } else { "its tokens cannot be checked" };
                    tracing::warn!("the keys of the issuer {} cannot be fetched: {error}; {what}", self.terms.issuer);
                }
                let pause = circuit::pause(fetches.failures, now.as_nanos());
                fetches.pause = if is_known { pause * LESS_URGENT } else { pause };
                fetches.paused_until = now + pause;
                fetches.failures = fetches.failures.saturating_add(1);
            }
        }
    }

    /// From now on these are its keys. Tokens that were checked by one that is gone are to be checked again.
    pub(super) fn show(&self, keys: KeySet) {
        let keys = Arc::new(keys);
        let before = self.keys.swap(Some(keys.clone()));
        if before.is_some_and(|before| !before.is_within(&keys)) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }

    async fn ask(&self) -> Result<(KeySet, Option<Duration>), ServiceError> {
        let response = send(self.client.get(&self.terms.jwks, JSON)).await?;
        let valid_for = max_age(response.headers());
        match response.status() {
            StatusCode::OK => {
                let keys = KeySet::parse(&read_body(response).await?, &self.terms.algorithms);
                keys.map(|keys| (keys, valid_for)).map_err(ServiceError::Invalid)
            }
            status => Err(ServiceError::Unavailable(format!("status {status}; 200 is expected"))),
        }
    }
}

/// A fetch that is under way. However it ends, the next may begin, and whoever waits goes on.
struct RunningFetch(Arc<Issuer>);

impl Drop for RunningFetch {
    fn drop(&mut self) {
        // Under the lock, so that who waits for the next one is not told of this.
        let mut fetches = self.0.fetches.lock();
        fetches.is_running = false;
        self.0.ended.send_modify(|ended| *ended += 1);
    }
}
