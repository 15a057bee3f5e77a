//! Quotas: what is written, and what it means.

use std::{num::NonZeroU64, sync::Arc};

use jiff::Timestamp;
use keymeter_core::limit::{Carried, Quota, QuotaError, QuotaName, QuotaSpan, QuotaUnit, Quotas, Zone};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::{
    raw::List,
    report::Place,
    scalar::{FromScalar, Scalar},
};

/// What may be used over a longer time: exactly one of `requests`, `tokens`, `output_tokens` and `usd`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of a quota, such as `tokens` and `per`")]
#[schemars(extend(
    "oneOf" = [{"required": ["requests"]}, {"required": ["tokens"]}, {"required": ["output_tokens"]}, {"required": ["usd"]}],
    "dependentRequired" = {"carried": ["until"], "until": ["carried"]},
))]
pub(super) struct RawQuota {
    /// Requests.
    requests: Option<Scalar<Count>>,
    /// Tokens of all kinds.
    tokens: Option<Scalar<Count>>,
    /// Tokens of answers.
    output_tokens: Option<Scalar<Count>>,
    /// US dollars.
    usd: Option<Scalar<Money>>,
    /// Over what time: from midnight to midnight, from Monday to Sunday, a month of the calendar, or a length that slides.
    #[schemars(required)]
    per: Option<Scalar<QuotaSpan>>,
    /// Where days begin, with `day`, `week` and `month`.
    #[schemars(extend("default" = "UTC"))]
    zone: Option<Scalar<Zone>>,
    /// What was used elsewhere before, and counts too.
    carried: Option<Scalar<CarriedAmount>>,
    /// Until when that counts, RFC 3339.
    until: Option<Scalar<Timestamp>>,
}

/// What the quotas of a list mean.
pub(super) fn quotas(raw: Option<List<RawQuota>>, place: &Place<'_>) -> Quotas {
    let mut quotas: Vec<Quota> = Vec::new();
    for (place, raw) in place.elements(raw.unwrap_or_default()) {
        let Some(quota) = quota(raw, &place) else { continue };
        if quotas.iter().any(|other| other.name == quota.name) {
            place.error(QuotaError::Twice(quota.name).to_string());
        } else {
            quotas.push(quota);
        }
    }
    Quotas::new(quotas).unwrap_or_else(|error| {
        place.error(error.to_string());
        Quotas::default()
    })
}

fn quota(raw: RawQuota, place: &Place<'_>) -> Option<Quota> {
    let span = place.required("per", raw.per, "`day`, `week`, `month` or a length from 1m to 31d, such as `5h`");
    let count = |written: Option<Scalar<Count>>| written.map(|Scalar(Count(amount))| amount);
    let amounts = [
        (QuotaUnit::Requests, count(raw.requests)),
        (QuotaUnit::Tokens, count(raw.tokens)),
        (QuotaUnit::OutputTokens, count(raw.output_tokens)),
        (QuotaUnit::Usd, raw.usd.map(|Scalar(Money(amount))| amount)),
    ];
    let (unit, amount) = only(amounts, place)?;
    let carried = carried(raw.carried, raw.until, unit, place);
    let name = QuotaName { unit, span: span?.0 };
    let quota = Quota::new(name, amount, raw.zone.map(|Scalar(zone)| zone));
    quota.map(|quota| Quota { carried, ..quota }).map_err(|error| place.field("zone").error(error.to_string())).ok()
}

/// The one amount of a quota.
fn only(amounts: [(QuotaUnit, Option<NonZeroU64>); 4], place: &Place<'_>) -> Option<(QuotaUnit, NonZeroU64)> {
    let mut stated = amounts.into_iter().filter_map(|(unit, amount)| Some((unit, amount?)));
    match (stated.next(), stated.next()) {
        (Some((one, _)), Some((another, _))) => {
            let (one, another) = (one.as_str(), another.as_str());
            let message = format!("either `{one}` or `{another}`, not both: each is a quota of its own");
            place.field(another).error(message);
            None
        }
        (None, _) => {
            if !QuotaUnit::ALL.into_iter().any(|unit| place.dropped(unit.as_str())) {
                let what = "how many may be used; or `requests`, `output_tokens` or `usd` in its place";
                place.error(format!("missing field `tokens`{}: {what}", place.inside()));
            }
            None
        }
        (only, None) => only,
    }
}

fn carried(
    amount: Option<Scalar<CarriedAmount>>,
    until: Option<Scalar<Timestamp>>,
    unit: QuotaUnit,
    place: &Place<'_>,
) -> Option<Carried> {
    if amount.is_none() && until.is_none() {
        return None;
    }
    let amount = place.required("carried", amount, "what was used elsewhere, which counts until the time in `until`");
    let until = place.required("until", until, "when what was used elsewhere counts no longer");
    let (Scalar(CarriedAmount(amount)), Scalar(until)) = (amount?, until?);
    let amount = unit.amount_or_zero(&amount).map_err(|error| place.field("carried").error(error.to_string()));
    Some(Carried { amount: amount.ok()?, until })
}

/// How many requests or tokens.
#[derive(Clone, Copy, Debug)]
struct Count(NonZeroU64);

impl FromScalar for Count {
    fn from_text(text: &str) -> Result<Self, String> {
        QuotaUnit::Tokens.amount(text).map(Self).map_err(|error| error.to_string())
    }

    const OF_FLOAT: &str = "a quota of requests or tokens is a whole number of at least 1";

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 1})
    }
}

/// How many nano-dollars.
#[derive(Clone, Copy, Debug)]
struct Money(NonZeroU64);

impl FromScalar for Money {
    fn from_text(text: &str) -> Result<Self, String> {
        QuotaUnit::Usd.amount(text).map(Self).map_err(|error| error.to_string())
    }

    const OF_FLOAT: &str = "money is never a floating-point number: write it in quotes, such as \"12.50\"";

    fn schema() -> serde_json::Value {
        json!({"anyOf": [dollars(), {"type": "integer", "minimum": 1}]})
    }
}

/// An amount of what the quota counts.
#[derive(Clone, Debug)]
struct CarriedAmount(Arc<str>);

impl FromScalar for CarriedAmount {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self(text.into()))
    }

    const OF_FLOAT: &str =
        "money is written in quotes, such as \"12.50\", and anything else is counted in whole numbers";

    fn schema() -> serde_json::Value {
        json!({"anyOf": [{"type": "integer", "minimum": 0}, dollars()]})
    }
}

fn dollars() -> serde_json::Value {
    json!({
        "title": "US dollars in quotes",
        "type": "string",
        "pattern": r"^[0-9]+(\.[0-9]{1,9})?$",
        "examples": ["12.50"],
    })
}

impl FromScalar for QuotaSpan {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: QuotaError| error.to_string())
    }

    const OF_FLOAT: &str = "a quota's span is `day`, `week`, `month` or a length from 1m to 31d, such as `5h`";

    fn schema() -> serde_json::Value {
        json!({
            "title": "`day`, `week`, `month` or a length from `1m` to `31d`",
            "type": "string",
            "pattern": "^(day|week|month|[0-9]+[smhd])$",
            "examples": ["5h"],
        })
    }
}

impl FromScalar for Zone {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: QuotaError| error.to_string())
    }

    fn schema() -> serde_json::Value {
        json!({"title": "a time zone of the IANA database", "type": "string", "examples": ["Europe/Berlin"]})
    }
}
