//! The list of teams, and making one.

use std::sync::Arc;

use axum::Json;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    layout::{self, Section, title_of},
    owners,
    pager::{ListPosition, pager},
    request::{FormFields, PageError, PageQuery, SignedIn, SubmittedForm},
    table::{Column, Row, table},
    words::{money, number},
};
use crate::{
    Plane,
    api::{
        body::Body,
        next_cursor,
        people::{self, CreateTeam},
    },
    error::ApiError,
    store::holders::ListedTeam,
};

const ROWS: i64 = 25;

/// `GET /teams`: the operator's all, a user's own.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    PageQuery(begin): PageQuery<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    match signed.caller.user().map(|user| user.team.as_deref()) {
        Some(Some(team)) => return Ok(Redirect::to(&format!("/teams/{team}")).into_response()),
        Some(None) => return Ok(Redirect::to("/invitations").into_response()),
        None => {}
    }
    let teams = plane.store.listed_teams(begin.cursor.as_deref().unwrap_or(""), ROWS).await?;
    let next = next_cursor(&teams, ROWS, |team| team.holder.id.clone());
    let done = begin.done.as_deref().filter(|done| *done == "deleted").map(|_| "The team is deleted.");
    let main = html! {
        div.head { h1 { "Teams" } a.button href="/teams/new" { "Make a team" } }
        (layout::notice(done))
        @if teams.is_empty() {
            div.empty {
                p { strong { "There are no teams." } }
                p { "A team has keys, limits and a wallet that its members share. It needs a user who owns it." }
            }
        } @else {
            (rows(&teams))
        }
        (pager("/teams", begin.cursor.is_some(), next.as_deref()))
    };
    Ok(layout::page("Teams", Section::Teams, &signed, &main))
}

fn rows(teams: &[ListedTeam]) -> Markup {
    let columns = [
        Column::text("Name"),
        Column::text("Owner"),
        Column::number("Members"),
        Column::number("Keys"),
        Column::number("Balance"),
    ];
    let row = |team: &ListedTeam| {
        let id = &team.holder.id;
        Row::from(vec![
            html! { a href=(format!("/teams/{id}")) { (team.holder.name) } span.under { code { (id) } } },
            html! { @match &team.owner {
                Some(owner) => { a href=(format!("/users/{owner}")) { (owner) } }
                None => { span.faint { "none" } }
            } },
            html! { (number(team.members)) },
            html! { a href=(format!("/?owner={id}")) { (number(team.keys)) } },
            html! { a href=(format!("/wallets/{id}")) { (money(team.holder.balance)) } },
        ])
    };
    table("Teams", &columns, teams.iter().map(row))
}

/// `GET /teams/new`.
pub async fn ask(State(plane): State<Arc<Plane>>, signed: SignedIn) -> Result<Response, PageError> {
    page(&plane, &signed, &Form::new(&FormFields::default(), None)).await
}

/// `POST /teams/new`: the operator's for anybody, a user's for themselves.
pub async fn make(
    State(plane): State<Arc<Plane>>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let own = signed.caller.user().map(|user| user.id.clone());
    let owner = own.unwrap_or_else(|| fields.text("owner").to_owned());
    let asked = CreateTeam { id: fields.text("id").to_owned(), name: fields.text("name").to_owned(), owner };
    let made = match asked.owner.as_str() {
        "" => Err(ApiError::invalid("owner", "choose who is to own the team")),
        _ => people::create_team(State(plane.clone()), signed.caller.clone(), Body(asked)).await,
    };
    match made {
        Ok((_, Json(team))) => Ok(Redirect::to(&format!("/teams/{}?done=made", team.id)).into_response()),
        Err(refusal) => page(&plane, &signed, &Form::new(&fields, Some(&refusal))).await,
    }
}

async fn page(plane: &Arc<Plane>, signed: &SignedIn, form: &Form<'_>) -> Result<Response, PageError> {
    let owner = match signed.caller.user() {
        Some(user) if user.team.is_some() => {
            return Err(ApiError::conflict("you are on a team already; a user is on one at most").into());
        }
        Some(_) => html! { p { "You will own it. Keys of your own are archived while you are on a team." } },
        None => {
            let users = owners::free_users(plane).await?;
            let hint = "A user who is on no team. Keys of their own are archived while they are on one.";
            form.choices(
                FormField { name: "owner", label: "Owner", hint, is_required: true, ..FormField::default() },
                &users,
            )
        }
    };
    let main = html! {
        div.narrow {
            @if signed.caller.user().is_none() { p.crumb { a href="/teams" { "Teams" } } }
            h1 { "Make a team" }
            (form.around(|| html! {
                form.panel method="post" action="/teams/new" {
                    (layout::form_token(signed))
                    (form.line(FormField {
                        name: "name", label: "Name", hint: "What people call it: 1 to 50 characters.", is_required: true,
                        ..FormField::default()
                    }))
                    (form.line(FormField {
                        name: "id", label: "Id", is_required: true,
                        hint: "Its stable name, in calls and metrics: 1 to 64 of a-z, 0-9, _ and -. It is never changed.",
                        ..FormField::default()
                    }))
                    (owner)
                    div.actions { button type="submit" { "Make the team" } a href="/teams" { "Cancel" } }
                }
            }))
        }
    };
    let title = title_of("Make a team", form.error);
    Ok(layout::refused(layout::page(&title, Section::Teams, signed, &main), form.error))
}
