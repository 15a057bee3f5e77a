//! The keys page: plain HTML for people who prefer a browser to the API. Pages call the same functions as the API, so
//! that nobody can do more here than there. A session of the page is not a token and opens no API call.

mod assets;
mod chart;
mod delete;
mod document;
mod edit;
mod form;
mod invitations;
mod key;
mod key_fields;
mod key_search;
mod key_words;
mod keys;
mod layout;
mod limits;
mod members;
mod model_limits;
mod new_key;
mod oidc;
mod overview;
mod owners;
mod pager;
mod priority;
mod quotas;
mod refusals;
mod request;
mod secret;
mod session;
mod sign_in;
mod table;
mod team;
mod team_deletion;
mod teams;
mod token;
mod trouble;
mod usage;
mod user;
mod users;
mod wallet;
mod words;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, header},
    middleware::{from_fn_with_state, map_response},
    response::Response,
    routing::{MethodRouter, get, post},
};

pub use self::session::Sessions;
use self::{edit::Kind, trouble::with_navigation};
use super::Plane;

/// Bytes of a form: all models that a key may have, escaped, and some.
const LONGEST_FORM: usize = 256 * 1024;

/// All pages.
pub fn router(plane: &Arc<Plane>) -> Router<Arc<Plane>> {
    Router::new()
        .route("/", get(keys::list))
        .route("/overview", get(overview::show))
        .route("/sign-in", get(sign_in::ask).post(sign_in::sign_in))
        .route("/sign-in/oidc", get(oidc::begin))
        .route("/sign-in/callback", get(oidc::finish))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/keys/new", get(new_key::ask).post(new_key::make))
        .route("/keys/{id}", get(key::show))
        .route("/keys/{id}/edit", editing(Kind::Key))
        .route("/keys/{id}/enabled", post(key::set_enabled))
        .route("/keys/{id}/secret", get(secret::ask).post(secret::regenerate))
        .route("/keys/{id}/delete", get(delete::ask).post(delete::delete))
        .route("/teams", get(teams::list))
        .route("/teams/new", get(teams::ask).post(teams::make))
        .route("/teams/{id}", get(team::show))
        .route("/teams/{id}/edit", editing(Kind::Team))
        .route("/teams/{id}/members", post(team::put))
        .route("/teams/{id}/members/{user}/remove", get(members::ask_to_remove).post(members::remove))
        .route("/teams/{id}/delete", get(team_deletion::ask).post(team_deletion::delete))
        .route("/invitations", get(invitations::list))
        .route("/invitations/{team}", post(invitations::answer))
        .route("/users", get(users::list))
        .route("/users/new", get(users::ask).post(users::make))
        .route("/users/{id}", get(user::show))
        .route("/users/{id}/edit", editing(Kind::User))
        .route("/users/{id}/token", get(token::ask).post(token::rotate))
        .route("/users/{id}/delete", get(user::ask_to_delete).post(user::delete))
        .route("/wallets", get(wallet::list))
        .route("/wallets/{owner}", get(wallet::show).post(wallet::credit))
        .route("/assets/{name}", get(assets::asset))
        .layer(DefaultBodyLimit::max(LONGEST_FORM))
        .route_layer(from_fn_with_state(plane.clone(), with_navigation))
        .route_layer(map_response(guarded))
}

/// What answers where there is nothing.
pub fn missing(plane: &Arc<Plane>) -> Router {
    Router::new()
        .fallback(trouble::missing)
        .layer(from_fn_with_state(plane.clone(), with_navigation))
        .layer(map_response(guarded_page))
}

/// The form that changes a key, a team or a user.
fn editing(kind: Kind) -> MethodRouter<Arc<Plane>> {
    get(move |state, id, signed| edit::ask(kind, state, id, signed))
        .post(move |state, id, sent| edit::save(kind, state, id, sent))
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

/// A call that leads nowhere is answered as calls are.
async fn guarded_page(response: Response) -> Response {
    let is_page =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page { guarded(response).await } else { response }
}
