//! Usage records. The JSON of a record is the same in the outbox, on the wire and in the accounting service.

use std::{fmt, str::FromStr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::{
    field,
    json_line::JsonLine,
    key::{KeyId, KeyName},
    model_name::has_control,
    money::Usd,
    usage::UsageSource,
};

/// One request: whose it was, what it used and what it cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a record, a JSON object")]
pub struct Record {
    /// What makes it count once however often it is sent.
    #[serde(with = "text")]
    pub id: RecordId,
    /// The run of a gateway that served it.
    #[serde(with = "text")]
    pub gateway: Session,
    /// When it arrived, to the microsecond.
    #[serde(with = "time")]
    pub time: Timestamp,
    /// Its key.
    #[serde(with = "text")]
    pub key_id: KeyId,
    /// What the key was called then.
    #[serde(serialize_with = "name", deserialize_with = "text::deserialize")]
    pub key_name: KeyName,
    /// Whose key it was.
    #[serde(default, deserialize_with = "party", skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
    /// The team that used it.
    #[serde(default, deserialize_with = "party", skip_serializing_if = "Option::is_none")]
    pub team: Option<Arc<str>>,
    /// Who pays for it; `None`: nobody.
    #[serde(default, deserialize_with = "party", skip_serializing_if = "Option::is_none")]
    pub wallet: Option<Arc<str>>,
    /// As the client named it, cut to [`LONGEST_MODEL`] bytes.
    #[serde(deserialize_with = "model")]
    pub model: Arc<str>,
    /// Of the prompt, from no cache. As all tokens at most [`MOST_TOKENS`].
    #[serde(deserialize_with = "tokens")]
    pub input_tokens: u64,
    /// Of the prompt, read from a cache.
    #[serde(deserialize_with = "tokens")]
    pub cached_input_tokens: u64,
    /// Of the prompt, written to a cache.
    #[serde(deserialize_with = "tokens")]
    pub cache_write_tokens: u64,
    /// Of the answer, reasoning included.
    #[serde(deserialize_with = "tokens")]
    pub output_tokens: u64,
    /// Of the answer, spent on reasoning.
    #[serde(deserialize_with = "tokens")]
    pub reasoning_tokens: u64,
    /// What it cost: nothing or more, at most [`MOST_COST`].
    #[serde(serialize_with = "decimal::serialize", deserialize_with = "cost")]
    pub cost_usd: Usd,
    /// The status that the client got.
    #[serde(deserialize_with = "status")]
    pub status: u16,
    /// Where the counts come from.
    #[serde(with = "source")]
    pub usage_source: UsageSource,
}

/// The longest name of a model, in bytes.
pub const LONGEST_MODEL: usize = 128;

/// More tokens than any request takes, and so few that sums of whatever an upstream states fit their type.
pub const MOST_TOKENS: u64 = 1_000_000_000_000;

/// More than any request costs, and so little that sums fit their type: a million dollars.
pub const MOST_COST: Usd = Usd::from_nanos(1_000_000_000_000_000);

impl Record {
    /// Reads a record from its JSON.
    ///
    /// # Errors
    /// Which field is wrong, and how.
    pub fn parse(json: &[u8]) -> Result<Self, RecordError> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let record = Self::read(&mut reader)?;
        reader.end().map_err(|error| RecordError { field: None, why: error.to_string() })?;
        Ok(record)
    }

    /// The record that a JSON value is.
    ///
    /// # Errors
    /// Which field is wrong, and how.
    pub fn read<'de>(json: impl Deserializer<'de, Error = serde_json::Error>) -> Result<Self, RecordError> {
        serde_path_to_error::deserialize(json).map_err(|error| {
            let field = error.path().to_string();
            RecordError { field: (field != ".").then_some(field), why: error.into_inner().to_string() }
        })
    }

    /// The record, with no more in it than can be summed, whatever nonsense an upstream stated.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let Self { input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, .. } =
            &mut self;
        for tokens in [input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens] {
            *tokens = MOST_TOKENS.min(*tokens);
        }
        self.cost_usd = self.cost_usd.clamp(Usd::ZERO, MOST_COST);
        self
    }

    /// The record in JSON, on one line.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut line = JsonLine::new();
        line.text(field!("id"), self.id.as_str());
        line.text(field!("gateway"), self.gateway.as_str());
        line.time(field!("time"), self.time);
        line.text(field!("key_id"), self.key_id.as_str());
        line.text(field!("key_name"), self.key_name.as_str());
        let parties = [(field!("owner"), &self.owner), (field!("team"), &self.team), (field!("wallet"), &self.wallet)];
        for (name, party) in parties {
            if let Some(party) = party {
                line.text(name, party);
            }
        }
        line.text(field!("model"), &self.model);
        line.number(field!("input_tokens"), self.input_tokens);
        line.number(field!("cached_input_tokens"), self.cached_input_tokens);
        line.number(field!("cache_write_tokens"), self.cache_write_tokens);
        line.number(field!("output_tokens"), self.output_tokens);
        line.number(field!("reasoning_tokens"), self.reasoning_tokens);
        line.money(field!("cost_usd"), self.cost_usd);
        line.number(field!("status"), self.status.into());
        line.text(field!("usage_source"), self.usage_source.as_str());
        line.end()
    }
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{why}", field.as_ref().map_or_else(String::new, |field| format!("{field}: ")))]
pub struct RecordError {
    /// The field; `None`: it is the record as a whole.
    pub field: Option<String>,
    /// What is wrong, and what is accepted.
    pub why: String,
}

/// The name of a record: 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_` and `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(Arc<str>);

impl RecordId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no name of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an id is 1 to 64 characters of A-Z, a-z, 0-9, _ and -")]
pub struct RecordIdError;

impl FromStr for RecordId {
    type Err = RecordIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let fits = (1..=64).contains(&text.len()) && plain;
        fits.then(|| Self(text.into())).ok_or(RecordIdError)
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One run of a gateway, told from all others by a random number: 16 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session(Arc<str>);

impl Session {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        getrandom::u64().map(|number| Self(format!("{number:016x}").into()))
    }

    /// The session as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no gateway's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a gateway's session is 16 hexadecimal digits, 0-9 and a-f")]
pub struct SessionError;

impl FromStr for Session {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| Self(text.into())).ok_or(SessionError)
    }
}

impl fmt::Display for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Money as a decimal string.
pub mod decimal {
    use super::{Deserializer, Serializer, Usd};

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
        super::text::deserialize(deserializer)
    }
}

/// A value whose own words for itself are written.
pub mod text {
    use super::{Deserialize, Deserializer, FromStr, Serializer, de, fmt};

    /// Writes `value` as it displays itself.
    ///
    /// # Errors
    /// When the serializer fails.
    pub fn serialize<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads a value from its own words.
    ///
    /// # Errors
    /// When the text is none of its.
    pub fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

mod time {
    use super::{Deserialize, Deserializer, Serializer, Timestamp, de};

    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{time:.6}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let time = String::deserialize(deserializer)?.parse::<Timestamp>();
        let time = time.and_then(|time| Timestamp::from_microsecond(time.as_microsecond()));
        time.map_err(|_| de::Error::custom("a time is written as RFC 3339 has it, with its zone"))
    }
}

mod source {
    use super::{Deserialize, Deserializer, Serializer, UsageSource, de};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes all fields so")]
    pub fn serialize<S: Serializer>(source: &UsageSource, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(source.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UsageSource, D::Error> {
        let word = String::deserialize(deserializer)?;
        let source = [UsageSource::Upstream, UsageSource::Estimated, UsageSource::None]
            .into_iter()
            .find(|one| one.as_str() == word);
        source.ok_or_else(|| de::Error::custom("accepted: upstream, estimated, none"))
    }
}

fn name<S: Serializer>(name: &KeyName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

/// The name of a user or a team, as keys have it.
fn party<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    let Some(name) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let fits = (1..=64).contains(&name.chars().count());
    let is_plain = name.trim() == name && !name.chars().any(char::is_control);
    let why = "a name is 1 to 64 characters, without control characters or spaces around them";
    (fits && is_plain).then(|| Some(name.into())).ok_or_else(|| de::Error::custom(why))
}

fn model<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let fits = name.len() <= LONGEST_MODEL && !has_control(&name);
    let why = "a model's name has 128 bytes at most and no control characters";
    fits.then(|| name.into()).ok_or_else(|| de::Error::custom(why))
}

fn tokens<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let tokens = u64::deserialize(deserializer)?;
    let why = || de::Error::custom(format_args!("a request has {MOST_TOKENS} tokens at most"));
    (tokens <= MOST_TOKENS).then_some(tokens).ok_or_else(why)
}

fn cost<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Usd, D::Error> {
    let cost = decimal::deserialize(deserializer)?;
    let why = || de::Error::custom(format_args!("a request costs from 0 to {MOST_COST} dollars"));
    (Usd::ZERO..=MOST_COST).contains(&cost).then_some(cost).ok_or_else(why)
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let status = u16::deserialize(deserializer)?;
    let fits = (100..=999).contains(&status);
    fits.then_some(status).ok_or_else(|| de::Error::custom("a status is a number from 100 to 999"))
}

#[cfg(any(test, feature = "test-util"))]
pub mod any;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{any::any_record, *};

    const EXAMPLE: &str = concat!(
        r#"{"id":"req_1-A","gateway":"00000000000000ff","time":"2026-07-01T12:00:00.000001Z","key_id":"key_a","#,
        r#""key_name":"Some key","owner":"ada","team":"t","wallet":"t","model":"llama-3","input_tokens":1,"#,
        r#""cached_input_tokens":2,"cache_write_tokens":3,"output_tokens":4,"reasoning_tokens":1,"#,
        r#""cost_usd":"0.000123","status":200,"usage_source":"upstream"}"#
    );

    fn example() -> Record {
        Record::parse(EXAMPLE.as_bytes()).unwrap()
    }

    #[test]
    fn a_record_is_read_and_written() {
        let record = example();
        assert_eq!((record.input_tokens, record.cached_input_tokens, record.cache_write_tokens), (1, 2, 3));
        assert_eq!((record.output_tokens, record.reasoning_tokens, record.status), (4, 1, 200));
        assert_eq!((record.cost_usd, record.usage_source), (Usd::from_nanos(123_000), UsageSource::Upstream));
        assert_eq!(String::from_utf8(record.to_json()).unwrap(), EXAMPLE);
        let of_nobody = Record { owner: None, team: None, wallet: None, ..record };
        assert_eq!(Record::parse(&of_nobody.to_json()), Ok(of_nobody));
    }

    #[test]
    fn a_fault_names_its_field() {
        for (field, value, why) in [
            ("id", json!("a b"), "an id is 1 to 64 characters"),
            ("id", json!(""), "an id is 1 to 64 characters"),
            ("id", json!("a".repeat(65)), "an id is 1 to 64 characters"),
            ("id", json!(7), "invalid type: integer `7`, expected a string"),
            ("gateway", json!("FF00000000000000"), "a gateway's session is 16 hexadecimal digits"),
            ("gateway", json!("ff"), "a gateway's session is 16 hexadecimal digits"),
            ("time", json!("yesterday"), "a time is written as RFC 3339 has it"),
            ("time", json!("2026-07-01T12:00:00"), "a time is written as RFC 3339 has it"),
            ("key_id", json!("Key A"), "an id is 1 to 64 characters of a-z"),
            ("key_name", json!("ab"), "a name is 3 to 50 characters"),
            ("owner", json!(" ada"), "a name is 1 to 64 characters"),
            ("team", json!("a\nb"), "a name is 1 to 64 characters"),
            ("wallet", json!(""), "a name is 1 to 64 characters"),
            ("model", json!("m".repeat(129)), "a model's name has 128 bytes at most"),
            ("model", json!("m1\u{0}x"), "a model's name has 128 bytes at most and no control characters"),
            ("model", json!("\u{85}"), "a model's name has 128 bytes at most and no control characters"),
            ("input_tokens", json!(-1), "invalid value: integer `-1`"),
            ("cached_input_tokens", json!(1.5), "invalid type: floating point"),
            ("cache_write_tokens", json!("7"), "invalid type: string"),
            ("output_tokens", json!(MOST_TOKENS + 1), "a request has 1000000000000 tokens at most"),
            ("reasoning_tokens", Value::Null, "invalid type: null"),
            ("cost_usd", json!(0.5), "invalid type: floating point"),
            ("cost_usd", json!("-0.1"), "a request costs from 0 to 1000000 dollars"),
            ("cost_usd", json!("1000000.000000001"), "a request costs from 0 to 1000000 dollars"),
            ("cost_usd", json!("0.0000000001"), "9 decimals"),
            ("status", json!(99), "a status is a number from 100 to 999"),
            ("status", json!(70_000), "invalid value: integer `70000`"),
            ("usage_source", json!("guess"), "accepted: upstream, estimated, none"),
        ] {
            let mut record: Value = serde_json::from_str(EXAMPLE).unwrap();
            record[field] = value;
            let error = Record::parse(record.to_string().as_bytes()).expect_err(field);
            assert_eq!(error.field.as_deref(), Some(field), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_field_is_missing_or_one_too_many() {
        let full: Value = serde_json::from_str(EXAMPLE).unwrap();
        for (field, _) in full.as_object().unwrap() {
            let mut less = full.clone();
            less.as_object_mut().unwrap().remove(field);
            let read = Record::parse(less.to_string().as_bytes());
            if matches!(field.as_str(), "owner" | "team" | "wallet") {
                assert!(read.is_ok(), "{field}");
            } else {
                assert!(read.unwrap_err().to_string().contains(&format!("missing field `{field}`")), "{field}");
            }
        }
        let more = EXAMPLE.replace("{\"id\"", "{\"weight\":1,\"id\"");
        assert!(Record::parse(more.as_bytes()).unwrap_err().to_string().contains("unknown field `weight`"));
        let twice = EXAMPLE.replace("{\"id\"", "{\"status\":1,\"id\"");
        assert!(Record::parse(twice.as_bytes()).is_err());
        assert!(Record::parse(format!("{EXAMPLE} x").as_bytes()).is_err());
        assert!(Record::parse(b"[]").unwrap_err().to_string().contains("a record, a JSON object"));
    }

    #[test]
    fn nonsense_that_an_upstream_states_is_cut_to_what_can_be_summed() {
        let cost_usd = Usd::from_nanos(i64::MAX);
        let record = Record { input_tokens: u64::MAX, reasoning_tokens: u64::MAX, cost_usd, ..example() };
        let read = Record::parse(&record.bounded().to_json()).unwrap();
        assert_eq!((read.input_tokens, read.reasoning_tokens, read.cost_usd), (MOST_TOKENS, MOST_TOKENS, MOST_COST));
        assert_eq!(example().bounded(), example());
    }

    proptest! {
        #[test]
        fn every_record_reads_back(record in any_record()) {
            let json = record.to_json();
            prop_assert!(!json.contains(&0), "no frame can be forged in it");
            prop_assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), serde_json::to_value(&record).unwrap());
            prop_assert_eq!(Record::parse(&json), Ok(record));
        }
    }
}
