//! The source of keys, and what it says of them: in the keys file `keys.yaml`, or as a service.

mod file;
mod jwt;
mod limits;
mod quotas;
mod record;
mod regular;
mod service;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keymeter_core::key::KeyHash;

pub(super) use self::file::WrittenFile;
pub use self::{
    file::parse,
    jwt::JwtIssuer,
    service::{parse_allow_from, parse_limits, parse_record, parse_scope_limits, parse_wallet},
};
use super::{
    credential::Credential,
    files, raw,
    report::Place,
    scalar::{Scalar, Timeout},
    server::transposed,
    url::{UpstreamUrl, UrlError},
    written::SecretChecksum,
};

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The one source.
    pub source: Source,
    /// Whose tokens are taken beside secrets.
    pub jwt: Vec<JwtIssuer>,
    /// Whether a secret without a right checksum is refused without a look-up; secrets made elsewhere have none.
    pub secret_checksum_required: bool,
    /// Whether requests are to come although the source has not answered yet.
    pub ready_without_source: bool,
}

/// What keys are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of ours.
    Yaml {
        /// Where it is.
        path: PathBuf,
    },
    /// A service.
    Http(Http),
}

/// A key service (docs/key-source.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    before_hash: Arc<str>,
    after_hash: Arc<str>,
    /// Where it tells of changes; `None`: it does not.
    pub events_url: Option<Arc<str>>,
    /// Where usage is handed in; `None`: nowhere.
    pub usage_url: Option<Arc<str>>,
    /// How we prove who we are; `None`: not at all.
    pub token: Option<Credential>,
    /// Certificates in PEM form that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// For a whole answer; not zero.
    pub timeout: Duration,
}

impl Source {
    /// Whether it wants to know what was used.
    #[must_use]
    pub fn takes_usage(&self) -> bool {
        matches!(self, Self::Http(service) if service.usage_url.is_some())
    }

    /// Whether a reload can put `other` in the place of this.
    #[must_use]
    pub fn is_reloadable_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Yaml { .. }, Self::Yaml { .. }) => true,
            (this, other) => this == other,
        }
    }
}

impl Http {
    /// A service at `url`, which has `{hash}` in it where the hash of a secret goes.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn at(url: &str) -> Result<Self, String> {
        let parts = url.split_once("{hash}");
        let (before, after) = parts.ok_or("the URL must have `{hash}` in it, where the hash of a secret goes")?;
        let service = Self {
            before_hash: before.into(),
            after_hash: after.into(),
            events_url: None,
            usage_url: None,
            token: None,
            ca: None,
            timeout: Duration::from_secs(2),
        };
        service_url(&service.url_of(&KeyHash::digest(b""))).map_err(|error| error.to_string())?;
        Ok(service)
    }

    /// Where the key is asked for whose secret has `hash`.
    #[must_use]
    pub fn url_of(&self, hash: &KeyHash) -> String {
        self.url_with(&hash.to_hex())
    }

    /// The URL with a text of any kind where a hash goes.
    #[must_use]
    pub fn url_with(&self, text: &str) -> String {
        format!("{}{text}{}", self.before_hash, self.after_hash)
    }

    /// Whether all that is asked of it is asked without TLS of who listens on this machine at `address`.
    #[must_use]
    pub fn is_at(&self, address: SocketAddr) -> bool {
        let look_ups = self.url_of(&KeyHash::digest(b""));
        let others = self.events_url.iter().chain(&self.usage_url).map(|url| &**url);
        others.chain([&*look_ups]).all(|url| leads_to(url, address))
    }

    fn check(raw: raw::KeysHttp, place: &Place<'_>, file: &Path) -> Option<Self> {
        let url = place.required("url", raw.url, "such as https://keys.example/v1/keys/{hash}");
        let other_url =
            |field: &str, url: Option<Scalar<Arc<str>>>| {
                transposed(url.map(|Scalar(url)| {
                    service_url(&url).map_err(|error| place.field(field).error(error.to_string())).ok()
                }))
            };
        let events_url = other_url("events_url", raw.events_url);
        let usage_url = other_url("usage_url", raw.usage_url);
        let ca = raw.ca.map(|Scalar(name)| files::pem(&place.field("ca"), file, &name, "CERTIFICATE-----"));
        let (Scalar(url), of_url) = (url?, place.field("url"));
        let service = Self::at(&url).map_err(|error| of_url.error(error)).ok()?;
        Some(Self {
            events_url: events_url?,
            usage_url: usage_url?,
            token: raw.token.map(|Scalar(secret)| Credential(secret)),
            ca: transposed(ca)?,
            timeout: raw.timeout.map_or(service.timeout, |Scalar(Timeout(time))| time),
            ..service
        })
    }
}

/// A URL of a key service. Unlike an upstream's it may have a query.
///
/// # Errors
/// What is wrong with it.
pub fn service_url(url: &str) -> Result<Arc<str>, UrlError> {
    let (base, _) = url.split_once('?').unwrap_or((url, ""));
    base.parse::<UpstreamUrl>().map(|_| url.into())
}

/// Whether a URL without TLS leads to who listens on this machine at `address`.
fn leads_to(url: &str, address: SocketAddr) -> bool {
    let (base, _) = url.split_once('?').unwrap_or((url, ""));
    let Ok(UpstreamUrl { tls: false, host, port, .. }) = base.parse() else { return false };
    let is_host = match host.parse::<IpAddr>() {
        Ok(host) => host == address.ip() || host.is_loopback() && address.ip().is_unspecified(),
        Err(_) => &*host == "localhost" && (address.ip().is_loopback() || address.ip().is_unspecified()),
    };
    is_host && port == address.port()
}

impl Keys {
    pub(super) fn check(raw: raw::Keys, place: &Place<'_>, file: &Path) -> Option<Self> {
        let source = Self::source(raw.yaml, raw.http, place, file);
        let jwt = JwtIssuer::check_all(raw.jwt.unwrap_or_default(), &place.field("jwt"), file);
        let (source, jwt) = (source?, jwt?);
        let required = raw.secret_checksum.is_some_and(|Scalar(checksum)| checksum == SecretChecksum::Required);
        let ready_without_source = raw.ready_without_source.is_some_and(|Scalar(ready)| ready);
        Some(Self { source, jwt, secret_checksum_required: required, ready_without_source })
    }

    fn source(
        yaml: Option<raw::KeysYaml>,
        http: Option<raw::KeysHttp>,
        place: &Place<'_>,
        file: &Path,
    ) -> Option<Source> {
        match (yaml, http) {
            (None, Some(http)) => Http::check(http, &place.field("http"), file).map(Source::Http),
            (Some(_), Some(_)) => {
                place.field("http").error("either `yaml` or `http`, not both: keys come from one source");
                None
            }
            (None, None) if place.dropped("http") => None,
            (yaml, None) => {
                let yaml = place.required("yaml", yaml, "the source of keys, such as `yaml: {path: keys.yaml}`")?;
                let path = place.field("yaml").required("path", yaml.path, "the file that holds the keys");
                path.map(|Scalar(path)| Source::Yaml { path: files::beside(file, &path) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_plane_of_this_process_is_told_from_any_other() {
        let at = |base: &str, events: Option<&str>| Http {
            events_url: events.map(Into::into),
            ..Http::at(&format!("{base}/v1/keys/{{hash}}")).unwrap()
        };
        for (base, address, expected) in [
            ("http://127.0.0.1:9091", "127.0.0.1:9091", true),
            ("http://localhost:9091", "127.0.0.1:9091", true),
            ("http://[::1]:9091", "[::1]:9091", true),
            ("http://127.0.0.1:9091", "0.0.0.0:9091", true),
            ("http://10.0.0.7:9091", "10.0.0.7:9091", true),
            ("http://127.0.0.1:9092", "127.0.0.1:9091", false),
            ("https://127.0.0.1:9091", "127.0.0.1:9091", false),
            ("http://10.0.0.7:9091", "0.0.0.0:9091", false),
            ("http://localhost:9091", "10.0.0.7:9091", false),
            ("http://localhost.example:9091", "127.0.0.1:9091", false),
        ] {
            assert_eq!(at(base, None).is_at(address.parse().unwrap()), expected, "{base} {address}");
        }
        let elsewhere = at("http://127.0.0.1:9091", Some("http://127.0.0.1.example:9091/v1/keys/events"));
        assert!(!elsewhere.is_at("127.0.0.1:9091".parse().unwrap()), "one of its URLs leads elsewhere");
    }
}
