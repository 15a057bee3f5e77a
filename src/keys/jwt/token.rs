//! What of a token matters to the gateway: who its issuer is, before it is checked, and who its holder is, once it is.

use jiff::Timestamp;
use jsonwebtoken::dangerous::insecure_decode_claims;
use keymeter_config::keys::JwtIssuer;
use keymeter_issuer::{Claims, Validity, VerifyingKey, stated};
use serde::Deserialize;
use serde_json::Value;

/// The longest token that is looked at, in bytes.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// Whether a text has the form of a token: three parts, and not too long.
#[must_use]
pub fn has_three_parts(text: &str) -> bool {
    text.len() <= LONGEST_TOKEN && memchr::memchr_iter(b'.', text.as_bytes()).take(3).count() == 2
}

/// The issuer that a text names, if it is a token. Nothing of it is checked: anybody may write anything.
#[must_use]
pub fn stated_issuer(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Stated {
        iss: String,
    }
    let is_token = has_three_parts(text);
    is_token.then(|| insecure_decode_claims::<Stated>(text).ok())?.map(|Stated { iss }| iss)
}

/// What a token says of its holder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenHolder {
    /// The value of the claim that names its holder.
    pub(super) holder: String,
    /// From then on it has expired.
    pub(super) end: Timestamp,
}

impl TokenHolder {
    /// What `token` says, if `key` signed it, it is the issuer's and for us, and `now` is in its time.
    pub(super) fn checked(token: &str, key: &VerifyingKey, issuer: &JwtIssuer, now: Timestamp) -> Option<Self> {
        let claims = Claims::signed(token, key, &issuer.issuer, &issuer.audience)?;
        let validity = claims.validity().filter(|validity| validity.holds(now))?;
        Some(Self { holder: claims.text(&issuer.claim)?.to_owned(), end: validity.end })
    }

    /// Whether `now` is in the time that a token states, and it states a holder. Nothing else of it is checked.
    pub(super) fn is_stated(token: &str, holder: &str, now: Timestamp) -> bool {
        let Some(claims) = stated(token) else { return false };
        let is_named = claims.get(holder).and_then(Value::as_str).is_some_and(|holder| !holder.is_empty());
        is_named && Validity::of(&claims).is_some_and(|validity| validity.holds(now))
    }
}
