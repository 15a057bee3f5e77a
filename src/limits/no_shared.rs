//! Stands for `shared` in a program that is built without the feature `redis`: no value of these types can exist, so that
//! what would be done with one is never done.

use std::{convert::Infallible, sync::Arc, time::Duration};

use keymeter_config as config;
use keymeter_core::{
    clock::MonotonicTime,
    key::KeyId,
    limit::{LimitStatus, Limits, Refusal},
};
use thiserror::Error;

use crate::observe::metrics::SharedSeries;

/// What would be the limits that this gateway shares with others.
pub struct SharedLimits(Infallible);

/// What would be held on the server.
pub struct Ticket(Infallible);

/// Why a request was not admitted by the server.
#[derive(Debug)]
pub enum Declined {
    /// See `shared`.
    Refused(Refusal),
    /// See `shared`.
    Unreachable(Option<Limits>),
}

/// Why there are no shared limits.
#[derive(Debug, Error)]
#[error("`limits.shared` is set, and this program is built without it: build it with the feature `redis`")]
pub struct SharedLimitsError;

impl SharedLimits {
    /// Refuses: there is nothing to share limits by.
    ///
    /// # Errors
    /// Always.
    pub fn new(_: config::Shared, _: SharedSeries) -> Result<Self, SharedLimitsError> {
        Err(SharedLimitsError)
    }

    /// See `shared`.
    ///
    /// # Errors
    /// Never.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub async fn reserve(
        self: &Arc<Self>,
        _: &KeyId,
        _: &Limits,
        _: u64,
        _: MonotonicTime,
    ) -> Result<Ticket, Declined> {
        match self.0 {}
    }

    /// See `shared`.
    #[must_use]
    pub fn limits_here(&self, _: &Limits, _: MonotonicTime) -> Limits {
        match self.0 {}
    }

    /// See `shared`.
    #[must_use]
    pub fn admitted_here(self: &Arc<Self>, _: &KeyId, _: &Limits) -> Ticket {
        match self.0 {}
    }

    /// See `shared`.
    #[must_use]
    pub fn standing(&self, _: &KeyId, _: &Limits, _: MonotonicTime) -> Option<LimitStatus> {
        match self.0 {}
    }

    /// See `shared`.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub async fn asked_standing(&self, _: &KeyId, _: &Limits, _: MonotonicTime) -> Option<LimitStatus> {
        match self.0 {}
    }

    /// See `shared`.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub async fn keep(&self) {
        match self.0 {}
    }

    /// See `shared`.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub async fn finish(&self, _: Duration) {
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
    pub fn settle(self, _: u64) {
        match self.0 {}
    }

    /// See `shared`.
    pub fn cancel(self) {
        match self.0 {}
    }
}
