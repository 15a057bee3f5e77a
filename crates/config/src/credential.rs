//! Secrets of our own, and the form of those tokens that anybody may try to guess.

use keymeter_core::key::Secret;

use super::{report::Place, scalar::Scalar};

/// A secret of our own, which two states of the configuration can be compared by.
#[derive(Clone, Debug)]
pub struct Credential(pub Secret);

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.0.hash() == other.0.hash()
    }
}

impl Eq for Credential {}

/// Characters of a token: as many as 128 bits take in hexadecimal digits.
const LEAST: usize = 32;

/// The token that stands here. One that could be guessed is reported.
pub(super) fn long_enough(Scalar(token): Scalar<Secret>, place: &Place<'_>) -> Credential {
    let length = token.reveal().chars().count();
    if length < LEAST {
        place.error(format!(
            "a token of {length} characters could be guessed: at least {LEAST} are needed; `openssl rand -hex 32` makes \
             one of 64"
        ));
    }
    Credential(token)
}
