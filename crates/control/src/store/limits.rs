//! What keys, teams and users may use, as calls say it, as it is kept, and as gateways are told: in one form.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keymeter_core::{
    clock,
    limit::{LimitMode, Quota, QuotaName, QuotaUnit, Zone},
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use utoipa::ToSchema;

/// A key's own limits. Of those of a minute and at once, what is absent is as the gateways' configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyLimits {
    /// Requests in any 60 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<LimitValue>,
    /// Tokens in any 60 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<LimitValue>,
    /// Requests running at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<LimitValue>,
    /// What may be used over longer times, 16 quotas at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_none")]
    pub quotas: Vec<QuotaLimit>,
    /// Whether they refuse; absent: as the gateways' configuration says. The operator's to set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What may be used of the models that a name or a pattern fits, beside the other limits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_none")]
    pub models: BTreeMap<String, ScopeLimits>,
}

/// What a team or a user may use, with all their keys together, or a key of some models: what is absent is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeLimits {
    /// Requests in any 60 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<LimitValue>,
    /// Tokens in any 60 seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<LimitValue>,
    /// Requests running at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<LimitValue>,
    /// What may be used over longer times, 16 quotas at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_none")]
    pub quotas: Vec<QuotaLimit>,
}

/// A number above 0, or `unlimited`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a number above 0, or `unlimited`")]
pub enum LimitValue {
    /// At most so many.
    Number(u64),
    /// The word `unlimited`.
    Word(String),
}

/// What may be used over a longer time: one of `requests`, `tokens`, `output_tokens` and `usd`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaLimit {
    /// Requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Amount>,
    /// Tokens of all kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Amount>,
    /// Tokens of answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<Amount>,
    /// US dollars, such as `"12.50"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<Amount>,
    /// Over what time: `day`, `week` or `month` of the calendar, or a length that slides, from `1m` to `31d`.
    pub per: String,
    /// The zone of the IANA database in which days begin; absent: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What was used elsewhere before, and counts too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<Amount>,
    /// Until when that counts; of a date, until it begins in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "moment")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

/// A whole number, or in quotes an amount of US dollars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a whole number, or in quotes an amount of US dollars such as \"12.50\"")]
pub enum Amount {
    /// So many.
    Number(u64),
    /// As text.
    Text(String),
}

/// Whether limits refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They do.
    Enforce,
    /// They count, and what they would have refused is told.
    Observe,
}

impl KeyLimits {
    /// Those that a team or a user has too.
    #[must_use]
    pub fn shared(&self) -> ScopeLimits {
        ScopeLimits {
            requests_per_minute: self.requests_per_minute.clone(),
            tokens_per_minute: self.tokens_per_minute.clone(),
            concurrent_requests: self.concurrent_requests.clone(),
            quotas: self.quotas.clone(),
        }
    }

    /// The same with others of those that a team or a user has too.
    #[must_use]
    pub fn with(self, shared: ScopeLimits) -> Self {
        let ScopeLimits { requests_per_minute, tokens_per_minute, concurrent_requests, quotas } = shared;
        Self { requests_per_minute, tokens_per_minute, concurrent_requests, quotas, ..self }
    }
}

impl From<&Quota> for QuotaLimit {
    fn from(quota: &Quota) -> Self {
        let QuotaName { unit, span } = quota.name;
        let amount = |amount| match unit {
            QuotaUnit::Usd => Amount::Text(unit.written(amount)),
            QuotaUnit::Requests | QuotaUnit::Tokens | QuotaUnit::OutputTokens => Amount::Number(amount),
        };
        let of = |which| Some(amount(quota.amount.get())).filter(|_| unit == which);
        Self {
            requests: of(QuotaUnit::Requests),
            tokens: of(QuotaUnit::Tokens),
            output_tokens: of(QuotaUnit::OutputTokens),
            usd: of(QuotaUnit::Usd),
            per: span.to_string(),
            zone: (quota.zone != Zone::UTC).then(|| quota.zone.name().to_owned()),
            carried: quota.carried.map(|carried| amount(carried.amount)),
            until: quota.carried.map(|carried| carried.until),
        }
    }
}

impl From<Mode> for LimitMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Observe => Self::Observe,
        }
    }
}

/// A moment: RFC 3339, or a date alone, which is its beginning in UTC.
pub(crate) fn moment<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(reader)? else { return Ok(None) };
    clock::moment(&text).map(Some).ok_or_else(|| D::Error::custom(NO_MOMENT))
}

const NO_MOMENT: &str = "a time of RFC 3339, such as `2027-01-01T00:00:00Z`, or a date, such as `2027-01-01`";

/// A list that is `null` is empty.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(reader: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}
