//! Keys and the hashes of their secrets. A deleted key stays, without a secret, for the sake of its history.

use jiff::Timestamp;
use keymeter_core::{
    key::{KeyHash, KeyId, KeyState, Priority, Secret},
    money::USED_UP,
};
use serde::Serialize;
use sqlx::{Row, any::AnyRow};
use utoipa::ToSchema;

use super::{
    Store, StoreError, Tx, changes,
    limits::{KeyLimits, ScopeLimits},
    micros, optional, timestamp,
};

/// A key, as those see it who may manage or use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Key {
    /// Its stable, public name.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The first 8 and the last 4 characters of its secret.
    pub masked: String,
    /// Whether it may be used, and if not, why: `active`, `disabled`, `archived`, `no_balance` or `deleted`.
    pub state: String,
    /// Whether somebody switched it off.
    pub enabled: bool,
    /// The user whose it is.
    pub owner: Option<String>,
    /// The team whose it is.
    pub team: Option<String>,
    /// What its requests are charged to: the team, or else the owner.
    pub wallet: Option<String>,
    /// The models that it may call, names and globs; none: all.
    pub models: Option<Vec<String>>,
    /// Its own limits.
    pub limits: KeyLimits,
    /// The networks that it may be used from; none: from everywhere.
    pub allow_from: Option<Vec<String>>,
    /// Where requests wait for a server, those of a lower number go first.
    #[schema(value_type = i8, minimum = -100, maximum = 100)]
    pub priority: Priority,
    /// When it stops working.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Secrets that were replaced and still work.
    pub retiring: Vec<RetiringSecret>,
    /// Who made it: `operator`, or a user's id.
    pub created_by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was deleted.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deleted_at: Option<Timestamp>,
    #[serde(skip)]
    pub(crate) hash: Option<String>,
    /// What its team may use, with all its keys.
    #[serde(skip)]
    pub(crate) team_limits: ScopeLimits,
    /// What its owner may use, with all their keys.
    #[serde(skip)]
    pub(crate) owner_limits: ScopeLimits,
}

/// A replaced secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RetiringSecret {
    /// When it stops working.
    #[schema(value_type = String, format = DateTime)]
    pub not_after: Timestamp,
    #[serde(skip)]
    pub(crate) hash: String,
}

/// What a new key is to be.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// The user whose it is.
    pub owner: Option<String>,
    /// The team whose it is.
    pub team: Option<String>,
    /// The models that it may call.
    pub models: Option<Vec<String>>,
    /// Its own limits.
    pub limits: KeyLimits,
    /// The networks that it may be used from.
    pub allow_from: Option<Vec<String>>,
    /// Which of the requests that wait goes first.
    pub priority: Priority,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// Who makes it.
    pub created_by: String,
    /// Of a secret that was made elsewhere.
    pub hash: Option<KeyHash>,
}

/// Which keys are listed.
#[derive(Clone, Debug, Default)]
pub struct KeyFilter {
    /// Personal keys of this user.
    pub owner: Option<String>,
    /// Keys of this team.
    pub team: Option<String>,
    /// Keys of anybody.
    pub all: bool,
    /// Deleted ones too.
    pub deleted: bool,
}

/// Everything of a key, its state included. A personal key is archived while its owner is on a team.
const SELECT: &str = "SELECT k.id, k.name, k.masked, k.enabled, k.owner, k.team, k.wallet, k.models, k.limits, \
    k.allow_from, k.priority, k.expires_at, k.created_by, k.created_at, k.deleted_at, w.balance_nanos, \
    m.team_id AS archived_by, s.hash, t.limits AS team_limits, u.limits AS owner_limits \
    FROM keys k LEFT JOIN wallets w ON w.id = k.wallet \
    LEFT JOIN teams t ON t.id = k.team LEFT JOIN users u ON u.id = k.owner \
    LEFT JOIN members m ON m.user_id = k.owner AND k.team IS NULL \
    LEFT JOIN secrets s ON s.key_id = k.id AND s.not_after IS NULL";

/// Makes a key with this secret, or with the hash of one that was made elsewhere.
///
/// # Errors
/// When the database does not answer, or another key has that hash.
pub async fn create(
    tx: &mut Tx,
    id: &KeyId,
    secret: Option<&Secret>,
    new: &NewKey,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO keys (id, name, masked, enabled, owner, team, wallet, models, limits, allow_from, priority, \
               expires_at, created_by, created_at, updated_at) \
               VALUES ($1, $2, $3, 1, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    let wallet = new.team.as_ref().or(new.owner.as_ref());
    let masked = secret.map_or_else(|| MADE_ELSEWHERE.to_owned(), Secret::masked);
    let hash =
        secret.map(Secret::hash).or(new.hash).ok_or_else(|| StoreError::Corrupt("a key without a hash".into()))?;
    let query = sqlx::query(sql).bind(id.as_str()).bind(&new.name).bind(masked);
    let query =
        query.bind(new.owner.as_ref()).bind(new.team.as_ref()).bind(wallet).bind(list_text(new.models.as_ref()));
    let query = query.bind(limits_text(&new.limits)).bind(list_text(new.allow_from.as_ref()));
    let query = query.bind(i64::from(new.priority));
    let query = query.bind(new.expires_at.map(micros)).bind(&new.created_by);
    query.bind(micros(now)).bind(micros(now)).execute(&mut **tx).await?;
    let hash = hash.to_hex();
    add_secret(tx, id.as_str(), &hash).await?;
    changes::note(tx, id.as_str(), Some(&hash), now).await
}

/// What is shown of a secret that nobody here has seen.
const MADE_ELSEWHERE: &str = "…";

async fn add_secret(tx: &mut Tx, id: &str, hash: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO secrets (hash, key_id) VALUES ($1, $2)";
    sqlx::query(sql).bind(hash).bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// The key with this id, deleted or not; held against other changes until the transaction ends.
///
/// # Errors
/// When the database does not answer.
pub async fn find(tx: &mut Tx, id: &str) -> Result<Option<Key>, StoreError> {
    sqlx::query("UPDATE keys SET updated_at = updated_at WHERE id = $1").bind(id).execute(&mut **tx).await?;
    let row = sqlx::query(&format!("{SELECT} WHERE k.id = $1")).bind(id).fetch_optional(&mut **tx).await?;
    let Some(row) = row else { return Ok(None) };
    let sql = "SELECT hash, not_after FROM secrets WHERE key_id = $1 AND not_after IS NOT NULL ORDER BY not_after";
    let retiring = sqlx::query(sql).bind(id).fetch_all(&mut **tx).await?;
    key(&row, &retiring).map(Some)
}

/// Writes what of `key` may be changed.
///
/// # Errors
/// When the database does not answer.
pub async fn update(tx: &mut Tx, key: &Key, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE keys SET name = $1, enabled = $2, models = $3, limits = $4, allow_from = $5, priority = $6, \
               expires_at = $7, updated_at = $8 WHERE id = $9";
    let query = sqlx::query(sql).bind(&key.name).bind(i64::from(key.enabled)).bind(list_text(key.models.as_ref()));
    let query = query.bind(limits_text(&key.limits)).bind(list_text(key.allow_from.as_ref()));
    let query = query.bind(i64::from(key.priority));
    let query = query.bind(key.expires_at.map(micros)).bind(micros(now)).bind(&key.id);
    query.execute(&mut **tx).await?;
    changes::note(tx, &key.id, None, now).await
}

/// Gives a key another secret. The one before works until `retires`, or stops at once.
///
/// # Errors
/// When the database does not answer.
pub async fn regenerate(
    tx: &mut Tx,
    key: &Key,
    secret: &Secret,
    retires: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), StoreError> {
    match retires {
        Some(end) => {
            let sql = "UPDATE secrets SET not_after = $1 WHERE key_id = $2 AND not_after IS NULL";
            sqlx::query(sql).bind(micros(end)).bind(&key.id).execute(&mut **tx).await?;
            let sql = "DELETE FROM secrets WHERE key_id = $1 AND not_after < $2";
            sqlx::query(sql).bind(&key.id).bind(micros(now)).execute(&mut **tx).await?;
        }
        // Whoever wants an end of the old secret now does not want an older one to go on.
        None => remove_secrets(tx, &key.id).await?,
    }
    let hash = secret.hash().to_hex();
    add_secret(tx, &key.id, &hash).await?;
    let sql = "UPDATE keys SET masked = $1, updated_at = $2 WHERE id = $3";
    sqlx::query(sql).bind(secret.masked()).bind(micros(now)).bind(&key.id).execute(&mut **tx).await?;
    tell_all_hashes(tx, key, now).await?;
    changes::note(tx, &key.id, Some(&hash), now).await
}

/// Deletes a key.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(tx: &mut Tx, key: &Key, now: Timestamp) -> Result<(), StoreError> {
    remove_secrets(tx, &key.id).await?;
    let sql = "UPDATE keys SET deleted_at = $1, updated_at = $2 WHERE id = $3";
    sqlx::query(sql).bind(micros(now)).bind(micros(now)).bind(&key.id).execute(&mut **tx).await?;
    tell_all_hashes(tx, key, now).await?;
    changes::note(tx, &key.id, None, now).await
}

/// The personal keys of a user that are not deleted, all of them held until the transaction ends.
///
/// # Errors
/// When the database does not answer.
pub async fn find_personal(tx: &mut Tx, user: &str) -> Result<Vec<Key>, StoreError> {
    let sql = "SELECT id FROM keys WHERE owner = $1 AND team IS NULL AND deleted_at IS NULL ORDER BY id";
    find_all(tx, sql, user).await
}

/// The keys of a team that are not deleted, all of them held until the transaction ends.
///
/// # Errors
/// When the database does not answer.
pub async fn find_of_team(tx: &mut Tx, team: &str) -> Result<Vec<Key>, StoreError> {
    find_all(tx, "SELECT id FROM keys WHERE team = $1 AND deleted_at IS NULL ORDER BY id", team).await
}

async fn find_all(tx: &mut Tx, sql: &str, whose: &str) -> Result<Vec<Key>, StoreError> {
    let ids = sqlx::query(sql).bind(whose).fetch_all(&mut **tx).await?;
    let mut keys = Vec::with_capacity(ids.len());
    for id in ids {
        let key = find(tx, &id.try_get::<String, _>("id")?).await?;
        // It may have been deleted while it was waited for.
        keys.extend(key.filter(|key| key.deleted_at.is_none()));
    }
    Ok(keys)
}

async fn remove_secrets(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM secrets WHERE key_id = $1").bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// A gateway that knows nothing of the key's id may still know its secrets, as unknown ones.
async fn tell_all_hashes(tx: &mut Tx, key: &Key, now: Timestamp) -> Result<(), StoreError> {
    let retiring = key.retiring.iter().map(|retiring| &retiring.hash);
    for hash in key.hash.iter().chain(retiring) {
        changes::note(tx, &key.id, Some(hash), now).await?;
    }
    Ok(())
}

/// What was made before under an idempotency key: the id of the key, and the digest of what was asked for.
///
/// # Errors
/// When the database does not answer.
pub async fn created_before(
    tx: &mut Tx,
    actor: &str,
    idempotency_key: &str,
) -> Result<Option<(String, String)>, StoreError> {
    let sql = "SELECT key_id, digest FROM created WHERE actor = $1 AND idempotency_key = $2";
    let row = sqlx::query(sql).bind(actor).bind(idempotency_key).fetch_optional(&mut **tx).await?;
    row.map(|row| Ok((row.try_get("key_id")?, row.try_get("digest")?))).transpose()
}

/// Notes what is made under an idempotency key.
///
/// # Errors
/// When the database does not answer, or something was made under it meanwhile.
pub async fn note_created(
    tx: &mut Tx,
    actor: &str,
    idempotency_key: &str,
    digest: &str,
    id: &KeyId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO created (actor, idempotency_key, digest, key_id, at) VALUES ($1, $2, $3, $4, $5)";
    let query = sqlx::query(sql).bind(actor).bind(idempotency_key).bind(digest).bind(id.as_str()).bind(micros(now));
    query.execute(&mut **tx).await?;
    Ok(())
}

impl Store {
    /// The key that has this hash as its secret's, or as one that is retiring and still works at `now`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_by_hash(&self, hash: &KeyHash, now: Timestamp) -> Result<Option<Key>, StoreError> {
        let sql = "SELECT key_id FROM secrets WHERE hash = $1 AND (not_after IS NULL OR not_after >= $2)";
        let row = sqlx::query(sql).bind(hash.to_hex()).bind(micros(now)).fetch_optional(self.reader()).await?;
        let Some(row) = row else { return Ok(None) };
        self.key(&row.try_get::<String, _>("key_id")?).await
    }

    /// The key with this id, deleted or not.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key(&self, id: &str) -> Result<Option<Key>, StoreError> {
        let row = sqlx::query(&format!("{SELECT} WHERE k.id = $1")).bind(id).fetch_optional(self.reader()).await?;
        let Some(row) = row else { return Ok(None) };
        let sql = "SELECT hash, not_after FROM secrets WHERE key_id = $1 AND not_after IS NOT NULL ORDER BY not_after";
        let retiring = sqlx::query(sql).bind(id).fetch_all(self.reader()).await?;
        key(&row, &retiring).map(Some)
    }

    /// Keys in the order of their ids after `after`, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn keys(&self, filter: &KeyFilter, after: &str, most: i64) -> Result<Vec<Key>, StoreError> {
        let sql = format!(
            "{SELECT} WHERE k.id > $1 AND ($2 = 1 OR k.deleted_at IS NULL) \
             AND ($3 = 1 OR (k.owner = $4 AND k.team IS NULL) OR k.team = $5) ORDER BY k.id LIMIT $6"
        );
        let query = sqlx::query(&sql).bind(after).bind(i64::from(filter.deleted)).bind(i64::from(filter.all));
        let query = query.bind(filter.owner.as_ref()).bind(filter.team.as_ref()).bind(most);
        let rows = query.fetch_all(self.reader()).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            let sql = "SELECT hash, not_after FROM secrets WHERE key_id = $1 AND not_after IS NOT NULL";
            let id: String = row.try_get("id")?;
            let retiring = sqlx::query(sql).bind(id).fetch_all(self.reader()).await?;
            keys.push(key(row, &retiring)?);
        }
        Ok(keys)
    }
}

fn key(row: &AnyRow, retiring: &[AnyRow]) -> Result<Key, StoreError> {
    let id: String = row.try_get("id")?;
    let corrupt = |what: &str| StoreError::Corrupt(format!("the {what} of the key {id}"));
    let list = |column| -> Result<Option<Vec<String>>, StoreError> {
        let text: Option<String> = optional(row, column)?;
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| corrupt(column))
    };
    let limits = serde_json::from_str(&row.try_get::<String, _>("limits")?);
    let of_holder = |column| -> Result<ScopeLimits, StoreError> {
        let text: Option<String> = optional(row, column)?;
        let limits = text.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| corrupt(column))?;
        Ok(limits.unwrap_or_default())
    };
    let priority = Priority::try_from(row.try_get::<i64, _>("priority")?);
    let enabled = row.try_get::<i64, _>("enabled")? != 0;
    let deleted_at = optional(row, "deleted_at")?.map(timestamp);
    let balance: Option<i64> = optional(row, "balance_nanos")?;
    let state = match () {
        () if deleted_at.is_some() => "deleted",
        () if !enabled => state_name(KeyState::Disabled),
        () if optional::<String>(row, "archived_by")?.is_some() => state_name(KeyState::Archived),
        () if balance.is_some_and(|balance| balance <= USED_UP.nanos()) => state_name(KeyState::NoBalance),
        () => state_name(KeyState::Active),
    };
    let retiring = retiring
        .iter()
        .map(|row| Ok(RetiringSecret { not_after: timestamp(row.try_get("not_after")?), hash: row.try_get("hash")? }));
    Ok(Key {
        name: row.try_get("name")?,
        masked: row.try_get("masked")?,
        state: state.to_owned(),
        enabled,
        owner: optional(row, "owner")?,
        team: optional(row, "team")?,
        wallet: optional(row, "wallet")?,
        models: list("models")?,
        limits: limits.map_err(|_| corrupt("limits"))?,
        allow_from: list("allow_from")?,
        priority: priority.map_err(|_| corrupt("priority"))?,
        expires_at: optional(row, "expires_at")?.map(timestamp),
        retiring: retiring.collect::<Result<_, StoreError>>()?,
        created_by: row.try_get("created_by")?,
        created_at: timestamp(row.try_get("created_at")?),
        deleted_at,
        hash: optional(row, "hash")?,
        team_limits: of_holder("team_limits")?,
        owner_limits: of_holder("owner_limits")?,
        id,
    })
}

fn state_name(state: KeyState) -> &'static str {
    match state {
        KeyState::Active => "active",
        KeyState::Disabled => "disabled",
        KeyState::Archived => "archived",
        KeyState::NoBalance => "no_balance",
    }
}

fn list_text(list: Option<&Vec<String>>) -> Option<String> {
    list.map(|list| serde_json::json!(list).to_string())
}

fn limits_text(limits: &KeyLimits) -> String {
    serde_json::json!(limits).to_string()
}
