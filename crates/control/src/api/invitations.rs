//! `/api/v1/invitations`, and an invited user's answer. A user joins a team, or becomes its owner, only by accepting; the
//! operator alone can skip that.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use jiff::Timestamp;
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
        Tx,
        audit::{Actor, note},
        invitations::{self, DECLINED_FOR, Invitation, InvitationFilter, InvitationState},
        membership,
        people::{self, Role, User},
    },
};

/// Open invitations that a team may have, and that a user may have: more than people need, and no list to drown in.
const MOST_OPEN: i64 = 100;

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListInvitations {
    /// Those to this team, for whoever may invite to it; absent: the caller's own, the operator's all.
    pub(crate) team: Option<String>,
    /// Where the page begins, as the page before said.
    pub(crate) cursor: Option<String>,
    /// Rows on a page.
    pub(crate) limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct InvitationPage {
    pub(crate) data: Vec<Invitation>,
    pub(crate) next_cursor: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    /// `true`: the user has the role from now on; `false`: the team does not invite them again for a week.
    pub(crate) accept: bool,
    /// The role that the user was shown: where the invitation says another by now, nothing is done (409).
    #[serde(default)]
    pub(crate) role: Option<Role>,
}

/// Lists open invitations: a user's own, those to a team for whoever leads it, or the operator's all.
#[utoipa::path(get, path = "/api/v1/invitations", params(ListInvitations), responses(
    (status = 200, body = InvitationPage), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn list(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<ListInvitations>,
) -> Result<Json<InvitationPage>, ApiError> {
    let most = page_size(asked.limit)?;
    let filter = match (&caller.who, asked.team.as_deref()) {
        (Who::User(user), None) => InvitationFilter { user: Some(&user.id), team: None },
        (Who::Operator, None) => InvitationFilter::default(),
        (_, Some(team)) => {
            caller.must_manage_members(team)?;
            plane.store.team(team).await?.ok_or_else(|| ApiError::not_found("team", team))?;
            InvitationFilter { team: Some(team), user: None }
        }
    };
    let cursor = asked.cursor.as_deref().unwrap_or("");
    let data = plane.store.invitations(filter, cursor.split_once('.').unwrap_or((cursor, "")), most).await?;
    let next_cursor = next_cursor(&data, most, |invitation| format!("{}.{}", invitation.team, invitation.user));
    Ok(Json(InvitationPage { data, next_cursor }))
}

/// Accepts or declines an invitation: the invited user's to do.
#[utoipa::path(post, path = "/api/v1/teams/{id}/invitation", params(("id" = String, Path)), request_body = Answer,
    responses((status = 200, body = Invitation), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn answer(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(Answer { accept, role }): Body<Answer>,
) -> Result<Json<Invitation>, ApiError> {
    let Some(own) = caller.user() else {
        return Err(ApiError::forbidden(
            "only the invited user answers an invitation; the operator adds users to a team directly",
        ));
    };
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    // Whether there is such a team is not for everybody to know.
    let none = || ApiError::not_found("invitation for you to the team", &id);
    people::hold_team(&mut tx, &id).await?.ok_or_else(none)?;
    let user = people::user(&mut tx, &own.id).await?.ok_or_else(ApiError::unauthorized)?;
    let invitation = invitations::open(&mut tx, &id, &user.id).await?.ok_or_else(none)?;
    let state = if accept {
        accept_it(&mut tx, &user, &invitation, role, now).await?;
        InvitationState::Accepted
    } else {
        invitations::decline(&mut tx, &id, &user.id, now).await?;
        InvitationState::Declined
    };
    let action = if accept { "team.accept" } else { "team.decline" };
    let detail = json!({"role": invitation.role, "invited_by": invitation.invited_by});
    note(&mut tx, &caller.actor(), action, &id, &detail, now).await?;
    plane.store.commit(tx).await?;
    Ok(Json(Invitation { state, ..invitation }))
}

async fn accept_it(
    tx: &mut Tx,
    user: &User,
    invitation: &Invitation,
    seen: Option<Role>,
    now: Timestamp,
) -> Result<(), ApiError> {
    let (team, role) = (&invitation.team, invitation.role);
    if seen.is_some_and(|seen| seen != role) {
        return Err(ApiError::conflict(format!(
            "the invitation to `{team}` says {role} by now; look at it again before you accept it"
        )));
    }
    if let Some(other) = user.team.as_ref().filter(|other| *other != team) {
        return Err(ApiError::conflict(format!(
            "you are on the team `{other}`, and a user is on one at most: leave it before you accept"
        )));
    }
    // Only who owns a team gives it away.
    if role == Role::Owner && people::owner_of(tx, team).await?.as_ref() != Some(&invitation.invited_by) {
        return Err(ApiError::conflict(format!(
            "`{}` does not own `{team}` any more, so it is not theirs to hand over",
            invitation.invited_by
        )));
    }
    membership::place(tx, team, user, role, now).await?;
    Ok(())
}

/// Who invites, and what they are on the team.
pub(super) struct Inviter<'inviter> {
    /// The user.
    pub(super) id: &'inviter str,
    /// Their role.
    pub(super) role: Role,
    /// As the audit has them.
    pub(super) actor: Actor,
}

/// Invites a user to a team that is held, or changes what an open invitation says.
pub(super) async fn invite(
    tx: &mut Tx,
    inviter: &Inviter<'_>,
    team: &str,
    user: &str,
    role: Role,
    now: Timestamp,
) -> Result<Invitation, ApiError> {
    let before = invitations::open(tx, team, user).await?;
    match &before {
        Some(before) => may_withdraw(before, inviter.role)?,
        None => may_invite(tx, team, user, now).await?,
    }
    invitations::invite(tx, team, user, role, inviter.id, now).await?;
    if before.is_none_or(|before| before.role != role) {
        note(tx, &inviter.actor, "team.invite", team, &json!({"user": user, "role": role}), now).await?;
    }
    let made = invitations::open(tx, team, user).await?;
    made.ok_or_else(|| ApiError::not_found("invitation of", user))
}

/// An offer of ownership is the owner's to take back.
pub(super) fn may_withdraw(invitation: &Invitation, own: Role) -> Result<(), ApiError> {
    if invitation.role > own {
        return Err(ApiError::forbidden(format!(
            "`{}` is invited to be the owner of `{}`: only its owner changes that",
            invitation.user, invitation.team
        )));
    }
    Ok(())
}

async fn may_invite(tx: &mut Tx, team: &str, user: &str, now: Timestamp) -> Result<(), ApiError> {
    if let Some(declined) = invitations::declined_at(tx, team, user).await? {
        let again = declined.checked_add(DECLINED_FOR).unwrap_or(Timestamp::MAX);
        if now < again {
            return Err(ApiError::conflict(format!(
                "`{user}` declined an invitation to `{team}`; they can be invited to it again from {again:.0} on"
            )));
        }
    }
    let (of_team, of_user) = invitations::open_counts(tx, team, user).await?;
    if of_team >= MOST_OPEN {
        return Err(ApiError::conflict(format!(
            "`{team}` has {MOST_OPEN} open invitations, the most there may be: withdraw one before you make another"
        )));
    }
    if of_user >= MOST_OPEN {
        return Err(ApiError::conflict(format!(
            "`{user}` has {MOST_OPEN} open invitations, the most there may be: they have to answer one first"
        )));
    }
    Ok(())
}
