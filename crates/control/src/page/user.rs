//! One user: their team, their wallet, what they may use with all their own keys together, and deleting them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use keymeter_core::money::Usd;
use maud::html;

use super::{
    edit::{IS_SAVED, SAVED},
    layout::{self, Section},
    limits::{self, UNLIMITED},
    quotas::{self, Holder},
    request::{PageError, PageQuery, SignedIn, SubmittedForm},
    usage::{Span, UsagePosition, Used, Whose},
    words::{money, time},
};
use crate::{Plane, api::people};

/// `GET /users/{id}`: the operator's to see, and the user's own.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    PageQuery(asked): PageQuery<UsagePosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let Json(user) = people::show_user(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let (now, path) = (Timestamp::now(), format!("/users/{}", user.id));
    let spent = quotas::spent(&plane, &signed, Holder::User(&user.id), &user.limits, now).await;
    let usage = Used::load(&plane, &signed, Whose::User(&user.id), Span::parse(&asked.span), now).await?;
    let balance = plane.store.balance(&user.id).await?.unwrap_or_default();
    let is_operator = signed.caller.must_be_operator().is_ok();
    let main = html! {
        @if is_operator { p.crumb { a href="/users" { "Users" } } }
        div.head { h1 { (user.name) } code { (user.id) } }
        (layout::notice((asked.done == SAVED).then_some(IS_SAVED)))
        div.actions {
            @if is_operator { a.button href=(format!("{path}/edit")) { "Edit" } }
            a.button.plain href=(format!("{path}/token")) { "New token" }
            @if is_operator { a.button.plain.danger href=(format!("{path}/delete")) { "Delete" } }
        }
        dl {
            div { dt { "Team" } dd { @match &user.team {
                Some(team) => {
                    a href=(format!("/teams/{team}")) { (team) }
                    @if let Some(role) = user.role { " " span.faint { (role.to_string()) } }
                }
                None => { span.faint { "none" } }
            } } }
            div { dt { "Wallet" } dd { a href=(format!("/wallets/{}", user.id)) { (money(balance)) }
                @if balance <= Usd::ZERO { " " span.state { "empty" } } } }
            div { dt { "Keys" } dd { a href=(format!("/?owner={}", user.id)) { "Keys of their own" } } }
            @if let Some(sign_in) = &user.sign_in { div { dt { "Signs in as" } dd { (sign_in) } } }
            div { dt { "Made" } dd { (time(user.created_at)) } }
            (limits::facts(&user.limits, UNLIMITED))
        }
        (quotas::bars(&spent))
        (usage.section("Usage of their own keys", &path, &[]))
    };
    let section = if is_operator { Section::Users } else { Section::Own };
    Ok(layout::page(&user.name, section, &signed, &main))
}

/// `GET /users/{id}/delete`: the operator's to ask.
pub async fn ask_to_delete(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    signed.caller.must_be_operator()?;
    let Json(user) = people::show_user(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let balance = plane.store.balance(&user.id).await?.unwrap_or_default();
    let path = format!("/users/{}", user.id);
    let main = html! {
        div.narrow {
            p.crumb { a href="/users" { "Users" } " / " a href=(path) { (user.name) } }
            h1 { "Delete “" (user.name) "”?" }
            form.panel method="post" action=(format!("{path}/delete")) {
                p {
                    "Their token and the keys of their own stop working at once, and they leave their team. A deleted user does "
                    "not come back, and no other gets the id " code { (user.id) } ". What they used stays on record."
                }
                p { "In their wallet there is " strong { (money(balance)) } ", which stays there." }
                (layout::form_token(&signed))
                div.actions {
                    button.danger type="submit" { "Delete" }
                    a href=(path) { "Cancel" }
                }
            }
        }
    };
    Ok(layout::page("Delete a user", Section::Users, &signed, &main))
}

/// `POST /users/{id}/delete`.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    people::delete_user(State(plane), signed.caller, Path(id)).await?;
    Ok(Redirect::to("/users?done=deleted").into_response())
}
