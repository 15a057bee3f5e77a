//! `/api/v1/users` and `/api/v1/teams`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
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
    control::{
        Plane,
        caller::{Caller, Who, new_token},
        refusal::{ErrorBody, Refusal},
        store::{
            StoreFault, Tx,
            audit::{OPERATOR, note},
            keys,
            people::{self, Role, Team, User},
        },
    },
    key::{KeyId, KeyName},
};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct CreateUser {
    /// Their stable name: 1 to 64 of a-z, 0-9 and _, not that of a team, and not `operator`.
    id: String,
    /// What people call them: 3 to 50 characters.
    name: String,
}

/// A user with their token, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(in crate::control) struct MadeUser {
    #[serde(flatten)]
    user: User,
    token: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct ListUsers {
    /// Where the page begins, as the page before said.
    cursor: Option<String>,
    /// Rows on a page.
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(in crate::control) struct UserPage {
    data: Vec<User>,
    next_cursor: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct CreateTeam {
    /// Its stable name: 1 to 64 of a-z, 0-9 and _, not that of a user.
    id: String,
    /// What people call it: 3 to 50 characters.
    name: String,
    /// A user who is on no team.
    owner: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct PutMember {
    pub(in crate::control) role: Role,
}

/// Makes a user. Their token is in this answer and in no other.
#[utoipa::path(post, path = "/api/v1/users", request_body = CreateUser, responses(
    (status = 201, body = MadeUser), (status = "4XX", body = ErrorBody)
))]
pub(in crate::control) async fn create_user(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Body(asked): Body<CreateUser>,
) -> Result<(StatusCode, Json<MadeUser>), Refusal> {
    caller.must_be_operator()?;
    let (id, name) = named(asked.id, asked.name)?;
    if id == OPERATOR {
        let message = "`operator` is what the audit calls the operator: call the user otherwise";
        return Err(Refusal::invalid("id", message));
    }
    let now = Timestamp::now();
    let (token, hash) = new_token()?;
    let mut tx = plane.store.begin().await?;
    people::create_user(&mut tx, &id, &name, &hash, now).await.map_err(|fault| taken(fault, &id))?;
    note(&mut tx, &caller.actor(), "user.create", &id, &json!({"name": name}), now).await?;
    let user = people::user(&mut tx, &id).await?.ok_or_else(|| Refusal::not_found("user", &id))?;
    plane.store.commit(tx).await?;
    Ok((StatusCode::CREATED, Json(MadeUser { user, token: token.reveal().to_owned() })))
}

/// Lists users.
#[utoipa::path(get, path = "/api/v1/users", params(ListUsers), responses(
    (status = 200, body = UserPage), (status = "4XX", body = ErrorBody)
))]
pub(in crate::control) async fn list_users(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<ListUsers>,
) -> Result<Json<UserPage>, Refusal> {
    caller.must_be_operator()?;
    let most = page_size(asked.limit)?;
    let data = plane.store.users(asked.cursor.as_deref().unwrap_or(""), most).await?;
    let next_cursor = next_cursor(&data, most, |user| user.id.clone());
    Ok(Json(UserPage { data, next_cursor }))
}

/// Deletes a user, with their own keys and their place on a team. The owner of a team hands it over first.
#[utoipa::path(delete, path = "/api/v1/users/{id}", params(("id" = String, Path)), responses(
    (status = 204), (status = "4XX", body = ErrorBody)
))]
pub(in crate::control) async fn delete_user(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    caller.must_be_operator()?;
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let user = people::user(&mut tx, &id).await?.ok_or_else(|| Refusal::not_found("user", &id))?;
    must_not_own(&user)?;
    for key in people::personal_keys(&mut tx, &id).await? {
        if let Some(key) = keys::find(&mut tx, &key).await? {
            keys::delete(&mut tx, &key, now).await?;
        }
    }
    if user.team.is_some() {
        people::leave(&mut tx, &id, now).await?;
    }
    people::delete_user(&mut tx, &id, now).await?;
    note(&mut tx, &caller.actor(), "user.delete", &id, &json!({"name": user.name}), now).await?;
    plane.store.commit(tx).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a team: the operator for anybody, a user for themselves.
#[utoipa::path(post, path = "/api/v1/teams", request_body = CreateTeam, responses(
    (status = 201, body = Team), (status = "4XX", body = ErrorBody)
))]
pub(in crate::control) async fn create_team(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Body(asked): Body<CreateTeam>,
) -> Result<(StatusCode, Json<Team>), Refusal> {
    if caller.user().is_some_and(|user| user.id != asked.owner) {
        return Err(Refusal::forbidden("a user makes a team for themselves: name yourself as its `owner`"));
    }
    let (id, name) = named(asked.id, asked.name)?;
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    on_no_team(&mut tx, &asked.owner).await?;
    people::create_team(&mut tx, &id, &name, &asked.owner, now).await.map_err(|fault| taken(fault, &id))?;
    note(&mut tx, &caller.actor(), "team.create", &id, &json!({"name": name, "owner": asked.owner}), now).await?;
    plane.store.commit(tx).await?;
    Ok((StatusCode::CREATED, Json(team(&plane, &id).await?)))
}

/// A team and who is on it: for the operator and its members.
#[utoipa::path(get, path = "/api/v1/teams/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = Team), (status = "4XX", body = ErrorBody)
))]
pub(in crate::control) async fn show_team(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Team>, Refusal> {
    caller.role_on(&id).ok_or_else(|| Refusal::not_found("team", &id))?;
    team(&plane, &id).await.map(Json)
}

/// Brings a user into a team, or gives a member another role. Its owner hands the team over by making another its owner,
/// and is an admin from then on.
#[utoipa::path(put, path = "/api/v1/teams/{id}/members/{user}", request_body = PutMember,
    params(("id" = String, Path), ("user" = String, Path)),
    responses((status = 200, body = Team), (status = "4XX", body = ErrorBody)))]
pub(in crate::control) async fn put_member(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
    Body(PutMember { role }): Body<PutMember>,
) -> Result<Json<Team>, Refusal> {
    let own_role = leading(&caller, &id)?;
    let before = team(&plane, &id).await?;
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let member = people::user(&mut tx, &user).await?.ok_or_else(|| Refusal::not_found("user", &user))?;
    if role > own_role {
        return Err(Refusal::forbidden(format!("only the owner of `{id}` hands it over")));
    }
    match (member.team.as_deref(), member.role) {
        (None, _) if role == Role::Owner => {
            return Err(Refusal::conflict(format!("`{user}` is not on `{id}`: bring them in before you hand it over")));
        }
        (None, _) => people::join(&mut tx, &id, &user, role, now).await?,
        (Some(team), _) if team != id => {
            return Err(Refusal::conflict(format!("`{user}` is on a team already; a user is on one at most")));
        }
        (Some(_), Some(own)) if own == role => return Ok(Json(before)),
        (Some(_), Some(Role::Owner)) if role != Role::Owner => {
            return Err(Refusal::conflict(format!("`{user}` owns `{id}`: hand it over by making another its owner")));
        }
        (Some(_), _) => {
            if role == Role::Owner {
                for owner in before.members.iter().filter(|member| member.role == Role::Owner) {
                    people::promote(&mut tx, &owner.user, Role::Admin).await?;
                }
            }
            people::promote(&mut tx, &user, role).await?;
        }
    }
    note(&mut tx, &caller.actor(), "team.member", &id, &json!({"user": user, "role": role}), now).await?;
    plane.store.commit(tx).await?;
    Ok(Json(team(&plane, &id).await?))
}

/// Takes a user off a team; they may leave by themselves. Their own keys work again.
#[utoipa::path(delete, path = "/api/v1/teams/{id}/members/{user}",
    params(("id" = String, Path), ("user" = String, Path)),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(in crate::control) async fn remove_member(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let leaves = matches!(&caller.who, Who::User(own) if own.id == user && own.team.as_deref() == Some(&*id));
    if !leaves {
        leading(&caller, &id)?;
    }
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let member = people::user(&mut tx, &user).await?.filter(|member| member.team.as_deref() == Some(&*id));
    let member = member.ok_or_else(|| Refusal::not_found("member", &user))?;
    must_not_own(&member)?;
    people::leave(&mut tx, &user, now).await?;
    note(&mut tx, &caller.actor(), "team.leave", &id, &json!({"user": user}), now).await?;
    plane.store.commit(tx).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's role on a team whose members they may manage.
pub(in crate::control) fn leading(caller: &Caller, team: &str) -> Result<Role, Refusal> {
    match caller.role_on(team) {
        Some(role @ (Role::Owner | Role::Admin)) => Ok(role),
        Some(Role::Member) => {
            Err(Refusal::forbidden(format!("members of `{team}` are its owner's and its admins' to bring in")))
        }
        None => Err(Refusal::not_found("team", team)),
    }
}

async fn team(plane: &Plane, id: &str) -> Result<Team, Refusal> {
    plane.store.team(id).await?.ok_or_else(|| Refusal::not_found("team", id))
}

async fn on_no_team(tx: &mut Tx, user: &str) -> Result<(), Refusal> {
    match people::user(tx, user).await? {
        None => Err(Refusal::not_found("user", user)),
        Some(User { team: Some(_), .. }) => {
            Err(Refusal::conflict(format!("`{user}` is on a team already; a user is on one at most")))
        }
        Some(_) => Ok(()),
    }
}

fn must_not_own(user: &User) -> Result<(), Refusal> {
    match (&user.team, user.role) {
        (Some(team), Some(Role::Owner)) => Err(Refusal::conflict(format!(
            "`{}` owns the team `{team}`: hand it over first, by making another member its owner",
            user.id
        ))),
        _ => Ok(()),
    }
}

/// The id and the name of a new user or team.
fn named(id: String, name: String) -> Result<(String, String), Refusal> {
    // They are held to the same form as those of keys.
    id.parse::<KeyId>().map_err(|fault| Refusal::invalid("id", fault.to_string()))?;
    name.parse::<KeyName>().map_err(|fault| Refusal::invalid("name", fault.to_string()))?;
    Ok((id, name))
}

fn taken(fault: StoreFault, id: &str) -> Refusal {
    if fault.is_duplicate() {
        return Refusal::conflict(format!("`{id}` is the id of a user or a team already"));
    }
    fault.into()
}
