//! What happens to a request, as its trace is told. It is the same whether the program can trace requests or not.

use std::time::Duration;

use http::{HeaderMap, Method};
use jiff::Timestamp;
use keymeter_core::{
    api::{Api, Call},
    money::Usd,
    rejection::ErrorCode,
    usage::{Usage, UsageSource},
};

/// How long the last spans may take to be sent.
pub const LAST_SPANS: Duration = Duration::from_secs(2);

/// A request whose head is there.
pub struct Arrival<'request> {
    /// Its headers, which may name its caller's trace.
    pub headers: &'request HeaderMap,
    /// Its method.
    pub method: &'request Method,
    /// Without its query, and as brief as in the log.
    pub path: &'request str,
    /// Whose path it is.
    pub api: Api,
    /// What it asks for, if that is known.
    pub call: Option<&'request Call>,
    /// As in the response's `x-request-id`.
    pub id: &'request str,
    /// When it came.
    pub at: Timestamp,
}

/// A replica that an attempt is made at.
#[derive(Clone, Copy)]
pub struct AskedReplica<'replica> {
    /// Its name.
    pub name: &'replica str,
    /// Its host, as configured.
    pub host: &'replica str,
    /// The same.
    pub port: u16,
}

/// What an exchange came to.
pub struct ExchangeEnded {
    /// What it used.
    pub usage: Usage,
    /// Where that is known from.
    pub source: UsageSource,
    /// When the first piece of a stream came.
    pub first_piece: Option<Timestamp>,
    /// Why there is no response, or no more of it, as the client is told.
    pub failure: Option<ErrorCode>,
}

/// What a request came to.
#[derive(Default)]
pub struct Ended<'request> {
    /// What the client was answered with.
    pub status: u16,
    /// Why it was refused or failed, as the client is told.
    pub reason: Option<ErrorCode>,
    /// Whether the response broke off, for whatever reason.
    pub broke_off: bool,
    /// Whether its client left before its end.
    pub client_aborted: bool,
    /// The configured name of the upstream; `None`: it was not admitted.
    pub upstream: Option<&'request str>,
    /// What it used and cost, if it was admitted.
    pub spent: Option<Spent>,
}

/// What a request used and cost.
pub struct Spent {
    /// Its tokens.
    pub usage: Usage,
    /// Where they are known from.
    pub source: UsageSource,
    /// In money.
    pub cost: Usd,
}
