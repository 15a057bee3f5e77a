//! `keymeter serve`: runs the gateway until it is told to stop.

use std::{fmt, io::IsTerminal, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tracing_subscriber::{filter::filter_fn, prelude::*};

use super::service_manager;
use crate::{
    config::{self, Config, Fault, Source},
    control::{Control, ControlFault},
    gate::AccessLog,
    levels,
    reload::Reloader,
    server::{Drained, Server, StartFault},
    traces::LAST_SPANS,
};

pub(super) fn run(path: PathBuf) -> Result<(), ServeFault> {
    start_logging();
    forbid_core_dumps();
    let loaded = config::load(&path, &config::environment).map_err(ServeFault::Configuration)?;
    let keys = match &loaded.config.keys.source {
        Source::Yaml { .. } => format!("keys: {}", loaded.keys.len()),
        Source::Http(_) => "keys from a service".to_owned(),
    };
    let runtime = runtime(loaded.config.server.threads)?;
    let log = AccessLog::to(std::io::stdout())?;
    let mut traces = None;
    let ended = runtime.block_on(async {
        let signals = Signals::new()?;
        let control = start_control(&loaded.config).await?;
        let server = Server::start(loaded, path, log.clone())?;
        traces = server.traces().cloned();
        let addresses: Vec<_> = server.addresses.iter().map(ToString::to_string).collect();
        let (addresses, admin) = (addresses.join(" and "), server.admin_address);
        tracing::info!("listening on {addresses} ({keys}), admin address {admin}");
        service_manager::ready();
        signals.until_stopped(&server).await;
        if let Some(control) = control {
            control.stop().await;
        }
        Ok(())
    });
    stop(runtime, &log);
    if let Some(traces) = traces {
        // Those of requests that were cut off, too.
        traces.flush(LAST_SPANS);
    }
    ended
}

/// The control plane, where the configuration has one.
async fn start_control(config: &Config) -> Result<Option<Control>, ServeFault> {
    let Some(settings) = &config.control else { return Ok(None) };
    let control = Control::start(settings, config.limits.limits).await.map_err(ServeFault::Control)?;
    tracing::info!("the control plane is on {}", control.address);
    Ok(Some(control))
}

/// Ends what still runs, as it has had its time. Each request is charged and logged as far as it came.
pub(super) fn stop(runtime: Runtime, log: &AccessLog) {
    const LIMIT: Duration = Duration::from_millis(500);
    runtime.shutdown_timeout(LIMIT);
    log.flush(LIMIT);
}

/// Log lines for people, on standard error. `RUST_LOG` chooses the levels, and the admin address.
pub(super) fn start_logging() {
    let chosen = levels::from_environment();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let subscriber = tracing_subscriber::registry().with(chosen).with(filter_fn(levels::is_discreet)).with(lines);
    if subscriber.try_init().is_err() {
        eprintln!("a log was set up before; log lines go there");
    }
    levels::forbid_heads();
}

/// A core dump would hold the secrets of running requests.
pub(super) fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(fault) = setrlimit(Resource::Core, nothing) {
        tracing::warn!("core dumps stay on: {fault}");
    }
    if let Err(fault) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!("the process stays open to debuggers: {fault}");
    }
}

pub(super) fn runtime(threads: Option<NonZeroUsize>) -> std::io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    builder.thread_name("keymeter").enable_all().build()
}

/// The signals that concern us.
pub(super) struct Signals {
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Reloads on SIGHUP; on SIGTERM or SIGINT lets running requests finish, and on a second one does not.
    pub async fn until_stopped(mut self, server: &Server) {
        loop {
            tokio::select! {
                Some(()) = self.hang_up.recv() => {
                    service_manager::reloading();
                    reload(server.reloader().clone()).await;
                    service_manager::ready();
                }
                () = stop_signal(&mut self.terminate, &mut self.interrupt) => break,
            }
        }
        service_manager::stopping();
        let limit = server.reloader().config().server.drain_timeout;
        tracing::info!("stopping: running requests may take {}s more; signal again to stop at once", limit.as_secs());
        tokio::select! {
            drained = server.drain(limit) => match drained {
                Drained::Empty => tracing::info!("stopped"),
                Drained::Cut(running) => tracing::warn!("stopped; requests cut off: {running}"),
            },
            () = stop_signal(&mut self.terminate, &mut self.interrupt) => tracing::warn!("stopped at once"),
        }
    }
}

async fn stop_signal(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn reload(reloader: Arc<Reloader>) {
    // The reloader has said what it did, or what was wrong.
    let _ = tokio::task::spawn_blocking(move || reloader.reload().is_ok()).await;
}

/// Why the gateway does not run.
#[derive(Debug)]
pub(super) enum ServeFault {
    Configuration(Vec<Fault>),
    Start(StartFault),
    Control(ControlFault),
    System(std::io::Error),
}

impl From<StartFault> for ServeFault {
    fn from(fault: StartFault) -> Self {
        Self::Start(fault)
    }
}

impl From<std::io::Error> for ServeFault {
    fn from(fault: std::io::Error) -> Self {
        Self::System(fault)
    }
}

impl fmt::Display for ServeFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(faults) => {
                let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
                formatter.write_str(&lines.join("\n"))
            }
            Self::Start(fault) => fault.fmt(formatter),
            Self::Control(fault) => fault.fmt(formatter),
            Self::System(fault) => write!(formatter, "the operating system refuses: {fault}"),
        }
    }
}
