//! Everything that the control plane answers: the calls and the pages, within the bounds that hold for both.

use std::sync::Arc;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
};
use tokio::sync::watch;

use super::{
    Plane,
    api::{self, body::plainly_named},
    bounds::bounded,
    error::ApiError,
    page,
};

/// All calls and all pages.
pub fn router(plane: Arc<Plane>, stop: watch::Receiver<bool>) -> Router {
    api::router(stop)
        .merge(page::router(&plane))
        .layer(from_fn(plainly_named))
        .fallback_service(page::missing(&plane))
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(from_fn_with_state(plane.clone(), bounded))
        .with_state(plane)
}
