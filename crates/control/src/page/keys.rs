//! The list of keys.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use jiff::Timestamp;
use keymeter_core::money::Usd;
use maud::{Markup, html};

use super::{
    form::{Choice, Choices, Form, FormField},
    invitations,
    key_search::{KeyQuery, ROWS, SORTS, STATES},
    key_words::{owner, state, switch, used},
    layout::{self, Section},
    owners::{self, NOBODY},
    quotas::{SpentByKeys, tightest},
    request::{FormFields, PageError, PageQuery, SignedIn},
    table::{Column, Row, table},
    words::{count, money, number},
};
use crate::{
    Plane,
    caller::Caller,
    store::{
        StoreError,
        key_list::{KeyListPage, Lately},
        keys::Key,
    },
};

/// `GET /`.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    PageQuery(asked): PageQuery<KeyQuery>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let now = Timestamp::now();
    let skipped = (asked.page() - 1) * ROWS;
    let page = plane.store.key_list(&asked.search(&signed.caller), (skipped, ROWS), now).await?;
    let invitations = invitations::waiting(&plane, &signed).await?;
    let done = match asked.done.as_str() {
        "deleted" => Some("The key is deleted."),
        "enabled" => Some("The key is enabled."),
        "disabled" => Some("The key is disabled."),
        _ => None,
    };
    let rows = rows(&plane, &signed, &asked, &page, now).await?;
    let main = html! {
        div.head {
            h1 { "Keys" }
            @if may_make(&signed.caller) { a.button href="/keys/new" { "Make a key" } }
        }
        (layout::notice(done))
        (invitations)
        @if page.total > 0 || asked.is_filtered() { (filters(&plane, &signed, &asked).await?) }
        @if rows.is_empty() {
            (empty(&plane, &signed, &asked, page.total).await?)
        } @else {
            (table("Keys, with what they used this month", &columns(&asked), rows))
            p.hint.after { "Requests, tokens and cost are those of this month, in UTC." }
        }
        (pages(&asked, page.total))
    };
    Ok(layout::page("Keys", Section::Keys, &signed, &main))
}

/// Whether a key can be made of whichever team's or person's.
fn may_make(caller: &Caller) -> bool {
    let team = caller.user().and_then(|user| user.team.as_deref());
    team.is_none_or(|team| caller.must_lead(team).is_ok())
}

fn columns(asked: &KeyQuery) -> Vec<Column> {
    let sorted = |column: Column, name: &str, is_number| {
        let (href, order) = asked.sorted_by(name, is_number);
        column.sorted(href, order)
    };
    vec![
        sorted(Column::text("Name"), "name", false),
        sorted(Column::text("Owner"), "owner", false),
        Column::text("State"),
        sorted(Column::number("Requests"), "requests", true),
        sorted(Column::number("Tokens in"), "input", true),
        sorted(Column::number("Tokens out"), "output", true),
        sorted(Column::number("Cost"), "cost", true),
        sorted(Column::text("Last used"), "used", true),
        Column::text("Tightest limit"),
    ]
}

async fn rows(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    asked: &KeyQuery,
    page: &KeyListPage,
    now: Timestamp,
) -> Result<Vec<Row>, PageError> {
    let ids: Vec<_> = page.keys.iter().map(|key| key.id.as_str()).collect();
    let lately = plane.store.lately(&ids, now).await?;
    let (mut spent, mut rows) = (SpentByKeys::default(), Vec::with_capacity(page.keys.len()));
    for key in &page.keys {
        let spent = if key.deleted_at.is_none() { spent.of(plane, signed, key, now).await } else { Vec::new() };
        let limit = tightest(&spent, &key.limits.shared());
        let lately = lately.get(&key.id).copied().unwrap_or_default();
        rows.push(row(key, signed, asked, lately, limit));
    }
    Ok(rows)
}

fn row(key: &Key, signed: &SignedIn, asked: &KeyQuery, lately: Lately, limit: Markup) -> Row {
    Row::from(vec![
        html! {
            a href=(format!("/keys/{}", key.id)) { (key.name) }
            span.under { code { (key.id) } " " code { (key.masked) } }
        },
        owner(key, signed),
        html! { div.states { (state(key)) (switch(key, signed, Some(&asked.text()))) } },
        html! { (number(lately.requests)) },
        html! { (number(lately.input)) },
        html! { (number(lately.output)) },
        money(lately.cost),
        used(lately.last_used_at),
        limit,
    ])
    .with_id(&key.id)
}

async fn filters(plane: &Arc<Plane>, signed: &SignedIn, asked: &KeyQuery) -> Result<Markup, StoreError> {
    let fields = FormFields::from([
        ("q", asked.q.clone()),
        ("owner", asked.owner.clone()),
        ("state", asked.state.clone()),
        ("sort", asked.sort.clone()),
    ]);
    let form = Form::new(&fields, None);
    let field = |name, label| FormField { name, label, is_required: false, ..FormField::default() };
    let owners = match signed.caller.user() {
        None => Some(owners::all(plane, &[("", "Everybody"), (NOBODY, "Charged to nobody")]).await?),
        Some(user) => user.team.as_deref().map(|team| own(&user.id, team)),
    };
    // A heading that is pressed sorts as well, where there is room for headings.
    let sorts: Vec<_> = SORTS.iter().copied().chain(other_sort(asked)).collect();
    Ok(html! {
        form.filters method="get" action="/" role="search" aria-label="Keys" {
            (form.line(FormField { kind: Some("search"), ..field("q", "Search") }))
            @if let Some(owners) = &owners { (form.choices(field("owner", "Owner"), owners)) }
            (form.choice(field("state", "State"), &STATES))
            (form.choice(field("sort", "Sort by"), &sorts))
            div.field.submit {
                button.plain type="submit" { "Show" }
                @if asked.is_filtered() { a href="/" { "Clear" } }
            }
        }
    })
}

/// An order that a heading gave, and that is none of those to choose from.
fn other_sort(asked: &KeyQuery) -> Option<(&str, &str)> {
    let is_other = SORTS.iter().all(|(sort, _)| *sort != asked.sort);
    is_other.then_some((asked.sort.as_str(), "As in the table"))
}

/// Those whose keys somebody on a team sees.
fn own(user: &str, team: &str) -> Choices {
    let choice = |id: &str, words| Choice { value: id.to_owned(), words, is_disabled: false };
    let choices = vec![choice(team, format!("Team {team}")), choice(user, "Your own".to_owned())];
    Choices { first: vec![(String::new(), "All".to_owned())], groups: vec![("Owners", choices)], is_whole: true }
}

/// Which of how many keys are on the page, and the ways to others.
fn pages(asked: &KeyQuery, total: i64) -> Markup {
    let page = asked.page();
    let (first, last) = ((page - 1) * ROWS + 1, (page * ROWS).min(total));
    html! {
        @if total > 0 && first <= total {
            nav.pager aria-label="Pages of the list" {
                @if page > 1 {
                    a href=(asked.at_page(1)) { "First page" }
                    a rel="prev" href=(asked.at_page(page - 1)) { "Page before" }
                }
                span.faint { (number(first)) "–" (number(last)) " of " (count(total, "key", "keys")) }
                @if last < total { a rel="next" href=(asked.at_page(page + 1)) { "Next page" } }
            }
        }
    }
}

/// What to do where there is nothing to show.
async fn empty(plane: &Arc<Plane>, signed: &SignedIn, asked: &KeyQuery, total: i64) -> Result<Markup, StoreError> {
    if total > 0 {
        return Ok(
            html! { div.empty { p { "There are no more keys." } p { a href=(asked.at_page(1)) { "First page" } } } },
        );
    }
    if asked.is_filtered() {
        return Ok(html! {
            div.empty { p { "No key is like that." } p { a href="/" { "Show all keys" } } }
        });
    }
    let user = signed.caller.user();
    let payer = user.map(|user| user.team.as_ref().unwrap_or(&user.id));
    let is_broke = match payer {
        Some(payer) => plane.store.balance(payer).await?.is_none_or(|balance| balance <= Usd::ZERO),
        None => false,
    };
    Ok(html! {
        div.empty {
            p { strong { "There are no keys yet." } }
            @match payer {
                _ if !may_make(&signed.caller) => { p { "The owner and the admins of your team make its keys." } }
                Some(payer) if is_broke => {
                    p {
                        "The wallet of " (payer) " is empty, and keys are charged to it. Ask the operator for a credit, then "
                        "make the first key."
                    }
                    p { a href=(format!("/wallets/{payer}")) { "To the wallet" } }
                }
                _ => {
                    p { "A key lets a program use the models. Its secret is shown once, when it is made." }
                    p { a.button href="/keys/new" { "Make the first key" } }
                }
            }
        }
    })
}
