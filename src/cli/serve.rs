//! `keymeter serve`: runs the gateway until it is stopped.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use keymeter_config::{self as config, Config, ConfigError, Control, Database, Source};
use keymeter_control::{ControlError, ControlPlane, OPERATOR_FILE};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use super::{
    app::{App, Signals},
    service_manager,
};
use crate::{
    connection::descriptors::raise_limit,
    observe::{access_log::AccessLog, process_log, traces::LAST_SPANS},
    server::{
        Server, StartError, control_plane,
        handover::{HandoverError, HandoverListener, Predecessor, Sockets},
        plugin::lines,
        rehearse,
    },
};

pub(super) fn run(path: PathBuf, upgrade: bool) -> Result<(), ServeError> {
    process_log::start()?;
    forbid_core_dumps();
    raise_limit();
    let mut loaded = config::load(&path, &config::environment).map_err(ServeError::Configuration)?;
    let keys = match &loaded.config.keys.source {
        Source::Yaml { .. } => format!("keys: {}", loaded.keys.len()),
        Source::Http(_) => "keys from a service".to_owned(),
    };
    let runtime = runtime(loaded.config.server.threads)?;
    let log = AccessLog::to(std::io::stdout())?;
    let mut traces = None;
    let ended = runtime.block_on(async {
        let signals = Signals::new()?;
        let (mut predecessor, mut sockets) = inherited(&loaded.config, upgrade)?;
        if let Some(predecessor) = &mut predecessor {
            predecessor.request_release()?;
        }
        let control = start_control(&loaded.config, &mut sockets).await?;
        if let Some(token) = control.as_ref().and_then(ControlPlane::gateway_token) {
            loaded.config.lend_gateway_token(token);
        }
        let (settings, notes) = (loaded.config.server.clone(), start_notes(&loaded.config));
        let server = Server::start(loaded, path, log.clone(), &mut sockets)?;
        traces = server.traces().cloned();
        // Inherited sockets that are no longer configured.
        drop(sockets);
        let addresses: Vec<_> = server.addresses.iter().map(ToString::to_string).collect();
        let (addresses, admin) = (addresses.join(" and "), server.admin_address);
        tracing::info!("listening on {addresses} ({keys}), admin address {admin}");
        for note in &notes {
            tracing::info!("{note}");
        }
        let handover = take_over(&settings, predecessor)?;
        service_manager::ready(upgrade);
        if let Some(control) = &control {
            control_plane::introduce(control, &server);
        }
        let mut app = App { server, control, handover };
        signals.until_stopped(&mut app).await;
        if let Some(control) = app.control {
            control.stop().await;
        }
        Ok(())
    });
    stop(runtime, &log);
    if let Some(traces) = traces {
        // The spans of requests that were cut off are sent, too.
        traces.flush(LAST_SPANS);
    }
    ended
}

/// The running process and its sockets, if this process is to take over from it.
fn inherited(config: &Config, upgrade: bool) -> Result<(Option<Predecessor>, Sockets), ServeError> {
    if !upgrade {
        return Ok((None, Sockets::none()));
    }
    // What would fail later fails here, before the running process is asked for anything.
    rehearse(config)?;
    let path = config.server.upgrade_socket.as_ref().ok_or(HandoverError::Unconfigured)?;
    let (predecessor, sockets) = Predecessor::connect(path)?;
    Ok((Some(predecessor), sockets))
}

/// Tells the running process that this one is ready, and listens for a successor.
fn take_over(
    settings: &config::Server,
    predecessor: Option<Predecessor>,
) -> Result<Option<HandoverListener>, ServeError> {
    let Some(path) = settings.upgrade_socket.as_deref() else { return Ok(None) };
    let Some(predecessor) = predecessor else { return Ok(Some(HandoverListener::bind(path)?)) };
    predecessor.confirm_takeover()?;
    // There is no way back: the other process is about to end.
    Ok(HandoverListener::bind(path)
        .inspect_err(|error| tracing::error!("{error}; the next upgrade needs a restart"))
        .ok())
}

/// The control plane, where the configuration has one.
async fn start_control(config: &Config, sockets: &mut Sockets) -> Result<Option<ControlPlane>, ServeError> {
    let Some(settings) = &config.control else { return Ok(None) };
    let control = control_plane::start(settings, config.limits.limits, sockets).await?;
    tracing::info!("the control plane is on {}", control.address);
    Ok(Some(control))
}

/// Which process this is, and where what must outlive it is kept: whoever sends it a signal needs its number, and whoever backs
/// it up the whole path.
fn start_notes(config: &Config) -> Vec<String> {
    let upgrades = if config.server.upgrade_socket.is_some() { ", SIGUSR2 upgrades it" } else { "" };
    let process = std::process::id();
    let mut notes = vec![format!("this is process {process}; SIGHUP reloads it, SIGTERM stops it{upgrades}")];
    if let Some(Control { database: Database::Sqlite(path), token, .. }) = &config.control {
        notes.push(format!("the control plane's database is {}", absolute(path)));
        if token.is_none() {
            notes.push(format!("the operator's token is in {}", absolute(&path.with_file_name(OPERATOR_FILE))));
        }
    }
    if config.keys.source.takes_usage() {
        notes.push(format!("usage records wait in {}", absolute(&config.ledger)));
    }
    notes.push(format!("quotas, where keys have any, are kept in {}", absolute(&config.limits.store)));
    notes
}

fn absolute(path: &Path) -> String {
    // Where the current directory cannot be told, the path stays as it is written.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Ends the requests that still run after the time for them. Each is charged and logged as far as it came.
pub(super) fn stop(runtime: Runtime, log: &AccessLog) {
    const LIMIT: Duration = Duration::from_millis(500);
    runtime.shutdown_timeout(LIMIT);
    log.flush(LIMIT);
}

/// A core dump would hold the secrets of running requests.
pub(super) fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, nothing) {
        tracing::warn!("cannot disable core dumps: {error}");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("cannot protect the process from debuggers: {error}");
    }
}

pub(super) fn runtime(threads: Option<NonZeroUsize>) -> std::io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    builder.thread_name("keymeter").enable_all().build()
}

/// Why `serve` failed.
#[derive(Debug, Error)]
pub(super) enum ServeError {
    #[error("{}", lines(.0))]
    Configuration(Vec<ConfigError>),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Handover(#[from] HandoverError),
    #[error("the operating system reports an error: {0}")]
    System(#[from] std::io::Error),
}
