//! Replaces `traces` in a program that is built without the feature `otlp`. No value of these types can exist, so none of their
//! methods can run.

use std::{convert::Infallible, time::Duration};

use http::{HeaderName, HeaderValue};
use jiff::Timestamp;
use keymeter_config::Tracing;
use keymeter_core::api::Endpoint;
use thiserror::Error;

pub use super::traced::{Arrival, AskedReplica, Ended, ExchangeEnded, LAST_SPANS, Spent};
use crate::observe::metrics::{AttemptOutcome, TraceSeries};

/// What would trace requests.
pub struct Traces(Infallible);

/// What would be the trace of a request.
pub struct RequestTrace(Infallible);

/// Why there are no traces.
#[derive(Debug, Error)]
#[error("`tracing` is set, but this program is built without it: build it with the feature `otlp`")]
pub struct TracesError;

impl Traces {
    /// Refuses: nothing can be traced.
    ///
    /// # Errors
    /// Always.
    pub fn start(_: &Tracing, _: TraceSeries) -> Result<Self, TracesError> {
        Err(TracesError)
    }

    /// Refuses: nothing can be traced.
    ///
    /// # Errors
    /// Always.
    pub fn rehearse(_: &Tracing) -> Result<(), TracesError> {
        Err(TracesError)
    }

    /// See `traces`.
    #[must_use]
    pub fn begin(&self, _: &Arrival<'_>) -> Option<Box<RequestTrace>> {
        match self.0 {}
    }

    /// See `traces`.
    pub fn flush(&self, _: Duration) {
        match self.0 {}
    }
}

impl RequestTrace {
    /// See `traces`.
    #[must_use]
    pub fn id(&self) -> &str {
        match self.0 {}
    }

    /// See `traces`.
    pub fn asks(&mut self, _: Endpoint, _: Option<&str>, _: Option<u64>, _: bool) {
        match self.0 {}
    }

    /// See `traces`.
    pub fn exchange_begins(&mut self, _: &str, _: Option<AskedReplica<'_>>, _: Timestamp) {
        match self.0 {}
    }

    /// See `traces`.
    #[must_use]
    pub fn headers(&self) -> [(HeaderName, Option<HeaderValue>); 2] {
        match self.0 {}
    }

    /// See `traces`.
    pub fn upstream_answered(&mut self, _: u16) {
        match self.0 {}
    }

    /// See `traces`.
    pub fn attempted(&mut self, _: AttemptOutcome) {
        match self.0 {}
    }

    /// See `traces`.
    pub fn goes_elsewhere(&mut self, _: Timestamp) {
        match self.0 {}
    }

    /// See `traces`.
    pub fn exchange_ended(&mut self, _: &ExchangeEnded, _: Timestamp) {
        match self.0 {}
    }

    /// See `traces`.
    pub fn ended(&mut self, _: &Ended<'_>, _: Option<(&str, Option<&str>)>, _: Timestamp) {
        match self.0 {}
    }
}
