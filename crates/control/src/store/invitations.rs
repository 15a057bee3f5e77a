//! Invitations to teams. An invitation changes nothing of the user's until they accept it. A declined one is remembered
//! for a while, so that its team does not repeat it at once.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::{Row, any::AnyRow};
use utoipa::ToSchema;

use super::{
    Store, StoreError, Tx, micros, optional,
    people::{Role, role},
    timestamp,
};

/// A place on a team that was offered to a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Invitation {
    /// The team's id.
    pub team: String,
    /// What people call the team.
    pub team_name: String,
    /// Who is invited.
    pub user: String,
    /// What they would be on the team.
    pub role: Role,
    /// Whether they have answered, and what.
    pub state: InvitationState,
    /// The user who invited them.
    pub invited_by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What became of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InvitationState {
    /// The user has not answered.
    Invited,
    /// The user has the role now.
    Accepted,
    /// The user does not want it.
    Declined,
}

/// Whose invitations are listed; both absent: all.
#[derive(Clone, Copy, Debug, Default)]
pub struct InvitationFilter<'filter> {
    /// Invitations to this team.
    pub team: Option<&'filter str>,
    /// Invitations of this user.
    pub user: Option<&'filter str>,
}

/// How long a team does not repeat an invitation that was declined.
pub const DECLINED_FOR: Duration = Duration::from_hours(7 * 24);

const SELECT: &str = "SELECT i.team_id, t.name AS team_name, i.user_id, i.role, i.invited_by, i.at, i.declined_at \
                      FROM invitations i JOIN teams t ON t.id = i.team_id";

/// Invites a user, or changes what an open invitation says.
///
/// # Errors
/// When the database does not answer.
pub async fn invite(
    tx: &mut Tx,
    team: &str,
    user: &str,
    role: Role,
    invited_by: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO invitations (team_id, user_id, role, invited_by, at) VALUES ($1, $2, $3, $4, $5) \
               ON CONFLICT (team_id, user_id) DO UPDATE SET role = excluded.role, invited_by = excluded.invited_by, \
               at = CASE WHEN invitations.declined_at IS NULL THEN invitations.at ELSE excluded.at END, \
               declined_at = NULL";
    let query = sqlx::query(sql).bind(team).bind(user).bind(role.as_str()).bind(invited_by).bind(micros(now));
    query.execute(&mut **tx).await?;
    Ok(())
}

/// The open invitation of a user to a team.
///
/// # Errors
/// When the database does not answer.
pub async fn open(tx: &mut Tx, team: &str, user: &str) -> Result<Option<Invitation>, StoreError> {
    let sql = format!("{SELECT} WHERE i.team_id = $1 AND i.user_id = $2 AND i.declined_at IS NULL");
    let row = sqlx::query(&sql).bind(team).bind(user).fetch_optional(&mut **tx).await?;
    row.as_ref().map(invitation_of).transpose()
}

/// When a user declined the last invitation to a team.
///
/// # Errors
/// When the database does not answer.
pub async fn declined_at(tx: &mut Tx, team: &str, user: &str) -> Result<Option<Timestamp>, StoreError> {
    let sql = "SELECT declined_at FROM invitations WHERE team_id = $1 AND user_id = $2 AND declined_at IS NOT NULL";
    let row = sqlx::query(sql).bind(team).bind(user).fetch_optional(&mut **tx).await?;
    row.map(|row| Ok(timestamp(row.try_get("declined_at")?))).transpose()
}

/// How many open invitations there are to a team, and of a user.
///
/// # Errors
/// When the database does not answer.
pub async fn open_counts(tx: &mut Tx, team: &str, user: &str) -> Result<(i64, i64), StoreError> {
    let sql = "SELECT CAST(COUNT(*) AS BIGINT) FROM invitations WHERE team_id = $1 AND declined_at IS NULL";
    let of_team = sqlx::query(sql).bind(team).fetch_one(&mut **tx).await?.try_get(0)?;
    let sql = "SELECT CAST(COUNT(*) AS BIGINT) FROM invitations WHERE user_id = $1 AND declined_at IS NULL";
    let of_user = sqlx::query(sql).bind(user).fetch_one(&mut **tx).await?.try_get(0)?;
    Ok((of_team, of_user))
}

/// Notes that a user declines an open invitation.
///
/// # Errors
/// When the database does not answer.
pub async fn decline(tx: &mut Tx, team: &str, user: &str, now: Timestamp) -> Result<(), StoreError> {
    let sql = "UPDATE invitations SET declined_at = $1 WHERE team_id = $2 AND user_id = $3 AND declined_at IS NULL";
    sqlx::query(sql).bind(micros(now)).bind(team).bind(user).execute(&mut **tx).await?;
    Ok(())
}

/// Removes the open invitation of a user to a team, and says whether there was one.
///
/// # Errors
/// When the database does not answer.
pub async fn remove(tx: &mut Tx, team: &str, user: &str) -> Result<bool, StoreError> {
    let sql = "DELETE FROM invitations WHERE team_id = $1 AND user_id = $2 AND declined_at IS NULL";
    let removed = sqlx::query(sql).bind(team).bind(user).execute(&mut **tx).await?;
    Ok(removed.rows_affected() > 0)
}

/// Removes the open invitations that somebody made and that one of this role (`None`: who is not on the team) could not
/// make.
///
/// # Errors
/// When the database does not answer.
pub async fn remove_beyond(tx: &mut Tx, team: &str, invited_by: &str, role: Option<Role>) -> Result<(), StoreError> {
    let sql = match role {
        Some(Role::Owner) => return Ok(()),
        Some(Role::Admin) => {
            "DELETE FROM invitations WHERE team_id = $1 AND invited_by = $2 AND declined_at IS NULL AND role = 'owner'"
        }
        Some(Role::Member) | None => {
            "DELETE FROM invitations WHERE team_id = $1 AND invited_by = $2 AND declined_at IS NULL"
        }
    };
    sqlx::query(sql).bind(team).bind(invited_by).execute(&mut **tx).await?;
    Ok(())
}

/// Removes all that is known of invitations to a team.
///
/// # Errors
/// When the database does not answer.
pub async fn forget_team(tx: &mut Tx, team: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM invitations WHERE team_id = $1").bind(team).execute(&mut **tx).await?;
    Ok(())
}

/// Removes all that is known of invitations of a user.
///
/// # Errors
/// When the database does not answer.
pub async fn forget_user(tx: &mut Tx, user: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM invitations WHERE user_id = $1").bind(user).execute(&mut **tx).await?;
    Ok(())
}

impl Store {
    /// Open invitations in the order of teams and users, after that of a user to a team, `most` of them at most.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn invitations(
        &self,
        filter: InvitationFilter<'_>,
        (after_team, after_user): (&str, &str),
        most: i64,
    ) -> Result<Vec<Invitation>, StoreError> {
        let sql = format!(
            "{SELECT} WHERE i.declined_at IS NULL AND ($1 = 1 OR i.team_id = $2) AND ($3 = 1 OR i.user_id = $4) \
             AND (i.team_id > $5 OR (i.team_id = $6 AND i.user_id > $7)) ORDER BY i.team_id, i.user_id LIMIT $8"
        );
        let query = sqlx::query(&sql).bind(i64::from(filter.team.is_none())).bind(filter.team);
        let query = query.bind(i64::from(filter.user.is_none())).bind(filter.user);
        let query = query.bind(after_team).bind(after_team).bind(after_user).bind(most);
        let rows = query.fetch_all(self.reader()).await?;
        rows.iter().map(invitation_of).collect()
    }

    /// Forgets invitations that were declined before `end`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_declined(&self, end: Timestamp) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let gone = sqlx::query("DELETE FROM invitations WHERE declined_at < $1").bind(micros(end));
        let gone = gone.execute(&mut *tx).await?.rows_affected();
        self.commit(tx).await?;
        Ok(gone)
    }
}

fn invitation_of(row: &AnyRow) -> Result<Invitation, StoreError> {
    let is_open = optional::<i64>(row, "declined_at")?.is_none();
    Ok(Invitation {
        team: row.try_get("team_id")?,
        team_name: row.try_get("team_name")?,
        user: row.try_get("user_id")?,
        role: role(&row.try_get::<String, _>("role")?)?,
        state: if is_open { InvitationState::Invited } else { InvitationState::Declined },
        invited_by: row.try_get("invited_by")?,
        created_at: timestamp(row.try_get("at")?),
    })
}
