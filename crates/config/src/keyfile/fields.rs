//! Where a field stands in a keys file, and how its value is written there.

use keymeter_core::limit::{Limit, LimitMode, ModelLimit, Quota, QuotaName, QuotaUnit, ScopeLimit, Zone};
use serde_yaml::{Mapping, Value};

use super::{Field, Setting};

/// The names that lead from a key to one of its fields: one or two, or four to a limit of models.
pub(super) type Path<'change> = Vec<&'change str>;

/// A path that no change says.
pub(super) type KnownPath = &'static [&'static str];

pub(super) const RETIRING: KnownPath = &["retiring"];
const QUOTAS: KnownPath = &["limits", "quotas"];
const MODEL_LIMITS: KnownPath = &["limits", "models"];

impl Setting {
    pub(super) fn path(&self) -> Path<'_> {
        let known: KnownPath = match self {
            Self::Name(_) => &["name"],
            Self::Hash(_) => &["hash"],
            Self::Enabled(_) => &["enabled"],
            Self::Owner(_) => Field::Owner.path(),
            Self::Team(_) => Field::Team.path(),
            Self::Models(_) => Field::Models.path(),
            Self::RequestsPerMinute(_) => Field::RequestsPerMinute.path(),
            Self::TokensPerMinute(_) => Field::TokensPerMinute.path(),
            Self::ConcurrentRequests(_) => Field::ConcurrentRequests.path(),
            Self::Mode(_) => Field::Mode.path(),
            Self::Quota(_) => QUOTAS,
            Self::ModelLimit(ModelLimit { models, limit }) => {
                let field = limit_field(limit).path().last().copied();
                return MODEL_LIMITS.iter().copied().chain([models.as_str()]).chain(field).collect();
            }
            Self::AllowFrom(_) => Field::AllowFrom.path(),
            Self::Priority(_) => Field::Priority.path(),
            Self::ExpiresAt(_) => Field::ExpiresAt.path(),
        };
        known.to_vec()
    }

    /// The quota that is set, which is one of a list.
    pub(super) fn quota(&self) -> Option<&Quota> {
        match self {
            Self::Quota(quota) | Self::ModelLimit(ModelLimit { limit: ScopeLimit::Quota(quota), .. }) => Some(quota),
            _ => None,
        }
    }

    /// What is written; of a quota the element of its list.
    pub(super) fn value(&self) -> Value {
        match self {
            Self::Name(name) => literal(name.as_str()),
            Self::Hash(hash) => hash.to_string().into(),
            Self::Enabled(enabled) => (*enabled).into(),
            Self::Owner(text) | Self::Team(text) => literal(text),
            Self::Models(globs) => globs.iter().map(|glob| literal(glob.as_str())).collect(),
            Self::RequestsPerMinute(limit) | Self::TokensPerMinute(limit) | Self::ConcurrentRequests(limit) => {
                limit_value(*limit)
            }
            Self::Mode(LimitMode::Enforce) => "enforce".into(),
            Self::Mode(LimitMode::Observe) => "observe".into(),
            Self::Quota(quota) => quota_value(quota),
            Self::ModelLimit(ModelLimit { limit, .. }) => match limit {
                ScopeLimit::RequestsPerMinute(limit)
                | ScopeLimit::TokensPerMinute(limit)
                | ScopeLimit::ConcurrentRequests(limit) => limit_value(*limit),
                ScopeLimit::Quota(quota) => quota_value(quota),
            },
            Self::AllowFrom(networks) => networks.iter().map(|network| Value::from(network.to_string())).collect(),
            Self::Priority(priority) => i64::from(*priority).into(),
            Self::ExpiresAt(time) => time.to_string().into(),
        }
    }
}

impl Field {
    /// Whether `setting` gives exactly this field its value.
    #[must_use]
    pub fn is_set_by(self, setting: &Setting) -> bool {
        match (self, setting) {
            (Self::Quota(name), Setting::Quota(quota)) => quota.name == name,
            // It is one of several.
            (Self::Quotas, Setting::Quota(_)) => false,
            _ => setting.path() == self.path(),
        }
    }

    pub(super) fn path(self) -> KnownPath {
        match self {
            Self::Owner => &["owner"],
            Self::Team => &["team"],
            Self::Models => &["models"],
            Self::Limits => &["limits"],
            Self::RequestsPerMinute => &["limits", "requests_per_minute"],
            Self::TokensPerMinute => &["limits", "tokens_per_minute"],
            Self::ConcurrentRequests => &["limits", "concurrent_requests"],
            Self::Mode => &["limits", "mode"],
            Self::Quota(_) | Self::Quotas => QUOTAS,
            Self::ModelLimits => MODEL_LIMITS,
            Self::AllowFrom => &["allow_from"],
            Self::Priority => &["priority"],
            Self::ExpiresAt => &["expires_at"],
            Self::Retiring => RETIRING,
        }
    }
}

/// A text that is read as it is: what would stand for a variable of the environment is written with `$$`.
pub(super) fn literal(text: &str) -> Value {
    if text.contains("${") || text.contains("$$") { text.replace('$', "$$").into() } else { text.into() }
}

/// The field that a limit stands in.
fn limit_field(limit: &ScopeLimit) -> Field {
    match limit {
        ScopeLimit::RequestsPerMinute(_) => Field::RequestsPerMinute,
        ScopeLimit::TokensPerMinute(_) => Field::TokensPerMinute,
        ScopeLimit::ConcurrentRequests(_) => Field::ConcurrentRequests,
        ScopeLimit::Quota(_) => Field::Quotas,
    }
}

fn limit_value(limit: Limit) -> Value {
    match limit {
        Limit::Unlimited => "unlimited".into(),
        Limit::At(number) => number.get().into(),
    }
}

fn quota_value(quota: &Quota) -> Value {
    let QuotaName { unit, span } = quota.name;
    let amount = |amount: u64| match unit {
        QuotaUnit::Usd => unit.written(amount).into(),
        QuotaUnit::Requests | QuotaUnit::Tokens | QuotaUnit::OutputTokens => Value::from(amount),
    };
    let zone = (quota.zone != Zone::UTC).then(|| quota.zone.name().into());
    let fields = [
        (unit.as_str(), Some(amount(quota.amount.get()))),
        ("per", Some(span.to_string().into())),
        ("zone", zone),
        ("carried", quota.carried.map(|carried| amount(carried.amount))),
        ("until", quota.carried.map(|carried| carried.until.to_string().into())),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((Value::from(name), value?)));
    Value::Mapping(fields.collect::<Mapping>())
}
