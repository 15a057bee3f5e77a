//! Limits in calls: those that hold by default, those that are asked for of a team or a user, and where one is wrong.

use std::sync::Arc;

use axum::{Json, extract::State};
use keymeter_config::{FieldError, keys::parse_scope_limits};
use keymeter_core::limit::{Limit, Limits};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    Plane,
    caller::Caller,
    error::{ApiError, ErrorBody},
    store::limits::ScopeLimits,
};

/// The limits that hold for keys that set none of their own.
#[derive(Serialize, ToSchema)]
pub(crate) struct DefaultLimits {
    /// A number, or `unlimited`.
    #[schema(example = 600)]
    requests_per_minute: Value,
    /// A number, or `unlimited`.
    #[schema(example = 2_000_000)]
    tokens_per_minute: Value,
    /// A number, or `unlimited`.
    #[schema(example = "unlimited")]
    concurrent_requests: Value,
}

/// Tells what holds for keys that set no limits of their own, where gateways have the `limits` of this configuration.
#[utoipa::path(get, path = "/api/v1/limits",
    responses((status = 200, body = DefaultLimits), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn defaults(State(plane): State<Arc<Plane>>, _: Caller) -> Json<DefaultLimits> {
    let told = |limit: Limit| limit.number().map_or_else(|| json!("unlimited"), Value::from);
    let Limits { requests_per_minute, tokens_per_minute, concurrent_requests } = plane.limits;
    Json(DefaultLimits {
        requests_per_minute: told(requests_per_minute),
        tokens_per_minute: told(tokens_per_minute),
        concurrent_requests: told(concurrent_requests),
    })
}

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
