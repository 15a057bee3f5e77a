//! What is asked for of a team's or a user's limits, and where in a call something of limits is wrong.

use keymeter_config::{FieldError, keys::parse_scope_limits};
use serde_json::json;

use crate::{error::ApiError, store::limits::ScopeLimits};

/// Limits that a team or a user may have.
pub(super) fn of_holder(limits: ScopeLimits) -> Result<ScopeLimits, ApiError> {
    match parse_scope_limits(json!(limits)) {
        Ok(_) => Ok(limits),
        Err(error) => Err(at("limits", error)),
    }
}

/// What is wrong with a part of the field `whole`.
pub(super) fn at(whole: &str, FieldError { field, message }: FieldError) -> ApiError {
    let joint = if field.is_empty() || field.starts_with('[') { "" } else { "." };
    ApiError::invalid(format!("{whole}{joint}{field}"), message)
}
