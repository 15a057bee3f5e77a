//! What is remembered of one request, so that it can be charged and asked for: as it stands in the spool and as it is
//! sent on.

use std::{fmt, str::FromStr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::price::Usd;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// By which it counts once, however often it is sent: up to 64 letters, digits, `-` and `_`.
    pub id: RecordId,
    /// The life of a gateway's process that the request ran in; its allowances are its own.
    pub gateway: RecordId,
    /// When it ended.
    pub time: Timestamp,
    /// Of the key.
    pub key_id: Arc<str>,
    /// The key's name then.
    pub key_name: Arc<str>,
    /// The key's owner then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
    /// The key's team then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<Arc<str>>,
    /// What it is charged to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wallet: Option<Arc<str>>,
    /// As the client named it, cut to 128 bytes.
    pub model: Arc<str>,
    /// Of the prompt, from no cache.
    pub input_tokens: u64,
    /// Of the prompt, read from a cache.
    pub cached_input_tokens: u64,
    /// Of the prompt, written to a cache.
    pub cache_write_tokens: u64,
    /// Of the answer, reasoning included.
    pub output_tokens: u64,
    /// Of the answer, spent on reasoning.
    pub reasoning_tokens: u64,
    /// What all of it cost.
    #[serde(with = "decimal")]
    pub cost_usd: Usd,
    /// What the client was answered.
    pub status: u16,
    /// Where the counts came from: `upstream`, `estimated` or `none`.
    pub usage_source: Arc<str>,
}

impl Record {
    /// Reads a record, and refuses one whose numbers no request reaches.
    ///
    /// # Errors
    /// What is wrong with it, by the name of the field.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let record: Self = serde_path_to_error::deserialize(&mut reader)
            .map_err(|fault| format!("{}: {}", fault.path(), fault.inner()))?;
        reader.end().map_err(|fault| fault.to_string())?;
        record.checked()
    }

    /// The record, if a request may have come to that.
    ///
    /// # Errors
    /// Which field is out of bounds.
    pub fn checked(self) -> Result<Self, String> {
        let tokens = [
            ("input_tokens", self.input_tokens),
            ("cached_input_tokens", self.cached_input_tokens),
            ("cache_write_tokens", self.cache_write_tokens),
            ("output_tokens", self.output_tokens),
            ("reasoning_tokens", self.reasoning_tokens),
        ];
        if let Some((field, _)) = tokens.into_iter().find(|(_, tokens)| *tokens > MOST_TOKENS) {
            return Err(format!("{field}: more than {MOST_TOKENS}"));
        }
        if self.cost_usd < Usd::ZERO || self.cost_usd > MOST_COST {
            return Err(format!("cost_usd: not between 0 and {MOST_COST}"));
        }
        if self.model.len() > 128 {
            return Err("model: more than 128 bytes".to_owned());
        }
        Ok(self)
    }
}

/// More than any request takes, and so little that sums of them do not overflow.
const MOST_TOKENS: u64 = 1 << 40;
const MOST_COST: Usd = Usd::from_nanos(1_000_000_000_000_000);

/// Up to 64 letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RecordId(Arc<str>);

impl RecordId {
    /// A new random one of 16 hexadecimal digits: for the life of a process.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; 8];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{:016x}", u64::from_be_bytes(bytes)).into()))
    }

    /// The id of this session's record of this number.
    #[must_use]
    pub fn numbered(&self, number: u64) -> Self {
        Self(format!("{}-{number:x}", self.0).into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RecordId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=64).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if fits && plain { Ok(Self(text.into())) } else { Err("an id is 1 to 64 letters, digits, - and _".to_owned()) }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Money as a decimal string.
pub mod decimal {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::price::Usd;

    /// Writes an amount.
    ///
    /// # Errors
    /// When the writer fails.
    pub fn serialize<S: Serializer>(amount: &Usd, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(amount)
    }

    /// Reads an amount.
    ///
    /// # Errors
    /// When it is no decimal string.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Usd, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn record(number: u64) -> Record {
        Record {
            id: "0123456789abcdef".parse::<RecordId>().unwrap().numbered(number),
            gateway: "0123456789abcdef".parse().unwrap(),
            time: "2026-06-01T10:20:30.123456Z".parse().unwrap(),
            key_id: "key_a".into(),
            key_name: "Some key".into(),
            owner: None,
            team: Some("research".into()),
            wallet: Some("research".into()),
            model: "qwen3".into(),
            input_tokens: 7,
            cached_input_tokens: 1,
            cache_write_tokens: 2,
            output_tokens: number,
            reasoning_tokens: 0,
            cost_usd: Usd::from_nanos(12_300),
            status: 200,
            usage_source: "upstream".into(),
        }
    }

    #[test]
    fn a_record_reads_back_as_it_is_written() {
        let text = serde_json::to_string(&record(26)).unwrap();
        assert!(text.contains(r#""id":"0123456789abcdef-1a""#) && text.contains(r#""cost_usd":"0.0000123""#), "{text}");
        assert_eq!(Record::parse(text.as_bytes()).unwrap(), record(26));
    }

    #[test]
    fn what_no_request_comes_to_is_refused_by_its_field() {
        let text = serde_json::to_string(&record(1)).unwrap();
        for (from, to, expected) in [
            ("\"input_tokens\":7", "\"input_tokens\":-7", "input_tokens: invalid value"),
            ("\"input_tokens\":7", "\"input_tokens\":1099511627777", "input_tokens: more than"),
            ("\"0.0000123\"", "0.5", "cost_usd: invalid type: floating point"),
            ("\"0.0000123\"", "\"-0.5\"", "cost_usd: not between 0"),
            ("0123456789abcdef-1", "a/b", "id: an id is"),
            ("\"status\":200", "\"status\":200,\"stats\":1", "stats: unknown field"),
            ("\"model\":\"qwen3\",", "", ".: missing field `model`"),
        ] {
            let fault = Record::parse(text.replace(from, to).as_bytes()).unwrap_err();
            assert!(fault.starts_with(expected), "{to}: {fault}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_fails_to_be_written(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(record) = Record::parse(&bytes) {
                prop_assert_eq!(Record::parse(&serde_json::to_vec(&record).unwrap()), Ok(record));
            }
        }
    }
}
