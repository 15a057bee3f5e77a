//! The Redis or Valkey server that keeps limits which several gateways share.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keymeter_core::key::Secret;

use super::{
    credential::Credential,
    files, raw,
    report::Place,
    scalar::{Scalar, Timeout},
    written::{Percent, Servers, SharedUrl, WhenUnreachable},
};

/// One limit over several gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Where the Redis or Valkey server is, or those that make it up.
    pub url: SharedUrl,
    /// Its user; `None`: the default one.
    pub username: Option<Arc<str>>,
    /// Its password.
    pub password: Option<Credential>,
    /// That of its sentinels, where they have one.
    pub sentinel_password: Option<Credential>,
    /// Certificates in PEM form that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// How long a request waits while it is silent; not zero.
    pub timeout: Duration,
    /// What holds while it does not answer.
    pub when_unreachable: WhenUnreachable,
    /// Of a busy key's minute, what a gateway takes in advance, in hundredths; 0: nothing.
    pub lease: u8,
}

const DEFAULT_TIMEOUT: Duration = Duration::from_millis(50);

impl Shared {
    pub(super) fn check(raw: raw::Shared, place: &Place<'_>, file: &Path) -> Option<Self> {
        let example = "the Redis or Valkey server, such as redis://10.0.0.5:6379";
        let url = place.required("url", raw.url, example).map(|Scalar(url)| url);
        let ca = raw.ca.map(|Scalar(name)| files::pem(&place.field("ca"), file, &name, "CERTIFICATE-----"));
        if ca.is_some() && url.as_ref().is_some_and(|url| !url.tls) {
            place.field("ca").error("the connection is not encrypted: write `rediss://` in `url`, or leave `ca` out");
        }
        let is_sentinel = url.as_ref().is_some_and(|url| matches!(url.servers, Servers::Sentinels { .. }));
        if raw.sentinel_password.is_some() && !is_sentinel {
            place
                .field("sentinel_password")
                .error("the URL names no sentinels: remove the password, or write `redis-sentinel://` in `url`");
        }
        if raw.username.is_some() && raw.password.is_none() {
            place.field("username").error("a user needs a `password`, such as \"${REDIS_PASSWORD}\"");
        }
        let credential = |Scalar(secret): Scalar<Secret>| Credential(secret);
        Some(Self {
            ca: super::server::transposed(ca)?,
            url: url?,
            username: raw.username.map(|Scalar(name)| name),
            password: raw.password.map(credential),
            sentinel_password: raw.sentinel_password.map(credential),
            timeout: raw.timeout.map_or(DEFAULT_TIMEOUT, |Scalar(Timeout(time))| time),
            when_unreachable: raw.when_unreachable.map_or_else(WhenUnreachable::default, |Scalar(choice)| choice),
            lease: raw.lease.map_or(0, |Scalar(Percent(part))| part),
        })
    }
}
