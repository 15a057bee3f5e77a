//! What a key service says: records of keys, and of wallets.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use ipnet::IpNet;
use keymeter_core::{
    key::{KeyRecord, KeyState, OwnLimits, Terms},
    limit::ScopeLimits,
    money::{Allowance, BalanceUpdate, Usd},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    limits::{RawLimits, RawScopeLimits},
    record::{Listed, RawKey, Taken, allow_from, record},
};
use crate::{
    raw::List,
    report::{FieldError, Place, Report},
    scalar::{Party, Scalar},
    yaml::Marks,
};

/// Reads one key in JSON, as a key service has it: the fields of a `keys.yaml`, `state`, the limits of the key's
/// team and owner, and `wallet`, of which it may say what is in it. A field that is `null` is absent.
///
/// # Errors
/// What is wrong with it.
pub fn parse_record(json: &[u8]) -> Result<(KeyRecord, Option<BalanceUpdate>), String> {
    let mut fields: serde_json::Map<String, Value> =
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
    let [team_limits, owner_limits] = ["team_limits", "owner_limits"].map(|name| {
        let limits = fields.remove(name).map(read_field::<RawScopeLimits>).transpose();
        limits.map_err(|error| format!("{name}: {error}"))
    });
    let (team_limits, owner_limits) = (team_limits?, owner_limits?);
    let raw: RawKey = read_field(fields.into()).map_err(|error| error.to_string())?;
    let marks = Marks::default();
    let report = Report::new(Path::new("record"), &marks);
    let listed = Listed {
        teams: limits_of("team", raw.team.as_ref(), team_limits, &report.root()),
        owners: limits_of("owner", raw.owner.as_ref(), owner_limits, &report.root()),
    };
    let record = record(raw, &report.root(), false, &listed, &mut Taken::default());
    let faults = report.into_faults();
    let record = match (record, faults.first()) {
        (_, Some(error)) => return Err(error.message.clone()),
        (None, None) => return Err("a field is missing".to_owned()),
        (Some(record), None) => record,
    };
    let stated = state.map(|Scalar(state)| state).filter(|_| record.state == KeyState::Active);
    Ok((KeyRecord { state: stated.unwrap_or(record.state), wallet, ..record }, word))
}

/// Reads the limits of a key in JSON, as a record has them under `limits`: those of a minute and at once, and of the terms
/// what stands beside them.
///
/// # Errors
/// What is wrong with them.
pub fn parse_limits(json: Value) -> Result<(OwnLimits, Terms), FieldError> {
    parse_part(json, |raw: RawLimits, place| (raw.own(), raw.terms(place)))
}

/// Reads the limits of a team or an owner in JSON, as a record has them under `team_limits` and `owner_limits`.
///
/// # Errors
/// What is wrong with them.
pub fn parse_scope_limits(json: Value) -> Result<ScopeLimits, FieldError> {
    parse_part(json, RawScopeLimits::check)
}

/// Reads the networks that a key may be used from in JSON, as a record has them under `allow_from`.
///
/// # Errors
/// What is wrong with them.
pub fn parse_allow_from(json: Value) -> Result<Box<[IpNet]>, FieldError> {
    parse_part(json, |raw: List<Scalar<IpNet>>, place| allow_from(raw, place))
}

fn parse_part<R: DeserializeOwned, T>(json: Value, check: impl FnOnce(R, &Place<'_>) -> T) -> Result<T, FieldError> {
    let marks = Marks::default();
    let report = Report::new(Path::new("record"), &marks);
    let meant = check(read_field(json)?, &report.root());
    report.into_first().map_or(Ok(meant), Err)
}

/// What a record from a key service has.
const FIELDS: [&str; 16] = [
    "id",
    "name",
    "hash",
    "enabled",
    "state",
    "owner",
    "team",
    "models",
    "allow_from",
    "limits",
    "team_limits",
    "owner_limits",
    "expires_at",
    "retiring",
    "wallet",
    "priority",
];

/// What the record says of the limits of the key's team or owner. They are nobody's where it has none.
fn limits_of(
    name: &str,
    holder: Option<&Scalar<Party>>,
    raw: Option<RawScopeLimits>,
    root: &Place<'_>,
) -> HashMap<Arc<str>, Arc<ScopeLimits>> {
    let place = root.field(&format!("{name}_limits"));
    let limits = raw.map(|raw| raw.check(&place)).filter(|limits| !limits.are_unlimited());
    if limits.is_some() && holder.is_none() {
        place.error(format!("`{name}_limits` without `{name}`: the record must say whose limits they are"));
    }
    holder.zip(limits).map(|(Scalar(Party(id)), limits)| (id.clone(), Arc::new(limits))).into_iter().collect()
}

/// The value of a field, or where in it what is wrong.
fn read_field<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { String::new() } else { field };
        FieldError { field, message: error.into_inner().to_string() }
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
pub fn parse_wallet(value: Value) -> Result<(Arc<str>, BalanceUpdate), String> {
    let read = read_field(value).map_err(|error| error.to_string())?;
    let RawWallet { id: Scalar(Party(id)), balance_usd: Scalar(balance), allowance } = read;
    let allowance = allowance.map(|RawAllowance { version, granted_usd, counted_usd, expires_in_ms }| Allowance {
        version: version.0,
        granted: granted_usd.0,
        counted: counted_usd.0,
        lasts: Duration::from_millis(expires_in_ms.0),
    });
    Ok((id, BalanceUpdate { balance, allowance }))
}
