//! Who calls, as their token proves, and how far their role reaches.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, header, request::Parts},
};

use super::{
    Plane,
    refusal::Refusal,
    store::{
        audit::Actor,
        keys::Key,
        people::{Role, User},
    },
};
use crate::key::{KeyHash, Secret};

/// Whoever may manage something.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub who: Who,
    /// The address that the call came from.
    address: String,
}

/// The operator, or a user.
#[derive(Clone, Debug)]
pub enum Who {
    /// May do everything.
    Operator,
    /// May do what their role says.
    User(User),
}

impl Caller {
    /// Whose token has this hash.
    ///
    /// # Errors
    /// When it is nobody's, or the database does not answer.
    pub async fn proven(plane: &Plane, token: &KeyHash, parts: &Parts) -> Result<Self, Refusal> {
        if *token == plane.operator {
            return Ok(Self::operator(parts));
        }
        let user = plane.store.user_by_token(token).await?.ok_or_else(Refusal::unauthorized)?;
        Ok(Self { who: Who::User(user), address: address(parts) })
    }

    /// The operator, whom something else than their token has proven.
    pub fn operator(parts: &Parts) -> Self {
        Self { who: Who::Operator, address: address(parts) }
    }

    /// For the audit.
    pub fn actor(&self) -> Actor {
        let name = match &self.who {
            Who::Operator => "operator".to_owned(),
            Who::User(user) => user.id.clone(),
        };
        Actor { name, address: self.address.clone() }
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
    pub fn must_be_operator(&self) -> Result<(), Refusal> {
        match self.who {
            Who::Operator => Ok(()),
            Who::User(_) => Err(Refusal::forbidden("only the operator may do this")),
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
    pub fn must_manage(&self, key: &Key) -> Result<(), Refusal> {
        match &key.team {
            Some(team) => self.must_lead(team),
            None => Ok(()),
        }
    }

    /// # Errors
    /// When the caller is neither owner nor admin of the team.
    pub fn must_lead(&self, team: &str) -> Result<(), Refusal> {
        match self.role_on(team) {
            Some(Role::Owner | Role::Admin) => Ok(()),
            Some(Role::Member) => Err(Refusal::forbidden(format!(
                "the keys of `{team}` are its owner's and its admins' to make and change"
            ))),
            None => Err(Refusal::not_found("team", team)),
        }
    }
}

impl FromRequestParts<Arc<Plane>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, Refusal> {
        let token = bearer(&parts.headers).ok_or_else(Refusal::unauthorized)?;
        Self::proven(plane, &token.hash(), parts).await
    }
}

/// A gateway. It may look up keys, listen to changes and hand in usage, and nothing else.
pub struct Gateway;

impl FromRequestParts<Arc<Plane>> for Gateway {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, plane: &Arc<Plane>) -> Result<Self, Refusal> {
        match bearer(&parts.headers) {
            Some(token) if plane.is_gateway(&token) => Ok(Self),
            _ => Err(Refusal::unauthorized()),
        }
    }
}

/// The address that a call came from.
pub fn address(parts: &Parts) -> String {
    let address = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    address.map(|ConnectInfo(address)| address.ip().to_string()).unwrap_or_default()
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
