//! `GET /api/v1/usage`: as JSON, as CSV or as lines of JSON.

use std::{collections::BTreeSet, fmt::Write, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{Asked, moment};
use crate::{
    Plane,
    caller::Caller,
    error::{ApiError, ErrorBody},
    store::usage::{Bounds, Group, TooMuchUsage, UsageFilter, UsageRow},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageQuery {
    /// By what usage is told apart: `key`, `team`, `model`, `day`, `hour`, or several of them with commas between.
    group_by: Option<String>,
    /// From this time on, to the hour.
    #[serde(default, deserialize_with = "moment")]
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before this time, to the hour.
    #[serde(default, deserialize_with = "moment")]
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Of this key only.
    key: Option<String>,
    /// Of this team only.
    team: Option<String>,
    /// `json` (the default), `csv` or `jsonl`.
    format: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct UsageRows {
    rows: Vec<UsageRow>,
}

/// What was used: the operator's to see of all, a user's of their own keys and those of their team. What takes too long to
/// add up is refused (400) with what to ask for instead: a user's question adds up to 200,000 sums of hours or days and has
/// up to 10,000 rows, the operator's 10,000,000 and 200,000. Two of a user's are answered at once; further ones wait, and
/// get 429 after 5 seconds.
#[utoipa::path(get, path = "/api/v1/usage", params(UsageQuery), responses(
    (status = 200, body = UsageRows), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn usage(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<UsageQuery>,
) -> Result<Response, ApiError> {
    let groups = groups(asked.group_by.as_deref().unwrap_or(""))?;
    let UsageQuery { from, to, key, team, format, .. } = asked;
    let filter = UsageFilter { from, to, key, team, visible_to: visible_to(&caller) };
    let rows = ask(&plane, Some(&caller), groups.clone(), filter).await?;
    match format.as_deref() {
        None | Some("json") => Ok(Json(UsageRows { rows }).into_response()),
        Some("csv") => Ok(of_type("text/csv; charset=utf-8", csv(&rows, &groups))),
        Some("jsonl") => Ok(of_type("application/jsonl", lines(&rows))),
        Some(_) => Err(ApiError::invalid("format", "`json`, `csv` or `jsonl`")),
    }
}

/// Of sums of hours or days, and of rows of an answer: what a user may ask for takes well under a second.
const FOR_USERS: Bounds = Bounds { sums: 200_000, rows: 10_000 };
const FOR_THE_OPERATOR: Bounds = Bounds { sums: 10_000_000, rows: 200_000 };

/// Asks for usage in the caller's turn: for a user, or for the operator and gateways.
///
/// # Errors
/// When it is too much, or there is too much to do.
pub(crate) async fn ask(
    plane: &Arc<Plane>,
    caller: Option<&Caller>,
    groups: BTreeSet<Group>,
    filter: UsageFilter,
) -> Result<Vec<UsageRow>, ApiError> {
    let user = caller.and_then(Caller::user);
    if let Some(caller) = caller
        && !may_have_any(plane, caller, &filter).await?
    {
        return Ok(Vec::new());
    }
    let bounds = if user.is_some() { FOR_USERS } else { FOR_THE_OPERATOR };
    let turn = plane.questions.turn(user.map(|user| user.id.as_str())).await?;
    let store = plane.store.clone();
    // The database goes on where the client hangs up, so the turn does too.
    let answer = tokio::spawn(async move {
        let answer = store.usage(&groups, &filter, bounds).await;
        drop(turn);
        answer
    });
    let answer = answer.await.map_err(|_| ApiError::too_many_questions(Duration::from_secs(1)))??;
    answer.map_err(|TooMuchUsage| {
        ApiError::invalid(
            "from",
            format!(
                "this adds up more than {} sums of hours or days, or has more than {} rows: ask for a shorter time \
                 with `from` and `to` (whole days of UTC take a day's sums), for one `key`, or by fewer groups",
                bounds.sums, bounds.rows
            ),
        )
    })
}

/// Whether the caller may see anything of the key and the team that are asked for: if not, others' usage is not even
/// looked through.
async fn may_have_any(plane: &Plane, caller: &Caller, filter: &UsageFilter) -> Result<bool, ApiError> {
    if filter.team.as_ref().is_some_and(|team| !team.is_empty() && caller.role_on(team).is_none()) {
        return Ok(false);
    }
    match &filter.key {
        Some(key) if caller.user().is_some() => Ok(plane.store.key(key).await?.is_none_or(|key| caller.may_see(&key))),
        _ => Ok(true),
    }
}

/// Whose usage the caller may see; `None`: everybody's.
pub(crate) fn visible_to(caller: &Caller) -> Option<(String, Option<String>)> {
    caller.user().map(|user| (user.id.clone(), user.team.clone()))
}

fn of_type(content_type: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], text).into_response()
}

fn groups(text: &str) -> Result<BTreeSet<Group>, ApiError> {
    let group = |word: &str| match word.trim() {
        "key" => Ok(Group::Key),
        "team" => Ok(Group::Team),
        "model" => Ok(Group::Model),
        "day" => Ok(Group::Day),
        "hour" => Ok(Group::Hour),
        _ => Err(ApiError::invalid("group_by", "`key`, `team`, `model`, `day` or `hour`, with commas between")),
    };
    text.split(',').filter(|word| !word.trim().is_empty()).map(group).collect()
}

fn lines(rows: &[UsageRow]) -> String {
    rows.iter().fold(String::new(), |mut text, row| {
        // What is made of plain fields is always JSON.
        text.push_str(&serde_json::to_string(row).unwrap_or_default());
        text.push('\n');
        text
    })
}

/// RFC 4180, with a head.
fn csv(rows: &[UsageRow], groups: &BTreeSet<Group>) -> String {
    let mut text = String::new();
    for group in groups {
        text.push_str(match group {
            Group::Key => "key,key_name,",
            Group::Team => "team,",
            Group::Model => "model,",
            Group::Day => "day,",
            Group::Hour => "hour,",
        });
    }
    text.push_str(
        "requests,input_tokens,cached_input_tokens,cache_write_tokens,output_tokens,reasoning_tokens,cost_usd,\
         last_used_at,models\r\n",
    );
    for row in rows {
        let named = |value: &Option<String>| field(value.as_deref().unwrap_or_default());
        let timed = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
        for group in groups {
            match group {
                Group::Key => {
                    let (key, name) = (named(&row.key), named(&row.key_name));
                    let _ = write!(text, "{key},{name},");
                }
                Group::Team => drop(write!(text, "{},", named(&row.team))),
                Group::Model => drop(write!(text, "{},", named(&row.model))),
                Group::Day => drop(write!(text, "{},", timed(row.day))),
                Group::Hour => drop(write!(text, "{},", timed(row.hour))),
            }
        }
        // Writing to a `String` does not fail.
        let _ = write!(
            text,
            "{},{},{},{},{},{},{},{},{}\r\n",
            row.requests,
            row.input_tokens,
            row.cached_input_tokens,
            row.cache_write_tokens,
            row.output_tokens,
            row.reasoning_tokens,
            row.cost_usd,
            timed(row.last_used_at),
            field(&row.models.join(" "))
        );
    }
    text
}

/// A field in quotes where it needs them. What a table would take for a formula is text: a name is a stranger's choice.
fn field(value: &str) -> String {
    let value = if is_like_a_formula(value) { format!("'{value}") } else { value.to_owned() };
    // Some programs separate fields by semicolons or tabs, whatever the file does.
    if value.contains([',', ';', '\t', '"', '\n', '\r', '\0']) {
        return format!("\"{}\"", value.replace('"', "\"\""));
    }
    value
}

/// As OWASP lists them, also in their full width: what begins a formula, alone or after what a program takes away.
fn is_like_a_formula(value: &str) -> bool {
    let is_taken_away = |character: char| {
        character.is_whitespace() || character.is_control() || matches!(character, '\u{feff}' | '\u{200b}'..='\u{200f}')
    };
    value.starts_with(char::is_control)
        || value.trim_start_matches(is_taken_away).starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_tables_are_quoted_where_they_must() {
        for (value, expected) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("a;b", "\"a;b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a-b=c", "a-b=c"),
            (" spaced", " spaced"),
            ("", ""),
        ] {
            assert_eq!(field(value), expected);
        }
    }

    #[test]
    fn what_a_table_takes_for_a_formula_is_text() {
        for first in ["=", "+", "-", "@", "＝", "＋", "－", "＠"] {
            for before in ["", " ", "\t", "\r", "\n", "\0", "\u{a0}", "\u{3000}", "\u{feff}", " \t "] {
                let value = format!("{before}{first}SUM(1)");
                assert!(field(&value).trim_start_matches('"').starts_with('\''), "{value:?}");
            }
        }
        for value in ["\tx", "\rx", "\nx", "\0x"] {
            assert_eq!(field(value), format!("\"'{value}\""));
        }
    }
}
