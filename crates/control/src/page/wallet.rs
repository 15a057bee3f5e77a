//! Wallets: their balances, what was credited and charged, and credits by the operator.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use jiff::Timestamp;
use keymeter_core::money::{USED_UP, Usd};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    form::{Form, FormField},
    layout::{self, Section, title_of},
    pager::{ListPosition, pager, query},
    request::{FormFields, PageError, PageQuery, SignedIn, SubmittedForm},
    session::nonce,
    table::{Column, Row, table},
    words::{day, money, time},
};
use crate::{
    Plane,
    api::{
        body::Body,
        next_cursor,
        wallets::{self, Credit, Wallet},
    },
    error::ApiError,
    store::wallets::{WalletEntries, WalletEntry},
};

const ROWS: i64 = 25;
const IDEMPOTENCY_KEY: &str = "idempotency_key";

/// `GET /wallets`: the operator's all, a user's own and their team's.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    PageQuery(begin): PageQuery<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let (balances, next) = match signed.caller.user() {
        None => {
            let balances = plane.store.balances(begin.cursor.as_deref().unwrap_or(""), ROWS).await?;
            let next = next_cursor(&balances, ROWS, |(owner, _)| owner.clone());
            (balances, next)
        }
        Some(user) => {
            let mut balances = Vec::new();
            for owner in [Some(&user.id), user.team.as_ref()].into_iter().flatten() {
                let whose = Path(owner.clone());
                let Json(wallet) = wallets::show(State(plane.clone()), signed.caller.clone(), whose).await?;
                balances.push((wallet.owner, wallet.balance_usd));
            }
            (balances, None)
        }
    };
    let main = html! {
        h1 { "Wallets" }
        @if balances.is_empty() {
            div.empty {
                p { strong { "There are no wallets." } }
                p { "Each user and each team has one: make a user first." }
                p { a.button href="/users/new" { "Make a user" } }
            }
        } @else {
            (rows(&balances))
        }
        (pager("/wallets", begin.cursor.is_some(), next.as_deref()))
    };
    Ok(layout::page("Wallets", Section::Wallets, &signed, &main))
}

fn rows(balances: &[(String, Usd)]) -> Markup {
    let columns = [Column::text("Owner"), Column::text("State"), Column::number("Balance")];
    let row = |(owner, balance): &(String, Usd)| {
        Row::from(vec![html! { a href=(format!("/wallets/{owner}")) { (owner) } }, state(*balance), money(*balance)])
    };
    table("Wallets and their balances", &columns, balances.iter().map(row))
}

fn state(balance: Usd) -> Markup {
    html! { @match balance {
        balance if balance > USED_UP => { span.state.active { "pays" } }
        balance if balance > Usd::ZERO => { span.state { "used up" } }
        _ => { span.state { "empty" } }
    } }
}

/// What the address of a wallet says.
#[derive(Default, Deserialize)]
pub struct WalletPosition {
    #[serde(default)]
    done: String,
    /// Entries before this time.
    #[serde(default)]
    before: String,
}

/// `GET /wallets/{owner}`.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    Path(owner): Path<String>,
    PageQuery(asked): PageQuery<WalletPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let Json(wallet) = wallets::show(State(plane.clone()), signed.caller.clone(), Path(owner)).await?;
    let done = (asked.done == "credited").then_some("The credit is in the balance.");
    let fields = FormFields::from([(IDEMPOTENCY_KEY, nonce()?)]);
    page(&plane, &signed, &wallet, (done, asked.before.parse().ok()), &Form::new(&fields, None)).await
}

/// `POST /wallets/{owner}`: a credit, once for each form.
pub async fn credit(
    State(plane): State<Arc<Plane>>,
    Path(owner): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let credited = match fields.text("usd").parse::<Usd>() {
        Ok(usd) => {
            let credit = Credit { usd, idempotency_key: fields.text(IDEMPOTENCY_KEY).to_owned() };
            wallets::credit(State(plane.clone()), signed.caller.clone(), Path(owner.clone()), Body(credit)).await
        }
        Err(error) => Err(ApiError::invalid("usd", error.to_string())),
    };
    match credited {
        Ok(_) => Ok(Redirect::to(&format!("/wallets/{owner}?done=credited")).into_response()),
        Err(refusal) => {
            let Json(wallet) = wallets::show(State(plane.clone()), signed.caller.clone(), Path(owner)).await?;
            page(&plane, &signed, &wallet, (None, None), &Form::new(&fields, Some(&refusal))).await
        }
    }
}

async fn page(
    plane: &Arc<Plane>,
    signed: &SignedIn,
    wallet: &Wallet,
    (done, before): (Option<&str>, Option<Timestamp>),
    form: &Form<'_>,
) -> Result<Response, PageError> {
    let entries = plane.store.wallet_entries(&wallet.owner, before.unwrap_or(Timestamp::MAX)).await?;
    let title = format!("Wallet of {}", wallet.owner);
    let is_operator = signed.caller.must_be_operator().is_ok();
    let main = html! {
        p.crumb { a href="/wallets" { "Wallets" } }
        h1 { (title) }
        (layout::notice(done))
        (form.around(|| html! {
            p.balance { "Balance: " strong { (money(wallet.balance_usd)) } " " (state(wallet.balance_usd)) }
            @if wallet.balance_usd <= USED_UP {
                p.hint {
                    "Keys that are charged to it do not work until there is more in it"
                    @if is_operator { ": credit it." } @else { ": ask the operator for a credit." }
                }
            }
            @if is_operator { (credit_form(signed, wallet, form)) }
            (entries_of(wallet, &entries, before))
        }))
    };
    let shown = title_of(&title, form.error);
    Ok(layout::refused(layout::page(&shown, Section::Wallets, signed, &main), form.error))
}

fn credit_form(signed: &SignedIn, wallet: &Wallet, form: &Form<'_>) -> Markup {
    html! {
        section aria-labelledby="credit" {
            h2 id="credit" { "Credit it" }
            form.panel.row method="post" action=(format!("/wallets/{}", wallet.owner)) aria-labelledby="credit" {
                (layout::form_token(signed))
                (form.line(FormField {
                    name: "usd", label: "US dollars", hint: "Such as 25 or 12.50.", keys: Some("decimal"), is_required: true,
                    ..FormField::default()
                }))
                (form.line(FormField {
                    name: IDEMPOTENCY_KEY,
                    label: "Idempotency key",
                    hint: "Such as an order's number: under one the credit counts once.",
                    is_required: true,
                    ..FormField::default()
                }))
                button type="submit" { "Credit" }
            }
        }
    }
}

fn entries_of(wallet: &Wallet, entries: &WalletEntries, before: Option<Timestamp>) -> Markup {
    let path = format!("/wallets/{}", wallet.owner);
    let columns = [Column::text("When"), Column::text("What"), Column::text("Reference"), Column::number("Amount")];
    html! {
        section aria-labelledby="entries" {
            h2 id="entries" { "Credits and charges" }
            @if entries.entries.is_empty() {
                div.empty {
                    p { strong { "Nothing was credited or charged yet." } }
                    p { "Credits are the operator’s to give. What requests cost is charged when a gateway has sent their records." }
                }
            } @else {
                (table("Credits and charges, the latest first", &columns, entries.entries.iter().map(entry)))
            }
            nav.pager aria-label="Pages of the list" {
                @if before.is_some() { a href=(path) { "Latest" } }
                @if let Some(earlier) = entries.earlier {
                    a rel="next" href=(format!("{path}?{}", query(&[("before", &earlier.to_string())]))) { "Earlier" }
                }
            }
        }
    }
}

fn entry(entry: &WalletEntry) -> Row {
    let WalletEntry { kind, reference, amount, at } = entry;
    let (when, what) = match kind.as_str() {
        "charge" => (html! { time datetime=(day(*at)) { (day(*at)) } }, "Charges of the day"),
        "credit" => (time(*at), "Credit"),
        "refund" if *amount < Usd::ZERO => (time(*at), "Moved to another wallet"),
        "refund" => (time(*at), "Moved from another wallet"),
        _ => (time(*at), "Other"),
    };
    let about = html! { @if reference.is_empty() { span.faint { "requests" } } @else { code { (reference) } } };
    Row::from(vec![when, html! { (what) }, about, money(*amount)])
}
