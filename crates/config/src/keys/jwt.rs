//! Issuers whose tokens are taken beside secrets.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::service_url;
use crate::{
    files, raw, report::Place, scalar::Scalar, server::transposed, url::comes_without_tls, written::JwtAlgorithm,
};

/// An issuer of tokens (JWT, RFC 7519) that clients send in place of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtIssuer {
    /// What its tokens say as `iss`, to the letter.
    pub issuer: Arc<str>,
    /// What its tokens must say as `aud`, or say among others.
    pub audience: Arc<str>,
    /// Where its public keys are (RFC 7517).
    pub jwks: Arc<str>,
    /// The claim that names whose key it is.
    pub claim: Arc<str>,
    /// The algorithms that its tokens may be signed with; at least one.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Certificates in PEM form that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
}

impl JwtIssuer {
    /// The issuers that are written, each once.
    pub(super) fn check_all(raw: raw::List<raw::KeysJwt>, place: &Place<'_>, file: &Path) -> Option<Vec<Self>> {
        let mut issuers: Vec<Self> = Vec::new();
        let mut all_good = true;
        for (place, raw) in place.elements(raw) {
            let Some(issuer) = Self::check(raw, &place, file) else {
                all_good = false;
                continue;
            };
            if issuers.iter().any(|other| other.issuer == issuer.issuer) {
                place.field("issuer").error(format!(
                    "the issuer `{}` is written twice: a token must have one entry that it is checked by",
                    issuer.issuer
                ));
            }
            issuers.push(issuer);
        }
        all_good.then_some(issuers)
    }

    fn check(raw: raw::KeysJwt, place: &Place<'_>, file: &Path) -> Option<Self> {
        let issuer = place.required("issuer", raw.issuer, "what tokens say as `iss`, such as https://login.example");
        let audience = place.required("audience", raw.audience, "what tokens must say as `aud`, such as keymeter");
        let jwks =
            place.required("jwks", raw.jwks, "where the issuer's keys are, such as https://login.example/jwks.json");
        let jwks =
            jwks.map(|Scalar(url)| service_url(&url).map_err(|error| place.field("jwks").error(error.to_string())));
        let what = "what tokens may be signed with, such as [RS256, ES256]";
        let algorithms = place.required("algorithms", raw.algorithms, what);
        if algorithms.as_ref().is_some_and(Vec::is_empty) {
            place.field("algorithms").error(format!("at least one algorithm is needed: {what}"));
            return None;
        }
        let ca = raw.ca.map(|Scalar(name)| files::pem(&place.field("ca"), file, &name, "CERTIFICATE-----"));
        Some(Self {
            ca: transposed(ca)?,
            claim: raw.claim.map_or_else(|| SUBJECT.into(), |Scalar(claim)| claim),
            algorithms: place
                .field("algorithms")
                .elements(algorithms?)
                .into_iter()
                .map(|(_, Scalar(algorithm))| algorithm)
                .collect(),
            issuer: issuer.map(|Scalar(name)| name.into())?,
            audience: audience.map(|Scalar(name)| name)?,
            jwks: jwks?.ok()?,
        })
    }

    /// Whether somebody on the way could put keys of his own in the place of the issuer's.
    pub(crate) fn may_be_forged(&self) -> bool {
        comes_without_tls(&self.jwks)
    }
}

/// The claim that names whom a token is about (RFC 7519, section 4.1.2).
const SUBJECT: &str = "sub";
