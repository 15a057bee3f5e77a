//! What is used and what is left of limits.

use std::{fmt, time::Duration};

use crate::{
    glob::Glob,
    limit::{Limit, LimitKind, QuotaName, Scope},
};

/// What a key has used and has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    /// Requests in the last 60 seconds.
    pub requests: WindowStatus,
    /// Tokens in the last 60 seconds.
    pub tokens: WindowStatus,
    /// Requests running now.
    pub running: u64,
}

/// What is used of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowStatus {
    /// What is allowed in any 60 seconds.
    pub limit: Limit,
    /// What counts now; it may be more than the limit.
    pub used: u64,
    /// How long until all of it is free again.
    pub reset: Duration,
}

/// One limit that concerns a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitLine {
    /// Whose it is.
    pub scope: Scope,
    /// For which models it is, if it is one for some within the key.
    pub models: Option<Glob>,
    /// What it limits.
    pub name: LimitName,
    /// Its number; of money in nano-dollars.
    pub limit: u64,
    /// What counts now; it may be more than the limit.
    pub used: u64,
    /// How long until all of it is free again.
    pub reset: Duration,
}

/// What a limit is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitName {
    /// Of requests in any 60 seconds.
    RequestsPerMinute,
    /// Of tokens in any 60 seconds.
    TokensPerMinute,
    /// Of requests at once.
    ConcurrentRequests,
    /// A quota.
    Quota(QuotaName),
}

impl From<LimitKind> for LimitName {
    fn from(kind: LimitKind) -> Self {
        match kind {
            LimitKind::Requests => Self::RequestsPerMinute,
            LimitKind::Tokens => Self::TokensPerMinute,
            LimitKind::Concurrency => Self::ConcurrentRequests,
            LimitKind::Quota(name) => Self::Quota(name),
        }
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestsPerMinute => formatter.write_str("requests_per_minute"),
            Self::TokensPerMinute => formatter.write_str("tokens_per_minute"),
            Self::ConcurrentRequests => formatter.write_str("concurrent_requests"),
            Self::Quota(name) => name.fmt(formatter),
        }
    }
}

impl WindowStatus {
    /// What is left; `None` where there is no limit.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        Some(self.limit.number()?.saturating_sub(self.used))
    }

    /// Whether less is left of it, as a part of itself, than of `other`.
    fn is_tighter_than(&self, other: &Self) -> bool {
        let part = |status: &Self| Some((status.remaining()?, status.limit.number()?));
        match (part(self), part(other)) {
            (Some((left, of)), Some((other_left, of_other))) => {
                u128::from(left) * u128::from(of_other) < u128::from(other_left) * u128::from(of)
            }
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

impl LimitStatus {
    /// Nothing is used of what is not limited.
    pub const UNLIMITED: Self = {
        let unlimited = WindowStatus { limit: Limit::Unlimited, used: 0, reset: Duration::ZERO };
        Self { requests: unlimited, tokens: unlimited, running: 0 }
    };

    /// Takes over what of another scope is tighter.
    pub fn tighten(&mut self, other: &Self) {
        if other.requests.is_tighter_than(&self.requests) {
            self.requests = other.requests;
        }
        if other.tokens.is_tighter_than(&self.tokens) {
            self.tokens = other.tokens;
        }
    }
}

impl Default for LimitStatus {
    fn default() -> Self {
        Self::UNLIMITED
    }
}
