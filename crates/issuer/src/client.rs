//! What all calls to services and issuers share: who we say that we are, whom we trust, how much of an answer is read, and
//! what is told of one that fails.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, redirect};
use thiserror::Error;

/// The largest answer that is read: a record has some hundred bytes, a set of keys some thousand.
const LARGEST_ANSWER: usize = 64 * 1024;

/// The media type of records, and of what issuers say.
pub const JSON: &str = "application/json";

/// What all clients of the program share: their name, no redirects, no proxy, and the certificates in `ca` in place of the
/// system's, if it is given.
///
/// # Errors
/// When the file of certificates cannot be used.
pub fn builder(ca: Option<&Path>) -> Result<ClientBuilder, String> {
    let builder = Client::builder()
        .user_agent(concat!("keymeter/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        // The bearer's token goes to the service alone, whatever proxy the environment names.
        .no_proxy();
    let Some(path) = ca else { return Ok(builder) };
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let certificates = reqwest::Certificate::from_pem_bundle(&text).map_err(|error| error.to_string())?;
    let builder = builder.tls_built_in_root_certs(false);
    Ok(certificates.into_iter().fold(builder, ClientBuilder::add_root_certificate))
}

/// Sends a request and waits for the head of its answer.
///
/// # Errors
/// When there is none.
pub async fn send(request: RequestBuilder) -> Result<Response, ServiceError> {
    request.send().await.map_err(|error| ServiceError::Unavailable(cause(&error)))
}

/// The next piece of an answer's body; `None` at its end.
///
/// # Errors
/// When the answer breaks off.
pub async fn next_piece(response: &mut Response) -> Result<Option<Bytes>, ServiceError> {
    response.chunk().await.map_err(|error| ServiceError::Unavailable(cause(&error)))
}

/// The whole body of an answer, up to a size.
///
/// # Errors
/// When it is larger, or breaks off.
pub async fn read_body(mut response: Response) -> Result<Vec<u8>, ServiceError> {
    let mut body = Vec::new();
    while let Some(piece) = next_piece(&mut response).await? {
        if body.len() + piece.len() > LARGEST_ANSWER {
            return Err(ServiceError::Invalid(format!("the answer has more than {LARGEST_ANSWER} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Why a call to a service failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ServiceError {
    /// The service cannot be reached, says that it fails, or is too slow.
    #[error("{0}")]
    Unavailable(String),
    /// The service answers, but its answer is invalid.
    #[error("{0}")]
    Invalid(String),
}

/// Why there is no client for a key service, or for an issuer of tokens.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("cannot use the certificates of `{field}` ({}): {why}", .path.display())]
pub struct ClientError {
    field: &'static str,
    path: PathBuf,
    why: String,
}

impl ClientError {
    /// The certificates in `ca`, as the field `field` of the configuration says, cannot be used.
    #[must_use]
    pub fn new(ca: Option<&Path>, field: &'static str, why: String) -> Self {
        Self { field, path: ca.map(Path::to_owned).unwrap_or_default(), why }
    }
}

/// The innermost cause of an error, without the URL: a look-up's URL contains the hash, and may contain more.
#[must_use]
pub fn cause(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    if text.is_empty() { "the connection failed".to_owned() } else { text }
}

/// How long an answer is valid (RFC 9111, section 5.2.2).
#[must_use]
pub fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
    let directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let ages = directives.filter_map(|directive| match directive.split_once('=') {
        Some((name, age)) if name.eq_ignore_ascii_case("max-age") => age.trim_matches('"').parse().ok(),
        None if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache") => Some(0),
        _ => None,
    });
    ages.min().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_life_that_is_stated_counts() {
        for (values, seconds) in [
            (vec![], None),
            (vec!["max-age=30"], Some(30)),
            (vec!["private, Max-Age=\"5\""], Some(5)),
            (vec!["max-age=60", "max-age=7, must-revalidate"], Some(7)),
            (vec!["no-store"], Some(0)),
            (vec!["max-age=10, no-cache"], Some(0)),
            (vec!["max-age=soon"], None),
            (vec!["s-maxage=9"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(header::CACHE_CONTROL, value.parse().unwrap());
            }
            assert_eq!(max_age(&headers), seconds.map(Duration::from_secs), "{values:?}");
        }
    }
}
