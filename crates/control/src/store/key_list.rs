//! The list of keys on the page: what is searched for, in which order, and a page of it, all by the database, however many keys
//! there are. What it is sorted by, of what keys used, is kept beside the sums, in the same transaction.

use std::collections::{BTreeMap, HashMap};

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use keymeter_core::{
    money::{USED_UP, Usd},
    record::Record,
};
use sqlx::{Any, Row, query::Query};

use super::{Store, StoreError, Tx, keys::Key, micros, optional, timestamp};

/// Which keys are listed.
#[derive(Clone, Debug, Default)]
pub struct KeySearch {
    /// Personal keys of this user, and keys of their team; `None`: anybody's.
    pub visible_to: Option<(String, Option<String>)>,
    /// What stands in the name, the id, the owner or the masked secret.
    pub text: Option<String>,
    /// Whose they are.
    pub owner: Option<OwnerFilter>,
    /// In which state they are; `None`: all but deleted ones.
    pub state: Option<StateFilter>,
    /// By what they are sorted.
    pub sort: KeySort,
    /// Whether the last comes first.
    pub is_descending: bool,
}

/// Whose keys are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerFilter {
    /// Those of the team or the user with this id.
    Of(String),
    /// Those that are charged to nobody.
    Nobody,
}

/// A state that a list can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFilter {
    /// They can be used.
    Active,
    /// Somebody switched them off.
    Disabled,
    /// Their time is over.
    Expired,
    /// Their wallet is used up.
    NoBalance,
    /// Their owner is on a team.
    Archived,
    /// They are gone.
    Deleted,
}

/// By what a list is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeySort {
    /// Their names.
    #[default]
    Name,
    /// Their teams' or owners' ids.
    Owner,
    /// Requests of this month.
    Requests,
    /// Tokens of prompts of this month.
    Input,
    /// Tokens of answers of this month.
    Output,
    /// What they cost this month.
    Cost,
    /// When they were used last.
    LastUsed,
    /// When they were made.
    Made,
}

/// A page of a list, and how many keys all pages have.
#[derive(Clone, Debug, Default)]
pub struct KeyListPage {
    /// In their order.
    pub keys: Vec<Key>,
    /// Of all pages.
    pub total: i64,
}

/// What a key used this month, and when it was used last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lately {
    /// Requests.
    pub requests: i64,
    /// Tokens of prompts, from caches or not.
    pub input: i64,
    /// Tokens of answers.
    pub output: i64,
    /// US dollars.
    pub cost: Usd,
    /// When its last request ended.
    pub last_used_at: Option<Timestamp>,
}

/// The beginning of the month of a time, of UTC.
#[must_use]
pub fn month(time: Timestamp) -> Timestamp {
    let first = time.to_zoned(TimeZone::UTC).date().first_of_month().to_zoned(TimeZone::UTC);
    first.map_or_else(|_| time.saturating_sub(720.hours()).unwrap_or(Timestamp::MIN), |first| first.timestamp())
}

/// Adds records to what lists are sorted by. A gateway whose clock is ahead puts off no later month.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn add(tx: &mut Tx, records: &[&Record], now: Timestamp) -> Result<(), StoreError> {
    // In one order everywhere, so that two transactions do not wait for each other.
    let mut sums: BTreeMap<(&str, i64), Lately> = BTreeMap::new();
    for record in records {
        let at = record.time.min(now);
        let number = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        let input = [record.input_tokens, record.cached_input_tokens, record.cache_write_tokens];
        let sum = sums.entry((record.key_id.as_str(), micros(month(at)))).or_default();
        sum.requests += 1;
        sum.input = input.into_iter().map(number).fold(sum.input, i64::saturating_add);
        sum.output = sum.output.saturating_add(number(record.output_tokens));
        sum.cost = sum.cost.saturating_add(record.cost_usd);
        sum.last_used_at = sum.last_used_at.max(Some(at));
    }
    for ((key, month), sum) in sums {
        let query = sqlx::query(ADD).bind(key).bind(month).bind(sum.requests).bind(sum.input).bind(sum.output);
        let query = query.bind(sum.cost.nanos()).bind(sum.last_used_at.map_or(0, micros));
        query.execute(&mut **tx).await?;
    }
    Ok(())
}

/// A later month takes the place of an earlier one.
const ADD: &str = "INSERT INTO key_usage (key_id, month, requests, input_tokens, output_tokens, cost_nanos, last_used_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (key_id) DO UPDATE SET \
    requests = CASE WHEN key_usage.month > excluded.month THEN key_usage.requests \
        WHEN key_usage.month = excluded.month THEN key_usage.requests + excluded.requests ELSE excluded.requests END, \
    input_tokens = CASE WHEN key_usage.month > excluded.month THEN key_usage.input_tokens \
        WHEN key_usage.month = excluded.month THEN key_usage.input_tokens + excluded.input_tokens \
        ELSE excluded.input_tokens END, \
    output_tokens = CASE WHEN key_usage.month > excluded.month THEN key_usage.output_tokens \
        WHEN key_usage.month = excluded.month THEN key_usage.output_tokens + excluded.output_tokens \
        ELSE excluded.output_tokens END, \
    cost_nanos = CASE WHEN key_usage.month > excluded.month THEN key_usage.cost_nanos \
        WHEN key_usage.month = excluded.month THEN key_usage.cost_nanos + excluded.cost_nanos \
        ELSE excluded.cost_nanos END, \
    last_used_at = CASE WHEN key_usage.last_used_at > excluded.last_used_at THEN key_usage.last_used_at \
        ELSE excluded.last_used_at END, \
    month = CASE WHEN key_usage.month > excluded.month THEN key_usage.month ELSE excluded.month END";

/// What a condition compares with.
enum Value<'search> {
    Number(i64),
    Text(&'search str),
    Pattern(String),
}

/// A part of a query that is put together.
#[derive(Default)]
struct Conditions<'search> {
    all: Vec<String>,
    values: Vec<Value<'search>>,
}

impl<'search> Conditions<'search> {
    fn place(&mut self, value: Value<'search>) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    fn of(search: &'search KeySearch, now: Timestamp) -> Self {
        let mut conditions = Self::default();
        if let Some((user, team)) = &search.visible_to {
            let own = format!("(k.owner = {} AND k.team IS NULL)", conditions.place(Value::Text(user)));
            let condition = match team {
                Some(team) => format!("({own} OR k.team = {})", conditions.place(Value::Text(team))),
                None => own,
            };
            conditions.all.push(condition);
        }
        match &search.owner {
            // A key is charged to whose it is.
            Some(OwnerFilter::Of(id)) => {
                let condition = format!("k.wallet = {}", conditions.place(Value::Text(id)));
                conditions.all.push(condition);
            }
            Some(OwnerFilter::Nobody) => conditions.all.push("k.wallet IS NULL".to_owned()),
            None => {}
        }
        if let Some(text) = &search.text {
            let place = conditions.place(Value::Pattern(pattern(text)));
            let columns = ["k.name", "k.id", "k.masked", "COALESCE(k.wallet, '')"];
            let any: Vec<_> = columns.iter().map(|column| format!("LOWER({column}) LIKE {place} ESCAPE '!'")).collect();
            conditions.all.push(format!("({})", any.join(" OR ")));
        }
        conditions.state(search.state, now);
        conditions
    }

    /// As `keys::key` tells a key's state, and the page whether its time is over.
    fn state(&mut self, state: Option<StateFilter>, now: Timestamp) {
        if state == Some(StateFilter::Deleted) {
            self.all.push("k.deleted_at IS NOT NULL".to_owned());
            return;
        }
        self.all.push("k.deleted_at IS NULL".to_owned());
        let Some(state) = state else { return };
        if state == StateFilter::Disabled {
            self.all.push("k.enabled = 0".to_owned());
            return;
        }
        self.all.push("k.enabled <> 0".to_owned());
        if state == StateFilter::Archived {
            self.all.push("m.user_id IS NOT NULL".to_owned());
            return;
        }
        self.all.push("m.user_id IS NULL".to_owned());
        let used_up = self.place(Value::Number(USED_UP.nanos()));
        if state == StateFilter::NoBalance {
            self.all.push(format!("w.balance_nanos <= {used_up}"));
            return;
        }
        self.all.push(format!("(w.balance_nanos IS NULL OR w.balance_nanos > {used_up})"));
        let now = self.place(Value::Number(micros(now)));
        self.all.push(match state {
            StateFilter::Expired => format!("k.expires_at <= {now}"),
            _ => format!("(k.expires_at IS NULL OR k.expires_at > {now})"),
        });
    }

    fn text(&self) -> String {
        self.all.join(" AND ")
    }

    fn bind<'query>(&'query self, query: Query<'query, Any, sqlx::any::AnyArguments<'query>>) -> BoundQuery<'query> {
        self.values.iter().fold(query, |query, value| match value {
            Value::Number(number) => query.bind(*number),
            Value::Text(text) => query.bind(*text),
            Value::Pattern(text) => query.bind(text.as_str()),
        })
    }
}

type BoundQuery<'query> = Query<'query, Any, sqlx::any::AnyArguments<'query>>;

/// What is searched for, anywhere, in lower case, with nothing in it that stands for something else.
fn pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for character in text.to_lowercase().chars() {
        if matches!(character, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

impl KeySort {
    /// The expression that it is sorted by, of this month.
    fn column(self, month: &str) -> String {
        let of_month = |column: &str| format!("COALESCE(CASE WHEN u.month = {month} THEN u.{column} END, 0)");
        match self {
            Self::Name => "k.name".to_owned(),
            Self::Owner => "COALESCE(k.wallet, '')".to_owned(),
            Self::Requests => of_month("requests"),
            Self::Input => of_month("input_tokens"),
            Self::Output => of_month("output_tokens"),
            Self::Cost => of_month("cost_nanos"),
            Self::LastUsed => "COALESCE(u.last_used_at, 0)".to_owned(),
            Self::Made => "k.created_at".to_owned(),
        }
    }
}

/// Where the keys are, with what a state is told by only where one is asked for: of many keys each look costs something.
fn tables(state: Option<StateFilter>) -> &'static str {
    match state {
        None | Some(StateFilter::Deleted | StateFilter::Disabled) => "FROM keys k",
        Some(_) => {
            "FROM keys k LEFT JOIN wallets w ON w.id = k.wallet \
             LEFT JOIN members m ON m.user_id = k.owner AND k.team IS NULL"
        }
    }
}

/// What keys used, where they are sorted by that.
fn usage_table(sort: KeySort) -> &'static str {
    match sort {
        KeySort::Name | KeySort::Owner | KeySort::Made => "",
        _ => " LEFT JOIN key_usage u ON u.key_id = k.id",
    }
}

impl Store {
    /// A page of the keys that are searched for, `most` of them after the first `skipped`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn key_list(
        &self,
        search: &KeySearch,
        (skipped, most): (i64, i64),
        now: Timestamp,
    ) -> Result<KeyListPage, StoreError> {
        let mut conditions = Conditions::of(search, now);
        let tables = tables(search.state);
        let sql = format!("SELECT CAST(COUNT(*) AS BIGINT) {tables} WHERE {}", conditions.text());
        let total = conditions.bind(sqlx::query(&sql)).fetch_one(self.reader()).await?.try_get(0)?;
        // Only what is sorted by is looked at of all; the rest of those on the page.
        let condition = conditions.text();
        let usage = usage_table(search.sort);
        let month = if usage.is_empty() { String::new() } else { conditions.number(micros(month(now))) };
        let column = search.sort.column(&month);
        let direction = if search.is_descending { "DESC" } else { "ASC" };
        let (most, skipped) = (conditions.number(most), conditions.number(skipped));
        let sql = format!(
            "SELECT k.id {tables}{usage} WHERE {condition} \
             ORDER BY {column} {direction}, k.id {direction} LIMIT {most} OFFSET {skipped}"
        );
        let rows = conditions.bind(sqlx::query(&sql)).fetch_all(self.reader()).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            // It may have been there only just now.
            keys.extend(self.key(&row.try_get::<String, _>("id")?).await?);
        }
        Ok(KeyListPage { keys, total })
    }

    /// What each of these keys used in the month of `now`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn lately(&self, keys: &[&str], now: Timestamp) -> Result<HashMap<String, Lately>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let places: Vec<_> = (2..keys.len() + 2).map(|number| format!("${number}")).collect();
        let places = places.join(", ");
        // By the sums themselves: what lists are sorted by lacks what an instance of an earlier version took in.
        let sql = format!(
            "SELECT key_id, CAST(SUM(requests) AS BIGINT) AS requests, \
             CAST(SUM(input_tokens + cached_input_tokens + cache_write_tokens) AS BIGINT) AS input, \
             CAST(SUM(output_tokens) AS BIGINT) AS output, CAST(SUM(cost_nanos) AS BIGINT) AS cost, \
             MAX(last_used_at) AS last_used_at FROM usage_days WHERE since >= $1 AND key_id IN ({places}) GROUP BY key_id"
        );
        let bound = |sql| keys.iter().fold(sqlx::query(sql).bind(micros(month(now))), |query, key| query.bind(*key));
        let mut lately = HashMap::new();
        for row in bound(&sql).fetch_all(self.reader()).await? {
            let of_key = Lately {
                requests: row.try_get("requests")?,
                input: row.try_get("input")?,
                output: row.try_get("output")?,
                cost: Usd::from_nanos(row.try_get("cost")?),
                last_used_at: optional(&row, "last_used_at")?.map(timestamp),
            };
            lately.insert(row.try_get("key_id")?, of_key);
        }
        let sql = format!("SELECT key_id, last_used_at FROM key_usage WHERE month < $1 AND key_id IN ({places})");
        for row in bound(&sql).fetch_all(self.reader()).await? {
            let of_key: &mut Lately = lately.entry(row.try_get("key_id")?).or_default();
            of_key.last_used_at = of_key.last_used_at.max(Some(timestamp(row.try_get("last_used_at")?)));
        }
        Ok(lately)
    }
}

impl Conditions<'_> {
    fn number(&mut self, number: i64) -> String {
        self.place(Value::Number(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_searched_for_stands_for_itself() {
        assert_eq!(pattern("50%_Off!"), "%50!%!_off!!%");
    }

    #[test]
    fn a_month_begins_with_its_first_day() {
        let time: Timestamp = "2026-02-28T23:59:59Z".parse().unwrap();
        assert_eq!(month(time).to_string(), "2026-02-01T00:00:00Z");
    }
}
