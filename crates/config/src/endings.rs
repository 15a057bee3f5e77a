//! What becomes of a response that runs when whoever it is for is gone.

use std::time::Duration;

use super::{
    raw,
    scalar::{Choice, Scalar, Span},
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

/// What becomes of a response whose key is revoked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRevoke {
    /// It ends, with an event that says why where one can be written.
    #[default]
    Cut,
    /// It goes on to its end.
    Finish,
}

impl Choice for OnRevoke {
    const CHOICES: &[(&str, Self)] = &[("cut", Self::Cut), ("finish", Self::Finish)];
}

/// The first as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ClientAbort {
    #[default]
    Stop,
    Drain,
}

impl Choice for ClientAbort {
    const CHOICES: &[(&str, Self)] = &[("stop", Self::Stop), ("drain", Self::Drain)];
}

impl OnClientAbort {
    pub(super) fn of(raw: &raw::File) -> Self {
        let limit = raw.drain_limit.map_or(Duration::from_secs(60), |Scalar(Span(limit))| limit);
        match raw.on_client_abort {
            Some(Scalar(ClientAbort::Drain)) => Self::Drain { limit },
            Some(Scalar(ClientAbort::Stop)) | None => Self::Stop,
        }
    }
}
