//! What went wrong with a server, in words that its operator knows.

use pingora::{ErrorType, prelude::Error};

use super::UNRESOLVED;

/// What went wrong, in words: of a failure that has no words of its own, Pingora's without its chain.
#[must_use]
pub fn in_words(error: &Error) -> String {
    let words = match error.etype() {
        ErrorType::ConnectRefused => "connection refused",
        ErrorType::ConnectTimedout => "no connection within connect_timeout",
        ErrorType::ConnectNoRoute => "there is no route to it",
        ErrorType::TLSHandshakeTimedout => "no TLS handshake within connect_timeout",
        ErrorType::ReadTimedout => "no answer within read_timeout or first_byte_timeout",
        ErrorType::WriteTimedout => "it took no more of the request in time",
        ErrorType::ConnectionClosed => "it closed the connection before the answer was whole",
        kind if *kind == UNRESOLVED => "its name does not resolve",
        _ => "",
    };
    if !words.is_empty() {
        return words.to_owned();
    }
    let detail = error.context.as_ref().map(|context| format!(" ({})", context.as_str()));
    format!("{}{}", error.etype().as_str(), detail.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_words_is_told_in_them_and_nothing_is_told_twice() {
        let chain = Error::because(ErrorType::ConnectRefused, "Fail to connect to addr: 127.0.0.1:1", "cause");
        assert_eq!(in_words(&chain), "connection refused");
        assert_eq!(in_words(&Error::explain(UNRESOLVED, "a does not resolve")), "its name does not resolve");
        let other = Error::explain(ErrorType::TLSHandshakeFailure, "the certificate has expired");
        assert_eq!(in_words(&other), "TLSHandshakeFailure (the certificate has expired)");
        assert_eq!(in_words(&Error::new(ErrorType::H2Error)), "H2Error");
    }
}
