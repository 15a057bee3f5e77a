//! `/api/v1/wallets`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use jiff::Timestamp;
use keymeter_core::{money::Usd, record::decimal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{
    body::{Asked, Body},
    next_cursor, page_size,
};
use crate::{
    Plane,
    caller::{Caller, Who},
    error::{ApiError, ErrorBody},
    store::{
        audit::note,
        wallets::{self, Credited},
    },
};

#[derive(Serialize, ToSchema)]
pub(crate) struct Wallet {
    /// The user or team whose it is.
    pub(crate) owner: String,
    /// US dollars, as a decimal number.
    #[serde(with = "decimal")]
    #[schema(value_type = String, example = "12.5")]
    pub(crate) balance_usd: Usd,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credit {
    /// US dollars, above 0, as a decimal number.
    #[serde(with = "decimal")]
    #[schema(value_type = String, example = "12.50")]
    pub(crate) usd: Usd,
    /// By which the credit counts once, however often it is sent: 1 to 128 characters.
    pub(crate) idempotency_key: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListWallets {
    /// Where the page begins, as the page before said.
    cursor: Option<String>,
    /// Rows on a page.
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct WalletPage {
    data: Vec<Wallet>,
    next_cursor: Option<String>,
}

/// Lists wallets: the operator's all, a user's own and their team's.
#[utoipa::path(get, path = "/api/v1/wallets", params(ListWallets), responses(
    (status = 200, body = WalletPage), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn list(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<ListWallets>,
) -> Result<Json<WalletPage>, ApiError> {
    let most = page_size(asked.limit)?;
    let after = asked.cursor.unwrap_or_default();
    let data: Vec<_> = match caller.user() {
        None => plane.store.balances(&after, most).await?,
        Some(user) => {
            let mut own = Vec::new();
            for owner in [Some(&user.id), user.team.as_ref()].into_iter().flatten().filter(|owner| **owner > after) {
                own.extend(plane.store.balance(owner).await?.map(|balance| (owner.clone(), balance)));
            }
            own.sort();
            own
        }
    };
    let data: Vec<_> = data.into_iter().map(|(owner, balance_usd)| Wallet { owner, balance_usd }).collect();
    let next_cursor = next_cursor(&data, most, |wallet| wallet.owner.clone());
    Ok(Json(WalletPage { data, next_cursor }))
}

/// What is in a wallet.
#[utoipa::path(get, path = "/api/v1/wallets/{owner}", params(("owner" = String, Path)), responses(
    (status = 200, body = Wallet), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn show(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(owner): Path<String>,
) -> Result<Json<Wallet>, ApiError> {
    let is_own = match &caller.who {
        Who::Operator => true,
        Who::User(user) => user.id == owner || caller.role_on(&owner).is_some(),
    };
    let balance = if is_own { plane.store.balance(&owner).await? } else { None };
    let balance_usd = balance.ok_or_else(|| ApiError::not_found("wallet", &owner))?;
    Ok(Json(Wallet { owner, balance_usd }))
}

/// Adds to a wallet, once for each idempotency key.
#[utoipa::path(post, path = "/api/v1/wallets/{owner}/credits", params(("owner" = String, Path)), request_body = Credit,
    responses((status = 200, body = Wallet), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn credit(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(owner): Path<String>,
    Body(credit): Body<Credit>,
) -> Result<Json<Wallet>, ApiError> {
    caller.must_be_operator()?;
    if credit.usd <= Usd::ZERO {
        return Err(ApiError::invalid("usd", "a credit is more than $0"));
    }
    if !(1..=128).contains(&credit.idempotency_key.chars().count()) {
        return Err(ApiError::invalid("idempotency_key", "an idempotency key has 1 to 128 characters"));
    }
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let credited = wallets::credit(&mut tx, &owner, credit.usd, &credit.idempotency_key, now).await?;
    let balance_usd = match credited {
        Credited::To(balance) => balance,
        Credited::Before(balance_usd) => return Ok(Json(Wallet { owner, balance_usd })),
        Credited::Otherwise(before) => {
            return Err(ApiError::conflict(format!(
                "`{}` was the idempotency key of another credit, of ${before}",
                credit.idempotency_key
            )));
        }
        Credited::NoWallet => return Err(ApiError::not_found("wallet", &owner)),
        Credited::TooMuch => return Err(ApiError::invalid("usd", "the balance would be more than can be counted")),
    };
    let detail = json!({"usd": credit.usd.to_string(), "idempotency_key": credit.idempotency_key});
    note(&mut tx, &caller.actor(), "wallet.credit", &owner, &detail, now).await?;
    plane.store.commit(tx).await?;
    Ok(Json(Wallet { owner, balance_usd }))
}
