//! Invitations of the signed-in user, and the answers to them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    layout::{self, Section, title_of},
    pager::{ListPosition, pager},
    request::{PageError, PageQuery, SignedIn, SubmittedForm},
    words::time,
};
use crate::{
    Plane,
    api::{
        body::{Asked, Body},
        invitations::{self, Answer, InvitationPage, ListInvitations},
    },
    error::ApiError,
    store::{invitations::Invitation, people::Role},
};

const ROWS: i64 = 25;

/// Invitations that are shown on other pages.
const FIRST: i64 = 3;

/// `GET /invitations`: a user's own, the operator's all.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    PageQuery(begin): PageQuery<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    page(&plane, &signed, &begin, None).await
}

/// `POST /invitations/{team}`: the user's answer. The form says which role it was made for, so that no other is accepted.
pub async fn answer(
    State(plane): State<Arc<Plane>>,
    Path(team): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let answer = match (fields.text("accept"), fields.text("role").parse::<Role>()) {
        ("true", Ok(role)) => Answer { accept: true, role: Some(role) },
        ("true", Err(error)) => return Err(ApiError::invalid("role", error).into()),
        ("false", _) => Answer { accept: false, role: None },
        _ => return Err(ApiError::invalid("accept", "either `true` or `false`").into()),
    };
    let next = if answer.accept { format!("/teams/{team}?done=accepted") } else { "/invitations?done=declined".into() };
    match invitations::answer(State(plane.clone()), signed.caller.clone(), Path(team), Body(answer)).await {
        Ok(_) => Ok(Redirect::to(&next).into_response()),
        Err(refusal) => page(&plane, &signed, &ListPosition::default(), Some(&refusal)).await,
    }
}

/// The first invitations of a user who has some, for other pages of theirs.
pub async fn waiting(plane: &Arc<Plane>, signed: &SignedIn) -> Result<Markup, ApiError> {
    if signed.caller.user().is_none() {
        return Ok(html! {});
    }
    let InvitationPage { data, next_cursor } = own(plane, signed, None, FIRST).await?;
    Ok(html! {
        @if !data.is_empty() {
            section aria-labelledby="invitations" {
                h2 id="invitations" { "You are invited" }
                (cards(signed, &data))
                @if next_cursor.is_some() { p { a href="/invitations" { "All invitations" } } }
            }
        }
    })
}

async fn own(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    cursor: Option<String>,
    limit: i64,
) -> Result<InvitationPage, ApiError> {
    let asked = ListInvitations { team: None, cursor, limit: Some(limit) };
    let Json(page) = invitations::list(State(plane.clone()), signed.caller.clone(), Asked(asked)).await?;
    Ok(page)
}

async fn page(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    begin: &ListPosition,
    error: Option<&ApiError>,
) -> Result<Response, PageError> {
    let InvitationPage { data, next_cursor } = own(plane, signed, begin.cursor.clone(), ROWS).await?;
    let done = begin.done.as_deref().filter(|done| *done == "declined");
    let may_make = signed.caller.user().is_some_and(|user| user.team.is_none());
    let main = html! {
        div.head {
            h1 { "Invitations" }
            @if may_make { a.button.plain href="/teams/new" { "Make a team" } }
        }
        (layout::notice(done.map(|_| "You declined the invitation: the team does not invite you again for a week.")))
        @if let Some(error) = error { div.alert role="alert" { p { (layout::sentence(error.message())) } } }
        @if data.is_empty() {
            div.empty {
                p { strong { "There are no open invitations." } }
                p {
                    "The owner or an admin of a team invites people to it"
                    @if may_make { ": tell them your id, which is " code { (signed.caller.actor().name) } ", or make a team of your own." }
                    @else { "." }
                }
            }
        } @else {
            (cards(signed, &data))
        }
        (pager("/invitations", begin.cursor.is_some(), next_cursor.as_deref()))
    };
    let title = title_of("Invitations", error);
    Ok(layout::refused(layout::page(&title, Section::Invitations, signed, &main), error))
}

fn cards(signed: &SignedIn, data: &[Invitation]) -> Markup {
    html! { ul.list { @for invitation in data { li { (card(signed, invitation)) } } } }
}

fn card(signed: &SignedIn, invitation: &Invitation) -> Markup {
    let Invitation { team, team_name, user, role, invited_by, created_at, .. } = invitation;
    let own = signed.caller.user().filter(|own| own.id == *user);
    html! {
        div.head { strong { (team_name) } code { (team) } }
        p.hint {
            @if own.is_none() { (user) " as " } @else { "As " }
            strong { (role.to_string()) } ", invited by " (invited_by) ", " (time(*created_at))
        }
        @if let Some(own) = own {
            p { (meaning(*role, own.team.as_deref(), team)) }
            form.actions method="post" action=(format!("/invitations/{team}")) {
                (layout::form_token(signed))
                input type="hidden" name="role" value=(role.to_string());
                button type="submit" name="accept" value="true" { "Accept" span.hidden { " the invitation to " (team) } }
                button.plain type="submit" name="accept" value="false" {
                    "Decline" span.hidden { " the invitation to " (team) }
                }
            }
        }
    }
}

/// What comes of it if the user accepts.
fn meaning(role: Role, present: Option<&str>, team: &str) -> &'static str {
    match (present, role) {
        (Some(present), _) if present != team => "You are on another team: leave it before you accept.",
        (Some(_), Role::Owner) => {
            "The present owner hands the team over to you and is an admin from then on. An owner leaves after handing over."
        }
        (_, Role::Owner) => {
            "The team would be yours. Your own keys are archived while you are on it, and an owner leaves after handing over."
        }
        _ => "Your own keys are archived while you are on a team, and work again when you leave it.",
    }
}
