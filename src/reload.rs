//! Watches, loads, checks and swaps. The new state is loaded whole and checked whole; a faulty
//! one changes nothing and is reported. Requests that are running keep what held when they came.

mod watch;

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;

pub use self::watch::{WatchFault, Watcher};
use crate::{
    config::{self, Config, Fault, Loaded, restart_needed},
    gate::{Gate, Settings},
    metrics::Metrics,
    resolve::{Resolver, YamlSource},
};

/// Loads the configuration and the keys anew, one reload at a time.
pub struct Reloader {
    path: PathBuf,
    state: Mutex<State>,
    gate: Arc<Gate>,
    source: Arc<YamlSource>,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
}

struct State {
    /// What the process was started with: what needs a restart is compared with this.
    started: Config,
    config: Config,
    files: Vec<PathBuf>,
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// How many keys there are.
    pub keys: usize,
    /// Fields that differ and that a restart only can change.
    pub restart_needed: Vec<&'static str>,
}

impl Reloader {
    /// A reloader of `path`, from which `config` was loaded.
    #[must_use]
    pub fn new(
        path: PathBuf,
        files: Vec<PathBuf>,
        config: Config,
        gate: Arc<Gate>,
        source: Arc<YamlSource>,
        resolver: Arc<Resolver>,
        metrics: Arc<Metrics>,
    ) -> Self {
        metrics.reloaded(true, Timestamp::now().as_second());
        let state = Mutex::new(State { started: config.clone(), config, files });
        Self { path, state, gate, source, resolver, metrics }
    }

    /// The configuration that holds.
    #[must_use]
    pub fn config(&self) -> Config {
        self.state.lock().config.clone()
    }

    /// The files that it was loaded from.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().files.clone()
    }

    /// Loads, checks and swaps. It reads files, so call it where that may block.
    ///
    /// # Errors
    /// All faults of the files. Then everything is as it was.
    pub fn reload(&self) -> Result<Reloaded, Vec<Fault>> {
        let mut state = self.state.lock();
        let result = config::load(&self.path, &config::environment).map(|loaded| self.swap(&mut state, loaded));
        self.metrics.reloaded(result.is_ok(), Timestamp::now().as_second());
        match &result {
            Ok(done) => report(done),
            Err(faults) => faults.iter().for_each(|fault| tracing::error!("not reloaded: {fault}")),
        }
        result
    }

    /// Settings first, then keys: a key is never held to limits that came after it.
    fn swap(&self, state: &mut State, loaded: Loaded) -> Reloaded {
        let Loaded { config, keys, files } = loaded;
        self.gate.replace_settings(Settings::of(&config));
        self.source.replace(keys);
        self.resolver.forget_all();
        let restart_needed = restart_needed(&state.started, &config);
        state.config = config;
        state.files = files;
        Reloaded { keys: self.source.len(), restart_needed }
    }
}

fn report(done: &Reloaded) {
    tracing::info!("reloaded: {} keys", done.keys);
    if !done.restart_needed.is_empty() {
        tracing::warn!("restart to apply the changes of: {}", done.restart_needed.join(", "));
    }
}
