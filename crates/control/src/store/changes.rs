//! The numbered changes of keys, which gateways are told in their order.

use jiff::Timestamp;
use sqlx::Row;

use super::{Store, StoreError, Tx, micros, news, next_number, optional};

/// A changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The order of the changes.
    pub seq: i64,
    /// Which key.
    pub key_id: String,
    /// The hash of a secret that it has from now on, or had until now.
    pub hash: Option<String>,
}

/// Changes that are kept, for gateways that come back.
const KEPT: i64 = 100_000;

/// Notes that a key changes.
///
/// # Errors
/// When the database does not answer.
pub async fn note(tx: &mut Tx, key_id: &str, hash: Option<&str>, now: Timestamp) -> Result<(), StoreError> {
    let seq = next_number(tx, "changes").await?;
    let sql = "INSERT INTO changes (seq, key_id, hash, at) VALUES ($1, $2, $3, $4)";
    sqlx::query(sql).bind(seq).bind(key_id).bind(hash).bind(micros(now)).execute(&mut **tx).await?;
    if seq % 1000 == 0 {
        sqlx::query("DELETE FROM changes WHERE seq <= $1").bind(seq - KEPT).execute(&mut **tx).await?;
    }
    news::tell_all(tx).await
}

/// Notes that all keys of a wallet change.
///
/// # Errors
/// When the database does not answer.
pub async fn note_wallet(tx: &mut Tx, wallet: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql = "SELECT id FROM keys WHERE wallet = $1 AND deleted_at IS NULL";
    let keys = sqlx::query(sql).bind(wallet).fetch_all(&mut **tx).await?;
    for key in keys {
        note(tx, &key.try_get::<String, _>("id")?, None, now).await?;
    }
    Ok(())
}

impl Store {
    /// The number of the last change.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last_change(&self) -> Result<i64, StoreError> {
        let sql = "SELECT value FROM counters WHERE name = 'changes'";
        Ok(sqlx::query(sql).fetch_one(self.reader()).await?.try_get(0)?)
    }

    /// The changes after number `seq`, `most` of them at most; `None`: some of them are no longer kept, or that number
    /// was never given.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn changes_after(&self, seq: i64, most: i64) -> Result<Option<Vec<KeyChange>>, StoreError> {
        let last = self.last_change().await?;
        let sql = "SELECT seq, key_id, hash FROM changes WHERE seq > $1 ORDER BY seq LIMIT $2";
        let rows = sqlx::query(sql).bind(seq).bind(most).fetch_all(self.reader()).await?;
        let change = |row: &sqlx::any::AnyRow| {
            Ok(KeyChange { seq: row.try_get("seq")?, key_id: row.try_get("key_id")?, hash: optional(row, "hash")? })
        };
        let changes: Vec<KeyChange> = rows.iter().map(change).collect::<Result<_, StoreError>>()?;
        let next = changes.first().map_or(last + 1, |change| change.seq);
        // The last number may have been read before the changes were.
        let is_whole = next <= seq + 1 || (changes.is_empty() && seq == last);
        Ok((seq >= 0 && is_whole).then_some(changes))
    }
}
