//! Joining and leaving a team. A team has one owner at most, and an invitation is open only as long as its author may
//! make it.

use jiff::Timestamp;

use super::{
    StoreError, Tx, invitations,
    people::{self, Role, User},
};

/// Gives a role to a user who is on this team or on none. A new owner takes the place of the present one, who is an admin
/// from then on. Says whether anything changed by it.
///
/// # Errors
/// When the user is on another team, or the database does not answer.
pub async fn place(tx: &mut Tx, team: &str, user: &User, role: Role, now: Timestamp) -> Result<bool, StoreError> {
    if role == Role::Owner
        && let Some(owner) = people::owner_of(tx, team).await?.filter(|owner| *owner != user.id)
    {
        change_role(tx, team, &owner, Role::Admin).await?;
    }
    let was_invited = invitations::remove(tx, team, &user.id).await?;
    match (&user.team, user.role) {
        (None, _) => people::join(tx, team, &user.id, role, now).await?,
        (Some(_), Some(present)) if present == role => return Ok(was_invited),
        (Some(_), _) => change_role(tx, team, &user.id, role).await?,
    }
    Ok(true)
}

/// Gives a member a role that is not the owner's. Offers of ownership to them stand.
///
/// # Errors
/// When the database does not answer.
pub async fn change_role(tx: &mut Tx, team: &str, user: &str, role: Role) -> Result<(), StoreError> {
    people::promote(tx, user, role).await?;
    invitations::remove_beyond(tx, team, user, Some(role)).await
}

/// Takes a user off their team. Their own keys work again.
///
/// # Errors
/// When the database does not answer.
pub async fn remove(tx: &mut Tx, team: &str, user: &str, now: Timestamp) -> Result<(), StoreError> {
    invitations::remove(tx, team, user).await?;
    invitations::remove_beyond(tx, team, user, None).await?;
    people::leave(tx, user, now).await
}
