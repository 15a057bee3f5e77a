//! Usage: one record for each request, counted once, and the sums of each hour and day, which are written in the same
//! transaction as the record.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use keymeter_core::{
    money::Usd,
    record::{Record, decimal},
};
use serde::Serialize;
use sqlx::{Row, any::AnyRow};
use utoipa::ToSchema;

use super::{Store, StoreError, Tx, key_list, micros, timestamp, wallets};

/// Microseconds.
const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// The tables of sums, and the span of time that each is of.
const HOURS: (&str, i64) = ("usage_hours", HOUR);
const DAYS: (&str, i64) = ("usage_days", DAY);

/// Takes records in: those that were not there yet are added to the sums and charged.
///
/// # Errors
/// When the database does not answer.
pub async fn take_in(tx: &mut Tx, records: &[Record], now: Timestamp) -> Result<usize, StoreError> {
    let mut new = Vec::new();
    for record in records {
        if insert(tx, record, now).await? {
            new.push(record);
        }
    }
    for sums in [HOURS, DAYS] {
        add_to(sums, tx, &new).await?;
    }
    key_list::add(tx, &new, now).await?;
    charge(tx, &new, now).await?;
    Ok(new.len())
}

/// Those of `records` that the store cannot take, whatever else comes with them, by their places, and why. Nothing is
/// changed.
///
/// # Errors
/// When the database does not answer.
pub async fn unstorable(
    store: &Store,
    records: &[Record],
    now: Timestamp,
) -> Result<Vec<(usize, StoreError)>, StoreError> {
    let mut tx = store.begin().await?;
    let mut unstorable = Vec::new();
    for (index, record) in records.iter().enumerate() {
        sqlx::query("SAVEPOINT record").execute(&mut *tx).await?;
        match take_in(&mut tx, std::slice::from_ref(record), now).await {
            Ok(_) => {}
            Err(error) if error.is_of_data() => unstorable.push((index, error)),
            Err(error) => return Err(error),
        }
        sqlx::query("ROLLBACK TO SAVEPOINT record").execute(&mut *tx).await?;
    }
    tx.rollback().await?;
    Ok(unstorable)
}

async fn insert(tx: &mut Tx, record: &Record, now: Timestamp) -> Result<bool, StoreError> {
    let sql = "INSERT INTO usage_records (id, gateway, at, key_id, key_name, owner, team, wallet, model, input_tokens, \
               cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nanos, status, source, \
               received_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
               ON CONFLICT (id) DO NOTHING";
    let query = sqlx::query(sql).bind(record.id.as_str()).bind(record.gateway.as_str()).bind(micros(record.time));
    let query =
        query.bind(record.key_id.as_str()).bind(record.key_name.as_str()).bind(or_none(record.owner.as_deref()));
    let query = query.bind(or_none(record.team.as_deref())).bind(or_none(record.wallet.as_deref()));
    let query = query.bind(&*record.model).bind(number(record.input_tokens)).bind(number(record.cached_input_tokens));
    let query = query.bind(number(record.cache_write_tokens)).bind(number(record.output_tokens));
    let query = query.bind(number(record.reasoning_tokens)).bind(record.cost_usd.nanos());
    let query = query.bind(i64::from(record.status)).bind(record.usage_source.as_str()).bind(micros(now));
    Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
}

fn or_none(name: Option<&str>) -> &str {
    name.unwrap_or_default()
}

fn number(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

/// What sums are kept by.
type Place<'record> = (&'record str, i64, &'record str, &'record str, &'record str);

async fn add_to((table, span): (&str, i64), tx: &mut Tx, records: &[&Record]) -> Result<(), StoreError> {
    // In one order everywhere, so that two transactions do not wait for each other.
    let mut places: BTreeMap<Place<'_>, (Sums, &str)> = BTreeMap::new();
    for record in records {
        let since = micros(record.time).div_euclid(span) * span;
        let (owner, team) = (or_none(record.owner.as_deref()), or_none(record.team.as_deref()));
        let (sums, name) = places.entry((record.key_id.as_str(), since, &record.model, owner, team)).or_default();
        *name = record.key_name.as_str();
        sums.add(&Sums::from(*record));
    }
    let sql = format!(
        "INSERT INTO {table} (key_id, since, model, owner, team, key_name, requests, input_tokens, \
               cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nanos, last_used_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
               ON CONFLICT (key_id, since, model, owner, team) DO UPDATE SET key_name = excluded.key_name, \
               requests = {table}.requests + excluded.requests, \
               input_tokens = {table}.input_tokens + excluded.input_tokens, \
               cached_input_tokens = {table}.cached_input_tokens + excluded.cached_input_tokens, \
               cache_write_tokens = {table}.cache_write_tokens + excluded.cache_write_tokens, \
               output_tokens = {table}.output_tokens + excluded.output_tokens, \
               reasoning_tokens = {table}.reasoning_tokens + excluded.reasoning_tokens, \
               cost_nanos = {table}.cost_nanos + excluded.cost_nanos, \
               last_used_at = CASE WHEN {table}.last_used_at > excluded.last_used_at \
               THEN {table}.last_used_at ELSE excluded.last_used_at END"
    );
    for ((key_id, since, model, owner, team), (sums, name)) in places {
        let query = sqlx::query(&sql).bind(key_id).bind(since).bind(model).bind(owner).bind(team).bind(name);
        let query = query.bind(sums.requests).bind(sums.input).bind(sums.cached_input).bind(sums.cache_write);
        let query = query.bind(sums.output).bind(sums.reasoning).bind(sums.cost_nanos).bind(sums.last_used_at);
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// One entry a wallet, whatever the number of records.
async fn charge(tx: &mut Tx, records: &[&Record], now: Timestamp) -> Result<(), StoreError> {
    let mut by_gateway: BTreeMap<(&str, &str), Usd> = BTreeMap::new();
    let mut by_wallet: BTreeMap<&str, (Usd, &str)> = BTreeMap::new();
    for record in records {
        let Some(wallet) = &record.wallet else { continue };
        let sum = by_gateway.entry((wallet, record.gateway.as_str())).or_default();
        *sum = sum.saturating_add(record.cost_usd);
        let (sum, _) = by_wallet.entry(wallet).or_insert((Usd::ZERO, record.id.as_str()));
        *sum = sum.saturating_add(record.cost_usd);
    }
    let mut known = BTreeSet::new();
    for (wallet, (cost, first)) in by_wallet {
        // The first record of the batch names it: no other batch has counted it.
        if wallets::charge(tx, wallet, cost, first, now).await?.is_some() {
            known.insert(wallet);
        }
    }
    for ((wallet, gateway), cost) in by_gateway.into_iter().filter(|((wallet, _), _)| known.contains(wallet)) {
        wallets::count(tx, wallet, gateway, cost).await?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    requests: i64,
    input: i64,
    cached_input: i64,
    cache_write: i64,
    output: i64,
    reasoning: i64,
    cost_nanos: i64,
    last_used_at: i64,
}

impl From<&Record> for Sums {
    fn from(record: &Record) -> Self {
        Self {
            requests: 1,
            input: number(record.input_tokens),
            cached_input: number(record.cached_input_tokens),
            cache_write: number(record.cache_write_tokens),
            output: number(record.output_tokens),
            reasoning: number(record.reasoning_tokens),
            cost_nanos: record.cost_usd.nanos(),
            last_used_at: micros(record.time),
        }
    }
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.input = self.input.saturating_add(other.input);
        self.cached_input = self.cached_input.saturating_add(other.cached_input);
        self.cache_write = self.cache_write.saturating_add(other.cache_write);
        self.output = self.output.saturating_add(other.output);
        self.reasoning = self.reasoning.saturating_add(other.reasoning);
        self.cost_nanos = self.cost_nanos.saturating_add(other.cost_nanos);
        self.last_used_at = self.last_used_at.max(other.last_used_at);
    }
}

/// By what usage is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Each key.
    Key,
    /// Each team.
    Team,
    /// Each model, by the name that clients used.
    Model,
    /// Each day of UTC.
    Day,
    /// Each hour of UTC.
    Hour,
}

impl Group {
    /// The column or the expression that tells it.
    fn column(self) -> String {
        match self {
            Self::Key => "key_id".to_owned(),
            Self::Team => "team".to_owned(),
            Self::Model => "model".to_owned(),
            Self::Day => format!("since - since % {DAY}"),
            Self::Hour => "since".to_owned(),
        }
    }
}

/// Which usage is asked for.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// From this hour on.
    pub from: Option<Timestamp>,
    /// Before this hour.
    pub to: Option<Timestamp>,
    /// Of this key.
    pub key: Option<String>,
    /// Of this team.
    pub team: Option<String>,
    /// Of personal keys of this user, or keys of their team, and of nobody else's.
    pub visible_to: Option<(String, Option<String>)>,
}

/// What a condition compares with.
enum Value<'filter> {
    Number(i64),
    Text(&'filter str),
}

impl UsageFilter {
    /// As SQL says it, and what is to be bound to it. Only what is asked for is said, so that the database uses the index
    /// that fits it.
    fn conditions(&self) -> (String, Vec<Value<'_>>) {
        let mut values = Vec::new();
        let mut place = |value| {
            values.push(value);
            format!("${}", values.len())
        };
        let mut all = Vec::new();
        if let Some(from) = self.from {
            all.push(format!("since >= {}", place(Value::Number(micros(from)))));
        }
        if let Some(to) = self.to {
            all.push(format!("since < {}", place(Value::Number(micros(to)))));
        }
        if let Some(key) = &self.key {
            all.push(format!("key_id = {}", place(Value::Text(key))));
        }
        // What is put together has no index: a key's is the better one.
        let (owner, team) = if self.key.is_some() { ("owner || ''", "team || ''") } else { ("owner", "team") };
        if let Some(name) = &self.team {
            all.push(format!("{team} = {}", place(Value::Text(name))));
        }
        if let Some((user, of_team)) = &self.visible_to {
            let own = format!("({owner} = {} AND {team} = '')", place(Value::Text(user)));
            all.push(match of_team.as_deref().filter(|name| !name.is_empty()) {
                Some(name) => format!("({own} OR {team} = {})", place(Value::Text(name))),
                None => own,
            });
        }
        let all = if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) };
        (all, values)
    }
}

/// The usage of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct UsageRow {
    /// The key, if usage is grouped by keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key's name, at last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
    /// The team, if usage is grouped by teams; empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The model, if usage is grouped by models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The day's beginning, if usage is grouped by days.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub day: Option<Timestamp>,
    /// The hour's beginning, if usage is grouped by hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub hour: Option<Timestamp>,
    /// Requests.
    pub requests: i64,
    /// Tokens of prompts, from no cache.
    pub input_tokens: i64,
    /// Tokens of prompts, read from caches.
    pub cached_input_tokens: i64,
    /// Tokens of prompts, written to caches.
    pub cache_write_tokens: i64,
    /// Tokens of answers, reasoning included.
    pub output_tokens: i64,
    /// Of these, spent on reasoning.
    pub reasoning_tokens: i64,
    /// What they cost, in US dollars.
    #[serde(with = "decimal")]
    #[schema(value_type = String)]
    pub cost_usd: Usd,
    /// When the last request ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// The models used, a thousand of them at most.
    pub models: Vec<String>,
}

/// How much may be looked at and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sums of hours or days that are added up.
    pub sums: i64,
    /// Rows that come of it.
    pub rows: usize,
}

/// The answer is out of bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuchUsage;

/// Models that one row lists at most.
const MODELS: usize = 1000;

impl Store {
    /// What was used, from the sums of days where whole days are asked for, else from those of hours.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn usage(
        &self,
        groups: &BTreeSet<Group>,
        filter: &UsageFilter,
        bounds: Bounds,
    ) -> Result<Result<Vec<UsageRow>, TooMuchUsage>, StoreError> {
        let is_whole = |time: Option<Timestamp>| time.is_none_or(|time| micros(time) % DAY == 0);
        let needs_hours = groups.contains(&Group::Hour) || !is_whole(filter.from) || !is_whole(filter.to);
        let (table, _) = if needs_hours { HOURS } else { DAYS };
        let columns: Vec<_> = groups.iter().map(|group| group.column()).collect();
        let listed = |part: &dyn Fn(usize, &str) -> String| {
            let parts: Vec<_> = columns.iter().enumerate().map(|(index, column)| part(index, column)).collect();
            parts.concat()
        };
        let own = listed(&|index, column| format!("{column} AS g{index}, "));
        let named = if groups.contains(&Group::Key) { "key_name" } else { "''" };
        let by = listed(&|_, column| format!("{column}, "));
        let order = listed(&|index, _| format!("{}, ", index + 1));
        let name_group = if groups.contains(&Group::Key) { ", key_name" } else { "" };
        let (conditions, values) = filter.conditions();
        // One more than may be, by which it is told that there are more: then the rest is not looked at.
        let sql = format!(
            "SELECT {own}{named} AS key_name, model AS used_model, CAST(SUM(requests) AS BIGINT) AS requests, \
             CAST(SUM(input_tokens) AS BIGINT) AS input, CAST(SUM(cached_input_tokens) AS BIGINT) AS cached_input, \
             CAST(SUM(cache_write_tokens) AS BIGINT) AS cache_write, CAST(SUM(output_tokens) AS BIGINT) AS output, \
             CAST(SUM(reasoning_tokens) AS BIGINT) AS reasoning, CAST(SUM(cost_nanos) AS BIGINT) AS cost, \
             MAX(last_used_at) AS last_used_at, CAST(COUNT(*) AS BIGINT) AS sums \
             FROM (SELECT * FROM {table}{conditions} LIMIT {}) AS seen \
             GROUP BY {by}model{name_group} ORDER BY {order}model",
            bounds.sums.saturating_add(1)
        );
        let query = values.iter().fold(sqlx::query(&sql), |query, value| match value {
            Value::Number(number) => query.bind(*number),
            Value::Text(text) => query.bind(*text),
        });
        let mut rows = query.fetch(self.reader());
        let (mut merged, mut left) = (Merged::default(), bounds.sums);
        while let Some(row) = rows.try_next().await? {
            left -= row.try_get::<i64, _>("sums")?;
            merged.add(&row, groups)?;
            if left < 0 || merged.rows.len() > bounds.rows {
                return Ok(Err(TooMuchUsage));
            }
        }
        Ok(Ok(merged.rows))
    }

    /// Forgets records from before `end`. Their sums stay.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_records(&self, end: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let sql = "DELETE FROM usage_records WHERE at < $1";
        let gone = sqlx::query(sql).bind(micros(end)).execute(&mut *tx).await?.rows_affected();
        self.commit(tx).await?;
        Ok(gone)
    }

    /// Whether the sums are those of the records that are kept from `since` on, to the day.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sums_are_right(&self, since: Timestamp) -> Result<bool, StoreError> {
        let since = micros(since).div_euclid(DAY) * DAY;
        for sums in [HOURS, DAYS] {
            if !self.are_right(sums, since).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn are_right(&self, (table, span): (&str, i64), since: i64) -> Result<bool, StoreError> {
        let columns = "CAST(COALESCE(SUM(input_tokens), 0) AS BIGINT), \
                       CAST(COALESCE(SUM(cached_input_tokens), 0) AS BIGINT), \
                       CAST(COALESCE(SUM(cache_write_tokens), 0) AS BIGINT), \
                       CAST(COALESCE(SUM(output_tokens), 0) AS BIGINT), \
                       CAST(COALESCE(SUM(reasoning_tokens), 0) AS BIGINT), \
                       CAST(COALESCE(SUM(cost_nanos), 0) AS BIGINT), COALESCE(MAX(last), 0)";
        let of = |row: &AnyRow| -> Result<Vec<(String, Vec<i64>)>, StoreError> {
            let name: String = row.try_get(0)?;
            let sums = (1..=8).map(|index| Ok(row.try_get(index)?)).collect::<Result<_, StoreError>>()?;
            Ok(vec![(name, sums)])
        };
        let sql = format!(
            "SELECT place, CAST(COUNT(*) AS BIGINT), {columns} FROM (SELECT key_id || ' ' || \
             CAST(at - at % {span} AS TEXT) || ' ' || model || ' ' || owner || ' ' || team AS place, \
             input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nanos, \
             at AS last FROM usage_records WHERE at >= $1) AS r GROUP BY place ORDER BY place"
        );
        let records = sqlx::query(&sql).bind(since).fetch_all(self.reader()).await?;
        let sql = format!(
            "SELECT place, CAST(SUM(requests) AS BIGINT), {columns} FROM (SELECT key_id || ' ' || \
             CAST(since AS TEXT) || ' ' || model || ' ' || owner || ' ' || team AS place, requests, \
             input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nanos, \
             last_used_at AS last FROM {table} WHERE since >= $1) AS h GROUP BY place ORDER BY place"
        );
        let sums = sqlx::query(&sql).bind(since).fetch_all(self.reader()).await?;
        let all = |rows: &[AnyRow]| rows.iter().map(of).collect::<Result<Vec<_>, _>>().map(|rows| rows.concat());
        Ok(all(&records)? == all(&sums)?)
    }

    /// When the last request of a key ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last_used(&self, key: &str) -> Result<Option<Timestamp>, StoreError> {
        let sql = "SELECT MAX(last_used_at) FROM usage_days WHERE key_id = $1";
        let row = sqlx::query(sql).bind(key).fetch_one(self.reader()).await?;
        Ok(row.try_get::<Option<i64>, _>(0)?.map(timestamp))
    }
}

/// One row a group, where there was one for each model, and for each name that a key had.
#[derive(Default)]
struct Merged {
    rows: Vec<UsageRow>,
    places: HashMap<Vec<String>, usize>,
}

impl Merged {
    fn add(&mut self, row: &AnyRow, groups: &BTreeSet<Group>) -> Result<(), StoreError> {
        let (new, place) = usage_row(row, groups)?;
        if let Some(row) = self.places.get(&place).and_then(|index| self.rows.get_mut(*index)) {
            row.add(new);
        } else {
            self.places.insert(place, self.rows.len());
            self.rows.push(new);
        }
        Ok(())
    }
}

fn usage_row(row: &AnyRow, groups: &BTreeSet<Group>) -> Result<(UsageRow, Vec<String>), StoreError> {
    let mut place = Vec::with_capacity(groups.len());
    let mut new = UsageRow::default();
    for (index, group) in groups.iter().enumerate() {
        let column = format!("g{index}");
        let text = match group {
            Group::Day | Group::Hour => row.try_get::<i64, _>(column.as_str())?.to_string(),
            Group::Key | Group::Team | Group::Model => row.try_get(column.as_str())?,
        };
        let time = || text.parse().ok().map(timestamp);
        match group {
            Group::Key => new.key = Some(text.clone()),
            Group::Team => new.team = Some(text.clone()),
            Group::Model => new.model = Some(text.clone()),
            Group::Day => new.day = time(),
            Group::Hour => new.hour = time(),
        }
        place.push(text);
    }
    new.key_name = new.key.is_some().then(|| row.try_get("key_name")).transpose()?;
    new.requests = row.try_get("requests")?;
    new.input_tokens = row.try_get("input")?;
    new.cached_input_tokens = row.try_get("cached_input")?;
    new.cache_write_tokens = row.try_get("cache_write")?;
    new.output_tokens = row.try_get("output")?;
    new.reasoning_tokens = row.try_get("reasoning")?;
    new.cost_usd = Usd::from_nanos(row.try_get("cost")?);
    new.last_used_at = Some(timestamp(row.try_get("last_used_at")?));
    new.models = vec![row.try_get("used_model")?];
    Ok((new, place))
}

impl UsageRow {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.input_tokens += other.input_tokens;
        self.cached_input_tokens += other.cached_input_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.output_tokens += other.output_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.cost_usd = self.cost_usd.saturating_add(other.cost_usd);
        if other.last_used_at > self.last_used_at {
            self.key_name = other.key_name;
            self.last_used_at = other.last_used_at;
        }
        for model in other.models {
            // They come in their order, so that one that is there already is the last.
            if self.models.last() != Some(&model) && self.models.len() < MODELS {
                self.models.push(model);
            }
        }
    }
}
