//! How an admitted request ended, told by whoever carried it, and what that says of its client and its upstream.

use keymeter_core::rejection::Rejection;

use crate::observe::metrics::UpstreamOutcome;

/// How a request ended, as far as its carrier can tell.
#[derive(Debug, Default)]
pub struct Outcome<'request> {
    /// The status that the client got, if it got one.
    pub status: Option<u16>,
    /// Whether the response went through to its last byte.
    pub complete: bool,
    /// What is known of the client.
    pub client: Client,
    /// What the client was told in place of a response.
    pub rejection: Option<&'request Rejection>,
}

/// What is known of a request's client at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// It is there.
    #[default]
    There,
    /// Its connection failed, and with it the exchange.
    Gone,
    /// It left before the response's end, and the exchange went on without it.
    LeftEarly,
}

impl Outcome<'_> {
    /// Whether the client went away before the end.
    #[must_use]
    pub fn is_aborted(&self, complete: bool) -> bool {
        match self.client {
            Client::There => false,
            Client::Gone => !complete,
            Client::LeftEarly => true,
        }
    }

    /// What came of the upstream, whose head had `status`, 0 if there was none, and which said in its body that it failed,
    /// or did not.
    #[must_use]
    pub fn of_upstream(&self, status: u16, complete: bool, failed: bool) -> UpstreamOutcome {
        match (self.rejection, status) {
            _ if failed => UpstreamOutcome::UpstreamError,
            // What breaks behind the end of a response takes nothing from it.
            (Some(Rejection::Upstream { .. } | Rejection::UpstreamTimeout { .. }), 1..400) if complete => {
                UpstreamOutcome::Success
            }
            (Some(Rejection::UpstreamCredential { .. }), _) | (_, 401 | 403) => UpstreamOutcome::CredentialRefused,
            (Some(Rejection::UpstreamTimeout { .. }), _) => UpstreamOutcome::Timeout,
            (_, 429) => UpstreamOutcome::RateLimited,
            (_, 400..=499) => UpstreamOutcome::ClientError,
            (_, 500..) => UpstreamOutcome::ServerError,
            (Some(Rejection::Upstream { .. }), 0) => UpstreamOutcome::Unreachable,
            (Some(Rejection::Upstream { .. }), _) => UpstreamOutcome::BrokenOff,
            (None, 1..) if complete => UpstreamOutcome::Success,
            _ => UpstreamOutcome::Abandoned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream() -> String {
        "vllm".to_owned()
    }

    #[test]
    fn what_an_upstream_did_is_told_from_what_its_client_did() {
        use UpstreamOutcome as Of;
        let (broke, slow) =
            (Rejection::Upstream { upstream: upstream() }, Rejection::UpstreamTimeout { upstream: upstream() });
        let refused = Rejection::UpstreamCredential { upstream: upstream() };
        let revoked = Rejection::KeyDisabled("key_a".parse().unwrap());
        for (rejection, status, complete, expected) in [
            (None, 200, true, Of::Success),
            (None, 400, true, Of::ClientError),
            (None, 429, true, Of::RateLimited),
            (None, 503, true, Of::ServerError),
            (Some(&refused), 401, true, Of::CredentialRefused),
            (Some(&slow), 0, false, Of::Timeout),
            (Some(&slow), 200, false, Of::Timeout),
            (Some(&broke), 0, false, Of::Unreachable),
            (Some(&broke), 200, false, Of::BrokenOff),
            (Some(&broke), 200, true, Of::Success),
            (Some(&slow), 200, true, Of::Success),
            (Some(&revoked), 200, false, Of::Abandoned),
            (None, 200, false, Of::Abandoned),
            (None, 0, false, Of::Abandoned),
        ] {
            let outcome = Outcome { rejection, ..Outcome::default() };
            assert_eq!(outcome.of_upstream(status, complete, false), expected, "{rejection:?} {status} {complete}");
        }
        for (rejection, complete) in [(None, true), (None, false), (Some(&broke), false), (Some(&slow), false)] {
            let outcome = Outcome { rejection, ..Outcome::default() };
            assert_eq!(outcome.of_upstream(200, complete, true), Of::UpstreamError, "{rejection:?} {complete}");
        }
    }
}
