//! Operations of each user within the last hour, counted over all instances.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::Row;

use super::{Store, StoreError, Tx, micros};

/// What is counted, each kind by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Making a key, or replacing its secret.
    Secret,
    /// Any other change, also one that is refused.
    Change,
    /// Ending a session of the page, which is remembered for as long as its cookie would have been good.
    SignOut,
}

/// Microseconds.
const HOUR: i64 = 3_600_000_000;

impl Operation {
    const ALL: [Self; 3] = [Self::Secret, Self::Change, Self::SignOut];

    fn table(self) -> &'static str {
        match self {
            Self::Secret => "key_operations",
            Self::Change => "change_operations",
            Self::SignOut => "sign_out_operations",
        }
    }
}

/// Counts an operation of a user's, of which `most` are allowed in an hour; gives how long to wait where there were too
/// many.
///
/// # Errors
/// When the database does not answer.
pub async fn count(
    tx: &mut Tx,
    operation: Operation,
    user: &str,
    most: u32,
    now: Timestamp,
) -> Result<Result<(), Duration>, StoreError> {
    let (table, now) = (operation.table(), micros(now));
    // Holds the user, so that two requests at once do not both take the last.
    sqlx::query("UPDATE users SET name = name WHERE id = $1").bind(user).execute(&mut **tx).await?;
    let sql = format!("DELETE FROM {table} WHERE user_id = $1 AND at <= $2");
    sqlx::query(&sql).bind(user).bind(now - HOUR).execute(&mut **tx).await?;
    if let Some(wait) = wait(&mut **tx, operation, user, most, now).await? {
        return Ok(Err(wait));
    }
    let sql = format!("INSERT INTO {table} (user_id, at) VALUES ($1, $2)");
    sqlx::query(&sql).bind(user).bind(now).execute(&mut **tx).await?;
    Ok(Ok(()))
}

/// How long a user has to wait until another operation is allowed, if they have to.
async fn wait<'executor>(
    database: impl sqlx::Executor<'executor, Database = sqlx::Any>,
    operation: Operation,
    user: &str,
    most: u32,
    now: i64,
) -> Result<Option<Duration>, StoreError> {
    let Some(before) = most.checked_sub(1) else { return Ok(Some(Duration::from_micros(HOUR.unsigned_abs()))) };
    // The one that has to be an hour ago: so many came after it.
    let sql = format!(
        "SELECT at FROM {} WHERE user_id = $1 AND at > $2 ORDER BY at DESC LIMIT 1 OFFSET $3",
        operation.table()
    );
    let query = sqlx::query(&sql).bind(user).bind(now - HOUR).bind(i64::from(before));
    let Some(row) = query.fetch_optional(database).await? else { return Ok(None) };
    let at: i64 = row.try_get("at")?;
    let wait = at.saturating_add(HOUR).saturating_sub(now).max(1);
    Ok(Some(Duration::from_micros(wait.unsigned_abs())))
}

impl Store {
    /// Counts an operation of a user's in a transaction of its own, as [`count`] does. A user who has to wait is told so
    /// by looking only, and holds up nobody who writes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn count_operation(
        &self,
        operation: Operation,
        user: &str,
        most: u32,
        now: Timestamp,
    ) -> Result<Result<(), Duration>, StoreError> {
        if let Some(wait) = wait(self.reader(), operation, user, most, micros(now)).await? {
            return Ok(Err(wait));
        }
        let mut tx = self.begin().await?;
        let counted = count(&mut tx, operation, user, most, now).await?;
        // Nothing of keys changes, so nobody is told.
        tx.commit().await?;
        Ok(counted)
    }

    /// Forgets operations that count no more.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_operations(&self, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for operation in Operation::ALL {
            let sql = format!("DELETE FROM {} WHERE at <= $1", operation.table());
            sqlx::query(&sql).bind(micros(now) - HOUR).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
