//! Users, teams and memberships. The table ensures that a user is on one team at most. A team has one owner, unless the
//! operator removed the owner from it.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use keymeter_core::key::KeyHash;
use serde::{Deserialize, Serialize};
use sqlx::{Row, any::AnyRow};
use utoipa::ToSchema;

use super::{Store, StoreError, Tx, changes, limits::ScopeLimits, micros, timestamp};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct User {
    /// Their stable name.
    pub id: String,
    /// What people call them.
    pub name: String,
    /// The value of the issuer's claim by which they sign in to the page, such as an e-mail address.
    pub sign_in: Option<String>,
    /// The team that they are on.
    pub team: Option<String>,
    /// What they are there.
    pub role: Option<Role>,
    /// What they may use, with all their own keys together.
    pub limits: ScopeLimits,
    /// Since when they are known.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Team {
    /// Its stable name.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Who is on it.
    pub members: Vec<Member>,
    /// What it may use, with all its keys together.
    pub limits: ScopeLimits,
    /// Since when there is it.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Somebody on a team.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Member {
    /// Who.
    pub user: String,
    /// What they may do.
    pub role: Role,
}

/// What somebody may do on a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Use its keys.
    Member,
    /// Make its keys and bring in people, too.
    Admin,
    /// Everything; there is one.
    Owner,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Member, Self::Admin, Self::Owner].into_iter().find(|role| role.as_str() == text);
        known.ok_or_else(|| format!("unknown role `{text}`; accepted: member, admin, owner"))
    }
}

pub(super) fn role(text: &str) -> Result<Role, StoreError> {
    text.parse().map_err(StoreError::Corrupt)
}

const SELECT_USER: &str = "SELECT u.id, u.name, u.sign_in, u.limits, u.created_at, m.team_id, m.role FROM users u \
                           LEFT JOIN members m ON m.user_id = u.id WHERE u.deleted_at IS NULL";

/// Makes a user with this token, who signs in by `sign_in` too, and a wallet for them.
///
/// # Errors
/// When there is a user or a team of that name, another signs in by that, or the database does not answer.
pub async fn create_user(
    tx: &mut Tx,
    (id, name): (&str, &str),
    sign_in: Option<&str>,
    token: &KeyHash,
    now: Timestamp,
) -> Result<(), StoreError> {
    open_wallet(tx, id).await?;
    let sql =
        "INSERT INTO users (id, name, token_hash, created_at, sign_in, sign_in_folded) VALUES ($1, $2, $3, $4, $5, $6)";
    let query = sqlx::query(sql).bind(id).bind(name).bind(token.to_hex()).bind(micros(now));
    query.bind(sign_in).bind(sign_in.map(folded)).execute(&mut **tx).await?;
    Ok(())
}

/// A value by which somebody signs in, as it is compared. Letters beyond ASCII are compared as they are: there another's may
/// look like one's own in lower case.
#[must_use]
pub fn folded(sign_in: &str) -> String {
    sign_in.to_ascii_lowercase()
}

/// Whose value this is by which they sign in, if it is anybody's.
///
/// # Errors
/// When the database does not answer.
pub async fn signs_in_by(tx: &mut Tx, sign_in: &str) -> Result<Option<String>, StoreError> {
    let sql = "SELECT id FROM users WHERE sign_in_folded = $1";
    let row = sqlx::query(sql).bind(folded(sign_in)).fetch_optional(&mut **tx).await?;
    row.map(|row| Ok(row.try_get("id")?)).transpose()
}

/// Makes a team with an owner, and a wallet for it. The owner's own keys are archived.
///
/// # Errors
/// When there is a user or a team of that name, the owner is on a team, or the database does not answer.
pub async fn create_team(tx: &mut Tx, id: &str, name: &str, owner: &str, now: Timestamp) -> Result<(), StoreError> {
    open_wallet(tx, id).await?;
    let sql = "INSERT INTO teams (id, name, created_at) VALUES ($1, $2, $3)";
    sqlx::query(sql).bind(id).bind(name).bind(micros(now)).execute(&mut **tx).await?;
    join(tx, id, owner, Role::Owner, now).await
}

async fn open_wallet(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO wallets (id, balance_nanos) VALUES ($1, 0)").bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// What people call the team with this id, which is held against other changes of its members and its keys until the
/// transaction ends. Teams are held before keys, users and wallets, and several of a kind in the order of their ids, so
/// that nobody waits for another who waits for them.
///
/// # Errors
/// When the database does not answer.
pub async fn hold_team(tx: &mut Tx, id: &str) -> Result<Option<String>, StoreError> {
    let sql = "UPDATE teams SET name = name WHERE id = $1 AND deleted_at IS NULL RETURNING name";
    let row = sqlx::query(sql).bind(id).fetch_optional(&mut **tx).await?;
    row.map(|row| Ok(row.try_get("name")?)).transpose()
}

/// Writes what of a team may be changed, and notes that its keys change.
///
/// # Errors
/// When the database does not answer.
pub async fn update_team(tx: &mut Tx, team: &Team, now: Timestamp) -> Result<(), StoreError> {
    update(tx, "UPDATE teams SET name = $1, limits = $2 WHERE id = $3", (&team.id, &team.name, &team.limits), now).await
}

/// Writes what of a user may be changed, and notes that their keys change.
///
/// # Errors
/// When another signs in by the same, or the database does not answer.
pub async fn update_user(tx: &mut Tx, user: &User, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE users SET sign_in = $1, sign_in_folded = $2 WHERE id = $3";
    let query = sqlx::query(sql).bind(&user.sign_in).bind(user.sign_in.as_deref().map(folded)).bind(&user.id);
    query.execute(&mut **tx).await?;
    update(tx, "UPDATE users SET name = $1, limits = $2 WHERE id = $3", (&user.id, &user.name, &user.limits), now).await
}

async fn update(
    tx: &mut Tx,
    sql: &str,
    (id, name, limits): (&str, &str, &ScopeLimits),
    now: Timestamp,
) -> Result<(), StoreError> {
    let limits = serde_json::json!(limits).to_string();
    sqlx::query(sql).bind(name).bind(limits).bind(id).execute(&mut **tx).await?;
    // Keys are charged to whose limits they are held to.
    changes::note_wallet(tx, id, now).await
}

/// What a user is on a team.
///
/// # Errors
/// When the database does not answer.
pub async fn role_on(tx: &mut Tx, team: &str, user: &str) -> Result<Option<Role>, StoreError> {
    let sql = "SELECT role FROM members WHERE team_id = $1 AND user_id = $2";
    let row = sqlx::query(sql).bind(team).bind(user).fetch_optional(&mut **tx).await?;
    row.map(|row| role(&row.try_get::<String, _>("role")?)).transpose()
}

/// The ids of the users on a team, in their order.
///
/// # Errors
/// When the database does not answer.
pub async fn members_of(tx: &mut Tx, team: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT user_id FROM members WHERE team_id = $1 ORDER BY user_id";
    let rows = sqlx::query(sql).bind(team).fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok(row.try_get("user_id")?)).collect()
}

/// Who owns a team, if anybody does.
///
/// # Errors
/// When the database does not answer.
pub async fn owner_of(tx: &mut Tx, team: &str) -> Result<Option<String>, StoreError> {
    let sql = "SELECT user_id FROM members WHERE team_id = $1 AND role = 'owner'";
    let row = sqlx::query(sql).bind(team).fetch_optional(&mut **tx).await?;
    row.map(|row| Ok(row.try_get("user_id")?)).transpose()
}

/// Lets a team go on which nobody is. Its name stays taken, for the history's sake.
///
/// # Errors
/// When the database does not answer.
pub async fn delete_team(tx: &mut Tx, id: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE teams SET deleted_at = $1 WHERE id = $2";
    sqlx::query(sql).bind(micros(now)).bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// Puts a user on a team. Their own keys are archived from now on.
///
/// # Errors
/// When the user is on a team, or the database does not answer.
pub async fn join(tx: &mut Tx, team: &str, user: &str, role: Role, now: Timestamp) -> Result<(), StoreError> {
    let sql = "INSERT INTO members (user_id, team_id, role) VALUES ($1, $2, $3)";
    sqlx::query(sql).bind(user).bind(team).bind(role.as_str()).execute(&mut **tx).await?;
    note_personal_keys(tx, user, now).await
}

/// Takes a user off their team. Their own keys work again.
///
/// # Errors
/// When the database does not answer.
pub async fn leave(tx: &mut Tx, user: &str, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM members WHERE user_id = $1").bind(user).execute(&mut **tx).await?;
    note_personal_keys(tx, user, now).await
}

/// Makes somebody on a team something else.
///
/// # Errors
/// When the database does not answer.
pub async fn promote(tx: &mut Tx, user: &str, role: Role) -> Result<(), StoreError> {
    let sql = "UPDATE members SET role = $1 WHERE user_id = $2";
    sqlx::query(sql).bind(role.as_str()).bind(user).execute(&mut **tx).await?;
    Ok(())
}

async fn note_personal_keys(tx: &mut Tx, user: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql = "SELECT id FROM keys WHERE owner = $1 AND team IS NULL AND deleted_at IS NULL";
    for key in sqlx::query(sql).bind(user).fetch_all(&mut **tx).await? {
        changes::note(tx, &key.try_get::<String, _>("id")?, None, now).await?;
    }
    Ok(())
}

/// Lets a user go: their token works no more, and another may sign in by what they did. Their name stays taken, for the
/// history's sake.
///
/// # Errors
/// When the database does not answer.
pub async fn delete_user(tx: &mut Tx, id: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE users SET deleted_at = $1, token_hash = $2, sign_in = NULL, sign_in_folded = NULL WHERE id = $3";
    // No token has this as its hash, and each user's is another.
    sqlx::query(sql).bind(micros(now)).bind(format!("deleted {id}")).bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// Gives a user another token. The one before works no more, and their sessions are over.
///
/// # Errors
/// When the database does not answer.
pub async fn replace_token(tx: &mut Tx, id: &str, token: &KeyHash) -> Result<(), StoreError> {
    let sql = "UPDATE users SET token_hash = $1 WHERE id = $2";
    sqlx::query(sql).bind(token.to_hex()).bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// The user with this id, held against other changes until the transaction ends.
///
/// # Errors
/// When the database does not answer.
pub async fn user(tx: &mut Tx, id: &str) -> Result<Option<User>, StoreError> {
    sqlx::query("UPDATE users SET name = name WHERE id = $1").bind(id).execute(&mut **tx).await?;
    let row = sqlx::query(&format!("{SELECT_USER} AND u.id = $1")).bind(id).fetch_optional(&mut **tx).await?;
    row.as_ref().map(user_of).transpose()
}

impl Store {
    /// The user with this id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user(&self, id: &str) -> Result<Option<User>, StoreError> {
        let row = sqlx::query(&format!("{SELECT_USER} AND u.id = $1")).bind(id).fetch_optional(self.reader()).await?;
        row.as_ref().map(user_of).transpose()
    }

    /// The user whose token has this hash.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_by_token(&self, token: &KeyHash) -> Result<Option<User>, StoreError> {
        let sql = format!("{SELECT_USER} AND u.token_hash = $1");
        let row = sqlx::query(&sql).bind(token.to_hex()).fetch_optional(self.reader()).await?;
        row.as_ref().map(user_of).transpose()
    }

    /// The user who signs in by this value, and the hash of their token.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_by_sign_in(&self, sign_in: &str) -> Result<Option<(User, KeyHash)>, StoreError> {
        let sql = SELECT_USER.replace("u.id,", "u.token_hash, u.id,") + " AND u.sign_in_folded = $1";
        let row = sqlx::query(&sql).bind(folded(sign_in)).fetch_optional(self.reader()).await?;
        let found = |row: AnyRow| {
            let hash: String = row.try_get("token_hash")?;
            let corrupt = |_| StoreError::Corrupt("the hash of a user's token".to_owned());
            Ok((user_of(&row)?, format!("sha256:{hash}").parse().map_err(corrupt)?))
        };
        row.map(found).transpose()
    }

    /// By which a user's token is told from others that they had or will have; nothing of it can be guessed by that.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn token_mark(&self, id: &str) -> Result<String, StoreError> {
        let row = sqlx::query("SELECT token_hash FROM users WHERE id = $1").bind(id).fetch_one(self.reader()).await?;
        let hash = KeyHash::digest(row.try_get::<String, _>("token_hash")?.as_bytes()).to_hex();
        Ok(hash.chars().take(16).collect())
    }

    /// Users in the order of their ids after `after`, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn users(&self, after: &str, most: i64) -> Result<Vec<User>, StoreError> {
        let sql = format!("{SELECT_USER} AND u.id > $1 ORDER BY u.id LIMIT $2");
        let rows = sqlx::query(&sql).bind(after).bind(most).fetch_all(self.reader()).await?;
        rows.iter().map(user_of).collect()
    }

    /// The team with this id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn team(&self, id: &str) -> Result<Option<Team>, StoreError> {
        let sql = "SELECT id, name, limits, created_at FROM teams WHERE id = $1 AND deleted_at IS NULL";
        let Some(row) = sqlx::query(sql).bind(id).fetch_optional(self.reader()).await? else { return Ok(None) };
        let sql = "SELECT user_id, role FROM members WHERE team_id = $1 ORDER BY user_id";
        let members = sqlx::query(sql).bind(id).fetch_all(self.reader()).await?;
        let member = |row: &AnyRow| {
            Ok(Member { user: row.try_get("user_id")?, role: role(&row.try_get::<String, _>("role")?)? })
        };
        Ok(Some(Team {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            members: members.iter().map(member).collect::<Result<_, StoreError>>()?,
            limits: limits(&row, id)?,
            created_at: timestamp(row.try_get("created_at")?),
        }))
    }
}

fn limits(row: &AnyRow, id: &str) -> Result<ScopeLimits, StoreError> {
    let text: String = row.try_get("limits")?;
    serde_json::from_str(&text).map_err(|_| StoreError::Corrupt(format!("the limits of {id}")))
}

fn user_of(row: &AnyRow) -> Result<User, StoreError> {
    let stated: Option<String> = row.try_get("role")?;
    let id: String = row.try_get("id")?;
    Ok(User {
        limits: limits(row, &id)?,
        id,
        name: row.try_get("name")?,
        sign_in: row.try_get("sign_in")?,
        team: row.try_get("team_id")?,
        role: stated.as_deref().map(role).transpose()?,
        created_at: timestamp(row.try_get("created_at")?),
    })
}
