//! The inference servers that requests are passed on to.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keymeter_core::{api::Api, glob::Glob};

use super::{
    credential::Credential,
    files, raw,
    report::Place,
    scalar::{Choice, Scalar, Timeout},
    url::UpstreamUrl,
    written::{ApiKeyHeader, InjectUsage},
};

/// One inference server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// 1 to 64 characters of `a-z`, `A-Z`, `0-9`, `.`, `_` and `-`; no two upstreams share one.
    pub name: Arc<str>,
    /// Where it is.
    pub url: UpstreamUrl,
    /// The APIs that it speaks, at least one, each once.
    pub apis: Vec<Api>,
    /// The models that it serves, at least one pattern.
    pub models: Vec<Glob>,
    /// Sent instead of the client's credential; `None`: no credential is sent.
    pub api_key: Option<Credential>,
    /// How `api_key` is sent.
    pub api_key_header: ApiKeyHeader,
    /// Whether it is asked to state usage in streams.
    pub inject_usage: InjectUsage,
    /// Certificates in PEM form that are trusted instead of the system's.
    pub ca: Option<PathBuf>,
    /// For a connection to be made; not zero.
    pub connect_timeout: Duration,
    /// For each read of a response; not zero.
    pub read_timeout: Duration,
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
        let url = place.required("url", raw.url, "such as http://127.0.0.1:8000");
        let apis = apis(raw.apis, &place.field("apis"));
        let models = models(raw.models, &place.field("models"));
        let (Scalar(name), Scalar(url)) = (name?, url?);
        let ca = raw.ca.and_then(|Scalar(name)| files::pem(&place.field("ca"), file, &name, "CERTIFICATE-----"));
        Some(Self {
            name: name.0,
            url,
            apis: apis?,
            models: models?,
            api_key: raw.api_key.map(|Scalar(secret)| Credential(secret)),
            api_key_header: raw.api_key_header.map_or_else(ApiKeyHeader::default, |Scalar(header)| header),
            inject_usage: raw.inject_usage.map_or_else(InjectUsage::default, |Scalar(inject)| inject),
            ca,
            connect_timeout: raw.connect_timeout.map_or(Duration::from_secs(5), |Scalar(Timeout(time))| time),
            read_timeout: raw.read_timeout.map_or(Duration::from_mins(10), |Scalar(Timeout(time))| time),
        })
    }
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
