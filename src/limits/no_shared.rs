//! Replaces `shared` in a program that is built without the feature `redis`. No value of these types can exist, so none of
//! their methods can run.

use std::{convert::Infallible, ops::Deref, sync::Arc, time::Duration};

use keymeter_config as config;
use keymeter_core::{
    clock::Now,
    limit::{Amounts, Counters, LimitLine, LimitStatus, QuotaUse, Refusal, RequestLimits, Scopes},
};
use thiserror::Error;

use super::kept::KeptQuotas;
use crate::observe::metrics::SharedSeries;

/// The limits that this gateway shares with others; there are none.
pub struct SharedLimits(Infallible);

/// A reservation on the server; there is none.
pub struct Ticket(Infallible);

/// Why a request was not admitted by the server.
#[derive(Debug)]
pub enum Declined {
    /// See `shared`.
    Refused(Refusal),
    /// See `shared`.
    Unreachable,
}

/// Why there are no shared limits.
#[derive(Debug, Error)]
#[error("`limits.shared` is set, but this program is built without it: build it with the feature `redis`")]
pub struct SharedLimitsError;

impl SharedLimits {
    /// Fails: this program cannot share limits.
    ///
    /// # Errors
    /// Always.
    pub fn new(_: config::Shared, _: SharedSeries, _: Arc<KeptQuotas>) -> Result<Self, SharedLimitsError> {
        Err(SharedLimitsError)
    }

    /// See `shared`.
    ///
    /// # Errors
    /// Never.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub async fn reserve(
        self: &Arc<Self>,
        _: &Scopes<&str>,
        _: &RequestLimits,
        _: Amounts,
        _: Now,
    ) -> Result<Ticket, Declined> {
        match self.0 {}
    }

    /// See `shared`.
    #[must_use]
    pub fn local_limits(&self, _: RequestLimits) -> RequestLimits {
        match self.0 {}
    }

    /// See `shared`.
    #[must_use]
    pub fn local_share<Owner: Deref<Target = Counters>>(
        &self,
        _: &Scopes<&str>,
        _: &Scopes<Owner>,
        _: &RequestLimits,
        _: Now,
    ) -> Option<RequestLimits> {
        match self.0 {}
    }

    /// See `shared`.
    #[must_use]
    pub fn admit_locally(self: &Arc<Self>, _: &Scopes<&str>, _: &RequestLimits) -> Ticket {
        match self.0 {}
    }

    /// See `shared`.
    #[must_use]
    pub fn status(&self, _: &Scopes<&str>, _: &RequestLimits, _: Now) -> Option<LimitStatus> {
        match self.0 {}
    }

    /// See `shared`.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub async fn fetch_status(
        &self,
        _: &Scopes<&str>,
        _: &RequestLimits,
        _: Now,
    ) -> Option<(LimitStatus, Vec<LimitLine>)> {
        match self.0 {}
    }

    /// See `shared`.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub async fn run(&self) {
        match self.0 {}
    }

    /// See `shared`.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub async fn flush(&self, _: Duration) {
        match self.0 {}
    }
}

impl Ticket {
    /// See `shared`.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        match self.0 {}
    }

    /// See `shared`.
    #[must_use]
    pub fn observed(&self) -> Option<&Refusal> {
        match self.0 {}
    }

    /// See `shared`.
    pub fn settle(self, _: Amounts, _: &[QuotaUse], _: Now) {
        match self.0 {}
    }

    /// See `shared`.
    pub fn cancel(self) {
        match self.0 {}
    }
}
