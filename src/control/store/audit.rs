//! Who changed what, when and from where. It is added to in the transaction of the change itself, and never changed.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use utoipa::ToSchema;

use super::{Store, StoreFault, Tx, micros, next_number, timestamp};

/// One thing that was done.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Their order.
    pub seq: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// By whom: `operator`, or a user's id.
    pub actor: String,
    /// From which address.
    pub address: String,
    /// What, such as `key.create`.
    pub action: String,
    /// To what: the id of a key, a user, a team or a wallet.
    pub target: String,
    /// What was said of it; never a secret.
    pub detail: Value,
}

/// Who does something, and from where.
#[derive(Clone, Debug)]
pub struct Actor {
    /// `operator`, or a user's id.
    pub name: String,
    /// The address that the request came from.
    pub address: String,
}

/// Notes that `actor` does `action` to `target`.
///
/// # Errors
/// When the database does not answer.
pub async fn note(
    tx: &mut Tx,
    actor: &Actor,
    action: &str,
    target: &str,
    detail: &Value,
    now: Timestamp,
) -> Result<(), StoreFault> {
    let seq = next_number(tx, "audit").await?;
    let sql = "INSERT INTO audit (seq, at, actor, address, action, target, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let query = sqlx::query(sql).bind(seq).bind(micros(now)).bind(&actor.name).bind(&actor.address);
    query.bind(action).bind(target).bind(detail.to_string()).execute(&mut **tx).await?;
    Ok(())
}

impl Store {
    /// The latest entries before `before`, the latest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit(&self, before: Option<i64>, most: i64) -> Result<Vec<AuditEntry>, StoreFault> {
        let sql = "SELECT seq, at, actor, address, action, target, detail FROM audit \
                   WHERE seq < $1 ORDER BY seq DESC LIMIT $2";
        let rows = sqlx::query(sql).bind(before.unwrap_or(i64::MAX)).bind(most).fetch_all(self.reader()).await?;
        let entry = |row: &sqlx::any::AnyRow| {
            let detail: String = row.try_get("detail")?;
            Ok(AuditEntry {
                seq: row.try_get("seq")?,
                at: timestamp(row.try_get("at")?),
                actor: row.try_get("actor")?,
                address: row.try_get("address")?,
                action: row.try_get("action")?,
                target: row.try_get("target")?,
                detail: serde_json::from_str(&detail).unwrap_or(Value::Null),
            })
        };
        rows.iter().map(entry).collect()
    }
}
