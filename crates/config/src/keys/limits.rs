//! What keys, teams and owners may use: what is written, and what it means.

use std::collections::BTreeMap;

use keymeter_core::{
    glob::{self, Glob},
    key::{OwnLimits, Terms},
    limit::{Limit, LimitMode, Limits, ModelLimits, ScopeLimits},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::quotas::{RawQuota, quotas};
use crate::{raw::List, report::Place, scalar::Scalar};

/// What a key may use.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, such as `requests_per_minute`")]
pub(super) struct RawLimits {
    /// Requests that are admitted in any 60 seconds.
    requests_per_minute: Option<Scalar<Limit>>,
    /// Tokens that are reserved in any 60 seconds.
    tokens_per_minute: Option<Scalar<Limit>>,
    /// Requests that run at once.
    concurrent_requests: Option<Scalar<Limit>>,
    /// `observe`: nothing is refused over limits, and what would have been is told. Without it, as the configuration's `limits.mode`.
    mode: Option<Scalar<LimitMode>>,
    /// What it may use over longer times, 16 quotas at most.
    #[schemars(extend("maxItems" = 16))]
    quotas: Option<List<RawQuota>>,
    /// What it may use of the models that a name or pattern fits, beside its own limits; what is left out is unlimited.
    models: Option<BTreeMap<String, Option<RawScopeLimits>>>,
}

/// What is limited. What is left out is unlimited.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, such as `requests_per_minute`")]
pub(super) struct RawScopeLimits {
    /// Requests that are admitted in any 60 seconds.
    requests_per_minute: Option<Scalar<Limit>>,
    /// Tokens that are reserved in any 60 seconds.
    tokens_per_minute: Option<Scalar<Limit>>,
    /// Requests that run at once.
    concurrent_requests: Option<Scalar<Limit>>,
    /// What may be used over longer times, 16 quotas at most.
    #[schemars(extend("maxItems" = 16))]
    quotas: Option<List<RawQuota>>,
}

impl RawLimits {
    /// Those of the key itself, of a minute and at once.
    pub(super) fn own(&self) -> OwnLimits {
        let written = |limit: Option<Scalar<Limit>>| limit.map(|Scalar(limit)| limit);
        OwnLimits {
            requests_per_minute: written(self.requests_per_minute),
            tokens_per_minute: written(self.tokens_per_minute),
            concurrent_requests: written(self.concurrent_requests),
        }
    }

    /// What few keys have of limits.
    pub(super) fn terms(self, place: &Place<'_>) -> Terms {
        Terms {
            quotas: self.quotas.map(|raw| quotas(Some(raw), &place.field("quotas"))).unwrap_or_default(),
            models: self.models.map(|raw| models(raw, &place.field("models"))).unwrap_or_default(),
            mode: self.mode.map(|Scalar(mode)| mode),
            ..Terms::default()
        }
    }
}

impl RawScopeLimits {
    pub(super) fn check(self, place: &Place<'_>) -> ScopeLimits {
        let or_unlimited = |written: Option<Scalar<Limit>>| written.map_or(Limit::Unlimited, |Scalar(limit)| limit);
        let minute = Limits {
            requests_per_minute: or_unlimited(self.requests_per_minute),
            tokens_per_minute: or_unlimited(self.tokens_per_minute),
            concurrent_requests: or_unlimited(self.concurrent_requests),
        };
        ScopeLimits { minute, quotas: quotas(self.quotas, &place.field("quotas")) }
    }
}

/// The models that are limited. Each has counters of its own in each key, so that they are as few as a key's patterns.
fn models(raw: BTreeMap<String, Option<RawScopeLimits>>, place: &Place<'_>) -> Box<[ModelLimits]> {
    if raw.len() > glob::MOST {
        place.error(format!("{} models; a key limits {} names and patterns at most", raw.len(), glob::MOST));
    }
    let checked = raw.into_iter().filter_map(|(name, raw)| {
        let place = place.field(&name);
        let models = name.parse::<Glob>().map_err(|error| place.fault_of_name(error.to_string())).ok();
        let limits = raw.unwrap_or_default().check(&place);
        Some(ModelLimits { models: models?, limits }).filter(|model| !model.limits.are_unlimited())
    });
    checked.collect()
}
