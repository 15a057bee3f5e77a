//! One team: its wallet, its limits, its members and what it used.

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
    form::Form,
    invitations,
    layout::{self, Section, title_of},
    limits::{self, UNLIMITED},
    members,
    quotas::{self, Holder},
    request::{FormFields, PageError, PageQuery, SignedIn, SubmittedForm},
    usage::{Span, UsagePosition, Used, Whose},
    words::{money, time},
};
use crate::{
    Plane,
    api::{
        body::Body,
        people::{self, Put, PutMember},
    },
    error::ApiError,
    store::people::Role,
};

/// `GET /teams/{id}`.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    PageQuery(asked): PageQuery<UsagePosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let done = match asked.done.as_str() {
        "made" => Some("The team is made. Credit its wallet, so that it can have keys."),
        "member" => Some("The member has this role now."),
        "invited" => Some("The user is invited: nothing changes until they accept."),
        "removed" => Some("The user is neither on the team nor invited to it any more."),
        "accepted" => Some("You accepted the invitation."),
        SAVED => Some(IS_SAVED),
        _ => None,
    };
    let fields = FormFields::from([("role", "member".to_owned())]);
    page(&plane, &signed, id, (done, Span::parse(&asked.span)), &Form::new(&fields, None)).await
}

/// `POST /teams/{id}/members`: invites a user, or gives a member another role.
pub async fn put(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let user = fields.text("user").to_owned();
    let put = match fields.text("role").parse::<Role>() {
        Ok(role) => {
            let whose = Path((id.clone(), user));
            people::put_member(State(plane.clone()), signed.caller.clone(), whose, Body(PutMember { role })).await
        }
        Err(error) => Err(ApiError::invalid("role", error)),
    };
    match put {
        Ok(put) => {
            let done = if matches!(put, Put::Invited(_)) { "invited" } else { "member" };
            Ok(Redirect::to(&format!("/teams/{id}?done={done}")).into_response())
        }
        Err(refusal) => {
            let refusal = refusal.at("user");
            page(&plane, &signed, id, (None, Span::parse("")), &Form::new(&fields, Some(&refusal))).await
        }
    }
}

async fn page(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    id: String,
    (done, span): (Option<&str>, Span),
    form: &Form<'_>,
) -> Result<Response, PageError> {
    let now = Timestamp::now();
    let Json(team) = people::show_team(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let path = format!("/teams/{}", team.id);
    let invited = members::invited(plane, signed, &team.id).await?;
    let waiting = invitations::waiting(plane, signed).await?;
    let spent = quotas::spent(plane, signed, Holder::Team(&team.id), &team.limits, now).await;
    let used = Used::load(plane, signed, Whose::Team(&team.id), span, now).await?;
    let balance = plane.store.balance(&team.id).await?.unwrap_or_default();
    let members = members::section(plane, signed, &team, &invited, form).await?;
    let is_operator = signed.caller.must_be_operator().is_ok();
    let main = html! {
        @if is_operator { p.crumb { a href="/teams" { "Teams" } } }
        div.head { h1 { (team.name) } code { (team.id) } }
        (layout::notice(done))
        (form.around(|| html! {
            (waiting)
            @if is_operator { div.actions {
                a.button href=(format!("{path}/edit")) { "Edit" }
                a.button.plain.danger href=(format!("{path}/delete")) { "Delete" }
            } }
            dl {
                div { dt { "Wallet" } dd { a href=(format!("/wallets/{}", team.id)) { (money(balance)) }
                    @if balance <= Usd::ZERO { " " span.state { "empty" } } } }
                div { dt { "Keys" } dd { a href=(format!("/?owner={}", team.id)) { "Keys of the team" } } }
                div { dt { "Made" } dd { (time(team.created_at)) } }
                (limits::facts(&team.limits, UNLIMITED))
            }
            (quotas::bars(&spent))
            (members)
            (used.section("Usage", &path, &[]))
        }))
    };
    let title = title_of(&team.name, form.error);
    Ok(layout::refused(layout::page(&title, Section::Teams, signed, &main), form.error))
}
