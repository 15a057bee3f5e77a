//! The source of keys, and the keys file `keys.yaml`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use keymeter_core::{
    glob::{self, Glob},
    key::{KeyHash, KeyId, KeyName, KeyRecord, KeyState, OwnLimits, Priority, Retiring, Secret},
    limit::Limit,
    money::{Allowance, BalanceUpdate, Usd},
};
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml::Value;

use super::{
    credential::Credential,
    expand::Environment,
    files, raw,
    raw::List,
    read,
    report::{ConfigError, Place, Report},
    scalar::{Party, Scalar, Timeout},
    server::transposed,
    url::{UpstreamUrl, UrlError},
    written::SecretChecksum,
};
use crate::yaml::Marks;

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The one source.
    pub source: Source,
    /// Whether a secret without a right checksum is refused without a look-up; secrets made elsewhere have none.
    pub secret_checksum_required: bool,
    /// Whether requests are to come although the source has not answered yet.
    pub ready_without_source: bool,
}

/// What keys are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of ours.
    Yaml {
        /// Where it is.
        path: PathBuf,
    },
    /// A service.
    Http(Http),
}

/// A key service (docs/key-source.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    before_hash: Arc<str>,
    after_hash: Arc<str>,
    /// Where it tells of changes; `None`: it does not.
    pub events_url: Option<Arc<str>>,
    /// Where usage is handed in; `None`: nowhere.
    pub usage_url: Option<Arc<str>>,
    /// How we prove who we are; `None`: not at all.
    pub token: Option<Credential>,
    /// Certificates in PEM form that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// For a whole answer; not zero.
    pub timeout: Duration,
}

impl Source {
    /// Whether it wants to know what was used.
    #[must_use]
    pub fn takes_usage(&self) -> bool {
        matches!(self, Self::Http(service) if service.usage_url.is_some())
    }

    /// Whether a reload can put `other` in the place of this.
    #[must_use]
    pub fn is_reloadable_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Yaml { .. }, Self::Yaml { .. }) => true,
            (this, other) => this == other,
        }
    }
}

impl Http {
    /// A service at `url`, which has `{hash}` in it where the hash of a secret goes.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn at(url: &str) -> Result<Self, String> {
        let parts = url.split_once("{hash}");
        let (before, after) = parts.ok_or("the URL must have `{hash}` in it, where the hash of a secret goes")?;
        let service = Self {
            before_hash: before.into(),
            after_hash: after.into(),
            events_url: None,
            usage_url: None,
            token: None,
            ca: None,
            timeout: Duration::from_secs(2),
        };
        service_url(&service.url_of(&KeyHash::digest(b""))).map_err(|error| error.to_string())?;
        Ok(service)
    }

    /// Where the key is asked for whose secret has `hash`.
    #[must_use]
    pub fn url_of(&self, hash: &KeyHash) -> String {
        self.url_with(&hash.to_hex())
    }

    /// The URL with a text of any kind where a hash goes.
    #[must_use]
    pub fn url_with(&self, text: &str) -> String {
        format!("{}{text}{}", self.before_hash, self.after_hash)
    }

    fn check(raw: raw::KeysHttp, place: &Place<'_>, file: &Path) -> Option<Self> {
        let url = place.required("url", raw.url, "such as https://keys.example/v1/keys/{hash}");
        let other_url =
            |field: &str, url: Option<Scalar<Arc<str>>>| {
                transposed(url.map(|Scalar(url)| {
                    service_url(&url).map_err(|error| place.field(field).error(error.to_string())).ok()
                }))
            };
        let events_url = other_url("events_url", raw.events_url);
        let usage_url = other_url("usage_url", raw.usage_url);
        let ca = raw.ca.map(|Scalar(name)| files::pem(&place.field("ca"), file, &name, "CERTIFICATE-----"));
        let (Scalar(url), of_url) = (url?, place.field("url"));
        let service = Self::at(&url).map_err(|error| of_url.error(error)).ok()?;
        Some(Self {
            events_url: events_url?,
            usage_url: usage_url?,
            token: raw.token.map(|Scalar(secret)| Credential(secret)),
            ca: transposed(ca)?,
            timeout: raw.timeout.map_or(service.timeout, |Scalar(Timeout(time))| time),
            ..service
        })
    }
}

/// A URL of a key service. Unlike an upstream's it may have a query.
///
/// # Errors
/// What is wrong with it.
pub fn service_url(url: &str) -> Result<Arc<str>, UrlError> {
    let (base, _) = url.split_once('?').unwrap_or((url, ""));
    base.parse::<UpstreamUrl>().map(|_| url.into())
}

impl Keys {
    pub(super) fn check(raw: raw::Keys, place: &Place<'_>, file: &Path) -> Option<Self> {
        let source = Self::source(raw.yaml, raw.http, place, file)?;
        let required = raw.secret_checksum.is_some_and(|Scalar(checksum)| checksum == SecretChecksum::Required);
        let ready_without_source = raw.ready_without_source.is_some_and(|Scalar(ready)| ready);
        Some(Self { source, secret_checksum_required: required, ready_without_source })
    }

    fn source(
        yaml: Option<raw::KeysYaml>,
        http: Option<raw::KeysHttp>,
        place: &Place<'_>,
        file: &Path,
    ) -> Option<Source> {
        match (yaml, http) {
            (None, Some(http)) => Http::check(http, &place.field("http"), file).map(Source::Http),
            (Some(_), Some(_)) => {
                place.field("http").error("either `yaml` or `http`, not both: keys come from one source");
                None
            }
            (None, None) if place.dropped("http") => None,
            (yaml, None) => {
                let yaml = place.required("yaml", yaml, "the source of keys, such as `yaml: {path: keys.yaml}`")?;
                let path = place.field("yaml").required("path", yaml.path, "the file that holds the keys");
                path.map(|Scalar(path)| Source::Yaml { path: files::beside(file, &path) })
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the field `keys`, a list")]
struct RawFile {
    keys: Option<Vec<Value>>,
}

/// The same, for editors: there each key is looked at in its own place.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) struct WrittenFile {
    /// The keys.
    keys: Vec<RawKey>,
}

/// A key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of a key, `id`, `name` and `hash` at least")]
#[schemars(extend("oneOf" = [{"required": ["hash"]}, {"required": ["secret"]}]))]
struct RawKey {
    /// Its stable, public name, in metrics and logs: 1 to 64 characters of a-z, 0-9 and `_`.
    #[schemars(required)]
    id: Option<Scalar<KeyId>>,
    /// What people call it: 3 to 50 characters.
    #[schemars(required)]
    name: Option<Scalar<KeyName>>,
    /// The SHA-256 of its secret; `keymeter keys hash` computes it.
    hash: Option<Scalar<KeyHash>>,
    /// The secret itself, in place of its hash: from a variable.
    secret: Option<Scalar<Secret>>,
    /// Whether it may be used.
    #[schemars(extend("default" = true))]
    enabled: Option<Scalar<bool>>,
    /// Whose it is: a user or a team.
    owner: Option<Scalar<Party>>,
    /// The team that uses it.
    team: Option<Scalar<Party>>,
    /// The models that it may call: names, or patterns with `*`, 256 at most; without the field, all.
    #[schemars(extend("maxItems" = glob::MOST))]
    models: Option<List<Scalar<Glob>>>,
    /// What it may use; what is left out is as the configuration's `limits` say.
    limits: Option<RawLimits>,
    /// When it stops working, RFC 3339.
    expires_at: Option<Scalar<Timestamp>>,
    /// Former secrets that still work for a while.
    retiring: Option<List<RawRetiring>>,
    /// Which of the requests that wait goes first, from -100 to 100: a lower one.
    #[schemars(extend("default" = 0))]
    priority: Option<Scalar<Priority>>,
}

/// What a key may use.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, such as `requests_per_minute`")]
struct RawLimits {
    /// Requests that are admitted in any 60 seconds.
    requests_per_minute: Option<Scalar<Limit>>,
    /// Tokens that are reserved in any 60 seconds.
    tokens_per_minute: Option<Scalar<Limit>>,
    /// Requests that run at once.
    concurrent_requests: Option<Scalar<Limit>>,
}

/// A former secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields `hash` and `not_after`")]
struct RawRetiring {
    /// Its SHA-256.
    #[schemars(required)]
    hash: Option<Scalar<KeyHash>>,
    /// Until when it works, RFC 3339.
    #[schemars(required)]
    not_after: Option<Scalar<Timestamp>>,
}

/// Reads the keys in the text of a `keys.yaml`.
///
/// # Errors
/// All faults of the text, in its order.
pub fn parse(
    text: &str,
    file: &Path,
    secret_checksum_required: bool,
    environment: &Environment<'_>,
) -> Result<Vec<KeyRecord>, Vec<ConfigError>> {
    let (mut value, marks) = read::document(text, file)?;
    if value.is_null() {
        let message = "the file is empty; for a file without keys write `keys: []`";
        return Err(vec![ConfigError::of_file(file, message.to_owned())]);
    }
    let report = Report::new(file, &marks);
    read::expand_all(&mut value, &report.root(), environment);
    let records = records(value, &report.root(), secret_checksum_required);
    let faults = report.into_faults();
    if faults.is_empty() { Ok(records) } else { Err(faults) }
}

/// Reads one key in JSON, as a key service has it: the fields of a `keys.yaml`, and `state` and `wallet`, of which it
/// may say what is in it. A field that is `null` is absent.
///
/// # Errors
/// What is wrong with it.
pub fn parse_record(json: &[u8]) -> Result<(KeyRecord, Option<BalanceUpdate>), String> {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(json).map_err(|error| format!("the record is not a JSON object: {error}"))?;
    // Programs that write every field write `null` for those that they do not have.
    fields.retain(|name, value| !value.is_null() || !FIELDS.contains(&name.as_str()) && name != "secret");
    if fields.contains_key("secret") {
        return Err("the record holds the secret itself: send its `hash` only".to_owned());
    }
    if let Some(unknown) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(format!("unknown field `{unknown}`, expected one of `{}`", FIELDS.join("`, `")));
    }
    let state = fields.remove("state").map(read_field::<Scalar<KeyState>>).transpose();
    let state = state.map_err(|error| format!("state: {error}"))?;
    let wallet = fields.remove("wallet").map(parse_wallet).transpose();
    let (wallet, word) = wallet.map_err(|error| format!("wallet: {error}"))?.unzip();
    let raw: RawKey = read_field(fields.into())?;
    let marks = Marks::default();
    let report = Report::new(Path::new("record"), &marks);
    let record = record(raw, &report.root(), false, &mut Taken::default());
    let faults = report.into_faults();
    let record = match (record, faults.first()) {
        (_, Some(error)) => return Err(error.message.clone()),
        (None, None) => return Err("a field is missing".to_owned()),
        (Some(record), None) => record,
    };
    let stated = state.map(|Scalar(state)| state).filter(|_| record.state == KeyState::Active);
    Ok((KeyRecord { state: stated.unwrap_or(record.state), wallet, ..record }, word))
}

/// What a record from a key service has.
const FIELDS: [&str; 13] = [
    "id",
    "name",
    "hash",
    "enabled",
    "state",
    "owner",
    "team",
    "models",
    "limits",
    "expires_at",
    "retiring",
    "wallet",
    "priority",
];

/// The value of a field, or where in it what is wrong.
fn read_field<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        if path == "." { error.into_inner().to_string() } else { format!("{path}: {}", error.into_inner()) }
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields `id` and `balance_usd`")]
struct RawWallet {
    id: Scalar<Party>,
    balance_usd: Scalar<Usd>,
    allowance: Option<RawAllowance>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields `version`, `granted_usd`, `counted_usd` and `expires_in_ms`")]
struct RawAllowance {
    version: Scalar<u64>,
    granted_usd: Scalar<Usd>,
    counted_usd: Scalar<Usd>,
    expires_in_ms: Scalar<u64>,
}

/// Reads what is said of a wallet, in JSON: its id, and what of it may be spent.
///
/// # Errors
/// What is wrong with it.
pub fn parse_wallet(value: serde_json::Value) -> Result<(Arc<str>, BalanceUpdate), String> {
    let RawWallet { id: Scalar(Party(id)), balance_usd: Scalar(balance), allowance } = read_field(value)?;
    let allowance = allowance.map(|RawAllowance { version, granted_usd, counted_usd, expires_in_ms }| Allowance {
        version: version.0,
        granted: granted_usd.0,
        counted: counted_usd.0,
        lasts: Duration::from_millis(expires_in_ms.0),
    });
    Ok((id, BalanceUpdate { balance, allowance }))
}

fn records(value: Value, root: &Place<'_>, checksum_required: bool) -> Vec<KeyRecord> {
    let Some(file) = read::read::<RawFile>(value, root) else { return Vec::new() };
    let keys = root.required("keys", file.keys, "the list of keys; for none write `keys: []`").unwrap_or_default();
    let list = root.field("keys");
    // Each is read by itself: reading all again for every fault would take long in a large file.
    let keys = keys.into_iter().enumerate();
    let keys = keys.map(|(index, value)| read::read(value, &list.element(index)).flatten()).collect();
    let mut taken = Taken::default();
    let placed: Vec<(Place<'_>, RawKey)> = list.elements(keys);
    placed.into_iter().filter_map(|(place, raw)| record(raw, &place, checksum_required, &mut taken)).collect()
}

/// The ids and hashes that were seen, with their lines.
#[derive(Default)]
struct Taken {
    ids: HashMap<KeyId, usize>,
    hashes: HashMap<KeyHash, usize>,
}

impl Taken {
    fn id(&mut self, id: &KeyId, place: &Place<'_>) {
        if let Some(line) = self.ids.insert(id.clone(), place.line()) {
            place.error(format!("the id `{id}` is already used on line {line}"));
        }
    }

    fn hash(&mut self, hash: KeyHash, place: &Place<'_>) {
        if let Some(line) = self.hashes.insert(hash, place.line()) {
            place.error(format!("the same secret is already given on line {line}; each must belong to one key, once"));
        }
    }
}

fn record(raw: RawKey, place: &Place<'_>, checksum_required: bool, taken: &mut Taken) -> Option<KeyRecord> {
    let id = place.required("id", raw.id, "1 to 64 characters of a-z, 0-9 and _");
    let name = place.required("name", raw.name, "3 to 50 characters that tell people what the key is for");
    let hash = hash(raw.hash, raw.secret, place, checksum_required);
    if let Some(Scalar(id)) = &id {
        taken.id(id, &place.field("id"));
    }
    if let Some((field, hash)) = hash {
        taken.hash(hash, &place.field(field));
    }
    let retiring = retiring(raw.retiring.unwrap_or_default(), &place.field("retiring"), taken);
    let models = raw.models.map(|globs| models(globs, &place.field("models")));
    let (Scalar(id), Scalar(name), (_, hash)) = (id?, name?, hash?);
    Some(KeyRecord {
        id,
        name,
        hash,
        state: if raw.enabled.is_none_or(|Scalar(enabled)| enabled) { KeyState::Active } else { KeyState::Disabled },
        owner: raw.owner.map(party),
        team: raw.team.map(party),
        models,
        limits: own_limits(raw.limits.unwrap_or_default()),
        expires_at: raw.expires_at.map(|Scalar(time)| time),
        retiring: retiring.into(),
        wallet: None,
        priority: raw.priority.map(|Scalar(priority)| priority).unwrap_or_default(),
    })
}

/// The hash of the key's secret, and the field that tells it: `hash`, or `secret`, which is hashed at once.
fn hash(
    hash: Option<Scalar<KeyHash>>,
    secret: Option<Scalar<Secret>>,
    place: &Place<'_>,
    checksum_required: bool,
) -> Option<(&'static str, KeyHash)> {
    match (hash, secret) {
        (Some(Scalar(hash)), None) => Some(("hash", hash)),
        (None, Some(Scalar(secret))) => {
            if checksum_required && !secret.is_well_formed() {
                let message = "the secret has no right checksum, which `secret_checksum: required` asks for; \
                               `keymeter keys create` makes one that has";
                place.field("secret").error(message);
            }
            Some(("secret", secret.hash()))
        }
        (Some(_), Some(_)) => {
            place.field("secret").error("either `hash` or `secret`, not both");
            None
        }
        (None, None) => {
            if !place.dropped("hash") && !place.dropped("secret") {
                place.error(format!("missing field `hash`{}: that of the secret, or `secret` itself", place.inside()));
            }
            None
        }
    }
}

fn models(raw: List<Scalar<Glob>>, place: &Place<'_>) -> Box<[Glob]> {
    if raw.len() > glob::MOST {
        place.error(format!("{} models; a key has {} names and patterns at most", raw.len(), glob::MOST));
    }
    place.elements(raw).into_iter().map(|(_, Scalar(glob))| glob).collect()
}

fn retiring(raw: List<RawRetiring>, place: &Place<'_>, taken: &mut Taken) -> Vec<Retiring> {
    let checked = place.elements(raw).into_iter().filter_map(|(place, raw)| {
        let hash = place.required("hash", raw.hash, "that of the secret that is being replaced");
        let not_after = place.required("not_after", raw.not_after, "when the replaced secret stops working");
        if let Some(Scalar(hash)) = hash {
            taken.hash(hash, &place.field("hash"));
        }
        let (Scalar(hash), Scalar(not_after)) = (hash?, not_after?);
        Some(Retiring { hash, not_after })
    });
    checked.collect()
}

fn own_limits(raw: RawLimits) -> OwnLimits {
    OwnLimits {
        requests_per_minute: raw.requests_per_minute.map(|Scalar(limit)| limit),
        tokens_per_minute: raw.tokens_per_minute.map(|Scalar(limit)| limit),
        concurrent_requests: raw.concurrent_requests.map(|Scalar(limit)| limit),
    }
}

fn party(Scalar(Party(name)): Scalar<Party>) -> Arc<str> {
    name
}
