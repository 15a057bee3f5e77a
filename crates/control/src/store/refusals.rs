//! What gateways refused, summed up by key, day, reason and scope. Gateways tell of it apart from usage records.

use jiff::{SignedDuration, Timestamp};
use keymeter_core::{
    limit::Scope,
    record::Session,
    refusals::{RefusalReport, RefusalSum},
    rejection::Refused,
};
use serde::Serialize;
use sqlx::{Row, any::AnyRow};
use utoipa::ToSchema;

use super::{Store, StoreError, Tx, micros, timestamp};

/// Microseconds.
const DAY: i64 = 24 * 3_600_000_000;

/// How long it is kept.
pub const KEPT_FOR: SignedDuration = SignedDuration::from_hours(31 * 24);

/// How often a key was refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RefusalRow {
    /// Why, as `keymeter_rejections_total` has it.
    pub reason: String,
    /// Whose limit it was: `key`, `model`, `team` or `owner`.
    pub scope: String,
    /// Requests.
    pub count: i64,
    /// When the last of them came.
    #[schema(value_type = String, format = DateTime)]
    pub last_at: Timestamp,
}

/// Takes in a report, once. What this version has no word for, and keys that are unknown, are passed over.
///
/// # Errors
/// When the database does not answer.
pub async fn take_in(tx: &mut Tx, gateway: &Session, report: &RefusalReport, now: Timestamp) -> Result<(), StoreError> {
    let sql = "INSERT INTO refusal_reports (gateway, number, at) VALUES ($1, $2, $3) ON CONFLICT (gateway) \
               DO UPDATE SET number = excluded.number, at = excluded.at WHERE refusal_reports.number < excluded.number";
    let number = i64::try_from(report.number).unwrap_or(i64::MAX);
    let query = sqlx::query(sql).bind(gateway.as_str()).bind(number).bind(micros(now));
    if query.execute(&mut **tx).await?.rows_affected() == 0 {
        return Ok(());
    }
    let mut sums: Vec<_> = report.sums.iter().filter(|sum| is_known(sum)).collect();
    // In one order everywhere, so that two transactions do not wait for each other.
    sums.sort_by(|one, other| {
        (&one.key_id, &one.reason, &one.scope).cmp(&(&other.key_id, &other.reason, &other.scope))
    });
    for sum in sums {
        let sql = "INSERT INTO refusals (key_id, day, reason, scope, count, last_at) \
                   SELECT id, $1, $2, $3, $4, $5 FROM keys WHERE id = $6 ON CONFLICT (key_id, day, reason, scope) \
                   DO UPDATE SET count = refusals.count + excluded.count, \
                   last_at = CASE WHEN refusals.last_at > excluded.last_at THEN refusals.last_at ELSE excluded.last_at END";
        // A gateway whose clock is ahead tells of nothing that is yet to come.
        let last = micros(sum.last_at.min(now));
        let count = i64::try_from(sum.count).unwrap_or(i64::MAX).min(MOST);
        let query = sqlx::query(sql).bind(last.div_euclid(DAY) * DAY).bind(&sum.reason).bind(&sum.scope);
        query.bind(count).bind(last).bind(&sum.key_id).execute(&mut **tx).await?;
    }
    Ok(())
}

/// More than a gateway refuses in a report, and so few that sums fit their type.
const MOST: i64 = 1_000_000_000_000;

fn is_known(sum: &RefusalSum) -> bool {
    Refused::ALL.iter().any(|reason| reason.as_str() == sum.reason)
        && Scope::ALL.iter().any(|scope| scope.as_str() == sum.scope)
}

impl Store {
    /// What was refused of a key, the latest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refusals(&self, key: &str) -> Result<Vec<RefusalRow>, StoreError> {
        let sql = "SELECT reason, scope, CAST(SUM(count) AS BIGINT) AS times, MAX(last_at) AS last FROM refusals \
                   WHERE key_id = $1 GROUP BY reason, scope ORDER BY 4 DESC, reason, scope";
        let row = |row: &AnyRow| {
            Ok(RefusalRow {
                reason: row.try_get("reason")?,
                scope: row.try_get("scope")?,
                count: row.try_get("times")?,
                last_at: timestamp(row.try_get("last")?),
            })
        };
        let rows = sqlx::query(sql).bind(key).fetch_all(self.reader()).await?;
        rows.iter().map(row).collect()
    }

    /// Forgets what was refused before `end`, and the reports of gateways that have told of nothing since.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_refusals(&self, end: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let sql = "DELETE FROM refusals WHERE day < $1";
        let gone = sqlx::query(sql).bind(micros(end)).execute(&mut *tx).await?.rows_affected();
        sqlx::query("DELETE FROM refusal_reports WHERE at < $1").bind(micros(end)).execute(&mut *tx).await?;
        self.commit(tx).await?;
        Ok(gone)
    }
}
