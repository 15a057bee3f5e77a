//! Where a client puts its secret, or the token of an issuer in its place. A request that names two different ones is
//! refused, because whatever we chose, somebody else may have meant the other.

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use keymeter_core::key::{KeyHash, is_well_formed};

use crate::keys::jwt::{LONGEST_TOKEN, has_three_parts};

/// The headers that carry a credential, all of which are taken out before a request goes upstream.
pub static CREDENTIAL_HEADERS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// The longest secret that is looked at, in bytes: longer ones are no key.
const LONGEST: usize = 512;

/// A credential as it stands in a request. It is not copied, and has no form for printing.
#[derive(Clone, Copy)]
pub struct Credential<'request> {
    text: &'request str,
    is_bearer: bool,
}

impl<'request> Credential<'request> {
    /// The SHA-256 of the whole of it.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::digest(self.text.as_bytes())
    }

    /// Whether it may be a secret: what is longer is none.
    #[must_use]
    pub fn may_be_secret(&self) -> bool {
        self.text.len() <= LONGEST
    }

    /// Whether it has the form of a secret that keymeter made.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        is_well_formed(self.text)
    }

    /// What may be a token of an issuer: a bearer's credential of three parts.
    #[must_use]
    pub fn token(&self) -> Option<&'request str> {
        Some(self.text).filter(|text| self.is_bearer && has_three_parts(text))
    }
}

/// Why there is no secret in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// None of the headers is there.
    Missing,
    /// One is there and is no credential, or two differ.
    Malformed,
}

/// The credential that a request bears, in its headers or as what its query says of `key`. As a bearer's it may be as long as
/// a token, if there are issuers of `tokens`.
///
/// # Errors
/// When it bears none, something that cannot be one, or two different ones.
pub fn credential<'request>(
    headers: &'request HeaderMap,
    in_query: Option<&'request str>,
    tokens: bool,
) -> Result<Credential<'request>, CredentialError> {
    if in_query.is_some_and(|secret| !plausible(secret, LONGEST)) {
        return Err(CredentialError::Malformed);
    }
    let mut found = in_query.map(|text| Credential { text, is_bearer: false });
    let longest_bearer = if tokens { LONGEST_TOKEN } else { LONGEST };
    // To look at each of the few headers takes less than four look-ups.
    for (name, value) in headers.iter().filter(|(name, _)| CREDENTIAL_HEADERS.contains(name)) {
        let text = value.to_str().map_err(|_| CredentialError::Malformed)?;
        let is_bearer = *name == AUTHORIZATION;
        let (text, longest) = if is_bearer { (bearer(text), longest_bearer) } else { (Some(text.trim()), LONGEST) };
        let text = text.filter(|text| plausible(text, longest)).ok_or(CredentialError::Malformed)?;
        let earlier = *found.get_or_insert(Credential { text, is_bearer });
        if earlier.text != text {
            return Err(CredentialError::Malformed);
        }
        found = Some(Credential { text, is_bearer: is_bearer || earlier.is_bearer });
    }
    found.ok_or(CredentialError::Missing)
}

/// The token of `Bearer token` (RFC 6750, section 2.1); the scheme is not case-sensitive.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn plausible(secret: &str, longest: usize) -> bool {
    // Without a way out at the first that is not, so that the compiler can use vectors.
    let is_graphic = || secret.bytes().fold(true, |all, byte| all & byte.is_ascii_graphic());
    !secret.is_empty() && secret.len() <= longest && is_graphic()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<String, CredentialError> {
        let pairs = headers.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        credential(&pairs.collect(), None, false).map(|found| found.text.to_owned())
    }

    #[test]
    fn every_header_carries_one() {
        for headers in [
            ("authorization", "Bearer sk-a"),
            ("authorization", "bearer  sk-a "),
            ("x-api-key", "sk-a"),
            ("api-key", "sk-a"),
            ("x-goog-api-key", "sk-a"),
        ] {
            assert_eq!(read(&[headers]).as_deref(), Ok("sk-a"), "{headers:?}");
        }
    }

    #[test]
    fn the_same_one_twice_is_one() {
        assert_eq!(read(&[("authorization", "Bearer sk-a"), ("x-api-key", "sk-a")]).as_deref(), Ok("sk-a"));
    }

    #[test]
    fn a_query_counts_like_a_header() {
        let headers: HeaderMap = [(AUTHORIZATION, HeaderValue::from_static("Bearer sk-a"))].into_iter().collect();
        let read = |headers: &HeaderMap, key| credential(headers, key, false).map(|found| found.text.to_owned());
        assert_eq!(read(&HeaderMap::new(), Some("sk-a")).as_deref(), Ok("sk-a"));
        assert_eq!(read(&headers, Some("sk-a")).as_deref(), Ok("sk-a"));
        assert_eq!(read(&headers, Some("sk-b")), Err(CredentialError::Malformed));
        assert_eq!(read(&HeaderMap::new(), Some("")), Err(CredentialError::Malformed));
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        assert_eq!(read(&[]), Err(CredentialError::Missing));
        for headers in [
            vec![("authorization", "Bearer sk-a"), ("x-api-key", "sk-b")],
            vec![("authorization", "Basic c2s6YQ==")],
            vec![("authorization", "sk-a")],
            vec![("authorization", "Bearer ")],
            vec![("x-api-key", "")],
            vec![("x-api-key", "sk a")],
            vec![("x-api-key", "sk-é")],
        ] {
            assert_eq!(read(&headers), Err(CredentialError::Malformed), "{headers:?}");
        }
        assert_eq!(read(&[("x-api-key", &"a".repeat(513))]), Err(CredentialError::Malformed));
    }

    #[test]
    fn a_token_may_be_longer_than_a_secret_as_a_bearers_only() {
        let token = |length: usize| format!("e30.{}.c2ln", "a".repeat(length - 9));
        let read = |name: &str, value: String, tokens| {
            let headers = [(name.parse::<HeaderName>().unwrap(), HeaderValue::try_from(value).unwrap())];
            let headers: HeaderMap = headers.into_iter().collect();
            credential(&headers, None, tokens).map(|found| (found.text.len(), found.token().is_some()))
        };
        for (length, tokens, expected) in [
            (100, true, Ok((100, true))),
            (8192, true, Ok((8192, true))),
            (8193, true, Err(CredentialError::Malformed)),
            (513, false, Err(CredentialError::Malformed)),
        ] {
            assert_eq!(read("authorization", format!("Bearer {}", token(length)), tokens), expected, "{length}");
        }
        assert_eq!(read("x-api-key", token(100), true), Ok((100, false)), "as a secret");
        assert_eq!(read("x-api-key", token(513), true), Err(CredentialError::Malformed));
        for (text, is_token) in [("a.b.c", true), ("..", true), ("a.b", false), ("a.b.c.d", false), ("sk-a", false)] {
            assert_eq!(read("authorization", format!("Bearer {text}"), true), Ok((text.len(), is_token)), "{text}");
        }
    }

    #[test]
    fn a_token_twice_is_one_and_a_token_beside_a_secret_is_refused() {
        let both = |first: &str, second: &str| {
            let headers = [("authorization", first), ("x-api-key", second)];
            let headers = headers.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            let headers: HeaderMap = headers.into_iter().collect();
            credential(&headers, None, true).map(|found| found.token().is_some())
        };
        assert_eq!(both("Bearer a.b.c", "a.b.c"), Ok(true));
        assert_eq!(both("Bearer a.b.c", "sk-a"), Err(CredentialError::Malformed));
        let headers: HeaderMap = [(AUTHORIZATION, HeaderValue::from_static("Bearer a.b.c"))].into_iter().collect();
        assert_eq!(credential(&headers, Some("sk-a"), true).err(), Some(CredentialError::Malformed));
        assert_eq!(credential(&headers, Some("a.b.c"), true).map(|found| found.token().is_some()).ok(), Some(true));
    }

    /// What a stranger may write where a secret is expected.
    fn any_value() -> impl Strategy<Value = String> {
        let pieces = ["Bearer ", "bearer\t", "BEARER  ", "Basic ", "sk-a", "sk-b", " ", "\t", "é", ",", "\u{a0}"];
        prop_oneof![
            4 => prop::sample::select(vec!["sk-a", "Bearer sk-a"]).prop_map(str::to_owned),
            3 => prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..4).prop_map(|pieces| pieces.concat()),
            1 => (511..514_usize).prop_map(|length| "s".repeat(length)),
        ]
    }

    /// The secret in one header's value, as a reader without a standard library finds it.
    fn secret_in(name: &str, value: &str) -> Option<String> {
        let blanks = [' ', '\t'];
        let text = value.trim_matches(blanks);
        let text = match (name, text.get(..7)) {
            ("authorization", Some(scheme)) if scheme.to_lowercase() == "bearer " => text[7..].trim_matches(blanks),
            ("authorization", _) => return None,
            _ => text,
        };
        let is_secret =
            (1..=512).contains(&text.len()) && text.chars().all(|character| ('!'..='~').contains(&character));
        is_secret.then(|| text.to_owned())
    }

    proptest! {
        /// There is a secret where all places that bear one agree, in whatever order and however often; and the
        /// headers that bear none have no say.
        #[test]
        fn all_places_agree_or_there_is_none(
            headers in prop::collection::vec(
                (prop::sample::select(vec!["authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"]), any_value()),
                0..4,
            ),
            in_query in prop::option::weighted(0.2, any_value()),
        ) {
            let pairs = headers.iter().map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            });
            let read = credential(&pairs.collect(), in_query.as_deref(), false).map(|found| found.text.to_owned());
            let in_headers = headers.iter().filter(|(name, _)| *name != "cookie").map(|(name, value)| secret_in(name, value));
            let query = in_query.iter().map(|value| secret_in("", value).filter(|secret| secret == value));
            let places: HashSet<Option<String>> = in_headers.chain(query).collect();
            let expected = match Vec::from_iter(places).as_slice() {
                [] => Err(CredentialError::Missing),
                [Some(secret)] => Ok(secret.clone()),
                _ => Err(CredentialError::Malformed),
            };
            prop_assert_eq!(read, expected);
        }
    }
}
