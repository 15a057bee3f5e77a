//! What a code is exchanged for, and what is told for that.

use http::{StatusCode, header};
use keymeter_config::Oidc;
use keymeter_core::key::Secret;
use keymeter_issuer::client::{JSON, read_body, send};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Flow, OidcError, asking::answer, metadata::Metadata};

/// What an issuer gives for a code.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) id_token: String,
    pub(super) access_token: Option<String>,
}

/// Gives the issuer a code, and gets tokens for it.
pub(super) async fn exchange(
    client: &Client,
    metadata: &Metadata,
    terms: &Oidc,
    (flow, code): (&Flow, &Secret),
    redirect_uri: &str,
) -> Result<Tokens, OidcError> {
    let mut form = vec![
        ("grant_type", "authorization_code"),
        ("code", code.reveal()),
        ("redirect_uri", redirect_uri),
        ("code_verifier", flow.verifier()),
    ];
    let mut request = client.post(metadata.token_endpoint.clone()).header(header::ACCEPT, JSON);
    match &terms.client_secret {
        Some(secret) if metadata.wants_secret_in_body => {
            form.extend([("client_id", &*terms.client_id), ("client_secret", secret.0.reveal())]);
        }
        // Both are encoded as in a form before they are joined (RFC 6749, section 2.3.1).
        Some(secret) => request = request.basic_auth(encoded(&terms.client_id), Some(encoded(secret.0.reveal()))),
        None => form.push(("client_id", &*terms.client_id)),
    }
    let response = send(request.form(&form)).await?;
    match response.status() {
        StatusCode::OK => {
            let unreadable = |_| OidcError::Invalid("its answer to the code holds no ID token".to_owned());
            serde_json::from_slice(&read_body(response).await?).map_err(unreadable)
        }
        status @ (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(OidcError::Refused(reason(&read_body(response).await.unwrap_or_default(), status)))
        }
        status => Err(OidcError::Unavailable(format!("status {status} for a code; 200 is expected"))),
    }
}

/// What is encoded, and nothing else: some issuers do not decode.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as in a form.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// What the issuer calls its reason, if it is one of the standard's words.
fn reason(body: &[u8], status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Stated {
        error: String,
    }
    let stated = serde_json::from_slice::<Stated>(body).map(|stated| stated.error).unwrap_or_default();
    let is_word =
        (1..=40).contains(&stated.len()) && stated.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if is_word { format!(": {stated}") } else { format!(" with status {status}") }
}

/// What the issuer says of whoever an access token is of.
pub(super) async fn user_information(
    client: &Client,
    endpoint: &Url,
    access_token: &str,
) -> Result<Map<String, Value>, OidcError> {
    let request = client.get(endpoint.clone()).bearer_auth(access_token).header(header::ACCEPT, JSON);
    let (body, _) = answer(request).await?;
    serde_json::from_slice(&body)
        .map_err(|_| OidcError::Invalid("its user information is no JSON, as a signed one is not".to_owned()))
}
