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
    layout::{self, Section, title_of},
    owners,
    request::{FormFields, PageError, SignedIn, SubmittedForm},
    words::{money, number},
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
    page(plane, id, &signed, &Form::new(&FormFields::default(), None)).await
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
        Err(refusal) => page(plane, id, &signed, &Form::new(&fields, Some(&refusal))).await,
    }
}

async fn page(plane: Arc<Plane>, id: String, signed: &SignedIn, form: &Form<'_>) -> Result<Response, PageError> {
    signed.caller.must_be_operator()?;
    let Json(team) = people::show_team(State(plane.clone()), signed.caller.clone(), Path(id.clone())).await?;
    let Json(wallet) = wallets::show(State(plane.clone()), signed.caller.clone(), Path(id)).await?;
    let owners = owners::all(&plane, &[("", "Nobody: it stays in the wallet")]).await?;
    let path = format!("/teams/{}", team.id);
    let members = i64::try_from(team.members.len()).unwrap_or(i64::MAX);
    let main = html! {
        div.narrow {
            p.crumb { a href="/teams" { "Teams" } " / " a href=(path) { (team.name) } }
            h1 { "Delete “" (team.name) "”?" }
            (form.around(|| html! {
                form.panel method="post" action=(format!("{path}/delete")) {
                    p {
                        "Its keys are deleted and stop working at once. Its members (" (number(members)) ") leave, and keys of "
                        "their own work again. A deleted team does not come back, and no other gets the id "
                        code { (team.id) } ". What it used stays on record."
                    }
                    p { "In its wallet there is " strong { (money(wallet.balance_usd)) } "." }
                    (layout::form_token(signed))
                    (form.choices(
                        FormField { name: "refund_to", label: "The money goes to", ..FormField::default() }, &owners,
                    ))
                    div.actions {
                        button.danger type="submit" { "Delete" }
                        a href=(path) { "Cancel" }
                    }
                }
            }))
        }
    };
    let title = title_of("Delete a team", form.error);
    Ok(layout::refused(layout::page(&title, Section::Teams, signed, &main), form.error))
}
