//! What an issuer says of itself (OpenID Connect Discovery 1.0).

use std::time::Duration;

use keymeter_issuer::client::JSON;
use reqwest::{Client, Url};
use serde::Deserialize;

use super::{OidcError, asking};

/// Where an issuer is asked for what.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) authorization_endpoint: Url,
    pub(super) token_endpoint: Url,
    pub(super) jwks_uri: Url,
    pub(super) userinfo_endpoint: Option<Url>,
    /// Whether it takes a client's secret in the body, and not in a header.
    pub(super) wants_secret_in_body: bool,
}

#[derive(Deserialize)]
struct Stated {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// Asks `issuer` what it says of itself, and for how long that is good.
pub(super) async fn fetch(client: &Client, issuer: &str) -> Result<(Metadata, Option<Duration>), OidcError> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let (body, valid_for) = asking::answer(client.get(url).header("accept", JSON)).await?;
    Ok((Metadata::parse(&body, issuer)?, valid_for))
}

impl Metadata {
    fn parse(body: &[u8], issuer: &str) -> Result<Self, OidcError> {
        let invalid = |what: &str| OidcError::Invalid(format!("its openid-configuration {what}"));
        let stated: Stated =
            serde_json::from_slice(body).map_err(|error| invalid(&format!("cannot be read: {error}")))?;
        // Else another issuer's document would do (mix-up).
        if stated.issuer != issuer {
            return Err(invalid("is of another issuer: `control.oidc.issuer` must be what it says, to the letter"));
        }
        let needs_tls = issuer.starts_with("https://");
        let endpoint = |name: &str, url: &str| {
            let url = url.parse::<Url>().ok().filter(Url::has_host);
            let is_taken = |url: &Url| url.scheme() == "https" || (url.scheme() == "http" && !needs_tls);
            url.filter(is_taken).ok_or_else(|| invalid(&format!("has no `{name}` that could be used")))
        };
        let methods = &stated.token_endpoint_auth_methods_supported;
        let takes = |method: &str| methods.iter().any(|taken| taken == method);
        Ok(Self {
            authorization_endpoint: endpoint("authorization_endpoint", &stated.authorization_endpoint)?,
            token_endpoint: endpoint("token_endpoint", &stated.token_endpoint)?,
            jwks_uri: endpoint("jwks_uri", &stated.jwks_uri)?,
            userinfo_endpoint: stated.userinfo_endpoint.map(|url| endpoint("userinfo_endpoint", &url)).transpose()?,
            wants_secret_in_body: takes("client_secret_post") && !takes("client_secret_basic"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://login.example/a";

    fn parsed(others: &Value, issuer: &str) -> Result<Metadata, String> {
        let mut stated = json!({
            "issuer": ISSUER, "authorization_endpoint": "https://login.example/authorize?tenant=a",
            "token_endpoint": "https://login.example/token", "jwks_uri": "https://login.example/jwks"
        });
        for (name, value) in others.as_object().unwrap() {
            stated[name] = value.clone();
        }
        Metadata::parse(stated.to_string().as_bytes(), issuer).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_issuers_own_document_with_endpoints_behind_tls_is_taken() {
        let good = parsed(&json!({}), ISSUER).unwrap();
        assert_eq!(good.authorization_endpoint.query(), Some("tenant=a"));
        assert!(!good.wants_secret_in_body && good.userinfo_endpoint.is_none());
        for (others, word) in [
            (json!({"issuer": "https://login.example/a/"}), "another issuer"),
            (json!({"issuer": 7}), "cannot be read"),
            (json!({"token_endpoint": "http://login.example/token"}), "`token_endpoint`"),
            (json!({"jwks_uri": "file:///etc/passwd"}), "`jwks_uri`"),
            (json!({"authorization_endpoint": "javascript:alert(1)"}), "`authorization_endpoint`"),
            (json!({"authorization_endpoint": "/authorize"}), "`authorization_endpoint`"),
            (json!({"userinfo_endpoint": "data:,"}), "`userinfo_endpoint`"),
        ] {
            let error = parsed(&others, ISSUER).unwrap_err();
            assert!(error.contains(word), "{others}: {error}");
        }
    }

    #[test]
    fn the_secret_goes_into_the_body_only_where_nothing_else_is_taken() {
        for (methods, in_body) in [
            (json!([]), false),
            (json!(["client_secret_post"]), true),
            (json!(["client_secret_post", "client_secret_basic"]), false),
            (json!(["private_key_jwt", "client_secret_post"]), true),
        ] {
            let stated = json!({"token_endpoint_auth_methods_supported": methods});
            assert_eq!(parsed(&stated, ISSUER).unwrap().wants_secret_in_body, in_body, "{methods}");
        }
    }
}
