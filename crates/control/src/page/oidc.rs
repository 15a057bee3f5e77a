//! Signing in by an issuer: the way to it, and the way back.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use keymeter_core::{key::Secret, printable::Printable};
use maud::html;
use serde::Deserialize;
use serde_json::json;

use super::{
    document::{document, leading, refused, sentence, with_cookie},
    layout::title_of,
    request::{PageError, PageQuery, is_led_here_by_others},
    session::{BrowserSession, Holder, Sessions, is_secure, no_flow_cookie},
    sign_in,
};
use crate::{
    Plane,
    api::sign_in::{Newcomer, is_sign_in},
    caller::{Caller, Who},
    error::ApiError,
    oidc::{Flow, Identity, OidcError, OidcIssuer},
    store::{audit::note, people::User},
};

/// `GET /sign-in/oidc`. Only a page of ours leads there, or somebody who types it: others lead to the page that asks.
pub async fn begin(State(plane): State<Arc<Plane>>, parts: Parts) -> Result<Response, PageError> {
    let issuer = configured(&plane)?;
    if is_led_here_by_others(&parts.headers) {
        return Ok(Redirect::to("/sign-in").into_response());
    }
    let flow = Flow::begin(Timestamp::now().as_second())?;
    match issuer.authorization_url(&flow).await {
        Ok(url) => {
            let answer = Redirect::to(url.as_str()).into_response();
            Ok(with_cookie(answer, plane.sessions.flow_cookie(&flow, issuer.is_page_secure())))
        }
        // The issuer's own trouble has been logged where it was asked.
        Err(_) => sign_in::refused(&plane, &parts.headers, &ApiError::issuer_unavailable(issuer.host())),
    }
}

/// What comes back from an issuer.
#[derive(Deserialize)]
pub struct CallbackQuery {
    #[serde(default)]
    state: String,
    code: Option<String>,
    error: Option<String>,
    /// Who answers (RFC 9207).
    iss: Option<String>,
}

/// `GET /sign-in/callback`. The browser comes from another site, and sends no session; the answer is therefore a page that leads
/// on, and not a redirect, so that it sends the new one to the next.
pub async fn finish(
    State(plane): State<Arc<Plane>>,
    PageQuery(answer): PageQuery<CallbackQuery>,
    parts: Parts,
) -> Result<Response, PageError> {
    let issuer = configured(&plane)?;
    let attempt = signed_in(&plane, issuer, &parts, answer);
    let done = plane.sign_ins.attempt(plane.client_address(&parts), attempt).await;
    let page = match done {
        Ok(session) => {
            let main = html! {
                div.narrow {
                    h1 { "You are signed in" }
                    p { a href="/" { "Go on to the keys" } }
                }
            };
            let page = leading("Signed in", "/", &main);
            with_cookie(page, plane.sessions.cookie(&session, is_secure(&parts.headers)))
        }
        // The form would begin the session of a visitor, in place of one that the browser may have and not have sent.
        Err(refusal) => {
            let main = html! {
                div.narrow {
                    h1 { "You are not signed in" }
                    div.alert role="alert" { p { (sentence(refusal.message())) } }
                    p { a.button href="/sign-in" { "Back to signing in" } }
                }
            };
            refused(document(&title_of("Sign in", Some(&refusal)), &html! {}, &main), Some(&refusal))
        }
    };
    Ok(with_cookie(page, no_flow_cookie(issuer.is_page_secure())))
}

fn configured(plane: &Plane) -> Result<&OidcIssuer, ApiError> {
    plane.issuer.as_ref().ok_or_else(|| ApiError::not_found("page", "/sign-in/oidc"))
}

async fn signed_in(
    plane: &Plane,
    issuer: &OidcIssuer,
    parts: &Parts,
    answer: CallbackQuery,
) -> Result<BrowserSession, ApiError> {
    let now = Timestamp::now();
    let flow = answered(plane, issuer, &parts.headers, &answer.state, now).await?;
    let code = code(issuer, answer)?;
    let identity = issuer.identify(&flow, &code, now).await.map_err(|error| told(issuer, &error))?;
    let holder = holder(plane, issuer, &identity, parts).await?;
    Ok(Sessions::begin(holder, now)?)
}

/// The attempt that is answered, which began in this browser and is answered for the first time.
async fn answered(
    plane: &Plane,
    issuer: &OidcIssuer,
    headers: &HeaderMap,
    state: &str,
    now: Timestamp,
) -> Result<Flow, ApiError> {
    let flow = plane.sessions.flow(headers, issuer.is_page_secure(), now);
    let flow = flow.filter(|flow| flow.is_answered_by(state)).ok_or_else(|| {
        ApiError::forbidden(
            "this attempt to sign in did not begin in this browser, took longer than ten minutes, or another has begun since; \
             begin again",
        )
    })?;
    // What is kept of it is of no use to anybody: the code needs the verifier, which only the browser has.
    if plane.store.end_session(flow.state(), flow.until()).await? {
        Ok(flow)
    } else {
        Err(ApiError::forbidden("this attempt to sign in was answered before; begin again"))
    }
}

/// The code that came back.
fn code(issuer: &OidcIssuer, answer: CallbackQuery) -> Result<Secret, ApiError> {
    if answer.iss.is_some_and(|stated| !issuer.is_named(&stated)) {
        return Err(ApiError::forbidden("another issuer answered than was asked; begin again"));
    }
    match (answer.error.as_deref(), answer.code) {
        (None, Some(code)) if !code.is_empty() => Ok(Secret::new(code)),
        (Some("access_denied"), _) => {
            Err(ApiError::forbidden(format!("{} did not let you sign in, or you left it", issuer.host())))
        }
        (error, _) => {
            let error = error.unwrap_or("no code");
            tracing::warn!("{} sent somebody back without a code: {}", issuer.host(), Printable(&clipped(error)));
            Err(ApiError::forbidden(format!("{} sent you back without a code; begin again", issuer.host())))
        }
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What somebody is told, and what only the log is.
fn told(issuer: &OidcIssuer, error: &OidcError) -> ApiError {
    let host = issuer.host();
    match error {
        OidcError::Unverified => ApiError::forbidden(format!("{host} says that your e-mail address is not verified")),
        OidcError::Refused(_) => {
            tracing::warn!("{host} does not take a code: {error}");
            ApiError::forbidden(format!("{host} did not take what it sent you back with; begin again"))
        }
        OidcError::Nameless(_) | OidcError::Invalid(_) => {
            tracing::warn!("nobody is signed in by {host}: {error}");
            ApiError::forbidden(format!(
                "what {host} says of you cannot be believed, or does not say who you are; ask the operator: the control plane's \
                 log says why"
            ))
        }
        OidcError::Unavailable(_) | OidcError::Busy => {
            tracing::warn!("nobody is signed in by {host}: {error}");
            ApiError::issuer_unavailable(host)
        }
    }
}

/// Whose session it is, which the audit says.
async fn holder(plane: &Plane, issuer: &OidcIssuer, identity: &Identity, parts: &Parts) -> Result<Holder, ApiError> {
    let mark = issuer.mark(&identity.value);
    if issuer.is_operator(&identity.value) {
        noted(plane, &Caller::operator(plane, parts), &identity.value).await?;
        return Ok(Holder::IssuedOperator(mark));
    }
    if !is_sign_in(&identity.value) {
        return Err(unknown(identity));
    }
    let address = plane.client_address(parts).to_string();
    let found = plane.store.user_by_sign_in(&identity.value).await?;
    let (user, token) = match found {
        Some(found) => found,
        None if issuer.creates_users() => {
            let newcomer =
                Newcomer { sign_in: &identity.value, name: identity.name.as_deref(), address: address.clone() };
            newcomer.make(plane).await?
        }
        None => return Err(unknown(identity)),
    };
    if !signs_in_by(issuer, &user, &identity.value) {
        return Err(unknown(identity));
    }
    noted(plane, &Caller { who: Who::User(Box::new(user)), address }, &identity.value).await?;
    Ok(Holder::IssuedUser { token, mark })
}

/// Users are found whatever the case; where that matters, another may have been found.
fn signs_in_by(issuer: &OidcIssuer, user: &User, value: &str) -> bool {
    user.sign_in.as_deref().is_some_and(|own| issuer.is_same(own, value))
}

fn unknown(identity: &Identity) -> ApiError {
    ApiError::forbidden(format!(
        "nobody here signs in as “{}”: ask the operator of this control plane to make you a user who does",
        Printable(&clipped(&identity.value))
    ))
}

async fn noted(plane: &Plane, caller: &Caller, value: &str) -> Result<(), ApiError> {
    let (actor, now) = (caller.actor(), Timestamp::now());
    let mut tx = plane.store.begin().await?;
    note(&mut tx, &actor, "session.begin", &actor.name, &json!({"sign_in": value}), now).await?;
    Ok(plane.store.commit(tx).await?)
}
