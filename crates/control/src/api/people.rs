//! `/api/v1/users` and `/api/v1/teams`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use keymeter_core::model_name::has_control;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{
    body::{Asked, Body, given},
    invitations::{self, Inviter, may_withdraw},
    keys::count_operation,
    limits, next_cursor, page_size,
    sign_in::{check_sign_in, creation, must_be_free},
};
use crate::{
    Plane,
    caller::{Caller, Uncounted, Who, leading_role, new_token},
    error::{ApiError, ErrorBody},
    store::{
        self, StoreError, Tx,
        audit::{OPERATOR, note},
        invitations::Invitation,
        keys,
        limits::ScopeLimits,
        membership,
        people::{self, Role, Team, User},
    },
};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateUser {
    /// Their stable name: 1 to 64 of a-z, 0-9, _ and -, not that of a team, and not `operator`.
    pub(crate) id: String,
    /// What people call them: 1 to 50 characters.
    pub(crate) name: String,
    /// The value of the issuer's claim by which they sign in to the page, such as an e-mail address: no other user's.
    #[serde(default)]
    pub(crate) sign_in: Option<String>,
}

/// A user with their token, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeUser {
    #[serde(flatten)]
    pub(crate) user: User,
    pub(crate) token: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListUsers {
    /// Where the page begins, as the page before said.
    pub(crate) cursor: Option<String>,
    /// Rows on a page.
    pub(crate) limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct UserPage {
    pub(crate) data: Vec<User>,
    pub(crate) next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct TeamPage {
    data: Vec<Team>,
    next_cursor: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateTeam {
    /// Its stable name: 1 to 64 of a-z, 0-9, _ and -, not that of a user.
    pub(crate) id: String,
    /// What people call it: 1 to 50 characters.
    pub(crate) name: String,
    /// A user who is on no team.
    pub(crate) owner: String,
}

/// What is to change of a team.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateTeam {
    /// What people call it: 1 to 50 characters.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// What it may use, with all its keys together, in place of what it might.
    #[serde(default)]
    pub(crate) limits: Option<ScopeLimits>,
}

/// What is to change of a user.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateUser {
    /// What people call them: 1 to 50 characters.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// What they may use, with all their own keys together, in place of what they might.
    #[serde(default)]
    pub(crate) limits: Option<ScopeLimits>,
    /// The value of the issuer's claim by which they sign in to the page; `null`: by none. Sessions that began by another are over.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    #[allow(clippy::option_option, reason = "absent, null and a value are three cases")]
    pub(crate) sign_in: Option<Option<String>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutMember {
    pub(crate) role: Role,
}

/// Makes a user. Their token is in this answer and in no other.
#[utoipa::path(post, path = "/api/v1/users", request_body = CreateUser, responses(
    (status = 201, body = MadeUser), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn create_user(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Body(asked): Body<CreateUser>,
) -> Result<(StatusCode, Json<MadeUser>), ApiError> {
    caller.must_be_operator()?;
    let (id, name) = named(asked.id, asked.name)?;
    let sign_in = asked.sign_in;
    sign_in.as_deref().map_or(Ok(()), check_sign_in)?;
    if id == OPERATOR {
        let message = "the audit log uses `operator` for the operator: choose another id";
        return Err(ApiError::invalid("id", message));
    }
    let now = Timestamp::now();
    let (token, hash) = new_token()?;
    let mut tx = plane.store.begin().await?;
    must_be_free(&mut tx, sign_in.as_deref(), &id).await?;
    let made = people::create_user(&mut tx, (&id, &name), sign_in.as_deref(), &hash, now).await;
    made.map_err(|error| taken(error, &id))?;
    note(&mut tx, &caller.actor(), "user.create", &id, &creation(&name, sign_in.as_deref()), now).await?;
    let user = people::user(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("user", &id))?;
    plane.store.commit(tx).await?;
    Ok((StatusCode::CREATED, Json(MadeUser { user, token: token.reveal().to_owned() })))
}

/// Lists users.
#[utoipa::path(get, path = "/api/v1/users", params(ListUsers), responses(
    (status = 200, body = UserPage), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn list_users(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<ListUsers>,
) -> Result<Json<UserPage>, ApiError> {
    caller.must_be_operator()?;
    let most = page_size(asked.limit)?;
    let data = plane.store.users(asked.cursor.as_deref().unwrap_or(""), most).await?;
    let next_cursor = next_cursor(&data, most, |user| user.id.clone());
    Ok(Json(UserPage { data, next_cursor }))
}

/// A user: for the operator and themselves.
#[utoipa::path(get, path = "/api/v1/users/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = User), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn show_user(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<User>, ApiError> {
    let none = || ApiError::not_found("user", &id);
    if caller.user().is_some_and(|user| user.id != id) {
        return Err(none());
    }
    plane.store.user(&id).await?.map(Json).ok_or_else(none)
}

/// Changes a user. What is absent stays as it is. New limits reach every gateway at once.
#[utoipa::path(patch, path = "/api/v1/users/{id}", params(("id" = String, Path)), request_body = UpdateUser,
    responses((status = 200, body = User), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn update_user(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(asked): Body<UpdateUser>,
) -> Result<Json<User>, ApiError> {
    caller.must_be_operator()?;
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let before = people::user(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("user", &id))?;
    let (name, limits, mut detail) = changed((asked.name, asked.limits), (&before.name, &before.limits))?;
    let sign_in = match asked.sign_in {
        Some(asked) => {
            asked.as_deref().map_or(Ok(()), check_sign_in)?;
            must_be_free(&mut tx, asked.as_deref(), &id).await?;
            detail.insert("sign_in".to_owned(), json!(asked));
            asked
        }
        None => before.sign_in.clone(),
    };
    let user = User { name, sign_in, limits, ..before.clone() };
    if user != before {
        people::update_user(&mut tx, &user, now).await.map_err(|error| taken(error, &id))?;
        note(&mut tx, &caller.actor(), "user.update", &id, &detail.into(), now).await?;
        plane.store.commit(tx).await?;
    }
    Ok(Json(user))
}

/// Gives a user another token, which is in this answer and in no other: the operator anybody, a user themselves. The one before
/// works no more, and sessions of the page are over.
#[utoipa::path(post, path = "/api/v1/users/{id}/token", params(("id" = String, Path)),
    responses((status = 200, body = MadeUser), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn rotate_token(
    State(plane): State<Arc<Plane>>,
    Uncounted(caller): Uncounted<Caller>,
    Path(id): Path<String>,
) -> Result<Json<MadeUser>, ApiError> {
    let none = || ApiError::not_found("user", &id);
    if caller.user().is_some_and(|user| user.id != id) {
        return Err(none());
    }
    let now = Timestamp::now();
    let (token, hash) = new_token()?;
    let mut tx = plane.store.begin().await?;
    let user = people::user(&mut tx, &id).await?.ok_or_else(none)?;
    count_operation(&plane, &mut tx, &caller, now).await?;
    people::replace_token(&mut tx, &id, &hash).await?;
    note(&mut tx, &caller.actor(), "user.token", &id, &json!({}), now).await?;
    plane.store.commit(tx).await?;
    Ok(Json(MadeUser { user, token: token.reveal().to_owned() }))
}

/// Deletes a user, with their own keys, their place on a team and their invitations. The owner of a team hands it over first.
#[utoipa::path(delete, path = "/api/v1/users/{id}", params(("id" = String, Path)), responses(
    (status = 204), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn delete_user(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.must_be_operator()?;
    let now = Timestamp::now();
    let team = plane.store.user(&id).await?.and_then(|user| user.team);
    let mut tx = plane.store.begin().await?;
    if let Some(team) = team {
        people::hold_team(&mut tx, &team).await?;
    }
    let user = people::user(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("user", &id))?;
    must_not_own(&user, "name another owner, take the user off it, or delete it first")?;
    for key in keys::find_personal(&mut tx, &id).await? {
        keys::delete(&mut tx, &key, now).await?;
    }
    if let Some(team) = &user.team {
        membership::remove(&mut tx, team, &id, now).await?;
    }
    store::invitations::forget_user(&mut tx, &id).await?;
    people::delete_user(&mut tx, &id, now).await?;
    note(&mut tx, &caller.actor(), "user.delete", &id, &json!({"name": user.name}), now).await?;
    plane.store.commit(tx).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a team: the operator for anybody, a user for themselves.
#[utoipa::path(post, path = "/api/v1/teams", request_body = CreateTeam, responses(
    (status = 201, body = Team), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn create_team(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Body(asked): Body<CreateTeam>,
) -> Result<(StatusCode, Json<Team>), ApiError> {
    if caller.user().is_some_and(|user| user.id != asked.owner) {
        return Err(ApiError::forbidden("a user makes a team for themselves: name yourself as its `owner`"));
    }
    let (id, name) = named(asked.id, asked.name)?;
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    on_no_team(&mut tx, &asked.owner).await?;
    people::create_team(&mut tx, &id, &name, &asked.owner, now).await.map_err(|error| taken(error, &id))?;
    note(&mut tx, &caller.actor(), "team.create", &id, &json!({"name": name, "owner": asked.owner}), now).await?;
    plane.store.commit(tx).await?;
    Ok((StatusCode::CREATED, Json(team(&plane, &id).await?)))
}

/// Lists teams: the operator's all, a user's own.
#[utoipa::path(get, path = "/api/v1/teams", params(ListUsers), responses(
    (status = 200, body = TeamPage), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn list_teams(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<ListUsers>,
) -> Result<Json<TeamPage>, ApiError> {
    let most = page_size(asked.limit)?;
    let after = asked.cursor.unwrap_or_default();
    let ids: Vec<String> = match caller.user() {
        None => plane.store.teams(&after, most).await?.into_iter().map(|(id, _)| id).collect(),
        Some(user) => user.team.iter().filter(|team| **team > after).cloned().collect(),
    };
    let mut data = Vec::with_capacity(ids.len());
    for id in &ids {
        data.extend(plane.store.team(id).await?);
    }
    Ok(Json(TeamPage { data, next_cursor: next_cursor(&ids, most, Clone::clone) }))
}

/// A team and who is on it: for the operator and its members.
#[utoipa::path(get, path = "/api/v1/teams/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = Team), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn show_team(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Team>, ApiError> {
    caller.role_on(&id).ok_or_else(|| ApiError::not_found("team", &id))?;
    team(&plane, &id).await.map(Json)
}

/// Changes a team. What is absent stays as it is. New limits reach every gateway at once.
#[utoipa::path(patch, path = "/api/v1/teams/{id}", params(("id" = String, Path)), request_body = UpdateTeam,
    responses((status = 200, body = Team), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn update_team(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(asked): Body<UpdateTeam>,
) -> Result<Json<Team>, ApiError> {
    caller.must_be_operator()?;
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    people::hold_team(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("team", &id))?;
    let before = team(&plane, &id).await?;
    let (name, limits, detail) = changed((asked.name, asked.limits), (&before.name, &before.limits))?;
    let team = Team { name, limits, ..before.clone() };
    if team != before {
        people::update_team(&mut tx, &team, now).await?;
        note(&mut tx, &caller.actor(), "team.update", &id, &detail.into(), now).await?;
        plane.store.commit(tx).await?;
    }
    Ok(Json(team))
}

/// What the name and the limits of a user or a team are to be, and what the audit says of it.
fn changed(
    (asked_name, asked_limits): (Option<String>, Option<ScopeLimits>),
    (name, limits): (&str, &ScopeLimits),
) -> Result<(String, ScopeLimits, Map<String, Value>), ApiError> {
    let mut detail = Map::new();
    let name = match asked_name {
        Some(asked) => {
            check_name(&asked)?;
            detail.insert("name".to_owned(), json!(asked));
            asked
        }
        None => name.to_owned(),
    };
    let limits = match asked_limits {
        Some(asked) => {
            detail.insert("limits".to_owned(), json!(asked));
            limits::of_holder(asked)?
        }
        None => limits.clone(),
    };
    Ok((name, limits, detail))
}

/// Who a `PUT` of a member has put on a team, or invited.
pub(crate) enum Put {
    /// The user has the role.
    Done(Team),
    /// The user has to accept it.
    Invited(Invitation),
}

impl IntoResponse for Put {
    fn into_response(self) -> Response {
        match self {
            Self::Done(team) => Json(team).into_response(),
            Self::Invited(invitation) => (StatusCode::ACCEPTED, Json(invitation)).into_response(),
        }
    }
}

/// Invites a user to a team, or gives a member another role. Nothing of an invited user changes until they accept; so it
/// is with a member who is to be the owner, who stays what they are, as the present owner does, until then. The operator's
/// call takes effect at once.
#[utoipa::path(put, path = "/api/v1/teams/{id}/members/{user}", request_body = PutMember,
    params(("id" = String, Path), ("user" = String, Path)),
    responses((status = 200, description = "The user has the role", body = Team),
        (status = 202, description = "The user has to accept it", body = Invitation),
        (status = "4XX", body = ErrorBody)))]
pub(crate) async fn put_member(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
    Body(PutMember { role }): Body<PutMember>,
) -> Result<Put, ApiError> {
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let own = hold_led(&mut tx, &caller, &id).await?;
    let user = people::user(&mut tx, &user).await?.ok_or_else(|| ApiError::not_found("user", &user))?;
    if role > own {
        return Err(ApiError::forbidden(format!("only the owner of `{id}` hands it over")));
    }
    let change = match &caller.who {
        Who::Operator => put_at_once(&mut tx, &id, &user, role, now).await?,
        Who::User(inviter) => {
            let inviter = Inviter { id: &inviter.id, role: own, actor: caller.actor() };
            put_or_invite(&mut tx, &inviter, &id, &user, role, now).await?
        }
    };
    if matches!(change, Change::Made) {
        note(&mut tx, &caller.actor(), "team.member", &id, &json!({"user": user.id, "role": role}), now).await?;
    }
    plane.store.commit(tx).await?;
    match change {
        Change::Offered(invitation) => Ok(Put::Invited(invitation)),
        Change::Made | Change::None => Ok(Put::Done(team(&plane, &id).await?)),
    }
}

/// What a call changed of a team's members.
enum Change {
    /// What was asked for was so already.
    None,
    /// It is so from now on.
    Made,
    /// It depends on the user.
    Offered(Invitation),
}

impl Change {
    fn noted(is_made: bool) -> Self {
        if is_made { Self::Made } else { Self::None }
    }
}

/// What the operator puts, is so.
async fn put_at_once(tx: &mut Tx, team: &str, user: &User, role: Role, now: Timestamp) -> Result<Change, ApiError> {
    match &user.team {
        Some(other) if other != team => Err(on_another_team(&user.id)),
        _ => Ok(Change::noted(membership::place(tx, team, user, role, now).await?)),
    }
}

/// A member is given a role at once, but for the owner's; for that, and by anybody else, there is an invitation.
async fn put_or_invite(
    tx: &mut Tx,
    inviter: &Inviter<'_>,
    team: &str,
    user: &User,
    role: Role,
    now: Timestamp,
) -> Result<Change, ApiError> {
    let present = user.role.filter(|_| user.team.as_deref() == Some(team));
    match present {
        Some(Role::Owner) if role != Role::Owner => {
            Err(ApiError::conflict(format!("`{}` owns `{team}`: hand it over by making another its owner", user.id)))
        }
        Some(present) if role != Role::Owner || present == Role::Owner => {
            if inviter.role == Role::Owner {
                // The owner may think better of an offer that is not accepted yet.
                return Ok(Change::noted(membership::place(tx, team, user, role, now).await?));
            }
            if present == role {
                return Ok(Change::None);
            }
            membership::change_role(tx, team, &user.id, role).await?;
            Ok(Change::Made)
        }
        _ => invitations::invite(tx, inviter, team, &user.id, role, now).await.map(Change::Offered),
    }
}

/// Takes a user off a team, or withdraws their invitation; members may leave by themselves. Their own keys work again.
#[utoipa::path(delete, path = "/api/v1/teams/{id}/members/{user}",
    params(("id" = String, Path), ("user" = String, Path)),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn remove_member(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let leaves = matches!(&caller.who, Who::User(own) if own.id == user && own.team.as_deref() == Some(&*id));
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let own = if leaves {
        people::hold_team(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("team", &id))?;
        Role::Member
    } else {
        hold_led(&mut tx, &caller, &id).await?
    };
    let none = || ApiError::not_found("member", &user);
    let member = people::user(&mut tx, &user).await?.ok_or_else(none)?;
    let action = if member.team.as_deref() == Some(&*id) {
        if caller.user().is_some() {
            must_not_own(&member, "hand it over first, by making another its owner")?;
        }
        membership::remove(&mut tx, &id, &user, now).await?;
        "team.leave"
    } else {
        let invitation = store::invitations::open(&mut tx, &id, &user).await?.filter(|_| !leaves).ok_or_else(none)?;
        may_withdraw(&invitation, own)?;
        store::invitations::remove(&mut tx, &id, &user).await?;
        "team.withdraw"
    };
    note(&mut tx, &caller.actor(), action, &id, &json!({"user": user}), now).await?;
    plane.store.commit(tx).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Holds a team whose members the caller may manage, and tells the caller's role on it: until the team is held, the caller
/// may become something else.
async fn hold_led(tx: &mut Tx, caller: &Caller, team: &str) -> Result<Role, ApiError> {
    caller.must_manage_members(team)?;
    people::hold_team(tx, team).await?.ok_or_else(|| ApiError::not_found("team", team))?;
    match &caller.who {
        Who::Operator => Ok(Role::Owner),
        Who::User(user) => leading_role(people::role_on(tx, team, &user.id).await?, team),
    }
}

async fn team(plane: &Plane, id: &str) -> Result<Team, ApiError> {
    plane.store.team(id).await?.ok_or_else(|| ApiError::not_found("team", id))
}

async fn on_no_team(tx: &mut Tx, user: &str) -> Result<(), ApiError> {
    match people::user(tx, user).await? {
        None => Err(ApiError::not_found("user", user)),
        Some(User { team: Some(_), .. }) => Err(on_another_team(user)),
        Some(_) => Ok(()),
    }
}

fn on_another_team(user: &str) -> ApiError {
    ApiError::conflict(format!("`{user}` is on a team already; a user is on one at most"))
}

fn must_not_own(user: &User, instead: &str) -> Result<(), ApiError> {
    match (&user.team, user.role) {
        (Some(team), Some(Role::Owner)) => {
            Err(ApiError::conflict(format!("`{}` owns the team `{team}`: {instead}", user.id)))
        }
        _ => Ok(()),
    }
}

/// The id and the name of a new user or team.
fn named(id: String, name: String) -> Result<(String, String), ApiError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if !(1..=64).contains(&id.len()) || !id.bytes().all(fits) {
        return Err(ApiError::invalid("id", "an id has 1 to 64 characters of a-z, 0-9, `_` and `-`"));
    }
    check_name(&name)?;
    Ok((id, name))
}

/// Refuses what is no name of a user or a team.
fn check_name(name: &str) -> Result<(), ApiError> {
    let fits = (1..=50).contains(&name.chars().count()) && name.trim() == name && !has_control(name);
    let message = "a name has 1 to 50 characters, without control characters or spaces around them";
    if fits { Ok(()) } else { Err(ApiError::invalid("name", message)) }
}

fn taken(error: StoreError, id: &str) -> ApiError {
    if error.is_duplicate() {
        return ApiError::conflict(format!("`{id}` is the id of a user or a team already"));
    }
    error.into()
}
