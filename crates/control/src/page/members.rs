//! The members of a team: who they are, whom to bring in, and who leaves.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    layout::{self, Section},
    owners,
    request::{PageError, SignedIn, SubmittedForm},
    table::{Column, Row, table},
    words::time,
};
use crate::{
    Plane,
    api::{self, body::Asked, invitations::ListInvitations, people},
    error::ApiError,
    store::{
        invitations::Invitation,
        people::{Member, Role, Team},
    },
};

/// All open invitations to a team, which are no more than a page has, if they may be seen.
///
/// # Errors
/// When the database does not answer.
pub async fn invited(plane: &Arc<Plane>, signed: &SignedIn, team: &str) -> Result<Vec<Invitation>, ApiError> {
    if signed.caller.must_manage_members(team).is_err() {
        return Ok(Vec::new());
    }
    let asked = ListInvitations { team: Some(team.to_owned()), ..ListInvitations::default() };
    let Json(page) = api::invitations::list(State(plane.clone()), signed.caller.clone(), Asked(asked)).await?;
    Ok(page.data)
}

/// Everything about the members, as far as the caller may see it and do it.
///
/// # Errors
/// When the database does not answer.
pub async fn section(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    team: &Team,
    invited: &[Invitation],
    form: &Form<'_>,
) -> Result<Markup, ApiError> {
    let leads = signed.caller.must_manage_members(&team.id).ok();
    let bring_in = if let Some(own) = leads {
        bring_in(plane, signed, team, own, form).await?
    } else {
        html! {}
    };
    let columns = [Column::text("User"), Column::text("Role"), Column::actions()];
    let rows = team.members.iter().map(|member| row(signed, team, member, leads));
    Ok(html! {
        section aria-labelledby="members" {
            h2 id="members" { "Members" }
            @if team.members.is_empty() {
                div.empty { p { strong { "Nobody is on the team." } } p { "Bring somebody in as its owner." } }
            } @else {
                (table("Members of the team", &columns, rows))
            }
        }
        @if !invited.is_empty() { (invited_table(team, invited)) }
        (bring_in)
    })
}

fn row(signed: &SignedIn, team: &Team, member: &Member, leads: Option<Role>) -> Row {
    let remove = format!("/teams/{}/members/{}/remove", team.id, member.user);
    Row::from(vec![
        html! {
            @if signed.caller.user().is_none() { a href=(format!("/users/{}", member.user)) { (member.user) } }
            @else { (member.user) }
        },
        html! { @match leads {
            Some(own) if member.role != Role::Owner => { (role_form(signed, team, member, own)) }
            _ => { (member.role.to_string()) }
        } },
        html! { @match (member.role, leads) {
            (Role::Owner, _) if signed.caller.user().is_some() => {}
            _ if is_self(signed, &member.user) => { a.button.plain href=(remove) { "Leave" } }
            (_, Some(_)) => { a.button.plain href=(remove) { "Remove" span.hidden { " " (member.user) } } }
            (_, None) => {}
        } },
    ])
}

fn invited_table(team: &Team, invited: &[Invitation]) -> Markup {
    let columns = [
        Column::text("User"),
        Column::text("Role"),
        Column::text("Invited by"),
        Column::text("When"),
        Column::actions(),
    ];
    let row = |Invitation { user, role, invited_by, created_at, .. }: &Invitation| {
        Row::from(vec![
            html! { (user) },
            html! { (role.to_string()) },
            html! { (invited_by) },
            time(*created_at),
            html! { a.button.plain href=(format!("/teams/{}/members/{user}/remove", team.id)) {
                "Withdraw" span.hidden { " the invitation of " (user) }
            } },
        ])
    };
    html! {
        section aria-labelledby="invited" {
            h2 id="invited" { "Invited" }
            (table("Users who have not answered yet", &columns, invited.iter().map(row)))
        }
    }
}

fn role_form(signed: &SignedIn, team: &Team, member: &Member, own: Role) -> Markup {
    html! {
        form.inline method="post" action=(format!("/teams/{}/members", team.id)) {
            (layout::form_token(signed))
            input type="hidden" name="user" value=(member.user);
            select name="role" aria-label=(format!("Role of {}", member.user)) {
                @for (role, words) in roles(own) {
                    option value=(role) selected[member.role.to_string() == *role] { (words) }
                }
            }
            button.plain type="submit" { "Change" span.hidden { " the role of " (member.user) } }
        }
    }
}

/// The roles that somebody with this one may give.
fn roles(own: Role) -> &'static [(&'static str, &'static str)] {
    const ALL: [(&str, &str); 3] = [("member", "member"), ("admin", "admin"), ("owner", "owner (hand over)")];
    if own == Role::Owner { &ALL } else { ALL.split_last().map_or(&ALL, |(_, rest)| rest) }
}

/// The operator chooses from a list; others know whom they invite, and are told of nobody else.
async fn bring_in(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    team: &Team,
    own: Role,
    form: &Form<'_>,
) -> Result<Markup, ApiError> {
    let (title, action) = match signed.caller.user() {
        Some(_) => ("Invite somebody", "Invite"),
        None => ("Bring somebody in", "Bring in"),
    };
    let user = FormField { name: "user", label: "User", is_required: true, ..FormField::default() };
    let user = match signed.caller.user() {
        Some(_) => form.line(FormField { label: "User's id", ..user }),
        None => form.choices(user, &owners::free_users(plane).await?),
    };
    Ok(html! {
        section aria-labelledby="bring-in" {
            h2 id="bring-in" { (title) }
            form.panel.row method="post" action=(format!("/teams/{}/members", team.id)) aria-labelledby="bring-in" {
                (layout::form_token(signed))
                (user)
                (form.choice(
                    FormField { name: "role", label: "Role", is_required: true, ..FormField::default() },
                    roles(own),
                ))
                button type="submit" { (action) }
            }
        }
    })
}

/// `GET /teams/{id}/members/{user}/remove`.
pub async fn ask_to_remove(
    State(plane): State<Arc<Plane>>,
    Path((id, user)): Path<(String, String)>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let Json(team) = people::show_team(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let role = team.members.iter().find(|member| member.user == user).map(|member| member.role);
    if role.is_none() && !invited(&plane, &signed, &team.id).await?.iter().any(|invited| invited.user == user) {
        return Err(ApiError::not_found("member", &user).into());
    }
    let path = format!("/teams/{}", team.id);
    let (question, meaning, action) = match role {
        None => (format!("Withdraw the invitation of {user}?"), "They can be invited again.", "Withdraw"),
        Some(_) if is_self(&signed, &user) => (
            "Leave the team?".to_owned(),
            "The keys of the team stay as they are. Keys of your own, made before, work again.",
            "Leave",
        ),
        Some(Role::Owner) => (
            format!("Take {user} off the team?"),
            "The team has no owner then, until you give it another. Keys of their own, made before, work again.",
            "Take off the team",
        ),
        Some(_) => (
            format!("Take {user} off the team?"),
            "The keys of the team stay as they are. Keys of their own, made before, work again.",
            "Take off the team",
        ),
    };
    let main = html! {
        div.narrow {
            p.crumb { a href=(path) { (team.name) } }
            h1 { (question) }
            form.panel method="post" action=(format!("{path}/members/{user}/remove")) {
                p { (meaning) }
                (layout::form_token(&signed))
                div.actions {
                    button.danger type="submit" { (action) }
                    a href=(path) { "Cancel" }
                }
            }
        }
    };
    Ok(layout::page(&question, Section::Teams, &signed, &main))
}

/// `POST /teams/{id}/members/{user}/remove`.
pub async fn remove(
    State(plane): State<Arc<Plane>>,
    Path((id, user)): Path<(String, String)>,
    SubmittedForm { signed, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let is_self = is_self(&signed, &user);
    people::remove_member(State(plane), signed.caller, Path((id.clone(), user))).await?;
    let next = if is_self { "/".to_owned() } else { format!("/teams/{id}?done=removed") };
    Ok(Redirect::to(&next).into_response())
}

fn is_self(signed: &SignedIn, user: &str) -> bool {
    signed.caller.user().is_some_and(|own| own.id == user)
}
