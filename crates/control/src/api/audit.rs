//! `GET /api/v1/audit`.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{body::Asked, next_cursor, page_size};
use crate::{
    Plane,
    caller::Caller,
    error::{ApiError, ErrorBody},
    store::audit::AuditEntry,
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// Where the page begins, as the page before said.
    cursor: Option<i64>,
    /// Rows on a page.
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct AuditPage {
    data: Vec<AuditEntry>,
    next_cursor: Option<String>,
}

/// Who changed what, when and from where, the latest first.
#[utoipa::path(get, path = "/api/v1/audit", params(AuditQuery), responses(
    (status = 200, body = AuditPage), (status = "4XX", body = ErrorBody)
))]
pub(super) async fn audit(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<AuditQuery>,
) -> Result<Json<AuditPage>, ApiError> {
    caller.must_be_operator()?;
    let most = page_size(asked.limit)?;
    let data = plane.store.audit(asked.cursor, most).await?;
    let next_cursor = next_cursor(&data, most, |entry| entry.seq.to_string());
    Ok(Json(AuditPage { data, next_cursor }))
}
