//! The plugin: metering and limits for any Pingora proxy, with the services that its server runs beside it. The gateway is built
//! from the same parts.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use keymeter_config::{self as config, ConfigError, KeyCache, Loaded, Purpose};
use keymeter_core::clock::Now;
use pingora::{
    server::ShutdownWatch,
    services::{
        ServiceWithDependents,
        background::{BackgroundService, background_service},
        listening::Service as Listening,
    },
};
use thiserror::Error;

use crate::{
    accounting::{AccountingClient, Ledger, LedgerError, Sender},
    admission::{Gate, Settings},
    connection::{Connections, app::TimedApp, descriptors::most_of_admin},
    drain::drain,
    keys::{
        HttpSource, Resolver, YamlSource,
        push::Push,
        service::{ClientError, ServiceClient},
    },
    limits::{
        account::Accounts,
        kept::KeptQuotas,
        shared::{SharedLimits, SharedLimitsError},
        store::StoreError,
    },
    observe::{
        access_log::AccessLog,
        metrics::Metrics,
        traces::{LAST_SPANS, Traces, TracesError},
    },
    proxy::Gated,
    server::{
        admin::Admin,
        reload::{Reloader, Watcher},
    },
    upstream::Pools,
};

/// Metering and limits with their keys and metrics. One plugin may serve several proxies of a process: what a key uses through
/// one of them counts for all.
///
/// ```no_run
/// # fn proxy() -> impl pingora::proxy::ProxyHttp<CTX = ()> + Send + Sync {
/// #     keymeter::server::gateway::Gateway::default()
/// # }
/// use keymeter::{AccessLog, Plugin};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = pingora::server::Server::new(None)?;
/// let plugin = Plugin::load("keymeter.yaml", AccessLog::to(std::io::stdout())?)?;
/// let mut service = pingora::proxy::http_proxy_service(&server.configuration, plugin.gated(proxy()));
/// service.add_tcp("127.0.0.1:8080");
/// server.add_service(service);
/// server.add_services(plugin.services());
/// server.run_forever()
/// # }
/// ```
pub struct Plugin {
    gate: Arc<Gate>,
    pools: Pools,
    reloader: Arc<Reloader>,
    resolver: Arc<Resolver>,
    accounts: Arc<Accounts>,
    source: Source,
    sender: Option<Arc<Sender>>,
    shared: Option<Arc<SharedLimits>>,
}

/// The source of keys, with what keeps it up to date.
#[derive(Clone)]
enum Source {
    Yaml(Arc<YamlSource>),
    Http(Arc<Push>),
}

impl Plugin {
    /// Loads a plugin's configuration and its keys. The configuration needs no `upstreams`, since the proxy may choose them
    /// itself: then all requests take one route that is called `upstream`. Its `server.listen` is not used; its bounds on
    /// bodies are.
    ///
    /// # Errors
    /// All faults of the files.
    pub fn load(path: impl Into<PathBuf>, log: AccessLog) -> Result<Self, PluginError> {
        let path = path.into();
        let loaded = config::load_for(Purpose::Plugin, &path, &config::environment);
        Self::new(loaded.map_err(PluginError::Configuration)?, path, log)
    }

    /// A plugin of a loaded configuration. A reload loads from `path`.
    ///
    /// # Errors
    /// When the key service's certificates cannot be used.
    pub fn new(loaded: Loaded, path: PathBuf, log: AccessLog) -> Result<Self, PluginError> {
        let Loaded { config, keys, files } = loaded;
        let metrics = Arc::new(Metrics::new(config.metrics.max_key_series)?);
        let kept = Arc::new(KeptQuotas::new(config.limits.store.clone(), config.limits.shared.is_some()));
        let has_quotas = keys.iter().any(|record| record.terms.as_ref().is_some_and(|terms| terms.have_quotas()));
        kept.open_at_start(has_quotas, Now::read())?;
        let accounts = Arc::new(Accounts::with_kept(metrics.clone(), kept.clone()));
        let resolver = |source, terms: &KeyCache| {
            Arc::new(Resolver::new(source, terms, accounts.clone(), metrics.clone(), Arc::default()))
        };
        let mut ledger = None;
        let (resolver, source) = match &config.keys.source {
            config::Source::Yaml { .. } => {
                let yaml = Arc::new(YamlSource::new(keys));
                // A file is always available, so its keys are never used after their time.
                let terms = KeyCache { stale_for: Duration::ZERO, ..config.key_cache.clone() };
                (resolver(yaml.clone(), &terms), Source::Yaml(yaml))
            }
            config::Source::Http(service) => {
                let http = HttpSource::new(service.clone())?;
                let opened = service.usage_url.as_ref().map(|_| Ledger::open(&config.ledger, metrics.clone()));
                let opened = opened.transpose()?.map(Arc::new);
                let http = Arc::new(match &opened {
                    Some(ledger) => http.with_session(ledger.session().clone()),
                    None => http,
                });
                let resolver = resolver(http.clone(), &config.key_cache);
                ledger = opened.and_then(|ledger| with_accounting(ledger, service, http.client(), &resolver));
                let push = Push::new(http.client().clone(), service.clone(), resolver.clone(), metrics.clone());
                (resolver, Source::Http(Arc::new(push)))
            }
        };
        let pools = Pools::new(metrics.pools().clone());
        let gate = Gate::new(Settings::new(&config, &pools), resolver.clone(), metrics.clone(), log);
        gate.issuers().replace(gate.issuers().prepare(&config.keys.jwt)?);
        let (gate, sender) = match ledger {
            Some((ledger, accounting)) => {
                let sender = Sender::new(ledger.clone(), accounting.clone(), &config.ledger);
                (gate.with_ledger(ledger, accounting), Some(Arc::new(sender)))
            }
            None => (gate, None),
        };
        let shared =
            config.limits.shared.as_ref().map(|terms| shared_limits(terms, &metrics, kept.clone())).transpose()?;
        let gate = match &shared {
            Some(shared) => gate.with_shared_limits(shared.clone()),
            None => gate,
        };
        let gate = Arc::new(match &config.tracing {
            Some(terms) => gate.with_traces(Arc::new(traces(terms, &metrics)?)),
            None => gate,
        });
        let yaml = match &source {
            Source::Yaml(yaml) => Some(yaml.clone()),
            Source::Http(_) => None,
        };
        let reloader =
            Reloader::new(path, files, config, (gate.clone(), pools.clone()), yaml, resolver.clone(), metrics.clone());
        Ok(Self { gate, pools, reloader: Arc::new(reloader), resolver, accounts, source, sender, shared })
    }

    /// `proxy` with metering and limits.
    #[must_use]
    pub fn gated<P>(&self, proxy: P) -> Gated<P> {
        Gated::new(self.gate.clone(), proxy)
    }

    /// The services that a Pingora server runs beside the proxy: the admin address and the upkeep.
    #[must_use]
    pub fn services(&self) -> Vec<Box<dyn ServiceWithDependents>> {
        let config = self.reloader.config();
        let (listen, timeouts) = (config.admin.listen, config.server.timeouts);
        let admin = TimedApp::new(self.admin(listen), Connections::new(timeouts, most_of_admin()));
        let mut service = Listening::new("admin".to_owned(), admin);
        service.add_tcp(&listen.to_string());
        vec![Box::new(service), Box::new(background_service("keymeter", self.upkeep()))]
    }

    /// The service of the admin address `listen`.
    #[must_use]
    pub fn admin(&self, listen: SocketAddr) -> Admin {
        let push = match &self.source {
            Source::Http(push) => Some(push.clone()),
            Source::Yaml(_) => None,
        };
        Admin::new(self.gate.clone(), self.pools.clone(), self.reloader.clone(), self.resolver.clone(), push, listen)
    }

    /// The service that keeps the plugin up to date.
    #[must_use]
    pub fn upkeep(&self) -> Upkeep {
        Upkeep {
            reloader: self.reloader.clone(),
            resolver: self.resolver.clone(),
            accounts: self.accounts.clone(),
            source: self.source.clone(),
            sender: self.sender.clone(),
            shared: self.shared.clone(),
            pools: self.pools.clone(),
            gate: self.gate.clone(),
        }
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Sends the last settlements of shared limits, for a process that is about to end.
    pub async fn finish(&self) {
        if let Some(shared) = &self.shared {
            shared.flush(LAST_SETTLEMENTS).await;
        }
    }

    /// The reloader of the configuration, for a signal of one's own.
    #[must_use]
    pub fn reloader(&self) -> &Arc<Reloader> {
        &self.reloader
    }
}

/// A ledger, and the client that delivers its records.
fn with_accounting(
    ledger: Arc<Ledger>,
    service: &config::keys::Http,
    client: &ServiceClient,
    resolver: &Resolver,
) -> Option<(Arc<Ledger>, Arc<AccountingClient>)> {
    let (session, wallets) = (ledger.session().clone(), resolver.wallets().clone());
    let accounting = AccountingClient::new(client.clone(), service.usage_url.clone()?, service, session, wallets);
    Some((ledger, Arc::new(accounting)))
}

/// Limits that are shared as `terms` say.
fn shared_limits(
    terms: &config::Shared,
    metrics: &Metrics,
    kept: Arc<KeptQuotas>,
) -> Result<Arc<SharedLimits>, PluginError> {
    Ok(Arc::new(SharedLimits::new(terms.clone(), metrics.shared()?, kept)?))
}

/// Traces that are sent as `terms` say.
fn traces(terms: &config::Tracing, metrics: &Metrics) -> Result<Traces, PluginError> {
    Ok(Traces::start(terms, metrics.traces()?)?)
}

/// Reloads when a file changes, and closes the accounts of deleted keys, until the server stops.
pub struct Upkeep {
    reloader: Arc<Reloader>,
    resolver: Arc<Resolver>,
    accounts: Arc<Accounts>,
    source: Source,
    sender: Option<Arc<Sender>>,
    shared: Option<Arc<SharedLimits>>,
    pools: Pools,
    gate: Arc<Gate>,
}

/// How long the last settlements may take to be sent.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(1);

/// How often running requests of expired keys are looked for.
const EXPIRE: Duration = Duration::from_millis(250);

/// How often other processes' quotas are read, and after how many times the store is compacted if that is due.
const POLL: Duration = Duration::from_millis(250);
const COMPACT: u32 = 240;

/// How often accounts of deleted keys are looked for.
const SWEEP: Duration = Duration::from_secs(30);

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start(&self, mut stop: ShutdownWatch) {
        tokio::select! {
            () = self.watch() => {}
            () = self.sweep() => {}
            () = self.keep_quotas() => {}
            () = self.expire() => {}
            () = self.listen() => {}
            () = self.send() => {}
            () = self.share() => {}
            () = self.pools.run() => {}
            () = self.gate.issuers().run() => {}
            () = async {
                // An error means that the sender was dropped.
                let _ = stop.wait_for(|stop| *stop).await;
                self.finish().await;
            } => {}
        }
    }
}

impl Upkeep {
    async fn watch(&self) {
        match Watcher::new(self.reloader.clone()) {
            Ok(watcher) => watcher.run().await,
            Err(error) => tracing::warn!("{error}"),
        }
        // Without a watcher the other tasks go on.
        std::future::pending::<()>().await;
    }

    async fn expire(&self) {
        loop {
            tokio::time::sleep(EXPIRE).await;
            self.resolver.revocations().revoke_expired(Timestamp::now());
        }
    }

    async fn listen(&self) {
        if let Source::Http(push) = &self.source {
            tokio::join!(self.resolver.wait_for_source(), push.run());
        }
        std::future::pending::<()>().await;
    }

    async fn send(&self) {
        match &self.sender {
            Some(sender) => sender.run().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until running requests have ended, and their settlements and spans are sent.
    async fn finish(&self) {
        drain(Duration::MAX, || self.gate.in_flight().present() == 0).await;
        if let Some(shared) = &self.shared {
            shared.flush(LAST_SETTLEMENTS).await;
        }
        if let Some(traces) = self.gate.traces().cloned() {
            // Flushing blocks. After a failure there is nothing left to send.
            let _ = tokio::task::spawn_blocking(move || traces.flush(LAST_SPANS)).await;
        }
    }

    async fn share(&self) {
        match &self.shared {
            Some(shared) => shared.run().await,
            None => std::future::pending().await,
        }
    }

    async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.sweep_once(Now::read());
        }
    }

    /// Takes over what another process counts in the same store, as the one before does while it ends, and compacts the store.
    async fn keep_quotas(&self) {
        for tick in 1_u32.. {
            tokio::time::sleep(POLL).await;
            let accounts = self.accounts.clone();
            let kept = tokio::task::spawn_blocking(move || keep_quotas(&accounts, tick.is_multiple_of(COMPACT)));
            if let Ok(Err(error)) = kept.await {
                tracing::warn!("{error}");
            }
        }
    }

    fn sweep_once(&self, now: Now) {
        // A key in the cache keeps its account open.
        self.resolver.evict_expired(now.moment);
        self.gate.issuers().evict_expired(now.date);
        self.accounts.sweep(
            |id, account| match &self.source {
                Source::Yaml(yaml) => yaml.has(id),
                Source::Http(_) => account.exists(),
            },
            now,
        );
    }
}

fn keep_quotas(accounts: &Accounts, compacts: bool) -> Result<(), StoreError> {
    accounts.restore_others(Now::read())?;
    if let Some(store) = accounts.kept().opened().filter(|_| compacts) {
        store.compact(Timestamp::now())?;
    }
    Ok(())
}

/// Why the plugin cannot be built.
#[derive(Debug, Error)]
pub enum PluginError {
    /// The files are faulty.
    #[error("{}", lines(.0))]
    Configuration(Vec<ConfigError>),
    /// The client of the key service, or of an issuer, cannot be built.
    #[error(transparent)]
    Source(#[from] ClientError),
    /// Usage cannot be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Quotas cannot be kept.
    #[error(transparent)]
    Quotas(#[from] StoreError),
    /// Limits cannot be shared.
    #[error(transparent)]
    Shared(#[from] SharedLimitsError),
    /// Requests cannot be traced.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// Two metrics share a name.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Each error on a line of its own.
pub(crate) fn lines(errors: &[ConfigError]) -> String {
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::Path};

    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::{
        admission::{Credentials, Now, RequestContext},
        limits::account::SERIES_OF_DELETED_KEYS,
    };
    use keymeter_config::keys;
    use keymeter_core::api::Api;

    /// As before a Pingora server runs.
    #[test]
    fn traces_need_no_runtime_of_the_caller_that_loads_the_plugin() {
        let text = "{tracing: {otlp: 'http://127.0.0.1:1'}, keys: {yaml: {path: none}}, upstreams: [{name: a, url: 'http://h:1'}]}";
        let path = Path::new("keymeter.yaml");
        let config = config::parse(text, path, &|_| None).unwrap();
        let plugin =
            Plugin::new(Loaded { config, keys: Vec::new(), files: Vec::new() }, path.to_owned(), AccessLog::none());
        assert!(plugin.unwrap().gate().traces().is_some());
    }

    #[tokio::test]
    async fn a_deleted_keys_series_go_though_nothing_stirs_the_cache_any_more() {
        let text =
            "{upstreams: [{name: a, url: 'http://127.0.0.1:1'}], keys: {yaml: {path: none}}, key_cache: {ttl: 1ms}}";
        let path = Path::new("keymeter.yaml");
        let config = config::parse(text, path, &|_| None).unwrap();
        let keys = keys::parse("keys: [{id: key_a, name: some key, secret: sk-a}]", path, false, &|_| None).unwrap();
        let loaded = Loaded { config, keys, files: Vec::new() };
        let plugin = Plugin::new(loaded, path.to_owned(), AccessLog::none()).unwrap();

        let now = Now::read();
        let context =
            RequestContext::new("/v1/models", Api::OpenAi, Ipv4Addr::LOCALHOST.into(), plugin.gate().settings(), now);
        let headers: HeaderMap =
            [(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer sk-a"))].into_iter().collect();
        let credentials = Credentials { headers: &headers, in_query: None };
        let Ok(request) = plugin.gate().identify(context, credentials, now).await else { panic!("a known key") };
        drop(request);
        assert!(plugin.gate.scrape(Now::read()).unwrap().contains("\"key_a\""));

        let Source::Yaml(yaml) = &plugin.source else { panic!("keys come from YAML") };
        yaml.replace(yaml.prepare(Vec::new()));
        let upkeep = plugin.upkeep();
        let later = |time: Duration| Now { moment: now.moment + time, date: now.date + time };
        upkeep.sweep_once(later(Duration::from_millis(2)));
        upkeep.sweep_once(later(Duration::from_millis(2) + SERIES_OF_DELETED_KEYS));
        assert!(!plugin.gate.scrape(Now::read()).unwrap().contains("\"key_a\""));
    }
}
