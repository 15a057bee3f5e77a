//! The overview: what was used of a team, or of all that the caller may see.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    form::{Choice, Choices, Form, FormField},
    invitations,
    layout::{self, Section},
    owners,
    request::{FormFields, PageError, PageQuery, SignedIn},
    usage::{Span, Used, Whose},
};
use crate::{Plane, error::ApiError, store::StoreError};

/// What is looked at.
#[derive(Default, Deserialize)]
pub struct OverviewQuery {
    /// A team; empty: all.
    #[serde(default)]
    team: String,
    /// Days.
    #[serde(default)]
    span: String,
}

/// `GET /overview`.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    PageQuery(asked): PageQuery<OverviewQuery>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let team = asked.team.trim();
    let whose = if team.is_empty() { Whose::All } else { Whose::Team(team) };
    if !team.is_empty() && (signed.caller.role_on(team).is_none() || !plane.store.is_team(team).await?) {
        return Err(ApiError::not_found("team", team).into());
    }
    let used = Used::load(&plane, &signed, whose, Span::parse(&asked.span), Timestamp::now()).await?;
    let title = match (team, signed.caller.user()) {
        ("", None) => "All usage".to_owned(),
        ("", Some(_)) => "Usage that you may see".to_owned(),
        (team, _) => format!("Usage of the team {team}"),
    };
    let main = html! {
        div.head { h1 { "Overview" } (choice(&plane, &signed, &asked).await?) }
        (invitations::waiting(&plane, &signed).await?)
        (used.section(&title, "/overview", &[("team", team)]))
        p.after { a href=(keys(team)) { "Keys by what they cost this month" } }
    };
    Ok(layout::page("Overview", Section::Overview, &signed, &main))
}

fn keys(team: &str) -> String {
    format!("/?{}", super::pager::query(&[("owner", team), ("sort", "-cost")]))
}

/// The operator chooses among all teams, somebody on a team between it and all that they see.
async fn choice(plane: &Arc<Plane>, signed: &SignedIn, asked: &OverviewQuery) -> Result<Markup, StoreError> {
    let choices = match signed.caller.user().map(|user| user.team.as_deref()) {
        None => owners::teams(plane, ("", "All")).await?,
        Some(Some(team)) => Choices {
            first: vec![(String::new(), "Team and own keys".to_owned())],
            groups: vec![(
                "Teams",
                vec![Choice { value: team.to_owned(), words: format!("Team {team}"), is_disabled: false }],
            )],
            is_whole: true,
        },
        Some(None) => return Ok(html! {}),
    };
    let fields = FormFields::from([("team", asked.team.clone())]);
    let form = Form::new(&fields, None);
    Ok(html! {
        form.filters.aside method="get" action="/overview" aria-label="Team" {
            input type="hidden" name="span" value=(asked.span);
            (form.choices(FormField { name: "team", label: "Of", ..FormField::default() }, &choices))
            div.field.submit { button.plain type="submit" { "Show" } }
        }
    })
}
