//! What the demo upstream refuses, in the form of OpenAI's errors.

use http::StatusCode;
use serde_json::{Value, json};
use thiserror::Error;

/// Why a request is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// The body is not JSON.
    #[error("the body is not JSON: {reason}")]
    InvalidJson { reason: String },
    /// The body is JSON, but not of the form that the API asks for.
    #[error("{} {reason}", subject(*.param))]
    InvalidRequest { param: Option<&'static str>, reason: String },
    /// No such path.
    #[error("unknown request URL: {method} {path}; see GET /v1/models for what there is")]
    UnknownUrl { method: String, path: String },
    /// The path is known, the method is another.
    #[error("this path takes {allowed} only")]
    MethodNotAllowed { allowed: String },
    /// The body has more than `maximum` bytes.
    #[error("the body has more than {maximum} bytes; send less")]
    BodyTooLarge { maximum: usize },
}

fn subject(param: Option<&str>) -> String {
    param.map_or_else(|| "the body is not what this call takes:".to_owned(), |param| format!("`{param}`"))
}

impl Failure {
    /// The response's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidJson { .. } | Self::InvalidRequest { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownUrl { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// What the `allow` header of a 405 says (RFC 9110, section 15.5.6).
    pub fn allow(&self) -> Option<&str> {
        match self {
            Self::MethodNotAllowed { allowed } => Some(allowed),
            _ => None,
        }
    }

    /// The response's body: `{"error": {"message", "type", "param", "code"}}`.
    pub fn body(&self) -> Value {
        let (param, code) = match self {
            Self::InvalidJson { .. } => (None, Some("invalid_json")),
            Self::InvalidRequest { param, .. } => (*param, None),
            Self::UnknownUrl { .. } => (None, Some("unknown_url")),
            Self::MethodNotAllowed { .. } => (None, Some("method_not_allowed")),
            Self::BodyTooLarge { .. } => (None, Some("request_too_large")),
        };
        let message = self.to_string();
        json!({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}})
    }

    /// A field that is there and cannot be served.
    pub fn invalid(param: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidRequest { param: Some(param), reason: reason.into() }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        let reason = error.to_string();
        if error.is_data() { Self::InvalidRequest { param: None, reason } } else { Self::InvalidJson { reason } }
    }
}
