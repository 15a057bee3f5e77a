//! `/api/v1/keys/{id}/refusals`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use jiff::Timestamp;
use keymeter_core::{record::Session, refusals::RefusalReport};
use serde::Serialize;
use utoipa::ToSchema;

use super::keys;
use crate::{
    Plane,
    caller::Caller,
    error::{ApiError, ErrorBody},
    store::{
        StoreError,
        refusals::{self, RefusalRow},
    },
};

#[derive(Serialize, ToSchema)]
pub(crate) struct RefusalRows {
    /// One for each reason and scope.
    pub(crate) rows: Vec<RefusalRow>,
}

/// Why requests of a key were refused in the last 31 days, the latest first: as gateways tell, some seconds later.
#[utoipa::path(get, path = "/api/v1/keys/{id}/refusals", params(("id" = String, Path)), responses(
    (status = 200, body = RefusalRows), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn show(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<RefusalRows>, ApiError> {
    let Json(key) = keys::show(State(plane.clone()), caller, Path(id)).await?;
    Ok(Json(RefusalRows { rows: plane.store.refusals(&key.id).await? }))
}

/// Takes in what a gateway tells.
pub(super) async fn take(
    plane: &Plane,
    gateway: &Session,
    report: &RefusalReport,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = plane.store.begin().await?;
    refusals::take_in(&mut tx, gateway, report, now).await?;
    plane.store.commit(tx).await
}
