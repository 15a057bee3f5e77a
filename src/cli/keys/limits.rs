//! Limits on a control plane, which are changed all together: those that a command does not name stay as they are.

use keymeter_core::limit::{QuotaName, QuotaSpan, QuotaUnit};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{ClearableLimit, KeysError, LimitOptions};
use crate::cli::remote::{Remote, RemoteError};

/// Sets the limits of the team or the user whose call is at `path`.
///
/// # Errors
/// When the control plane cannot be reached, or refuses.
pub(super) fn set(
    remote: &Remote,
    path: &str,
    options: &LimitOptions,
    clear: &[ClearableLimit],
) -> Result<(), KeysError> {
    let mut limits = own(remote, path)?;
    for cleared in clear {
        match cleared.name() {
            Some(name) => drop(limits.remove(name)),
            None => limits.clear(),
        }
    }
    let limits = merged(limits, options.json());
    remote.call(Method::PATCH, path, Some(&json!({"limits": limits})))?;
    Ok(())
}

/// The limits of the key, the team or the user whose call is at `path`.
///
/// # Errors
/// When the control plane cannot be reached, or refuses.
pub(super) fn own(remote: &Remote, path: &str) -> Result<Map<String, Value>, RemoteError> {
    let holder = remote.call(Method::GET, path, None)?;
    Ok(holder.get("limits").and_then(Value::as_object).cloned().unwrap_or_default())
}

/// The limits with those that are named in the place of theirs. A quota takes the place of the one of its name, of which what was
/// used elsewhere stays, unless the new one says something of that. So it is with the limits of each pattern of models.
pub(super) fn merged(mut limits: Map<String, Value>, mut named: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Array(added)) = named.remove(QUOTAS) {
        let quotas = match limits.remove(QUOTAS) {
            Some(Value::Array(quotas)) => quotas,
            _ => Vec::new(),
        };
        limits.insert(QUOTAS.to_owned(), added.into_iter().fold(quotas, with_quota).into());
    }
    if let Some(Value::Object(added)) = named.remove(MODELS) {
        let models = limits.remove(MODELS).map(object).unwrap_or_default();
        limits.insert(MODELS.to_owned(), merged_models(models, added).into());
    }
    limits.extend(named);
    limits
}

/// The limits of models with those that are named in the place of theirs.
pub(super) fn merged_models(mut models: Map<String, Value>, named: Map<String, Value>) -> Map<String, Value> {
    for (glob, added) in named {
        let limits = models.remove(&glob).map(object).unwrap_or_default();
        models.insert(glob, merged(limits, object(added)).into());
    }
    models
}

/// The quotas with one more, in the place of the one of its name if there is one.
fn with_quota(mut quotas: Vec<Value>, mut quota: Value) -> Vec<Value> {
    let Some(other) = quotas.iter_mut().find(|other| name(other) == name(&quota)) else {
        quotas.push(quota);
        return quotas;
    };
    if CARRIED.iter().all(|field| stated(&quota, field).is_none())
        && let Some(fields) = quota.as_object_mut()
    {
        fields.extend(CARRIED.iter().filter_map(|field| Some(((*field).to_owned(), stated(other, field)?.clone()))));
    }
    *other = quota;
    quotas
}

/// What a field of a quota says; one that is `null` says nothing.
fn stated<'quota>(quota: &'quota Value, field: &str) -> Option<&'quota Value> {
    quota.get(field).filter(|value| !value.is_null())
}

/// The fields of a value that has some.
fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(fields) = value { fields } else { Map::new() }
}

const QUOTAS: &str = "quotas";
const MODELS: &str = "models";
const CARRIED: [&str; 2] = ["carried", "until"];

fn name(quota: &Value) -> Option<QuotaName> {
    let is_stated = |unit: &QuotaUnit| stated(quota, unit.as_str()).is_some();
    let span = quota.get("per")?.as_str()?.parse::<QuotaSpan>().ok()?;
    Some(QuotaName { unit: QuotaUnit::ALL.into_iter().find(is_stated)?, span })
}

#[cfg(test)]
mod tests {
    use keymeter_core::limit::ModelLimit;

    use super::*;
    use crate::cli::keys::options;

    #[test]
    fn what_is_not_named_stays() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let limits = map(json!({
            "requests_per_minute": 5, "mode": "observe", "models": {"a-*": {"concurrent_requests": 1}},
            "quotas": [
                {"tokens": 7, "per": "60m"},
                {"usd": "1", "per": "month", "carried": "0.5", "until": "2027-01-01T00:00:00Z"},
            ],
        }));
        let named = map(json!({
            "requests_per_minute": "unlimited",
            "quotas": [{"usd": "2", "per": "month"}, {"tokens": 8, "per": "1h"}, {"tokens": 9, "per": "day"}],
        }));
        let expected = json!({
            "requests_per_minute": "unlimited", "mode": "observe", "models": {"a-*": {"concurrent_requests": 1}},
            "quotas": [
                {"tokens": 8, "per": "1h"},
                {"usd": "2", "per": "month", "carried": "0.5", "until": "2027-01-01T00:00:00Z"},
                {"tokens": 9, "per": "day"},
            ],
        });
        assert_eq!(merged(limits, named), map(expected));
    }

    #[test]
    fn what_was_used_elsewhere_is_what_the_new_quota_says_if_it_says_something() {
        let quota = |line: &str| options::quota(&line.parse().unwrap());
        let with = |line: &str| {
            let old = quota("usd=1/month,carried=0.50,until=2027-01-01");
            with_quota(vec![old], quota(line)).pop().unwrap()
        };
        assert_eq!(with("usd=2/month"), quota("usd=2/month,carried=0.50,until=2027-01-01"));
        for stated in ["usd=2/month,carried=0.75,until=2028-01-01", "usd=1/month,carried=0,until=2027-01-01"] {
            assert_eq!(with(stated), quota(stated));
        }
    }

    #[test]
    fn limits_of_models_are_merged_one_by_one() {
        let models = |lines: &[&str]| {
            let limits: Vec<ModelLimit> = lines.iter().map(|line| line.parse().unwrap()).collect();
            Map::from_iter([(MODELS.to_owned(), options::model_limits(&limits).into())])
        };
        let before = models(&[
            "gpt-4o*:requests_per_minute=5",
            "gpt-4o*:usd=1/day,carried=0.50,until=2027-01-01",
            "llama3:8b:tokens_per_minute=9",
        ]);
        let named =
            models(&["gpt-4o*:usd=2/day", "gpt-4o*:concurrent_requests=1", "qwen3:usd=1/day", "qwen3:usd=3/day"]);
        let expected = models(&[
            "gpt-4o*:requests_per_minute=5",
            "gpt-4o*:usd=2/day,carried=0.50,until=2027-01-01",
            "gpt-4o*:concurrent_requests=1",
            "llama3:8b:tokens_per_minute=9",
            "qwen3:usd=3/day",
        ]);
        assert_eq!(merged(before.clone(), named.clone()), expected);
        assert_eq!(merged(Map::new(), before.clone()), before);
        let null = Map::from_iter([(MODELS.to_owned(), json!({"qwen3": null}))]);
        assert_eq!(merged(null, models(&["qwen3:usd=3/day"])), models(&["qwen3:usd=3/day"]));
    }
}
