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
/// used elsewhere stays.
pub(super) fn merged(mut limits: Map<String, Value>, mut named: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Array(added)) = named.remove(QUOTAS) {
        let mut quotas = match limits.remove(QUOTAS) {
            Some(Value::Array(quotas)) => quotas,
            _ => Vec::new(),
        };
        for mut quota in added {
            match quotas.iter_mut().find(|other| name(other) == name(&quota)) {
                Some(other) => {
                    for kept in ["carried", "until"] {
                        let value = other.get(kept).filter(|value| !value.is_null()).cloned();
                        if let (Some(fields), Some(value)) = (quota.as_object_mut(), value) {
                            fields.insert(kept.to_owned(), value);
                        }
                    }
                    *other = quota;
                }
                None => quotas.push(quota),
            }
        }
        limits.insert(QUOTAS.to_owned(), quotas.into());
    }
    limits.extend(named);
    limits
}

const QUOTAS: &str = "quotas";

fn name(quota: &Value) -> Option<QuotaName> {
    let is_stated = |unit: &QuotaUnit| quota.get(unit.as_str()).is_some_and(|amount| !amount.is_null());
    let span = quota.get("per")?.as_str()?.parse::<QuotaSpan>().ok()?;
    Some(QuotaName { unit: QuotaUnit::ALL.into_iter().find(is_stated)?, span })
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
