//! The caller, as proven by the token, and what the caller's role permits.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use keymeter_core::key::{KeyHash, Secret};

use super::{
    Plane,
    error::ApiError,
    store::{
        audit::{Actor, ActorKind, OPERATOR},
        keys::Key,
        people::{Role, User},
    },
};

/// Whoever may manage something.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub who: Who,
    /// The address that the call came from.
    pub address: String,
}

/// The operator, or a user.
#[derive(Clone, Debug)]
pub enum Who {
    /// May do everything.
    Operator,
    /// May do what their role says.
    User(Box<User>),
}

impl Caller {
    /// Whose token it is that comes with a request.
    ///
    /// # Errors
    /// When it is nobody's, or the database does not answer.
    pub async fn presenting(plane: &Plane, token: &KeyHash, parts: &Parts) -> Result<Self, ApiError> {
        if *token == plane.operator {
            return Ok(Self::operator(plane, parts));
        }
        if plane.is_gateway(token) {
            // It is in the wrong place, but nobody guesses with it.
            return Err(ApiError::unauthorized());
        }
        let address = plane.client_address(parts);
        let user = plane.throttle.look_up(address, plane.store.user_by_token(token)).await?;
        Ok(Self { who: Who::User(Box::new(user)), address: address.to_string() })
    }

    /// The user whose token has this hash, as a session of theirs says.
    ///
    /// # Errors
    /// When there is none any more, or the database does not answer.
    pub async fn signed_in(plane: &Plane, token: &KeyHash, parts: &Parts) -> Result<Self, ApiError> {
        let user = plane.store.user_by_token(token).await?.ok_or_else(ApiError::unauthorized)?;
        Ok(Self { who: Who::User(Box::new(user)), address: plane.client_address(parts).to_string() })
    }

    /// The operator, whom something else than their token has proven.
    pub fn operator(plane: &Plane, parts: &Parts) -> Self {
        Self { who: Who::Operator, address: plane.client_address(parts).to_string() }
    }

    /// For the audit.
    pub fn actor(&self) -> Actor {
        let (kind, name) = match &self.who {
            Who::Operator => (ActorKind::Operator, OPERATOR.to_owned()),
            Who::User(user) => (ActorKind::User, user.id.clone()),
        };
        Actor { kind, name, address: self.address.clone() }
    }

    /// The user, if it is one.
    pub fn user(&self) -> Option<&User> {
        match &self.who {
            Who::Operator => None,
            Who::User(user) => Some(user),
        }
    }

    /// # Errors
    /// When it is not the operator.
    pub fn must_be_operator(&self) -> Result<(), ApiError> {
        match self.who {
            Who::Operator => Ok(()),
            Who::User(_) => Err(ApiError::forbidden("only the operator may do this")),
        }
    }

    /// The user's role on `team`; the operator's is the owner's on every team.
    pub fn role_on(&self, team: &str) -> Option<Role> {
        match &self.who {
            Who::Operator => Some(Role::Owner),
            Who::User(user) if user.team.as_deref() == Some(team) => user.role,
            Who::User(_) => None,
        }
    }

    /// Whether a key may be seen: one's own, and those of one's team.
    pub fn may_see(&self, key: &Key) -> bool {
        match (&self.who, &key.team, &key.owner) {
            (Who::Operator, _, _) => true,
            (Who::User(_), Some(team), _) => self.role_on(team).is_some(),
            (Who::User(user), None, owner) => owner.as_ref() == Some(&user.id),
        }
    }

    /// # Errors
    /// When a key that may be seen may not be changed by the caller.
    pub fn must_manage(&self, key: &Key) -> Result<(), ApiError> {
        match &key.team {
            Some(team) => self.must_lead(team),
            None => Ok(()),
        }
    }

    /// # Errors
    /// When the caller is neither owner nor admin of the team.
    pub fn must_lead(&self, team: &str) -> Result<(), ApiError> {
        match self.role_on(team) {
            Some(Role::Owner | Role::Admin) => Ok(()),
            Some(Role::Member) => {
                Err(ApiError::forbidden(format!("only the owner and the admins of `{team}` make and change its keys")))
            }
            None => Err(ApiError::not_found("team", team)),
        }
    }

    /// The caller's role on a team whose members they may manage.
    ///
    /// # Errors
    /// When the caller is neither owner nor admin of the team.
    pub fn must_manage_members(&self, team: &str) -> Result<Role, ApiError> {
        leading_role(self.role_on(team), team)
    }
}

/// A role on a team with which its members may be managed.
///
/// # Errors
/// When it is neither the owner's nor an admin's.
pub fn leading_role(role: Option<Role>, team: &str) -> Result<Role, ApiError> {
    match role {
        Some(role @ (Role::Owner | Role::Admin)) => Ok(role),
        Some(Role::Member) => {
            Err(ApiError::forbidden(format!("only the owner and the admins of `{team}` manage its members")))
        }
        None => Err(ApiError::not_found("team", team)),
    }
}

/// A call that is not only to look is counted as a change, whatever becomes of it: so no call is free that somebody adds.
impl FromRequestParts<Arc<Plane>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, ApiError> {
        let Uncounted(caller) = Uncounted::<Self>::from_request_parts(parts, plane).await?;
        if !parts.method.is_safe() {
            plane.count_change(&caller).await?;
        }
        Ok(caller)
    }
}

/// Somebody whose call is not counted as a change: one that makes secrets, which are counted by themselves.
pub struct Uncounted<T>(pub T);

impl FromRequestParts<Arc<Plane>> for Uncounted<Caller> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers).ok_or_else(ApiError::unauthorized)?;
        Caller::presenting(plane, &token.hash(), parts).await.map(Self)
    }
}

/// A gateway. It may look up keys, listen to changes and hand in usage, and nothing else.
pub struct Gateway;

impl FromRequestParts<Arc<Plane>> for Gateway {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, ApiError> {
        let token = bearer(&parts.headers).ok_or_else(ApiError::unauthorized)?.hash();
        match token {
            token if plane.is_gateway(&token) => Ok(Self),
            token if token == plane.operator => Err(ApiError::unauthorized()),
            _ => Err(plane.throttle.refuse(plane.client_address(parts))),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim()))
}

/// A new personal access token, and its hash.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn new_token() -> Result<(Secret, KeyHash), getrandom::Error> {
    let random = Secret::generate()?;
    let token = Secret::new(format!("kmu-{}", random.reveal().trim_start_matches("sk-")));
    let hash = token.hash();
    Ok((token, hash))
}
