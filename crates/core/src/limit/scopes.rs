//! Whose limits concern a request: its key's, within them those of its model, its team's and its owner's.

use super::{Limit, Limits, Quotas};
use crate::{glob::Glob, words};

words! {
    /// Whose limit it is.
    Scope {
        /// A team's, of all its keys together.
        Team = "team",
        /// An owner's, of all their keys together.
        Owner = "owner",
        /// A key's.
        Key = "key",
        /// A key's, of some models.
        Model = "model",
    }
}

/// One value for each of those whose limits a request is held to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes<T> {
    /// Its key's team's.
    pub team: Option<T>,
    /// Its key's owner's.
    pub owner: Option<T>,
    /// Its key's.
    pub key: T,
}

/// What one scope may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeLimits {
    /// At once, and in a minute.
    pub minute: Limits,
    /// Over longer times.
    pub quotas: Quotas,
}

/// What a key may use of some models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Of which.
    pub models: Glob,
    /// What.
    pub limits: ScopeLimits,
}

/// Whether limits refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitMode {
    /// They do.
    #[default]
    Enforce,
    /// They count, and what they would have refused is told.
    Observe,
}

/// All limits that concern one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Of its key, its team and its owner; of a team or an owner that has none, nothing.
    pub scopes: Scopes<ScopeLimits>,
    /// Of its key, for models of which its own is one.
    pub models: Box<[ModelLimits]>,
    /// Whether they refuse.
    pub mode: LimitMode,
}

impl<T> Scopes<T> {
    /// Of a key that has no team and no owner with limits.
    pub const fn of_key(key: T) -> Self {
        Self { team: None, owner: None, key }
    }

    /// Each of them, in the order in which their counters are locked.
    pub fn iter(&self) -> impl Iterator<Item = (Scope, &T)> {
        let Self { team, owner, key } = self;
        [(Scope::Team, team.as_ref()), (Scope::Owner, owner.as_ref()), (Scope::Key, Some(key))]
            .into_iter()
            .filter_map(|(scope, value)| Some((scope, value?)))
    }

    /// The one of a scope; of a model its key's.
    pub fn of(&self, scope: Scope) -> Option<&T> {
        match scope {
            Scope::Team => self.team.as_ref(),
            Scope::Owner => self.owner.as_ref(),
            Scope::Key | Scope::Model => Some(&self.key),
        }
    }

    /// Other values, made of these in the order in which counters are locked.
    pub fn map<'this, U>(&'this self, mut of: impl FnMut(Scope, &'this T) -> U) -> Scopes<U> {
        Scopes {
            team: self.team.as_ref().map(|value| of(Scope::Team, value)),
            owner: self.owner.as_ref().map(|value| of(Scope::Owner, value)),
            key: of(Scope::Key, &self.key),
        }
    }
}

impl ScopeLimits {
    /// None.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { minute: Limits::UNLIMITED, quotas: Quotas::default() }
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn are_unlimited(&self) -> bool {
        self.minute.are_unlimited() && self.quotas.is_empty()
    }
}

impl From<Limits> for ScopeLimits {
    fn from(minute: Limits) -> Self {
        Self { minute, quotas: Quotas::default() }
    }
}

impl From<ScopeLimits> for RequestLimits {
    /// Those of a key alone.
    fn from(limits: ScopeLimits) -> Self {
        Self { scopes: Scopes::of_key(limits), models: Box::default(), mode: LimitMode::Enforce }
    }
}

impl From<Limits> for RequestLimits {
    /// Those of a key alone.
    fn from(minute: Limits) -> Self {
        ScopeLimits::from(minute).into()
    }
}

impl RequestLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn are_unlimited(&self) -> bool {
        self.all().all(|(_, _, limits)| limits.are_unlimited())
    }

    /// Whether there is a quota among them.
    #[must_use]
    pub fn have_quotas(&self) -> bool {
        self.all().any(|(_, _, limits)| !limits.quotas.is_empty())
    }

    /// The same, counted and not enforced.
    #[must_use]
    pub fn observed(&self) -> Self {
        Self { mode: LimitMode::Observe, ..self.clone() }
    }

    /// Each scope's, and the models that it is of.
    pub fn all(&self) -> impl Iterator<Item = (Scope, Option<&Glob>, &ScopeLimits)> {
        let scopes = self.scopes.iter().map(|(scope, limits)| (scope, None, limits));
        scopes.chain(self.models.iter().map(|model| (Scope::Model, Some(&model.models), &model.limits)))
    }

    /// The least of all limits of tokens a minute.
    #[must_use]
    pub fn tokens_per_minute(&self) -> Limit {
        self.all().map(|(.., limits)| limits.minute.tokens_per_minute).fold(Limit::Unlimited, Limit::least)
    }

    /// What one of so many gateways may use of the limits of a minute by itself.
    #[must_use]
    pub fn share(&self, gateways: u64) -> Self {
        let share =
            |limits: &ScopeLimits| ScopeLimits { minute: limits.minute.share(gateways), quotas: limits.quotas.clone() };
        let of_model = |model: &ModelLimits| ModelLimits { models: model.models.clone(), limits: share(&model.limits) };
        Self {
            scopes: self.scopes.map(|_, limits| share(limits)),
            models: self.models.iter().map(of_model).collect(),
            mode: self.mode,
        }
    }
}
