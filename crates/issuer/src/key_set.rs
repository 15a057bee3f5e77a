//! An issuer's keys (JSON Web Key Set, RFC 7517): those of them that can check a signature. Others in the set, whose kind is
//! not known or that are for something else, are left out and do no harm.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use keymeter_config::JwtAlgorithm;
use serde::Deserialize;
use serde_json::Value;

/// The keys of an issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySet(Vec<VerifyingKey>);

/// A key that checks signatures.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    id: Option<String>,
    /// What it checks; never empty, and all of one family.
    algorithms: Vec<Algorithm>,
    /// As it was written, to tell it from another of the same id.
    written: Jwk,
    key: DecodingKey,
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// The most keys of one set that a token without a key's id is tried with.
const MOST_TRIED: usize = 8;

impl KeySet {
    /// Reads a set, for an issuer that signs by `algorithms`.
    ///
    /// # Errors
    /// When it is no set, or none of its keys is of use.
    pub fn parse(json: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Self, String> {
        let RawSet { keys } =
            serde_json::from_slice(json).map_err(|error| format!("its answer is no key set: {error}"))?;
        let keys: Vec<_> = keys.into_iter().filter_map(|key| VerifyingKey::read(key, algorithms)).collect();
        if keys.is_empty() {
            return Err("its key set has no key for the algorithms that are configured".to_owned());
        }
        Ok(Self(keys))
    }

    /// The keys that may have signed a token which names its algorithm and perhaps its key.
    #[must_use]
    pub fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<VerifyingKey> {
        let fits = |key: &&VerifyingKey| {
            key.algorithms.contains(&algorithm) && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.0.iter().filter(fits).take(MOST_TRIED).cloned().collect()
    }

    /// Whether there is a key of that id, whatever it is for.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// Whether `other` has all of these.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().all(|key| other.0.contains(key))
    }
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

impl VerifyingKey {
    fn read(json: Value, algorithms: &[JwtAlgorithm]) -> Option<Self> {
        let written: Jwk = serde_json::from_value(json).ok()?;
        let for_signatures = written.common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
        let operations = written.common.key_operations.as_ref();
        let may_verify = operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !for_signatures || !may_verify {
            return None;
        }
        let own = written.common.key_algorithm.map(Algorithm::try_from).transpose().ok()?;
        let of_kind = of_kind(&written.algorithm);
        let is_taken = |algorithm: &&Algorithm| {
            own.is_none_or(|own| own == **algorithm) && algorithms.iter().any(|taken| by_name(*taken) == **algorithm)
        };
        let algorithms: Vec<_> = of_kind.iter().filter(is_taken).copied().collect();
        let key = DecodingKey::from_jwk(&written).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: written.common.key_id.clone(), algorithms, written, key })
    }

    /// What it checks.
    pub(super) fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// What signatures are checked with.
    pub(super) fn key(&self) -> &DecodingKey {
        &self.key
    }
}

/// What a key of this kind can check.
fn of_kind(parameters: &AlgorithmParameters) -> &'static [Algorithm] {
    match parameters {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        // A symmetric key in a public set would let everybody sign.
        _ => &[],
    }
}

/// The algorithm of that name.
#[must_use]
pub fn by_name(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Rs384 => Algorithm::RS384,
        JwtAlgorithm::Rs512 => Algorithm::RS512,
        JwtAlgorithm::Ps256 => Algorithm::PS256,
        JwtAlgorithm::Ps384 => Algorithm::PS384,
        JwtAlgorithm::Ps512 => Algorithm::PS512,
        JwtAlgorithm::Es256 => Algorithm::ES256,
        JwtAlgorithm::Es384 => Algorithm::ES384,
        JwtAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}
