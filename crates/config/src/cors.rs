//! Which pages may call the gateway from a browser.

use std::time::Duration;

use super::{
    origin::Origin,
    raw,
    report::Place,
    scalar::{Scalar, Span},
};

/// Pages that may call the gateway from a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// At least one.
    pub origins: Vec<Origin>,
    /// How long a browser may remember that it may.
    pub max_age: Duration,
}

const TEN_MINUTES: Duration = Duration::from_mins(10);

impl Cors {
    pub(super) fn check(raw: raw::Cors, place: &Place<'_>) -> Option<Self> {
        let origins = place.required("origins", raw.origins, "the origins of pages, such as https://app.example");
        if origins.as_ref().is_some_and(Vec::is_empty) {
            place.field("origins").error("at least one origin is needed, such as https://app.example");
            return None;
        }
        let origins = place.field("origins").elements(origins?);
        Some(Self {
            origins: origins.into_iter().map(|(_, Scalar(origin))| origin).collect(),
            max_age: raw.max_age.map_or(TEN_MINUTES, |Scalar(Span(time))| time),
        })
    }

    /// Whether pages of `origin`, as a browser writes it, may call.
    #[must_use]
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|allowed| match allowed {
            Origin::Any => true,
            Origin::At(place) => place.as_bytes().eq_ignore_ascii_case(origin),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::FromScalar as _;

    #[test]
    fn only_the_named_may_call() {
        let at = |origin: &str| Origin::from_text(origin).unwrap();
        let cors = |origins| Cors { origins, max_age: Duration::ZERO };
        let two = cors(vec![at("https://app.example"), at("http://localhost:3000")]);
        assert!(two.allows(b"https://app.example") && two.allows(b"http://localhost:3000"));
        for other in ["https://app.example.evil", "http://app.example", "https://app.example:444", "null", ""] {
            assert!(!two.allows(other.as_bytes()), "{other}");
        }
        assert!(cors(vec![Origin::Any]).allows(b"null"));
    }
}
