//! One attempt to sign in: what the browser keeps meanwhile, and what the issuer gets to see of it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How long somebody may take at the issuer, in seconds.
pub const LIFE: i64 = 600;

/// An attempt to sign in, which is answered once.
#[derive(Clone, PartialEq, Eq)]
pub struct Flow {
    state: String,
    nonce: String,
    /// What the issuer gets to see with the code only (PKCE, RFC 7636).
    verifier: String,
    /// Seconds since 1970.
    until: i64,
}

impl Flow {
    /// A new attempt, which ends at `now` and some minutes, in seconds since 1970.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn begin(now: i64) -> Result<Self, getrandom::Error> {
        Ok(Self { state: unguessable()?, nonce: unguessable()?, verifier: unguessable()?, until: now + LIFE })
    }

    /// What comes back with the code.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// What the ID token repeats.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// What is sent with the code.
    pub fn verifier(&self) -> &str {
        &self.verifier
    }

    /// By which the issuer knows the verifier again (`S256`).
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier.as_bytes()))
    }

    /// When it ends, in seconds since 1970.
    pub fn until(&self) -> i64 {
        self.until
    }

    /// Whether what came back is of this attempt, told in the same time for any answer.
    pub fn is_answered_by(&self, state: &str) -> bool {
        self.state.as_bytes().ct_eq(state.as_bytes()).into()
    }

    /// What the browser keeps.
    pub fn text(&self) -> String {
        format!("{}.{}.{}.{}", self.until, self.state, self.nonce, self.verifier)
    }

    /// What it kept.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(str::to_owned);
        let until = parts.next()?.parse().ok()?;
        let (state, nonce, verifier) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { state, nonce, verifier, until })
    }
}

/// 256 bits that nobody guesses, in 43 characters.
fn unguessable() -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_read_back_and_is_like_no_other() {
        let [one, other] = [0, 1].map(|_| Flow::begin(1_000).unwrap());
        assert!(Flow::parse(&one.text()) == Some(one.clone()));
        assert!(one.is_answered_by(one.state()) && !one.is_answered_by(other.state()) && !one.is_answered_by(""));
        assert_eq!((one.until(), one.verifier().len()), (1_600, 43));
        for text in ["", "1", "1.a.b", "x.a.b.c"] {
            assert!(Flow::parse(text).is_none(), "{text}");
        }
    }

    /// The example of RFC 7636, appendix B.
    #[test]
    fn the_challenge_is_the_standards() {
        let flow = Flow::parse("1.s.n.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap();
        assert_eq!(flow.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
