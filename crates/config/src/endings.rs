//! The end of a response whose client has left.

use std::time::Duration;

use super::{
    raw,
    scalar::{Scalar, Span},
    written::ClientAbort,
};

/// What becomes of a response whose client has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClientAbort {
    /// The upstream's connection is closed, and what was delivered is charged.
    Stop,
    /// The upstream is read to its end, and its own statement is charged.
    Drain {
        /// How long that may take after the client has left.
        limit: Duration,
    },
}

impl OnClientAbort {
    pub(super) fn new(raw: &raw::File) -> Self {
        let limit = raw.drain_limit.map_or(Duration::from_mins(1), |Scalar(Span(limit))| limit);
        match raw.on_client_abort {
            Some(Scalar(ClientAbort::Drain)) => Self::Drain { limit },
            Some(Scalar(ClientAbort::Stop)) | None => Self::Stop,
        }
    }
}
