//! Teams, and who is on them.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    form::{Field, Form},
    keys::{Place, pager},
    layout,
    visit::{Fields, Sent, Signed, Trouble},
};
use crate::control::{
    Plane,
    api::{
        body::Body,
        next_cursor,
        people::{self, PutMember},
    },
    refusal::Refusal,
    store::people::{Member, Role, Team},
};

const ROWS: i64 = 25;

/// `GET /teams`: the operator's all, a user's own.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    Query(begin): Query<Place>,
    signed: Signed,
) -> Result<Response, Trouble> {
    match signed.caller.user().map(|user| user.team.as_deref()) {
        Some(Some(team)) => return Ok(Redirect::to(&format!("/teams/{team}")).into_response()),
        Some(None) => return Err(Refusal::conflict("you are on no team; its owner or an admin brings you in").into()),
        None => {}
    }
    let teams = plane.store.teams(begin.cursor.as_deref().unwrap_or(""), ROWS).await?;
    let next = next_cursor(&teams, ROWS, |(id, _)| id.clone());
    let main = html! {
        h1 { "Teams" }
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
    Query(begin): Query<Place>,
    signed: Signed,
) -> Result<Response, Trouble> {
    let Json(team) = people::show_team(State(plane), signed.caller.clone(), Path(id)).await?;
    let done = match begin.done.as_deref() {
        Some("member") => Some("The member has this role now."),
        Some("removed") => Some("The member is off the team."),
        _ => None,
    };
    let fields = Fields::of([("role", "member".to_owned())]);
    Ok(page(&signed, &team, done, &Form { fields: &fields, fault: None }))
}

/// `POST /teams/{id}/members`: brings a user in, or gives a member another role.
pub async fn put(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Sent { signed, fields, .. }: Sent,
) -> Result<Response, Trouble> {
    let user = fields.text("user").to_owned();
    let put = match fields.text("role").parse::<Role>() {
        Ok(role) => {
            let whose = Path((id.clone(), user));
            people::put_member(State(plane.clone()), signed.caller.clone(), whose, Body(PutMember { role })).await
        }
        Err(fault) => Err(Refusal::invalid("role", fault)),
    };
    match put {
        Ok(_) => Ok(Redirect::to(&format!("/teams/{id}?done=member")).into_response()),
        Err(refusal) => {
            let Json(team) = people::show_team(State(plane), signed.caller.clone(), Path(id)).await?;
            let refusal = refusal.at("user");
            Ok(page(&signed, &team, None, &Form { fields: &fields, fault: Some(&refusal) }))
        }
    }
}

/// `GET /teams/{id}/members/{user}/remove`.
pub async fn ask_to_remove(
    State(plane): State<Arc<Plane>>,
    Path((id, user)): Path<(String, String)>,
    signed: Signed,
) -> Result<Response, Trouble> {
    let Json(team) = people::show_team(State(plane), signed.caller.clone(), Path(id)).await?;
    if !team.members.iter().any(|member| member.user == user) {
        return Err(Refusal::not_found("member", &user).into());
    }
    let path = format!("/teams/{}", team.id);
    let is_self = is_self(&signed, &user);
    let main = html! {
        div.narrow {
            p.crumb { a href=(path) { (team.name) } }
            h1 { @if is_self { "Leave the team?" } @else { "Take " (user) " off the team?" } }
            p { "The keys of the team stay as they are. Keys of " @if is_self { "your" } @else { "their" }
                " own, made before, work again." }
            form method="post" action=(format!("{path}/members/{user}/remove")) {
                (layout::form_token(&signed))
                div.actions {
                    button.danger type="submit" { @if is_self { "Leave" } @else { "Take off the team" } }
                    a href=(path) { "Cancel" }
                }
            }
        }
    };
    Ok(layout::page("Take off the team", &signed, &main))
}

/// `POST /teams/{id}/members/{user}/remove`.
pub async fn remove(
    State(plane): State<Arc<Plane>>,
    Path((id, user)): Path<(String, String)>,
    Sent { signed, .. }: Sent,
) -> Result<Response, Trouble> {
    let is_self = is_self(&signed, &user);
    people::remove_member(State(plane), signed.caller, Path((id.clone(), user))).await?;
    let next = if is_self { "/".to_owned() } else { format!("/teams/{id}?done=removed") };
    Ok(Redirect::to(&next).into_response())
}

fn is_self(signed: &Signed, user: &str) -> bool {
    signed.caller.user().is_some_and(|own| own.id == user)
}

fn page(signed: &Signed, team: &Team, done: Option<&str>, form: &Form<'_>) -> Response {
    let leads = people::leading(&signed.caller, &team.id).ok();
    let main = html! {
        @if signed.caller.user().is_none() { p.crumb { a href="/teams" { "Teams" } } }
        div.head { h1 { (team.name) } code { (team.id) } }
        p { a href=(format!("/wallets/{}", team.id)) { "The team's wallet" } }
        (layout::notice(done))
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
        @if let Some(own) = leads { (bring_in(signed, team, own, form)) }
    };
    let title = if form.fault.is_some() { format!("Error: {}", team.name) } else { team.name.clone() };
    layout::refused(layout::page(&title, signed, &main), form.fault)
}

fn row(signed: &Signed, team: &Team, member: &Member, leads: Option<Role>) -> Markup {
    let remove = format!("/teams/{}/members/{}/remove", team.id, member.user);
    html! {
        tr role="row" {
            th scope="row" role="rowheader" { (member.user) }
            td role="cell" data-head="Role" { @match leads {
                Some(own) if member.role != Role::Owner => { (role_form(signed, team, member, own)) }
                _ => { (member.role.to_string()) }
            } }
            td role="cell" { @match (member.role, leads) {
                (Role::Owner, _) => {}
                _ if is_self(signed, &member.user) => { a href=(remove) { "Leave" } }
                (_, Some(_)) => { a href=(remove) { "Remove" span.hidden { " " (member.user) } } }
                (_, None) => {}
            } }
        }
    }
}

fn role_form(signed: &Signed, team: &Team, member: &Member, own: Role) -> Markup {
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

fn bring_in(signed: &Signed, team: &Team, own: Role, form: &Form<'_>) -> Markup {
    // Nobody becomes an owner who is not on the team.
    let choices: Vec<_> = roles(own).iter().copied().filter(|(role, _)| *role != "owner").collect();
    html! {
        h2 id="bring-in" { "Bring somebody in" }
        (form.alert())
        form.row method="post" action=(format!("/teams/{}/members", team.id)) aria-labelledby="bring-in" {
            (layout::form_token(signed))
            (form.line(Field { name: "user", label: "User's id", is_required: true, ..Field::default() }))
            (form.choice(Field { name: "role", label: "Role", is_required: true, ..Field::default() }, &choices))
            button type="submit" { "Bring in" }
        }
    }
}
