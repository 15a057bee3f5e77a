//! Queries that only the page needs.

use jiff::Timestamp;
use keymeter_core::{key::Secret, money::Usd};
use sqlx::Row;

use super::{Store, StoreError};

impl Store {
    /// What sessions are signed with: made once, and the same at all instances.
    ///
    /// # Errors
    /// When the database does not answer, or the operating system gives no randomness.
    pub async fn page_secret(&self) -> Result<Secret, StoreError> {
        let new = Secret::generate().map_err(StoreError::Randomness)?;
        let mut tx = self.begin().await?;
        let sql = "INSERT INTO page_secret (id, secret) VALUES (1, $1) ON CONFLICT (id) DO NOTHING";
        sqlx::query(sql).bind(new.reveal()).execute(&mut *tx).await?;
        let kept = sqlx::query("SELECT secret FROM page_secret WHERE id = 1").fetch_one(&mut *tx).await?;
        self.commit(tx).await?;
        Ok(Secret::new(kept.try_get::<String, _>("secret")?))
    }

    /// From now on the session with this `nonce`, whose cookie is good until so many seconds after 1970, is over at all
    /// instances. Returns whether it was not over before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_session(&self, nonce: &str, until: i64) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let sql = "INSERT INTO ended_sessions (nonce, until) VALUES ($1, $2) ON CONFLICT (nonce) DO NOTHING";
        let ended = sqlx::query(sql).bind(nonce).bind(until).execute(&mut *tx).await?.rows_affected();
        self.commit(tx).await?;
        Ok(ended > 0)
    }

    /// Whether the session with this `nonce` was ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_session_ended(&self, nonce: &str) -> Result<bool, StoreError> {
        let sql = "SELECT nonce FROM ended_sessions WHERE nonce = $1";
        Ok(sqlx::query(sql).bind(nonce).fetch_optional(self.reader()).await?.is_some())
    }

    /// Forgets ended sessions whose cookies are of no use at `now`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_sessions(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let gone = sqlx::query("DELETE FROM ended_sessions WHERE until <= $1").bind(now.as_second());
        let gone = gone.execute(&mut *tx).await?.rows_affected();
        self.commit(tx).await?;
        Ok(gone)
    }

    /// The ids and names of teams in the order of their ids after `after`, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn teams(&self, after: &str, most: i64) -> Result<Vec<(String, String)>, StoreError> {
        let sql = "SELECT id, name FROM teams WHERE id > $1 AND deleted_at IS NULL ORDER BY id LIMIT $2";
        let rows = sqlx::query(sql).bind(after).bind(most).fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("name")?))).collect()
    }

    /// The owners of wallets and what is in them, in the order of their ids after `after`, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn balances(&self, after: &str, most: i64) -> Result<Vec<(String, Usd)>, StoreError> {
        let sql = "SELECT id, balance_nanos FROM wallets WHERE id > $1 ORDER BY id LIMIT $2";
        let rows = sqlx::query(sql).bind(after).bind(most).fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, Usd::from_nanos(row.try_get("balance_nanos")?)))).collect()
    }
}
