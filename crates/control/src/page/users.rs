//! The list of users, and making one.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    layout::{self, Section, title_of},
    pager::{ListPosition, pager},
    request::{FormFields, PageError, PageQuery, SignedIn, SubmittedForm},
    table::{Column, Row, table},
    token,
    words::{money, number},
};
use crate::{
    Plane,
    api::{
        body::Body,
        next_cursor,
        people::{self, CreateUser},
    },
    store::holders::ListedUser,
};

const ROWS: i64 = 25;

/// By what a user signs in beside their token.
pub const SIGN_IN: FormField<'static> = FormField {
    name: "sign_in",
    label: "Signs in as",
    hint: "The e-mail address, or what else the issuer tells them by, where `control.oidc` names one. No two users' are the same.",
    kind: None,
    keys: None,
    is_required: false,
};

/// `GET /users`: the operator's to see.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    PageQuery(begin): PageQuery<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    signed.caller.must_be_operator()?;
    let users = plane.store.listed_users(begin.cursor.as_deref().unwrap_or(""), ROWS).await?;
    let next = next_cursor(&users, ROWS, |user| user.holder.id.clone());
    let done = begin.done.as_deref().filter(|done| *done == "deleted").map(|_| "The user is deleted.");
    let main = html! {
        div.head { h1 { "Users" } a.button href="/users/new" { "Make a user" } }
        (layout::notice(done))
        @if users.is_empty() {
            div.empty {
                p { strong { "There are no users." } }
                p { "A user signs in with a token, makes keys of their own, and can be on a team." }
            }
        } @else {
            (rows(&users))
        }
        (pager("/users", begin.cursor.is_some(), next.as_deref()))
    };
    Ok(layout::page("Users", Section::Users, &signed, &main))
}

fn rows(users: &[ListedUser]) -> Markup {
    let columns = [
        Column::text("Name"),
        Column::text("Team"),
        Column::text("Role"),
        Column::number("Own keys"),
        Column::number("Balance"),
    ];
    let row = |user: &ListedUser| {
        let id = &user.holder.id;
        Row::from(vec![
            html! { a href=(format!("/users/{id}")) { (user.holder.name) } span.under { code { (id) } } },
            html! { @match &user.team {
                Some((team, _)) => { a href=(format!("/teams/{team}")) { (team) } }
                None => { span.faint { "none" } }
            } },
            html! { @match &user.team { Some((_, role)) => { (role) } None => { span.faint { "none" } } } },
            html! { a href=(format!("/?owner={id}")) { (number(user.keys)) } },
            html! { a href=(format!("/wallets/{id}")) { (money(user.holder.balance)) } },
        ])
    };
    table("Users", &columns, users.iter().map(row))
}

/// `GET /users/new`: the operator's to ask.
pub async fn ask(signed: SignedIn) -> Result<Response, PageError> {
    signed.caller.must_be_operator()?;
    Ok(page(&signed, &Form::new(&FormFields::default(), None)))
}

/// `POST /users/new`. Sent again, it is refused: the id is taken then.
pub async fn make(
    State(plane): State<Arc<Plane>>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    signed.caller.must_be_operator()?;
    let (id, name) = (fields.text("id").to_owned(), fields.text("name").to_owned());
    let asked = CreateUser { id, name, sign_in: fields.given("sign_in").map(str::to_owned) };
    match people::create_user(State(plane), signed.caller.clone(), Body(asked)).await {
        Ok((_, Json(made))) => {
            let page = token::shown("The user is made", &made, &signed);
            Ok((StatusCode::CREATED, page).into_response())
        }
        Err(refusal) => Ok(page(&signed, &Form::new(&fields, Some(&refusal)))),
    }
}

fn page(signed: &SignedIn, form: &Form<'_>) -> Response {
    let main = html! {
        div.narrow {
            p.crumb { a href="/users" { "Users" } }
            h1 { "Make a user" }
            (form.around(|| html! {
                form.panel method="post" action="/users/new" {
                    (layout::form_token(signed))
                    (form.line(FormField {
                        name: "name", label: "Name", hint: "What people call them: 1 to 50 characters.", is_required: true,
                        ..FormField::default()
                    }))
                    (form.line(FormField {
                        name: "id", label: "Id", is_required: true,
                        hint: "Their stable name, in calls and metrics: 1 to 64 of a-z, 0-9, _ and -. It is never changed.",
                        ..FormField::default()
                    }))
                    (form.line(SIGN_IN))
                    div.actions { button type="submit" { "Make the user" } a href="/users" { "Cancel" } }
                }
            }))
        }
    };
    let title = title_of("Make a user", form.error);
    layout::refused(layout::page(&title, Section::Users, signed, &main), form.error)
}
