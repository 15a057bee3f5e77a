//! The ID token (OpenID Connect Core 1.0, section 3.1.3.7), and the keys by which it is checked.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use jsonwebtoken::Header;
use keymeter_config::JwtAlgorithm;
use keymeter_issuer::{Claims, KeySet, by_name};
use reqwest::{Client, Url};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    OidcError,
    asking::{self, Remembered},
};

/// Each is taken: by none of them could anybody sign but the issuer.
const ALGORITHMS: [JwtAlgorithm; 9] = [
    JwtAlgorithm::Rs256,
    JwtAlgorithm::Rs384,
    JwtAlgorithm::Rs512,
    JwtAlgorithm::Ps256,
    JwtAlgorithm::Ps384,
    JwtAlgorithm::Ps512,
    JwtAlgorithm::Es256,
    JwtAlgorithm::Es384,
    JwtAlgorithm::EdDsa,
];

/// How often keys are fetched because a token names one that is not known.
const FOR_UNKNOWN: Duration = Duration::from_secs(30);

/// The issuer's keys.
#[derive(Default)]
pub(super) struct KeyCache {
    keys: Remembered<KeySet>,
    /// Where they were fetched.
    from: Option<Url>,
    /// When they were last fetched for one that was not known.
    for_unknown: Option<Instant>,
}

impl KeyCache {
    /// The keys at `jwks`, fetched anew if they are old, or if the one with the id `id` is not among them.
    pub(super) async fn keys(
        &mut self,
        client: &Client,
        jwks: &Url,
        id: Option<&str>,
    ) -> Result<Arc<KeySet>, OidcError> {
        if self.from.as_ref() != Some(jwks) {
            self.keys.forget();
            self.from = Some(jwks.clone());
        }
        let is_unknown = self.keys.known().is_some_and(|keys| id.is_some_and(|id| !keys.has(id)));
        if is_unknown && self.for_unknown.is_none_or(|last| last.elapsed() >= FOR_UNKNOWN) {
            self.for_unknown = Some(Instant::now());
            self.keys.expire();
        }
        let fetched = async || {
            let (body, valid_for) = asking::answer(client.get(jwks.clone())).await?;
            let keys = KeySet::parse(&body, &ALGORITHMS).map_err(OidcError::Invalid)?;
            Ok((keys, valid_for))
        };
        self.keys.get(jwks.host_str().unwrap_or_default(), fetched).await
    }
}

/// The head of an ID token, if a key could have signed it.
pub(super) fn header(token: &str) -> Result<Header, OidcError> {
    let header = keymeter_issuer::header(token);
    let header = header.filter(|header| ALGORITHMS.iter().any(|taken| by_name(*taken) == header.alg));
    header.ok_or_else(|| invalid("is signed by no algorithm that is taken: RS, PS, ES or EdDSA are"))
}

/// What an ID token must say.
pub(super) struct Expected<'flow> {
    pub(super) issuer: &'flow str,
    pub(super) client_id: &'flow str,
    pub(super) nonce: &'flow str,
}

impl Expected<'_> {
    /// What `token` says, if one of `keys` signed it and it is for this attempt to sign in.
    pub(super) fn checked(
        &self,
        token: &str,
        header: &Header,
        keys: &KeySet,
        now: Timestamp,
    ) -> Result<Claims, OidcError> {
        let candidates = keys.candidates(header.kid.as_deref(), header.alg);
        let signed = |key| Claims::signed(token, key, self.issuer, self.client_id);
        let claims = candidates.iter().find_map(signed);
        let claims = claims.ok_or_else(|| {
            invalid(
                "is not signed by a key of the issuer's, or not of `control.oidc.issuer` for `control.oidc.client_id`",
            )
        })?;
        if !claims.validity().is_some_and(|validity| validity.holds(now)) || !claims.is_made_by(now) {
            return Err(invalid("has expired or is not valid yet: the clocks of both machines must agree"));
        }
        let audiences = claims.get("aud").and_then(Value::as_array).map_or(1, Vec::len);
        match claims.get("azp") {
            None if audiences == 1 => {}
            Some(party) if *party == self.client_id => {}
            _ => return Err(invalid("was made for another client (`azp`)")),
        }
        if claims.get("nonce").is_none_or(|nonce| *nonce != self.nonce) {
            return Err(invalid("is of another attempt to sign in (`nonce`)"));
        }
        Ok(claims)
    }
}

fn invalid(why: &str) -> OidcError {
    OidcError::Invalid(format!("its ID token {why}"))
}
