//! What is asked for of a key, field by field.

use keymeter_config::keys::{parse_allow_from, parse_limits};
use keymeter_core::{
    glob::{self, Glob},
    key::{KeyName, Priority},
    limit::Limit,
};
use serde_json::json;

use crate::{
    Plane,
    api::limits,
    caller::Caller,
    error::ApiError,
    store::limits::{KeyLimits, LimitValue},
};

/// A name that a key may have.
pub(super) fn name(name: String) -> Result<String, ApiError> {
    match name.parse::<KeyName>() {
        Ok(_) => Ok(name),
        Err(error) => Err(ApiError::invalid("name", error.to_string())),
    }
}

/// A gateway reads records of 64 KiB at most, the other fields included.
const MOST_OF_A_RECORD: usize = 48 * 1024;

/// Models that a key may call, as many as fit in a record.
pub(super) fn models(models: Option<Vec<String>>) -> Result<Option<Vec<String>>, ApiError> {
    let Some(models) = models else { return Ok(None) };
    if models.len() > glob::MOST {
        let message = format!("a key has {} names and patterns at most; `null` is all models", glob::MOST);
        return Err(ApiError::invalid("models", message));
    }
    for (index, model) in models.iter().enumerate() {
        let error = |error| ApiError::invalid("models", format!("the one at {index}, counted from 0: {error}"));
        model.parse::<Glob>().map_err(error)?;
    }
    Ok(Some(models))
}

/// Networks that a key may be used from.
pub(super) fn allow_from(networks: Option<Vec<String>>) -> Result<Option<Vec<String>>, ApiError> {
    let Some(networks) = networks else { return Ok(None) };
    if networks.len() > MOST_NETWORKS {
        let message = format!("a key has {MOST_NETWORKS} networks at most; `null` is everywhere");
        return Err(ApiError::invalid("allow_from", message));
    }
    parse_allow_from(json!(networks)).map_err(|error| limits::at("allow_from", error))?;
    Ok(Some(networks))
}

const MOST_NETWORKS: usize = 256;

/// Refuses a key of which no gateway reads the record. The longest of its lists is named.
pub(super) fn must_fit(
    models: Option<&Vec<String>>,
    limits: &KeyLimits,
    allow_from: Option<&Vec<String>>,
) -> Result<(), ApiError> {
    let parts = [("models", json!(models)), ("limits", json!(limits)), ("allow_from", json!(allow_from))];
    let sizes = parts.map(|(field, part)| (part.to_string().len(), field));
    let all: usize = sizes.iter().map(|(size, _)| size).sum();
    match sizes.into_iter().max() {
        Some((_, longest)) if all > MOST_OF_A_RECORD => Err(ApiError::invalid(
            longest,
            format!(
                "`models`, `limits` and `allow_from` have {all} bytes of JSON together, and a gateway reads \
                 {MOST_OF_A_RECORD} at most"
            ),
        )),
        _ => Ok(()),
    }
}

/// Limits that are some; a user gives no key more than what keys have that have none of their own, unless it `is` so already, and
/// leaves its mode as it is.
pub(super) fn limits(plane: &Plane, caller: &Caller, limits: KeyLimits, is: &KeyLimits) -> Result<KeyLimits, ApiError> {
    let most = &plane.limits;
    for (field, value, is, most) in [
        ("limits.requests_per_minute", &limits.requests_per_minute, &is.requests_per_minute, most.requests_per_minute),
        ("limits.tokens_per_minute", &limits.tokens_per_minute, &is.tokens_per_minute, most.tokens_per_minute),
        ("limits.concurrent_requests", &limits.concurrent_requests, &is.concurrent_requests, most.concurrent_requests),
    ] {
        let Some(value) = value.as_ref().filter(|value| Some(*value) != is.as_ref()) else { continue };
        let text = match value {
            LimitValue::Number(number) => number.to_string(),
            LimitValue::Word(word) => word.clone(),
        };
        let limit: Limit = text.parse().map_err(|_| ApiError::invalid(field, "a number above 0, or `unlimited`"))?;
        let is_more = match (limit.number(), most.number()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(limit), Some(most)) => limit > most,
        };
        if is_more && caller.user().is_some() {
            return Err(ApiError::invalid(field, format!("at most {most}, as the operator has set it for all keys")));
        }
    }
    parse_limits(json!(limits)).map_err(|error| limits::at("limits", error))?;
    let Some(user) = caller.user() else { return Ok(limits) };
    match limits.mode {
        Some(mode) if Some(mode) != is.mode => {
            let message = format!("only the operator sets `mode`; leave it out, {}", user.id);
            Err(ApiError::forbidden(message).at("limits.mode"))
        }
        _ => Ok(KeyLimits { mode: is.mode, ..limits }),
    }
}

/// A priority, without a word the default; a user leaves it as it `is`.
pub(super) fn priority(caller: &Caller, asked: Option<Priority>, is: Priority) -> Result<Priority, ApiError> {
    let priority = asked.unwrap_or_default();
    match caller.user() {
        Some(user) if priority != is => {
            let message = format!("only the operator sets `priority`; leave it out, {}", user.id);
            Err(ApiError::forbidden(message).at("priority"))
        }
        _ => Ok(priority),
    }
}
