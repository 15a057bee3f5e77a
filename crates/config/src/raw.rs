//! What is written in the configuration file, field by field. Every field may be absent here: what is required, and
//! what fits together, is checked afterwards, so that one fault does not hide the others.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU64, sync::Arc};

use http::HeaderName;
use ipnet::IpNet;
use keymeter_core::{
    api::Api,
    glob::Glob,
    hosts::HostName,
    key::Secret,
    limit::{Limit, LimitMode, Strategy},
    money::Rate,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    origin::{Heartbeat, Origin},
    scalar::{ModelName, Scalar, Size, Span, Timeout, UpstreamName, Weight},
    url::UpstreamUrl,
    written::{
        AffinityBy, ApiKeyHeader, Balance, ClientAbort, CollectorUrl, InjectUsage, IssuerName, JwtAlgorithm,
        LoadPercent, LoggedAddress, OnRevoke, Percent, SampleRatio, SecretChecksum, SharedUrl, WhenUnreachable,
    },
};

/// An element is `None` where nothing is written or where it was faulty.
pub(super) type List<T> = Vec<Option<T>>;

/// The configuration of keymeter.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, `upstreams` and `keys` at least")]
#[schemars(extend("required" = ["upstreams", "keys"]))]
pub(super) struct File {
    /// Where clients connect, and what their requests may take.
    pub(super) server: Option<Server>,
    /// Where operators connect.
    pub(super) admin: Option<Admin>,
    /// The inference servers. The first that speaks a request's API and serves its model gets it.
    pub(super) upstreams: Option<List<Upstream>>,
    /// Where keys come from: exactly one of `yaml` and `http`.
    pub(super) keys: Option<Keys>,
    /// How long what a key service says is believed.
    pub(super) key_cache: Option<KeyCache>,
    /// What keys may use that set no limits of their own.
    pub(super) limits: Option<Limits>,
    /// Prices and the largest answers of models. The first entry whose name or pattern matches a model counts.
    pub(super) models: Option<List<Model>>,
    /// What is exported to Prometheus.
    pub(super) metrics: Option<Metrics>,
    /// The access log: one line of JSON a request, on standard output.
    pub(super) access_log: Option<AccessLog>,
    /// Whether the upstream finishes a response that nobody reads: `stop` ends it, `drain` lets it end.
    #[schemars(extend("default" = "stop"))]
    pub(super) on_client_abort: Option<Scalar<ClientAbort>>,
    /// How long such a response may take to end.
    #[schemars(extend("default" = "60s"))]
    pub(super) drain_limit: Option<Scalar<Span>>,
    /// What a running stream does when its key is revoked: `cut` ends it with an error, `finish` lets it end.
    #[schemars(extend("default" = "cut"))]
    pub(super) on_revoke: Option<Scalar<OnRevoke>>,
    /// Where a record of each request waits to be sent; with `keys.http.usage_url`.
    pub(super) ledger: Option<Ledger>,
    /// A control plane, which makes keys, teams and wallets, in this process.
    pub(super) control: Option<Control>,
    /// Where traces of requests are sent; without it there are none.
    pub(super) tracing: Option<Tracing>,
}

/// Traces of requests, by OpenTelemetry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, `otlp` at least")]
pub(super) struct Tracing {
    /// The collector, which takes OTLP over gRPC, such as `http://127.0.0.1:4317` or `https://…`.
    #[schemars(required)]
    pub(super) otlp: Option<Scalar<CollectorUrl>>,
    /// Of the requests that come without a `traceparent`, the part that is traced; one with it is traced if its caller's is.
    #[schemars(extend("default" = "100%"))]
    pub(super) sample: Option<Scalar<SampleRatio>>,
}

/// The ledger.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the field `directory`")]
pub(super) struct Ledger {
    /// Where records wait until they are acknowledged: a directory of this machine's own disk.
    #[schemars(extend("default" = "data/spool"))]
    pub(super) directory: Option<Scalar<Arc<str>>>,
}

/// The control plane.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, such as `token`, or `{}`")]
pub(super) struct Control {
    /// Its address and port.
    #[schemars(extend("default" = "127.0.0.1:9091"))]
    pub(super) listen: Option<Scalar<SocketAddr>>,
    /// Names without a port that `Host` may say where `listen` is loopback, beside `localhost` and loopback addresses: such as
    /// the one under which a reverse proxy of this machine shows the page.
    #[schemars(extend("default" = []))]
    pub(super) hosts: Option<List<Scalar<HostName>>>,
    /// `sqlite://path`, beside the configuration, or `postgres://user@host/name` where several machines share it.
    #[schemars(extend("default" = "sqlite://data/keymeter.db"))]
    pub(super) database: Option<Scalar<Arc<str>>>,
    /// The operator's token, of at least 32 characters; `openssl rand -hex 32` makes one. Without it, one is made at the first
    /// start and kept in `operator.token` beside the SQLite database; with PostgreSQL it is required.
    pub(super) token: Option<Scalar<Secret>>,
    /// The gateways' token, of at least 32 characters: for look-ups, events and usage records, and nothing else. Without it, one is
    /// made beside the SQLite database, which the gateway in the same process uses where `keys.http` has no `token`.
    pub(super) gateway_token: Option<Scalar<Secret>>,
    /// Keys that each user may make and secrets that they may regenerate in an hour.
    #[schemars(extend("default" = 15))]
    pub(super) key_operations_per_hour: Option<Scalar<u64>>,
    /// Everything else that each user may change in an hour, refused attempts included.
    #[schemars(extend("default" = 600))]
    pub(super) changes_per_hour: Option<Scalar<u64>>,
    /// Where the client's address stands when a proxy is in front; without it, the peer's address counts.
    pub(super) client_address: Option<ClientAddress>,
    /// Where programs reach the gateway, such as `https://llm.example`: shown with each new secret. Without it, where `server.listen`
    /// says.
    pub(super) gateway_url: Option<Scalar<Arc<str>>>,
    /// Where browsers reach the page, such as `https://keys.example`; needed with `oidc`. Its host is one of `hosts`.
    pub(super) page_url: Option<Scalar<Arc<str>>>,
    /// By whom people sign in to the page, beside tokens (OpenID Connect).
    pub(super) oidc: Option<ControlOidc>,
    /// How long records of single requests are kept; their sums by the hour stay.
    #[schemars(extend("default" = "8760h"))]
    pub(super) usage_retention: Option<Scalar<Span>>,
}

/// An issuer by which people sign in to the control plane's page.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of an issuer, `issuer` and `client_id` at least")]
pub(super) struct ControlOidc {
    /// The issuer's URL, to the letter as its tokens say it as `iss`. What it says of itself is below, at
    /// `/.well-known/openid-configuration`.
    #[schemars(required)]
    pub(super) issuer: Option<Scalar<IssuerName>>,
    /// What the issuer calls this control plane.
    #[schemars(required)]
    pub(super) client_id: Option<Scalar<Arc<str>>>,
    /// By which the issuer knows it. Without one it is a public client, which PKCE alone protects.
    pub(super) client_secret: Option<Scalar<Secret>>,
    /// The claim whose value says who signs in.
    #[schemars(extend("default" = "email"))]
    pub(super) claim: Option<Scalar<Arc<str>>>,
    /// The claim's values that sign in as the operator.
    #[schemars(extend("default" = []))]
    pub(super) operators: Option<List<Scalar<Arc<str>>>>,
    /// Whether somebody whose value is no user's is made one.
    #[schemars(extend("default" = false))]
    pub(super) create_users: Option<Scalar<bool>>,
    /// What is asked for, parted by spaces.
    #[schemars(extend("default" = "openid email profile"))]
    pub(super) scopes: Option<Scalar<Arc<str>>>,
    /// Certificates in PEM form that are trusted for the issuer in place of the system's.
    pub(super) ca: Option<Scalar<Arc<str>>>,
}

/// Where clients connect, and what their requests may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, such as `listen`")]
pub(super) struct Server {
    /// Addresses and ports; HTTP/1.1 and HTTP/2 without TLS, and with `tls` both by ALPN.
    #[schemars(extend("default" = ["127.0.0.1:8080"]))]
    pub(super) listen: Option<List<Scalar<SocketAddr>>>,
    /// A certificate, for TLS 1.2 and 1.3. Without it there is no TLS.
    pub(super) tls: Option<Tls>,
    /// Threads that serve requests; 0: one for each core.
    #[schemars(extend("default" = 0))]
    pub(super) threads: Option<Scalar<u64>>,
    /// The largest body of a request.
    #[schemars(extend("default" = "32MiB"))]
    pub(super) max_request_body: Option<Scalar<Size>>,
    /// The most memory that bodies may take, of all requests together, as their bytes arrive; over it a request gets 503. One key gets a quarter of it at most, or one body.
    #[schemars(extend("default" = "1GiB"))]
    pub(super) max_buffered_bodies: Option<Scalar<Size>>,
    /// How long a body may take to come, in total.
    #[schemars(extend("default" = "60s"))]
    pub(super) body_timeout: Option<Scalar<Timeout>>,
    /// How long a request's head may take to come: from the connection's start, TLS included, or from the first byte of a
    /// further request.
    #[schemars(extend("default" = "10s"))]
    pub(super) head_timeout: Option<Scalar<Timeout>>,
    /// How long a connection stays open between requests; with HTTP/2, without a stream.
    #[schemars(extend("default" = "75s"))]
    pub(super) keep_alive: Option<Scalar<Timeout>>,
    /// How long a client may read nothing of what is there for it.
    #[schemars(extend("default" = "60s"))]
    pub(super) write_timeout: Option<Scalar<Timeout>>,
    /// The most connections of clients at once; 0: nine tenths of the file descriptors.
    #[schemars(extend("default" = 0))]
    pub(super) max_connections: Option<Scalar<u64>>,
    /// How long running responses may take after SIGTERM.
    #[schemars(extend("default" = "10m"))]
    pub(super) drain_timeout: Option<Scalar<Span>>,
    /// A Unix socket at which a new process takes over this one's sockets (`serve --upgrade`); without it, none can.
    pub(super) upgrade_socket: Option<Scalar<Arc<str>>>,
    /// Where the client's address stands when a load balancer is in front; without it, the peer's address counts.
    pub(super) client_address: Option<ClientAddress>,
    /// Whose pages may call from a browser; without it, nobody's.
    pub(super) cors: Option<Cors>,
    /// After how long a silence a stream of server-sent events gets a comment, so that no proxy on the way takes it for dead: `off`, or at least 1s. Where it is on, exchanges with upstreams run apart from their clients.
    #[schemars(extend("default" = "off"))]
    pub(super) heartbeat: Option<Scalar<Heartbeat>>,
}

/// Pages that may call from a browser.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields `origins` and perhaps `max_age`")]
pub(super) struct Cors {
    /// Where the pages are from, as browsers write it: `https://app.example`; `*`: anywhere.
    #[schemars(required)]
    pub(super) origins: Option<List<Scalar<Origin>>>,
    /// How long a browser may remember what it was told.
    #[schemars(extend("default" = "10m"))]
    pub(super) max_age: Option<Scalar<Span>>,
}

/// A certificate and its key, in PEM form.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields `cert` and `key`")]
pub(super) struct Tls {
    /// The certificate, and those that it depends on.
    #[schemars(required)]
    pub(super) cert: Option<Scalar<Arc<str>>>,
    /// Its private key.
    #[schemars(required)]
    pub(super) key: Option<Scalar<Arc<str>>>,
}

/// Where the client's address stands.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields `header` and `trusted`")]
pub(super) struct ClientAddress {
    /// A header such as x-forwarded-for.
    #[schemars(required)]
    pub(super) header: Option<Scalar<HeaderName>>,
    /// The networks of the load balancers whose word counts.
    #[schemars(required)]
    pub(super) trusted: Option<List<Scalar<IpNet>>>,
}

/// Where operators connect.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, such as `listen`")]
pub(super) struct Admin {
    /// Its address and port: /metrics, /-/healthy, /-/ready, POST /-/reload, POST /-/keys/invalidate.
    #[schemars(extend("default" = "127.0.0.1:9090"))]
    pub(super) listen: Option<Scalar<SocketAddr>>,
    /// For the POSTs, as `Authorization: Bearer`, at least 32 characters; required where `listen` is not loopback.
    pub(super) token: Option<Scalar<Secret>>,
    /// Names without a port that `Host` may say where `listen` is loopback, beside `localhost` and loopback addresses.
    #[schemars(extend("default" = []))]
    pub(super) hosts: Option<List<Scalar<HostName>>>,
}

/// An inference server, or several that serve the same.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of an upstream, `name` and `url` at least")]
#[schemars(extend("oneOf" = [{"required": ["url"]}, {"required": ["replicas"]}]))]
pub(super) struct Upstream {
    /// What it is called in metrics and logs: 1 to 64 characters of a-z, A-Z, 0-9, `.`, `_` and `-`.
    #[schemars(required)]
    pub(super) name: Option<Scalar<UpstreamName>>,
    /// Where it is, if it is one server. Its path is put before the client's; a /v1 at the seam stands once.
    pub(super) url: Option<Scalar<UpstreamUrl>>,
    /// Where it is, if it is several.
    pub(super) replicas: Option<List<Replica>>,
    /// The APIs that it speaks.
    #[schemars(extend("default" = ["openai"]))]
    pub(super) apis: Option<List<Scalar<Api>>>,
    /// The models that it serves: names, or patterns with `*`.
    #[schemars(extend("default" = ["*"]))]
    pub(super) models: Option<List<Scalar<Glob>>>,
    /// Our credential for it, sent in place of the client's; without it none is sent.
    pub(super) api_key: Option<Scalar<Secret>>,
    /// The header that bears it; `authorization` is `Authorization: Bearer`.
    #[schemars(extend("default" = "authorization"))]
    pub(super) api_key_header: Option<Scalar<ApiKeyHeader>>,
    /// Whether streams are made to state usage: `auto` until the upstream refuses that.
    #[schemars(extend("default" = "auto"))]
    pub(super) inject_usage: Option<Scalar<InjectUsage>>,
    /// Certificates in PEM form that are trusted in place of the system's.
    pub(super) ca: Option<Scalar<Arc<str>>>,
    /// How long a connection may take to be made.
    #[schemars(extend("default" = "5s"))]
    pub(super) connect_timeout: Option<Scalar<Timeout>>,
    /// How long it may take to go on with a response.
    #[schemars(extend("default" = "10m"))]
    pub(super) read_timeout: Option<Scalar<Timeout>>,
    /// How long the head of a response may take; at most `read_timeout`, which it is by default.
    #[schemars(extend("default" = "10m"))]
    pub(super) first_byte_timeout: Option<Scalar<Timeout>>,
    /// How often the addresses of a host name are asked for again. Each of several is a replica.
    #[schemars(extend("default" = "5s"))]
    pub(super) resolve: Option<Scalar<Timeout>>,
    /// By what a replica is chosen: the tokens that its running requests were planned to take, their number, or in turn.
    #[schemars(extend("default" = "least_tokens"))]
    pub(super) balance: Option<Scalar<Balance>>,
    /// What keeps requests at one replica.
    pub(super) affinity: Option<Affinity>,
    /// How replicas are checked. An upstream of one address is checked where this is written.
    pub(super) health: Option<Health>,
    /// When a replica is ejected whose requests fail.
    pub(super) eject: Option<Eject>,
    /// How often one request is tried at this upstream, each time at another replica.
    #[schemars(extend("default" = 3))]
    pub(super) attempts: Option<Scalar<NonZeroU64>>,
    /// How many requests a replica runs at once, or `unlimited`.
    #[schemars(extend("default" = "unlimited"))]
    pub(super) max_in_flight: Option<Scalar<Limit>>,
    /// How requests wait while every replica has `max_in_flight`.
    pub(super) queue: Option<Queue>,
    /// Names of models by which clients ask, and what the upstream calls them.
    pub(super) rename: Option<BTreeMap<String, Option<Scalar<ModelName>>>>,
    /// Whether the key's priority is written into bodies, in place of the client's, as vLLM reads it.
    #[schemars(extend("default" = false))]
    pub(super) send_priority: Option<Scalar<bool>>,
}

/// One of an upstream's servers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of a replica, `url` at least")]
pub(super) struct Replica {
    /// Where it is.
    #[schemars(required)]
    pub(super) url: Option<Scalar<UpstreamUrl>>,
    /// What it is called in metrics and logs; its host and port if nothing is written.
    pub(super) name: Option<Scalar<UpstreamName>>,
    /// How much of the load it takes beside the others.
    #[schemars(extend("default" = 1))]
    pub(super) weight: Option<Scalar<Weight>>,
    /// In place of the upstream's.
    pub(super) max_in_flight: Option<Scalar<Limit>>,
    /// In place of the upstream's.
    pub(super) api_key: Option<Scalar<Secret>>,
    /// In place of the upstream's.
    pub(super) ca: Option<Scalar<Arc<str>>>,
    /// In place of the upstream's.
    pub(super) rename: Option<BTreeMap<String, Option<Scalar<ModelName>>>>,
}

/// What keeps requests at one replica.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of an affinity, `by` at least")]
pub(super) struct Affinity {
    /// What requests have in common that go to one replica: `prefix` (the model and the beginning of the prompt, through the first
    /// user message), `key`, or `header:` and a name.
    #[schemars(required)]
    pub(super) by: Option<Scalar<AffinityBy>>,
    /// How much of the mean load for its weight that replica may have before the next one is taken.
    #[schemars(extend("default" = "125%"))]
    pub(super) load: Option<Scalar<LoadPercent>>,
}

/// How replicas are checked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of health checks")]
pub(super) struct Health {
    /// What is asked for, and must be answered with a 2xx; without it the port must take a connection.
    pub(super) path: Option<Scalar<Arc<str>>>,
    /// Whether the replica's own /v1/models must list a model that the upstream serves.
    #[schemars(extend("default" = false))]
    pub(super) models: Option<Scalar<bool>>,
    /// From one check to the next.
    #[schemars(extend("default" = "5s"))]
    pub(super) interval: Option<Scalar<Timeout>>,
    /// How long one check may take.
    #[schemars(extend("default" = "2s"))]
    pub(super) timeout: Option<Scalar<Timeout>>,
    /// So many failures in a row make it down.
    #[schemars(extend("default" = 3))]
    pub(super) down_after: Option<Scalar<NonZeroU64>>,
    /// So many successes in a row make it up.
    #[schemars(extend("default" = 2))]
    pub(super) up_after: Option<Scalar<NonZeroU64>>,
}

/// When a replica is ejected.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields `after` and `for`")]
pub(super) struct Eject {
    /// After so many failures of real requests in a row, of at least two keys.
    #[schemars(extend("default" = 5))]
    pub(super) after: Option<Scalar<NonZeroU64>>,
    /// For so long, and twice as long each further time, up to ten times.
    #[serde(rename = "for")]
    #[schemars(extend("default" = "30s"))]
    pub(super) lasts: Option<Scalar<Timeout>>,
}

/// How requests wait.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields `length` and `timeout`")]
pub(super) struct Queue {
    /// So many wait at most; 0: none.
    #[schemars(extend("default" = 1000))]
    pub(super) length: Option<Scalar<usize>>,
    /// A request waits for so long at most.
    #[schemars(extend("default" = "10s"))]
    pub(super) timeout: Option<Scalar<Span>>,
}

/// Where keys come from: exactly one of `yaml` and `http`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a source of keys, such as `yaml: {path: keys.yaml}`")]
#[schemars(extend("oneOf" = [{"required": ["yaml"]}, {"required": ["http"]}]))]
pub(super) struct Keys {
    /// A file of keys.
    pub(super) yaml: Option<KeysYaml>,
    /// A key service, or keymeter's own control plane.
    pub(super) http: Option<KeysHttp>,
    /// Issuers whose tokens are taken beside secrets.
    #[schemars(extend("default" = []))]
    pub(super) jwt: Option<List<KeysJwt>>,
    /// `required`: all secrets are ones that keymeter made, and a typo is refused without a look-up.
    #[schemars(extend("default" = "off"))]
    pub(super) secret_checksum: Option<Scalar<SecretChecksum>>,
    /// Whether /-/ready says yes before the key service has answered for the first time.
    #[schemars(extend("default" = false))]
    pub(super) ready_without_source: Option<Scalar<bool>>,
}

/// A file of keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the field `path`")]
pub(super) struct KeysYaml {
    /// The file, beside the configuration.
    #[schemars(required)]
    pub(super) path: Option<Scalar<Arc<str>>>,
}

/// A key service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, `url` at least")]
pub(super) struct KeysHttp {
    /// Where a key is asked for; `{hash}` stands for the SHA-256 of its secret.
    #[schemars(required)]
    pub(super) url: Option<Scalar<Arc<str>>>,
    /// Where the service tells of changes, as server-sent events.
    pub(super) events_url: Option<Scalar<Arc<str>>>,
    /// Where a record of each request is sent.
    pub(super) usage_url: Option<Scalar<Arc<str>>>,
    /// Our token, sent as `Authorization: Bearer`.
    pub(super) token: Option<Scalar<Secret>>,
    /// Certificates in PEM form that are trusted in place of the system's.
    pub(super) ca: Option<Scalar<Arc<str>>>,
    /// How long an answer may take.
    #[schemars(extend("default" = "2s"))]
    pub(super) timeout: Option<Scalar<Timeout>>,
}

/// An issuer of tokens (JWT), which clients send as `Authorization: Bearer` in place of a secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "the fields of an issuer, `issuer`, `audience`, `jwks` and `algorithms` at least"
)]
pub(super) struct KeysJwt {
    /// What its tokens say as `iss`, to the letter.
    #[schemars(required)]
    pub(super) issuer: Option<Scalar<IssuerName>>,
    /// What its tokens must say as `aud`, or say among others.
    #[schemars(required)]
    pub(super) audience: Option<Scalar<Arc<str>>>,
    /// Where its public keys are, as a JSON Web Key Set.
    #[schemars(required)]
    pub(super) jwks: Option<Scalar<Arc<str>>>,
    /// The claim whose value names a token's key; `keymeter keys hash --jwt-issuer` makes the key's `hash` of it.
    #[schemars(extend("default" = "sub"))]
    pub(super) claim: Option<Scalar<Arc<str>>>,
    /// What its tokens may be signed with.
    #[schemars(required)]
    pub(super) algorithms: Option<List<Scalar<JwtAlgorithm>>>,
    /// Certificates in PEM form that are trusted for `jwks` in place of the system's.
    pub(super) ca: Option<Scalar<Arc<str>>>,
}

/// How long what a key service says is believed.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, such as `capacity`")]
pub(super) struct KeyCache {
    /// Keys that are kept.
    #[schemars(extend("default" = 1_000_000))]
    pub(super) capacity: Option<Scalar<NonZeroU64>>,
    /// How long a key is believed; the service may say less.
    #[schemars(extend("default" = "60s"))]
    pub(super) ttl: Option<Scalar<Span>>,
    /// How long it is believed that there is no such key.
    #[schemars(extend("default" = "5s"))]
    pub(super) unknown_ttl: Option<Scalar<Span>>,
    /// How much longer a key is served while the service fails.
    #[schemars(extend("default" = "10m"))]
    pub(super) stale_for: Option<Scalar<Span>>,
}

/// What keys may use that set no limits of their own.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, such as `requests_per_minute`")]
pub(super) struct Limits {
    /// Requests that are admitted in any 60 seconds.
    #[schemars(extend("default" = "unlimited"))]
    pub(super) requests_per_minute: Option<Scalar<Limit>>,
    /// Tokens that are reserved in any 60 seconds.
    #[schemars(extend("default" = "unlimited"))]
    pub(super) tokens_per_minute: Option<Scalar<Limit>>,
    /// Requests that run at once.
    #[schemars(extend("default" = "unlimited"))]
    pub(super) concurrent_requests: Option<Scalar<Limit>>,
    /// `observe`: nothing is refused over limits, quotas or balance; what would have been is counted and logged. What a key says
    /// itself counts before this.
    #[schemars(extend("default" = "enforce"))]
    pub(super) mode: Option<Scalar<LimitMode>>,
    /// Where what is used of quotas is kept: a directory of this machine's own disk.
    #[schemars(extend("default" = "data/limits"))]
    pub(super) store: Option<Scalar<Arc<str>>>,
    /// What a request reserves for its answer: what answers lately took (`expected`), or its maximum (`worst_case`).
    #[schemars(extend("default" = "expected"))]
    pub(super) reservation: Option<Scalar<Strategy>>,
    /// A server on which several gateways count one limit together.
    pub(super) shared: Option<Shared>,
}

/// A server on which several gateways count one limit together: Redis or Valkey.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "fields, `url` at least")]
pub(super) struct Shared {
    /// Such as `redis://127.0.0.1:6379`, `rediss://…`, `redis-sentinel://…` or `redis-cluster://…`.
    #[schemars(required)]
    pub(super) url: Option<Scalar<SharedUrl>>,
    /// The user.
    pub(super) username: Option<Scalar<Arc<str>>>,
    /// The user's password.
    pub(super) password: Option<Scalar<Secret>>,
    /// The sentinels' password.
    pub(super) sentinel_password: Option<Scalar<Secret>>,
    /// Certificates in PEM form that are trusted in place of the system's.
    pub(super) ca: Option<Scalar<Arc<str>>>,
    /// How long its silence is waited for before it counts as away.
    #[schemars(extend("default" = "50ms"))]
    pub(super) timeout: Option<Scalar<Timeout>>,
    /// Without it: each gateway allows its share, or refuses.
    #[schemars(extend("default" = "local_share"))]
    pub(super) when_unreachable: Option<Scalar<WhenUnreachable>>,
    /// The part of a busy key's minute that a gateway takes in advance.
    #[schemars(extend("default" = "0%"))]
    pub(super) lease: Option<Scalar<Percent>>,
}

/// A model's prices, in US dollars for a million tokens, and its largest answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the fields of a model, `name` at least")]
pub(super) struct Model {
    /// Its name, or a pattern with `*`.
    #[schemars(required)]
    pub(super) name: Option<Scalar<Glob>>,
    /// Of the prompt, from no cache.
    pub(super) input: Option<Scalar<Rate>>,
    /// Of the prompt, read from a cache; without it, as `input`.
    pub(super) cached_input: Option<Scalar<Rate>>,
    /// Of the prompt, written to a cache; without it, as `input`.
    pub(super) cache_write: Option<Scalar<Rate>>,
    /// Of the prompt, written to a cache for an hour; without it, 1.6 times `cache_write`, or without that as `input`.
    pub(super) cache_write_1h: Option<Scalar<Rate>>,
    /// Of the answer, reasoning included.
    pub(super) output: Option<Scalar<Rate>>,
    /// For a minute of audio.
    pub(super) audio_minute: Option<Scalar<Rate>>,
    /// For a request.
    pub(super) request: Option<Scalar<Rate>>,
    /// The most tokens that an answer has.
    pub(super) max_output_tokens: Option<Scalar<NonZeroU64>>,
}

/// The access log.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the field `client_address`")]
pub(super) struct AccessLog {
    /// How much of the client's address a line tells: `full`, its `network` (24 bits of IPv4, 48 of IPv6), or nothing, with `off`.
    #[schemars(extend("default" = "full"))]
    pub(super) client_address: Option<Scalar<LoggedAddress>>,
}

/// What is exported to Prometheus.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "the field `max_key_series`")]
pub(super) struct Metrics {
    /// Keys that have series of their own; the others share `key_id="other"`.
    #[schemars(extend("default" = 100_000))]
    pub(super) max_key_series: Option<Scalar<usize>>,
}
