//! Those whose limits are counted on the server: keys, teams and owners, and keys for some models. Each has its data there
//! under its own name, apart from all others.

use std::{fmt, sync::Arc};

use keymeter_core::{
    glob::Glob,
    limit::{RequestLimits, Scope, ScopeLimits, Scopes},
};

/// One of those whose limits are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject(Arc<str>);

/// The set of known gateways. Its name is no subject's.
pub(super) const GATEWAYS: &str = "keymeter:{keymeter}:gateways";

impl Subject {
    fn of(names: &Scopes<&str>, scope: Scope, models: Option<&Glob>) -> Option<Self> {
        Some(Self::new(scope, names.of(scope)?, models))
    }

    /// The one with this id; of one for some models its key's.
    pub(super) fn new(scope: Scope, id: &str, models: Option<&Glob>) -> Self {
        match models {
            Some(models) => Self(format!("key/{id}/model/{}", models.as_str()).into()),
            None => Self(format!("{}/{id}", scope.as_str()).into()),
        }
    }

    /// The names of its data. The braces put those of all subjects on one server of a cluster, where one script may use them.
    pub(super) fn data(&self) -> [String; 4] {
        ["windows", "slots", "running", "quotas"].map(|what| self.named(what))
    }

    /// The name of its running requests.
    pub(super) fn running(&self) -> String {
        self.named("running")
    }

    fn named(&self, what: &str) -> String {
        format!("keymeter:{{keymeter}}:{}:{what}", self.0)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
impl From<&str> for Subject {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// What a request is held to of one subject.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub subject: Subject,
    pub scope: Scope,
    /// For which models, if they are some within a key.
    pub models: Option<Glob>,
    pub limits: ScopeLimits,
}

/// All that a request is held to, in the order in which one process counts it: without those that limit nothing.
pub(super) fn parts(names: &Scopes<&str>, limits: &RequestLimits) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut add = |scope, models: Option<&Glob>, limits: &ScopeLimits| {
        if let Some(subject) = Subject::of(names, scope, models).filter(|_| !limits.are_unlimited()) {
            parts.push(Part { subject, scope, models: models.cloned(), limits: limits.clone() });
        }
    };
    for (scope, limits) in limits.scopes.iter().filter(|(scope, _)| *scope != Scope::Key) {
        add(scope, None, limits);
    }
    for model in &limits.models {
        add(Scope::Model, Some(&model.models), &model.limits);
    }
    add(Scope::Key, None, &limits.scopes.key);
    parts
}

#[cfg(test)]
mod tests {
    use keymeter_core::limit::{LimitMode, Limits, ModelLimits};

    use super::{super::tests::limits, *};

    #[test]
    fn each_scope_with_a_limit_is_a_subject() {
        let limited = || ScopeLimits::from(limits(1, 0, 0));
        let model = ModelLimits { models: Glob::new("gpt-*"), limits: limited() };
        let all = RequestLimits {
            scopes: Scopes { team: Some(limited()), owner: Some(Limits::UNLIMITED.into()), key: limited() },
            models: [model].into(),
            mode: LimitMode::Enforce,
        };
        let names = Scopes { team: Some("research"), owner: Some("ada"), key: "key_a" };
        let subjects: Vec<_> = parts(&names, &all).iter().map(|part| part.subject.to_string()).collect();
        assert_eq!(subjects, ["team/research", "key/key_a/model/gpt-*", "key/key_a"]);
        assert_eq!(Subject::from("key/key_a").data()[3], "keymeter:{keymeter}:key/key_a:quotas");
    }
}
