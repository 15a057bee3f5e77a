//! The control plane's API. Each function decides by the caller's role and the present state; the API document is
//! generated from the same functions.

mod audit;
pub(super) mod body;
mod gateway;
pub(super) mod invitations;
pub(super) mod keys;
mod limits;
pub(super) mod people;
pub(super) mod refusals;
pub(super) mod sign_in;
pub(super) mod team_deletion;
pub(super) mod usage;
pub(super) mod wallets;

use std::sync::Arc;

use axum::{Json, Router, routing::get};
use tokio::sync::watch;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Plane, error::ApiError};

#[derive(OpenApi)]
#[openapi(
    info(title = "keymeter control plane", description = "Keys, teams, wallets and usage. What a user may change in an \
        hour is limited, and so is what they may ask of usage: over it a call gets 429, and `retry-after` says how long \
        to wait. Wrong tokens get it too, where many come from one address."),
    modifiers(&Tokens),
    security(("token" = []))
)]
struct Description;

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        description.components.get_or_insert_default().add_security_scheme("token", token);
    }
}

/// All calls, the document that describes them, and the answer to health checks.
pub(super) fn router(stop: watch::Receiver<bool>) -> Router<Arc<Plane>> {
    let (router, description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::show, keys::update, keys::delete))
        .routes(routes!(keys::regenerate))
        .routes(routes!(refusals::show))
        .routes(routes!(people::create_user, people::list_users))
        .routes(routes!(people::show_user, people::update_user, people::delete_user))
        .routes(routes!(people::rotate_token))
        .routes(routes!(people::create_team, people::list_teams))
        .routes(routes!(people::show_team, people::update_team, team_deletion::delete_team))
        .routes(routes!(people::put_member, people::remove_member))
        .routes(routes!(invitations::list))
        .routes(routes!(invitations::answer))
        .routes(routes!(limits::defaults))
        .routes(routes!(wallets::list))
        .routes(routes!(wallets::show))
        .routes(routes!(wallets::credit))
        .routes(routes!(usage::usage))
        .routes(routes!(audit::audit))
        .split_for_parts();
    router
        .merge(gateway::router(stop))
        .route("/api/v1/openapi.json", get(|| async { Json(description) }))
        .route("/healthz", get(|| async { "ok\n" }))
}

/// Where the next page of a list begins; absent: this is the last.
pub(super) fn next_cursor<T>(page: &[T], most: i64, id: impl Fn(&T) -> String) -> Option<String> {
    let is_full = i64::try_from(page.len()).is_ok_and(|length| length >= most);
    page.last().filter(|_| is_full).map(id)
}

/// How many rows a page has: 100, or as asked for, up to 1000.
fn page_size(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked.unwrap_or(100) {
        size @ 1..=1000 => Ok(size),
        _ => Err(ApiError::invalid("limit", "a page has 1 to 1000 rows")),
    }
}
