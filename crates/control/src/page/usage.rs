//! What was used over a span of days, which is chosen: as charts, and by day, by model and by team as tables.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

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
    /// `None`: it is too much to add up.
    sums: Option<Sums>,
}

struct Sums {
    days: Vec<UsageRow>,
    models: Vec<UsageRow>,
    /// Where several teams are looked at.
    teams: Vec<UsageRow>,
}

impl Used {
    /// Adds it up.
    ///
    /// # Errors
    /// When there is too much to do, or the database does not answer.
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
        match Sums::of(plane, signed, &filter, matches!(whose, Whose::All)).await {
            Ok(sums) => Ok(Self { span, now, sums: Some(sums) }),
            // The span is what was too long.
            Err(refusal) if refusal.field() == Some("from") => Ok(Self { span, now, sums: None }),
            Err(refusal) => Err(refusal),
        }
    }

    /// All of it, on a page at `path` whose address says `rest` beside the span.
    pub fn section(&self, title: &str, path: &str, rest: &[(&str, &str)]) -> Markup {
        html! {
            section aria-labelledby="usage" {
                div.head {
                    h2 id="usage" { (title) }
                    (self.choice(path, rest))
                }
                @match &self.sums {
                    Some(sums) => { (sums.shown(self.span, self.now)) }
                    None => { div.empty {
                        p { strong { "This is too much to add up here." } }
                        p { "Choose a shorter span, or look at one key." }
                    } }
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
                    @let said = query(&[rest, &[("span", text.as_str())]].concat());
                    a href=(format!("{path}?{said}")) aria-current=[current] { (words) }
                }
            }
        }
    }
}

impl Sums {
    async fn of(
        plane: &Arc<Plane>,
        signed: &SignedIn,
        filter: &UsageFilter,
        has_teams: bool,
    ) -> Result<Self, ApiError> {
        let by = async |group| ask(plane, Some(&signed.caller), BTreeSet::from([group]), filter.clone()).await;
        let teams = if has_teams { by(Group::Team).await? } else { Vec::new() };
        let mut sums = Self { days: by(Group::Day).await?, models: by(Group::Model).await?, teams };
        sums.models.sort_by_key(|row| Reverse((row.cost_usd, row.requests)));
        sums.teams.sort_by_key(|row| Reverse((row.cost_usd, row.requests)));
        Ok(sums)
    }

    fn shown(&self, span: Span, now: Timestamp) -> Markup {
        html! {
            (chart::figures(&Chart::new(&self.days, span.0, now)))
            @if !self.days.is_empty() {
                (by_model(&self.models))
                @if self.teams.len() > 1 { (by_team(&self.teams)) }
                (by_day(&self.days))
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
