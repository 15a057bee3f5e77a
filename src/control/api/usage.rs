//! `GET /api/v1/usage`: as JSON, as CSV or as lines of JSON.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::Asked;
use crate::control::{
    Plane,
    caller::Caller,
    refusal::{ErrorBody, Refusal},
    store::usage::{Group, UsageFilter, UsageRow},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct UsageQuery {
    /// By what usage is told apart: `key`, `team`, `model`, `day`, `hour`, or several of them with commas between.
    group_by: Option<String>,
    /// From this time on, to the hour.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Before this time, to the hour.
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
pub(in crate::control) struct UsageRows {
    rows: Vec<UsageRow>,
}

/// What was used: the operator's to see of all, a user's of their own keys and those of their team.
#[utoipa::path(get, path = "/api/v1/usage", params(UsageQuery), responses(
    (status = 200, body = UsageRows), (status = "4XX", body = ErrorBody)
))]
pub(in crate::control) async fn usage(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<UsageQuery>,
) -> Result<Response, Refusal> {
    let groups = groups(asked.group_by.as_deref().unwrap_or(""))?;
    let UsageQuery { from, to, key, team, format, .. } = asked;
    let filter = UsageFilter { from, to, key, team, visible_to: visible_to(&caller) };
    let rows = plane.store.usage(&groups, &filter).await?;
    match format.as_deref() {
        None | Some("json") => Ok(Json(UsageRows { rows }).into_response()),
        Some("csv") => Ok(of_type("text/csv; charset=utf-8", csv(&rows, &groups))),
        Some("jsonl") => Ok(of_type("application/jsonl", lines(&rows))),
        Some(_) => Err(Refusal::invalid("format", "`json`, `csv` or `jsonl`")),
    }
}

/// Whose usage the caller may see; `None`: everybody's.
pub(in crate::control) fn visible_to(caller: &Caller) -> Option<(String, Option<String>)> {
    caller.user().map(|user| (user.id.clone(), user.team.clone()))
}

fn of_type(content_type: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], text).into_response()
}

fn groups(text: &str) -> Result<BTreeSet<Group>, Refusal> {
    let group = |word: &str| match word.trim() {
        "key" => Ok(Group::Key),
        "team" => Ok(Group::Team),
        "model" => Ok(Group::Model),
        "day" => Ok(Group::Day),
        "hour" => Ok(Group::Hour),
        _ => Err(Refusal::invalid("group_by", "`key`, `team`, `model`, `day` or `hour`, with commas between")),
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
    let value =
        if value.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{value}") } else { value.to_owned() };
    if value.contains([',', '"', '\n', '\r']) { format!("\"{}\"", value.replace('"', "\"\"")) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_tables_are_quoted_where_they_must() {
        for (value, expected) in
            [("plain", "plain"), ("a,b", "\"a,b\""), ("a\"b", "\"a\"\"b\""), ("=1+1", "'=1+1"), ("", "")]
        {
            assert_eq!(field(value), expected);
        }
    }
}
