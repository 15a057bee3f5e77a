//! What the databases of one-api and new-api say of their tokens, as keymeter says it. They keep keys in the clear, without
//! the `sk-` that their clients send before them: here they are hashed on the way.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;
use jiff::Timestamp;
use keymeter_config::keyfile::Setting;
use keymeter_core::{glob::Glob, key::KeyHash, money::Usd};

use super::{
    ImportError,
    names::{key_name, party},
    plan::{Plan, PlannedKey, Row, Wallet},
    table::{Table, TableRow},
};

/// Their tables.
pub(super) struct Tables {
    tokens: Table,
    users: Option<Table>,
}

impl Tables {
    /// The tables in dumps, or without one of tokens in the database of the environment.
    pub(super) fn read(tokens: Option<&Path>, users: Option<&Path>) -> Result<Self, ImportError> {
        Ok(Self {
            users: Table::read_beside(tokens, users, "users", "username")?,
            tokens: Table::read(tokens, "tokens", "key")?,
        })
    }

    #[cfg(test)]
    pub(super) fn new(tokens: Table, users: Option<Table>) -> Self {
        Self { tokens, users }
    }
}

/// What `status` says of a token, and of a user.
const ENABLED: i64 = 1;
const EXPIRED: i64 = 3;

/// What `remain_quota` says of a dollar, in nano-dollars for one of it.
const NANOS_OF_ONE: i64 = 1_000_000_000 / 500_000;

/// What is to be taken.
pub(super) fn plan(tables: &Tables) -> Plan {
    let mut plan = Plan::default();
    let users = tables.users.iter().flat_map(Table::rows).filter_map(|row| Some((row.text("id")?, row)));
    let users: HashMap<_, _> = users.collect();
    for row in tables.tokens.rows() {
        match key(row, &users) {
            Ok(key) => {
                if let Some(wallet) = key.settings.iter().find_map(owner) {
                    let of_user = row.text("user_id").and_then(|id| users.get(id));
                    add_balance(&mut plan.balances, wallet, row, of_user);
                }
                plan.keys.push(key);
            }
            Err(row) => plan.others.push(*row),
        }
    }
    plan
}

fn owner(setting: &Setting) -> Option<Wallet> {
    match setting {
        Setting::Owner(owner) => Some(Wallet::Owner(owner.clone())),
        _ => None,
    }
}

/// Adds what a token has left to its user's balance: as much as the user has at most, and all of that where the token is not
/// limited.
fn add_balance(balances: &mut BTreeMap<Wallet, Usd>, wallet: Wallet, row: TableRow<'_>, user: Option<&TableRow<'_>>) {
    let of_user = user.and_then(|user| user.number("quota").ok().flatten()).map(|quota| dollars(quota.max(0)));
    let left = match (left_of(row), of_user) {
        (Ok(Left::Of(left)), _) => left,
        (Ok(Left::Unlimited), Some(all)) => all,
        _ => return,
    };
    let balance = balances.entry(wallet).or_default();
    let sum = balance.saturating_add(left);
    *balance = of_user.map_or(sum, |most| sum.min(most));
}

fn key(row: TableRow<'_>, users: &HashMap<&str, TableRow<'_>>) -> Result<PlannedKey, Box<Row>> {
    let otherwise = format!("token {}", row.text("id").unwrap_or("without an id"));
    let mut told = Row::new("key", row.number, row.text("name").unwrap_or(&otherwise), true);
    let refuse = |told: &Row, why: String| Box::new(told.clone().not_taken(why));
    if row.text("deleted_at").is_some() {
        return Err(refuse(&told, "it is deleted".to_owned()));
    }
    let key = row.text("key").map(str::trim).filter(|key| !key.is_empty());
    let hash = hash(key.ok_or_else(|| refuse(&told, "it has no key".to_owned()))?);
    let (name, note) = key_name(row.text("name"), &otherwise);
    if let Some(note) = note {
        told.note(note);
    }
    let name = name.ok_or_else(|| refuse(&told, "its name cannot be written".to_owned()))?;
    let mut settings = vec![Setting::Name(name), Setting::Hash(hash)];
    let others = other_settings(row, users, &mut told);
    settings.extend(others.map_err(|why| refuse(&told, why))?);
    let left = match left_of(row).map_err(|why| refuse(&told, why))? {
        Left::Of(left) => Some(left),
        Left::Unlimited | Left::Nothing => None,
    };
    Ok(PlannedKey { row: told, hash, settings, left })
}

/// The SHA-256 of a key as clients send it.
fn hash(key: &str) -> KeyHash {
    if key.starts_with("sk-") {
        return KeyHash::digest(key.as_bytes());
    }
    KeyHash::digest(&[b"sk-".as_slice(), key.as_bytes()].concat())
}

/// What else is said of a token.
fn other_settings(
    row: TableRow<'_>,
    users: &HashMap<&str, TableRow<'_>>,
    told: &mut Row,
) -> Result<Vec<Setting>, String> {
    let mut settings = Vec::new();
    let status = row.number("status")?.unwrap_or(ENABLED);
    let user = row.text("user_id").and_then(|id| users.get(id));
    let is_user_disabled = match user {
        Some(user) => {
            user.number("status")?.is_some_and(|status| status != ENABLED) || user.text("deleted_at").is_some()
        }
        None => false,
    };
    if is_user_disabled {
        told.note("its user is disabled: so is it");
    }
    let is_used_up = matches!(left_of(row)?, Left::Nothing);
    if is_used_up {
        told.note("its quota is used up: it is disabled");
    }
    let is_enabled = (status == ENABLED || status == EXPIRED) && !is_user_disabled && !is_used_up;
    settings.extend((!is_enabled).then_some(Setting::Enabled(false)));
    if let Some(id) = row.text("user_id") {
        let name = user.and_then(|user| user.text("username")).map_or_else(|| format!("user-{id}"), str::to_owned);
        match party(&name) {
            Some(name) => settings.push(Setting::Owner(name)),
            None => told.note("its user is not taken: an owner's name has 1 to 64 characters"),
        }
    }
    // Of new-api a list counts only where a flag says so.
    let models = match row.text("model_limits_enabled") {
        Some(_) if !row.flag("model_limits_enabled") => None,
        Some(_) => row.text("model_limits"),
        None => row.text("models"),
    };
    let models: Vec<_> = models.into_iter().flat_map(|models| models.split(',')).map(str::trim).collect();
    let globs: Result<Vec<Glob>, _> =
        models.iter().filter(|model| !model.is_empty()).map(|model| model.parse()).collect();
    let globs = globs.map_err(|error| format!("models: {error}"))?;
    settings.extend((!globs.is_empty()).then_some(Setting::Models(globs)));
    let networks = row.text("subnet").or_else(|| row.text("allow_ips"));
    let networks = networks.into_iter().flat_map(|list| list.split([',', '\n', ' ', '\r'])).map(str::trim);
    let networks: Result<Vec<IpNet>, String> = networks.filter(|text| !text.is_empty()).map(network).collect();
    let networks = networks?;
    settings.extend((!networks.is_empty()).then_some(Setting::AllowFrom(networks)));
    let expires = row.number("expired_time")?.filter(|seconds| *seconds > 0);
    let expires = expires.map(|seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX));
    settings.extend(expires.map(Setting::ExpiresAt));
    if let Some(group) = row.text("group").filter(|group| *group != "default") {
        told.note(format!("its group `{group}` is not taken: models and their upstreams are the configuration's"));
    }
    Ok(settings)
}

/// What is left of what a token may spend.
enum Left {
    Unlimited,
    Nothing,
    Of(Usd),
}

fn left_of(row: TableRow<'_>) -> Result<Left, String> {
    if row.flag("unlimited_quota") {
        return Ok(Left::Unlimited);
    }
    Ok(match row.number("remain_quota")? {
        None => Left::Unlimited,
        Some(..=0) => Left::Nothing,
        Some(left) => Left::Of(dollars(left)),
    })
}

fn dollars(quota: i64) -> Usd {
    Usd::from_nanos(quota.saturating_mul(NANOS_OF_ONE))
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
    text.parse().ok().or_else(address).ok_or_else(|| format!("`{text}` is no network"))
}
