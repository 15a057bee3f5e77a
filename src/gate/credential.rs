//! Where a client puts its secret. A request that names two different ones is refused, because
//! whatever we chose, somebody else may have meant the other.

use http::{HeaderMap, header::AUTHORIZATION};

use crate::key::Secret;

/// The headers that carry a credential, all of which are taken out before a request goes upstream.
pub const CREDENTIAL_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// The longest secret that is looked at, in bytes: longer ones are no key.
const LONGEST: usize = 512;

/// Why there is no secret in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialFault {
    /// None of the headers is there.
    Missing,
    /// One is there and is no credential, or two differ.
    Malformed,
}

/// The secret that a request bears, in its headers or as what its query says of `key`.
///
/// # Errors
/// When it bears none, something that cannot be one, or two different ones.
pub fn credential(headers: &HeaderMap, in_query: Option<&str>) -> Result<Secret, CredentialFault> {
    if in_query.is_some_and(|secret| !plausible(secret)) {
        return Err(CredentialFault::Malformed);
    }
    let mut found = in_query;
    for name in CREDENTIAL_HEADERS {
        for value in headers.get_all(name) {
            let text = value.to_str().map_err(|_| CredentialFault::Malformed)?;
            let secret = if name == AUTHORIZATION.as_str() { bearer(text) } else { Some(text.trim()) };
            let secret = secret.filter(|secret| plausible(secret)).ok_or(CredentialFault::Malformed)?;
            if found.is_some_and(|earlier| earlier != secret) {
                return Err(CredentialFault::Malformed);
            }
            found = Some(secret);
        }
    }
    found.map(Secret::new).ok_or(CredentialFault::Missing)
}

/// The token of `Bearer token` (RFC 6750, section 2.1); the scheme is not case-sensitive.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn plausible(secret: &str) -> bool {
    !secret.is_empty() && secret.len() <= LONGEST && secret.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<String, CredentialFault> {
        let pairs = headers.iter().map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        credential(&pairs.collect(), None).map(|secret| secret.reveal().to_owned())
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
        let read = |headers: &HeaderMap, key| credential(headers, key).map(|secret| secret.reveal().to_owned());
        assert_eq!(read(&HeaderMap::new(), Some("sk-a")).as_deref(), Ok("sk-a"));
        assert_eq!(read(&headers, Some("sk-a")).as_deref(), Ok("sk-a"));
        assert_eq!(read(&headers, Some("sk-b")), Err(CredentialFault::Malformed));
        assert_eq!(read(&HeaderMap::new(), Some("")), Err(CredentialFault::Malformed));
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        assert_eq!(read(&[]), Err(CredentialFault::Missing));
        for headers in [
            vec![("authorization", "Bearer sk-a"), ("x-api-key", "sk-b")],
            vec![("authorization", "Basic c2s6YQ==")],
            vec![("authorization", "sk-a")],
            vec![("authorization", "Bearer ")],
            vec![("x-api-key", "")],
            vec![("x-api-key", "sk a")],
            vec![("x-api-key", "sk-é")],
        ] {
            assert_eq!(read(&headers), Err(CredentialFault::Malformed), "{headers:?}");
        }
        assert_eq!(read(&[("x-api-key", &"a".repeat(513))]), Err(CredentialFault::Malformed));
    }
}
