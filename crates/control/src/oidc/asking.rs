//! Calls to an issuer, and answers that are remembered for a while.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use keymeter_issuer::client::{ServiceError, max_age, read_body, send};
use reqwest::RequestBuilder;
use tokio::time::Instant;

use super::OidcError;

/// How long an answer is remembered, unless the issuer says how long it is good: within these bounds it is believed.
const RENEWAL: Duration = Duration::from_mins(10);
const SHORTEST_RENEWAL: Duration = Duration::from_mins(1);
const LONGEST_RENEWAL: Duration = Duration::from_hours(1);
/// Before then an issuer that failed is not asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// An answer that is remembered, and why there is none.
pub(super) struct Remembered<T> {
    answer: Option<Arc<T>>,
    error: Option<OidcError>,
    /// Until then neither is asked for again.
    until: Instant,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { answer: None, error: None, until: Instant::now() }
    }
}

impl<T> Remembered<T> {
    /// The answer, which is asked for anew once it is old. Where that fails the old one is good for a while longer.
    pub(super) async fn get<Asked>(&mut self, host: &str, ask: impl FnOnce() -> Asked) -> Result<Arc<T>, OidcError>
    where
        Asked: Future<Output = Result<(T, Option<Duration>), OidcError>>,
    {
        if Instant::now() >= self.until {
            self.renew(host, ask().await);
        }
        match (&self.answer, &self.error) {
            (Some(answer), _) => Ok(answer.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(OidcError::Unavailable("nothing is known of it yet".to_owned())),
        }
    }

    /// What is remembered, be it old.
    pub(super) fn known(&self) -> Option<&Arc<T>> {
        self.answer.as_ref()
    }

    /// From now on the answer is asked for anew.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The next time the answer is asked for anew, unless that failed a moment ago.
    pub(super) fn expire(&mut self) {
        if self.error.is_none() {
            self.until = Instant::now();
        }
    }

    fn renew(&mut self, host: &str, answer: Result<(T, Option<Duration>), OidcError>) {
        let now = Instant::now();
        match answer {
            Ok((answer, valid_for)) => {
                let life = valid_for.unwrap_or(RENEWAL).clamp(SHORTEST_RENEWAL, LONGEST_RENEWAL);
                (self.answer, self.error, self.until) = (Some(Arc::new(answer)), None, now + life);
            }
            Err(error) => {
                tracing::warn!("{host}, by which people sign in, does not say what it must: {error}");
                (self.error, self.until) = (Some(error), now + PAUSE);
            }
        }
    }
}

/// The body of a good answer, and how long it is good.
pub(super) async fn answer(request: RequestBuilder) -> Result<(Vec<u8>, Option<Duration>), OidcError> {
    let response = send(request).await?;
    let valid_for = max_age(response.headers());
    match response.status() {
        StatusCode::OK => Ok((read_body(response).await?, valid_for)),
        status => Err(OidcError::Unavailable(format!("status {status}; 200 is expected"))),
    }
}

impl From<ServiceError> for OidcError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Unavailable(why) => Self::Unavailable(why),
            ServiceError::Invalid(why) => Self::Invalid(why),
        }
    }
}
