//! What a key is: the secret that its holder has, the hash that we keep of it, and the
//! record that says what the key may do. The secret's type cannot be printed, so that no
//! log line or error can give one away by accident.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    glob::Glob,
    limit::{Limit, LimitMode, ModelLimits, Quotas, Scope, ScopeLimits},
};

/// The `sk-…` string that proves possession of a key. It is wiped from memory when dropped,
/// and prints masked.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

const PREFIX: &str = "sk-";
const RANDOM_CHARACTERS: usize = 42;
const CHECKSUM_CHARACTERS: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Secret {
    /// A new secret: `sk-`, 42 random characters of base62 (250 bits), and their checksum.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut body = String::with_capacity(RANDOM_CHARACTERS);
        let mut pool = [0_u8; 64];
        while body.len() < RANDOM_CHARACTERS {
            getrandom::fill(&mut pool)?;
            // 248 is the largest multiple of 62 in a byte: taking only what is below it
            // makes every character equally likely.
            let characters = pool.iter().filter(|byte| **byte < 248).map(|byte| base62_digit(u32::from(*byte)));
            body.extend(characters.take(RANDOM_CHARACTERS - body.len()));
        }
        pool.zeroize();
        let secret = Self(format!("{PREFIX}{body}{}", checksum(&body)));
        body.zeroize();
        Ok(secret)
    }

    /// Takes what a client or a file presents as a secret, whatever its form.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The SHA-256 of the whole secret, which is what is kept and looked up.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::digest(self.0.as_bytes())
    }

    /// Whether this has the form of a generated secret and its checksum is right.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        is_well_formed(&self.0)
    }

    /// The first 8 and the last 4 characters, for people to tell keys apart.
    #[must_use]
    pub fn masked(&self) -> String {
        let characters: Vec<char> = self.0.chars().collect();
        match (characters.first_chunk::<8>(), characters.last_chunk::<4>()) {
            (Some(head), Some(tail)) if characters.len() >= 20 => {
                format!("{}…{}", String::from_iter(head), String::from_iter(tail))
            }
            _ => "…".to_owned(),
        }
    }

    /// The secret itself, for the one place that shows a new key to whoever made it and the
    /// one that sends our own credential upstream.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret({})", self.masked())
    }
}

/// Whether `text` has the form of a generated secret: `sk-`, 42 characters of base62, and the
/// CRC-32 (ISO-HDLC) of those 42 in 6 digits of base62.
#[must_use]
pub fn is_well_formed(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(PREFIX) else { return false };
    if rest.len() != RANDOM_CHARACTERS + CHECKSUM_CHARACTERS || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return false;
    }
    let (body, stated) = rest.split_at(RANDOM_CHARACTERS);
    checksum(body).as_bytes().ct_eq(stated.as_bytes()).into()
}

/// The CRC-32 of `body` in base62, most significant digit first, padded with `0`.
fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = ['0'; CHECKSUM_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = base62_digit(rest);
        rest /= 62;
    }
    String::from_iter(digits)
}

#[expect(clippy::indexing_slicing, reason = "the remainder is below the alphabet's length")]
fn base62_digit(value: u32) -> char {
    char::from(BASE62[(value % 62) as usize])
}

/// The SHA-256 of a secret. Compared in constant time.
#[derive(Clone, Copy, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hashes the bytes of a secret.
    #[must_use]
    pub fn digest(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// The hash by which the key of a token's holder is looked up: of `jwt`, the issuer and the value of the claim that
    /// names the holder, with a space between them. No secret contains a space, so no secret has such a hash; and no
    /// issuer's name does, so that no two holders share one.
    #[must_use]
    pub fn of_token_holder(issuer: &str, holder: &str) -> Self {
        let mut hash = Sha256::new();
        for part in ["jwt ", issuer, " ", holder] {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// One of its bytes, which are all alike random.
    #[must_use]
    pub const fn first_byte(&self) -> u8 {
        let [first, ..] = self.0;
        first
    }

    /// The 64 hexadecimal digits, without a prefix.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl PartialEq for KeyHash {
    /// Takes as long whichever byte differs, and a few instructions for all of them together.
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |all, (one, another)| all | (one ^ another));
        std::hint::black_box(difference) == 0
    }
}

impl std::hash::Hash for KeyHash {
    /// A digest's bytes are all alike random: eight of them tell digests apart in a map.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let [first, second, third, fourth, fifth, sixth, seventh, eighth, ..] = self.0;
        state.write_u64(u64::from_ne_bytes([first, second, third, fourth, fifth, sixth, seventh, eighth]));
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.to_hex())
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for KeyHash {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        let digits = text.strip_prefix("sha256:").ok_or(KeyError::Hash)?;
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| KeyError::Hash)?;
        Ok(Self(bytes))
    }
}

/// The stable, public name of a key: 1 to 64 characters of `a-z`, `0-9` and `_`. It stands in
/// metrics, logs and messages.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// A new random id, `key_` and 16 characters.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut pool = [0_u8; 16];
        getrandom::fill(&mut pool)?;
        let digit = |byte: u8| char::from_digit(u32::from(byte % 32), 32).unwrap_or('0');
        let name: String = pool.into_iter().map(digit).collect();
        Ok(Self(format!("key_{name}").into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let fits = (1..=64).contains(&text.len());
        let plain = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if fits && plain { Ok(Self(text.into())) } else { Err(KeyError::Id) }
    }
}

/// What people call a key: 3 to 50 characters, none of them a control character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName(Arc<str>);

impl KeyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let fits = (3..=50).contains(&text.chars().count());
        if fits && !text.chars().any(char::is_control) && text.trim() == text {
            Ok(Self(text.into()))
        } else {
            Err(KeyError::Name)
        }
    }
}

/// Which of the requests that wait goes first: one of the lowest number, from -100 to 100. Unless it is set it is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Priority(i8);

impl Priority {
    /// As a number.
    #[must_use]
    pub const fn number(self) -> i8 {
        self.0
    }
}

impl TryFrom<i64> for Priority {
    type Error = KeyError;

    fn try_from(number: i64) -> Result<Self, KeyError> {
        let number = i8::try_from(number).ok().filter(|number| (-100..=100).contains(number));
        number.map(Self).ok_or(KeyError::Priority)
    }
}

impl From<Priority> for i64 {
    fn from(priority: Priority) -> Self {
        priority.0.into()
    }
}

impl FromStr for Priority {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.parse::<i64>().map_err(|_| KeyError::Priority)?.try_into()
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Why a part of a key's record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not `sha256:` and 64 hexadecimal digits.
    #[error("a hash is `sha256:` and 64 hexadecimal digits; `keymeter keys hash` makes one of a secret")]
    Hash,
    /// Not 1 to 64 characters of `a-z`, `0-9` and `_`.
    #[error("an id is 1 to 64 characters of a-z, 0-9 and _")]
    Id,
    /// Not 3 to 50 printable characters.
    #[error("a name is 3 to 50 characters, without control characters or spaces around it")]
    Name,
    /// Not a whole number from -100 to 100.
    #[error("a priority is a whole number from -100 to 100")]
    Priority,
}

/// Whether a key may be used, as its source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It may.
    Active,
    /// It is disabled.
    Disabled,
    /// It is archived, as its owner is on a team.
    Archived,
    /// Its wallet is used up.
    NoBalance,
}

/// Why a key may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDenial {
    /// No key has this secret, or none has it any more.
    Unknown,
    /// It is disabled.
    Disabled,
    /// It is archived, as its owner is on a team.
    Archived,
    /// Its wallet is used up.
    NoBalance,
    /// Its time is over.
    Expired,
}

/// A secret that was replaced and goes on working for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retiring {
    /// Of the replaced secret.
    pub hash: KeyHash,
    /// When it stops working.
    pub not_after: Timestamp,
}

/// A key's own limits; `None` where the configuration's default holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLimits {
    /// Requests in any 60 seconds.
    pub requests_per_minute: Option<Limit>,
    /// Tokens in any 60 seconds.
    pub tokens_per_minute: Option<Limit>,
    /// Requests running at once.
    pub concurrent_requests: Option<Limit>,
}

/// What few keys have: limits beside those of a minute, those of others that hold for it too, and where it may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// What it may use over longer times.
    pub quotas: Quotas,
    /// What it may use of some models, beside its own limits.
    pub models: Box<[ModelLimits]>,
    /// Whether limits refuse its requests; `None`: as the configuration says.
    pub mode: Option<LimitMode>,
    /// What its team may use.
    pub team: Option<Arc<ScopeLimits>>,
    /// What its owner may use.
    pub owner: Option<Arc<ScopeLimits>>,
    /// The networks that it may be used from; none: from all.
    pub allow_from: Box<[IpNet]>,
}

impl Terms {
    /// Whether there is a quota among them.
    #[must_use]
    pub fn have_quotas(&self) -> bool {
        let of_others = [&self.team, &self.owner].into_iter().flatten().any(|limits| !limits.quotas.is_empty());
        !self.quotas.is_empty() || of_others || self.models.iter().any(|model| !model.limits.quotas.is_empty())
    }
}

/// Everything that a source says of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its stable, public name.
    pub id: KeyId,
    /// What people call it.
    pub name: KeyName,
    /// Of its secret.
    pub hash: KeyHash,
    /// Whether it may be used.
    pub state: KeyState,
    /// The user or team that it belongs to.
    pub owner: Option<Arc<str>>,
    /// The team that uses it.
    pub team: Option<Arc<str>>,
    /// The models that it may call; `None`: all.
    pub models: Option<Box<[Glob]>>,
    /// Its own limits.
    pub limits: OwnLimits,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Secrets that it had before and that still work.
    pub retiring: Box<[Retiring]>,
    /// The wallet that its requests are charged to, if they are charged.
    pub wallet: Option<Arc<str>>,
    /// Which of the requests that wait goes first.
    pub priority: Priority,
    /// What few keys have.
    pub terms: Option<Box<Terms>>,
}

impl KeyRecord {
    /// What the limits of `scope` belong to: the key itself, its team, or its owner, if it has one.
    #[must_use]
    pub fn id_in(&self, scope: Scope) -> Option<&str> {
        match scope {
            Scope::Key | Scope::Model => Some(self.id.as_str()),
            Scope::Team => self.team.as_deref(),
            Scope::Owner => self.owner.as_deref(),
        }
    }

    /// Whether the key may be used from `address`. An IPv4 address that is written as one of IPv6 is one of IPv4.
    #[must_use]
    pub fn may_come_from(&self, address: IpAddr) -> bool {
        let networks = self.terms.as_ref().map(|terms| &*terms.allow_from).unwrap_or_default();
        let address = address.to_canonical();
        networks.is_empty() || networks.iter().any(|network| network.contains(&address))
    }

    /// Whether the key may call `model`.
    #[must_use]
    pub fn may_call(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|globs| globs.iter().any(|glob| glob.matches(model)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PUBLISHED: &str = "sk-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef2P40Ol";

    #[test]
    fn the_published_example_is_well_formed() {
        assert!(Secret::new(PUBLISHED).is_well_formed());
    }

    #[test]
    fn one_wrong_character_anywhere_is_noticed() {
        for position in 3..PUBLISHED.len() {
            let mut wrong = PUBLISHED.to_owned();
            let other = if &PUBLISHED[position..=position] == "x" { "y" } else { "x" };
            wrong.replace_range(position..=position, other);
            assert!(!is_well_formed(&wrong), "{wrong}");
        }
    }

    #[test]
    fn generated_secrets_are_well_formed_and_differ() {
        let secrets: std::collections::HashSet<String> =
            (0..200).map(|_| Secret::generate().unwrap().reveal().to_owned()).collect();
        assert_eq!(secrets.len(), 200);
        assert!(secrets.iter().all(|secret| is_well_formed(secret) && secret.len() == 51));
    }

    #[test]
    fn a_secret_prints_masked() {
        let secret = Secret::new(PUBLISHED);
        assert_eq!(format!("{secret:?}"), "Secret(sk-01234…40Ol)");
        assert_eq!(Secret::new("short").masked(), "…", "a short one would be given away whole");
    }

    #[test]
    fn a_hash_reads_back_as_it_is_written() {
        let hash = Secret::new(PUBLISHED).hash();
        assert_eq!(hash.to_string().parse::<KeyHash>().unwrap(), hash);
        assert_eq!(
            KeyHash::digest(b"abc").to_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        for wrong in ["", "sha256:", "sha256:00", "md5:00", &format!("sha256:{}", "g".repeat(64))] {
            assert_eq!(wrong.parse::<KeyHash>(), Err(KeyError::Hash));
        }
    }

    #[test]
    fn ids_and_names_are_held_to_their_form() {
        assert!(KeyId::generate().unwrap().as_str().parse::<KeyId>().is_ok());
        for wrong in ["", "Key", "key-1", "ключ", &"a".repeat(65)] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
        for wrong in ["ab", " abc", "abc\n", &"a".repeat(51)] {
            assert!(wrong.parse::<KeyName>().is_err(), "{wrong}");
        }
        assert!("Ключ продакшена".parse::<KeyName>().is_ok());
    }

    #[test]
    fn a_priority_is_from_100_below_zero_to_100_above() {
        for number in -300..=300_i64 {
            let priority = Priority::try_from(number).ok();
            assert_eq!(priority.is_some(), (-100..=100).contains(&number), "{number}");
            assert_eq!(number.to_string().parse().ok(), priority);
            assert_eq!(serde_json::from_str(&number.to_string()).ok(), priority);
            if let Some(priority) = priority {
                assert_eq!((i64::from(priority), priority.to_string()), (number, number.to_string()));
                assert_eq!(serde_json::json!(priority), number);
            }
        }
        for wrong in ["", "high", "1.0", " 1", "1e1", "9223372036854775808"] {
            assert_eq!(wrong.parse::<Priority>(), Err(KeyError::Priority), "{wrong}");
        }
        assert_eq!(Priority::default().number(), 0);
    }

    proptest! {
        /// A client may send anything as a secret, and a log may print it.
        #[test]
        fn most_of_any_secret_stays_hidden(text in prop_oneof!["sk-[0-9A-Za-z]{48}", "\\PC{0,40}", any::<String>()]) {
            let secret = Secret::new(text.clone());
            let shown = secret.masked().chars().filter(|character| *character != '…').count();
            prop_assert!(shown == 0 || shown <= 12 && text.chars().count() >= 20, "{}", secret.masked());
            prop_assert_eq!(format!("{secret:?}"), format!("Secret({})", secret.masked()));
            prop_assert!(!secret.is_well_formed(), "one in four thousand million has its checksum right by accident");
        }
    }
}
