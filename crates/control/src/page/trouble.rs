//! Pages that say why there is no other: with the ways to others, where somebody is signed in.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    layout,
    request::{PageError, Refusal, SignedIn},
};
use crate::{Plane, error::ApiError};

/// Gives a page that says why there is no other the ways to others.
pub async fn with_navigation(State(plane): State<Arc<Plane>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let asked = Request::from_parts(parts.clone(), body);
    let page = next.run(asked).await;
    let Some(Refusal(refusal)) = page.extensions().get().cloned() else { return page };
    match SignedIn::from_request_parts(&mut parts, &plane).await {
        Ok(signed) => layout::trouble(&refusal, &signed),
        Err(_) => page,
    }
}

/// The answer where there is nothing: a page for browsers, and an error for programs.
pub async fn missing(request: Request) -> Response {
    let accepted = request.headers().get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
    let is_browser = accepted.is_some_and(|accepted| accepted.contains("text/html"));
    let is_call = ["/api/", "/v1/"].iter().any(|prefix| request.uri().path().starts_with(prefix));
    if is_browser && !is_call {
        return PageError::from(ApiError::not_found("page", request.uri().path())).into_response();
    }
    ApiError::unknown_path().into_response()
}
