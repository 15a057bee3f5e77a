//! Regenerating a key's secret. The new secret is shown once.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use maud::html;

use super::{
    form::{Form, FormField},
    layout,
    request::{FormFields, PageError, SignedIn, SubmittedForm},
};
use crate::{
    Plane,
    api::keys::{self, RegenerateKey},
    caller::{Caller, Uncounted},
    error::ApiError,
    store::keys::Key,
};

/// The page that has a key's secret on it.
pub fn shown(title: &str, key: &Key, secret: &str, signed: &SignedIn) -> Response {
    let main = html! {
        div.narrow {
            h1 { (title) }
            p { "This is the secret of " strong { (key.name) } ". Copy it now: it is shown this once and not kept." }
            div.secret role="group" aria-label="The secret" {
                code id="secret" data-secret { (secret) }
                button type="button" data-copy="secret" hidden { "Copy" }
            }
            p.copied id="copied" role="status" aria-live="polite" {}
            p { a href=(format!("/keys/{}", key.id)) { "I have it, go on to the key" } }
        }
    };
    layout::page(title, signed, &main)
}

/// `GET /keys/{id}/secret`.
pub async fn ask(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let key = managed(&plane, &signed.caller, &id).await?;
    let fields = FormFields::from([("seen", key.masked.clone())]);
    Ok(page(&signed, &key, &Form { fields: &fields, error: None }))
}

/// `POST /keys/{id}/secret`. The form says which secret it was made for, so that sent again it replaces no other.
pub async fn regenerate(
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    Uncounted(SubmittedForm { signed, fields, .. }): Uncounted<SubmittedForm>,
) -> Result<Response, PageError> {
    let grace = fields.given("grace").map(str::to_owned);
    let seen = Some(fields.text("seen"));
    match keys::replace(&plane, &signed.caller, &id, seen, RegenerateKey { grace }).await {
        Ok(made) => {
            Ok(shown("The secret is regenerated", &made.key, made.secret.as_deref().unwrap_or_default(), &signed))
        }
        Err(refusal) => {
            let key = managed(&plane, &signed.caller, &id).await?;
            Ok(page(&signed, &key, &Form { fields: &fields, error: Some(&refusal) }))
        }
    }
}

/// A key that is there and that the caller may change.
pub async fn managed(plane: &Arc<Plane>, caller: &Caller, id: &str) -> Result<Key, ApiError> {
    let Json(key) = keys::show(State(plane.clone()), caller.clone(), Path(id.to_owned())).await?;
    if key.deleted_at.is_some() {
        return Err(ApiError::not_found("key", id));
    }
    caller.must_manage(&key)?;
    Ok(key)
}

fn page(signed: &SignedIn, key: &Key, form: &Form<'_>) -> Response {
    let path = format!("/keys/{}", key.id);
    let main = html! {
        div.narrow {
            p.crumb { a href="/" { "Keys" } " / " a href=(path) { (key.name) } }
            h1 { "Regenerate the secret" }
            (form.alert())
            p {
                strong { (key.name) } " has the secret " code { (key.masked) } ". It gets another, which is shown once."
            }
            form method="post" action=(format!("{path}/secret")) {
                (layout::form_token(signed))
                input type="hidden" name="seen" value=(form.fields.text("seen"));
                (form.line(FormField {
                    name: "grace",
                    label: "The old secret goes on working for",
                    hint: "Such as 10m, 24h or 7d. Empty: it stops at once.",
                    ..FormField::default()
                }))
                div.actions {
                    button type="submit" { "Regenerate the secret" }
                    a href=(path) { "Cancel" }
                }
            }
        }
    };
    let title = if form.error.is_some() { "Error: Regenerate the secret" } else { "Regenerate the secret" };
    layout::refused(layout::page(title, signed, &main), form.error)
}
