//! What is right and will surprise: `keymeter check` says it, with its place, and nothing is refused for it.

use std::{fs, path::Path};

use keymeter_core::{
    glob::Glob,
    key::{KeyRecord, Terms},
    limit::{QuotaUnit, ScopeLimits},
};

use super::{Config, Loaded, Model, Source, Upstream};
use crate::{
    report::{ConfigError, Place, Report},
    url::comes_without_tls,
    yaml::Marks,
};

/// What of a configuration and its keys works otherwise than whoever wrote it may think, in the order of the files.
#[must_use]
pub fn warnings(loaded: &Loaded) -> Vec<ConfigError> {
    let Loaded { config, keys, files } = loaded;
    let mut warnings = Vec::new();
    if let Some(file) = files.first() {
        warnings.extend(of_file(file, |root| of_config(config, root)));
    }
    if let Source::Yaml { path } = &config.keys.source {
        warnings.extend(of_file(path, |root| of_keys(config, keys, root)));
    }
    warnings
}

/// What is told of a file. One that went away meanwhile has no places left.
fn of_file(file: &Path, tell: impl FnOnce(&Place<'_>)) -> Vec<ConfigError> {
    let marks = fs::read_to_string(file).ok().and_then(|text| Marks::parse(&text).ok()).unwrap_or_default();
    let report = Report::new(file, &marks);
    tell(&report.root());
    report.into_faults()
}

fn of_config(config: &Config, root: &Place<'_>) {
    let place = root.field("upstreams");
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let place = place.element(index);
        let before = config.upstreams.get(..index).unwrap_or_default();
        if let Some(first) = before.iter().find(|first| takes_all(first, upstream)) {
            place.error(format!(
                "`{}` is asked only while `{}` has no replica that can answer: that one is written before it and serves all of \
                 its models; write it first, or give it models of its own, unless it is meant so",
                upstream.name, first.name
            ));
        }
        unpriced(config, upstream, &place);
    }
    for (index, issuer) in config.keys.jwt.iter().enumerate().filter(|(_, issuer)| issuer.may_be_forged()) {
        root.field("keys").field("jwt").element(index).field("jwks").error(format!(
            "the keys of `{}` come without TLS: whoever is on the way can put his own in their place and make tokens for \
             anybody; use https://",
            issuer.issuer
        ));
    }
    of_signing_in(config, root);
    let served: Vec<&Glob> = config.upstreams.iter().flat_map(|upstream| &upstream.models).collect();
    let place = root.field("models");
    for (index, model) in config.models.iter().enumerate() {
        if !served.is_empty() && !served.iter().any(|served| served.overlaps(&model.name)) {
            let message =
                format!("no upstream serves a model that fits `{}`: the entry is never used", model.name.as_str());
            place.element(index).field("name").error(message);
        }
    }
}

/// Says what of signing in could be read or forged on the way.
fn of_signing_in(config: &Config, root: &Place<'_>) {
    let Some(control) = &config.control else { return };
    let place = root.field("control");
    if let Some(oidc) = control.oidc.as_ref().filter(|oidc| comes_without_tls(&oidc.issuer)) {
        place.field("oidc").field("issuer").error(format!(
            "`{}` is asked without TLS: whoever is on the way can sign in as anybody, as the operator too; use https://",
            oidc.issuer
        ));
    }
    if let Some(url) = control.page_url.as_ref().filter(|url| comes_without_tls(url)) {
        place.field("page_url").error(format!(
            "`{url}` is reached without TLS: whoever is on the way can read sessions and tokens; put a proxy with TLS before the \
             page, and use https://"
        ));
    }
}

/// Whether requests that `upstream` could take all go to `first`.
fn takes_all(first: &Upstream, upstream: &Upstream) -> bool {
    let has_apis = upstream.apis.iter().all(|api| first.apis.contains(api));
    has_apis && upstream.models.iter().all(|models| first.models.iter().any(|all| all.covers(models)))
}

/// Says which models of an upstream cost nothing, where others cost something.
fn unpriced(config: &Config, upstream: &Upstream, place: &Place<'_>) {
    if config.models.iter().all(|model| model.price.is_absent()) {
        return;
    }
    for (index, models) in upstream.models.iter().enumerate().filter(|(_, models)| !is_priced(config, models)) {
        let what = if models.is_literal() { "has" } else { "stands for models of which some have" };
        place.field("models").element(index).error(format!(
            "`{}` {what} no price, and costs $0 whatever is used: add a price to the configuration's `models`, one for \
             `name: \"*\"` at its end for all others",
            models.as_str()
        ));
    }
}

/// Whether each model that fits has a price. The first entry that fits a model counts.
fn is_priced(config: &Config, models: &Glob) -> bool {
    let first = config.models.iter().find(|Model { name, .. }| name.covers(models));
    first.is_some_and(|model| !model.price.is_absent())
}

fn of_keys(config: &Config, keys: &[KeyRecord], root: &Place<'_>) {
    let served: Vec<&Glob> = config.upstreams.iter().flat_map(|upstream| &upstream.models).collect();
    if served.is_empty() {
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        let place = root.field("keys").element(index);
        for (index, models) in key.models.iter().flatten().enumerate() {
            if !served.iter().any(|served| served.overlaps(models)) {
                let message = format!("no upstream serves a model that fits `{}`", models.as_str());
                place.field("models").element(index).error(message);
            }
        }
        if let Some(whose) = dollars(key).filter(|_| uses_unpriced(config, key, &served)) {
            place.error(format!(
                "the key {} has {whose} in US dollars and may call models without a price, which use up none of it: give all \
                 models a price in the configuration's `models`, or the key `models` that have one",
                key.id
            ));
        }
    }
}

/// Whose quota in US dollars a key is held to, if to any.
fn dollars(key: &KeyRecord) -> Option<&'static str> {
    let Terms { quotas, models, team, owner, .. } = key.terms.as_deref()?;
    let is_money = |limits: &ScopeLimits| limits.quotas.iter().any(|quota| quota.name.unit == QuotaUnit::Usd);
    let own = quotas.iter().any(|quota| quota.name.unit == QuotaUnit::Usd);
    match (team, owner) {
        _ if own || models.iter().any(|model| is_money(&model.limits)) => Some("a quota"),
        (Some(team), _) if is_money(team) => Some("a team with a quota"),
        (_, Some(owner)) if is_money(owner) => Some("an owner with a quota"),
        _ => None,
    }
}

/// Whether a key may call models that have no price. Of two patterns that overlap, the narrower one says which.
fn uses_unpriced(config: &Config, key: &KeyRecord, served: &[&Glob]) -> bool {
    let Some(own) = &key.models else { return served.iter().any(|served| !is_priced(config, served)) };
    let pairs = own.iter().flat_map(|own| served.iter().map(move |served| (own, *served)));
    pairs.filter(|(own, served)| own.overlaps(served)).any(|(own, served)| {
        let narrower = if served.covers(own) { own } else { served };
        !is_priced(config, narrower) && !is_priced(config, own)
    })
}
