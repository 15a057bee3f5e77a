//! The list of keys.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
    response::Response,
};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use maud::{Markup, html};

use super::{
    invitations, layout,
    pager::{ListPosition, pager},
    request::{PageError, SignedIn},
    words::{cost, time},
};
use crate::{
    Plane,
    api::{
        body::Asked,
        keys::{self, KeyPage, ListKeys},
    },
    caller::Caller,
    store::{keys::Key, page::Lately},
};

const ROWS: i64 = 25;

/// `GET /`.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    Query(begin): Query<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let call = ListKeys { cursor: begin.cursor.clone(), limit: Some(ROWS), ..ListKeys::default() };
    let Json(page) = keys::list(State(plane.clone()), signed.caller.clone(), Asked(call)).await?;
    let ids: Vec<_> = page.data.iter().map(|key| key.id.as_str()).collect();
    let lately = plane.store.lately(&ids, month()).await?;
    let invitations = invitations::waiting(&plane, &signed).await?;
    let done = begin.done.as_deref().filter(|done| *done == "deleted").map(|_| "The key is deleted.");
    let main = html! {
        div.head {
            h1 { "Keys" }
            @if may_make(&signed.caller) { a.button href="/keys/new" { "Make a key" } }
        }
        (layout::notice(done))
        (invitations)
        @if page.data.is_empty() {
            p.empty { @if begin.cursor.is_some() { "There are no more keys." } @else { "There are no keys yet." } }
        } @else {
            (table(&page, |id| lately.get(id).copied().unwrap_or_default()))
        }
        (pager("/", begin.cursor.is_some(), page.next_cursor.as_deref()))
    };
    Ok(layout::page("Keys", &signed, &main))
}

/// Whether a key can be made of whichever team's or person's.
fn may_make(caller: &Caller) -> bool {
    let team = caller.user().and_then(|user| user.team.as_deref());
    team.is_none_or(|team| caller.must_lead(team).is_ok())
}

/// On a narrow screen its rows are cards: then only roles still tell a table from other text.
fn table(page: &KeyPage, lately: impl Fn(&str) -> Lately) -> Markup {
    html! {
        table.cards role="table" {
            caption.hidden { "Keys, with what they cost this month" }
            thead role="rowgroup" {
                tr role="row" {
                    @for head in ["Name", "Secret", "Of", "State", "Last used"] {
                        th scope="col" role="columnheader" { (head) }
                    }
                    th.number scope="col" role="columnheader" { "This month" }
                }
            }
            tbody role="rowgroup" { @for key in &page.data { (row(key, lately(&key.id))) } }
        }
    }
}

fn row(key: &Key, lately: Lately) -> Markup {
    html! {
        tr role="row" {
            th scope="row" role="rowheader" { a href=(format!("/keys/{}", key.id)) { (key.name) } }
            td role="cell" data-head="Secret" { code { (key.masked) } }
            td role="cell" data-head="Of" { (holder(key)) }
            td role="cell" data-head="State" { (state(key)) }
            td role="cell" data-head="Last used" { (used(lately.last_used_at)) }
            td.number role="cell" data-head="This month" { (cost(lately.cost)) }
        }
    }
}

/// Whose a key is.
pub fn holder(key: &Key) -> Markup {
    html! {
        @match (&key.team, &key.owner) {
            (Some(team), _) => { "team " a href=(format!("/teams/{team}")) { (team) } }
            (None, Some(owner)) => { a href=(format!("/users/{owner}")) { (owner) } }
            (None, None) => { span.faint { "nobody" } }
        }
    }
}

/// A key's state, in a word and a colour. Gateways see for themselves that a key has expired.
pub fn state(key: &Key) -> Markup {
    let is_over = key.state == "active" && key.expires_at.is_some_and(|end| end <= Timestamp::now());
    let (class, words) = match key.state.as_str() {
        _ if is_over => ("expired", "expired"),
        "no_balance" => ("no_balance", "no balance"),
        state => (state, state),
    };
    html! { span class=(format!("state {class}")) { (words) } }
}

/// When a key was used last.
pub fn used(at: Option<Timestamp>) -> Markup {
    html! { @match at { Some(at) => { (time(at)) } None => { span.faint { "never" } } } }
}

/// The beginning of this month, of UTC.
fn month() -> Timestamp {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let first = today.first_of_month().to_zoned(TimeZone::UTC).map(|first| first.timestamp());
    first.unwrap_or_else(|_| Timestamp::now().saturating_sub(720.hours()).unwrap_or(Timestamp::MIN))
}
