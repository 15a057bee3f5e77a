//! What is written in the configuration file, field by field. Every field may be absent here: what is required, and
//! what fits together, is checked afterwards, so that one fault does not hide the others.

use std::{net::SocketAddr, num::NonZeroU64, sync::Arc};

use http::HeaderName;
use ipnet::IpNet;
use serde::Deserialize;

use super::{
    endings::{ClientAbort, OnRevoke},
    keys::SecretChecksum,
    scalar::{Scalar, Size, Span, Timeout, UpstreamName},
    shared::{Percent, SharedUrl, WhenUnreachable},
    upstream::{ApiKeyHeader, InjectUsage},
    url::UpstreamUrl,
};
use crate::{
    api::Api,
    glob::Glob,
    key::Secret,
    limit::{Limit, Strategy},
    price::Rate,
};

/// An element is `None` where nothing is written or where it was faulty.
pub(super) type List<T> = Vec<Option<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "fields, `upstreams` and `keys` at least")]
pub(super) struct File {
    pub(super) server: Option<Server>,
    pub(super) admin: Option<Admin>,
    pub(super) upstreams: Option<List<Upstream>>,
    pub(super) keys: Option<Keys>,
    pub(super) key_cache: Option<KeyCache>,
    pub(super) limits: Option<Limits>,
    pub(super) models: Option<List<Model>>,
    pub(super) metrics: Option<Metrics>,
    pub(super) on_client_abort: Option<Scalar<ClientAbort>>,
    pub(super) drain_limit: Option<Scalar<Span>>,
    pub(super) on_revoke: Option<Scalar<OnRevoke>>,
    pub(super) ledger: Option<Ledger>,
    pub(super) control: Option<Control>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the field `directory`")]
pub(super) struct Ledger {
    pub(super) directory: Option<Scalar<Arc<str>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "fields, `token` at least")]
pub(super) struct Control {
    pub(super) listen: Option<Scalar<SocketAddr>>,
    pub(super) database: Option<Scalar<Arc<str>>>,
    pub(super) token: Option<Scalar<Secret>>,
    pub(super) gateway_token: Option<Scalar<Secret>>,
    pub(super) key_operations_per_hour: Option<Scalar<u64>>,
    pub(super) usage_retention: Option<Scalar<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "fields, such as `listen`")]
pub(super) struct Server {
    pub(super) listen: Option<List<Scalar<SocketAddr>>>,
    pub(super) tls: Option<Tls>,
    pub(super) threads: Option<Scalar<u64>>,
    pub(super) max_request_body: Option<Scalar<Size>>,
    pub(super) max_buffered_bodies: Option<Scalar<Size>>,
    pub(super) body_timeout: Option<Scalar<Timeout>>,
    pub(super) drain_timeout: Option<Scalar<Span>>,
    pub(super) client_address: Option<ClientAddress>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields `cert` and `key`")]
pub(super) struct Tls {
    pub(super) cert: Option<Scalar<Arc<str>>>,
    pub(super) key: Option<Scalar<Arc<str>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields `header` and `trusted`")]
pub(super) struct ClientAddress {
    pub(super) header: Option<Scalar<HeaderName>>,
    pub(super) trusted: Option<List<Scalar<IpNet>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields `listen` and `token`")]
pub(super) struct Admin {
    pub(super) listen: Option<Scalar<SocketAddr>>,
    pub(super) token: Option<Scalar<Secret>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of an upstream, `name` and `url` at least")]
pub(super) struct Upstream {
    pub(super) name: Option<Scalar<UpstreamName>>,
    pub(super) url: Option<Scalar<UpstreamUrl>>,
    pub(super) apis: Option<List<Scalar<Api>>>,
    pub(super) models: Option<List<Scalar<Glob>>>,
    pub(super) api_key: Option<Scalar<Secret>>,
    pub(super) api_key_header: Option<Scalar<ApiKeyHeader>>,
    pub(super) inject_usage: Option<Scalar<InjectUsage>>,
    pub(super) ca: Option<Scalar<Arc<str>>>,
    pub(super) connect_timeout: Option<Scalar<Timeout>>,
    pub(super) read_timeout: Option<Scalar<Timeout>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a source of keys, such as `yaml: {path: keys.yaml}`")]
pub(super) struct Keys {
    pub(super) yaml: Option<KeysYaml>,
    pub(super) http: Option<KeysHttp>,
    pub(super) secret_checksum: Option<Scalar<SecretChecksum>>,
    pub(super) ready_without_source: Option<Scalar<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the field `path`")]
pub(super) struct KeysYaml {
    pub(super) path: Option<Scalar<Arc<str>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "fields, `url` at least")]
pub(super) struct KeysHttp {
    pub(super) url: Option<Scalar<Arc<str>>>,
    pub(super) events_url: Option<Scalar<Arc<str>>>,
    pub(super) usage_url: Option<Scalar<Arc<str>>>,
    pub(super) token: Option<Scalar<Secret>>,
    pub(super) ca: Option<Scalar<Arc<str>>>,
    pub(super) timeout: Option<Scalar<Timeout>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "fields, such as `capacity`")]
pub(super) struct KeyCache {
    pub(super) capacity: Option<Scalar<NonZeroU64>>,
    pub(super) ttl: Option<Scalar<Span>>,
    pub(super) unknown_ttl: Option<Scalar<Span>>,
    pub(super) stale_for: Option<Scalar<Span>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "fields, such as `requests_per_minute`")]
pub(super) struct Limits {
    pub(super) requests_per_minute: Option<Scalar<Limit>>,
    pub(super) tokens_per_minute: Option<Scalar<Limit>>,
    pub(super) concurrent_requests: Option<Scalar<Limit>>,
    pub(super) reservation: Option<Scalar<Strategy>>,
    pub(super) shared: Option<Shared>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "fields, `url` at least")]
pub(super) struct Shared {
    pub(super) url: Option<Scalar<SharedUrl>>,
    pub(super) username: Option<Scalar<Arc<str>>>,
    pub(super) password: Option<Scalar<Secret>>,
    pub(super) sentinel_password: Option<Scalar<Secret>>,
    pub(super) ca: Option<Scalar<Arc<str>>>,
    pub(super) timeout: Option<Scalar<Timeout>>,
    pub(super) when_unreachable: Option<Scalar<WhenUnreachable>>,
    pub(super) lease: Option<Scalar<Percent>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of a model, `name` at least")]
pub(super) struct Model {
    pub(super) name: Option<Scalar<Glob>>,
    pub(super) input: Option<Scalar<Rate>>,
    pub(super) cached_input: Option<Scalar<Rate>>,
    pub(super) cache_write: Option<Scalar<Rate>>,
    pub(super) output: Option<Scalar<Rate>>,
    pub(super) audio_minute: Option<Scalar<Rate>>,
    pub(super) request: Option<Scalar<Rate>>,
    pub(super) max_output_tokens: Option<Scalar<NonZeroU64>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the field `max_key_series`")]
pub(super) struct Metrics {
    pub(super) max_key_series: Option<Scalar<usize>>,
}
