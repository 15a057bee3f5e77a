//! One key: what is written of it, and the record that this means.

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use keymeter_core::{
    glob::{self, Glob},
    key::{KeyHash, KeyId, KeyName, KeyRecord, KeyState, Priority, Retiring, Secret, Terms},
    limit::ScopeLimits,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::limits::RawLimits;
use crate::{
    raw::List,
    report::Place,
    scalar::{Party, Scalar},
};

/// A key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of a key, `id`, `name` and `hash` at least")]
#[schemars(extend("oneOf" = [{"required": ["hash"]}, {"required": ["secret"]}]))]
pub(super) struct RawKey {
    /// Its stable, public name, in metrics and logs: 1 to 64 characters of a-z, 0-9 and `_`.
    #[schemars(required)]
    id: Option<Scalar<KeyId>>,
    /// What people call it: 3 to 50 characters.
    #[schemars(required)]
    name: Option<Scalar<KeyName>>,
    /// The SHA-256 of its secret; `keymeter keys hash` computes it.
    hash: Option<Scalar<KeyHash>>,
    /// The secret itself, in place of its hash: from a variable.
    secret: Option<Scalar<Secret>>,
    /// Whether it may be used.
    #[schemars(extend("default" = true))]
    enabled: Option<Scalar<bool>>,
    /// Whose it is: a user or a team.
    pub(super) owner: Option<Scalar<Party>>,
    /// The team that uses it.
    pub(super) team: Option<Scalar<Party>>,
    /// The models that it may call: names, or patterns with `*`, 256 at most; without the field, all.
    #[schemars(extend("maxItems" = glob::MOST))]
    models: Option<List<Scalar<Glob>>>,
    /// The networks that it may be used from, such as `10.0.0.0/8`, or addresses; without the field, all. The client's address
    /// is that of `server.client_address`.
    #[schemars(extend("minItems" = 1))]
    allow_from: Option<List<Scalar<IpNet>>>,
    /// What it may use; of a minute and at once, what is left out is as the configuration's `limits` say.
    limits: Option<RawLimits>,
    /// When it stops working, RFC 3339.
    expires_at: Option<Scalar<Timestamp>>,
    /// Former secrets that still work for a while.
    retiring: Option<List<RawRetiring>>,
    /// Which of the requests that wait goes first, from -100 to 100: a lower one.
    #[schemars(extend("default" = 0))]
    priority: Option<Scalar<Priority>>,
}

/// A former secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields `hash` and `not_after`")]
struct RawRetiring {
    /// Its SHA-256.
    #[schemars(required)]
    hash: Option<Scalar<KeyHash>>,
    /// Until when it works, RFC 3339.
    #[schemars(required)]
    not_after: Option<Scalar<Timestamp>>,
}

/// The limits of teams and owners, for those that are limited.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) teams: HashMap<Arc<str>, Arc<ScopeLimits>>,
    pub(super) owners: HashMap<Arc<str>, Arc<ScopeLimits>>,
}

/// The ids and hashes that were seen, with their lines.
#[derive(Default)]
pub(super) struct Taken {
    ids: HashMap<KeyId, usize>,
    hashes: HashMap<KeyHash, usize>,
    /// Whether there are no lines to be told.
    has_no_lines: bool,
}

impl Taken {
    /// Where only that something is given twice is to be told, and not where.
    pub(super) fn without_lines() -> Self {
        Self { has_no_lines: true, ..Self::default() }
    }

    fn id<'place>(&mut self, id: &KeyId, place: impl Fn() -> Place<'place>) {
        let line = if self.has_no_lines { 0 } else { place().line() };
        if let Some(line) = self.ids.insert(id.clone(), line) {
            place().error(format!("the id `{id}` is already used on line {line}"));
        }
    }

    fn hash<'place>(&mut self, hash: KeyHash, place: impl Fn() -> Place<'place>) {
        let line = if self.has_no_lines { 0 } else { place().line() };
        if let Some(line) = self.hashes.insert(hash, line) {
            let message = format!("the same secret is already given on line {line}; each must belong to one key, once");
            place().error(message);
        }
    }
}

/// The record of the key that stands at `place`, unless something is wrong with it.
pub(super) fn record(
    raw: RawKey,
    place: &Place<'_>,
    checksum_required: bool,
    listed: &Listed,
    taken: &mut Taken,
) -> Option<KeyRecord> {
    let id = place.required("id", raw.id, "1 to 64 characters of a-z, 0-9 and _");
    let name = place.required("name", raw.name, "3 to 50 characters that tell people what the key is for");
    let hash = hash(raw.hash, raw.secret, place, checksum_required);
    if let Some(Scalar(id)) = &id {
        taken.id(id, || place.field("id"));
    }
    if let Some((field, hash)) = hash {
        taken.hash(hash, || place.field(field));
    }
    let retiring = raw.retiring.map(|raw| retiring(raw, &place.field("retiring"), taken)).unwrap_or_default();
    let models = raw.models.map(|globs| models(globs, &place.field("models")));
    let (owner, team) = (raw.owner.map(party), raw.team.map(party));
    let own = raw.limits.as_ref().map(RawLimits::own).unwrap_or_default();
    let terms = Terms {
        team: team.as_ref().and_then(|team| listed.teams.get(team)).cloned(),
        owner: owner.as_ref().and_then(|owner| listed.owners.get(owner)).cloned(),
        allow_from: raw.allow_from.map(|networks| allow_from(networks, &place.field("allow_from"))).unwrap_or_default(),
        ..raw.limits.map(|limits| limits.terms(&place.field("limits"))).unwrap_or_default()
    };
    let (Scalar(id), Scalar(name), (_, hash)) = (id?, name?, hash?);
    Some(KeyRecord {
        id,
        name,
        hash,
        state: if raw.enabled.is_none_or(|Scalar(enabled)| enabled) { KeyState::Active } else { KeyState::Disabled },
        owner,
        team,
        models,
        limits: own,
        expires_at: raw.expires_at.map(|Scalar(time)| time),
        retiring: retiring.into(),
        wallet: None,
        priority: raw.priority.map(|Scalar(priority)| priority).unwrap_or_default(),
        terms: (terms != Terms::default()).then(|| Box::new(terms)),
    })
}

/// The hash of the key's secret, and the field that tells it: `hash`, or `secret`, which is hashed at once.
fn hash(
    hash: Option<Scalar<KeyHash>>,
    secret: Option<Scalar<Secret>>,
    place: &Place<'_>,
    checksum_required: bool,
) -> Option<(&'static str, KeyHash)> {
    match (hash, secret) {
        (Some(Scalar(hash)), None) => Some(("hash", hash)),
        (None, Some(Scalar(secret))) => {
            if checksum_required && !secret.is_well_formed() {
                let message = "the secret has no right checksum, which `secret_checksum: required` asks for; \
                               `keymeter keys create` makes one that has";
                place.field("secret").error(message);
            }
            Some(("secret", secret.hash()))
        }
        (Some(_), Some(_)) => {
            place.field("secret").error("either `hash` or `secret`, not both");
            None
        }
        (None, None) => {
            if !place.dropped("hash") && !place.dropped("secret") {
                place.error(format!("missing field `hash`{}: that of the secret, or `secret` itself", place.inside()));
            }
            None
        }
    }
}

fn models(raw: List<Scalar<Glob>>, place: &Place<'_>) -> Box<[Glob]> {
    if raw.len() > glob::MOST {
        place.error(format!("{} models; a key has {} names and patterns at most", raw.len(), glob::MOST));
    }
    place.elements(raw).into_iter().map(|(_, Scalar(glob))| glob).collect()
}

fn retiring(raw: List<RawRetiring>, place: &Place<'_>, taken: &mut Taken) -> Vec<Retiring> {
    let checked = place.elements(raw).into_iter().filter_map(|(place, raw)| {
        let hash = place.required("hash", raw.hash, "that of the secret that is being replaced");
        let not_after = place.required("not_after", raw.not_after, "when the replaced secret stops working");
        if let Some(Scalar(hash)) = hash {
            taken.hash(hash, || place.field("hash"));
        }
        let (Scalar(hash), Scalar(not_after)) = (hash?, not_after?);
        Some(Retiring { hash, not_after })
    });
    checked.collect()
}

/// An empty list would stand for nobody or for everybody, to judge by other programs, so that it must not be left to guess.
pub(super) fn allow_from(raw: List<Scalar<IpNet>>, place: &Place<'_>) -> Box<[IpNet]> {
    if raw.is_empty() {
        place.error(
            "at least one network is needed, such as 10.0.0.0/8; without the field the key may be used from all",
        );
    }
    place.elements(raw).into_iter().map(|(_, Scalar(network))| network).collect()
}

fn party(Scalar(Party(name)): Scalar<Party>) -> Arc<str> {
    name
}
