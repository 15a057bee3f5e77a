//! The cryptography of tokens, by the library that TLS has here: signatures are checked, and none is made.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature,
};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

/// Has the process check tokens' signatures, unless the program that we are part of chose a provider itself.
pub fn install() {
    if CryptoProvider::try_get_default().is_none() {
        // Another thread may have been faster; then there is one.
        let _ = PROVIDER.install_default();
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(Verifier::new(*algorithm, key)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Checks signatures of one algorithm by one key.
struct Verifier {
    algorithm: Algorithm,
    method: Method,
    key: DecodingKey,
}

/// How a signature is checked.
#[derive(Clone, Copy)]
enum Method {
    Rsa(&'static RsaParameters),
    Other(&'static dyn VerificationAlgorithm),
}

impl Verifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self, Error> {
        let (family, method) = match algorithm {
            Algorithm::RS256 => (AlgorithmFamily::Rsa, Method::Rsa(&RSA_PKCS1_2048_8192_SHA256)),
            Algorithm::RS384 => (AlgorithmFamily::Rsa, Method::Rsa(&RSA_PKCS1_2048_8192_SHA384)),
            Algorithm::RS512 => (AlgorithmFamily::Rsa, Method::Rsa(&RSA_PKCS1_2048_8192_SHA512)),
            Algorithm::PS256 => (AlgorithmFamily::Rsa, Method::Rsa(&RSA_PSS_2048_8192_SHA256)),
            Algorithm::PS384 => (AlgorithmFamily::Rsa, Method::Rsa(&RSA_PSS_2048_8192_SHA384)),
            Algorithm::PS512 => (AlgorithmFamily::Rsa, Method::Rsa(&RSA_PSS_2048_8192_SHA512)),
            Algorithm::ES256 => (AlgorithmFamily::Ec, Method::Other(&ECDSA_P256_SHA256_FIXED)),
            Algorithm::ES384 => (AlgorithmFamily::Ec, Method::Other(&ECDSA_P384_SHA384_FIXED)),
            Algorithm::EdDSA => (AlgorithmFamily::Ed, Method::Other(&ED25519)),
            _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
        };
        if key.family() != family {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        Ok(Self { algorithm, method, key: key.clone() })
    }
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (self.method, self.key.kind()) {
            (Method::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Method::Rsa(parameters), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(parameters, key).verify(message, signature)
            }
            (Method::Other(algorithm), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(algorithm, key).verify(message, signature)
            }
            (Method::Other(_), DecodingKeyKind::RsaModulusExponent { .. }) => Err(ring::error::Unspecified),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
