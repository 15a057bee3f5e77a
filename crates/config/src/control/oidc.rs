//! The issuer by which people sign in to the control plane's page.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    credential::Credential,
    files, raw,
    report::Place,
    scalar::Scalar,
    server::transposed,
    url::{UpstreamUrl, UrlError},
};

/// An issuer by which people sign in (OpenID Connect, the authorization code flow with PKCE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    /// What its tokens say as `iss`, to the letter; what it says of itself is below.
    pub issuer: Arc<str>,
    /// What the issuer calls this control plane.
    pub client_id: Arc<str>,
    /// By which the issuer knows it; `None`: a public client, which PKCE alone protects.
    pub client_secret: Option<Credential>,
    /// The claim that says who signs in.
    pub claim: Arc<str>,
    /// The claim's values that sign in as the operator.
    pub operators: Vec<Arc<str>>,
    /// Whether a value that is no user's makes one.
    pub create_users: bool,
    /// What is asked for, parted by spaces; `openid` is among it.
    pub scopes: Arc<str>,
    /// Certificates in PEM form that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// The page's own origin, to which the issuer sends people back.
    pub page_url: Arc<str>,
}

/// The claim by which a user is found, where none is named.
const EMAIL: &str = "email";

const SCOPES: &str = "openid email profile";

const WHERE_THE_PAGE_IS: &str = "where browsers reach the page, such as https://keys.example: the issuer sends them back to \
                                 /sign-in/callback there";

impl Oidc {
    /// Whether the claim is an e-mail address, whose case does not matter and which the issuer must not call unverified.
    #[must_use]
    pub fn is_email(&self) -> bool {
        &*self.claim == EMAIL
    }

    /// The issuer that is written in `control`, whose page is at `page_url`.
    pub(super) fn check(
        raw: raw::ControlOidc,
        page_url: Option<Arc<str>>,
        control: &Place<'_>,
        file: &Path,
    ) -> Option<Self> {
        let place = control.field("oidc");
        let issuer = place.required("issuer", raw.issuer, "what tokens say as `iss`, such as https://login.example");
        let issuer = issuer.map(|Scalar(name)| Arc::<str>::from(name)).and_then(|name| {
            name.parse::<UpstreamUrl>().map_err(|error| place.field("issuer").error(error.to_string())).ok()?;
            Some(name)
        });
        let client_id =
            place.required("client_id", raw.client_id, "what the issuer calls this control plane, such as keymeter");
        let page_url = control.required("page_url", page_url, WHERE_THE_PAGE_IS);
        let scopes = raw.scopes.map_or_else(|| SCOPES.into(), |Scalar(scopes)| scopes);
        if !scopes.split(' ').any(|scope| scope == "openid") {
            place
                .field("scopes")
                .error("`openid` must be among them, parted by spaces: without it there is no ID token");
        }
        let ca = raw.ca.map(|Scalar(name)| files::pem(&place.field("ca"), file, &name, "CERTIFICATE-----"));
        let operators = place.field("operators").elements(raw.operators.unwrap_or_default());
        Some(Self {
            ca: transposed(ca)?,
            client_secret: raw.client_secret.map(|Scalar(secret)| Credential(secret)),
            claim: raw.claim.map_or_else(|| EMAIL.into(), |Scalar(claim)| claim),
            operators: operators.into_iter().map(|(_, Scalar(value))| value).collect(),
            create_users: raw.create_users.is_some_and(|Scalar(creates)| creates),
            scopes,
            issuer: issuer?,
            client_id: client_id.map(|Scalar(id)| id)?,
            page_url: page_url?,
        })
    }
}

/// The origin at which the page is: it has no path, because every link on the page begins at the root.
pub(super) fn page_url(url: &str, place: &Place<'_>) -> Option<Arc<str>> {
    match url.parse::<UpstreamUrl>() {
        Ok(UpstreamUrl { path, .. }) if !path.is_empty() => {
            place.error("the URL of the page must have no path: its links begin at the root of the host");
            None
        }
        Ok(UpstreamUrl { tls, authority, .. }) => {
            Some(format!("{}://{authority}", if tls { "https" } else { "http" }).into())
        }
        // A credential has no field here that the text of the error could name.
        Err(UrlError::UserInfo) => {
            place.error("the URL must hold no user and password");
            None
        }
        Err(error) => {
            place.error(error.to_string());
            None
        }
    }
}
