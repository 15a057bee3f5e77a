//! `keymeter serve`: runs the gateway until it is told to stop.

use std::{fmt, num::NonZeroUsize, path::PathBuf, time::Duration};

use keymeter_config::{self as config, Config, ConfigError, Source};
use keymeter_control::{ControlError, ControlPlane};
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
        handover::{HandoverError, Heir, Offer, Sockets},
        rehearse,
    },
};

pub(super) fn run(path: PathBuf, upgrade: bool) -> Result<(), ServeError> {
    process_log::start()?;
    forbid_core_dumps();
    raise_limit();
    let loaded = config::load(&path, &config::environment).map_err(ServeError::Configuration)?;
    let keys = match &loaded.config.keys.source {
        Source::Yaml { .. } => format!("keys: {}", loaded.keys.len()),
        Source::Http(_) => "keys from a service".to_owned(),
    };
    let runtime = runtime(loaded.config.server.threads)?;
    let log = AccessLog::to(std::io::stdout())?;
    let mut traces = None;
    let ended = runtime.block_on(async {
        let signals = Signals::new()?;
        let (mut heir, mut sockets) = inherited(&loaded.config, upgrade)?;
        if let Some(heir) = &mut heir {
            heir.ask_to_give_way()?;
        }
        let control = start_control(&loaded.config, &mut sockets).await?;
        let settings = loaded.config.server.clone();
        let server = Server::start(loaded, path, log.clone(), &mut sockets)?;
        traces = server.traces().cloned();
        // Nobody asks for these any more.
        drop(sockets);
        let addresses: Vec<_> = server.addresses.iter().map(ToString::to_string).collect();
        let (addresses, admin) = (addresses.join(" and "), server.admin_address);
        tracing::info!("listening on {addresses} ({keys}), admin address {admin}");
        let offer = offer(&settings, heir)?;
        service_manager::ready(upgrade);
        let mut house = App { server, control, offer };
        signals.until_stopped(&mut house).await;
        if let Some(control) = house.control {
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

/// What another process left to this one, if it is to take over from one.
fn inherited(config: &Config, upgrade: bool) -> Result<(Option<Heir>, Sockets), ServeError> {
    if !upgrade {
        return Ok((None, Sockets::none()));
    }
    // What would fail later fails before the process that runs is asked for anything.
    rehearse(config)?;
    let path = config.server.upgrade_socket.as_ref().ok_or(HandoverError::Unconfigured)?;
    let (heir, sockets) = Heir::of(path)?;
    Ok((Some(heir), sockets))
}

/// Tells the process before that this one is up, and waits for one to come after it.
fn offer(settings: &config::Server, heir: Option<Heir>) -> Result<Option<Offer>, ServeError> {
    let Some(path) = settings.upgrade_socket.as_deref() else { return Ok(None) };
    let Some(heir) = heir else { return Ok(Some(Offer::at(path)?)) };
    heir.is_up()?;
    // There is no way back: the other process is about to end.
    Ok(Offer::at(path).inspect_err(|fault| tracing::error!("{fault}; a restart is needed for the next upgrade")).ok())
}

/// The control plane, where the configuration has one.
async fn start_control(config: &Config, sockets: &mut Sockets) -> Result<Option<ControlPlane>, ServeError> {
    let Some(settings) = &config.control else { return Ok(None) };
    let control = control_plane::start(settings, config.limits.limits, sockets).await.map_err(ServeError::Control)?;
    tracing::info!("the control plane is on {}", control.address);
    Ok(Some(control))
}

/// Ends what still runs, as it has had its time. Each request is charged and logged as far as it came.
pub(super) fn stop(runtime: Runtime, log: &AccessLog) {
    const LIMIT: Duration = Duration::from_millis(500);
    runtime.shutdown_timeout(LIMIT);
    log.flush(LIMIT);
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

/// Why the gateway does not run.
#[derive(Debug)]
pub(super) enum ServeError {
    Configuration(Vec<ConfigError>),
    Start(StartError),
    Control(ControlError),
    Handover(HandoverError),
    System(std::io::Error),
}

impl From<StartError> for ServeError {
    fn from(fault: StartError) -> Self {
        Self::Start(fault)
    }
}

impl From<HandoverError> for ServeError {
    fn from(fault: HandoverError) -> Self {
        Self::Handover(fault)
    }
}

impl From<std::io::Error> for ServeError {
    fn from(fault: std::io::Error) -> Self {
        Self::System(fault)
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(faults) => {
                let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
                formatter.write_str(&lines.join("\n"))
            }
            Self::Start(fault) => fault.fmt(formatter),
            Self::Control(fault) => fault.fmt(formatter),
            Self::Handover(fault) => fault.fmt(formatter),
            Self::System(fault) => write!(formatter, "the operating system refuses: {fault}"),
        }
    }
}
