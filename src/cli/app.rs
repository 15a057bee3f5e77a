//! What `serve` runs, from its start until it is told to stop or another process takes over.

use std::{net::TcpListener, sync::Arc};

use keymeter_config::Control as Settings;
use keymeter_control::{ControlError, ControlPlane};
use keymeter_core::limit::Limits;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{program::Program, service_manager};
use crate::server::{
    Drained, Server, control_plane,
    handover::{HandoverError, Offer, Sockets, Successor},
    reload::Reloader,
};

/// What runs.
pub(super) struct App {
    pub server: Server,
    pub control: Option<ControlPlane>,
    /// Where another process may take over.
    pub offer: Option<Offer>,
}

impl App {
    /// Comes back with a process that asks for the sockets, and has got them.
    async fn heir(&self) -> Successor {
        let sockets = || {
            let mut sockets = self.server.sockets()?;
            if let Some(control) = &self.control {
                sockets.keep(&control.socket()?)?;
            }
            Ok(sockets)
        };
        match &self.offer {
            Some(offer) => offer.heir(sockets).await,
            None => std::future::pending().await,
        }
    }

    /// Lets `successor` take over. If it does not come up, everything goes on as before.
    async fn hand_over(&mut self, mut successor: Successor) -> Result<(), HandoverError> {
        tracing::info!("another process is about to take over");
        successor.asks_to_give_way().await?;
        // There is one control plane over a database of one machine.
        let Some(control) = self.control.take() else { return successor.takes_over().await };
        let (settings, limits, socket) = control.terms().map_err(HandoverError::Link)?;
        control.stop().await;
        let taken = successor.takes_over().await;
        if taken.is_err() {
            match started_again(&settings, limits, &socket).await {
                Ok(control) => self.control = Some(control),
                Err(fault) => tracing::error!("the control plane does not start again: {fault}"),
            }
        }
        taken
    }

    /// Lets what runs end.
    async fn stop(&self) -> Drained {
        let limit = self.server.reloader().config().server.drain_timeout;
        let seconds = limit.as_secs();
        tracing::info!("stopping: running requests may take {seconds}s more; signal again to stop at once");
        self.server.drain(limit).await
    }

    /// Serves whoever is still connected to this process and not to the one that took over.
    async fn retire(&self) -> Drained {
        let limit = self.server.reloader().config().server.drain_timeout;
        let seconds = limit.as_secs();
        tracing::info!("another process has taken over; whoever is connected to this one may take {seconds}s more");
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
    sockets.keep(socket).map_err(|fault| ControlError::Bind(settings.listen, fault))?;
    control_plane::start(settings, limits, &mut sockets).await
}

/// The signals that concern us.
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
            program: Program::of_this_process()?,
        })
    }

    /// Reloads on SIGHUP; on SIGUSR2 starts the program anew, to take over; on SIGTERM or SIGINT lets running requests
    /// finish, and on a second one does not. When another process has taken over, whoever is connected is served.
    pub async fn until_stopped(mut self, house: &mut App) {
        let has_handed_over = self.until_told(house).await;
        if has_handed_over {
            // What the manager is told is up to the process that took over.
            tokio::select! {
                drained = house.retire() => return report(drained),
                () = self.stop_signal() => {}
            }
        } else {
            service_manager::stopping();
        }
        tokio::select! {
            drained = house.stop() => report(drained),
            () = self.stop_signal() => tracing::warn!("stopped at once"),
        }
    }

    /// Comes back when the process is to stop, and says whether that is because another has taken over.
    async fn until_told(&mut self, house: &mut App) -> bool {
        loop {
            tokio::select! {
                Some(()) = self.hang_up.recv() => {
                    let reloader = house.server.reloader().clone();
                    self.reload(&reloader).await;
                }
                Some(()) = self.upgrade.recv() => self.program.start_anew(house.offer.is_some()),
                successor = house.heir() => match self.handed_over(house, successor).await {
                    Some(Ok(())) => return true,
                    Some(Err(fault)) => tracing::error!("no other process took over: {fault}; this one goes on"),
                    None => return false,
                },
                () = stop_signal(&mut self.terminate, &mut self.interrupt) => return false,
            }
        }
    }

    /// What came of a handover, during which the process can be told to reload, and to stop: then `None`.
    async fn handed_over(&mut self, house: &mut App, successor: Successor) -> Option<Result<(), HandoverError>> {
        let reloader = house.server.reloader().clone();
        let mut handover = std::pin::pin!(house.hand_over(successor));
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
