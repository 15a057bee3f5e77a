//! The levels of the process log. `RUST_LOG` sets them at the start, and the admin address while the process runs.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The levels without `RUST_LOG`.
const USUAL: &str = "info,pingora=warn,pingora_core=warn,pingora_proxy=warn";

/// The process has one log, and it is set up once.
static LEVELS: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Whether anything is logged at `debug`.
static SHOWS_DEBUG: AtomicBool = AtomicBool::new(false);

/// The filter of the process log, as `RUST_LOG` says or with the default levels. It can be changed from then on.
#[must_use]
pub fn from_environment() -> reload::Layer<EnvFilter, Registry> {
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(USUAL));
    note(&chosen);
    let (layer, handle) = reload::Layer::new(chosen);
    // A second log of a process has no handle; there is none.
    let _ = LEVELS.set(handle);
    layer
}

/// The current levels, in the syntax of `RUST_LOG`.
#[must_use]
pub fn current() -> String {
    let written = LEVELS.get().and_then(|levels| levels.with_current(ToString::to_string).ok());
    written.unwrap_or_else(|| "unknown: the log is not keymeter's own".to_owned())
}

/// Sets the levels, such as `debug` or `info,keymeter::keys=trace`.
///
/// # Errors
/// What is wrong with it.
pub fn change(levels: &str) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(levels.trim()).map_err(|error| error.to_string())?;
    let log = LEVELS.get().ok_or("the log is not keymeter's own, so its levels cannot be set here")?;
    note(&filter);
    let changed = log.reload(filter).map_err(|error| error.to_string());
    forbid_heads();
    changed
}

/// Whether `debug` lines are logged. Then lines about clients' faults are, too.
#[must_use]
pub fn shows_debug() -> bool {
    SHOWS_DEBUG.load(Ordering::Relaxed)
}

fn note(chosen: &EnvFilter) {
    let most = chosen.max_level_hint();
    SHOWS_DEBUG.store(most.is_none_or(|most| most >= LevelFilter::DEBUG), Ordering::Relaxed);
}

/// From `debug` on, libraries that log by way of `log` print the heads of requests, credentials included, as Pingora does: no
/// level that is chosen lets that pass. A change of the levels raises this one, too.
pub fn forbid_heads() {
    log::set_max_level(log::LevelFilter::Info);
}

/// Whether a log line can contain no secret, whatever the levels are. The head of a request that the admin address could not
/// read, Pingora prints as an error.
#[must_use]
pub fn is_discreet(line: &Metadata<'_>) -> bool {
    let (target, level) = (line.target(), *line.level());
    !target.starts_with("pingora_core::apps::http_app") && (level <= Level::INFO || !target.starts_with("pingora"))
}
