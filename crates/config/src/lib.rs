//! The configuration file and the keys file, read and checked as a whole before any part of them takes effect. A
//! [`Config`] cannot hold a state that the gateway could not serve.

mod client_address;
mod control;
mod cors;
mod credential;
mod database;
mod endings;
mod expand;
mod files;
pub mod keyfile;
pub mod keys;
mod model;
mod nearest;
mod origin;
mod pool;
mod raw;
mod read;
mod report;
mod scalar;
pub mod schema;
mod server;
mod shared;
mod tracing;
mod upstream;
mod url;
mod warnings;
mod written;
pub mod yaml;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keymeter_core::{
    key::KeyRecord,
    limit::{Limit, LimitMode, Limits, Strategy},
};
use serde_yaml::Value;

use self::keys::Http;

pub use self::{
    client_address::ClientAddress,
    control::{Control, Oidc},
    cors::Cors,
    credential::Credential,
    database::Database,
    endings::OnClientAbort,
    expand::Environment,
    keys::{Keys, Source},
    model::Model,
    origin::Origin,
    pool::{Affinity, Eject, HealthChecks, PoolSettings, Queue, Rename},
    report::{ConfigError, FieldError},
    server::{Admin, ConnectionTimeouts, Server, Tls},
    shared::Shared,
    tracing::Tracing,
    upstream::{Replica, Upstream},
    url::{UpstreamUrl, UrlError},
    warnings::warnings,
    written::{
        AffinityBy, ApiKeyHeader, Balance, CollectorUrl, CollectorUrlError, InjectUsage, JwtAlgorithm, LoggedAddress,
        OnRevoke, SampleRatio, ServerAddress, Servers, SharedUrl, WhenUnreachable,
    },
};
use self::{
    report::{Place, Report},
    scalar::{Scalar, Span},
};
use crate::yaml::Marks;

/// Who is to run with a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Our own gateway, which has to be told where requests go.
    Gateway,
    /// Somebody's own proxy behind the gate: it listens by itself and may know where requests go.
    Plugin,
}

/// Everything that a configuration file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who it was read for.
    pub purpose: Purpose,
    /// What clients connect to.
    pub server: Server,
    /// What operators connect to.
    pub admin: Admin,
    /// The first that matches a request serves it. There is at least one, but for a plugin, where
    /// none means that the proxy within knows where requests go.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Where keys come from.
    pub keys: Keys,
    /// How long what the source said of a key is believed.
    pub key_cache: KeyCache,
    /// For keys that set none of their own.
    pub limits: Defaults,
    /// The first that matches counts.
    pub models: Vec<Model>,
    /// What is shown of keys.
    pub metrics: Metrics,
    /// What the access log tells of a request's client.
    pub logged_address: LoggedAddress,
    /// What becomes of a response whose client has left.
    pub on_client_abort: OnClientAbort,
    /// What becomes of a response whose key is revoked.
    pub on_revoke: OnRevoke,
    /// Where records of usage wait to be sent on, with `keys.http.usage_url`.
    pub ledger: PathBuf,
    /// What runs beside the gateway.
    pub control: Option<Control>,
    /// Where traces are sent, if there are any.
    pub tracing: Option<Tracing>,
}

impl Config {
    /// Lends the gateway the token of the control plane in its own process, where the file names a token for neither of them
    /// and the keys come from there.
    pub fn lend_gateway_token(&mut self, token: &Credential) {
        if let Some(service) = self.without_gateway_token() {
            service.token = Some(token.clone());
        }
    }

    /// Keeps the token that `before` was lent: a file that was read anew knows nothing of it.
    pub fn keep_gateway_token(&mut self, before: &Self) {
        if let (Source::Http(Http { token: Some(token), .. }), Some(Control { gateway_token: None, .. })) =
            (&before.keys.source, &before.control)
        {
            self.lend_gateway_token(token);
        }
    }

    fn without_gateway_token(&mut self) -> Option<&mut Http> {
        let control = self.control.as_ref().filter(|control| control.gateway_token.is_none())?;
        match &mut self.keys.source {
            Source::Http(service) if service.token.is_none() && service.is_at(control.listen) => Some(service),
            _ => None,
        }
    }
}

/// How long what the source said of a key is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCache {
    /// The most keys that are remembered, at least 1.
    pub capacity: u64,
    /// For a key; zero: it is asked for each time.
    pub ttl: Duration,
    /// For a key that there is not.
    pub unknown_ttl: Duration,
    /// How long beyond `ttl` a key is used while the source does not answer.
    pub stale_for: Duration,
}

/// The limits of keys that set none of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Each is unlimited where nothing is written.
    pub limits: Limits,
    /// Whether limits refuse, for keys that do not say that themselves.
    pub mode: LimitMode,
    /// Where what is used of quotas is kept.
    pub store: PathBuf,
    /// What a request reserves as its output.
    pub reservation: Strategy,
    /// The server that they are kept on, where several gateways share them.
    pub shared: Option<Shared>,
}

/// What is shown of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The keys that have series of their own; further ones share one.
    pub max_key_series: usize,
}

/// All that `serve` needs, as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What the keys file holds; ids and secrets are each there once.
    pub keys: Vec<KeyRecord>,
    /// The files that it was read from: the configuration first, then that of the keys, then certificate and key.
    pub files: Vec<PathBuf>,
}

/// Reads the gateway's configuration and the keys that it names.
///
/// # Errors
/// All faults of both files, in the order of the text, the configuration's first.
pub fn load(path: &Path, environment: &Environment<'_>) -> Result<Loaded, Vec<ConfigError>> {
    load_for(Purpose::Gateway, path, environment)
}

/// Reads a configuration that is for `purpose` and the keys that it names.
///
/// # Errors
/// All faults of both files, in the order of the text, the configuration's first.
pub fn load_for(purpose: Purpose, path: &Path, environment: &Environment<'_>) -> Result<Loaded, Vec<ConfigError>> {
    let text = files::configuration(path)?;
    let (value, marks) = document(&text, purpose, path)?;
    let report = Report::new(path, &marks);
    let (config, source) = check(value, purpose, &report.root(), path, environment);
    let of_source = report.root().field("keys").field("yaml").field("path");
    let (keys, of_keys) = source.map(|source| load_keys(&source, &of_source, environment)).unwrap_or_default();
    let mut faults = report.into_faults();
    faults.extend(of_keys);
    match config {
        Some(config) if faults.is_empty() => {
            let of_keys = match &config.keys.source {
                Source::Yaml { path } => Some(path.clone()),
                Source::Http(_) => None,
            };
            let of_tls = config.server.tls.iter().flat_map(|tls| [tls.cert.clone(), tls.key.clone()]);
            let files = std::iter::once(path.to_owned()).chain(of_keys).chain(of_tls).collect();
            Ok(Loaded { config, keys, files })
        }
        _ => Err(faults),
    }
}

/// Reads the gateway's configuration, without the keys that it names. `path` is what its relative paths and its faults refer to.
///
/// # Errors
/// All faults of the text, in its order.
pub fn parse(text: &str, path: &Path, environment: &Environment<'_>) -> Result<Config, Vec<ConfigError>> {
    let (value, marks) = document(text, Purpose::Gateway, path)?;
    let report = Report::new(path, &marks);
    let (config, _) = check(value, Purpose::Gateway, &report.root(), path, environment);
    let faults = report.into_faults();
    config.filter(|_| faults.is_empty()).ok_or(faults)
}

/// The environment of this process; a variable that is not UTF-8 counts as not set.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The sections of the file that differ.
#[must_use]
pub fn changed_sections(old: &Config, new: &Config) -> Vec<&'static str> {
    let sections = [
        ("server", old.server != new.server),
        ("admin", old.admin != new.admin),
        ("upstreams", old.upstreams != new.upstreams),
        ("keys", old.keys != new.keys),
        ("key_cache", old.key_cache != new.key_cache),
        ("limits", old.limits != new.limits),
        ("models", old.models != new.models),
        ("metrics", old.metrics != new.metrics),
        ("access_log", old.logged_address != new.logged_address),
        ("on_client_abort", old.on_client_abort != new.on_client_abort),
        ("on_revoke", old.on_revoke != new.on_revoke),
        ("ledger", old.ledger != new.ledger),
        ("control", old.control != new.control),
        ("tracing", old.tracing != new.tracing),
    ];
    sections.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect()
}

/// The fields that differ and that only a restart can change.
#[must_use]
pub fn restart_needed(old: &Config, new: &Config) -> Vec<&'static str> {
    let fields = [
        ("server.listen", old.server.listen != new.server.listen),
        ("server.tls", old.server.tls.is_some() != new.server.tls.is_some()),
        ("server.upgrade_socket", old.server.upgrade_socket != new.server.upgrade_socket),
        ("server.threads", old.server.threads != new.server.threads),
        ("server.head_timeout", old.server.timeouts.head != new.server.timeouts.head),
        ("server.keep_alive", old.server.timeouts.keep_alive != new.server.timeouts.keep_alive),
        ("server.write_timeout", old.server.timeouts.write != new.server.timeouts.write),
        ("server.max_connections", old.server.max_connections != new.server.max_connections),
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("key_cache.capacity", old.key_cache.capacity != new.key_cache.capacity),
        ("key_cache.ttl", old.key_cache.ttl != new.key_cache.ttl),
        ("key_cache.unknown_ttl", old.key_cache.unknown_ttl != new.key_cache.unknown_ttl),
        ("key_cache.stale_for", old.key_cache.stale_for != new.key_cache.stale_for),
        ("keys", !old.keys.source.is_reloadable_as(&new.keys.source)),
        ("ledger.directory", new.keys.source.takes_usage() && old.ledger != new.ledger),
        ("control", old.control != new.control),
        ("limits.store", old.limits.store != new.limits.store),
        ("limits.shared", old.limits.shared != new.limits.shared),
        ("metrics.max_key_series", old.metrics.max_key_series != new.metrics.max_key_series),
        ("tracing", old.tracing != new.tracing),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

fn document(text: &str, purpose: Purpose, path: &Path) -> Result<(Value, Marks), Vec<ConfigError>> {
    let (value, marks) = read::document(text, path)?;
    if value.is_null() {
        let required = match purpose {
            Purpose::Gateway => "`upstreams` and `keys` are required",
            Purpose::Plugin => "`keys` is required",
        };
        return Err(vec![ConfigError::of_file(path, format!("the file is empty; {required}"))]);
    }
    Ok((value, marks))
}

/// What the values mean. The source of keys is told apart: it can be looked into where other fields are faulty.
fn check(
    mut value: Value,
    purpose: Purpose,
    root: &Place<'_>,
    path: &Path,
    environment: &Environment<'_>,
) -> (Option<Config>, Option<Keys>) {
    read::expand_all(&mut value, root, environment);
    let Some(raw) = read::read::<raw::File>(value, root) else { return (None, None) };
    let on_client_abort = OnClientAbort::new(&raw);
    let logged_address = raw.access_log.and_then(|log| log.client_address);
    let logged_address = logged_address.map_or_else(LoggedAddress::default, |Scalar(choice)| choice);
    let on_revoke = raw.on_revoke.map_or_else(OnRevoke::default, |Scalar(choice)| choice);
    let server = Server::check(raw.server.unwrap_or_default(), &root.field("server"), path);
    let admin = Admin::check(raw.admin.unwrap_or_default(), &root.field("admin"));
    if purpose == Purpose::Gateway {
        check_listeners(server.as_ref(), &admin, root);
    }
    let upstreams = upstreams(raw.upstreams, purpose, root, path);
    let keys = root.required("keys", raw.keys, "where keys come from, such as `yaml: {path: keys.yaml}`");
    let keys = keys.and_then(|raw| Keys::check(raw, &root.field("keys"), path));
    let models = Model::check_all(raw.models.unwrap_or_default(), &root.field("models"));
    let key_cache = KeyCache::from(raw.key_cache.unwrap_or_default());
    let limits = Defaults::check(raw.limits.unwrap_or_default(), &root.field("limits"), path);
    let metrics = Metrics::from(raw.metrics.unwrap_or_default());
    let ledger = ledger(raw.ledger, keys.as_ref(), root, path);
    let control = raw.control.map(|raw| Control::check(raw, server.as_ref(), &root.field("control"), path));
    let control = server::transposed(control);
    let tracing = server::transposed(raw.tracing.map(|raw| Tracing::check(raw, &root.field("tracing"))));
    let together = || {
        Some(Config {
            purpose,
            server: server?,
            admin,
            upstreams: upstreams?,
            keys: keys.clone()?,
            key_cache,
            limits: limits?,
            models,
            metrics,
            on_client_abort,
            logged_address,
            on_revoke,
            ledger,
            control: control?,
            tracing: tracing?,
        })
    };
    (together(), keys)
}

/// Where records wait to be sent on.
fn ledger(raw: Option<raw::Ledger>, keys: Option<&Keys>, root: &Place<'_>, path: &Path) -> PathBuf {
    if raw.is_some() && keys.is_some_and(|keys| !keys.source.takes_usage()) {
        root.field("ledger").error("the ledger is unused: records are sent to `keys.http.usage_url`, which is not set; set it or remove `ledger`");
    }
    let directory = raw.and_then(|raw| raw.directory);
    files::beside(path, directory.as_ref().map_or("data/spool", |Scalar(directory)| directory))
}

/// Where requests go. Only a plugin may leave that to the proxy within.
fn upstreams(
    raw: Option<raw::List<raw::Upstream>>,
    purpose: Purpose,
    root: &Place<'_>,
    path: &Path,
) -> Option<Vec<Arc<Upstream>>> {
    if raw.is_none() && purpose == Purpose::Plugin {
        return Some(Vec::new());
    }
    let raw = root.required("upstreams", raw, "the inference servers, each with a `name` and a `url`")?;
    Upstream::check_all(raw, &root.field("upstreams"), path)
}

/// The time that a text says, such as `10m`.
///
/// # Errors
/// When it is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    scalar::span(text)
}

/// The two sides must not share an address.
fn check_listeners(server: Option<&Server>, admin: &Admin, root: &Place<'_>) {
    let shared = server.is_some_and(|server| server.listen.contains(&admin.listen));
    if shared && admin.listen.port() != 0 {
        let message = format!("`{}` is also in `server.listen`; the two need different ports", admin.listen);
        root.field("admin").field("listen").error(message);
    }
}

fn load_keys(keys: &Keys, place: &Place<'_>, environment: &Environment<'_>) -> (Vec<KeyRecord>, Vec<ConfigError>) {
    let Source::Yaml { path } = &keys.source else { return (Vec::new(), Vec::new()) };
    let text = read::text_of(path).map_err(|why| {
        let (is_missing, path) = (!path.exists(), path.display());
        let next = if is_missing {
            format!("`keymeter keys create --file {path} --name \"My first key\"` makes it")
        } else {
            "a file without keys holds `keys: []`".to_owned()
        };
        place.error(format!("cannot read the keys in {path}: {why}; {next}"));
        Vec::new()
    });
    match text.and_then(|text| keys::parse(&text, path, keys.secret_checksum_required, environment)) {
        Ok(records) => (records, Vec::new()),
        Err(faults) => (Vec::new(), faults),
    }
}

impl From<raw::KeyCache> for KeyCache {
    fn from(raw: raw::KeyCache) -> Self {
        let or = |written: Option<Scalar<Span>>, seconds| {
            written.map_or(Duration::from_secs(seconds), |Scalar(Span(time))| time)
        };
        Self {
            capacity: raw.capacity.map_or(1_000_000, |Scalar(capacity)| capacity.get()),
            ttl: or(raw.ttl, 60),
            unknown_ttl: or(raw.unknown_ttl, 5),
            stale_for: or(raw.stale_for, 600),
        }
    }
}

impl Defaults {
    fn check(raw: raw::Limits, place: &Place<'_>, file: &Path) -> Option<Self> {
        let shared = raw.shared.map(|raw| Shared::check(raw, &place.field("shared"), file));
        let or_unlimited = |written: Option<Scalar<Limit>>| written.map_or(Limit::Unlimited, |Scalar(limit)| limit);
        let limits = Limits {
            requests_per_minute: or_unlimited(raw.requests_per_minute),
            tokens_per_minute: or_unlimited(raw.tokens_per_minute),
            concurrent_requests: or_unlimited(raw.concurrent_requests),
        };
        let mode = raw.mode.map_or_else(LimitMode::default, |Scalar(mode)| mode);
        let store = files::beside(file, raw.store.as_ref().map_or("data/limits", |Scalar(directory)| directory));
        let reservation = raw.reservation.map_or(Strategy::Expected, |Scalar(strategy)| strategy);
        Some(Self { limits, mode, store, reservation, shared: server::transposed(shared)? })
    }
}

impl From<raw::Metrics> for Metrics {
    fn from(raw: raw::Metrics) -> Self {
        Self { max_key_series: raw.max_key_series.map_or(100_000, |Scalar(series)| series) }
    }
}

#[cfg(test)]
mod tests;
