//! Reloads the configuration and the keys. The new state is loaded and checked as a whole. An invalid one changes nothing and is
//! reported. Running requests keep the settings of their arrival.

mod watch;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use keymeter_config::{self as config, Config, ConfigError, Loaded, changed_sections, restart_needed};
use keymeter_core::clock::MonotonicTime;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

pub use self::watch::{WatchError, Watcher};
use crate::{
    admission::{Gate, Settings},
    keys::{KeyChanges, Replacement, Resolver, YamlSource, jwt::NewIssuers, service::ClientError},
    observe::metrics::Metrics,
    server::tls::{Certificate, Pair},
    upstream::Pools,
};

/// Reloads the configuration and the keys, one reload at a time.
pub struct Reloader {
    path: PathBuf,
    state: Mutex<State>,
    gate: Arc<Gate>,
    pools: Pools,
    /// The source of keys, if it is a file.
    source: Option<Arc<YamlSource>>,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    /// The certificate for clients, if TLS is configured.
    certificate: OnceLock<Arc<Certificate>>,
}

struct State {
    /// The configuration at the start, by which a needed restart is noticed.
    started: Config,
    config: Config,
    files: Vec<PathBuf>,
    /// The hash of the files when they were last read, whether they were valid or not.
    contents: [u8; 32],
}

/// What was read and is valid.
struct Ready {
    config: Config,
    files: Vec<PathBuf>,
    /// The keys, if they are a file's.
    keys: Option<Replacement>,
}

/// The outcome of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The number of keys; of a service's nobody knows it.
    pub keys: Option<usize>,
    /// Those that are other than before.
    pub key_changes: KeyChanges,
    /// The sections of the configuration that are other than before.
    pub sections: Vec<&'static str>,
    /// Changed fields that need a restart.
    pub restart_needed: Vec<&'static str>,
}

impl Reloader {
    /// A reloader of `path`, from which `config` was loaded.
    #[must_use]
    pub fn new(
        path: PathBuf,
        files: Vec<PathBuf>,
        config: Config,
        (gate, pools): (Arc<Gate>, Pools),
        source: Option<Arc<YamlSource>>,
        resolver: Arc<Resolver>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.reloaded(true, Timestamp::now().as_second());
        let contents = contents(&files);
        let state = Mutex::new(State { started: config.clone(), config, files, contents });
        Self { path, state, gate, pools, source, resolver, metrics, certificate: OnceLock::new() }
    }

    /// Sets the certificate that a reload renews.
    pub fn set_certificate(&self, certificate: Arc<Certificate>) {
        // There is one for all listeners of a process.
        let _ = self.certificate.set(certificate);
    }

    /// The current configuration.
    #[must_use]
    pub fn config(&self) -> Config {
        self.state.lock().config.clone()
    }

    /// The files that it was loaded from.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().files.clone()
    }

    /// Reloads. It reads files, so call it where that may block.
    ///
    /// # Errors
    /// All errors of the files. Then nothing has changed.
    pub fn reload(&self) -> Result<Reloaded, Vec<ConfigError>> {
        self.read(&mut self.state.lock())
    }

    /// Reloads if a file has changed since it was last read; `None` if none has.
    #[must_use]
    pub fn reload_if_changed(&self) -> Option<Result<Reloaded, Vec<ConfigError>>> {
        let mut state = self.state.lock();
        (contents(&state.files) != state.contents).then(|| self.read(&mut state))
    }

    fn read(&self, state: &mut State) -> Result<Reloaded, Vec<ConfigError>> {
        let received = MonotonicTime::now();
        // Before they are read: what changes while they are is read again.
        state.contents = contents(&state.files);
        let purpose = state.config.purpose;
        let read =
            unhurried(|| config::load_for(purpose, &self.path, &config::environment).map(|loaded| self.ready(loaded)));
        let ready = read.and_then(|ready| Ok((self.renewed(&ready.config)?, self.issuers(&ready.config)?, ready)));
        let result = ready.map(|(pair, issuers, ready)| {
            if let (Some(certificate), Some(pair)) = (self.certificate.get(), pair) {
                certificate.replace(pair);
            }
            self.gate.issuers().replace(issuers);
            self.swap(state, ready, received)
        });
        self.metrics.reloaded(result.is_ok(), Timestamp::now().as_second());
        match &result {
            Ok(done) => report(done),
            Err(faults) => faults.iter().for_each(|error| tracing::error!("not reloaded: {error}")),
        }
        result
    }

    /// What is read, ready to be swapped in.
    fn ready(&self, Loaded { config, keys, files }: Loaded) -> Ready {
        // What keys come from is changed by a restart only.
        let source = self.source.as_ref().filter(|_| matches!(config.keys.source, config::Source::Yaml { .. }));
        Ready { keys: source.map(|source| source.prepare(keys)), config, files }
    }

    /// The issuers whose tokens are taken as the configuration says now.
    fn issuers(&self, config: &Config) -> Result<NewIssuers, Vec<ConfigError>> {
        let error = |why: ClientError| vec![ConfigError::of_file(&self.path, why.to_string())];
        self.gate.issuers().prepare(&config.keys.jwt).map_err(error)
    }

    /// The certificate as it is now, where one is shown.
    fn renewed(&self, config: &Config) -> Result<Option<Pair>, Vec<ConfigError>> {
        let (Some(_), Some(tls)) = (self.certificate.get(), &config.server.tls) else { return Ok(None) };
        let error =
            |why| vec![ConfigError::of_file(&tls.cert, format!("cannot use the certificate of `server.tls`: {why}"))];
        Pair::read(tls).map(Some).map_err(error)
    }

    /// Swaps settings first, then keys, so that a new key never meets old settings.
    fn swap(&self, state: &mut State, ready: Ready, received: MonotonicTime) -> Reloaded {
        let Ready { mut config, keys, files } = ready;
        config.keep_gateway_token(&state.started);
        if config.admin.listen != state.started.admin.listen {
            // It is only on its new address, after a restart, that it may go without a token.
            config.admin.token = config.admin.token.or_else(|| state.config.admin.token.clone());
        }
        self.gate.replace_settings(Settings::new(&config, &self.pools));
        let replaced = self.source.as_ref().zip(keys).map(|(source, keys)| source.replace(keys));
        let (key_changes, changes) = replaced.unwrap_or_default();
        for change in changes {
            self.resolver.changed(change, received);
        }
        let restart_needed = restart_needed(&state.started, &config);
        let sections = changed_sections(&state.config, &config);
        state.config = config;
        state.files = files;
        let keys = self.source.as_ref().map(|source| source.len());
        Reloaded { keys, key_changes, sections, restart_needed }
    }
}

/// Does what takes long, such as reading 100,000 keys, on a thread that requests do not have to wait for: it runs when nothing
/// else does, and holds no lock that they need.
fn unhurried<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // On Linux this is the thread's own priority. Elsewhere it may be that of the whole process.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::nice(LOWEST_PRIORITY);
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// As `nice` has it.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;

fn report(done: &Reloaded) {
    let KeyChanges { added, removed, changed } = done.key_changes;
    let of_keys = (added + removed + changed > 0).then(|| format!("keys +{added} −{removed} ~{changed}"));
    let changes: Vec<_> =
        of_keys.into_iter().chain(done.sections.iter().map(|section| (*section).to_owned())).collect();
    let changes = if changes.is_empty() { "nothing is other than before".to_owned() } else { changes.join("; ") };
    let keys = done.keys.map_or_else(|| "keys from a service".to_owned(), |keys| format!("keys: {keys}"));
    tracing::info!("reloaded: {changes} ({keys})");
    if !done.restart_needed.is_empty() {
        tracing::warn!("a restart is needed to apply the changes of: {}", done.restart_needed.join(", "));
    }
}

/// Which files there are and what they hold; one that cannot be read holds nothing.
fn contents(files: &[PathBuf]) -> [u8; 32] {
    let mut all = Sha256::new();
    for file in files {
        let text = std::fs::read(file).unwrap_or_default();
        all.update(file.as_os_str().as_encoded_bytes());
        all.update(text.len().to_le_bytes());
        all.update(text);
    }
    all.finalize().into()
}
