//! Deleting a team, after a confirmation that says where its balance goes.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::html;

use super::{
    form::{Form, FormField},
    layout,
    request::{FormFields, PageError, SignedIn, SubmittedForm},
    words::money,
};
use crate::{
    Plane,
    api::{
        body::Body,
        people,
        team_deletion::{self, DeleteTeam},
        wallets,
    },
};

/// `GET /teams/{id}/delete`.
pub async fn ask(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    page(plane, id, &signed, &Form { fields: &FormFields::default(), error: None }).await
}

/// `POST /teams/{id}/delete`.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let asked = DeleteTeam { refund_to: fields.given("refund_to").map(str::to_owned) };
    let done = team_deletion::delete_team(State(plane.clone()), signed.caller.clone(), Path(id.clone()), Body(asked));
    match done.await {
        Ok(_) => Ok(Redirect::to("/teams?done=deleted").into_response()),
        Err(refusal) => page(plane, id, &signed, &Form { fields: &fields, error: Some(&refusal) }).await,
    }
}

async fn page(plane: Arc<Plane>, id: String, signed: &SignedIn, form: &Form<'_>) -> Result<Response, PageError> {
    signed.caller.must_be_operator()?;
    let Json(team) = people::show_team(State(plane.clone()), signed.caller.clone(), Path(id.clone())).await?;
    let Json(wallet) = wallets::show(State(plane), signed.caller.clone(), Path(id)).await?;
    let path = format!("/teams/{}", team.id);
    let main = html! {
        div.narrow {
            p.crumb { a href="/teams" { "Teams" } " / " a href=(path) { (team.name) } }
            h1 { "Delete “" (team.name) "”?" }
            (form.alert())
            p {
                "Its keys are deleted and stop working at once. Its members (" (team.members.len()) ") leave, and keys of "
                "their own work again. A deleted team does not come back, and no other gets the id " code { (team.id) }
                ". What it used stays on record."
            }
            p { "In its wallet there is " strong { (money(wallet.balance_usd)) } "." }
            form method="post" action=(format!("{path}/delete")) {
                (layout::form_token(signed))
                (form.line(FormField {
                    name: "refund_to",
                    label: "The money goes to",
                    hint: "The id of a user or a team. Empty: it stays in the wallet.",
                    ..FormField::default()
                }))
                div.actions {
                    button.danger type="submit" { "Delete the team" }
                    a href=(path) { "Cancel" }
                }
            }
        }
    };
    let title = if form.error.is_some() { "Error: Delete a team" } else { "Delete a team" };
    Ok(layout::refused(layout::page(title, signed, &main), form.error))
}
