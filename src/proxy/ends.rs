//! Why we ourselves end an exchange with an upstream, or an attempt at one of its replicas: what hooks of Pingora tell each other.

use keymeter_core::key::KeyDenial;
use pingora::ErrorType;

use crate::keys::revocation::RevocationEntry;

/// The upstream refused our credential.
pub(super) const CREDENTIAL_REFUSED: ErrorType = ErrorType::Custom("the upstream refused our credential");
/// The key may not be used any more.
pub(super) const KEY_REVOKED: ErrorType = ErrorType::Custom("the key was revoked");
/// The request is sent again with what was added to it put otherwise.
pub(super) const ADDITION_REFUSED: ErrorType = ErrorType::Custom("the upstream refused what was added to the request");
/// The client must not see the end of what is not recorded.
pub(super) const LEDGER_UNAVAILABLE: ErrorType = ErrorType::Custom("the response could not be recorded");
/// The request is tried elsewhere.
pub(super) const ELSEWHERE: ErrorType = ErrorType::Custom("the request goes to another replica");
/// There is no attempt.
pub(super) const NO_REPLICA: ErrorType = ErrorType::Custom("no replica takes the request");

/// Waits until the key of a request is revoked; for ever where that does not end it.
pub(super) async fn revoked(run: Option<&RevocationEntry>) -> KeyDenial {
    match run {
        Some(run) => std::future::poll_fn(|context| run.poll_revoked(context)).await,
        None => std::future::pending().await,
    }
}
