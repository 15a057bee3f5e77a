//! Extractors of the pages: the signed-in user and the submitted form.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Form,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use keymeter_core::{model_name::has_control, printable::Printable};
use maud::html;
use serde::de::DeserializeOwned;

use super::{
    document,
    session::{BrowserSession, Holder},
};
use crate::{
    Plane,
    api::body::Asked,
    caller::{Caller, Uncounted},
    error::ApiError,
};

/// Somebody who is signed in.
pub struct SignedIn {
    /// Who it is.
    pub caller: Caller,
    /// What their forms bear.
    pub form_token: String,
}

/// A form that somebody sends who is signed in.
pub struct SubmittedForm {
    /// Who it is.
    pub signed: SignedIn,
    /// In which stay.
    pub session: BrowserSession,
    /// What they filled in.
    pub fields: FormFields,
}

/// What a form says, as text. A field that it does not have is empty.
#[derive(Debug, Default)]
pub struct FormFields(HashMap<String, String>);

/// The field that bears a form's token.
pub const FORM_TOKEN: &str = "form_token";

/// A page that says why there is no other.
pub struct PageError(ApiError);

impl FormFields {
    /// What is in a field.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.trim())
    }

    /// Whether there is such a field, be it empty.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What is in a field, unless it is empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// What stands in a field on its lines or between commas, unless it is empty.
    pub fn list(&self, name: &str) -> Option<Vec<String>> {
        let parts = self.text(name).split(['\n', ',']).map(str::trim).filter(|part| !part.is_empty());
        Some(parts.map(str::to_owned).collect()).filter(|list: &Vec<_>| !list.is_empty())
    }

    /// The same with further fields as if they were filled in.
    #[must_use]
    pub fn and<const MANY: usize>(self, fields: [(&str, String); MANY]) -> Self {
        self.or(Self::from(fields))
    }

    /// The same, and what stands in `others` where it has no such field: a page with several forms shows all of them.
    #[must_use]
    pub fn or(mut self, others: Self) -> Self {
        for (name, value) in others.0 {
            self.0.entry(name).or_insert(value);
        }
        self
    }

    /// Reads a form that comes from a page of the session's.
    ///
    /// # Errors
    /// When it comes from elsewhere, or is none.
    pub async fn read(request: Request, plane: &Arc<Plane>, session: &BrowserSession) -> Result<Self, ApiError> {
        must_be_from_here(request.headers())?;
        let form = Form::<HashMap<String, String>>::from_request(request, plane).await;
        let Form(fields) = form.map_err(|error| ApiError::unreadable_body(error.to_string()))?;
        let steers = |text: &String| has_control(&text.replace(['\n', '\r', '\t'], " "));
        if let Some((name, _)) = fields.iter().find(|(name, text)| has_control(name) || steers(text)) {
            let message = "a control character stands in it, such as U+0000; leave it out";
            return Err(ApiError::invalid(Printable(name).to_string(), message));
        }
        let fields = Self(fields);
        if plane.sessions.is_own_form(session, fields.text(FORM_TOKEN)) { Ok(fields) } else { Err(stranger()) }
    }
}

/// Fields as if they were filled in.
impl<const MANY: usize> From<[(&str, String); MANY]> for FormFields {
    fn from(fields: [(&str, String); MANY]) -> Self {
        Self(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// Browsers that say where a form comes from are believed.
fn must_be_from_here(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get("sec-fetch-site") {
        Some(site) if site != "same-origin" => Err(stranger()),
        _ => Ok(()),
    }
}

/// Whether a page of another site leads here, and nobody who typed the address. Browsers that do not say so are believed.
pub fn is_led_here_by_others(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

fn stranger() -> ApiError {
    ApiError::forbidden(
        "this form is not of your session: it came from another site, or you have signed in or out since; load the \
         page again and repeat",
    )
}

impl SignedIn {
    async fn read(parts: &Parts, plane: &Plane, session: &BrowserSession) -> Result<Self, ApiError> {
        let caller = match &session.holder {
            Holder::Visitor => return Err(ApiError::unauthorized()),
            Holder::Operator => Caller::operator(plane, parts),
            Holder::IssuedOperator(mark) => {
                let is_so_still = plane.issuer.as_ref().is_some_and(|issuer| issuer.is_operators_mark(mark));
                is_so_still.then(|| Caller::operator(plane, parts)).ok_or_else(ApiError::unauthorized)?
            }
            Holder::User(token) => Caller::signed_in(plane, token, parts).await?,
            Holder::IssuedUser { token, mark } => {
                let caller = Caller::signed_in(plane, token, parts).await?;
                let value = caller.user().and_then(|user| user.sign_in.as_deref());
                let present = plane.issuer.as_ref().zip(value).map(|(issuer, value)| issuer.mark(value));
                if present.as_ref() == Some(mark) { caller } else { return Err(ApiError::unauthorized()) }
            }
        };
        Ok(Self { caller, form_token: plane.sessions.form_token(session) })
    }
}

async fn session(parts: &Parts, plane: &Plane) -> Result<BrowserSession, ApiError> {
    let session = plane.sessions.read(&parts.headers, Timestamp::now()).ok_or_else(ApiError::unauthorized)?;
    if session.is_over(plane.store()).await? { Err(ApiError::unauthorized()) } else { Ok(session) }
}

impl FromRequestParts<Arc<Plane>> for SignedIn {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, PageError> {
        let session = session(parts, plane).await?;
        Ok(Self::read(parts, plane, &session).await?)
    }
}

/// Each form is counted as a change, as each call is.
impl FromRequest<Arc<Plane>> for SubmittedForm {
    type Rejection = PageError;

    async fn from_request(request: Request, plane: &Arc<Plane>) -> Result<Self, PageError> {
        let Uncounted(sent) = Uncounted::<Self>::from_request(request, plane).await?;
        plane.count_change(&sent.signed.caller).await?;
        Ok(sent)
    }
}

impl FromRequest<Arc<Plane>> for Uncounted<SubmittedForm> {
    type Rejection = PageError;

    async fn from_request(request: Request, plane: &Arc<Plane>) -> Result<Self, PageError> {
        let (parts, body) = request.into_parts();
        let session = session(&parts, plane).await?;
        let signed = SignedIn::read(&parts, plane, &session).await?;
        let fields = FormFields::read(Request::from_parts(parts, body), plane, &session).await?;
        Ok(Self(SubmittedForm { signed, session, fields }))
    }
}

impl From<ApiError> for PageError {
    fn from(refusal: ApiError) -> Self {
        Self(refusal)
    }
}

impl From<getrandom::Error> for PageError {
    fn from(error: getrandom::Error) -> Self {
        Self(error.into())
    }
}

impl From<crate::store::StoreError> for PageError {
    fn from(error: crate::store::StoreError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        if self.0 == ApiError::unauthorized() {
            return Redirect::to("/sign-in").into_response();
        }
        let mut page = document::trouble(&self.0, &html! {});
        page.extensions_mut().insert(Refusal(self.0));
        page
    }
}

/// Why a page is none, for whoever knows who asked for it.
#[derive(Clone)]
pub struct Refusal(pub ApiError);

/// What the address says behind `?`.
pub struct PageQuery<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Plane>> for PageQuery<T> {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, PageError> {
        let Asked(asked) = Asked::from_request_parts(parts, plane).await?;
        Ok(Self(asked))
    }
}
