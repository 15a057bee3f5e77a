//! Wallets: their balances, and credits by the operator.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use keymeter_core::money::Usd;
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    layout,
    pager::{ListPosition, pager},
    request::{FormFields, PageError, SignedIn, SubmittedForm},
    session::nonce,
    words::money,
};
use crate::{
    Plane,
    api::{
        body::Body,
        next_cursor,
        wallets::{self, Credit, Wallet},
    },
    error::ApiError,
};

const ROWS: i64 = 25;
const IDEMPOTENCY_KEY: &str = "idempotency_key";

/// `GET /wallets`: the operator's all, a user's own and their team's.
pub async fn list(
    State(plane): State<Arc<Plane>>,
    Query(begin): Query<ListPosition>,
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
            p.empty { "There are no wallets: each user and each team has one." }
        } @else {
            (table(&balances))
        }
        (pager("/wallets", begin.cursor.is_some(), next.as_deref()))
    };
    Ok(layout::page("Wallets", &signed, &main))
}

fn table(balances: &[(String, Usd)]) -> Markup {
    html! {
        table {
            caption.hidden { "Wallets and their balances" }
            thead { tr { th scope="col" { "Of" } th.number scope="col" { "Balance" } } }
            tbody { @for (owner, balance) in balances { tr {
                th scope="row" { a href=(format!("/wallets/{owner}")) { (owner) } }
                td.number { (money(*balance)) }
            } } }
        }
    }
}

/// `GET /wallets/{owner}`.
pub async fn show(
    State(plane): State<Arc<Plane>>,
    Path(owner): Path<String>,
    Query(begin): Query<ListPosition>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let Json(wallet) = wallets::show(State(plane), signed.caller.clone(), Path(owner)).await?;
    let done = begin.done.as_deref().filter(|done| *done == "credited").map(|_| "The credit is in the balance.");
    let fields = FormFields::from([(IDEMPOTENCY_KEY, nonce()?)]);
    Ok(page(&signed, &wallet, done, &Form { fields: &fields, error: None }))
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
            let Json(wallet) = wallets::show(State(plane), signed.caller.clone(), Path(owner)).await?;
            Ok(page(&signed, &wallet, None, &Form { fields: &fields, error: Some(&refusal) }))
        }
    }
}

fn page(signed: &SignedIn, wallet: &Wallet, done: Option<&str>, form: &Form<'_>) -> Response {
    let title = format!("Wallet of {}", wallet.owner);
    let main = html! {
        p.crumb { a href="/wallets" { "Wallets" } }
        h1 { (title) }
        (layout::notice(done))
        p { "Balance: " strong.balance { (money(wallet.balance_usd)) } }
        @if signed.caller.must_be_operator().is_ok() {
            h2 id="credit" { "Credit it" }
            (form.alert())
            form.row method="post" action=(format!("/wallets/{}", wallet.owner)) aria-labelledby="credit" {
                (layout::form_token(signed))
                (form.line(FormField {
                    name: "usd", label: "US dollars", keys: Some("decimal"), is_required: true, ..FormField::default()
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
    };
    let shown = if form.error.is_some() { format!("Error: {title}") } else { title.clone() };
    layout::refused(layout::page(&shown, signed, &main), form.error)
}
