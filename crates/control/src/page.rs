//! The keys page: plain HTML for people who prefer a browser to the API. Pages call the same functions as the API, so
//! that nobody can do more here than there. A session of the page is not a token and opens no API call.

mod assets;
mod chart;
mod delete;
mod document;
mod form;
mod invitations;
mod key;
mod keys;
mod layout;
mod limits;
mod new_key;
mod pager;
mod priority;
mod request;
mod secret;
mod session;
mod sign_in;
mod team;
mod team_deletion;
mod user;
mod wallet;
mod words;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, header},
    middleware::map_response,
    response::Response,
    routing::{get, post},
};

pub use self::session::Sessions;
use super::Plane;

/// Bytes of a form: all models that a key may have, escaped, and some.
const LONGEST_FORM: usize = 256 * 1024;

/// All pages.
pub fn router() -> Router<Arc<Plane>> {
    Router::new()
        .route("/", get(keys::list))
        .route("/sign-in", get(sign_in::ask).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/keys/new", get(new_key::ask).post(new_key::make))
        .route("/keys/{id}", get(key::show))
        .route("/keys/{id}/enabled", post(key::set_enabled))
        .route("/keys/{id}/priority", post(key::set_priority))
        .route("/keys/{id}/limits", post(key::set_limits))
        .route("/keys/{id}/secret", get(secret::ask).post(secret::regenerate))
        .route("/keys/{id}/delete", get(delete::ask).post(delete::delete))
        .route("/teams", get(team::list))
        .route("/teams/{id}", get(team::show))
        .route("/teams/{id}/limits", post(team::set_limits))
        .route("/teams/{id}/members", post(team::put))
        .route("/teams/{id}/members/{user}/remove", get(team::ask_to_remove).post(team::remove))
        .route("/teams/{id}/delete", get(team_deletion::ask).post(team_deletion::delete))
        .route("/invitations", get(invitations::list))
        .route("/invitations/{team}", post(invitations::answer))
        .route("/users", get(user::list))
        .route("/users/{id}", get(user::show))
        .route("/users/{id}/limits", post(user::set_limits))
        .route("/wallets", get(wallet::list))
        .route("/wallets/{owner}", get(wallet::show).post(wallet::credit))
        .route("/assets/{name}", get(assets::asset))
        .layer(DefaultBodyLimit::max(LONGEST_FORM))
        .route_layer(map_response(guarded))
}

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Tells the browser to run and frame nothing of others, and to keep no page.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
