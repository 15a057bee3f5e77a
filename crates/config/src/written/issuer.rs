//! What an issuer of tokens is called, and how it signs them.

use std::sync::Arc;

use crate::scalar::{Choice, FromScalar};

/// What an issuer is called in its tokens. Without a space the hash of a token's holder has one meaning only.
#[derive(Clone, Debug)]
pub(crate) struct IssuerName(Arc<str>);

impl From<IssuerName> for Arc<str> {
    fn from(IssuerName(name): IssuerName) -> Self {
        name
    }
}

impl FromScalar for IssuerName {
    fn from_text(text: &str) -> Result<Self, String> {
        let is_plain = text.chars().all(|character| !character.is_whitespace() && !character.is_control());
        if is_plain && (1..=1024).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err("an issuer's name is 1 to 1024 bytes without spaces, as tokens say it in `iss`".to_owned())
        }
    }
}

/// An algorithm by which an issuer signs tokens with a key that it keeps to itself (RFC 7518, section 3.1; RFC 8037).
/// Neither `none` nor one of HMAC is among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the standard's names")]
pub enum JwtAlgorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Choice for JwtAlgorithm {
    const CHOICES: &[(&str, Self)] = &[
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];
}
