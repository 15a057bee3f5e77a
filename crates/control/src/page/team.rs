//! Teams and their members.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    invitations, layout,
    limits::{self, Holder, LIMITS, Spent},
    pager::{ListPosition, pager},
    request::{FormFields, PageError, SignedIn, SubmittedForm},
};
use crate::{
    Plane,
    api::{
        self,
        body::{Asked, Body},
        invitations::ListInvitations,
        next_cursor,
        people::{self, Put, PutMember, UpdateHolder},
    },
    error::ApiError,
    store::{
        invitations::Invitation,
        people::{Member, Role, Team},
    },
};

const ROWS: i64 = 25;

/// `GET /teams`: the operator's all, a user's own.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    Query(begin): Query<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    match signed.caller.user().map(|user| user.team.as_deref()) {
        Some(Some(team)) => return Ok(Redirect::to(&format!("/teams/{team}")).into_response()),
        Some(None) => return Ok(Redirect::to("/invitations").into_response()),
        None => {}
    }
    let teams = plane.store.teams(begin.cursor.as_deref().unwrap_or(""), ROWS).await?;
    let next = next_cursor(&teams, ROWS, |(id, _)| id.clone());
    let done = begin.done.as_deref().filter(|done| *done == "deleted").map(|_| "The team is deleted.");
    let main = html! {
        h1 { "Teams" }
        (layout::notice(done))
        @if teams.is_empty() { p.empty { "There are no teams." } } @else {
            ul.list { @for (id, name) in &teams {
                li { a href=(format!("/teams/{id}")) { (name) } " " code { (id) } }
            } }
        }
        (pager("/teams", begin.cursor.is_some(), next.as_deref()))
    };
    Ok(layout::page("Teams", &signed, &main))
}

/// `GET /teams/{id}`.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Query(begin): Query<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let shown = Shown::load(&plane, &signed, id).await?;
    let done = match begin.done.as_deref() {
        Some("member") => Some("The member has this role now."),
        Some("invited") => Some("The user is invited: nothing changes until they accept."),
        Some("removed") => Some("The user is neither on the team nor invited to it any more."),
        Some(LIMITS) => Some("The limits are set."),
        Some("accepted") => Some("You accepted the invitation."),
        _ => None,
    };
    let fields = FormFields::from([("role", "member".to_owned())]).and(limits::filled(&shown.team.limits));
    Ok(page(&signed, &shown, done, &Form { fields: &fields, error: None }))
}

/// A team, and what else its page has on it.
struct Shown {
    team: Team,
    /// Those to it, for whoever leads it.
    invited: Vec<Invitation>,
    /// Those of whoever looks.
    waiting: Markup,
    /// What was used of its quotas.
    spent: Vec<Spent>,
}

impl Shown {
    async fn load(plane: &Arc<Plane>, signed: &SignedIn, id: String) -> Result<Self, ApiError> {
        let Json(team) = people::show_team(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
        let invited = invited(plane, signed, &team.id).await?;
        let spent = limits::spent(plane, signed, Holder::Team(&team.id), &team.limits, Timestamp::now()).await;
        Ok(Self { team, invited, waiting: invitations::waiting(plane, signed).await?, spent })
    }
}

/// All open invitations to a team, which are no more than a page has, if they may be seen.
async fn invited(plane: &Arc<Plane>, signed: &SignedIn, team: &str) -> Result<Vec<Invitation>, ApiError> {
    if signed.caller.must_manage_members(team).is_err() {
        return Ok(Vec::new());
    }
    let asked = ListInvitations { team: Some(team.to_owned()), ..ListInvitations::default() };
    let Json(page) = api::invitations::list(State(plane.clone()), signed.caller.clone(), Asked(asked)).await?;
    Ok(page.data)
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
            let shown = Shown::load(&plane, &signed, id).await?;
            let (refusal, fields) = (refusal.at("user"), fields.and(limits::filled(&shown.team.limits)));
            Ok(page(&signed, &shown, None, &Form { fields: &fields, error: Some(&refusal) }))
        }
    }
}

/// `POST /teams/{id}/limits`: the operator's to send.
pub async fn set_limits(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let shown = Shown::load(&plane, &signed, id.clone()).await?;
    let set = match limits::asked(&fields, &shown.team.limits) {
        Ok(asked) => {
            let asked = UpdateHolder { limits: Some(asked), ..UpdateHolder::default() };
            people::update_team(State(plane), signed.caller.clone(), Path(id.clone()), Body(asked)).await
        }
        Err(refusal) => Err(refusal),
    };
    match set {
        Ok(_) => Ok(Redirect::to(&format!("/teams/{id}?done={LIMITS}")).into_response()),
        Err(refusal) if refusal.field().is_none() => Err(refusal.into()),
        Err(refusal) => Ok(page(&signed, &shown, None, &Form { fields: &fields, error: Some(&refusal) })),
    }
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
            p { (meaning) }
            form method="post" action=(format!("{path}/members/{user}/remove")) {
                (layout::form_token(&signed))
                div.actions {
                    button.danger type="submit" { (action) }
                    a href=(path) { "Cancel" }
                }
            }
        }
    };
    Ok(layout::page(&question, &signed, &main))
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

fn page(signed: &SignedIn, shown: &Shown, done: Option<&str>, form: &Form<'_>) -> Response {
    let Shown { team, invited, waiting, spent } = shown;
    let whose = Holder::Team(&team.id);
    let leads = signed.caller.must_manage_members(&team.id).ok();
    let main = html! {
        @if signed.caller.user().is_none() { p.crumb { a href="/teams" { "Teams" } } }
        div.head { h1 { (team.name) } code { (team.id) } }
        p { a href=(format!("/wallets/{}", team.id)) { "The team's wallet" } }
        (layout::notice(done))
        (form.alert())
        (waiting)
        dl { (limits::facts(&team.limits, whose)) }
        (limits::bars(spent))
        @if signed.caller.must_be_operator().is_ok() {
            p.hint { "These limits hold for all keys of the team together." }
            (limits::setter(signed, &format!("/teams/{}", team.id), form, whose))
        }
        h2 { "Members" }
        // On a narrow screen its rows are cards, as those of keys are.
        table.cards role="table" {
            caption.hidden { "Members of the team" }
            thead role="rowgroup" { tr role="row" {
                th scope="col" role="columnheader" { "User" }
                th scope="col" role="columnheader" { "Role" }
                th scope="col" role="columnheader" { span.hidden { "Actions" } }
            } }
            tbody role="rowgroup" { @for member in &team.members { (row(signed, team, member, leads)) } }
        }
        @if !invited.is_empty() { (invited_table(team, invited)) }
        @if let Some(own) = leads { (bring_in(signed, team, own, form)) }
        @if signed.caller.must_be_operator().is_ok() {
            div.actions { a.button.plain.danger href=(format!("/teams/{}/delete", team.id)) { "Delete the team" } }
        }
    };
    let title = if form.error.is_some() { format!("Error: {}", team.name) } else { team.name.clone() };
    layout::refused(layout::page(&title, signed, &main), form.error)
}

fn row(signed: &SignedIn, team: &Team, member: &Member, leads: Option<Role>) -> Markup {
    let remove = format!("/teams/{}/members/{}/remove", team.id, member.user);
    html! {
        tr role="row" {
            th scope="row" role="rowheader" { (member.user) }
            td role="cell" data-head="Role" { @match leads {
                Some(own) if member.role != Role::Owner => { (role_form(signed, team, member, own)) }
                _ => { (member.role.to_string()) }
            } }
            td role="cell" { @match (member.role, leads) {
                (Role::Owner, _) if signed.caller.user().is_some() => {}
                _ if is_self(signed, &member.user) => { a href=(remove) { "Leave" } }
                (_, Some(_)) => { a href=(remove) { "Remove" span.hidden { " " (member.user) } } }
                (_, None) => {}
            } }
        }
    }
}

fn invited_table(team: &Team, invited: &[Invitation]) -> Markup {
    html! {
        h2 { "Invited" }
        table.cards role="table" {
            caption.hidden { "Users who have not answered yet" }
            thead role="rowgroup" { tr role="row" {
                @for head in ["User", "Role", "By"] { th scope="col" role="columnheader" { (head) } }
                th scope="col" role="columnheader" { span.hidden { "Actions" } }
            } }
            tbody role="rowgroup" { @for Invitation { user, role, invited_by, .. } in invited { tr role="row" {
                th scope="row" role="rowheader" { (user) }
                td role="cell" data-head="Role" { (role.to_string()) }
                td role="cell" data-head="By" { (invited_by) }
                td role="cell" { a href=(format!("/teams/{}/members/{user}/remove", team.id)) {
                    "Withdraw" span.hidden { " the invitation of " (user) }
                } }
            } } }
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

fn bring_in(signed: &SignedIn, team: &Team, own: Role, form: &Form<'_>) -> Markup {
    let (title, action) = match signed.caller.user() {
        Some(_) => ("Invite somebody", "Invite"),
        None => ("Bring somebody in", "Bring in"),
    };
    html! {
        h2 id="bring-in" { (title) }
        form.row method="post" action=(format!("/teams/{}/members", team.id)) aria-labelledby="bring-in" {
            (layout::form_token(signed))
            (form.line(FormField { name: "user", label: "User's id", is_required: true, ..FormField::default() }))
            (form.choice(FormField { name: "role", label: "Role", is_required: true, ..FormField::default() }, roles(own)))
            button type="submit" { (action) }
        }
    }
}
