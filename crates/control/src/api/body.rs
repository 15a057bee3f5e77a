//! Request bodies of the API: JSON of a bounded length, whose errors name the field.

use std::sync::Arc;

use axum::{
    body::{Body as HttpBody, to_bytes},
    extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request, rejection::RawPathParamsRejection},
    http::request::Parts,
    middleware::Next,
    response::Response,
};
use jiff::Timestamp;
use keymeter_core::{model_name::has_control, printable::Printable};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

pub(crate) use crate::store::limits::moment;
use crate::{Plane, error::ApiError};

/// The body of a call.
pub(crate) struct Body<T>(pub T);

/// Room for all models that a key may have, however they are escaped.
const LONGEST: usize = 256 * 1024;

impl<T: DeserializeOwned> FromRequest<Arc<Plane>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Arc<Plane>) -> Result<Self, ApiError> {
        let bytes = read(request.into_body(), LONGEST).await?;
        parse(&bytes).map(Self)
    }
}

/// Reads a body of up to `longest` bytes.
pub(crate) async fn read(body: HttpBody, longest: usize) -> Result<bytes::Bytes, ApiError> {
    let error = |_| ApiError::unreadable_body(format!("the body broke off, or has more than {longest} bytes"));
    to_bytes(body, longest).await.map_err(error)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // A call whose fields are all optional may leave out the body.
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    if let Some(field) = serde_json::from_slice(bytes).ok().and_then(|value| steering(&value)) {
        return Err(ApiError::invalid(field, STEERING));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let error = error.into_inner();
        match field.as_str() {
            "." if !error.is_data() => ApiError::unreadable_body(format!("the body is no JSON: {error}")),
            "." => ApiError::invalid(named(&error.to_string()).unwrap_or_default(), error.to_string()),
            _ => ApiError::invalid(field, error.to_string()),
        }
    })?;
    reader.end().map_err(|error| ApiError::unreadable_body(format!("there is more than one JSON value: {error}")))?;
    Ok(value)
}

/// Said of what no name has, and not every database keeps.
const STEERING: &str = "a control character stands in it, such as U+0000; leave it out";

/// The place of the first text with a control character.
fn steering(value: &Value) -> Option<String> {
    let within = |name: String, inner: &Value| {
        steering(inner).map(|rest| match rest.as_str() {
            "" => name,
            _ if rest.starts_with('[') => name + &rest,
            _ => format!("{name}.{rest}"),
        })
    };
    match value {
        Value::String(text) => has_control(text).then(String::new),
        Value::Array(list) => list.iter().enumerate().find_map(|(index, inner)| within(format!("[{index}]"), inner)),
        Value::Object(fields) => fields.iter().find_map(|(name, inner)| {
            if has_control(name) { Some(Printable(name).to_string()) } else { within(name.clone(), inner) }
        }),
        _ => None,
    }
}

/// Refuses a call whose path or query has a control character, or is not UTF-8, before anybody looks for what they name.
pub(crate) async fn plainly_named(
    places: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Err(error @ RawPathParamsRejection::InvalidUtf8InPathParam(_)) = &places {
        return Err(ApiError::invalid("path", error.body_text()));
    }
    if let Some((name, _)) = places.iter().flatten().find(|(_, text)| has_control(text)) {
        return Err(ApiError::invalid(name, STEERING));
    }
    if let Ok(Query(asked)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
        && let Some((name, _)) = asked.iter().find(|(name, text)| has_control(name) || has_control(text))
    {
        return Err(ApiError::invalid(Printable(name).to_string(), STEERING));
    }
    Ok(next.run(request).await)
}

/// The field that a fault of the whole object names: one that is missing, or that there is not.
fn named(error: &str) -> Option<String> {
    error.split('`').nth(1).map(str::to_owned)
}

/// What is asked for in the URL.
pub(crate) struct Asked<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Plane>> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Plane>) -> Result<Self, ApiError> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(error) => {
                let error = error.to_string();
                Err(ApiError::invalid(named(&error).unwrap_or_else(|| "query".to_owned()), error))
            }
        }
    }
}

/// A moment where absent, `null` and a moment are three cases.
#[allow(clippy::option_option, reason = "absent, null and a value are three cases")]
pub(crate) fn given_moment<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Option<Timestamp>>, D::Error> {
    moment(reader).map(Some)
}

/// Tells what is absent from what is `null`: the one is left as it is, the other taken away.
#[allow(clippy::option_option, reason = "absent, null and a value are three cases")]
pub(crate) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(reader).map(Some)
}
