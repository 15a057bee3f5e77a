//! API errors, in OpenAI's error format, so that clients read the errors of the gateway and of the control plane alike.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::store::StoreError;

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: Cow<'static, str>,
    param: Option<String>,
    retry_after: Option<Duration>,
    refused: Box<[RefusedRecord]>,
}

/// A record that will never be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedRecord {
    /// Its place in the batch.
    pub index: usize,
    /// As it says itself.
    pub id: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

/// An error, as OpenAI's API has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// In words, and what to do.
    pub message: String,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// For programs.
    pub code: String,
}

/// What is sent: of records, all that are at fault beside the error.
#[derive(Serialize)]
struct Told {
    error: ErrorDetail,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    refused: Box<[RefusedRecord]>,
}

const INVALID_REQUEST: &str = "invalid_request_error";

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            kind: INVALID_REQUEST,
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            refused: Box::default(),
        }
    }

    /// Its status of HTTP.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong, in words.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field that is wrong.
    pub fn field(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// The same, said of a field where it was said of none.
    #[must_use]
    pub fn at(self, field: &str) -> Self {
        Self { param: Some(self.param.unwrap_or_else(|| field.to_owned())), ..self }
    }

    /// In how many seconds it may be tried again.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
    }

    /// No token, or one that there is not.
    pub fn unauthorized() -> Self {
        let message = "the token is missing or not valid: send the operator's or a user's as `Authorization: Bearer …`";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_token", message)
    }

    /// The caller's role does not reach that far.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// The call was meant for another host.
    pub fn foreign_host() -> Self {
        Self::forbidden(
            "`Host` names no host of this control plane: use localhost or a loopback address, or list the name in \
             `control.hosts`",
        )
    }

    /// There is no such thing, or the caller must not know.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} `{id}`"))
    }

    /// Things are such that it cannot be done.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// A field is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        let refusal = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
        Self { param: Some(field.into()), ..refusal }
    }

    /// Records are wrong, so none of them was taken.
    pub fn unreadable(field: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        let refusal = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_record", message);
        Self { param: Some(field.into()), ..refusal }
    }

    /// These records are wrong, so none of the batch was taken; without them the others will be.
    pub fn refused_records(refused: Vec<RefusedRecord>) -> Self {
        let (index, message) = refused.first().map_or((0, ""), |first| (first.index, first.message.as_str()));
        let refusal = Self::unreadable(format!("records[{index}]"), message.to_owned());
        Self { refused: refused.into(), ..refusal }
    }

    /// The body is no JSON, or too long.
    pub fn unreadable_body(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", message)
    }

    /// The path has another method.
    pub fn method_not_allowed() -> Self {
        let message = "the path does not accept this method; /api/v1/openapi.json lists those it accepts";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// There is no such path.
    pub fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_url", "the path does not exist; /api/v1/openapi.json lists all paths")
    }

    /// Too many wrong tokens came from one address.
    pub fn too_many_attempts(wait: Duration) -> Self {
        let message = "too many wrong tokens came from your address; try again in a minute";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        Self { kind: "requests", retry_after: Some(wait), ..refusal }
    }

    /// Too many attempts to sign in by the issuer failed from one address.
    pub fn too_many_sign_ins(wait: Duration) -> Self {
        let message =
            "too many attempts to sign in failed from your address; try again in a minute, or sign in with a token";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        Self { kind: "requests", retry_after: Some(wait), ..refusal }
    }

    /// The issuer by which people sign in does not say what it must.
    pub fn issuer_unavailable(host: &str) -> Self {
        let message = format!(
            "{host} does not answer as it must, and nobody can sign in by it at the moment; try again later, or sign in with a \
             token; the control plane's log says why"
        );
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "issuer_unavailable", message);
        Self { kind: "server_error", ..refusal }
    }

    /// The wallet is empty.
    pub fn no_balance(wallet: &str) -> Self {
        let message = format!("the balance of `{wallet}` is not above $0: credit it before keys are made for it");
        let refusal = Self::new(StatusCode::PAYMENT_REQUIRED, "insufficient_quota", message);
        Self { kind: "insufficient_quota", ..refusal }
    }

    /// Too much was changed by one user.
    pub fn too_many_changes(most: u32, wait: Duration) -> Self {
        let message = format!("a user makes at most {most} changes an hour; try again after `retry-after`");
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        Self { kind: "requests", retry_after: Some(wait), ..refusal }
    }

    /// One user, or all together, ask for too much usage at once.
    pub fn too_many_questions(wait: Duration) -> Self {
        let message = "other questions about usage are being answered; ask again after them";
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        Self { kind: "requests", retry_after: Some(wait), ..refusal }
    }

    /// Too many secrets were made by one user.
    pub fn too_many_operations(most: u32, wait: Duration) -> Self {
        let message =
            format!("a user makes or regenerates at most {most} secrets an hour; try again after `retry-after`");
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
        Self { kind: "requests", retry_after: Some(wait), ..refusal }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_of_data() {
            tracing::warn!("{error}");
            return Self::new(StatusCode::BAD_REQUEST, "invalid_value", "the database cannot keep what was sent");
        }
        tracing::error!("{error}");
        let message = "the control plane's database does not answer; its log says why, try again later";
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message);
        Self { kind: "server_error", ..refusal }
    }
}

impl From<getrandom::Error> for ApiError {
    fn from(error: getrandom::Error) -> Self {
        tracing::error!("the operating system gives no randomness: {error}");
        let refusal =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_randomness", "no secret can be made at the moment");
        Self { kind: "server_error", ..refusal }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after();
        let Self { status, kind, code, message, param, refused, .. } = self;
        let error = ErrorDetail { message: message.into_owned(), kind: kind.to_owned(), param, code: code.to_owned() };
        let mut response = (status, Json(Told { error, refused })).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
