//! The issuer by which people sign in to the page (OpenID Connect, the authorization code flow with PKCE): where it sends them,
//! and who it says that they are. It is asked only when somebody signs in, so that nothing else depends on it, and each
//! answer of its is bounded in size and in time.

mod asking;
mod flow;
mod id_token;
mod metadata;
mod tokens;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use keymeter_config::Oidc;
use keymeter_core::key::{KeyHash, Secret};
use keymeter_issuer::client::{ClientError, builder};
use reqwest::Url;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};

pub use self::flow::{Flow, LIFE as FLOW_LIFE};
use self::{
    asking::Remembered,
    id_token::{Expected, KeyCache},
    metadata::Metadata,
};
use super::store::people::folded;

/// An issuer by which people sign in.
pub struct OidcIssuer {
    terms: Oidc,
    /// By which people know it.
    host: Box<str>,
    client: reqwest::Client,
    metadata: Mutex<Remembered<Metadata>>,
    keys: Mutex<KeyCache>,
    /// For codes that are exchanged.
    places: Semaphore,
}

/// Whom the issuer says that somebody is.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The value of the claim that is configured.
    pub value: String,
    /// What they are called.
    pub name: Option<String>,
}

/// How long an answer may take, and all that are needed to exchange a code.
const TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_EXCHANGE: Duration = Duration::from_secs(10);

/// Codes that are exchanged at once: each has a connection to the issuer.
const EXCHANGES: usize = 32;

/// Why the issuer does not say who somebody is. No text of its is repeated.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OidcError {
    /// It cannot be reached, is too slow, or says that it fails.
    #[error("{0}")]
    Unavailable(String),
    /// It says what no issuer may say.
    #[error("{0}")]
    Invalid(String),
    /// It does not take the code.
    #[error("the code was refused{0}")]
    Refused(String),
    /// It does not vouch for the value.
    #[error("the issuer says that the e-mail address is not verified")]
    Unverified,
    /// It says nothing of the claim.
    #[error("neither the ID token nor the issuer's user information has the claim `{0}`")]
    Nameless(Arc<str>),
    /// Too many sign in at once.
    #[error("{EXCHANGES} others sign in at this moment")]
    Busy,
}

impl OidcIssuer {
    /// The issuer of `terms`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When its certificates cannot be used.
    pub fn new(terms: &Oidc) -> Result<Self, ClientError> {
        keymeter_issuer::install();
        let ca = terms.ca.as_deref();
        let error = |why| ClientError::new(ca, "control.oidc.ca", why);
        let client = builder(ca).map_err(error)?.timeout(TIMEOUT).build().map_err(|why| error(why.to_string()))?;
        let host = terms.issuer.split('/').nth(2).unwrap_or(&terms.issuer);
        Ok(Self {
            host: host.into(),
            client,
            terms: terms.clone(),
            metadata: Mutex::default(),
            keys: Mutex::default(),
            places: Semaphore::new(EXCHANGES),
        })
    }

    /// By which people know it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is the issuer that calls itself so.
    pub fn is_named(&self, name: &str) -> bool {
        *self.terms.issuer == *name
    }

    /// The page's own origin, as it is configured: no request decides it.
    pub fn page_url(&self) -> &str {
        &self.terms.page_url
    }

    /// Whether the page is reached by HTTPS.
    pub fn is_page_secure(&self) -> bool {
        self.terms.page_url.starts_with("https://")
    }

    /// Whether a value that is no user's makes one.
    pub fn creates_users(&self) -> bool {
        self.terms.create_users
    }

    /// Where a browser begins to sign in.
    ///
    /// # Errors
    /// When the issuer does not say where.
    pub async fn authorization_url(&self, flow: &Flow) -> Result<Url, OidcError> {
        let mut url = self.metadata().await?.authorization_endpoint.clone();
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.terms.client_id)
            .append_pair("redirect_uri", &self.redirect_uri())
            .append_pair("scope", &self.terms.scopes)
            .append_pair("state", flow.state())
            .append_pair("nonce", flow.nonce())
            .append_pair("code_challenge", &flow.challenge())
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Who it is that came back with `code`, in the flow that began in the same browser.
    ///
    /// # Errors
    /// When the issuer does not say it, or says what cannot be believed.
    pub async fn identify(&self, flow: &Flow, code: &Secret, now: Timestamp) -> Result<Identity, OidcError> {
        let _place = self.places.try_acquire().map_err(|_| OidcError::Busy)?;
        let late = || OidcError::Unavailable(format!("no answer within {} s", LONGEST_EXCHANGE.as_secs()));
        timeout(LONGEST_EXCHANGE, self.exchanged(flow, code, now)).await.map_err(|_| late())?
    }

    async fn exchanged(&self, flow: &Flow, code: &Secret, now: Timestamp) -> Result<Identity, OidcError> {
        let metadata = self.metadata().await?;
        let given = tokens::exchange(&self.client, &metadata, &self.terms, (flow, code), &self.redirect_uri()).await?;
        let header = id_token::header(&given.id_token)?;
        let expected = Expected { issuer: &self.terms.issuer, client_id: &self.terms.client_id, nonce: flow.nonce() };
        let keys = self.keys.lock().await.keys(&self.client, &metadata.jwks_uri, header.kid.as_deref()).await?;
        let claims = expected.checked(&given.id_token, &header, &keys, now)?;
        if let Some(identity) = self.identity(claims.all())? {
            return Ok(identity);
        }
        // Some issuers tell of people there only.
        let nameless = || OidcError::Nameless(self.terms.claim.clone());
        let (endpoint, access_token) =
            metadata.userinfo_endpoint.as_ref().zip(given.access_token).ok_or_else(nameless)?;
        let told = tokens::user_information(&self.client, endpoint, &access_token).await?;
        if told.get("sub").is_none() || told.get("sub") != claims.get("sub") {
            return Err(OidcError::Invalid("the issuer's user information is of somebody else".to_owned()));
        }
        self.identity(&told)?.ok_or_else(nameless)
    }

    /// Whom these claims name, if they do.
    fn identity(&self, claims: &Map<String, Value>) -> Result<Option<Identity>, OidcError> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        // Some issuers say it as a text, and some apart from the address.
        let is_unverified = claims.get("email_verified").is_some_and(|stated| *stated != true && *stated != "true");
        if self.terms.is_email() && is_unverified {
            return Err(OidcError::Unverified);
        }
        let Some(value) = text(&self.terms.claim) else { return Ok(None) };
        Ok(Some(Identity { value: value.to_owned(), name: text("name").map(str::to_owned) }))
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, OidcError> {
        let fetched = || metadata::fetch(&self.client, &self.terms.issuer);
        self.metadata.lock().await.get(&self.host, fetched).await
    }

    /// Where the issuer sends people back.
    fn redirect_uri(&self) -> String {
        format!("{}/sign-in/callback", self.terms.page_url)
    }

    /// Whether `value` signs in as the operator.
    pub fn is_operator(&self, value: &str) -> bool {
        self.terms.operators.iter().any(|operator| self.is_same(operator, value))
    }

    /// Whether two values are of the same person: of e-mail addresses the case does not matter, of anything else it does.
    pub fn is_same(&self, one: &str, other: &str) -> bool {
        if self.terms.is_email() { folded(one) == folded(other) } else { one == other }
    }

    /// By which a session remembers who signed in by which issuer, without saying it.
    pub fn mark(&self, value: &str) -> KeyHash {
        let value = if self.terms.is_email() { folded(value) } else { value.to_owned() };
        KeyHash::digest(format!("{}\n{}\n{value}", self.terms.issuer, self.terms.claim).as_bytes())
    }

    /// Whether a session with this mark is the operator's still.
    pub fn is_operators_mark(&self, mark: &KeyHash) -> bool {
        self.terms.operators.iter().any(|operator| self.mark(operator) == *mark)
    }
}
