//! What a token says: what can be read of it before it is checked, and what holds once it is.

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Header, Validation, dangerous::insecure_decode_claims, decode, decode_header};
use keymeter_config::keys::JwtIssuer;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::key_set::VerifyingKey;

/// The longest token that is looked at, in bytes.
pub const LONGEST_TOKEN: usize = 8 * 1024;

/// How far the issuer's clock may be from ours.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

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

/// The head of a token, which says by what it is to be checked. Nothing of it is checked.
pub(super) fn header(token: &str) -> Option<Header> {
    decode_header(token).ok()
}

/// What a token says of its holder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claims {
    /// The value of the claim that names its holder.
    pub(super) holder: String,
    /// From then on it has expired.
    pub(super) end: Timestamp,
}

impl Claims {
    /// What `token` says, if `key` signed it, it is the issuer's and for us, and `now` is in its time.
    pub(super) fn checked(token: &str, key: &VerifyingKey, issuer: &JwtIssuer, now: Timestamp) -> Option<Self> {
        // Time is an argument here: `in_time` checks both.
        let (validate_exp, validate_nbf) = (false, false);
        let algorithms = key.algorithms().to_vec();
        let mut validation = Validation { algorithms, validate_exp, validate_nbf, ..Validation::default() };
        validation.set_issuer(&[&issuer.issuer]);
        validation.set_audience(&[&issuer.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = decode::<Map<String, Value>>(token, &key.key, &validation).ok()?.claims;
        Self::in_time(&claims, &issuer.claim, now)
    }

    /// Whether `now` is in the time that a token states, and it states a holder. Nothing else of it is checked.
    pub(super) fn are_in_time(token: &str, holder: &str, now: Timestamp) -> bool {
        insecure_decode_claims(token).is_ok_and(|claims| Self::in_time(&claims, holder, now).is_some())
    }

    fn in_time(claims: &Map<String, Value>, holder: &str, now: Timestamp) -> Option<Self> {
        let end = date(claims.get("exp")?)?.saturating_add(LEEWAY).ok()?;
        let begins = match claims.get("nbf") {
            Some(begin) => date(begin)?.saturating_sub(LEEWAY).ok()?,
            None => Timestamp::MIN,
        };
        let holder = claims.get(holder)?.as_str().filter(|holder| !holder.is_empty())?;
        (begins <= now && now < end).then(|| Self { holder: holder.to_owned(), end })
    }
}

/// A `NumericDate` (RFC 7519, section 2): seconds since 1970, perhaps with a fraction. One that no calendar has is the last day.
fn date(value: &Value) -> Option<Timestamp> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float that is too large for a number becomes the largest one"
    )]
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64))?;
    (seconds >= 0).then(|| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}
