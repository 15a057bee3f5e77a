//! What holds for a key that sets no limits of its own, so that a list says it beside the word `default`.

use std::path::Path;

use keymeter_config::{self as config, Environment, Source};
use keymeter_core::limit::{Limit, Limits};
use reqwest::Method;
use serde_json::Value;

use crate::cli::remote::Remote;

/// The limits that hold where a key sets none, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defaults(Option<Limits>);

impl Defaults {
    /// Those of the configuration beside a keys file, if it names that file. Variables that are not set may stand for anything.
    pub(super) fn beside(keys: &Path, environment: &Environment<'_>) -> Self {
        let path = keys.with_file_name("keymeter.yaml");
        let lenient = |name: &str| environment(name).or_else(|| Some(UNKNOWN.to_owned()));
        let limits = std::fs::read_to_string(&path).ok().and_then(|text| {
            let config = config::parse(&text, &path, &lenient).ok()?;
            let Source::Yaml { path: named } = &config.keys.source else { return None };
            (named.canonicalize().ok()? == keys.canonicalize().ok()?).then_some(config.limits.limits)
        });
        Self(limits)
    }

    /// Those that a control plane tells; an older one tells none.
    pub(super) fn of_control(remote: &Remote) -> Self {
        let told = remote.call(Method::GET, "/api/v1/limits", None).ok();
        let limits = told.as_ref().and_then(|told| {
            let of = |name: &str| told.get(name).and_then(limit);
            let (requests, tokens) = (of("requests_per_minute")?, of("tokens_per_minute")?);
            let concurrent_requests = of("concurrent_requests")?;
            Some(Limits { requests_per_minute: requests, tokens_per_minute: tokens, concurrent_requests })
        });
        Self(limits)
    }

    pub(super) fn requests_per_minute(&self, own: Option<Limit>) -> String {
        in_words(own, self.0.map(|limits| limits.requests_per_minute))
    }

    pub(super) fn tokens_per_minute(&self, own: Option<Limit>) -> String {
        in_words(own, self.0.map(|limits| limits.tokens_per_minute))
    }

    pub(super) fn concurrent_requests(&self, own: Option<Limit>) -> String {
        in_words(own, self.0.map(|limits| limits.concurrent_requests))
    }
}

/// Long enough for a token.
const UNKNOWN: &str = "a-variable-that-is-not-set-where-keys-are-made";

/// A limit of a key's own, or the one that holds in its place.
fn in_words(own: Option<Limit>, default: Option<Limit>) -> String {
    match (own, default) {
        (Some(own), _) => own.to_string(),
        (None, Some(default)) => format!("{default} (default)"),
        (None, None) => "default".to_owned(),
    }
}

/// A limit as JSON tells it: a number, or the word for none.
pub(super) fn limit(told: &Value) -> Option<Limit> {
    match told {
        Value::Number(number) => Limit::at(number.as_u64()?),
        Value::String(word) if word == "unlimited" => Some(Limit::Unlimited),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_beside_a_keys_file_says_what_holds() {
        let folder = tempfile::tempdir().unwrap();
        let (keys, config) = (folder.path().join("keys.yaml"), folder.path().join("keymeter.yaml"));
        let told = |environment: &Environment<'_>| {
            let defaults = Defaults::beside(&keys, environment);
            [defaults.requests_per_minute(None), defaults.tokens_per_minute(None)]
        };
        std::fs::write(&keys, "keys: []").unwrap();
        assert_eq!(told(&|_| None), ["default", "default"], "there is none");
        let text = |path: &str| {
            format!(
                "upstreams: [{{name: a, url: 'http://a', api_key: '${{KEY}}'}}]\nkeys: {{yaml: {{path: {path}}}}}\n\
                 limits: {{requests_per_minute: 600}}\n"
            )
        };
        std::fs::write(&config, text("keys.yaml")).unwrap();
        assert_eq!(told(&|_| None), ["600 (default)", "unlimited (default)"]);
        std::fs::write(&config, text("others.yaml")).unwrap();
        assert_eq!(told(&|_| None), ["default", "default"], "it is another file's");
        std::fs::write(&config, "limits: 7").unwrap();
        assert_eq!(told(&|_| None), ["default", "default"], "it cannot be read");
        let own = Defaults::default().requests_per_minute(Limit::at(5));
        assert_eq!(own, "5");
    }
}
