//! What `serve` runs, from its start until it is told to stop or another process takes over.

use std::{net::TcpListener, sync::Arc};

use keymeter_config::Control as Settings;
use keymeter_control::{ControlError, ControlPlane};
use keymeter_core::limit::Limits;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{program::Program, service_manager};
use crate::server::{
    Drained, Server, control_plane,
    handover::{HandoverError, HandoverListener, Sockets, Successor},
    reload::Reloader,
};

/// What the process runs.
pub(super) struct App {
    pub server: Server,
    pub control: Option<ControlPlane>,
    /// Where another process may take over.
    pub handover: Option<HandoverListener>,
}

impl App {
    /// Waits for a process that asks for the sockets, and sends them.
    async fn successor(&self) -> Successor {
        let sockets = || {
            let mut sockets = self.server.sockets()?;
            if let Some(control) = &self.control {
                sockets.keep(&control.socket()?)?;
            }
            Ok(sockets)
        };
        match &self.handover {
            Some(listener) => listener.accept(sockets).await,
            None => std::future::pending().await,
        }
    }

    /// Lets `successor` take over. If it does not become ready, this process continues to serve.
    async fn hand_over(&mut self, mut successor: Successor) -> Result<(), HandoverError> {
        tracing::info!("another process is about to take over");
        successor.wait_for_release_request().await?;
        // Only one control plane may use a database on this machine.
        let Some(control) = self.control.take() else { return successor.wait_for_takeover().await };
        let (settings, limits, socket) = control.terms().map_err(HandoverError::Link)?;
        control.stop().await;
        let taken = successor.wait_for_takeover().await;
        if taken.is_err() {
            match started_again(&settings, limits, &socket).await {
                Ok(control) => {
                    control_plane::introduce(&control, &self.server);
                    self.control = Some(control);
                }
                Err(error) => tracing::error!("cannot restart the control plane: {error}"),
            }
        }
        taken
    }

    /// Waits until running requests have ended.
    async fn stop(&self) -> Drained {
        let limit = self.server.reloader().config().server.drain_timeout;
        let seconds = limit.as_secs();
        tracing::info!("stopping: running requests have {seconds}s to finish; send the signal again to stop at once");
        self.server.drain(limit).await
    }

    /// Serves the connections that this process still has after another has taken over.
    async fn retire(&self) -> Drained {
        let limit = self.server.reloader().config().server.drain_timeout;
        let seconds = limit.as_secs();
        tracing::info!("another process has taken over; connections to this one have {seconds}s to finish");
        self.server.retire(limit).await
    }
}

/// The control plane, on the socket that it had.
async fn started_again(
    settings: &Settings,
    limits: Limits,
    socket: &TcpListener,
) -> Result<ControlPlane, ControlError> {
    let mut sockets = Sockets::none();
    sockets.keep(socket).map_err(|error| ControlError::Bind(settings.listen, error))?;
    control_plane::start(settings, limits, &mut sockets).await
}

/// The signals that the process handles.
pub(super) struct Signals {
    hang_up: Signal,
    upgrade: Signal,
    terminate: Signal,
    interrupt: Signal,
    program: Program,
}

impl Signals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            hang_up: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            program: Program::current()?,
        })
    }

    /// Reloads on SIGHUP. Starts a successor on SIGUSR2. Lets running requests finish on SIGTERM or SIGINT, and stops at
    /// once on a second one. When another process has taken over, open connections are served to their end.
    pub async fn until_stopped(mut self, app: &mut App) {
        let is_succeeded = self.run_until_stopped(app).await;
        if is_succeeded {
            // The process that took over reports to the service manager.
            tokio::select! {
                drained = app.retire() => return report(drained),
                () = self.stop_signal() => {}
            }
        } else {
            service_manager::stopping();
        }
        tokio::select! {
            drained = app.stop() => report(drained),
            () = self.stop_signal() => tracing::warn!("stopped at once"),
        }
    }

    /// Returns when the process is to stop: true if another process has taken over.
    async fn run_until_stopped(&mut self, app: &mut App) -> bool {
        loop {
            tokio::select! {
                Some(()) = self.hang_up.recv() => {
                    let reloader = app.server.reloader().clone();
                    self.reload(&reloader).await;
                }
                Some(()) = self.upgrade.recv() => self.program.start_successor(app.handover.is_some()),
                successor = app.successor() => match self.handed_over(app, successor).await {
                    Some(Ok(())) => return true,
                    Some(Err(error)) => tracing::error!("the other process did not take over: {error}; this one continues to serve"),
                    None => return false,
                },
                () = stop_signal(&mut self.terminate, &mut self.interrupt) => return false,
            }
        }
    }

    /// The outcome of a handover. The process can be told to reload meanwhile, and to stop: then `None`.
    async fn handed_over(&mut self, app: &mut App, successor: Successor) -> Option<Result<(), HandoverError>> {
        let reloader = app.server.reloader().clone();
        let mut handover = std::pin::pin!(app.hand_over(successor));
        loop {
            tokio::select! {
                taken = &mut handover => return Some(taken),
                Some(()) = self.hang_up.recv() => self.reload(&reloader).await,
                () = stop_signal(&mut self.terminate, &mut self.interrupt) => return None,
            }
        }
    }

    async fn reload(&self, reloader: &Arc<Reloader>) {
        service_manager::reloading();
        reload(reloader.clone()).await;
        service_manager::ready(false);
    }

    async fn stop_signal(&mut self) {
        stop_signal(&mut self.terminate, &mut self.interrupt).await;
    }
}

fn report(drained: Drained) {
    match drained {
        Drained::Empty => tracing::info!("stopped"),
        Drained::Cut(running) => tracing::warn!("stopped; requests cut off: {running}"),
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
