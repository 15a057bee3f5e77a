//! What is said of a limit that refuses: whose it is, how much it allows, what is used of it, and when there is room.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    glob::Glob,
    key::KeyId,
    limit::{LimitKind, LimitName, QuotaName, QuotaUnit, Refusal, Scope},
};

/// A limit that is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct OverLimit {
    /// The key that asked.
    pub key: KeyId,
    /// The team or the owner whose limit it is.
    pub scope_id: Option<Arc<str>>,
    /// Which limit, and when there is room again.
    pub refusal: Refusal,
    /// What the request would reserve of it, where that is not one request.
    pub wanted: Option<Wanted>,
}

/// What a refused request would reserve of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// In the limit's unit.
    pub amount: u64,
    /// Whether a part of it is for an answer, which the request may hold to less.
    pub has_answer: bool,
}

/// A limit of tokens that a request is over for good.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLimit {
    /// The key that asked.
    pub key: KeyId,
    /// Whose limit it is.
    pub scope: Scope,
    /// The team or the owner whose limit it is.
    pub scope_id: Option<Arc<str>>,
    /// For which models it is, if it is one for some within the key.
    pub models: Option<Glob>,
    /// What it is called.
    pub name: LimitName,
    /// How many tokens it allows.
    pub number: u64,
}

/// A limit that refused a request, in the words of `GET /v1/usage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReachedLimit<'limit> {
    /// What it is called.
    pub name: LimitName,
    /// Whose limit it is.
    pub scope: Scope,
    /// The team, the owner or the models whose limit it is; of a key's own nothing, since the key is known.
    pub id: Option<&'limit str>,
}

impl OverLimit {
    pub(super) fn reached(&self) -> ReachedLimit<'_> {
        let Refusal { over, scope, models, .. } = &self.refusal;
        let id = self.scope_id.as_deref().or_else(|| models.as_ref().map(Glob::as_str));
        ReachedLimit { name: LimitName::from(*over), scope: *scope, id }
    }

    /// What the sender is told.
    pub(super) fn message(&self) -> String {
        let Refusal { over, limit, used, retry_after, reset, .. } = &self.refusal;
        let (wait, reset) = (seconds(*retry_after), seconds(*reset));
        let whose = Whose {
            key: &self.key,
            scope: self.refusal.scope,
            id: self.scope_id.as_deref(),
            models: self.refusal.models.as_ref(),
        };
        match over {
            LimitKind::Requests => format!(
                "{whose} made {used} of the {limit} requests that it may make in 60 s; retry in {wait} (all of them are free in {reset})"
            ),
            LimitKind::Tokens => format!(
                "{whose} used or reserved {used} of the {limit} tokens that it may use in 60 s{}; retry in {wait} (all of them are free in {reset})",
                self.wanted.map(|wanted| wanted.told(&wanted.amount.to_string())).unwrap_or_default()
            ),
            LimitKind::Concurrency => format!(
                "{whose} has {used} of the {limit} requests running that it may run at once; retry when one has ended"
            ),
            LimitKind::Quota(QuotaName { unit: QuotaUnit::Requests, span }) => format!(
                "{whose} made {used} of the {limit} requests that it may make per {span}; there is room in {wait} (all of them are free in {reset})"
            ),
            LimitKind::Quota(name) => {
                let (used, limit) = (amount(*name, *used), amount(*name, *limit));
                let span = name.span;
                let wanted = self.wanted.map(|wanted| wanted.told(&amount(*name, wanted.amount))).unwrap_or_default();
                format!(
                    "{whose} used or reserved {used} of the {limit} that it may use per {span}{wanted}; there is room in {wait} (all of it is free in {reset})"
                )
            }
        }
    }
}

impl Wanted {
    /// Why a limit that has room left refuses: a smaller request would fit.
    fn told(self, amount: &str) -> String {
        let hint = if self.has_answer { " (less with a lower maximum of its answer)" } else { "" };
        format!(", and this request reserves {amount}{hint}")
    }
}

impl TokenLimit {
    pub(super) fn reached(&self) -> ReachedLimit<'_> {
        let id = self.scope_id.as_deref().or_else(|| self.models.as_ref().map(Glob::as_str));
        ReachedLimit { name: self.name, scope: self.scope, id }
    }
}

/// As the end of a sentence that says what a request takes.
impl fmt::Display for TokenLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, scope, scope_id, models, name, number } = self;
        let whose = Whose { key, scope: *scope, id: scope_id.as_deref(), models: models.as_ref() };
        match name {
            LimitName::Quota(QuotaName { span, .. }) => write!(formatter, "{whose} may use {number} per {span}"),
            _ => write!(formatter, "{whose} may use {number} in 60 s"),
        }
    }
}

/// Whose a limit is.
struct Whose<'limit> {
    key: &'limit KeyId,
    scope: Scope,
    id: Option<&'limit str>,
    models: Option<&'limit Glob>,
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, scope, id, models } = self;
        match (scope, id, models) {
            (Scope::Team | Scope::Owner, Some(id), _) => {
                write!(formatter, "the {} {id} of the API key {key}", scope.as_str())
            }
            (Scope::Model, _, Some(models)) => {
                write!(formatter, "the API key {key}, for the model {},", models.as_str())
            }
            _ => write!(formatter, "the API key {key}"),
        }
    }
}

/// An amount of what a quota counts.
fn amount(name: QuotaName, amount: u64) -> String {
    let written = name.unit.written(amount);
    match name.unit {
        QuotaUnit::Requests => format!("{written} requests"),
        QuotaUnit::Tokens => format!("{written} tokens"),
        QuotaUnit::OutputTokens => format!("{written} tokens of output"),
        QuotaUnit::Usd => format!("${written}"),
    }
}

/// A duration for people, rounded up to the millisecond, and over an hour to the minute.
pub(super) fn seconds(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    let minutes = millis.div_ceil(60_000);
    if minutes > 60 {
        let (days, hours, minutes) = (minutes / (24 * 60), minutes / 60 % 24, minutes % 60);
        return if days > 0 { format!("{days} d {hours} h {minutes} min") } else { format!("{hours} h {minutes} min") };
    }
    if millis.is_multiple_of(1000) {
        format!("{} s", millis / 1000)
    } else {
        format!("{}.{:03} s", millis / 1000, millis % 1000)
    }
}
