//! Users, and what each may use with all their own keys together.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use maud::html;

use super::{
    form::Form,
    layout,
    limits::{self, Holder, LIMITS},
    pager::{ListPosition, pager},
    request::{FormFields, PageError, SignedIn, SubmittedForm},
};
use crate::{
    Plane,
    api::{
        body::{Asked, Body},
        people::{self, ListUsers, UpdateHolder, UserPage},
    },
    store::people::User,
};

const ROWS: i64 = 25;

/// `GET /users`: the operator's to see.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    Query(begin): Query<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let asked = ListUsers { cursor: begin.cursor.clone(), limit: Some(ROWS) };
    let Json(UserPage { data: users, next_cursor: next }) =
        people::list_users(State(plane), signed.caller.clone(), Asked(asked)).await?;
    let main = html! {
        h1 { "Users" }
        @if users.is_empty() { p.empty { "There are no users." } } @else {
            ul.list { @for User { id, name, .. } in &users {
                li { a href=(format!("/users/{id}")) { (name) } " " code { (id) } }
            } }
        }
        (pager("/users", begin.cursor.is_some(), next.as_deref()))
    };
    Ok(layout::page("Users", &signed, &main))
}

/// `GET /users/{id}`: the operator's to see, and the user's own.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Query(begin): Query<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let Json(user) = people::show_user(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let done = begin.done.as_deref().filter(|done| *done == LIMITS).map(|_| "The limits are set.");
    let fields = FormFields::from(limits::filled(&user.limits));
    Ok(page(&plane, &signed, &user, done, &Form { fields: &fields, error: None }).await)
}

/// `POST /users/{id}/limits`: the operator's to send.
pub async fn set_limits(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let Json(user) = people::show_user(State(plane.clone()), signed.caller.clone(), Path(id.clone())).await?;
    let set = match limits::asked(&fields, &user.limits) {
        Ok(asked) => {
            let asked = UpdateHolder { limits: Some(asked), ..UpdateHolder::default() };
            people::update_user(State(plane.clone()), signed.caller.clone(), Path(id.clone()), Body(asked)).await
        }
        Err(refusal) => Err(refusal),
    };
    match set {
        Ok(_) => Ok(Redirect::to(&format!("/users/{id}?done={LIMITS}")).into_response()),
        Err(refusal) if refusal.field().is_none() => Err(refusal.into()),
        Err(refusal) => Ok(page(&plane, &signed, &user, None, &Form { fields: &fields, error: Some(&refusal) }).await),
    }
}

async fn page(plane: &Arc<Plane>, signed: &SignedIn, user: &User, done: Option<&str>, form: &Form<'_>) -> Response {
    let whose = Holder::User(&user.id);
    let spent = limits::spent(plane, signed, whose, &user.limits, Timestamp::now()).await;
    let is_operator = signed.caller.must_be_operator().is_ok();
    let main = html! {
        @if is_operator { p.crumb { a href="/users" { "Users" } } }
        div.head { h1 { (user.name) } code { (user.id) } }
        (layout::notice(done))
        (form.alert())
        dl {
            div { dt { "Team" } dd { @match &user.team {
                Some(team) => { a href=(format!("/teams/{team}")) { (team) } }
                None => { span.faint { "none" } }
            } } }
            div { dt { "Wallet" } dd { a href=(format!("/wallets/{}", user.id)) { "The user's wallet" } } }
            (limits::facts(&user.limits, whose))
        }
        (limits::bars(&spent))
        @if is_operator {
            p.hint { "These limits hold for all keys of the user's own together." }
            (limits::setter(signed, &format!("/users/{}", user.id), form, whose))
        }
    };
    let title = if form.error.is_some() { format!("Error: {}", user.name) } else { user.name.clone() };
    layout::refused(layout::page(&title, signed, &main), form.error)
}
