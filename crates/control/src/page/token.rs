//! A user's token: shown once when they are made, and made anew.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use maud::html;

use super::{
    layout::{self, Section},
    request::{PageError, SignedIn, SubmittedForm},
    secret::once,
};
use crate::{
    Plane,
    api::people::{self, MadeUser},
    caller::Uncounted,
    error::ApiError,
};

/// The page that has a user's token on it.
pub fn shown(title: &str, made: &MadeUser, signed: &SignedIn) -> Response {
    let is_own = signed.caller.user().is_some();
    let main = html! {
        div.narrow {
            h1 { (title) }
            p { "This is the token of " strong { (made.user.name) } ". Copy it now: it is shown this once and not kept." }
            (once("The token", &made.token))
            p {
                @if is_own { "You sign in with it from now on: this session is over." }
                @else { "They sign in on this page with it, and programs of theirs send it to the API." }
            }
            div.actions {
                @if is_own { a.button.plain href="/sign-in" { "I have it, sign in again" } }
                @else { a.button.plain href=(format!("/users/{}", made.user.id)) { "I have it, go on to the user" } }
            }
        }
    };
    layout::page(title, section(signed), signed, &main)
}

/// `GET /users/{id}/token`: the operator's to ask, and the user's own.
pub async fn ask(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let Json(user) = people::show_user(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let path = format!("/users/{}", user.id);
    let seen = plane.store.token_mark(&user.id).await?;
    let main = html! {
        div.narrow {
            p.crumb { a href=(path) { (user.name) } }
            h1 { "Make a new token" }
            form.panel method="post" action=(format!("{path}/token")) {
                p {
                    strong { (user.name) } " gets another token, which is shown once. The one before stops working at once, "
                    "and sessions that began with it are over."
                }
                (layout::form_token(&signed))
                input type="hidden" name="seen" value=(seen);
                div.actions {
                    button type="submit" { "Make a new token" }
                    a href=(path) { "Cancel" }
                }
            }
        }
    };
    Ok(layout::page("Make a new token", section(&signed), &signed, &main))
}

/// `POST /users/{id}/token`. The form says which token it was made for, so that sent again it replaces no other.
pub async fn rotate(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Uncounted(SubmittedForm { signed, fields, .. }): Uncounted<SubmittedForm>,
) -> Result<Response, PageError> {
    let Json(user) = people::show_user(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    if plane.store.token_mark(&user.id).await? != fields.text("seen") {
        return Err(
            ApiError::conflict("another token was made meanwhile; look at the user before you make one more").into()
        );
    }
    let caller = Uncounted(signed.caller.clone());
    let Json(made) = people::rotate_token(State(plane), caller, Path(user.id)).await?;
    Ok(shown("The new token", &made, &signed))
}

fn section(signed: &SignedIn) -> Section {
    if signed.caller.user().is_some() { Section::Own } else { Section::Users }
}
