//! What a token says: what can be read of it before it is checked, and what holds once it is.

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Header, Validation, dangerous::insecure_decode_claims, decode, decode_header};
use serde_json::{Map, Value};

use super::key_set::VerifyingKey;

/// How far the issuer's clock may be from ours.
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);

/// The head of a token, which says by what it is to be checked. Nothing of it is checked.
#[must_use]
pub fn header(token: &str) -> Option<Header> {
    decode_header(token).ok()
}

/// What a token says. Nothing of it is checked: anybody may write anything.
#[must_use]
pub fn stated(token: &str) -> Option<Map<String, Value>> {
    insecure_decode_claims(token).ok()
}

/// What a token says that its issuer signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// What `token` says, if `key` signed it, and it is of `issuer` and for `audience`. Its time is not looked at.
    #[must_use]
    pub fn signed(token: &str, key: &VerifyingKey, issuer: &str, audience: &str) -> Option<Self> {
        // Time is an argument here: `Validity` has both.
        let (validate_exp, validate_nbf) = (false, false);
        let algorithms = key.algorithms().to_vec();
        let mut validation = Validation { algorithms, validate_exp, validate_nbf, ..Validation::default() };
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        decode(token, key.key(), &validation).ok().map(|decoded| Self(decoded.claims))
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The value of a claim.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The value of a claim that is a text, and not empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        text(&self.0, name)
    }

    /// The time in which it holds.
    #[must_use]
    pub fn validity(&self) -> Option<Validity> {
        Validity::of(&self.0)
    }

    /// Whether it says that it was made by `now`.
    #[must_use]
    pub fn is_made_by(&self, now: Timestamp) -> bool {
        let made = self.0.get("iat").and_then(date).and_then(|made| made.saturating_sub(LEEWAY).ok());
        made.is_some_and(|made| made <= now)
    }
}

/// The value of a claim that is a text, and not empty.
fn text<'claims>(claims: &'claims Map<String, Value>, name: &str) -> Option<&'claims str> {
    claims.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// The time in which a token holds, with some leeway on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub begin: Timestamp,
    /// From then on it has expired.
    pub end: Timestamp,
}

impl Validity {
    /// What these claims say of it, if they say when they expire.
    #[must_use]
    pub fn of(claims: &Map<String, Value>) -> Option<Self> {
        let end = date(claims.get("exp")?)?.saturating_add(LEEWAY).ok()?;
        let begin = match claims.get("nbf") {
            Some(begin) => date(begin)?.saturating_sub(LEEWAY).ok()?,
            None => Timestamp::MIN,
        };
        Some(Self { begin, end })
    }

    /// Whether `now` is in it.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.begin <= now && now < self.end
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
