//! Makes keys on a control plane, with the balances of their owners and the limits of teams. What the control plane refuses is
//! told with its words. What is there already stays.

use keymeter_config::keyfile::{Holder, Setting};
use keymeter_core::{glob::Glob, limit::Limit, money::Usd};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    ImportError,
    plan::{Plan, PlannedHolder, PlannedKey, Row, Wallet},
};
use crate::cli::{
    keys::quota_json,
    remote::{Remote, RemoteError, segment},
};

/// Makes what is not there. Returns every row, with what became of it.
pub(super) fn keys(plan: Plan, remote: &Remote, dry_run: bool) -> Result<Vec<Row>, ImportError> {
    let Plan { keys, holders, balances, others: mut rows } = plan;
    let mut wallets: Vec<(Wallet, bool)> = Vec::new();
    for ((wallet, balance), number) in balances.into_iter().zip(1..) {
        let (name, mut row) = told(&wallet, number, balance);
        let is_there = if dry_run { None } else { Some(credit(remote, &wallet, &name, balance)?) };
        match is_there {
            Some(Err(why)) => {
                row = row.not_taken(why);
                wallets.push((wallet, false));
            }
            Some(Ok(())) | None => wallets.push((wallet, true)),
        }
        rows.push(row);
    }
    for holder in holders {
        rows.push(if dry_run { holder.row } else { limit(remote, holder)? });
    }
    for key in keys {
        rows.push(make(remote, key, &wallets, dry_run)?);
    }
    rows.sort_by_key(|row| (row.is_of_key, row.number()));
    Ok(rows)
}

/// What a user or a team is called there: of a-z, 0-9, `_` and `-`.
fn id_of(name: &str) -> String {
    let plain = |character: char| {
        let lower = character.to_ascii_lowercase();
        if lower.is_ascii_alphanumeric() || "_-".contains(lower) { lower } else { '-' }
    };
    name.chars().map(plain).take(64).collect()
}

/// What the control plane answers, or says against it.
fn attempt(answer: Result<Value, RemoteError>) -> Result<Result<Value, (u16, String)>, RemoteError> {
    match answer {
        Ok(value) => Ok(Ok(value)),
        Err(RemoteError::Refused { status, message, .. }) if (400..500).contains(&status) && status != 401 => {
            Ok(Err((status, message)))
        }
        Err(error) => Err(error),
    }
}

fn told(wallet: &Wallet, number: usize, balance: Usd) -> (String, Row) {
    let (Wallet::Owner(name) | Wallet::Team(name)) = wallet;
    let mut row = Row::new("wallet", number, name, false);
    row.note(format!("${balance}"));
    (id_of(name), row)
}

/// Credits a wallet once, however often it is done. A user is made where there is none; a team has to be there.
fn credit(remote: &Remote, wallet: &Wallet, name: &str, balance: Usd) -> Result<Result<(), String>, RemoteError> {
    if let Wallet::Owner(_) = wallet
        && let Err((404, _)) = attempt(remote.call(Method::GET, &format!("/api/v1/users/{}", segment(name)), None))?
    {
        let (Wallet::Owner(called) | Wallet::Team(called)) = wallet;
        let called: String = called.chars().take(50).collect();
        // The user's token is in the answer; `keymeter users rotate-token` makes another for whoever needs one.
        let user = json!({"id": name, "name": called});
        if let Err((_, why)) = attempt(remote.call(Method::POST, "/api/v1/users", Some(&user)))? {
            return Ok(Err(format!("the control plane makes no user of that name: {why}")));
        }
    }
    let path = format!("/api/v1/wallets/{}/credits", segment(name));
    let credit = json!({"usd": balance.to_string(), "idempotency_key": format!("import of {name}")});
    Ok(match attempt(remote.call(Method::POST, &path, Some(&credit)))? {
        // Another amount was credited when it was first run: that one counts.
        Ok(_) | Err((409, _)) => Ok(()),
        Err((_, why)) => Err(why),
    })
}

/// Gives a team its limits, if it has none.
fn limit(remote: &Remote, holder: PlannedHolder) -> Result<Row, RemoteError> {
    let PlannedHolder { row, holder: of, limits, .. } = holder;
    let (list, name) = match &of {
        Holder::Team(name) => ("teams", id_of(name)),
        Holder::Owner(name) => ("users", id_of(name)),
    };
    let path = format!("/api/v1/{list}/{}", segment(&name));
    let there = match attempt(remote.call(Method::GET, &path, None))? {
        Ok(there) => there,
        Err((_, why)) => {
            return Ok(row.not_taken(format!(
                "{why}: make `{name}` by `keymeter teams create`, credit its wallet, and run this again"
            )));
        }
    };
    if there.get("limits").and_then(Value::as_object).is_some_and(|limits| !limits.is_empty()) {
        return Ok(row.here());
    }
    let limits = json!({"limits": limits_of(&limits)});
    Ok(match attempt(remote.call(Method::PATCH, &path, Some(&limits)))? {
        Ok(_) => row,
        Err((_, why)) => row.not_taken(why),
    })
}

/// Makes a key. One with an owner is charged to the owner's wallet, so that it has one only where that is known to have
/// something in it.
fn make(remote: &Remote, key: PlannedKey, wallets: &[(Wallet, bool)], dry_run: bool) -> Result<Row, RemoteError> {
    let PlannedKey { mut row, hash, settings, .. } = key;
    let mut body = body(&settings);
    body.insert("hash".to_owned(), hash.to_string().into());
    let owner = body.get("owner").and_then(Value::as_str).map(str::to_owned);
    if let Some(owner) = owner {
        let has_balance = wallets
            .iter()
            .any(|(wallet, is_there)| *is_there && matches!(wallet, Wallet::Owner(name) if id_of(name) == owner));
        if body.contains_key("team") {
            row.note("its owner is not taken: a key of a control plane is a user's or a team's");
            body.remove("owner");
        } else if !has_balance {
            row.note("its owner is not taken: nothing is known of a balance that it would be charged to");
            body.remove("owner");
        }
    }
    if dry_run {
        return Ok(row);
    }
    let made = match attempt(remote.call(Method::POST, "/api/v1/keys", Some(&body.into())))? {
        Ok(made) => made,
        Err((409, why)) if why.contains("`hash`") => return Ok(row.here()),
        Err((_, why)) => return Ok(row.not_taken(why)),
    };
    if settings.contains(&Setting::Enabled(false)) {
        let id = made.get("id").and_then(Value::as_str).unwrap_or_default();
        remote.call(Method::PATCH, &format!("/api/v1/keys/{}", segment(id)), Some(&json!({"enabled": false})))?;
    }
    Ok(row)
}

/// The fields of a call that makes a key.
fn body(settings: &[Setting]) -> Map<String, Value> {
    let mut body = Map::new();
    for setting in settings {
        let (name, value) = match setting {
            Setting::Name(name) => ("name", name.as_str().into()),
            Setting::Owner(owner) => ("owner", id_of(owner).into()),
            Setting::Team(team) => ("team", id_of(team).into()),
            Setting::Models(models) => ("models", models.iter().map(Glob::as_str).collect()),
            Setting::AllowFrom(networks) => ("allow_from", networks.iter().map(ToString::to_string).collect()),
            Setting::ExpiresAt(time) => ("expires_at", time.to_string().into()),
            _ => continue,
        };
        body.insert(name.to_owned(), value);
    }
    let limits = limits_of(settings);
    if !limits.is_empty() {
        body.insert("limits".to_owned(), limits.into());
    }
    body
}

/// The fields of `limits`.
fn limits_of(settings: &[Setting]) -> Map<String, Value> {
    let number = |limit: &Limit| limit.number().map_or(json!("unlimited"), Value::from);
    let mut limits = Map::new();
    for setting in settings {
        let (name, value) = match setting {
            Setting::RequestsPerMinute(limit) => ("requests_per_minute", number(limit)),
            Setting::TokensPerMinute(limit) => ("tokens_per_minute", number(limit)),
            Setting::ConcurrentRequests(limit) => ("concurrent_requests", number(limit)),
            _ => continue,
        };
        limits.insert(name.to_owned(), value);
    }
    let quotas: Vec<_> = settings.iter().filter_map(quota).collect();
    if !quotas.is_empty() {
        limits.insert("quotas".to_owned(), quotas.into());
    }
    limits
}

fn quota(setting: &Setting) -> Option<Value> {
    if let Setting::Quota(quota) = setting { Some(quota_json(quota)) } else { None }
}
