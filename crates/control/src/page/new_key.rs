//! Making a key. A form makes one key, however often it is sent; its secret is on the page that answers it, and on no
//! other.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    layout,
    limits::{self, Holder},
    priority,
    request::{FormFields, PageError, SignedIn, SubmittedForm},
    secret,
    session::nonce,
};
use crate::{
    Plane,
    api::keys::{self, CreateKey},
    caller::{Caller, Uncounted},
    error::ApiError,
    store::{
        keys::Key,
        limits::{KeyLimits, ScopeLimits},
    },
};

/// By which a form makes one key.
const ONCE: &str = "once";

/// `GET /keys/new`.
pub async fn ask(signed: SignedIn) -> Result<Response, PageError> {
    if let Some(team) = team_of(&signed.caller) {
        signed.caller.must_lead(team)?;
    }
    let fields = FormFields::from([(ONCE, nonce()?)]);
    Ok(page(&signed, &Form { fields: &fields, error: None }))
}

/// `POST /keys/new`.
pub async fn make(
    State(plane): State<Arc<Plane>>,
    Uncounted(SubmittedForm { signed, fields, .. }): Uncounted<SubmittedForm>,
) -> Result<Response, PageError> {
    let once = Some(fields.text(ONCE)).filter(|once| (1..=128).contains(&once.len())).map(str::to_owned);
    let once = once.ok_or_else(|| ApiError::invalid(ONCE, "this form is not whole; load the page again"))?;
    let made = match asked(&signed.caller, &fields) {
        Ok(asked) => keys::make(&plane, &signed.caller, Some(once), asked).await,
        Err(refusal) => Err(refusal),
    };
    match made {
        Ok(made) => {
            let page = match &made.secret {
                Some(text) => secret::shown("The key is made", &made.key, text, &signed),
                None => made_before(&made.key, &signed),
            };
            let status = if made.secret.is_some() { StatusCode::CREATED } else { StatusCode::OK };
            Ok((status, page).into_response())
        }
        Err(refusal) => Ok(page(&signed, &Form { fields: &fields, error: Some(&refusal) })),
    }
}

/// What the form asks for, as a call would.
fn asked(caller: &Caller, fields: &FormFields) -> Result<CreateKey, ApiError> {
    let owned = |name| fields.given(name).map(str::to_owned);
    Ok(CreateKey {
        name: fields.text("name").to_owned(),
        team: team_of(caller).map(str::to_owned).or_else(|| owned("team")),
        owner: owned("owner"),
        models: fields.list("models"),
        limits: KeyLimits::default().with(limits::asked(fields, &ScopeLimits::default())?),
        allow_from: fields.list("allow_from"),
        priority: priority::asked(fields)?,
        expires_at: fields.given("expires_at").map(expiry).transpose()?,
        hash: None,
    })
}

/// A browser sends `2026-12-01T10:00`, with seconds where there are some.
fn expiry(text: &str) -> Result<Timestamp, ApiError> {
    let written = if text.matches(':').count() == 1 { format!("{text}:00Z") } else { format!("{text}Z") };
    written.parse().map_err(|_| ApiError::invalid("expires_at", "a date and a time of UTC, such as 2026-12-01T10:00"))
}

/// Somebody on a team makes keys of the team's.
fn team_of(caller: &Caller) -> Option<&str> {
    caller.user().and_then(|user| user.team.as_deref())
}

fn page(signed: &SignedIn, form: &Form<'_>) -> Response {
    let main = html! {
        div.narrow {
            p.crumb { a href="/" { "Keys" } }
            h1 { "Make a key" }
            (form.alert())
            form method="post" action="/keys/new" {
                (layout::form_token(signed))
                input type="hidden" name=(ONCE) value=(form.fields.text(ONCE));
                (form.line(FormField {
                    name: "name", label: "Name", hint: "3 to 50 characters.", is_required: true, ..FormField::default()
                }))
                (whose(signed, form))
                (form.lines(FormField {
                    name: "models",
                    label: "Models",
                    ..hinted("One on a line, names or patterns such as llama-3*. None: all models.")
                }))
                (limits::lines(form, Holder::Key("")))
                (form.lines(FormField {
                    name: "allow_from",
                    label: "Networks",
                    ..hinted("One on a line, such as 10.0.0.0/8, from which it may be used. None: from everywhere.")
                }))
                @if signed.caller.must_be_operator().is_ok() { (priority::line(form)) }
                (form.line(FormField {
                    name: "expires_at", label: "Expires, in UTC", kind: Some("datetime-local"),
                    ..hinted("None: never.")
                }))
                button type="submit" { "Make the key" }
            }
        }
    };
    let title = if form.error.is_some() { "Error: Make a key" } else { "Make a key" };
    layout::refused(layout::page(title, signed, &main), form.error)
}

fn hinted(hint: &str) -> FormField<'_> {
    FormField { hint, ..FormField::default() }
}

fn whose(signed: &SignedIn, form: &Form<'_>) -> Markup {
    html! {
        @match (signed.caller.user(), team_of(&signed.caller)) {
            (None, _) => {
                (form.line(FormField { name: "team", label: "Team", ..hinted("The id of the team whose it is to be.") }))
                (form.line(FormField {
                    name: "owner", label: "Owner",
                    ..hinted("The id of the user whose it is to be. Neither: nobody's, and nobody is charged.")
                }))
            }
            (Some(_), Some(team)) => { p { "It will be the key of your team, " strong { (team) } "." } }
            (Some(_), None) => { p { "It will be a key of your own." } }
        }
    }
}

fn made_before(key: &Key, signed: &SignedIn) -> Response {
    let path = format!("/keys/{}", key.id);
    let main = html! {
        div.narrow {
            h1 { "The key was made before" }
            p { "This form was sent before and made the key " a href=(path) { (key.name) } ". No other was made." }
            p {
                "Its secret was shown then. It is not kept, so it cannot be shown again. If it is lost, "
                a href=(format!("{path}/secret")) { "regenerate it" } "."
            }
        }
    };
    layout::page("The key was made before", signed, &main)
}
