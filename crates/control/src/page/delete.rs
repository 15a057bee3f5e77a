//! Deleting a key, after a confirmation.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::html;

use super::{
    layout::{self, Section},
    request::{PageError, SignedIn, SubmittedForm},
    secret::managed,
};
use crate::{Plane, api::keys};

/// `GET /keys/{id}/delete`.
pub async fn ask(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let key = managed(&plane, &signed.caller, &id).await?;
    let path = format!("/keys/{}", key.id);
    let main = html! {
        div.narrow {
            p.crumb { a href="/" { "Keys" } " / " a href=(path) { (key.name) } }
            h1 { "Delete “" (key.name) "”?" }
            form.panel method="post" action=(format!("{path}/delete")) {
                p {
                    "Its secret " code { (key.masked) } " stops working at once; what becomes of running requests, the "
                    "gateways' " code { "on_revoke" } " says. A deleted key does not come back. What it used stays on "
                    "record."
                }
                (layout::form_token(&signed))
                div.actions {
                    button.danger type="submit" { "Delete" }
                    a href=(path) { "Cancel" }
                }
            }
        }
    };
    Ok(layout::page("Delete a key", Section::Keys, &signed, &main))
}

/// `POST /keys/{id}/delete`.
pub async fn delete(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    keys::delete(State(plane), signed.caller, Path(id)).await?;
    Ok(Redirect::to("/?done=deleted").into_response())
}
