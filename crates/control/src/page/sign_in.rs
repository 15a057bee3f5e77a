//! Signing in with a token, the way to an issuer, and signing out.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use keymeter_core::key::Secret;
use maud::html;

use super::{
    document::{leading, with_cookie},
    form::{Form, FormField},
    layout::{self, title_of},
    request::{FORM_TOKEN, FormFields, PageError, SignedIn, SubmittedForm, is_led_here_by_others},
    session::{BrowserSession, Holder, Sessions, is_secure, no_cookie},
};
use crate::{
    Plane,
    caller::{Caller, Uncounted, Who},
    error::ApiError,
    store::operations::Operation,
};

/// `GET /sign-in`.
pub async fn ask(
    State(plane): State<Arc<Plane>>,
    signed: Result<SignedIn, PageError>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    match signed {
        Ok(_) => Ok(Redirect::to("/").into_response()),
        // A browser that another site leads here sends no session, and the form would begin one in the place of its own.
        Err(_) if is_led_here_by_others(&headers) => {
            let main = html! { div.narrow { h1 { "Sign in" } p { a href="/sign-in" { "Go on" } } } };
            Ok(leading("Sign in", "/sign-in", &main))
        }
        Err(_) => form(&plane, &headers, None),
    }
}

/// `POST /sign-in`.
pub async fn sign_in(State(plane): State<Arc<Plane>>, request: Request) -> Result<Response, PageError> {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), body);
    match signed_in(&plane, &parts, request).await {
        Ok(session) => {
            let answer = Redirect::to("/").into_response();
            Ok(with_cookie(answer, plane.sessions.cookie(&session, is_secure(&parts.headers))))
        }
        Err(refusal) => form(&plane, &parts.headers, Some(&refusal)),
    }
}

async fn signed_in(plane: &Arc<Plane>, parts: &Parts, request: Request) -> Result<BrowserSession, ApiError> {
    let session = plane.sessions.read(&parts.headers, Timestamp::now());
    let session = session.ok_or_else(|| {
        ApiError::forbidden("this page was open for too long, or your browser keeps no cookies; try again")
    })?;
    let fields = FormFields::read(request, plane, &session).await?;
    let token = Secret::new(fields.text("token")).hash();
    let caller = Caller::presenting(plane, &token, parts).await.map_err(|refusal| match refusal {
        refusal if refusal == ApiError::unauthorized() => {
            ApiError::invalid("token", "this is neither the operator's token nor a user's")
        }
        refusal => refusal,
    })?;
    let holder = match caller.who {
        Who::Operator => Holder::Operator,
        Who::User(_) => Holder::User(token),
    };
    Ok(Sessions::begin(holder, Timestamp::now())?)
}

/// `POST /sign-out`.
pub async fn sign_out(
    State(plane): State<Arc<Plane>>,
    headers: HeaderMap,
    Uncounted(sent): Uncounted<SubmittedForm>,
) -> Result<Response, PageError> {
    // Counted by itself: whoever has changed too much may leave all the same.
    plane.count(&sent.signed.caller, Operation::SignOut).await?;
    sent.session.end(plane.store()).await?;
    Ok(with_cookie(Redirect::to("/sign-in").into_response(), no_cookie(is_secure(&headers))))
}

/// The form, and why somebody is not led to the issuer.
pub fn refused(plane: &Plane, headers: &HeaderMap, refusal: &ApiError) -> Result<Response, PageError> {
    form(plane, headers, Some(refusal))
}

/// The form, in the session of a visitor: so that nobody is signed in by another's form.
fn form(plane: &Plane, headers: &HeaderMap, error: Option<&ApiError>) -> Result<Response, PageError> {
    let now = Timestamp::now();
    let known = plane.sessions.read(headers, now).filter(|session| session.holder == Holder::Visitor);
    let session = known.map_or_else(|| Sessions::begin(Holder::Visitor, now), Ok)?;
    let fields = FormFields::default();
    let form = Form::new(&fields, error);
    let main = html! {
        div.narrow {
            h1 { "Sign in" }
            (form.around(|| html! {
                @if let Some(issuer) = &plane.issuer {
                    // By its whole address: somebody who reads this under another name of ours has the cookies of that.
                    p { a.button href=(format!("{}/sign-in/oidc", issuer.page_url())) { "Sign in with " (issuer.host()) } }
                    p.hint { "Or with a token:" }
                }
                form.panel method="post" action="/sign-in" {
                    input type="hidden" name=(FORM_TOKEN) value=(plane.sessions.form_token(&session));
                    (form.line(FormField {
                        name: "token",
                        label: "Token",
                        hint: "Your personal access token, which you got when you were made a user, or the operator's.",
                        kind: Some("password"),
                        is_required: true,
                        ..FormField::default()
                    }))
                    button type="submit" { "Sign in" }
                }
            }))
        }
    };
    let page = layout::refused(layout::document(&title_of("Sign in", error), &html! {}, &main), error);
    Ok(with_cookie(page, plane.sessions.cookie(&session, is_secure(headers))))
}
