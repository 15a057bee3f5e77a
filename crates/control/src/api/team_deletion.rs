//! `DELETE /api/v1/teams/{id}`: deletes a team with its keys and memberships, and moves its balance.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use keymeter_core::money::Usd;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::body::Body;
use crate::{
    Plane,
    caller::Caller,
    error::{ApiError, ErrorBody},
    store::{
        Tx,
        audit::note,
        invitations, keys, membership, people,
        wallets::{self, Refunded},
    },
};

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteTeam {
    /// The user or the team who gets what is in the team's wallet; absent: it stays there, and the audit says how much it
    /// is.
    #[serde(default)]
    pub(crate) refund_to: Option<String>,
}

/// Deletes a team: its keys are deleted, its members leave, so that their own keys work again, and what is in its wallet
/// goes to whom `refund_to` names. Its id stays taken; what it used stays on record.
#[utoipa::path(delete, path = "/api/v1/teams/{id}", params(("id" = String, Path)), request_body = DeleteTeam,
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn delete_team(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(DeleteTeam { refund_to }): Body<DeleteTeam>,
) -> Result<StatusCode, ApiError> {
    caller.must_be_operator()?;
    let refund_to = refund_to.as_deref();
    if refund_to == Some(&*id) {
        return Err(ApiError::invalid("refund_to", format!("`{id}` is deleted, so nothing goes back to it")));
    }
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let held = hold(&mut tx, &id, refund_to).await?;
    let balance = wallets::hold(&mut tx, &id).await?.unwrap_or_default();
    let refunded = match refund_to {
        Some(to) => refund(&mut tx, &id, to, now).await?,
        None => Usd::ZERO,
    };
    for key in &held.keys {
        keys::delete(&mut tx, key, now).await?;
    }
    for member in &held.members {
        membership::remove(&mut tx, &id, member, now).await?;
    }
    invitations::forget_team(&mut tx, &id).await?;
    people::delete_team(&mut tx, &id, now).await?;
    let keys: Vec<_> = held.keys.iter().map(|key| &key.id).collect();
    let detail = json!({"name": held.name, "members": held.members, "keys": keys, "balance_usd": balance.to_string(),
        "refund_to": refund_to, "refunded_usd": refunded.to_string()});
    note(&mut tx, &caller.actor(), "team.delete", &id, &detail, now).await?;
    plane.store.commit(tx).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A team that nobody else changes until the transaction ends.
struct HeldTeam {
    name: String,
    keys: Vec<keys::Key>,
    members: Vec<String>,
}

/// Holds a team with its keys and its members, and whoever gets its money, all in the order in which they are held
/// everywhere.
async fn hold(tx: &mut Tx, id: &str, refund_to: Option<&str>) -> Result<HeldTeam, ApiError> {
    let (mut name, mut is_found) = (None, refund_to.is_none());
    for team in BTreeSet::from([id, refund_to.unwrap_or(id)]) {
        let found = people::hold_team(tx, team).await?;
        if team == id {
            name = found;
        } else {
            is_found = found.is_some();
        }
    }
    let name = name.ok_or_else(|| ApiError::not_found("team", id))?;
    let keys = keys::find_of_team(tx, id).await?;
    let members = people::members_of(tx, id).await?;
    let heir = refund_to.filter(|_| !is_found);
    for user in members.iter().map(String::as_str).chain(heir).collect::<BTreeSet<_>>() {
        let found = people::user(tx, user).await?;
        is_found |= Some(user) == heir && found.is_some();
    }
    match refund_to {
        Some(to) if !is_found => Err(ApiError::not_found("user or team", to).at("refund_to")),
        _ => {
            for wallet in BTreeSet::from([id, refund_to.unwrap_or(id)]) {
                wallets::hold(tx, wallet).await?;
            }
            Ok(HeldTeam { name, keys, members })
        }
    }
}

async fn refund(tx: &mut Tx, team: &str, to: &str, now: Timestamp) -> Result<Usd, ApiError> {
    match wallets::refund(tx, team, to, now).await? {
        Refunded::Moved(amount) => Ok(amount),
        Refunded::TooMuch => Err(ApiError::invalid(
            "refund_to",
            format!("the balance of `{to}` would be more than can be counted: name another, or nobody"),
        )),
    }
}
