//! Those whose keys there can be, for the lists that a page lets people choose from, and what is in their wallets.

use keymeter_core::money::Usd;
use sqlx::{Row, any::AnyRow};

use super::{Store, StoreError};

/// A team or a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its stable name.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What is in its wallet.
    pub balance: Usd,
}

/// A team, with what a list of them tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTeam {
    /// The team.
    pub holder: Holder,
    /// Who owns it, if anybody does.
    pub owner: Option<String>,
    /// How many are on it.
    pub members: i64,
    /// How many keys it has.
    pub keys: i64,
}

/// A user, with what a list of them tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedUser {
    /// The user.
    pub holder: Holder,
    /// The team that they are on, and what they are there.
    pub team: Option<(String, String)>,
    /// How many keys of their own they have.
    pub keys: i64,
}

impl Store {
    /// Teams in the order of their ids after `after`, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn listed_teams(&self, after: &str, most: i64) -> Result<Vec<ListedTeam>, StoreError> {
        let sql = "SELECT t.id, t.name, w.balance_nanos, \
                   (SELECT MIN(m.user_id) FROM members m WHERE m.team_id = t.id AND m.role = 'owner') AS owner, \
                   (SELECT CAST(COUNT(*) AS BIGINT) FROM members m WHERE m.team_id = t.id) AS members, \
                   (SELECT CAST(COUNT(*) AS BIGINT) FROM keys k WHERE k.team = t.id AND k.deleted_at IS NULL) AS keys \
                   FROM teams t JOIN wallets w ON w.id = t.id WHERE t.id > $1 AND t.deleted_at IS NULL \
                   ORDER BY t.id LIMIT $2";
        let rows = sqlx::query(sql).bind(after).bind(most).fetch_all(self.reader()).await?;
        let listed = |row: &AnyRow| {
            Ok(ListedTeam {
                holder: holder(row)?,
                owner: row.try_get("owner")?,
                members: row.try_get("members")?,
                keys: row.try_get("keys")?,
            })
        };
        rows.iter().map(listed).collect()
    }

    /// Users in the order of their ids after `after`, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn listed_users(&self, after: &str, most: i64) -> Result<Vec<ListedUser>, StoreError> {
        let sql = "SELECT u.id, u.name, w.balance_nanos, m.team_id, m.role, \
                   (SELECT CAST(COUNT(*) AS BIGINT) FROM keys k WHERE k.owner = u.id AND k.team IS NULL \
                   AND k.deleted_at IS NULL) AS keys FROM users u JOIN wallets w ON w.id = u.id \
                   LEFT JOIN members m ON m.user_id = u.id WHERE u.id > $1 AND u.deleted_at IS NULL \
                   ORDER BY u.id LIMIT $2";
        let rows = sqlx::query(sql).bind(after).bind(most).fetch_all(self.reader()).await?;
        let listed = |row: &AnyRow| {
            let team: Option<String> = row.try_get("team_id")?;
            let role: Option<String> = row.try_get("role")?;
            Ok(ListedUser { holder: holder(row)?, team: team.zip(role), keys: row.try_get("keys")? })
        };
        rows.iter().map(listed).collect()
    }

    /// Teams, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn team_holders(&self, most: i64) -> Result<Vec<Holder>, StoreError> {
        let sql = "SELECT t.id, t.name, w.balance_nanos FROM teams t JOIN wallets w ON w.id = t.id \
                   WHERE t.deleted_at IS NULL ORDER BY t.id LIMIT $1";
        let rows = sqlx::query(sql).bind(most).fetch_all(self.reader()).await?;
        rows.iter().map(holder).collect()
    }

    /// Users, or only those who are on no team, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn user_holders(&self, is_on_no_team: bool, most: i64) -> Result<Vec<Holder>, StoreError> {
        let sql = "SELECT u.id, u.name, w.balance_nanos FROM users u JOIN wallets w ON w.id = u.id \
                   LEFT JOIN members m ON m.user_id = u.id \
                   WHERE u.deleted_at IS NULL AND ($1 = 0 OR m.user_id IS NULL) ORDER BY u.id LIMIT $2";
        let rows = sqlx::query(sql).bind(i64::from(is_on_no_team)).bind(most).fetch_all(self.reader()).await?;
        rows.iter().map(holder).collect()
    }

    /// Whether there is a team with this id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_team(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM teams WHERE id = $1 AND deleted_at IS NULL";
        Ok(sqlx::query(sql).bind(id).fetch_optional(self.reader()).await?.is_some())
    }
}

fn holder(row: &AnyRow) -> Result<Holder, StoreError> {
    Ok(Holder {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        balance: Usd::from_nanos(row.try_get("balance_nanos")?),
    })
}
