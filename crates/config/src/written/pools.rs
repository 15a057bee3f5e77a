//! How a replica is chosen, and what keeps requests at one.

use http::HeaderName;

use crate::scalar::{Choice, FromScalar};

/// By what a replica is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// By the tokens that its running requests were planned to take.
    #[default]
    LeastTokens,
    /// By the number of its running requests.
    LeastRequests,
    /// In turn.
    RoundRobin,
}

impl Choice for Balance {
    const CHOICES: &[(&str, Self)] = &[
        ("least_tokens", Self::LeastTokens),
        ("least_requests", Self::LeastRequests),
        ("round_robin", Self::RoundRobin),
    ];
}

/// What requests have in common that go to one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityBy {
    /// The model, and how the prompt begins.
    Prefix,
    /// The key.
    Key,
    /// The value of a header.
    Header(HeaderName),
}

impl FromScalar for AffinityBy {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "prefix" => Ok(Self::Prefix),
            "key" => Ok(Self::Key),
            _ => {
                let Some(name) = text.strip_prefix("header:") else {
                    return Err(format!(
                        "`{text}` is not accepted here; accepted: prefix, key, or header: and its name"
                    ));
                };
                let header = name.parse().map(Self::Header);
                header.map_err(|_| format!("`{name}` is not a header name; an example is header:x-session-id"))
            }
        }
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "string", "pattern": "^(prefix|key|header:.+)$", "examples": ["prefix"]})
    }
}

/// A percentage of at least 100.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadPercent(pub(crate) u32);

impl FromScalar for LoadPercent {
    fn from_text(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
        let accepted = number.filter(|load| (100..=10_000).contains(load)).map(Self);
        accepted.ok_or_else(|| "a load is written as 100% to 10000%, such as 125%".to_owned())
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({"title": "a percentage", "type": "string", "pattern": "^[0-9]+%$", "examples": ["125%"]})
    }
}
