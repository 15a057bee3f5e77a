//! Making a key. A form makes one key, however often it is sent; its secret is on the page that answers it, and on no
//! other.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use keymeter_core::money::Usd;
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    key_fields,
    layout::{self, Section, title_of},
    owners,
    request::{FormFields, PageError, SignedIn, SubmittedForm},
    secret,
    session::nonce,
    words::money,
};
use crate::{
    Plane,
    api::keys::{self, CreateKey},
    caller::{Caller, Uncounted},
    error::ApiError,
    store::keys::Key,
};

/// By which a form makes one key.
const ONCE: &str = "once";

const OWNER: &str = "owner";

/// `GET /keys/new`.
pub async fn ask(State(plane): State<Arc<Plane>>, signed: SignedIn) -> Result<Response, PageError> {
    if let Some(team) = team_of(&signed.caller) {
        signed.caller.must_lead(team)?;
    }
    let fields = FormFields::from([(ONCE, nonce()?)]);
    page(&plane, &signed, &Form::new(&fields, None)).await
}

/// `POST /keys/new`.
pub async fn make(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
    Uncounted(SubmittedForm { signed, fields, .. }): Uncounted<SubmittedForm>,
) -> Result<Response, PageError> {
    let once = Some(fields.text(ONCE)).filter(|once| (1..=128).contains(&once.len())).map(str::to_owned);
    let once = once.ok_or_else(|| ApiError::invalid(ONCE, "this form is not whole; load the page again"))?;
    let made = match asked(&plane, &signed.caller, &fields).await {
        Ok(asked) => keys::make(&plane, &signed.caller, Some(once), asked).await,
        Err(refusal) => Err(refusal),
    };
    match made {
        Ok(made) => {
            let page = match &made.secret {
                Some(text) => secret::shown(&plane, &headers, "The key is made", &made.key, text, &signed),
                None => made_before(&made.key, &signed),
            };
            let status = if made.secret.is_some() { StatusCode::CREATED } else { StatusCode::OK };
            Ok((status, page).into_response())
        }
        Err(refusal) => {
            // Where there is a choice, it is the owner who is not there, or cannot pay.
            let is_of_owner = matches!(refusal.status(), StatusCode::NOT_FOUND | StatusCode::PAYMENT_REQUIRED);
            let refusal = if is_of_owner && fields.given(OWNER).is_some() { refusal.at(OWNER) } else { refusal };
            page(&plane, &signed, &Form::new(&fields, Some(&refusal))).await
        }
    }
}

/// What the form asks for, as a call would.
async fn asked(plane: &Arc<Plane>, caller: &Caller, fields: &FormFields) -> Result<CreateKey, ApiError> {
    let key = key_fields::create(fields)?;
    let owner = fields.given(OWNER).map(str::to_owned);
    if let Some(team) = team_of(caller) {
        return Ok(CreateKey { team: Some(team.to_owned()), owner, ..key });
    }
    // Teams and users share their ids, so that an id is of one of them.
    match owner {
        Some(team) if plane.store.is_team(&team).await? => Ok(CreateKey { team: Some(team), ..key }),
        owner => Ok(CreateKey { owner, ..key }),
    }
}

/// Somebody on a team makes keys of the team's.
fn team_of(caller: &Caller) -> Option<&str> {
    caller.user().and_then(|user| user.team.as_deref())
}

async fn page(plane: &Arc<Plane>, signed: &SignedIn, form: &Form<'_>) -> Result<Response, PageError> {
    let payer = signed.caller.user().map(|user| user.team.as_ref().unwrap_or(&user.id));
    let balance = match payer {
        Some(payer) => plane.store.balance(payer).await?,
        None => None,
    };
    let whose = whose(plane, signed, form).await?;
    let main = html! {
        div.narrow {
            p.crumb { a href="/" { "Keys" } }
            h1 { "Make a key" }
            @match payer {
                Some(payer) if balance.is_none_or(|balance| balance <= Usd::ZERO) => {
                    (form.around(|| broke(payer, balance.unwrap_or_default())))
                }
                _ => { (form.around(|| html! {
                    form.panel method="post" action="/keys/new" {
                        (layout::form_token(signed))
                        input type="hidden" name=(ONCE) value=(form.fields.text(ONCE));
                        (key_fields::name_line(form))
                        (whose)
                        (key_fields::lines(form, signed, false))
                        div.actions { button type="submit" { "Make the key" } a href="/" { "Cancel" } }
                    }
                })) }
            }
        }
    };
    let title = title_of("Make a key", form.error);
    Ok(layout::refused(layout::page(&title, Section::Keys, signed, &main), form.error))
}

/// Said before anything is filled in.
fn broke(payer: &str, balance: Usd) -> Markup {
    html! {
        div.empty {
            p { strong { "The wallet of " (payer) " is empty: there is " (money(balance)) " in it." } }
            p {
                "A key is charged to it, so that none can be made until there is money in it. Ask the operator for a credit, "
                "and load this page again."
            }
            p { a href=(format!("/wallets/{payer}")) { "To the wallet" } }
        }
    }
}

async fn whose(plane: &Arc<Plane>, signed: &SignedIn, form: &Form<'_>) -> Result<Markup, ApiError> {
    if signed.caller.user().is_none() {
        let hint =
            "Who is charged for it: a team, or a user on no team. Those whose wallet is empty need a credit first.";
        let field = FormField { name: OWNER, label: "Owner", hint, ..FormField::default() };
        return Ok(form.choices(field, &owners::payers(plane).await?));
    }
    Ok(html! { p {
        @match team_of(&signed.caller) {
            Some(team) => { "It will be the key of your team, " strong { (team) } "." }
            None => { "It will be a key of your own." }
        }
    } })
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
    layout::page("The key was made before", Section::Keys, signed, &main)
}
