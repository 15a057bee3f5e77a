//! What was used over a span of days, which is chosen: as charts, and by day, by model and by team as tables.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    chart::{self, Chart, first_day},
    pager::query,
    request::SignedIn,
    table::{Column, Row, table},
    words::{day, money, number},
};
use crate::{
    Plane,
    api::usage::{ask, visible_to},
    error::ApiError,
    store::usage::{Group, UsageFilter, UsageRow},
};

/// What the address of a page with usage on it says.
#[derive(Default, Deserialize)]
pub struct UsagePosition {
    /// A word for what was just done.
    #[serde(default)]
    pub done: String,
    /// Days.
    #[serde(default)]
    pub span: String,
}

/// How many days are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(usize);

const SPANS: [(usize, &str); 4] = [(7, "7 days"), (30, "30 days"), (90, "90 days"), (365, "Year")];

impl Span {
    /// As the address says it; 30 days where it says nothing that makes sense.
    pub fn parse(text: &str) -> Self {
        let days = text.parse().ok().filter(|days| SPANS.iter().any(|(span, _)| span == days));
        Self(days.unwrap_or(30))
    }
}

/// Whose usage it is.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'id> {
    /// A key's.
    Key(&'id str),
    /// A team's.
    Team(&'id str),
    /// A user's, with their own keys.
    User(&'id str),
    /// All that the caller may see.
    All,
}

/// What was used, added up.
pub struct Used {
    span: Span,
    now: Timestamp,
    days: Vec<UsageRow>,
    models: Vec<UsageRow>,
    /// Where several teams are looked at.
    teams: Vec<UsageRow>,
}

impl Used {
    /// Adds it up.
    ///
    /// # Errors
    /// When it is too much, or the database does not answer.
    pub async fn load(
        plane: &Arc<Plane>,
        signed: &SignedIn,
        whose: Whose<'_>,
        span: Span,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        let all = UsageFilter {
            from: Some(first_day(now, span.0)),
            visible_to: visible_to(&signed.caller),
            ..UsageFilter::default()
        };
        let filter = match whose {
            Whose::Key(id) => UsageFilter { key: Some(id.to_owned()), ..all },
            Whose::Team(id) => UsageFilter { team: Some(id.to_owned()), ..all },
            Whose::User(id) => UsageFilter { visible_to: Some((id.to_owned(), None)), ..all },
            Whose::All => all,
        };
        let by = async |group| ask(plane, Some(&signed.caller), BTreeSet::from([group]), filter.clone()).await;
        let teams = if matches!(whose, Whose::All) { by(Group::Team).await? } else { Vec::new() };
        let mut used = Self { span, now, days: by(Group::Day).await?, models: by(Group::Model).await?, teams };
        used.models.sort_by_key(|row| std::cmp::Reverse((row.cost_usd, row.requests)));
        used.teams.sort_by_key(|row| std::cmp::Reverse((row.cost_usd, row.requests)));
        Ok(used)
    }

    /// All of it, on a page at `path` whose address says `rest` beside the span.
    pub fn section(&self, title: &str, path: &str, rest: &[(&str, &str)]) -> Markup {
        let chart = Chart::new(&self.days, self.span.0, self.now);
        html! {
            section aria-labelledby="usage" {
                div.head {
                    h2 id="usage" { (title) }
                    (self.choice(path, rest))
                }
                (chart::figures(&chart))
                @if !self.days.is_empty() {
                    (by_model(&self.models))
                    @if self.teams.len() > 1 { (by_team(&self.teams)) }
                    (by_day(&self.days))
                }
            }
        }
    }

    fn choice(&self, path: &str, rest: &[(&str, &str)]) -> Markup {
        html! {
            nav.spans aria-label="Span of time" {
                @for (days, words) in SPANS {
                    @let text = days.to_string();
                    @let current = (days == self.span.0).then_some("true");
                    a href=(format!("{path}?{}", query(&[rest, &[("span", text.as_str())]].concat()))) aria-current=[current] { (words) }
                }
            }
        }
    }
}

/// What all tables of usage have.
fn columns(first: &'static str) -> Vec<Column> {
    let numbers = ["Requests", "Tokens in", "Of these cached", "Tokens out", "Cost"];
    std::iter::once(Column::text(first)).chain(numbers.map(Column::number)).collect()
}

fn row(first: Markup, used: &UsageRow) -> Row {
    let input = [used.input_tokens, used.cached_input_tokens, used.cache_write_tokens];
    Row::from(vec![
        first,
        html! { (number(used.requests)) },
        html! { (number(input.into_iter().fold(0, i64::saturating_add))) },
        html! { (number(used.cached_input_tokens)) },
        html! { (number(used.output_tokens)) },
        money(used.cost_usd),
    ])
}

/// A name that a client chose may be empty.
fn by_model(rows: &[UsageRow]) -> Markup {
    let name = |row: &UsageRow| row.model.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "(none)".into());
    html! {
        h3 { "By model" }
        (table("Usage by model", &columns("Model"), rows.iter().map(|used| row(html! { (name(used)) }, used))))
    }
}

fn by_team(rows: &[UsageRow]) -> Markup {
    let name = |row: &UsageRow| match row.team.as_deref() {
        None | Some("") => html! { span.faint { "no team" } },
        Some(team) => html! { a href=(format!("/teams/{team}")) { (team) } },
    };
    html! {
        h3 { "By team" }
        (table("Usage by team", &columns("Team"), rows.iter().map(|used| row(name(used), used))))
    }
}

fn by_day(rows: &[UsageRow]) -> Markup {
    let used = rows.iter().rev().filter(|row| row.requests > 0);
    let name = |row: &UsageRow| row.day.map(day).unwrap_or_default();
    html! {
        details {
            summary { "By day, as a table" }
            (table("Usage by day", &columns("Day"), used.map(|used| row(html! { (name(used)) }, used))))
        }
    }
}
