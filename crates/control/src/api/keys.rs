//! `/api/v1/keys`.

mod fields;

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use jiff::Timestamp;
use keymeter_config::duration;
use keymeter_core::{
    key::{KeyHash, KeyId, Priority, Secret},
    model_name::has_control,
    money::Usd,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{
    body::{Asked, Body, given, given_moment, moment},
    next_cursor, page_size,
};
use crate::{
    Plane,
    caller::{Caller, Uncounted, Who},
    error::{ApiError, ErrorBody},
    store::{
        Tx,
        audit::note,
        keys::{self, Key, KeyFilter, NewKey},
        limits::KeyLimits,
        operations::{self, Operation},
        people, wallets,
    },
};

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKey {
    /// 3 to 50 characters.
    pub(crate) name: String,
    /// The team whose it is to be.
    #[serde(default)]
    pub(crate) team: Option<String>,
    /// The user whose it is to be: the operator's to give.
    #[serde(default)]
    pub(crate) owner: Option<String>,
    /// The models that it may call, names and globs, 256 of 1 to 256 bytes at most; absent: all.
    #[serde(default)]
    pub(crate) models: Option<Vec<String>>,
    /// Its own limits.
    #[serde(default)]
    pub(crate) limits: KeyLimits,
    /// The networks that it may be used from, such as `10.0.0.0/8`, 256 at most; absent: from everywhere.
    // By a digest of this, what is asked again is told from what is asked anew: what is absent stays unsaid, as it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allow_from: Option<Vec<String>>,
    /// Where requests wait for a server, those of a lower number go first; absent: 0. The operator's to set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i8>, minimum = -100, maximum = 100)]
    pub(crate) priority: Option<Priority>,
    /// When it stops working; of a date, when it begins in UTC.
    #[serde(default, deserialize_with = "moment")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) expires_at: Option<Timestamp>,
    /// Of a secret that was made elsewhere, or of the holder of an issuer's tokens: `sha256:` and 64 hexadecimal digits. No
    /// secret is made then. The operator's to give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hash: Option<String>,
}

/// A key with its secret, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeKey {
    #[serde(flatten)]
    pub(crate) key: Key,
    /// Absent where the same call was done before, since it is not kept, and where the call gave a hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<String>,
    /// Whether the call made it, and not the same one before.
    #[serde(skip)]
    pub(crate) is_new: bool,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateKey {
    /// 3 to 50 characters.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// Whether it may be used.
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    /// `null`: all.
    #[serde(default, deserialize_with = "given")]
    #[allow(clippy::option_option, reason = "absent, null and a value are three cases")]
    pub(crate) models: Option<Option<Vec<String>>>,
    /// In place of those that it has.
    #[serde(default)]
    pub(crate) limits: Option<KeyLimits>,
    /// `null`: from everywhere.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    #[allow(clippy::option_option, reason = "absent, null and a value are three cases")]
    pub(crate) allow_from: Option<Option<Vec<String>>>,
    /// Where requests wait for a server, those of a lower number go first; `null`: 0. The operator's to change.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i8>, minimum = -100, maximum = 100)]
    #[allow(clippy::option_option, reason = "absent, null and a value are three cases")]
    pub(crate) priority: Option<Option<Priority>>,
    /// `null`: never.
    #[serde(default, deserialize_with = "given_moment")]
    #[schema(value_type = Option<String>, format = DateTime)]
    #[allow(clippy::option_option, reason = "absent, null and a value are three cases")]
    pub(crate) expires_at: Option<Option<Timestamp>>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegenerateKey {
    /// How long the old secret goes on working, such as `10m`; absent: not at all.
    #[serde(default)]
    pub(crate) grace: Option<String>,
}

#[derive(Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListKeys {
    /// Keys of this team only.
    pub(crate) team: Option<String>,
    /// Personal keys of this user only: the operator's to ask.
    pub(crate) owner: Option<String>,
    /// Deleted keys too.
    pub(crate) deleted: Option<bool>,
    /// Where the page begins, as the page before said.
    pub(crate) cursor: Option<String>,
    /// Rows on a page.
    pub(crate) limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct KeyPage {
    pub(crate) data: Vec<Key>,
    pub(crate) next_cursor: Option<String>,
}

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Makes a key. Its secret is in this answer and in no other.
#[utoipa::path(post, path = "/api/v1/keys", request_body = CreateKey,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes one key however often the call is sent; \
        only the first answer bears the secret")),
    responses((status = 201, body = MadeKey), (status = 200, body = MadeKey), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn create(
    State(plane): State<Arc<Plane>>,
    Uncounted(caller): Uncounted<Caller>,
    headers: HeaderMap,
    Body(asked): Body<CreateKey>,
) -> Result<(StatusCode, Json<MadeKey>), ApiError> {
    let made = make(&plane, &caller, idempotency_key(&headers)?, asked).await?;
    let status = if made.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(made)))
}

/// Makes a key, once for each idempotency key.
pub(crate) async fn make(
    plane: &Plane,
    caller: &Caller,
    idempotency_key: Option<String>,
    asked: CreateKey,
) -> Result<MadeKey, ApiError> {
    let digest = KeyHash::digest(json!(asked).to_string().as_bytes()).to_hex();
    let new = checked(plane, caller, asked)?;
    let (now, actor) = (Timestamp::now(), caller.actor());
    let mut tx = plane.store.begin().await?;
    if let Some(idempotency_key) = &idempotency_key
        && let Some((id, before)) = keys::created_before(&mut tx, &actor.unmistakable(), idempotency_key).await?
    {
        if before != digest {
            return Err(ApiError::conflict("another key was made under this Idempotency-Key; take a new one"));
        }
        // Whoever made it may have left its team since.
        let key = keys::find(&mut tx, &id).await?.filter(|key| caller.may_see(key));
        let key = key.ok_or_else(|| ApiError::not_found("key", &id))?;
        return Ok(MadeKey { key, secret: None, is_new: false });
    }
    may_create(&mut tx, caller, &new).await?;
    count_operation(plane, &mut tx, caller, now).await?;
    let id = KeyId::generate()?;
    let secret = if new.hash.is_none() { Some(Secret::generate()?) } else { None };
    let created = keys::create(&mut tx, &id, secret.as_ref(), &new, now).await;
    let taken = || ApiError::conflict("a key has this `hash` already; each has one of its own");
    created.map_err(|error| if new.hash.is_some() && error.is_duplicate() { taken() } else { error.into() })?;
    if let Some(idempotency_key) = &idempotency_key {
        let noted = keys::note_created(&mut tx, &actor.unmistakable(), idempotency_key, &digest, &id, now).await;
        let under_way = || ApiError::conflict("the same call was under way; send it again to see what it made");
        noted.map_err(|error| if error.is_duplicate() { under_way() } else { error.into() })?;
    }
    let detail = json!({"name": new.name, "owner": new.owner, "team": new.team, "models": new.models,
        "limits": new.limits, "allow_from": new.allow_from, "priority": new.priority, "expires_at": new.expires_at});
    note(&mut tx, &actor, "key.create", id.as_str(), &detail, now).await?;
    let key = keys::find(&mut tx, id.as_str()).await?.ok_or_else(|| ApiError::not_found("key", id.as_str()))?;
    plane.store.commit(tx).await?;
    Ok(MadeKey { key, secret: secret.map(|secret| secret.reveal().to_owned()), is_new: true })
}

/// Lists keys: the operator's all, a user's own, and those of their team.
#[utoipa::path(get, path = "/api/v1/keys", params(ListKeys), responses(
    (status = 200, body = KeyPage), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn list(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Asked(asked): Asked<ListKeys>,
) -> Result<Json<KeyPage>, ApiError> {
    let most = page_size(asked.limit)?;
    let deleted = asked.deleted.unwrap_or(false);
    let filter = match (&caller.who, asked.team, asked.owner) {
        (_, Some(_), Some(_)) => return Err(ApiError::invalid("owner", "either `team` or `owner`, not both")),
        (_, Some(team), None) => {
            caller.role_on(&team).ok_or_else(|| ApiError::not_found("team", &team))?;
            KeyFilter { team: Some(team), deleted, ..KeyFilter::default() }
        }
        (Who::Operator, None, Some(owner)) => KeyFilter { owner: Some(owner), deleted, ..KeyFilter::default() },
        (Who::Operator, None, None) => KeyFilter { all: true, deleted, ..KeyFilter::default() },
        (Who::User(user), None, Some(owner)) if user.id != owner => return Err(ApiError::not_found("user", &owner)),
        (Who::User(user), None, Some(_)) => KeyFilter { owner: Some(user.id.clone()), deleted, ..KeyFilter::default() },
        (Who::User(user), None, None) => {
            KeyFilter { owner: Some(user.id.clone()), team: user.team.clone(), deleted, all: false }
        }
    };
    let data = plane.store.keys(&filter, asked.cursor.as_deref().unwrap_or(""), most).await?;
    let next_cursor = next_cursor(&data, most, |key| key.id.clone());
    Ok(Json(KeyPage { data, next_cursor }))
}

/// A key, also a deleted one.
#[utoipa::path(get, path = "/api/v1/keys/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = Key), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn show(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Key>, ApiError> {
    let key = plane.store.key(&id).await?.filter(|key| caller.may_see(key));
    key.map(Json).ok_or_else(|| ApiError::not_found("key", &id))
}

/// Changes a key. What is absent stays as it is.
#[utoipa::path(patch, path = "/api/v1/keys/{id}", params(("id" = String, Path)), request_body = UpdateKey, responses(
    (status = 200, body = Key), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn update(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(asked): Body<UpdateKey>,
) -> Result<Json<Key>, ApiError> {
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let before = managed(&mut tx, &caller, &id).await?;
    let mut key = before.clone();
    let mut detail = serde_json::Map::new();
    if let Some(name) = asked.name {
        key.name = fields::name(name)?;
        detail.insert("name".to_owned(), json!(key.name));
    }
    if let Some(enabled) = asked.enabled {
        key.enabled = enabled;
        detail.insert("enabled".to_owned(), json!(enabled));
    }
    if let Some(models) = asked.models {
        key.models = fields::models(models)?;
        detail.insert("models".to_owned(), json!(key.models));
    }
    if let Some(limits) = asked.limits {
        key.limits = fields::limits(&plane, &caller, limits, &before.limits)?;
        detail.insert("limits".to_owned(), json!(key.limits));
    }
    if let Some(networks) = asked.allow_from {
        key.allow_from = fields::allow_from(networks)?;
        detail.insert("allow_from".to_owned(), json!(key.allow_from));
    }
    if let Some(priority) = asked.priority {
        key.priority = fields::priority(&caller, priority, before.priority)?;
        detail.insert("priority".to_owned(), json!(key.priority));
    }
    if let Some(expires_at) = asked.expires_at {
        key.expires_at = expires_at;
        detail.insert("expires_at".to_owned(), json!(expires_at));
    }
    if (&key.models, &key.limits, &key.allow_from) != (&before.models, &before.limits, &before.allow_from) {
        // Nothing else is refused for what a key has from before: it can always be disabled.
        fields::must_fit(key.models.as_ref(), &key.limits, key.allow_from.as_ref())?;
    }
    if key == before {
        // Nothing that anybody would have to be told, now or later.
        return Ok(Json(key));
    }
    keys::update(&mut tx, &key, now).await?;
    note(&mut tx, &caller.actor(), "key.update", &id, &detail.into(), now).await?;
    let key = keys::find(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("key", &id))?;
    plane.store.commit(tx).await?;
    Ok(Json(key))
}

/// Gives a key another secret, which is in this answer and in no other. Its id and its history stay.
#[utoipa::path(post, path = "/api/v1/keys/{id}/regenerate", params(("id" = String, Path)),
    request_body = RegenerateKey, responses((status = 200, body = MadeKey), (status = "4XX", body = ErrorBody)))]
pub(crate) async fn regenerate(
    State(plane): State<Arc<Plane>>,
    Uncounted(caller): Uncounted<Caller>,
    Path(id): Path<String>,
    Body(asked): Body<RegenerateKey>,
) -> Result<Json<MadeKey>, ApiError> {
    replace(&plane, &caller, &id, None, asked).await.map(Json)
}

/// Gives a key another secret in place of the one that the caller has `seen`, masked; of any, where they saw none.
pub(crate) async fn replace(
    plane: &Plane,
    caller: &Caller,
    id: &str,
    seen: Option<&str>,
    asked: RegenerateKey,
) -> Result<MadeKey, ApiError> {
    let now = Timestamp::now();
    let grace = asked.grace.as_deref().map(|text| duration(text).map_err(|why| ApiError::invalid("grace", why)));
    let retires = grace.transpose()?.filter(|grace| !grace.is_zero());
    let retires = retires.map(|grace| now.checked_add(grace));
    let retires = retires
        .transpose()
        .map_err(|_| ApiError::invalid("grace", "the time is too far in the future; give a shorter one"))?;
    let mut tx = plane.store.begin().await?;
    let key = managed(&mut tx, caller, id).await?;
    if key.state == "archived" && caller.user().is_some() {
        return Err(ApiError::conflict(format!("the key {id} is archived while its owner is on a team")));
    }
    if seen.is_some_and(|seen| seen != key.masked) {
        return Err(ApiError::conflict(
            "the secret was regenerated meanwhile; look at the key before you regenerate it again",
        ));
    }
    count_operation(plane, &mut tx, caller, now).await?;
    let secret = Secret::generate()?;
    keys::regenerate(&mut tx, &key, &secret, retires, now).await?;
    note(&mut tx, &caller.actor(), "key.regenerate", id, &json!({"retires_at": retires}), now).await?;
    let key = keys::find(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("key", id))?;
    plane.store.commit(tx).await?;
    Ok(MadeKey { key, secret: Some(secret.reveal().to_owned()), is_new: true })
}

/// Deletes a key. What it used stays on record.
#[utoipa::path(delete, path = "/api/v1/keys/{id}", params(("id" = String, Path)), responses(
    (status = 204), (status = "4XX", body = ErrorBody)
))]
pub(crate) async fn delete(
    State(plane): State<Arc<Plane>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let now = Timestamp::now();
    let mut tx = plane.store.begin().await?;
    let key = managed(&mut tx, &caller, &id).await?;
    keys::delete(&mut tx, &key, now).await?;
    note(&mut tx, &caller.actor(), "key.delete", &id, &json!({"name": key.name}), now).await?;
    plane.store.commit(tx).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A key that is there and that the caller may change.
async fn managed(tx: &mut Tx, caller: &Caller, id: &str) -> Result<Key, ApiError> {
    let key = keys::find(tx, id).await?.filter(|key| caller.may_see(key) && key.deleted_at.is_none());
    let key = key.ok_or_else(|| ApiError::not_found("key", id))?;
    caller.must_manage(&key)?;
    Ok(key)
}

/// Counts what makes a secret, of which a user makes few an hour.
pub(super) async fn count_operation(
    plane: &Plane,
    tx: &mut Tx,
    caller: &Caller,
    now: Timestamp,
) -> Result<(), ApiError> {
    let Some(user) = caller.user() else { return Ok(()) };
    let most = plane.operations_per_hour;
    let counted = operations::count(tx, Operation::Secret, &user.id, most, now).await?;
    counted.map_err(|wait| ApiError::too_many_operations(most, wait))
}

/// What is asked for, as far as it can be told without the store.
fn checked(plane: &Plane, caller: &Caller, asked: CreateKey) -> Result<NewKey, ApiError> {
    if let (Some(user), Some(_)) = (caller.user(), &asked.owner) {
        return Err(ApiError::forbidden(format!("only the operator sets `owner`; leave it out, {}", user.id)));
    }
    if asked.owner.is_some() && asked.team.is_some() {
        return Err(ApiError::invalid(
            "owner",
            "either `team` or `owner`, not both: a key belongs to a team or to a user",
        ));
    }
    if let (Some(user), Some(_)) = (caller.user(), &asked.hash) {
        return Err(ApiError::forbidden(format!("only the operator sets `hash`; leave it out, {}", user.id)));
    }
    let hash = asked.hash.as_deref().map(str::parse::<KeyHash>).transpose();
    let hash = hash.map_err(|error| ApiError::invalid("hash", error.to_string()))?;
    let owner = match (caller.user(), &asked.team) {
        (Some(user), None) => Some(user.id.clone()),
        _ => asked.owner,
    };
    let models = fields::models(asked.models)?;
    let limits = fields::limits(plane, caller, asked.limits, &KeyLimits::default())?;
    let allow_from = fields::allow_from(asked.allow_from)?;
    fields::must_fit(models.as_ref(), &limits, allow_from.as_ref())?;
    Ok(NewKey {
        name: fields::name(asked.name)?,
        owner,
        models,
        limits,
        allow_from,
        priority: fields::priority(caller, asked.priority, Priority::default())?,
        expires_at: asked.expires_at,
        created_by: caller.actor().name,
        team: asked.team,
        hash,
    })
}

/// Whether the caller may make such a key, and its wallet pays for what it will be used for.
async fn may_create(tx: &mut Tx, caller: &Caller, new: &NewKey) -> Result<(), ApiError> {
    if let Some(team) = &new.team {
        caller.must_lead(team)?;
        people::hold_team(tx, team).await?.ok_or_else(|| ApiError::not_found("team", team))?;
    }
    if let Some(owner) = &new.owner {
        let user = people::user(tx, owner).await?.ok_or_else(|| ApiError::not_found("user", owner))?;
        if let Some(team) = user.team {
            return Err(ApiError::conflict(format!(
                "`{owner}` is on the team `{team}`: make a key of the team's instead"
            )));
        }
    }
    match new.team.as_ref().or(new.owner.as_ref()) {
        Some(wallet) if wallets::hold(tx, wallet).await?.is_none_or(|balance| balance <= Usd::ZERO) => {
            Err(ApiError::no_balance(wallet))
        }
        _ => Ok(()),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=128).contains(&text.len()) && !has_control(text));
    let text = text.ok_or_else(|| ApiError::invalid("Idempotency-Key", "1 to 128 visible characters of ASCII"))?;
    Ok(Some(text.to_owned()))
}
