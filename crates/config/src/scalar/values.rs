//! Names, addresses, secrets, numbers and money: how each is parsed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
    str::FromStr,
    sync::Arc,
};

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use jiff::Timestamp;
use keymeter_core::{
    api::Api,
    clock::moment,
    glob::Glob,
    hosts::HostName,
    key::{KeyHash, KeyId, KeyName, KeyState, Priority, Secret},
    limit::{Limit, LimitMode, Strategy},
    model_name,
    money::{Rate, Usd},
};
use serde_json::json;

use super::{super::url::UpstreamUrl, Choice, FromScalar};

impl Choice for Strategy {
    const CHOICES: &[(&str, Self)] = &[("expected", Self::Expected), ("worst_case", Self::WorstCase)];
}

impl Choice for LimitMode {
    const CHOICES: &[(&str, Self)] = &[("enforce", Self::Enforce), ("observe", Self::Observe)];
}

impl Choice for Api {
    const CHOICES: &[(&str, Self)] =
        &[("openai", Self::OpenAi), ("anthropic", Self::Anthropic), ("ollama", Self::Ollama), ("gemini", Self::Gemini)];
}

impl Choice for KeyState {
    const CHOICES: &[(&str, Self)] = &[
        ("active", Self::Active),
        ("disabled", Self::Disabled),
        ("archived", Self::Archived),
        ("no_balance", Self::NoBalance),
    ];
}

/// Text with something in it.
impl FromScalar for Arc<str> {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.into()) }
    }
}

impl FromScalar for Glob {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "minLength": 1, "maxLength": model_name::LONGEST})
    }
}

/// A secret that an HTTP header can carry.
impl FromScalar for Secret {
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the secret is empty".to_owned());
        }
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) || HeaderValue::from_str(text).is_err() {
            let message = "the secret has a space, a line break or a character that is not ASCII, \
                           which no HTTP header carries";
            return Err(message.to_owned());
        }
        Ok(Self::new(text))
    }

    /// As it was written it may have had another notation, such as 0x1F.
    fn from_number(_: &str) -> Result<Self, String> {
        Err("a secret must be written in quotes".to_owned())
    }

    const OF_FLOAT: &str = "a secret must be written in quotes";
}

/// A user or a team.
#[derive(Clone, Debug)]
pub(crate) struct Party(pub(crate) Arc<str>);

impl FromScalar for Party {
    fn from_text(text: &str) -> Result<Self, String> {
        let fits = (1..=64).contains(&text.chars().count());
        if fits && text.trim() == text && !text.chars().any(char::is_control) {
            Ok(Self(text.into()))
        } else {
            Err("1 to 64 characters, without control characters or spaces around them".to_owned())
        }
    }
}

/// What an upstream is called.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamName(pub(crate) Arc<str>);

impl FromScalar for UpstreamName {
    fn from_text(text: &str) -> Result<Self, String> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if plain && (1..=64).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err("an upstream's name is 1 to 64 characters of a-z, A-Z, 0-9, `.`, `_` and `-`".to_owned())
        }
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^[a-zA-Z0-9._-]{1,64}$"})
    }
}

/// What a model is called.
#[derive(Clone, Debug)]
pub(crate) struct ModelName(pub(crate) Arc<str>);

impl FromScalar for ModelName {
    fn from_text(text: &str) -> Result<Self, String> {
        if model_name::is_valid(text) {
            Ok(Self(text.into()))
        } else {
            Err("a model's name has 1 to 256 bytes and no control characters".to_owned())
        }
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "minLength": 1, "maxLength": model_name::LONGEST})
    }
}

/// How much of a load a replica takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight(pub(crate) u32);

impl FromScalar for Weight {
    fn from_text(text: &str) -> Result<Self, String> {
        let weight = text.parse().ok().filter(|weight| (1..=1000).contains(weight));
        weight.map(Self).ok_or_else(|| "a weight is a whole number from 1 to 1000".to_owned())
    }

    const OF_FLOAT: &str = "a weight is a whole number from 1 to 1000";

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 1, "maximum": 1000})
    }
}

impl FromScalar for Priority {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }

    const OF_FLOAT: &str = "a priority is a whole number from -100 to 100";

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": -100, "maximum": 100})
    }
}

impl FromScalar for SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!(
                "`{text}` is not an address; accepted: an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080"
            )
        })
    }
}

impl FromScalar for HostName {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| {
            format!(
                "`{text}` is not a host name; accepted: a name or an IP address without a port, such as metrics.example"
            )
        })
    }
}

/// A network, or a single address. One of IPv4 may be written as a part of IPv6 (RFC 4291, section 2.5.5.2).
impl FromScalar for IpNet {
    fn from_text(text: &str) -> Result<Self, String> {
        let network = text.parse::<Self>().map(|network| plain(network.trunc()));
        network.or_else(|_| text.parse().map(|address: IpAddr| address.to_canonical().into())).map_err(|_| {
            format!(
                "`{text}` is not a network; accepted: CIDR notation, such as 10.0.0.0/8 or fd00::/8, or one IP address"
            )
        })
    }
}

/// The network as addresses are compared with it: those of IPv4 as such.
fn plain(network: IpNet) -> IpNet {
    let IpNet::V6(six) = network else { return network };
    let four = six.addr().to_ipv4_mapped().zip(six.prefix_len().checked_sub(96));
    four.and_then(|(address, length)| IpNet::new(address.into(), length).ok()).unwrap_or(network)
}

impl FromScalar for HeaderName {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| format!("`{text}` is not a header name; an example is x-forwarded-for"))
    }
}

/// RFC 3339.
impl FromScalar for Timestamp {
    fn from_text(text: &str) -> Result<Self, String> {
        let error =
            || format!("`{text}` is not an RFC 3339 time, such as 2027-01-01T00:00:00Z, or a date, such as 2027-01-01");
        moment(text).ok_or_else(error)
    }

    fn schema() -> serde_json::Value {
        let forms = [json!({"format": "date-time"}), json!({"format": "date"})];
        json!({"title": "a time, or a date", "type": "string", "anyOf": forms, "examples": ["2027-01-01T00:00:00Z"]})
    }
}

impl FromScalar for Rate {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }

    const OF_FLOAT: &str = "money is never a floating-point number: write it in quotes, such as \"0.20\"";

    fn schema() -> serde_json::Value {
        let decimal = json!({
            "title": "US dollars in quotes",
            "type": "string",
            "pattern": r"^[0-9]+(\.[0-9]{1,9})?$",
            "examples": ["0.20"],
        });
        json!({"anyOf": [decimal, {"type": "integer", "minimum": 0}]})
    }
}

impl FromScalar for Usd {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }

    const OF_FLOAT: &str = "money is never a floating-point number: write it in quotes, such as \"0.20\"";
}

impl FromScalar for u64 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "must be a whole number, 0 or more".to_owned())
    }

    const OF_FLOAT: &str = "must be a whole number, 0 or more";

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 0})
    }
}

impl FromScalar for usize {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "must be a whole number, 0 or more".to_owned())
    }

    const OF_FLOAT: &str = "must be a whole number, 0 or more";

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 0})
    }
}

impl FromScalar for NonZeroU64 {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "must be a whole number, 1 or more".to_owned())
    }

    const OF_FLOAT: &str = "must be a whole number, 1 or more";

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 1})
    }
}

impl FromScalar for Limit {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }

    const OF_FLOAT: &str = "a limit is a whole number of at least 1, or `unlimited`";

    fn schema() -> serde_json::Value {
        json!({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "unlimited"}]})
    }
}

impl FromScalar for KeyHash {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }

    fn schema() -> serde_json::Value {
        json!({"title": "`sha256:` and 64 hexadecimal digits", "type": "string", "pattern": "^sha256:[0-9a-fA-F]{64}$"})
    }
}

impl FromScalar for KeyId {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^[a-z0-9_]{1,64}$"})
    }
}

impl FromScalar for KeyName {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "minLength": 3, "maxLength": 50})
    }
}

impl FromScalar for UpstreamUrl {
    fn from_text(text: &str) -> Result<Self, String> {
        by_its_own_parser(text)
    }
}

fn by_its_own_parser<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;

    use super::*;

    #[test]
    fn networks_are_brought_to_their_plain_form() {
        let read = |text| IpNet::from_text(text).map(|network| network.to_string());
        assert_eq!(read("10.1.2.3/8").as_deref(), Ok("10.0.0.0/8"));
        assert_eq!(read("10.1.2.3").as_deref(), Ok("10.1.2.3/32"));
        assert_eq!(read("fd00::/8").as_deref(), Ok("fd00::/8"));
        assert_eq!(read("::ffff:10.1.2.3/104").as_deref(), Ok("10.0.0.0/8"));
        assert_eq!(read("::ffff:10.1.2.3").as_deref(), Ok("10.1.2.3/32"));
        assert_eq!(read("::/0").as_deref(), Ok("::/0"));
        assert!(read("10.0.0.0/33").is_err() && read("lan").is_err());
    }

    #[test]
    fn a_secret_is_one_that_a_header_carries_and_is_not_repeated() {
        for text in ["", "a b", "ab\n", "schlüssel-geheim"] {
            let error = Secret::from_text(text).unwrap_err();
            assert!(text.is_empty() || !error.contains(text.trim()), "{error}");
        }
        assert_eq!(Secret::from_text("sk-1~").unwrap().reveal(), "sk-1~");
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(text in "\\PC{0,12}") {
            let _ = (IpNet::from_text(&text), Party::from_text(&text), UpstreamUrl::from_text(&text));
        }
    }
}
