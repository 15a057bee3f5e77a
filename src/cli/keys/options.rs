//! The options that say what a key may do, as settings of the keys file.

use std::{str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use jiff::Timestamp;
use keymeter_config::keyfile::{Field, Setting};
use keymeter_core::{
    clock::moment,
    glob::Glob,
    key::{KeyError, KeyName, Priority},
    limit::{Limit, LimitMode, ModelLimit, Quota, QuotaName, QuotaUnit, ScopeLimit, Zone},
};
use serde_json::{Map, Value, json};

use super::limits::merged_models;
use crate::cli::complete;

/// What a key, a team or an owner may use.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct LimitOptions {
    /// The limit of requests in any 60 seconds: a number, or unlimited
    #[arg(long, value_name = "LIMIT")]
    requests_per_minute: Option<Limit>,
    /// The limit of tokens in any 60 seconds: a number, or unlimited
    #[arg(long, value_name = "LIMIT")]
    tokens_per_minute: Option<Limit>,
    /// The limit of requests at once: a number, or unlimited
    #[arg(long, value_name = "LIMIT")]
    concurrent_requests: Option<Limit>,
    /// A quota, such as usd=100/month, tokens=50000000/day@Europe/Berlin or requests=1000/5h; may be repeated. What was used
    /// elsewhere before counts with ,carried=12.50,until=2027-01-01 behind it
    #[arg(long = "quota", value_name = "KIND=AMOUNT/SPAN[@ZONE][,carried=AMOUNT,until=TIME]")]
    quotas: Vec<Quota>,
}

impl LimitOptions {
    /// Whether none is named.
    pub(super) fn are_none(&self) -> bool {
        self.json().is_empty()
    }

    /// The fields of `limits`, as a call to a control plane says them.
    pub(super) fn json(&self) -> Map<String, Value> {
        let quotas: Vec<_> = self.quotas.iter().map(quota).collect();
        let limits = [
            ("requests_per_minute", self.requests_per_minute.map(limit_json)),
            ("tokens_per_minute", self.tokens_per_minute.map(limit_json)),
            ("concurrent_requests", self.concurrent_requests.map(limit_json)),
            ("quotas", (!quotas.is_empty()).then(|| quotas.into())),
        ];
        limits.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The same, in the order of the file.
    pub(super) fn settings(self) -> Vec<Setting> {
        let limits = [
            self.requests_per_minute.map(Setting::RequestsPerMinute),
            self.tokens_per_minute.map(Setting::TokensPerMinute),
            self.concurrent_requests.map(Setting::ConcurrentRequests),
        ];
        limits.into_iter().flatten().chain(self.quotas.into_iter().map(Setting::Quota)).collect()
    }
}

/// Limits of models as files and control planes have them. Of two of one name the last counts.
pub(super) fn model_limits<'limits>(limits: impl IntoIterator<Item = &'limits ModelLimit>) -> Map<String, Value> {
    limits.into_iter().fold(Map::new(), |all, ModelLimit { models, limit }| {
        let value = match limit {
            ScopeLimit::RequestsPerMinute(number)
            | ScopeLimit::TokensPerMinute(number)
            | ScopeLimit::ConcurrentRequests(number) => json!({limit.name().to_string(): limit_json(*number)}),
            ScopeLimit::Quota(quota_of_models) => json!({"quotas": [quota(quota_of_models)]}),
        };
        merged_models(all, Map::from_iter([(models.as_str().to_owned(), value)]))
    })
}

fn limit_json(limit: Limit) -> Value {
    limit.number().map_or(json!("unlimited"), Value::from)
}

/// A quota as files and control planes have it.
pub(in crate::cli) fn quota(quota: &Quota) -> Value {
    let QuotaName { unit, span } = quota.name;
    let amount = |amount: u64| match unit {
        QuotaUnit::Usd => unit.written(amount).into(),
        QuotaUnit::Requests | QuotaUnit::Tokens | QuotaUnit::OutputTokens => Value::from(amount),
    };
    let mut written = json!({unit.as_str(): amount(quota.amount.get()), "per": span.to_string()});
    if let Some(fields) = written.as_object_mut() {
        fields.extend((quota.zone != Zone::UTC).then(|| ("zone".to_owned(), quota.zone.name().into())));
        fields.extend(quota.carried.map(|carried| ("carried".to_owned(), amount(carried.amount))));
        fields.extend(quota.carried.map(|carried| ("until".to_owned(), carried.until.to_string().into())));
    }
    written
}

/// Whether limits refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// They do
    Enforce,
    /// They count, and tell what they would have refused
    Observe,
}

impl From<Mode> for LimitMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Observe => Self::Observe,
        }
    }
}

#[derive(Clone, Debug, Default, Args)]
pub(super) struct Options {
    /// The user or team that owns the key
    #[arg(long, value_parser = party, add = complete::user_ids())]
    owner: Option<String>,
    /// The team that uses the key
    #[arg(long, value_parser = party, add = complete::team_ids())]
    team: Option<String>,
    /// A model that the key may call, or a glob of models; may be repeated, up to 256 times [default: all models]
    #[arg(long = "model", value_name = "GLOB")]
    models: Vec<Glob>,
    #[command(flatten)]
    limits: LimitOptions,
    /// A limit of the key for the models that a glob fits, such as gpt-4o*:usd=5/day: a quota, `requests_per_minute=3000`,
    /// `tokens_per_minute=1000000` or `concurrent_requests=5`; may be repeated
    #[arg(long = "model-limit", value_name = "GLOB:LIMIT")]
    model_limits: Vec<ModelLimit>,
    /// Whether the key's limits refuse [default: as the configuration says]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// A network that the key may be used from, such as 10.0.0.0/8; may be repeated [default: from everywhere]
    #[arg(long, value_name = "NETWORK")]
    allow_from: Vec<IpNet>,
    /// Which of the requests that wait for a server goes first: a lower one, from -100 to 100 [default: 0]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    priority: Option<Priority>,
    /// When the key expires, such as 2027-01-01T00:00:00Z (RFC 3339), or 2027-01-01
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires_at: Option<Timestamp>,
}

impl Options {
    /// What the options say, as a call to a control plane does.
    pub(super) fn json(self) -> Map<String, Value> {
        let mut limits = self.limits.json();
        if let Some(mode) = self.mode {
            limits.insert("mode".to_owned(), if mode == Mode::Observe { "observe" } else { "enforce" }.into());
        }
        if !self.model_limits.is_empty() {
            limits.insert("models".to_owned(), model_limits(&self.model_limits).into());
        }
        let models: Vec<_> = self.models.iter().map(Glob::as_str).collect();
        let networks: Vec<_> = self.allow_from.iter().map(IpNet::to_string).collect();
        let fields = [
            ("owner", self.owner.map(Value::from)),
            ("team", self.team.map(Value::from)),
            ("models", (!models.is_empty()).then(|| json!(models))),
            ("limits", (!limits.is_empty()).then(|| limits.into())),
            ("allow_from", (!networks.is_empty()).then(|| networks.into())),
            ("priority", self.priority.map(|priority| json!(priority))),
            ("expires_at", self.expires_at.map(|time| json!(time.to_string()))),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// What the options say, in the order of the file.
    pub(super) fn settings(self) -> Vec<Setting> {
        let models = (!self.models.is_empty()).then_some(self.models);
        let first = [self.owner.map(Setting::Owner), self.team.map(Setting::Team), models.map(Setting::Models)];
        let mode = self.mode.map(|mode| Setting::Mode(mode.into()));
        let models = self.model_limits.into_iter().map(Setting::ModelLimit);
        let last = [
            (!self.allow_from.is_empty()).then_some(self.allow_from).map(Setting::AllowFrom),
            self.priority.map(Setting::Priority),
            self.expires_at.map(Setting::ExpiresAt),
        ];
        let (first, last) = (first.into_iter().flatten(), last.into_iter().flatten());
        first.chain(self.limits.settings()).chain(mode).chain(models).chain(last).collect()
    }
}

/// A field that can be removed from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Clearable {
    /// The owner
    Owner,
    /// The team
    Team,
    /// The models: the key may then call all
    Models,
    /// All of the key's own limits
    Limits,
    /// The key's own limit of requests
    #[value(alias = "requests-per-minute")]
    RequestsPerMinute,
    /// The key's own limit of tokens
    #[value(alias = "tokens-per-minute")]
    TokensPerMinute,
    /// The key's own limit of requests at once
    #[value(alias = "concurrent-requests")]
    ConcurrentRequests,
    /// All of the key's own quotas
    Quotas,
    /// All of the key's limits of models
    #[value(alias = "model-limits")]
    ModelLimits,
    /// Whether the key's limits refuse: then as the configuration says
    Mode,
    /// The networks: the key may then be used from everywhere
    #[value(alias = "allow-from")]
    AllowFrom,
    /// The priority
    Priority,
    /// The expiry
    #[value(alias = "expires-at")]
    ExpiresAt,
}

impl Clearable {
    /// The field of the file.
    pub(super) fn field(self) -> Field {
        match self {
            Self::Owner => Field::Owner,
            Self::Team => Field::Team,
            Self::Models => Field::Models,
            Self::Limits => Field::Limits,
            Self::RequestsPerMinute => Field::RequestsPerMinute,
            Self::TokensPerMinute => Field::TokensPerMinute,
            Self::ConcurrentRequests => Field::ConcurrentRequests,
            Self::Quotas => Field::Quotas,
            Self::ModelLimits => Field::ModelLimits,
            Self::Mode => Field::Mode,
            Self::AllowFrom => Field::AllowFrom,
            Self::Priority => Field::Priority,
            Self::ExpiresAt => Field::ExpiresAt,
        }
    }
}

/// A limit that can be removed from a team or an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum ClearableLimit {
    /// All limits
    Limits,
    /// The limit of requests
    #[value(alias = "requests-per-minute")]
    RequestsPerMinute,
    /// The limit of tokens
    #[value(alias = "tokens-per-minute")]
    TokensPerMinute,
    /// The limit of requests at once
    #[value(alias = "concurrent-requests")]
    ConcurrentRequests,
    /// All quotas
    Quotas,
}

impl ClearableLimit {
    /// The field of `limits`, as a call to a control plane says it; `None`: all of them.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Limits => None,
            Self::RequestsPerMinute => Some("requests_per_minute"),
            Self::TokensPerMinute => Some("tokens_per_minute"),
            Self::ConcurrentRequests => Some("concurrent_requests"),
            Self::Quotas => Some("quotas"),
        }
    }

    /// The field of the file.
    pub(super) fn field(self) -> Field {
        match self {
            Self::Limits => Field::Limits,
            Self::RequestsPerMinute => Field::RequestsPerMinute,
            Self::TokensPerMinute => Field::TokensPerMinute,
            Self::ConcurrentRequests => Field::ConcurrentRequests,
            Self::Quotas => Field::Quotas,
        }
    }
}

/// A length of time in which an old secret goes on working, a year at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grace(pub(super) Duration);

const GRACE_UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
const LONGEST_GRACE: u64 = 365 * 86_400;

impl FromStr for Grace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let seconds = GRACE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
        let total = seconds.and_then(|seconds| number.parse::<u64>().ok()?.checked_mul(seconds));
        let grace = total.filter(|total| *total <= LONGEST_GRACE).map(|total| Self(Duration::from_secs(total)));
        grace.ok_or_else(|| "a whole number and a unit (s, m, h or d), such as 24h, and 365d at most".to_owned())
    }
}

/// A key's name; the error says how long the one given is.
pub(super) fn parse_name(text: &str) -> Result<KeyName, String> {
    text.parse().map_err(|error: KeyError| match text.chars().count() {
        length @ (0..3 | 51..) => format!("{error}; this one has {length}"),
        _ => error.to_string(),
    })
}

/// A user or a team.
fn party(text: &str) -> Result<String, &'static str> {
    let fits = (1..=64).contains(&text.chars().count());
    if fits && text.trim() == text && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("1 to 64 characters, without control characters or spaces around them")
    }
}

/// A time, or a date.
pub(in crate::cli) fn time(text: &str) -> Result<Timestamp, &'static str> {
    moment(text).ok_or("a time with its zone, such as 2027-01-01T00:00:00Z (RFC 3339), or a date, such as 2027-01-01")
}
