//! The audit log: who changed what, when and from which address. An entry is written in the transaction of its change and
//! never altered.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::Row;
use utoipa::ToSchema;

use super::{Store, StoreError, Tx, micros, next_number, timestamp};

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
    /// Which of the two it was.
    pub actor_kind: ActorKind,
    /// From which address.
    pub address: String,
    /// What, such as `key.create`.
    pub action: String,
    /// To what: the id of a key, a user, a team or a wallet.
    pub target: String,
    /// What was said of it; never a secret.
    pub detail: Value,
}

/// What those are who do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    /// The operator.
    Operator,
    /// A user.
    User,
    /// Either: the entry was noted by a version that did not tell them apart, while a user was called `operator`.
    Unknown,
}

impl ActorKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Operator => OPERATOR,
            Self::User => "user",
            Self::Unknown => "",
        }
    }

    fn noted(text: &str) -> Self {
        match text {
            OPERATOR => Self::Operator,
            "user" => Self::User,
            _ => Self::Unknown,
        }
    }
}

/// What the operator is called. No user is made with this name; an earlier version let one have it.
pub const OPERATOR: &str = "operator";

/// Who does something, and from where.
#[derive(Clone, Debug)]
pub struct Actor {
    /// What they are.
    pub kind: ActorKind,
    /// `operator`, or a user's id.
    pub name: String,
    /// The address that the request came from.
    pub address: String,
}

impl Actor {
    /// By which what they do is told from what others do: a user who is called as the operator is has no name for it that
    /// could be another's, since none has a space.
    #[must_use]
    pub fn unmistakable(&self) -> String {
        match self.kind {
            ActorKind::User if self.name == OPERATOR => format!("user {}", self.name),
            _ => self.name.clone(),
        }
    }
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
) -> Result<(), StoreError> {
    let seq = next_number(tx, "audit").await?;
    let sql = "INSERT INTO audit (seq, at, actor, actor_kind, address, action, target, detail) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let query = sqlx::query(sql).bind(seq).bind(micros(now)).bind(&actor.name).bind(actor.kind.as_str());
    query.bind(&actor.address).bind(action).bind(target).bind(detail.to_string()).execute(&mut **tx).await?;
    Ok(())
}

impl Store {
    /// The latest entries before `before`, the latest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit(&self, before: Option<i64>, most: i64) -> Result<Vec<AuditEntry>, StoreError> {
        // Of entries of earlier versions the name tells, unless a user had the operator's at the time.
        let sql = "SELECT seq, at, actor, CASE WHEN actor_kind <> '' THEN actor_kind \
                   WHEN actor <> 'operator' THEN 'user' \
                   WHEN EXISTS (SELECT 1 FROM users WHERE users.id = 'operator' AND users.created_at <= audit.at) \
                   THEN '' ELSE 'operator' END AS kind, address, action, target, detail FROM audit \
                   WHERE seq < $1 ORDER BY seq DESC LIMIT $2";
        let rows = sqlx::query(sql).bind(before.unwrap_or(i64::MAX)).bind(most).fetch_all(self.reader()).await?;
        let entry = |row: &sqlx::any::AnyRow| {
            let detail: String = row.try_get("detail")?;
            Ok(AuditEntry {
                seq: row.try_get("seq")?,
                at: timestamp(row.try_get("at")?),
                actor: row.try_get("actor")?,
                actor_kind: ActorKind::noted(&row.try_get::<String, _>("kind")?),
                address: row.try_get("address")?,
                action: row.try_get("action")?,
                target: row.try_get("target")?,
                detail: serde_json::from_str(&detail).unwrap_or(Value::Null),
            })
        };
        rows.iter().map(entry).collect()
    }
}
