//! The inference servers that requests are passed on to.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keymeter_core::{api::Api, glob::Glob, limit::Limit, model_name};

use super::{
    credential::Credential,
    files,
    pool::{PoolSettings, Rename, WrittenPool},
    raw,
    report::Place,
    scalar::{Choice, ModelName, Scalar, Timeout, UpstreamName, Weight},
    url::UpstreamUrl,
    written::{ApiKeyHeader, InjectUsage},
};

/// One or several inference servers that serve the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// 1 to 64 characters of `a-z`, `A-Z`, `0-9`, `.`, `_` and `-`; no two upstreams share one.
    pub name: Arc<str>,
    /// Where it is: at least one, no two of a name.
    pub replicas: Vec<Arc<Replica>>,
    /// The APIs that it speaks, at least one, each once.
    pub apis: Vec<Api>,
    /// The models that it serves, at least one pattern.
    pub models: Vec<Glob>,
    /// How credentials are sent.
    pub api_key_header: ApiKeyHeader,
    /// Whether it is asked to state usage in streams.
    pub inject_usage: InjectUsage,
    /// For a connection to be made; not zero.
    pub connect_timeout: Duration,
    /// For each read of a response; not zero.
    pub read_timeout: Duration,
    /// How its replicas are used.
    pub pool: PoolSettings,
}

/// One server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// As written, or the host and the port.
    pub name: Arc<str>,
    /// Where it is.
    pub url: UpstreamUrl,
    /// How much of the load it takes beside the others; not zero.
    pub weight: u32,
    /// How many requests it runs at once.
    pub max_in_flight: Limit,
    /// Sent instead of the client's credential; `None`: no credential is sent.
    pub api_key: Option<Credential>,
    /// Certificates in PEM form that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// What it calls the models that clients call otherwise.
    pub rename: Rename,
}

/// What holds for a replica that says nothing else.
struct Usual {
    max_in_flight: Limit,
    api_key: Option<Credential>,
    ca: Option<PathBuf>,
    rename: Rename,
}

impl Usual {
    fn replica(self, name: Arc<str>, url: UpstreamUrl) -> Replica {
        let Self { max_in_flight, api_key, ca, rename } = self;
        Replica { name, url, weight: 1, max_in_flight, api_key, ca, rename }
    }
}

impl Upstream {
    /// At least one, no two of a name.
    pub(super) fn check_all(raw: raw::List<raw::Upstream>, place: &Place<'_>, file: &Path) -> Option<Vec<Arc<Self>>> {
        if raw.is_empty() {
            place.error("at least one upstream is needed, with a `name` and a `url`");
        }
        let mut lines = HashMap::new();
        let mut upstreams = Vec::with_capacity(raw.len());
        for (place, raw) in place.elements(raw) {
            let upstream = Self::check(raw, &place, file);
            let Some(upstream) = upstream else { continue };
            let of_name = place.field("name");
            if let Some(line) = lines.insert(upstream.name.clone(), of_name.line()) {
                of_name.error(format!("the name `{}` is already used on line {line}", upstream.name));
            }
            upstreams.push(Arc::new(upstream));
        }
        (!upstreams.is_empty()).then_some(upstreams)
    }

    fn check(raw: raw::Upstream, place: &Place<'_>, file: &Path) -> Option<Self> {
        let name = place.required("name", raw.name, "what the upstream is called in metrics and logs");
        let apis = apis(raw.apis, &place.field("apis"));
        let models = models(raw.models, &place.field("models"));
        let rename = raw.rename.map(|raw| rename(raw, &place.field("rename")));
        let usual = Usual {
            max_in_flight: raw.max_in_flight.map_or(Limit::Unlimited, |Scalar(limit)| limit),
            api_key: raw.api_key.map(|Scalar(secret)| Credential(secret)),
            ca: ca(raw.ca, place, file),
            rename: rename.unwrap_or_default(),
        };
        let replicas = replicas(raw.url, raw.replicas, usual, place, file);
        let read_timeout = raw.read_timeout.map_or(Duration::from_mins(10), |Scalar(Timeout(time))| time);
        let written = WrittenPool {
            resolve: raw.resolve,
            balance: raw.balance,
            affinity: raw.affinity,
            health: raw.health,
            eject: raw.eject,
            first_byte_timeout: raw.first_byte_timeout,
            attempts: raw.attempts,
            queue: raw.queue,
            send_priority: raw.send_priority,
        };
        let pool = PoolSettings::check(written, place, read_timeout);
        Some(Self {
            name: name?.0.0,
            replicas: replicas?,
            apis: apis?,
            models: models?,
            api_key_header: raw.api_key_header.map_or_else(ApiKeyHeader::default, |Scalar(header)| header),
            inject_usage: raw.inject_usage.map_or_else(InjectUsage::default, |Scalar(inject)| inject),
            connect_timeout: raw.connect_timeout.map_or(Duration::from_secs(5), |Scalar(Timeout(time))| time),
            read_timeout,
            pool: pool?,
        })
    }
}

/// The servers of an upstream: one `url`, or `replicas`. What a replica does not say is as `usual`.
fn replicas(
    url: Option<Scalar<UpstreamUrl>>,
    written: Option<raw::List<raw::Replica>>,
    usual: Usual,
    place: &Place<'_>,
    file: &Path,
) -> Option<Vec<Arc<Replica>>> {
    let Some(written) = written else {
        let Scalar(url) = place.required("url", url, "such as http://127.0.0.1:8000; or `replicas`, a list of them")?;
        return Some(vec![Arc::new(usual.replica(default_name(&url), url))]);
    };
    if url.is_some() {
        place.field("replicas").error("an upstream has a `url` or `replicas`, and not both");
        return None;
    }
    if written.is_empty() {
        place.field("replicas").error("at least one replica is needed, with a `url`");
        return None;
    }
    let mut lines = HashMap::new();
    let mut replicas = Vec::with_capacity(written.len());
    for (place, raw) in place.field("replicas").elements(written) {
        let Some(replica) = replica(raw, &usual, &place, file) else { continue };
        if let Some(line) = lines.insert(replica.name.clone(), place.line()) {
            place.field("name").error(format!("the replica on line {line} is called `{}` too", replica.name));
        }
        replicas.push(Arc::new(replica));
    }
    (!replicas.is_empty()).then_some(replicas)
}

fn replica(raw: raw::Replica, usual: &Usual, place: &Place<'_>, file: &Path) -> Option<Replica> {
    let Scalar(url) = place.required("url", raw.url, "such as http://10.0.0.1:8000")?;
    let name = raw.name.map_or_else(|| default_name(&url), |Scalar(UpstreamName(name))| name);
    Some(Replica {
        name,
        url,
        weight: raw.weight.map_or(1, |Scalar(Weight(weight))| weight),
        max_in_flight: raw.max_in_flight.map_or(usual.max_in_flight, |Scalar(limit)| limit),
        api_key: raw.api_key.map(|Scalar(secret)| Credential(secret)).or_else(|| usual.api_key.clone()),
        ca: ca(raw.ca, place, file).or_else(|| usual.ca.clone()),
        rename: raw.rename.map_or_else(|| usual.rename.clone(), |raw| rename(raw, &place.field("rename"))),
    })
}

/// The host and the port.
fn default_name(url: &UpstreamUrl) -> Arc<str> {
    if url.host.contains(':') { format!("[{}]:{}", url.host, url.port) } else { format!("{}:{}", url.host, url.port) }
        .into()
}

fn ca(written: Option<Scalar<Arc<str>>>, place: &Place<'_>, file: &Path) -> Option<PathBuf> {
    written.and_then(|Scalar(name)| files::pem(&place.field("ca"), file, &name, "CERTIFICATE-----"))
}

fn rename(written: BTreeMap<String, Option<Scalar<ModelName>>>, place: &Place<'_>) -> Rename {
    let mut rename = Rename::new();
    for (name, other) in written {
        let place = place.field(&name);
        if !model_name::is_valid(&name) {
            place.fault_of_name("a model's name has 1 to 256 bytes and no control characters");
        }
        match other {
            Some(Scalar(ModelName(other))) => drop(rename.insert(name.into(), other)),
            None if place.was_dropped() => {}
            None => place.error("the name by which the upstream knows the model is missing"),
        }
    }
    rename
}

fn apis(written: Option<raw::List<Scalar<Api>>>, place: &Place<'_>) -> Option<Vec<Api>> {
    let Some(written) = written else { return Some(vec![Api::OpenAi]) };
    if written.is_empty() {
        let names: Vec<_> = Api::CHOICES.iter().map(|(name, _)| *name).collect();
        place.error(format!("at least one API is needed; accepted: {}", names.join(", ")));
        return None;
    }
    let mut apis = Vec::with_capacity(written.len());
    for (place, Scalar(api)) in place.elements(written) {
        if apis.contains(&api) {
            place.error("this API is already in the list");
        }
        apis.push(api);
    }
    Some(apis)
}

fn models(written: Option<raw::List<Scalar<Glob>>>, place: &Place<'_>) -> Option<Vec<Glob>> {
    let Some(written) = written else { return Some(vec![Glob::new("*")]) };
    if written.is_empty() {
        place.error("at least one model or pattern is needed; without the field, all models are served");
        return None;
    }
    Some(place.elements(written).into_iter().map(|(_, Scalar(glob))| glob).collect())
}
