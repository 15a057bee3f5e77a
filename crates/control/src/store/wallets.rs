//! Wallets. A balance is the sum of its entries and is kept beside them, in the same transaction. A gateway is granted
//! what no other was granted, and what it does not use returns when the grant expires.

use jiff::Timestamp;
use keymeter_core::money::{AllowanceRequest, BalanceUpdate, Grant, USED_UP, Usd};
use sqlx::{Row, any::AnyRow};

use super::{Store, StoreError, Tx, changes, micros, timestamp};

/// What became of a credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credited {
    /// It is in the balance now.
    To(Usd),
    /// It was in the balance before: it was sent again.
    Before(Usd),
    /// Another amount was credited under the same idempotency key.
    Otherwise(Usd),
    /// There is no such wallet.
    NoWallet,
    /// The balance would be more than can be counted.
    TooMuch,
}

/// Adds to a wallet, once for each idempotency key.
///
/// # Errors
/// When the database does not answer.
pub async fn credit(
    tx: &mut Tx,
    wallet: &str,
    amount: Usd,
    idempotency_key: &str,
    now: Timestamp,
) -> Result<Credited, StoreError> {
    // Held from here on, so that of two at once the second sees the first.
    let Some(before) = hold(tx, wallet).await? else { return Ok(Credited::NoWallet) };
    let sql = "SELECT amount_nanos FROM wallet_entries WHERE wallet = $1 AND kind = 'credit' AND reference = $2";
    if let Some(row) = sqlx::query(sql).bind(wallet).bind(idempotency_key).fetch_optional(&mut **tx).await? {
        let credited = Usd::from_nanos(row.try_get("amount_nanos")?);
        return Ok(if credited == amount { Credited::Before(before) } else { Credited::Otherwise(credited) });
    }
    if before.checked_add(amount).is_none() {
        return Ok(Credited::TooMuch);
    }
    let after = book(tx, wallet, "credit", idempotency_key, amount, now).await?;
    Ok(Credited::To(after))
}

/// Charges a wallet for what was used; one that there is not pays nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn charge(
    tx: &mut Tx,
    wallet: &str,
    amount: Usd,
    batch: &str,
    now: Timestamp,
) -> Result<Option<Usd>, StoreError> {
    if hold(tx, wallet).await?.is_none() {
        return Ok(None);
    }
    let negative = Usd::ZERO.checked_sub(amount).unwrap_or(Usd::ZERO);
    book(tx, wallet, "charge", batch, negative, now).await.map(Some)
}

/// Microseconds.
const DAY: i64 = 24 * 3_600_000_000;

/// What was added to a wallet, or taken from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletEntry {
    /// `credit`, `charge` or `refund`.
    pub kind: String,
    /// A credit's idempotency key, and the other wallet of a refund; nothing of a day's charges.
    pub reference: String,
    /// Below zero where it was taken.
    pub amount: Usd,
    /// When; of charges the day's beginning, of UTC.
    pub at: Timestamp,
}

/// Entries of a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalletEntries {
    /// The latest first.
    pub entries: Vec<WalletEntry>,
    /// Before when there are more.
    pub earlier: Option<Timestamp>,
}

/// What became of the money of a wallet that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refunded {
    /// So much is in the other wallet now; nothing, where there was nothing to give.
    Moved(Usd),
    /// The other balance would be more than can be counted.
    TooMuch,
}

/// Moves all that is in one wallet to another; both are held, in the order of their ids. What gateways were granted of it and spend after
/// that is charged to the first, as all its usage is: together the two have what they should.
///
/// # Errors
/// When one of them is not there, or the database does not answer.
pub async fn refund(tx: &mut Tx, from: &str, to: &str, now: Timestamp) -> Result<Refunded, StoreError> {
    let missing = |wallet: &str| StoreError::Corrupt(format!("no wallet of {wallet}"));
    let amount = hold(tx, from).await?.ok_or_else(|| missing(from))?;
    let there = hold(tx, to).await?.ok_or_else(|| missing(to))?;
    if amount <= Usd::ZERO {
        return Ok(Refunded::Moved(Usd::ZERO));
    }
    let Some(negative) = Usd::ZERO.checked_sub(amount).filter(|_| there.checked_add(amount).is_some()) else {
        return Ok(Refunded::TooMuch);
    };
    book(tx, from, "refund", to, negative, now).await?;
    book(tx, to, "refund", from, amount, now).await?;
    Ok(Refunded::Moved(amount))
}

async fn book(
    tx: &mut Tx,
    wallet: &str,
    kind: &str,
    reference: &str,
    amount: Usd,
    now: Timestamp,
) -> Result<Usd, StoreError> {
    let sql = "INSERT INTO wallet_entries (wallet, kind, reference, amount_nanos, at) VALUES ($1, $2, $3, $4, $5)";
    let query = sqlx::query(sql).bind(wallet).bind(kind).bind(reference).bind(amount.nanos()).bind(micros(now));
    query.execute(&mut **tx).await?;
    let sql = "UPDATE wallets SET balance_nanos = balance_nanos + $1 WHERE id = $2 RETURNING balance_nanos";
    let row = sqlx::query(sql).bind(amount.nanos()).bind(wallet).fetch_one(&mut **tx).await?;
    let after = Usd::from_nanos(row.try_get(0)?);
    let before = after.checked_sub(amount).unwrap_or(after);
    if (before <= USED_UP) != (after <= USED_UP) {
        changes::note_wallet(tx, wallet, now).await?;
    }
    Ok(after)
}

/// The balance, which nobody else changes until the transaction ends.
///
/// # Errors
/// When the database does not answer.
pub async fn hold(tx: &mut Tx, wallet: &str) -> Result<Option<Usd>, StoreError> {
    let sql = "UPDATE wallets SET balance_nanos = balance_nanos WHERE id = $1 RETURNING balance_nanos";
    let row = sqlx::query(sql).bind(wallet).fetch_optional(&mut **tx).await?;
    row.map(|row| Ok(Usd::from_nanos(row.try_get(0)?))).transpose()
}

/// Notes that requests of a gateway, for which it was granted an allowance, have been charged.
///
/// # Errors
/// When the database does not answer.
pub async fn count(tx: &mut Tx, wallet: &str, gateway: &str, cost: Usd) -> Result<(), StoreError> {
    let sql = "INSERT INTO allowances (wallet, gateway, version, granted_nanos, counted_nanos, expires_at) \
               VALUES ($1, $2, 0, 0, $3, 0) ON CONFLICT (wallet, gateway) \
               DO UPDATE SET counted_nanos = allowances.counted_nanos + $4";
    let query = sqlx::query(sql).bind(wallet).bind(gateway).bind(cost.nanos()).bind(cost.nanos());
    query.execute(&mut **tx).await?;
    Ok(())
}

/// What a gateway is told of a wallet, with the next grant of it.
///
/// # Errors
/// When the database does not answer.
pub async fn grant(
    tx: &mut Tx,
    wallet: &str,
    gateway: &str,
    request: Option<&AllowanceRequest>,
    now: Timestamp,
) -> Result<Option<BalanceUpdate>, StoreError> {
    let Some(balance) = hold(tx, wallet).await? else { return Ok(None) };
    let sql = format!("{SELECT} WHERE wallet = $1 AND gateway = $2");
    let row = sqlx::query(&sql).bind(wallet).bind(gateway).fetch_optional(&mut **tx).await?;
    let last = row.as_ref().map_or_else(|| Ok(Grant::none()), grant_of)?;
    let others = outstanding(tx, wallet, gateway, micros(now)).await?;
    let next = last.next(balance, others, request, now);
    let sql = "INSERT INTO allowances (wallet, gateway, version, granted_nanos, counted_nanos, expires_at) \
               VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (wallet, gateway) \
               DO UPDATE SET version = excluded.version, granted_nanos = excluded.granted_nanos, \
               expires_at = excluded.expires_at";
    let query = sqlx::query(sql).bind(wallet).bind(gateway).bind(i64::try_from(next.version).unwrap_or(i64::MAX));
    let query = query.bind(next.granted.nanos()).bind(next.counted.nanos()).bind(micros(next.expires));
    query.execute(&mut **tx).await?;
    Ok(Some(BalanceUpdate { balance, allowance: Some(next.allowance(now)) }))
}

const SELECT: &str = "SELECT version, granted_nanos, counted_nanos, expires_at FROM allowances";

fn grant_of(row: &AnyRow) -> Result<Grant, StoreError> {
    Ok(Grant {
        version: u64::try_from(row.try_get::<i64, _>("version")?).unwrap_or(0),
        granted: Usd::from_nanos(row.try_get("granted_nanos")?),
        counted: Usd::from_nanos(row.try_get("counted_nanos")?),
        expires: timestamp(row.try_get("expires_at")?),
    })
}

/// What other gateways were granted and may still spend.
async fn outstanding(tx: &mut Tx, wallet: &str, gateway: &str, now: i64) -> Result<Usd, StoreError> {
    let sql = "SELECT CAST(COALESCE(SUM(granted_nanos - counted_nanos), 0) AS BIGINT) FROM allowances \
               WHERE wallet = $1 AND gateway <> $2 AND expires_at > $3 AND granted_nanos > counted_nanos";
    let row = sqlx::query(sql).bind(wallet).bind(gateway).bind(now).fetch_one(&mut **tx).await?;
    Ok(Usd::from_nanos(row.try_get(0)?))
}

impl Store {
    /// What a gateway is told of a wallet of which it has an allowance that lasts for a while yet: nothing is granted, and
    /// so nothing is written.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn word(&self, wallet: &str, gateway: &str, now: Timestamp) -> Result<Option<BalanceUpdate>, StoreError> {
        // In one look, so that the balance is the one by which so much was counted.
        let sql = "SELECT version, granted_nanos, counted_nanos, expires_at, balance_nanos FROM allowances \
                   JOIN wallets ON id = wallet WHERE wallet = $1 AND gateway = $2";
        let row = sqlx::query(sql).bind(wallet).bind(gateway).fetch_optional(self.reader()).await?;
        let Some(row) = row else { return Ok(None) };
        let grant = grant_of(&row)?;
        let balance = Usd::from_nanos(row.try_get("balance_nanos")?);
        Ok(grant.lasts_a_while(now).then(|| BalanceUpdate { balance, allowance: Some(grant.allowance(now)) }))
    }

    /// Forgets the allowances of gateways that have not been heard of since `end`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_allowances(&self, end: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        // A row that was only counted for has never been granted anything, and no time.
        let sql = "DELETE FROM allowances WHERE expires_at < $1 AND expires_at > 0";
        let gone = sqlx::query(sql).bind(micros(end)).execute(&mut *tx).await?.rows_affected();
        self.commit(tx).await?;
        Ok(gone)
    }

    /// What is in a wallet.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn balance(&self, wallet: &str) -> Result<Option<Usd>, StoreError> {
        let sql = "SELECT balance_nanos FROM wallets WHERE id = $1";
        let row = sqlx::query(sql).bind(wallet).fetch_optional(self.reader()).await?;
        row.map(|row| Ok(Usd::from_nanos(row.try_get(0)?))).transpose()
    }

    /// What was credited and charged in the 31 days that end with the latest entry before `before`, the latest first. The
    /// charges of a day are one entry: there is one for each batch of records.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn wallet_entries(&self, wallet: &str, before: Timestamp) -> Result<WalletEntries, StoreError> {
        let sql = "SELECT MAX(at) FROM wallet_entries WHERE wallet = $1 AND at < $2";
        let row = sqlx::query(sql).bind(wallet).bind(micros(before)).fetch_one(self.reader()).await?;
        let Some(latest) = row.try_get::<Option<i64>, _>(0)? else { return Ok(WalletEntries::default()) };
        let (since, end) = ((latest.div_euclid(DAY) - 30) * DAY, micros(before));
        let sql = format!(
            "SELECT kind, CASE WHEN kind = 'charge' THEN '' ELSE reference END AS about, \
             CASE WHEN kind = 'charge' THEN at - at % {DAY} ELSE at END AS since, MAX(at) AS last, \
             CAST(SUM(amount_nanos) AS BIGINT) AS amount \
             FROM wallet_entries WHERE wallet = $1 AND at >= $2 AND at < $3 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 2"
        );
        let rows = sqlx::query(&sql).bind(wallet).bind(since).bind(end).fetch_all(self.reader()).await?;
        let entry = |row: &AnyRow| {
            Ok(WalletEntry {
                kind: row.try_get("kind")?,
                reference: row.try_get("about")?,
                amount: Usd::from_nanos(row.try_get("amount")?),
                at: timestamp(row.try_get("since")?),
            })
        };
        let entries = rows.iter().map(entry).collect::<Result<_, StoreError>>()?;
        let sql = "SELECT at FROM wallet_entries WHERE wallet = $1 AND at < $2 LIMIT 1";
        let earlier = sqlx::query(sql).bind(wallet).bind(since).fetch_optional(self.reader()).await?;
        Ok(WalletEntries { entries, earlier: earlier.map(|_| timestamp(since)) })
    }

    /// The wallets whose balance is not the sum of their entries: none, ever.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn unbalanced_wallets(&self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT w.id FROM wallets w LEFT JOIN wallet_entries e ON e.wallet = w.id GROUP BY w.id, \
                   w.balance_nanos HAVING w.balance_nanos <> CAST(COALESCE(SUM(e.amount_nanos), 0) AS BIGINT)";
        let rows = sqlx::query(sql).fetch_all(self.reader()).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}
